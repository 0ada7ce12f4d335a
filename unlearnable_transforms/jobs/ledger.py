"""The ledger: the private record of what was protected, written beside every protected data set.

It maps each clean picture to its protected one by their ids, so that publishing can prove that nothing clean goes out,
an interrupted run can go on, and unlocking finds what it needs. It is as secret as the key.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from ..files import private_directory, replacing
from ..poisons.base import Poison, decisive

# status: "protected", "left" (not chosen under fraction < 1) or "unchanged" (the method is the identity on it).
SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("row", pa.int64()),
        ("clean_id", pa.binary(16)),
        ("protected_id", pa.binary(16)),
        ("class_token", pa.string()),
        ("status", pa.string()),
        ("unlock_note", pa.float64()),
    ]
)

ROW_GROUP = 50_000
ID = "S16"  # as NumPy compares bytes
KEY_CHECK, METHOD = b"key check", b"method"  # in the file's metadata


def ledger_path(key_fingerprint: str | None, protected_ids: np.ndarray) -> Path:
    """Where a ledger lies by default: found again from the protected pictures' ids, sorted."""
    digest = xxhash.xxh3_128(protected_ids.data).hexdigest()
    return private_directory("ledgers") / f"{key_fingerprint or 'explicit'}-{digest}.parquet"


def write_ledger(table: pa.Table, path: str | os.PathLike | None, poison: Poison) -> Path:
    """Write a table with the columns of ``SCHEMA`` with mode 0600, whole or not at all, to ``path`` or the default
    place; with the method that protected the pictures, and a check of its key."""
    ids = _sorted_ids(table)
    key_fingerprint = None if poison.key is None else poison.key.fingerprint
    method = json.dumps(method_of(poison))
    schema = SCHEMA.with_metadata({KEY_CHECK: _key_check(key_fingerprint, ids), METHOD: method})
    target = Path(path) if path is not None else ledger_path(key_fingerprint, ids)
    with replacing(target) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for start in range(0, max(1, len(table)), ROW_GROUP):  # no copy of the whole, which may lie on the disk
            writer.write_table(table.slice(start, ROW_GROUP).cast(schema))
    return target


def check_ledger_place(path: str | os.PathLike | None, out: Path) -> None:
    """Refuse, before any work is done, a place where a ledger must not or cannot be written.

    Args:
        path: where the ledger is to go; None is the default place.
        out: the output folder, which will be published.

    Raises:
        ValueError: the place lies in ``out``, or is a file that is not a ledger.
        FileNotFoundError: there is no such folder.
    """
    if path is None:
        return
    place = Path(path).resolve()
    if out.resolve() in place.parents:
        raise ValueError(f"the ledger {path} would lie in {out}, beside what gets published: put it elsewhere")
    if not place.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {place.parent} to write the ledger to")
    if place.exists():
        try:
            read_ledger(place)
        except (OSError, ValueError):
            raise ValueError(f"{path} exists and is not a ledger: it is not replaced") from None


def read_ledger(path: str | os.PathLike) -> pa.Table:
    """Read a ledger.

    Raises:
        ValueError: the file is not a ledger.
    """
    try:
        table = pq.read_table(path)
    except pa.ArrowException:
        raise ValueError(f"{path} is not a ledger, or a damaged one") from None
    if table.schema.names != SCHEMA.names:
        raise ValueError(f"{path} is not a ledger: its columns are {table.schema.names}")
    return table


def fits_key(table: pa.Table, key_fingerprint: str | None) -> bool:
    """Whether a ledger, as :func:`read_ledger` returns it, was written for this key; also if it does not say."""
    check = (table.schema.metadata or {}).get(KEY_CHECK)
    return check is None or check.decode() == _key_check(key_fingerprint, _sorted_ids(table))


def method_of(poison: Poison) -> dict[str, Any]:
    """What decides the bytes beside the key: method, version and public arguments, as JSON values."""
    return json.loads(json.dumps(decisive(poison.public_config())))


def other_method(table: pa.Table, poison: Poison) -> str:
    """How a method differs from the one that a ledger names; empty where it does not, or the ledger names none."""
    method = (table.schema.metadata or {}).get(METHOD)
    return "" if method is None else next(differences(json.loads(method), method_of(poison)), "")


def names_method(table: pa.Table) -> bool:
    """Whether a ledger names its method; those of earlier versions do not."""
    return METHOD in (table.schema.metadata or {})


def differences(was: Any, now: Any, name: str = "") -> Iterator[str]:
    """How JSON values differ, one text for each: ``strength strong, not normal``."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in {**was, **now}:
            yield from differences(was.get(key), now.get(key), key)
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for pair in zip(was, now, strict=True):
            yield from differences(*pair, name)
    elif was != now:
        yield f"{name.replace('_', ' ')} {was}, not {now}"


def _sorted_ids(table: pa.Table) -> np.ndarray:
    """The protected pictures' ids, sorted: ``ID`` (rows,), and no Python object for each."""
    ids, start = np.empty(len(table), ID), 0
    for chunk in filter(len, table["protected_id"].chunks):
        fixed = chunk.cast(SCHEMA.field("protected_id").type)
        ids[start : start + len(chunk)] = np.frombuffer(fixed.buffers()[1], ID, len(fixed), fixed.offset * 16)
        start += len(chunk)
    ids.sort()
    return ids


def _key_check(key_fingerprint: str | None, protected_ids: np.ndarray) -> str:
    """Tells ledgers of other keys, but not to whom the key belongs without knowing its fingerprint."""
    digest = xxhash.xxh3_128(f"{key_fingerprint}|".encode())
    digest.update(protected_ids.data)
    return digest.hexdigest()
