"""Arithmetic on uint8 pixels, and how far two pictures are apart."""

import math

import numpy as np
import torch

# Chunks of this many colour values keep every intermediate of a pass in a core's cache.
CHUNK_VALUES = 1_500_000


def chunk_length(values_per_image: int) -> int:
    """How many images one pass works on at a time."""
    return max(1, CHUNK_VALUES // max(1, values_per_image))


def psnr(clean: np.ndarray, changed: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB (peak 255) of two uint8 arrays of one shape; ``inf`` where they are equal."""
    error = np.mean((clean.astype(np.float64) - changed.astype(np.float64)) ** 2)
    return math.inf if error == 0 else float(10 * np.log10(255**2 / error))


def gain_fitted_psnr(clean: np.ndarray, changed: np.ndarray) -> float:
    """PSNR in dB after the best single gain is applied to ``changed``.

    CUDA rescales each picture's brightness; a viewer adapts to that, so this figure is nearer to what is seen.
    """
    a, b = clean.astype(np.float64).ravel(), changed.astype(np.float64).ravel()
    power = float(b @ b)
    gain = float(a @ b) / power if power else 1.0
    error = np.mean((a - gain * b) ** 2)
    return math.inf if error == 0 else float(10 * np.log10(255**2 / error))


def unchanged_rows(before: torch.Tensor, after: torch.Tensor) -> list[int]:
    """Rows of two uint8 batches (B, C, H, W) that are equal pixel for pixel.

    A sparse grid of pixels is compared first: only rows that agree there are compared whole.
    """
    step_h, step_w = (max(1, side // 4) for side in before.shape[2:])
    grid = (slice(None), slice(None), slice(step_h // 2, None, step_h), slice(step_w // 2, None, step_w))
    same = (before[grid] == after[grid]).flatten(1).all(1).nonzero().flatten()
    return [row for row in same.tolist() if torch.equal(before[row], after[row])]
