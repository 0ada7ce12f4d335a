"""Undo the protection of files: a folder of pictures, Parquet, or a saved data set.

What is made lies in a temporary folder beside the output until all of it is there: after an error, such as the wrong
key or a picture that the ledger does not know, nothing was written.
"""

import json
import os
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from tqdm import tqdm  # type: ignore[import-untyped]

from ..data.image import open_image
from ..data.listing import Listing, check_targets, list_folder, named, readable_name, target_name
from ..data.metadata import check_metadata, rewrite_metadata
from ..files import PART_PREFIX
from ..jobs.encode import Codec, open_bytes
from ..jobs.folder import check_places
from ..jobs.ledger import differences
from ..jobs.shards import Shard, make_shards, no_bars, write_table
from ..jobs.tables import is_picture_folder, load_training_splits
from ..jobs.workers import run_tasks
from ..pixels import psnr
from ..poisons.base import Poison, decisive
from ..sample import SampleError, class_token, spread
from .unlock import SAMPLE, Unlocker, columns_of, has_keys, make_unlocker, some_pictures, told, unlock_split

TASK_FILES, TASK_BYTES = 16, 4_000_000  # one message to a worker holds at most so many files, or one larger one
MANIFEST = "protection.json"  # which publishing writes
SAID = ("key_fingerprint", "method", "version", "arguments")  # by the manifest


def unlock_source(
    source: str | os.PathLike,
    out: str | os.PathLike,
    poison: Poison,
    *,
    ledger: str | os.PathLike | None = None,
    label: str | None = None,
    clean: str | os.PathLike | None = None,
    config: str | None = None,
    changed: bool = False,
    workers: int = 1,
    progress: bool = False,
) -> list[str]:
    """Undo what ``protect_folder`` or ``protect_tables`` made.

    Args:
        source: the protected folder or data set. Splits that are not training data are left out.
        out: an empty or new folder, not in ``source``: pictures become PNG, data sets Parquet.
        poison: what it was protected with.
        ledger, changed: as for :func:`~unlearnable_transforms.protection.unlock.unlock`.
        label: the class of all pictures of a folder, if one was given to protect them.
        clean: the clean folder or data set, to measure how near the result comes to it.
        config: configuration of a Hub data set.
        workers: processes, of one thread each.
        progress: whether to show a progress bar on a terminal.

    Returns:
        What was done, in lines of text.

    Raises:
        ValueError: pictures, ledger or manifest belong to another key or to other options; a source or output that is
            not as it must be.
        As :func:`~unlearnable_transforms.protection.unlock.unlock`.
    """
    source, out = Path(source), Path(out)
    check_places(source, out)
    changed = _check_manifest(source / MANIFEST, poison) or changed  # what a manifest names needs no other proof
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty: choose a new folder")
    pictures = is_picture_folder(source)
    if clean is not None and is_picture_folder(clean) != pictures:
        raise ValueError(f"{clean} cannot be compared with {source}: one is a folder of pictures, the other is not")
    with _appearing(out) as part:
        if pictures:
            counts, notes = _unlock_folder(source, part, poison, ledger, label, changed, workers, progress)
        else:
            counts, notes = _unlock_tables(source, part, poison, ledger, config, changed, workers, progress), []
        lines = [*told(counts), *notes]
        if clean is not None:
            pairs = _folder_pairs(part, Path(clean)) if pictures else _table_pairs(part, clean, config, poison)
            lines.append(_measured(pairs))
    return lines


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its place when the block ends without an error, and else is removed."""
    part = out.resolve().parent / f"{PART_PREFIX}{secrets.token_hex(8)}"
    part.mkdir()
    try:
        yield part
        if out.exists():
            out.rmdir()
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_manifest(path: Path, poison: Poison) -> bool:
    """Refuse another key, method or other options than the manifest of a published set names; whether it names all."""
    try:
        manifest = json.loads(path.read_bytes()) if path.is_file() else None
    except ValueError:
        raise ValueError(f"{path} is damaged: take it out, or fetch the set again") from None
    if not isinstance(manifest, dict):
        return False
    ours = json.loads(json.dumps(poison.public_config()))
    was, now = (
        decisive({name: config[name] for name in SAID if name in manifest}, keys=True) for config in (manifest, ours)
    )
    if other := next(differences(was, now), ""):
        raise ValueError(f"{path} says that it was protected with {other}")
    return set(SAID) <= set(manifest) and has_keys(poison)


# ---- folders of pictures ---------------------------------------------------------------------------------------------


def _unlock_folder(
    source: Path,
    out: Path,
    poison: Poison,
    ledger: str | os.PathLike | None,
    label: str | None,
    changed: bool,
    workers: int,
    progress: bool,
) -> tuple[Counter[str], list[str]]:
    try:
        listing = list_folder(source, label is not None)
    except ValueError:  # any tree, as secret classes allow: then the ledger knows the classes
        listing = list_folder(source, False, hidden=True)
    check_targets(listing.paths, "png")
    metadata = [path for path in listing.metadata if listing.split(path) not in listing.left_out]
    for path in metadata:
        check_metadata(source, path)
    tokens = _tokens(listing, label, poison)
    some = [(_read(source, listing.paths[place]), tokens[place]) for place in spread(len(listing.paths), SAMPLE)]
    unlocker = make_unlocker(poison, some, ledger, changed)
    counts: Counter[str] = Counter()
    with tqdm(total=len(listing.paths), unit="files", disable=None if progress else True) as bar:
        worker = FileUnlocker(source.resolve(), out, unlocker)
        for states in run_tasks(worker, _tasks(listing, tokens), workers):
            counts.update(states)
            bar.update(len(states))
    targets = {path: target_name(path, "png") for path in listing.paths}
    for path in metadata:
        rewrite_metadata(source, out, path, targets.get)
    left_out = [f"splits left out, not being training data: {', '.join(listing.left_out)}"] if listing.left_out else []
    return counts, left_out


def _tokens(listing: Listing, label: str | None, poison: Poison) -> list[str | None]:
    """The class of each picture; None where neither folders nor ``label`` say it."""
    if label is not None:
        return [class_token(label, poison.classes)] * len(listing.paths)
    known = [class_token(number, poison.classes) for number in range(len(listing.classes))]
    return [known[listing.label(place)] if known else None for place in range(len(listing.paths))]


def _read(source: Path, path: str) -> np.ndarray:
    try:
        return open_bytes((source / path).read_bytes()).colour
    except (TypeError, ValueError) as error:
        raise ValueError(f"{readable_name(path)}: {error}") from None


def _tasks(listing: Listing, tokens: list[str | None]) -> Iterator[list[tuple[str, str | None]]]:
    batch: list[tuple[str, str | None]] = []
    size = 0
    for entry in zip(listing.paths, tokens, listing.sizes, strict=True):
        if batch and (len(batch) == TASK_FILES or size + entry[2] > TASK_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(entry[:2])
        size += entry[2]
    yield batch


@dataclass(frozen=True)
class FileUnlocker:
    """Writes clean pictures as PNG; returns how well each is restored."""

    source: Path
    out: Path
    unlocker: Unlocker

    def __call__(self, files: list[tuple[str, str | None]]) -> list[str]:
        opened = []
        for path, _ in files:
            try:
                opened.append(open_bytes((self.source / path).read_bytes()))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{readable_name(path)}: {error}") from None
        try:
            colours, states = self.unlocker([picture.colour for picture in opened], [token for _, token in files])
        except SampleError as error:
            raise ValueError(f"{named([files[row][0] for row in error.rows])}: {error.reason}") from None
        for (path, _), picture, colour in zip(files, opened, colours, strict=True):
            target = self.out / target_name(path, "png")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(Codec().encode(picture.close(colour)))
        return states


# ---- data sets -------------------------------------------------------------------------------------------------------


def _unlock_tables(
    source: Path,
    out: Path,
    poison: Poison,
    ledger: str | os.PathLike | None,
    config: str | None,
    changed: bool,
    workers: int,
    progress: bool,
) -> Counter[str]:
    counts: Counter[str] = Counter()
    with _splits(source, config) as splits:
        unlocker = make_unlocker(poison, some_pictures(splits, poison), ledger, changed)
        shards = [
            shard
            for name, data in splits.items()
            for shard in make_shards(name, data, columns_of(data, poison)[0], saved="")
        ]
        rows = sum(len(data) for data in splits.values())
        with tqdm(total=rows, unit="rows", disable=None if progress else True) as bar:
            for states in run_tasks(ShardUnlocker(splits, out, unlocker), shards, min(workers, len(shards))):
                counts += states
                bar.update(states.total())
    return counts


@contextmanager
def _splits(source: str | os.PathLike, config: str | None) -> Iterator[dict[str, Dataset]]:
    with (
        tempfile.TemporaryDirectory() as scratch,
        load_training_splits(os.fspath(source), config, Path(scratch)) as splits,
    ):
        yield splits


@dataclass(frozen=True)
class ShardUnlocker:
    """Writes ranges of rows as Parquet; returns how many pictures are restored how well."""

    splits: dict[str, Dataset]
    out: Path
    unlocker: Unlocker

    def __call__(self, shard: Shard) -> Counter[str]:
        data = self.splits[shard.split].select(range(shard.start, shard.stop))
        try:
            with no_bars():
                clean, counts = unlock_split(data, self.unlocker, keep_in_memory=True)
        except SampleError as error:
            raise SampleError.at([shard.start + row for row in error.rows], error) from None
        write_table(clean, self.out / shard.target, ".parquet")
        return counts


# ---- how near --------------------------------------------------------------------------------------------------------


def _folder_pairs(restored: Path, clean: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Clean and restored pictures with the same path but for the suffix."""
    places = {os.path.splitext(path)[0]: path for path in list_folder(clean, True).paths}
    for path in list_folder(restored, True).paths:
        original = places.get(os.path.splitext(path)[0])
        if original is not None:
            yield _read(clean, original), _read(restored, path)


def _table_pairs(
    restored: Path, clean: str | os.PathLike, config: str | None, poison: Poison
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Clean and restored pictures, row by row of each split."""
    with _splits(restored, None) as ours, _splits(clean, config) as theirs:
        for name, data in ours.items():
            other = theirs.get(name)
            if other is None or len(other) != len(data):
                raise ValueError(f"{clean} has no split {name} of {len(data)} rows: it is not the clean data set")
            columns = [columns_of(some, poison)[0] for some in (other, data)]
            for rows in zip(other.with_format(None), data.with_format(None), strict=True):
                before, after = (open_image(row[key]).colour for row, key in zip(rows, columns, strict=True))
                yield before, after


def _measured(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> str:
    values = np.array([psnr(*pair) if pair[0].shape == pair[1].shape else np.nan for pair in pairs])
    values = values[~np.isnan(values)]
    if not len(values):
        raise ValueError("none of the pictures has a clean one of the same place and size to compare it with")
    exact = np.isinf(values)
    near = f", PSNR of the others {values[~exact].mean():.1f} dB (mean)" if not exact.all() else ""
    return f"compared with {len(values):,} clean pictures: {exact.sum():,} are equal{near}"
