"""Protect a folder of pictures: the same tree out, file by file, by several processes, to be interrupted at any time.

One flow: list the source, compare with the journal, send what is not done to the workers, note each finished file, and
at the end write the ledger and the metadata files from the journal. Nothing but the list of paths is held in memory.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image
from tqdm import tqdm  # type: ignore[import-untyped]

from ..data.listing import Listing, check_targets, list_folder, named, readable_name, target_name
from ..data.metadata import check_metadata, rewrite_metadata
from ..poisons.base import Poison
from ..sample import class_token
from ..secret.labels import check_options, hide_files, remember
from .encode import Codec, FileWorker, Task
from .engines import Engine, check_engine, run_on
from .fraction import check_fraction
from .journal import Journal, open_journal
from .ledger import SCHEMA, check_ledger_place, write_ledger
from .summary import Summary, add_record, hidden_note, measured_every

TASK_FILES, TASK_BYTES = 16, 4_000_000  # one message to a worker holds at most so many files, or one larger one
WORKER_FILES, WORKER_BYTES = 50, 10_000_000  # less does not pay for the start of another process
LEDGER_ROWS = 10_000  # are made at a time
SECRET_CLASSES = "classes.json"  # in the journal


def protect_folder(
    source: str | os.PathLike,
    out: str | os.PathLike,
    poison: Poison,
    *,
    codec: Codec | None = None,
    fraction: float = 1.0,
    label: str | None = None,
    labels: str | Path | None = None,
    clusters: int | None = None,
    backbone: str | Callable | None = None,
    keep_splits: Collection[str] = (),
    workers: int = 1,
    engine: Engine = "local",
    ledger: str | os.PathLike | None = None,
    progress: bool = False,
) -> Summary:
    """Protect a folder of pictures, or go on where an earlier call with the same arguments was interrupted.

    Args:
        source: one folder a class (labels are places in the sorted list of their names, as torchvision and datasets
            count them), folders ``train``, ``test``, ... that hold such folders, or any tree if ``label`` or ``labels``
            is given.
        out: an empty or new folder, not in ``source``; or one that an interrupted call began.
        poison: a protection method; fitted on the training pictures if it needs to be and is not.
        codec: how pictures are written; default: PNG with the colour profile.
        fraction: share of the pictures to protect, chosen by a keyed hash of each; all are encoded alike.
        label: the class of all pictures: an album, an artist or a person.
        labels: secret classes instead of the class folders: ``"auto"``, ``"folder"`` or a CSV file, see
            :func:`~unlearnable_transforms.secret.labels.hide_files`; ``clusters`` and ``backbone`` belong to
            ``"auto"``.
        keep_splits: splits to write unprotected; others that are not training data are left out.
        workers: processes, of one thread each.
        engine: "local", or "ray": actors of a Ray cluster instead of processes. Source, output and the library's cache
            must be on a storage that all its machines share.
        ledger: where the private record goes; default: the library's cache.
        progress: whether to show a progress bar on a terminal.

    Returns:
        What was done. Pictures that could not be read are in ``failed``: none of them is in ``out``.

    Raises:
        ValueError: the source, the output folder or the journal are not as they must be.
        OSError: the output cannot be written, e.g. the disk is full. Call again to continue.
        SampleError: a method that is to be fitted cannot learn from these pictures.
    """
    source, out = Path(source), Path(out)
    codec = codec or Codec()
    check_fraction(fraction, poison)
    check_engine(engine)
    check_places(source, out)
    check_ledger_place(ledger, out)
    if label is not None and labels is not None:
        raise ValueError("label is one class for all, labels are secret classes: give one of the two")
    listing = list_folder(source, label is not None, keep_splits, hidden=labels is not None)
    check_targets(listing.paths, codec.format)
    metadata = [path for path in listing.metadata if listing.split(path) not in listing.left_out]
    for path in metadata:
        check_metadata(source, path)
    check_options(labels, clusters, backbone, poison.key)
    with open_journal(out) as journal:
        hidden, kept = None, journal.directory / SECRET_CLASSES
        if labels is not None:
            hidden = hide_files(
                listing,
                source,
                labels,
                poison.key,
                clusters=clusters,
                backbone=backbone,
                processes=workers,
                remembered=kept if out.exists() and any(out.iterdir()) else None,
            )
        if not poison.fitted:
            poison.fit(FolderPictures(source, listing, label))
        settings = {
            "source": str(source.resolve()),
            **poison.public_config(fitted=True),
            "format": codec.format,
            "quality": codec.quality if codec.format == "jpeg" else None,
            "colour profile": codec.icc,
            "fraction": fraction,
            "label": label,
            "kept splits": sorted(keep_splits),
            "classes": listing.classes,
            **({} if hidden is None else hidden.settings),
        }
        journal.begin(settings, listing.lines())
        if hidden is not None:
            remember(hidden.memory, kept)
        done = journal.finished(listing.paths, lambda path: target_name(path, codec.format))
        with tqdm(total=len(done), initial=sum(done), unit="files", disable=None if progress else True) as bar:
            worker = FileWorker(source.resolve(), out.resolve(), poison, codec, fraction)
            processes = _useful(workers, listing, done)
            for records in run_on(engine, worker, _tasks(listing, done, label, poison, codec), processes):
                journal.append(records)
                bar.update(len(records))
        return _finish(source, out, listing, metadata, journal, poison, codec, ledger)


class FolderPictures(Sequence):
    """The training pictures of a folder as ``(image, label)`` pairs, read when they are asked for."""

    def __init__(self, source: Path, listing: Listing, label: str | None) -> None:
        self.source, self.listing, self.label = source, listing, label
        self.places = [place for place, path in enumerate(listing.paths) if listing.is_training(path)]

    @property
    def targets(self) -> list:
        """The label of each picture; none is read."""
        return [self.listing.label(place) if self.label is None else self.label for place in self.places]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, row: Any) -> Any:
        place = self.places[row]
        path = self.listing.paths[place]
        try:
            with Image.open(self.source / path) as image:
                image.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{readable_name(path)} cannot be read ({error}): repair or remove it") from None
        return image, self.listing.label(place) if self.label is None else self.label


def _useful(workers: int, listing: Listing, done: bytearray) -> int:
    """How many of the processes are worth their start."""
    files = len(done) - sum(done)
    size = sum(size for size, ready in zip(listing.sizes, done, strict=True) if not ready)
    return min(workers, max(1, files // WORKER_FILES, size // WORKER_BYTES))


def check_places(source: Path, out: Path) -> None:
    """Refuse an output folder that is, holds or lies in the source.

    Raises:
        ValueError: it does.
        FileNotFoundError: there is no folder to make it in.
    """
    inner, outer = out.resolve(), source.resolve()
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise ValueError(f"{out} and {source} lie in each other: choose an output folder outside of the source")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: the output is a folder")
    if not inner.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {inner.parent} to make {out.name} in")


def _tasks(listing: Listing, done: bytearray, label: str | None, poison: Poison, codec: Codec) -> Iterator[list[Task]]:
    """What is not done, some files at a time."""
    labels: Iterable[Any] = [label] if label is not None else range(len(listing.classes))
    tokens = [class_token(value, poison.classes) for value in labels]
    every = measured_every(len(listing.paths))
    batch: list[Task] = []
    size = 0
    for place, path in enumerate(listing.paths):
        if done[place]:
            continue
        token = None
        if listing.is_training(path):
            token = tokens[0 if label is not None else listing.label(place)]
        task = Task(
            path=path,
            target=target_name(path, codec.format),
            token=token,
            size=listing.sizes[place],
            mtime=listing.mtimes[place],
            measure=place % every == 0,
        )
        if batch and (len(batch) == TASK_FILES or size + task.size > TASK_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(task)
        size += task.size
    if batch:
        yield batch


def _finish(
    source: Path,
    out: Path,
    listing: Listing,
    metadata: list[str],
    journal: Journal,
    poison: Poison,
    codec: Codec,
    ledger: str | os.PathLike | None,
) -> Summary:
    summary = Summary(kind="files", others=listing.others)
    table = pa.Table.from_batches(list(_ledger_batches(journal, listing, summary)), SCHEMA)
    summary.ledger = str(write_ledger(table, ledger, poison))
    if listing.secret is not None:
        summary.notes.append(hidden_note(len(listing.classes)))
    if listing.left_out:
        summary.notes.append(f"splits left out, not being training data: {', '.join(listing.left_out)} (--keep-split)")
    if metadata:
        failed = {path for path, _ in summary.failed}
        targets = {path: target_name(path, codec.format) for path in listing.paths if path not in failed}
        for path in metadata:
            dropped = rewrite_metadata(source, out, path, targets.get)
            if dropped:
                summary.notes.append(f"{path}: left out the rows of pictures that were not written: {named(dropped)}")
    return summary


def _ledger_batches(journal: Journal, listing: Listing, summary: Summary) -> Iterator[pa.RecordBatch]:
    """The ledger's rows, numbered in the order of the source's paths; the summary is filled by the way."""
    rows: list[dict[str, Any]] = []
    count = 0
    for record in journal.records(listing.paths):
        add_record(summary, record)
        if record["status"] in ("failed", "kept"):
            continue
        rows.append(
            {
                "split": listing.split(record["path"]),
                "row": count,
                "clean_id": bytes.fromhex(record["clean_id"]),
                "protected_id": bytes.fromhex(record["protected_id"]),
                "class_token": record["token"],
                "status": record["status"],
                "unlock_note": record["note"],
            }
        )
        count += 1
        if len(rows) == LEDGER_ROWS:
            yield pa.RecordBatch.from_pylist(rows, SCHEMA)
            rows = []
    yield pa.RecordBatch.from_pylist(rows, SCHEMA)
