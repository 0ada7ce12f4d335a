"""UEraser: its augmentations, and the choice of the hardest."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import seeded
from small_training import LABELS, RECIPE, make_ready, make_setting, random_pixels, recording_model  # noqa: F401

from unlearnable_transforms.defenses import plasma
from unlearnable_transforms.training.jpeg import compress
from unlearnable_transforms.training.transforms import seeded_globally


def _ueraser(epochs: int = 8, **arguments):
    return make_ready("ueraser", make_setting(recipe=replace(RECIPE, epochs=epochs)), **arguments)


def test_ueraser_max_trains_on_the_worst_of_its_draws(model):
    defense = _ueraser(variant="max", repeats=4)
    defense.on_epoch(8)
    statistics = {name: value.clone() for name, value in model.net.named_buffers() if "running" in name}
    batches = model.net.features[0][1].num_batches_tracked.item()
    loss, logits = defense.loss(model, random_pixels(), LABELS, seeded())
    assert len(model.seen) == 5
    draws, hardest = torch.stack(model.seen[:4]), model.seen[4]
    assert len({draw.numpy().tobytes() for draw in draws}) == 4
    assert model.net.features[0][1].num_batches_tracked == batches + 1  # choosing trains no statistics
    assert any(not value.equal(statistics[name]) for name, value in model.net.named_buffers() if "running" in name)
    with torch.no_grad():
        losses = torch.stack([F.cross_entropy(model(draw), LABELS, reduction="none") for draw in draws])
    assert hardest.equal(draws[losses.argmax(0), torch.arange(12)])
    torch.testing.assert_close(loss, F.cross_entropy(logits, LABELS))
    assert logits.requires_grad


@pytest.mark.parametrize(("variant", "draws"), [("lite", [1] * 8), ("standard", [5] * 2 + [1] * 6), ("max", [5] * 8)])
def test_ueraser_variants_draw_as_often_as_they_say(model, variant, draws):
    defense, counts = _ueraser(variant=variant), []
    for epoch in range(1, 9):
        model.seen.clear()
        defense.on_epoch(epoch)
        defense.loss(model, random_pixels(), LABELS, seeded())
        counts.append(len(model.seen))
    assert counts == [1 if count == 1 else count + 1 for count in draws]


def test_ueraser_applies_its_parts_with_their_probability():
    pixels = torch.rand(400, 3, 8, 8, generator=seeded(2))
    never, always = (_ueraser(probability=probability).transform(pixels, seeded()) for probability in (0.0, 1.0))
    assert always.min() >= 0
    assert always.max() <= 1
    brightened = (always.mean((1, 2, 3)) - never.mean((1, 2, 3))).abs() > 0.02
    assert brightened.float().mean() > 0.7
    by_hand = seeded()  # without the parts, only TrivialAugment is left
    for change in (plasma.plasma_brightness, plasma.plasma_contrast, plasma.shuffle_channels):
        plasma.draw(by_hand, pixels, 1, 1, 1)
        change(pixels, by_hand)
    assert never.equal(plasma.trivial_augment(pixels, by_hand))


def test_fractals_are_rough_as_kornias():
    contrib = pytest.importorskip("kornia.contrib")
    own = plasma.fractal(torch.zeros(3000, 3, 32, 32), seeded())
    with seeded_globally(seeded()):
        theirs = contrib.diamond_square((3000, 1, 32, 32), roughness=0.3 + 0.4 * torch.rand(3000))
    assert own.min() >= 0
    assert own.max() <= 1
    for statistic in (
        lambda maps: maps.mean(),
        lambda maps: maps.std(0).mean(),
        lambda maps: maps.std(0)[0, 16, 16],
        lambda maps: maps.diff(dim=3).abs().mean(),
        lambda maps: maps.diff(dim=2)[..., 0].abs().mean(),  # at the border
        lambda maps: maps.mean((2, 3)).std(),
    ):
        torch.testing.assert_close(statistic(own), statistic(theirs), atol=0.004, rtol=0.02)


def test_plasma_shifts_brightness_and_scales_contrast():
    pixels = torch.full((300, 3, 16, 16), 0.75)
    shift = plasma.plasma_brightness(pixels, seeded()) - 0.75
    assert shift.min() == -0.75  # black
    assert shift.max() == 0.25  # white
    assert len({each.numpy().tobytes() for each in shift}) == 300
    assert shift[:, 0].equal(shift[:, 2])
    near = torch.full((300, 3, 16, 16), 0.6)
    factor = (plasma.plasma_contrast(near, seeded()) - 0.5) / 0.1
    assert -1e-5 < factor.min() < 0.5
    assert 3.5 < factor.max() < 4 + 1e-5
    assert factor.mean() == pytest.approx(2, abs=0.05)


def test_channel_shuffle_gives_all_six_orders():
    pixels = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1).expand(600, 3, 2, 2)
    out = plasma.shuffle_channels(pixels, seeded())
    orders, counts = out[:, :, 0, 0].unique(dim=0, return_counts=True)
    assert len(orders) == 6
    assert counts.min() > 70
    assert out.sort(dim=1).values.equal(pixels)


def test_operations_of_trivial_augment():
    def apply(index, pixels, strength):
        return plasma.OPERATIONS[index](pixels, torch.full((len(pixels), 1, 1, 1), strength))

    pixels = 0.25 + 0.5 * torch.rand(2, 3, 8, 8, generator=seeded())
    low, high = pixels.amin((2, 3), keepdim=True), pixels.amax((2, 3), keepdim=True)
    expected = {
        (0, 0.3): (pixels - low) / (high - low),
        (2, 0.0): torch.where(pixels >= 128 / 255, 128 / 255, 0.0),
        (2, 0.9): (pixels * 255 // 16) * 16 / 255,
        (3, 0.5): torch.where(pixels >= 0.5, 1 - pixels, pixels),
        (4, 0.5): pixels,
        (5, 0.0): 0.1 * pixels,
        (5, 1.0): 1.9 * pixels,
        (6, 0.5): pixels,
        (7, 0.5): pixels,
        (8, 0.5): pixels,
        (10, 0.75): F.pad(pixels, (0, 2))[..., 2:],  # read two pixels to the right
        (11, 0.0): F.pad(pixels, (0, 0, 4, 0))[..., :8, :],  # and four pixels above
    }  # fmt: skip
    for (index, strength), value in expected.items():
        torch.testing.assert_close(apply(index, pixels, strength), value, atol=2e-6, rtol=1e-5)
    ramp = (torch.arange(1024) / 1023).view(1, 1, 32, 32).expand(1, 3, 32, 32)
    torch.testing.assert_close(apply(1, ramp**2, 0.5), ramp, atol=0.08, rtol=0)  # many values are below 1/255
    assert (ramp**2 - ramp).abs().max() > 0.24
    spread = [apply(index, pixels, strength).diff(dim=3).std() for index in (4, 6) for strength in (0.0, 0.5, 1.0)]
    assert spread[0] < 0.2 * spread[1] < spread[2]
    assert spread[3] < spread[4] < spread[5]
    torch.testing.assert_close(apply(9, pixels, 1.0).mT, apply(8, pixels.mT, 1.0))
    turned = pixels
    for _ in range(3):
        turned = apply(7, turned, 1.0)  # 30 degrees
    inner = slice(3, 5)  # three readings blur
    turned = turned[..., inner, inner].mean((2, 3))
    quarters = [pixels.rot90(turns, (2, 3))[..., inner, inner].mean((2, 3)) for turns in (1, 3)]
    assert min((turned - quarter).abs().max() for quarter in quarters) < 0.1


def test_trivial_augment_draws_for_each_image():
    pixels = torch.rand(1, 3, 16, 16, generator=seeded()).expand(300, -1, -1, -1)
    generator = seeded()
    out = plasma.trivial_augment(pixels, generator)
    assert len({image.numpy().tobytes() for image in out}) > 200
    assert out.min() >= 0
    assert out.max() <= 1
    assert not out.equal(plasma.trivial_augment(pixels, generator))


def test_ueraser_jpeg_is_the_last_step():
    pixels = torch.rand(16, 3, 16, 16, generator=seeded(2))
    plain = _ueraser().transform(pixels, seeded())
    compressed = _ueraser(jpeg=10).transform(pixels, seeded())
    expected = compress((plain * 255).round().byte(), 10).float() / 255
    assert compressed.equal(expected)
    assert not compressed.equal(plain)
