"""SEM: stable error-minimizing noise (Liu, Xu, Chen and Sun, AAAI 2024, arXiv 2311.13091).

    surrogate:  min over theta of E_t max over |a| <= r_a of  CE(f(t(x + delta) + a), y)
    noise:      delta = argmin over |delta| <= eps of E_t E over r ~ U(-r_a, r_a) of  CE(f(t(x + delta) + r), y)

The surrogate trains adversarially, as in REM; but the noise is tested against random perturbations and not against
attacks, which costs 1 pass instead of A + 1. What makes the noise withstand adversarial training is the surrogate.
"""

from typing import ClassVar

from torch import Tensor

from ..training.attacks import random_start
from .base import register
from .optimised import Batch, OptimisedPoison, Settings, adversarial
from .surrogate import Model


@register("sem")
class SEMPoison(OptimisedPoison):
    """Noise that withstands adversarial training up to a radius, learnt against random perturbations."""

    paper = "SEM: stable error-minimizing noise (Liu, Xu, Chen and Sun, AAAI 2024, arXiv 2311.13091)"
    presets: ClassVar = {
        "paper": Settings(steps=5000, noise_steps=10, samples=5, radius=4 / 255, attack_steps=10),
        "paper-large": Settings(
            steps=3000, noise_steps=7, noise_step_size=2 / 255, samples=4, radius=4 / 255, attack_steps=7,
            augment="resized-crop",
        ),
        "fast": Settings(
            steps=2000, warmup=0.05, cuts=(0.8,), noise_steps=5, radius=4 / 255, ramp=0.6, attack_steps=3,
            final_noise_steps=10,
        ),
        "cpu": Settings(
            surrogate="resnet9-screen", steps=500, warmup=0.05, cuts=(0.8,), noise_steps=5, radius=4 / 255, ramp=0.6,
            attack_steps=3, final_noise_steps=10,
        ),
    }  # fmt: skip

    def _noise_view(self, model: Model, z: Tensor, batch: Batch) -> Tensor:
        return (z + random_start(z, batch.generator, norm="linf", eps=batch.settings.radius)).clamp(0, 1)

    def _surrogate_view(self, model: Model, z: Tensor, batch: Batch) -> Tensor:
        return adversarial(model, z, batch)
