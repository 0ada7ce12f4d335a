"""COIN: interpolation at random places, against convolution-based protections (Li et al., AAAI 2025, 2311.18403)."""

import torch
from torch import Tensor

from ..params import param
from ..training.model import to_pixels
from .base import Defense, register_defense


@register_defense("coin")
class COIN(Defense):
    """Every pixel is read, bilinearly, at a random place near its own: new places for every image in every epoch,
    after crop and flip. Test images stay as they are.

    Each pixel's offsets in x and y are independent, uniform in [-alpha, alpha], and shared by the three channels. The
    picture continues on the other side of its border (as a torus; the authors' wrap repeats one column and one row).
    The paper's recipe is 80 epochs at a constant learning rate of 0.1; here the recipe is the victim's own.
    """

    alpha: float = param("largest offset in pixels; the paper's is 2", default=2.0, above=0)

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(B, 3, H, W), uint8 or float in [0, 1] -> float in [0, 1]."""
        batch, _, height, width = images.shape
        offsets = torch.rand(2, batch, height, width, generator=generator, device=generator.device)
        offsets = offsets.to(images.device).mul_(2 * self.alpha).sub_(self.alpha)
        return displace(to_pixels(images), offsets[0], offsets[1])


def displace(pixels: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Read each pixel of float (B, C, H, W) at its place plus (down, right), in pixels, both (B, H, W), bilinearly and
    on the torus."""
    batch, channels, height, width = pixels.shape
    top, left = down.floor(), right.floor()
    down, right = (down - top)[:, None].flatten(2), (right - left)[:, None].flatten(2)  # what is beyond whole pixels
    rows = top.long() + torch.arange(height, device=pixels.device)[:, None]
    columns = left.long() + torch.arange(width, device=pixels.device)
    flat = pixels.flatten(2)

    def read(rows: Tensor, columns: Tensor) -> Tensor:
        place = rows.remainder(height) * width + columns.remainder(width)
        return flat.gather(2, place.view(batch, 1, -1).expand(batch, channels, -1))

    above = read(rows, columns).lerp(read(rows, columns + 1), right)
    below = read(rows + 1, columns).lerp(read(rows + 1, columns + 1), right)
    return above.lerp(below, down).view_as(pixels)
