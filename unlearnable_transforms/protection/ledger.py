"""The ledger: the private record of what was protected, written beside every protected data set.

It maps each clean picture to its protected one by their ids, so that publishing can prove that nothing clean goes out,
an interrupted run can go on, and unlocking finds what it needs. It is as secret as the key.
"""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from ..files import private_directory, replacing

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

KEY_CHECK = b"key check"  # in the file's metadata


def ledger_path(key_fingerprint: str | None, protected_ids: list[bytes]) -> Path:
    """Where the ledger of these protected pictures lies by default: found again from the pictures, in any order."""
    digest = xxhash.xxh3_128(b"".join(sorted(protected_ids))).hexdigest()
    return private_directory("ledgers") / f"{key_fingerprint or 'explicit'}-{digest}.parquet"


def write_ledger(table: pa.Table, path: str | os.PathLike | None, key_fingerprint: str | None) -> Path:
    """Write a table of ``SCHEMA`` with mode 0600, whole or not at all, to ``path`` or the default place."""
    table = table.cast(SCHEMA)
    ids = table["protected_id"].to_pylist()
    table = table.replace_schema_metadata({KEY_CHECK: _key_check(key_fingerprint, ids)})
    target = Path(path) if path is not None else ledger_path(key_fingerprint, ids)
    with replacing(target) as temporary:
        pq.write_table(table, temporary)
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
        except (OSError, ValueError, pa.ArrowException):
            raise ValueError(f"{path} exists and is not a ledger: it is not replaced") from None


def read_ledger(path: str | os.PathLike) -> pa.Table:
    """Read a ledger.

    Raises:
        ValueError: the file is not a ledger.
    """
    table = pq.read_table(path)
    if table.schema.names != SCHEMA.names:
        raise ValueError(f"{path} is not a ledger: its columns are {table.schema.names}")
    return table


def fits_key(table: pa.Table, key_fingerprint: str | None) -> bool:
    """Whether a ledger, as :func:`read_ledger` returns it, was written for this key; also if it does not say."""
    check = (table.schema.metadata or {}).get(KEY_CHECK)
    return check is None or check.decode() == _key_check(key_fingerprint, table["protected_id"].to_pylist())


def _key_check(key_fingerprint: str | None, protected_ids: list[bytes]) -> str:
    """Tells ledgers of other keys, but not to whom the key belongs without knowing its fingerprint."""
    return xxhash.xxh3_128(f"{key_fingerprint}|".encode() + b"".join(sorted(protected_ids))).hexdigest()
