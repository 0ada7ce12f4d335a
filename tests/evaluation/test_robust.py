"""Robust accuracy: checked against formulas of a linear network and against another library's attack."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import unlearnable_transforms as ut
from unlearnable_transforms.evaluation.recipes import Plan
from unlearnable_transforms.evaluation.robust import Attack, Robustness, robust_accuracy
from unlearnable_transforms.training.loop import DIGITS, train
from unlearnable_transforms.training.model import store_statistics
from unlearnable_transforms.victims import build_victim


@pytest.fixture(scope="module")
def net(digits) -> nn.Module:
    net = build_victim("smallcnn", 10, 8, 0)
    train(net, digits[0][:1000], digits[1][:1000], recipe=DIGITS, seed=0)
    return net


def linear() -> tuple[nn.Module, torch.Tensor]:
    """Two classes; logit 1 minus logit 0 is slope @ pixels, zero in the middle of the cube."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    store_statistics(net, torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 8, 8))
    slope = torch.randn(192, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        net[1].weight.copy_(torch.stack([torch.zeros(192), slope * 0.5]))  # normalised: (pixel - 0.5) / 0.5
        net[1].bias.zero_()
    return net, slope


@pytest.mark.parametrize(("norm", "dual", "eps"), [("linf", 1, 1 / 255), ("l2", 2, 0.05)])
def test_a_linear_network_loses_what_its_margins_say(norm, dual, eps):
    net, slope = linear()
    images = torch.randint(90, 166, (400, 3, 8, 8), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    margin = (images.double().flatten(1) / 255 - 0.5) @ slope.double()
    labels = (margin > 0).long()
    labels[:40] = 1 - labels[:40]  # wrong from the start
    found = robust_accuracy(net, images, labels, norm=norm, eps=eps)
    withstands = (margin.abs() > eps * slope.double().norm(p=dual)) & (labels == (margin > 0))
    assert found.clean == pytest.approx(0.9)
    assert 0.1 < withstands.float().mean() < 0.85  # the radius divides them
    assert found.robust == pytest.approx(withstands.float().mean().item(), abs=0.0026)  # one image at the border


@pytest.mark.parametrize(("norm", "eps"), [("linf", 16 / 255), ("l2", 0.75)])
def test_another_library_finds_the_same(net, digits, norm, eps):
    pytest.importorskip("art", reason="needs adversarial-robustness-toolbox")
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    images, labels = digits[0][1000:1400], digits[1][1000:1400]
    ours = robust_accuracy(net, images, labels, norm=norm, eps=eps, restarts=1)
    mean, std = (net.get_buffer(name).view(1, 3, 1, 1) for name in ("pixel_mean", "pixel_std"))

    class Normalised(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return net((pixels - mean) / std)

    classifier = PyTorchClassifier(
        Normalised().eval(), loss=nn.CrossEntropyLoss(), input_shape=(3, 8, 8), nb_classes=10, clip_values=(0, 1),
        device_type="cpu",
    )  # fmt: skip
    attack = ProjectedGradientDescentPyTorch(
        classifier, norm=np.inf if norm == "linf" else 2, eps=eps, eps_step=2.5 * eps / 20, max_iter=20,
        num_random_init=1, verbose=False, batch_size=100,
    )  # fmt: skip
    pixels, truth = images.numpy().astype(np.float32) / 255, labels.numpy()
    np.random.seed(0)  # where that library takes its starts from
    clean = (classifier.predict(pixels).argmax(1) == truth).mean()
    theirs = (classifier.predict(attack.generate(pixels, np.eye(10)[truth])).argmax(1) == truth).mean()
    assert ours.clean == pytest.approx(clean)
    assert ours.clean - ours.robust > 0.1  # there is something to agree on
    assert -0.03 <= ours.robust - theirs <= 0.01  # starts differ; ours may find more


def test_radius_restarts_and_repetition(net, digits):
    images, labels = digits[0][1000:1200], digits[1][1000:1200]
    nothing = robust_accuracy(net, images, labels, eps=0)
    assert nothing.robust == nothing.clean
    results = [robust_accuracy(net, images, labels, eps=eps / 255).robust for eps in (2, 8, 32)]
    assert results == sorted(results, reverse=True)
    assert results[0] > results[-1]
    once, again = (ut.robust_accuracy(net, images, labels, eps=16 / 255) for _ in range(2))
    assert once == again
    assert robust_accuracy(net, images, labels, eps=16 / 255, restarts=3).robust <= once.robust
    state = {name: value.clone() for name, value in net.state_dict().items()}
    done = []
    robust_accuracy(net, images, labels, steps=1, batch_size=150, progress=lambda *counts: done.append(counts))
    assert done == [(150, 200), (200, 200)]
    assert all(value.equal(state[name]) for name, value in net.state_dict().items())


def test_it_prints_what_was_tried():
    assert str(Robustness(0.9, 0.25, "linf", 8 / 255, 20, 2)) == (
        "clean 90.0%, robust 25.0% (PGD-20, linf 8/255, 2 random starts)"
    )
    assert str(Robustness(0.9, 0.25, "l2", 0.5, 20, 1)).endswith("(PGD-20, l2 0.5, 1 random start)")


@pytest.mark.parametrize("bad", [{"norm": "l1"}, {"eps": -1.0}, {"steps": 0}, {"restarts": 0}])
def test_bad_attacks(net, digits, bad):
    with pytest.raises(ValueError, match=r"norm|eps|restarts"):
        robust_accuracy(net, digits[0][:4], digits[1][:4], **bad)


# ---- as a part of an evaluation


def small(digits, **options):
    images, labels = digits
    recipe = replace(DIGITS, epochs=4)
    train_set = (images[:600].permute(0, 2, 3, 1).numpy(), labels[:600].tolist())
    test_set = (images[600:900].permute(0, 2, 3, 1).numpy(), labels[600:900].tolist())
    plan = Plan("own", recipe, "smallcnn")
    return ut.evaluate(clean=train_set, test=test_set, recipe=plan, defenses=["erm"], progress=False, **options)


def test_an_evaluation_attacks_its_victims(digits, tmp_path):
    plain = small(digits, out=tmp_path)
    assert "robust" not in plain.cells[0]["result"]
    report = small(digits, out=tmp_path, attacks=["linf:eps=8/255,steps=5,rows=100", Attack("l2", 0.5, steps=5)])
    (cell,) = report.cells
    assert len(list(tmp_path.glob("*.json"))) == 1  # the same victim, measured further
    assert cell["id"] == plain.cells[0]["id"]
    assert cell["result"]["last"] == plain.cells[0]["result"]["last"]
    linf, l2 = cell["result"]["robust"]
    assert 0 < linf["robust"] < linf["clean"]
    assert l2["clean"] == cell["result"]["last"]  # 1,000 rows are more than there are
    (entry,) = report.tables[0].entries.values()
    assert entry.robust == {"PGD-5 linf 8/255, 100 pictures": linf["robust"], "PGD-5 l2 0.5": l2["robust"]}
    assert "Accuracy under PGD-5 linf 8/255" in str(report)
    assert "PGD-5 l2 0.5" in report.html()

    stamp = cell["date"], cell["result"]["seconds"]
    again = small(digits, out=tmp_path, attacks=["l2:eps=0.5,steps=5"])  # measured already
    assert (again.cells[0]["date"], again.cells[0]["result"]["seconds"]) == stamp


def test_wrong_attacks_are_refused_before_anything_is_trained(digits):
    for wrong in ("linf:radius=1", "l1", "linf:steps=0", "l2:eps=-1", "linf:rows=0", "linf:restarts=0"):
        with pytest.raises(ValueError, match=r"radius|l1|steps|eps|rows"):
            small(digits, attacks=[wrong])


def test_an_attack_knows_the_transform_before_the_network(net, digits):
    """It goes through the transform, and takes its gradient for 1: right for one that rounds, wrong for a negative."""
    images, labels = digits[0][1000:1300], digits[1][1000:1300]

    def invert(pixels: torch.Tensor) -> torch.Tensor:
        return 255 - pixels

    plain = robust_accuracy(net, images, labels, eps=4 / 255)
    assert robust_accuracy(net, invert(images), labels, eps=4 / 255).clean < 0.7
    behind = robust_accuracy(net, invert(images), labels, eps=4 / 255, transform=invert)
    assert behind.clean == plain.clean
    assert behind.robust > plain.robust
    coarse = robust_accuracy(net, images, labels, eps=4 / 255, transform=lambda pixels: pixels // 2 * 2)
    assert coarse.robust == pytest.approx(plain.robust, abs=0.03)
