"""Arithmetic on bytes: how far two pictures are apart, and which rows did not change."""

import numpy as np
import pytest
import torch
from conftest import pixels

from unlearnable_transforms.pixels import gain_fitted_psnr, psnr, unchanged_rows


def test_psnr():
    clean = np.full((4, 4, 3), 100, np.uint8)
    assert psnr(clean, clean) == float("inf")
    assert psnr(clean, clean + 1) == pytest.approx(10 * np.log10(255**2))
    assert psnr(np.zeros_like(clean), np.full_like(clean, 255)) == pytest.approx(0)
    assert psnr(clean, np.full_like(clean, 90)) == psnr(np.full_like(clean, 90), clean)  # no wrap-around


def test_gain_fitted_psnr_forgives_a_gain_only():
    clean = pixels(8, 8, 3) // 2
    assert gain_fitted_psnr(clean, clean * 2) == float("inf")
    assert psnr(clean, clean * 2) < 20
    assert gain_fitted_psnr(clean, np.zeros_like(clean)) == pytest.approx(psnr(clean, np.zeros_like(clean)))
    assert gain_fitted_psnr(clean, pixels(8, 8, 3, seed=1)) >= psnr(clean, pixels(8, 8, 3, seed=1))


def test_unchanged_rows():
    before = torch.from_numpy(pixels(5, 3, 7, 6))
    after = before.clone()
    after[1, 2, 6, 5] ^= 1  # the last pixel only
    after[3] ^= 1
    assert unchanged_rows(before, after) == [0, 2, 4]
    assert unchanged_rows(before[:0], after[:0]) == []
