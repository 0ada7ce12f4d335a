"""Protect data sets that are tables: Parquet, sets saved by ``save_to_disk``, and those of the Hub.

They are written shard by shard: each is a range of rows that one worker protects, in memory, and writes whole. A
resumed run skips the shards that are there. Parquet comes out as Parquet, a saved set as a saved set, a set of the Hub
as Parquet; pictures are PNG bytes in the table, without any path.
"""

import json
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from tqdm import tqdm  # type: ignore[import-untyped]

from ..poisons.base import NotFittedError, Poison
from ..samples import batch_tokens
from ..sources import find_columns, image_columns, is_train_split, refuse_second_image
from .fraction import check_fraction
from .journal import open_journal
from .ledger import SCHEMA, check_ledger_place, write_ledger
from .listing import is_hidden, is_picture
from .report import Summary
from .shards import ShardWorker, add_shard, ledger_piece, make_shards, write_saved_info
from .workers import run_tasks

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def protect_tables(
    source: str | os.PathLike,
    out: str | os.PathLike,
    poison: Poison,
    *,
    fraction: float = 1.0,
    keep_splits: Collection[str] = (),
    keep_columns: Collection[str] = (),
    config: str | None = None,
    workers: int = 1,
    ledger: str | os.PathLike | None = None,
    progress: bool = False,
) -> Summary:
    """Protect Parquet, a saved data set or one of the Hub, or go on where an earlier call was interrupted.

    Args:
        source: a Parquet file, a folder of them, a folder made by ``save_to_disk``, or a Hub name.
        out: an empty or new folder; or one that an interrupted call began.
        poison: a protection method; fitted on the training split if it needs to be and is not.
        keep_columns: other image columns that may stay as they are.
        config: configuration of a Hub data set.
        fraction, keep_splits, workers, ledger, progress: as for ``protect_folder``.

    Raises:
        SampleError: pictures or labels that cannot be protected; rows named, counted in their split.
        ValueError, OSError: as ``protect_folder``.
    """
    source, out = os.fspath(source), Path(out)
    check_fraction(fraction, poison)
    check_ledger_place(ledger, out)
    with open_journal(out) as journal, _loaded(source, config, journal.scratch) as (splits, saved):
        train, left_out = _choose(splits, keep_splits)
        image_key, label_key = _check_columns(splits, train, poison, keep_columns)
        if not poison.fitted:
            if len(train) > 1:
                raise NotFittedError(f"fit the method on one data set first: there are several training splits {train}")
            poison.fit(splits[train[0]])
        shards = [shard for name, data in splits.items() for shard in make_shards(name, data, image_key, saved)]
        settings = {
            "source": str(Path(source).resolve()) if Path(source).exists() else source,
            "configuration": config,
            **poison.public_config(),
            "fraction": fraction,
            "kept splits": sorted(keep_splits),
            "kept columns": sorted(keep_columns),
            "classes": getattr(splits[train[0]].features[label_key], "names", None),
            "shards": [shard.target for shard in shards],
        }
        journal.begin(settings, _stamps(source, splits))
        records = journal.directory / "ledger"
        records.mkdir(exist_ok=True, mode=0o700)
        paths = [shard.target for shard in shards]
        done = journal.finished(paths, lambda path: path)
        todo = [shard for shard, ready in zip(shards, done, strict=True) if not ready]
        rows = sum(shard.stop - shard.start for shard in shards)
        left = sum(shard.stop - shard.start for shard in todo)
        worker = ShardWorker(
            splits, out.resolve(), records, poison, fraction, tuple(keep_columns), tuple(train), image_key
        )
        with tqdm(total=rows, initial=rows - left, unit="rows", disable=None if progress else True) as bar:
            for finished in run_tasks(worker, todo, min(workers, max(1, len(todo)))):
                journal.append(finished)
                bar.update(sum(record["rows"] for record in finished))
        summary = Summary(kind="rows")
        tables = [SCHEMA.empty_table()]
        for record in journal.records(paths):
            add_shard(summary, record)
            if record["status"] == "protected":
                tables.append(pq.read_table(records / ledger_piece(record["path"])))
        summary.ledger = str(
            write_ledger(pa.concat_tables(tables), ledger, None if poison.key is None else poison.key.fingerprint)
        )
        if saved:
            write_saved_info(out, splits, list(journal.records(paths)), saved)
        if left_out:
            summary.notes.append(f"splits left out, not being training data: {', '.join(left_out)} (--keep-split)")
        return summary


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
    if (path / "dataset_dict.json").exists():
        return "dict"
    return "one" if (path / "dataset_info.json").exists() and (path / "state.json").exists() else ""


@contextmanager
def _loaded(source: str, config: str | None, cache: Path) -> Iterator[tuple[dict[str, Dataset], str]]:
    """The splits of a source, and ``dict`` or ``one`` if it is a saved set.

    What the reader unpacks from local Parquet goes to ``cache``, a private folder that is removed at the end.
    """
    path = Path(source)
    saved = _saved_kind(path) if path.is_dir() else ""
    try:
        if saved:
            data: Any = load_from_disk(source)
        elif path.is_file():
            split = re.sub(r"-\d+-of-\d+$", "", path.stem)
            split = split if re.fullmatch(r"\w+", split) and split != path.stem else "train"
            data = load_dataset("parquet", data_files={split: str(path)}, cache_dir=str(cache))
        elif path.is_dir():
            data = load_dataset("parquet", data_dir=str(path.resolve()), cache_dir=str(cache))
        else:
            data = load_dataset(source, config)
        if isinstance(data, DatasetDict):
            yield {str(name): split for name, split in data.items()}, saved
        else:
            yield {"train": data}, saved
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def _stamps(source: str, splits: dict[str, Dataset]) -> Iterator[str]:
    """Lines that change when the source does: path, size and time of every file; of a Hub set its fingerprints."""
    path = Path(source)
    if not path.exists():
        stamps = [(name, len(data), data._fingerprint) for name, data in splits.items()]
    else:
        files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
        stamps = [
            (str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns)
            for file in files
            if not file.name.startswith("cache-")  # Dataset.map writes such files beside a saved set
        ]
    for stamp in sorted(stamps):
        yield json.dumps(stamp)


def _choose(splits: dict[str, Dataset], keep_splits: Collection[str]) -> tuple[list[str], list[str]]:
    """Training splits and those left out; the latter are taken from ``splits``. One split alone is what is meant."""
    unknown = sorted(set(keep_splits) - set(splits))
    if unknown:
        raise ValueError(f"keep-split {unknown}: the splits are {list(splits)}")
    train = list(splits) if len(splits) == 1 else [name for name in splits if is_train_split(name)]
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
    image_key, label_key = find_columns(first.column_names, poison.image_key, poison.label_key)
    for name, data in splits.items():
        refuse_second_image(
            image_key, [column for column in image_columns(data.features) if column not in keep_columns]
        )
        if name in train:
            labels = data.with_format("arrow").select_columns([label_key])[:][label_key].to_pylist()
            batch_tokens(labels, len(data), poison.classes)
    return image_key, label_key
