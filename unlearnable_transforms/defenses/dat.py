"""Deconvolution-based adversarial training, CUDA's own adaptive defense (Sadasivan et al., CVPR 2023, 2303.04278)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..params import param
from ..training.attacks import attacking
from ..training.model import PixelModel
from .base import Defense, register_defense


@register_defense("dat")
class DAT(Defense):
    """Adversarial training whose attack is one filter a class and batch, instead of noise (supplement).

    For every class in a batch, a filter and a bias, shared by the channels, ascend the class's mean cross-entropy;
    then each image passes its class's filter and is stretched to [0, 1]. Costs steps + 1 plain trainings. The paper
    trains 100 epochs of batches of 500; here the recipe is the victim's own.

    Our reading: filters are clamped after every step, not before it, so that the last ones lie in the box as well; the
    attack sees the network in evaluation mode.
    """

    kernel_size: int = param("side in pixels; the paper tries 3, 5 and 7", default=7, low=1, odd=True)
    steps: int = param("of gradient ascent", default=10, low=0)
    step_size: float = param("of gradient ascent, on the gradient itself", default=0.1)
    bound: float = param("weights and bias stay in [-bound, bound]", default=5.0, above=0)
    init: Literal["default", "identity"] = param(
        "default starts at PyTorch's random filter of a new ConvTranspose2d, as the authors do, which scrambles the "
        "image before the first step; identity starts at the unchanged image, the fairer attack",
        default="default",
    )

    def perturb(self, model: PixelModel, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """float (B, 3, H, W) -> float in [0, 1], each image from 0 to 1."""
        _, group = labels.unique(return_inverse=True)  # the place of each image's class among those in the batch
        filtered = filter_groups(pixels, *self.filters(model, pixels, labels, group, generator), group)
        return stretch(filtered)

    def filters(
        self, model: PixelModel, pixels: Tensor, labels: Tensor, group: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Weights (G, k, k) and biases (G,) after the ascent, for the G groups of ``group`` (B,)."""
        counts = torch.bincount(group)
        weight, bias = (start.to(pixels.device) for start in self._start(len(counts), generator))
        with attacking(model.net), torch.enable_grad():
            for _ in range(self.steps):
                weight.requires_grad_()
                bias.requires_grad_()
                losses = F.cross_entropy(model(filter_groups(pixels, weight, bias, group)), labels, reduction="none")
                gradients = torch.autograd.grad((losses / counts[group]).sum(), (weight, bias))
                weight, bias = (
                    (value.detach() + self.step_size * gradient).clamp(-self.bound, self.bound)
                    for value, gradient in zip((weight, bias), gradients, strict=True)
                )
        return weight.detach(), bias.detach()

    def _start(self, groups: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        size, device = self.kernel_size, generator.device
        if self.init == "identity":
            weight = torch.zeros(groups, size, size, device=device)
            weight[:, size // 2, size // 2] = 1
            return weight, torch.zeros(groups, device=device)
        numbers = torch.rand(groups, size * size + 1, generator=generator, device=device)
        numbers = (2 * numbers - 1) / size  # uniform in +-1 / sqrt(fan in)
        return numbers[:, 1:].reshape(groups, size, size), numbers[:, 0].clone()


def filter_groups(pixels: Tensor, weight: Tensor, bias: Tensor, group: Tensor) -> Tensor:
    """Each image (B, C, H, W) through the transposed convolution of its group: weight (G, k, k), bias (G,), the size
    kept by zeros outside."""
    batch, channels, height, width = pixels.shape
    kernels = weight[group].repeat_interleave(channels, 0)[:, None]
    flat = pixels.reshape(1, batch * channels, height, width)
    filtered = F.conv_transpose2d(flat, kernels, padding=weight.shape[-1] // 2, groups=batch * channels)
    return filtered.view_as(pixels) + bias[group].view(-1, 1, 1, 1)


def stretch(images: Tensor) -> Tensor:
    """Each image (B, C, H, W) linearly to [0, 1], all channels together; a constant one becomes 0."""
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp_min(1e-12)
