"""The folder that goes up: what is to be published is put there first, and what is checked is what lies there."""

import json
import os
import posixpath
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    IterableDataset,
    IterableDatasetDict,
)
from datasets.table import embed_table_storage

from ..checks.leaks import Findings, Leak, LeakError, Place, file_leak
from ..data.annotations import rewrite
from ..data.base import LabelledSet
from ..data.codec import Codec
from ..data.folder import FolderSet
from ..data.open import kind_of, open_data
from ..data.splits import is_train_split
from ..data.table import ROW_GROUP, columns_of, is_saved, load_saved, no_bars, open_rows
from ..data.walk import named
from ..errors import UsageError, UsageTypeError
from ..files import IrregularFileError, is_utf8, open_regular, read_regular
from ..jobs.journal import open_journal
from ..poisons.base import Poison, decisive
from ..sample import batch_tokens, class_token, spread

CARD, MANIFEST = "README.md", "protection.json"
DATA = "data"  # folder of the tables
UNVERIFIED = "coverage not verified"  # as the coverage begins where no record knows every image
MOST_IMAGE = 1 << 32  # bytes of a file
ALONE = "train"  # the split of what has no splits
PICTURE, PICTURES = ".card", ("webp", "png", "jpg")  # of the card: a name that loaders skip, and its endings
# Of an earlier publication; made anew.
_OURS = frozenset((CARD, MANIFEST, "croissant.json", ".gitattributes", *(f"{PICTURE}.{end}" for end in PICTURES)))
LICENCE = r"(?i:licen[sc]e)(\.(?i:txt|md|rst))?"
_SHARD = re.compile(r"(?:data/)?(?P<split>\w+)-\d{5}-of-\d{5}\.parquet")  # as `protect` names them


class Picture(NamedTuple):
    """One picture of an upload: its place, the path that a table stores beside it, its bytes and its class token."""

    split: str
    place: Place
    path: str | None
    data: bytes
    token: str | None


@dataclass
class Upload:
    """A folder that is ready but for its card and manifest.

    Attributes:
        splits: name -> data files below ``folder``, sorted.
        training: the splits that are protected.
        features: of tables; None for picture files.
        image_key, label_key: columns of tables; there may be no label.
        classes: names of the classes, where the labels are places in that list.
        tokens: of picture files: path -> class token, where there is one.
        known: the poison's class list.
        extra: other files: metadata and licence.
    """

    folder: Path
    splits: dict[str, list[str]]
    training: list[str]
    features: Features | None = None
    image_key: str = ""
    label_key: str | None = None
    classes: list[str] | None = None
    tokens: dict[str, str] = field(default_factory=dict)
    known: list | None = None
    extra: list[str] = field(default_factory=list)

    @property
    def has_labels(self) -> bool:
        """Whether the class of each picture is published: not for a tree of pictures without class folders."""
        return self.label_key is not None or self.classes is not None

    @property
    def files(self) -> list[str]:
        """Everything that lies in the folder by now, but for card and manifest."""
        return sorted([*(path for paths in self.splits.values() for path in paths), *self.extra])

    def sample(self, count: int) -> Iterator[Picture]:
        """Some pictures of the first training split, evenly spread: a set may be sorted by class."""
        paths = self.splits[self.training[0]]
        sizes = [1 if self.features is None else pq.read_metadata(self.folder / path).num_rows for path in paths]
        chosen = set(spread(sum(sizes), count))
        for row, picture in enumerate(self.pictures(self.training[0])):
            if row in chosen:
                yield picture

    def pictures(self, split: str) -> Iterator[Picture]:
        """The pictures of a split, as they will be sent."""
        if self.features is None:
            for path in self.splits[split]:
                yield Picture(split, path, None, read_regular(self.folder / path, MOST_IMAGE), self.tokens.get(path))
            return
        row = 0
        columns = [self.image_key, *([self.label_key] if self.label_key else [])]
        for path in self.splits[split]:
            with open_regular(self.folder / path) as file:
                for batch in pq.ParquetFile(file).iter_batches(ROW_GROUP, columns=columns):
                    labels = batch[self.label_key].to_pylist() if self.label_key else [None] * len(batch)
                    tokens = _tokens(labels, self.known)
                    for stored, token in zip(batch[self.image_key].to_pylist(), tokens, strict=True):
                        stored = stored or {"bytes": None, "path": None}
                        yield Picture(split, (split, row), stored["path"], stored["bytes"] or b"", token)
                        row += 1


def _tokens(labels: list, classes: list | None) -> list[str | None]:
    """Class tokens; None for labels that name no class, as test splits have them."""
    try:
        return list(batch_tokens(labels, len(labels), classes))
    except (TypeError, ValueError):
        return [_token(label, classes) for label in labels]


def _token(label: Any, classes: list | None) -> str | None:
    try:
        return class_token(label, classes)
    except (TypeError, ValueError):
        return None


def stage(
    source: Any, folder: Path, poison: Poison, findings: Findings, *, rename: bool, label: str | None, copy: bool
) -> Upload:
    """Put what is to be published into an empty folder.

    Args:
        source: a ``Dataset`` or ``DatasetDict``, a folder of Parquet made by ``unlearnable protect``, a set saved by
            ``save_to_disk``, or a folder of pictures.
        folder: where to.
        poison: whose column names and class list count.
        findings: gets what does not belong there.
        rename: whether pictures are numbered instead of keeping their names.
        label: given for a tree of pictures without class folders.
        copy: whether files are copied, and not linked where that is possible.

    Raises:
        LeakError: a lazy transform: what it shows is not what is stored.
        TypeError, ValueError, KeyError: not a set that can be published.
    """
    if isinstance(source, IterableDataset | IterableDatasetDict):
        raise UsageTypeError("a streaming data set cannot be checked: load it without streaming=True, protect it again")
    if isinstance(source, Dataset | DatasetDict):
        return _stage_rows(source, folder, poison, rename)
    if not isinstance(source, str | os.PathLike):
        raise UsageTypeError(
            f"publish takes a datasets.Dataset or DatasetDict or a folder made by `unlearnable protect`, not "
            f"{type(source).__name__}: make one with datasets.Dataset.from_dict"
        )
    path = Path(source)
    if not path.is_dir():
        raise FileNotFoundError(f"{source} is no folder: publish a data set, or a folder made by `unlearnable protect`")
    _check_run(path, poison)
    if is_saved(path):
        return _stage_rows(load_saved(path), folder, poison, rename)
    kind = kind_of(path)
    if kind == "tars":
        raise UsageError(
            f"{source} holds tars: publish takes image folders, Parquet and saved sets. Protect one of these, "
            'or in Python the Dataset of load_dataset("webdataset", ...) with the columns image and label'
        )
    if kind == "images":
        return _stage_pictures(path, folder, poison, findings, rename, label, copy)
    if kind != "tables":
        raise UsageError(
            f"{source} is no folder made by `unlearnable protect`: publish takes image folders and Parquet"
        )
    return _stage_parquet(path, folder, poison, findings, copy)


# ---- rows ------------------------------------------------------------------------------------------------------------


def _stage_rows(data: Dataset | DatasetDict, folder: Path, poison: Poison, rename: bool) -> Upload:
    splits = {str(name): split for name, split in data.items()} if isinstance(data, DatasetDict) else {ALONE: data}
    if not splits or not all(map(len, splits.values())):
        raise UsageError("there are no rows to publish, or a split is empty: leave it out")
    lazy = [name for name, split in splits.items() if split.format["type"] == "custom"]
    if lazy:
        what = f"{', '.join(lazy)}: with_transform and set_transform change what is looked at, not what is stored"
        remedy = "protect with ds.map(poison) or ut.protect, then with_format(None)"
        raise LeakError([Leak("lazy transform", what, remedy)])
    first = next(iter(splits.values())).features
    upload = _tables(folder, _training(splits), first, poison)
    (folder / DATA).mkdir()
    rows = open_rows(data, "data", image_key=upload.image_key, label_key=upload.label_key)
    rows.keep_splits = [name for name in rows.splits if name not in upload.training]
    units = rows.units(Codec())
    for name, split in splits.items():
        if split.features != first:
            raise UsageError(f"the split {name!r} has other columns than the first one: a data set has the same in all")
        upload.splits[name] = []
        with no_bars():
            for unit in units:
                if unit.split == name:
                    target = f"{DATA}/{unit.target}"
                    _write_rows(split.select(unit.rows), upload, folder / target, rename)
                    upload.splits[name].append(target)
    return upload


def _write_rows(rows: Dataset, upload: Upload, path: Path, rename: bool) -> None:
    """Rows as Parquet, with every picture inside."""
    assert upload.features is not None
    table = embed_table_storage(rows.with_format("arrow")[:].cast(upload.features.arrow_schema))
    if rename:
        place = table.schema.get_field_index(upload.image_key)
        column = table.column(place).combine_chunks()
        data = column.field("bytes")
        bare = pa.StructArray.from_arrays([data, pa.nulls(len(data), pa.string())], ["bytes", "path"])
        table = table.set_column(place, table.schema.field(place), bare)
    pq.write_table(table, path, row_group_size=ROW_GROUP)


def _tables(folder: Path, training: list[str], features: Features, poison: Poison) -> Upload:
    """An upload of tables, without files so far.

    Raises:
        KeyError: it is not clear which columns hold pictures and labels.
        ValueError: the image column does not hold pictures.
    """
    image_key, label_key = columns_of(list(features), poison.image_key, poison.label_key)
    if not isinstance(features[image_key], Image):
        raise UsageError(
            f"column {image_key!r} is {features[image_key]}, not Image, so pictures are not stored as files: protect "
            "with ut.protect, or cast_column(name, datasets.Image())"
        )
    feature = features[label_key] if label_key else None
    classes = list(feature.names) if isinstance(feature, ClassLabel) else None
    _check_names([*features, *(classes or ())])
    return Upload(folder, {}, training, features, image_key, label_key, classes, known=poison.classes)


def _training(splits: Any) -> list[str]:
    names = list(splits)
    training = names if names == [ALONE] else [name for name in names if is_train_split(name)]
    if not training:
        raise UsageError(f"none of the splits {names} is training data, so nothing would be protected")
    return training


# ---- folders ---------------------------------------------------------------------------------------------------------


def _check_names(names: Iterable[str]) -> None:
    """Refuse names that cannot be written into a card and a manifest: a ValueError where they are not UTF-8."""
    strange = [name for name in names if not is_utf8(name)]
    if strange:
        raise UsageError(
            f"{named([repr(name) for name in strange])}: the name is not UTF-8, as the Hub wants it: rename it in the "
            "source, protect again, and publish that"
        )


def _stage_parquet(source: Path, folder: Path, poison: Poison, findings: Findings, copy: bool) -> Upload:
    shards: dict[str, list[str]] = {}
    for path in _all_files(source):
        if match := _SHARD.fullmatch(path):
            shards.setdefault(match["split"], []).append(path)
        elif path not in _OURS:
            _note_stray(source, path, findings)
    if not shards:
        raise UsageError(f"there are no files of the form train-00000-of-00001.parquet in {source}: protect it first")
    for split, paths in shards.items():
        complete = [f"{split}-{number:05d}-of-{len(paths):05d}.parquet" for number in range(len(paths))]
        if sorted(map(posixpath.basename, paths)) != complete:
            raise UsageError(f"{paths} are not all files of one {split} split: some are missing, or of another run")
    schema = pq.read_schema(source / next(iter(shards.values()))[0])
    upload = _tables(folder, _training(shards), Features.from_arrow_schema(schema), poison)
    for split, paths in sorted(shards.items(), key=lambda item: (item[0] not in upload.training, item[0])):
        for path in paths:
            if pq.read_schema(source / path) != schema:
                raise UsageError(f"{path} has other columns than the other files: a data set has the same in all")
            _put(source / path, folder / DATA / posixpath.basename(path), copy)
        upload.splits[split] = [f"{DATA}/{posixpath.basename(path)}" for path in paths]
    return upload


def _stage_pictures(
    source: Path, folder: Path, poison: Poison, findings: Findings, rename: bool, label: str | None, copy: bool
) -> Upload:
    data = open_data(source, label=label)
    assert isinstance(data, FolderSet)
    if data.damaged:
        raise data.damaged[0]
    training = [name if data.named_splits else ALONE for name in data.training]
    classes = numbered_names(data, poison) if data.by_name else None
    upload = Upload(folder, {}, training, classes=classes, known=poison.classes)
    if rename and label is not None and any("/" in table.path for table in data.tables):
        raise UsageError(
            f"{[table.path for table in data.tables]}: numbered images lie at the top, and tables below cannot name "
            "them: take them out"
        )
    paths = {name: [rows.place(row) for row in range(len(rows))] for name, rows in data.splits.items()}
    everything = sorted(path for some in paths.values() for path in some)
    targets = _numbered(everything, data.named_splits + (label is None and data.by_name)) if rename else {}
    for name, some in paths.items():
        tokens = _tokens_of(data, name, poison)
        for path, token in zip(some, tokens, strict=True):
            target = targets.setdefault(path, path)
            _put(source / path, folder / target, copy)
            upload.splits.setdefault(name if data.named_splits else ALONE, []).append(target)
            if token is not None:
                upload.tokens[target] = token
    for table in data.tables:
        rewrite(table, folder, targets.get)
        upload.extra.append(table.path)
    for path in [*data.unreadable, *data.unused, *data.beside, *data.others]:
        if re.fullmatch(LICENCE, path) and _is_text(source / path):
            _put(source / path, folder / path, copy)
            upload.extra.append(path)
        elif path not in _OURS:
            _note_stray(source, path, findings)
    return upload


def numbered_names(data: LabelledSet, poison: Poison) -> list[str]:
    """The class names of a set, each at the place that is its number under the key; other places are empty."""
    values = data.class_values(poison)
    if any(isinstance(value, str) for value in values):
        return list(data.names or [])
    names = [""] * (max(map(int, values), default=-1) + 1)
    for name, number in zip(data.names or [], values, strict=True):
        names[int(number)] = name
    return names


def _tokens_of(data: LabelledSet, split: str, poison: Poison) -> list[str | None]:
    """Class tokens; None for a class of a test split that no training image has."""
    labels = data.splits[split].labels
    if labels is None:
        return [None] * len(data.splits[split])
    if data.by_name:
        by_place = [*data.class_values(poison), None]
        return _tokens([by_place[int(label)] for label in labels], poison.classes)
    return _tokens(list(labels), poison.classes)


def _is_text(path: Path) -> bool:
    try:
        return b"\0" not in (data := read_regular(path)) and bool(data.decode("utf-8"))
    except (ValueError, IrregularFileError):
        return False


def _numbered(paths: list[str], depth: int) -> dict[str, str]:
    """New names: numbers in the order of the old ones, in each class folder; trees without classes become flat."""
    counts: dict[str, int] = {}
    names = {}
    for path in paths:
        folder = "/".join(path.split("/")[:-1][:depth])
        counts[folder] = counts.get(folder, -1) + 1
        names[path] = posixpath.join(folder, f"{counts[folder]:06d}{os.path.splitext(path)[1].lower()}")
    return names


def _all_files(source: Path) -> list[str]:
    return sorted(path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file())


def _note_stray(source: Path, path: str, findings: Findings) -> None:
    if path.endswith("/"):
        findings.add("stray file", "a hidden folder; it may hold originals", "remove it", path)
        return
    try:
        with open_regular(source / path) as file:
            check, what = file_leak(path, file.read(64))
    except IrregularFileError:
        check, what = "stray file", "a pipe, a device or the like"
    findings.add(check, what, "take it out of the folder", path)


def _put(source: Path, target: Path, copy: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    open_regular(source).close()
    if not copy:
        try:
            os.link(source.resolve(), target)
            return
        except OSError:  # another file system, or one without links
            pass
    shutil.copyfile(source, target)


def _check_run(source: Path, poison: Poison) -> None:
    """Compare with what `unlearnable protect` noted of the folder, if it wrote it on this machine.

    Raises:
        ValueError: it was interrupted, or used another method or key.
        RuntimeError: it is running.
    """
    with open_journal(source) as journal:
        settings = journal.settings()
        if settings is None:
            return
        if journal.missing is None or journal.missing:
            what = f", {journal.missing} files are missing" if journal.missing else ""
            raise UsageError(f"`unlearnable protect` has not finished in {source}{what}: run it again")
    ours = json.loads(json.dumps(poison.public_config()))
    was, now = (decisive(config, keys=True) for config in (settings, ours))
    for name in now:
        if was.get(name) != now[name]:
            raise UsageError(
                f"{source} was protected with {name} {was.get(name)}, now it is {now[name]}: give the key, derived if "
                "it was then, and the options that it was protected with"
            )
