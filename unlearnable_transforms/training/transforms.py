"""Random transforms of whole batches: vectorised, differentiable, on any device; and libraries' transforms, seeded."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError
from .jpeg import compress_through

Transform = Literal["crop-flip", "crop", "translate-flip", "resized-crop", "contrastive", "published", "none"]

# What :func:`published` draws from.
SHRUNK = (4 / 7, 2.0)  # of the side: 64 to 224 px for a side of 112 px
TRAINED = (0.75, 1.25)  # of the side: 84 to 140 px
JPEG_QUALITY = (60, 95)
BLUR = 0.4  # pixels, the most
COLOUR = 0.05  # brightness, contrast and saturation are multiplied by 0.95 to 1.05
PARTS = (0.6, 1.0)  # share of the area that a crop keeps


def transformed(images: Tensor, name: Transform, generator: torch.Generator) -> Tensor:
    """A random transform by its name, the same for uint8 and float images, drawn per image.

    "crop" and "crop-flip" are :func:`crop_flip` with a padding of an eighth of the shorter side, at least one pixel;
    "translate-flip" is :func:`crop_flip` with a mirrored border of a sixteenth. "resized-crop" is
    :func:`resized_crop_flip`, "contrastive" :func:`contrastive`, "published" :func:`published`.
    """
    if name == "none":
        return images
    if name == "resized-crop":
        return resized_crop_flip(images, generator)
    if name == "translate-flip":
        return crop_flip(images, generator, padding=max(1, min(images.shape[2:]) // 16), mirrored=True)
    if name == "contrastive":
        return contrastive(images, generator)
    if name == "published":
        return published(images, generator)
    return crop_flip(images, generator, padding=max(1, min(images.shape[2:]) // 8), flip=name == "crop-flip")


def crop_flip(
    images: Tensor, generator: torch.Generator, *, padding: int, flip: bool = True, mirrored: bool = False
) -> Tensor:
    """Random crop after padding, and a random horizontal flip, drawn per image.

    Args:
        images: (B, C, H, W), any dtype, any device. Float images may require gradients.
        generator: a CPU generator gives the same draws for every device of ``images``.
        padding: pixels added on each side; every offset from 0 to 2 * padding is equally likely.
        flip: mirror each image left-right with probability 1/2.
        mirrored: the padding mirrors the image at its border, where it is zeros otherwise.

    Raises:
        ValueError: a shape that is not 4-d, or a negative padding.
    """
    if images.ndim != 4:
        raise UsageError(f"images must have shape (B, C, H, W), got {tuple(images.shape)}")
    if padding < 0:
        raise UsageError(f"padding must not be negative, got {padding}")
    batch, channels, height, width = images.shape

    def draw(high: int) -> Tensor:
        numbers = torch.randint(high, (batch, 1), generator=generator, device=generator.device)
        return numbers.to(images.device)

    rows = torch.arange(height, device=images.device) + draw(2 * padding + 1)
    columns = torch.arange(width, device=images.device).expand(batch, width)
    left = draw(2 * padding + 1)
    if flip:
        columns = torch.where(draw(2).bool(), width - 1 - columns, columns)
    columns = columns + left
    if mirrored:  # no padding: what lies outside is read inside
        rows, columns = _reflected(rows - padding, height), _reflected(columns - padding, width)
        padded = images
    else:
        padded = F.pad(images, (padding,) * 4)

    # One gather for the whole batch: the place of each output pixel in the flattened padded image.
    place = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
    place = place.view(batch, 1, height * width).expand(batch, channels, height * width)
    return padded.flatten(2).gather(2, place).view(batch, channels, height, width)


def _reflected(places: Tensor, length: int) -> Tensor:
    """Places below 0 and from ``length`` on, mirrored at the first and the last one."""
    return (length - 1) - ((length - 1) - places.abs()).abs()


def resized_crop_flip(
    images: Tensor,
    generator: torch.Generator,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """A random part of each image, enlarged to the size of the whole, and a random horizontal flip.

    What torchvision's RandomResizedCrop and RandomHorizontalFlip do, bilinear, for a whole batch at once and
    differentiable. A part that would not fit is cut down to the image instead of drawn again.

    Args:
        images: float (B, C, H, W), any device. May require gradients.
        generator: as in :func:`crop_flip`.
        scale: bounds of the part's share of the area.
        ratio: bounds of its width over its height, drawn evenly on the logarithm.

    Raises:
        ValueError: a shape that is not 4-d.
    """
    if images.ndim != 4:
        raise UsageError(f"images must have shape (B, C, H, W), got {tuple(images.shape)}")
    batch, _, height, width = images.shape
    area, shape, top, left, side = torch.rand(5, batch, generator=generator, device=generator.device)
    area = scale[0] + (scale[1] - scale[0]) * area
    shape = (math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * shape).exp() * height / width
    high, wide = (area / shape).sqrt().clamp(max=1), (area * shape).sqrt().clamp(max=1)  # shares of the sides
    theta = torch.zeros(batch, 2, 3)
    theta[:, 0, 0] = torch.where(side < 0.5, -wide, wide)
    theta[:, 1, 1] = high
    theta[:, 0, 2] = (1 - wide) * (2 * left - 1)  # in [-1, 1], where the image reaches from -1 to 1
    theta[:, 1, 2] = (1 - high) * (2 * top - 1)
    grid = F.affine_grid(theta.to(images.device, images.dtype), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


@dataclass(frozen=True)
class ContrastiveRanges:
    """What SimCLR's augmentations (Chen et al., ICML 2020, arXiv 2002.05709, appendix A) draw from at a ``strength`` s
    in [0, 1], as AUE scales them (Wang et al., NeurIPS 2024, arXiv 2402.04010)."""

    strength: float = 0.6  # AUE's for CIFAR-10; for CIFAR-100 it is 1

    @property
    def scale(self) -> tuple[float, float]:
        """Bounds of the share of the area that a crop keeps."""
        return max(1 - 0.9 * self.strength, 0.05), 1.0

    @property
    def jitter(self) -> tuple[float, float, float, float]:
        """How far from 1 the factors of brightness, contrast and saturation go, and how far from 0 the turn of the
        hue, in units of a whole turn."""
        return 0.4 * self.strength, 0.4 * self.strength, 0.4 * self.strength, 0.1 * self.strength

    @property
    def jittered(self) -> float:
        """The share of the images whose colours change."""
        return min(0.99, 0.8 * self.strength)

    @property
    def grey(self) -> float:
        """The share of the images that lose their colours."""
        return 0.2 * self.strength


def contrastive(images: Tensor, generator: torch.Generator, *, strength: float = ContrastiveRanges.strength) -> Tensor:
    """SimCLR's augmentations, drawn per image: :func:`resized_crop_flip`, then brightness, contrast, saturation and hue
    in a random order, then grayscale, with the probabilities and bounds of :class:`ContrastiveRanges`.

    The operations are torchvision's, for a whole batch at once and differentiable. The order of the four colour
    operations is drawn once for the batch.

    Args:
        images: float (B, 3, H, W) in [0, 1], any device. May require gradients.
        generator: as in :func:`crop_flip`.
        strength: s in [0, 1].

    Returns:
        Float (B, 3, H, W) in [0, 1].
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise UsageError(f"images must be float (B, C, H, W), got {images.dtype} {tuple(images.shape)}")
    ranges = ContrastiveRanges(strength)
    pixels = resized_crop_flip(images, generator, scale=ranges.scale)
    draws = torch.rand(6, len(images), 1, 1, 1, generator=generator, device=generator.device).to(images)
    operations = (_brightness, _contrast, _saturation, _hue)
    coloured = pixels
    for number in torch.randperm(4, generator=generator, device=generator.device).tolist():
        change = ranges.jitter[number] * (2 * draws[number] - 1)
        coloured = operations[number](coloured, change).clamp(0, 1)
    pixels = torch.where(draws[4] < ranges.jittered, coloured, pixels)
    return torch.where(draws[5] < ranges.grey, _luma(pixels).expand_as(pixels), pixels).clamp(0, 1)


def _luma(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1, H, W), by the weights of ITU-R 601 as torchvision has them."""
    return (pixels * pixels.new_tensor([0.2989, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)


def _brightness(pixels: Tensor, change: Tensor) -> Tensor:
    return pixels * (1 + change)


def _contrast(pixels: Tensor, change: Tensor) -> Tensor:
    mean = _luma(pixels).mean((2, 3), keepdim=True)
    return mean + (pixels - mean) * (1 + change)


def _saturation(pixels: Tensor, change: Tensor) -> Tensor:
    grey = _luma(pixels)
    return grey + (pixels - grey) * (1 + change)


def _hue(pixels: Tensor, change: Tensor) -> Tensor:
    """Turn the hue of HSV by a share of a whole turn; value and chroma (saturation times value) stay."""
    value, low = pixels.amax(1, keepdim=True), pixels.amin(1, keepdim=True)
    chroma = value - low
    red, green, blue = pixels.split(1, 1)
    safe = chroma.clamp_min(1e-6)  # of grey pixels, whose hue changes nothing
    sixths = torch.where(
        red == value, (green - blue) / safe,
        torch.where(green == value, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )  # fmt: skip
    places = (sixths + 6 * change + pixels.new_tensor([5, 3, 1]).view(3, 1, 1)) % 6
    return value - chroma * torch.minimum(places, 4 - places).clamp(0, 1)


def published(images: Tensor, generator: torch.Generator) -> Tensor:
    """What happens to a published photograph before a network trains on it, drawn anew for each call.

    1. A site shrinks it, to ``SHRUNK`` times its side.
    2. It is blurred by a Gaussian of up to ``BLUR`` pixels; brightness, contrast and saturation change by ``COLOUR``.
    3. It is saved as JPEG, with a quality in ``JPEG_QUALITY``.
    4. A trainer resizes it to ``TRAINED`` times its first side, takes a random part (``PARTS``, width over height from
       3/4 to 4/3) at that size, and flips it with probability 1/2.

    Both sizes and the blur are drawn once for the batch, the rest for each image. Gradients go through all steps but
    JPEG, which counts as the identity there (:func:`~unlearnable_transforms.training.jpeg.compress_through`).

    Args:
        images: float (B, 3, H, W) in [0, 1], any device. May require gradients.
        generator: as in :func:`crop_flip`.

    Returns:
        Float (B, 3, h, w) in [0, 1]; h and w differ from H and W, and are at least 8.
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise UsageError(f"images must be float (B, C, H, W), got {images.dtype} {tuple(images.shape)}")
    shrink, train, blur = torch.rand(3, generator=generator, device=generator.device).tolist()
    colour = torch.rand(3, len(images), generator=generator, device=generator.device).to(images.device)
    low, high = JPEG_QUALITY
    quality = torch.randint(low, high + 1, (len(images),), generator=generator, device=generator.device)

    def resize(pixels: Tensor, factor: float) -> Tensor:
        size = [max(8, round(factor * side)) for side in images.shape[2:]]
        return F.interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)

    pixels = resize(images, SHRUNK[0] * (SHRUNK[1] / SHRUNK[0]) ** shrink)  # small sizes as often as large ones
    from torchvision.transforms.v2 import functional as v2  # seconds, which protecting must not take

    pixels = v2.gaussian_blur(pixels, [5, 5], [max(BLUR * blur, 0.01)])
    brightness, contrast, saturation = (1 + COLOUR * (2 * colour - 1)).view(3, -1, 1, 1, 1)
    pixels = pixels * brightness
    grey = pixels.mean(1, keepdim=True)
    pixels = grey + (pixels - grey) * saturation
    mean = pixels.mean((1, 2, 3), keepdim=True)
    pixels = (mean + (pixels - mean) * contrast).clamp(0, 1)
    pixels = compress_through(pixels, quality)

    pixels = resize(pixels, TRAINED[0] + (TRAINED[1] - TRAINED[0]) * train)
    return resized_crop_flip(pixels, generator, scale=PARTS).clamp(0, 1)  # rounding may lead out by a hair


@contextmanager
def seeded_globally(generator: torch.Generator, device: torch.device | str = "cpu") -> Iterator[None]:
    """For libraries that know no generator: inside, the global states of the CPU and of a device are seeded from
    ``generator``; afterwards they are what they were."""
    device = torch.device(device)
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.random.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def each_image(transform: Callable[[Tensor], Tensor], images: Tensor, generator: torch.Generator) -> Tensor:
    """A random transform of torchvision on one image after the other, so that each has draws of its own.

    It works on the CPU, where a call on a small image takes a tenth of a millisecond.

    Shape: ``transform`` maps (C, H, W) to (C, H, W); images and result are (B, C, H, W) on any device.
    """
    with seeded_globally(generator):
        return torch.stack([transform(image) for image in images.cpu()]).to(images.device)
