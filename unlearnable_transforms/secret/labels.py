"""Secret classes: protection for pictures without class labels, or beside labels that do not matter to it.

Whoever publishes pictures may not know by what classes others will train on them. The protection then follows secret
classes: clusters of pictures that look alike, or one class an album or person. They take the label's place everywhere
in the protection, and stand in the private ledger alone; labels that the data set has stay as they are.
"""

import csv
import json
import posixpath
import unicodedata
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash
from datasets import Dataset

from ..data.columns import find_columns
from ..data.listing import Listing, named
from ..files import replacing
from ..key import Key
from ..poisons.base import Poison
from ..sample import SampleError, batch_tokens, class_value, name_rows
from .clusters import find_clusters, nearest
from .features import Backbone, Column, Files, features_of, get_backbone

SECRET = "_secret_class"  # the column in which they travel with a data set
AUTO, FOLDER = "auto", "folder"
CLUSTERS = 10


def auto_labels(
    pictures: Any,
    key: Key,
    *,
    clusters: int = CLUSTERS,
    backbone: str | Callable | None = None,
    image_key: str | None = None,
) -> list[int]:
    """A secret class for each picture: clusters of pictures that look alike.

    Equal pictures and an equal key give equal classes, in any order of the pictures. With the built-in backbone also on
    every machine; a network's features differ in their last digits from machine to machine.

    Args:
        pictures: a ``datasets.Dataset`` with an image column, or a batch of pictures as ``Poison.apply`` takes it.
        key: the private key.
        clusters: how many classes; none is empty.
        backbone: what sees likeness. Default: ``"shapes"``, the built-in one, orientations of edges. ``"timm:NAME"``:
            a pretrained network of timm, e.g. ``"timm:resnet18.a1_in1k"``, which sees more, and whose weights are
            fetched once. Or a function: uint8 (B, 3, 224, 224) -> (B, d).
        image_key: the image column; default: ``image`` or ``img``.

    Returns:
        One of 0..clusters - 1 a picture.

    Raises:
        SampleError: pictures that cannot be read, rows named.
        ValueError: fewer different pictures than clusters, or no such backbone.
        ImportError, RuntimeError: timm, or the weights, are not there.
    """
    if not isinstance(key, Key):
        raise TypeError(f"key is a {type(key).__name__}, not a Key: use Key.load(path) or Key.generate()")
    if isinstance(pictures, Dataset):
        pictures = _pictures(pictures, image_key)
    elif isinstance(pictures, Mapping) or not (hasattr(pictures, "__len__") and hasattr(pictures, "__getitem__")):
        raise TypeError(
            f"auto_labels takes a datasets.Dataset, or a list or batch of pictures, not a {type(pictures).__name__}: "
            "all pictures are looked at before the first has a class"
        )
    values = _auto({"": pictures}, key, clusters, get_backbone(backbone), 1)
    return values[""].tolist()


def check_options(labels: Any, clusters: int | None, backbone: Any, key: Key | None) -> None:
    """Refuse options of ``labels="auto"`` without it, and it without a key.

    Raises:
        ValueError: names the option.
    """
    auto = isinstance(labels, str) and labels == AUTO
    if not auto and (clusters is not None or backbone is not None):
        raise ValueError(f'{"clusters" if clusters is not None else "backbone"} is for labels="auto"')
    if auto and key is None:
        raise ValueError('labels="auto" draws from the key: this poison has none')


# ---- data sets -------------------------------------------------------------------------------------------------------


def secret_classes(
    splits: Mapping[str, Dataset],
    labels: Any,
    poison: Poison,
    *,
    clusters: int | None = None,
    backbone: Any = None,
    processes: int = 1,
) -> dict[str, list[int] | list[str]]:
    """The secret class of each row of some data sets.

    Args:
        splits: the data sets to protect, by name.
        labels: ``"auto"``, one class a row (integers or text), or a mapping from the name of a split to that.
        poison: whose key, image column and class list count.
        clusters, backbone: as for :func:`auto_labels`.

    Raises:
        As :func:`auto_labels`; and SampleError: labels that are no classes, or not one a row.
    """
    if isinstance(labels, str):
        if labels != AUTO:
            raise ValueError(
                f'labels is "auto" or one secret class a row, not {labels!r}; a column of the data set is named by the '
                "poison's label_key="
            )
        assert poison.key is not None
        pictures = {name: _pictures(data, poison.image_key) for name, data in splits.items()}
        found = _auto(pictures, poison.key, clusters or CLUSTERS, get_backbone(backbone), processes)
        return {name: values.tolist() for name, values in found.items()}
    if not isinstance(labels, Mapping):
        if len(splits) > 1:
            raise ValueError(f"there are several training splits: labels is a mapping from {list(splits)} to classes")
        labels = dict.fromkeys(splits, labels)
    if set(labels) != set(splits):
        raise ValueError(f"labels are for the splits {sorted(labels)}, the training splits are {sorted(splits)}")
    values = {}
    for name, data in splits.items():
        tokens = batch_tokens(labels[name], len(data), poison.classes)
        if len({token[0] for token in tokens}) > 1:
            raise SampleError("the labels mix integers and text: use one of the two")
        values[name] = [class_value(token) for token in tokens]
    return values  # type: ignore[return-value]


def with_secret(splits: Mapping[str, Dataset], values: Mapping[str, Sequence]) -> dict[str, Dataset]:
    """The data sets with a column ``SECRET``, which :func:`label_columns` takes for the label."""
    return {name: data.with_format(None).add_column(SECRET, list(values[name])) for name, data in splits.items()}


def label_columns(names: Sequence[str], poison: Poison) -> tuple[str, str]:
    """The image and the label column that the protection follows: the secret one where there is one."""
    return find_columns(names, poison.image_key, SECRET if SECRET in names else poison.label_key)


def check_labels(data: Dataset, label_key: str, poison: Poison) -> None:
    """Look at all labels of a data set; where they are good, each different one costs, not each row.

    Raises:
        SampleError: labels that are refused, with their rows.
    """
    column = data.with_format("arrow").select_columns([label_key])[:][label_key]
    try:
        distinct = column.unique().to_pylist()
        batch_tokens(distinct, len(distinct), poison.classes)
    except (SampleError, pa.ArrowException):  # a bad one, or soft labels, which have no order: find its rows
        batch_tokens(column.to_pylist(), len(column), poison.classes)


def to_fit(data: Dataset, poison: Poison) -> Dataset:
    """What a method learns from: the data set, or its pictures with their secret classes as the label."""
    if SECRET not in data.column_names:
        return data
    image_key, _ = label_columns(data.column_names, poison)
    return data.select_columns([image_key, SECRET]).rename_column(SECRET, poison.label_key or "label")


def _pictures(data: Dataset, image_key: str | None) -> Column:
    image_key, _ = find_columns([*data.column_names, SECRET], image_key, SECRET)
    return Column(data.with_format(None).select_columns([image_key]), image_key)


def _auto(
    pictures: Mapping[str, Any], key: Key, clusters: int, backbone: Backbone, processes: int
) -> dict[str, np.ndarray]:
    """Clusters over all data sets; int64, by name.

    Raises:
        SampleError: some pictures cannot be read.
    """
    found = {}
    for name, some in pictures.items():
        found[name], unreadable = features_of(some, backbone, processes)
        if unreadable:
            rows, reason = list(unreadable), next(iter(unreadable.values()))
            raise SampleError(f"{name} {name_rows(rows)}: {reason}") if name else SampleError(reason, rows)
    centres = find_clusters(np.concatenate(list(found.values())), clusters, key)
    return {name: nearest(points, centres)[0] for name, points in found.items()}


# ---- runs that can be interrupted ------------------------------------------------------------------------------------


class Hidden(NamedTuple):
    """What the journal is to know about secret classes.

    Attributes:
        classes: how many there are.
        settings: what must be the same when an interrupted run goes on.
        memory: what such a run must find again, see :func:`remember`.
    """

    classes: int
    settings: dict[str, Any]
    memory: dict[str, Any]


def remember(memory: dict[str, Any], path: Path) -> None:
    """Keep what a run that goes on must find again, in a private file."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(memory))


def _recall(path: Path | None, about: dict[str, Any]) -> dict[str, Any] | None:
    """What an interrupted run kept, if it is about the same."""
    if path is None or not path.exists():
        return None
    memory = json.loads(path.read_text())
    return memory if memory["about"] == about else None


def hide_rows(
    splits: Mapping[str, Dataset],
    labels: str,
    poison: Poison,
    *,
    clusters: int | None = None,
    backbone: str | Callable | None = None,
    processes: int = 1,
    remembered: Path | None = None,
) -> Hidden:
    """The secret classes of data sets, in ``memory["labels"]``; see :func:`secret_classes`.

    Args:
        remembered: what an interrupted run left.
    """
    clusters, seen_by = clusters or CLUSTERS, get_backbone(backbone)
    settings = {"labels": labels, "clusters": clusters, "backbone": seen_by.name}
    rows = {name: len(data) for name, data in splits.items()}
    about = {**settings, "key": None if poison.key is None else poison.key.fingerprint, "rows": rows}
    memory = _recall(remembered, about)
    if memory is None:
        values = secret_classes(splits, labels, poison, clusters=clusters, backbone=backbone, processes=processes)
        memory = {"about": about, "labels": values}
    return Hidden(clusters, settings, memory)


def hide_files(
    listing: Listing,
    source: Path,
    labels: str | Path,
    key: Key | None,
    *,
    clusters: int | None = None,
    backbone: str | Callable | None = None,
    processes: int = 1,
    remembered: Path | None = None,
) -> Hidden:
    """Give each training picture of a folder its secret class, in ``listing.secret``; names are in ``listing.classes``.

    Args:
        labels: ``"auto"``; ``"folder"``: one class for each folder with pictures in it, at any depth; or a CSV file
            with the columns ``path``, below the source, and ``label``.
        key, clusters, backbone: as for :func:`auto_labels`.
        remembered: what an interrupted run left. Pictures that it could not read are put to its clusters.

    Raises:
        ValueError: pictures that the CSV file does not know; or as :func:`auto_labels`.
    """
    training = [place for place, path in enumerate(listing.paths) if listing.is_training(path)]
    paths = [listing.paths[place] for place in training]
    settings: dict[str, Any] = {"labels": str(labels)}
    memory: dict[str, Any] = {"about": None}
    if labels == AUTO:
        assert key is not None
        clusters, seen_by = clusters or CLUSTERS, get_backbone(backbone)
        settings |= {"clusters": clusters, "backbone": seen_by.name}
        numbers, memory = _auto_files(Files(source, paths), key, clusters, seen_by, processes, remembered)
        listing.classes = [f"cluster {number}" for number in range(clusters)]
    else:
        if labels == FOLDER:
            names = [posixpath.dirname(path.split("/", 1)[1] if listing.splits else path) for path in paths]
        else:
            names, settings["labels"] = _by_table(Path(labels), paths)
        listing.classes = sorted(set(names))
        places = {name: place for place, name in enumerate(listing.classes)}
        numbers = [places[name] for name in names]
    listing.secret = array("q", bytes(8 * len(listing.paths)))
    for place, number in zip(training, numbers, strict=True):
        listing.secret[place] = number
    return Hidden(len(listing.classes), settings, memory)


def _auto_files(
    files: Files, key: Key, clusters: int, backbone: Backbone, processes: int, remembered: Path | None
) -> tuple[list[int], dict[str, Any]]:
    """The cluster of each picture; 0 where it cannot be read, which the worker that is to protect it will tell."""
    about = {"clusters": clusters, "backbone": backbone.name, "key": key.fingerprint}
    memory = _recall(remembered, about) or {"about": about, "labels": {}, "centres": None}
    known: dict[str, int] = memory["labels"]
    new = [path for path in files.paths if path not in known]
    points, unreadable = features_of(Files(files.folder, new), backbone, processes)
    read = [row for row in range(len(new)) if row not in unreadable]
    if memory["centres"] is None:
        memory["centres"] = find_clusters(points[read], clusters, key).tolist()
    found, _ = nearest(points[read], np.array(memory["centres"]))
    known.update(zip((new[row] for row in read), found.tolist(), strict=True))
    return [known.get(path, 0) for path in files.paths], memory


def _by_table(table: Path, paths: list[str]) -> tuple[list[str], str]:
    """The name that a CSV file gives each picture, and what names the file's content."""
    known: dict[str, str] = {}
    if not table.is_file():
        raise ValueError(f'labels is "auto", "folder" or a CSV file with the columns path,label; {table} is no file')
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        if not {"path", "label"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{table} has the columns {reader.fieldnames}: the first line is path,label")
        try:
            for row in reader:
                path, label = (unicodedata.normalize("NFC", row[name] or "") for name in ("path", "label"))
                path = posixpath.normpath(path)
                if not label or known.setdefault(path, label) != label:
                    raise ValueError(f"{table}, line {reader.line_num}: {path} has no label, or two")
        except csv.Error as error:
            raise ValueError(f"{table}, line {reader.line_num}: {error}") from None
    missing = [path for path in paths if unicodedata.normalize("NFC", path) not in known]
    if missing:
        raise ValueError(f"{table} has no line for {named(missing)}: it names each picture below the source")
    digest = xxhash.xxh3_128(json.dumps(sorted(known.items())).encode()).hexdigest()
    return [known[unicodedata.normalize("NFC", path)] for path in paths], f"csv {digest}"
