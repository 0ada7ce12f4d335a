"""Folders of image files: one folder a class, splits of such folders, any tree with one label, or a table of labels."""

import os
import re
from array import array
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files import is_utf8
from .annotations import METADATA, Annotations, read_csv, read_metadata, rewrite
from .base import TRAIN, Label, LabelledSet, NamedRows, SourceChanged, Unit
from .beside import row_images
from .codec import AUTO, Codec
from .columns import refuse_beside
from .header import HEIC, RAW
from .image import Opened, open_bytes
from .splits import is_train_split, leading_split
from .walk import File, named, readable_name, walk

# Also kinds that cannot be read: they are images, so they are named as unreadable and not passed over.
_IMAGES = (
    ".apng .avif .bmp .dib .gif .j2k .jfif .jp2 .jpe .jpeg .jpg .jxl .mpo .pbm .pgm .png .pnm .ppm .qoi .tga .tif "
    ".tiff .webp"
)
IMAGES = frozenset(_IMAGES.split()) | HEIC | RAW
SUFFIXES = {"png": (".png",), "webp": (".webp",), "jpeg": (".jpg", ".jpeg", ".jpe", ".jfif")}
LONGEST_NAME = 255  # bytes, on the usual file systems
_INTEGER = re.compile(r"-?\d{1,15}(\.0+)?")
NO_CLASS = (
    "images that lie in no class folder have no class. Make one folder a class; or pass --label NAME (an album, an "
    "artist or a person is a class), --labels table.csv (a table that names them) or --labels auto (groups of images "
    "that look alike)"
)


def is_image_name(name: str) -> bool:
    """Whether a file is meant to be an image, by its name."""
    return os.path.splitext(name)[1].lower() in IMAGES


class FolderRows(NamedRows):
    """The image files of one split.

    Args:
        name: of the split.
        root: the folder.
        files: the image files, sorted.
        labels: one a file, or None.
    """

    def __init__(self, name: str, root: Path, files: Sequence[File], labels: Sequence[Any] | None) -> None:
        self.name, self.root = name, root
        self.paths = [file.path for file in files]
        self.sizes = array("q", [file.size for file in files])
        self.mtimes = array("q", [file.mtime for file in files])
        self.labels = labels

    def __len__(self) -> int:
        return len(self.paths)

    def stored(self, rows: range) -> list[Any]:
        return [self._read(row) for row in rows]

    def _read(self, row: int) -> dict[str, Any]:
        path = self.root / self.paths[row]
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            data = file.read()
        if (status.st_size, status.st_mtime_ns) != (self.sizes[row], self.mtimes[row]):
            raise SourceChanged(
                f"{path} changed while it was to be protected: put back what it was and run the same command again, or "
                "run it once more when nothing writes there"
            )
        return {"bytes": data, "path": None}

    def decode(self, stored: Any) -> Opened:
        return open_bytes(stored["bytes"], convert=self.convert)

    def place(self, row: int) -> str:
        return self.paths[row]


@dataclass
class FolderSet(LabelledSet):
    """A folder of image files.

    Attributes:
        root: the folder.
        tables: files that name images: they are written again with the new names.
        damaged: why others cannot be read, so that nothing can be written.
    """

    root: Path = Path()
    tables: list[Annotations] = field(default_factory=list)
    damaged: list[ValueError] = field(default_factory=list)

    kind = "files"
    any_format = True
    may_leave_out = True

    def units(self, codec: Codec) -> list[Unit]:
        if self.damaged:
            raise self.damaged[0]
        units, pairs = [], []
        for rows in map(self.splits.__getitem__, self.written):
            assert isinstance(rows, FolderRows)
            for row, (path, size, mtime) in enumerate(zip(rows.paths, rows.sizes, rows.mtimes, strict=True)):
                target = target_name(path, codec.for_file(path).format)
                pairs.append((path, target if codec.format != AUTO else target_name(path, "png")))  # as undone later
                stamp = [size, mtime, self.label_text(rows.name, row)]
                units.append(Unit(target, rows.name, row, row + 1, size, stamp))
        check_targets(pairs)
        return units

    def write(self, unit: Unit, images: list[bytes], path: Path, codec: Codec) -> None:
        path.write_bytes(images[0])

    @property
    def written_tables(self) -> list[Annotations]:
        """The tables that are written again: not those of splits that are left out."""
        left_out = self.left_out
        return [table for table in self.tables if table.path.split("/")[0] not in left_out]

    def check_columns(self, image_key: str | None, keep: Sequence[str]) -> None:
        for table in self.written_tables:
            but = [table.file_column, *keep]
            others = dict.fromkeys(name for row in table.rows for name in row_images(row, None, but))
            refuse_beside(f"{self.root / table.path}: the columns", others)

    def finish(self, out: Path, written: Mapping[Unit, str]) -> list[str]:
        targets = {self.splits[unit.split].place(unit.start): unit.target for unit in written}
        notes = []
        for table in self.written_tables:
            dropped = rewrite(table, out, targets.get)
            if dropped:
                notes.append(f"{table.path}: left out the rows of images that were not written: {named(dropped)}")
        return notes


def open_folder(
    root: Path,
    *,
    label: str | None = None,
    unlabelled: bool = False,
    keep_splits: Collection[str] = (),
    image_key: str | None = None,
    label_key: str | None = None,
    table: str | None = None,
) -> FolderSet:
    """Read a folder of image files.

    Args:
        root: the folder.
        label: one class for all images: any tree will do.
        unlabelled: other classes will stand in for the labels: any tree will do, and splits are known by the top
            folders as ever.
        keep_splits: splits that are not training data and are kept.
        image_key, label_key: columns of a table of labels.
        table: the CSV that names the images, below ``root``; default: one at the top that names them.

    Raises:
        ValueError: no images, images whose class is not clear, a link to a folder, a split of unclear purpose.
    """
    files, hidden = walk(root)
    images = [file for file in files if file.suffix in IMAGES]
    others = [file.path for file in files if file.suffix not in IMAGES and file.name not in METADATA]
    if not images:
        raise UsageError(f"there are no images in {root}")
    beside = _beside([file for file in images if not file.problem])
    images = [file for file in images if file.path not in beside]
    unreadable = {file.path: _problem(file) for file in images if _problem(file)}
    images = [file for file in images if file.path not in unreadable]
    data = FolderSet(str(root), {}, unreadable=unreadable, beside=beside, root=root, keep_splits=list(keep_splits))
    _add_tables(data, root, files, images, table, image_key, label_key, wanted=label is None and not unlabelled)
    data.others = sorted([*hidden, *(path for path in others if path not in {a.path for a in data.tables})])
    tops = sorted({file.path.split("/")[0] for file in images if "/" in file.path})
    data.named_splits = label is None and bool(tops) and all(map(leading_split, tops))
    groups = _by_split(images, tops) if data.named_splits else {TRAIN: images}
    labels = _labels(data, groups, label, unlabelled)
    data.splits = {name: FolderRows(name, root, group, labels[name]) for name, group in groups.items()}
    data.check_kept()
    if (image_key or label_key) and not any(table.label_column for table in data.tables):
        raise UsageError(f"--image-key and --label-key name columns, and {root} has no table that names its images")
    return data


def _beside(images: list[File]) -> dict[str, str]:
    """Files of an image that another file of the same folder and name holds ready to use, and that file.

    A raw file stands behind every other kind, and HEIC behind JPEG. Other kinds of one name are images of their own.
    """
    groups: dict[str, list[File]] = {}
    for file in images:
        groups.setdefault(os.path.splitext(file.path)[0], []).append(file)
    result = {}
    for group in groups.values():
        jpeg = next((file.path for file in group if file.suffix in SUFFIXES["jpeg"]), "")
        developed = jpeg or next((file.path for file in group if file.suffix not in RAW), "")
        for file in group:
            better = developed if file.suffix in RAW else jpeg if file.suffix in HEIC else ""
            if better:
                result[file.path] = better
    return result


def _problem(file: File) -> str:
    if file.suffix in RAW:
        return "a camera's raw file cannot be protected: export it as JPEG or TIFF, beside it or instead of it"
    return file.problem


def _by_split(images: list[File], tops: list[str]) -> dict[str, list[File]]:
    loose = [file.path for file in images if "/" not in file.path]
    if loose:
        raise UsageError(f"{named(loose)}: images beside the splits: training data or not? Move them into one")
    groups: dict[str, list[File]] = {name: [] for name in tops}
    for file in images:
        groups[file.path.split("/")[0]].append(file)
    return groups


# ---- labels ----------------------------------------------------------------------------------------------------------


def _labels(
    data: FolderSet, groups: dict[str, list[File]], label: str | None, unlabelled: bool
) -> dict[str, Sequence[Label] | None]:
    """The label of each image by split, and ``data.names``."""
    if unlabelled:
        return dict.fromkeys(groups, None)
    if label is not None:
        data.labels_from = "--label"
        return {name: [label] * len(files) for name, files in groups.items()}
    labelled = [table for table in data.tables if table.label_column is not None]
    if labelled:
        return _labels_of_tables(data, groups, labelled)
    return _labels_of_folders(data, groups)


def _labels_of_folders(data: FolderSet, groups: dict[str, list[File]]) -> dict[str, Sequence[Label] | None]:
    """Class folders. Kept splits have no say: their labels are places among the classes of the training data."""
    depth = 1 + data.named_splits
    splits = [name for name in groups if not data.named_splits or is_train_split(name)] or list(groups)
    training = [file.path for name in splits for file in groups[name]]
    loose = [path for path in training if path.count("/") < depth]
    if loose:
        raise UsageError(f"{named(loose)}: {NO_CLASS}")
    deep = [path for path in training if path.count("/") > depth]
    if deep:
        raise UsageError(
            f"{named(deep)}: images in folders of a class folder. torchvision takes the outer folder as the class, "
            "datasets the inner one: move the images up, pass --label NAME for the whole tree, or --labels folder to "
            "make each folder a class"
        )
    folders = {name: sorted({_class_folder(file, depth) for file in groups[name]}) for name in splits}
    first, *rest = folders.values()
    if any(other != first for other in rest):
        raise UsageError(
            f"the training splits {sorted(folders)} have different class folders: the numbers would differ"
        )
    strange = [name for name in first if not is_utf8(name)]
    if strange:
        raise UsageError(f"{named(strange)}: the name is not UTF-8, as data sets want their classes: rename it")
    data.names, data.by_name, data.labels_from = first, True, "folders"
    places = {name: place for place, name in enumerate(first)}
    return {
        name: _numbers([places.get(_class_folder(file, depth), -1) for file in files]) for name, files in groups.items()
    }


def _class_folder(file: File, depth: int) -> str:
    parts = file.path.split("/")
    return parts[depth - 1] if len(parts) > depth else ""


def _labels_of_tables(
    data: FolderSet, groups: dict[str, list[File]], tables: list[Annotations]
) -> dict[str, Sequence[Label] | None]:
    """Labels of tables: integers as they are, names by the sorted list. Images that no table names are left out."""
    known: dict[str, Any] = {}
    for table in tables:
        for image, value in table.labels().items():
            if known.setdefault(image, value) != value:
                raise UsageError(f"{image} has the label {known[image]!r} in one table and {value!r} in {table.path}")
    unnamed = []
    for name, files in groups.items():
        unnamed += [file.path for file in files if file.path not in known]
        groups[name] = [file for file in files if file.path in known]
    data.unused |= {path: f"no row of {', '.join(table.path for table in tables)} names it" for path in unnamed}
    if not any(groups.values()):
        raise UsageError(f"{named([table.path for table in tables])} names none of the images of {data.source}")
    data.labels_from = ", ".join(f"{table.path}, column {table.label_column!r}" for table in tables)
    values = {str(value) for value in known.values()}
    if all(_INTEGER.fullmatch(value) for value in values):  # 1.0 as well: so pandas writes a column with gaps
        return {name: _numbers([int(float(known[file.path])) for file in files]) for name, files in groups.items()}
    data.names, data.by_name = sorted(values), True
    places = {value: place for place, value in enumerate(data.names)}
    return {name: _numbers([places[str(known[file.path])] for file in files]) for name, files in groups.items()}


def _numbers(values: list[int]) -> Sequence[int]:
    return array("q", values)


def _add_tables(
    data: FolderSet,
    root: Path,
    files: list[File],
    images: list[File],
    table: str | None,
    image_key: str | None,
    label_key: str | None,
    wanted: bool,
) -> None:
    """Read the tables that name images: ``metadata.*`` anywhere, and a CSV at the top where no class is known."""
    paths = [file.path for file in images]
    for file in files:
        if file.name in METADATA:
            try:
                if file.problem:  # what it says of classes is not known
                    raise UsageError(f"{root / file.path}: {file.problem}; put it back, or take it out")
                data.tables.append(read_metadata(root, file.path, paths))
            except ValueError as error:
                data.damaged.append(error)
    if table is not None:
        annotations = read_csv(root, table, paths, image_key, label_key)
        if annotations is None or annotations.label_column is None:
            raise UsageError(f"{root / table} names no image files in {root}, or no classes")
        data.tables.append(annotations)
    elif wanted and not any(table.label_column for table in data.tables):
        # A competition's test.csv and sample_submission.csv name images whose classes are not known.
        training = [path for path in paths if not _held_out(path.split("/")[0])]
        for file in files:
            if file.suffix != ".csv" or "/" in file.path or file.name in METADATA or file.problem:
                continue
            if not _held_out(os.path.splitext(file.name)[0]) and not file.name.startswith("sample_submission"):
                annotations = read_csv(root, file.path, training, image_key, label_key)
                if annotations is not None and annotations.label_column is not None:
                    data.tables.append(annotations)


def _held_out(name: str) -> bool:
    return bool(leading_split(name)) and not is_train_split(name)


# ---- names of files --------------------------------------------------------------------------------------------------


def target_name(path: str, format: str) -> str:
    """Where an image goes: the same path, with the suffix of the format unless it has one already."""
    stem, suffix = os.path.splitext(path)
    return path if suffix.lower() in SUFFIXES[format] else stem + SUFFIXES[format][0]


def check_targets(pairs: Sequence[tuple[str, str]]) -> None:
    """Refuse images that would overwrite each other, and names that get too long.

    Args:
        pairs: path in the source and in the output.

    Raises:
        ValueError: names them.
    """
    sources: dict[str, list[str]] = {}
    for path, target in pairs:
        stem, suffix = os.path.splitext(target)
        sources.setdefault(stem + suffix.lower(), []).append(path)  # a.PNG and a.png are one file on some disks
    clashes = [
        f"{' and '.join(map(readable_name, both))} -> {target}" for target, both in sources.items() if len(both) > 1
    ]
    if clashes:
        raise UsageError(f"images would overwrite each other: {named(clashes)}. Rename one of each")
    long = [target for _, target in pairs if len(os.fsencode(target.rsplit("/", 1)[-1])) > LONGEST_NAME]
    if long:
        raise UsageError(f"names get too long with the new suffix: {named(long)}")
