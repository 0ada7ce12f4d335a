"""LSP: linearly separable synthetic perturbations (Yu, Zhang, Chen, Yin and Liu, KDD 2022, arXiv 2111.00898).

Noise that has nothing to do with the images, only with their classes. An image is covered by cells x cells squares, so
noise that is flat on them has D = 3 * cells**2 numbers. Class y has a corner mu_y of the cube {-10, 10}^D and a D x D
matrix A_y with entries U(-1, 1), from the key and the class; each image draws, from the key and the sample id,

    n = A_y z + mu_y,   z ~ N(0, I)

which is enlarged to the image's size and scaled to an L2 norm of eps * sqrt(3 H W), a mean square of eps a pixel.

Same bytes everywhere. z is read from a keyed hash, a byte each, as the quantile of a normal distribution; z and A are
multiples of 1 / FINE, n is rounded to multiples of 1 / COARSE, so that all sums are of whole numbers and exact in any
order. One value holds for a whole cell of an image of bytes, so to round the noise is to round the sum.
"""

import hashlib
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from ..params import param
from ..pixels import grey_rows
from .base import register
from .classlist import ClassListPoison
from .undo import subtract_keyed

SEPARATION = 10  # distance of the corners from 0 in every axis
FINE = 1 << 8  # of z and A
COARSE = 1 << 4  # of points
DIGEST = 64  # bytes of one hash
BLOCK = 1 << 19  # values that noise is added to at a time: what that needs stays in the processor's cache


@register("lsp")
class LSPPoison(ClassListPoison):
    """Random flat squares around a pattern of each class: no model, a fit reads the class list alone, bounded in L2."""

    paper = "LSP: linearly separable synthetic perturbations (Yu, Zhang, Chen, Yin and Liu, KDD 2022, arXiv 2111.00898)"
    needs_ids = True

    eps: float = param(
        "root mean square of the noise over pixels and channels; single squares exceed it by up to about three times",
        default=6 / 255, low=1 / 255, high=127 / 255, unit="in units of 1 = white",
    )  # fmt: skip
    cells: int = param(
        "squares along each side, stretched to rectangles where an image is not square; 4 are 8 x 8 pixels at 32 x "
        "32, the paper's code's, 7 are 32 x 32 pixels at 224 x 224",
        default=4, low=4, high=8,
    )  # fmt: skip

    def _prepare(self) -> None:
        super()._prepare()
        self._made: dict[str, np.ndarray] = {}  # matrices, filled as they are needed, not part of the state
        self._corners: dict[str, np.ndarray] = {}

    def centres(self) -> dict[str, np.ndarray]:
        """The corner of each class, float64 (3, cells, cells) of -10 and 10, by class token. They are secret.

        Each is the first of the class's draws whose sums over the channels no class before it has: a grey image shows
        nothing else. So many classes that their corners cannot all differ are refused.
        """
        order = self.class_order()
        if order != list(self._corners):
            self._corners = self._draw_corners(order)
        return self._corners

    def _draw_corners(self, order: list[str]) -> dict[str, np.ndarray]:
        limit = 2 ** (self.cells**2)
        if len(order) > limit:
            raise UsageError(f"{len(order)} classes are more than the {limit} that cells={self.cells} tells apart")
        corners: dict[str, np.ndarray] = {}
        taken: set[bytes] = set()
        for token in order:
            stream = self._stream("corner", token)
            while True:  # ends: at the limit, a draw is new with a probability above a half
                corner = 2 * stream.integers(3 * self.cells**2, 2).reshape(3, self.cells, self.cells) - 1
                seen = corner.sum(0).tobytes()
                if seen not in taken:
                    break
            taken.add(seen)
            corners[token] = SEPARATION * corner.astype(np.float64)
        return corners

    def _matrix(self, token: str) -> np.ndarray:
        """A_y transposed, whole numbers of 1 / FINE, float64 (D, D)."""
        if token not in self._made:
            size = 3 * self.cells**2
            draws = self._stream("matrix", token).uniform(size, size)
            self._made[token] = np.rint((2 * draws - 1) * FINE)
        return self._made[token]

    def _protect(self, images: Tensor, tokens: Sequence[str], ids: Sequence[bytes] | None) -> Tensor:
        assert ids is not None
        self._check_known(tokens)
        points = self._points(tokens, ids)
        grey = grey_rows(images).numpy()
        if grey.any():
            points[grey] = points[grey].sum(1, keepdims=True)  # thrice the mean: scaled later
        levels = self._levels(points, images.shape[2], images.shape[3])
        return add_cells(images, levels[:, : images.shape[1]])

    def _unlock(self, images: Tensor, tokens: Sequence[str], ids: Any, notes: Any) -> Tensor:
        return subtract_keyed(self._protect, images, tokens, ids)

    def _points(self, tokens: Sequence[str], ids: Sequence[bytes]) -> np.ndarray:
        """n of each picture, whole numbers of 1 / COARSE, float64 (B, 3, cells, cells)."""
        size = 3 * self.cells**2
        corners = self.centres()
        draws = self._normals(ids, size)
        numbers = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
        classes = np.array([numbers[token] for token in tokens])
        by_class = np.argsort(classes, kind="stable")
        ends = np.cumsum(np.bincount(classes, minlength=len(numbers)))
        points = np.empty((len(ids), size))
        for token, rows in zip(numbers, np.split(by_class, ends[:-1]), strict=True):
            spread = draws[rows] @ self._matrix(token) * (COARSE / FINE**2)
            points[rows] = np.rint(spread) + COARSE * corners[token].ravel()
        return points.reshape(-1, 3, self.cells, self.cells)

    def _normals(self, ids: Sequence[bytes], size: int) -> np.ndarray:
        """z of each picture, whole numbers of 1 / FINE, float64 (B, size)."""
        secret = self._stream("points").words(DIGEST // 8).astype("<u8").tobytes()
        hashed = hashlib.blake2b  # with secret and id in one block of 128 bytes, half the work of its own key argument
        blocks = [secret + bytes([block]) for block in range(-(-size // DIGEST))]
        digests = [hashed(block + id_).digest() for id_ in ids for block in blocks]
        words = np.frombuffer(b"".join(digests), np.uint8).reshape(len(ids), -1)
        return quantiles()[words[:, :size]]

    def _levels(self, points: np.ndarray, height: int, width: int) -> np.ndarray:
        """Points scaled to the norm that a picture of this size gets, rounded, int16 of the same shape."""
        rows, columns = (np.diff(cell_starts(side, self.cells)) for side in (height, width))
        areas = np.outer(rows, columns).astype(np.float64)
        power = (points * points).reshape(len(points), 3, -1).sum(1) @ areas.ravel()
        norm = 255 * self.eps * np.sqrt(3.0 * height * width)
        scale = norm / np.sqrt(np.maximum(power, 1))  # of 0 where cells without a pixel have it all
        return np.rint(points * scale[:, None, None, None]).clip(-255, 255).astype(np.int16)


@cache
def quantiles() -> np.ndarray:
    """The normal distribution's quantiles at the middles of 256 equal parts, whole numbers of 1 / FINE, float64."""
    normal = NormalDist()
    return np.array([float(round(FINE * normal.inv_cdf((part + 0.5) / 256))) for part in range(256)])


def cell_starts(side: int, cells: int) -> np.ndarray:
    """Where each cell begins and the last ends, (cells + 1,): pixel i of ``side`` is in cell i * cells // side."""
    return -(-np.arange(cells + 1) * side // cells)


def add_cells(images: Tensor, levels: np.ndarray) -> Tensor:
    """uint8 (B, C, H, W) with a whole number of levels, int16 (B, C, cells, cells), added to every cell, clipped."""
    height, width = (np.diff(cell_starts(side, levels.shape[2])) for side in images.shape[2:])
    clean = images.numpy()
    result = np.empty(clean.shape, np.uint8)
    step = max(1, BLOCK // max(1, clean[:1].size))
    for start in range(0, len(clean), step):
        rows = slice(start, start + step)
        changed = np.repeat(np.repeat(levels[rows], width, 3), height, 2)
        changed += clean[rows]
        result[rows] = np.clip(changed, 0, 255, out=changed)
    return torch.from_numpy(result)
