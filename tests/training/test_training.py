"""The training loop and the batch augmentation, on digits and on synthetic images."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import seeded
from torch import nn

from unlearnable_transforms.training.loop import DIGITS, History, Recipe, train
from unlearnable_transforms.training.model import PixelModel, accuracy, predict
from unlearnable_transforms.training.transforms import crop_flip, resized_crop_flip
from unlearnable_transforms.victims.registry import build_victim

SHORT = replace(DIGITS, epochs=2)


@pytest.fixture(scope="module")
def digits(digits):
    """In one channel."""
    images, labels = digits
    return images[:, :1].contiguous(), labels


def _small(seed: int = 0) -> nn.Module:
    return build_victim("smallcnn", 10, 8, seed)


def _random_set(count: int, channels: int = 3, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = seeded(5)
    images = torch.randint(256, (count, channels, size, size), generator=generator, dtype=torch.uint8)
    return images, torch.randint(10, (count,), generator=generator)


# ---- crop_flip


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("flip", [True, False])
def test_crop_flip_equals_one_image_at_a_time(dtype, flip):
    images = torch.randint(256, (40, 3, 9, 12), generator=seeded(0)).to(dtype)
    out = crop_flip(images, seeded(3), padding=2, flip=flip)
    generator = seeded(3)
    top, left = (torch.randint(5, (40, 1), generator=generator).flatten() for _ in range(2))
    mirrored = torch.randint(2, (40, 1), generator=generator).flatten() if flip else torch.zeros(40)
    for i, image in enumerate(images):
        crop = F.pad(image, (2, 2, 2, 2))[:, top[i] : top[i] + 9, left[i] : left[i] + 12]
        assert out[i].equal(crop.flip(-1) if mirrored[i] else crop)
    assert out.dtype == dtype
    assert out.shape == images.shape


def test_crop_and_flip_are_uniform():
    count, padding = 9000, 1
    image = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    image[..., 3, 2] = 1  # mirrored, it lies at column 5: the two cases never overlap with padding 1
    out = crop_flip(image.expand(count, -1, -1, -1), seeded(0), padding=padding)
    place = out.flatten(1).float().argmax(1)
    rows, columns = place // 8, place % 8
    flipped = columns > 3
    assert out.sum() == count
    assert flipped.float().mean().item() == pytest.approx(0.5, abs=0.02)
    for values, values_seen in ((rows, {2, 3, 4}), (columns[~flipped], {1, 2, 3}), (columns[flipped], {4, 5, 6})):
        seen, counts = values.unique(return_counts=True)
        assert set(seen.tolist()) == values_seen
        assert (counts / len(values) - 1 / 3).abs().max() < 0.03


def test_crop_flip_without_work_is_the_identity():
    images, _ = _random_set(4)
    assert crop_flip(images, seeded(0), padding=0, flip=False).equal(images)


def test_crop_flip_gradient_counts_the_pixels_kept():
    images = torch.rand(6, 2, 8, 8, requires_grad=True)
    out = crop_flip(images, seeded(1), padding=3)
    out.backward(torch.full_like(out, 2.0))
    assert images.grad is not None
    assert set(images.grad.unique().tolist()) == {0.0, 2.0}
    assert images.grad.eq(2).sum() == out.ne(0).sum()


@pytest.mark.parametrize("size", [(40, 40), (30, 60)])
def test_resized_crop_flip_gives_the_parts_that_it_says(size):
    height, width = size
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([rows.float(), columns.float(), torch.ones(size)])
    out = resized_crop_flip(image.expand(2000, -1, -1, -1), seeded(0))
    assert out.shape == (2000, 3, height, width)
    assert (out[:, 2] - 1).abs().max() < 1e-5  # never outside the image
    # Coordinates grow in straight lines: the slope is the share of the side that the part takes.
    high = (out[:, 0, 20, 5] - out[:, 0, 10, 5]) / 10
    wide = (out[:, 1, 5, 20] - out[:, 1, 5, 10]) / 10
    middle = (high > 0.15) & (high < 0.9) & (wide.abs() < 0.9)  # borders repeat their pixels
    area, ratio = high * wide.abs(), wide.abs() * width / (high * height)
    assert 0.08 <= area[middle].min() < 0.1
    assert 0.7 < ratio[middle].min() < 0.78
    assert 1.28 < ratio[middle].max() < 1.36
    if size == (40, 40):  # elsewhere wide parts are cut down to the image
        assert area.mean() == pytest.approx(0.54, abs=0.03)
    assert (wide < 0).float().mean() == pytest.approx(0.5, abs=0.05)
    top = out[:, 0, 0, 5]
    assert top[middle].min() < 1
    assert (out[:, 0, -1, 5])[middle].max() > height - 2


def test_resized_crop_flip_is_differentiable_and_repeatable():
    images = torch.rand(4, 3, 16, 12, generator=seeded(2)).requires_grad_()
    out = resized_crop_flip(images, seeded(1))
    assert out.equal(resized_crop_flip(images, seeded(1)))
    (gradient,) = torch.autograd.grad(out.sum(), images)
    assert gradient.sum() == pytest.approx(out.numel(), rel=1e-4)
    whole = resized_crop_flip(images, seeded(1), scale=(1.0, 1.0), ratio=(12 / 16, 12 / 16))
    flipped = torch.stack(
        [min((image, image.flip(2)), key=lambda x: (x - y).abs().max()) for image, y in zip(images, whole, strict=True)]
    )
    assert torch.allclose(whole, flipped, atol=1e-5)
    with pytest.raises(ValueError, match="must have shape"):
        resized_crop_flip(torch.zeros(3, 8, 8), seeded(0))


def test_crop_flip_bad_input():
    with pytest.raises(ValueError, match="B, C, H, W"):
        crop_flip(torch.zeros(3, 8, 8), seeded(0), padding=1)
    with pytest.raises(ValueError, match="padding"):
        crop_flip(torch.zeros(1, 3, 8, 8), seeded(0), padding=-1)


# ---- train


def test_digits_are_learned_and_accuracy_is_the_manual_one(digits):
    images, labels = digits
    test = (images[1300:], labels[1300:])
    net = _small()
    history = train(net, images[:1300], labels[:1300], recipe=DIGITS, seed=0, test=test)
    assert history.last > 0.95
    assert len(history.test_accuracy) == len(history.train_loss) == len(history.train_accuracy) == 15
    assert history.train_loss[-1] < 0.1 * history.train_loss[0]
    assert (history.batches, history.forward_images, history.backward_images) == (15 * 21, 15 * 1300, 15 * 1300)

    x = test[0].expand(-1, 3, -1, -1).float() / 255
    pixels = images[:1300].double() / 255
    assert net.pixel_mean.tolist() == pytest.approx([pixels.mean().item()] * 3)
    assert net.pixel_std.tolist() == pytest.approx([pixels.std(correction=0).item()] * 3)
    with torch.no_grad():
        logits = net((x - net.pixel_mean[0]) / net.pixel_std[0])
    manual = (logits.argmax(1) == test[1]).float().mean().item()
    assert accuracy(net, *test, bf16=False) == pytest.approx(manual, abs=1e-6) == pytest.approx(history.last, abs=1e-6)
    torch.testing.assert_close(predict(net, test[0], bf16=False, batch_size=33), logits, atol=1e-3, rtol=1e-3)


def test_same_seed_same_network_other_seed_another(digits):
    images, labels = digits[0][:200], digits[1][:200]

    def weights(seed):
        net = _small()
        train(net, images, labels, recipe=SHORT, seed=seed)
        return net.classifier.weight

    first = weights(1)
    assert first.equal(weights(1))
    assert not first.equal(weights(2))


def test_global_random_states_are_untouched():
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    train(_small(), *_random_set(50), recipe=SHORT, seed=1)
    assert torch.get_rng_state().equal(before)
    assert (np.random.get_state()[1] == numpy_before).all()


@pytest.mark.parametrize("name", ["smallcnn", "resnet9-screen"])
def test_last_batch_of_one_image_is_trained_on(name):
    seen = []
    recipe = Recipe(epochs=1, batch_size=8, max_lr=0.01)
    net = build_victim(name, 10, 8, 0)
    images, labels = _random_set(17)
    history = train(net, images, labels, recipe=recipe, seed=0, augment=lambda batch, _: seen.append(batch) or batch)
    assert [len(batch) for batch in seen] == [8, 9]
    assert {image.numpy().tobytes() for image in torch.cat(seen)} == {
        image.numpy().tobytes() for image in images.expand(-1, 3, -1, -1)
    }
    assert history.batches == 2
    assert history.forward_images == 17


def test_each_epoch_has_its_own_order():
    seen = []
    images = torch.arange(64, dtype=torch.uint8).view(64, 1, 1, 1).expand(64, 3, 8, 8)
    train(
        _small(), images, _random_set(64)[1], recipe=SHORT, seed=0,
        augment=lambda batch, _: seen.append(batch[:, 0, 0, 0]) or batch,
    )  # fmt: skip
    first, second = torch.cat(seen).view(2, 64)
    assert not first.equal(second)
    assert first.sort().values.equal(second.sort().values)


def test_bf16_agrees_with_float32():
    net, (images, labels) = _small(), _random_set(64)
    train(net, images, labels, recipe=SHORT, seed=0)
    full, half = predict(net, images, bf16=False), predict(net, images, bf16=True)
    assert half.dtype == torch.float32
    assert not half.equal(full)
    assert (half - full).abs().max() < 0.05 * full.abs().max()


def test_hooks_replace_augmentation_perturbation_and_loss():
    images, labels = _random_set(20)
    calls = []

    def augment(batch, generator):
        calls.append(("augment", batch.dtype))
        return batch.float() / 510  # half as bright, as float in [0, 1]

    def perturb(model: PixelModel, pixels, target, generator):
        pixels = pixels.clone().requires_grad_()
        assert pixels.max() <= 0.5
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(pixels), target), pixels)
        calls.append(("perturb", gradient.abs().sum() > 0))
        return (pixels + 0.1 * gradient.sign()).clamp(0, 1)

    def loss(model, pixels, target, generator):
        assert not pixels.requires_grad
        logits = model(pixels)
        return 0 * logits.sum() + 3.0, logits

    recipe = Recipe(epochs=1, batch_size=10, max_lr=0.1, weight_decay=0.0)
    net, untrained = _small(), _small()
    history = train(net, images, labels, recipe=recipe, seed=0, augment=augment, perturb=perturb, loss=loss)
    assert calls == [("augment", torch.uint8), ("perturb", True)] * 2
    assert history.train_loss == [3.0]
    assert net.classifier.weight.equal(untrained.classifier.weight)  # the gradients of the attack do not train
    assert history.forward_images == history.backward_images == 2 * 20


def test_progress_gets_every_epoch():
    seen = []
    test = _random_set(10)
    told = lambda epoch, history: seen.append((epoch, history.last))  # noqa: E731
    history = train(_small(), *_random_set(20), recipe=SHORT, seed=0, test=test, progress=told)
    assert seen == [(1, history.test_accuracy[0]), (2, history.test_accuracy[1])]


def test_nan_loss_names_the_epoch():
    def loss(model, pixels, target, generator):
        logits = model(pixels)
        return logits.sum() * math.nan, logits

    with pytest.raises(FloatingPointError, match="epoch 1"):
        train(_small(), *_random_set(20), recipe=SHORT, seed=0, loss=loss)


IMAGES, LABELS = _random_set(20)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES.float(), LABELS, "uint8"),
        (IMAGES.numpy(), LABELS, "uint8"),
        (IMAGES[:, :2], LABELS, "1 or 3"),
        (IMAGES[0], LABELS, "1 or 3"),
        (IMAGES[..., :7], LABELS, "W >= 8"),
        (IMAGES[:0], LABELS[:0], "no images"),
        (IMAGES[:1], LABELS[:1], "at least 2"),
        (IMAGES, LABELS[:19], "shape"),
        (IMAGES, LABELS.int(), "int64"),
        (IMAGES, LABELS - 20, "negative"),
        (IMAGES, LABELS + 10, "10 logits"),
    ],
)
def test_bad_input(images, labels, message):
    with pytest.raises(ValueError, match=message):
        train(_small(), images, labels, recipe=SHORT, seed=0)


def test_bad_test_set_and_untrained_network():
    with pytest.raises(ValueError, match="test labels"):
        train(_small(), IMAGES, LABELS, recipe=SHORT, seed=0, test=(IMAGES, LABELS + 10))
    with pytest.raises(ValueError, match="train"):
        predict(torch.nn.Flatten(), IMAGES)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"batch_size": 1},
        {"max_lr": 0},
        {"augment": "flip"},
        {"warmup": 1},
        {"momentum": 1},
        {"schedule": "step"},
        {"optimizer": "adam"},
    ],
)
def test_bad_recipe(change):
    (name,) = change
    with pytest.raises(ValueError, match=name):
        replace(DIGITS, **change)


def test_one_cycle_rises_and_falls():
    recipe = Recipe(epochs=1, batch_size=2, max_lr=0.4, warmup=0.25)
    assert [recipe.learning_rate(p) for p in (0, 0.125, 0.25, 0.625, 1)] == pytest.approx([0, 0.2, 0.4, 0.2, 0])


def test_cosine_falls_from_the_start_to_zero():
    recipe = Recipe(epochs=1, batch_size=2, max_lr=0.4, warmup=0, schedule="cosine")
    assert [recipe.learning_rate(p) for p in (0, 1 / 3, 0.5, 1)] == pytest.approx([0.4, 0.3, 0.2, 0])
    risen = replace(recipe, warmup=0.2)
    assert [risen.learning_rate(p) for p in (0.1, 0.2, 0.6, 1)] == pytest.approx([0.2, 0.4, 0.2, 0])


def test_adamw_and_plain_momentum_take_other_steps(digits):
    images, labels = digits[0][:200], digits[1][:200]
    ends = []
    for change in ({}, {"nesterov": False}, {"optimizer": "adamw"}):
        net = _small()
        history = train(net, images, labels, recipe=replace(SHORT, epochs=3, max_lr=0.01, **change), seed=0)
        assert history.train_loss[-1] < history.train_loss[0]
        ends.append(net.classifier.weight)
    assert not ends[0].equal(ends[1])
    assert not ends[0].equal(ends[2])


def test_history_summaries():
    history = History(test_accuracy=[0.9, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert (history.last, history.best, history.last5) == pytest.approx((0.5, 0.9, 0.3))
    assert math.isnan(History().last)
    assert math.isnan(History().best)
    assert math.isnan(History().last5)
