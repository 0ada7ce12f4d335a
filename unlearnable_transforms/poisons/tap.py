"""TAP: targeted adversarial poisons (Fowl, Goldblum, Chiang, Geiping, Czaja and Goldstein, NeurIPS 2021,
arXiv 2106.10807).

The surrogate trains on clean pictures and is frozen. Then each picture becomes an adversarial example:

    delta = argmin over |delta| <= eps of E_t  CE(f(t(x + delta)), (y + 1) mod K)

A victim that trains on them learns the features of the wrong classes. Classes are counted in sorted order. Of several
starts the one that ends with the lowest loss is kept, picture by picture.

The preset "photographs" is not the paper's. Its surrogates start from ImageNet weights and stay frozen, but for a last
layer that is fitted to the clean images; t is what happens to a published photograph. With ``loss="features"`` the
noise lowers the distance to the mean features of the other class instead:

    delta = argmin over |delta| <= eps of E_t  mean over d of ((g(t(x + delta)) - c_(y + 1))_d)^2

with standardised features g and their means c_j over the clean images of each class.

Other classes than y + 1 are an option of ours: ``targets="random"``, the next one in a circle that the key draws, or
``targets="farthest"``, the one whose c_j is farthest.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..errors import UsageError
from ..noise.pictures import Pictures
from ..params import param
from ..training.attacks import attacking
from .base import register
from .heads import farthest_classes, feature_distance
from .optimised import Batch, OptimisedPoison, Settings
from .surrogate import Model, Surrogate


@register("tap")
class TAPPoison(OptimisedPoison):
    """Adversarial examples of the next class, found on a surrogate that was trained on clean pictures."""

    paper = (
        "TAP: targeted adversarial poisons (Fowl, Goldblum, Chiang, Geiping, Czaja and Goldstein, NeurIPS "
        "2021, arXiv 2106.10807)"
    )
    trains_on_noise = False
    presets: ClassVar = {
        "paper": Settings(steps=15_600, cuts=(0.5, 0.75), noise_steps=250, noise_step_size=0.4 / 255),
        "fast": Settings(steps=6000, warmup=0.1, cuts=(0.6, 0.9), noise_steps=60),
        "cpu": Settings(surrogate="resnet9-screen", steps=800, warmup=0.2, cuts=(0.7, 0.9), noise_steps=30),
        "photographs": Settings(
            surrogates=("efficientnet_lite0", "efficientnet_lite1"), weights="imagenet", steps=0, batch_size=32,
            noise_steps=12, noise_step_size=1.6 / 255, noise_momentum=1.0, augment="published",
        ),
    }  # fmt: skip

    restarts: int = param("starts for each image, of which the best is kept", default=1, low=1)
    loss: Literal["logits", "features"] = param(
        "what the noise lowers: the cross entropy of the next class, or the distance to the mean of its features, for "
        "surrogates with weights",
        default="logits", omit=True,
    )  # fmt: skip
    targets: Literal["next", "random", "farthest"] = param(
        "which other class the noise of a class leads to: the next in sorted order; the next in a circle that the key "
        "draws; or, for surrogates with weights, the one whose mean is farthest in standardised features",
        default="next", omit=True,
    )  # fmt: skip

    def _prepare(self) -> None:
        super()._prepare()
        for name, value in (("loss", "features"), ("targets", "farthest")):
            if getattr(self, name) == value and not self._uses_weights:
                raise UsageError(
                    f'{name}="{value}" is for surrogates with weights: give preset="photographs" or weights="imagenet"'
                )

    def _first_state(self, pictures: Pictures) -> dict[str, Tensor]:
        return {} if self.targets == "next" else {"targets": torch.zeros(len(pictures.classes), dtype=torch.int64)}

    def _finished(self, surrogate: Surrogate, pictures: Pictures) -> None:
        if self.targets == "random":
            circle = torch.from_numpy(self._stream("targets").permutation(len(pictures.classes)))
            surrogate.state["targets"][circle] = circle.roll(-1).to(surrogate.device)
        elif self.targets == "farthest":
            surrogate.state["targets"].copy_(farthest_classes(surrogate.models))

    def _target(self, y: Tensor, classes: int, state: dict[str, Tensor]) -> Tensor:
        if self.targets == "next":
            return (y + 1) % classes
        return state["targets"][y]

    def _loss(self, model: Model, pixels: Tensor, batch: Batch) -> Tensor:
        if self.loss == "logits":
            return super()._loss(model, pixels, batch)
        return feature_distance(model, pixels, self._target(batch.y, batch.classes, batch.state))

    def _noise(self, surrogate: Surrogate, batch: Batch) -> Tensor:
        noise = super()._noise
        deltas = torch.stack([noise(surrogate, batch) for _ in range(self.restarts)])
        if self.restarts == 1:
            return deltas[0]
        best = torch.stack([self._reached(surrogate, delta, batch) for delta in deltas]).argmin(0)
        return deltas[best, torch.arange(len(best))]

    def _reached(self, surrogate: Surrogate, delta: Tensor, batch: Batch) -> Tensor:
        """The loss that noise has come down to, (B,)."""
        total = torch.zeros(len(delta), device=delta.device)
        for model in self._models(surrogate, batch):
            with attacking(model.net), torch.no_grad():
                total += self._loss(model, batch.x + delta, batch)
        return total
