"""What the files of a set tell: their pixels, how they are encoded, and what they give away beside their pixels."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..checks.encodings import Encoding, read_encoding
from ..checks.leaks import (
    REENCODE,
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
from ..data.columns import find_columns
from ..data.image import open_encoded
from ..data.listing import METADATA, PICTURES
from ..evaluation.data import Pictures
from ..files import open_regular, read_regular
from ..sample import SampleError, spread

CLEAN = "remove or rewrite it"
HEAD = 64  # bytes of a file that tell what it is
FILES = 100_000  # of a folder that are looked at


@dataclass
class Traces:
    """What was seen in files.

    Attributes:
        formats: how many of the pictures looked at are of which format.
        encodings: how many kinds of encoder settings there are among them.
        leaks: what the set gives away.
    """

    formats: dict[str, int] = field(default_factory=dict)
    encodings: int = 0
    leaks: list[Leak] = field(default_factory=list)


class Stored(NamedTuple):
    """Where a picture lies, the path that a table keeps beside it, and how it is encoded."""

    place: Place
    path: str | None
    encoding: Encoding


def read(
    pictures: Pictures, source: Any, path: Path | None, rows: Sequence[int], image_key: str | None
) -> Iterator[tuple[np.ndarray, Stored | None]]:
    """The pixels of some pictures, uint8 (H, W, C), and what their files tell, None of arrays; each is read once.

    Args:
        pictures: the set.
        source: it, as a ``datasets.Dataset`` if it is one.
        path: where it lies, or None.
        rows: of the set.
        image_key: the column of a table.

    Raises:
        SampleError: a file that is no picture; its row is named.
    """
    stored = _bytes_of(pictures, source, path, image_key)
    for row in rows:
        place, beside, data = stored(row)
        if data is None:
            yield pictures.images[row], None
            continue
        try:
            image = open_encoded(data, None).colour
        except (TypeError, ValueError) as error:
            raise SampleError.at([row], error) from None
        yield image, Stored(place, beside, read_encoding(data))


def _bytes_of(
    pictures: Pictures, source: Any, path: Path | None, image_key: str | None
) -> Callable[[int], tuple[Place, str | None, bytes | None]]:
    """row -> its place, the path that a table keeps beside it, and the encoded picture, None where there is none."""
    if pictures.files is not None and path is not None:
        files, root = [Path(file) for file in pictures.files], path
        return lambda row: (files[row].relative_to(root).as_posix(), None, files[row].read_bytes())
    if _is_table(source):
        from datasets import Image

        image_key = find_columns(source.column_names, image_key, None)[0]
        if isinstance(source.features[image_key], Image):
            encoded = source.select_columns([image_key]).cast_column(image_key, Image(decode=False)).with_format(None)

            def of_table(row: int) -> tuple[Place, str | None, bytes | None]:
                value = encoded[row][image_key]
                return ("row", row), value["path"], value["bytes"]

            return of_table
    return lambda row: (("row", row), None, None)


def read_traces(
    files: Sequence[Stored], source: Any, path: Path | None, rows: int, image_key: str | None, label_key: str | None
) -> Traces:
    """What encoded pictures tell, the values beside them in a table, and the files around them in a folder.

    The key is looked for by the head of a key file alone: whose key it could be is not known.

    Args:
        files: of the pictures that were read.
        source: a ``datasets.Dataset``; anything else has no columns.
        path: where it lies, or None.
        rows: of a table, at most so many, evenly spread.
        image_key, label_key: columns.
    """
    findings = Findings()
    if _is_table(source):
        _beside(source, rows, image_key, label_key, findings)
    if path is not None and path.is_dir():
        _around(path, findings)
    formats: Counter[str] = Counter()
    kinds: dict[str, list[Place]] = defaultdict(list)
    for place, stored, encoding in sorted(files, key=lambda file: file.place):
        formats[encoding.format] += 1
        kinds[encoding.traces or encoding.format].append(place)
        if told := stored_path_leak(stored):
            findings.add(*told, CLEAN, place)
        for check, what in encoding_leaks(encoding, additive=False):
            findings.add(check, what, REMEDIES[check], place)
    if mixed := mixed_leak(kinds):
        findings.add("mixed encodings", mixed[0], REENCODE, *mixed[1])
    return Traces(dict(formats), len(kinds), findings.leaks())


def _is_table(source: Any) -> bool:
    return type(source).__module__.startswith("datasets.") and hasattr(source, "features")


def _beside(data: Any, rows: int, image_key: str | None, label_key: str | None, findings: Findings) -> None:
    """Note what the columns beside the pictures give away."""
    image_key, label_key = find_columns(data.column_names, image_key, label_key)
    for check, what in column_leaks(data.features, image_key):
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
        if not file.is_file() or file.suffix.lower() in PICTURES:
            continue
        place = file.relative_to(path).as_posix()
        with open_regular(file) as opened:
            head = opened.read(HEAD)
        check, what = file_leak(place, head)
        if check == "key" or (check == "cache" and file.suffix not in (".arrow", ".parquet")):
            findings.add(check, what, REMEDIES[check], place)
        if file.name in METADATA:
            for check, what in metadata_leaks(read_regular(file), file.suffix, key_forms(())):
                findings.add(check, what, REMEDIES.get(check, CLEAN), place)


def name_formats(formats: dict[str, int]) -> str:
    """``3,900 PNG, 100 JPEG``."""
    ordered: Sequence[tuple[str, int]] = sorted(formats.items(), key=lambda item: -item[1])
    return ", ".join(f"{count:,} {name}" for name, count in ordered)
