"""TAP: targeted adversarial poisons (Fowl, Goldblum, Chiang, Geiping, Czaja and Goldstein, NeurIPS 2021,
arXiv 2106.10807).

The surrogate trains on clean pictures and is frozen. Then each picture becomes an adversarial example:

    delta = argmin over |delta| <= eps of E_t  CE(f(t(x + delta)), (y + 1) mod K)

A victim that trains on them learns the features of the wrong classes. Classes are counted in sorted order. Of several
starts the one that ends with the lowest loss is kept, picture by picture.
"""

from typing import Any, ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from ..key import Key
from ..training.attacks import attacking
from .base import register
from .optimised import OptimisedArguments, OptimisedPoison, Settings
from .surrogate import Surrogate


@register("tap")
class TAPPoison(OptimisedPoison):
    """Adversarial examples of the next class, found on a surrogate that was trained on clean pictures.

    Args:
        key: the private key.
        restarts: starts for each picture.
        preset, device, **arguments: see :class:`~unlearnable_transforms.poisons.optimised.OptimisedPoison`.

    Raises:
        ValueError: ``restarts`` below 1, or as ``OptimisedPoison``.
    """

    paper = (
        "TAP: targeted adversarial poisons (Fowl, Goldblum, Chiang, Geiping, Czaja and Goldstein, NeurIPS "
        "2021, arXiv 2106.10807)"
    )
    trains_on_noise = False
    presets: ClassVar = {
        "paper": Settings(steps=15_600, cuts=(0.5, 0.75), noise_steps=250, noise_step_size=0.4 / 255),
        "fast": Settings(steps=6000, warmup=0.1, cuts=(0.6, 0.9), noise_steps=60),
        "cpu": Settings(surrogate="resnet9-screen", steps=800, warmup=0.2, cuts=(0.7, 0.9), noise_steps=30),
    }

    def __init__(
        self,
        key: Key | None = None,
        *,
        restarts: int = 1,
        preset: str = "cpu",
        device: str | None = None,
        **arguments: Unpack[OptimisedArguments],
    ) -> None:
        if restarts < 1:
            raise ValueError(f"restarts is at least 1, got {restarts}")
        self.restarts = restarts
        super().__init__(key, preset=preset, device=device, **arguments)

    def settings(self) -> dict[str, Any]:
        return {"restarts": self.restarts, **super().settings()}

    def _label(self, y: Tensor, classes: int) -> Tensor:
        return (y + 1) % classes

    def _noise(
        self, surrogate: Surrogate, x: Tensor, y: Tensor, grey: Tensor, now: Settings,
        generator: torch.Generator,
    ) -> Tensor:  # fmt: skip
        delta = super()._noise(surrogate, x, y, grey, now, generator)
        if self.restarts == 1:
            return delta
        lowest = self._loss(surrogate, x + delta, y)
        for _ in range(self.restarts - 1):
            other = super()._noise(surrogate, x, y, grey, now, generator)
            loss = self._loss(surrogate, x + other, y)
            delta = torch.where((loss < lowest).view(-1, 1, 1, 1), other, delta)
            lowest = torch.minimum(loss, lowest)
        return delta

    def _loss(self, surrogate: Surrogate, pixels: Tensor, y: Tensor) -> Tensor:
        """Of each picture, (B,)."""
        with attacking(surrogate.net), torch.no_grad():
            return F.cross_entropy(surrogate.model(pixels), self._label(y, surrogate.classes), reduction="none")
