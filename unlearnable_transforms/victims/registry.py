"""Names of victim networks, and how they start."""

import hashlib
import inspect
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ..errors import UsageError
from ..registry import Registry

Builder = Callable[..., nn.Module]
"""build(num_classes, image_size) -> a network: float (B, 3, H, W) -> logits (B, num_classes). Further arguments can be
named behind a colon: ``efficientnet_lite0:weights=imagenet``."""
REGISTRY: Registry[Builder] = Registry("victim", "unlearnable_transforms.victims", "docs/evaluate.md")
IMAGENET = "imagenet"
LIBRARIES: dict[str, Callable[..., nn.Module]] = {}
"""Builders of any network of a library: the victim timm/NAME is built by ``LIBRARIES["timm"]``, with NAME first."""


register_victim = REGISTRY.register
"""Decorator: makes a :data:`Builder` known by a name. It may draw from PyTorch's global state, which is seeded."""


def list_victims(pattern: str = "*") -> list[str]:
    """Sorted names of the registered victims that match the shell-style ``pattern``."""
    return REGISTRY.names(pattern)


def find_victim(spec: str) -> tuple[Builder, dict[str, str]]:
    """What builds a victim, and the arguments that its name carries.

    Args:
        spec: ``resnet18``, ``efficientnet_lite0:weights=imagenet``, ``timm/convnext_tiny:weights=imagenet``,
            ``torchvision/resnet50:weights=resnet50.safetensors``.

    Raises:
        KeyError: no such victim.
        UsageError: an argument that the victim does not have.
    """
    name, _, text = spec.partition(":")
    library, _, inner = name.partition("/")
    list_victims()  # imports the files that register
    build: Builder = partial(LIBRARIES[library], inner) if library in LIBRARIES else REGISTRY.find(name)
    known = list(inspect.signature(build).parameters)[2:]
    arguments = {}
    for part in filter(None, text.split(",")):
        argument, _, value = part.partition("=")
        if argument not in known or not value:
            takes = f"takes {', '.join(known)}" if known else "takes no arguments"
            raise UsageError(f"the victim {name} {takes}, got {part!r}")
        arguments[argument] = value
    return build, arguments


def takes_weights(name: str) -> bool:
    """Whether a registered victim can start from ImageNet weights that a package of the index carries."""
    list_victims()  # imports the files that register
    return "weights" in inspect.signature(REGISTRY.find(name)).parameters


def has_weights(spec: str) -> bool:
    """Whether a victim starts from weights that were trained before."""
    return "weights" in find_victim(spec)[1]


def public_name(spec: str) -> str:
    """A victim's name with the digest of a file of weights in place of its path: other content is another victim, and
    the path is nobody's business.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = find_victim(spec)[1].get("weights", IMAGENET)
    if path == IMAGENET:
        return spec
    return spec.replace(path, f"sha256-{hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]}")


def build_victim(name: str, num_classes: int, image_size: int, seed: int = 0) -> nn.Module:
    """A victim on the CPU, with the weights that its own constructor draws under a seed.

    The start is therefore the one of the victim's literature: torchvision's or timm's initialisation. The global random
    state is left as it was.

    It has two buffers of shape (3,), ``pixel_mean`` and ``pixel_std``. Training fills them with the statistics of its
    images, so that a saved network carries them; a network with weights keeps those that its weights expect.

    Raises:
        KeyError: no such victim.
        ValueError: fewer than 2 classes, or images smaller than 8 pixels.
    """
    build, arguments = find_victim(name)
    if num_classes < 2:
        raise UsageError(f"num_classes must be at least 2, got {num_classes}")
    if image_size < 8:
        raise UsageError(f"image_size must be at least 8 pixels, got {image_size}")
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(int(seed))
        net = build(num_classes, image_size, **arguments)
    if "weights" not in arguments:
        net.register_buffer("pixel_mean", torch.zeros(3))
        net.register_buffer("pixel_std", torch.ones(3))
    return net


def build_surrogate(name: str, num_classes: int, image_size: int, generator: torch.Generator) -> nn.Module:
    """A network as :func:`build_victim` makes it, but with weights drawn uniformly from a generator.

    The noise of the optimised methods' version 1 was made by surrogates that start like this: weights and biases of
    convolutions and linear layers are uniform in +-1/sqrt(fan_in). Another start is another noise, and a new version.
    A network that starts from trained weights keeps them; its last layer is still to be fitted. The generator is on
    the CPU.
    """
    net = build_victim(name, num_classes, image_size)
    if has_weights(name):
        return net
    for layer in net.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            for values in (layer.weight, layer.bias):
                if values is not None:
                    nn.init.uniform_(values, -bound, bound, generator=generator)
    return net
