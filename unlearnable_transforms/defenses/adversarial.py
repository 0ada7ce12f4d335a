"""Adversarial training: PGD, its quick one-step form, and TRADES."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..params import param
from ..training.attacks import Norm, attacking, gaussian_noise, pgd, random_start, summed_cross_entropy
from ..training.loop import LossAndLogits
from ..training.model import PixelModel
from .base import WHITE, Defense, register_defense


class PGDTraining(Defense):
    """Training on the adversarial images of PGD with a random start, and on nothing else."""

    norm: Norm = "linf"
    eps: float | None
    steps: int = 1
    step_size: float | None

    @property
    def radius(self) -> float:
        """``eps``, or the norm's default."""
        return (1.0 if self.norm == "l2" else 8 / 255) if self.eps is None else self.eps

    @property
    def attack_step(self) -> float | None:
        """``step_size``; None is the attack's own default."""
        return self.step_size

    def perturb(self, model: PixelModel, pixels: Tensor, labels: Tensor, generator: Generator) -> Tensor:
        """float (B, 3, H, W) in [0, 1] -> the same, at most eps away."""
        start = random_start(pixels, generator, norm=self.norm, eps=self.radius)
        return pgd(
            model, pixels, summed_cross_entropy(labels), norm=self.norm, eps=self.radius, steps=self.steps,
            step_size=self.attack_step, start=start,
        )  # fmt: skip


@register_defense("at-pgd")
class ATPGD(PGDTraining):
    """Adversarial training (Madry et al., ICLR 2018, arXiv 1706.06083, section 2). Costs steps + 1 plain trainings.

    The radius is what matters: protections that claim to resist are broken from their own radius on. Report a ladder,
    such as 1, 2, 4, 8 / 255 in L-inf and 0.25, 0.5, 0.75, 1 in L2.
    """

    norm: Norm = param("of the radius", default="linf")
    eps: float | None = param("radius; none is 8/255 in L-inf and 1.0 in L2", default=None, low=0, unit=WHITE)
    steps: int = param("of the attack", default=10, low=1)
    step_size: float | None = param(
        "none is 2.5 * eps / steps. Benchmarks that keep 2/255 in L2 hardly move at all", default=None
    )


@register_defense("at-fgsm")
class ATFGSM(PGDTraining):
    """FGSM-RS, "fast" adversarial training: one step from a random start (Wong, Rice and Kolter, ICLR 2020,
    arXiv 2001.03994). Costs two plain trainings.

    Its known weakness: the network may learn to defeat the single step alone ("catastrophic overfitting").
    """

    eps: float = param("L-inf radius", default=8 / 255, low=0, unit=WHITE)
    step_size: float | None = param("none is 1.25 * eps, the paper's", default=None)

    @property
    def attack_step(self) -> float:
        return 1.25 * self.radius if self.step_size is None else self.step_size


@register_defense("trades")
class TRADES(Defense):
    """Cross-entropy on the images plus beta times the divergence between the predictions on them and on adversarial
    images, which maximise it (Zhang et al., ICML 2019, arXiv 1901.08573, section 4). Costs about steps + 2 plain
    trainings.

    Its clean half lets a shortcut in, so that it is a defense of its own and no stand-in for adversarial training.
    """

    eps: float = param("L-inf radius", default=0.031, low=0, unit=WHITE)
    steps: int = param("of the attack, which starts at a normal delta of standard deviation 0.001", default=10, low=1)
    step_size: float = param("of the attack", default=0.007)
    beta: float = param("weight of the divergence", default=6.0)

    def loss(self, model: PixelModel, pixels: Tensor, labels: Tensor, generator: Generator) -> LossAndLogits:
        """(scalar loss, logits of the clean images)."""
        adversarial = self.attack(model, pixels, generator)
        logits = model(pixels)
        divergence = kl_divergence(model(adversarial), logits.softmax(1)) / len(pixels)
        return self.cross_entropy(logits, labels) + self.beta * divergence, logits

    def attack(self, model: PixelModel, pixels: Tensor, generator: Generator) -> Tensor:
        """float (B, 3, H, W) in [0, 1] -> the same, at most eps away, where the prediction differs most."""
        with attacking(model.net), torch.no_grad():
            probabilities = model(pixels).softmax(1)
        return pgd(
            model, pixels, lambda logits: kl_divergence(logits, probabilities), norm="linf", eps=self.eps,
            steps=self.steps, step_size=self.step_size, start=gaussian_noise(pixels, generator, std=0.001),
        )  # fmt: skip


def kl_divergence(logits: Tensor, probabilities: Tensor) -> Tensor:
    """Sum over the images of KL(probabilities || softmax(logits))."""
    return F.kl_div(logits.log_softmax(1), probabilities, reduction="sum")
