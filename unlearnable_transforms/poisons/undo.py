"""Undoing protection: what the methods' ``_unlock`` share."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..noise.table import NoiseTable, id_array
from ..pixels import grey_rows
from ..sample import SampleError, sample_ids
from .base import Poison, whole_levels
from .batches import counted_in, in_batches

Protect = Callable[[Tensor, Sequence[str], Sequence[bytes] | None], Tensor]

NO_NOISE = (
    "the method has no noise for these pictures: they were changed since it protected them (resized, saved as JPEG, "
    "undone in another link of a chain), have another label, or are another fit's or key's. The ledger of the "
    "protection may know them: pass it"
)
NO_ID = (
    "the noise of this method follows from the id of the clean picture, which stands in the ledger of the protection "
    "alone: pass it"
)


def unlock_arrays(
    poison: Poison,
    images: Sequence[np.ndarray],
    tokens: Sequence[str],
    ids: Sequence[bytes | None],
    notes: Sequence[float | None],
) -> tuple[list[np.ndarray], list[bytes | None]]:
    """Undo the protection of opened images, uint8 (H, W, C) with C = 1 or 3, as nearly as can be.

    Args:
        poison: what they were protected with.
        images: protected; sizes may differ.
        tokens: class token of each.
        ids: sample id of each clean image, None where it is not known.
        notes: from the ledger, None where it is not known.

    Returns:
        The images, newly made; and ``ids`` with those filled in that the method itself keeps: these images are restored
        exactly.

    Raises:
        TypeError: the method cannot be undone.
        SampleError: images that cannot, rows named.
        NotFittedError: ``fit`` comes first.
    """
    poison._ready()
    known = list(ids)

    def undo(batch: Tensor, rows: list[int]) -> Tensor:
        names = [tokens[row] for row in rows]
        for row, remembered in zip(rows, poison.remembered_ids(batch, names), strict=True):
            known[row] = known[row] or remembered
        with counted_in(rows):
            clean = poison._unlock(batch, names, [known[row] for row in rows], [notes[row] for row in rows])
        return whole_levels(clean, batch, f"{type(poison).__name__}._unlock")

    return in_batches(images, undo), known


# ---- noise that is kept in a table -----------------------------------------------------------------------------------


def table_rows(table: NoiseTable, images: Tensor, tokens: Sequence[str], ids: Sequence[bytes | None]) -> np.ndarray:
    """The row of each protected image, uint8 (B, C, H, W): by its clean id, else by its own; -1 where neither is
    known."""
    rows = table.find(id_array([id_ or bytes(16) for id_ in ids]))
    if unknown := np.flatnonzero(rows < 0).tolist():
        rows[unknown] = table.find_protected(sample_ids(images[unknown], [tokens[row] for row in unknown]))
    return rows


def subtract_stored(table: NoiseTable, images: Tensor, tokens: Sequence[str], ids: Sequence[bytes | None]) -> Tensor:
    """Protected images, uint8 (B, C, H, W), without their effective deltas: exact, if nothing else changed them.

    Raises:
        SampleError: the table does not know the image.
    """
    rows = table_rows(table, images, tokens, ids)
    if (rows < 0).any():
        raise SampleError(NO_NOISE, np.flatnonzero(rows < 0).tolist())
    clean = images.numpy().astype(np.int16)
    for picture, row in zip(clean, rows.tolist(), strict=True):
        picture -= table[row]
    return torch.from_numpy(clean.clip(0, 255).astype(np.uint8))


# ---- noise that follows from key, class and the clean picture's id ---------------------------------------------------


def subtract_keyed(protect: Protect, images: Tensor, tokens: Sequence[str], ids: Sequence[bytes | None]) -> Tensor:
    """Protected images, uint8 (B, C, H, W), without noise that follows from size, greyness, class and clean id alone.

    Exact but for pixels that the noise led out of 0..255: those can have had several values, and get the middle one.

    Raises:
        SampleError: an id is missing.
    """
    missing = [row for row, id_ in enumerate(ids) if id_ is None]
    if missing:
        raise SampleError(NO_ID, missing)
    noise = _added(protect, images, tokens, [id_ for id_ in ids if id_ is not None])
    protected = images.numpy().astype(np.int16)
    cut = ((protected == 255) & (noise > 0)) | ((protected == 0) & (noise < 0))
    clean = protected - np.where(cut, noise // 2, noise)
    return torch.from_numpy(clean.clip(0, 255).astype(np.uint8))


def _added(protect: Protect, images: Tensor, tokens: Sequence[str], ids: Sequence[bytes]) -> np.ndarray:
    """The noise of some pictures, int16 (B, C, H, W): what is added to black where that is more, else to white."""
    black, white = torch.zeros_like(images), torch.full_like(images, 255)
    colour = ~grey_rows(images)
    black[colour, -1], white[colour, -1] = 1, 254  # not grey either
    up, down = (protect(plain, tokens, ids).short() - plain.short() for plain in (black, white))
    return torch.where(up > 0, up, down).numpy()


# ---- pixels that were overwritten ------------------------------------------------------------------------------------


def fill_in(protect: Protect, images: Tensor, tokens: Sequence[str]) -> Tensor:
    """Protected images, uint8 (B, C, H, W), with the mean of what lies around in the place of pixels that the method
    overwrites whatever they were, since what was there is lost: float32, whole numbers."""
    black, white = (protect(plain, tokens, None) for plain in (torch.zeros_like(images), torch.full_like(images, 255)))
    lost = (black == white).all(1, keepdim=True)
    values = images.float()
    while lost.any():
        known = (~lost).float()
        around, count = (F.avg_pool2d(sums, 3, 1, 1) for sums in (values * known, known))
        edge = lost & (count > 0)
        if not edge.any():  # nothing of the picture is left
            break
        values = torch.where(edge, around / count.clamp_min(1e-6), values)
        lost = lost & ~edge
    return values.round()
