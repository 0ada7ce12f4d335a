"""Pictures back from their filtered versions, as far as rounding lets them.

A filtered picture is known to half a level, cut off at the border, and divided by its maximum. What is lost is filled
in as smoothly as the rest allows; filters whose 1 lies in the middle and outweighs the rest lose nearly nothing.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .convolution import add_soft_copies, convolve

STEPS = 80  # of conjugate gradients: more change nothing to speak of
SLOPE = 12.0  # levels by which neighbouring pixels of a picture differ, about
ROUNDS, HALO_STEPS = 12, 80
REDUCED_STEP = 5  # pixels from copy to copy in the reduced picture; odd, so that the copies lie where they should
ENOUGH = 0.1  # of a rest is what one round leaves of it at the best
STALLED = 0.9  # of the rest before: less is not to be had
SETTLED = 0.05  # levels: what is missing then is less than a step of bytes
DAMPING = 0.8  # below 1 the series converges wherever anything of the picture is left


def deconvolve(images: Tensor, weights: Tensor, peaks: Tensor) -> Tensor:
    """The images whose filtered versions, divided by their maxima, these are: float32 (B, C, H, W), whole numbers in
    0..255.

    With A the correlation with the filter, zeros beyond the border, as CUDA does it, y = peak / 255 times the image,
    e the error that rounding left in y, and D the differences of neighbouring pixels, that is the x with the least

        |A x - y|^2 / e^2  +  |D x|^2 / SLOPE^2                  (Tikhonov regularisation)

    by conjugate gradients, all images together.

    Args:
        images: uint8 (B, C, H, W).
        weights: float32 (B, k, k).
        peaks: float32 (B,), the maxima in levels. Not a number where it is not known: then the result is scaled so that
            the brightest pixel is 255, which it is in most photographs.
    """
    unknown = peaks.isnan()
    total = weights.sum((1, 2)).abs().clamp_min(0.5)
    guess = 200 * total  # for the error alone
    scale = (torch.where(unknown, guess, peaks) / 255).view(-1, 1, 1, 1)
    weight = scale**2 / 12 / SLOPE**2
    back = weights.flip(1, 2)
    target = images * scale

    def normal(x: Tensor) -> Tensor:
        return convolve(convolve(x, weights, "folded"), back, "folded") + weight * _roughness(x)

    x = target / total.view(-1, 1, 1, 1)
    rest = convolve(target, back, "folded") - normal(x)
    direction, power = rest.clone(), _dot(rest, rest)
    for _ in range(STEPS):
        product = normal(direction)
        length = power / _dot(direction, product).clamp_min(1e-9)
        x += length * direction
        rest -= length * product
        before, power = power, _dot(rest, rest)
        direction = rest + power / before.clamp_min(1e-9) * direction
    brightest = x.amax((1, 2, 3), keepdim=True).clamp_min(1)
    x = torch.where(unknown.view(-1, 1, 1, 1), x * (255 / brightest), x)
    return x.round().clamp(0, 255)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2, 3), keepdim=True)


def _roughness(x: Tensor) -> Tensor:
    """D transposed times D times x."""
    down, right = x.diff(dim=2), x.diff(dim=3)
    return F.pad(-down, (0, 0, 0, 1)) + F.pad(down, (0, 0, 1, 0)) + F.pad(-right, (0, 1)) + F.pad(right, (1, 0))


def remove_halo(image: Tensor, weights: np.ndarray, step: int) -> Tensor:
    """The image, uint8 (C, H, W), that ``convolution.halo`` gave this halo; float32, whole numbers in 0..255.

    The image itself has the weight 1, and the soft copies S of it together hardly more. A rest r, what y - x - S x
    lacks, is made good by r - S c, where c solves c + S c = r. S c is so smooth that c is computed in a reduced image,
    by taking away the copies of what is known so far, again and again (a damped Neumann series); what the reduction
    loses is in the next rest.
    """
    result = torch.empty(image.shape)
    total, reduced = float(weights.sum()), min(step, REDUCED_STEP)
    shape = [round(side * reduced / step) for side in image.shape[1:]]
    for channel, x in zip(image, result, strict=True):
        x.copy_(channel)
        rest = torch.empty_like(x)
        missing = math.inf
        for _ in range(ROUNDS):
            rest.copy_(channel).mul_(total).sub_(x)
            add_soft_copies(x, weights, step, rest, -1)
            before, missing = missing, max(-float(rest.min()), float(rest.max()))
            if missing < SETTLED or missing > STALLED * before:
                break
            x += rest
            small = F.interpolate(rest[None, None], shape, mode="area")
            soft = small - _without_copies(small[0, 0], weights, reduced)
            x -= F.interpolate(soft, x.shape, mode="bilinear")[0, 0]
        x.round_().clamp_(0, 255)
    return result


def _without_copies(target: Tensor, weights: np.ndarray, step: int) -> Tensor:
    """The x with x + S x = target, nearly: float32 (H, W) of a small picture."""
    x, rest = torch.zeros_like(target), target.clone()
    enough = ENOUGH * float(target.abs().max())
    for _ in range(HALO_STEPS):
        x.add_(rest, alpha=DAMPING)
        torch.sub(target, x, out=rest)
        add_soft_copies(x, weights, step, rest, -1)
        if rest.abs().max() < enough:
            break
    return x
