"""Randomized smoothing: noise in training, a majority vote at test time (Cohen et al., ICML 2019, arXiv 1902.02918)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..training.attacks import gaussian_noise
from ..training.model import PixelModel, predict, to_pixels
from .base import Defense, Setting, register_defense


@register_defense("smoothing")
class Smoothing(Defense):
    """Every training image gets fresh normal noise; the prediction is the class that most noisy copies of the test
    image are given (section 3.2, without abstaining). Noise is not clipped. The prediction costs ``copies`` passes.

    Args:
        sigma: standard deviation in units of 1 = white; 0.25 and 0.5 in the literature on unlearnable data.
        copies: votes an image; the paper selects the class by 100.
    """

    def __init__(self, sigma: float = 0.25, copies: int = 100) -> None:
        if sigma <= 0 or copies < 1:
            raise ValueError(f"smoothing needs sigma > 0 and copies >= 1, got {sigma} and {copies}")
        self.sigma, self.copies = sigma, copies

    def perturb(self, model: PixelModel, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """float (B, 3, H, W) in [0, 1] -> float, also beyond."""
        return pixels + gaussian_noise(pixels, generator, std=self.sigma)

    def predict(self, net: nn.Module, images: Tensor, setting: Setting) -> Tensor:
        """Votes, float (N, num_classes), ``copies`` a row."""
        generator = setting.generator("smoothing")
        return torch.cat([self._votes(net, to_pixels(part), generator, setting) for part in images.split(500)])

    def _votes(self, net: nn.Module, pixels: Tensor, generator: torch.Generator, setting: Setting) -> Tensor:
        votes = torch.zeros(len(pixels), setting.num_classes, device=net.get_buffer("pixel_mean").device)
        for _ in range(self.copies):
            noisy = pixels + gaussian_noise(pixels, generator, std=self.sigma)
            votes += F.one_hot(predict(net, noisy, bf16=setting.recipe.bf16).argmax(1), setting.num_classes)
        return votes
