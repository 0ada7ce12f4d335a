"""The one resumable loop: list the units, compare them with the journal, send what is not done, note it, count it.

Protecting and undoing, folders, tables and tars, processes of this machine and a Ray cluster all go through
:func:`run`. A run that was killed goes on when it is started again, and ends with the same bytes.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import xxhash
from tqdm import tqdm  # type: ignore[import-untyped]

from ..data.base import LabelledSet, Rows, Unit
from ..data.codec import Codec, checksum
from ..data.image import Opened
from ..files import whole
from ..pixels import CHUNK_VALUES
from .journal import Journal, Record
from .workers import run_tasks

Engine = Literal["local", "ray"]
Failures = list[tuple[int, str]]  # row and reason
UNITS, UNIT_BYTES = 16, 4_000_000  # one message to a worker holds at most so many units, or one larger one
WORKER_UNITS, WORKER_BYTES = 50, 10_000_000  # less does not pay for the start of another process
NO_MEMORY = "the image does not fit into memory: make it smaller"
STORED_BYTES = 16_000_000  # of encoded images that are read at a time


@dataclass(frozen=True)
class Job:
    """What a worker does with a unit: read, change, encode, write. Verbs subclass it and write :meth:`change`.

    Attributes:
        data: the set, sent to each process once.
        out: the output folder.
        codec: how images are encoded.
    """

    data: LabelledSet
    out: Path
    codec: Codec

    def change(self, unit: Unit, rows: range, opened: list[Opened], failed: Failures) -> tuple[list[bytes], list[Any]]:
        """New images of some rows.

        Args:
            unit: that they belong to.
            rows: counted in the split.
            opened: their pixels.
            failed: gets the rows that cannot be changed or encoded, with the reason.

        Returns:
            Encoded images, one a row; and facts, one a row, as JSON values for the journal.
        """
        raise TypeError(f"{type(self).__name__} does not say what it does with an image")

    def encode(self, row: int, image: Any, failed: Failures) -> bytes:
        """The bytes of one image; empty where the format cannot hold it."""
        try:
            return self.codec.encode(image)
        except (TypeError, ValueError) as error:
            failed.append((row, str(error)))
            return b""

    def __call__(self, units: list[Unit]) -> list[Record]:
        return [self._write(unit) for unit in units]

    def _write(self, unit: Unit) -> Record:
        rows = self.data.splits[unit.split]
        record: Record = {"target": unit.target, "split": unit.split, "start": unit.start, "rows": len(unit.rows)}
        record |= {"place": rows.place(unit.start), "size": unit.size, "stamp": unit.stamp}
        images: list[bytes] = []
        facts: list[Any] = []
        failed: Failures = []
        digest = RowDigest(self.data, unit.split)
        for some, opened in _chunks(rows, unit, digest, failed):
            if failed:  # all that is wrong is named at once; nothing of the unit will be written
                continue
            try:
                chunk_images, chunk_facts = self.change(unit, some, opened, failed)
            except (MemoryError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and "allocate memory" not in str(error):  # as torch says it
                    raise
                failed.append((some.start, NO_MEMORY))
                continue
            images += chunk_images
            facts += chunk_facts
        if failed:
            if self.data.may_leave_out and self._inside(unit):  # of an earlier run, when it could be read
                (self.out / unit.target).unlink(missing_ok=True)
            reasons = [[rows.place(row), reason] for row, reason in failed]
            return {**record, "status": "failed", "unreadable": reasons}
        return {**record, "status": "written", "digest": str(digest), "facts": facts, **self._put(unit, images)}

    def _inside(self, unit: Unit) -> bool:
        """Whether the unit's folder lies in the output folder, and no link leads out of it."""
        return (self.out / unit.target).parent.resolve().is_relative_to(self.out.resolve())

    def _put(self, unit: Unit, images: list[bytes]) -> dict[str, Any]:
        target = self.out / unit.target
        if not self.out.is_dir():
            raise FileNotFoundError(f"{self.out} is gone: put it back, or start again with an empty output folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not self._inside(unit):
            raise ValueError(
                f"{target.parent} leads out of the output folder, to {target.parent.resolve()}: remove that link"
            )
        with whole(target) as temporary:
            self.data.write(unit, images, temporary, self.codec)
            data = temporary.read_bytes()
        return {"bytes": len(data), "checksum": checksum(data)}


def _chunks(rows: Rows, unit: Unit, digest: "RowDigest", failed: Failures) -> Iterator[tuple[range, list[Opened]]]:
    """The images of a unit, opened: about one chunk of pixels at a time. What cannot be read goes to ``failed``."""
    opened: list[Opened] = []
    start, values = unit.start, 0
    for row, stored in _stored(rows, unit, failed):
        digest.update(row, stored)
        try:
            image = rows.open(stored)
        except (TypeError, ValueError) as error:
            failed.append((row, str(error)))
            continue
        except MemoryError:
            failed.append((row, NO_MEMORY))
            continue
        if opened and values + image.colour.size > CHUNK_VALUES:
            yield range(start, start + len(opened)), opened
            opened, start, values = [], row, 0
        opened.append(image)
        values += image.colour.size
    if opened:
        yield range(start, start + len(opened)), opened


def _stored(rows: Rows, unit: Unit, failed: Failures) -> Iterator[tuple[int, Any]]:
    """Row and stored image of a unit's rows; files that cannot be read go to ``failed``."""
    count = max(1, min(64, STORED_BYTES * len(unit.rows) // max(1, unit.size)))
    for start in range(unit.start, unit.stop, count):
        try:
            yield from enumerate(rows.stored(range(start, min(start + count, unit.stop))), start)
        except OSError as error:
            failed.append((start, error.strerror or str(error)))
        except MemoryError:
            failed.append((start, NO_MEMORY))


class RowDigest:
    """What tells whether rows are what they were: xxh3-128 of their stored images and labels; ``str`` gives it.

    Args:
        data: the set.
        split: of the rows.
    """

    def __init__(self, data: LabelledSet, split: str) -> None:
        self._digest = xxhash.xxh3_128()
        self._data, self._split = data, split

    def update(self, row: int, stored: Any) -> None:
        """Add a row with its stored image."""
        data = stored.get("bytes") if isinstance(stored, dict) else None
        self._digest.update(data if data is not None else repr(stored).encode())
        self._digest.update(f"|{self._data.label_text(self._split, row)}|".encode())

    def __str__(self) -> str:
        return self._digest.hexdigest()


# ---- the loop --------------------------------------------------------------------------------------------------------


def check_engine(engine: str) -> None:
    """Refuse an unknown engine, or one whose package is missing, before any work.

    Raises:
        ValueError: there is none of that name.
        ImportError: Ray is not installed.
    """
    if engine not in get_args(Engine):
        raise ValueError(f"engine must be one of {get_args(Engine)}, got {engine!r}")
    if engine == "ray":
        from ..adapters import ray  # noqa: F401  (says what is missing)


def check_places(source: str | Path, out: Path) -> None:
    """Refuse an output folder that is, holds or lies in the source.

    Raises:
        ValueError: it does.
        FileNotFoundError: there is no folder to make it in.
    """
    inner, outer = out.resolve(), Path(source).resolve()
    if outer.suffix.lower() == ".csv" and outer.is_file():
        outer = outer.parent  # which is read
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise ValueError(f"{out} and {source} lie in each other: choose an output folder outside of the source")
    if os.path.lexists(out) and not out.is_dir():
        raise ValueError(f"{out} is a file: the output is a folder")
    if not inner.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {inner.parent} to make {out.name} in")


def unfinished(data: LabelledSet, units: Sequence[Unit], journal: Journal) -> list[Unit]:
    """The units that have to be written: new ones, those that failed, and those whose source or output changed.

    Where its time stamp changed, a source is compared by its content: of an image file; what else lies in a table or a
    tar is not in the journal, so these are written again.
    """
    done = set()
    by_target = {unit.target: unit for unit in units}
    refreshed = []
    for record in journal.records(units):
        unit = by_target[record["target"]]
        if record["status"] == "failed" or not journal.intact(record):
            continue
        if record["stamp"] != unit.stamp or record["rows"] != len(unit.rows):
            if not data.may_leave_out or digest_of_unit(data, unit) != record["digest"]:
                continue
            refreshed.append({**record, "stamp": unit.stamp})
        done.add(unit.target)
    journal.append(refreshed)
    return [unit for unit in units if unit.target not in done]


def digest_of_unit(data: LabelledSet, unit: Unit) -> str:
    """What the journal keeps of a unit's rows; empty where a file cannot be read."""
    rows, failed = data.splits[unit.split], Failures()
    digest = RowDigest(data, unit.split)
    for row, stored in _stored(rows, unit, failed):
        digest.update(row, stored)
    return "" if failed else str(digest)


def run(
    job: Job, units: Sequence[Unit], journal: Journal, *, workers: int, engine: Engine = "local", progress: bool = False
) -> list[Record]:
    """Do what is not done of some units, and note it.

    Args:
        job: what a worker does.
        units: all of the set; see :func:`unfinished`.
        journal: begun.
        workers: processes, of one thread each.
        engine: "local", or "ray": actors of a Ray cluster instead of processes.
        progress: whether to show a progress bar on a terminal.

    Returns:
        The records of all units, in their order.

    Raises:
        SourceChanged: the source is not what it was when the run began.
        OSError: the output cannot be written, or files of it are missing at the end. Run again to continue.
    """
    todo = unfinished(job.data, units, journal)
    total, left = (sum(len(unit.rows) for unit in some) for some in (units, todo))
    with tqdm(total=total, initial=total - left, unit=job.data.kind, disable=None if progress else True) as bar:
        for records in _run_on(engine, job, _messages(todo), _useful(workers, todo)):
            journal.append(records)
            bar.update(sum(record["rows"] for record in records))
    job.data.check_unchanged()
    records = list(journal.records(units))
    if len(records) < len(units):
        raise RuntimeError(
            f"{len(units) - len(records)} of {len(units)} files have no record: run the same command again"
        )
    check_output(job.out, records)
    return records


def check_output(out: Path, records: Sequence[Record]) -> None:
    """Count what lies in the output folder, whatever the journal says.

    Raises:
        FileNotFoundError: files are missing, or have another size.
    """
    missing = []
    for record in records:
        if record["status"] != "failed":
            path = out / record["target"]
            if not path.is_file() or path.stat().st_size != record["bytes"]:
                missing.append(record["target"])
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(records)} files are not in {out}, {missing[0]} for one: they were moved or "
            "removed during the run. Run the same command again"
        )


def _useful(workers: int, todo: Sequence[Unit]) -> int:
    """How many of the processes are worth their start."""
    size = sum(unit.size for unit in todo)
    return max(1, min(workers, len(todo), max(len(todo) // WORKER_UNITS, size // WORKER_BYTES)))


def _messages(todo: Sequence[Unit]) -> Iterator[list[Unit]]:
    """What is not done, some units at a time."""
    message: list[Unit] = []
    size = 0
    for unit in todo:
        if message and (len(message) == UNITS or size + unit.size > UNIT_BYTES):
            yield message
            message, size = [], 0
        message.append(unit)
        size += unit.size
    if message:
        yield message


def _run_on(engine: Engine, job: Callable[[Any], Any], tasks: Iterable[Any], processes: int) -> Iterator[Any]:
    """Results in the order in which they get done; bytes do not depend on the engine."""
    if engine == "ray":
        from ..adapters.ray import run_tasks as run_on_ray

        return run_on_ray(job, tasks, processes)
    return run_tasks(job, tasks, processes)
