"""Pictures times filters, exactly: the same bytes in any order, on any backend.

Filters are multiples of 2**-12 and pixels are 0..255, so every product and partial sum is a multiple of 2**-12 below
2**12 and float32 holds it exactly.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from ..pixels import keep_heap

GRID = 2**12  # filters are multiples of 1 / GRID
MAX_SUM = 16.0  # largest sum of absolute weights for which float32 sums of pixels are exact
FOLD_LIMIT = 11  # side of the largest filter that is faster as a direct sum than by Fourier transform
HALO_GRID = 2**8  # weights of halos are multiples of 1 / HALO_GRID, and soft pixels of 1 / SOFT_GRID
SOFT_GRID = 2**4
MAX_STEP = 256  # the sum of so many squared pixels is below 2**24
STRIP = 2**18  # values of a strip of rows that is worked on at a time, so that it stays in the processor's cache

Backend = Literal["auto", "folded", "fft"]


def convolve(images: torch.Tensor, weights: torch.Tensor, backend: Backend = "auto") -> torch.Tensor:
    """Correlate each image with its own filter, zero-padded, exactly.

    Args:
        images: uint8 (B, C, H, W).
        weights: float32 (B, k, k), multiples of 1 / GRID with absolute sums up to MAX_SUM.
        backend: ``folded`` makes every channel of every image a group of one convolution, ``fft`` (float64, rounded
            back to the grid) pays for large filters. Both give the same bits.

    Returns:
        float32 (B, C, H, W).
    """
    if backend == "auto":
        backend = "folded" if weights.shape[-1] <= FOLD_LIMIT else "fft"
    with torch.autocast("cpu", enabled=False):  # it would make the sums bfloat16 ones
        return {"folded": _folded, "fft": _fft}[backend](images, weights)


def _exact() -> torch.dtype:
    """Float32, or float64 where torch's ``fp32_precision`` makes convolutions of float32 bfloat16 ones: other threads
    may rely on that setting, so it stays as it is."""
    conv = getattr(torch.backends.mkldnn, "conv", None)  # since torch 2.9
    return torch.float32 if getattr(conv, "fp32_precision", "none") in ("ieee", "none") else torch.float64


def _folded(images: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    keep_heap()
    count, channels, height, width = images.shape
    pad = weights.shape[-1] // 2
    # The kernel works on blocks of 16 channels: a lone photograph is cut into strips of rows to fill one.
    strips = -(-16 // (count * channels)) if height * width > 64 * 64 else 1
    groups, exact = count * channels * strips, _exact()
    if strips == 1:
        stacked, row_padding = images.to(exact), pad
    else:
        rows = -(-height // strips)
        padded = F.pad(images, (0, 0, pad, pad + strips * rows - height))
        stacked, row_padding = padded.unfold(2, rows + 2 * pad, rows).transpose(3, 4).to(exact), 0
    blurred = F.conv2d(
        stacked.reshape(1, groups, -1, width),
        weights.to(exact).repeat_interleave(channels * strips, 0)[:, None],
        padding=(row_padding, pad),
        groups=groups,
    )
    return blurred.view(count, channels, -1, width)[:, :, :height].contiguous().float()


def _fft(images: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    height, width = images.shape[2:]
    pad = weights.shape[-1] // 2
    size = [-(-(side + 2 * pad) // 16) * 16 for side in (height, width)]  # multiples of 16 transform fast
    spectrum = torch.fft.rfft2(images.double(), s=size)
    spectrum *= torch.fft.rfft2(weights.double().flip(1, 2), s=size)[:, None]
    blurred = torch.fft.irfft2(spectrum, s=size)[..., pad : pad + height, pad : pad + width]
    return (blurred * GRID).round_().div_(GRID).float().contiguous()


def convolve_at(image: np.ndarray, weights: np.ndarray, places: np.ndarray) -> np.ndarray:
    """As :func:`convolve`, at a few values of one image alone, counted in the flattened image: float32 (n,).

    ``image`` is uint8 (H, W, C), ``weights`` float32 (k, k), k odd, ``places`` int64 (n,).
    """
    height, width, channels = image.shape
    pad = len(weights) // 2
    padded = np.zeros((height + 2 * pad, width + 2 * pad, channels), np.float32)
    padded[pad : pad + height, pad : pad + width] = image
    corners = np.ravel_multi_index(np.unravel_index(places, image.shape), padded.shape)
    rows, columns = np.divmod(np.arange(weights.size), len(weights))
    windows = padded.ravel()[corners[:, None] + (rows * padded.shape[1] + columns) * channels]
    return windows @ weights.ravel()


def halo(image: torch.Tensor, weights: np.ndarray, step: int, result: torch.Tensor) -> None:
    """Add soft, shifted copies of an image to it, and divide by the sum of the weights: uint8 (C, H, W), H and W
    greater than (k + 1) * step, to whole numbers in 0..255 that are written to ``result``, uint8 or float32 (C, H, W).

    The filter, seen from its 1, is spread so that its entries lie ``step`` pixels apart, 1..MAX_STEP, and every entry
    but the 1 is smeared over ``step`` x ``step`` pixels: the image stays sharp and gets a glow. Borders are mirrored.
    The other entries of ``weights``, float32 (k, k), are multiples of 1 / HALO_GRID from 0 up with a sum below 15.
    """
    reach, taps = _taps(weights, step)
    gain = 1 / float(weights.sum())
    width = image.shape[2]
    for channel, target in zip(image, result, strict=True):
        for rows, soft in _soft_strips(channel, reach, step):
            part = channel[rows].float()
            soft.mul_(SOFT_GRID / step**2).round_()
            for down, right, weight in taps:
                part.add_(soft[down : down + len(part), right : right + width], alpha=weight / SOFT_GRID)
            target[rows] = part.mul_(gain).round_()


def add_soft_copies(channel: torch.Tensor, weights: np.ndarray, step: int, result: torch.Tensor, times: float) -> None:
    """Add what :func:`halo` adds, not rounded, ``times`` over: float32 (H, W) of one channel, to the same."""
    reach, taps = _taps(weights, step)
    width = channel.shape[1]
    for rows, soft in _soft_strips(channel, reach, step):
        part = result[rows]
        for down, right, weight in taps:
            part.add_(soft[down : down + len(part), right : right + width], alpha=times * weight / step**2)


def _soft_strips(channel: torch.Tensor, reach: int, step: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """Some rows of a channel (H, W) at a time, and the sums of the ``step`` x ``step`` windows of these and what lies
    within reach, float32; beyond the border the channel is mirrored."""
    height, width = channel.shape
    padded = np.pad(channel.numpy(), reach, mode="reflect")
    count = max(4 * reach, STRIP // width)
    for top in range(0, height, count):
        rows = slice(top, min(top + count, height))
        around = torch.from_numpy(padded[rows.start : rows.stop + 2 * reach]).float()
        yield rows, _window_sums(_window_sums(around, step, 1), step, 0)


def _taps(weights: np.ndarray, step: int) -> tuple[int, list[tuple[int, int, float]]]:
    """How many pixels a halo needs around a picture, and its copies: row and column of each in the sums of the padded
    picture's ``step`` x ``step`` windows, and weight."""
    size = len(weights)
    row, column = divmod(int((weights == 1).argmax()), size)
    reach = (size - 1) * step + step // 2 + 1
    start = reach - step // 2
    taps = [
        (start + (i - row) * step, start + (j - column) * step, float(weights[i, j]))
        for i, j in np.argwhere(weights).tolist()
        if (i, j) != (row, column)
    ]
    return reach, taps


def _window_sums(values: torch.Tensor, length: int, dim: int) -> torch.Tensor:
    """Sums of ``length`` neighbours along ``dim``, which gets shorter by length - 1; from sums of 1, 2, 4, ..."""
    count = values.shape[dim] - length + 1
    total, done, size = None, 0, 1
    while True:
        if length & size:
            part = values.narrow(dim, done, count)
            total = part if total is None else total + part
            done += size
            if done == length:
                return total
        shorter = values.shape[dim] - size
        values = values.narrow(dim, 0, shorter) + values.narrow(dim, size, shorter)
        size *= 2
