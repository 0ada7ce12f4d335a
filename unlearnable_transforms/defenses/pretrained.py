"""Training that starts from a network that has learnt before: on ImageNet, on the attacker's clean images, or without
labels on the protected images themselves."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..params import param
from ..training.loop import History, Recipe, train
from ..training.probe import fit_last_layer
from ..training.simclr import pretrain
from ..training.transforms import each_image
from ..victims.pretrained import last_linear, load_weights
from ..victims.registry import has_weights
from .base import Defense, Setting, register_defense
from .colour import contrastive_transform


class Started(Defense):
    """Training that starts from a trained network.

    A victim with weights (``efficientnet_lite0:weights=imagenet``) starts from them. Any other is pre-trained on the
    attacker's clean images by the plain recipe; it may then classify well before it sees a protected image: compare
    with the accuracy it has then, and with the same defense on clean data.
    """

    starts_trained = True

    weights: str | Path | None = param(
        "a .safetensors file or a PyTorch state dictionary, by the victim's own names, instead of pre-training; then "
        "no clean images are needed. A last layer for other classes is left out",
        default=None,
    )

    def _prepare(self) -> None:
        self.weights = None if self.weights is None else str(self.weights)
        self.needs_clean = self.weights is None

    def clean_for(self, victim: str) -> bool:
        return self.needs_clean and not has_weights(victim)

    def network(self, net: nn.Module, setting: Setting) -> nn.Module:
        if self.weights is not None:
            load_weights(net, self.weights)
        elif not has_weights(setting.victim):
            if setting.clean is None:
                raise UsageError(f"{self.name} pre-trains on clean images: give some, or a victim with weights")
            images, labels = setting.clean
            train(net, images, labels, recipe=setting.recipe, seed=setting.seed, device=setting.device)
        return net


@register_defense("fine-tune")
class FineTune(Started):
    """All layers trained on, at a lower learning rate, from a trained network. The CUDA paper (Sadasivan et al., CVPR
    2023, arXiv 2303.04278) does so with ImageNet weights.

    For a victim with weights plain training is fine-tuning already, at the learning rate that its recipe has for it.
    """

    lr_scale: float = param(
        "the recipe's largest learning rate is multiplied by this: 0.1 makes 0.01 of the usual 0.1",
        default=0.1, above=0,
    )  # fmt: skip

    def recipe(self, recipe: Recipe) -> Recipe:
        return replace(recipe, max_lr=recipe.max_lr * self.lr_scale)


@register_defense("last-layer")
class LastLayer(Started):
    """A linear probe: a new last layer is fitted to the features of a frozen trained network, as in the CUDA paper
    (Sadasivan et al., CVPR 2023, arXiv 2303.04278). The fit is a logistic regression on features that are computed
    once, so that it takes seconds. BatchNorm statistics are frozen, too.
    """

    version = 2
    train_calls = frozenset({"augment"})

    decay: float = param("weight of the layer's squared norm beside the mean cross-entropy", default=0.1, low=0)
    passes: int = param("over the images, where another defense augments them", default=4, low=1)

    def train(
        self, net: nn.Module, images: Tensor, labels: Tensor, *, setting: Setting, recipe: Recipe, history: History,
        test: tuple[Tensor, Tensor], augment: Any = None, **options: Any,
    ) -> None:  # fmt: skip
        """Fit the layer; a recipe, a perturbation and a loss have no place here."""
        fitted = fit_last_layer(
            net, last_linear(net), images, labels, test=test, decay=self.decay, augment=augment, passes=self.passes,
            seed=setting.seed, device=setting.device,
        )  # fmt: skip
        vars(history).update(vars(fitted))


@register_defense("simclr")
class SimCLR(Defense):
    """The network learns without labels from the protected images (SimCLR, Chen et al., ICML 2020, arXiv 2002.05709);
    then a linear probe is fitted to its features and the labels.

    The literature trains 1,000 epochs with batches of 512; the default here is sized for two cores.
    """

    costly = True
    train_calls = frozenset({"on_epoch"})

    epochs: int = param("without labels", default=60, low=1)
    strength: float = param("of the augmentation; 1 is SimCLR's for ImageNet", default=1.0, above=0, high=1)
    decay: float = param("of the probe, as for last-layer", default=0.1, low=0)

    def train(
        self, net: nn.Module, images: Tensor, labels: Tensor, *, setting: Setting, recipe: Recipe, history: History,
        test: tuple[Tensor, Tensor], **options: Any,
    ) -> None:  # fmt: skip
        """Self-supervised training, then the probe."""
        last, transform = last_linear(net), contrastive_transform(images.shape[-1], self.strength)

        def views(some: Tensor, generator: torch.Generator) -> Tensor:
            return each_image(transform, some, generator)

        pretrain(
            net, last, images, views=views, epochs=self.epochs, history=history, seed=setting.seed,
            device=setting.device, on_epoch=options.get("on_epoch"),
        )  # fmt: skip
        fitted = fit_last_layer(net, last, images, labels, test=test, decay=self.decay, device=setting.device)
        history.test_accuracy, history.train_accuracy = fitted.test_accuracy, fitted.train_accuracy
