"""torchvision: a dataset whose images are protected before anything else happens to them."""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torchvision.datasets import VisionDataset
from torchvision.datasets.vision import StandardTransform

from ..data.beside import row_images
from ..errors import UsageError, UsageTypeError
from ..poisons.base import Poison

# What samplers and reports ask of a torchvision dataset. Not `data` and the like, which hold the clean images, and not
# `__getitems__`, by which a DataLoader would pass the poison by.
_FORWARDED = frozenset(
    ("classes", "class_to_idx", "targets", "labels", "samples", "imgs", "split", "root", "wnids", "wnid_to_idx")
)


class ProtectedDataset(torch.utils.data.Dataset):
    """A map-style dataset of ``(image, label)`` with its images protected, then transformed.

    A torchvision dataset's own ``transform`` sees the image alone, so a poison, which needs the label, cannot be
    put there; and it must come before random augmentation. This wrapper takes the transform of a torchvision dataset
    over and runs it after the poison. ``classes``, ``class_to_idx``, ``targets``, ``samples`` and the like are those
    of the dataset.

    Args:
        dataset: yields ``(image, label)`` or ``(image, label, ...)``: PIL, uint8 tensor (C, H, W) or array (H, W, C).
        poison: a fitted protection method.
        transform: runs on the protected image. Default: the dataset's own transform, if it is a torchvision one.

    Raises:
        UsageTypeError: ``poison`` is not a poison, or the dataset has no length and positions.
        UsageError: a transform that this wrapper cannot take over would run before the poison; or, when an item is
            read, a second image in it, which would stay unprotected.
    """

    def __init__(self, dataset: Any, poison: Poison, transform: Callable[[Any], Any] | None = None) -> None:
        if not isinstance(poison, Poison):
            raise UsageTypeError(f"poison is a {type(poison).__name__}, not a protection method")
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise UsageTypeError(
                "the dataset has no length and positions; for a stream use poison(image, label) on each item"
            )
        inner = getattr(dataset, "transform", None)
        if isinstance(dataset, VisionDataset) and inner is not None:
            if transform is not None:
                raise UsageError("the dataset has a transform already: give either that one or transform=, not both")
            dataset = copy.copy(dataset)
            dataset.transform = None
            if isinstance(dataset.transforms, StandardTransform):
                dataset.transforms = copy.copy(dataset.transforms)
                dataset.transforms.transform = None
            transform = inner
        _refuse_transform(dataset)
        self.dataset = dataset
        self.poison = poison
        self.transform = transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple:
        item = self.dataset[index]
        if not isinstance(item, tuple | list) or len(item) < 2:
            raise UsageTypeError(f"item {index} is not (image, label) but {type(item).__name__}")
        more = row_images({f"item[{place}]": value for place, value in enumerate(item[2:], 2)}, None)
        if more:
            raise UsageError(
                f"{' and '.join(more)} of item {index} hold images too and would stay unprotected: let the dataset "
                "yield (image, label)"
            )
        image, label = self.poison(item[0], item[1])
        values = (image if self.transform is None else self.transform(image), label, *item[2:])
        return item._make(values) if hasattr(item, "_make") else values  # a named tuple stays one

    def __getattr__(self, name: str) -> Any:
        if name in _FORWARDED:
            return getattr(self.dataset, name)
        raise AttributeError(f"ProtectedDataset has no {name!r}; the clean dataset is its attribute `dataset`")


def _refuse_transform(dataset: Any) -> None:
    """A transform left in the dataset, also under Subset and ConcatDataset, would run before the protection, and so
    would another protection."""
    if isinstance(dataset, ProtectedDataset):
        raise UsageError("the dataset is a ProtectedDataset already: combine methods in a Chain (docs/chain.md)")
    joint = getattr(dataset, "transforms", None)
    if isinstance(joint, StandardTransform):
        joint = joint.transform  # one of the labels alone may stay
    if getattr(dataset, "transform", None) is not None or joint is not None:
        raise UsageError(
            f"the transform of {type(dataset).__name__} would run before the poison, on images that are then not "
            "the published ones: make the dataset without it and pass it as ProtectedDataset(..., transform=); a "
            "joint one of image and label (transforms=) runs on what ProtectedDataset returns"
        )
    for part in _parts(dataset):
        _refuse_transform(part)


def _parts(dataset: Any) -> Iterator[Any]:
    """The datasets inside Subset, ConcatDataset, StackDataset and wrappers like them."""
    inside = getattr(dataset, "datasets", ())
    yield from inside.values() if isinstance(inside, Mapping) else inside
    yield from (part for name in ("dataset", "_dataset") if (part := getattr(dataset, name, None)) is not None)
