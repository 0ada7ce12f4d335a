"""Who a sample is: the class token of its label and the id of its pixels."""

import numbers
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
import torch
import xxhash

from .errors import UnlearnableError, UsageError, UsageTypeError
from .files import is_utf8

MAX_NAMED_ROWS = 5


class SampleError(UnlearnableError, ValueError):
    """Samples that cannot be protected, and what to do about it.

    Attributes:
        reason: what is wrong, and the remedy.
        rows: positions of the samples, counted in the batch or data set that was passed.
    """

    def __init__(self, reason: str, rows: Iterable[int] = ()) -> None:
        self.reason = reason
        self.rows = tuple(rows)
        super().__init__(reason, self.rows)  # these arguments make it again in another process

    def __str__(self) -> str:
        return f"{name_rows(self.rows)}: {self.reason}" if self.rows else self.reason

    @classmethod
    def at(cls, rows: Sequence[int], error: Exception) -> "SampleError":
        """``error`` with its rows named, also as a TypeError if it is one."""
        kind = SampleTypeError if isinstance(error, TypeError) else SampleError
        return kind(error.reason if isinstance(error, SampleError) else str(error), rows)


class SampleTypeError(SampleError, TypeError):
    """Samples of a kind that is refused."""


def name_rows(rows: Sequence[int]) -> str:
    """``row 3`` or ``rows 3, 5, 8 ... (12 in all)``."""
    if len(rows) == 1:
        return f"row {rows[0]}"
    shown = ", ".join(str(row) for row in rows[:MAX_NAMED_ROWS])
    return f"rows {shown}" + (f" ... ({len(rows)} in all)" if len(rows) > MAX_NAMED_ROWS else "")


def class_token(label: Any, classes: Sequence | None = None) -> str:
    """The canonical name of a class: ``i:3`` for integers, ``s:cat`` (Unicode NFC) for text.

    Args:
        label: an int, NumPy integer, 0-d integer tensor or array, or a string.
        classes: the class list. Then an integer means ``classes[label]`` where the list holds names, and a label
            that is not in the list is refused.

    Raises:
        TypeError: bool, float, soft (a vector) or missing label.
        ValueError: negative integer (-1 means unlabelled), empty text, or a label outside ``classes``.
    """
    return _token(label, None if classes is None else class_tokens(classes))


def _token(label: Any, known: list[str] | None) -> str:
    if isinstance(label, np.ndarray | torch.Tensor) and (label.ndim == 0 or label.shape == (1,)):
        label = label.item()  # (1,): a row of labels (N, 1), as Keras and MedMNIST have them
    elif isinstance(label, list | tuple) and len(label) == 1:
        (label,) = label
    label = label.item() if isinstance(label, np.generic) else label
    if label is None:
        raise UsageError("the label is missing; label the sample or leave it out")
    if isinstance(label, bool):
        raise UsageTypeError("the label is a bool; class labels are integers or text: make it an integer")
    if isinstance(label, numbers.Integral):
        return _int_token(int(label), known)
    if isinstance(label, str):
        if not is_utf8(label):
            raise UsageError(f"the label {label!r} is no text that can be written as UTF-8: rename the class")
        token = "s:" + unicodedata.normalize("NFC", label)
        if token == "s:":
            raise UsageError("the label is empty text; label the sample or leave it out")
        if known is not None and token not in known:
            raise UsageError(f"the label {label!r} is not in classes={list(map(class_value, known))!r}")
        return token
    if isinstance(label, float):
        raise UsageTypeError(f"the label {label!r} is a float; class labels are integers or text: make it an integer")
    if isinstance(label, np.ndarray | torch.Tensor | list | tuple):
        raise UsageTypeError(
            "the label is soft, one-hot or multi-hot (a vector a sample); put the poison before MixUp and CutMix, "
            "and pass one class a sample (docs/conventions.md)"
        )
    raise UsageTypeError(f"class labels are integers or text, not {type(label).__name__}")


def _int_token(label: int, known: list[str] | None) -> str:
    if label < 0:
        raise UsageError(f"the label is {label}, which means unlabelled; label the sample or leave it out")
    if known is None:
        return f"i:{label}"
    if known[0].startswith("s:"):
        if label >= len(known):
            raise UsageError(f"the label is {label}, but there are {len(known)} classes: complete classes=")
        return known[label]
    if f"i:{label}" not in known:
        raise UsageError(f"the label {label} is not in classes={list(map(class_value, known))!r}")
    return f"i:{label}"


def class_tokens(classes: Sequence) -> list[str]:
    """The tokens of a class list, in its order.

    Raises:
        ValueError: the list is empty, names a class twice, or mixes integers and text.
    """
    if isinstance(classes, str | bytes | AbstractSet | Mapping) or not len(classes):
        # the order of a set changes from process to process
        raise UsageError("classes is a list of class names or integers with at least one entry, in a fixed order")
    tokens = [_token(name, None) for name in classes]
    if len(set(tokens)) != len(tokens):
        raise UsageError(f"classes names a class twice: {list(classes)!r}")
    if len({token[0] for token in tokens}) > 1:
        raise UsageError(f"classes mixes integers and text: {list(classes)!r}")
    return tokens


def class_value(token: str) -> int | str:
    """The class that a token names."""
    return int(token[2:]) if token.startswith("i:") else token[2:]


def in_order(values: Iterable[int | str]) -> list[int | str]:
    """Different classes sorted: integers, then text."""
    return sorted(set(values), key=lambda value: (isinstance(value, str), value))


def batch_tokens(labels: Any, count: int, classes: Sequence | None = None) -> list[str]:
    """Class tokens of a batch of ``count`` images.

    Raises:
        TypeError: a label of a kind that is refused (see :func:`class_token`), rows named.
        SampleError: as many labels as images are needed; or labels that mean "unlabelled", rows named.
    """
    known = None if classes is None else class_tokens(classes)
    labels = _as_list(labels)
    if len(labels) != count:
        raise SampleError(f"{count} images came with {len(labels)} labels; pass one label an image")
    try:
        plain = set(map(type, labels)) <= {int, str}  # of all: True and 1.0 are equal to 1 and could hide behind it
        distinct = set(labels)
    except TypeError:  # unhashable: soft labels, for one
        plain = False
    if plain:
        try:
            tokens = {label: _token(label, known) for label in distinct}
            return [tokens[label] for label in labels]
        except ValueError:
            pass  # some label is bad: find its rows
    result, wrong, reason = [], [], ""
    for row, label in enumerate(labels):
        try:
            result.append(_token(label, known))
        except TypeError as error:
            raise SampleError.at([row], error) from None
        except ValueError as error:
            wrong.append(row)
            reason = reason or str(error)
    if wrong:
        raise SampleError(reason, wrong)
    return result


def _as_list(labels: Any) -> list:
    """Labels in their order. Containers that have none, or whose values are something else, are refused."""
    if isinstance(labels, torch.Tensor | np.ndarray) and labels.ndim:
        if labels.ndim == 2 and labels.shape[1] == 1:  # a column
            labels = labels[:, 0]
        if labels.ndim > 1:
            raise UsageTypeError(
                f"labels have shape {tuple(labels.shape)}: soft, one-hot or multi-hot labels are refused; put the "
                "poison before MixUp and CutMix, and pass one class an image (a row of classes: labels.ravel())"
            )
        if labels.dtype in (torch.bool, np.bool_):
            raise UsageTypeError("labels are bool; class labels are integers or text: cast them to int64")
        return labels.tolist()
    if hasattr(labels, "to_pylist"):  # Arrow
        return labels.to_pylist()
    text = isinstance(labels, str | bytes | bytearray | memoryview)
    if text or not (isinstance(labels, Sequence) or _is_series(labels)):
        raise UsageTypeError(
            f"a batch of images needs a batch of labels, not {type(labels).__name__}: pass a list, an array or a "
            "tensor with one class an image, in the order of the images"
        )
    return list(labels)


def _is_series(labels: Any) -> bool:
    """Whether labels are a column of pandas or Polars, or another array of one axis."""
    return len(getattr(labels, "shape", ())) == 1 and hasattr(labels, "__array__")


def sample_id(pixels: np.ndarray, token: str) -> bytes:
    """16 bytes that name a sample by its pixels, shape and class, never by its position.

    Args:
        pixels: uint8 (H, W, C), C = 1 or 3; grey counts as RGB with equal channels.
        token: from :func:`class_token`.
    """
    return ids_as(pixels, [token])[0]


def ids_as(pixels: np.ndarray, tokens: Iterable[str]) -> list[bytes]:
    """:func:`sample_id` of one picture as of each of several classes; its pixels are read once."""
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    of_pixels = xxhash.xxh3_128(np.ascontiguousarray(pixels).data)
    ids = []
    for token in tokens:
        digest = of_pixels.copy()
        digest.update(f"|{pixels.shape[0]}x{pixels.shape[1]}|{token}".encode())
        ids.append(digest.digest())
    return ids


def sample_ids(images: torch.Tensor, tokens: Sequence[str]) -> list[bytes]:
    """As :func:`sample_id`, of a batch, several times faster: uint8 (B, C, H, W) on the CPU, C = 1 or 3."""
    count, channels, height, width = images.shape
    pixels = np.empty((count, height, width, 3), np.uint8)
    planes = images.numpy()
    for channel in range(3):  # three strided copies: far faster than one transposition
        pixels[..., channel] = planes[:, channel % channels]
    ends = {token: f"|{height}x{width}|{token}".encode() for token in set(tokens)}
    result = []
    for picture, token in zip(pixels.reshape(count, height * width * 3), tokens, strict=True):
        digest = xxhash.xxh3_128(picture.data)
        digest.update(ends[token])
        result.append(digest.digest())
    return result


def spread(count: int, wanted: int | None) -> Sequence[int]:
    """``wanted`` rows of ``count``, evenly spaced: every class has its share also where a set is sorted by class."""
    if wanted is None or wanted >= count:
        return range(count)
    return [row * count // wanted for row in range(wanted)]
