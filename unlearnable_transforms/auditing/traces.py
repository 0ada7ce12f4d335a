"""What the files of a set tell: how its pictures are encoded, and what they give away beside their pixels."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from ..protection.listing import METADATA, PICTURES
from ..publishing.encodings import read_encoding
from ..publishing.leaks import (
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
from ..publishing.scan import REENCODE, REMEDIES
from ..samples import spread
from ..sources import find_columns

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


def read_traces(source: Any, path: Path | None, rows: int, image_key: str | None, label_key: str | None) -> Traces:
    """Look at up to ``rows`` encoded pictures, at the values beside them, and at the files around them.

    The key is looked for by the head of a key file alone: whose key it could be is not known.

    Args:
        source: a ``datasets.Dataset``; anything else that is no path has no files, so nothing is found.
        path: where it lies, or None.
        rows: at most so many, evenly spread.
        image_key, label_key: columns.
    """
    findings = Findings()
    pictures: Iterator[tuple[Place, str | None, bytes]] = iter(())
    if type(source).__module__.startswith("datasets.") and hasattr(source, "features"):
        pictures = _table(source, rows, image_key, label_key, findings)
    elif path is not None and path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in PICTURES)
        chosen = [files[place] for place in spread(len(files), rows)]
        pictures = ((file.relative_to(path).as_posix(), None, file.read_bytes()) for file in chosen)
    if path is not None and path.is_dir():
        _around(path, findings)
    formats: Counter[str] = Counter()
    kinds: dict[str, list[Place]] = defaultdict(list)
    for place, stored, data in pictures:
        encoding = read_encoding(data)
        formats[encoding.format] += 1
        kinds[encoding.traces or encoding.format].append(place)
        if told := stored_path_leak(stored):
            findings.add(*told, CLEAN, place)
        for check, what in encoding_leaks(encoding, additive=False):
            findings.add(check, what, REMEDIES[check], place)
    if mixed := mixed_leak(kinds):
        findings.add("mixed encodings", mixed[0], REENCODE, *mixed[1])
    return Traces(dict(formats), len(kinds), findings.leaks())


def _table(
    data: Any, rows: int, image_key: str | None, label_key: str | None, findings: Findings
) -> Iterator[tuple[Place, str | None, bytes]]:
    """The pictures of some rows as they are stored; what the other columns give away is noted."""
    from datasets import Image

    image_key, label_key = find_columns(data.column_names, image_key, label_key)
    for check, what in column_leaks(data.features, image_key):
        findings.add(check, what, REMEDIES[check])
    chosen = spread(len(data), rows)
    table = data.select(chosen).with_format("arrow")[:]
    for name in data.column_names:
        if name not in (image_key, label_key):
            for row, check, what in value_leaks(name, table[name].combine_chunks(), key_forms(())):
                findings.add(check, what, REMEDIES.get(check, CLEAN), ("row", chosen[row]))
    if not isinstance(data.features[image_key], Image):
        return
    for row, stored in zip(chosen, table[image_key].to_pylist(), strict=True):
        if stored is not None and stored["bytes"] is not None:
            yield ("row", row), stored["path"], stored["bytes"]


def _around(path: Path, findings: Findings) -> None:
    """Files that are neither pictures nor data: keys, caches, metadata that tell too much."""
    for file in islice(path.rglob("*"), FILES):
        if not file.is_file() or file.suffix.lower() in PICTURES:
            continue
        place = file.relative_to(path).as_posix()
        with file.open("rb") as opened:
            head = opened.read(HEAD)
        check, what = file_leak(place, head)
        if check == "key" or (check == "cache" and file.suffix not in (".arrow", ".parquet")):
            findings.add(check, what, REMEDIES[check], place)
        if file.name in METADATA:
            for check, what in metadata_leaks(file.read_text("utf-8-sig"), file.suffix, key_forms(())):
                findings.add(check, what, REMEDIES.get(check, CLEAN), place)


def name_formats(formats: dict[str, int]) -> str:
    """``3,900 PNG, 100 JPEG``."""
    ordered: Sequence[tuple[str, int]] = sorted(formats.items(), key=lambda item: -item[1])
    return ", ".join(f"{count:,} {name}" for name, count in ordered)
