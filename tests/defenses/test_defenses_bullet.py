"""BulletTrain: who is in which group, how far each is attacked, and what it saves."""

import pytest
import torch
import torch.nn.functional as F
from conftest import seeded
from small_victim import LABELS, SETTING, pictures, small_model  # noqa: F401  (the fixture model)
from torch import Tensor

from unlearnable_transforms.defenses import get_defense
from unlearnable_transforms.defenses.bullet import BulletTrain


def ready(**arguments) -> BulletTrain:
    defense = get_defense("at-bullet")(**arguments)
    assert isinstance(defense, BulletTrain)
    defense.prepare(torch.zeros(1), torch.zeros(1), SETTING)
    return defense


def test_groups_go_by_the_signed_variance():
    sure, unsure = torch.tensor([0.97, 0.01, 0.01, 0.01]), torch.tensor([0.3, 0.24, 0.23, 0.23])
    # confidently wrong, barely wrong, barely right, confidently right, middling right
    probabilities = torch.stack([sure, unsure, unsure, sure, torch.tensor([0.6, 0.2, 0.1, 0.1])])
    labels = torch.tensor([1, 1, 0, 0, 0])
    defense = ready()
    assert [len(rows) for rows in defense.mining.groups(probabilities, labels)] == [0, 5, 0]
    defense.mining.outlier, defense.mining.robust = 0.2, 0.4
    outliers, boundary, robust = (sorted(rows.tolist()) for rows in defense.mining.groups(probabilities, labels))
    assert (outliers, boundary, robust) == ([0], [1, 2], [3, 4])


def test_shares_that_leave_no_boundary_cover_every_row_once():
    defense = ready()
    defense.mining.outlier, defense.mining.robust = 0.7, 0.7
    probabilities = torch.rand(11, 4, generator=seeded()).softmax(1)
    rows = torch.cat(defense.mining.groups(probabilities, torch.zeros(11, dtype=torch.long)))
    assert rows.sort().values.equal(torch.arange(11))


@pytest.mark.parametrize("around", ["pgd", "trades", "mart"])
def test_each_group_is_attacked_with_its_own_steps(model, around):
    defense = ready(around=around, eps=0.02, steps=5, outlier_steps=0, robust_steps=2)
    defense.mining.outlier, defense.mining.robust = 0.25, 0.5
    pixels = pictures()
    with torch.no_grad():
        model.net.eval()
        before = model(pixels).softmax(1)
    done = model.forward_images
    adversarial = defense.attack(model, pixels, LABELS, before, seeded(1))
    assert model.forward_images - done == 5 * 0 + 5 * 5 + 10 * 2
    assert (adversarial - pixels).abs().max() <= 0.02 + 1e-6
    outliers, boundary, robust = defense.mining.groups(before, LABELS)

    def rise(rows: Tensor) -> float:
        with torch.no_grad():
            after, clean = (F.cross_entropy(model(x[rows]), LABELS[rows]) for x in (adversarial, pixels))
        return float(after - clean)

    if around != "trades":
        assert rise(boundary) > rise(outliers)
        assert rise(boundary) > 0.001
        assert rise(robust) > 0.001
    untouched = (adversarial - pixels)[outliers].abs().max()
    assert untouched < (0.006 if around == "trades" else 0.02 + 1e-6)


def test_without_groups_it_is_adversarial_training(model):
    """All are boundary at the start: the images are those of at-pgd, and so is the loss."""
    plain, defense = get_defense("at-pgd")(eps=0.02, steps=3), ready(eps=0.02, steps=3)
    pixels = pictures()
    model.net.eval()
    expected = plain.perturb(model, pixels, LABELS, seeded(2))
    before = model(pixels).softmax(1).detach()
    assert defense.attack(model, pixels, LABELS, before, seeded(2)).equal(expected)
    loss, logits = defense.loss(model, pixels, LABELS, seeded(2))
    assert logits.equal(model(expected))
    assert loss.item() == pytest.approx(F.cross_entropy(logits, LABELS).item(), rel=1e-6)


def test_trades_around_nothing_is_trades(model):
    plain = get_defense("trades")(eps=0.02, steps=3, step_size=2.5 * 0.02 / 3, beta=6.0)
    plain.prepare(torch.zeros(1), torch.zeros(1), SETTING)
    model.net.eval()
    expected, _ = plain.loss(model, pictures(), LABELS, seeded(2))
    loss, _ = ready(around="trades", eps=0.02, steps=3).loss(model, pictures(), LABELS, seeded(2))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_mart_by_hand():
    clean, after = torch.randn(2, 6, 4, generator=seeded(5)).unbind()
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    p, q = clean.softmax(1).double(), after.softmax(1).double()
    by_hand = 0.0
    for row, label in enumerate(labels.tolist()):
        other = max(float(q[row, k]) for k in range(4) if k != label)
        boosted = -q[row, label].log() - torch.log(torch.tensor(1 - other, dtype=torch.double))
        apart = (p[row] * (p[row] / q[row]).log()).sum()
        by_hand += float(boosted + 5 * apart * (1 - p[row, label])) / 6
    assert ready(around="mart")._mart(clean, after, labels).item() == pytest.approx(by_hand, rel=1e-5)


def test_shares_follow_what_the_attack_shows():
    defense = ready()
    before, after = torch.tensor([1, 1, 1, 0]).bool(), torch.tensor([1, 1, 0, 1]).bool()
    defense.mining.observe(before, after)
    assert (defense.mining.outlier, defense.mining.robust) == pytest.approx((0.025, 0.05))
    for _ in range(200):
        defense.mining.observe(before, after)
    assert (defense.mining.outlier, defense.mining.robust) == pytest.approx((0.25, 0.5), abs=1e-3)
