"""Every defense through all its hooks: reproducible, silent towards global random states, rebuilt from arguments."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from unlearnable_transforms.defenses import get_defense, list_defenses
from unlearnable_transforms.defenses.base import Defense, Setting, register_defense
from unlearnable_transforms.evaluation.columns import defense_label
from unlearnable_transforms.training.loop import DIGITS, History, recipe_augment
from unlearnable_transforms.training.model import predict
from unlearnable_transforms.training.transforms import each_image, seeded_globally
from unlearnable_transforms.victims import build_victim

RECIPE = replace(DIGITS, epochs=1)


def darker(images: torch.Tensor) -> torch.Tensor:
    """A purifier by name."""
    return images // 2


# Arguments that make a defense cheap, or that it cannot do without; the others are made by their names alone.
ARGUMENTS: dict[str, dict] = {
    "at-pgd": {"norm": "l2", "steps": 2},
    "trades": {"steps": 2},
    "at-bullet": {"around": "trades", "steps": 2},
    "augmix": {"bullet": True},
    "rsr": {"steps": 2},
    "adversarial-input": {"steps": 2},
    "dat": {"kernel_size": 3, "steps": 2},
    "smoothing": {"copies": 5},
    "ueraser": {"variant": "max", "repeats": 2, "jpeg": 10},
    "purify": {"purifier": f"{__name__}:darker"},
    "dilution": {"count": 20},
    "simclr": {"epochs": 1},
    "d-vae": {"epochs": 1, "width": 4},
}
# One epoch is the best one; digits are gray, and have too few pixels for Pillow to equalise; "bn-test" is of the test.
UNCHANGED = {"erm", "early-stop", "grayscale", "equalize", "bn-test"}


def run(defense: Defense, digits, seed: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits of test images, and the weights, after one training with all hooks in their order."""
    images, labels = digits
    setting = Setting(10, 8, "smallcnn", RECIPE, seed, clean=(images[500:600], labels[500:600]))
    rows, marks = defense.rows(images[:150], labels[:150], setting)
    prepared = defense.prepare(rows, marks, setting)
    net = defense.network(build_victim("smallcnn", 10, 8, setting.seed), setting)
    recipe = defense.recipe(setting.recipe)
    crop_flip, augment = recipe_augment(recipe), defense.augment
    if augment is not None and not defense.replaces_augment:
        own = augment
        augment = lambda batch, generator: own(crop_flip(batch, generator), generator)  # noqa: E731
    test = defense.test(images[600:650], setting)
    defense.train(
        net, prepared, marks, setting=setting, recipe=recipe, history=History(), test=(test, labels[600:650]),
        augment=augment, perturb=defense.perturb, loss=defense.loss, on_epoch=defense.on_epoch,
    )  # fmt: skip
    defense.finish(net, setting)
    logits = defense.predict(net, test, setting)
    weights = {
        name.replace("parametrizations.weight.original", "weight"): value for name, value in net.state_dict().items()
    }
    return (predict(net, test) if logits is None else logits), weights


@pytest.fixture(name="plain", scope="module")
def plain_weights(digits) -> dict[str, torch.Tensor]:
    return run(Defense(), digits, seed=1)[1]


@pytest.mark.parametrize("name", list_defenses())
def test_every_defense_trains_reproducibly_and_unlike_plain_training(name, digits, plain):
    defense = get_defense(name)(**ARGUMENTS.get(name, {}))
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    logits, weights = run(defense, digits, seed=1)
    assert torch.get_rng_state().equal(states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]
    assert logits.shape == (50, 10)
    assert logits.isfinite().all()

    again = get_defense(name)(**json.loads(json.dumps(defense.arguments())))
    assert repr(again) == repr(defense)
    logits_again, weights_again = run(again, digits, seed=1)
    assert logits_again.equal(logits)
    assert all(value.equal(weights[key]) for key, value in weights_again.items())
    _, other = run(defense, digits, seed=2)
    assert not other["classifier.weight"].equal(weights["classifier.weight"])
    same = weights["classifier.weight"].equal(plain["classifier.weight"])
    assert same == (name in UNCHANGED)


@pytest.mark.parametrize("name", list_defenses())
def test_every_defense_says_what_it_is(name):
    assert len(get_defense(name).__doc__ or "") > 60


def test_lists_take_patterns_and_errors_name_what_is_near():
    assert list_defenses("at-*") == ["at-bullet", "at-fgsm", "at-pgd"]
    assert list_defenses("nothing-*") == []
    assert get_defense("erm").name == "erm"
    with pytest.raises(KeyError, match=r"did you mean 'jpeg'\?"):
        get_defense("jpg")


def test_a_class_that_is_not_registered_has_a_name_of_its_own():
    class Sharper(get_defense("gaussian")):
        pass

    assert Sharper.name == "Sharper"  # not its parent's, whose results would be taken for its own
    assert get_defense("gaussian").name == "gaussian"


def test_arguments_are_those_that_were_passed():
    assert get_defense("at-pgd")(norm="l2").arguments() == {"norm": "l2", "eps": None, "steps": 10, "step_size": None}
    assert get_defense("at-pgd")(norm="l2").radius == 1.0
    assert get_defense("at-pgd")().radius == 8 / 255
    assert get_defense("at-fgsm")(eps=0.1).attack_step == pytest.approx(0.125)
    assert get_defense("at-fgsm")(eps=0.1, step_size=0.02).attack_step == 0.02


def test_arguments_stay_as_they_were_passed_since_cells_tell_1_from_1_0():
    assert json.dumps(get_defense("at-pgd")(norm="l2", eps=1).arguments()["eps"]) == "1"
    assert get_defense("jpeg")(30).arguments() == {"quality": 30, "at_test": False}  # by position, too


def test_a_defense_may_have_a_constructor_of_its_own():
    class Shifted(Defense):
        def __init__(self, by: int = 1) -> None:
            self.by = by

    assert Shifted(3).arguments() == {"by": 3}
    assert repr(Shifted(3)) == "Shifted(by=3)"
    assert defense_label(Shifted(3)) == "Shifted by=3"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("jpeg", {"quality": 0}),
        ("bdr", {"bits": 8}),
        ("gaussian", {"sigma": 0.1}),  # the no-op of public benchmarks
        ("gaussian", {"kernel_size": 4}),
        ("median", {"kernel_size": 2}),
        ("bilateral", {"d": 8}),
        ("bilateral", {"sigma_color": 0}),
        ("coin", {"alpha": 0}),
        ("rsk-ff", {"keep": 0}),
        ("cutout", {"size": 0}),
        ("mixup", {"alpha": 0}),
        ("cutmix", {"probability": 2}),
        ("at-pgd", {"norm": "l1"}),
        ("at-bullet", {"around": "free"}),
        ("at-bullet", {"robust_steps": -1}),
        ("at-fgsm", {"eps": -1}),
        ("trades", {"steps": 0}),
        ("smoothing", {"sigma": 0}),
        ("dat", {"init": "zero"}),
        ("dat", {"kernel_size": 4}),
        ("ueraser", {"variant": "maximum"}),
        ("ueraser", {"jpeg": 0}),
        ("fine-tune", {"lr_scale": 0}),
        ("d-vae", {"epochs": 0}),
        ("d-vae", {"rate": 0}),
    ],
)
def test_bad_arguments(name, arguments):
    (value,) = arguments.values()
    with pytest.raises(ValueError, match=rf"got .*{value}"):
        get_defense(name)(**arguments)


def test_unknown_names_and_names_taken():
    with pytest.raises(KeyError, match="coin"):
        get_defense("nothing")
    with pytest.raises(ValueError, match="coin"):

        @register_defense("coin")
        class Other(Defense):
            pass


def test_libraries_are_seeded_and_the_global_state_is_left_alone():
    generator = torch.Generator().manual_seed(0)
    before = torch.get_rng_state()
    with seeded_globally(generator):
        first = torch.rand(3)
    with seeded_globally(generator):
        second = torch.rand(3)
    with seeded_globally(torch.Generator().manual_seed(0)):
        assert torch.rand(3).equal(first)
    assert not first.equal(second)
    assert torch.get_rng_state().equal(before)


def test_each_image_has_its_own_draws():
    images = torch.zeros(20, 3, 2, 2)
    out = each_image(lambda image: image + torch.rand(1), images, torch.Generator().manual_seed(0))
    assert len(out[:, 0, 0, 0].unique()) == 20
    assert (out == out[:, :1, :1, :1]).all()
