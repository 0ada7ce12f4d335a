"""The ledger: the private record of what was protected, written beside every protected data set.

It maps each clean picture to its protected one by their ids, so that publishing can prove that nothing clean goes out,
an interrupted run can go on, and unlocking finds what it needs. It is as secret as the key.
"""

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from ..errors import UsageError
from ..files import RESTORE, DamagedError, open_regular, parse_json, private_directory, replacing
from ..poisons.base import Poison, decisive
from ..warn import warn

STATUSES = (
    "protected",
    "left",
    "unchanged",
)  # left: not chosen under fraction < 1; unchanged: the method changes nothing
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
KEY_CHECK, METHOD, LEARNT, MAX_SIDE = b"key check", b"method", b"learnt", b"max side"  # in the file's metadata


def ledger_path(key_fingerprint: str | None, protected_ids: np.ndarray) -> Path:
    """Where a ledger lies by default: found again from the protected pictures' ids, sorted."""
    digest = xxhash.xxh3_128(protected_ids.data).hexdigest()
    return private_directory("ledgers") / f"{key_fingerprint or 'explicit'}-{digest}.parquet"


def write_ledger(
    table: pa.Table,
    path: str | os.PathLike | None,
    poison: Poison,
    replaces: Path | None = None,
    max_side: int | None = None,
) -> Path:
    """Write a table with the columns of ``SCHEMA`` with mode 0600, whole or not at all, to ``path`` or the default
    place; with the method that protected the images, and a check of its key.

    Args:
        table: the rows.
        path: where to; None: the default place, which follows from the protected ids.
        poison: the method.
        replaces: file that keeps the default place of a growing set's ledger: the earlier one is removed.
        max_side: longest side to which larger images were made smaller before they were protected.
    """
    ids = _sorted_ids(table)
    key_fingerprint = None if poison.key is None else poison.key.fingerprint
    method = json.dumps(method_of(poison))
    learnt = json.dumps(learnt_by(poison))
    metadata = {KEY_CHECK: _key_check(key_fingerprint, ids), METHOD: method, LEARNT: learnt}
    schema = SCHEMA.with_metadata({**metadata, **({} if max_side is None else {MAX_SIDE: str(max_side)})})
    target = Path(path) if path is not None else ledger_path(key_fingerprint, ids)
    if path is not None and target.exists():
        _set_aside(target, ids)
    with replacing(target) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for start in range(0, max(1, len(table)), ROW_GROUP):  # no copy of the whole, which may lie on the disk
            writer.write_table(table.slice(start, ROW_GROUP).cast(schema))
    if replaces is not None and path is None:
        if replaces.exists() and (earlier := target.with_name(replaces.read_text())) != target:
            earlier.unlink(missing_ok=True)
            page_of(earlier).unlink(missing_ok=True)
        with replacing(replaces) as temporary:
            temporary.write_text(target.name)
    return target


def _set_aside(path: Path, protected_ids: np.ndarray) -> None:
    """Rename a ledger where a new one is to lie that does not have all of its protected images, with a warning: they
    cannot be undone without it.

    Raises:
        ValueError: the file is no ledger.
    """
    table = read_ledger(path)
    before = _sorted_ids(table.filter(pc.equal(table["status"], "protected")))
    if not np.isin(before, protected_ids).all():
        names = (path.with_name(f"{path.name}.{number}") for number in itertools.count(1))
        kept = path.rename(next(name for name in names if not name.exists()))
        warn(f"{path} had images that this run does not have: it is {kept} by now, keep it with their key")


def page_of(ledger: Path) -> Path:
    """Where the private page with images of a protected album lies: beside its ledger."""
    return ledger.with_name(ledger.name + ".html")


def protected_rows() -> list[tuple[Path, pa.Table]]:
    """Every ledger of the cache, of any key, with its rows of protected images."""
    tables = [(path, read_ledger(path)) for path in sorted(private_directory("ledgers").glob("*.parquet"))]
    return [(path, table.filter(pc.equal(table["status"], "protected"))) for path, table in tables]


def protected_before(table: pa.Table) -> set[bytes]:
    """The clean ids of a ledger's protected images that are protected ids of another ledger in the cache: these images
    have two protections now."""
    clean = table.filter(pc.equal(table["status"], "protected"))["clean_id"]
    found: set[bytes] = set()
    for _, known in protected_rows():
        again = pc.is_in(clean, value_set=known["protected_id"].combine_chunks())
        found.update(clean.filter(again).to_pylist())
    return found


def check_ledger_place(path: str | os.PathLike | None, out: Path | None = None) -> None:
    """Refuse, before any work is done, a place where a ledger must not or cannot be written.

    Args:
        path: where the ledger is to go; None is the default place.
        out: the output folder, which will be published; None where there is none.

    Raises:
        ValueError: the place lies in ``out``, or is a file that is not a ledger.
        FileNotFoundError: there is no such folder.
    """
    if path is None:
        return
    place = Path(path).resolve()
    if out is not None and out.resolve() in place.parents:
        raise UsageError(f"the ledger {path} would lie in {out}, beside what gets published: put it elsewhere")
    if not place.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {place.parent} to write the ledger to")
    if place.exists():
        try:
            read_ledger(place)
        except (OSError, ValueError):
            raise UsageError(f"{path} exists and is not a ledger: it is not replaced") from None


def read_ledger(path: str | os.PathLike) -> pa.Table:
    """Read a ledger.

    Raises:
        FileNotFoundError, IrregularFileError: there is no such file.
        ValueError: the file is not a ledger, or a damaged one.
    """
    try:
        with open_regular(path) as file:
            table = pq.read_table(file)
    except pa.ArrowException:
        raise UsageError(f"{path} is not a ledger, or a damaged one") from None
    if table.schema.names != SCHEMA.names:
        raise UsageError(f"{path} is not a ledger: its columns are {table.schema.names}")
    metadata = table.schema.metadata or {}
    try:
        parse_json(metadata.get(METHOD, b"{}"), dict)
        parse_json(metadata.get(LEARNT, b"[]"), [dict])
        metadata.get(KEY_CHECK, b"").decode("ascii")
        table = table.cast(SCHEMA.with_metadata(table.schema.metadata))
        empty = any(table[name].null_count for name in ("clean_id", "protected_id", "class_token", "status"))
        strange = set(pc.unique(table["status"]).to_pylist()) - set(STATUSES)
    except (ValueError, pa.ArrowException):
        raise DamagedError(path, RESTORE) from None
    if empty or strange:
        raise DamagedError(path, RESTORE)
    return table


def learnt_by(poison: Poison) -> list[dict[str, Any]]:
    """What a method has learnt, link by link, as JSON values. It is as secret as the key."""
    return [link.fitted_state() for link in poison.links]


def remember(poison: Poison, learnt: Sequence[dict[str, Any]]) -> None:
    """Give a method what :func:`learnt_by` said of it; noise lies in the cache, where ``recall`` finds it."""
    for link, state in zip(poison.links, learnt, strict=False):
        if not link.fitted and "noise" not in state:
            vars(link).update(state)
            link._prepare()


def learnt_in(tables: Sequence[pa.Table]) -> list[dict[str, Any]]:
    """What ledgers say that the method had learnt; nothing where they do not agree."""
    states = {(table.schema.metadata or {}).get(LEARNT, b"[]") for table in tables}
    return parse_json(states.pop(), [dict]) if len(states) == 1 else []


def max_side_in(tables: Sequence[pa.Table]) -> int | None:
    """The longest side to which ledgers say that images were made smaller; None where they do not agree."""
    sides = {(table.schema.metadata or {}).get(MAX_SIDE, b"") for table in tables}
    return int(side) if len(sides) == 1 and (side := sides.pop()).isdigit() else None


def fits_key(table: pa.Table, key_fingerprint: str | None) -> bool:
    """Whether a ledger, as :func:`read_ledger` returns it, was written for this key; also if it does not say."""
    check = (table.schema.metadata or {}).get(KEY_CHECK)
    return check is None or check.decode() == _key_check(key_fingerprint, _sorted_ids(table))


def check_fit(table: pa.Table, path: str | os.PathLike, poison: Poison) -> None:
    """Refuse a ledger that was written for another key or another method.

    Raises:
        ValueError: it was.
    """
    if not fits_key(table, None if poison.key is None else poison.key.fingerprint):
        raise UsageError(f"the ledger {path} was written for another key than {poison!r} has: use the key of that time")
    if other := other_method(table, poison):
        raise UsageError(f"the ledger {path} says that they were protected with {other}")


def method_of(poison: Poison) -> dict[str, Any]:
    """What decides the bytes beside the key: method, version and public arguments, as JSON values."""
    return json.loads(json.dumps(decisive(poison.public_config())))


def other_method(table: pa.Table, poison: Poison) -> str:
    """How a method differs from the one that a ledger names; empty where it does not, or the ledger names none."""
    method = (table.schema.metadata or {}).get(METHOD)
    return "" if method is None else next(differences(parse_json(method), method_of(poison)), "")


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
