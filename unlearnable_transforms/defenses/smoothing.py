"""Randomized smoothing: noise in training, a majority vote at test time (Cohen et al., ICML 2019, arXiv 1902.02918)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..params import param
from ..training.attacks import gaussian_noise
from ..training.model import PixelModel, predict, to_pixels
from .base import WHITE, Defense, Setting, register_defense


@register_defense("smoothing")
class Smoothing(Defense):
    """Every training image gets fresh normal noise; the prediction is the class that most noisy copies of the test
    image are given (section 3.2, without abstaining). Noise is not clipped. The prediction costs ``copies`` passes.
    """

    sigma: float = param(
        "standard deviation; 0.25 and 0.5 in the literature on unlearnable data", default=0.25, above=0, unit=WHITE
    )
    copies: int = param("votes an image; the paper selects the class by 100", default=100, low=1)

    def perturb(self, model: PixelModel, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """float (B, 3, H, W) in [0, 1] -> float, also beyond."""
        return pixels + gaussian_noise(pixels, generator, std=self.sigma)

    def predict(self, net: nn.Module, images: Tensor, setting: Setting) -> Tensor:
        """Votes, float (N, num_classes), ``copies`` a row."""
        generator = setting.generator("smoothing")
        votes = torch.zeros(len(images), setting.num_classes, device=net.get_buffer("pixel_mean").device)
        for part, counts in zip(images.split(500), votes.split(500), strict=True):
            for _ in range(self.copies):
                noisy = to_pixels(part) + gaussian_noise(part, generator, std=self.sigma)
                counts += F.one_hot(predict(net, noisy, bf16=setting.recipe.bf16).argmax(1), setting.num_classes)
        return votes
