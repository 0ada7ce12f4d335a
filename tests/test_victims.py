"""Registry, initialisation and shapes of the victim networks."""

import math

import pytest
import torch
from torch import nn

from unlearnable_transforms.victims.nets import ResNet9
from unlearnable_transforms.victims.registry import build_victim, initialise, list_victims, register_victim


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_list_is_sorted_and_filtered():
    names = list_victims()
    assert names == sorted(names)
    assert {"resnet9-screen", "smallcnn"} <= set(names)
    assert list_victims("resnet9-s*") == ["resnet9-screen"]
    assert list_victims("no-such-*") == []


@pytest.mark.parametrize("name", ["resnet9-screen", "smallcnn"])
@pytest.mark.parametrize("size", [8, 9, 32, 45])
def test_any_image_size(name, size):
    net = build_victim(name, 7, size).eval()
    logits = net(torch.rand(2, 3, size, size + 3))
    assert logits.shape == (2, 7)
    assert logits[0].ne(logits[1]).any()


def test_widths_are_the_documented_ones():
    net = build_victim("resnet9-screen", 10, 32)
    convolutions = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [16, 32, 32, 32, 64, 128, 128, 128]
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert ResNet9(10, widths=(4, 5, 6, 7)).classifier.in_features == 7


def test_weights_come_from_the_generator_alone():
    first, again, other = (build_victim("smallcnn", 10, 8, _seeded(seed)).state_dict() for seed in (1, 1, 2))
    torch.manual_seed(123)  # another global state must change nothing
    under_other_state = build_victim("smallcnn", 10, 8, _seeded(1)).state_dict()
    for name, value in first.items():
        assert value.equal(again[name])
        assert value.equal(under_other_state[name])
    assert not first["classifier.weight"].equal(other["classifier.weight"])


def test_global_random_state_is_untouched():
    before = torch.get_rng_state()
    build_victim("resnet9-screen", 10, 32)
    assert torch.get_rng_state().equal(before)


def test_initial_distributions_are_those_of_pytorch():
    net = nn.Sequential(nn.Conv2d(8, 400, 3), nn.BatchNorm2d(400), nn.Flatten(), nn.Linear(400, 300))
    net[1].weight.data.fill_(5.0)
    net[1].running_mean.fill_(5.0)
    initialise(net, _seeded(0))
    for layer, fan_in in ((net[0], 72), (net[3], 400)):
        bound = 1 / math.sqrt(fan_in)
        for values in (layer.weight, layer.bias):
            assert values.abs().max() <= bound
        assert layer.weight.abs().max() > 0.99 * bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)  # uniform
    assert net[1].weight.eq(1).all()
    assert net[1].bias.eq(0).all()
    assert net[1].running_mean.eq(0).all()


def test_layers_without_a_rule_are_refused_unless_they_bring_one():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    with pytest.raises(TypeError, match="Scale"):
        initialise(nn.Sequential(Scale()), _seeded(0))

    class OwnRule(Scale):
        def initialise(self, generator):
            nn.init.normal_(self.scale, generator=generator)

    assert not initialise(OwnRule(), _seeded(0)).scale.eq(1).any()


def test_bad_requests():
    with pytest.raises(KeyError, match="smallcnn"):
        build_victim("no-such", 10, 32)
    with pytest.raises(ValueError, match="num_classes"):
        build_victim("smallcnn", 1, 32)
    with pytest.raises(ValueError, match="image_size"):
        build_victim("smallcnn", 10, 7)
    with pytest.raises(ValueError, match="pool"):
        ResNet9(10, pool="median")
    with pytest.raises(ValueError, match="already"):
        register_victim("smallcnn")(lambda num_classes, image_size: nn.Identity())
