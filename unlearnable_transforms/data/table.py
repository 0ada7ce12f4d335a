"""Tables with images in a column: Parquet, sets saved by ``save_to_disk``, sets of the Hub, and ``Dataset`` objects."""

import glob
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetDict, DatasetInfo, Features, load_dataset, load_from_disk
from datasets import Image as ImageFeature
from datasets.exceptions import DatasetGenerationError
from datasets.table import embed_table_storage

from ..errors import UsageError
from ..files import RESTORE, DamagedError, is_inner_path, open_regular, private_directory, read_json, whole
from .base import TRAIN, LabelledSet, Rows, SourceChanged, Unit
from .beside import dataset_images
from .codec import Codec, checksum
from .columns import LABEL_KEYS, find_columns, find_image_column, refuse_second_image
from .image import Opened, open_bytes, open_image, read_file, readable
from .splits import split_words
from .walk import File, named, one_file, walk

SHARD_BYTES = 16_000_000  # of stored source images: about 150 MB once photographs are PNG
MAX_SHARDS = 1000  # of a split: beyond, shards get larger
ROW_BYTES = 100_000  # guessed where images are not in the table but in files
ROW_GROUP = 100  # rows of a Parquet row group, so that a viewer can read a few images


class TableRows(Rows):
    """The rows of one ``datasets.Dataset``.

    Args:
        name: of the split.
        data: the rows.
        image_key: the image column.
        label_key: the label column; None where there is none.
    """

    def __init__(self, name: str, data: Dataset, image_key: str, label_key: str | None) -> None:
        self.name, self.data, self.image_key, self.label_key = name, data, image_key, label_key
        feature = data.features[image_key]
        self._labels: list[Any] | None = None
        self._mode = feature.mode if isinstance(feature, ImageFeature) else None
        plain = data.with_format(None).select_columns([image_key])
        if isinstance(feature, ImageFeature):
            plain = plain.cast_column(image_key, ImageFeature(decode=False))
        self._plain = plain

    def __len__(self) -> int:
        return len(self.data)

    @property
    def labels(self) -> Sequence[Any] | None:  # type: ignore[override]
        """One value a row, as stored."""
        if self._labels is None and self.label_key is not None:
            column = self.data.with_format("arrow").select_columns([self.label_key])[:][self.label_key]
            self._labels = column.to_pylist()
        return self._labels

    def stored(self, rows: range) -> list[Any]:
        return self._plain[rows.start : rows.stop][self.image_key]

    def decode(self, stored: Any) -> Opened:
        if stored is None:
            raise UsageError("the picture is missing")
        if not isinstance(stored, Mapping):
            return open_image(stored)
        data, path = stored.get("bytes"), stored.get("path")
        if data is None and "://" in (path or ""):  # remote, or inside an archive
            feature = self.data.features[self.image_key]
            with readable():
                data = feature.embed_storage(pa.array([stored], feature.pa_type))[0]["bytes"].as_py()
        if data is not None:
            return open_bytes(data, self._mode, self.convert)
        if path is None:
            raise UsageError("the picture is missing: it has neither bytes nor path")
        return open_bytes(read_file(path), self._mode, self.convert)


@dataclass
class TableSet(LabelledSet):
    """Tables with an image column.

    Attributes:
        image_key, label_key: the columns; there may be no label.
        features: of the columns.
        saved: ``dict`` or ``one`` for the files of a set saved by ``save_to_disk``, empty for Parquet.
        path: of the source; None for objects and sets of the Hub.
        stamps: name, size and time of each file that was read.
    """

    image_key: str = ""
    label_key: str | None = None
    saved: str = ""
    path: Path | None = None
    stamps: list[list[Any]] = field(default_factory=list)
    scratch: Any = field(default=None, repr=False)

    def tokens(self, split: str, poison: Any, rows: range | None = None) -> list[str]:
        if self.secret is None and self.rows_of(split).label_key is None:
            find_columns(self.rows_of(split).data.column_names, self.image_key)  # says which columns there are
        return super().tokens(split, poison, rows)

    def rows_of(self, split: str) -> TableRows:
        """The rows of a split."""
        rows = self.splits[split]
        assert isinstance(rows, TableRows)
        return rows

    def units(self, codec: Codec) -> list[Unit]:
        units = []
        for name in self.written:
            data = self.rows_of(name).data
            size = stored_bytes(data, self.image_key)
            count = min(MAX_SHARDS, -(-size // SHARD_BYTES), len(data)) or 1
            folder = f"{name}/" if self.saved == "dict" else ""
            stem, suffix = (f"{folder}data", "arrow") if self.saved else (name, "parquet")
            cuts = [len(data) * i // count for i in range(count + 1)]
            stamp = self.stamps or [data._fingerprint]
            for i in range(count):
                target = f"{stem}-{i:05d}-of-{count:05d}.{suffix}"
                units.append(Unit(target, name, cuts[i], cuts[i + 1], size // count, stamp))
        return units

    def write(self, unit: Unit, images: list[bytes], path: Path, codec: Codec) -> None:
        rows = self.rows_of(unit.split).data.select(unit.rows).with_format("arrow")[:]
        features = self.rows_of(unit.split).data.features
        feature = features[self.image_key]
        stored = pa.StructArray.from_arrays(
            [pa.array(images, pa.binary()), pa.nulls(len(images), pa.string())], ["bytes", "path"]
        )
        column = feature.cast_storage(stored) if isinstance(feature, ImageFeature) else stored
        place = rows.schema.get_field_index(self.image_key)
        write_table(rows.set_column(place, self.image_key, column), features, path, Path(unit.target).suffix)

    def accompanying(self, unit: Unit) -> Iterator[bytes]:
        data = self.rows_of(unit.split).data
        others = data.remove_columns(self.image_key)
        yield repr(data.features).encode()
        if others.column_names:
            table = others.select(unit.rows).with_format("arrow")[:].replace_schema_metadata().combine_chunks()
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table)
            yield sink.getvalue().to_pybytes()

    def finish(self, out: Path, written: Mapping[Unit, str]) -> list[str]:
        if self.saved:
            write_saved_info(out, {name: self.rows_of(name).data for name in self.written}, written, self.saved)
        return []

    def check_unchanged(self) -> None:
        if self.path is not None and self.stamps and _stamps(self.path, self.saved) != self.stamps:
            raise SourceChanged(
                f"{self.source} changed while it was read: put back what it was and run the same command again, or "
                "start with an empty output folder"
            )

    def check_columns(self, image_key: str | None, keep: Sequence[str]) -> None:
        for name in self.written:
            others = dataset_images(self.rows_of(name).data, [self.image_key, *keep])
            refuse_second_image(self.image_key, others)


# ---- opening ---------------------------------------------------------------------------------------------------------


def is_saved(path: Path) -> str:
    """``dict`` or ``one`` for a folder made by ``save_to_disk``, else empty."""
    if (path / "dataset_dict.json").exists():
        return "dict"
    return "one" if (path / "dataset_info.json").exists() and (path / "state.json").exists() else ""


def open_rows(
    data: Dataset | DatasetDict,
    source: str,
    *,
    image_key: str | None = None,
    label_key: str | None = None,
    keep_splits: Collection[str] = (),
    alone: bool = False,
) -> TableSet:
    """A ``Dataset`` or ``DatasetDict`` as it is in memory.

    Args:
        data: the rows; a ``DatasetDict`` names its splits.
        source: what to call it in messages.
        image_key, label_key: columns; default: the common names. A label column may be missing.
        keep_splits: splits that are not training data and are kept.
        alone: the source is one data set, so it is what is meant, whatever its name.

    Raises:
        KeyError: no image column, or an ambiguous one.
    """
    splits = {str(name): split for name, split in data.items()} if isinstance(data, DatasetDict) else {TRAIN: data}
    first = next(iter(splits.values()))
    image_key, label = columns_of(first.column_names, image_key, label_key)
    result = TableSet(source, {}, image_key=image_key, label_key=label, keep_splits=list(keep_splits))
    result.named_splits = isinstance(data, DatasetDict) and not alone
    feature = first.features[label] if label is not None else None
    result.names = list(feature.names) if isinstance(feature, ClassLabel) else None
    for name, split in splits.items():
        if image_key not in split.column_names:
            raise UsageError(
                f"the split {name!r} of {source} has no column {image_key!r}, only {split.column_names}: give all of "
                "them the same columns"
            )
        labelled = label in split.column_names  # a test split may have no labels
        if labelled:
            _check_classes(result.names, split.features[label], f"the split {name!r} of {source}")
        result.splits[name] = TableRows(name, as_images(split, image_key), image_key, label if labelled else None)
    result.labels_from = f"column {label!r}"
    return result


def _check_classes(names: Sequence[str] | None, feature: Any, where: str) -> None:
    """Refuse a label column in which a number means another class than in the first split or file."""
    theirs = feature.names if isinstance(feature, ClassLabel) else None
    for number, (one, other) in enumerate(zip(names or (), theirs or (), strict=False)):
        if one != other:
            raise UsageError(
                f"{where}: class {number} is {other!r}, in the first split or file {one!r}, so that one class would be "
                "protected as two: give all of them one class list, e.g. with align_labels_with_mapping"
            )


def columns_of(names: Sequence[str], image_key: str | None, label_key: str | None) -> tuple[str, str | None]:
    """The image column and the label column; the latter may be missing, but not ambiguous."""
    if label_key is None and not any(name in LABEL_KEYS for name in names):
        return find_image_column(names, image_key), None
    return find_columns(names, image_key, label_key)


def as_images(data: Dataset, image_key: str) -> Dataset:
    """The rows with their image column as ``Image``, where it holds encoded images as bytes or as bytes and path."""
    feature = data.features[image_key]
    bytes_alone = getattr(feature, "dtype", "") in ("binary", "large_binary")
    struct = isinstance(feature, Mapping) and set(feature) == {"bytes", "path"}
    return data.cast_column(image_key, ImageFeature()) if bytes_alone or struct else data


def open_tables(
    path: Path,
    *,
    image_key: str | None = None,
    label_key: str | None = None,
    keep_splits: Collection[str] = (),
) -> TableSet:
    """Parquet, one file or a folder of them, or a set saved by ``save_to_disk``.

    What the reader of Parquet unpacks lies in a private folder, which goes with the returned set.
    """
    saved = "" if path.is_file() else is_saved(path)
    stamps = _stamps(path, saved)
    scratch = None if saved else Scratch()
    with no_bars(unless=sys.stderr.isatty()):
        data = load_saved(path) if scratch is None else _load_parquet(path, scratch)
    alone = path.is_file() or saved == "one"
    result = open_rows(data, str(path), image_key=image_key, label_key=label_key, keep_splits=keep_splits, alone=alone)
    result.saved, result.path, result.stamps, result.scratch = saved, path, stamps, scratch
    result.named_splits = not alone and _names_splits(path, saved)
    for file, _, _ in [] if saved else stamps:  # `datasets` takes the class list of the first file for all of them
        features = Features.from_arrow_schema(pq.read_schema(path / file if path.is_dir() else path))
        if result.label_key in features:
            _check_classes(result.names, features[result.label_key], file)
    result.check_kept()
    known = {name for name, _, _ in stamps}
    files, hidden = walk(path) if path.is_dir() and not saved else ([], [])
    result.others = sorted([*(file.path for file in files if file.path not in known), *hidden])
    return result


def open_hub(
    name: str,
    config: str | None,
    *,
    image_key: str | None = None,
    label_key: str | None = None,
    keep_splits: Collection[str] = (),
) -> TableSet:
    """A data set of the Hub."""
    with no_bars(unless=sys.stderr.isatty()):
        try:
            data = load_dataset(name, config)
        except (OSError, ValueError) as error:
            raise UsageError(f"{name} is no file or folder here; as a name of the Hub: {error}") from None
    result = open_rows(data, name, image_key=image_key, label_key=label_key, keep_splits=keep_splits)
    result.check_kept()
    return result


def _load_parquet(path: Path, scratch: "Scratch") -> DatasetDict:
    with _as_one_set(str(path)):
        return load_dataset("parquet", data_files=_parquet_files(path), cache_dir=str(scratch.folder))


def load_saved(path: Path) -> Dataset | DatasetDict:
    """A set saved by ``save_to_disk``, whoever made the folder: of regular files that lie in it.

    Raises:
        FileNotFoundError, IrregularFileError: a file is missing, or a pipe or device.
        ValueError: it is damaged, or names files that lie elsewhere.
    """
    folders = [path]
    if is_saved(path) == "dict":
        about = path / "dataset_dict.json"
        names = read_json(about, {"splits": [str]}, RESTORE)["splits"]
        if not all(is_inner_path(name, parts=1) for name in names):
            raise DamagedError(about, RESTORE)
        folders = [path / name for name in names]
    for folder in folders:
        read_json(folder / "dataset_info.json", dict, RESTORE)
        state = folder / "state.json"
        for file in read_json(state, {"_data_files": [{"filename": str}]}, RESTORE)["_data_files"]:
            if not is_inner_path(file["filename"]):
                raise DamagedError(state, RESTORE)
            open_regular(folder / file["filename"]).close()
    with _as_one_set(str(path)):
        return load_from_disk(str(path))


class Scratch:
    """A private folder that is removed with this object, or by the next process after one that was killed."""

    def __init__(self) -> None:
        root = private_directory("scratch")
        for folder in root.iterdir():
            owner = folder.name.split("-")[0]
            if owner.isdecimal() and not Path("/proc", owner).exists() and Path("/proc/self").exists():
                shutil.rmtree(folder, ignore_errors=True)
        self._folder = tempfile.TemporaryDirectory(prefix=f"{os.getpid()}-", dir=root, ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)

    def __reduce__(self) -> tuple:  # other processes read what is there, and leave it
        return (str, (str(self.folder),))


@contextmanager
def _as_one_set(source: str) -> Iterator[None]:
    try:
        yield
    except IndexError:  # load_from_disk's
        raise UsageError(f"{source} cannot be read: it, or one of its splits, has no rows") from None
    except DatasetGenerationError as error:
        cause = error.__cause__ or error
        if isinstance(cause, OSError):  # a full disk, perhaps
            raise cause from None
        raise UsageError(f"{source} cannot be read as one data set: {cause}") from None
    except UsageError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # of files that say something else
        raise UsageError(f"{source} cannot be read as one data set: {error}") from None


def _parquet(path: Path) -> list[File]:
    """The Parquet files of a source, by their paths below its parent folder."""
    if path.is_file():
        return [one_file(path)]
    files, _ = walk(path)
    return [file._replace(path=f"{path.name}/{file.path}") for file in files if file.suffix == ".parquet"]


def _parquet_files(path: Path) -> dict[str, list[str]]:
    """Split -> Parquet files, known by a word in the file's name or in that of a folder around it; else all ``train``.

    Raises:
        ValueError: a file that is not Parquet, or whose split is not clear.
    """
    splits: dict[str, list[str]] = {}
    for entry in _parquet(path):
        file = path.parent / entry.path
        if entry.problem:
            raise UsageError(f"{file}: {entry.problem}")
        try:
            rows = pq.read_metadata(file).num_rows
        except pa.ArrowInvalid as error:
            raise UsageError(f"{file} cannot be read: {error}") from None
        if not rows:  # `datasets` cannot read such a file
            continue
        splits.setdefault(split_of(Path(entry.path), path), []).append(str(file.resolve()))
    if not splits:
        raise UsageError(f"there are no rows in {path}")
    if "" in splits and len(splits) > 1:
        raise UsageError(f"{named(splits[''])}: training data or not? Name files or folders train..., test..., or none")
    return {name or TRAIN: [glob.escape(file) for file in files] for name, files in splits.items()}


def _names_splits(path: Path, saved: str) -> bool:
    return saved == "dict" or any(split_of(Path(file.path), path) for file in _parquet(path))


def split_of(name: Path, source: Path) -> str:
    """The split of a file below the parent of ``source``, by its name, then by the folders around it up to the source;
    empty where none says it.

    Raises:
        ValueError: a name says two.
    """
    for part in (name.stem, *name.parts[-2:0:-1]):
        words = set(split_words(part))
        if len(words) > 1:
            raise UsageError(f"{source.parent / name}: is it {' or '.join(sorted(words))}? Name one of them")
        if words:
            return min(words)
    return ""


def _stamps(path: Path, saved: str) -> list[list[Any]]:
    """Name, size and time of every file that is read, sorted."""
    if path.is_file():
        files = [one_file(path)]
    else:
        files = [
            file
            for file in walk(path)[0]
            if file.suffix == ".parquet" or (saved and not file.name.startswith("cache-"))  # Dataset.map's
        ]
    return sorted([file.path, file.size, file.mtime] for file in files)


# ---- writing ---------------------------------------------------------------------------------------------------------


def stored_bytes(data: Dataset, image_key: str) -> int:
    """Bytes of the images in a column, about; guessed where they lie in files."""
    column = data.data.column(image_key)
    if not column.nbytes or not len(column):
        return 0
    share = len(data) / len(column)
    first = column.slice(0, 1).combine_chunks()
    inside = not pa.types.is_struct(first.type) or any(value is not None for value in first.field("bytes").to_pylist())
    return round(column.nbytes * share) if inside else ROW_BYTES * len(data)


def write_table(table: pa.Table, features: Features, path: Path, suffix: str) -> None:
    """Write rows with every image inside, as Parquet or as an Arrow stream."""
    table = embed_table_storage(table.cast(features.arrow_schema))
    if suffix == ".parquet":
        pq.write_table(table, path, row_group_size=ROW_GROUP)
        return
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=ROW_GROUP)


def write_saved_info(out: Path, splits: dict[str, Dataset], written: Mapping[Unit, str], saved: str) -> None:
    """What ``load_from_disk`` needs beside the shards."""
    for name, data in splits.items():
        folder = out / name if saved == "dict" else out
        old = data.info
        DatasetInfo(
            description=old.description,
            citation=old.citation,
            homepage=old.homepage,
            license=old.license,
            features=data.features,
        ).write_to_directory(str(folder), pretty_print=True)
        files = {Path(unit.target).name: digest for unit, digest in written.items() if unit.split == name}
        state: dict[str, Any] = {
            "_data_files": [{"filename": file} for file in files],
            "_fingerprint": checksum("".join(files.values()).encode())[:16],
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
