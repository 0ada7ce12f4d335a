"""UEraser: strong augmentation, the worst of several draws (Qin et al., ICCV-W 2023, arXiv 2303.15127)."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..params import param
from ..training.jpeg import compress
from ..training.loop import LossAndLogits
from ..training.model import PixelModel
from .base import Defense, register_defense
from .plasma import draw, plasma_brightness, plasma_contrast, shuffle_channels, trivial_augment


@register_defense("ueraser")
class UEraser(Defense):
    """Training on that of K augmentations of each image that the network finds hardest (section 3).

    An augmentation, after crop and flip: a fractal brightness map, a fractal contrast map and a permutation of the
    channels, each with its probability, then one operation of TrivialAugment, without identity and colour.

    The hardest draw is found by forward passes that train nothing, with the statistics of the batch, so that K = 5
    costs about 2.7 plain trainings instead of 5. The paper trains 200 epochs at a learning rate of 0.01; here the
    recipe is the victim's own.

    Our reading: each image has an operation of its own, where the authors' library draws one for a batch; shears have
    the slopes of TrivialAugment, up to 0.3, where that library takes 0.3 for 54 degrees; at least one bit is kept.
    """

    variant: Literal["lite", "standard", "max"] = param(
        "lite: K = 1; standard: K = 5 in the first quarter of the epochs and then 1; max: K = 5", default="standard"
    )
    jpeg: int | None = param(
        "quality of a JPEG compression after all that, or none. The authors use 10 against some attacks and none "
        "against others, which tells the defender the attack: choose one for a whole table",
        default=None, low=1, high=100,
    )  # fmt: skip
    repeats: int = param("K of standard and max", default=5, low=1)
    warmup: float = param(
        "part of the epochs that standard spends with K draws; the paper's is 50 epochs of 200",
        default=0.25, low=0, high=1,
    )  # fmt: skip
    probability: float = param(
        "of brightness, contrast and permutation, each for each image", default=0.5, low=0, high=1
    )

    def on_epoch(self, epoch: int) -> None:
        warm = epoch <= math.ceil(self.warmup * self.setting.recipe.epochs)
        several = self.variant == "max" or (self.variant == "standard" and warm)
        self._draws = self.repeats if several else 1

    def loss(self, model: PixelModel, pixels: Tensor, labels: Tensor, generator: Generator) -> LossAndLogits:
        """(cross-entropy on the hardest of the draws of each image, its logits)."""
        draws = [self.transform(pixels, generator) for _ in range(self._draws)]
        hardest = draws[0]
        if len(draws) > 1:
            with torch.no_grad(), batch_statistics(model.net):
                losses = torch.stack([F.cross_entropy(model(draw), labels, reduction="none") for draw in draws])
            hardest = torch.stack(draws)[losses.argmax(0), torch.arange(len(pixels), device=pixels.device)]
        logits = model(hardest)
        return self.cross_entropy(logits, labels), logits

    @torch.no_grad()
    def transform(self, pixels: Tensor, generator: Generator) -> Tensor:
        """One draw: float (B, 3, H, W) in [0, 1] -> the same."""
        for change in (plasma_brightness, plasma_contrast, shuffle_channels):
            chosen = draw(generator, pixels, 1, 1, 1) < self.probability
            pixels = torch.where(chosen, change(pixels, generator), pixels)
        pixels = trivial_augment(pixels, generator)
        if self.jpeg is None:
            return pixels
        return compress(pixels.mul(255).round_().byte(), self.jpeg).float().div_(255)


@contextmanager
def batch_statistics(net: nn.Module) -> Iterator[None]:
    """Training-mode passes that normalise by the batch and leave BatchNorm's running statistics as they are."""
    layers = [
        layer
        for layer in net.modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training and layer.track_running_stats
    ]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
