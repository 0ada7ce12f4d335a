"""Names of victim networks, and their initialisation from an explicit generator."""

import math
from collections.abc import Callable
from fnmatch import fnmatchcase

import torch
from torch import nn

Builder = Callable[[int, int], nn.Module]
_BUILDERS: dict[str, Builder] = {}
_TOKENS = {
    "cls_token",
    "dist_token",
    "reg_token",
    "pos_embed",
}  # what a vision transformer itself owns, in timm's names
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)  # start at 1 and 0, nothing random


def register_victim(name: str) -> Callable[[Builder], Builder]:
    """Decorator: make `build(num_classes, image_size) -> nn.Module` available as `name`.

    The network takes float (B, 3, H, W) and returns logits (B, num_classes).
    Raises ValueError if the name is taken.
    """

    def register(builder: Builder) -> Builder:
        if name in _BUILDERS:
            raise ValueError(f"a victim named {name!r} is already registered")
        _BUILDERS[name] = builder
        return builder

    return register


def list_victims(pattern: str = "*") -> list[str]:
    """Sorted names of the registered victims that match the shell-style `pattern`."""
    return sorted(name for name in _BUILDERS if fnmatchcase(name, pattern))


def build_victim(name: str, num_classes: int, image_size: int, generator: torch.Generator | None = None) -> nn.Module:
    """Build the victim `name`, on the CPU, with weights drawn from `generator` (None: seed 0).

    The global random state is left as it was. The network carries two buffers of shape (3,), `pixel_mean` and
    `pixel_std`, that training fills with the statistics of its data, so that a saved network knows them.
    Raises KeyError for an unknown name, ValueError for fewer than 2 classes or images smaller than 8 pixels.
    """
    if name not in _BUILDERS:
        raise KeyError(f"unknown victim {name!r}; known: {', '.join(sorted(_BUILDERS))}")
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    if image_size < 8:
        raise ValueError(f"image_size must be at least 8 pixels, got {image_size}")
    with torch.random.fork_rng(devices=[]):  # PyTorch's constructors draw from the global state; undo that
        net = _BUILDERS[name](num_classes, image_size)
    net.register_buffer("pixel_mean", torch.zeros(3))
    net.register_buffer("pixel_std", torch.ones(3))
    return initialise(net, torch.Generator().manual_seed(0) if generator is None else generator)


def initialise(net: nn.Module, generator: torch.Generator) -> nn.Module:
    """Draw all weights of `net` in place from the CPU `generator`, and return `net`.

    Same distributions as PyTorch's own constructors: convolutions and linear layers have weights and biases
    uniform in +-1/sqrt(fan_in); normalisation layers get weight 1, bias 0 and fresh running statistics; tokens and
    positions of a vision transformer are normal with standard deviation 0.02, cut at 2. A layer of another kind that
    owns parameters must have a method `initialise(generator)`; else TypeError.
    """
    for layer in net.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            if layer.bias is not None:
                nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
        elif isinstance(layer, _NORMS):
            layer.reset_parameters()
        elif callable(own_rule := getattr(layer, "initialise", None)):
            own_rule(generator)
        elif owned := dict(layer.named_parameters(recurse=False)):
            if set(owned) <= _TOKENS:
                for _, values in sorted(owned.items()):
                    nn.init.trunc_normal_(values, std=0.02, generator=generator)
                continue
            raise TypeError(f"no rule to initialise {type(layer).__name__}; give it initialise(generator)")
    return net
