"""EM: error-minimizing noise (Huang, Ma, Erfani, Bailey and Wang, ICLR 2021, arXiv 2101.04898).

    min over theta, min over delta with |delta| <= eps of  CE(f(x + delta), y)

Surrogate and noise go down the same loss, in turn: with such noise there is nothing left to learn from a picture. Batch
by batch here, as the papers that followed do it; the noise of single pictures starts anew each time, that of classes
goes on from where it was, and is the mean of what a class's pictures in the batch ask for.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..noise.pictures import Pictures
from ..params import param
from .base import register
from .optimised import Batch, OptimisedPoison, Settings
from .surrogate import Surrogate


@register("em")
class EMPoison(OptimisedPoison):
    """Noise that leaves nothing to learn: surrogate and noise both lower the training loss."""

    paper = "EM: error-minimizing noise (Huang, Ma, Erfani, Bailey and Wang, ICLR 2021, arXiv 2101.04898)"
    presets: ClassVar = {
        "paper": Settings(steps=5000, noise_steps=10, augment="none"),
        "fast": Settings(steps=1000, noise_steps=5, warmup=0.05, cuts=(0.8,), augment="none"),
        "cpu": Settings(
            surrogate="resnet9-screen", steps=300, noise_steps=5, warmup=0.05, cuts=(0.8,), augment="none"
        ),
    }  # fmt: skip

    kind: Literal["sample", "class"] = param(
        "noise of its own for each image, or one for each class: quicker, visible as a pattern, and undone by "
        "whoever averages a class's images",
        default="sample",
    )

    def _first_state(self, pictures: Pictures) -> dict[str, Tensor]:
        if self.kind == "sample":
            return {}
        shape = (len(pictures.classes), 3, *pictures.size)
        return {"delta": (2 * torch.rand(shape, generator=self._generator("start")) - 1) * self.eps}

    def _noise(self, surrogate: Surrogate, batch: Batch) -> Tensor:
        if self.kind == "sample":
            return super()._noise(surrogate, batch)
        of_class, y = batch.state["delta"], batch.y
        asked = self._descend(surrogate, of_class[y], batch)
        for label in y.unique().tolist():
            of_class[label] = asked[y == label].mean(0).clamp(-self.eps, self.eps)
        return self._noise_kept(surrogate, batch)

    def _noise_kept(self, surrogate: Surrogate, batch: Batch) -> Tensor:
        if self.kind == "sample":
            return super()._noise_kept(surrogate, batch)
        return self._project(batch.state["delta"][batch.y], batch)
