"""Low-pass filters of whole data sets, as the REM repository offers them before augmentation (training images only)."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as v2

from ..pixels import chunk_length
from .base import Defense, Setting, register_defense


class ImageFilter(Defense, ABC):
    """A fixed change of every picture, made once before training. Subclasses implement :meth:`filter`.

    Args:
        at_test: change the test images too. The literature filters the training images alone, with few exceptions;
            compare only columns that agree in this.
    """

    def __init__(self, *, at_test: bool = False) -> None:
        self.at_test = at_test

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

    Args:
        sigma: standard deviation in pixels, at least 0.3 (a side weight of 0.004: less changes hardly a pixel).
        kernel_size: side in pixels, odd.
    """

    def __init__(self, sigma: float = 0.8, kernel_size: int = 3, *, at_test: bool = False) -> None:
        if sigma < 0.3:
            raise ValueError(f"sigma must be at least 0.3 pixels to blur at all, got {sigma}")
        super().__init__(at_test=at_test)
        self.sigma, self.kernel_size = sigma, _odd(kernel_size)

    def filter(self, images: Tensor) -> Tensor:
        return v2.gaussian_blur(images, [self.kernel_size] * 2, [self.sigma] * 2)  # rounds


@register_defense("median")
class Median(ImageFilter):
    """Median of a square around each pixel, a channel at a time; the border is repeated, as in OpenCV.

    Args:
        kernel_size: side of the square in pixels, odd.
    """

    def __init__(self, kernel_size: int = 3, *, at_test: bool = False) -> None:
        super().__init__(at_test=at_test)
        self.kernel_size = _odd(kernel_size)

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

    Args:
        d: diameter in pixels, odd, below twice the side of the images.
        sigma_color: in units of 0-255.
        sigma_space: in pixels.
    """

    def __init__(self, d: int = 9, sigma_color: float = 75, sigma_space: float = 75, *, at_test: bool = False) -> None:
        if sigma_color <= 0 or sigma_space <= 0:
            raise ValueError(f"both sigmas must be positive, got {sigma_color} and {sigma_space}")
        super().__init__(at_test=at_test)
        self.d, self.sigma_color, self.sigma_space = _odd(d), sigma_color, sigma_space

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


def _odd(size: int) -> int:
    if size < 3 or size % 2 == 0:
        raise ValueError(f"a kernel's side must be odd and at least 3 pixels, got {size}")
    return size
