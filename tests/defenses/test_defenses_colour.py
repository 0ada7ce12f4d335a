"""What the colour, frequency, class-wise and test-time defenses do, by right values."""

import numpy as np
import pytest
import torch
from conftest import seeded

from unlearnable_transforms.defenses import get_defense
from unlearnable_transforms.defenses.base import Setting
from unlearnable_transforms.defenses.colour import lab_to_rgb, rgb_to_lab
from unlearnable_transforms.training.loop import Recipe, train
from unlearnable_transforms.training.model import predict
from unlearnable_transforms.victims import build_victim

RECIPE = Recipe(epochs=1, batch_size=32, max_lr=0.05, augment="none")
SETTING = Setting(3, 16, "smallcnn", RECIPE, seed=0)


def _images(count=12, size=16):
    return torch.randint(40, 200, (count, 3, size, size), generator=seeded(1), dtype=torch.uint8)


def _labels(count=12):
    return torch.arange(count) % 3


def _prepared(name, images, labels=None, **arguments):
    return get_defense(name)(**arguments).prepare(images, _labels(len(images)) if labels is None else labels, SETTING)


@pytest.mark.parametrize("gain", [0.5, 0.8])
def test_channel_norm_takes_away_gains_and_offsets(gain):
    """A gain and an offset of one channel, as a convolution and a colour noise make them, leave (nearly) no trace."""
    images = _images()
    changed = images.float()
    changed[:, 0] = changed[:, 0] * gain + 16
    clean, undone = (_prepared("channel-norm", each).int() for each in (images, changed.round().byte()))
    assert (clean - undone).abs().max() <= 3
    assert (changed - images.float()).abs().max() > 20
    assert clean.amin() == 0
    assert clean.amax() == 255


def test_equalize_is_pillows():
    from PIL import Image, ImageOps

    images = _images(2)
    expected = [np.asarray(ImageOps.equalize(Image.fromarray(i.permute(1, 2, 0).numpy()))) for i in images]
    assert (_prepared("equalize", images).permute(0, 2, 3, 1).numpy() == np.stack(expected)).all()


def test_lab_has_the_values_of_the_standard():
    """sRGB red, white and mid grey, from the tables of CIE L*a*b* under D65."""
    colours = torch.tensor([[1.0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5]]).T[None, :, :, None]
    lab = rgb_to_lab(colours)[0, :, :, 0].T
    expected = torch.tensor([[53.24, 80.09, 67.20], [100, 0, 0], [53.39, 0, 0]])
    assert torch.allclose(lab, expected, atol=0.05)
    assert torch.allclose(lab_to_rgb(rgb_to_lab(colours)), colours, atol=1e-4)


@pytest.mark.parametrize("name", ["whiten-yuv", "whiten-lab"])
def test_whitening_takes_away_the_contrast_of_an_image(name):
    images = _images()
    faint = (images.float() * 0.5 + 60).round().byte()  # half the contrast, brighter
    clean, undone = (_prepared(name, each).float() for each in (images, faint))
    assert clean.shape == images.shape
    assert (clean - undone).abs().mean() < 0.2 * (clean - _prepared(name, faint.flip(3)).float()).abs().mean()


def test_low_pass_keeps_low_frequencies_alone():
    place = torch.arange(16) + 0.5
    low, high = (128 + 60 * torch.cos(torch.pi / 16 * f * place) for f in (2, 13))
    images = torch.stack([low, high])[:, None, None, :].expand(2, 3, 16, 16).round().byte()
    kept, gone = _prepared("low-pass", images, keep=0.5).int()
    assert (kept - images[0].int()).abs().max() <= 1
    assert (gone - 128).abs().max() <= 1


def test_random_filters_are_of_the_family_of_cuda():
    """One bright pixel shows the filter: a peak of 1, all else below p_b, another one for each image and call."""
    defense = get_defense("random-filters")(blur=0.3)
    images = torch.zeros(8, 3, 16, 16)
    images[:, :, 8, 8] = 1
    generator = seeded(3)
    first, second = defense.augment(images, generator), defense.augment(images, generator)
    for image in first:
        values = image[0].flatten().sort(descending=True).values
        assert values[0] == pytest.approx(1)
        assert (values[1:] < 0.3).all()
        assert (image[0, 7:10, 7:10].count_nonzero(), image[0].count_nonzero()) == (9, 9)
        assert torch.equal(image[0], image[2])
    assert len({tuple(image[0].flatten().tolist()) for image in torch.cat([first, second])}) == 16


def test_class_spectrum_undoes_a_filter_of_a_class_but_for_its_phase():
    """White noise has equal spectra in all classes; a symmetric positive filter has no phase, and is undone."""
    noise = torch.rand(90, 3, 16, 16, generator=seeded(5)) * 0.4 + 0.3
    labels = torch.arange(90) % 3
    filtered = noise.clone()
    blurred = 0.6 * noise + 0.1 * sum(
        torch.roll(noise, *shift) for shift in (((1,), (2,)), ((-1,), (2,)), ((1,), (3,)), ((-1,), (3,)))
    )
    filtered[labels == 0] = blurred[labels == 0]
    images = (filtered * 255).round().byte()
    out = _prepared("class-spectrum", images, labels)
    power = torch.fft.rfft2(out).abs().square()

    def high(values, label):
        return values[labels == label][..., 6:11, 5:].mean().item()

    before = torch.fft.rfft2(images.float() / 255).abs().square()
    assert high(before, 0) < 0.2 * high(before, 1)
    assert high(power, 0) == pytest.approx(high(power, 1), rel=0.15)


def test_class_residual_takes_away_noise_that_a_class_shares():
    smooth = torch.nn.functional.interpolate(
        torch.rand(60, 3, 3, 3, generator=seeded(6)), size=(16, 16), mode="bilinear"
    )
    labels = torch.arange(60) % 3
    patterns = torch.randint(0, 2, (3, 2, 3, 16, 16), generator=seeded(7)).float() * 0.12 - 0.06
    variant = torch.randint(2, (60,), generator=seeded(8))
    noisy = (smooth * 0.5 + 0.25 + patterns[labels, variant]).clamp(0, 1)
    images = (noisy * 255).round().byte()
    out = _prepared("class-residual", images, labels, directions=2)
    clean = smooth * 0.5 + 0.25
    clean = clean - torch.stack([clean[labels == k].mean(0) for k in range(3)])[labels] + clean.mean(0)
    assert (out - clean).abs().mean() < 0.5 * 0.06
    only_means = _prepared("class-residual", images, labels, directions=0)
    assert (out - clean).abs().mean() < 0.7 * (only_means - clean).abs().mean()


def test_statistics_of_the_test_images_undo_a_shift_of_them():
    """A network that was trained on bright images answers dark ones as it answers the bright ones."""
    images, labels = _images(96), _labels(96)
    net = build_victim("smallcnn", 3, 16)
    train(net, images, labels, recipe=RECIPE, seed=0)
    dark = (images.float() * 0.25).round().byte()
    defense = get_defense("bn-test")(batch_size=96)
    defense.prepare(images, labels, SETTING)
    bright_answers = defense.predict(net, images, SETTING)
    answers = defense.predict(net, dark, SETTING)
    plain = predict(net, dark)
    shift = (answers - bright_answers).norm()
    assert shift < 0.2 * (plain - bright_answers).norm()
    assert torch.equal(predict(net, dark), plain)  # its own statistics are back


def test_dilution_adds_clean_rows():
    clean = _images(20), torch.ones(20, dtype=torch.int64)
    setting = Setting(3, 16, "smallcnn", RECIPE, seed=0, clean=clean)
    images, labels = get_defense("dilution")(count=5).rows(_images(), _labels(), setting)
    assert len(images) == len(labels) == 17
    assert torch.equal(images[12:], clean[0][:5])
    assert labels[12:].tolist() == [1] * 5
    with pytest.raises(ValueError, match="adds 50 clean images, the attacker has 20"):
        get_defense("dilution")(count=50).rows(_images(), _labels(), setting)


@pytest.mark.parametrize("name", ["colour-jitter", "colour-noise", "contrastive-augmentation"])
def test_augmentations_differ_by_image_and_by_call_and_keep_the_form(name):
    image = _images(1).expand(4, -1, -1, -1).contiguous()
    defense, generator = get_defense(name)(), seeded(2)
    first, second = defense.augment(image, generator), defense.augment(image, generator)
    assert first.shape == image.shape
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)
    again = defense.augment(image, seeded(2))
    assert torch.equal(first, again)
