"""Whether a protected folder is whole: each image compared with what was noted of it when it was protected.

The journal of the run knows every file by name, checksum and ids; a ledger knows ids alone. Both are recognised by what
they know, so that a folder may have been moved, copied or renamed since.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..data.folder import is_image_name
from ..data.image import open_bytes
from ..data.open import open_data
from ..data.walk import File, readable_name, walk
from ..files import private_directory, read_regular
from ..jobs.journal import Journal, file_checksum, protected_journals
from ..jobs.ledger import fits_key, read_ledger
from ..jobs.summary import LISTED, listed
from ..key import Key
from ..sample import ids_as, spread
from .verify_c2pa import Review, review_folder

SAMPLE = 20  # files by which a journal or ledger is recognised
LARGEST = 1 << 32  # bytes of an image file
CHANGED, OTHER_KEY = 1, 3  # exit codes
CLEAN = "clean"


@dataclass
class FolderVerdict:
    """What :func:`verify_folder` says.

    Attributes:
        folder: that was looked at.
        record: the journal or ledger that it was compared with, for people.
        kind: what the folder consists of: ``images``, or ``files`` that hold many.
        whole: how many are there as they were written.
        statuses: how many of the whole ones are not protected, by ``left``, ``unchanged`` and ``kept``.
        renamed: names, and what the run called them. ``saved_anew``: other bytes, the same pixels.
        missing, changed, added, unprotected: what is wrong.
        missing_rows: how many are missing, where a ledger knows no names.
        others: files that are no images.
        key: ``fits``, ``other``, or None: not asked.
        c2pa: what the signatures in the images say; None where there are none.
    """

    folder: str
    record: str
    kind: str = "images"
    whole: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    saved_anew: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    missing_rows: int = 0
    changed: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    unprotected: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    key: str | None = None
    c2pa: Review | None = None

    @property
    def is_whole(self) -> bool:
        """Whether every image is there and as protected as it was."""
        wrong = self.missing or self.missing_rows or self.changed or self.added or self.unprotected
        return not (wrong or (self.c2pa and self.c2pa.void))

    @property
    def exit_code(self) -> int:
        """0: whole; 1: not; 3: the key does not fit."""
        return OTHER_KEY if self.key == "other" else 0 if self.is_whole else CHANGED

    def lines(self) -> list[str]:
        """The verdict as text."""
        names = {
            "UNPROTECTED, the clean originals: take them out before anybody sees them": self.unprotected,
            "added, and no record knows them: unprotected, as far as is known. Put them into the source and protect "
            "them": self.added,
            "changed, other pixels than were written: edited, or saved anew by a site or a program. No record can say "
            "whether the protection is still in them; the same `unlearnable protect` again makes them anew":
                self.changed,
            "missing; the same `unlearnable protect` again makes them anew": self.missing,
            "under other names than they were written, and protected": [f"{new} (was {old})" for new, old in
                                                                        self.renamed],
            "saved anew without loss, other bytes and the same protected pixels": self.saved_anew,
            "files that are no images, not looked at": self.others,
        }  # fmt: skip
        lines = [
            f"WHOLE: all {self.whole:,} {self.kind} of {readable_name(self.folder)} are as they were protected"
            if self.is_whole
            else f"NOT WHOLE: {self.whole:,} {self.kind} of {readable_name(self.folder)} are as they were protected, "
            "and others are not"
        ]
        for title, entries in names.items():
            lines += listed(title, map(readable_name, entries), LISTED)
        if self.missing_rows:
            lines.append(f"missing: {self.missing_rows:,} images that the ledger knows; it has no names")
        reasons = {
            "left": "were left clean by --fraction",
            "unchanged": "are UNPROTECTED: the method changes nothing in them (all black, perhaps)",
            "kept": "are in kept splits and not protected",
        }
        lines += [f"{count:,} of them {reasons[status]}" for status, count in sorted(self.statuses.items())]
        keys = {
            "fits": "the key fits",
            "other": "the key does NOT fit: it is another one, or the one that the album's key was derived from",
        }
        lines += [keys[self.key]] if self.key else []
        lines += self.c2pa.lines() if self.c2pa else []
        return [*lines, f"compared with {readable_name(self.record)}"]


@dataclass
class Known:
    """What is known of a folder.

    Attributes:
        record: the journal or ledger, for people.
        key_fits: whether a key is the one of the record.
        named: whether the names of files are known; else they are the numbers of the ledger's rows.
        files: name -> checksum, empty where it is not known.
        statuses: name -> ``protected``, ``left``, ``unchanged``, ``kept``.
        by_checksum, by_id: the names of files with a checksum, or with the id of a protected image.
        clean: ids of the originals.
        tokens: of all classes.
    """

    record: str
    key_fits: Any
    named: bool
    files: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, str] = field(default_factory=dict)
    by_checksum: dict[str, list[str]] = field(default_factory=dict)
    by_id: dict[bytes, list[str]] = field(default_factory=dict)
    clean: set[bytes] = field(default_factory=set)
    tokens: set[str] = field(default_factory=set)

    def add(self, name: str, checksum: str, facts: Iterable[tuple[bytes, bytes, str, str]], status: str) -> None:
        """A file, and (clean id, protected id, class token, status) of each protected image in it."""
        self.files[name], self.statuses[name] = checksum, status
        if checksum:
            self.by_checksum.setdefault(checksum, []).append(name)
        for clean_id, protected_id, token, own in facts:
            self.by_id.setdefault(protected_id, []).append(name)
            self.tokens.add(token)
            if own == "protected":
                self.clean.add(clean_id)

    def look_up(self, colour: np.ndarray) -> list[str] | str:
        """The names of the files with these pixels, else ``clean``; nothing where they are not known.

        Args:
            colour: uint8 (H, W, C).
        """
        ids = ids_as(colour, self.tokens)
        names = [name for id_ in ids for name in self.by_id.get(id_, ())]
        return names or (CLEAN if not self.clean.isdisjoint(ids) else [])


def verify_folder(
    folder: str | os.PathLike,
    key: Key | None = None,
    ledger: str | os.PathLike | None = None,
    beside: Path | None = None,
    anchors: str | None = None,
) -> FolderVerdict:
    """Whether a folder that ``unlearnable protect`` wrote is whole, wherever it lies by now.

    Args:
        folder: of images, Parquet or tars.
        key: which is compared with that of the record.
        ledger: to compare with; default: the journal and the ledgers of this machine, and those in ``beside``.
        beside: another folder that may hold ledgers, such as that of the key.
        anchors: certificates in PEM that are trusted, for C2PA.

    Raises:
        FileNotFoundError: no record knows anything of the folder.
        ValueError: the ledger given is none; a link to a folder.
    """
    folder = Path(folder)
    files, hidden = walk(folder)
    known = _from_ledger(Path(ledger)) if ledger is not None else _find(folder, files, beside)
    verdict = FolderVerdict(str(folder), known.record)
    if key is not None:
        verdict.key = "fits" if known.key_fits(key.fingerprint) else "other"
    left = dict(known.files)
    later: list[tuple[str, list[str], bool]] = []  # copies and other names come last: who has the right name is right
    if known.named and not all(map(is_image_name, known.files)):
        verdict.kind = "files"
    for path, checksum, colour in _contents(folder, files, known, verdict):
        names, saved_anew = known.by_checksum.get(checksum, []), False
        if not names and colour is not None:
            found = known.look_up(colour)
            if found == CLEAN:
                verdict.unprotected.append(path)
                left.pop(path, None)
                continue
            names, saved_anew = list(found), True
        if path in names:
            del left[path]
            _count(verdict, known, path, path, saved_anew)
        elif names:
            later.append((path, names, saved_anew))
        else:
            (verdict.changed if path in known.files else verdict.added).append(path)
            left.pop(path, None)
    for path, names, saved_anew in later:
        name = next((name for name in names if name in left), names[0])
        if left.pop(name, None) is not None and known.named:  # else a copy of what is there
            verdict.renamed.append((path, name))
        _count(verdict, known, path, name, saved_anew)
    by_stem = {os.path.splitext(name)[0]: name for name in left}
    for path in [path for path in verdict.added if os.path.splitext(path)[0] in by_stem]:  # in another format
        del left[by_stem.pop(os.path.splitext(path)[0])]
        verdict.added.remove(path)
        verdict.changed.append(path)
    if known.named:
        verdict.missing = sorted(left)
    else:
        verdict.missing_rows = len(left)
    verdict.others += hidden
    verdict.c2pa = review_folder(folder, anchors)
    return verdict


def _count(verdict: FolderVerdict, known: Known, path: str, name: str, saved_anew: bool) -> None:
    """Count an image that is as it was protected; ``name`` is that of the record."""
    verdict.whole += 1
    status = known.statuses[name]
    if status != "protected":
        verdict.statuses[status] = verdict.statuses.get(status, 0) + 1
    if saved_anew and known.named:
        verdict.saved_anew.append(path)


def _contents(
    folder: Path, files: list[File], known: Known, verdict: FolderVerdict
) -> Iterator[tuple[str, str, np.ndarray | None]]:
    """Name, checksum and pixels of what lies in a folder; pixels only of images whose checksum is not known."""
    if not known.named:
        data = open_data(folder, unlabelled=True)
        verdict.added += data.unreadable
        verdict.others += data.others
        for rows in data.splits.values():
            for row in range(len(rows)):
                try:
                    colour = rows.open(rows.stored(range(row, row + 1))[0]).colour
                except (OSError, TypeError, ValueError):  # which is what unknown means
                    colour = None
                yield rows.place(row), "", colour
        return
    for file in files:
        if file.path not in known.files and not is_image_name(file.path):
            verdict.others.append(file.path)
            continue
        try:
            checksum = file_checksum(folder / file.path)
        except OSError:
            checksum = ""
        unknown = checksum not in known.by_checksum and is_image_name(file.path)
        yield file.path, checksum, _colour(folder / file.path) if unknown else None


def _colour(path: Path) -> np.ndarray | None:
    """The pixels of an image file; None where it cannot be read."""
    try:
        return open_bytes(read_regular(path, LARGEST)).colour
    except (OSError, TypeError, ValueError):
        return None


# ---- the record of a folder ------------------------------------------------------------------------------------------


def _find(folder: Path, files: list[File], beside: Path | None) -> Known:
    """The journal of this place; or of the files of this content; or a ledger that knows the images; or the journal of
    the files of these names.

    Raises:
        FileNotFoundError: there is none.
    """
    journals = list(protected_journals(folder))
    if journals and journals[0].is_of_out:
        return _from_journal(journals[0])
    readable = [file.path for file in files if not file.problem]
    some = [readable[place] for place in spread(len(readable), SAMPLE)]
    checksums = [file_checksum(folder / path) for path in some]
    if best := _best(journals, [journal.knows(checksums) for journal in journals]):
        return _from_journal(best)
    colours = [colour for path in some if is_image_name(path) and (colour := _colour(folder / path)) is not None]
    ledgers = [*private_directory("ledgers").glob("*.parquet"), *(beside.glob("*.parquet") if beside else ())]
    known = [record for path in sorted(ledgers) if (record := _read_if_ledger(path)) is not None]
    if best := _best(known, [sum(bool(record.look_up(colour)) for colour in colours) for record in known]):
        return best
    stems = {os.path.splitext(file.path)[0] for file in files if is_image_name(file.path)}
    by_name = [_from_journal(journal) for journal in journals]
    shared = [len(stems & {os.path.splitext(name)[0] for name in record.files}) for record in by_name]
    if (best := _best(by_name, shared)) and 2 * max(shared) >= len(stems):
        return best
    raise FileNotFoundError(
        f"no record of this machine knows what lies in {folder}. If `unlearnable protect` wrote it elsewhere, name its "
        "ledger with --ledger. If a site or a program saved the images anew, they are no longer what was written: "
        "verify the folder that protect wrote"
    )


def _best(candidates: list[Any], counts: list[int]) -> Any:
    """That with the highest count; None where none has any."""
    return (
        max(zip(counts, range(len(candidates)), candidates, strict=True), default=(0, 0, None))[2]
        if any(counts)
        else None
    )


def _from_journal(journal: Journal) -> Known:
    settings = journal.settings() or {}
    source, fingerprint = settings.get("source"), settings.get("key_fingerprint")
    known = Known(f"the journal of the run that protected {source}", lambda other: other == fingerprint, named=True)
    for record in journal.records():
        if record["status"] != "written":
            continue
        facts = [fact for fact in record["facts"] if "protected_id" in fact]
        ids = [
            (bytes.fromhex(fact["clean_id"]), bytes.fromhex(fact["protected_id"]), fact["token"], fact["status"])
            for fact in facts
        ]
        one = record["facts"][0]["status"] if len(record["facts"]) == 1 else "protected"
        known.add(record["target"], record["checksum"], ids, one)
    return known


def _read_if_ledger(path: Path) -> Known | None:
    try:
        return _from_ledger(path)
    except (OSError, ValueError):
        return None


def _from_ledger(path: Path) -> Known:
    table = read_ledger(path)
    known = Known(f"the ledger {path}", lambda other: fits_key(table, other), named=False)
    columns = (table[name].to_pylist() for name in ("clean_id", "protected_id", "class_token", "status"))
    for row, facts in enumerate(zip(*columns, strict=True)):
        known.add(f"row {row}", "", [facts], facts[3])
    return known
