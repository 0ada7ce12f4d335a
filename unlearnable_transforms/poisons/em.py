"""EM: error-minimizing noise (Huang, Ma, Erfani, Bailey and Wang, ICLR 2021, arXiv 2101.04898).

    min over theta, min over delta with |delta| <= eps of  CE(f(x + delta), y)

Surrogate and noise go down the same loss, in turn: with such noise there is nothing left to learn from a picture. Batch
by batch here, as the papers that followed do it; the noise of single pictures starts anew each time, that of classes
goes on from where it was, and is the mean of what a class's pictures in the batch ask for.
"""

from typing import Any, ClassVar, Literal, Unpack, get_args

import torch
from torch import Tensor

from ..key import Key
from ..noise.pictures import Pictures
from .base import register
from .optimised import OptimisedArguments, OptimisedPoison, Settings
from .surrogate import Surrogate

Kind = Literal["sample", "class"]


@register("em")
class EMPoison(OptimisedPoison):
    """Noise that leaves nothing to learn: surrogate and noise both lower the training loss.

    Args:
        key: the private key.
        kind: ``sample``, noise of its own for each picture, or ``class``, one for each class: quicker, visible as a
            pattern, and undone by whoever averages a class's pictures.
        preset, device, **arguments: see :class:`~unlearnable_transforms.poisons.optimised.OptimisedPoison`.

    Raises:
        ValueError: an unknown kind, or as ``OptimisedPoison``.
    """

    paper = "EM: error-minimizing noise (Huang, Ma, Erfani, Bailey and Wang, ICLR 2021, arXiv 2101.04898)"
    presets: ClassVar = {
        "paper": Settings(steps=5000, noise_steps=10, augment="none"),
        "fast": Settings(steps=1000, noise_steps=5, warmup=0.05, cuts=(0.8,), augment="none"),
        "cpu": Settings(
            surrogate="resnet9-screen", steps=300, noise_steps=5, warmup=0.05, cuts=(0.8,), augment="none"
        ),
    }  # fmt: skip

    def __init__(
        self,
        key: Key | None = None,
        *,
        kind: Kind = "sample",
        preset: str = "cpu",
        device: str | None = None,
        **arguments: Unpack[OptimisedArguments],
    ) -> None:
        if kind not in get_args(Kind):
            raise ValueError(f"kind is one of {', '.join(get_args(Kind))}, got {kind!r}")
        self.kind = kind
        super().__init__(key, preset=preset, device=device, **arguments)

    def settings(self) -> dict[str, Any]:
        return {"kind": self.kind, **super().settings()}

    def _first_state(self, pictures: Pictures) -> dict[str, Tensor]:
        if self.kind == "sample":
            return {}
        shape = (len(pictures.classes), 3, *pictures.size)
        return {"delta": (2 * torch.rand(shape, generator=self._generator("start")) - 1) * self.eps}

    def _noise(
        self, surrogate: Surrogate, x: Tensor, y: Tensor, grey: Tensor, now: Settings,
        generator: torch.Generator,
    ) -> Tensor:  # fmt: skip
        if self.kind == "sample":
            return super()._noise(surrogate, x, y, grey, now, generator)
        of_class = surrogate.state["delta"]
        wanted = self._descend(surrogate, x, y, grey, of_class[y], now, generator)
        for label in y.unique().tolist():
            of_class[label] = wanted[y == label].mean(0).clamp(-self.eps, self.eps)
        return self._noise_kept(surrogate, x, y, grey, now, generator)

    def _noise_kept(
        self, surrogate: Surrogate, x: Tensor, y: Tensor, grey: Tensor, now: Settings, generator: torch.Generator
    ) -> Tensor:
        if self.kind == "sample":
            return super()._noise_kept(surrogate, x, y, grey, now, generator)
        return self._fitting(surrogate.state["delta"][y], x, grey)
