"""Composed defenses: each hook runs through all parts, in order; and SimCLR."""

import pytest
import torch
from conftest import seeded

from unlearnable_transforms.defenses import get_defense
from unlearnable_transforms.defenses.base import Setting
from unlearnable_transforms.defenses.compose import Composed, order_of_hooks
from unlearnable_transforms.errors import UsageError
from unlearnable_transforms.evaluation.columns import defense_label, make_defense
from unlearnable_transforms.evaluation.recipes import get_plan
from unlearnable_transforms.training.loop import History, Recipe
from unlearnable_transforms.training.simclr import contrastive_loss
from unlearnable_transforms.victims import build_victim

RECIPE = Recipe(epochs=1, batch_size=32, max_lr=0.05, augment="none")
SETTING = Setting(3, 16, "smallcnn", RECIPE, seed=0)


def _images(count=8, size=16):
    return torch.randint(256, (count, 3, size, size), generator=seeded(1), dtype=torch.uint8)


def _made(spec):
    return make_defense(spec, get_plan("screen"))


def test_images_go_from_part_to_part_in_order():
    images, labels = _images(), torch.arange(8) % 3
    grey_last, grey_first = _made("jpeg:quality=20 + grayscale"), _made("grayscale + jpeg:quality=20")
    first, second = (each.prepare(images, labels, SETTING) for each in (grey_last, grey_first))
    jpeg, grey = get_defense("jpeg")(quality=20), get_defense("grayscale")()
    assert torch.equal(first, grey.prepare(jpeg.prepare(images, labels, SETTING), labels, SETTING))
    assert torch.equal(second, jpeg.prepare(grey.prepare(images, labels, SETTING), labels, SETTING))
    assert not torch.equal(first, second)


def test_augmentations_follow_what_was_prepared():
    composed = _made("class-residual + rsk-ff:std=0 + colour-noise")
    images, labels = _images(), torch.arange(8) % 3
    prepared = composed.prepare(images, labels, SETTING)
    assert composed.replaces_augment
    out = composed.augment(prepared, seeded(2))
    generator = seeded(2)
    middle = composed.parts[1].augment(prepared, generator)
    assert torch.equal(out, composed.parts[2].augment(middle, generator))


def test_name_arguments_and_label_tell_compositions_apart():
    one, other = _made("jpeg:quality=20 + grayscale"), _made("grayscale + jpeg:quality=20")
    assert (one.name, other.name) == ("jpeg + grayscale", "grayscale + jpeg")
    assert defense_label(one) == "jpeg quality=20 + grayscale"
    assert one.arguments() != _made("jpeg + grayscale").arguments()


@pytest.mark.parametrize("spec", ["mixup + cutmix", "last-layer + simclr", "smoothing + bn-test"])
def test_parts_that_cannot_go_together_are_refused(spec):
    with pytest.raises(UsageError, match="cannot go together: each has a"):
        _made(spec)


@pytest.mark.parametrize(
    "spec", ["last-layer + at-fgsm", "mixup + last-layer", "simclr + cutout", "early-stop + last-layer"]
)
def test_a_part_that_would_be_left_out_is_refused(spec):
    with pytest.raises(UsageError, match="it trains without a hook"):
        _made(spec)


def test_a_composed_defense_trains_as_long_as_its_longest_part():
    plan = get_plan("screen")
    assert plan.training("resnet9-screen", "jpeg + at-fgsm").epochs == 20
    assert plan.training("resnet9-screen", "jpeg + grayscale").epochs == 10


def test_a_recipe_of_ones_own_counts_for_a_victim_with_weights_too(monkeypatch):
    monkeypatch.setattr("unlearnable_transforms.evaluation.recipes.has_weights", lambda victim: True)
    assert get_plan(RECIPE).training("anything", "erm") == RECIPE
    assert get_plan("photographs").screening().training("anything", "erm").epochs == 2


def test_one_part_is_no_composition():
    with pytest.raises(UsageError, match="at least two parts"):
        Composed([get_defense("jpeg")()])


def test_views_of_one_image_belong_together():
    """By hand, for two images and a temperature of 1: the loss of two orthogonal pairs."""
    pairs = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    expected = -torch.log(torch.tensor(1.0).exp() / (torch.tensor(1.0).exp() + 2))
    assert contrastive_loss(pairs, 1.0) == pytest.approx(float(expected))
    assert contrastive_loss(pairs[[0, 1, 3, 2]], 1.0) > expected


def test_simclr_trains_without_labels_and_then_fits_the_last_layer():
    images, labels = _images(48), torch.arange(48) % 3
    defense, history = get_defense("simclr")(epochs=2), History()
    net = build_victim("smallcnn", 3, 16)
    before = net.features[0][0].weight.clone()
    defense.prepare(images, labels, SETTING)
    defense.train(net, images, labels, setting=SETTING, recipe=RECIPE, history=history, test=(images, labels))
    assert len(history.train_loss) == 2
    assert len(history.test_accuracy) == 1
    assert not torch.equal(net.features[0][0].weight, before)
    other, again = build_victim("smallcnn", 3, 16), History()
    defense.train(other, images, labels.flip(0), setting=SETTING, recipe=RECIPE, history=again, test=(images, labels))
    assert torch.equal(other.features[0][0].weight, net.features[0][0].weight)  # labels played no part
    assert not torch.equal(other.classifier.weight, net.classifier.weight)


def test_fractions_are_rounded_only_before_a_part_that_prepares():
    """Else two orders of one training would differ."""
    images, labels = _images(12), torch.arange(12) % 3
    one, other = (
        _made(spec).prepare(images, labels, SETTING) for spec in ("class-spectrum + cutout", "class-spectrum")
    )
    assert one.is_floating_point()
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("jpeg + cutout", "cutout + jpeg", True),  # images before, batches during the training
        ("jpeg + grayscale", "grayscale + jpeg", False),
        ("jpeg:quality=10 + cutout", "jpeg:quality=20 + cutout", False),
        ("jpeg + cutout", "jpeg", False),
    ],
)
def test_two_orders_are_one_training_where_no_hook_sees_both(one, other, same):
    assert (order_of_hooks(_made(one)) == order_of_hooks(_made(other))) is same
