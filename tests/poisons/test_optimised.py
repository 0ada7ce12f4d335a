"""EM, AUE, HYPO, SEM, REM, TAP: each step does what its paper says; a fit that is killed ends with the same bytes."""

import copy
import os
import random
import signal
import threading
import time
import warnings
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import KEY, STARTED
from sklearn.datasets import load_digits
from tqdm import tqdm

from unlearnable_transforms import (
    AUEPoison,
    BAITPoison,
    EMPoison,
    FitWarning,
    HYPOPoison,
    Key,
    PILPoison,
    REMPoison,
    SampleError,
    SEMPoison,
    TAPPoison,
    UCPoison,
)
from unlearnable_transforms.noise.pictures import Pictures, Source
from unlearnable_transforms.params import UNSET
from unlearnable_transforms.pixels import equal_channels
from unlearnable_transforms.poisons import optimised, pil, surrogate
from unlearnable_transforms.poisons.optimised import OptimisedPoison, Settings
from unlearnable_transforms.poisons.surrogate import Model
from unlearnable_transforms.training.transforms import contrastive

SHORT = {"surrogate": "smallcnn", "steps": 3, "batch_size": 32, "noise_steps": 3, "attack_steps": 2, "augment": "crop"}
SHORT["final_noise_steps"] = None  # as many
RADIUS = 12 / 255
FAMILY = {
    "em": lambda **more: EMPoison(KEY, **{**SHORT, **more}),
    "em, class-wise": lambda **more: EMPoison(KEY, kind="class", **{**SHORT, **more}),
    "aue": lambda **more: AUEPoison(KEY, **{**SHORT, "augment": "contrastive", **more}),
    "hypo": lambda **more: HYPOPoison(KEY, **{**SHORT, **more}),
    "sem": lambda **more: SEMPoison(KEY, **{**SHORT, "radius": RADIUS, "ramp": 0.0, "samples": 2, **more}),
    "rem": lambda **more: REMPoison(KEY, **{**SHORT, "radius": RADIUS, "ramp": 0.0, "samples": 2, **more}),
    "tap": lambda **more: TAPPoison(KEY, **{**SHORT, **more}),
    "tap, weights": lambda **more: TAPPoison(
        KEY, preset="photographs", **{**STARTED, "noise_steps": 3, "noise_step_size": 4 / 255, **more}
    ),
    "bait": lambda **more: BAITPoison(
        KEY, **{**STARTED, "steps": 3, "batch_size": 32, "noise_step_size": 4 / 255, **more}
    ),
    "uc": lambda **more: UCPoison(KEY, **{**STARTED, "steps": 3, "batch_size": 32, "noise_step_size": 4 / 255, **more}),
    "em, two surrogates": lambda **more: EMPoison(
        KEY, **{**SHORT, "surrogates": ("smallcnn", "smallcnn"), "surrogate": UNSET, **more}
    ),
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
        settings = poison.settings_for(8)
        self.surrogate = poison._surrogate(self.pictures, settings)
        generator = torch.Generator().manual_seed(0)
        self.batch = optimised.load_batch(self.surrogate, self.pictures, slice(0, 48), settings, generator)
        self.x, self.y, self.grey, self.generator = self.batch.x, self.batch.y, self.batch.grey, generator
        self.model = self.surrogate.models[0]
        for number in range(12):
            self.surrogate.learn(self.x, self.y, 0.1 + number / 100)
        self.model.net.eval()

    def loss(self, pixels, label=None) -> float:
        with torch.no_grad():
            return float(F.cross_entropy(self.model(pixels), self.y if label is None else label))

    def noise(self, poison) -> torch.Tensor:
        delta = poison._noise(self.surrogate, self.batch)
        assert delta.abs().max() <= poison.eps + 1e-6
        assert (self.x + delta).min() >= 0
        assert (self.x + delta).max() <= 1
        grey = delta[self.grey]
        assert len(grey) == 47
        assert torch.allclose(grey[:, 0], grey[:, 1], atol=1e-6)
        return delta


@pytest.mark.parametrize("name", ["em", "hypo", "sem", "rem"])
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
        F.cross_entropy(s.model(s.x + s.noise(p)), target, reduction="none") for s, p in ((step, one), (same, three))
    ]
    assert (losses[1] <= losses[0] + 1e-4).all()
    assert losses[1].mean() < losses[0].mean()


def test_tap_and_hypo_train_their_surrogates_on_clean_pictures(digits, monkeypatch):
    seen = []
    monkeypatch.setattr(
        surrogate.Surrogate,
        "learn",
        lambda self, pixels, labels, rate, number: seen.append(pixels) or torch.zeros(()),
    )
    for name in ("tap", "hypo", "em"):
        FAMILY[name](augment="none").fit(digits)
    clean = {image.tobytes() for image in digits[0].transpose(0, 3, 1, 2)}

    def untouched(pixels) -> int:
        return sum((image * 255).round().byte().numpy().tobytes() in clean for image in pixels)

    assert [untouched(pixels) for pixels in seen] == [32, 32, 32, 32, 32, 32, 0, 0, 0]


def test_sems_noise_meets_random_perturbations_and_its_surrogate_an_attack(digits):
    poison = FAMILY["sem"]()
    step = Step(poison, digits)
    before = step.model.forward_images
    view = poison._noise_view(step.model, step.x, step.batch)
    assert step.model.forward_images == before  # nothing is asked of the network
    away = (view - step.x)[(step.x > RADIUS) & (step.x < 1 - RADIUS)]
    assert away.abs().max() <= RADIUS + 1e-6
    assert abs(float(away.mean())) < RADIUS / 10
    assert 0.4 < float((away.abs() < RADIUS / 2).float().mean()) < 0.6  # uniform
    assert view.min() >= 0
    assert view.max() <= 1
    attacked = poison._surrogate_view(step.model, step.x, step.batch)
    assert step.model.forward_images == before + 2 * 48  # A steps
    assert (attacked - step.x).abs().max() <= RADIUS + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    assert step.loss(attacked) > step.loss(view) + 0.01


def test_rems_noise_meets_an_attack(digits):
    poison = FAMILY["rem"]()
    step = Step(poison, digits)
    view = poison._noise_view(step.model, step.x, step.batch)
    assert (view - step.x).abs().max() <= RADIUS + 1e-6
    assert step.loss(view) > step.loss(step.x)


def test_em_sees_the_pictures_as_they_are(digits):
    poison = EMPoison(KEY, surrogate="smallcnn", preset="paper", steps=1)
    step = Step(poison, digits)
    assert poison._noise_view(step.model, step.x, step.batch) is step.x
    assert optimised.transformed(step.x, step.batch.settings.augment, step.generator) is step.x


@pytest.mark.parametrize(
    ("name", "step", "last"),
    [
        ("em", 3 * 1 + 0 + 1, 3 * 1),
        ("sem", 3 * 2 + 2 + 1, 3 * 2),
        ("rem", 3 * 2 * (2 + 1) + 2 + 1, 3 * 2 * (2 + 1)),
        ("tap", 1, 3 * 1),
        ("hypo", 1, 3 * 1),
        ("aue", 3 * 1 + 0 + 1, 3 * 1),
    ],
)
def test_passes_are_those_that_the_papers_count(digits, name, step, last):
    """A step: K * S of the noise, A of the attack, 1 of the surrogate; SEM's noise needs no attack, REM's does."""
    poison = FAMILY[name]().fit(digits)
    assert poison.report["passes"] * 128 == 3 * 32 * step + 64 * last


def test_hypos_noise_starts_at_the_clean_image_and_is_not_augmented(digits, monkeypatch):
    poison = FAMILY["hypo"](noise_step_size=1 / 255, noise_steps=2)
    step = Step(poison, digits)
    assert step.batch.settings.augment == "crop"
    seen = []
    monkeypatch.setattr(HYPOPoison, "_noise_view", lambda self, model, z, batch: seen.append(z) or z)
    delta = poison._noise(step.surrogate, step.batch)
    assert torch.equal(seen[0], step.x)
    assert torch.allclose(seen[1] - step.x, (seen[1] - step.x).clamp(-1 / 255, 1 / 255))
    assert delta.abs().max() == pytest.approx(2 / 255, abs=1e-6)  # two steps from nothing


def test_hypos_steps_are_those_down_the_cross_entropy_and_do_not_vanish(digits):
    poison = FAMILY["hypo"](augment="none")
    step = Step(poison, digits)
    logits = (5 * torch.randn(48, 10, generator=step.generator)).double().requires_grad_()
    ours = torch.autograd.grad(poison._loss(lambda given: given, logits, step.batch).sum(), logits)[0]
    papers = torch.autograd.grad(F.cross_entropy(logits, step.y, reduction="sum"), logits)[0]
    assert F.cosine_similarity(ours, papers).min() > 1 - 1e-9
    with torch.no_grad():
        step.model.net.classifier.weight *= 1e5  # as certain as can be
    assert (F.cross_entropy(step.model(step.x), step.y, reduction="none") == 0).sum() > 20
    assert (step.noise(poison).abs().amax((1, 2, 3)) > 0).all()


def mean_loss(step, delta, strength: float, draws: int = 40) -> float:
    """The surrogate's loss at x + delta, over random augmentations of a strength."""
    with torch.no_grad():
        views = [contrastive(step.x + delta, step.generator, strength=strength) for _ in range(draws)]
        return float(np.mean([step.loss(view) for view in views]))


def test_aues_noise_lowers_the_loss_under_its_augmentations(digits):
    """More than EM's with as many steps does."""
    few = {"eps": 16 / 255, "noise_steps": 12}
    augmented, plain = FAMILY["aue"](**few), FAMILY["em"](augment="none", **few)
    step = Step(augmented, digits)
    with_augmentation = step.noise(augmented)
    step.batch = replace(step.batch, settings=plain.settings_for(8))
    without = step.noise(plain)
    losses = [mean_loss(step, delta, 0.6) for delta in (torch.zeros_like(step.x), without, with_augmentation)]
    assert losses[2] < losses[1] < losses[0]


def test_aue_passes_on_its_strength_in_the_steps_of_both(digits, monkeypatch):
    taken = []

    def recorded(images, generator, *, strength):
        taken.append((images.requires_grad, strength))
        return images

    monkeypatch.setattr("unlearnable_transforms.poisons.aue.contrastive", recorded)
    FAMILY["aue"](strength=0.9, steps=1).fit(digits)
    noise, surrogates = [(True, 0.9)] * 3, [(False, 0.9)]
    assert taken == [*noise, *surrogates, *noise, *noise]  # one step, then two batches
    taken.clear()
    FAMILY["aue"](augment="crop", steps=1).fit(digits)
    assert taken == []
    for wrong in (0, 1.1):
        with pytest.raises(ValueError, match="strength is a number"):
            FAMILY["aue"](strength=wrong)


def test_the_published_settings():
    aue = AUEPoison(KEY, preset="paper")
    of_cifar = aue.settings_for(32)
    assert (of_cifar.augment, aue.strength) == ("contrastive", 0.6)
    assert of_cifar.steps * (of_cifar.noise_steps + 1) == 140_760  # 60 epochs of 391 batches
    hypo = HYPOPoison(KEY, preset="paper").settings_for(32)
    assert (hypo.noise_steps, round(255 * hypo.noise_step_size, 6)) == (100, 0.8)
    sem, rem = SEMPoison(KEY, preset="paper"), REMPoison(KEY, preset="paper")
    assert sem.settings_for(32).arguments() == rem.settings_for(32).arguments()
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


# ---- the hooks ----


class FeaturePoison(OptimisedPoison):
    """Features away from the mean of their class, which is learnt when the surrogate is finished."""

    name = "features"
    trains_on_noise = False
    presets: ClassVar = {"cpu": Settings(**SHORT)}

    def _first_state(self, pictures):
        return {"centroids": torch.zeros(len(pictures.classes), 64)}

    def _finished(self, surrogate, pictures):
        features = self.features(surrogate, pictures.batch(slice(None)).float() / 255)
        for label in range(len(pictures.classes)):
            surrogate.state["centroids"][label] = features[pictures.labels == label].mean(0)

    def features(self, surrogate, pixels):
        surrogate.models[0].net.eval()
        with torch.no_grad():
            return surrogate.models[0].features(pixels)

    def _loss(self, model, pixels, batch):
        return -(model.features(pixels) - batch.state["centroids"][batch.y]).norm(dim=1)


def test_a_method_with_a_loss_of_features(digits):
    poison = FeaturePoison(KEY, augment="none", steps=12, eps=16 / 255).fit((digits[0][1:], digits[1][1:]))
    pictures = Pictures(Source((digits[0][1:], digits[1][1:])))
    surrogate = poison._surrogate(pictures, poison.settings_for(8))
    surrogate.load(poison._entry().surrogate())
    assert poison.report["passes"] * 128 == 6 * 63 + 63 * 3  # passes that end at the features count too
    clean, protected = (
        poison.features(surrogate, torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
        for images in (digits[0][1:], poison.apply(digits[0][1:], digits[1][1:]))
    )
    numbers = torch.from_numpy(digits[1][1:])  # classes 0..9 in sorted order
    centroids = torch.stack([clean[numbers == label].mean(0) for label in range(10)])
    assert torch.allclose(surrogate.state["centroids"], centroids, atol=1e-5)
    before, after = ((features - centroids[numbers]).norm(dim=1) for features in (clean, protected))
    assert (after > before).float().mean() > 0.95
    assert after.mean() > 1.2 * before.mean()


def test_the_features_are_what_the_last_layer_makes_logits_of(digits):
    step = Step(FAMILY["em"](), digits)
    head, step.model.bf16 = step.model.net.classifier, False
    with torch.no_grad():
        assert torch.allclose(head(step.model.features(step.x)), step.model(step.x), atol=1e-5)


class AheadPoison(FeaturePoison):
    """Noise against the network as one more step on the clean batch would leave it, in L2, by plain gradient steps."""

    seen: ClassVar[list] = []

    def _models(self, surrogate, batch):
        later = copy.deepcopy(surrogate.models[0].net).train()
        optimizer = torch.optim.SGD(later.parameters(), lr=0.1)
        F.cross_entropy(Model(later, bf16=False)(batch.x), batch.y).backward()
        optimizer.step()
        self.seen.append((surrogate.models[0].net, later))
        return [Model(later, bf16=False)]

    _loss = OptimisedPoison._loss

    def _start(self, batch):
        return torch.zeros_like(batch.x)

    def _step(self, delta, gradient, batch):
        return delta - 10 * gradient

    def _project(self, delta, batch):
        delta = equal_channels(delta, batch.grey)
        norm = delta.flatten(1).norm(dim=1).clamp_min(1e-9).view(-1, 1, 1, 1)
        return super()._project(delta * (0.1 / norm).clamp_max(1), batch)


def test_a_method_with_a_look_ahead_another_norm_and_another_step(digits):
    AheadPoison.seen.clear()
    poison = AheadPoison(KEY, augment="none").fit(digits)
    assert len(AheadPoison.seen) == 2  # batches
    for net, later in AheadPoison.seen:
        assert any(not torch.equal(*pair) for pair in zip(net.parameters(), later.parameters(), strict=True))
    delta = (poison.apply(*digits).astype(float) - digits[0]) / 255
    norms = np.sqrt((delta**2).sum((1, 2, 3)))
    assert norms.max() < 0.1 + np.sqrt(192) * 0.5 / 255  # rounding to whole levels
    assert norms.min() > 0.02


def test_several_surrogates(digits, monkeypatch):
    two = {"surrogate": UNSET, "surrogates": ["smallcnn", "resnet9-screen"]}
    poison = FAMILY["em"](augment="none", eps=16 / 255, **two)
    assert poison.arguments()["surrogates"] == ["smallcnn", "resnet9-screen"]
    assert "surrogate" not in poison.arguments()
    step = Step(poison, digits)
    first, second = step.surrogate.models
    assert [sum(p.numel() for p in each.net.parameters()) > 100_000 for each in (first, second)] == [False, True]
    gradients = []
    for models in ([first], [second], [first, second]):
        taken = []
        monkeypatch.setattr(EMPoison, "_models", lambda self, surrogate, batch, models=models: models)
        monkeypatch.setattr(
            EMPoison, "_step", lambda self, delta, gradient, batch, t=taken: t.append(gradient) or delta
        )
        poison._descend(step.surrogate, torch.zeros_like(step.x), step.batch)
        gradients.append(taken[0])
    assert torch.allclose(gradients[2], (gradients[0] + gradients[1]) / 2, atol=1e-6)
    monkeypatch.undo()
    poison.fit(digits)
    tensors = poison._entry().surrogate()
    assert {name.split(".")[0] for name in tensors} == {"net", "net1"}
    assert poison.report["passes"] * 128 == 2 * (3 * 32 * (3 + 1) + 64 * 3)
    before = poison.apply(*digits)
    more = 255 - digits[0][:8]
    poison.extend((more, digits[1][:8]))
    assert (poison.apply(*digits) == before).all()
    assert (poison.apply(more, digits[1][:8]) != more).any((1, 2, 3)).all()
    with pytest.raises(TypeError, match="give one of both"):
        EMPoison(KEY, surrogate="smallcnn", surrogates=["smallcnn"])
    with pytest.raises(ValueError, match=r"surrogates is one of .*, got 'resnet0'"):
        EMPoison(KEY, surrogates=["smallcnn", "resnet0"])


def test_momentum_follows_the_steps_before(digits, monkeypatch):
    poison = FAMILY["tap"](augment="none", noise_momentum=0.5)
    step = Step(poison, digits)
    taken = []
    monkeypatch.setattr(
        TAPPoison, "_step", lambda self, delta, gradient, batch: taken.append(gradient) or delta + 0 * gradient
    )
    poison._noise(step.surrogate, step.batch)
    # Nothing moves, so that every gradient is the same: 1, 1 + 1/2, 1 + 1/2 + 1/4 of it.
    assert torch.allclose(taken[1], 1.5 * taken[0], rtol=1e-3, atol=1e-4)
    assert torch.allclose(taken[2], 1.75 * taken[0], rtol=1e-3, atol=1e-4)
    assert torch.allclose(taken[0].abs().mean((1, 2, 3)), torch.ones(len(step.x)), atol=1e-4)


# ---- killed and started again ----


def bytes_of(poison, digits) -> bytes:
    return poison.apply(*digits).tobytes()


@pytest.mark.parametrize(
    "name", ["sem", "em, class-wise", "aue", "hypo", "tap", "tap, weights", "bait", "uc", "em, two surrogates"]
)
def test_killed_at_random_moments_it_ends_with_the_same_bytes(digits, name, monkeypatch, tmp_path):
    """Children die of a signal that Python cannot handle, after random shares of the CPU time that a fit takes."""
    FAMILY[name](steps=2).fit(digits)  # what is imported at the first fit is no part of the time of another
    started = time.process_time()
    truth = FAMILY[name](steps=8).fit(digits)
    expected, duration = bytes_of(truth, digits), time.process_time() - started
    monkeypatch.setattr(surrogate, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setenv("UNLEARNABLE_TRANSFORMS_CACHE", str(tmp_path / "killed"))
    chance = random.Random(name)
    killed = 0
    for _ in range(8):
        moment = chance.uniform(0.02, 0.25) * duration  # what was done before a kill is not done again
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            tqdm.set_lock(threading.RLock())  # its own is shared: a child that dies with it would stop all others
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

    def interrupted(self, pixels, labels, rate, number):
        steps.append(self.step)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return learn(self, pixels, labels, rate, number)

    monkeypatch.setattr(surrogate.Surrogate, "learn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        FAMILY["em"]().fit(digits)
    FAMILY["em"]().fit(digits)
    assert steps == [0, 1, 2, 2]


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
        ({"preset": "best"}, "preset is one of paper, fast, cpu, got 'best'"),
        ({"preset": "paper-large"}, "preset is one of"),
        ({"surrogate": "resnet0"}, "surrogate is one of .*resnet18.*, got 'resnet0': did you mean"),
        ({"steps": -1}, "steps is a whole number from 0, got -1"),
        ({"steps": 0}, "steps=0 leaves the surrogates as they start"),
        ({"radius": -1}, "radius is a number from 0"),
        ({"augment": "flip"}, "augment"),
        ({"eps": 8}, r"eps is a number in \[1/255, 127/255\], in units of 1 = white, got 8"),
        ({"work_size": 4}, "work_size is a whole number from 8"),
        ({"eps": None}, "eps is a number"),
        ({"cuts": (0.4, "late")}, "cuts is a number, got 'late'"),
        ({"cuts": 0.4}, "cuts is a list"),
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
