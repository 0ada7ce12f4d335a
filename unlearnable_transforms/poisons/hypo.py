"""HYPO: hypocritical perturbations (Tao, Feng, Yi, Huang and Chen, NeurIPS 2021, arXiv 2102.04716).

The surrogate trains on clean images and is frozen. Then each image is made easier for it than it was:

    delta = argmin over |delta| <= eps of  CE(f(x + delta), y)

by sign steps from the clean image. The opposite of adversarial examples: an image keeps its class, and features of that
class are added which a trained network goes by. EM lowers the same loss, with a surrogate that learns from the noise.
"""

from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import register
from .optimised import Batch, OptimisedPoison, Settings
from .surrogate import Model, Surrogate

LOWEST = -1e9  # a logit that counts nothing beside others, also where there is one class alone


@register("hypo")
class HYPOPoison(OptimisedPoison):
    """Noise that makes an image easier for a surrogate that was trained on clean images."""

    paper = "HYPO: hypocritical perturbations (Tao, Feng, Yi, Huang and Chen, NeurIPS 2021, arXiv 2102.04716)"
    trains_on_noise = False
    presets: ClassVar = {
        "paper": Settings(steps=15_600, cuts=(0.5, 0.75), noise_steps=100, noise_step_size=0.8 / 255),
        "fast": Settings(steps=6000, warmup=0.1, cuts=(0.6, 0.9), noise_steps=40),
        "cpu": Settings(surrogate="resnet9-screen", steps=800, warmup=0.2, cuts=(0.7, 0.9), noise_steps=20),
    }  # fmt: skip

    def _loss(self, model: Model, pixels: Tensor, batch: Batch) -> Tensor:
        """log of the sum of exp(logit) over the other classes, minus the true class's logit.

        Cross entropy is log(1 + exp(this)): both grow together, so that sign steps down either are equal. But the
        gradient of cross entropy becomes exactly 0 where the surrogate is certain, and an image would get no noise.
        """
        logits, own = model(pixels), F.one_hot(batch.y, batch.classes).bool()
        return logits.masked_fill(own, LOWEST).logsumexp(1) - logits[own]

    def _start(self, batch: Batch) -> Tensor:
        return torch.zeros_like(batch.x)

    def _noise(self, surrogate: Surrogate, batch: Batch) -> Tensor:
        """As every method, but the transform is the surrogate's alone: noise lies where the image is."""
        return super()._noise(surrogate, replace(batch, settings=batch.settings.replace(augment="none")))
