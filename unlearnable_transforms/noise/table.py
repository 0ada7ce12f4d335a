"""A table of noise: sample id -> int8 effective delta (protected - clean), and the protected image's id.

On disk it is one or more Safetensors shards, each with one flat int8 blob and an index: sorted ids, offsets into the
blob, shapes, and a checksum a row. Blobs stay on the disk, mapped into memory by the Safetensors library. Every row
that is looked up is verified: a damaged row is an error, never wrong noise. An index is verified when it is opened.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..errors import UnlearnableError
from ..files import open_regular

ID = np.dtype("S16")  # sorts and compares as bytes
REMEDY = "remove it (`unlearnable cache rm`) and fit again, or import it from a copy"
_INDEX = ("ids", "protected", "offsets", "shapes", "checks")


class NoiseError(UnlearnableError, RuntimeError):
    """Noise that is damaged, missing, or somebody else's."""


@dataclass(frozen=True)
class Shard:
    """The arrays of one file; rows in the order of their ids.

    Attributes:
        ids, protected: (n,) of type ``ID``: of the clean and of the protected images.
        offsets: int64 (n,), where each delta begins in the blob.
        shapes: int32 (n, 3), channels, height, width.
        checks: uint64 (n,), of id, shape, protected id and delta.
        blob: int8 (total,), or what gives slices of it.
    """

    ids: np.ndarray
    protected: np.ndarray
    offsets: np.ndarray
    shapes: np.ndarray
    checks: np.ndarray
    blob: Any

    @classmethod
    def build(cls, ids: np.ndarray, protected: np.ndarray, shapes: np.ndarray, blob: np.ndarray) -> Self:
        """A shard of deltas that follow each other in ``blob`` in the order of the sorted ``ids``."""
        shapes = shapes.astype(np.int32).reshape(-1, 3)
        ends = np.cumsum(shapes.prod(axis=1, dtype=np.int64))
        offsets = np.concatenate([[0], ends[:-1]]).astype(np.int64)
        checks = [
            _check(ids, protected, shapes, row, blob[start:end])
            for row, (start, end) in enumerate(zip(offsets, ends, strict=True))
        ]
        return cls(ids, protected, offsets, shapes, np.array(checks, np.uint64), blob)

    def index(self) -> list[np.ndarray]:
        """Everything but the blob."""
        return [getattr(self, name) for name in _INDEX]

    def index_checksum(self) -> str:
        """xxh3-128 of everything but the blob, whose rows have checksums of their own."""
        return xxhash.xxh3_128_hexdigest(b"".join(array.tobytes() for array in self.index()))

    def save(self, path: Path) -> None:
        """Write the shard's file."""
        ids, protected = (array.view(np.uint8).reshape(-1, 16) for array in (self.ids, self.protected))
        arrays = {**dict(zip(_INDEX, self.index(), strict=True)), "ids": ids, "protected": protected}
        save_file({**arrays, "blob": np.ascontiguousarray(self.blob)}, path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a shard's file; the index is read, the blob is not.

        Raises:
            NoiseError: the file is missing, cut off, or not a shard.
        """
        try:
            open_regular(path).close()  # nothing waits for a pipe
            with safe_open(path, "np") as file:
                ids, protected, offsets, shapes, checks = map(file.get_tensor, _INDEX)
                blob = file.get_slice("blob")
            ids, protected = (array.view(ID).reshape(-1) for array in (ids, protected))
            sizes, (total,) = shapes.prod(axis=1, dtype=np.int64), blob.get_shape()
            whole = len(ids) == len(protected) == len(offsets) == len(shapes) == len(checks)
            if not whole or shapes.shape[1:] != (3,) or int(sizes.sum()) != total:
                raise ValueError("its arrays do not fit together")
            if ((shapes < 0).any(axis=1) | (offsets < 0) | (offsets + sizes > total)).any():
                raise ValueError("its index leads out of it")
            return cls(ids, protected, offsets, shapes, checks, blob)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise NoiseError(f"{path} is damaged ({error}): {REMEDY}") from None


class NoiseTable:
    """Noise of a data set, found by sample id.

    Args:
        shards: at least one; no id may be in two of them.

    Raises:
        NoiseError: an id occurs twice.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._blobs = [shard.blob for shard in shards]
        index = [np.concatenate(arrays) for arrays in zip(*(shard.index() for shard in shards), strict=True)]
        number = np.repeat(np.arange(len(shards)), [len(shard.ids) for shard in shards])
        order = np.argsort(index[0], kind="stable")
        self.ids, self.protected, self._offsets, self.shapes, self._checks = (array[order] for array in index)
        self._shard = number[order]
        if (self.ids[1:] == self.ids[:-1]).any():
            raise NoiseError(f"the noise knows a picture twice: {REMEDY}")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def digest(self) -> str:
        """32 hexadecimal digits that name the noise: equal for equal noise, however it is cut into shards."""
        # The checks cover protected ids, shapes and deltas.
        return xxhash.xxh3_128_hexdigest(self.ids.tobytes() + self._checks.tobytes())

    def find(self, ids: Sequence[bytes] | np.ndarray) -> np.ndarray:
        """The row of each id, int64; -1 where the table does not have it."""
        return _places(self.ids, np.arange(len(self)), ids)

    def find_protected(self, ids: Sequence[bytes]) -> np.ndarray:
        """The row of each protected image's id, int64; -1 where the table does not have it."""
        order = np.argsort(self.protected, kind="stable")
        return _places(self.protected[order], order, ids)

    def covers(self, ids: np.ndarray) -> bool:
        """Whether the table has all of these ids."""
        return len(ids) <= len(self) and bool((self.find(ids) >= 0).all())

    def __getitem__(self, row: int) -> np.ndarray:
        """The delta of a row, verified: int8 (C, H, W); C = 1 for a grey image, to be added to every channel.

        Raises:
            NoiseError: the row is damaged.
        """
        start, shape = int(self._offsets[row]), self.shapes[row]
        stored = self._blobs[self._shard[row]][start : start + int(shape.prod(dtype=np.int64))]
        delta = stored.view(np.int8)  # whatever a damaged header says: the checksum is of these bytes
        if _check(self.ids, self.protected, self.shapes, row, delta) != self._checks[row]:
            raise NoiseError(f"the noise of picture {self.ids[row : row + 1].tobytes().hex()} is damaged: {REMEDY}")
        return delta.reshape(shape)


def id_array(ids: Sequence[bytes]) -> np.ndarray:
    """Ids of 16 bytes as one array of type ``ID``."""
    return np.frombuffer(b"".join(ids), ID)


def _places(known: np.ndarray, rows: np.ndarray, ids: Sequence[bytes] | np.ndarray) -> np.ndarray:
    """For each id the entry of ``rows`` at its place among sorted ids, or -1."""
    asked = ids if isinstance(ids, np.ndarray) else id_array(ids)
    if not len(known):
        return np.full(len(asked), -1)
    places = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    return np.where(known[places] == asked, rows[places], -1)


def _check(ids: np.ndarray, protected: np.ndarray, shapes: np.ndarray, row: int, delta: np.ndarray) -> int:
    index = ids[row : row + 1].tobytes() + protected[row : row + 1].tobytes() + shapes[row].tobytes()
    return xxhash.xxh3_64_intdigest(index + delta.tobytes())
