"""Ranges of rows of a data set, each protected by one worker and written whole to one file."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetInfo
from datasets.table import embed_table_storage

from ..data.codec import checksum, measure
from ..data.columns import stored_images
from ..data.image import open_chunks, open_image
from ..files import whole
from ..poisons.base import Poison
from ..protection.protect import protect_split, unchanged_rows
from ..sample import SampleError
from .ledger import SCHEMA
from .summary import Summary, measured_every

SHARD_BYTES = 16_000_000  # of stored source pictures: about 150 MB once photographs are PNG
MAX_SHARDS = 1000  # of a split: beyond, shards get larger
ROW_BYTES = 100_000  # guessed where pictures are not in the table but in files
ROW_GROUP = 100  # rows of a Parquet row group, so that a viewer can read a few pictures


@dataclass(frozen=True)
class Shard:
    """Rows ``start`` to ``stop`` of a split, and the file they go to, below the output folder."""

    split: str
    start: int
    stop: int
    target: str


@dataclass(frozen=True)
class ShardWorker:
    """Writes shards. What it returns is small: a record for the journal each.

    Attributes:
        splits: the data sets, each stored in a file that the worker maps into memory.
        records: folder of the ledger's pieces.
        train: names of the splits to protect; the others are encoded anew, without protection.
    """

    splits: dict[str, Dataset]
    out: Path
    records: Path
    poison: Poison
    fraction: float
    keep: tuple[str, ...]
    train: tuple[str, ...]
    image_key: str

    def __call__(self, shard: Shard) -> list[dict[str, Any]]:
        data = self.splits[shard.split].select(range(shard.start, shard.stop))
        record: dict[str, Any] = {"path": shard.target, "split": shard.split, "rows": len(data)}
        try:
            with no_bars():
                return [self._write(shard, data, record)]
        except SampleError as error:
            return [{**record, "status": "failed", "unreadable": self._unreadable(shard, data, error)}]

    def _unreadable(self, shard: Shard, data: Dataset, error: SampleError) -> list[tuple[int, str]]:
        """All rows that cannot be read, counted in the split, with the reason; else what the error says."""
        found = []
        undecoded = data.with_format(None).cast_column(self.image_key, datasets.Image(decode=False))
        for row, picture in enumerate(undecoded[self.image_key], shard.start):
            try:
                open_image(picture or {"bytes": None, "path": None})
            except (TypeError, ValueError) as reason:
                found.append((row, str(reason)))
        return found or [(shard.start + row, error.reason) for row in error.rows or [0]]

    def _write(self, shard: Shard, data: Dataset, record: dict[str, Any]) -> dict[str, Any]:
        record = {
            **record,
            "status": "kept",
            "size": _stored_bytes(data, self.image_key),
            "counts": {"kept": len(data)},
            "unchanged": [],
            "measured": [],
        }
        if shard.split in self.train:
            protected, ledger = self._protect(data, shard)
            statuses = ledger["status"].to_pylist()
            record |= {
                "status": "protected",
                "counts": {status: statuses.count(status) for status in sorted(set(statuses))},
                "unchanged": [f"{shard.split} row {shard.start + row}" for row in unchanged_rows(ledger)],
                "measured": self._measure(data, protected, shard, statuses),
            }
            with whole(self.records / ledger_piece(shard.target)) as temporary:
                pq.write_table(ledger.cast(SCHEMA), temporary)
        else:
            protected = self._encode_anew(data)
        target = self.out / shard.target
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole(target) as temporary:
            write_table(protected, temporary, target.suffix)
            encoded = temporary.read_bytes()
        return {**record, "bytes": len(encoded), "checksum": checksum(encoded)}

    def _protect(self, data: Dataset, shard: Shard) -> tuple[Dataset, pa.Table]:
        protected, ledger = protect_split(data, self.poison, self.fraction, self.keep, shard.split, keep_in_memory=True)
        places = pa.array(range(shard.start, shard.stop), pa.int64())
        return protected, ledger.set_column(ledger.schema.get_field_index("row"), "row", places)

    def _encode_anew(self, data: Dataset) -> Dataset:
        return data.with_format(None).map(
            _encode_rows,
            fn_kwargs={"image_key": self.image_key},
            batched=True,
            batch_size=64,
            features=data.features,
            keep_in_memory=True,
        )

    def _measure(self, clean: Dataset, protected: Dataset, shard: Shard, statuses: list[str]) -> list:
        every = measured_every(len(self.splits[shard.split]))
        before, after = (data.with_format(None).select_columns([self.image_key]) for data in (clean, protected))
        rows = [row for row in range(len(statuses)) if (shard.start + row) % every == 0]
        return [
            measure(*(open_image(data[row][self.image_key]).colour for data in (before, after)))
            for row in rows
            if statuses[row] == "protected"
        ]


def make_shards(name: str, data: Dataset, image_key: str, saved: str) -> list[Shard]:
    """The shards of a split, about ``SHARD_BYTES`` of pictures each; the same for the same data, always.

    Args:
        name: the split's.
        data: its rows.
        image_key: the image column.
        saved: ``dict`` or ``one`` for the files of a saved set, empty for Parquet.
    """
    size = _stored_bytes(data, image_key)
    count = min(MAX_SHARDS, -(-size // SHARD_BYTES), len(data)) or 1
    folder = f"{name}/" if saved == "dict" else ""
    stem, suffix = (f"{folder}data", "arrow") if saved else (name, "parquet")
    cuts = [len(data) * i // count for i in range(count + 1)]
    return [Shard(name, cuts[i], cuts[i + 1], f"{stem}-{i:05d}-of-{count:05d}.{suffix}") for i in range(count)]


def ledger_piece(target: str) -> str:
    """The name of the file that holds a shard's rows of the ledger."""
    return target.replace("/", "-") + ".ledger"


def add_shard(summary: Summary, record: dict[str, Any]) -> None:
    """Count the journal's record of one shard."""
    for status, count in record["counts"].items():
        summary.counts[status] = summary.counts.get(status, 0) + count
    summary.bytes_in += record["size"]
    summary.bytes_out += record["bytes"]
    summary.unchanged += record["unchanged"]
    summary.measured += record["measured"]


def write_saved_info(out: Path, splits: dict[str, Dataset], records: list[dict[str, Any]], saved: str) -> None:
    """What ``load_from_disk`` needs beside the shards."""
    for name, data in splits.items():
        mine = [record for record in records if record["split"] == name]
        folder = out / name if saved == "dict" else out
        old = data.info
        info = DatasetInfo(
            description=old.description,
            citation=old.citation,
            homepage=old.homepage,
            license=old.license,
            features=data.features,
        )
        info.write_to_directory(str(folder), pretty_print=True)
        state: dict[str, Any] = {
            "_data_files": [{"filename": Path(record["path"]).name} for record in mine],
            "_fingerprint": checksum("".join(record["checksum"] for record in mine).encode())[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None if data.split is None else str(data.split),
        }
        with whole(folder / "state.json") as temporary:
            temporary.write_text(json.dumps(state, indent=2, sort_keys=True))
    if saved == "dict":
        with whole(out / "dataset_dict.json") as temporary:
            temporary.write_text(json.dumps({"splits": list(splits)}))


def _stored_bytes(data: Dataset, image_key: str) -> int:
    """Bytes of the pictures in a column, about; guessed where they lie in files."""
    column = data.data.column(image_key)
    if not column.nbytes or not len(column):
        return 0
    share = len(data) / len(column)
    inside = any(value is not None for value in column.slice(0, 1).combine_chunks().field("bytes").to_pylist())
    return round(column.nbytes * share) if inside else ROW_BYTES * len(data)


def write_table(data: Dataset, path: Path, suffix: str) -> None:
    """Write rows with every picture inside, as Parquet or as an Arrow stream."""
    table = embed_table_storage(data.with_format("arrow")[:].cast(data.features.arrow_schema))
    if suffix == ".parquet":
        pq.write_table(table, path, row_group_size=ROW_GROUP)
        return
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=ROW_GROUP)


def _encode_rows(batch: Any, image_key: str) -> dict[str, list]:
    """Pictures encoded like the protected ones: the same pixels, no metadata but the colour profile, no path."""
    stored, reader = stored_images(batch, image_key)
    chunks = (opened for _, opened in open_chunks(stored, reader))
    return {image_key: [picture.close(picture.colour) for opened in chunks for picture in opened]}


@contextmanager
def no_bars(unless: bool = False) -> Iterator[None]:
    """Without the bars that `datasets` draws, also where there is no terminal."""
    shown = not datasets.are_progress_bars_disabled()
    if not unless:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
