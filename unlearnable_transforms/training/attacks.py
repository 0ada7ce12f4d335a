"""Attacks on the pixels of a network: one PGD for every norm, radius, number of steps and objective.

FGSM-RS is its form with one step; a surrogate of a robust protection and an adversarial training share it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from .model import PixelModel

Norm = Literal["linf", "l2"]


@contextmanager
def attacking(net: nn.Module) -> Iterator[None]:
    """Evaluation mode and frozen parameters, all as before afterwards: an attack leaves BatchNorm and weights alone."""
    training = [layer for layer in net.modules() if layer.training]
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    net.eval()
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for layer in training:
            layer.training = True
        for parameter in trained:
            parameter.requires_grad_()


def pgd(
    model: PixelModel,
    pixels: Tensor,
    objective: Callable[[Tensor], Tensor],
    *,
    norm: Norm,
    eps: float,
    steps: int,
    step_size: float | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """Projected gradient ascent (Madry et al., ICLR 2018, arXiv 1706.06083).

    Args:
        model: attacked in evaluation mode, its parameters frozen.
        pixels: float (B, C, H, W) in [0, 1].
        objective: logits (B, classes) -> scalar to maximise, a sum over the images.
        norm: "linf", steps along the gradient's sign; "l2", steps along the gradient, normalised for each image.
        eps: radius around each image, in units of 1 = white; any, 0 included.
        steps: number of gradient steps.
        step_size: None is 2.5 * eps / steps, by which any point of the ball can be reached in any norm.
        start: what is added to the pixels first (see :func:`random_start`); None starts at the pixels.

    Returns:
        Adversarial pixels in [0, 1], at most eps from ``pixels``, without a gradient.

    Raises:
        ValueError: an unknown norm, a negative eps or no steps.
    """
    check_attack(norm, eps, steps)
    step_size = 2.5 * eps / steps if step_size is None else step_size

    def inside(delta: Tensor) -> Tensor:
        delta = delta.clamp(-eps, eps) if norm == "linf" else delta * (eps / _lengths(delta)).clamp(max=1)
        return (pixels + delta).clamp(0, 1)  # never farther from the pixels, since these lie in [0, 1] themselves

    pixels = pixels.detach()
    adversarial = pixels if start is None else inside(start)
    with attacking(model.net), torch.enable_grad():
        for _ in range(steps):
            adversarial = adversarial.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(objective(model(adversarial)), adversarial)
            direction = gradient.sign() if norm == "linf" else gradient / _lengths(gradient)
            adversarial = inside(adversarial.detach() + step_size * direction - pixels)
    return adversarial


def random_start(pixels: Tensor, generator: torch.Generator, *, norm: Norm, eps: float) -> Tensor:
    """A random delta of the ball, of the shape of ``pixels``.

    "linf": uniform. "l2": uniform direction and uniform length, which comes nearer to the middle than uniform points.
    """
    if norm == "linf":
        return (2 * _draw(torch.rand, pixels, generator) - 1) * eps
    direction = _draw(torch.randn, pixels, generator)
    length = torch.rand(len(pixels), 1, 1, 1, generator=generator, device=generator.device).to(pixels.device) * eps
    return direction / _lengths(direction) * length


def gaussian_noise(pixels: Tensor, generator: torch.Generator, *, std: float) -> Tensor:
    """Independent N(0, std^2) of the shape of ``pixels``."""
    return _draw(torch.randn, pixels, generator) * std


def summed_cross_entropy(labels: Tensor) -> Callable[[Tensor], Tensor]:
    """The objective of an untargeted attack."""
    return lambda logits: F.cross_entropy(logits, labels, reduction="sum")


def check_attack(norm: str, eps: float, steps: int) -> None:
    """Raise the ValueError of :func:`pgd` for its arguments."""
    if norm not in ("linf", "l2"):
        raise UsageError(f'norm must be "linf" or "l2", got {norm!r}')
    if eps < 0 or steps < 1:
        raise UsageError(f"an attack needs eps >= 0 and steps >= 1, got eps={eps} and steps={steps}")


def _lengths(delta: Tensor) -> Tensor:
    """L2 norm of each image, (B, 1, 1, 1), never 0."""
    return delta.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)


def _draw(random: Callable[..., Tensor], like: Tensor, generator: torch.Generator) -> Tensor:
    return random(like.shape, generator=generator, device=generator.device).to(like.device)
