"""BulletTrain: adversarial training whose attack goes where it changes something."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..params import param
from ..training.attacks import attacking, gaussian_noise, pgd, random_start, summed_cross_entropy
from ..training.loop import LossAndLogits
from ..training.model import PixelModel
from .adversarial import kl_divergence
from .base import WHITE, Defense, Setting, register_defense

REACH = 1.7  # an attack of few steps goes this far in all, in units of eps
MEMORY = 0.9  # share of the old value in the moving fractions


class Mining:
    """Which pictures of a batch are outliers, which lie at the boundary, and which are robust.

    The measure is the signed variance of the prediction on the clean picture: the variance over the classes of its
    softmax, negative where the answer is wrong. The lowest share are outliers, confidently wrong; the highest are
    robust. Both shares are moving averages of what training shows.

    Attributes:
        outlier, robust: the shares, in [0, 1]. Everything is boundary until something else has been seen.
    """

    def __init__(self) -> None:
        self.outlier = self.robust = 0.0

    def groups(self, probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of the outliers, the boundary and the robust ones, from predictions (B, classes) on clean images."""
        variance = probabilities.var(1, correction=0)
        order = torch.where(probabilities.argmax(1) == labels, variance, -variance).argsort(stable=True)
        outliers = round(self.outlier * len(order))
        robust = min(round(self.robust * len(order)), len(order) - outliers)
        return order[:outliers], order[outliers : len(order) - robust], order[len(order) - robust :]

    def observe(self, right_before: Tensor, right_after: Tensor) -> None:
        """bool (B,) each: whether the answers were right on the clean images, and on the changed ones."""
        self.outlier = MEMORY * self.outlier + (1 - MEMORY) * float((~right_before).float().mean())
        self.robust = MEMORY * self.robust + (1 - MEMORY) * float((right_before & right_after).float().mean())


@register_defense("at-bullet")
class BulletTrain(Defense):
    """Experimental. Adversarial training that splits each batch into outliers, boundary and robust pictures, and spends
    the attack's steps on the boundary (after Hua et al., NeurIPS 2021, arXiv 2109.14707, written from its text; the
    authors published no code, and nobody results on unlearnable data).

    Who is in which group says :class:`Mining`: wrong before the attack is an outlier, right after it is robust. Around
    AugMix it is ``augmix`` with ``bullet=True``.

    On protected data most pictures are confidently right by the shortcut, count as robust and are hardly attacked,
    which spares the shortcut: docs/companions.md has the figures.
    """

    around: Literal["pgd", "trades", "mart"] = param(
        "the training it saves work in: of Madry et al.; of Zhang et al., 2019; of Wang et al., ICLR 2020, equation 9",
        default="pgd",
    )
    eps: float = param("L-inf radius", default=8 / 255, low=0, unit=WHITE)
    steps: int = param("of the attack on boundary pictures; step size 2.5 * eps / steps", default=10, low=1)
    outlier_steps: int = param(
        "of outliers, step size 1.7 * eps / steps; 0 leaves them at the random start", default=0, low=0
    )
    robust_steps: int = param("of robust pictures, likewise", default=1, low=0)
    beta: float | None = param("weight of the divergence in trades and mart; none is 6 and 5", default=None)

    def prepare(self, images: Tensor, labels: Tensor, setting: Setting) -> Tensor:
        self.mining = Mining()
        return super().prepare(images, labels, setting)

    def loss(self, model: PixelModel, pixels: Tensor, labels: Tensor, generator: Generator) -> LossAndLogits:
        """(scalar loss, logits: of the adversarial images around "pgd", of the clean ones else)."""
        with attacking(model.net), torch.no_grad():
            before = model(pixels).softmax(1)
        adversarial = self.attack(model, pixels, labels, before, generator)
        after = model(adversarial)
        self.mining.observe(before.argmax(1) == labels, after.detach().argmax(1) == labels)
        if self.around == "pgd":
            return self.cross_entropy(after, labels), after
        clean = model(pixels)
        if self.around == "trades":
            divergence = kl_divergence(after, clean.softmax(1)) / len(pixels)
            plain = self.cross_entropy(clean, labels)
            return plain + (6.0 if self.beta is None else self.beta) * divergence, clean
        return self._mart(clean, after, labels), clean

    def attack(self, model: PixelModel, pixels: Tensor, labels: Tensor, before: Tensor, generator: Generator) -> Tensor:
        """float (B, 3, H, W) in [0, 1] -> the same, at most eps away; each group with its own number of steps."""
        start = (
            gaussian_noise(pixels, generator, std=0.001)
            if self.around == "trades"
            else random_start(pixels, generator, norm="linf", eps=self.eps)
        )
        result = (pixels + start).clamp(0, 1)
        budgets = self.outlier_steps, self.steps, self.robust_steps
        for rows, steps in zip(self.mining.groups(before, labels), budgets, strict=True):
            if not (len(rows) and steps):
                continue
            result[rows] = pgd(
                model, pixels[rows], self._objective(before[rows], labels[rows]), norm="linf", eps=self.eps,
                steps=steps, step_size=None if steps == self.steps else REACH * self.eps / steps, start=start[rows],
            )  # fmt: skip
        return result

    def _objective(self, before: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
        if self.around == "trades":
            return lambda logits: kl_divergence(logits, before)
        return summed_cross_entropy(labels)

    def _mart(self, clean: Tensor, after: Tensor, labels: Tensor) -> Tensor:
        """Boosted cross-entropy, and the divergence weighted by how unsure the clean prediction is."""
        probabilities, certain = after.softmax(1), clean.softmax(1).gather(1, labels[:, None]).squeeze(1)
        own = F.one_hot(labels, after.shape[1]).bool()
        others = probabilities.masked_fill(own, 0).amax(1)
        boosted = F.cross_entropy(after, labels) - (1 - others).clamp_min(1e-6).log().mean()
        apart = F.kl_div(after.log_softmax(1), clean.softmax(1), reduction="none").sum(1)
        return boosted + (5.0 if self.beta is None else self.beta) * (apart * (1 - certain)).mean()
