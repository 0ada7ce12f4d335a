"""What the files of a set tell: their pixels, how they are encoded, and what they give away beside their pixels."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..checks.encodings import Encoding, read_encoding
from ..checks.leaks import (
    ONE_FORMAT,
    REMEDIES,
    Findings,
    Leak,
    Place,
    column_leaks,
    encoding_leaks,
    file_leak,
    key_forms,
    metadata_leaks,
    mixed_leak,
    stored_path_leak,
    value_leaks,
)
from ..data.annotations import METADATA
from ..data.folder import IMAGES
from ..data.table import TableRows
from ..evaluation.data import Pictures
from ..files import open_regular
from ..sample import spread
from .signals import opt_outs_in

CLEAN = "remove or rewrite it"
HEAD = 64  # bytes of a file that tell what it is
FILES = 100_000  # of a folder that are looked at


@dataclass
class Traces:
    """What was seen in files: how many pictures are of which format, how many kinds of encoder settings there are among
    them, and what the set gives away."""

    formats: dict[str, int] = field(default_factory=dict)
    encodings: int = 0
    leaks: list[Leak] = field(default_factory=list)


class Stored(NamedTuple):
    """Where a picture lies, the path that a table keeps beside it, how it is encoded, and what in it reserves training,
    as :func:`~.signals.opt_outs_in` gives it."""

    place: Place
    path: str | None
    encoding: Encoding
    opt_outs: list[str]


def read(pictures: Pictures, rows: Sequence[int]) -> Iterator[tuple[np.ndarray, Stored | None]]:
    """The pixels of some images, uint8 (H, W, C), and what their files tell, None of arrays; each is read once.

    Raises:
        SampleError: a file that is no image; its row is named.
    """
    for row in rows:
        beside, data = pictures.rows.encoded(row)
        if data is None:
            yield pictures.images[row], None
            continue
        try:
            image = pictures.rows.open({"bytes": data, "path": None}).colour
        except (TypeError, ValueError) as error:
            raise pictures.rows.failure(row, error) from None
        place = pictures.rows.place(row) if pictures.data.kind == "files" else ("row", row)
        yield image, Stored(place, beside, read_encoding(data), opt_outs_in(data))


def read_traces(files: Sequence[Stored], pictures: Pictures, path: Path | None, rows: int) -> Traces:
    """What encoded pictures tell, the values beside them in a table, and the files around them in a folder.

    At most ``rows`` rows of a table are looked at, evenly spread. Of keys only the head of a key file is
    looked for: whose it could be is not known.
    """
    findings = Findings()
    if isinstance(pictures.rows, TableRows):
        _beside(pictures.rows, rows, findings)
    if path is not None and path.is_dir():
        _around(path, findings)
    formats: Counter[str] = Counter()
    kinds: dict[str, list[Place]] = defaultdict(list)
    for place, stored, encoding, _ in sorted(files, key=lambda file: file.place):
        formats[encoding.format] += 1
        kinds[encoding.traces or encoding.format].append(place)
        if leak := stored_path_leak(stored):
            findings.add(*leak, CLEAN, place)
        for check, what in encoding_leaks(encoding, additive=False):
            findings.add(check, what, REMEDIES[check], place)
    if mixed := mixed_leak(kinds):
        findings.add("mixed encodings", mixed[0], ONE_FORMAT, *mixed[1])
    return Traces(dict(formats), len(kinds), findings.leaks())


def _beside(table_rows: TableRows, rows: int, findings: Findings) -> None:
    """Note what the columns beside the images give away."""
    data, image_key, label_key = table_rows.data, table_rows.image_key, table_rows.label_key
    for check, what in column_leaks(data.column_names):
        findings.add(check, what, REMEDIES[check])
    others = [name for name in data.column_names if name not in (image_key, label_key)]
    if not others:
        return
    chosen = spread(len(data), rows)
    table = data.select_columns(others).select(chosen).with_format("arrow")[:]
    for name in others:
        for row, check, what in value_leaks(name, table[name].combine_chunks(), key_forms(())):
            findings.add(check, what, REMEDIES.get(check, CLEAN), ("row", chosen[row]))


def _around(path: Path, findings: Findings) -> None:
    """Files that are neither pictures nor data: keys, caches, metadata that tell too much."""
    for file in islice(path.rglob("*"), FILES):
        if not file.is_file() or file.suffix.lower() in IMAGES:
            continue
        place = file.relative_to(path).as_posix()
        with open_regular(file) as opened:
            head = opened.read(HEAD)
        check, what = file_leak(place, head)
        if check == "key" or (check == "cache" and file.suffix not in (".arrow", ".parquet")):
            findings.add(check, what, REMEDIES[check], place)
        if file.name in METADATA:
            for check, what in metadata_leaks(file, key_forms(())):
                findings.add(check, what, REMEDIES.get(check, CLEAN), place)
