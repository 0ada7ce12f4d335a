"""Any labelled images -> uint8 (N, 3, S, S), int64 labels and class names, as a victim gets to see them.

The order is that of practice: images are protected at their own resolution and stored as bytes; whoever trains on them
resizes afterwards. Clean, protected and test images go through the same resize.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torchvision.transforms.v2 import functional as v2
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from ..data.base import LabelledSet, Rows, select
from ..data.open import open_data
from ..errors import UsageError
from ..pixels import CHUNK_VALUES
from ..poisons.base import Poison
from ..sample import batch_tokens, class_value

CHUNK = 256  # images that are open at a time, at most: camera-size ones are opened one by one
KEPT_BYTES = 2**28  # of decoded images of a set
Change = Callable[[list[np.ndarray], Sequence[int]], list[np.ndarray]]
"""change(images, rows): uint8 (H, W, C) of any size -> the same, protected; rows count in the whole set."""


@dataclass(frozen=True)
class Pictures:
    """One split of a labelled set at its own resolution.

    Attributes:
        rows: where the images are read.
        images: uint8 (H, W, C), C = 1 or 3, sizes may differ.
        labels: one an image, integers or text.
        names: of the classes, where the labels are integers that count in them; else None.
        data: the set that the split belongs to.
    """

    rows: Rows
    images: Sequence[np.ndarray]
    labels: list[int | str]
    names: list[str] | None
    data: LabelledSet

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: Sequence[int]) -> "Pictures":
        """Some of the images, still read only when they are asked for."""
        some = select(self.rows, rows)
        return replace(self, rows=some, images=some.images, labels=[self.labels[row] for row in rows])

    def tokens(self, poison: Poison) -> list[str]:
        """The class token of each image, as ``protect`` makes it of the same source."""
        values = self.labels
        if self.data.by_name:
            by_place = self.data.class_values(poison)
            values = [by_place[int(label)] for label in self.labels]
        return batch_tokens(values, len(values), poison.classes)


def read_pictures(
    source: Any, *, what: str, split: str = "train", image_key: str | None = None, label_key: str | None = None
) -> Pictures:
    """Open one split of what :func:`~unlearnable_transforms.data.open.open_data` takes.

    Args:
        what: what the set is for, for messages.
        split: taken where the source has several.

    Raises:
        TypeError: a kind of source that is refused; the message says what to do.
        ValueError: no rows, rows without a label or without a readable image.
    """
    if isinstance(source, Pictures):
        return source
    data = open_data(source, what=what, image_key=image_key, label_key=label_key)
    rows = data.pick(split, what)
    if not len(rows):
        raise UsageError(f"the {what} set is empty")
    if rows.labels is None:
        raise UsageError(f"the {what} set has no labels: say where they are with label_key=")
    labels = [class_value(token) for token in batch_tokens(rows.labels, len(rows))]
    return Pictures(rows, rows.images, labels, data.names, data)


def common_classes(**sets: Pictures) -> list[int | str]:
    """The classes of several sets, in the order in which a network numbers them.

    Where no set names its classes, they are the sorted labels of the first set, which is the training set.

    Raises:
        ValueError: fewer than two classes, or sets that do not fit together.
    """
    first, training = next(iter(sets.items()))
    if len(set(training.labels)) < 2:
        raise UsageError(
            f"all {len(training)} pictures of the {first} set have one label, {training.labels[0]!r}: a classifier "
            "needs at least two classes"
        )
    named = {name: pictures.names for name, pictures in sets.items() if pictures.names}
    classes: list[int | str] = list(next(iter(named.values()))) if named else sorted(set(training.labels), key=str)
    if not named and all(isinstance(label, int) for label in classes):
        classes.sort()
    for name, names in named.items():
        if names != classes:
            raise UsageError(
                f"the {name} set has the classes {_few(names or [])}, the {next(iter(named))} set {_few(classes)}: "
                "the same number would mean different things"
            )
    for name, pictures in sets.items():
        known = set(range(len(classes))) if named and isinstance(pictures.labels[0], int) else set(classes)
        strange = sorted(set(pictures.labels) - known, key=str)
        if strange:
            raise UsageError(
                f"the {name} set has labels {_few(strange)} that the {first} set does not know; its classes are "
                f"{_few(classes)}"
            )
    return classes


def _few(values: Sequence) -> str:
    return f"{list(values[:10])}" + (f" ... ({len(values)} in all)" if len(values) > 10 else "")


def numbers(pictures: Pictures, classes: list[int | str]) -> torch.Tensor:
    """int64 (N,): the place of each label in ``classes``."""
    places = {name: place for place, name in enumerate(classes)}
    counted = pictures.names is not None or all(isinstance(name, str) for name in classes)  # integers are places
    return torch.tensor([label if counted and isinstance(label, int) else places[label] for label in pictures.labels])


def settled(pictures: Pictures) -> Pictures:
    """The same, read once and kept, where they are small enough; large ones are read again each time."""
    kept, size = [], 0
    for image in pictures.images:
        size += image.size
        if size > KEPT_BYTES:
            return pictures
        kept.append(image)
    return replace(pictures, images=kept)


def chunks(images: Sequence[np.ndarray], rows: Sequence[int]) -> Iterator[tuple[Sequence[int], list[np.ndarray]]]:
    """Some rows at a time, and their images: at most ``CHUNK`` of them, of about ``CHUNK_VALUES`` values."""
    opened: list[np.ndarray] = []
    start = values = 0
    for place, row in enumerate(rows):
        image = images[row]
        if opened and (len(opened) == CHUNK or values + image.size > CHUNK_VALUES):
            yield rows[start:place], opened
            start, opened, values = place, [], 0
        opened.append(image)
        values += image.size
    if opened:
        yield rows[start:], opened


def common_side(pictures: Pictures) -> int:
    """The side of the pictures; a ValueError where they are not squares of one size."""
    shapes = {image.shape[:2] for image in pictures.images}
    (height, width), *rest = shapes
    if rest or height != width:
        raise UsageError(
            f"the pictures have {len(shapes)} sizes, such as {height}x{width}: say with image_size= to how many "
            "pixels a side the victim resizes them, for instance 64 or 224"
        )
    return height


def to_tensor(pictures: Pictures, size: int, change: Change | None = None, progress: str = "") -> torch.Tensor:
    """Change, then resize the shorter side to ``size`` and cut out the middle: uint8 (N, 3, size, size).

    Args:
        progress: what a bar on a terminal says; empty: there is none.
    """
    result = torch.empty((len(pictures), 3, size, size), dtype=torch.uint8)
    with tqdm(total=len(pictures), desc=progress, unit="pictures", disable=None if progress else True) as bar:
        for rows, images in chunks(pictures.images, range(len(pictures))):
            for row, image in zip(rows, images if change is None else change(images, rows), strict=True):
                result[row] = fit(image, size)
            bar.update(len(rows))
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
