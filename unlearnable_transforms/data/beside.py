"""What may lie beside an image in a row: by value, at any depth, for tables and for plain rows alike.

A second image is often a clean copy of the one that gets protected. So what may stay is listed, and not what may not:
numbers, dates, class labels, text that is text, short bytes, and lists of numbers that are no pixels (boxes, keypoints,
embeddings). The type of a column decides where it can; values are read where it cannot.
"""

import datetime
import decimal
import numbers
import re
import uuid
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

SHORT = 64  # bytes, characters or numbers: too few for an image
MOST_NUMBERS = 4096  # of an embedding
_BATCH = 1000  # rows of a table looked at at a time
_NUMBERS = (numbers.Number, np.generic, decimal.Decimal)
_PLAIN = (*_NUMBERS, datetime.date, datetime.time, datetime.timedelta, uuid.UUID, type(None))
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
_TEXTS = (pa.types.is_string, pa.types.is_large_string)
_BINARIES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
_NUMERIC = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
_HARMLESS = (*_NUMERIC, pa.types.is_decimal, pa.types.is_temporal, pa.types.is_null)
# Text that is no text.
_MARKS = ("data:image/", "iVBORw0KGgo", "/9j/4", "UklGR", "R0lGOD")  # how PNG, JPEG, WebP and GIF begin in base64
_CODE = re.compile(r"[A-Za-z0-9+/_=-]{40,}")  # base64 and hexadecimal; such words are rare in text
_CODE_LENGTH = 256  # characters of code in one text
_LONGEST_WORD = 1000  # base85 has nearly all characters
_LISTED = re.compile(r"(?:\d[\d.eE+-]*[\s,;\[\](){}]+-?){65}")  # pixels in numbers
_ESCAPED = re.compile(r"(?:\\x[0-9a-fA-F]{2}[^\\]{0,8}){20}")  # bytes as Python shows them
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")  # bytes that were read as text


def table_images(table: pa.Table, but: Collection[str] = ()) -> list[str]:
    """Names of the columns of a table that hold images, or what could be one.

    Args:
        table: of Arrow.
        but: columns that are not looked at.
    """
    return [
        name
        for name, column in zip(table.column_names, table.columns, strict=True)
        if name not in but and any(map(holds_images, column.chunks))
    ]


def dataset_images(data: Any, but: Collection[str] = ()) -> list[str]:
    """As :func:`table_images`, of a ``datasets.Dataset``, a batch of rows at a time; only columns whose type leaves it
    open are read."""
    schema = data.features.arrow_schema
    rest = [name for name in data.column_names if name not in but and not _is_harmless(schema.field(name).type)]
    found: set[str] = set()
    if rest:
        for table in data.select_columns(rest).with_format("arrow").iter(_BATCH):
            found.update(table_images(table, found))
    return [name for name in rest if name in found]


def row_images(row: Mapping[str, Any], count: int | None, but: Collection[str] = ()) -> list[str]:
    """As :func:`table_images`, of a plain row, or of a plain batch of ``count`` rows."""
    return [
        name
        for name, value in row.items()
        if name not in but and any(map(is_image, [value] if count is None else _rows(value, count)))
    ]


def _rows(value: Any, count: int) -> Iterable[Any]:
    batch = isinstance(value, list | tuple) or getattr(value, "ndim", 0) > 0
    return value if batch and len(value) == count else [value]


def is_image(value: Any) -> bool:
    """Whether a value of a row is an image, holds one, or could: everything is but what may lie beside an image."""
    if isinstance(value, _PLAIN):
        return False
    if isinstance(value, str | PurePath):
        return _is_encoded(str(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return len(value) > SHORT
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().to_dense()
        value = (value.float() if value.is_floating_point() else value).numpy()  # NumPy has no bfloat16
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return _are_pixels(value.ravel(), value.ndim)
    if isinstance(value, np.ndarray) and value.dtype.kind in "USOMm":  # text, objects, times
        value = value.tolist()
    if isinstance(value, Mapping):
        return {"bytes", "path"} <= set(value) or any(map(is_image, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        array = _as_numbers(value)
        return any(map(is_image, value)) if array is None else _are_pixels(array.ravel(), array.ndim)
    return True


def _is_encoded(text: str) -> bool:
    """Whether text could be an image's file or its pixels."""
    if len(text) <= SHORT:
        return False
    if any(mark in text for mark in _MARKS) or _CONTROL.search(text) or _LISTED.search(text):
        return True
    long = [word for word in text.split() if len(word) >= 40]
    code = sum(len(run) for word in long for run in _CODE.findall(word))
    if code >= _CODE_LENGTH or any(len(word) >= _LONGEST_WORD and word.isascii() for word in long):
        return True
    return "\\x" in text and _ESCAPED.search(text) is not None


def _as_numbers(values: Any) -> np.ndarray | None:
    """Nested lists of numbers as one array, where all lists are of one length."""
    first = values
    while isinstance(first, list | tuple) and first:
        first = first[0]
    if not isinstance(first, _NUMBERS):
        return None
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):  # lists of unequal length
        return None
    return array if array.dtype.kind in "biuf" else None


def holds_images(values: pa.Array) -> bool:
    """Whether an Arrow array holds images, or what could be one."""
    kind = values.type
    if _is_harmless(kind):
        return False
    if isinstance(values, pa.ExtensionArray):
        return holds_images(values.storage)
    if pa.types.is_dictionary(kind):
        return holds_images(values.dictionary)
    if any(is_kind(kind) for is_kind in _BINARIES):
        return (pc.max(pc.binary_length(values)).as_py() or 0) > SHORT
    if any(is_kind(kind) for is_kind in _TEXTS):
        if (pc.max(pc.binary_length(values)).as_py() or 0) <= SHORT:
            return False
        long = values.filter(pc.fill_null(pc.greater(pc.binary_length(values), SHORT), False))
        return any(map(_is_encoded, long.to_pylist()))
    if pa.types.is_struct(kind):
        fields = [field.name for field in kind]
        return {"bytes", "path"} <= set(fields) or any(holds_images(values.field(at)) for at in range(len(fields)))
    if any(is_kind(kind) for is_kind in _LISTS):
        return _lists_hold_images(values)
    return True


def _is_harmless(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in _HARMLESS)


def _lists_hold_images(values: pa.Array) -> bool:
    rows, depth, leaves = np.arange(len(values)), 0, values  # the row of each value, how many lists it lies in
    while any(is_kind(leaves.type) for is_kind in _LISTS):
        rows = rows[pc.list_parent_indices(leaves).to_numpy(zero_copy_only=False)]
        depth += 1
        leaves = pc.list_flatten(leaves)
    if not any(is_kind(leaves.type) for is_kind in _NUMERIC):
        return holds_images(leaves)
    counts = np.bincount(rows, minlength=len(values))
    long = np.flatnonzero(counts > SHORT)
    if not len(long):
        return False
    if depth > 2 or counts.max() > MOST_NUMBERS:
        return True
    filled = leaves.cast(pa.uint8()) if pa.types.is_boolean(leaves.type) else leaves
    flat = pc.fill_null(filled, 0).to_numpy(zero_copy_only=False)
    starts = np.searchsorted(rows, long)
    return any(_are_pixels(flat[start : start + counts[row]], depth) for row, start in zip(long, starts, strict=True))


def _are_pixels(values: np.ndarray, depth: int) -> bool:
    """Whether numbers could be those of an image.

    Args:
        values: of one row, flat.
        depth: how many axes they have.
    """
    if len(values) <= SHORT:
        return False
    if depth > 2 or len(values) > MOST_NUMBERS or values.dtype.kind not in "biuf":
        return True
    values = values.astype(np.float64)
    values = values[np.isfinite(values)]
    low, high = values.min(initial=np.inf), values.max(initial=-np.inf)
    if depth == 1 and ((values == 0) | (values == 1)).all():  # a mask of tokens, attributes
        return False
    scales = [values] if low >= 0 and high <= 255 else []
    scales += [values * 255] if low >= 0 and high <= 1 else []
    scales += [(values + 1) * 127.5] if low >= -1 and high <= 1 else []
    return any(np.round(scaled).any() and (np.abs(scaled - np.round(scaled)) < 0.1).all() for scaled in scales)
