"""A labelled data set, read and written in one way for every verb.

Protecting, fitting, evaluating, auditing, publishing and undoing all read through a :class:`LabelledSet`, so that one
source means the same rows, classes, labels and splits everywhere. A format is one file of this folder: a subclass of
:class:`LabelledSet` for what it writes, and one of :class:`Rows` for what it reads.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError, UsageTypeError
from ..sample import SampleError, SampleTypeError, batch_tokens, class_value
from .classes import class_numbers
from .image import Opened, open_chunks, open_image
from .shrink import shrink
from .splits import is_train_split, leading_split
from .walk import readable_name

if TYPE_CHECKING:
    from .codec import Codec

Label = int | str
TRAIN = "train"  # the name of the only split where a source does not name its splits


class SourceChanged(UsageError):
    """A source is not what it was when the run began."""


@dataclass(frozen=True)
class Unit:
    """What one worker writes whole: one output file, made of some rows of a split.

    Attributes:
        target: path below the output folder, with ``/``; it names the unit in the journal.
        split: name of the split.
        start, stop: the rows, counted in the split.
        size: of the source, in bytes, about.
        stamp: JSON value that changes when the source may have changed: sizes and time stamps of files.
    """

    target: str
    split: str
    start: int
    stop: int
    size: int
    stamp: Any = field(default=None, compare=False)  # a list: not hashable

    @property
    def rows(self) -> range:
        """The rows, counted in the split."""
        return range(self.start, self.stop)


class Rows:
    """The rows of one split.

    Attributes:
        name: of the split.
        labels: one class a row, an integer or text, as the source has it; None where the source has no labels.
        max_side: images are made smaller to this longest side, in pixels, when they are opened; None: they are not.
        convert: whether encoded images that are no 8-bit RGB or grey, or have several frames, are converted.
    """

    name: str = TRAIN
    labels: Sequence[Any] | None = None
    max_side: int | None = None
    convert: bool = False

    def __len__(self) -> int:
        raise UsageTypeError(f"{type(self).__name__} does not say how many rows it has")

    def stored(self, rows: range) -> list[Any]:
        """The images of some rows as they are stored: what :meth:`open` takes. Encoded images stay encoded.

        Raises:
            OSError, ValueError: a file that cannot be read.
        """
        raise UsageTypeError(f"{type(self).__name__} does not say how it reads")

    def open(self, stored: Any) -> Opened:
        """One stored image as pixels.

        Raises:
            TypeError, ValueError: an image that is refused or cannot be read; the message says why.
        """
        return shrink(self.decode(stored), self.max_side)

    def decode(self, stored: Any) -> Opened:
        """One stored image as pixels, at its size: formats write this one."""
        return open_image(stored)

    def content(self, stored: Any) -> bytes:
        """What tells one stored image from another: the bytes of its file, else its pixels."""
        if not isinstance(stored, Mapping):
            pixels = np.asarray(stored)
            return f"{pixels.dtype}{pixels.shape}".encode() + pixels.tobytes()
        data, path = stored.get("bytes"), stored.get("path") or ""
        if data is None and Path(path).is_file():
            data = Path(path).read_bytes()
        return data if data is not None else path.encode()

    def place(self, row: int) -> str:
        """What a person calls the row: the path of a file, or ``train row 5``."""
        return f"{self.name} row {row}"

    def failure(self, row: int, error: Exception) -> SampleError:
        """The error about one row, which it names as a person does."""
        return SampleError.at([row], error)

    def encoded(self, row: int) -> tuple[str | None, bytes | None]:
        """The path that is stored beside an image, and its encoded bytes; None where there is none."""
        stored = self.stored(range(row, row + 1))[0]
        if isinstance(stored, Mapping) and {"bytes", "path"} & set(stored):
            return stored.get("path"), stored.get("bytes")
        return None, None

    @property
    def images(self) -> "Images":
        """The images, opened when they are asked for."""
        return Images(self)

    def batches(self, rows: range | None = None, *, count: int = 64) -> Iterator[tuple[int, list[Any]]]:
        """The stored images of some rows, ``count`` at a time, each batch with its first row."""
        rows = range(len(self)) if rows is None else rows
        for start in range(rows.start, rows.stop, count):
            some = range(start, min(start + count, rows.stop))
            yield start, self.stored(some)

    def chunks(self, rows: range | None = None) -> Iterator[tuple[int, list[Opened]]]:
        """First row and pixels of some rows, about one chunk of pixels at a time.

        Raises:
            SampleError: an image that cannot be read, with its row in the split.
        """
        for start, stored in self.batches(rows):
            try:
                for first, opened in open_chunks(stored, self.open):
                    yield start + first, opened
            except SampleError as error:
                raise self.failure(start + (error.rows or (0,))[0], error) from None


@dataclass(frozen=True)
class Images(Sequence):
    """The images of rows, uint8 (H, W, C), C = 1 or 3, opened when they are asked for; an error names the row."""

    rows: Rows
    chosen: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.rows) if self.chosen is None else len(self.chosen)

    def __getitem__(self, row: Any) -> Any:
        place = row if self.chosen is None else self.chosen[row]
        try:
            return self.rows.open(self.rows.stored(range(place, place + 1))[0]).colour
        except (TypeError, ValueError) as error:
            raise self.rows.failure(place, error) from None


@dataclass
class LabelledSet:
    """A data set with labels.

    Attributes:
        source: what it was opened from, for messages.
        splits: name -> rows.
        names: of the classes, where labels are integers that count in them; else None.
        by_name: labels are places in ``names`` because the source names its classes (folders, tables of files). The
            key then numbers the names, see :func:`~.classes.class_numbers`.
        named_splits: whether the source itself names its splits.
        keep_splits: splits that are not training data and are written all the same, unprotected.
        unreadable: what cannot be read at all, with the reason, by place.
        unused: images that may be readable and are not used, with the reason, by place.
        beside: files of an image that is read from another file, and that file: a raw file beside its JPEG.
        others: files that belong to no row; folders end with ``/``.
        labels_from: where the classes were read, for people.
        secret: classes that stand in for the labels, one a row, by split; see ``secret/``.
    """

    source: str
    splits: dict[str, Rows]
    names: list[str] | None = None
    by_name: bool = False
    named_splits: bool = False
    keep_splits: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    beside: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    labels_from: str = "labels"
    secret: dict[str, Sequence[Label]] | None = None

    kind = "rows"  # what it consists of, for people: "files" or "rows"
    any_format = False  # whether images may be written as WebP and JPEG, too
    may_leave_out = False  # whether an image that cannot be read is left out, and the rest written

    @property
    def training(self) -> list[str]:
        """Names of the splits that are training data; all of them where the source does not name its splits.

        Raises:
            ValueError: none is, or a name does not say it.
        """
        training = [name for name in self.splits if not self.named_splits or is_train_split(name)]
        if not training:
            raise UsageError(f"none of the splits {list(self.splits)} is training data, so nothing would be protected")
        return training

    @property
    def left_out(self) -> list[str]:
        """Names of the splits that are neither training data nor kept: they are not written."""
        training = self.training
        return [name for name in self.splits if name not in training and name not in self.keep_splits]

    @property
    def written(self) -> list[str]:
        """Names of the splits that are written."""
        left_out = self.left_out
        return [name for name in self.splits if name not in left_out]

    def shrink(self, max_side: int | None) -> None:
        """Make images smaller from now on when they are opened; see :func:`~.shrink.shrink`."""
        for rows in self.splits.values():
            rows.max_side = max_side

    def check_kept(self) -> None:
        """Refuse splits to keep that are not there, or that are training data and would go out unprotected.

        Raises:
            ValueError: names them.
        """
        unknown = sorted(set(self.keep_splits) - set(self.splits if self.named_splits else ()))
        if unknown:
            known = f"the splits are {list(self.splits)}" if self.named_splits else f"{self.source} has no splits"
            raise UsageError(f"keep_splits= {unknown}: {known}")
        training = [name for name in self.keep_splits if is_train_split(name)]
        if training:
            raise UsageError(f"keep_splits= {training}: training data is always protected; leave the option out")

    def pick(self, split: str, what: str = "data") -> Rows:
        """The rows of one split: the named one; for ``train`` the only training split; or what is there alone.

        Raises:
            ValueError: there are several, and none has that name.
        """
        if split in self.splits:
            return self.splits[split]
        training = [name for name in self.splits if leading_split(name) and is_train_split(name)]
        if split == TRAIN and self.named_splits and len(training) == 1:
            return self.splits[training[0]]
        if len(self.splits) == 1 and not self.named_splits:
            return next(iter(self.splits.values()))
        raise UsageError(f"the {what} set has the splits {sorted(self.splits)}, and no {split!r}: pass one of them")

    def tokens(self, split: str, poison: Any, rows: range | None = None) -> list[str]:
        """The class token of rows of a split, as a method gets them: by the key's list of names where the source
        names its classes.

        Args:
            split: name of the split.
            poison: whose key and class list count.
            rows: default: all.

        Raises:
            SampleError: labels that are missing or no classes; rows named.
        """
        values = self.secret[split] if self.secret is not None else self.splits[split].labels
        if values is None:
            raise SampleError(
                f"{self.source} has no labels: say where they are with label_key=, or protect it with "
                'labels="auto" (docs/labels.md)'
            )
        some = values if rows is None else values[rows.start : rows.stop]
        try:
            if self.secret is not None or not self.by_name:
                return batch_tokens(some, len(some), poison.classes)
            by_place = self.class_values(poison)
            return batch_tokens(
                [by_place[label] if label >= 0 else -1 for label in map(int, some)], len(some), poison.classes
            )
        except SampleError as error:
            start = 0 if rows is None else rows.start
            raise SampleError.at([start + row for row in error.rows], error) from None

    def label_text(self, split: str, row: int) -> str:
        """What the source calls the class of a row; empty where it does not say."""
        labels = self.splits[split].labels
        if labels is None:
            return ""
        return str(self.names[labels[row]]) if self.by_name and self.names and labels[row] >= 0 else str(labels[row])

    def class_values(self, poison: Any) -> list[Label]:
        """What a method takes for each of ``names``: the key's number, or the name where the method lists names."""
        names = self.names or []
        if poison.classes is not None and isinstance(poison.classes[0], str):
            return list(names)
        numbers = class_numbers(names, poison.key)
        return [numbers[name] for name in names]

    def to_fit(self, poison: Any) -> Rows:
        """The training rows, with the labels as the method gets them."""
        values = [class_value(token) for name in self.training for token in self.tokens(name, poison)]
        return joined([self.splits[name] for name in self.training], values)

    # ---- writing ---------------------------------------------------------------------------------------------------

    def units(self, codec: "Codec") -> list[Unit]:
        """What is to be written, in order; the same for the same source, always.

        Raises:
            ValueError: units that would overwrite each other, or names that get too long.
        """
        raise UsageTypeError(f"{self.source} is held in memory: it is not written file by file")

    def write(self, unit: Unit, images: list[bytes], path: Path, codec: "Codec") -> None:
        """Write one unit with new images.

        Args:
            unit: of :meth:`units`.
            images: encoded, one a row of the unit.
            path: a temporary file, which takes its place when it is complete.
            codec: how the images are encoded.
        """
        raise UsageTypeError(f"{self.source} is held in memory: it is not written file by file")

    def accompanying(self, unit: Unit) -> Iterator[bytes]:
        """What is written of the source beside the images and labels of a unit, such as other columns."""
        yield from ()

    def finish(self, out: Path, written: Mapping[Unit, str]) -> list[str]:
        """Write what belongs to the set as a whole, when all units are there.

        Args:
            out: the output folder.
            written: units and the checksums of their files.

        Returns:
            Notes for people.
        """
        return []

    def check_unchanged(self) -> None:
        """Refuse a source that changed since it was opened.

        Raises:
            SourceChanged: it did.
        """

    def check_columns(self, image_key: str | None, keep: Sequence[str]) -> None:
        """Refuse a second image beside the one that is protected, unless it is kept by name.

        Raises:
            ValueError: names the columns.
        """


def select(rows: Rows, chosen: Sequence[int]) -> Rows:
    """Some of the rows, still read only when they are asked for."""
    labels = None if rows.labels is None else [rows.labels[row] for row in chosen]
    return _View(rows.name, [(rows, row) for row in chosen], labels)


def joined(parts: Sequence[Rows], labels: Sequence[Any]) -> Rows:
    """The rows of several splits as one, with other labels."""
    name = parts[0].name if parts else TRAIN
    return _View(name, [(part, row) for part in parts for row in range(len(part))], labels)


class NamedRows(Rows):
    """Rows that people know by the names of their files, and not by numbers."""

    def failure(self, row: int, error: Exception) -> SampleError:
        reason = error.reason if isinstance(error, SampleError) else str(error)
        kind = SampleTypeError if isinstance(error, TypeError) else SampleError
        return kind(f"{readable_name(self.place(row))}: {reason}")


class _View(Rows):
    """Rows of other rows."""

    def __init__(self, name: str, places: list[tuple[Rows, int]], labels: Sequence[Any] | None) -> None:
        self.name, self.places, self.labels = name, places, labels

    def __len__(self) -> int:
        return len(self.places)

    def failure(self, row: int, error: Exception) -> SampleError:
        part, place = self.places[row]
        return part.failure(place, error) if isinstance(part, NamedRows) else super().failure(row, error)

    def stored(self, rows: range) -> list[Any]:
        result, start = [], rows.start
        while start < rows.stop:  # runs of neighbours are read together
            part, first = self.places[start]
            stop = start + 1
            while stop < rows.stop and self.places[stop] == (part, first + stop - start):
                stop += 1
            result += [(part, image) for image in part.stored(range(first, first + stop - start))]
            start = stop
        return result

    def decode(self, stored: Any) -> Opened:
        part, image = stored
        return part.open(image)

    def content(self, stored: Any) -> bytes:
        part, image = stored
        return part.content(image)

    def place(self, row: int) -> str:
        part, place = self.places[row]
        return part.place(place)

    def encoded(self, row: int) -> tuple[str | None, bytes | None]:
        part, place = self.places[row]
        return part.encoded(place)
