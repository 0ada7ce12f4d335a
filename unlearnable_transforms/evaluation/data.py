"""Any labelled pictures -> uint8 (N, 3, S, S), int64 labels and class names, as a victim gets to see them.

The order is that of the world: pictures are protected at their own resolution and stored as bytes; whoever trains on
them resizes afterwards. Clean, protected and test pictures go through the same resize.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.transforms.v2 import functional as v2

from ..data.columns import find_columns
from ..data.image import open_encoded, open_image
from ..files import check_hub_name
from ..sample import SampleError, batch_tokens, class_value

CHUNK = 256  # pictures that are open at a time
KEPT_BYTES = 2**29  # of decoded pictures of a set
Change = Callable[[list[np.ndarray], Sequence[int]], list[np.ndarray]]
"""change(pictures, rows): uint8 (H, W, C) of any size -> the same, protected; rows count in the whole set."""


class Lazy(Sequence):
    """Pictures that are read when they are asked for: uint8 (H, W, C), C = 1 or 3."""

    def __init__(self, rows: Sequence[int], read: Callable[[int], np.ndarray]) -> None:
        self.rows, self.read = rows, read

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: Any) -> Any:
        try:
            return self.read(self.rows[row])
        except (TypeError, ValueError) as error:
            raise SampleError.at([row], error) from None


@dataclass(frozen=True)
class Pictures:
    """A labelled set at its own resolution.

    Attributes:
        images: uint8 (H, W, C), C = 1 or 3, sizes may differ.
        labels: one an image, integers or text, as poisons get them.
        names: of the classes, where the labels are integers that count in them; else None.
        files: where each picture lies, of a folder; else None.
    """

    images: Sequence[np.ndarray]
    labels: list[int | str]
    names: list[str] | None = None
    files: list[str] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: Sequence[int]) -> "Pictures":
        """Some of the pictures, still read only when they are asked for."""
        return Pictures(Lazy(rows, self.images.__getitem__), [self.labels[row] for row in rows], self.names)


def read_pictures(
    source: Any, *, what: str, split: str = "train", image_key: str | None = None, label_key: str | None = None
) -> Pictures:
    """Open a labelled set.

    Args:
        source: a ``datasets.Dataset`` (of a ``DatasetDict`` the split is taken), a torchvision-style data set without
            transforms that make floats, a tuple ``(images, labels)``, or a path: a folder with one folder a class, a
            Parquet file or a folder of them, a set saved by ``save_to_disk``; a name that is no path is one of the Hub.
        what: what the set is for, for messages.
        split: taken where the source has several.
        image_key, label_key: columns; default: the common names.

    Raises:
        TypeError: a kind of source that is refused; the message says what to do.
        ValueError: no rows, rows without a label or without a readable picture.
    """
    if isinstance(source, str | Path):
        source = open_path(Path(source), split)
    if isinstance(source, Pictures):
        return source
    kind = type(source).__name__
    if kind in ("DatasetDict", "IterableDatasetDict"):
        if split not in source:
            raise ValueError(f"the {what} set has the splits {sorted(source)}, and no {split!r}: pass one of them")
        source = source[split]
        kind = type(source).__name__
    if kind == "Dataset" and type(source).__module__.startswith("datasets."):
        return _from_rows(source, what, image_key, label_key)
    if isinstance(source, tuple) and len(source) == 2:
        return _from_arrays(source[0], source[1], what)
    if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        raise TypeError(
            f"the {what} set is a {kind}, which can be read only once: materialise it first, for instance with "
            "datasets.Dataset.from_list(list(stream)), or save it as Parquet"
        )
    return _from_pairs(source, what)


def open_path(path: Path, split: str) -> Any:
    """The set at a path, or of that name on the Hub: something else that :func:`read_pictures` takes."""
    import datasets

    if path.is_file():
        return datasets.Dataset.from_parquet(str(path))
    if not path.exists():
        check_hub_name(path)
        return datasets.load_dataset(str(path), split=split)
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return datasets.load_from_disk(str(path))
    if tables := sorted(map(str, path.rglob("*.parquet"))):
        of_split = [table for table in tables if Path(table).name.startswith(split)] or tables
        return datasets.Dataset.from_parquet(of_split)
    folders = {folder.name.lower(): folder for folder in path.iterdir() if folder.is_dir()}
    return _folder(folders[split] if split in folders and set(folders) <= {"train", "test", "val"} else path)


def _folder(path: Path) -> Pictures:
    from torchvision.datasets import ImageFolder

    found = ImageFolder(str(path))  # sorted class folders, as `datasets` counts them
    files = [file for file, _ in found.samples]
    images = Lazy(range(len(files)), lambda row: open_encoded(None, files[row]).colour)
    return Pictures(images, [label for _, label in found.samples], found.classes, files)


def _from_rows(data: Any, what: str, image_key: str | None, label_key: str | None) -> Pictures:
    import datasets

    image_key, label_key = find_columns(data.column_names, image_key, label_key)
    feature = data.features[label_key]
    names = list(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    labels = _checked(data.with_format(None)[label_key], len(data), what)
    plain = data.select_columns([image_key]).with_format(None)
    return Pictures(Lazy(range(len(data)), lambda row: open_image(plain[row][image_key]).colour), labels, names)


def _from_arrays(images: Any, labels: Any, what: str) -> Pictures:
    count = len(images)
    if isinstance(images, torch.Tensor):
        images = images.detach().cpu()
    if isinstance(images, np.ndarray) and images.ndim == 3:
        images = images[..., None]
    return Pictures(Lazy(range(count), lambda row: open_image(images[row]).colour), _checked(labels, count, what), None)


def _from_pairs(data: Any, what: str) -> Pictures:
    images, labels = [], []
    for row in range(len(data)):
        pair = data[row]
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"the {what} set gives {type(pair).__name__}, not (image, label) pairs")
        try:
            images.append(open_image(pair[0]).colour)
        except (TypeError, ValueError) as error:
            raise SampleError.at([row], error) from None
        labels.append(pair[1])
    names = getattr(data, "classes", None)
    names = list(names) if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names) else None
    return Pictures(images, _checked(labels, len(images), what), names)


def _checked(labels: Any, count: int, what: str) -> list[int | str]:
    if count == 0:
        raise ValueError(f"the {what} set is empty")
    labels = labels if isinstance(labels, np.ndarray | torch.Tensor) else list(labels)
    return [class_value(token) for token in batch_tokens(labels, count)]


def common_classes(**sets: Pictures) -> list[int | str]:
    """The classes of several sets, in the order in which a network numbers them.

    Args:
        sets: the training set comes first: where no set names its classes, they are its labels, sorted.

    Raises:
        ValueError: fewer than two classes, or sets that do not fit together.
    """
    first, training = next(iter(sets.items()))
    if len(set(training.labels)) < 2:
        raise ValueError(
            f"all {len(training)} pictures of the {first} set have one label, {training.labels[0]!r}: a classifier "
            "needs at least two classes"
        )
    named = {name: pictures.names for name, pictures in sets.items() if pictures.names}
    classes: list[int | str] = list(next(iter(named.values()))) if named else sorted(set(training.labels), key=str)
    if not named and all(isinstance(label, int) for label in classes):
        classes.sort()
    for name, names in named.items():
        if names != classes:
            raise ValueError(
                f"the {name} set has the classes {_few(names or [])}, the {next(iter(named))} set {_few(classes)}: "
                "the same number would mean different things"
            )
    for name, pictures in sets.items():
        known = set(range(len(classes))) if named and isinstance(pictures.labels[0], int) else set(classes)
        strange = sorted(set(pictures.labels) - known, key=str)
        if strange:
            raise ValueError(
                f"the {name} set has labels {_few(strange)} that the {first} set does not know; its classes are "
                f"{_few(classes)}"
            )
    return classes


def _few(values: Sequence) -> str:
    return f"{list(values[:10])}" + (f" ... ({len(values)} in all)" if len(values) > 10 else "")


def numbers(pictures: Pictures, classes: list[int | str]) -> torch.Tensor:
    """int64 (N,): the place of each label in ``classes``."""
    if pictures.names is not None or all(isinstance(name, str) for name in classes):
        places = {name: place for place, name in enumerate(classes)}
        return torch.tensor([label if isinstance(label, int) else places[label] for label in pictures.labels])
    place = {name: place for place, name in enumerate(classes)}
    return torch.tensor([place[label] for label in pictures.labels])


def settled(pictures: Pictures) -> Pictures:
    """The same, read once and kept, where they are small enough; large ones are read again each time."""
    if len(pictures) * pictures.images[0].size > KEPT_BYTES:
        return pictures
    return Pictures(list(pictures.images), pictures.labels, pictures.names)


def own_size(pictures: Pictures) -> int:
    """The side of the pictures where all are squares of one size.

    Raises:
        ValueError: they are not.
    """
    shapes = {image.shape[:2] for image in pictures.images}
    (height, width), *rest = shapes
    if rest or height != width:
        raise ValueError(
            f"the pictures have {len(shapes)} sizes, such as {height}x{width}: say with image_size= to how many "
            "pixels a side the victim resizes them, for instance 64 or 224"
        )
    return height


def to_tensor(pictures: Pictures, size: int, change: Change | None = None) -> torch.Tensor:
    """Change, then resize the shorter side to ``size`` and cut out the middle: uint8 (N, 3, size, size)."""
    result = torch.empty((len(pictures), 3, size, size), dtype=torch.uint8)
    for start in range(0, len(pictures), CHUNK):
        rows = range(start, min(start + CHUNK, len(pictures)))
        images = [pictures.images[row] for row in rows]
        for row, image in zip(rows, images if change is None else change(images, rows), strict=True):
            result[row] = fit(image, size)
    return result


def fit(image: np.ndarray, size: int) -> torch.Tensor:
    """uint8 (H, W, C) -> uint8 (3, size, size), or of one channel that is written to three."""
    pixels = torch.tensor(image).permute(2, 0, 1)  # copied: decoders give arrays that may not be written to
    if pixels.shape[1:] != (size, size):
        pixels = v2.center_crop(v2.resize(pixels, [size], antialias=True), [size, size])
    return pixels


def digest(*tensors: torch.Tensor) -> str:
    """16 hexadecimal digits that name pixels and labels."""
    hashed = hashlib.sha256()
    for tensor in tensors:
        hashed.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        hashed.update(tensor.contiguous().numpy().data)
    return hashed.hexdigest()[:16]
