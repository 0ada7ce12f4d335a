"""From noise at the work size to the effective delta of each image, as the cache keeps it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..noise.cache import SHARD_BYTES
from ..noise.pictures import Pictures, resize
from ..noise.table import ID, Shard, id_array
from ..pixels import psnr
from ..sample import sample_id


def cut_shards(
    pictures: Pictures, noise: np.ndarray, levels: int, work: Path
) -> tuple[Iterator[Shard], dict[str, Any]]:
    """Shards of effective deltas, made as they are asked for, and how strong the noise is."""
    sizes = pictures.shapes.prod(axis=1, dtype=np.int64)
    ends = np.cumsum(sizes)
    starts = ends - sizes
    blob = open_buffer(work / "deltas", (int(ends[-1]),))
    protected = np.zeros(len(pictures), ID)
    largest, quality = 0, []
    for row, clean in pictures.at_full_size():
        delta = at_size(noise[row], clean, levels)
        changed = (clean + delta).astype(np.uint8)
        blob[starts[row] : ends[row]] = delta.transpose(2, 0, 1).reshape(-1)
        protected[row] = id_array([sample_id(changed, pictures.classes[int(pictures.labels[row])])])[0]
        largest = max(largest, int(np.abs(delta).max()))
        if delta.any():
            quality.append(psnr(clean, changed))
    measured = {
        "rows": len(pictures),
        "largest_delta": largest,
        "psnr": float(np.mean(quality)) if quality else None,
        "unchanged": len(pictures) - len(quality),
    }

    def shard(rows: np.ndarray) -> Shard:
        deltas = np.array(blob[starts[rows[0]] : ends[rows[-1]]])
        return Shard.build(pictures.ids[rows], protected[rows], pictures.shapes[rows], deltas)

    cuts = np.flatnonzero(np.diff(starts // SHARD_BYTES)) + 1
    return map(shard, np.split(np.arange(len(sizes)), cuts)), measured


def at_size(noise: np.ndarray, clean: np.ndarray, levels: int) -> np.ndarray:
    """The effective delta of one image: int16 (H, W, C), at most ``levels``, so that clean + delta is in 0..255.

    Args:
        noise: int8 (3, h, w), the three channels equal for a grey image.
        clean: uint8 (H, W, C), C = 1 for a grey image.
        levels: bound.
    """
    if noise.shape[1:] != clean.shape[:2]:
        enlarged = resize(torch.from_numpy(np.array(noise[None], np.float32)), (clean.shape[0], clean.shape[1]))
        noise = enlarged[0].round().clamp(-levels, levels).numpy()
    full = noise[: clean.shape[2]].transpose(1, 2, 0).astype(np.int16)
    return np.clip(clean + full, 0, 255) - clean


def open_buffer(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """int8 zeros in a file of mode 0600; what is in it already if a fit goes on."""
    size = int(np.prod(shape, dtype=np.int64))
    if not path.exists() or path.stat().st_size != size:
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        os.truncate(path, size)
    return np.memmap(path, np.int8, "r+", shape=shape)
