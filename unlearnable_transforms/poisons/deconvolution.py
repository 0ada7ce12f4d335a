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
SHORT = 0.005  # levels, root mean square: shorter steps change nothing either
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

    by conjugate gradients, channel by channel, all images together.

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
    result = torch.empty(images.shape)
    for channel in range(images.shape[1]):  # one after the other: photographs are large
        target = images[:, channel : channel + 1] * scale
        result[:, channel : channel + 1] = _conjugate_gradients(
            target, weights, scale**2 / 12 / SLOPE**2, target / total.view(-1, 1, 1, 1)
        )
    brightest = result.amax((1, 2, 3), keepdim=True).clamp_min(1)
    result.mul_(torch.where(unknown.view(-1, 1, 1, 1), 255 / brightest, 1))
    return result.round_().clamp_(0, 255)


def _conjugate_gradients(target: Tensor, weights: Tensor, weight: Tensor, x: Tensor) -> Tensor:
    """The x with the least ``|A x - target|^2 + weight |D x|^2``, from a first guess, which is overwritten.

    Each image goes its own way, whatever is beside it, and stays where it is after a step shorter than ``SHORT``, or
    after ``STEPS``.

    Args:
        target, x: float32 (B, 1, H, W).
        weights: float32 (B, k, k).
        weight: float32 (B, 1, 1, 1).
    """
    back = weights.flip(1, 2)

    def normal(x: Tensor) -> Tensor:
        product = convolve(convolve(x, weights, "folded"), back, "folded")
        for dim in (2, 3):
            slope = x.diff(dim=dim).mul_(weight)
            product.narrow(dim, 0, slope.shape[dim]).sub_(slope)
            product.narrow(dim, 1, slope.shape[dim]).add_(slope)
        return product

    rest = convolve(target, back, "folded").sub_(normal(x))
    direction, power = rest.clone(), _dot(rest, rest)
    short, done = SHORT**2 * x[0].numel(), torch.zeros_like(power, dtype=torch.bool)
    for _ in range(STEPS):
        product = normal(direction)
        length = (power / _dot(direction, product).clamp_min_(1e-9)).masked_fill_(done, 0)
        x.addcmul_(length, direction)
        done |= length**2 * _dot(direction, direction) < short
        if done.all():
            break
        rest.addcmul_(length, product, value=-1)
        before, power = power, _dot(rest, rest)
        direction.mul_(power / before.clamp_min_(1e-9)).add_(rest)
    return x


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Of each image: (B, 1, 1, 1)."""
    return torch.bmm(a.view(len(a), 1, -1), b.view(len(b), -1, 1))[..., None]


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
