"""metadata.csv and metadata.jsonl, in which `datasets` keeps captions and labels beside pictures: new file names."""

import csv
import io
import json
import posixpath
from collections.abc import Callable, Mapping
from pathlib import Path

from ..files import parse_json, read_regular, whole


def check_metadata(source: Path, path: str) -> None:
    """Refuse a metadata file before anything is written if it could not be rewritten later.

    Raises:
        ValueError: it has no column file_name, or names pictures in other columns too.
    """
    try:
        names, _ = _read(source / path)
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{source / path} cannot be read: {error}") from None
    several = [name for name in names if name.endswith("file_names") or name.endswith("_file_name")]
    if several or "file_name" not in names:
        raise ValueError(
            f"{source / path} has the columns {names}: pictures are named in file_name, and only there. Take the file "
            "out of the folder"
        )


def rewrite_metadata(source: Path, out: Path, path: str, written: Callable[[str], str | None]) -> list[str]:
    """Write a metadata file with the new names; rows whose picture was not written are dropped and returned.

    Args:
        source, out: the folders.
        path: the metadata file, below both.
        written: the new path of a picture below ``out``, or None.
    """
    names, rows = _read(source / path)
    folder = posixpath.dirname(path)
    kept, dropped = [], []
    for row in rows:
        name = str(row.get("file_name", ""))
        target = written(posixpath.normpath(posixpath.join(folder, name)))
        if target is None:
            dropped.append(name)
        else:
            kept.append({**row, "file_name": posixpath.relpath(target, folder or ".")})
    buffer = io.StringIO(newline="")
    if path.endswith(".csv"):
        writer = csv.DictWriter(buffer, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
    else:
        buffer.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
    target_file = out / path
    target_file.parent.mkdir(parents=True, exist_ok=True)
    with whole(target_file) as temporary:
        temporary.write_text(buffer.getvalue(), encoding="utf-8", newline="")
    return dropped


def _read(path: Path) -> tuple[list[str], list[Mapping]]:
    text = read_regular(path).decode("utf-8-sig")
    if path.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        try:
            rows: list[Mapping] = list(reader)
        except csv.Error as error:
            raise ValueError(str(error)) from None
        if any(None in row or None in row.values() for row in rows):
            raise ValueError("a row has more or fewer fields than the header")
        return list(reader.fieldnames or []), rows
    rows = [parse_json(line) for line in text.split("\n") if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is not a JSON object")
    return list(dict.fromkeys(name for row in rows for name in row)), rows
