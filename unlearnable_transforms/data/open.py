"""``open_data``: any source -> a :class:`~.base.LabelledSet`. Which format it is, is decided here and nowhere else."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from torch.utils.data import IterableDataset as TorchIterable

from ..errors import UsageError, UsageTypeError
from ..files import check_hub_name
from .base import LabelledSet
from .folder import IMAGES, open_folder
from .memory import open_arrays, open_pairs
from .table import is_saved, open_hub, open_rows, open_tables
from .walk import named, walk
from .webdataset import TARS, open_tars

HUB = "hf://"
STREAM = (
    "can be read only once: materialise it, for instance with datasets.Dataset.from_list(list(stream)), or save it as "
    "Parquet"
)


def open_data(
    source: Any,
    *,
    what: str = "data",
    label: str | None = None,
    unlabelled: bool = False,
    keep_splits: Collection[str] = (),
    image_key: str | None = None,
    label_key: str | None = None,
    config: str | None = None,
    convert: bool = False,
) -> LabelledSet:
    """Read a labelled data set; images are opened when they are asked for.

    Args:
        source: a ``datasets.Dataset`` or ``DatasetDict``, a data set of ``(image, label)`` pairs such as torchvision's,
            a tuple ``(images, labels)``; or a path: a folder of images, a CSV that names image files, Parquet, a set
            saved by ``save_to_disk``, WebDataset tars; or the name of a Hub data set, ``user/name`` or ``hf://name``.
        what: what the set is for, in messages.
        label: one class for all images of a folder.
        unlabelled: labels are not read: other classes will stand in for them.
        keep_splits: splits that are not training data and are kept, unprotected.
        image_key, label_key: columns; default: the common names.
        config: configuration of a Hub data set.
        convert: of a path: whether images of more than 8 bits a channel, CMYK, Lab and the first frame of animations
            are converted to 8-bit RGB or grey; else they are refused.

    Raises:
        TypeError: a stream, or another kind of object; the message says what to do.
        FileNotFoundError: no such path, and no name of the Hub.
        ValueError: a source that is not as it must be.
        KeyError: columns that are missing or ambiguous.
    """
    if isinstance(source, LabelledSet):
        return source
    if isinstance(source, str | os.PathLike):
        data = _open_path(
            os.fspath(source),
            label=label,
            unlabelled=unlabelled,
            config=config,
            keep_splits=keep_splits,
            image_key=image_key,
            label_key=label_key,
        )
        for rows in data.splits.values():
            rows.convert = convert
        return data
    kind = type(source).__name__
    if isinstance(source, IterableDataset | IterableDatasetDict | TorchIterable):
        raise UsageTypeError(f"the {what} set is a streaming {kind}, which {STREAM}")
    if isinstance(source, Dataset | DatasetDict):
        return open_rows(source, what, image_key=image_key, label_key=label_key, keep_splits=keep_splits)
    if isinstance(source, tuple) and len(source) == 2:
        return open_arrays(*source)
    if isinstance(source, str | bytes | dict) or not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        raise UsageTypeError(
            f"the {what} set is a {kind}: pass a datasets.Dataset, a data set of (image, label) pairs, a tuple "
            f"(images, labels), or a path. What gives rows one after another {STREAM}"
        )
    return open_pairs(source)


def _open_path(source: str, *, label: str | None, unlabelled: bool, config: str | None, **options: Any) -> LabelledSet:
    if not source:  # which a path takes for the current folder
        raise UsageError("the source is an empty text: name a folder, a file or a data set")
    path = Path(source)
    if source.startswith(HUB) or not path.exists():
        return _open_hub(source, config, label, **options)
    if config is not None:
        raise UsageError(f"--config is for data sets of the Hub, and {source} lies here")
    kind = kind_of(path)
    if kind == "images":
        return open_folder(path, label=label, unlabelled=unlabelled, **options)
    if label is not None:
        raise UsageError(f"--label is for folders of images, and {source} holds rows with labels")
    if kind == "csv":
        return open_folder(path.parent, table=path.name, unlabelled=unlabelled, **options)
    if kind == "tars":
        return open_tars(path, unlabelled=unlabelled, **options)
    return open_tables(path, **options)


def _open_hub(source: str, config: str | None, label: str | None, **options: Any) -> LabelledSet:
    name = source.removeprefix(HUB)
    if not source.startswith(HUB):
        check_hub_name(source)
    if label is not None:
        raise UsageError(f"--label is for folders of images, and {source} is a data set of the Hub")
    return open_hub(name, config, **options)


def kind_of(path: Path) -> str:
    """``images``, ``csv``, ``tars`` or ``tables``.

    Raises:
        ValueError: nothing of the kind, or several of them.
    """
    if path.is_file():
        by_suffix = {".parquet": "tables", ".csv": "csv", **dict.fromkeys(TARS, "tars")}
        if path.suffix.lower() not in by_suffix:
            raise UsageError(f"{path} is a file, but not Parquet, tar or CSV: name the folder that it lies in")
        return by_suffix[path.suffix.lower()]
    if not path.is_dir():
        raise UsageError(f"{path} is a pipe or a device, not a file or folder")
    if is_saved(path):
        return "tables"
    files, _ = walk(path)
    found = {
        kind: [file.path for file in files if file.suffix in suffixes]
        for kind, suffixes in (("images", IMAGES), ("tables", (".parquet",)), ("tars", TARS))
    }
    kinds = [kind for kind, paths in found.items() if paths]
    if len(kinds) > 1:
        several = "; ".join(f"{kind}: {named(found[kind])}" for kind in kinds)
        raise UsageError(f"{path} holds several kinds of data ({several}): name the folder or file of one of them")
    if not kinds:
        raise UsageError(f"there are no images, Parquet files or tars in {path}")
    return kinds[0]
