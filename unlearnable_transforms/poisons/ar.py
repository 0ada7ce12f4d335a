"""AR: autoregressive perturbations (Sandoval-Segura et al., NeurIPS 2022, arXiv 2206.03693).

Every class has an autoregressive process for each colour channel: a pixel is a fixed linear combination of the eight
that lie above and to the left of it in a 3 x 3 window whose last pixel it is,

    delta[i, j] = sum over (a, b) != (0, 0), 0 <= a, b <= 2, of  c[a, b] * delta[i - a, j - b],      sum of c = 1

Two rows and two columns of noise start it; they come from the key and the sample id. The first four rows and columns
are dropped, the rest is scaled to a fixed L2 norm. A filter with the class's coefficients and -1 as its last tap gives
zero on all of that class's patterns and on no other's: that is what a network learns.

Coefficients are searched for, class by class; docs/ar.md says how, and how that differs from the paper's code. A
process that is stable over 36 pixels may grow or fade over 1,000, so larger images are laid out with patterns of up to
32 pixels a side, each started anew and of the strength that its area gives it.

Same bytes everywhere. Pixels on one anti-diagonal do not depend on each other, so all of one diagonal, channels and
images together, are made by one multiplication and three additions of float64 arrays, element by element and in a fixed
order. Sums of squares are taken in a fixed order too. The search compares whole numbers below 2**53.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from ..errors import UsageError
from ..key import Key, Stream
from ..params import param
from ..pixels import grey_rows
from ..sample import class_token
from .base import register
from .classlist import ClassListPoison
from .undo import subtract_keyed

REACH = 2  # pixels that the window goes back, in either direction
DROP = 4  # rows and columns that are dropped
TILE = 32  # side in pixels of the largest pattern
TAPS = 8
GRID = 1 << 12  # coefficients are multiples of 1 / GRID
BLOCK = 64  # patterns made at a time: what they need stays in the processor's cache

DRAWS = 256  # processes of one channel in a batch of the search
MAX_SUM = 4  # of the absolute coefficients of one channel; hardly any with more is stable
TRIALS = 3
MAX_NORM = 50  # of a trial pattern that is not scaled; each channel for itself stands for all three
RESPONSE = 10.0  # least answer of a pattern of norm 1 to another class's filter, as the sum of ReLUs of its output,
LOWER = 0.95  # lowered by this factor where no process of a batch reaches it,
LEAST = 1.25  # down to this: a pattern rounded to whole levels answers to its own class's filter with nearly 1
UNIT = 1 << 10  # levels of the whole numbers that answers are computed with


@register("ar")
class ARPoison(ClassListPoison):
    """Autoregressive patterns: a linear rule from pixel to pixel for each class, no model, bounded in L2."""

    paper = "AR: autoregressive perturbations (Sandoval-Segura et al., NeurIPS 2022, arXiv 2206.03693)"
    needs_ids = True

    eps: float = param(
        "L2 norm of the noise; for other sizes it is multiplied by the root of pixels / 1024, so that the noise of a "
        "single pixel stays as strong. The paper's: 1.0, and 3.0 at 96 x 96",
        default=1.0, low=0.25, high=10, unit="the L2 norm of the noise of a 32 x 32 image, not levels a pixel",
    )  # fmt: skip

    def coefficients(self, labels: Sequence) -> np.ndarray:
        """The processes of some classes, float64 (n, 3, 3, 3): channel, row and column of the window, last tap 0.

        They are secret: whoever has them can find the noise.
        """
        tokens = [class_token(label, self.classes) for label in labels]
        return np.pad(self._processes(tokens), ((0, 0), (0, 0), (0, 1))).reshape(-1, 3, 3, 3)

    def _processes(self, tokens: Sequence[str]) -> np.ndarray:
        """Float64 (n, 3, TAPS)."""
        self._check_known(tokens)
        order = self.class_order()
        places = {token: place for place, token in enumerate(order)}
        return coefficients(self._private_key(), tuple(order))[[places[token] for token in tokens]]

    def _protect(self, images: torch.Tensor, tokens: Sequence[str], ids: Sequence[bytes] | None) -> torch.Tensor:
        assert ids is not None
        count, channels, height, width = images.shape
        (rows, high), (columns, wide) = _tiles(height), _tiles(width)
        border, tiles = len(_border(high + DROP, wide + DROP)), rows * columns
        processes = self._processes(tokens)
        words = np.empty((count, tiles, 3, border), np.uint64)
        for start, id_ in zip(words, ids, strict=True):
            start[:] = self._stream("start", id_).words(tiles * 3 * border).reshape(start.shape)
        clean = images.numpy()
        grey = grey_rows(images).numpy()  # get one process and one start for the three channels
        words[grey], processes[grey] = words[grey][:, :, :1], processes[grey][:, :1]

        kept_high = np.minimum(high, height - high * np.arange(rows))  # the last patterns may stick out
        kept_wide = np.minimum(wide, width - wide * np.arange(columns))
        padded = np.zeros((count, channels, rows * high, columns * wide), np.uint8)
        padded[:, :, :height, :width] = clean
        parts = padded.reshape(count, channels, rows, high, columns, wide)
        for begin in range(0, count * tiles, BLOCK):
            end = min(begin + BLOCK, count * tiles)
            of, tile = np.divmod(np.arange(begin, end), tiles)
            row, column = np.divmod(tile, columns)
            pattern = generate(normals(words[of, tile]), processes[of], high, wide)  # (high, wide, 3, n)
            pattern[kept_high[-1] :, :, :, row == rows - 1] = 0
            pattern[:, kept_wide[-1] :, :, column == columns - 1] = 0
            area = kept_high[row] * kept_wide[column]
            pattern *= 255 * self.eps * np.sqrt(area / TILE**2) / np.sqrt(ordered_energy(pattern))
            # Whole numbers are put in the image's order as int16, a quarter of the bytes.
            levels = np.rint(pattern, out=pattern).astype(np.int16)[:, :, :channels].transpose(3, 2, 0, 1)
            place: Any = (slice(begin, end), slice(None), 0, slice(None), 0)
            if tiles > 1:
                place = of, slice(None), row, slice(None), column
            parts[place] = np.clip(parts[place] + levels, 0, 255)
        return torch.from_numpy(padded[:, :, :height, :width])

    def _unlock(self, images: torch.Tensor, tokens: Sequence[str], ids: Any, notes: Any) -> torch.Tensor:
        return subtract_keyed(self._protect, images, tokens, ids)


def _tiles(side: int) -> tuple[int, int]:
    """How many patterns lie along a side, and how long each is; the last may stick out."""
    count = -(-side // TILE)
    return count, -(-side // count)


# ---- patterns --------------------------------------------------------------------------------------------------------


def generate(starts: np.ndarray, processes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Patterns of autoregressive processes: float64 (height, width, C, n), not scaled, without what is dropped.

    Args:
        starts: float64 (n, C, border): the first ``REACH`` rows, then the first ``REACH`` columns of the rows below.
        processes: float64 (n, C, TAPS): weights of the window's pixels, row by row.
    """
    count, channels, _ = processes.shape
    high, wide, many = height + DROP, width + DROP, channels * count
    field = np.zeros((high * wide, many))
    field[_border(high, wide)] = starts.transpose(2, 1, 0).reshape(-1, many)
    weights = np.zeros((9, many))  # the last is that of the pixel itself
    weights[:TAPS] = processes.transpose(2, 1, 0).reshape(TAPS, many)
    weights = weights.reshape(3, 3, 1, many)
    products = np.empty(9 * min(high, wide) * many)
    pixel, item = field.strides
    steps = wide * pixel, pixel, (wide - 1) * pixel, item
    for diagonal in range(2 * REACH, high + wide - 1):
        first, last = max(REACH, diagonal - wide + 1), min(high - 1, diagonal - REACH)
        length = last - first + 1
        place = first * wide + diagonal - first  # of the diagonal's first pixel; the next lies wide - 1 further
        corner = (place - REACH * wide - REACH) * pixel
        window = np.ndarray((3, 3, length, many), field.dtype, field, corner, steps)  # as_strided takes far longer
        terms = products[: 9 * length * many].reshape(9, length, many)
        np.multiply(window, weights, out=terms.reshape(3, 3, length, many))
        np.add(terms[:4], terms[4:8], out=terms[:4])
        np.add(terms[:2], terms[2:4], out=terms[:2])
        np.add(terms[0], terms[1], out=field[place : place + (length - 1) * (wide - 1) + 1 : wide - 1])
    return field.reshape(high, wide, channels, count)[DROP:, DROP:]


def _border(high: int, wide: int) -> np.ndarray:
    """Flat places of the first ``REACH`` rows, then of the first ``REACH`` columns of the rows below."""
    places = np.arange(high * wide).reshape(high, wide)
    return np.concatenate([places[:REACH].ravel(), places[REACH:, :REACH].ravel()])


def normals(words: np.ndarray) -> np.ndarray:
    """Nearly normal numbers of mean 0 and variance 1, one of each random uint64: the sum of its four 16-bit parts."""
    pairs = (words & np.uint64(0x0000FFFF0000FFFF)) + ((words >> np.uint64(16)) & np.uint64(0x0000FFFF0000FFFF))
    total = (pairs & np.uint64(0xFFFFFFFF)) + (pairs >> np.uint64(32))
    return (total.astype(np.float64) - 2 * 0xFFFF) * (math.sqrt(3) / 2**16)


def ordered_energy(patterns: np.ndarray) -> np.ndarray:
    """Sum of the squares of each pattern, (height, width, ..., n) -> (n,): halves are added to halves, so that what
    lies beside a pattern does not matter to the last bit."""
    values = (patterns * patterns).reshape(math.prod(patterns.shape[:-1]), patterns.shape[-1])
    while len(values) > 1:
        half = len(values) // 2
        halved = values[:half] + values[half : 2 * half]
        values = np.concatenate([halved, values[2 * half :]]) if len(values) % 2 else halved
    return values[0]


# ---- search ----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def coefficients(key: Key, order: tuple[str, ...]) -> np.ndarray:
    """The processes of classes, each told apart from those before it; float64 (n, 3, TAPS), multiples of 1 / GRID.

    Raises:
        ValueError: the classes are too many to be told apart.
    """
    chosen = np.empty((len(order), 3, TAPS))
    filters = np.empty((len(order), 27 * 27))  # of the classes so far, as quadratic forms
    covariances = np.empty((TRIALS, len(order), 27 * 27))  # of their trial patterns
    bound = RESPONSE
    for number, token in enumerate(order):
        batch = 0
        while True:
            processes, patterns = _candidates(key.stream("ar", "process", token, batch))
            batch += 1
            if len(processes):
                squares, products = _squares(processes), _covariances(patterns)
                energy = products @ filters[:number].T  # (TRIALS, candidates, classes so far)
                energy = np.minimum(energy, squares @ covariances[:, :number].transpose(0, 2, 1))
                answers = responses(energy.min((0, 2), initial=np.inf))
                best = int(answers.argmax())
                if answers[best] >= bound:
                    break
            bound *= LOWER
            if bound < LEAST:
                raise UsageError(
                    f"AR finds processes for {number} classes of {len(order)} and no more that differ: use another "
                    "method for so many classes, or merge some"
                )
        chosen[number], filters[number], covariances[:, number] = processes[best], squares[best], products[:, best]
    chosen.flags.writeable = False
    return chosen


def responses(energy: np.ndarray) -> np.ndarray:
    """Answers of patterns to filters as the sum of ReLUs that a normal output of this energy has."""
    return np.sqrt(energy * (TILE - REACH) ** 2 / (2 * np.pi)) / UNIT**2


def _candidates(stream: Stream) -> tuple[np.ndarray, np.ndarray]:
    """Processes (n, 3, TAPS) whose trial patterns do not grow, and these, of norm 1: (TRIALS, n, 3, TILE, TILE)."""
    draws = stream.integers(DRAWS * TAPS, 2 * GRID + 1).reshape(DRAWS, 1, TAPS) - GRID
    with np.errstate(all="ignore"):  # a sum of 0 makes infinities
        processes = np.rint(draws * GRID / draws.sum(2, keepdims=True)) / GRID
        processes[..., -1] += 1 - processes.sum(2)
        processes = processes[np.abs(processes).sum((1, 2)) <= MAX_SUM]
        patterns = np.empty((0, TILE, TILE, len(processes)))
        for _ in range(TRIALS):
            patterns = np.concatenate([patterns, _trial(stream, processes)[None]])
            stable = 3 * ordered_energy(patterns[-1]) <= MAX_NORM**2
            processes, patterns = processes[stable], patterns[..., stable]
    whole = len(processes) // 3
    triples = patterns[..., : 3 * whole].reshape(TRIALS, TILE, TILE, whole, 3)
    for pattern in triples:
        pattern /= np.sqrt(ordered_energy(pattern.swapaxes(2, 3)))[:, None]
    return processes[: 3 * whole].reshape(whole, 3, TAPS), triples.transpose(0, 3, 4, 1, 2)


def _trial(stream: Stream, processes: np.ndarray) -> np.ndarray:
    """A pattern of each process of one channel, (TILE, TILE, n)."""
    border = len(_border(TILE + DROP, TILE + DROP))
    starts = normals(stream.words(len(processes) * border)).reshape(-1, 1, border)
    blocks = [slice(begin, begin + 3 * BLOCK) for begin in range(0, len(processes), 3 * BLOCK)]
    parts = [generate(starts[rows], processes[rows], TILE, TILE)[:, :, 0] for rows in blocks]
    return np.concatenate([np.empty((TILE, TILE, 0)), *parts], 2)


def _squares(processes: np.ndarray) -> np.ndarray:
    """Outer products of the filters with themselves, whole numbers (n, 27 * 27)."""
    filters = np.pad(processes, ((0, 0), (0, 0), (0, 1)), constant_values=-1)
    filters = np.rint(filters * UNIT).reshape(-1, 27)
    return (filters[:, :, None] * filters[:, None]).reshape(-1, 27 * 27)


def _covariances(patterns: np.ndarray) -> np.ndarray:
    """Sums over all windows of the products of their pixels, whole numbers (TRIALS, n, 27 * 27).

    With :func:`_squares` they give the energy of the filter's output, below 2**53, so that sums are exact in any order:
    a pattern of norm ``UNIT`` has no sum above UNIT**2 = 2**20, and the absolute values of the 27 taps of a filter sum
    up to at most 3 * (MAX_SUM + 1) * UNIT < 2**14.
    """
    windows = sliding_window_view(np.rint(patterns * UNIT), (3, 3), axis=(3, 4))
    windows = windows.transpose(0, 1, 3, 4, 2, 5, 6).reshape(*patterns.shape[:2], -1, 27)
    return (windows.swapaxes(2, 3) @ windows).reshape(*patterns.shape[:2], 27 * 27)
