"""Pairs of a clean picture and its protected one in one upload, compared at small scale.

A few such pairs let others undo the protection of all the rest. The clean one of a pair is rarely equal to the
original: it was resized, or stored as JPEG, for the test split. So pictures are compared by what they show:

1. 8x8 in grey, without brightness and contrast: the nearest protected pictures of each unprotected one, by one product
   of matrices.
2. For these, at 32x32 in colour: how well a filter of 3x3 and a brightness a channel turn one into the other. What it
   leaves is noise of a few levels for a pair, whether it was filtered or got noise added, and far more for others.

Pictures that were cut, mirrored or turned are not found.
"""

import tempfile
from collections.abc import Iterator

import numpy as np
from PIL import Image

COARSE, FINE = 8, 32
SMALLEST = 16  # pixels: below, too few are left to tell pictures apart
NEAREST = 3  # protected pictures that are looked at for each unprotected one
MOST_LEFT = 80.0  # levels squared that the filter may leave: noise of 8 levels is 64
LEAST_EXPLAINED = 0.8  # share of the protected picture that it explains: plain pictures resemble everything
_VALUES = 1 << 26  # likenesses at a time


class ReducedImages:
    """Pictures at small scale, in the order in which they are added; most of it lies in a temporary file."""

    def __init__(self) -> None:
        self._coarse: list[np.ndarray] = []
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the object)
        self._fit: list[bool] = []
        self._side = 0

    def __len__(self) -> int:
        return len(self._coarse)

    def add(self, colour: np.ndarray) -> None:
        """Add a picture, uint8 (H, W, C), C = 1 or 3."""
        side = min(colour.shape[:2])
        if not self._side:
            self._side = min(FINE, side) if side >= SMALLEST else FINE
        self._fit.append(side >= SMALLEST)
        image = Image.fromarray(colour[:, :, 0] if colour.shape[2] == 1 else colour).convert("RGB")
        small = image.resize((self._side, self._side), Image.Resampling.BOX)
        self._file.write(np.asarray(small).tobytes())
        self._coarse.append(np.asarray(small.convert("L").resize((COARSE, COARSE), Image.Resampling.BOX)).ravel())

    def coarse(self) -> np.ndarray:
        """float32 (n, 64) without mean, of length 1; plain pictures are 0."""
        values = np.array(self._coarse, np.float32)
        values -= values.mean(1, keepdims=True)
        length = np.linalg.norm(values, axis=1, keepdims=True)
        return values / np.where(length < 1, np.inf, length)

    def large_enough(self) -> np.ndarray:
        """bool (n,): whether a picture is at least ``SMALLEST`` pixels high and wide."""
        return np.array(self._fit, bool)

    def fine(self) -> np.ndarray:
        """uint8 (n, S, S, 3), S = 32 or the side of the first picture; mapped from the file."""
        self._file.flush()
        return np.memmap(self._file, np.uint8, "r", shape=(len(self), self._side, self._side, 3))


def find_pairs(reduced: ReducedImages, unprotected: np.ndarray, protected: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs (unprotected, protected) that show one picture.

    All are places in ``reduced``. There is at most one protected picture for each unprotected one; pictures smaller
    than ``SMALLEST`` are passed over.
    """
    unprotected, protected = (places[reduced.large_enough()[places]] for places in (unprotected, protected))
    if not len(unprotected) or not len(protected):
        return
    coarse, fine = reduced.coarse(), reduced.fine()
    others = coarse[protected]
    step = max(1, _VALUES // len(protected))
    for start in range(0, len(unprotected), step):
        rows = unprotected[start : start + step]
        likeness = coarse[rows] @ others.T
        count = min(NEAREST, len(protected))
        nearest = protected[np.argpartition(-likeness, count - 1, axis=1)[:, :count]]
        for row, candidates in zip(rows, nearest, strict=True):
            left, explained = compare(fine[row], fine[candidates])
            best = int(left.argmin())
            if left[best] <= MOST_LEFT and explained[best] >= LEAST_EXPLAINED:
                yield int(row), int(candidates[best])


def compare(clean: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How well a 3x3 filter, one for all channels, and a brightness a channel make each of ``others`` from ``clean``.

    Shape: uint8 (S, S, 3) and (n, S, S, 3) -> what is left, in levels squared, and the share that is explained; float64
    (n,) each.
    """
    side = clean.shape[0]
    shifted = [clean[y : side - 2 + y, x : side - 2 + x] for y in range(3) for x in range(3)]
    known = _centred(np.stack(shifted).astype(np.float64)).reshape(9, -1)
    centred = _centred(others[:, 1:-1, 1:-1].astype(np.float64)).reshape(len(others), -1)
    weights = np.linalg.lstsq(known @ known.T, known @ centred.T, rcond=1e-9)[0]
    left = np.mean((centred - weights.T @ known) ** 2, axis=1)
    power = np.mean(centred**2, axis=1)
    return left, np.where(power < 1, 0, 1 - left / np.maximum(power, 1))  # a plain picture shows nothing to explain


def _centred(pictures: np.ndarray) -> np.ndarray:
    return pictures - pictures.mean(axis=(1, 2), keepdims=True)
