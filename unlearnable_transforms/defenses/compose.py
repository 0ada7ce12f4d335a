"""Several defenses one after the other, as one: ``"jpeg:quality=10 + rsk-ff"``."""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..training.loop import Augment, Loss, Perturb, Recipe
from ..training.model import PixelModel
from .base import Defense, Setting


class Composed(Defense):
    """Defenses in order. Each hook runs through all of them: the images that the first one prepared go to the second.

    One of them at most may have a loss, a prediction or a training of its own.

    Args:
        parts: two or more, each an instance of its own.

    Raises:
        UsageError: fewer than two parts, or two that cannot go together.
    """

    def __init__(self, parts: Sequence[Defense]) -> None:
        self.parts = list(parts)
        if len(self.parts) < 2:
            raise UsageError("a composed defense has at least two parts, such as 'jpeg + grayscale'")
        for hook in ("loss", "predict", "train"):
            having = [part.name for part in self.parts if _has(part, hook)]
            if len(having) > 1:
                raise UsageError(f"{' and '.join(having)} cannot go together: each has a {hook} of its own")
        trainer = next((part for part in self.parts if _has(part, "train")), None)
        if trainer is not None:
            for hook in {"augment", "perturb", "loss", "on_epoch"} - trainer.train_calls:
                if ignored := [part.name for part in self.parts if part is not trainer and _has(part, hook)]:
                    raise UsageError(f"{trainer.name} cannot go with {ignored[0]}: it trains without a hook {hook}")
        self.needs_clean = any(part.needs_clean for part in self.parts)
        self.starts_trained = any(part.starts_trained for part in self.parts)
        self.replaces_augment = any(part.replaces_augment for part in self.parts)
        if any(part.augment is not None for part in self.parts):
            self.augment: Augment | None = self._augment
        if any(part.perturb is not None for part in self.parts):
            self.perturb: Perturb | None = self._perturb
        self.loss: Loss | None = next((part.loss for part in self.parts if part.loss is not None), None)

    @property
    def name(self) -> str:  # type: ignore[override]  # of the instance, not of the class
        return " + ".join(part.name for part in self.parts)

    @property
    def version(self) -> list[int]:  # type: ignore[override]
        return [part.version for part in self.parts]

    def arguments(self) -> dict[str, Any]:
        return {"parts": [part.arguments() for part in self.parts]}

    def clean_for(self, victim: str) -> bool:
        return any(part.clean_for(victim) for part in self.parts)

    def recipe(self, recipe: Recipe) -> Recipe:
        for part in self.parts:
            recipe = part.recipe(recipe)
        return recipe

    def rows(self, images: Tensor, labels: Tensor, setting: Setting) -> tuple[Tensor, Tensor]:
        for part in self.parts:
            images, labels = part.rows(images, labels, setting)
        return images, labels

    def prepare(self, images: Tensor, labels: Tensor, setting: Setting) -> Tensor:
        for part in self.parts:
            if images.is_floating_point() and _has(part, "prepare"):  # it expects what a file would hold
                images = (images * 255).round_().clamp_(0, 255).byte()
            images = part.prepare(images, labels, setting)
        return images

    def network(self, net: nn.Module, setting: Setting) -> nn.Module:
        for part in self.parts:
            net = part.network(net, setting)
        return net

    def _augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        for part in self.parts:
            if part.augment is not None:
                images = part.augment(images, generator)
        return images

    def _perturb(self, model: PixelModel, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        for part in self.parts:
            if part.perturb is not None:
                pixels = part.perturb(model, pixels, labels, generator)
        return pixels

    def train(self, net: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> None:
        trainer = next((part for part in self.parts if _has(part, "train")), self.parts[0])
        trainer.train(net, images, labels, **options)

    def on_epoch(self, epoch: int) -> None:
        for part in self.parts:
            part.on_epoch(epoch)

    def finish(self, net: nn.Module, setting: Setting) -> None:
        for part in self.parts:
            part.finish(net, setting)

    def test(self, images: Tensor, setting: Setting) -> Tensor:
        for part in self.parts:
            images = part.test(images, setting)
        return images

    def predict(self, net: nn.Module, images: Tensor, setting: Setting) -> Tensor | None:
        answers = (part.predict(net, images, setting) for part in self.parts)
        return next((answer for answer in answers if answer is not None), None)


HOOKS = ("recipe", "rows", "prepare", "network", "augment", "perturb", "loss", "train", "on_epoch", "finish", "test",
         "predict")  # fmt: skip


def order_of_hooks(defense: Defense) -> tuple[tuple[str, ...], ...]:
    """For each hook, the parts that bring one of their own, in order.

    Two composed defenses where this is equal are one training: ``rsk-ff + augmix`` prepares the images and then
    augments batches, in whichever order the two are named.
    """
    parts = defense.parts if isinstance(defense, Composed) else [defense]
    return tuple(
        tuple(json.dumps([part.name, part.version, part.arguments()]) for part in parts if _has(part, hook))
        for hook in HOOKS
    )


def _has(part: Defense, hook: str) -> bool:
    """Whether a defense brings a hook of its own."""
    return getattr(part, hook) is not None and getattr(type(part), hook, None) is not getattr(Defense, hook)
