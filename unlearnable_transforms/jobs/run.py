"""The one resumable loop: list the units, compare them with the journal, send what is not done, note it, count it.

Protecting and undoing, folders, tables and tars, processes of this machine and a Ray cluster all go through
:func:`run`. A run that was killed goes on when it is started again, and ends with the same bytes.
"""

import os
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import xxhash
from tqdm import tqdm  # type: ignore[import-untyped]

from ..data.base import LabelledSet, Rows, Unit
from ..data.codec import Codec, checksum
from ..data.header import NeedsConversion
from ..data.image import Opened
from ..data.walk import named
from ..errors import UsageError, UsageTypeError, WorkError
from ..files import whole
from ..pixels import CHUNK_VALUES
from ..warn import warn
from .journal import Journal, Record
from .workers import run_tasks

Engine = Literal["local", "ray"]
Progress = bool | Callable[[int, int], None]  # a bar on a terminal; or what is called with how many are done, of all
UNITS, UNIT_BYTES = 16, 4_000_000  # one message to a worker holds at most so many units, or one larger one
WORKER_UNITS, WORKER_BYTES = 50, 10_000_000  # less does not pay for the start of another process
NO_MEMORY = "the image does not fit into memory: make it smaller"
READABLE = "readable"  # in the journal, behind a reason
STORED_BYTES = 16_000_000  # of encoded images that are read at a time


class Failure(NamedTuple):
    """A row that cannot be written, the reason, and whether its image can be read: another option takes it then."""

    row: int
    reason: str
    readable: bool = False


Failures = list[Failure]


@dataclass(frozen=True)
class Job:
    """What a worker does with a unit: read, change, encode, write. Verbs subclass it and write :meth:`change`.

    Attributes:
        data: the set, sent to each process once.
        out: the output folder.
        codec: how images are encoded.
    """

    data: LabelledSet
    out: Path
    codec: Codec

    def change(self, unit: Unit, rows: range, opened: list[Opened], failed: Failures) -> tuple[list[bytes], list[Any]]:
        """New images of some rows.

        Args:
            unit: that they belong to.
            rows: counted in the split.
            opened: their pixels.
            failed: gets the rows that cannot be changed or encoded, with the reason.

        Returns:
            Encoded images, one a row; and facts, one a row, as JSON values for the journal.
        """
        raise UsageTypeError(f"{type(self).__name__} does not say what it does with an image")

    def encode(self, unit: Unit, row: int, image: Any, failed: Failures) -> bytes:
        """The bytes of one image; empty where the format cannot hold it, or what its file is to say."""
        try:
            packet = self.codec.packet(lambda: self.data.splits[unit.split].encoded(row)[1])
            return self.codec.for_file(unit.target).encode(image, packet)
        except (TypeError, ValueError) as error:
            failed.append(Failure(row, str(error), readable=True))
            return b""

    def __call__(self, units: list[Unit]) -> list[Record]:
        return [self._write(unit) for unit in units]

    def _write(self, unit: Unit) -> Record:
        rows = self.data.splits[unit.split]
        record: Record = {"target": unit.target, "split": unit.split, "start": unit.start, "rows": len(unit.rows)}
        record |= {"place": rows.place(unit.start), "size": unit.size, "stamp": unit.stamp}
        images: list[bytes] = []
        facts: list[Any] = []
        failed: Failures = []
        digest = RowDigest(self.data, unit.split)
        for some, opened in _chunks(rows, unit, digest, failed):
            if failed:  # all that is wrong is named at once; nothing of the unit will be written
                continue
            try:
                chunk_images, chunk_facts = self.change(unit, some, opened, failed)
            except (MemoryError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and "allocate memory" not in str(error):  # as torch says it
                    raise
                failed.append(Failure(some.start, NO_MEMORY))
                continue
            images += chunk_images
            facts += chunk_facts
        if failed:
            if self.data.may_leave_out and is_inside(self.out, unit.target):  # of an earlier run, when it could be read
                (self.out / unit.target).unlink(missing_ok=True)
            reasons = [[rows.place(row), reason, READABLE * readable] for row, reason, readable in failed]
            return {**record, "status": "failed", "unreadable": reasons}
        digest.close(unit)
        return {**record, "status": "written", "digest": str(digest), "facts": facts, **self._put(unit, images)}

    def _put(self, unit: Unit, images: list[bytes]) -> dict[str, Any]:
        target = make_room(self.out, unit.target)
        with whole(target) as temporary:
            self.data.write(unit, images, temporary, self.codec)
            data = temporary.read_bytes()
        return {"bytes": len(data), "checksum": checksum(data)}


def _chunks(rows: Rows, unit: Unit, digest: "RowDigest", failed: Failures) -> Iterator[tuple[range, list[Opened]]]:
    """The images of a unit, opened: about one chunk of pixels at a time. What cannot be read goes to ``failed``."""
    opened: list[Opened] = []
    start, values = unit.start, 0
    for row, stored in _stored(rows, unit, failed):
        digest.update(row, stored)
        try:
            image = rows.open(stored)
        except (TypeError, ValueError) as error:
            failed.append(Failure(row, str(error), isinstance(error, NeedsConversion)))
            continue
        except MemoryError:
            failed.append(Failure(row, NO_MEMORY))
            continue
        if opened and values + image.colour.size > CHUNK_VALUES:
            yield range(start, start + len(opened)), opened
            opened, start, values = [], row, 0
        opened.append(image)
        values += image.colour.size
    if opened:
        yield range(start, start + len(opened)), opened


def _stored(rows: Rows, unit: Unit, failed: Failures) -> Iterator[tuple[int, Any]]:
    """Row and stored image of a unit's rows; files that cannot be read go to ``failed``."""
    count = max(1, min(64, STORED_BYTES * len(unit.rows) // max(1, unit.size)))
    for start in range(unit.start, unit.stop, count):
        try:
            yield from enumerate(rows.stored(range(start, min(start + count, unit.stop))), start)
        except OSError as error:
            failed.append(Failure(start, error.strerror or str(error)))
        except MemoryError:
            failed.append(Failure(start, NO_MEMORY))


def is_inside(out: Path, target: str) -> bool:
    """Whether the folder of a file lies in the output folder, and no link leads out of it."""
    return (out / target).parent.resolve().is_relative_to(out.resolve())


def make_room(out: Path, target: str) -> Path:
    """The path of a file of the output, whose folder is made.

    Raises:
        FileNotFoundError: the output folder is gone.
        ValueError: a link leads out of it.
    """
    path = out / target
    if not out.is_dir():
        raise FileNotFoundError(f"{out} is gone: put it back, or start again with an empty output folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not is_inside(out, target):
        raise UsageError(f"{path.parent} leads out of the output folder, to {path.parent.resolve()}: remove that link")
    return path


class RowDigest:
    """What tells whether rows are what they were: xxh3-128 of their stored images, their labels and what is written
    beside them; ``str`` gives it.

    Args:
        data: the set.
        split: of the rows.
        label: text that stands in for the labels.
    """

    def __init__(self, data: LabelledSet, split: str, label: str | None = None) -> None:
        self._digest = xxhash.xxh3_128()
        self._data, self._split, self._label = data, split, label

    def update(self, row: int, stored: Any) -> None:
        """Add a row with its stored image."""
        label = self._data.label_text(self._split, row) if self._label is None else self._label
        self._digest.update(self._data.splits[self._split].content(stored))
        self._digest.update(f"|{label}|".encode())

    def close(self, unit: Unit) -> None:
        """Add what is written beside the images of a unit whose rows were all added."""
        for part in self._data.accompanying(unit):
            self._digest.update(part)

    def __str__(self) -> str:
        return self._digest.hexdigest()


# ---- the loop --------------------------------------------------------------------------------------------------------


def check_engine(engine: str) -> None:
    """Refuse an unknown engine, or one whose package is missing, before any work.

    Raises:
        ValueError: there is none of that name.
        ImportError: Ray is not installed.
    """
    if engine not in get_args(Engine):
        raise UsageError(f"engine must be one of {get_args(Engine)}, got {engine!r}")
    if engine == "ray":
        from ..adapters import ray  # noqa: F401  (says what is missing)


def check_places(source: str | Path, out: Path) -> None:
    """Refuse an output folder that is, holds or lies in the source.

    Raises:
        ValueError: it does.
        FileNotFoundError: there is no folder to make it in.
    """
    inner, outer = out.resolve(), Path(source).resolve()
    if outer.suffix.lower() == ".csv" and outer.is_file():
        outer = outer.parent  # which is read
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise UsageError(f"{out} and {source} lie in each other: choose an output folder outside of the source")
    if os.path.lexists(out) and not out.is_dir():
        raise UsageError(f"{out} is a file: the output is a folder")
    if not inner.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {inner.parent} to make {out.name} in")


@dataclass
class Changes:
    """What is to be done, and what became of a source since the last run. Images are named as in the source.

    Attributes:
        todo: the units that have to be written.
        new: images that no run has protected.
        edited: images with other content, or another label, than the last run saw.
        mended: images whose file in the output was missing or damaged.
        renamed: new and old names of images whose files in the output were renamed.
        moved: new and old names of images that are in another class or split: their old files were removed.
        gone: images that are not in the source any more and whose files stay; ``removed``: whose files were removed.
    """

    todo: list[Unit]
    new: list[str] = field(default_factory=list)
    edited: list[str] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    moved: list[tuple[str, str]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    def lines(self, images: int, without: Collection[str] = ()) -> list[str]:
        """What changed, for people: a sentence, and the names below it.

        Args:
            images: how many the output has of those in the source.
            without: images that could not be read, which are named elsewhere.
        """
        left_out = set(without)
        new, edited, mended = ([name for name in names if name not in left_out] for names in
                               (self.new, self.edited, self.mended))  # fmt: skip
        renamed, moved = ([f"{name} (was {old})" for name, old in pairs if name not in left_out] for pairs in
                          (self.renamed, self.moved))  # fmt: skip
        parts = {
            "new": new,
            "edited and protected again": edited,
            "missing or damaged in the output and made again": mended,
            "renamed": renamed,
            "in another class or split, written again, the old file removed": moved,
            "gone from the source, the protected file stays": self.gone,
            "gone from the source, the protected file removed": self.removed,
        }
        same = images - len([*new, *edited, *mended, *renamed, *moved])
        counts = [f"{len(names):,} {text}" for text, names in parts.items() if names]
        lines = [f"since the last run: {', '.join([*counts, f'{same:,} as they were'])}"]
        return lines + [f"  {text}: {named(names)}" for text, names in parts.items() if names and names is not new]


def compare(
    data: LabelledSet, units: Sequence[Unit], journal: Journal, tokens: Mapping[str, list[str]] | None = None
) -> Changes:
    """The units that have to be written: new ones, those that failed, and those whose source or output changed.

    Where its time stamp changed, a source is compared by its content.

    Args:
        data: the set.
        units: all of it.
        journal: begun.
        tokens: class token of each row, by split: rows that have another one by now are written again.
    """
    done, known, changes, refreshed = set(), set(), Changes([]), []
    by_target = {unit.target: unit for unit in units}
    for record in journal.records(units):
        unit = by_target[record["target"]]
        if record["status"] != "written":
            continue
        known.add(unit.target)
        mine = (tokens or {}).get(unit.split)
        if mine is not None and [fact.get("token") for fact in record["facts"]] != mine[unit.start : unit.stop]:
            changes.edited.append(data.splits[unit.split].place(unit.start))
            continue
        if record["stamp"] != unit.stamp or record["rows"] != len(unit.rows):
            moved = data.kind == "rows" and record["start"] != unit.start  # files go by their names
            if moved or digest_of_unit(data, unit) != record["digest"]:
                changes.edited.append(data.splits[unit.split].place(unit.start))
                continue
            refreshed.append({**record, "place": data.splits[unit.split].place(unit.start), "stamp": unit.stamp})
        if not journal.intact(record):
            changes.mended.append(record["place"])
            continue
        done.add(unit.target)
    journal.append(refreshed)
    changes.todo = [unit for unit in units if unit.target not in done]
    changes.new = [data.splits[unit.split].place(unit.start) for unit in changes.todo if unit.target not in known]
    return changes


def follow(
    data: LabelledSet,
    units: Sequence[Unit],
    journal: Journal,
    changes: Changes,
    tokens: Mapping[str, list[str]],
    *,
    remove_gone: bool = False,
) -> None:
    """Let the output follow what was renamed, moved and removed in a folder of images.

    An image that has another name and the same bytes keeps its file, which gets the new name. One that is in another
    class by now has to be protected anew, and its old file goes: an image under two filters gives both away.

    Args:
        data: the folder.
        units: all of it.
        journal: begun.
        changes: what :func:`compare` says; completed here.
        tokens: class token of each row, by split.
        remove_gone: whether files of images that are not in the source any more are removed.
    """
    listed, unused = {unit.target for unit in units}, {*data.unreadable, *data.unused}
    gone = {
        record["target"]: record
        for record in journal.records()
        if record["status"] == "written" and record["target"] not in listed and record["place"] not in unused
    }
    whole = [record for target, record in gone.items() if is_inside(journal.out, target) and journal.intact(record)]
    by_size: dict[int, list[Record]] = {}
    for record in whole:
        by_size.setdefault(record["size"], []).append(record)
    todo, followed = [], set()
    for unit in changes.todo:
        old = _same_image(data, unit, by_size.get(unit.size, []))
        if old is None:
            todo.append(unit)
            continue
        by_size[unit.size].remove(old)
        del gone[old["target"]]
        place = data.splits[unit.split].place(unit.start)
        followed.add(place)
        records = [{**old, "status": "removed"}]
        token = tokens[unit.split][unit.start] if unit.split in tokens else None
        same_format = os.path.splitext(old["target"])[1] == os.path.splitext(unit.target)[1]
        if old["facts"][0].get("token") == token and same_format:
            os.replace(journal.out / old["target"], make_room(journal.out, unit.target))
            mine = {"target": unit.target, "split": unit.split, "start": unit.start, "place": place}
            records.append({**old, **mine, "stamp": unit.stamp, "digest": digest_of_unit(data, unit)})
            changes.renamed.append((place, old["place"]))
        else:
            (journal.out / old["target"]).unlink()
            todo.append(unit)
            changes.moved.append((place, old["place"]))
        journal.append(records)
        _remove_empty(journal.out, old["target"])
    changes.todo = todo
    for names in (changes.new, changes.edited, changes.mended):
        names[:] = [name for name in names if name not in followed]
    emptied = _emptied(data, units, gone.values()) if remove_gone else []
    removable = {record["target"] for record in whole if os.path.dirname(record["place"]) not in emptied}
    for target, record in gone.items():
        if remove_gone and target in removable:
            (journal.out / target).unlink()
            _remove_empty(journal.out, target)
            changes.removed.append(record["place"])
        elif (journal.out / target).exists():
            changes.gone.append(record["place"])
            continue
        journal.append([{**record, "status": "removed"}])


def _emptied(data: LabelledSet, units: Sequence[Unit], gone: Collection[Record]) -> list[str]:
    """Folders below the source that are there without any of the images that they held, with a warning: a disk or a
    share that is not mounted leaves such a folder."""
    full = {os.path.dirname(data.splits[unit.split].place(unit.start)) for unit in units}
    folders = sorted({os.path.dirname(record["place"]) for record in gone} - {*full, ""})
    emptied = [folder for folder in folders if (Path(data.source) / folder).is_dir()]
    if emptied:
        warn(
            f"{named(emptied)}: empty in {data.source}, so that the protected files stay. Is a disk not mounted? If "
            "the images are to go, remove the empty folder, too"
        )
    return emptied


def _same_image(data: LabelledSet, unit: Unit, records: Sequence[Record]) -> Record | None:
    """That of some records of other files which was made of the same bytes; best of the same class."""
    labels = {record["stamp"][2] for record in records}
    mine = data.label_text(unit.split, unit.start)
    for label in sorted(labels, key=lambda label: label != mine):
        digest = digest_of_unit(data, unit, label)
        for record in records:
            if record["digest"] == digest:
                return record
    return None


def _remove_empty(out: Path, target: str) -> None:
    """Remove the folders of a file that is gone, as far as nothing else lies in them."""
    for folder in list(Path(target).parents)[:-1]:
        try:
            (out / folder).rmdir()
        except OSError:
            return


def digest_of_unit(data: LabelledSet, unit: Unit, label: str | None = None) -> str:
    """What the journal keeps of a unit's rows, or would keep under another label; empty where a file cannot be read."""
    rows, failed = data.splits[unit.split], Failures()
    digest = RowDigest(data, unit.split, label)
    for row, stored in _stored(rows, unit, failed):
        digest.update(row, stored)
    digest.close(unit)
    return "" if failed else str(digest)


def run(
    job: Job,
    units: Sequence[Unit],
    journal: Journal,
    *,
    todo: Sequence[Unit] | None = None,
    workers: int,
    engine: Engine = "local",
    progress: Progress = False,
) -> list[Record]:
    """Do what is not done of some units, and note it.

    Args:
        job: what a worker does.
        units: all of the set.
        journal: begun.
        todo: those that are not done; default: what :func:`compare` says.
        workers: processes, of one thread each.
        engine: "local", or "ray": actors of a Ray cluster instead of processes.
        progress: whether to show a progress bar on a terminal; or a function, called with how many images are done and
            how many there are. An error that it raises stops the run, which goes on when it is started again.

    Returns:
        The records of all units, in their order.

    Raises:
        SourceChanged: the source is not what it was when the run began.
        OSError: the output cannot be written, or files of it are missing at the end. Run again to continue.
    """
    todo = compare(job.data, units, journal).todo if todo is None else todo
    total, left = (sum(len(unit.rows) for unit in some) for some in (units, todo))
    show = progress if callable(progress) else _nothing
    show(total - left, total)
    with (
        tqdm(total=total, initial=total - left, unit=job.data.kind, disable=None if progress is True else True) as bar,
        closing(_run_on(engine, job, _messages(todo), _useful(workers, todo))) as results,  # ends the workers at once
    ):
        for records in results:
            journal.append(records)
            rows = sum(record["rows"] for record in records)
            left -= rows
            bar.update(rows)
            show(total - left, total)
    job.data.check_unchanged()
    records = list(journal.records(units))
    if len(records) < len(units):
        raise WorkError(f"{len(units) - len(records)} of {len(units)} files have no record: run the same command again")
    check_output(job.out, records)
    return records


def check_output(out: Path, records: Sequence[Record]) -> None:
    """Count what lies in the output folder, whatever the journal says.

    Raises:
        FileNotFoundError: files are missing, or have another size.
    """
    missing = []
    for record in records:
        if record["status"] != "failed":
            path = out / record["target"]
            if not path.is_file() or path.stat().st_size != record["bytes"]:
                missing.append(record["target"])
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(records)} files are not in {out}, {missing[0]} for one: they were moved or "
            "removed during the run. Run the same command again"
        )


def _useful(workers: int, todo: Sequence[Unit]) -> int:
    """How many of the processes are worth their start."""
    size = sum(unit.size for unit in todo)
    return max(1, min(workers, len(todo), max(len(todo) // WORKER_UNITS, size // WORKER_BYTES)))


def _messages(todo: Sequence[Unit]) -> Iterator[list[Unit]]:
    """What is not done, some units at a time."""
    message: list[Unit] = []
    size = 0
    for unit in todo:
        if message and (len(message) == UNITS or size + unit.size > UNIT_BYTES):
            yield message
            message, size = [], 0
        message.append(unit)
        size += unit.size
    if message:
        yield message


def _nothing(done: int, total: int) -> None:
    """Shows no progress."""


def _run_on(engine: Engine, job: Callable[[Any], Any], tasks: Iterable[Any], processes: int) -> Generator[Any]:
    """Results in the order in which they get done; bytes do not depend on the engine."""
    if engine == "ray":
        from ..adapters.ray import run_tasks as run_on_ray

        return run_on_ray(job, tasks, processes)
    return run_tasks(job, tasks, processes)
