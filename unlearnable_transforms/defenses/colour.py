"""Defenses that take away what colours and contrasts carry: per-image standardisation, equalisation, colour noise.

The public code of DUNE (2026) trains with the first four of them; the exact forms are those of its training script.
"""

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ..params import param
from ..training.attacks import gaussian_noise
from ..training.model import to_pixels
from ..training.transforms import ContrastiveRanges, each_image
from .base import WHITE, Defense, register_defense
from .filters import ImageFilter

FLAT = 1e-6  # a channel whose standard deviation is below this is only centred

# ITU-R 601 luma and its two colour differences; rows are Y, U, V.
YUV = torch.tensor([[0.299, 0.587, 0.114], [-0.14713, -0.28886, 0.436], [0.615, -0.51499, -0.10001]])
# Linear sRGB to CIE XYZ, white point D65, and that white in XYZ (IEC 61966-2-1).
XYZ = torch.tensor(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
D65 = XYZ.sum(1)


def standardised(images: Tensor) -> Tensor:
    """float (B, C, H, W) -> each channel of each image with mean 0 and standard deviation 1."""
    std = images.std((2, 3), keepdim=True, correction=0)
    return (images - images.mean((2, 3), keepdim=True)) / torch.where(std < FLAT, 1, std)


def stretched(images: Tensor, dims: tuple[int, ...]) -> Tensor:
    """float (B, C, H, W) -> 0 to 255, from the minimum to the maximum over ``dims``."""
    low, high = images.amin(dims, keepdim=True), images.amax(dims, keepdim=True)
    return (images - low) / (high - low).clamp_min(FLAT) * 255


@register_defense("channel-norm")
class ChannelNorm(ImageFilter):
    """Each channel of each image gets mean 0 and standard deviation 1; then one stretch of all three to 0-255.

    Colour offsets and gains, a part of the signal of convolutions, are gone.
    """

    def filter(self, images: Tensor) -> Tensor:
        return stretched(standardised(images.float()), (1, 2, 3)).round_().byte()


@register_defense("equalize")
class Equalize(ImageFilter):
    """Histogram equalisation of each channel of each image, as Pillow does it."""

    def filter(self, images: Tensor) -> Tensor:
        return F.equalize(images)


@register_defense("whiten-yuv")
class WhitenYUV(ImageFilter):
    """In YUV each channel of each image is standardised and stretched to its old scale's ends, then back to RGB."""

    def filter(self, images: Tensor) -> Tensor:
        yuv = torch.einsum("kc,bchw->bkhw", YUV.to(images.device), images.float())
        yuv = stretched(standardised(yuv), (2, 3))
        yuv[:, 1:] -= 127.5  # the colour differences are centred
        rgb = torch.einsum("kc,bchw->bkhw", torch.linalg.inv(YUV).to(images.device), yuv)
        return rgb.round_().clamp_(0, 255).byte()


@register_defense("whiten-lab")
class WhitenLAB(ImageFilter):
    """In CIE L*a*b* each channel of each image is standardised and stretched over the 8-bit scale, then back to RGB."""

    def filter(self, images: Tensor) -> Tensor:
        lab = stretched(standardised(rgb_to_lab(images.float() / 255)), (2, 3))
        lab[:, :1] *= 100 / 255  # 8-bit L*a*b*: L* is 0-100 on 0-255, a* and b* are offset by 128
        lab[:, 1:] -= 128
        return (lab_to_rgb(lab) * 255).round_().clamp_(0, 255).byte()


def rgb_to_lab(pixels: Tensor) -> Tensor:
    """sRGB in [0, 1] -> CIE L*a*b* under D65, float (B, 3, H, W)."""
    linear = torch.where(pixels <= 0.04045, pixels / 12.92, ((pixels + 0.055) / 1.055) ** 2.4)
    xyz = torch.einsum("kc,bchw->bkhw", (XYZ / D65[:, None]).to(pixels.device), linear)
    f = torch.where(xyz > (6 / 29) ** 3, xyz.clamp_min(1e-12) ** (1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """CIE L*a*b* under D65 -> sRGB; colours that sRGB does not have lie outside [0, 1]."""
    lightness, a, b = lab.unbind(1)
    y = (lightness + 16) / 116
    f = torch.stack([y + a / 500, y, y - b / 200], 1)
    xyz = torch.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    linear = torch.einsum("kc,bchw->bkhw", torch.linalg.inv(XYZ / D65[:, None]).to(lab.device), xyz)
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp_min(1e-12) ** (1 / 2.4) - 0.055)


@register_defense("colour-jitter")
class ColourJitter(Defense):
    """Brightness, contrast, saturation and hue of each image are drawn anew in every epoch, as in SimCLR
    (Chen et al., ICML 2020, arXiv 2002.05709, appendix A), but for every image.
    """

    strength: float = param(
        "1 is brightness, contrast and saturation within 0.2-1.8 and hue within +-0.2", default=0.5, above=0, high=1.25
    )

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """uint8 (B, 3, H, W) -> the same; float in [0, 1] likewise."""
        s = self.strength
        return each_image(v2.ColorJitter(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s), images, generator)


@register_defense("colour-noise")
class ColourNoise(Defense):
    """In every epoch each channel of each image is shifted, and normal noise of a drawn strength is added."""

    shift: float = param("largest shift of a channel", default=8 / 255, low=0, unit=WHITE)
    std: float = param("largest standard deviation of the noise", default=8 / 255, low=0, unit=WHITE)

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(B, 3, H, W), uint8 or float in [0, 1] -> float in [0, 1]."""
        pixels = to_pixels(images)
        draws = torch.rand(len(pixels), 4, 1, 1, generator=generator, device=generator.device).to(pixels)
        shifted = pixels + self.shift * (2 * draws[:, :3] - 1)
        return (shifted + self.std * draws[:, 3:] * gaussian_noise(pixels, generator, std=1.0)).clamp_(0, 1)


@register_defense("contrastive-augmentation")
class ContrastiveAugmentation(Defense):
    """SimCLR's augmentations in supervised training, at the strength that AUE (Wang et al., NeurIPS 2024, arXiv
    2402.04010) makes its noise with: a random part enlarged, flip, colour jitter, grayscale.
    """

    replaces_augment = True

    strength: float = param("s; AUE's is 0.6 for CIFAR-10 and 1.0 for CIFAR-100", default=0.6, above=0, high=1)

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """uint8 (B, 3, H, W) -> the same; float in [0, 1] likewise."""
        return each_image(contrastive_transform(images.shape[-1], self.strength), images, generator)


def contrastive_transform(size: int, strength: float) -> v2.Transform:
    """SimCLR's random transform of one image, scaled as in AUE's code.

    Args:
        size: side of the result in pixels.
        strength: 1 gives parts from a tenth of the area on, jitter (0.4, 0.4, 0.4, 0.1) and grayscale in a fifth.
    """
    ranges = ContrastiveRanges(strength)
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=ranges.scale, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(*ranges.jitter)], p=ranges.jittered),
            v2.RandomGrayscale(ranges.grey),
        ]
    )
