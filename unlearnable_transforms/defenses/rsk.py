"""Random sharpening kernels and frequency filtering against CUDA (Kim and Sandoval-Segura, arXiv 2411.01742)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..params import param
from ..training.loop import recipe_augment
from ..training.model import to_pixels
from .base import Defense, register_defense


@register_defense("rsk-ff")
class RSKFF(Defense):
    """A fresh sharpening kernel for every image in every epoch, then only the lowest frequencies of its cosine
    transform, then the recipe's crop and flip (sections 3 and 4). Test images stay as they are.

    The kernel is a cross of 3x3: its centre c ~ N(center, std^2); each arm is minus a draw from N((c - 1) / 4, std^2),
    so that the weights sum to 1 on average only. It is shared by the channels and applied without padding, which takes
    one pixel off each side; the result is clipped to [0, 1], filtered and clipped again.

    Settings are those of the paper and its repository. Our reading: the lost frame is filled with zeros, as padding
    does before the repository's crop, and a share of coefficients is rounded, so that small pictures keep some. The
    paper's recipe is 60 epochs of SGD 0.1 with a cosine schedule; here the recipe is the victim's own.
    """

    replaces_augment = True

    center: float = param("mean of the kernel's centre", default=2.5)
    std: float = param("deviation of the centre and of each arm; 0 gives one fixed kernel", default=0.1, low=0)
    keep: float = param(
        "part of the rows and of the columns of coefficients kept; 1 means no frequency filtering",
        default=0.3, above=0, high=1,
    )  # fmt: skip

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(B, 3, H, W), uint8 or float in [0, 1] -> float in [0, 1]."""
        pixels = sharpen(to_pixels(images), self.kernels(len(images), generator))
        pixels = keep_low_frequencies(pixels, self.keep).clamp_(0, 1)
        return recipe_augment(self.setting.recipe)(F.pad(pixels, (1, 1, 1, 1)), generator)

    def kernels(self, count: int, generator: torch.Generator) -> Tensor:
        """float (count, 3, 3) on the generator's device."""
        normal = torch.randn(count, 5, generator=generator, device=generator.device) * self.std
        center = self.center + normal[:, :1]
        arms = (center - 1) / 4 + normal[:, 1:]
        kernels = torch.zeros(count, 9, device=generator.device)
        kernels[:, 4:5] = center
        kernels[:, 1::2] = -arms  # above, left, right, below
        return kernels.view(count, 3, 3)


def sharpen(pixels: Tensor, kernels: Tensor) -> Tensor:
    """Correlate each image (B, C, H, W) with its own cross (B, 3, 3), without padding; clipped to [0, 1]."""
    batch, channels, height, width = pixels.shape
    weights = kernels.to(pixels).view(batch, 9, 1, 1, 1)
    total = torch.zeros(batch, channels, height - 2, width - 2, device=pixels.device)
    for place in (1, 3, 4, 5, 7):  # shifts: far faster on a CPU than a convolution with a group for each image
        row, column = divmod(place, 3)
        total.addcmul_(weights[:, place], pixels[:, :, row : row + height - 2, column : column + width - 2])
    return total.clamp_(0, 1)


def keep_low_frequencies(pixels: Tensor, keep: float) -> Tensor:
    """Keep the lowest round(keep * side) rows and columns, at least one, of each channel's cosine transform."""
    down, across = (_projection(side, keep).to(pixels) for side in pixels.shape[2:])
    return down @ pixels @ across


def _projection(side: int, keep: float) -> Tensor:
    """The (side, side) matrix that keeps the lowest frequencies of the orthonormal cosine transform (DCT-II)."""
    kept = max(1, round(keep * side))
    frequency, place = torch.arange(kept)[:, None], torch.arange(side) + 0.5
    basis = torch.cos(math.pi / side * frequency * place.double())
    basis /= basis.norm(dim=1, keepdim=True)
    return basis.T @ basis
