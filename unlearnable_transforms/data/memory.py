"""Labelled images that are held in memory or read by somebody's data set: arrays, pairs, torchvision's data sets."""

import copy
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..errors import UsageTypeError
from ..sample import SampleError
from .base import TRAIN, LabelledSet, Rows


class ArrayRows(Rows):
    """A tuple ``(images, labels)`` as ``Poison.apply`` takes it.

    Args:
        images: uint8 tensor (B, C, H, W), array (B, H, W, C) or (B, H, W), or a list of single images.
        labels: one an image.
    """

    def __init__(self, images: Any, labels: Any) -> None:
        if len(images) != len(labels):
            raise SampleError(f"{len(images)} images came with {len(labels)} labels; pass one label an image")
        if isinstance(images, torch.Tensor):
            images = images.detach().cpu()
        if isinstance(images, np.ndarray) and images.ndim == 3:
            images = images[..., None]
        self._images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self._images)

    def stored(self, rows: range) -> list[Any]:
        return [self._images[row] for row in rows]

    def place(self, row: int) -> str:
        return f"row {row}"


class PairRows(Rows):
    """A data set of ``(image, label)`` pairs, such as torchvision's.

    Args:
        data: has a length and is indexed by numbers.
    """

    def __init__(self, data: Any) -> None:
        self.data = data
        self._labels: Any = None

    def __len__(self) -> int:
        return len(self.data)

    @property
    def labels(self) -> Sequence[Any]:  # type: ignore[override]
        """One a row; where the data set keeps a list of them, no image is read."""
        if self._labels is None:
            targets = getattr(self.data, "targets", None)
            changed = getattr(self.data, "target_transform", None) is not None
            if targets is not None and not changed and len(targets) == len(self.data):
                self._labels = list(targets)
            else:
                self._labels = [self._pair(row)[1] for row in range(len(self.data))]
        return self._labels

    def stored(self, rows: range) -> list[Any]:
        return [self._pair(row)[0] for row in rows]

    def place(self, row: int) -> str:
        return f"row {row}"

    def _pair(self, row: int) -> Any:
        item = self.data[row]
        if not isinstance(item, tuple | list) or len(item) < 2:
            raise UsageTypeError(f"item {row} is {type(item).__name__}, not an (image, label) pair")
        return item


def open_arrays(images: Any, labels: Any) -> LabelledSet:
    """A tuple ``(images, labels)``.

    Raises:
        SampleError: as many labels as images are needed.
    """
    return LabelledSet("the images", {TRAIN: ArrayRows(images, labels)})


def open_pairs(data: Any) -> LabelledSet:
    """A data set of ``(image, label)`` pairs. A torchvision data set is read without its transforms."""
    if _is_torchvision(data) and (data.transform is not None or data.transforms is not None):
        data = copy.copy(data)  # its transforms run after the protection, as ProtectedDataset does it
        data.transform = data.transforms = None
    names: Any = getattr(data, "classes", None)
    named = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return LabelledSet(type(data).__name__, {TRAIN: PairRows(data)}, names=list(names) if named else None)


def _is_torchvision(data: Any) -> bool:
    """Importing torchvision takes seconds; where nobody has, the data is not one of its sets."""
    known = sys.modules.get("torchvision.datasets")
    return known is not None and isinstance(data, known.VisionDataset)
