"""Muon, the network and the recipe of airbench94."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from unlearnable_transforms.errors import UsageError
from unlearnable_transforms.evaluation.recipes import SPEEDRUN, get_plan
from unlearnable_transforms.training.loop import Recipe, train
from unlearnable_transforms.training.muon import Muon, muon_and_sgd, orthogonal
from unlearnable_transforms.training.transforms import crop_flip
from unlearnable_transforms.victims.airbench import filter_bank
from unlearnable_transforms.victims.registry import build_victim


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (8, 8)])
def test_an_update_becomes_nearly_orthogonal_and_keeps_its_directions(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrix))
    before = torch.linalg.svdvals(matrix)
    assert values.min() > 0.2
    assert values.max() < 1.4
    assert values.max() / values.min() < before.max() / before.min()
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    diagonal = left.T @ orthogonal(matrix) @ right.T
    assert (diagonal - diagonal.diag().diag()).abs().max() < 0.1  # in bfloat16


def test_a_step_brings_the_weight_back_to_its_norm_and_moves_it():
    weight = nn.Parameter(torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(1)))
    optimizer = Muon([weight], lr=0.0, momentum=0.6)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert weight.norm().item() == pytest.approx(8**0.5, rel=1e-5)
    before = weight.detach().clone()
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    assert (weight - before).sum() < 0  # against the gradient


def test_filters_biases_and_the_head_have_rates_of_their_own():
    net = build_victim("airbench94", 10, 32)
    trained = [weight for weight in net.parameters() if weight.requires_grad]
    muon, sgd = muon_and_sgd(trained, 0.24, 0.6, 2e-6, 2000)
    assert {weight.ndim for weight in muon.param_groups[0]["params"]} == {4}
    assert len(muon.param_groups[0]["params"]) == 6
    biases, head = sgd.param_groups
    assert (biases["lr"], head["lr"]) == (0.053 * 2000, 0.67 * 2000)
    assert biases["lr"] * biases["weight_decay"] == pytest.approx(2e-6 * 2000)
    assert head["params"][0] is net.head.weight
    assert sum(len(group["params"]) for group in (*muon.param_groups, *sgd.param_groups)) == len(trained)


def test_a_network_without_filters_needs_no_muon():
    assert len(muon_and_sgd(list(nn.Linear(3, 2).parameters()), 0.24, 0.6, 0.0, 8)) == 1


def test_the_bank_is_the_same_for_every_data_set_and_is_not_trained():
    """Twelve filters and their negatives; only the first sees brightness alone."""
    bank = filter_bank()
    assert bank.shape == (24, 3, 2, 2)
    assert torch.equal(bank[:12], -bank[12:])
    assert bank.sum((1, 2, 3)).abs().round(decimals=4)[:12].count_nonzero() == 1
    net = build_victim("airbench94", 10, 32, seed=3)
    assert torch.equal(net.filters.weight, bank)
    images = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(32) % 10
    history = train(net, images, labels, recipe=replace(SPEEDRUN, epochs=4, batch_size=16), seed=0)
    assert torch.equal(net.filters.weight, bank)
    assert net.filters.bias.abs().max() > 0
    assert history.train_loss[-1] < history.train_loss[0]


@pytest.mark.parametrize(("classes", "side"), [(100, 64), (10, 96)])
def test_other_sizes_and_numbers_of_classes(classes, side):
    net = build_victim("airbench94", classes, side).eval()
    assert net(torch.rand(2, 3, side, side)).shape == (2, classes)


def test_the_recipe_is_named():
    plan = get_plan("speedrun")
    assert (plan.victim, plan.recipe) == ("airbench94", SPEEDRUN)
    assert SPEEDRUN.learning_rate(0.5) == pytest.approx(0.12)  # in a straight line to 0
    with pytest.raises(UsageError, match='"sgd", "adamw" or "muon"'):
        Recipe(epochs=1, batch_size=2, max_lr=0.1, optimizer="lion")


def test_a_mirrored_border_shows_nothing_but_the_image():
    images = torch.randint(1, 256, (64, 3, 16, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    moved = crop_flip(images, torch.Generator().manual_seed(0), padding=2, mirrored=True)
    assert moved.min() > 0  # no zeros
    expected = torch.nn.functional.pad(images.float(), (2,) * 4, mode="reflect").to(torch.uint8)
    windows = [expected[:, :, top : top + 16, left : left + 20] for top in range(5) for left in range(5)]
    for number, image in enumerate(moved):
        assert any(torch.equal(each, window[number]) for each in (image, image.flip(2)) for window in windows)
