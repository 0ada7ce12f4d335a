"""Registry, initialisation and shapes of the victim networks."""

import math
import sys

import pytest
import torch
from conftest import seeded
from torch import nn

from unlearnable_transforms.victims.registry import (
    build_surrogate,
    build_victim,
    list_victims,
    register_victim,
)


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


def test_weights_come_from_the_seed_alone():
    first, again, other = (build_victim("smallcnn", 10, 8, seed).state_dict() for seed in (1, 1, 2))
    torch.manual_seed(123)  # another global state must change nothing
    under_other_state = build_victim("smallcnn", 10, 8, 1).state_dict()
    for name, value in first.items():
        assert value.equal(again[name])
        assert value.equal(under_other_state[name])
    assert not first["classifier.weight"].equal(other["classifier.weight"])


def test_global_random_state_is_untouched():
    before = torch.get_rng_state()
    build_victim("resnet9-screen", 10, 32)
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize(
    ("name", "layer", "std"),
    [
        ("resnet18", "conv1", math.sqrt(2 / (64 * 9))),  # He et al. 2015, by the outputs, in the small stem, too
        ("resnet18", "layer1.0.conv1", math.sqrt(2 / (64 * 9))),
        ("resnet18", "layer4.1.conv2", math.sqrt(2 / (512 * 9))),
        ("densenet121", "features.conv0", math.sqrt(2 / (3 * 9))),  # by the inputs
        ("vgg16-bn", "classifier", 0.01),
        ("mobilenetv2", "classifier.1", 0.01),
        ("resnet9-screen", "features.0.0", 1 / math.sqrt(3 * 27)),  # PyTorch's own: uniform, bound 1 / sqrt(inputs)
    ],
)
def test_weights_start_as_in_the_literature(name, layer, std):
    module = build_victim(name, 10, 32, 3).get_submodule(layer)
    assert module.weight.std().item() == pytest.approx(std, rel=0.1)
    assert module.bias is None or module.bias.eq(0).all()


def test_a_surrogate_is_drawn_from_its_generator_alone():
    """The noise of published methods depends on these very numbers."""
    net, rule = build_surrogate("smallcnn", 10, 8, seeded(5)), seeded(5)
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer in layers:
        bound = 1 / math.sqrt(layer.weight[0].numel())
        for values in filter(lambda values: values is not None, (layer.weight, layer.bias)):
            assert values.equal(torch.empty_like(values).uniform_(-bound, bound, generator=rule))
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert all(layer.weight.eq(1).all() and layer.bias.eq(0).all() for layer in norms)
    assert len(layers) == 4
    assert len(norms) == 3


def test_bad_requests():
    with pytest.raises(KeyError, match=r"did you mean 'resnet18'\?.*smallcnn"):
        build_victim("resnet-18", 10, 32)
    with pytest.raises(TypeError):
        build_victim("smallcnn", 10, 32, seeded(0))  # a generator is for build_surrogate
    with pytest.raises(ValueError, match="num_classes"):
        build_victim("smallcnn", 1, 32)
    with pytest.raises(ValueError, match="image_size"):
        build_victim("smallcnn", 10, 7)
    with pytest.raises(ValueError, match="two victims are called 'smallcnn'"):
        register_victim("smallcnn")(lambda num_classes, image_size: nn.Identity())


# ---- the literature's networks

# Parameters for 10 classes at 32 px, in millions. ResNets, VGG, DenseNet, MobileNetV2, WRN: as CIFAR papers state them;
# EfficientNetV2-S and DeiT-tiny: their papers' figures without the 1,000-class layer.
PARAMETERS = {
    "resnet18": 11.17,
    "resnet50": 23.52,
    "vgg16-bn": 14.73,
    "wrn34-10": 46.16,
    "densenet121": 6.96,
    "mobilenetv2": 2.24,
    "efficientnetv2-s": 20.19,
    "deit-tiny": 5.36,
}
HALVINGS = {"resnet18": 3, "densenet121": 3, "mobilenetv2": 3, "efficientnetv2-s": 3}  # 32 px -> 4 in the last stage


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_the_literatures(name):
    if name == "deit-tiny":
        pytest.importorskip("timm")
    net = build_victim(name, 10, 32)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(PARAMETERS[name], abs=0.006)


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("size", [32, 64, pytest.param(224, marks=pytest.mark.slow)])
def test_standard_victims_give_logits_that_depend_on_the_picture(name, size):
    if name == "deit-tiny":
        pytest.importorskip("timm")
    net = build_victim(name, 7, size)  # stays in training mode: without BatchNorm an untrained network is near constant
    with torch.no_grad():
        logits = net(torch.rand(2, 3, size, size, generator=seeded(0)))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    assert logits[0].ne(logits[1]).any()


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2", "deit-tiny"])
def test_all_weights_of_standard_victims_come_from_the_seed(name):
    if name == "deit-tiny":
        pytest.importorskip("timm")
    torch.manual_seed(1)
    first = build_victim(name, 10, 32, 1)
    torch.manual_seed(2)  # another global state must change nothing
    again, other = build_victim(name, 10, 32, 1), build_victim(name, 10, 32, 2)
    for (key, a), b, c in zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert a.equal(b), key
        assert a.min() == a.max() or not a.equal(c), key  # biases and norms start at constants


def test_vision_transformers_start_as_their_paper_says():
    pytest.importorskip("timm")
    net = build_victim("deit-tiny", 10, 32)
    assert net.pos_embed.shape == (1, 65, 192)  # (32 / 4)^2 patches and the class token
    assert net.pos_embed.std().item() == pytest.approx(0.02, rel=0.05)
    assert net.cls_token.abs().max() > 0


@pytest.mark.parametrize("name", HALVINGS)
def test_small_stem_keeps_small_pictures_large(name):
    net, sizes = build_victim(name, 10, 32).eval(), []
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda layer, inputs, output: sizes.append(output.shape[-1]))
    with torch.inference_mode():
        net(torch.rand(1, 3, 32, 32))
    spatial = [size for size in sizes if size > 1]  # squeeze-and-excitation works on one value a channel
    assert spatial[0] == 32
    assert min(spatial) == 32 / 2 ** HALVINGS[name]


def test_the_large_stem_is_for_large_images():
    large = build_victim("resnet18", 10, 224).conv1
    assert (large.kernel_size, large.stride) == ((7, 7), (2, 2))
    assert build_victim("resnet18", 10, 64).conv1.stride == (1, 1)


def test_pictures_too_small_or_of_the_wrong_size():
    with pytest.raises(ValueError, match="at least 32"):
        build_victim("vgg16-bn", 10, 16)
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match="multiple"):
        build_victim("deit-tiny", 10, 30)


def test_missing_timm_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"unlearnable-transforms\[victims\]"):
        build_victim("deit-tiny", 10, 32)
    assert "deit-tiny" in list_victims()
