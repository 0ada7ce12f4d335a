"""What defenses do to pixels: squeezing, filters, COIN, RSK+FF, augmentations, orthogonal projection, purifiers."""

import io
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import seeded
from PIL import Image

from unlearnable_transforms.defenses import get_defense
from unlearnable_transforms.defenses.base import Setting
from unlearnable_transforms.defenses.coin import displace
from unlearnable_transforms.defenses.projection import linear_weights, project_out
from unlearnable_transforms.defenses.rsk import keep_low_frequencies, sharpen
from unlearnable_transforms.training.loop import Recipe, recipe_augment
from unlearnable_transforms.training.model import PixelModel, to_pixels
from unlearnable_transforms.victims import build_victim

RECIPE = Recipe(epochs=2, batch_size=32, max_lr=0.1, augment="none")
SETTING = Setting(10, 32, "smallcnn", RECIPE, seed=0)
NO_LABELS = torch.zeros(0, dtype=torch.int64)


def _noise(count: int = 4, size: int = 32) -> torch.Tensor:
    return torch.randint(256, (count, 3, size, size), generator=seeded(7), dtype=torch.uint8)


def _smooth(count: int = 4) -> torch.Tensor:
    coarse = 255 * torch.rand(count, 3, 6, 6, generator=seeded(8))
    return F.interpolate(coarse, size=(32, 32), mode="bicubic").clamp(0, 255).byte()


def _prepared(name: str, images: torch.Tensor, **arguments) -> torch.Tensor:
    out = get_defense(name)(**arguments).prepare(images, NO_LABELS, SETTING)
    assert out.dtype == torch.uint8
    assert out.shape == images.shape
    return out


def _error(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a.float() - b.float()).square().mean().item()


def _pillow(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


# ---- squeezing


def test_jpeg_is_pillows_and_loses_more_at_lower_quality():
    images = _smooth()
    errors = [_error(_prepared("jpeg", images, quality=quality), images) for quality in (90, 50, 10)]
    assert 0 < errors[0] < errors[1] < errors[2]
    file = io.BytesIO()
    _pillow(images[0]).save(file, "JPEG", quality=10)
    assert (np.asarray(Image.open(file)) == _prepared("jpeg", images)[0].permute(1, 2, 0).numpy()).all()


def test_jpeg_10_loses_bits():
    """The first step of a JPEG coder, by hand: of the luma's cosine coefficients hardly any is left."""
    place, frequency = torch.arange(8) + 0.5, torch.arange(8)[:, None]
    basis = torch.cos(math.pi / 8 * frequency * place)
    basis /= basis.norm(dim=1, keepdim=True)

    def coefficients(images):
        luma = (images.float() * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1)
        blocks = luma.unfold(1, 8, 8).unfold(2, 8, 8)
        return ((basis @ blocks @ basis.T).abs() > 4).float().mean().item()  # 4: beyond rounding and clipping

    images = _smooth() // 2 + _noise() // 4 + 32  # not near black and white, where clipping makes new frequencies
    assert coefficients(images) > 0.7
    assert coefficients(_prepared("jpeg", images)) < 0.12


def test_grayscale_has_equal_channels_and_is_pillows():
    images = _noise()
    images[0, :, 0, 0] = 255
    gray = _prepared("grayscale", images)
    assert gray[:, 0].equal(gray[:, 1])
    assert gray[:, 0].equal(gray[:, 2])
    assert gray[0, 0, 0, 0] == 255
    for image, gray_image in zip(images, gray, strict=True):
        assert (np.asarray(_pillow(image).convert("L")) == gray_image[0].numpy()).all()


def test_bdr_keeps_two_bits():
    images = torch.arange(256, dtype=torch.uint8).repeat(12).view(1, 3, 32, 32)
    out = _prepared("bdr", images)
    assert out.unique().tolist() == [0, 64, 128, 192]
    assert out.equal(images // 64 * 64)
    assert len(_prepared("bdr", images, bits=5).unique()) == 32


# ---- low-pass filters


@pytest.mark.parametrize("period", [2, 4])
def test_gaussian_weakens_frequencies_by_the_computed_factor(period):
    wave = torch.cos(2 * math.pi * torch.arange(32) / period)
    images = (128 + 100 * wave).round().byte().expand(1, 3, 32, 32)
    side = math.exp(-1 / (2 * 0.8**2))
    factor = (1 + 2 * side * math.cos(2 * math.pi / period)) / (1 + 2 * side)
    out = _prepared("gaussian", images)
    torch.testing.assert_close(
        out[..., 1:-1].float() - 128, 100 * factor * wave[1:-1].expand(1, 3, 32, 30), atol=0.51, rtol=0
    )
    assert factor < 0.55


def test_median_is_the_median_and_removes_single_pixels():
    images = _noise(2, size=9)
    out = _prepared("median", images)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    for row, column in ((0, 0), (4, 3), (8, 8), (0, 5)):
        square = padded[..., row : row + 3, column : column + 3].reshape(2, 3, 9)
        assert (np.median(square, axis=-1) == out[..., row, column].numpy()).all()
    step = torch.zeros(1, 3, 9, 9, dtype=torch.uint8)
    step[..., 5:] = 200
    speck = step.clone()
    speck[..., 4, 2] = 255
    assert _prepared("median", speck).equal(step)


def test_bilateral_smooths_areas_and_keeps_edges():
    step = torch.full((1, 3, 32, 32), 20, dtype=torch.uint8)
    step[..., 16:] = 220
    noisy = (step.int() + torch.randint(-9, 10, step.shape, generator=seeded())).byte()
    out = _prepared("bilateral", noisy)
    blurred = _prepared("gaussian", noisy, sigma=4.0, kernel_size=9)
    assert _error(out, step) < 0.2 * _error(noisy, step)
    assert (out[..., 16].float() - out[..., 15]).mean() > 195
    assert (blurred[..., 16].float() - blurred[..., 15]).mean() < 60


def test_bilateral_is_opencvs():
    cv2 = pytest.importorskip("cv2")
    images = torch.cat([_smooth(), _noise()])
    for image, own in zip(images, _prepared("bilateral", images), strict=True):
        theirs = cv2.bilateralFilter(np.ascontiguousarray(image.permute(1, 2, 0).numpy()), 9, 75, 75)
        difference = np.abs(theirs.astype(int) - own.permute(1, 2, 0).numpy())
        assert difference.max() <= 1  # float sums in another order
        assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize("name", ["jpeg", "grayscale", "bdr", "gaussian", "median", "bilateral"])
def test_test_images_are_filtered_only_where_asked(name):
    images = _noise()
    assert get_defense(name)().test(images, SETTING) is images
    assert get_defense(name)(at_test=True).test(images, SETTING).equal(_prepared(name, images))


def test_purifier_sees_each_training_image_once_and_cleans_it():
    clean = _smooth(12)
    noisy = (clean.int() + torch.randint(-20, 21, clean.shape, generator=seeded())).clamp(0, 255).byte()
    calls = []

    def denoise(batch):
        calls.append(len(batch))
        return _prepared("median", batch)

    defense = get_defense("purify")(denoise, batch_size=5)
    purified = defense.prepare(noisy, NO_LABELS, SETTING)
    assert calls == [5, 5, 2]
    assert _error(purified, clean) < 0.6 * _error(noisy, clean)
    assert defense.test(noisy, SETTING) is noisy
    assert calls == [5, 5, 2]
    assert "denoise" in defense.arguments()["purifier"]


@pytest.mark.parametrize("wrong", [lambda batch: batch.float(), lambda batch: batch[:1]])
def test_purifier_must_return_what_it_was_given(wrong):
    with pytest.raises(ValueError, match="purifier"):
        get_defense("purify")(wrong).prepare(_noise(), NO_LABELS, SETTING)


def test_purifier_names():
    with pytest.raises(TypeError, match="function"):
        get_defense("purify")(3)
    with pytest.raises(ValueError, match="module:function"):
        get_defense("purify")("os.path").prepare(_noise(), NO_LABELS, SETTING)


# ---- COIN


def test_coin_moves_pixels_by_at_most_alpha_on_the_torus():
    defense = get_defense("coin")(alpha=2.0)
    ramp = torch.arange(32).float().div(255).view(1, 1, 1, 32).expand(64, 3, 32, 32)
    moved = 255 * (defense.augment(ramp, seeded()) - ramp)[..., 2:-3]  # away from where 31 meets 0
    assert moved.abs().max() <= 2 + 1e-4
    assert moved.abs().max() > 1.99
    assert moved.std() == pytest.approx(4 / 12**0.5, rel=0.02)  # uniform, each pixel for itself
    neighbours = torch.stack([moved[..., :-1].flatten(), moved[..., 1:].flatten()])
    assert torch.corrcoef(neighbours)[0, 1].abs() < 0.01
    assert moved[:, 0].equal(moved[:, 2])

    point = torch.zeros(500, 3, 32, 32, dtype=torch.uint8)
    point[:, :, 0, 0] = 255
    lit = defense.augment(point, seeded()).amax((0, 1)) > 0
    near = torch.tensor([min(i, 32 - i) <= 2 for i in range(32)])  # the bilinear triangle ends before 3
    assert lit.equal(near[:, None] & near)


def test_coin_is_bilinear_between_four_pixels():
    image = torch.rand(1, 1, 5, 6, generator=seeded())
    down, right = torch.full((1, 5, 6), 4.25), torch.full((1, 5, 6), -1.5)
    out = displace(image, down, right)
    rolled = {(i, j): image.roll((-i, -j), (2, 3)) for i in (4, 5) for j in (-2, -1)}
    expected = 0.375 * (rolled[4, -2] + rolled[4, -1]) + 0.125 * (rolled[5, -2] + rolled[5, -1])
    torch.testing.assert_close(out, expected)


def test_coin_is_fresh_each_time_for_each_image():
    generator, images = seeded(), _noise(1).expand(2, -1, -1, -1)
    defense = get_defense("coin")()
    first, second = defense.augment(images, generator), defense.augment(images, generator)
    assert not first.equal(second)
    assert not first[0].equal(first[1])
    assert first.equal(defense.augment(images, seeded()))


# ---- RSK + FF


def test_sharpening_kernels_have_the_stated_distribution():
    kernels = get_defense("rsk-ff")().kernels(20000, seeded())
    assert kernels[:, [0, 0, 2, 2], [0, 2, 0, 2]].eq(0).all()
    center, arms = kernels[:, 1, 1], kernels[:, [0, 1, 1, 2], [1, 0, 2, 1]]
    assert center.mean() == pytest.approx(2.5, abs=0.005)
    assert center.std() == pytest.approx(0.1, rel=0.03)
    assert kernels.sum((1, 2)).mean() == pytest.approx(1, abs=0.01)
    own = arms + (center[:, None] - 1) / 4  # what is left of an arm without its mean
    assert own.std() == pytest.approx(0.1, rel=0.03)
    assert torch.corrcoef(own.T).fill_diagonal_(0).abs().max() < 0.03


def test_sharpening_is_a_convolution_of_each_image_and_sharpens():
    kernels = get_defense("rsk-ff")().kernels(4, seeded())
    pixels = _smooth().float() / 255
    out = sharpen(pixels, kernels)
    for i in range(4):
        expected = F.conv2d(pixels[i, :, None], kernels[i][None, None])[:, 0].clamp(0, 1)
        torch.testing.assert_close(out[i], expected)
    pixels = 0.25 + pixels / 2  # nothing is clipped
    plain = pixels[..., 1:-1, 1:-1]
    sharp = sharpen(pixels, get_defense("rsk-ff")(std=0).kernels(4, seeded()))  # a weight of 1, without random gains
    torch.testing.assert_close(sharp.mean(), plain.mean(), atol=0.01, rtol=0)
    assert (sharp.diff(dim=3).square().mean((1, 2, 3)) > plain.diff(dim=3).square().mean((1, 2, 3))).all()


def test_frequency_filter_is_the_masked_cosine_transform():
    fft = pytest.importorskip("scipy.fft")
    pixels = torch.rand(2, 3, 30, 20, generator=seeded())
    coefficients = fft.dctn(pixels.double().numpy(), axes=(2, 3), norm="ortho")
    coefficients[:, :, 9:] = 0
    coefficients[..., 6:] = 0
    expected = torch.from_numpy(fft.idctn(coefficients, axes=(2, 3), norm="ortho")).float()
    torch.testing.assert_close(keep_low_frequencies(pixels, 0.3), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(keep_low_frequencies(pixels, 1.0), pixels, atol=1e-5, rtol=0)


def test_rsk_ff_keeps_the_low_frequencies_inside_a_black_frame():
    defense = get_defense("rsk-ff")()
    images = _noise()
    defense.prepare(images, NO_LABELS, SETTING)
    out = defense.augment(images, seeded())
    assert out.shape == images.shape
    frame = out.clone()
    frame[..., 1:-1, 1:-1] = 0
    assert frame.abs().max() == 0
    inner = out[..., 1:-1, 1:-1]
    unclipped = get_defense("rsk-ff")(keep=1.0)
    unclipped.prepare(images, NO_LABELS, SETTING)
    sharp = unclipped.augment(images, seeded())[..., 1:-1, 1:-1]
    torch.testing.assert_close(inner, keep_low_frequencies(sharp, 0.3).clamp(0, 1), atol=1e-5, rtol=0)
    assert not out.equal(defense.augment(images, seeded(1)))


# ---- augmentations


def test_cutout_blackens_one_clipped_square():
    white = torch.full((4000, 3, 32, 32), 255, dtype=torch.uint8)
    black = get_defense("cutout")().augment(white, seeded()) == 0
    assert black[:, 0].equal(black[:, 2])
    rows, columns = black[:, 0].any(2).sum(1), black[:, 0].any(1).sum(1)
    assert black[:, 0].sum((1, 2)).equal(rows * columns)  # a rectangle
    assert rows.max() == columns.max() == 16
    assert rows.min() == 8  # a centre on the border leaves half
    clipped = [min(32, centre + 8) - max(0, centre - 8) for centre in range(32)]
    assert rows.float().mean() == pytest.approx(np.mean(clipped), abs=0.15)
    assert (rows.float() * columns).mean() == pytest.approx(np.mean(clipped) ** 2, rel=0.02)
    assert (get_defense("cutout")(size=5).augment(white, seeded()) == 0)[:, 0].sum((1, 2)).max() == 25


@pytest.mark.parametrize("name", ["randaugment", "trivialaugment", "autoaugment"])
def test_policies_draw_for_each_image(name):
    images = _smooth(1).expand(60, -1, -1, -1)
    generator, defense = seeded(), get_defense(name)()
    out = defense.augment(images, generator)
    assert out.dtype == torch.uint8
    assert out.shape == images.shape
    kinds = {image.numpy().tobytes() for image in out}
    assert len(kinds) > 20
    assert not out.equal(defense.augment(images, generator))


# ---- orthogonal projection


def _separable() -> tuple[torch.Tensor, torch.Tensor]:
    """Random pictures with a fixed pattern for each class, as class-wise protections add it."""
    labels = torch.arange(600) % 4
    patterns = torch.randint(-16, 17, (4, 3, 8, 8), generator=seeded(1))
    images = torch.randint(20, 236, (600, 3, 8, 8), generator=seeded(2)) + patterns[labels]
    return images.byte(), labels


def test_linear_classifier_learns_and_projection_removes_its_score():
    images, labels = _separable()
    weights = linear_weights(images, labels, 4, seeded(), epochs=60, batch_size=100)
    x = (images.float() / 255).flatten(1)
    assert ((x @ weights.T).argmax(1) == labels).float().mean() > 0.8
    projected = project_out(images, weights)
    assert projected.dtype == torch.float32
    assert (projected.flatten(1) @ weights.T).abs().max() < 1e-4 * (x @ weights.T).abs().max()
    torch.testing.assert_close(project_out(projected, weights), projected, atol=1e-5, rtol=0)
    removed = x - projected.flatten(1)
    residual = removed.T - weights.T @ torch.linalg.lstsq(weights.T, removed.T).solution
    assert residual.abs().max() < 1e-4  # only what lies in the span of the weights is gone
    assert removed.norm() > 0.01 * x.norm()


def test_orthogonal_projection_prepares_floats_and_its_control_does_not():
    images, labels = _separable()
    setting = Setting(4, 8, "smallcnn", RECIPE, seed=3)
    defense = get_defense("orthogonal-projection")()
    prepared = defense.prepare(images, labels, setting)
    weights = linear_weights(images, labels, 4, setting.generator("orthogonal projection"))
    torch.testing.assert_close(prepared, project_out(images, weights))
    assert (prepared < 0).any()  # not clipped
    assert defense.test(images, setting) is images

    control = get_defense("orthogonal-projection")(project=False)
    assert control.prepare(images, labels, setting).equal(images)
    assert control.replaces_augment
    assert control.loss is not None
    out = control.augment(images[:1].expand(40, -1, -1, -1), seeded())
    assert len({image.numpy().tobytes() for image in out}) > 30
    plain = get_defense("orthogonal-projection")(strong=False)
    plain.prepare(images, labels, setting)
    assert plain.augment(images, seeded()).equal(recipe_augment(RECIPE)(images, seeded()))
    net = build_victim("smallcnn", 4, 8).eval()
    model = PixelModel(net, bf16=False)
    loss, logits = plain.loss(model, to_pixels(images), labels, seeded())
    assert loss == F.cross_entropy(logits, labels)


def test_strong_augmentation_turns_by_at_most_ten_degrees_and_jitters_by_a_fifth():
    defense = get_defense("orthogonal-projection")(project=False)
    images = torch.full((200, 3, 32, 32), 0.5)
    defense.prepare(images, NO_LABELS, SETTING)
    middle = defense.augment(images, seeded())[:, 0, 16, 16]
    assert 0.36 < middle.min() < 0.45  # brightness and contrast, whose mean the black corners lower
    assert 0.55 < middle.max() < 0.64
    # A dot 12 to 14 pixels beside the centre moves by rotation and scale; one above it by the shear as well.
    turn = math.radians(10)
    for shear, transpose in ((0, False), (math.tan(turn), True)):
        dot = torch.zeros(300, 3, 33, 33)
        dot[..., 16, 28:31] = 1
        dot = dot.mT.contiguous() if transpose else dot
        lit = (defense.augment(dot, seeded())[:, 0] > 0.3).nonzero()
        moved = (lit[:, 2 if transpose else 1] - 16).abs().max()
        assert 2 <= moved <= 1.2 * 14.5 * (math.sin(turn) + shear) + 1
