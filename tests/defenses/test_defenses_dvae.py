"""D-VAE: noise that a class shares is taken off, what images show stays, and the code holds few bits."""

import pytest
import torch
import torch.nn.functional as F
from conftest import seeded

from unlearnable_transforms.defenses import dvae as module
from unlearnable_transforms.defenses import get_defense
from unlearnable_transforms.defenses.base import Setting
from unlearnable_transforms.defenses.dvae import DisentangledVAE
from unlearnable_transforms.errors import DivergedError
from unlearnable_transforms.training.loop import DIGITS

SIDE, CLASSES, COUNT, STRENGTH = 12, 3, 192, 0.1
SETTING = Setting(CLASSES, SIDE, "smallcnn", DIGITS, seed=0)
LABELS = torch.arange(COUNT) % CLASSES
# Smooth images, and a pattern of high contrast between neighbouring pixels for each class.
CLEAN = 0.2 + 0.6 * F.interpolate(torch.rand(COUNT, 3, 3, 3, generator=seeded(1)), size=(SIDE, SIDE), mode="bilinear")
PATTERNS = STRENGTH * (2 * torch.randint(2, (CLASSES, 3, SIDE, SIDE), generator=seeded(2)).float() - 1)
SMALL = {"epochs": 10, "width": 16, "batch_size": 16}


def levels(pixels: torch.Tensor) -> torch.Tensor:
    return (255 * pixels.clamp(0, 1)).round().byte()


def left(images: torch.Tensor) -> float:
    """The mean coefficient of the class's pattern in what differs from the clean images: 1 where all of it is there."""
    away, pattern = images / 255 - CLEAN, PATTERNS[LABELS]
    return float(((away * pattern).sum((1, 2, 3)) / pattern.square().sum((1, 2, 3))).mean())


def distance(images: torch.Tensor) -> float:
    """Root of the mean square of a value's distance from the clean images."""
    return float((images / 255 - CLEAN).square().mean().sqrt())


@pytest.fixture(scope="module")
def purified() -> dict[str, torch.Tensor]:
    """What the defense makes of protected and of clean images, and of protected ones at a low rate."""
    protected, clean = levels(CLEAN + PATTERNS[LABELS]), levels(CLEAN)
    sets = {"protected": (protected, {}), "clean": (clean, {}), "low": (protected, {"rough_rate": 0.02, "rate": 0.02})}
    return {
        name: get_defense("d-vae")(**SMALL, **rates).prepare(images, LABELS, SETTING)
        for name, (images, rates) in sets.items()
    }


def test_noise_of_a_class_goes_and_images_stay(purified):
    """Against the protected images, and against what the same purifier makes of clean ones."""
    protected = levels(CLEAN + PATTERNS[LABELS])
    assert purified["protected"].dtype == torch.uint8
    assert left(protected) == pytest.approx(1, abs=0.02)
    assert abs(left(purified["protected"])) < 0.2  # 4 % of its energy
    assert abs(left(purified["clean"])) < 0.1
    assert distance(purified["protected"]) < 0.8 * distance(protected)
    assert distance(purified["protected"]) < 1.3 * distance(purified["clean"])


def test_a_low_rate_leaves_little_of_an_image(purified):
    assert distance(purified["low"]) > 1.5 * distance(purified["protected"])


def test_stages_have_their_rates_and_weights_and_the_noise_is_taken_off(monkeypatch):
    """The second stage learns from what the first one left: the protected images without the noise of their classes."""
    seen = []

    def stand_in(self, pixels, labels, rate, weight, title):
        seen.append((pixels.clone(), rate, weight))
        vae = DisentangledVAE(CLASSES, (SIDE, SIDE), 4)
        vae.noise = lambda classes: PATTERNS[classes] / 2
        return vae.eval()

    monkeypatch.setattr(module.DVAE, "_trained", stand_in)
    protected = levels(CLEAN + PATTERNS[LABELS])
    get_defense("d-vae")(rough_rate=0.5).prepare(protected, LABELS, SETTING)
    assert [(rate, weight) for _, rate, weight in seen] == [(0.5, 0.01), (3.0, 0.5)]
    first, second = seen[0][0], seen[1][0]
    assert torch.equal(levels(first), protected)
    assert torch.allclose(second, (first - PATTERNS[LABELS] / 2).clamp(0, 1))


def test_images_keep_their_size_and_the_seed_decides():
    images, labels = torch.randint(256, (20, 3, 9, 14), dtype=torch.uint8, generator=seeded(3)), torch.arange(20) % 2
    setting = Setting(4, 9, "smallcnn", DIGITS, seed=1)  # two classes without images
    defense = get_defense("d-vae")(epochs=1, width=4, batch_size=8)
    once = defense.prepare(images, labels, setting)
    assert once.shape == images.shape
    assert torch.equal(once, defense.prepare(images, labels, setting))
    assert not torch.equal(once, defense.prepare(images, labels, Setting(4, 9, "smallcnn", DIGITS, seed=2)))
    assert torch.equal(defense.test(images, setting), images)  # test images stay


def test_a_loss_that_is_not_finite_is_an_error():
    images = torch.full((4, 3, 8, 8), float("nan"))
    with pytest.raises(DivergedError, match="stage 1 became nan in step 0"):
        get_defense("d-vae")(epochs=1, width=4).prepare(images, torch.zeros(4, dtype=torch.int64), SETTING)
