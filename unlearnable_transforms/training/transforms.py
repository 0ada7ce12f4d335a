"""Random transforms of whole batches: vectorised, differentiable, on any device."""

import torch
import torch.nn.functional as F
from torch import Tensor


def crop_flip(images: Tensor, generator: torch.Generator, *, padding: int, flip: bool = True) -> Tensor:
    """Random crop after zero padding, and a random horizontal flip, drawn per image.

    Args:
        images: (B, C, H, W), any dtype, any device. Float images may require gradients.
        generator: source of the draws; a CPU generator gives the same draws for every device of `images`.
        padding: pixels of zeros added on each side; every offset from 0 to 2 * padding is equally likely.
        flip: mirror each image left-right with probability 1/2.

    Returns a new tensor of the same shape, dtype and device.
    Raises ValueError for a shape that is not 4-d or a negative padding.
    """
    if images.ndim != 4:
        raise ValueError(f"images must have shape (B, C, H, W), got {tuple(images.shape)}")
    if padding < 0:
        raise ValueError(f"padding must not be negative, got {padding}")
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

    # One gather for the whole batch: the place of each output pixel in the flattened padded image.
    padded = F.pad(images, (padding,) * 4)
    place = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
    place = place.view(batch, 1, height * width).expand(batch, channels, height * width)
    return padded.flatten(2).gather(2, place).view(batch, channels, height, width)
