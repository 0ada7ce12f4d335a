"""The pictures that a fit learns from: any data set, read once, in the order of the sample ids, each picture once.

The order and the copies in the data set therefore leave no trace in the noise. Pixels lie in a nameless temporary file
in the cache folder, mapped into memory, which is gone when the process ends, however it ends.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import xxhash
from torch import Tensor

from ..data.base import TRAIN, Rows
from ..data.image import Opened, open_image
from ..data.open import open_data
from ..data.table import TableRows
from ..errors import UsageTypeError, WorkError
from ..files import private_directory, replacing
from ..sample import SampleError, batch_tokens, class_tokens, class_value, sample_id
from .table import ID, NoiseTable, id_array

MIXED_SIDE = 64  # pixels, at which noise for pictures of several sizes is made: about what a victim shrinks them to


class Sample(NamedTuple):
    """One opened picture: uint8 (H, W, C), C = 1 or 3; class token; sample id."""

    colour: np.ndarray
    token: str
    id: bytes


class Source:
    """A labelled data set that can be read more than once.

    Args:
        data: rows that are open already, or what :func:`~unlearnable_transforms.data.open.open_data` takes but for
            several splits.
        transform: applied to each image first, as whoever calls the poison does.
        through: what other methods make of the images before: takes and gives opened images, with their tokens.
            The ids are those of the clean images.
        image_key, label_key, classes: as the poison's.

    Raises:
        TypeError: a streaming data set, several splits, or something else.
    """

    def __init__(
        self,
        data: Any,
        transform: Callable[[Any], Any] | None = None,
        through: Callable[[list[np.ndarray], list[str]], list[np.ndarray]] | None = None,
        *,
        image_key: str | None = None,
        label_key: str | None = None,
        classes: list | None = None,
    ) -> None:
        self.transform, self.through, self.classes = transform, through, classes
        if type(data).__name__ in ("DatasetDict", "IterableDatasetDict"):
            raise UsageTypeError(f"fit learns from one data set: pass a split of {sorted(data)}, usually data['train']")
        if not isinstance(data, Rows):
            data = open_data(data, what="training", image_key=image_key, label_key=label_key).pick(TRAIN)
        self.rows = data

    def __iter__(self) -> Iterator[Sample]:
        """All samples in the data set's order.

        Raises:
            SampleError: an image or label that cannot be read; the row is named.
        """
        labels = self.rows.labels
        if labels is None:
            raise SampleError("the training data have no labels (docs/labels.md)")
        tokens = batch_tokens(labels, len(self.rows), self.classes)
        for first, opened in self._opened():
            colours, names = [image.colour for image in opened], tokens[first : first + len(opened)]
            ids = list(map(sample_id, colours, names))
            if self.through is not None:
                try:
                    colours = self.through(colours, names)
                except SampleError as error:
                    raise SampleError.at([first + row for row in error.rows], error) from None
            yield from map(Sample, colours, names, ids)

    def _opened(self) -> Iterator[tuple[int, list[Opened]]]:
        if self.transform is None:
            yield from self.rows.chunks()
            return
        for row in range(len(self.rows)):
            (stored,) = self.rows.stored(range(row, row + 1))
            try:
                yield row, [open_image(self.transform(as_given(self.rows.open(stored), stored)))]
            except (TypeError, ValueError) as error:
                raise SampleError.at([row], error) from None

    # ---- a memo of the ids, so that a data set that was read before need not be decoded again ------------------------

    def remembered(self) -> np.ndarray | None:
        """The sorted ids, of type ``ID``, of a ``datasets.Dataset`` that was read before, where they are known."""
        path = self._memo()
        if path is None or not path.exists():
            return None
        content = path.read_bytes()
        if xxhash.xxh3_128_digest(content[:-16]) != content[-16:]:
            return None  # damaged: the data set is read again
        return np.frombuffer(content[:-16], ID)

    def remember(self, ids: np.ndarray) -> None:
        """Keep the ids for :meth:`remembered`."""
        path = self._memo()
        if path is not None:
            with replacing(path) as temporary:
                temporary.write_bytes(ids.tobytes() + xxhash.xxh3_128_digest(ids.tobytes()))

    def _memo(self) -> Path | None:
        rows = self.rows
        if not isinstance(rows, TableRows) or self.transform is not None or rows.max_side is not None:
            return None
        columns = (rows.image_key, rows.label_key)
        selected = rows.data.with_format(None).select_columns(list(filter(None, columns)))
        digest = xxhash.xxh3_128(f"1|{selected._fingerprint}|{columns}|{self.classes}".encode())
        stored = selected.data.column(rows.image_key)
        if any(chunk.type.num_fields != 2 for chunk in stored.chunks):
            return None  # not pictures: reading them will say so
        for chunk in stored.chunks:
            if chunk.field("bytes").null_count:  # in files: these may change, and the fingerprint would not
                for path in chunk.field("path").to_pylist():
                    if path is None or not os.path.exists(path):
                        return None
                    status = os.stat(path)
                    digest.update(f"{path}|{status.st_size}|{status.st_mtime_ns}".encode())
        return private_directory("noise", "memo") / digest.hexdigest()


class Pictures:
    """The samples of a source, for training: pixels of one size and classes as numbers.

    Args:
        source: read on the way; kept to read full-sized images again.
        size: (height, width) in pixels that images are resized to; None keeps the size that all have, or takes a
            square of ``MIXED_SIDE`` where they differ.
        classes: sorted tokens; None: of the source's class list, or of the classes that occur.
        known: images that are in this table are left out.

    Attributes:
        ids: (N,) of type ``ID``, sorted, each once.
        labels: int64 (N,), places in ``classes``.
        shapes: int32 (N, 3), channels (1: grey), height, width at full size.
        grey: bool (N,).

    Raises:
        SampleError: as iterating the source; fewer than two classes, or one that is not in ``classes``.
    """

    def __init__(
        self,
        source: Source,
        size: tuple[int, int] | None = None,
        classes: list[str] | None = None,
        known: NoiseTable | None = None,
    ) -> None:
        self.source, self._known = source, known
        with tempfile.TemporaryFile(dir=private_directory("noise")) as self._file:
            samples = self._read(size)
            if samples is None:
                samples = self._read((MIXED_SIDE, MIXED_SIDE)) or []
            self._file.flush()
            if samples:  # the mapping outlives the file
                self._pixels = np.memmap(self._file, np.uint8, "r", shape=(len(samples), 3, *self.size))
        ids = id_array([id_ for id_, _, _ in samples])
        self.ids, self._places = np.unique(ids, return_index=True)
        tokens = [samples[place][1] for place in self._places]
        if classes is None:
            classes = sorted(class_tokens(source.classes) if source.classes else set(tokens))
            if len(set(tokens)) < 2:
                raise SampleError(
                    f"there are {len(tokens)} different pictures of {len(set(tokens))} classes: a method that learns "
                    "what tells classes apart needs two of each; CUDA protects single classes"
                )
        numbers = {token: number for number, token in enumerate(classes)}
        if unknown := sorted(set(tokens) - set(numbers)):
            raise SampleError(
                f"the classes {list(map(class_value, unknown))} were not there when the method was fitted"
            )
        self.classes = classes
        self.labels = torch.tensor([numbers[token] for token in tokens], dtype=torch.int64)
        self.shapes = np.array([samples[place][2] for place in self._places], np.int32).reshape(-1, 3)
        self.grey = torch.from_numpy(self.shapes[:, 0] == 1)

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rows: np.ndarray | slice) -> Tensor:
        """uint8 (B, 3, height, width) of some rows, in id order."""
        return torch.from_numpy(self._pixels[self._places[rows]])

    def at_full_size(self) -> Iterator[tuple[int, np.ndarray]]:
        """Row and uint8 (H, W, C) of each picture, in any order."""
        if (self.shapes[:, 1:] == self.size).all():
            for row, place in enumerate(self._places):
                yield row, self._pixels[place, : self.shapes[row, 0]].transpose(1, 2, 0)
            return
        rows = {self.ids[row : row + 1].tobytes(): row for row in range(len(self))}
        for sample in self._samples():
            if sample.id in rows:
                yield rows.pop(sample.id), as_grey(sample.colour)
        if rows:
            raise WorkError("the data set changed while it was read: fit again")

    def _read(self, size: tuple[int, int] | None) -> list[tuple[bytes, str, tuple[int, int, int]]] | None:
        """Write all pixels, resized to ``size``, to the file: id, token, shape of each image; None if sizes differ."""
        self._file.seek(0)
        self._file.truncate()
        fixed, samples = size is not None, []
        for sample in self._samples():
            colour = as_grey(sample.colour)
            if size is None:
                size = colour.shape[:2]
            if colour.shape[:2] != size:
                if not fixed:
                    return None
                pixels = resize(torch.from_numpy(colour.copy()).permute(2, 0, 1)[None].float(), size)
                colour = pixels[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
            planes = np.broadcast_to(colour.transpose(2, 0, 1), (3, *size))
            self._file.write(np.ascontiguousarray(planes).data)
            height, width = sample.colour.shape[:2]
            samples.append((sample.id, sample.token, (colour.shape[2], height, width)))
        self.size = size or (0, 0)
        return samples

    def _samples(self) -> Iterator[Sample]:
        for sample in self.source:
            if self._known is None or self._known.find([sample.id])[0] < 0:
                yield sample


def as_given(opened: Opened, stored: Any) -> Any:
    """What a transform expects: a stored image as it is, an encoded one as a PIL image."""
    return opened.close(opened.colour) if isinstance(stored, Mapping) else stored


def as_grey(colour: np.ndarray) -> np.ndarray:
    """A picture (H, W, C) with one channel if all its channels are equal: both have one id, and so one noise."""
    if colour.shape[2] == 3 and (colour == colour[:, :, :1]).all():
        return colour[:, :, :1]
    return colour


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Float (B, C, H, W) -> (B, C, *size), bilinear, with antialiasing where it shrinks."""
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
