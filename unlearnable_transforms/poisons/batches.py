"""Opened pictures of any size <-> batches of equal shape, with errors about the right rows."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from ..sample import SampleError


def in_batches(
    images: Sequence[np.ndarray], change: Callable[[torch.Tensor, list[int]], torch.Tensor]
) -> list[np.ndarray]:
    """Opened pictures changed in batches of equal shape: ``change`` gets each, (B, C, H, W), and its rows."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, image in enumerate(images):
        groups.setdefault(image.shape, []).append(row)
    result: list[np.ndarray] = [np.empty(0)] * len(images)
    for rows in groups.values():
        batch = torch.from_numpy(np.stack([images[row] for row in rows])).permute(0, 3, 1, 2).contiguous()
        changed = change(batch, rows).to(torch.uint8)
        del batch  # photographs are large
        for row, colour in zip(rows, changed.permute(0, 2, 3, 1).contiguous().numpy(), strict=True):
            result[row] = colour
    return result


@contextmanager
def counted_in(rows: Sequence[int]) -> Iterator[None]:
    """Errors about rows of a batch become errors about ``rows``, where its pictures stand."""
    try:
        yield
    except SampleError as error:
        raise SampleError.at([rows[row] for row in error.rows], error) from None
