"""How a training set looks: strength against the clean pictures, and samples as small PNGs for the report."""

import base64
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean as mean
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from ..pixels import SSIM_WINDOW, gain_fitted_psnr, psnr, ssim
from ..sample import spread
from .data import Change, Pictures, chunks
from .sets import TrainingSet

MEASURED = 500  # pictures, spread evenly over the set
MEASURED_SIDE = 1024  # pixels: PSNR and SSIM are those of the middle of larger pictures, at most this wide and high
SHOWN_SIDE = 192  # pixels: larger samples are shrunk for the report
GAIN = 4  # of the difference that is shown


def describe(training: TrainingSet, clean: Pictures | None, samples: int, progress: bool = False) -> dict[str, Any]:
    """What the report shows of a set, as JSON values, with some samples of different classes where possible. A set that
    is not made from the ``clean`` pictures is compared where labels and sizes agree.

    Args:
        progress: whether to show a bar on a terminal.
    """
    before, after = _pairs(training, clean)
    result: dict[str, Any] = {**training.about(), "quality": None, "samples": []}
    if before is None or after is None:
        return result
    pairs = _changed(before, after, spread(len(before), MEASURED))
    bar = tqdm(pairs, "measuring", min(len(before), MEASURED), unit="pictures", disable=None if progress else True)
    result["quality"] = quality((a, b) for a, b in bar if a.shape == b.shape)
    if samples > 0:
        chosen = _of_different_classes(before.labels, samples)
        for row, (image, changed) in zip(chosen, _changed(before, after, chosen), strict=True):
            result["samples"].append(_sample(image, changed, before.labels[row]))
    return result


def _pairs(training: TrainingSet, clean: Pictures | None) -> tuple[Pictures | None, Change | None]:
    """The clean pictures, and a function that makes changed ones of some, or reads them: given these and their rows."""
    change, pictures = training.change, training.pictures
    if change is not None and training.role != "partial":
        return pictures, change
    foreign = training.role == "poison" and clean is not None and clean.labels == pictures.labels
    if foreign and clean is not None and clean.images[0].shape == pictures.images[0].shape:
        return clean, lambda _, rows: [pictures.images[row] for row in rows]
    return None, None


def _changed(before: Pictures, after: Change, rows: Sequence[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some pictures before and after, few of them open at a time."""
    for some, images in chunks(before.images, rows):
        yield from zip(images, after(images, some), strict=True)


def quality(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Means over pairs of uint8 pictures (H, W, C). Pictures that did not change are counted and left out.

    ``linf`` is the largest difference of all, in 0-255. PSNRs are in dB; ``ssim`` is None for pictures smaller than its
    window. Of pictures larger than ``MEASURED_SIDE`` these are taken in the middle.
    """
    count = unchanged = linf = 0
    measured: list[tuple[float, float]] = []
    likeness: list[float] = []
    for clean, changed in pairs:
        count += 1
        if np.array_equal(clean, changed):
            unchanged += 1
            continue
        linf = max(linf, int(np.abs(clean.astype(np.int16) - changed).max()))
        a, b = _middle(clean), _middle(changed)
        measured.append((psnr(a, b), gain_fitted_psnr(a, b)))
        if min(a.shape[:2]) >= SSIM_WINDOW:
            likeness.append(ssim(a, b))
    decibels, fitted = ([row[n] for row in measured if not math.isinf(row[n])] for n in (0, 1))
    return {
        "pictures": count,
        "unchanged": unchanged,
        "psnr": mean(decibels) if decibels else None,
        "gain_fitted_psnr": mean(fitted) if fitted else None,
        "ssim": mean(likeness) if likeness else None,
        "linf": linf,
    }


def _middle(image: np.ndarray) -> np.ndarray:
    top, left = (max(0, side - MEASURED_SIDE) // 2 for side in image.shape[:2])
    return image[top : top + MEASURED_SIDE, left : left + MEASURED_SIDE]


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
