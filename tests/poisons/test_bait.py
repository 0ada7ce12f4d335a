"""BAIT: the look-ahead, the three stages, and noise that pulls images of other classes to its own."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import KEY
from sklearn.datasets import load_digits

from unlearnable_transforms import BAITPoison
from unlearnable_transforms.noise.pictures import Pictures, Source
from unlearnable_transforms.poisons import optimised

pytestmark = pytest.mark.filterwarnings("ignore::unlearnable_transforms.FitWarning")


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """160 digits of 16 x 16 px, uint8 (N, H, W, 3), neither black nor white, and their labels."""
    data = load_digits()
    images = np.kron(data.images[:160] * 120 / 16 + 60, np.ones((2, 2))).astype(np.uint8)
    return np.repeat(images[..., None], 3, axis=3), data.target[:160]


def bait(**more) -> BAITPoison:
    arguments = {
        "surrogates": ["tiny-weights"],
        "work_size": 16,
        "steps": 12,
        "batch_size": 64,
        "augment": "none",
        "rate": 1e-4,
    }
    return BAITPoison(KEY, **{**arguments, **more})


class Step:
    """A surrogate with a fitted last layer, and a batch."""

    def __init__(self, poison, digits) -> None:
        self.pictures = Pictures(Source(digits), (16, 16))
        settings = poison.settings_for(16)
        self.surrogate = poison._surrogate(self.pictures, settings)
        optimised.fit_heads(self.surrogate.models, self.pictures, "none", torch.Generator())
        generator = torch.Generator().manual_seed(0)
        self.batch = optimised.load_batch(self.surrogate, self.pictures, slice(0, 60), settings, generator)
        for model in self.surrogate.models:
            model.net.eval()


def test_the_look_ahead_fits_copies_to_the_protected_batch(digits):
    poison = bait(rate=0.0001)
    step = Step(poison, digits)
    (model,) = step.surrogate.models
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    (later,) = poison._models(step.surrogate, step.batch)
    assert all(torch.equal(value, before[name]) for name, value in model.net.state_dict().items())
    pixels = step.batch.x + poison._noise_kept(step.surrogate, step.batch)
    with torch.no_grad():
        model.net.train()
        later.net.train()
        now, ahead = (F.cross_entropy(each(pixels), step.batch.y) for each in (model, later))
    assert ahead < now


def test_the_stages_pull_to_likely_to_random_and_to_unlikely_classes(digits):
    poison = bait(stages=[0.25, 0.5])
    step = Step(poison, digits)
    y = step.batch.y
    likely = torch.rand(len(y), 10, generator=torch.Generator().manual_seed(1))
    targets = [
        poison._pulled_to(likely, step.batch, progress, count)
        for count, progress in enumerate((0, 0.24, 0.25, 0.49, 0.5, 0.99), 1)
    ]
    for target in targets:
        assert (target != y).all()
        assert target.min() >= 0
        assert target.max() < 10
    assert torch.equal(targets[0], targets[1])
    assert not torch.equal(targets[2], targets[1])
    assert set(targets[2].tolist()) == set(range(10))
    assert torch.equal(targets[4], targets[5])
    others = likely.clone()
    others[torch.arange(len(y)), y] = torch.nan
    rows = torch.arange(len(y))
    assert (likely[rows, targets[0]] >= others.nan_to_num(-1).amax(1)).all()
    assert (likely[rows, targets[4]] <= others.nan_to_num(2).amin(1)).all()


def test_the_noise_of_a_class_pulls_images_of_others_to_it(digits):
    images, labels = digits
    poison = bait(eps=16 / 255, steps=40, noise_step_size=2 / 255, rate=0.001).fit(digits)
    delta = poison.apply(images, labels).astype(int) - images
    noise = []
    for label in range(10):
        of_class = delta[labels == label]
        assert (of_class == of_class[0]).all()  # one pattern for each class
        noise.append(of_class[0])
    assert np.abs(noise).max() <= 16
    step = Step(poison, digits)  # the network as it starts, with a last layer
    moved = []
    for label in range(10):
        others = images[labels != label].astype(int)
        before, after = (
            step.surrogate.guess(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
            for pixels in (others, others + noise[label])
        )
        moved.append(float((after == label).float().mean() - (before == label).float().mean()))
    assert np.mean(moved) > 0.2


def test_new_images_get_the_noise_of_their_class(digits):
    images, labels = digits
    poison = bait().fit((images[:100], labels[:100])).extend(digits)
    delta = poison.apply(images, labels).astype(int) - images
    for label in range(10):
        of_class = delta[labels == label]
        assert (of_class == of_class[0]).all()
    assert poison.report["extended"] > 0


def test_a_class_without_noise_is_an_error(digits):
    """A single step pulls to likely classes alone."""
    few = digits[0][:40], digits[1][:40]
    with pytest.raises(
        ValueError, match=r"no image was pulled to \d+ of 10 classes, .* more steps or a larger batch_size"
    ):
        bait(steps=1, batch_size=8, noise_steps=1).fit(few)


def test_passes_of_the_copies_are_counted(digits):
    poison = bait(steps=3, batch_size=64, noise_steps=2).fit((digits[0][:128], digits[1][:128]))
    heads_and_steps = 3 * (32 + 2 * 32 + 64)  # look-ahead, noise, surrogate
    assert poison.report["passes"] * 128 == heads_and_steps


@pytest.mark.parametrize("stages", [(0.5,), (0.7, 0.3), (0.2, 1.5)])
def test_wrong_stages_are_explained(stages):
    with pytest.raises(ValueError, match="stages"):
        bait(stages=stages)


def test_it_needs_weights():
    with pytest.raises(ValueError, match="BAIT needs surrogates with weights"):
        bait(weights=None, surrogates=["smallcnn"])
