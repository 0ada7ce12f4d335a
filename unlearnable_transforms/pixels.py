"""Arithmetic on uint8 pixels, and how far two pictures are apart."""

import math
from functools import cache

import numpy as np
import torch
import xxhash

from .errors import UsageError

# Values of one chunk: small enough that its intermediates stay in reach, large enough that calls cost nothing.
CHUNK_VALUES = 3_200_000
SSIM_WINDOW = 11
SSIM_TILE = 128  # places of the window on a side that are worked on at a time
VISIBLE = 8  # levels: smaller differences are no content


@cache
def keep_heap() -> None:
    """Make the C library keep the memory of freed chunks, once a process.

    glibc hands freed blocks of this size back to the system, and every pass then pays for fresh pages: freeing one
    block of just under 32 MB raises that limit (mallopt(3), M_MMAP_THRESHOLD). ``CUDAPoison.apply`` on 2,000 images of
    32 pixels, one thread: 52,000 to 62,000 images a second of CPU time, and 23,000 to 29,000 without.
    """
    block = torch.empty(31 << 20, dtype=torch.uint8, device="cpu")
    del block


def checksum(images: torch.Tensor | np.ndarray) -> int:
    """Of uint8 pixels: equal only where these are."""
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(images).data)


def equal_channels(values: torch.Tensor, grey: torch.Tensor) -> torch.Tensor:
    """Float (B, 3, ...) with the mean of the channels in all three where the image is grey, bool (B,)."""
    if not grey.any():
        return values
    mean = values.mean(1, keepdim=True).expand_as(values)
    return torch.where(grey.view(-1, *[1] * (values.ndim - 1)), mean, values)


def chunk_length(values_per_image: int) -> int:
    """How many images one pass works on at a time."""
    images = max(1, CHUNK_VALUES // max(1, values_per_image))
    return images - images % 16 if images > 16 else images  # blocks of 16 channels convolve fastest


# PSNR and SSIM are ours, and not a library's: ledgers and reports of other machines need the same figures whatever
# versions are installed, and the folder command measures beside its work, where SSIM as two matrix products is cheap.


def psnr(clean: np.ndarray, changed: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB (peak 255) of two uint8 arrays of one shape; ``inf`` where they are equal."""
    return _psnr(clean.astype(np.float64), changed.astype(np.float64))


def gain_fitted_psnr(clean: np.ndarray, changed: np.ndarray) -> float:
    """PSNR in dB after the best single gain is applied to ``changed``: CUDA rescales the brightness, to which a viewer
    adapts, so this figure is nearer to what is seen."""
    a, b = clean.astype(np.float64).ravel(), changed.astype(np.float64).ravel()
    power = float(b @ b)
    gain = float(a @ b) / power if power else 1.0
    return _psnr(a, gain * b)


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a - b) ** 2)
    return math.inf if error == 0 else float(10 * np.log10(255**2 / error))


def ssim(clean: np.ndarray, changed: np.ndarray) -> float:
    """Structural similarity of two uint8 images (H, W, C), mean over places and channels; 1 where they are equal.

    Wang et al. 2004: Gaussian window of 11 pixels with sigma 1.5, K1 = 0.01, K2 = 0.03; places where the window does
    not fit are left out. Images with a side shorter than the window are refused.
    """
    if min(clean.shape[:2]) < SSIM_WINDOW:
        raise UsageError(f"SSIM needs pictures of {SSIM_WINDOW} pixels a side, got {clean.shape[:2]}")
    around = SSIM_WINDOW - 1
    height, width = (side - around for side in clean.shape[:2])
    total = 0.0
    for top in range(0, height, SSIM_TILE):  # its matrix products take more for each pixel the larger an image is
        for left in range(0, width, SSIM_TILE):
            part = slice(top, top + SSIM_TILE + around), slice(left, left + SSIM_TILE + around)
            total += _likeness(clean[part], changed[part])
    return total / (height * width * clean.shape[2])


def _likeness(clean: np.ndarray, changed: np.ndarray) -> float:
    """The sum of SSIM over places and channels."""
    a, b = (torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), np.float64)) for image in (clean, changed))
    window = torch.exp(-((torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2) ** 2) / (2 * 1.5**2))
    window /= window.sum()
    down, across = (_sliding(window, side) for side in clean.shape[:2])  # far faster than conv2d in float64
    maps = down @ torch.stack([a, b, a * a, b * b, a * b]) @ across.T
    mean_a, mean_b, square_a, square_b, product = maps.view(5, -1)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    likeness = (2 * mean_a * mean_b + c1) * (2 * (product - mean_a * mean_b) + c2)
    likeness /= (mean_a**2 + mean_b**2 + c1) * (square_a - mean_a**2 + square_b - mean_b**2 + c2)
    return float(likeness.sum())


def _sliding(window: torch.Tensor, side: int) -> torch.Tensor:
    """The matrix that weighs ``side`` values by a window at every place where it fits."""
    matrix = torch.zeros(side - len(window) + 1, side, dtype=window.dtype)
    for shift, weight in enumerate(window):
        matrix.diagonal(shift).fill_(float(weight))
    return matrix


def unchanged_rows(before: torch.Tensor, after: torch.Tensor) -> list[int]:
    """Rows of two uint8 batches (B, C, H, W) that are equal pixel for pixel: only those that agree in the middle pixel
    are compared whole."""
    middle = (slice(None), 0, before.shape[2] // 2, before.shape[3] // 2)
    a, b = before.numpy(), after.numpy()  # far faster than torch
    rows = np.flatnonzero(a[middle] == b[middle])
    return rows[(a[rows] == b[rows]).all((1, 2, 3))].tolist()


def grey_rows(images: torch.Tensor) -> torch.Tensor:
    """Which images of a uint8 batch (B, C, H, W) have equal channels, bool (B,); C = 1 or 3. As
    :func:`unchanged_rows`."""
    values = images.numpy()
    middle = values[:, :, images.shape[2] // 2, images.shape[3] // 2]
    grey = (middle == middle[:, :1]).all(1)
    rows = np.flatnonzero(grey)
    grey[rows] = (values[rows, 1:] == values[rows, :1]).all((1, 2, 3))
    return torch.from_numpy(grey)


def equal_arrays(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether two uint8 pictures (H, W, C) of one shape are equal; the middle pixel is compared first."""
    middle = before.shape[0] // 2, before.shape[1] // 2
    return np.array_equal(before[middle], after[middle]) and np.array_equal(before, after)


def content_in_alpha(colour: np.ndarray, alpha: np.ndarray) -> bool:
    """Whether what an image shows, uint8 (H, W, 1 or 3), lives in its alpha channel, uint8 (H, W, 1): nothing is
    visible, or all that is has one colour while alpha varies. No change of the colours protects such an image."""
    lowest, highest = int(alpha.min()), int(alpha.max())
    if highest == 0:
        return True
    if highest - lowest <= VISIBLE:
        return False
    shown = colour[alpha[:, :, 0] > VISIBLE]
    return bool((np.ptp(shown, axis=0) <= VISIBLE).all()) if len(shown) else True


def rows_in_alpha(images: torch.Tensor) -> list[int]:
    """Rows of a uint8 batch (B, C, H, W) with alpha last (C = 2, 4) of which :func:`content_in_alpha` is true."""
    if images.shape[1] in (1, 3):
        return []
    pixels = images.numpy().transpose(0, 2, 3, 1)
    return [row for row, image in enumerate(pixels) if content_in_alpha(image[:, :, :-1], image[:, :, -1:])]
