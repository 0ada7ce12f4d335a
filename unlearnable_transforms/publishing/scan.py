"""All checks on an upload: one pass over its files, its tables' values and its pictures."""

import hashlib
import mmap
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..checks.encodings import Encoding, read_encoding
from ..checks.leaks import (
    DROP,
    NEW_KEY,
    ONE_FORMAT,
    REMEDIES,
    RENAME,
    Findings,
    Place,
    column_leaks,
    encoding_leaks,
    holds_secret,
    is_neutral_name,
    metadata_leaks,
    mixed_leak,
    name_places,
    numbers_of_rows,
    stored_path_leak,
    text_leak,
    value_leaks,
)
from ..checks.pairs import ReducedImages, find_pairs
from ..data.image import open_bytes
from ..data.table import ROW_GROUP
from ..poisons.base import is_additive
from ..sample import sample_id
from .coverage import Coverage
from .stage import Picture, Upload

TABLES = (".csv", ".jsonl")
EDIT = "remove or rewrite the column"
PARTIAL = "protect all of them, leave them out, or pass allow_partial=True"


@dataclass
class Checked:
    """What the checks saw.

    Attributes:
        rows: pictures of each split.
        counts: training pictures by status: protected, left, unchanged; or unverified.
        digest: SHA-256 over the sorted ids of the training pictures.
        formats: of the pictures, sorted.
        pairs: pictures of other splits that show what a protected one shows; let pass because the originals are public.
        missing: protected pictures that the upload does not have; let pass with ``allow_partial``.
        packets, opted_out: pictures with the packet that ``protect`` writes, and those among them with an opt-out.
    """

    rows: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    digest: str = ""
    formats: list[str] = field(default_factory=list)
    pairs: int = 0
    missing: int = 0
    packets: int = 0
    opted_out: int = 0


def check_files(upload: Upload, forms: Sequence[bytes], findings: Findings) -> None:
    """Look for the key in the bytes of every file, and for telling names of picture files and metadata."""
    for path in upload.files:
        file = upload.folder / path
        if file.stat().st_size:
            with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
                if holds_secret(data, forms):
                    findings.add("key", "the file holds the key", NEW_KEY, path)
        if file.suffix.lower() in TABLES:
            for check, what in metadata_leaks(file, forms):
                findings.add(check, what, _remedy(check), path)
    if upload.features is None:
        for path in (path for paths in upload.splits.values() for path in paths):
            folders_tell = "/" in path and upload.classes is None
            if folders_tell or not is_neutral_name(path):
                findings.add("telling name", "a picture's name tells more than a number does", RENAME, path)


def check_tables(upload: Upload, forms: Sequence[bytes], keep: Collection[str], findings: Findings) -> None:
    """Look at what tables hold beside the pictures; columns of ``keep`` may hold anything but the key."""
    assert upload.features is not None
    for check, what in column_leaks(upload.features):
        findings.add(check, what, _remedy(check))
    others = [name for name in upload.features if name != upload.image_key]
    for split, paths in upload.splits.items():
        start = 0
        for path in paths:
            table = pq.ParquetFile(upload.folder / path)
            for leak in dict.fromkeys(filter(None, map(text_leak, _own_texts(table.schema_arrow)))):
                what = f"{leak[1]} in the table's own metadata, or in the name of a column or class"
                findings.add(leak[0], what, "rename it, or write the table anew", path)
            for batch in table.iter_batches(ROW_GROUP, columns=others):
                for name in others:
                    for row, check, what in value_leaks(name, batch[name], forms):
                        if name not in keep or check == "key":
                            findings.add(check, what, _remedy(check), (split, start + row))
                start += len(batch)
    _check_copies(upload, [name for name in others if name not in keep], findings)


def _remedy(check: str) -> str:
    return EDIT if check in ("local path", "telling name", "link") else REMEDIES[check]


def _own_texts(schema: pa.Schema) -> list[str]:
    """What a table says beside its values: column names, and metadata, where `datasets` keeps the names of classes."""
    known = [schema.metadata or {}, *(field.metadata or {} for field in schema)]
    values = [text for metadata in known for entry in metadata.items() for text in entry]
    return [*schema.names, *(value.decode("utf-8", "replace") for value in values)]


def _check_copies(upload: Upload, columns: list[str], findings: Findings) -> None:
    """Note columns whose rows hold as many numbers as the picture beside them has pixels or values."""
    split = upload.training[0]
    sizes = []
    for picture in islice(upload.pictures(split), ROW_GROUP):
        try:
            sizes.append(open_bytes(picture.data).colour.shape)
        except (TypeError, ValueError):  # told where all pictures are looked at
            return
    batch = next(pq.ParquetFile(upload.folder / upload.splits[split][0]).iter_batches(ROW_GROUP, columns=columns))
    for name in columns:
        counts = numbers_of_rows(batch[name])
        areas = [height * width for height, width, _ in sizes]
        pairs = [] if counts is None else [pair for pair in zip(counts, areas, strict=False) if pair[0]]
        if pairs and all(count in (area, 3 * area, 4 * area) for count, area in pairs):
            what = f"the column {name!r} holds as many numbers as the picture has pixels: a copy, perhaps"
            findings.add("second image", what, DROP)


class PictureCheck:
    """Looks at pictures one by one, and at the end at what only all of them tell; ``findings`` gets what is found."""

    def __init__(
        self, upload: Upload, config: Mapping[str, Any], coverage: Coverage | None, findings: Findings
    ) -> None:
        self.upload, self.coverage, self.findings = upload, coverage, findings
        self.additive = is_additive(config)
        self.ids: list[bytes] = []
        self.all_protected = False  # known from elsewhere
        self.formats: set[str] = set()
        self.places: dict[str, list[Place]] = defaultdict(list)  # training pictures by status
        self.others: dict[str, list[Place]] = defaultdict(list)  # those of other splits
        unprotected = set(upload.splits) - set(upload.training)
        partly = coverage is not None and coverage.is_partial
        self.reduced = ReducedImages() if unprotected or partly else None
        self.compared: list[tuple[Place, bool]] = []  # place and whether it is protected, as in ``reduced``

    def run(self) -> Checked:
        """Look at all pictures."""
        checked = Checked()
        for split in self.upload.splits:
            traces: dict[str, dict[str, list[Place]]] = defaultdict(lambda: defaultdict(list))  # by format
            statuses = set()
            count = 0
            for picture in self.upload.pictures(split):
                encoding = read_encoding(picture.data)
                statuses.add(self._look(picture, encoding, split in self.upload.training))
                checked.packets += encoding.credit is not None
                checked.opted_out += encoding.credit is not None and bool(encoding.credit.opt_out)
                traces[encoding.format][encoding.traces].append(picture.place)
                count += 1
            checked.rows[split] = count
            # Where all are protected, or none, formats do not say which are: `protect` makes PNG of PNG, JPEG of JPEG.
            alike = self.all_protected or statuses == {"protected"} or split not in self.upload.training
            together = {trace: places for group in traces.values() for trace, places in group.items()}
            for mixed in filter(None, map(mixed_leak, traces.values() if alike else [together])):
                self.findings.add("mixed encodings", mixed[0], ONE_FORMAT, *mixed[1])
        checked.formats = sorted(self.formats)
        checked.counts = {status: len(places) for status, places in sorted(self.places.items())}
        checked.digest = ids_digest(self.ids)
        return checked

    def _look(self, picture: Picture, encoding: Encoding, training: bool) -> str:
        if told := stored_path_leak(picture.path):
            self.findings.add(*told, RENAME, picture.place)
        for check, what in encoding_leaks(encoding, training and self.additive):
            self.findings.add(check, what, REMEDIES[check], picture.place)
        self.formats.add(encoding.format)
        try:
            colour = open_bytes(picture.data).colour
        except (TypeError, ValueError) as error:
            self.findings.add("unreadable", str(error), REMEDIES["unreadable"], picture.place)
            return "unreadable"
        status = "unverified" if self.coverage is None else self.coverage.look_up(colour, picture.token)
        (self.places if training else self.others)[status].append(picture.place)
        if training:
            self.ids.append(published_id(colour, picture.token, self.upload))
        if self.reduced is not None:
            self.reduced.add(colour)
            self.compared.append((picture.place, training and status in ("protected", "unverified")))
        return status

    def judge(self, checked: Checked, allow_partial: bool, originals_public: bool | None) -> None:
        """Note what is wrong with the set as a whole."""
        if self.coverage is not None:
            source, places, missing = self.coverage.source, self.places, self.coverage.missing()
            checked.missing = len(missing)
            strange = f"not what {source} says was protected: changed afterwards, or never protected"
            wrong = [
                (
                    "clean picture",
                    places["clean"],
                    f"{source} knows it as a clean one",
                    "replace it by its protected one",
                ),
                ("unknown picture", places["unknown"], strange, "publish what `protect` wrote, and give its ledger"),
            ]
            if not allow_partial:
                absent = f"rows of {source} of which the upload has no picture"
                same = "the method leaves the picture as it is (all black, perhaps)"
                wrong += [
                    (
                        "missing rows",
                        missing,
                        absent,
                        "publish all that was protected, or protect what is left, " + PARTIAL,
                    ),
                    ("partial coverage", places["left"], "not chosen under fraction < 1, so it is clean", PARTIAL),
                    ("partial coverage", places["unchanged"], same, PARTIAL),
                ]
            for check, where, what, remedy in wrong:
                if where:
                    self.findings.add(check, what, remedy, *where)
        self._judge_pairs(checked, originals_public)

    def _judge_pairs(self, checked: Checked, originals_public: bool | None) -> None:
        pairs: dict[Place, str] = dict.fromkeys(self.others["clean"], "a training picture")
        if self.reduced is not None:
            protected = np.array([is_protected for _, is_protected in self.compared], bool)
            for row, twin in find_pairs(self.reduced, np.flatnonzero(~protected), np.flatnonzero(protected)):
                pairs[self.compared[row][0]] = name_places([self.compared[twin][0]])
        checked.pairs = len(pairs) if originals_public else 0
        if pairs and not originals_public:
            first = next(iter(pairs.values()))
            what = (
                f"clean pictures that show what a protected one shows (the first: {first}): a few such pairs let "
                "others undo the protection of all"
            )
            self.findings.add("pair", what, "remove these rows, or say that the originals are public", *pairs)


def published_id(colour: np.ndarray, token: str | None, upload: Upload) -> bytes:
    """The id of a picture as a stranger can take it: with its class if that is published."""
    return sample_id(colour, token if token and upload.has_labels else "")


def ids_digest(ids: list[bytes]) -> str:
    """SHA-256 over ids in sorted order, hexadecimal."""
    return hashlib.sha256(b"".join(sorted(ids))).hexdigest()
