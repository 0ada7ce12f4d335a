"""What happens to a published photograph, with a gradient: sizes, JPEG, colours, crops."""

import pytest
import torch
from conftest import seeded

from unlearnable_transforms.errors import UsageError
from unlearnable_transforms.training import transforms
from unlearnable_transforms.training.jpeg import compress, compress_through
from unlearnable_transforms.training.transforms import published, transformed


def _images(count: int, side: int = 48) -> torch.Tensor:
    """Float (count, 3, side, side) in [0, 1], smooth, as photographs are."""
    coarse = torch.rand(count, 3, 6, 6, generator=seeded(1))
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear", align_corners=False)


def test_each_image_has_a_quality_of_its_own():
    levels = (255 * _images(3)).byte()
    mixed = compress(levels, torch.tensor([10, 50, 90]))
    assert torch.equal(mixed, torch.stack([compress(levels, q)[row] for row, q in enumerate([10, 50, 90])]))


def test_jpeg_is_exact_forwards_and_the_identity_backwards():
    images = _images(4)
    leaf = images.clone().requires_grad_()
    result = compress_through(leaf, 75)
    assert torch.equal((255 * result).round().byte(), compress((255 * images).round().byte(), 75))
    weights = torch.rand(result.shape, generator=seeded(2))
    assert torch.equal(torch.autograd.grad((result * weights).sum(), leaf)[0], weights)
    assert (result - images).abs().max() > 2 / 255


def test_a_published_photograph_changes_in_size_and_in_little_else():
    images = _images(40)
    shapes, generator = set(), seeded(3)
    for _ in range(12):
        result = published(images, generator)
        assert result.min() >= 0
        assert result.max() <= 1
        assert (result.mean((1, 2, 3)) - images.mean((1, 2, 3))).abs().mean() < 0.08
        shapes.add(tuple(result.shape))
    low, high = (round(factor * 48) for factor in transforms.TRAINED)
    assert len(shapes) > 6
    assert all(shape[:2] == (40, 3) and low <= shape[2] == shape[3] <= high for shape in shapes)
    assert torch.equal(published(images, seeded(4)), transformed(images, "published", seeded(4)))
    assert not torch.equal(*(published(images[:1].expand(2, -1, -1, -1), seeded(4))))  # draws of each image


def test_the_gradient_goes_through():
    leaf = _images(3).requires_grad_()
    gradient = torch.autograd.grad(published(leaf, seeded(5)).square().sum(), leaf)[0]
    assert gradient.isfinite().all()
    assert (gradient != 0).float().mean((1, 2, 3)).min() > 0.5  # a crop keeps 60 % or more of the area


def test_small_and_oblong_images_and_wrong_ones():
    assert min(published(torch.rand(2, 3, 8, 8), seeded()).shape[2:]) >= 8
    height, width = published(torch.rand(2, 3, 40, 80), seeded()).shape[2:]
    assert abs(width - 2 * height) <= 1
    with pytest.raises(UsageError, match="images must be float"):
        published(torch.zeros(2, 3, 16, 16, dtype=torch.uint8), seeded())
