"""Image Shortcut Squeezing: JPEG, grayscale, fewer bits (Liu, Zhao and Larson, ICML 2023, arXiv 2301.13838)."""

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as v2

from ..params import param
from ..training.jpeg import compress
from .base import register_defense
from .filters import ImageFilter


@register_defense("jpeg")
class JPEG(ImageFilter):
    """Every training image compressed once by libjpeg, with 4:2:0 chroma subsampling, before augmentation (section 4).

    Breaks most bounded additive noise at a price: clean accuracy of ResNet-18 on CIFAR-10 falls from 94.7 % to 85.4 %.
    """

    quality: int = param(
        "of libjpeg; the paper's is 10. Report a sweep, such as 10, 30, 50, 70, 90", default=10, low=1, high=100
    )

    def filter(self, images: Tensor) -> Tensor:
        return compress(images, self.quality)


@register_defense("grayscale")
class Grayscale(ImageFilter):
    """Luma of ITU-R 601 in all three channels, equal to Pillow's mode L (section 4).

    The paper tests on colour images; the CUDA paper's 20.12 % is on gray ones (``at_test=True``).
    """

    def filter(self, images: Tensor) -> Tensor:
        # Weights in units of 2^-16, rounded: torchvision's sum to 0.9999 and truncate, so that white becomes 254.
        red, green, blue = images.int().unbind(1)
        luma = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
        return luma.to(torch.uint8)[:, None].repeat(1, 3, 1, 1)


@register_defense("bdr")
class BDR(ImageFilter):
    """Bit-depth reduction: only the highest bits of each value are kept (section 4)."""

    bits: int = param("kept; the paper's is 2", default=2, low=1, high=7)

    def filter(self, images: Tensor) -> Tensor:
        return v2.posterize(images, self.bits)
