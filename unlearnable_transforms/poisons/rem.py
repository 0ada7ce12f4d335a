"""REM: robust error-minimizing noise (Fu, He, Liu, Shen and Tao, ICLR 2022, arXiv 2203.14533).

    min over theta, min over delta with |delta| <= eps of E_t max over |a| <= r_a of  CE(f(t(x + delta) + a), y)

Both the surrogate's steps and the noise's meet an attack, so that each of the K * S gradients of the noise costs A + 1
passes: that is what SEM saves.
"""

from typing import ClassVar

from torch import Tensor

from .base import register
from .optimised import Batch, OptimisedPoison, Settings, adversarial
from .surrogate import Model


@register("rem")
class REMPoison(OptimisedPoison):
    """Noise that withstands adversarial training up to a radius, learnt against attacks."""

    paper = "REM: robust error-minimizing noise (Fu, He, Liu, Shen and Tao, ICLR 2022, arXiv 2203.14533)"
    presets: ClassVar = {
        "paper": Settings(steps=5000, noise_steps=10, samples=5, radius=4 / 255, attack_steps=10),
        "paper-large": Settings(
            steps=3000, noise_steps=7, noise_step_size=2 / 255, samples=4, radius=4 / 255, attack_steps=7,
            augment="resized-crop",
        ),
        "fast": Settings(
            steps=2000, warmup=0.05, cuts=(0.8,), noise_steps=5, radius=4 / 255, ramp=0.6, attack_steps=3
        ),
        "cpu": Settings(
            surrogate="resnet9-screen", steps=400, warmup=0.05, cuts=(0.8,), noise_steps=4, radius=4 / 255, ramp=0.6,
            attack_steps=2, final_noise_steps=6,
        ),
    }  # fmt: skip

    def _noise_view(self, model: Model, z: Tensor, batch: Batch) -> Tensor:
        return adversarial(model, z, batch)

    def _surrogate_view(self, model: Model, z: Tensor, batch: Batch) -> Tensor:
        return adversarial(model, z, batch)
