"""Augmentations of one image at a time: cutout and torchvision's policies, after the recipe's crop and flip."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torchvision.transforms import v2

from ..params import param
from ..training.transforms import each_image
from .base import Defense, register_defense


@register_defense("cutout")
class Cutout(Defense):
    """One black square an image, its centre uniform over all pixels, clipped at the border (DeVries and Taylor 2017,
    arXiv 1708.04552, section 3.2).
    """

    size: int | None = param(
        "side in pixels; none is half the image's: 16 at 32 pixels, the setting of the literature", default=None, low=1
    )

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(B, 3, H, W) of any dtype -> the same."""
        batch, _, height, width = images.shape
        size = min(height, width) // 2 if self.size is None else self.size

        def covered(side: int) -> Tensor:
            first = torch.randint(side, (batch, 1), generator=generator, device=generator.device) - size // 2
            place = torch.arange(side, device=generator.device)
            return ((place >= first) & (place < first + size)).to(images.device)

        square = covered(height)[:, :, None] & covered(width)[:, None, :]
        return images.masked_fill(square[:, None], 0)


class Policy(Defense):
    """A policy of torchvision with its default settings, drawn anew for every image in every epoch."""

    policy: ClassVar[Callable[[], torch.nn.Module]]

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """uint8 (B, 3, H, W) -> the same; float in [0, 1] likewise."""
        return each_image(type(self).policy(), images, generator)


@register_defense("randaugment")
class RandAugment(Policy):
    """Two operations of magnitude 9 (Cubuk et al., NeurIPS 2020, arXiv 1909.13719)."""

    policy = v2.RandAugment


@register_defense("trivialaugment")
class TrivialAugment(Policy):
    """One operation of random magnitude from the wide space (Müller and Hutter, ICCV 2021, arXiv 2103.10158)."""

    policy = v2.TrivialAugmentWide


@register_defense("autoaugment")
class AutoAugment(Policy):
    """A random one of the 25 sub-policies learned on CIFAR-10 (Cubuk et al., CVPR 2019, arXiv 1805.09501, table 7)."""

    @staticmethod
    def policy() -> torch.nn.Module:
        return v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
