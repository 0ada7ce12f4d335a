"""Noise of whole classes: a shift of colour beside the pattern, with a bound of its own."""

import numpy as np
import pytest
import torch
from conftest import KEY
from sklearn.datasets import load_digits

from unlearnable_transforms import BAITPoison, UCPoison
from unlearnable_transforms.noise.pictures import Pictures, Source
from unlearnable_transforms.poisons.classwise import ClasswisePoison

pytestmark = pytest.mark.filterwarnings("ignore::unlearnable_transforms.FitWarning")
STEPS = {"surrogates": ["tiny-weights"], "work_size": 16, "steps": 12, "batch_size": 40, "augment": "none"}


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """80 digits of 16 x 16 px, uint8 (N, H, W, 3), far from black and white, and their labels; only the first 40 are
    grey."""
    data = load_digits()
    images = np.kron(data.images[:80] * 120 / 16 + 60, np.ones((2, 2))).astype(np.uint8)
    images = np.repeat(images[..., None], 3, axis=3)
    images[40:, :, :, 0] += 9
    return images, data.target[:80]


def state_of(poison: ClasswisePoison, data) -> dict[str, torch.Tensor]:
    surrogate = poison._surrogate(Pictures(Source(data), (16, 16)), poison.settings_for(16))
    surrogate.load(poison._entry().surrogate())
    return surrogate.state


@pytest.mark.parametrize("method", [BAITPoison, UCPoison])
def test_the_shift_of_colour_has_a_bound_of_its_own(digits, method):
    images, labels = digits
    poison = method(KEY, eps=4 / 255, colour=6, rate=1e-4, noise_step_size=2 / 255, **STEPS).fit(digits)
    delta = poison.apply(images, labels).astype(int) - images
    state = state_of(poison, digits)
    assert state["delta"].abs().max() == pytest.approx(4 / 255)
    assert state["colour_delta"].shape == (10, 3, 1, 1)
    assert state["colour_delta"].abs().amax((1, 2, 3)).min() > 2 / 255
    assert state["colour_delta"].abs().max() <= 6 / 255 + 1e-7
    assert 4 < np.abs(delta).max() <= 10
    assert poison.report["largest_delta"] == np.abs(delta).max()
    whole = (255 * (state["delta"] + state["colour_delta"])).permute(0, 2, 3, 1).numpy()
    assert np.abs(delta[40:] - whole[labels[40:]]).max() <= 0.51  # rounded to whole levels
    assert (delta[:40, :, :, :1] == delta[:40]).all()  # of grey images: the mean of the channels
    assert np.abs(delta[:40, :, :, 0] - whole[labels[:40]].mean(3)).max() <= 0.51


def test_the_shift_is_optimised_with_the_pattern(digits):
    """With a pattern of at most one level, the shift does what can be done."""
    more = {**STEPS, "steps": 40, "noise_step_size": 0.1 / 255, "loss": "features"}
    plain, coloured = (UCPoison(KEY, eps=1 / 255, colour=colour, **more).fit(digits) for colour in (0, 12))
    pixels, y = torch.from_numpy(digits[0]).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(digits[1])
    reached = []
    for poison in (plain, coloured):
        surrogate = poison._surrogate(Pictures(Source(digits), (16, 16)), poison.settings_for(16))
        surrogate.load(poison._entry().surrogate())
        (model,) = surrogate.models
        model.net.eval()
        mean, std, centres = map(model.net.get_buffer, ("feature_mean", "feature_std", "class_features"))
        noise = torch.from_numpy(poison.apply(*digits).astype(int) - digits[0]).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            features = (model.features(pixels + noise) - mean) / std
        reached.append(float((features - centres[(y + 1) % 10]).square().mean()))
    assert reached[1] < reached[0]


def test_new_images_get_the_shift_of_their_class(digits):
    images, labels = digits[0][40:], digits[1][40:]
    poison = UCPoison(KEY, colour=5, **STEPS).fit((images[:30], labels[:30])).extend((images, labels))
    delta = poison.apply(images, labels).astype(int) - images
    for label in set(labels[30:]) & set(labels[:30]):
        of_class = delta[labels == label]
        assert (of_class == of_class[0]).all()


def test_wrong_bounds_are_explained():
    with pytest.raises(ValueError, match=r"noise has at most 127 levels, eps and colour together; got 128"):
        UCPoison(KEY, eps=100 / 255, colour=28)
    assert UCPoison(KEY, eps=100 / 255, colour=27).levels == 127
    with pytest.raises(ValueError, match=r"colour is a whole number in \[0, 126\], in levels of 255, got -1"):
        BAITPoison(KEY, colour=-1)
