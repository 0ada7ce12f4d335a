"""JPEG by libjpeg, as a function of tensors, and with a gradient."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def compress(images: Tensor, quality: int | Tensor) -> Tensor:
    """uint8 (B, 3, H, W) through Pillow's JPEG and back; torchvision's codecs leave that library.

    ``quality``: of libjpeg, 1 to 100, for all images, or one for each: int64 (B,). Chroma is subsampled 4:2:0.
    """
    qualities = torch.as_tensor(quality).expand(len(images)).tolist()
    out = np.empty((len(images), *images.shape[2:], 3), np.uint8)
    for image, each, row in zip(images.permute(0, 2, 3, 1).contiguous().cpu().numpy(), qualities, out, strict=True):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=each)  # 4:2:0 unless another subsampling is given
        row[:] = Image.open(file)
    return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous().to(images.device)


def compress_through(pixels: Tensor, quality: int | Tensor) -> Tensor:
    """:func:`compress` for float pixels in [0, 1], with a straight-through gradient.

    The result is exactly what libjpeg makes of the pixels, rounded to whole levels. Backwards, JPEG counts as the
    identity (Bengio, Léonard and Courville 2013, arXiv 1308.3432).
    """
    with torch.no_grad():
        levels = (255 * pixels).round().clamp(0, 255).to(torch.uint8)
        away = compress(levels, quality).to(pixels.dtype) / 255 - pixels
    return pixels + away
