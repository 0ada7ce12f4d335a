"""SimCLR's augmentations with a gradient: torchvision's operations, AUE's bounds, draws of each image."""

import pytest
import torch
from conftest import seeded
from torchvision.transforms.v2 import functional as v2

from unlearnable_transforms.defenses.colour import contrastive_transform
from unlearnable_transforms.training import transforms
from unlearnable_transforms.training.transforms import ContrastiveRanges, contrastive, transformed


def random_images(count: int, side: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=seeded(1))


def each(operation, images: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """torchvision's operation on one image after the other."""
    return torch.stack([operation(image, float(value)) for image, value in zip(images, values, strict=True)])


@pytest.mark.parametrize(
    ("name", "reference", "offset"),
    [
        ("_brightness", v2.adjust_brightness, 1),
        ("_contrast", v2.adjust_contrast, 1),
        ("_saturation", v2.adjust_saturation, 1),
        ("_hue", v2.adjust_hue, 0),
    ],
)
def test_colour_operations_are_torchvisions(name, reference, offset):
    images = random_images(20)
    images[0], images[1] = 0.5, images[1, :1]  # flat and grey images have no hue
    images[2, 2] = images[2, 1]  # ties
    change = torch.linspace(-0.4, 0.4, 20)
    ours = getattr(transforms, name)(images, change.view(-1, 1, 1, 1)).clamp(0, 1)
    assert torch.allclose(ours, each(reference, images, change + offset), atol=1e-5)


@pytest.mark.parametrize("strength", [0.3, 0.6, 1.0])
def test_bounds_and_shares_are_those_of_aue(strength):
    """On images of one colour the crop and the flip change nothing, so that colours are seen alone."""
    ranges = ContrastiveRanges(strength)
    assert ranges.scale == (pytest.approx(max(1 - 0.9 * strength, 0.05)), 1)
    colour = torch.tensor([0.3, 0.4, 0.2]).view(1, 3, 1, 1)
    out = contrastive(colour.expand(3000, 3, 8, 8), seeded(2), strength=strength)[:, :, 4, 4]
    grey = (out.amax(1) - out.amin(1)) < 1e-5
    assert grey.float().mean() == pytest.approx(0.2 * strength, abs=0.03)
    kept = (out - colour.flatten()).abs().amax(1) < 1e-5
    assert kept[~grey].float().mean() == pytest.approx(1 - min(0.99, 0.8 * strength), abs=0.03)
    largest = out.amax(1)[~grey & ~kept] / 0.4
    assert largest.max() > 1 + 0.3 * strength
    assert largest.max() < (1 + 0.4 * strength) ** 2  # brightness, and saturation where the grey is darker
    assert largest.min() < 1 - 0.3 * strength


def test_it_agrees_with_the_defense_of_the_same_name():
    """The same means of image statistics, over draws of both."""
    image = torch.zeros(1, 3, 16, 16)
    image[:, 0, :, :8], image[:, 1, 4:12], image[:, 2] = 0.8, 0.5, 0.3
    ours = contrastive(image.expand(1500, -1, -1, -1), seeded(3), strength=0.6)
    transform = contrastive_transform(16, 0.6)
    with transforms.seeded_globally(seeded(4)):
        theirs = torch.stack([transform(image[0]) for _ in range(1500)])

    def statistics(images):
        spread = images.std((2, 3)).mean(1)
        chroma = (images.amax(1) - images.amin(1)).mean((1, 2))
        columns = torch.stack([images.mean((1, 2, 3)), spread, chroma], 1)
        return columns.mean(0), columns.std(0)

    (mean, std), (expected, expected_std) = statistics(ours), statistics(theirs)
    assert torch.allclose(mean, expected, atol=0.012)
    assert torch.allclose(std, expected_std, atol=0.012)


def test_it_is_differentiable_repeatable_and_different_for_each_image():
    images = random_images(1).expand(6, -1, -1, -1).contiguous().requires_grad_()
    out = contrastive(images, seeded(5))
    assert out.shape == images.shape
    assert out.min() >= 0
    assert out.max() <= 1
    assert len({tuple(image.flatten().tolist()) for image in out}) == 6
    (gradient,) = torch.autograd.grad(out.square().sum(), images)
    assert gradient.isfinite().all()
    assert (gradient.abs().sum((1, 2, 3)) > 0).all()
    assert torch.equal(out, transformed(images, "contrastive", seeded(5)))
    assert not torch.equal(out, contrastive(images, seeded(5), strength=0.3))
    grey = torch.full((6, 3, 8, 8), 0.5, requires_grad=True)  # no hue, and ties everywhere
    (gradient,) = torch.autograd.grad(contrastive(grey, seeded(6), strength=1.0).square().sum(), grey)
    assert gradient.isfinite().all()


def test_it_takes_float_images():
    with pytest.raises(ValueError, match="must be float"):
        contrastive(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), seeded(0))
