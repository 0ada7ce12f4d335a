"""Halos taken away: how near the image comes back, and how much work it is."""

import numpy as np
import pytest
import torch
from conftest import pixels
from folders import photograph

from unlearnable_transforms import CUDAPoison
from unlearnable_transforms.pixels import psnr
from unlearnable_transforms.poisons import deconvolution


def undo(poison: CUDAPoison, image: np.ndarray, label: int) -> np.ndarray:
    protected = torch.from_numpy(poison(image, label)[0]).permute(2, 0, 1).contiguous()
    side = min(image.shape[:2])
    found = deconvolution.remove_halo(protected, poison._filter(f"i:{label}", side), poison._shape(side).step)
    return found.to(torch.uint8).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("shape", [(72, 110), (131, 97), (600, 400)], ids=str)
@pytest.mark.parametrize("strength", ["subtle", "normal", "strong"])
def test_what_is_left_is_rounding(key, shape, strength):
    poison = CUDAPoison(key=key, strength=strength)
    for label, image in enumerate((photograph(4, *shape), pixels(*shape, 3))):
        assert psnr(image, undo(poison, image, label)) > 49  # 58.9 dB is half a level of rounding, once


def test_few_passes_over_the_whole_image_are_enough(key, monkeypatch):
    """One pass is what protecting costs; the rest of the work is on a reduced image."""
    image = photograph(3, 480, 720)
    passes, add = [], deconvolution.add_soft_copies
    monkeypatch.setattr(
        deconvolution, "add_soft_copies", lambda channel, *rest: passes.append(channel.shape) or add(channel, *rest)
    )
    assert psnr(image, undo(CUDAPoison(key=key), image, 1)) > 49
    assert passes.count((480, 720)) <= 6 * 3
    assert max(shape[0] for shape in set(passes) - {(480, 720)}) <= 480 // 2


def test_an_image_comes_back_alike_whatever_is_undone_beside_it(key):
    """Easy images end early, also beside hard ones; sums in another order may move a pixel by one level."""
    poison = CUDAPoison(key=key, classes=[0, 1])
    images = [np.full((32, 32, 3), 120, np.uint8), pixels(32, 32, 3), photograph(2, 32, 32)]
    labels = [0, 1, 1]
    protected = torch.from_numpy(np.stack([poison(*pair)[0] for pair in zip(images, labels, strict=True)]))
    protected = protected.permute(0, 3, 1, 2).contiguous()
    weights = torch.from_numpy(poison.kernels(labels, image_size=32))
    peaks = torch.full((3,), float("nan"))
    together = deconvolution.deconvolve(protected, weights, peaks)
    alone = [deconvolution.deconvolve(protected[n : n + 1], weights[n : n + 1], peaks[n : n + 1]) for n in range(3)]
    apart = (together - torch.cat(alone)).abs()
    assert apart.max() <= 1
    assert (apart > 0).float().mean() < 0.002
