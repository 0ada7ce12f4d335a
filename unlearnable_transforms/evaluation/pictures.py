"""How a training set looks: strength against the clean pictures, and samples as small PNGs for the report."""

import base64
import io
import math
from collections.abc import Sequence
from statistics import fmean as mean
from typing import Any

import numpy as np
from PIL import Image

from ..pixels import SSIM_WINDOW, gain_fitted_psnr, psnr, ssim
from ..sample import spread
from .data import Pictures
from .sets import TrainingSet

MEASURED = 500  # pictures, spread evenly over the set
SHOWN_SIDE = 192  # pixels: larger samples are shrunk for the report
GAIN = 4  # of the difference that is shown


def describe(training: TrainingSet, clean: Pictures | None, samples: int) -> dict[str, Any]:
    """What the report shows of a set, as JSON values, with some samples of different classes where possible. A set that
    is not made from the ``clean`` pictures is compared where labels and sizes agree."""
    before, after = _pairs(training, clean)
    result: dict[str, Any] = {**training.about(), "quality": None, "samples": []}
    if before is None or after is None:
        return result
    rows = spread(len(before), MEASURED)
    pairs = list(zip((before.images[row] for row in rows), after(rows), strict=True))
    result["quality"] = quality([(a, b) for a, b in pairs if a.shape == b.shape])
    if samples > 0:
        chosen = _of_different_classes(before.labels, samples)
        for row, changed in zip(chosen, after(chosen), strict=True):
            result["samples"].append(_sample(before.images[row], changed, before.labels[row]))
    return result


def _pairs(training: TrainingSet, clean: Pictures | None) -> tuple[Pictures | None, Any]:
    """The clean pictures, and a function that gives the changed ones of some rows."""
    change, pictures = training.change, training.pictures
    if change is not None and training.role != "partial":
        return pictures, lambda rows: change([pictures.images[row] for row in rows], rows)
    foreign = training.role == "poison" and clean is not None and clean.labels == pictures.labels
    if foreign and clean is not None and clean.images[0].shape == pictures.images[0].shape:
        return clean, lambda rows: [pictures.images[row] for row in rows]
    return None, None


def quality(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Means over pairs of uint8 pictures (H, W, C). Pictures that did not change are counted and left out.

    ``linf`` is the largest difference of all, in 0-255. PSNRs are in dB; ``ssim`` is None for pictures smaller than its
    window.
    """
    changed = [(a, b) for a, b in pairs if not np.array_equal(a, b)]
    result: dict[str, Any] = {"pictures": len(pairs), "unchanged": len(pairs) - len(changed)}
    if not changed:
        return result | {"psnr": None, "gain_fitted_psnr": None, "ssim": None, "linf": 0}
    fitted = [value for value in (gain_fitted_psnr(a, b) for a, b in changed) if not math.isinf(value)]
    large = [(a, b) for a, b in changed if min(a.shape[:2]) >= SSIM_WINDOW]
    return result | {
        "psnr": mean([psnr(a, b) for a, b in changed]),
        "gain_fitted_psnr": mean(fitted) if fitted else None,
        "ssim": mean([ssim(a, b) for a, b in large]) if large else None,
        "linf": max(int(np.abs(a.astype(np.int16) - b).max()) for a, b in changed),
    }


def _of_different_classes(labels: Sequence[int | str], count: int) -> list[int]:
    first: dict[int | str, int] = {}
    for row, label in enumerate(labels):
        first.setdefault(label, row)
    chosen = sorted(first.values())[:count]
    return chosen + [row for row in range(len(labels)) if row not in set(chosen)][: count - len(chosen)]


def _sample(clean: np.ndarray, changed: np.ndarray, label: int | str) -> dict[str, Any]:
    difference = np.clip(128 + GAIN * (changed.astype(np.int16) - clean), 0, 255).astype(np.uint8)
    return {"label": label, "clean": png(clean), "changed": png(changed), "difference": png(difference)}


def png(pixels: np.ndarray, side: int = SHOWN_SIDE) -> str:
    """uint8 (H, W, C) as a PNG in base64, shrunk to ``side`` pixels."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
