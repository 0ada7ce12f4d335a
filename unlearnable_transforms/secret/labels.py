"""Secret classes: protection for pictures without class labels, or beside labels that do not matter to it.

Whoever publishes pictures may not know by what classes others will train on them. The protection then follows secret
classes: clusters of pictures that look alike, or one class an album or person. They take the label's place everywhere
in the protection, and stand in the private ledger alone; labels that the data set has stay as they are.
"""

import json
import posixpath
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from datasets import Dataset

from ..data.annotations import plain_path, read_table
from ..data.base import TRAIN, LabelledSet, joined, select
from ..data.classes import class_numbers
from ..data.memory import ArrayRows
from ..data.table import open_rows
from ..data.walk import named
from ..errors import UsageError, UsageTypeError
from ..files import read_json, replacing
from ..key import Key
from ..poisons.base import Poison
from ..sample import SampleError, batch_tokens, class_value
from .clusters import find_clusters, nearest
from .features import Backbone, features_of, get_backbone

AUTO, FOLDER = "auto", "folder"
CLUSTERS = 10
_KEPT = {"about": dict, "labels": {str: int}, "centres": ([[int]], None)}


def auto_labels(
    pictures: Any,
    key: Key,
    *,
    clusters: int = CLUSTERS,
    backbone: str | Callable | None = None,
    image_key: str | None = None,
) -> list[int]:
    """A secret class for each image, 0..clusters - 1: clusters of images that look alike, none of which is empty.

    Equal images and an equal key give equal classes, in any order of the images. With the built-in backbone also on
    every machine; a network's features differ in their last digits from machine to machine.

    Args:
        pictures: a ``datasets.Dataset`` with an image column, or a batch of images as ``Poison.apply`` takes it.
        key: the private key.
        clusters: how many classes.
        backbone: what sees likeness. Default: ``"shapes"``, the built-in one, orientations of edges.
            ``"efficientnet_lite0"`` (also 1 and 2): a network with ImageNet weights from the extra ``pretrained``,
            which sees more. ``"timm:NAME"``: one of timm, e.g. ``"timm:resnet18.a1_in1k"``, whose weights are fetched
            once. Or a function: uint8 (B, 3, 224, 224) -> (B, d).
        image_key: the image column; default: ``image`` or ``img``.

    Raises:
        SampleError: images that cannot be read, rows named.
        ValueError: fewer different images than clusters, or no such backbone.
        ImportError, RuntimeError: the extra, timm, or the weights, are not there.
    """
    if not isinstance(key, Key):
        raise UsageTypeError(f"key is a {type(key).__name__}, not a Key: use Key.load(path) or Key.generate()")
    if isinstance(pictures, Dataset):
        images = open_rows(pictures, "data", image_key=image_key).splits[TRAIN]
    elif isinstance(pictures, Mapping) or not (hasattr(pictures, "__len__") and hasattr(pictures, "__getitem__")):
        raise UsageTypeError(
            f"auto_labels takes a datasets.Dataset, or a list or batch of images, not a {type(pictures).__name__}: all "
            "images are read before the first has a class"
        )
    else:
        images = ArrayRows(pictures, range(len(pictures)))
    points, unreadable = features_of(images, get_backbone(backbone))
    if unreadable:
        raise SampleError(next(iter(unreadable.values())), list(unreadable))
    return nearest(points, find_clusters(points, clusters, key))[0].tolist()


def check_options(labels: Any, clusters: int | None, backbone: Any, key: Key | None) -> None:
    """Refuse options of ``labels="auto"`` without it, and it without a key: a ValueError names the option."""
    auto = isinstance(labels, str) and labels == AUTO
    if not auto and (clusters is not None or backbone is not None):
        raise UsageError(f'{"clusters" if clusters is not None else "backbone"} is for labels="auto"')
    if auto and key is None:
        raise UsageError('labels="auto" draws from the key: this poison has none')


def hide(
    data: LabelledSet,
    labels: Any,
    poison: Poison,
    *,
    clusters: int | None = None,
    backbone: str | Callable | None = None,
    processes: int = 1,
    memory: Path | None = None,
    recall: bool = False,
) -> dict[str, Any]:
    """Give each training row its secret class, in ``data.secret``.

    Args:
        data: the set.
        labels: ``"auto"``: clusters of similar images; ``"folder"``: one class for each folder with images in it, at
            any depth; a CSV file with the columns ``path``, below the source, and ``label``; or one class a row,
            integers or text, or a mapping from the name of a split to that.
        poison: whose key and class list count.
        clusters, backbone, processes: as for :func:`auto_labels` and :func:`features_of`.
        memory: file in which a run that may go on later keeps its clusters.
        recall: whether an earlier run wrote there: its images keep their class, new ones go to the nearest cluster.

    Returns:
        Settings that must be the same when the run goes on.

    Raises:
        ValueError: images that the CSV file does not name; or as :func:`auto_labels`.
        SampleError: labels that are no classes, or not one a row.
    """
    if isinstance(labels, str | Path) and str(labels) == AUTO:
        return _hide_in_clusters(data, poison, clusters or CLUSTERS, get_backbone(backbone), processes, memory, recall)
    if isinstance(labels, str | Path):
        return _hide_by_path(data, str(labels), poison.key)
    if not isinstance(labels, Mapping):
        if len(data.training) > 1:
            raise UsageError(f"there are several training splits: labels is a mapping from {data.training} to classes")
        labels = dict.fromkeys(data.training, labels)
    if set(labels) != set(data.training):
        raise UsageError(f"labels are for the splits {sorted(labels)}, the training splits are {sorted(data.training)}")
    data.secret = {}
    for name in data.training:
        tokens = batch_tokens(labels[name], len(data.splits[name]), poison.classes)
        if len({token[0] for token in tokens}) > 1:
            raise SampleError("the labels mix integers and text: use one of the two")
        data.secret[name] = [class_value(token) for token in tokens]
    return {"labels": "by row"}


def _hide_by_path(data: LabelledSet, labels: str, key: Key | None) -> dict[str, Any]:
    """One class a folder, or the names of a CSV file, which the key numbers as it numbers class folders."""
    rows, paths = _rows(data)
    if not data.may_leave_out:
        raise UsageError(
            f'labels is "auto" or one secret class a row, not {labels!r}; a column of the data set is named by '
            "label_key="
        )
    settings = labels
    if labels == FOLDER:
        names = [posixpath.dirname(path.split("/", 1)[1] if data.named_splits else path) for path in paths]
    else:
        names, settings = _by_table(Path(labels), paths)
    data.names, data.by_name = sorted(set(names)), True
    places = class_numbers(data.names, key)
    _assign(data, rows, [places[name] for name in names])
    return {"labels": settings}


def _hide_in_clusters(
    data: LabelledSet,
    poison: Poison,
    clusters: int,
    backbone: Backbone,
    processes: int,
    memory: Path | None,
    recall: bool,
) -> dict[str, Any]:
    """Clusters over all training splits. An image file that cannot be read is of cluster 0: the worker that is to
    protect it will name it."""
    assert poison.key is not None
    settings = {"labels": AUTO, "clusters": clusters, "backbone": backbone.name}
    kept = _recall(memory if recall else None, {**settings, "key": poison.key.fingerprint})
    known: dict[str, int] = kept["labels"]
    rows, places = _rows(data)
    new = [number for number, place in enumerate(places) if place not in known]
    images = joined([select(data.splits[rows[number][0]], [rows[number][1]]) for number in new], new)
    points, unreadable = features_of(images, backbone, processes) if new else (np.zeros((0, 0), np.int16), {})
    if unreadable and not data.may_leave_out:
        first = next(iter(unreadable))
        raise SampleError(f"{places[new[first]]}: {unreadable[first]}")
    read = [row for row in range(len(new)) if row not in unreadable]
    if kept["centres"] is None:
        kept["centres"] = find_clusters(points[read], clusters, poison.key).tolist()
    if read:
        numbers, _ = nearest(points[read], np.array(kept["centres"]))
        known.update(zip((places[new[row]] for row in read), numbers.tolist(), strict=True))
    data.names = [f"cluster {number}" for number in range(clusters)]
    _assign(data, rows, [known.get(place, 0) for place in places])
    if memory is not None:
        with replacing(memory) as temporary:
            temporary.write_text(json.dumps(kept))
    return settings


def _rows(data: LabelledSet) -> tuple[list[tuple[str, int]], list[str]]:
    """Split and number of each training row, and its place."""
    rows = [(name, row) for name in data.training for row in range(len(data.splits[name]))]
    return rows, [data.splits[name].place(row) for name, row in rows]


def _assign(data: LabelledSet, rows: list[tuple[str, int]], classes: list[int]) -> None:
    data.secret = {
        name: [c for (split, _), c in zip(rows, classes, strict=True) if split == name] for name in data.training
    }


def _recall(path: Path | None, about: dict[str, Any]) -> dict[str, Any]:
    """What an earlier run kept, if it is about the same; else nothing."""
    if path is not None and path.exists():
        kept = read_json(path, _KEPT, "start with an empty output folder")
        if kept["about"] == about:
            return kept
    return {"about": about, "labels": {}, "centres": None}


def _by_table(table: Path, paths: list[str]) -> tuple[list[str], str]:
    """The name that a CSV file gives each picture, and what names the file's content."""
    known: dict[str, str] = {}
    if not table.is_file():
        raise UsageError(f'labels is "auto", "folder" or a CSV file with the columns path,label; {table} is no file')
    columns, rows, _ = read_table(table)
    if not {"path", "label"} <= set(columns):
        raise UsageError(f"{table} has the columns {columns}: the first line is path,label")
    for line, row in enumerate(rows, 2):
        path, value = plain_path(str(row.get("path", ""))), row.get("label")  # of JSON lines, anything
        label = unicodedata.normalize("NFC", str(value).strip()) if type(value) in (str, int) else ""
        if not label or known.setdefault(path, label) != label:
            raise UsageError(f"{table}, line {line}: {path} has no label, or two")
    missing = [path for path in paths if unicodedata.normalize("NFC", path) not in known]
    if missing:
        raise UsageError(f"{table} has no line for {named(missing)}: it names each picture below the source")
    digest = xxhash.xxh3_128(json.dumps(sorted(known.items())).encode()).hexdigest()
    return [known[unicodedata.normalize("NFC", path)] for path in paths], f"csv {digest}"
