"""Tables that name image files: ``metadata.csv`` and ``metadata.jsonl`` of `datasets`, and the CSV of a competition.

They carry labels, captions and more. Labels are read from them, and they are written again with the new names.
"""

import csv
import io
import json
import os
import posixpath
import unicodedata
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files import parse_json, read_regular, whole
from .columns import LABEL_KEYS

METADATA = ("metadata.csv", "metadata.jsonl")
CSV_LABELS = (*LABEL_KEYS, "class", "category", "target", "diagnosis", "species", "breed")

_MISSING = (None, "", "nan", "NaN", "<NA>")  # as pandas and NumPy write it


@dataclass(frozen=True)
class Annotations:
    """One table that names image files.

    Attributes:
        path: of the table, below the source, with ``/``.
        columns: names.
        rows: cells by column.
        file_column: the column that names files.
        label_column: the column with one class a row; None where there is none.
        images: for each row the image below the source that it names; None where no file has that name.
        delimiter: of a CSV.
    """

    path: str
    columns: list[str]
    rows: list[dict[str, Any]]
    file_column: str
    label_column: str | None
    images: list[str | None]
    delimiter: str = ","

    def labels(self) -> dict[str, Any]:
        """Image -> label, an integer or text without spaces around it.

        Raises:
            ValueError: two rows give one image different labels, a row has none, or one that is no class.
        """
        assert self.label_column is not None
        result: dict[str, Any] = {}
        for image, row in zip(self.images, self.rows, strict=True):
            if image is None:
                continue
            label = row.get(self.label_column)
            if isinstance(label, list) and len(label) == 1:
                (label,) = label
            label = label.strip() if isinstance(label, str) else label
            if label in _MISSING:
                raise UsageError(f"{self.path} gives {image} no label in its column {self.label_column!r}")
            if isinstance(label, bool) or not isinstance(label, int | str):
                raise UsageError(
                    f"{self.path} gives {image} the label {label!r}: a class is one integer or text; several "
                    "labels, truth values and fractions are refused"
                )
            if result.setdefault(image, label) != label:
                raise UsageError(f"{self.path} gives {image} two labels: {result[image]!r} and {label!r}")
        return result


def read_metadata(source: Path, path: str, images: Collection[str]) -> Annotations:
    """A ``metadata.csv`` or ``metadata.jsonl``, whose column ``file_name`` names files relative to it.

    Raises:
        ValueError: it cannot be read, or names images in other columns, too.
    """
    columns, rows, delimiter = read_table(source / path)
    several = [name for name in columns if name.endswith("file_names") or name.endswith("_file_name")]
    if several or "file_name" not in columns:
        raise UsageError(
            f"{source / path} has the columns {columns}: images are named in file_name, and only there. Take the file "
            "out of the folder"
        )
    known = {_normal(image): image for image in images}
    folder = posixpath.dirname(path)
    named = [known.get(plain_path(posixpath.join(folder, str(row.get("file_name", ""))))) for row in rows]
    label = next((name for name in LABEL_KEYS if name in columns), None)
    return Annotations(path, columns, rows, "file_name", label, named, delimiter)


def read_csv(
    source: Path, path: str, images: Sequence[str], file_column: str | None = None, label_column: str | None = None
) -> Annotations | None:
    """A CSV whose rows name image files, by path, by name, or by name without suffix.

    Its cells are divided by commas; by semicolons or tabs where the first line has no comma.

    Args:
        source: the folder.
        path: of the table, below it.
        images: the image files below the source.
        file_column, label_column: columns; default: the one whose cells name images, and the only other one or one of
            the common names.

    Returns:
        None if no column names images: the table is about something else.

    Raises:
        ValueError: the table cannot be read, or it is not clear which column or which image is meant.
    """
    columns, rows, delimiter = read_table(source / path)
    paths, names = _places(images)
    root = _normal(f"{source.resolve()}/")

    def image_of(cell: Any) -> str:
        name = plain_path(str(cell)).removeprefix(root)
        return paths.get(name) or names.get(name, "")

    if any(map(image_of, columns)):
        raise UsageError(f"{source / path} has no line of column names: put one first, such as path,label")
    best, named = None, [""] * len(rows)
    for name in [file_column] if file_column is not None else columns:
        if name not in columns:
            raise UsageError(f"{source / path} has no column {name!r}; its columns are {columns}")
        hits = [image_of(row[name]) for row in rows]
        if sum(map(bool, hits)) > sum(map(bool, named)):
            best, named = name, hits
    if best is None:
        return None
    unclear = [str(row[best]) for row, hit in zip(rows, named, strict=True) if hit is _SEVERAL]
    if unclear:
        raise UsageError(
            f"{source / path} names {unclear[0]}, and several files have that name: name them by their paths"
        )
    # A column in which nearly every row says something else is a caption or a number, not a class.
    others = [name for name in columns if name != best and 2 * len({row[name] for row in rows}) <= max(2, len(rows))]
    label: str | None
    if label_column is not None:
        if label_column not in columns:
            raise UsageError(f"{source / path} has no column {label_column!r}; its columns are {columns}")
        label = label_column
    else:
        common = [name for name in columns if name != best and name.lower() in CSV_LABELS]
        label = common[0] if len(common) == 1 else others[0] if len(others) == 1 else None
        if label is None and others:
            raise UsageError(
                f"{source / path} names the images in {best!r}; which of the columns {others} is the class? Say it "
                "with --label-key COLUMN, or pass --label NAME to give all images one class"
            )
    return Annotations(path, columns, rows, best, label, [hit or None for hit in named], delimiter)


_SEVERAL = "\0"


def _places(images: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Path -> image, and what else a table may call it -> image; ``_SEVERAL`` where several images have that name."""
    paths: dict[str, str] = {}
    names: dict[str, str] = {}
    for image in images:
        path = _normal(image)
        stem, base = os.path.splitext(path)[0], posixpath.basename(path)
        paths[path] = image if path not in paths else _SEVERAL
        for name in {base, stem, os.path.splitext(base)[0]}:
            names[name] = image if name not in names else _SEVERAL
    return paths, names


def rewrite(source: Annotations, out: Path, written: Callable[[str], str | None]) -> list[str]:
    """Write a table with the new names; rows whose image was not written are dropped and returned.

    Args:
        source: the table.
        out: the output folder.
        written: the new path of an image below ``out``, or None.
    """
    folder = posixpath.dirname(source.path)
    kept, dropped = [], []
    for row, image in zip(source.rows, source.images, strict=True):
        target = None if image is None else written(image)
        if target is None or image is None:
            dropped.append(str(row.get(source.file_column, "")))
        else:
            kept.append({**row, source.file_column: _renamed(str(row[source.file_column]), image, target, folder)})
    buffer = io.StringIO(newline="")
    if source.path.lower().endswith(".jsonl"):
        buffer.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
    else:
        writer = csv.DictWriter(buffer, source.columns, delimiter=source.delimiter, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
    target_file = out / source.path
    target_file.parent.mkdir(parents=True, exist_ok=True)
    with whole(target_file) as temporary:
        temporary.write_text(buffer.getvalue(), encoding="utf-8", newline="")
    return dropped


def _renamed(name: str, image: str, target: str, folder: str) -> str:
    """What a table in ``folder`` calls ``image`` once it is ``target``: by path or name, with a suffix or without."""
    if os.path.splitext(name)[1] != os.path.splitext(image)[1]:
        return name  # without a suffix, which is all that changes
    if "/" not in plain_path(name) and "/" in posixpath.relpath(image, folder or "."):
        return posixpath.basename(target)
    return posixpath.relpath(target, folder or ".")


def _normal(name: str) -> str:
    """A file name in one normal form: a Mac's archives decompose letters with accents."""
    return unicodedata.normalize("NFC", name)


def plain_path(name: str) -> str:
    """What a table calls a file, as a path in its shortest form."""
    return _normal(posixpath.normpath(name.replace("\\", "/")))


def read_table(path: Path) -> tuple[list[str], list[dict[str, Any]], str]:
    """Columns, rows and delimiter of a CSV or of JSON lines.

    Raises:
        ValueError: it cannot be read; the file is named.
    """
    try:
        text = read_regular(path).decode("utf-8-sig")
        return _parse_csv(text) if path.suffix.lower() == ".csv" else (*_parse_jsonl(text), "")
    except (ValueError, RecursionError) as error:  # also text that is not UTF-8
        raise UsageError(f"{path} cannot be read: {error}") from None


def _parse_csv(text: str) -> tuple[list[str], list[dict[str, Any]], str]:
    first = text.split("\n", 1)[0]
    delimiter = next((sign for sign in ",;\t" if sign in first), ",")
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    try:
        rows: list[dict[str, Any]] = list(reader)
    except csv.Error as error:
        raise UsageError(str(error)) from None
    for line, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise UsageError(f"line {line} has more or fewer fields than the header")
    columns = list(reader.fieldnames or [])
    if len(set(columns)) < len(columns):
        raise UsageError(f"two of the columns {columns} have one name")
    return columns, rows, delimiter


def _parse_jsonl(text: str) -> tuple[list[str], list[dict[str, Any]]]:
    rows = [parse_json(line) for line in text.split("\n") if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise UsageError("a line is not a JSON object")
    return list(dict.fromkeys(name for row in rows for name in row)), rows
