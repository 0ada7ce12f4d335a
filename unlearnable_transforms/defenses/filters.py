"""Low-pass filters of whole data sets, as the REM repository offers them before augmentation (training images only)."""

from abc import ABC, abstractmethod
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as v2

from ..params import Param, param
from ..pixels import chunk_length
from .base import Defense, Setting, register_defense


class ImageFilter(Defense, ABC):
    """A fixed change of every picture, made once before training. Subclasses implement :meth:`filter`."""

    at_test: bool = param(
        "change the test images too. The literature filters the training images alone, with few exceptions; compare "
        "only columns that agree in this",
        default=False,
    )

    @classmethod
    def _adapted(cls, each: Param) -> Param:
        return replace(each, kw_only=each.name == "at_test")

    @abstractmethod
    def filter(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> uint8 of that shape; an image's result does not depend on the others."""

    def prepare(self, images: Tensor, labels: Tensor, setting: Setting) -> Tensor:
        return self._filter_all(images)

    def test(self, images: Tensor, setting: Setting) -> Tensor:
        return self._filter_all(images) if self.at_test else images

    def _filter_all(self, images: Tensor) -> Tensor:
        parts = images.split(chunk_length(images[0].numel()))  # bounds the memory of float intermediates
        return torch.cat([self.filter(part) for part in parts])


@register_defense("gaussian")
class Gaussian(ImageFilter):
    """Gaussian blur, mirrored at the border.

    Public benchmarks run this column with sigma 0.1, whose side weights are 2e-22: nothing is blurred. The default is
    what OpenCV derives for a kernel of 3: side weights 0.239.
    """

    sigma: float = param(
        "standard deviation in pixels, from a side weight of 0.004 on: less changes hardly a pixel",
        default=0.8, low=0.3,
    )  # fmt: skip
    kernel_size: int = param("side in pixels", default=3, low=3, odd=True)

    def filter(self, images: Tensor) -> Tensor:
        return v2.gaussian_blur(images, [self.kernel_size] * 2, [self.sigma] * 2)  # rounds


@register_defense("median")
class Median(ImageFilter):
    """Median of a square around each pixel, a channel at a time; the border is repeated, as in OpenCV."""

    kernel_size: int = param("side of the square in pixels", default=3, low=3, odd=True)

    def filter(self, images: Tensor) -> Tensor:
        size, (height, width) = self.kernel_size, images.shape[2:]
        padded = F.pad(images.float(), (size // 2,) * 4, mode="replicate").byte()
        squares = [padded[..., i : i + height, j : j + width] for i in range(size) for j in range(size)]
        return torch.stack(squares, -1).median(-1).values


@register_defense("bilateral")
class Bilateral(ImageFilter):
    """Bilateral filter (Tomasi and Manduchi, ICCV 1998), with OpenCV's conventions: a disc of diameter ``d``, the
    colour distance summed over the channels, mirrored borders.

    Each pixel becomes the mean of its disc, weighted by exp(-distance^2 / 2 sigma_space^2) and by
    exp(-colour distance^2 / 2 sigma_color^2): it smooths areas and keeps edges.
    """

    d: int = param("diameter in pixels, below twice the side of the images", default=9, low=3, odd=True)
    sigma_color: float = param("in units of 0-255", default=75, above=0)
    sigma_space: float = param("in pixels", default=75, above=0)

    def filter(self, images: Tensor) -> Tensor:
        radius, (height, width) = self.d // 2, images.shape[2:]
        pixels = images.float()
        padded = F.pad(pixels, (radius,) * 4, mode="reflect")
        colors = torch.arange(3 * 255 + 1, device=images.device)
        color_weights = torch.exp(-colors.square() / (2 * self.sigma_color**2))
        total, weights = torch.zeros_like(pixels), torch.zeros_like(pixels[:, :1])
        for i in range(-radius, radius + 1):
            for j in range(-radius, radius + 1):
                if i * i + j * j > radius * radius:
                    continue
                top, left = radius + i, radius + j
                neighbour = padded[..., top : top + height, left : left + width]
                distance = (neighbour - pixels).abs_().sum(1, keepdim=True).int()
                weight = color_weights[distance] * torch.tensor(-(i * i + j * j) / (2 * self.sigma_space**2)).exp()
                total.addcmul_(weight, neighbour)
                weights += weight
        return total.div_(weights).round_().byte()
