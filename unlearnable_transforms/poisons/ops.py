"""OPS: One-Pixel Shortcut (Wu, Chen, Xie and Huang, ICLR 2023, arXiv 2205.12141).

One pixel of every picture gets the colour of its class, always at the same place: a network learns to look there. For
each class the pixel p and the colour v, whose channels are 0 or 255, are those with the largest

    mean |v - x_p| / std |v - x_p|      over the pictures x of the class and the channels,

that is where the change is large and alike in all pictures. (As the paper's code has it; the method has also been
described with mean minus variance.) Classes choose one after the other, in the order of their sorted tokens, and a pair
(p, v) that is taken is out for those that follow.

As |v - x| is x or 255 - x, sums of x and of x**2 for each class and pixel are all that is needed: one pass over the
data, whose memory does not grow with the number of pictures. Sums are of whole numbers and exact, so neither the order
of the pictures nor how they are held makes a difference.

Where pixels never change, as at the black border of digits, std is 0 and many scores are equal. A std below half a
level counts as half a level, and the key says which of equals is taken.

Pictures of other sizes. Places are those of a grid: that of the pictures' own pixels if all have one size of up to
``LARGEST`` pixels, else of 64 x 64 cells to which they are resized for the sums. In a picture of h x w pixels under a
grid of H x W cells, a pixel becomes a square with a side of round(min(h / H, w / W)), at least 1, around the middle of
its cell, and as such is still there when somebody shrinks the picture.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from ..noise.pictures import MIXED_SIDE, Source, resize
from ..params import learnt, param
from ..pixels import chunk_length, grey_rows
from ..sample import SampleError, class_token, class_value
from .base import Behind, Poison, register
from .undo import fill_in

LARGEST = MIXED_SIDE**2  # pixels of a picture whose own pixels are the grid
STD = 0.5  # levels: a smaller standard deviation counts as this
EXACT = 256  # pictures: sums of as many squares of bytes are exact in float32
COLOURS = 255 * ((np.arange(8)[:, None] >> np.array([2, 1, 0])) & 1)  # (8, 3), from black to white

Batch = tuple[list[str], Tensor]  # class tokens and uint8 pictures (B, C, H, W)


class Sums(NamedTuple):
    """Of the pictures of a class: how many, and for every channel and cell the sums of x and of x**2, (3, H, W)."""

    pictures: int
    first: np.ndarray
    second: np.ndarray


@register("ops")
class OPSPoison(Poison):
    """One pixel of each picture in the colour of its class: no model, one pass over the data, all else untouched.

    Raises:
        TypeError: neither key nor pixels, pixels without grid, or pixels of a wrong kind.
        ValueError: a value out of range.
    """

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
            raise TypeError("pixels= are counted on grid=(height, width): give both, or neither and call fit")
        self._spots: dict[str, np.ndarray] = {}
        if self.pixels is not None and self.grid is not None:
            grid = int(self.grid[0]), int(self.grid[1])
            self._take(_checked(self.pixels, grid, self.classes), grid)

    def _take(self, spots: dict[str, np.ndarray], grid: tuple[int, int]) -> None:
        """Keep what a fit has found, by class token."""
        self._spots, self.grid = spots, grid
        self.pixels = [[class_value(token), values.tolist()] for token, values in spots.items()]

    @property
    def fitted(self) -> bool:
        return self.pixels is not None

    def public_state(self) -> dict[str, Any]:
        """Without the pixels; but other pixels have another digest, if there is a key to hide them with."""
        hidden = None
        if self.pixels is not None:
            digest = "" if self.key is None else f", {self._digest()}"
            hidden = f"secret pixels of {len(self._spots)} classes{digest}"
        return {**self.fitted_state(), "pixels": hidden}

    def _digest(self) -> str:
        return f"{int(self._stream('digest', json.dumps(self.pixels)).words(1)[0]):016x}"

    # ---- fitting --------------------------------------------------------------------------------------------------

    def fit(self, data: Any, transform: Callable | None = None) -> Self:
        """Find the pixel and the colour of each class; replaces what an earlier fit has found.

        Args:
            data: a ``datasets.Dataset``, a data set of ``(image, label)`` pairs such as torchvision's, or a tuple
                ``(images, labels)``.
            transform: applied to each picture first, e.g. a resize that comes before the poison.

        Returns:
            The poison itself.

        Raises:
            TypeError: a streaming data set, or something else that cannot be read twice; no key.
            SampleError: a picture or label that cannot be used, its row named; or no pictures.
            ValueError: more classes than there are pixels and colours.
        """
        self._private_key()
        data, chain = Behind.split(data)
        through = None if chain is None else chain.protect_arrays
        source = Source(
            data, transform, through, image_key=self.image_key, label_key=self.label_key, classes=self.classes
        )  # fmt: skip
        sums, only_grey = statistics(source, self.work_size)
        if not sums:
            raise SampleError("the data set is empty: there is nothing to learn from")
        height, width = next(iter(sums.values())).first.shape[1:]
        order = self._stream("equals").permutation(height * width)
        self._take(choose(sums, COLOURS[[0, 7]] if only_grey else COLOURS, self.sparsity, order), (height, width))
        return self

    # ---- protecting -----------------------------------------------------------------------------------------------

    def _protect(self, images: Tensor, tokens: Sequence[str], ids: Sequence[bytes] | None) -> Tensor:
        assert self.grid is not None
        without = [row for row, token in enumerate(tokens) if token not in self._spots]
        if without:
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
    """Sums by class token, and whether colours have to be black or white since a picture is grey.

    Args:
        source: the data.
        work_size: side of the grid, as :class:`OPSPoison` says.
    """
    size = None if work_size is None else (work_size, work_size)
    sums: dict[str, Sums] = {}
    any_grey = False
    for tokens, images in _batches(source):
        own = images.shape[2], images.shape[3]
        size = size or own
        if work_size is None and (own != size or own[0] * own[1] > LARGEST):
            return statistics(source, MIXED_SIDE)
        any_grey = any_grey or bool(grey_rows(images).any())
        if own != size:  # one by one: the same sums in any batch
            images = torch.cat([resize(image[None].float(), size).round().clamp(0, 255).byte() for image in images])
        _add(sums, tokens, images)
    return sums, any_grey


def _add(sums: dict[str, Sums], tokens: Sequence[str], images: Tensor) -> None:
    rows: dict[str, list[int]] = {}
    values, nothing = images.numpy(), np.zeros((3, *images.shape[2:]))
    for row, token in enumerate(tokens):
        rows.setdefault(token, []).append(row)
    for token, all_rows in rows.items():
        for start in range(0, len(all_rows), EXACT):
            part = values[all_rows[start : start + EXACT]].astype(np.float32)
            first = part.sum(0)
            second = np.square(part, out=part).sum(0)
            before = sums.get(token, Sums(0, nothing, nothing))
            sums[token] = Sums(before.pictures + len(part), before.first + first, before.second + second)


def _batches(source: Source) -> Iterator[Batch]:
    """Everything in a source, pictures of one size together."""
    tokens: list[str] = []
    waiting: list[np.ndarray] = []
    for sample in source:
        if waiting and (sample.colour.shape != waiting[0].shape or len(waiting) == chunk_length(sample.colour.size)):
            yield tokens, torch.from_numpy(np.stack(waiting)).permute(0, 3, 1, 2)
            tokens, waiting = [], []
        tokens.append(sample.token)
        waiting.append(sample.colour)
    if waiting:
        yield tokens, torch.from_numpy(np.stack(waiting)).permute(0, 3, 1, 2)


# ---- the choice ------------------------------------------------------------------------------------------------------


def choose(sums: Mapping[str, Sums], colours: np.ndarray, sparsity: int, order: np.ndarray) -> dict[str, np.ndarray]:
    """The pixels of each class: int64 (sparsity, 5), row, column, red, green, blue, by class token.

    Args:
        sums: of the data.
        colours: (n, 3), those there are to choose from.
        sparsity: pixels a class; they differ, whatever their colours.
        order: the cells' flat places (H * W,): of equally good ones the first is taken.

    Raises:
        ValueError: too few pixels for so many classes.
    """
    cells = len(order)
    if sparsity > cells or sparsity * len(sums) > cells * len(colours):
        raise ValueError(
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
            raise ValueError(
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
        raise TypeError(
            "pixels is a mapping label -> [(row, column, red, green, blue), ...]; those of a fit are secret and stand "
            "in no configuration: fit again"
        )
    found: dict[str, np.ndarray] = {}
    for label, spots in pixels.items() if isinstance(pixels, Mapping) else pixels:
        token = class_token(label, classes)
        if token in found:
            raise ValueError(f"pixels names class {class_value(token)!r} twice")
        values = np.array(spots)
        if values.ndim != 2 or values.shape[1] != 5 or not len(values) or not isinstance(values.flat[0], Integral):
            raise ValueError(f"the pixels of class {label!r} are not [(row, column, red, green, blue), ...], whole")
        if (values < 0).any() or (values[:, :2] >= grid).any() or (values[:, 2:] > 255).any():
            raise ValueError(f"the pixels of class {label!r} lie outside the grid {grid}, or colours outside 0..255")
        found[token] = values.astype(np.int64)
    if len({len(values) for values in found.values()}) != 1:
        raise ValueError("pixels is empty, or has more for one class than for another: give the same number for each")
    return dict(sorted(found.items()))
