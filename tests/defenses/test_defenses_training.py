"""What defenses do to losses during training: mixing, adversarial training, smoothing, DAT."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import seeded
from small_training import LABELS, RECIPE, make_ready, make_setting, random_pixels, recording_model  # noqa: F401
from torch import nn

from unlearnable_transforms.defenses import get_defense
from unlearnable_transforms.defenses.dat import filter_groups, stretch
from unlearnable_transforms.training.attacks import attacking
from unlearnable_transforms.training.model import store_statistics

NO_LABELS = torch.zeros(0, dtype=torch.int64)


# ---- mixup and cutmix


def _levels() -> torch.Tensor:
    """Image i has the value (i + 1) / 16 everywhere."""
    return ((torch.arange(12) + 1) / 16).view(12, 1, 1, 1).expand(12, 3, 8, 8)


def test_cutmix_pastes_a_box_and_weighs_the_loss_by_its_area(model):
    defense, generator, shares, mixed_batches = make_ready("cutmix"), seeded(), [], 0
    for _ in range(40):
        loss, logits = defense.loss(model, _levels(), LABELS, generator)
        mixed = model.seen[-1][:, 0]
        own = mixed == _levels()[:, 0]
        partner = torch.arange(12)
        for i in range(12):
            if not own[i].all():
                partner[i] = int(16 * mixed[i][~own[i]].max()) - 1
        box = ~own[max(range(12), key=lambda i: int((~own[i]).sum()))]
        assert box.sum() == box.any(0).sum() * box.any(1).sum()
        share = 1 - box.float().mean()
        terms = F.cross_entropy(logits, LABELS, reduction="none")
        others = F.cross_entropy(logits, LABELS[partner], reduction="none")
        torch.testing.assert_close(loss, (share * terms + (1 - share) * others).mean())
        mixed_batches += bool(box.any())
        shares.append(float(share))
    assert 8 <= mixed_batches <= 28  # half of 40, and boxes of no pixel
    assert min(shares) < 0.6


def test_mixup_takes_means_and_weighs_the_loss_alike(model):
    defense, generator, shares = make_ready("mixup"), seeded(), []
    levels, labels = _levels()[:2], torch.tensor([3, 7])
    for _ in range(60):
        loss, logits = defense.loss(model, levels, labels, generator)
        first, second = (16 * model.seen[-1].mean((1, 2, 3))).tolist()  # of the levels 1 and 2
        own, other = (F.cross_entropy(logits, each) for each in (labels, labels.flip(0)))
        if first == pytest.approx(1, abs=1e-5):  # each with itself
            torch.testing.assert_close(loss, own)
            continue
        share = 2 - first
        assert second == pytest.approx(1 + share, abs=1e-5)
        torch.testing.assert_close(loss, share * own + (1 - share) * other, atol=1e-5, rtol=1e-5)
        shares.append(share)
    assert len(shares) > 15
    assert min(shares) < 0.2
    assert max(shares) > 0.8
    plain, logits = make_ready("mixup", probability=0.0).loss(model, levels, labels, generator)
    torch.testing.assert_close(plain, F.cross_entropy(logits, labels))
    assert model.seen[-1].equal(levels)


def test_mixing_keeps_the_recipes_label_smoothing(model):
    setting = make_setting(recipe=replace(RECIPE, label_smoothing=0.1))
    loss, logits = make_ready("mixup", setting, probability=0.0).loss(model, random_pixels(), LABELS, seeded())
    torch.testing.assert_close(loss, F.cross_entropy(logits, LABELS, label_smoothing=0.1))


# ---- adversarial training


def test_at_fgsm_is_one_step_of_one_and_a_quarter_radius(model):
    defense, pixels = get_defense("at-fgsm")(eps=0.02), 0.1 + 0.8 * random_pixels()
    found = defense.perturb(model, pixels, LABELS, seeded())
    assert len(model.seen) == 1
    delta, start = found - pixels, model.seen[0] - pixels
    assert delta.abs().max() <= 0.02 + 1e-6
    moved = (delta - start).abs()
    stepped = delta.abs() < 0.02 - 1e-6  # not cut off by the ball
    torch.testing.assert_close(moved[stepped], torch.full_like(moved[stepped], 0.025), atol=1e-6, rtol=0)
    assert stepped.float().mean() == pytest.approx(
        0.75 / 2, abs=0.03
    )  # starts below -0.005, or as far on the other side


def test_at_pgd_has_the_radius_of_its_norm(model):
    pixels = random_pixels()
    for norm, eps in (("linf", 8 / 255), ("l2", 1.0)):
        defense = get_defense("at-pgd")(norm=norm)
        assert defense.radius == eps
        delta = (defense.perturb(model, pixels, LABELS, seeded()) - pixels).flatten(1)
        length = delta.norm(dim=1, p=math.inf if norm == "linf" else 2).max().item()
        assert length == pytest.approx(eps, rel=0.01)
        assert len(model.seen) == 10
        model.seen.clear()


def test_trades_loss_by_hand(model):
    defense, pixels = make_ready("trades", steps=3, beta=6.0), random_pixels()
    adversarial = defense.attack(model, pixels, seeded())
    loss, _ = defense.loss(model, pixels, LABELS, seeded())
    assert model.seen[-1].equal(adversarial)
    with torch.no_grad():
        p, q = (model(x).softmax(1).double() for x in (pixels, adversarial))
    by_hand = -p[torch.arange(12), LABELS].log().mean() + 6 * (p * (p.log() - q.log())).sum(1).mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-4)


def test_trades_attack_raises_the_divergence_inside_its_ball(model):
    defense, pixels = make_ready("trades"), random_pixels()
    adversarial = defense.attack(model, pixels, seeded())
    start = model.seen[1]
    assert (start - pixels).std() == pytest.approx(0.001, rel=0.1)
    assert (adversarial - pixels).abs().max() == pytest.approx(0.031, abs=1e-5)
    with attacking(model.net), torch.no_grad():
        p, q, q0 = (model(x).softmax(1) for x in (pixels, adversarial, start))
    assert ((p * (p / q).log()).sum(1) > 2 * (p * (p / q0).log()).sum(1) + 1e-5).all()


# ---- smoothing


def test_smoothing_votes_follow_the_normal_distribution():
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    store_statistics(net, torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 8, 8))
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(2, 192, generator=seeded()))
        net[1].bias.zero_()
    images = torch.randint(100, 156, (5, 3, 8, 8), generator=seeded(1), dtype=torch.uint8)
    defense = get_defense("smoothing")(sigma=0.5, copies=2000)
    votes = defense.predict(net, images, make_setting(num_classes=2))
    assert votes.sum(1).eq(2000).all()
    slope = (net[1].weight[1] - net[1].weight[0]).double() / 0.5  # the statistics are mean 0.5 and deviation 0.5
    margin = (images.double() / 255 - 0.5).flatten(1) @ slope
    expected = torch.special.ndtr(margin / (0.5 * slope.norm()))
    torch.testing.assert_close(votes[:, 1].double() / 2000, expected, atol=0.05, rtol=0)
    assert votes.equal(defense.predict(net, images, make_setting(num_classes=2)))


def test_smoothing_adds_the_stated_noise_without_clipping(model):
    pixels = torch.ones(200, 3, 8, 8)
    noise = get_defense("smoothing")(sigma=0.25).perturb(model, pixels, NO_LABELS, seeded()) - pixels
    assert noise.std() == pytest.approx(0.25, rel=0.01)
    assert noise.mean() == pytest.approx(0, abs=0.01)


# ---- DAT


def _filters(model, pixels, **arguments):
    _, group = LABELS.unique(return_inverse=True)
    return get_defense("dat")(**arguments).filters(model, pixels, LABELS, group, seeded())


@pytest.mark.parametrize("init", ["default", "identity"])
def test_dat_filters_stay_in_their_box(model, init):
    for bound, step_size in ((0.3, 5.0), (5.0, 0.1)):
        weight, bias = _filters(model, random_pixels(), bound=bound, step_size=step_size, init=init)
        assert weight.shape == (10, 7, 7)
        assert max(weight.abs().max(), bias.abs().max()) <= bound
    weight, bias = _filters(model, random_pixels(), bound=0.3, step_size=50.0, init=init)
    assert weight.abs().max() == pytest.approx(0.3)  # and the box was needed


def test_dat_ascends_the_loss_of_each_class(model):
    pixels, (_, group) = random_pixels(), LABELS.unique(return_inverse=True)
    start = _filters(model, pixels, steps=0, init="identity")
    assert filter_groups(pixels, *start, group).equal(pixels)
    found = _filters(model, pixels, init="identity", step_size=0.02)
    with attacking(model.net), torch.no_grad():
        before, after = (
            F.cross_entropy(model(filter_groups(pixels, *filters, group)), LABELS, reduction="none")
            for filters in (start, found)
        )
    per_class = torch.zeros(10).index_add(0, group, after - before)
    assert (per_class > 0).all()


def test_dat_step_is_the_gradient_of_the_class_mean(model):
    pixels, (_, group) = random_pixels(), LABELS.unique(return_inverse=True)
    start, bias = (value.requires_grad_() for value in _filters(model, pixels, steps=0, kernel_size=3))
    found, _ = _filters(model, pixels, steps=1, kernel_size=3, step_size=0.1)
    with attacking(model.net):
        for label in (0, 7):  # two images, and one
            rows = label == LABELS
            loss = F.cross_entropy(model(filter_groups(pixels[rows], start, bias, group[rows])), LABELS[rows])
            (gradient,) = torch.autograd.grad(loss, start)
            torch.testing.assert_close(
                found[label], start[label].detach() + 0.1 * gradient[label], atol=1e-5, rtol=1e-4
            )


def test_dat_filters_as_a_transposed_convolution_and_stretches(model):
    layer = nn.ConvTranspose2d(1, 1, 5, padding=2)
    pixels, group = random_pixels(), torch.arange(12) % 2
    weight = torch.stack([layer.weight[0, 0], torch.zeros(5, 5)])
    out = filter_groups(pixels, weight, torch.stack([layer.bias[0], torch.tensor(0.5)]), group)
    torch.testing.assert_close(out[2, 1], layer(pixels[2, 1][None])[0], atol=1e-5, rtol=1e-5)
    assert out[1].eq(0.5).all()

    stretched = get_defense("dat")(steps=1).perturb(model, pixels, LABELS, seeded())
    assert stretched.amin((1, 2, 3)).eq(0).all()
    torch.testing.assert_close(stretched.amax((1, 2, 3)), torch.ones(12))
    assert stretch(torch.full((1, 3, 2, 2), 0.7)).eq(0).all()


def test_dat_starts_as_a_new_transposed_convolution(model):
    weight, bias = _filters(model, random_pixels(), steps=0)
    reference = nn.ConvTranspose2d(1, 1, 7).weight
    assert weight.abs().max() <= 1 / 7
    assert bias.abs().max() <= 1 / 7
    assert reference.abs().max() <= 1 / 7
    assert weight.std() == pytest.approx(2 / 7 / 12**0.5, rel=0.1)
