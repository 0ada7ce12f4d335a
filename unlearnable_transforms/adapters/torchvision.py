"""torchvision: a data set whose pictures are protected before anything else happens to them."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torchvision.datasets import VisionDataset

from ..poisons.base import Poison


class ProtectedDataset(torch.utils.data.Dataset):
    """A map-style data set of ``(image, label)`` with its pictures protected, then transformed.

    A torchvision data set's own ``transform`` sees the picture alone, so a poison, which needs the label, cannot be
    put there; and it must come before random augmentation. This wrapper takes the transform of a torchvision data set
    over and runs it after the poison.

    Args:
        dataset: yields ``(image, label)`` or ``(image, label, ...)``: PIL, uint8 tensor (C, H, W) or array (H, W, C).
        poison: a fitted protection method.
        transform: runs on the protected picture. Default: the data set's own transform, if it is a torchvision one.

    Raises:
        TypeError: ``poison`` is not a poison, or the data set has no length and positions.
        ValueError: a transform that this wrapper cannot take over would run before the poison.
    """

    def __init__(self, dataset: Any, poison: Poison, transform: Callable[[Any], Any] | None = None) -> None:
        if not isinstance(poison, Poison):
            raise TypeError(f"poison is a {type(poison).__name__}, not a protection method")
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise TypeError(
                "the data set has no length and positions; for a stream use poison(image, label) on each item"
            )
        own = getattr(dataset, "transform", None)
        if isinstance(dataset, VisionDataset) and own is not None:
            if transform is not None:
                raise ValueError("the data set has a transform already: give either that one or transform=, not both")
            dataset = copy.copy(dataset)
            dataset.transform = None
            if dataset.transforms is not None:
                dataset.transforms = copy.copy(dataset.transforms)
                dataset.transforms.transform = None
            transform = own
        _refuse_transform(dataset)
        self.dataset = dataset
        self.poison = poison
        self.transform = transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple:
        item = self.dataset[index]
        if not isinstance(item, tuple | list) or len(item) < 2:
            raise TypeError(f"item {index} is not (image, label) but {type(item).__name__}")
        image, label = self.poison(item[0], item[1])
        return (image if self.transform is None else self.transform(image), label, *item[2:])


def _refuse_transform(dataset: Any) -> None:
    """A transform left in the data set, also under Subset and ConcatDataset, would run before the protection."""
    if getattr(dataset, "transform", None) is not None:
        raise ValueError(
            f"the transform of {type(dataset).__name__} would run before the poison, on pictures that are then not "
            "the published ones: make the data set without it and pass it as ProtectedDataset(..., transform=)"
        )
    inner = getattr(dataset, "dataset", None)
    for part in [*getattr(dataset, "datasets", ()), *([] if inner is None else [inner])]:
        _refuse_transform(part)
