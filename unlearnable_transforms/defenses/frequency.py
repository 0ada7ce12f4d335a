"""Defenses in the frequency domain: an ideal low-pass, and random filters as augmentation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..params import param
from ..training.model import to_pixels
from .base import Defense, register_defense
from .filters import ImageFilter
from .rsk import keep_low_frequencies


@register_defense("low-pass")
class LowPass(ImageFilter):
    """Only the lowest rows and columns of each channel's cosine transform stay: ``rsk-ff`` without its sharpening."""

    keep: float = param("part of the rows and of the columns kept", default=0.5, above=0, high=1)

    def filter(self, images: Tensor) -> Tensor:
        return keep_low_frequencies(images.float(), self.keep).round_().clamp_(0, 255).byte()


@register_defense("random-filters")
class RandomFilters(Defense):
    """In every epoch each image gets a fresh random filter of CUDA's own family: a peak of 1 at a random place, every
    other entry uniform in [0, blur]; then the brightest value becomes the image's old one.

    A network that must classify under all such filters cannot use one filter as the mark of a class. The idea is that
    of random convolutions as augmentation (Xu et al., ICLR 2021, arXiv 2007.13003) with the filters of the CUDA paper
    (Sadasivan et al., CVPR 2023, arXiv 2303.04278, section 4).
    """

    kernel_size: int = param("side in pixels", default=3, low=3, odd=True)
    blur: float = param("p_b, the largest of the other entries", default=0.3, above=0, high=1)

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(B, 3, H, W), uint8 or float in [0, 1] -> float in [0, 1]."""
        pixels = to_pixels(images)
        batch, channels, size = len(pixels), pixels.shape[1], self.kernel_size
        kernels = self.blur * torch.rand(batch, size * size, generator=generator, device=generator.device)
        peaks = torch.randint(size * size, (batch, 1), generator=generator, device=generator.device)
        kernels = kernels.scatter_(1, peaks, 1.0).view(batch, 1, size, size).to(pixels)
        filtered = F.conv2d(
            pixels.flatten(0, 1)[None],
            kernels.repeat_interleave(channels, 0),
            padding=size // 2,
            groups=batch * channels,
        ).view_as(pixels)
        old, new = pixels.amax((1, 2, 3), keepdim=True), filtered.amax((1, 2, 3), keepdim=True)
        return filtered * (old / new.clamp_min(1e-6))
