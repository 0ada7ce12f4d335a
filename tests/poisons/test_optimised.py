"""EM, SEM, REM, TAP: each step does what its paper says; a fit that is killed ends with the same bytes."""

import os
import random
import signal
import time
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import KEY
from sklearn.datasets import load_digits

from unlearnable_transforms import EMPoison, FitWarning, Key, PILPoison, REMPoison, SampleError, SEMPoison, TAPPoison
from unlearnable_transforms.noise.pictures import Pictures, Source
from unlearnable_transforms.poisons import optimised, pil, surrogate
from unlearnable_transforms.poisons.optimised import Settings

SHORT = {"surrogate": "smallcnn", "steps": 3, "batch_size": 32, "noise_steps": 3, "attack_steps": 2, "augment": "crop"}
SHORT["final_noise_steps"] = None  # as many
RADIUS = 12 / 255
FAMILY = {
    "em": lambda **more: EMPoison(KEY, **{**SHORT, **more}),
    "em, class-wise": lambda **more: EMPoison(KEY, kind="class", **{**SHORT, **more}),
    "sem": lambda **more: SEMPoison(KEY, **{**SHORT, "radius": RADIUS, "ramp": 0.0, "samples": 2, **more}),
    "rem": lambda **more: REMPoison(KEY, **{**SHORT, "radius": RADIUS, "ramp": 0.0, "samples": 2, **more}),
    "tap": lambda **more: TAPPoison(KEY, **{**SHORT, **more}),
}
pytestmark = pytest.mark.filterwarnings("ignore::unlearnable_transforms.FitWarning")


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """64 digits of 8 x 8 px, uint8, and their labels; the first is of one colour, the others are grey."""
    data = load_digits()
    images = np.repeat((data.images[:64] * 255 / 16).astype(np.uint8)[..., None], 3, axis=3)
    images[0, :, :, 1] //= 2
    return images, data.target[:64]


class Step:
    """A surrogate that has trained a little on clean digits, and a batch."""

    def __init__(self, poison, digits) -> None:
        self.pictures = Pictures(Source(digits))
        self.now = poison.settings_for(8)
        self.surrogate = poison._surrogate(self.pictures, self.now)
        self.x, self.y, self.grey = optimised._load(self.pictures, slice(0, 48), torch.device("cpu"))
        for number in range(12):
            self.surrogate.learn(self.x, self.y, 0.1 + number / 100)
        self.surrogate.net.eval()
        self.generator = torch.Generator().manual_seed(0)

    def loss(self, pixels, label=None) -> float:
        with torch.no_grad():
            return float(F.cross_entropy(self.surrogate.model(pixels), self.y if label is None else label))

    def noise(self, poison) -> torch.Tensor:
        delta = poison._noise(self.surrogate, self.x, self.y, self.grey, self.now, self.generator)
        assert delta.abs().max() <= poison.eps + 1e-6
        assert (self.x + delta).min() >= 0
        assert (self.x + delta).max() <= 1
        grey = delta[self.grey]
        assert len(grey) == 47
        assert torch.allclose(grey[:, 0], grey[:, 1], atol=1e-6)
        return delta


@pytest.mark.parametrize("name", ["em", "sem", "rem"])
def test_the_noise_lowers_the_surrogates_loss(digits, name):
    poison = FAMILY[name](augment="none", eps=16 / 255)
    step = Step(poison, digits)
    start = (2 * torch.rand(step.x.shape, generator=step.generator) - 1) * poison.eps
    assert step.loss(step.x + step.noise(poison)) < min(step.loss(step.x), step.loss((step.x + start).clamp(0, 1)))


def test_taps_noise_leads_to_the_next_class_and_away_from_the_true_one(digits):
    poison = FAMILY["tap"](augment="none", eps=16 / 255)
    step = Step(poison, digits)
    delta, target = step.noise(poison), (step.y + 1) % 10
    assert step.loss(step.x + delta, target) < step.loss(step.x, target)
    assert step.loss(step.x + delta) > step.loss(step.x)


def test_tap_keeps_the_best_start_of_each_picture(digits):
    one, three = FAMILY["tap"](augment="none"), FAMILY["tap"](augment="none", restarts=3)
    step, same = Step(one, digits), Step(three, digits)
    target = (step.y + 1) % 10
    losses = [
        F.cross_entropy(s.surrogate.model(s.x + s.noise(p)), target, reduction="none")
        for s, p in ((step, one), (same, three))
    ]
    assert (losses[1] <= losses[0] + 1e-4).all()
    assert losses[1].mean() < losses[0].mean()


def test_tap_trains_its_surrogate_on_clean_pictures(digits, monkeypatch):
    seen = []
    monkeypatch.setattr(
        surrogate.Surrogate, "learn", lambda self, pixels, labels, progress: seen.append(pixels) or torch.zeros(())
    )
    for name in ("tap", "em"):
        FAMILY[name](augment="none").fit(digits)
    clean = {image.tobytes() for image in digits[0].transpose(0, 3, 1, 2)}

    def untouched(pixels) -> int:
        return sum((image * 255).round().byte().numpy().tobytes() in clean for image in pixels)

    assert [untouched(pixels) for pixels in seen] == [32, 32, 32, 0, 0, 0]


def test_sems_noise_meets_random_perturbations_and_its_surrogate_an_attack(digits):
    poison = FAMILY["sem"]()
    step = Step(poison, digits)
    before = step.surrogate.model.forward_images
    view = poison._noise_view(step.surrogate.model, step.x, step.y, step.now, step.generator)
    assert step.surrogate.model.forward_images == before  # nothing is asked of the network
    away = (view - step.x)[(step.x > RADIUS) & (step.x < 1 - RADIUS)]
    assert away.abs().max() <= RADIUS + 1e-6
    assert abs(float(away.mean())) < RADIUS / 10
    assert 0.4 < float((away.abs() < RADIUS / 2).float().mean()) < 0.6  # uniform
    assert view.min() >= 0
    assert view.max() <= 1
    attacked = poison._surrogate_view(step.surrogate.model, step.x, step.y, step.now, step.generator)
    assert step.surrogate.model.forward_images == before + 2 * 48  # A steps
    assert (attacked - step.x).abs().max() <= RADIUS + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    assert step.loss(attacked) > step.loss(view) + 0.01


def test_rems_noise_meets_an_attack(digits):
    poison = FAMILY["rem"]()
    step = Step(poison, digits)
    view = poison._noise_view(step.surrogate.model, step.x, step.y, step.now, step.generator)
    assert (view - step.x).abs().max() <= RADIUS + 1e-6
    assert step.loss(view) > step.loss(step.x)


def test_em_sees_the_pictures_as_they_are(digits):
    poison = EMPoison(KEY, surrogate="smallcnn", preset="paper", steps=1)
    step = Step(poison, digits)
    assert poison._noise_view(step.surrogate.model, step.x, step.y, step.now, step.generator) is step.x
    assert optimised.transformed(step.x, step.now.augment, step.generator) is step.x


@pytest.mark.parametrize(
    ("name", "step", "last"),
    [
        ("em", 3 * 1 + 0 + 1, 3 * 1),
        ("sem", 3 * 2 + 2 + 1, 3 * 2),
        ("rem", 3 * 2 * (2 + 1) + 2 + 1, 3 * 2 * (2 + 1)),
        ("tap", 1, 3 * 1),
    ],
)
def test_passes_are_those_that_the_papers_count(digits, name, step, last):
    """A step: K * S of the noise, A of the attack, 1 of the surrogate; SEM's noise needs no attack, REM's does."""
    poison = FAMILY[name]().fit(digits)
    assert poison.report["passes"] * 128 == 3 * 32 * step + 64 * last


def test_the_published_settings():
    sem, rem = SEMPoison(KEY, preset="paper"), REMPoison(KEY, preset="paper")
    assert sem.settings_for(32) == rem.settings_for(32)
    large = sem.settings_for(224)
    assert (large.steps, large.noise_steps, large.samples, large.attack_steps) == (3000, 7, 4, 7)

    def passes(s: Settings, noise: int) -> int:  # CIFAR-10: 5000 steps, then 391 batches
        return (
            s.steps * (s.noise_steps * s.samples * noise + s.attack_steps + 1) + 390 * s.noise_steps * s.samples * noise
        )

    assert passes(sem.settings_for(32), 1) == 324_500
    assert passes(rem.settings_for(32), 11) == 3_019_500


def test_the_radius_grows():
    settings = Settings(radius=4 / 255, ramp=0.5)
    assert [round(255 * settings.at(progress).radius, 6) for progress in (0, 0.25, 0.5, 1)] == [0, 2, 4, 4]
    assert Settings(radius=4 / 255).at(0).radius == 4 / 255


def test_noise_of_classes_is_one_for_each_class(digits):
    images, labels = digits
    calm = images // 4 + 90  # nothing is clipped
    poison = FAMILY["em, class-wise"]().fit((calm, labels))
    delta = poison.apply(calm, labels).astype(int) - calm
    for label in range(10):
        mine = delta[1:][labels[1:] == label]  # the first picture has colours
        assert (mine == mine[0]).all()
    assert len({delta[1:][labels[1:] == label][0].tobytes() for label in range(10)}) == 10


@pytest.mark.parametrize("name", FAMILY)
def test_bounds_are_exact_and_every_picture_has_noise(digits, name):
    poison = FAMILY[name](eps=3.9 / 255).fit(digits)
    delta = poison.apply(*digits).astype(int) - digits[0]
    assert np.abs(delta).max() == 3 == poison.report["largest_delta"]
    assert np.abs(delta).max((1, 2, 3)).min() > 0


@pytest.mark.parametrize("name", FAMILY)
def test_extend_makes_noise_for_new_pictures_and_keeps_the_old(digits, name):
    images, labels = digits
    poison = FAMILY[name]().fit((images[:50], labels[:50]))
    first, before = poison.noise, poison.apply(images[:50], labels[:50])
    with pytest.raises(SampleError, match=r"extend"):
        poison.apply(images, labels)
    assert poison.extend((images[40:], labels[40:])) is poison
    assert poison.noise != first
    after = poison.apply(images, labels)
    assert (after[:50] == before).all()
    delta = np.abs(after.astype(int) - images)
    assert delta.max() == 8
    assert delta[50:].max((1, 2, 3)).min() > 0
    assert poison.report["extended"] == 14
    assert poison.extend((images, labels)).report["extended"] == 14  # nothing is new
    with pytest.raises(SampleError, match="were not there"):
        poison.extend((images[:4] // 2, [77, 78, 77, 78]))


def test_extended_noise_is_as_good_as_fitted(digits):
    """The kept linear surrogate knows the classes of new noise as it knows those of the first."""
    data = load_digits()
    images, labels = (data.images * 255 / 16).astype(np.uint8), data.target
    poison = PILPoison(KEY, augment="none").fit((images[:900], labels[:900])).extend((images[900:], labels[900:]))
    delta = images - poison.apply(images, labels).astype(np.float32)  # released: x - delta
    delta = delta[:, None].repeat(3, 1).reshape(len(images), -1)
    weight = poison._entry().surrogate()["weight"]
    right = ((delta @ weight.T).argmax(1) == labels).reshape(-1)
    assert right[900:].mean() > 0.9
    assert abs(right[900:].mean() - right[:900].mean()) < 0.05


# ---- killed and started again ----


def bytes_of(poison, digits) -> bytes:
    return poison.apply(*digits).tobytes()


@pytest.mark.parametrize("name", ["sem", "em, class-wise", "tap"])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(digits, name, monkeypatch, tmp_path):
    """Children die of a signal that Python cannot handle, after random shares of the CPU time that a fit takes."""
    started = time.process_time()
    truth = FAMILY[name](steps=8).fit(digits)
    expected, duration = bytes_of(truth, digits), time.process_time() - started
    monkeypatch.setattr(surrogate, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setenv("UNLEARNABLE_TRANSFORMS_CACHE", str(tmp_path / "killed"))
    chance = random.Random(name)
    killed = 0
    for _ in range(8):
        moment = chance.uniform(0.05, 0.6) * duration
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_PROF, moment)
            FAMILY[name](steps=8).fit(digits)
            os._exit(0)
        killed += os.waitpid(child, 0)[1] == signal.SIGPROF
    assert killed >= 3
    again = FAMILY[name](steps=8).fit(digits)
    assert again == truth
    assert bytes_of(again, digits) == expected
    assert again.report["passes"] == truth.report["passes"]  # those before the kill are counted too


def test_ctrl_c_keeps_the_checkpoint(digits, monkeypatch):
    monkeypatch.setattr(surrogate, "CHECKPOINT_SECONDS", 0.0)
    learn, steps = surrogate.Surrogate.learn, []

    def interrupted(self, pixels, labels, progress):
        steps.append(progress)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return learn(self, pixels, labels, progress)

    monkeypatch.setattr(surrogate.Surrogate, "learn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        FAMILY["em"]().fit(digits)
    FAMILY["em"]().fit(digits)
    assert [round(3 * progress) for progress in steps] == [0, 1, 2, 2]


# ---- a fit that says what it is worth ----


def test_noise_that_will_not_protect_is_told(digits):
    with pytest.warns(FitWarning, match="hardly protect: the surrogate takes only"):
        EMPoison(KEY, **{**SHORT, "steps": 1, "noise_steps": 1, "rate": 1e-6}).fit(digits)


def test_good_noise_is_not_complained_about():
    data = load_digits()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        poison = PILPoison(Key.public("good"), eps=48 / 255, augment="none").fit(
            ((data.images * 255 / 16).astype(np.uint8), data.target)
        )
    assert poison.report["surrogate_accuracy"] > 0.7
    assert poison.report["separability"] > 0.9
    assert poison.report["quick_protected"] > poison.report["quick_clean"] + 0.3


def test_noise_that_no_network_goes_by_is_told(monkeypatch):
    """White noise of each picture's own that a linear classifier of the surrogate's kind still knows the class by."""
    data = load_digits()
    images = np.kron(data.images * 255 / 16, np.ones((2, 2))).astype(np.uint8)[:1200]
    monkeypatch.setattr(pil, "INITIAL", 1.0)
    with pytest.warns(FitWarning, match="does not go by the noise"):
        report = PILPoison(Key.public("white"), eps=2 / 255, augment="none").fit((images, data.target[:1200])).report
    assert report["surrogate_accuracy"] > 0.9
    assert report["separability"] > 0.9
    assert report["quick_protected"] - report["quick_clean"] < 0.1


def test_a_network_that_goes_by_the_noise_outweighs_a_linear_classifier_that_does_not():
    report = {"classes": 10, "separability": 0.49, "quick_protected": 0.98, "quick_clean": 0.17, "target_share": 0.98}
    assert EMPoison(KEY)._worries(report) is None
    assert "no shortcut" in EMPoison(KEY)._worries({**report, "quick_protected": None, "quick_clean": None})
    assert "does not go by the noise" in EMPoison(KEY)._worries({**report, "quick_clean": 0.9})
    assert "only 10%" in EMPoison(KEY)._worries({**report, "target_share": 0.1})


def test_too_few_pictures_are_not_judged_by_a_network(digits):
    report = PILPoison(KEY).fit(digits).report
    assert report["quick_protected"] is None
    assert report["quick_clean"] is None


# ---- arguments ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "best"}, "preset is one of paper, fast, cpu"),
        ({"preset": "paper-large"}, "preset is one of"),
        ({"surrogate": "resnet0"}, "the surrogate 'resnet0' is unknown"),
        ({"steps": 0}, "at least 1"),
        ({"radius": -1}, "radius"),
        ({"augment": "flip"}, "augment"),
        ({"eps": 8}, "eps is in units of 1"),
        ({"work_size": 4}, "work_size"),
    ],
)
def test_wrong_arguments_are_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        SEMPoison(KEY, **arguments)


def test_no_key_and_two_sources_of_noise():
    with pytest.raises(TypeError, match="needs key"):
        SEMPoison()
    with pytest.raises(TypeError, match="give one"):
        SEMPoison(KEY, data=([], []), noise="0" * 32)
    with pytest.raises(TypeError, match="unexpected keyword argument 'stepps'"):
        SEMPoison(KEY, stepps=3)
