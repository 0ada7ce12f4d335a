"""CUDA on photographs: halos against the plain formula, their exactness, and what they leave of a picture."""

import numpy as np
import pytest
import torch
from conftest import pixels
from folders import photograph

from unlearnable_transforms import CUDAPoison, Key, UnchangedWarning
from unlearnable_transforms.poisons.convolution import GRID, HALO_GRID, MAX_STEP, SOFT_GRID, halo
from unlearnable_transforms.poisons.cuda import BLUR, HALO, HALO_ENTRIES


@pytest.mark.parametrize("strength", ["subtle", "normal", "strong"])
def test_strengths(key, strength):
    poison = CUDAPoison(key=key, strength=strength)
    small = poison.kernels(range(50), image_size=71)
    assert 0.9 * BLUR[strength] < small[small < 1].max() <= BLUR[strength] + 1 / GRID
    large = poison.kernels(range(50), image_size=72)
    assert ((large > 0).sum((1, 2)) == 1 + HALO_ENTRIES).all()
    assert large.sum((1, 2)) == pytest.approx(1 + HALO[strength], abs=2 / HALO_GRID)
    assert not (large * HALO_GRID % 1).any()
    assert (large == poison.kernels(range(50), image_size=4000)).all()
    places = [tuple(one.ravel().argsort()[-3:]) for one in large[:20]]
    assert len(set(places)) == 20


def plain_halo(image: np.ndarray, weights: np.ndarray, step: int) -> np.ndarray:
    """What the formula says, in float64, picture (H, W, C): every entry but the 1 is a smeared and shifted copy."""
    image = image.astype(np.float64)
    height, width, _ = image.shape
    reach = len(weights) * step
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    row, column = np.argwhere(weights == 1)[0]
    total = image.copy()
    for i, j in np.argwhere(weights):
        if (i, j) == (row, column):
            continue
        y, x = (i - row) * step - step // 2 + reach, (j - column) * step - step // 2 + reach
        rows = sum(padded[y + a : y + a + height] for a in range(step))
        smeared = sum(rows[:, x + b : x + b + width] for b in range(step))
        total += float(weights[i, j]) * np.rint(smeared * SOFT_GRID / step**2) / SOFT_GRID
    return np.rint(total / weights.sum(dtype=np.float64))


@pytest.mark.parametrize("shape", [(72, 100), (101, 97), (640, 161), (171, 900)], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("strength", ["subtle", "normal", "strong"])
def test_halos_equal_the_plain_formula(key, shape, channels, strength):
    image = pixels(*shape, channels)
    poison = CUDAPoison(key=key, strength=strength)
    step = round(min(shape) / (32 if strength == "strong" else 48))
    for label in range(3):
        protected = poison(image, label)[0]
        expected = plain_halo(image, poison.kernels([label], image_size=shape)[0], step)
        assert abs(protected - expected).max() <= 1  # float32 and float64 may round a half to different sides
        assert (protected != expected).mean() < 1e-3


@pytest.mark.parametrize("step", [1, 2, 3, 6, 7, 13, 62])
def test_halos_in_strips_equal_halos_in_one_piece(key, step, monkeypatch):
    image = torch.from_numpy(pixels(2, 20 + 10 * step, 10 + 4 * step))  # higher than a strip
    weights = CUDAPoison(key=key).kernels([5], image_size=400)[0]
    results = []
    for strip in (1, 2**30):
        monkeypatch.setattr("unlearnable_transforms.poisons.convolution.STRIP", strip)
        results.append(torch.full(image.shape, -1.0))
        halo(image, weights, step, results[-1])
    assert results[0].equal(results[1])
    assert (
        abs(results[0].permute(1, 2, 0).numpy() - plain_halo(image.permute(1, 2, 0).numpy(), weights, step)).max() <= 1
    )


def test_sums_of_halos_are_exact_up_to_the_largest_step():
    image = torch.full((1, 1040, 1040), 255, dtype=torch.uint8)
    weights = np.zeros((3, 3), np.float32)
    weights[1, 1], weights[0, 0], weights[2, 1] = 1, 14, 1 - 1 / HALO_GRID
    result = torch.empty(1, 1040, 1040)
    halo(image, weights, MAX_STEP, result)
    assert (result == 255).all()
    assert 255 * MAX_STEP**2 < 2**24
    assert 255 * 16 * HALO_GRID * SOFT_GRID <= 2**24


def test_a_photograph_keeps_its_brightness_and_its_detail(key):
    image = photograph(4, 300, 303) // 2 + 60
    for label in range(4):
        protected = CUDAPoison(key=key)(image, label)[0]
        assert protected.mean() == pytest.approx(image.mean(), abs=1.5)
        edge = protected[:, :3].astype(int)
        assert edge.min() > 30  # no dark border


def test_pictures_of_one_colour_are_told():
    poison = CUDAPoison(key=Key.public("flat"))
    with pytest.warns(UnchangedWarning, match="leaves the picture as it is"):
        protected = poison(np.full((120, 120, 3), 200, np.uint8), 1)[0]
    assert (protected == 200).all()


def test_halos_and_small_filters_have_draws_of_their_own(key):
    poison = CUDAPoison(key=key)
    small, large = poison.kernels(range(40), 32), poison.kernels(range(40), 400)
    same = [(a == 1).argmax() == (b == 1).argmax() for a, b in zip(small, large, strict=True)]
    assert sum(same) < 20
