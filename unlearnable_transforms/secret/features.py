"""What a picture looks like, in numbers: the shapes in it, or what a network makes of it.

Pictures are cut to their middle square and shrunk first. Features are whole numbers, so that clusters of them can be
found in exact arithmetic. Those of ``Shapes`` are made of exact sums and single roundings: they are the same on every
machine.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from ..data.base import Rows
from ..errors import UsageError, WorkError
from ..jobs.workers import run_tasks

STARTED = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")  # victims of the extra ``pretrained``
LEVELS = 1 << 14  # what a feature of 1 becomes
BATCH = 32  # pictures
WORTH_A_PROCESS = 200  # pictures: fewer take less time than the start of another process
PREFIX = "timm:"
CELL, BINS = 8, 8
ANGLES = np.pi * np.arange(BINS) / BINS
COSINES, SINES = (np.rint(64 * wave(ANGLES)).astype(np.int16) for wave in (np.cos, np.sin))
MIRRORED = -np.arange(BINS) % BINS  # the orientation of an edge in the mirror


class Backbone(Protocol):
    """Makes int16 (B, d) of uint8 (B, side, side, 3)."""

    name: str
    side: int

    def __call__(self, images: np.ndarray) -> np.ndarray: ...


class Shapes:
    """Orientations of edges in 8 x 8 cells of an image of 64 px; an image and its mirror image are alike.

    Histograms of oriented gradients (Dalal and Triggs, CVPR 2005): at each pixel the colour channel with the largest
    gradient votes for one of 8 orientations, with the gradient's length. Other than there, a cell with the histogram h
    is normalised by itself and by the whole image, h / sqrt(|h|^2 + mean of |h|^2), so that plain walls stay weak,
    and each cell is the mean of itself and its mirror image, so that the left half says all.
    """

    name = "shapes"
    side = 64

    def __call__(self, images: np.ndarray) -> np.ndarray:
        cells = self._histograms(images.astype(np.int16))
        half = cells.shape[2] // 2
        both = cells[:, :, :half] + cells[:, :, half:][:, :, ::-1][..., MIRRORED]
        return np.rint(LEVELS / 2 * both).astype(np.int16).reshape(len(images), -1)

    def _histograms(self, images: np.ndarray) -> np.ndarray:
        """Float64 (B, cells, cells, bins) in [0, 1) of int16 (B, side, side, 3)."""
        across, down = np.zeros((2, *images.shape), np.int16)
        across[:, :, 1:-1] = images[:, :, 2:] - images[:, :, :-2]
        down[:, 1:-1] = images[:, 2:] - images[:, :-2]
        strongest = (np.abs(across) + np.abs(down)).argmax(3)[..., None]
        across, down = (np.take_along_axis(part, strongest, 3)[..., 0] for part in (across, down))
        length = np.rint(np.sqrt(across.astype(np.float64) ** 2 + down.astype(np.float64) ** 2))
        direction = np.zeros(across.shape, np.int64)
        largest = np.abs(across * COSINES[0] + down * SINES[0])
        for number in range(1, BINS):  # the largest projection wins
            projected = np.abs(across * COSINES[number] + down * SINES[number])
            direction[projected > largest] = number
            np.maximum(largest, projected, out=largest)
        place, cells = np.arange(self.side) // CELL, self.side // CELL
        picture = np.arange(len(images))[:, None, None]
        where = ((picture * cells + place[:, None]) * cells + place) * BINS + direction
        shape = (len(images), cells, cells, BINS)
        votes = np.bincount(where.ravel(), length.ravel(), math.prod(shape)).reshape(shape)
        energy = (votes**2).sum(3, keepdims=True)
        return votes / np.sqrt(np.maximum(1, energy + energy.mean((1, 2), keepdims=True)))


class Timm:
    """What a pretrained network of timm sees: the features before its last layer, of length 1. Its name is ``timm:``
    and a network of timm, with the tag of its weights.

    Raises:
        ImportError: timm is not installed.
        RuntimeError: no such network, or its weights cannot be had.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        try:
            import timm
        except ImportError:
            raise ImportError(
                f"the backbone {self.name} needs timm: pip install timm, or the extra unlearnable-transforms[victims]"
            ) from None
        try:
            with torch.random.fork_rng(devices=[]):
                self._net = timm.create_model(self.name.removeprefix(PREFIX), pretrained=True, num_classes=0).eval()
        except Exception as error:  # whatever timm, the Hub and the network raise
            raise WorkError(
                f"the weights of {self.name} cannot be had ({str(error).splitlines()[0] if str(error) else error!r}): "
                "timm fetches them once from the Hugging Face Hub and keeps them, so be online the first time, see "
                "timm.list_pretrained() for the names, or take the built-in backbone, which needs none"
            ) from error
        config = timm.data.resolve_model_data_config(self._net)
        self.side = config["input_size"][-1]
        self._mean, self._std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
            return of_length_one(self._net((pixels - self._mean) / self._std))

    def __reduce__(self) -> tuple:  # a worker loads the weights from timm's cache
        return Timm, (self.name,)


class Started:
    """What one of the library's victims sees that starts from ImageNet weights, such as ``efficientnet_lite0``: the
    features before its last layer, of length 1. Nothing is downloaded.

    Raises:
        ImportError: the extra ``pretrained`` is not installed.
    """

    side = 160  # the clusters of photographs are as good as at 224 pixels, in half the time

    def __init__(self, name: str) -> None:
        from ..training.model import PixelModel  # with torchvision: seconds, for this backbone alone
        from ..victims.registry import IMAGENET, build_victim

        self.name = name
        net = build_victim(f"{name}:weights={IMAGENET}", 2, self.side).to(memory_format=torch.channels_last).eval()
        net.classifier = torch.nn.Identity()
        self._model = PixelModel(net, bf16=False)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return of_length_one(self._model(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255))

    def __reduce__(self) -> tuple:  # a worker loads the weights from the package
        return Started, (self.name,)


class Custom:
    """What a function of the caller's makes of pictures: uint8 (B, 3, 224, 224) -> (B, d), taken at length 1."""

    side = 224

    def __init__(self, function: Callable[[torch.Tensor], Any]) -> None:
        self.function = function
        kind = function if hasattr(function, "__qualname__") else type(function)
        self.name = f"{kind.__module__}.{kind.__qualname__}"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return of_length_one(self.function(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()), len(images))


def get_backbone(backbone: str | Callable | None) -> Backbone:
    """The backbone that a name, a function or None (the built-in one) stands for; errors are those of :class:`Started`
    and :class:`Timm`, and a ValueError for another name."""
    if backbone is None or backbone == Shapes.name:
        return Shapes()
    if isinstance(backbone, str) and backbone.startswith(PREFIX):
        return Timm(backbone)
    if isinstance(backbone, str) and backbone in STARTED:
        return Started(backbone)
    if callable(backbone):
        return Custom(backbone)
    raise UsageError(
        f"the backbone is 'shapes', {', '.join(map(repr, STARTED))}, 'timm:NAME' or a function of uint8 "
        f"(B, 3, 224, 224), not {backbone!r}"
    )


def of_length_one(features: Any, count: int | None = None) -> np.ndarray:
    """Features (B, d), any numbers, as int16 of length ``LEVELS``.

    Raises:
        ValueError: another shape, or NaN or infinity.
    """
    values = torch.as_tensor(features).detach().cpu().double().numpy()
    if values.ndim != 2 or len(values) != (len(values) if count is None else count):
        raise UsageError(f"a backbone makes (B, d) of B pictures, not {values.shape} of {count}")
    if not np.isfinite(values).all():
        raise UsageError("the backbone makes NaN or infinity of these pictures")
    length = np.sqrt((values**2).sum(1, keepdims=True))
    return np.rint(LEVELS * values / np.where(length == 0, 1, length)).astype(np.int16)


# ---- of many pictures ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureWorker:
    """Features of some images; what cannot be read gets none, and the reason is returned."""

    images: Rows
    backbone: Backbone

    def __call__(self, rows: range) -> tuple[list[int], np.ndarray | None, dict[int, str]]:
        small, read, unreadable = [], [], {}
        for row in rows:
            try:
                (stored,) = self.images.stored(range(row, row + 1))
                small.append(middle_square(self.images.open(stored).colour, self.backbone.side))
                read.append(row)
            except (OSError, TypeError, ValueError) as error:
                unreadable[row] = str(error)
        return read, self.backbone(np.stack(small)) if small else None, unreadable


def features_of(images: Rows, backbone: Backbone, processes: int = 1) -> tuple[np.ndarray, dict[int, str]]:
    """Features of many images, shared by at most so many processes (a function stays in this one).

    Returns:
        int16 (N, d), zeros where an image cannot be read; and why not, by row.
    """
    count, unreadable = len(images), {}
    features = np.zeros((count, 0), np.int16)
    rows = [range(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]
    useful = 1 if isinstance(backbone, Custom) else max(1, min(processes, count // WORTH_A_PROCESS))
    for read, values, reasons in run_tasks(FeatureWorker(images, backbone), rows, useful):
        if values is not None:
            if not features.shape[1]:
                features = np.zeros((count, values.shape[1]), np.int16)
            features[read] = values
        unreadable.update(reasons)
    return features, dict(sorted(unreadable.items()))


def middle_square(colour: np.ndarray, side: int) -> np.ndarray:
    """The middle square of uint8 (H, W, C), C = 1 or 3, as uint8 (side, side, 3)."""
    height, width = colour.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    square = np.ascontiguousarray(np.broadcast_to(colour[top : top + short, left : left + short], (short, short, 3)))
    if short == side:
        return square
    return np.asarray(Image.fromarray(square).resize((side, side), Image.Resampling.BICUBIC))
