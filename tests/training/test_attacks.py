"""PGD in both norms: ball, box, ascent, exact steps on a linear network; what an attack must leave alone."""

import pytest
import torch
import torch.nn.functional as F
from conftest import seeded
from torch import nn

from unlearnable_transforms.training.attacks import attacking, gaussian_noise, pgd, random_start, summed_cross_entropy
from unlearnable_transforms.training.model import PixelModel
from unlearnable_transforms.victims import build_victim

LABELS = torch.arange(12) % 10


def _pixels() -> torch.Tensor:
    """Random images that also touch black and white, where the box matters."""
    return (1.4 * torch.rand(12, 3, 8, 8, generator=seeded(1)) - 0.2).clamp(0, 1)


@pytest.fixture
def model() -> PixelModel:
    net = build_victim("smallcnn", 10, 8, 3)
    net.train()
    PixelModel(net, bf16=False)(_pixels())  # BatchNorm statistics that are not the initial ones
    return PixelModel(net, bf16=False)


class Linear(nn.Module):
    """Logits (0, w x): the loss of label 0 grows along w."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.register_buffer("pixel_mean", torch.zeros(3))
        self.register_buffer("pixel_std", torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = (x * self.weight).sum((1, 2, 3))
        return torch.stack([torch.zeros_like(score), score], 1)


def _linear() -> tuple[PixelModel, torch.Tensor]:
    weight = torch.randn(3, 8, 8, generator=seeded(2))
    return PixelModel(Linear(weight), bf16=False), weight


def _norms(delta: torch.Tensor, norm: str) -> torch.Tensor:
    return delta.flatten(1).norm(dim=1, p=torch.inf if norm == "linf" else 2)


def _losses(model: PixelModel, pixels: torch.Tensor) -> torch.Tensor:
    with attacking(model.net), torch.no_grad():
        return F.cross_entropy(model(pixels), LABELS, reduction="none")


@pytest.mark.parametrize(("norm", "eps"), [("linf", 1 / 255), ("linf", 8 / 255), ("l2", 0.25), ("l2", 2.0)])
@pytest.mark.parametrize("steps", [1, 7])
def test_stays_in_ball_and_box_and_raises_the_loss(model, norm, eps, steps):
    pixels = _pixels()
    start = random_start(pixels, seeded(), norm=norm, eps=eps)
    found = pgd(model, pixels, summed_cross_entropy(LABELS), norm=norm, eps=eps, steps=steps, start=start)
    lengths = _norms(found - pixels, norm)
    assert lengths.max() <= eps * (1 + 1e-5)
    assert lengths.min() > eps / 3  # an attack, not a no-op
    assert found.min() >= 0
    assert found.max() <= 1
    assert not found.requires_grad
    random = (pixels + start).clamp(0, 1)
    assert (_losses(model, found) > _losses(model, random)).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_more_steps_find_more_loss(model, norm):
    eps = 4 / 255 if norm == "linf" else 0.5
    one, ten = (
        pgd(model, _pixels(), summed_cross_entropy(LABELS), norm=norm, eps=eps, steps=steps) for steps in (1, 10)
    )
    assert _losses(model, ten).sum() > _losses(model, one).sum()


def test_exact_optimum_of_a_linear_network():
    model, weight = _linear()
    pixels = torch.full((2, 3, 8, 8), 0.5)
    objective = summed_cross_entropy(torch.tensor([0, 1]))
    away = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)  # label 0 is lost along w, label 1 against it
    found = pgd(model, pixels, objective, norm="linf", eps=0.03, steps=4)
    torch.testing.assert_close(found, pixels + 0.03 * away * weight.sign())
    found = pgd(model, pixels, objective, norm="l2", eps=0.7, steps=4)
    torch.testing.assert_close(found, pixels + 0.7 * away * weight / weight.norm())


@pytest.mark.parametrize("eps", [0.1, 0.2, 0.4])
def test_l2_steps_are_normalised_for_each_image_and_scale_with_the_radius(eps):
    model, weight = _linear()
    pixels = torch.full((2, 3, 8, 8), 0.5)
    pixels[1] += 0.05 * weight.sign()  # another loss, hence a far smaller gradient
    found = pgd(model, pixels, summed_cross_entropy(torch.zeros(2).long()), norm="l2", eps=eps, steps=10)
    torch.testing.assert_close(_norms(found - pixels, "l2"), torch.full((2,), eps))
    one = pgd(
        model, pixels, summed_cross_entropy(torch.zeros(2).long()), norm="l2", eps=eps, steps=1, step_size=eps / 4
    )
    torch.testing.assert_close(_norms(one - pixels, "l2"), torch.full((2,), eps / 4))


def test_a_step_beyond_the_ball_is_projected():
    model, weight = _linear()
    pixels = torch.full((1, 3, 8, 8), 0.5)
    start = -0.02 * weight.sign()[None]  # the farthest place from the optimum
    objective = summed_cross_entropy(torch.tensor([0]))
    found = pgd(model, pixels, objective, norm="linf", eps=0.02, steps=1, step_size=0.025, start=start)
    torch.testing.assert_close(found, pixels + 0.005 * weight.sign())
    found = pgd(model, pixels, objective, norm="linf", eps=0.02, steps=2, step_size=0.025, start=start)
    torch.testing.assert_close(found, pixels + 0.02 * weight.sign())


def test_radius_zero_is_the_identity(model):
    pixels = _pixels()
    for norm in ("linf", "l2"):
        assert pgd(model, pixels, summed_cross_entropy(LABELS), norm=norm, eps=0.0, steps=2).equal(pixels)


def test_leaves_the_network_as_it_was(model):
    net = model.net
    net.features[0].eval()
    net.classifier.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [layer.training for layer in net.modules()]
    frozen = [parameter.requires_grad for parameter in net.parameters()]
    seen = []
    hook = net.register_forward_hook(lambda *_: seen.append((net.features[1].training, net.classifier.training)))
    pgd(model, _pixels(), summed_cross_entropy(LABELS), norm="linf", eps=8 / 255, steps=2)
    hook.remove()
    assert seen == [(False, False)] * 2
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
    assert [layer.training for layer in net.modules()] == modes
    assert True in modes
    assert [parameter.requires_grad for parameter in net.parameters()] == frozen
    assert all(parameter.grad is None for parameter in net.parameters())


def test_network_is_restored_after_an_error(model):
    def objective(logits):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        pgd(model, _pixels(), objective, norm="linf", eps=0.1, steps=1)
    assert model.net.training
    assert all(parameter.requires_grad for parameter in model.net.parameters())


def test_random_starts():
    pixels = torch.zeros(2000, 3, 8, 8)
    linf = random_start(pixels, seeded(), norm="linf", eps=0.1)
    assert linf.abs().max() <= 0.1
    assert linf.std() == pytest.approx(0.2 / 12**0.5, rel=0.01)  # uniform
    l2 = random_start(pixels, seeded(), norm="l2", eps=0.5)
    lengths = _norms(l2, "l2")
    assert lengths.max() <= 0.5 * (1 + 1e-5)
    assert lengths.mean() == pytest.approx(0.25, rel=0.05)
    assert gaussian_noise(pixels, seeded(), std=0.3).std() == pytest.approx(0.3, rel=0.01)
    assert linf.equal(random_start(pixels, seeded(), norm="linf", eps=0.1))


@pytest.mark.parametrize("change", [{"norm": "l1"}, {"eps": -0.1}, {"steps": 0}])
def test_bad_arguments(model, change):
    arguments = {"norm": "linf", "eps": 0.1, "steps": 1} | change
    with pytest.raises(ValueError, match=r"norm|eps"):
        pgd(model, _pixels(), summed_cross_entropy(LABELS), **arguments)
