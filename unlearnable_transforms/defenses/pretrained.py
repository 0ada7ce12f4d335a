"""Training that starts from a network pre-trained on other, unprotected pictures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..params import param
from ..training.loop import Recipe, train
from ..training.transforms import seeded_globally
from .base import Defense, Setting, register_defense


@register_defense("fine-tune")
class FineTune(Defense):
    """All layers trained on, at a lower learning rate, from a network pre-trained on the attacker's clean pictures by
    the plain recipe. The CUDA paper (Sadasivan et al., CVPR 2023, arXiv 2303.04278) does so with ImageNet weights.

    The pre-trained network may classify well before it sees a protected picture: compare with the accuracy it has
    then, and with the same defense on clean data.
    """

    starts_trained = True

    weights: str | Path | None = param(
        "a .safetensors file or a PyTorch state dictionary, by the victim's own names, instead of pre-training; then "
        "no clean pictures are needed. A last layer for other classes is left out",
        default=None,
    )
    lr_scale: float = param(
        "the recipe's largest learning rate is multiplied by this: 0.1 makes 0.01 of the usual 0.1",
        default=0.1, above=0,
    )  # fmt: skip

    def _prepare(self) -> None:
        self.weights = None if self.weights is None else str(self.weights)
        self.needs_clean = self.weights is None

    def recipe(self, recipe: Recipe) -> Recipe:
        return replace(recipe, max_lr=recipe.max_lr * self.lr_scale)

    def network(self, net: nn.Module, setting: Setting) -> nn.Module:
        if self.weights is not None:
            load_weights(net, self.weights)
            return net
        if setting.clean is None:
            raise ValueError(f"{self.name} pre-trains on clean pictures: give some, or a file of weights")
        images, labels = setting.clean
        train(net, images, labels, recipe=setting.recipe, seed=setting.seed, device=setting.device)
        return net


@register_defense("last-layer")
class LastLayer(FineTune):
    """A new last layer alone is trained, on the frozen features of a pre-trained network, as in the CUDA paper
    (Sadasivan et al., CVPR 2023, arXiv 2303.04278). BatchNorm statistics are frozen, too.
    """

    lr_scale: float = param("of the recipe's largest learning rate", default=1.0, above=0)

    def network(self, net: nn.Module, setting: Setting) -> nn.Module:
        net = super().network(net, setting).requires_grad_(False)
        last = last_linear(net)
        with seeded_globally(setting.generator("last layer")):
            last.reset_parameters()
        last.requires_grad_()
        return net


def last_linear(net: nn.Module) -> nn.Linear:
    """The linear layer that makes the logits: the last one in the order of definition.

    Raises:
        ValueError: the network has none.
    """
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise ValueError(f"{type(net).__name__} has no linear layer")
    return layers[-1]


def load_weights(net: nn.Module, path: str | Path) -> None:
    """Put the weights of a file into ``net``; its last layer stays as it is where the file's has another shape.

    Raises:
        ValueError: other tensors are missing or have another shape.
    """
    state = _read(Path(path))
    own = net.state_dict()
    last = last_linear(net)
    names = {f"{name}.{each}" for name, layer in net.named_modules() if layer is last for each in ("weight", "bias")}
    optional = names | {"pixel_mean", "pixel_std"}  # training stores its own statistics
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor) and name in own}
    loaded = {name: value for name, value in tensors.items() if value.shape == own[name].shape}
    missing = sorted(own.keys() - loaded.keys() - optional)
    if missing:
        raise ValueError(
            f"{path} does not fit this network: {len(missing)} tensors are missing or have another shape, "
            f"the first is {missing[0]!r}"
        )
    net.load_state_dict(loaded, strict=False)


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)
