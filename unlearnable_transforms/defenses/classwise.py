"""Defenses that use what every trainer has, the labels: what all images of a class share is taken away from them.

A class-wise protection puts the same change on every image of a class. Both defenses here are ours; they look for that
change where it is additive (the mean image and the leading directions of a class) and where it is a filter (the mean
power spectrum of a class).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..params import param
from ..pixels import chunk_length
from ..training.model import to_pixels
from ..training.transforms import seeded_globally
from .base import Defense, Setting, register_defense

LEAST = 1e-12  # power below which a frequency is left as it is


@register_defense("class-spectrum")
class ClassSpectrum(Defense):
    """Every class gets the same mean power spectrum: each image's Fourier coefficients are multiplied by
    sqrt(mean power of all images / mean power of its class), per channel and frequency.

    A filter of a class multiplies the spectra of its images by one function of frequency, which this undoes but for
    its phase, as far as the clean classes have equal mean spectra.
    """

    most: float = param("bound of the factor, and of its reciprocal", default=10.0, above=1)

    def prepare(self, images: Tensor, labels: Tensor, setting: Setting) -> Tensor:
        """uint8 (N, 3, H, W) -> float32 of that shape, clipped to [0, 1]."""
        super().prepare(images, labels, setting)
        classes, (height, width) = setting.num_classes, images.shape[2:]
        power = torch.zeros(classes, images.shape[1], height, width // 2 + 1, dtype=torch.float64)
        chunk = chunk_length(images[0].numel())
        for part, marks in zip(images.split(chunk), labels.split(chunk), strict=True):
            power.index_add_(0, marks, torch.fft.rfft2(to_pixels(part)).abs().square().double())
        counts = torch.bincount(labels, minlength=classes).view(-1, 1, 1, 1)
        overall = power.sum(0) / len(images)
        factors = (overall / (power / counts.clamp_min(1)).clamp_min(LEAST)).sqrt()
        factors = factors.clamp_(1 / self.most, self.most).float()
        factors[counts.flatten() == 0] = 1
        factors[..., 0, 0] = 1  # the mean brightness stays
        return torch.cat(
            [
                torch.fft.irfft2(torch.fft.rfft2(to_pixels(part)) * factors[marks], s=(height, width)).clamp_(0, 1)
                for part, marks in zip(images.split(chunk), labels.split(chunk), strict=True)
            ]
        )


@register_defense("class-residual")
class ClassResidual(Defense):
    """The mean image of a class becomes that of all images, and every image loses its part in the leading directions
    of what is left of its class after a local mean.

    Noise that is equal for all images of a class is in the class's mean; noise that comes in few variants is in its
    leading residual directions, since neighbouring pixels of clean images hardly differ and those of noise do.
    """

    directions: int = param("of each class, taken away; 0 only moves the means", default=3, low=0)
    window: int = param(
        "side in pixels of the local mean that is taken off before",
        default=3,
        low=3,
        odd=True,
    )

    def prepare(self, images: Tensor, labels: Tensor, setting: Setting) -> Tensor:
        """uint8 (N, 3, H, W) -> float32 of that shape, clipped to [0, 1]."""
        super().prepare(images, labels, setting)
        result = torch.empty(images.shape, dtype=torch.float32)
        overall, generator = _mean(images), setting.generator("class residual")
        for label in labels.unique():
            rows = (labels == label).nonzero().flatten()
            pixels = to_pixels(images[rows])
            pixels = pixels - _mean(images[rows]) + overall
            if self.directions and len(rows) > self.directions:
                pixels = self._without_directions(pixels, generator)
            result[rows] = pixels.clamp_(0, 1)
        return result

    def _without_directions(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        padded = F.pad(pixels, (self.window // 2,) * 4, mode="replicate")
        smooth = F.avg_pool2d(padded, self.window, stride=1)
        residual = (pixels - smooth).flatten(1)
        residual = residual - residual.mean(0)
        with seeded_globally(generator):  # svd_lowrank draws from the global state
            basis = torch.svd_lowrank(residual, q=self.directions + 4)[2][:, : self.directions]
        return pixels - (residual @ basis @ basis.T).view_as(pixels)


def _mean(images: Tensor) -> Tensor:
    """float32 (C, H, W) in [0, 1], without a float copy of all images."""
    total = torch.zeros(images.shape[1:], dtype=torch.float64)
    for part in images.split(chunk_length(images[0].numel())):
        total += part.double().sum(0)
    return (total / len(images) / 255).float()
