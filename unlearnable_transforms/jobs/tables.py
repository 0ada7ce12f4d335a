"""Protect data sets that are tables: Parquet, sets saved by ``save_to_disk``, and those of the Hub.

They are written shard by shard: each is a range of rows that one worker protects, in memory, and writes whole. A
resumed run skips the shards that are there. Parquet comes out as Parquet, a saved set as a saved set, a set of the Hub
as Parquet; pictures are PNG bytes in the table, without any path.
"""

import glob
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError
from tqdm import tqdm  # type: ignore[import-untyped]

from ..data.columns import image_columns, is_train_split, refuse_second_image
from ..data.listing import SPLIT_NAMES, is_hidden, is_picture, named
from ..poisons.base import NotFittedError, Poison
from ..sample import SampleError
from ..secret.labels import check_labels, check_options, hide_rows, label_columns, remember, to_fit, with_secret
from .encode import SourceChanged
from .engines import Engine, check_engine, run_on
from .folder import SECRET_CLASSES, check_places
from .fraction import check_fraction
from .journal import REMEDY, open_journal
from .ledger import SCHEMA, check_ledger_place, write_ledger
from .shards import ShardWorker, add_shard, ledger_piece, make_shards, no_bars, write_saved_info
from .summary import Summary, hidden_note

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def protect_tables(
    source: str | os.PathLike,
    out: str | os.PathLike,
    poison: Poison,
    *,
    fraction: float = 1.0,
    labels: str | None = None,
    clusters: int | None = None,
    backbone: str | Callable | None = None,
    keep_splits: Collection[str] = (),
    keep_columns: Collection[str] = (),
    config: str | None = None,
    workers: int = 1,
    engine: Engine = "local",
    ledger: str | os.PathLike | None = None,
    progress: bool = False,
) -> Summary:
    """Protect Parquet, a saved data set or one of the Hub, or go on where an earlier call was interrupted.

    Args:
        source: a Parquet file, a folder of them, a folder made by ``save_to_disk``, or a Hub name.
        out: an empty or new folder; or one that an interrupted call began.
        poison: a protection method; fitted on the training split if it needs to be and is not.
        labels, clusters, backbone: ``"auto"``: secret classes instead of the label column, see
            :func:`~unlearnable_transforms.secret.labels.auto_labels`.
        keep_columns: other image columns that may stay as they are.
        config: configuration of a Hub data set.
        fraction, keep_splits, workers, engine, ledger, progress: as for ``protect_folder``.

    Raises:
        SampleError: pictures or labels that cannot be protected; rows named, counted in their split.
        ValueError, OSError: as ``protect_folder``.
    """
    source, out = os.fspath(source), Path(out)
    check_fraction(fraction, poison)
    check_engine(engine)
    check_places(Path(source), out)
    check_ledger_place(ledger, out)
    check_options(labels, clusters, backbone, poison.key)
    saved = _saved_kind(Path(source))
    stamps = _stamps(Path(source), saved)
    with open_journal(out) as journal, _loaded(source, config, saved, journal.scratch) as splits:
        train, left_out = _choose(splits, keep_splits, alone=Path(source).is_file() or saved == "one")
        hidden, followed, kept = None, splits, journal.directory / SECRET_CLASSES
        if labels is not None:
            training = {name: splits[name] for name in train}
            hidden = hide_rows(
                training,
                labels,
                poison,
                clusters=clusters,
                backbone=backbone,
                processes=workers,
                remembered=kept if out.exists() and any(out.iterdir()) else None,
            )
            followed = {**splits, **with_secret(training, hidden.memory["labels"])}
        image_key, label_key = _check_columns(followed, train, poison, keep_columns)
        if not poison.fitted:
            if len(train) > 1:
                raise NotFittedError(f"fit the method on one data set first: there are several training splits {train}")
            poison.fit(to_fit(followed[train[0]], poison))
        shards = [shard for name, data in splits.items() for shard in make_shards(name, data, image_key, saved)]
        settings = {
            "source": str(Path(source).resolve()) if stamps else source,
            "configuration": config,
            **poison.public_config(fitted=True),
            "fraction": fraction,
            "kept splits": sorted(keep_splits),
            "kept columns": sorted(keep_columns),
            "classes": getattr(followed[train[0]].features[label_key], "names", None),
            "shards": [shard.target for shard in shards],
            **({} if hidden is None else hidden.settings),
        }
        of_hub = sorted((name, len(data), data._fingerprint) for name, data in splits.items())
        journal.begin(settings, map(json.dumps, stamps or of_hub))
        if hidden is not None:
            remember(hidden.memory, kept)
        records = journal.directory / "ledger"
        records.mkdir(exist_ok=True, mode=0o700)
        paths = [shard.target for shard in shards]
        done = journal.finished(paths, lambda path: path)
        todo = [shard for shard, ready in zip(shards, done, strict=True) if not ready]
        rows = sum(shard.stop - shard.start for shard in shards)
        left = sum(shard.stop - shard.start for shard in todo)
        worker = ShardWorker(
            followed, out.resolve(), records, poison, fraction, tuple(keep_columns), tuple(train), image_key
        )
        with tqdm(total=rows, initial=rows - left, unit="rows", disable=None if progress else True) as bar:
            for finished in run_on(engine, worker, todo, min(workers, max(1, len(todo)))):
                journal.append(finished)
                bar.update(sum(record["rows"] for record in finished))
        if _stamps(Path(source), saved) != stamps:
            raise SourceChanged(f"{source} changed while it was to be protected: {REMEDY}")
        finished = list(journal.records(paths))
        _refuse_unreadable(finished)
        others = [] if saved else [str(name) for name in _files(Path(source)) if not _is_parquet(name)]
        summary = Summary(kind="rows", others=others)
        tables = [SCHEMA.empty_table()]
        for record in finished:
            add_shard(summary, record)
            if record["status"] == "protected":
                tables.append(pq.read_table(records / ledger_piece(record["path"])))
        summary.ledger = str(write_ledger(pa.concat_tables(tables), ledger, poison))
        if saved:
            write_saved_info(out, splits, finished, saved)
        if hidden is not None:
            summary.notes.append(hidden_note(hidden.classes))
        if left_out:
            summary.notes.append(f"splits left out, not being training data: {', '.join(left_out)} (--keep-split)")
        return summary


def _refuse_unreadable(records: list[dict[str, Any]]) -> None:
    """Refuse a set with rows that cannot be protected; all of them are named at once, with the first one's reason.

    Raises:
        SampleError: there are some.
    """
    reasons: list[str] = []
    rows: dict[str, list[int]] = {}
    for record in records:
        for row, why in record.get("unreadable", ()):
            reasons.append(why)
            rows.setdefault(record["split"], []).append(row)
    if rows:
        told = "; ".join(f"{split} row {', '.join(map(str, places))}" for split, places in rows.items())
        raise SampleError(f"{told}: {reasons[0]}. Then start with an empty output folder")


# ---- what the source is ----------------------------------------------------------------------------------------------


def is_picture_folder(source: str | os.PathLike) -> bool:
    """Whether a source is to be read file by file: a folder with a picture in it, and not a saved data set.

    Raises:
        ValueError: a folder without pictures and without Parquet, or a file that is not Parquet.
        FileNotFoundError: no such path, and no name that the Hub could know.
    """
    path = Path(source)
    if not path.exists():
        if os.path.isabs(source) or not _HUB_NAME.fullmatch(os.fspath(source)):
            raise FileNotFoundError(f"{source} does not exist")
        return False
    if path.is_file():
        if path.suffix != ".parquet":
            raise ValueError(f"{source} is a file, but not Parquet: name the folder that it lies in")
        return False
    if _saved_kind(path):
        return False
    parquet = False
    for _, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not is_hidden(name)]
        if any(is_picture(name) and not is_hidden(name) for name in names):
            return True
        parquet = parquet or any(name.endswith(".parquet") for name in names)
    if not parquet:
        raise ValueError(f"there are no pictures and no Parquet files in {source}")
    return False


def _saved_kind(path: Path) -> str:
    """``dict`` or ``one`` for a folder made by ``save_to_disk``, else empty."""
    if (path / "dataset_dict.json").exists():
        return "dict"
    return "one" if (path / "dataset_info.json").exists() and (path / "state.json").exists() else ""


@contextmanager
def _loaded(source: str, config: str | None, saved: str, cache: Path) -> Iterator[dict[str, Dataset]]:
    """The splits of a source.

    What the reader unpacks from local Parquet goes to ``cache``, a private folder that is removed at the end.
    """
    try:
        with no_bars(unless=sys.stderr.isatty()):
            data = _load(source, config, saved, cache)
        yield {str(name): split for name, split in data.items()} if isinstance(data, DatasetDict) else {"train": data}
    finally:
        shutil.rmtree(cache, ignore_errors=True)


@contextmanager
def load_training_splits(source: str, config: str | None, scratch: Path) -> Iterator[dict[str, Dataset]]:
    """The splits of a source that are training data, by name.

    Args:
        source: as for :func:`protect_tables`.
        scratch: a private folder for what is unpacked; it is removed.

    Raises:
        ValueError: none is.
    """
    saved = _saved_kind(Path(source))
    with _loaded(source, config, saved, scratch) as splits:
        train, _ = _choose(splits, (), alone=Path(source).is_file() or saved == "one")
        yield {name: splits[name] for name in train}


def _load(source: str, config: str | None, saved: str, cache: Path) -> Any:
    path = Path(source)
    try:
        if saved:
            return load_from_disk(source)
        if path.exists():
            return load_dataset("parquet", data_files=_parquet_files(path), cache_dir=str(cache))
        return load_dataset(source, config)
    except DatasetGenerationError as error:
        cause = error.__cause__ or error
        if isinstance(cause, OSError):  # a full disk, perhaps
            raise cause from None
        raise ValueError(f"{source} cannot be read as one data set: {cause}") from None
    except (OSError, ValueError) as error:
        if path.exists():
            raise
        raise ValueError(f"{source} is no file or folder here; as a name of the Hub: {error}") from None


def _parquet_files(path: Path) -> dict[str, list[str]]:
    """Split -> Parquet files, told by a word in the file's name or in that of a folder around it; else all ``train``.

    Raises:
        ValueError: a file that is not Parquet, or whose split is not clear.
    """
    splits: dict[str, list[str]] = {}
    for name in filter(_is_parquet, _files(path)):
        file = path.parent / name
        try:
            pq.read_schema(file)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{file} cannot be read: {error}") from None
        splits.setdefault(_split_of(name, path), []).append(str(file.resolve()))
    if "" in splits and len(splits) > 1:
        raise ValueError(f"{named(splits[''])}: training data or not? Name files or folders train..., test..., or none")
    return {name or "train": [glob.escape(file) for file in files] for name, files in splits.items()}


def _split_of(name: Path, source: Path) -> str:
    for part in (name.stem, *name.parts[-2:0:-1]):  # the file, then the folders around it up to the source
        words = SPLIT_NAMES & set(re.split(r"[\W\d_]+", part.lower()))
        if len(words) > 1:
            raise ValueError(f"{source.parent / name}: is it {' or '.join(sorted(words))}? Name one of them")
        if words:
            return min(words)
    return ""


def _files(source: Path) -> list[Path]:
    """All files of a source, sorted, each with the source's own name in front; none for a name of the Hub."""
    files = source.rglob("*") if source.is_dir() else [source]
    return sorted(file.relative_to(source.parent) for file in files if file.is_file())


def _is_parquet(name: Path) -> bool:
    return name.suffix == ".parquet" and not any(map(is_hidden, name.parts[1:]))


def _stamps(source: Path, saved: str) -> list[tuple[str, int, int]]:
    """Name, size and time of every file that is read, sorted; none for a set of the Hub."""
    stamps = []
    for name in _files(source):
        if _is_parquet(name) or (saved and not name.name.startswith("cache-")):  # Dataset.map puts such files there
            status = (source.parent / name).stat()
            stamps.append((str(name), status.st_size, status.st_mtime_ns))
    return sorted(stamps)


def _choose(splits: dict[str, Dataset], keep_splits: Collection[str], alone: bool) -> tuple[list[str], list[str]]:
    """Training splits and those left out; the latter are taken from ``splits``.

    Args:
        alone: the source is one data set, so it is what is meant, whatever its name.
    """
    unknown = sorted(set(keep_splits) - set(splits))
    if unknown:
        raise ValueError(f"keep-split {unknown}: the splits are {list(splits)}")
    train = list(splits) if alone else [name for name in splits if name not in keep_splits and is_train_split(name)]
    if not train:
        raise ValueError(f"none of the splits {list(splits)} is training data, so nothing would be protected")
    left_out = [name for name in splits if name not in train and name not in keep_splits]
    for name in left_out:
        del splits[name]
    return train, left_out


def _check_columns(
    splits: dict[str, Dataset], train: list[str], poison: Poison, keep_columns: Collection[str]
) -> tuple[str, str]:
    """The image and the label column; all labels are looked at before any work is done."""
    first = splits[train[0]]
    image_key, label_key = label_columns(first.column_names, poison)
    for name, data in splits.items():
        refuse_second_image(
            image_key, [column for column in image_columns(data.features) if column not in keep_columns]
        )
        if name in train:
            check_labels(data, label_key, poison)
    return image_key, label_key
