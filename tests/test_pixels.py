"""Arithmetic on bytes: how far two pictures are apart, and which rows did not change."""

import numpy as np
import pytest
import torch
from conftest import pixels

from unlearnable_transforms.pixels import content_in_alpha, gain_fitted_psnr, psnr, rows_in_alpha, unchanged_rows


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


FLAT, SHAPE = np.full((9, 8, 3), [200, 30, 30], np.uint8), pixels(9, 8, 1)
BLACK_UNDER = np.where(SHAPE > 127, FLAT, np.uint8(0))  # another colour where nothing is visible
CUT_OUT = np.where(SHAPE > 127, 255, 0).astype(np.uint8)


@pytest.mark.parametrize(
    ("colour", "alpha", "hidden"),
    [
        (FLAT, SHAPE, True),
        (FLAT[:, :, :1], SHAPE, True),
        (FLAT + pixels(9, 8, 3) % 5, SHAPE, True),
        (BLACK_UNDER, CUT_OUT, True),
        (pixels(9, 8, 3), np.zeros_like(SHAPE), True),
        (FLAT, np.full_like(SHAPE, 255), False),
        (FLAT, np.full_like(SHAPE, 128), False),
        (pixels(9, 8, 3), SHAPE, False),
        (pixels(9, 8, 3), CUT_OUT, False),
    ],
    ids=["flat", "grey", "nearly flat", "flat where visible", "invisible", "opaque", "even", "soft", "cut out"],
)
def test_content_that_lives_in_alpha(colour, alpha, hidden):
    assert content_in_alpha(colour, alpha) is hidden
    both = torch.from_numpy(np.concatenate([colour, alpha], 2)).permute(2, 0, 1)
    assert rows_in_alpha(torch.stack([both, both])) == ([0, 1] if hidden else [])
    assert rows_in_alpha(both[None, :-1]) == []
