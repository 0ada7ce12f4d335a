"""Augmentations that mix pairs of images and their labels: mixup and cutmix."""

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Generator, Tensor

from ..params import param
from ..training.loop import LossAndLogits
from ..training.model import PixelModel
from .base import Defense, register_defense


class Mixing(Defense, ABC):
    """Each image of a batch is mixed with a random other one, and the loss with the same weight."""

    alpha: float = param(
        "the share of an image's own part is drawn from Beta(alpha, alpha), once a batch", default=1.0, above=0
    )
    probability: float = param("of mixing a batch at all", default=1.0, low=0, high=1)

    @abstractmethod
    def mix(self, pixels: Tensor, others: Tensor, share: float, generator: Generator) -> tuple[Tensor, float]:
        """Pixels of both, and the share that the first really have."""

    def loss(self, model: PixelModel, pixels: Tensor, labels: Tensor, generator: Generator) -> LossAndLogits:
        """(share * CE(own label) + (1 - share) * CE(other's label), logits of the mixed images)."""
        order = torch.arange(len(pixels))
        share = 1.0
        if torch.rand((), generator=generator, device=generator.device) < self.probability:
            order = torch.randperm(len(pixels), generator=generator, device=generator.device)
            seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
            share = float(np.random.default_rng(seed).beta(self.alpha, self.alpha))
        order = order.to(pixels.device)
        mixed, share = self.mix(pixels, pixels[order], share, generator)
        logits = model(mixed)
        own = self.cross_entropy(logits, labels)
        other = self.cross_entropy(logits, labels[order])
        return share * own + (1 - share) * other, logits


@register_defense("mixup")
class MixUp(Mixing):
    """Weighted means of two images (Zhang et al., ICLR 2018, arXiv 1710.09412, section 2)."""

    def mix(self, pixels: Tensor, others: Tensor, share: float, generator: Generator) -> tuple[Tensor, float]:
        return others.lerp(pixels, share), share


@register_defense("cutmix")
class CutMix(Mixing):
    """A box of one image pasted into another (Yun et al., ICCV 2019, arXiv 1905.04899, section 3.1).

    The box has sides sqrt(1 - share) of the image's and a uniform centre, and is clipped at the border; the share is
    then taken from its area. The default probability is that of the authors' runs on CIFAR.
    """

    probability: float = param("of mixing a batch at all", default=0.5, low=0, high=1)

    def mix(self, pixels: Tensor, others: Tensor, share: float, generator: Generator) -> tuple[Tensor, float]:
        height, width = pixels.shape[2:]

        def interval(side: int) -> slice:
            half = int(side * math.sqrt(1 - share)) // 2
            centre = int(torch.randint(side, (), generator=generator, device=generator.device))
            return slice(max(0, centre - half), min(side, centre + half))

        rows, columns = interval(height), interval(width)
        mixed = pixels.clone()
        mixed[:, :, rows, columns] = others[:, :, rows, columns]
        return mixed, 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
