"""A table of noise: sample id -> int8 effective delta (protected - clean), and the protected picture's id.

On disk it is one or more Safetensors shards, each with one flat int8 blob and an index: sorted ids, offsets into the
blob, shapes, and a checksum a row. Blobs are memory maps, shared by all processes that read them, and every row that is
looked up is verified: a damaged row is an error, never wrong noise. The index is verified when a shard is opened.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import xxhash
from safetensors.numpy import save_file

from ..errors import UnlearnableError
from ..files import fits, open_regular, parse_json

ID = np.dtype("S16")  # sorts and compares as bytes
REMEDY = "remove it (`unlearnable cache rm`) and fit again, or import it from a copy"
_ENTRY = {"dtype": str, "shape": [int], "data_offsets": [int]}
_TYPES = {"I8": np.int8, "U8": np.uint8, "I32": np.int32, "I64": np.int64, "U64": np.uint64}


class NoiseError(UnlearnableError, RuntimeError):
    """Noise that is damaged, missing, or somebody else's."""


class Row(NamedTuple):
    """One picture's noise.

    Attributes:
        delta: int8 (C, H, W); C = 1 for a grey picture, to be added to every channel.
        protected: id of the protected picture.
    """

    delta: np.ndarray
    protected: bytes


@dataclass(frozen=True)
class Shard:
    """The arrays of one file; rows in the order of their ids.

    Attributes:
        ids, protected: (n,) of type ``ID``: of the clean and of the protected pictures.
        offsets: int64 (n,), where each delta begins in the blob.
        shapes: int32 (n, 3), channels, height, width.
        checks: uint64 (n,), of id, shape, protected id and delta.
        blob: int8 (total,).
    """

    ids: np.ndarray
    protected: np.ndarray
    offsets: np.ndarray
    shapes: np.ndarray
    checks: np.ndarray
    blob: np.ndarray

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

    def index(self) -> tuple[np.ndarray, ...]:
        """Everything but the blob."""
        return self.ids, self.protected, self.offsets, self.shapes, self.checks

    def index_checksum(self) -> str:
        """xxh3-128 of everything but the blob, whose rows have checksums of their own."""
        digest = xxhash.xxh3_128()
        for array in self.index():
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write the shard's file."""
        save_file(
            {
                "ids": self.ids.view(np.uint8).reshape(-1, 16),
                "protected": self.protected.view(np.uint8).reshape(-1, 16),
                "offsets": self.offsets,
                "shapes": self.shapes,
                "checks": self.checks,
                "blob": np.ascontiguousarray(self.blob),
            },
            path,
        )

    @classmethod
    def open(cls, path: Path) -> Self:
        """Map a shard's file into memory; the index is copied out of it.

        Raises:
            NoiseError: the file is missing, cut off, or not a shard.
        """
        try:
            arrays = map_safetensors(path)
            ids, protected = (np.array(arrays[name]).view(ID).reshape(-1) for name in ("ids", "protected"))
            offsets, shapes, checks = (np.array(arrays[name]) for name in ("offsets", "shapes", "checks"))
            blob = arrays["blob"]
            sizes = shapes.prod(axis=1, dtype=np.int64)
            whole = len(ids) == len(protected) == len(offsets) == len(shapes) == len(checks)
            if not whole or shapes.shape[1:] != (3,) or blob.dtype != np.int8 or int(sizes.sum()) != len(blob):
                raise ValueError("its arrays do not fit together")
            if ((shapes < 0).any(axis=1) | (offsets < 0) | (offsets + sizes > len(blob))).any():
                raise ValueError("its index leads out of it")
            return cls(ids, protected, offsets, shapes, checks, blob)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
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

    @classmethod
    def build(cls, ids: Sequence[bytes], deltas: Sequence[np.ndarray], protected: Sequence[bytes]) -> Self:
        """A table in memory, of int8 deltas (C, H, W) in any order."""
        known = id_array(ids)
        order = np.argsort(known, kind="stable")
        shapes = np.array([deltas[row].shape for row in order], np.int32)
        blob = np.concatenate([deltas[row].reshape(-1) for row in order])
        return cls([Shard.build(known[order], id_array(protected)[order], shapes, blob)])

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def digest(self) -> str:
        """32 hexadecimal digits that name the noise: equal for equal noise, however it is cut into shards."""
        digest = xxhash.xxh3_128(self.ids.tobytes())
        digest.update(self._checks.tobytes())  # which cover protected ids, shapes and deltas
        return digest.hexdigest()

    def find(self, ids: Sequence[bytes] | np.ndarray) -> np.ndarray:
        """The row of each id, int64; -1 where the table does not have it."""
        wanted = ids if isinstance(ids, np.ndarray) else id_array(ids)
        if not len(self.ids):
            return np.full(len(wanted), -1)
        rows = np.minimum(np.searchsorted(self.ids, wanted), len(self.ids) - 1)
        return np.where(self.ids[rows] == wanted, rows, -1)

    def find_protected(self, ids: Sequence[bytes]) -> np.ndarray:
        """The row of each protected picture's id, int64; -1 where the table does not have it."""
        order = np.argsort(self.protected, kind="stable")
        wanted, known = id_array(ids), self.protected[order]
        rows = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return np.where(known[rows] == wanted, order[rows], -1)

    def covers(self, ids: np.ndarray) -> bool:
        """Whether the table has all of these ids."""
        return len(ids) <= len(self) and bool((self.find(ids) >= 0).all())

    def __getitem__(self, row: int) -> Row:
        """The noise of a row, verified.

        Raises:
            NoiseError: the row is damaged.
        """
        start, shape = int(self._offsets[row]), self.shapes[row]
        delta = self._blobs[self._shard[row]][start : start + int(shape.prod(dtype=np.int64))]
        if _check(self.ids, self.protected, self.shapes, row, delta) != self._checks[row]:
            raise NoiseError(f"the noise of picture {self.ids[row : row + 1].tobytes().hex()} is damaged: {REMEDY}")
        return Row(delta.reshape(shape), self.protected[row : row + 1].tobytes())

    def verify(self) -> None:
        """Read and verify every row.

        Raises:
            NoiseError: a row is damaged.
        """
        for row in range(len(self)):
            self[row]


def id_array(ids: Sequence[bytes]) -> np.ndarray:
    """Ids of 16 bytes as one array of type ``ID``."""
    return np.frombuffer(b"".join(ids), ID)


def _check(ids: np.ndarray, protected: np.ndarray, shapes: np.ndarray, row: int, delta: np.ndarray) -> int:
    digest = xxhash.xxh3_64(ids[row : row + 1].tobytes())
    digest.update(protected[row : row + 1].tobytes())
    digest.update(shapes[row].tobytes())
    digest.update(np.ascontiguousarray(delta).data)
    return digest.intdigest()


def map_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a Safetensors file as read-only memory maps: the library's own reader copies them.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError: the file is damaged.
    """
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
        if length > 1 << 20:
            raise ValueError("its header is unreadable")
        header = parse_json(file.read(length), {str: dict})
        data = np.memmap(file, np.uint8, "r", offset=8 + length)
    arrays = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not fits(entry, _ENTRY):
            raise ValueError("its header is unreadable")
        start, end = entry["data_offsets"]
        if not 0 <= start <= end <= len(data):
            raise ValueError("it is cut off")
        arrays[name] = data[start:end].view(_TYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays
