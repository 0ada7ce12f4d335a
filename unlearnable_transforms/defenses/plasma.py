"""The augmentations of UEraser: vectorised, and different for each image of a batch.

All take float pixels (B, 3, H, W) in [0, 1] and return the same. kornia has them, too; its fractals take most of the
time of a training step on a CPU, and its versions differ in what they draw.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as v2


def draw(generator: torch.Generator, pixels: Tensor, *shape: int) -> Tensor:
    """Uniform numbers in [0, 1), of a shape for each image, on the device of the pixels."""
    return torch.rand(len(pixels), *shape, generator=generator, device=generator.device).to(pixels.device)


def plasma_brightness(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Add a fractal between -intensity and intensity, which is uniform in [0.5, 1]."""
    intensity = 0.5 + 0.5 * draw(generator, pixels, 1, 1, 1)
    return (pixels + intensity * (2 * fractal(pixels, generator) - 1)).clamp_(0, 1)


def plasma_contrast(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Multiply the distance from middle grey by a fractal between 0 and 4."""
    return ((pixels - 0.5) * (4 * fractal(pixels, generator)) + 0.5).clamp_(0, 1)


def shuffle_channels(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """A random permutation of the channels of each image."""
    order = draw(generator, pixels, pixels.shape[1]).argsort(1)
    return pixels.gather(1, order[:, :, None, None].expand_as(pixels))


def fractal(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Fractal maps (B, 1, H, W) in [0, 1] by the diamond-square algorithm, of roughness uniform in [0.3, 0.7].

    A grid with random corners is refined until it covers the image. On level k, from 0, a new point is the mean of its
    neighbours plus the share roughness^k of the way to a uniform number; the points of level 0 are means alone.
    """
    roughness = 0.3 + 0.4 * draw(generator, pixels, 1, 1)
    grid, level = draw(generator, pixels, 2, 2), 0
    while grid.shape[1] < max(pixels.shape[2:]):
        side = 2 * grid.shape[1] - 1
        noise = draw(generator, pixels, side, side)
        share = roughness**level if level else torch.zeros_like(roughness)
        fine = torch.empty_like(noise)
        fine[:, ::2, ::2] = grid
        centres = (grid[:, :-1, :-1] + grid[:, :-1, 1:] + grid[:, 1:, :-1] + grid[:, 1:, 1:]) / 4
        fine[:, 1::2, 1::2] = centres = centres.lerp(noise[:, 1::2, 1::2], share)
        # Each point on an edge has two neighbours along it and two centres beside it, or one at the border.
        beside = torch.full((grid.shape[1],), 4.0, device=grid.device)
        beside[[0, -1]] = 3.0
        rows = grid[:, :, :-1] + grid[:, :, 1:] + F.pad(centres, (0, 0, 1, 0)) + F.pad(centres, (0, 0, 0, 1))
        fine[:, ::2, 1::2] = (rows / beside[:, None]).lerp(noise[:, ::2, 1::2], share)
        columns = grid[:, :-1] + grid[:, 1:] + F.pad(centres, (1, 0)) + F.pad(centres, (0, 1))
        fine[:, 1::2, ::2] = (columns / beside).lerp(noise[:, 1::2, ::2], share)
        grid, level = fine, level + 1
    return grid[:, None, : pixels.shape[2], : pixels.shape[3]]


def trivial_augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """One operation of random strength for each image (Müller and Hutter, ICCV 2021, arXiv 2103.10158)."""
    kinds = (draw(generator, pixels) * len(OPERATIONS)).long()
    strengths = draw(generator, pixels, 1, 1, 1)
    out = pixels.clone()
    for kind, operation in enumerate(OPERATIONS):
        rows = (kinds == kind).nonzero().flatten()
        if len(rows):
            out[rows] = operation(pixels[rows], strengths[rows]).clamp_(0, 1)
    return out


def posterize(pixels: Tensor, strength: Tensor) -> Tensor:
    """Keep the highest 1 to 4 bits."""
    step = 2 ** (7 - (4 * strength).floor())
    return (pixels * 255 / step).floor() * step / 255


def solarize(pixels: Tensor, strength: Tensor) -> Tensor:
    """Invert what is at least as bright as the strength."""
    return torch.where(pixels >= strength, 1 - pixels, pixels)


def blend(without: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """0.1 to 1.9 times the distance from an image that lacks something."""
    return lambda pixels, strength: torch.lerp(without(pixels), pixels, 0.1 + 1.8 * strength)


def affine(matrix: Callable[[Tensor], list[list[Tensor]]]) -> Callable[[Tensor, Tensor], Tensor]:
    """Read each image at a linear function of the place, bilinearly; black outside. The matrix (2, 3) is in units of
    half an image, and takes a strength from -1 to 1."""

    def operation(pixels: Tensor, strength: Tensor) -> Tensor:
        rows = matrix(2 * strength.flatten() - 1)
        theta = torch.stack([torch.stack(row, 1) for row in rows], 1)
        return F.grid_sample(pixels, F.affine_grid(theta, list(pixels.shape), align_corners=False), align_corners=False)

    return operation


def rotation(turn: Tensor) -> list[list[Tensor]]:
    angle, zero = turn * math.radians(30), torch.zeros_like(turn)
    return [[angle.cos(), -angle.sin(), zero], [angle.sin(), angle.cos(), zero]]


def entries(across: float = 0, right: float = 0, along: float = 0, down: float = 0) -> Callable:
    """The identity with shears (across, along) and shifts (right, down) times the strength."""

    def matrix(strength: Tensor) -> list[list[Tensor]]:
        one = torch.ones_like(strength)
        return [[one, across * strength, right * strength], [along * strength, one, down * strength]]

    return matrix


OPERATIONS: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda pixels, strength: v2.autocontrast(pixels),
    lambda pixels, strength: v2.equalize(pixels),
    posterize,
    solarize,
    blend(lambda pixels: v2.adjust_contrast(pixels, 0)),
    blend(lambda pixels: v2.adjust_brightness(pixels, 0)),
    blend(lambda pixels: v2.adjust_sharpness(pixels, 0)),
    affine(rotation),
    affine(entries(across=0.3)),
    affine(entries(along=0.3)),
    affine(entries(right=1.0)),  # by up to half the image
    affine(entries(down=1.0)),
]
