"""OPS: One-Pixel Shortcut (Wu, Chen, Xie and Huang, ICLR 2023, arXiv 2205.12141).

One pixel of every image gets the colour of its class, always at the same place: a network learns to look there. For
each class the pixel p and the colour v, whose channels are 0 or 255, are those with the largest

    mean |v - x_p| / std |v - x_p|      over the images x of the class and the channels

(as the paper's code has it). Classes choose one after the other, in the order of their sorted tokens, and a pair (p, v)
that is taken is out for those that follow. As |v - x| is x or 255 - x, sums of x and of x**2 for each class and pixel
are all that is needed: one pass over the data, exact in any order. A std below half a level counts as half a level, and
the key says which of equals is taken.

Images of other sizes. Places are those of a grid: that of the images' own pixels if all have one size of up to
``LARGEST`` pixels, else of 64 x 64 cells to which they are resized for the sums. In an image of h x w pixels under a
grid of H x W cells, a pixel becomes a square with a side of round(min(h / H, w / W)), at least 1, around the middle of
its cell, and as such is still there when somebody shrinks the image.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError, UsageTypeError
from ..noise.pictures import MIXED_SIDE, Source, as_grey, resize
from ..params import learnt, param
from ..pixels import grey_rows
from ..sample import SampleError, class_token, class_value
from .base import Behind, Poison, register
from .fitted import source_of
from .undo import fill_in

LARGEST = MIXED_SIDE**2  # pixels of a picture whose own pixels are the grid
STD = 0.5  # levels: a smaller standard deviation counts as this
COLOURS = 255 * ((np.arange(8)[:, None] >> np.array([2, 1, 0])) & 1)  # (8, 3), from black to white


class Sums(NamedTuple):
    """Of the pictures of a class: how many, and for every channel and cell the sums of x and of x**2, (3, H, W)."""

    pictures: int
    first: np.ndarray
    second: np.ndarray


@register("ops")
class OPSPoison(Poison):
    """One pixel of each picture in the colour of its class: no model, one pass over the data, all else untouched."""

    paper = "OPS: One-Pixel Shortcut (Wu, Chen, Xie and Huang, ICLR 2023, arXiv 2205.12141)"
    sparsity: int = param("pixels a class", default=1, low=1)
    work_size: int | None = param(
        "side of the grid in cells. None: the images' own pixels, or 64 where they are larger than 64 x 64 or of "
        "several sizes",
        default=None, low=1,
    )  # fmt: skip
    data: Any = param("fit on this at once", default=None, decides="work", then="fit")
    pixels: Any = learnt(
        "what a fit has found, or somebody else's: a mapping label -> [(row, column, red, green, blue), ...], or its "
        "pairs; rows and columns are cells of the grid, colours 0..255. They are as secret as a key",
        default=None,
    )
    grid: Sequence[int] | None = learnt("(height, width) of the grid that the pixels are counted on", default=None)

    def _prepare(self) -> None:
        super()._prepare()
        if self.pixels is None:
            self._private_key()
        if (self.pixels is None) != (self.grid is None):
            raise UsageTypeError("pixels= are counted on grid=(height, width): give both, or neither and call fit")
        self._spots: dict[str, np.ndarray] = {}
        if self.pixels is not None and self.grid is not None:
            grid = int(self.grid[0]), int(self.grid[1])
            self._take(_checked(self.pixels, grid, self.classes), grid)

    def _take(self, spots: dict[str, np.ndarray], grid: tuple[int, int]) -> None:
        self._spots, self.grid = spots, grid
        self.pixels = [[class_value(token), values.tolist()] for token, values in spots.items()]

    @property
    def fitted(self) -> bool:
        return self.pixels is not None

    def public_state(self) -> dict[str, Any]:
        """Without the pixels; but other pixels have another digest, if there is a key to hide them with."""
        hidden = None if self.pixels is None else f"secret pixels of {len(self._spots)} classes"
        if hidden and self.key is not None:
            hidden += f", {int(self._stream('digest', json.dumps(self.pixels)).words(1)[0]):016x}"
        return {**self.fitted_state(), "pixels": hidden}

    # ---- fitting --------------------------------------------------------------------------------------------------

    def fit(self, data: Any, transform: Callable | None = None) -> Self:
        """Find the pixel and the colour of each class; replaces what an earlier fit has found.

        Arguments are those of ``FittedPoison.fit``.

        Raises:
            TypeError: a streaming data set, or something else that cannot be read twice; no key.
            SampleError: an image or label that cannot be used, its row named; or no images.
            ValueError: more classes than there are pixels and colours.
        """
        self._private_key()
        data, chain = Behind.split(data)
        sums, only_grey = statistics(source_of(self, data, transform, chain), self.work_size)
        if not sums:
            raise SampleError("the data set is empty: there is nothing to learn from")
        height, width = next(iter(sums.values())).first.shape[1:]
        order = self._stream("equals").permutation(height * width)
        self._take(choose(sums, COLOURS[[0, 7]] if only_grey else COLOURS, self.sparsity, order), (height, width))
        return self

    # ---- protecting -----------------------------------------------------------------------------------------------

    def _protect(self, images: Tensor, tokens: Sequence[str], ids: Sequence[bytes] | None) -> Tensor:
        assert self.grid is not None
        if without := [row for row, token in enumerate(tokens) if token not in self._spots]:
            raise SampleError(
                f"the class {class_value(tokens[without[0]])!r} has no pixel: the method was fitted on "
                f"{[class_value(token) for token in self._spots]}; fit it on data that has all classes",
                without,
            )
        numbers = {token: number for number, token in enumerate(self._spots)}
        table = np.stack(list(self._spots.values()))
        spots = table[[numbers[token] for token in tokens]]  # (B, sparsity, 5)
        colours = spots[:, :, 2:]
        if (colours != colours[:, :, :1]).any():
            grey = grey_rows(images).numpy()
            colours[grey] = np.rint(colours[grey].mean(2, keepdims=True))
        (height, width), (high, wide) = images.shape[2:], self.grid
        side = max(1, int(min(height / high, width / wide) + 0.5))
        changed = images.numpy().copy()
        picture = np.arange(len(changed))[:, None, None]
        for spot in range(spots.shape[1]):
            y = _places(spots[:, spot, 0], high, height, side)[:, :, None]
            x = _places(spots[:, spot, 1], wide, width, side)[:, None, :]
            changed.transpose(0, 2, 3, 1)[picture, y, x] = colours[:, spot, None, None, : changed.shape[1]]
        return torch.from_numpy(changed)

    def _unlock(self, images: Tensor, tokens: Sequence[str], ids: Any, notes: Any) -> Tensor:
        """What was written over is lost: its neighbours stand in for it."""
        return fill_in(self._protect, images, tokens)


def _places(cells: np.ndarray, count: int, length: int, side: int) -> np.ndarray:
    """Rows, or columns, of the squares around the middles of cells, rounded to whole pixels: (B,) -> (B, side)."""
    first = ((2 * cells + 1) * length - side * count + count) // (2 * count)
    return first.clip(0, length - side)[:, None] + np.arange(side)


# ---- sums over the data ----------------------------------------------------------------------------------------------


def statistics(source: Source, work_size: int | None = None) -> tuple[dict[str, Sums], bool]:
    """Sums by class token on a grid of ``work_size`` (see :class:`OPSPoison`), and whether an image is grey, so that
    colours have to be black or white."""
    size = None if work_size is None else (work_size, work_size)
    sums: dict[str, Sums] = {}
    any_grey = False
    for sample in source:
        shape = sample.colour.shape[:2]
        size = size or shape
        if work_size is None and (shape != size or shape[0] * shape[1] > LARGEST):
            return statistics(source, MIXED_SIDE)
        any_grey = any_grey or as_grey(sample.colour).shape[2] == 1
        x = sample.colour.transpose(2, 0, 1)
        if shape != size:
            x = resize(torch.from_numpy(x[None].astype(np.float32)), size)[0].round().clamp(0, 255).numpy()
        x = np.broadcast_to(x, (3, *size)).astype(np.float64)  # whole numbers, and so are the sums
        before = sums.get(sample.token, Sums(0, np.zeros(1), np.zeros(1)))
        sums[sample.token] = Sums(before.pictures + 1, before.first + x, before.second + x * x)
    return sums, any_grey


# ---- the choice ------------------------------------------------------------------------------------------------------


def choose(sums: Mapping[str, Sums], colours: np.ndarray, sparsity: int, order: np.ndarray) -> dict[str, np.ndarray]:
    """The pixels of each class: int64 (sparsity, 5), row, column, red, green, blue, by class token.

    ``colours`` (n, 3) are those there are to choose from. Of equally good cells the first in ``order``, flat places
    (H * W,), is taken. The pixels of a class differ, whatever their colours.

    Raises:
        ValueError: too few pixels for so many classes.
    """
    cells = len(order)
    if sparsity > cells or sparsity * len(sums) > cells * len(colours):
        raise UsageError(
            f"{len(sums)} classes with {sparsity} pixels each do not fit into {cells} cells with {len(colours)} "
            "colours: use larger pictures, a larger work_size or a smaller sparsity"
        )
    width = next(iter(sums.values())).first.shape[2]
    free = np.ones((len(colours), cells), bool)
    chosen: dict[str, np.ndarray] = {}
    for token in sorted(sums):
        ranking = np.where(free, scores(sums[token], colours), -1)[:, order]
        best = ranking.max(0)
        places = np.argsort(-best, kind="stable")[:sparsity]
        if best[places[-1]] <= 0:
            raise UsageError(
                f"no {sparsity} pixels are left that change pictures of class {class_value(token)!r}: use larger "
                "pictures or a smaller sparsity"
            )
        numbers, flat = ranking[:, places].argmax(0), order[places]
        free[numbers, flat] = False
        chosen[token] = np.column_stack([flat // width, flat % width, colours[numbers]])
    return chosen


def scores(sums: Sums, colours: np.ndarray) -> np.ndarray:
    """mean / std of |v - x|, (n, H * W), of colours (n, 3) whose channels are 0 or 255."""
    first, second = sums.first.reshape(3, -1), sums.second.reshape(3, -1)
    dark = np.stack([first, 255 * sums.pictures - first])  # sum of |v - x| for v = 0 and v = 255
    square = np.stack([second, 255**2 * sums.pictures - 510 * first + second])
    bright = (colours > 0).astype(int)
    total = sum(dark[bright[:, channel], channel] for channel in range(3))
    squares = sum(square[bright[:, channel], channel] for channel in range(3))
    mean = total / (3 * sums.pictures)
    variance = squares / (3 * sums.pictures) - mean**2
    return mean / np.maximum(np.sqrt(np.maximum(variance, 0)), STD)


def _checked(pixels: Any, grid: tuple[int, int], classes: Sequence | None) -> dict[str, np.ndarray]:
    if isinstance(pixels, str) or not isinstance(pixels, Mapping | Sequence):
        raise UsageTypeError(
            "pixels is a mapping label -> [(row, column, red, green, blue), ...]; those of a fit are secret and stand "
            "in no configuration: fit again"
        )
    by_class: dict[str, np.ndarray] = {}
    for label, spots in pixels.items() if isinstance(pixels, Mapping) else pixels:
        token = class_token(label, classes)
        if token in by_class:
            raise UsageError(f"pixels names class {class_value(token)!r} twice")
        values = np.array(spots)
        if values.ndim != 2 or values.shape[1] != 5 or not len(values) or not isinstance(values.flat[0], Integral):
            raise UsageError(f"the pixels of class {label!r} are not [(row, column, red, green, blue), ...], whole")
        if (values < 0).any() or (values[:, :2] >= grid).any() or (values[:, 2:] > 255).any():
            raise UsageError(f"the pixels of class {label!r} lie outside the grid {grid}, or colours outside 0..255")
        by_class[token] = values.astype(np.int64)
    if len({len(values) for values in by_class.values()}) != 1:
        raise UsageError("pixels is empty, or has more for one class than for another: give the same number for each")
    return dict(sorted(by_class.items()))
