"""What all protection methods share: calling conventions, canonical state, registry.

A method is a class with one pure function, :meth:`Poison._protect`, on a batch of equal-sized uint8 pictures. This file
gives it every way of being called, and makes sure that what comes in is either protected or refused.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import torch
from torchvision import tv_tensors

from ..data.beside import row_images, table_images
from ..data.columns import find_columns, refuse_second_image, stored_images
from ..data.image import Opened, check_batch, is_batch, open_chunks, open_image
from ..data.splits import is_train_split
from ..key import Key
from ..pixels import chunk_length, keep_heap, rows_in_alpha, unchanged_rows
from ..sample import SampleError, batch_tokens, class_token, class_tokens, class_value, name_rows, sample_ids
from ..warn import warn
from .batches import counted_in, in_batches

REGISTRY: dict[str, type["Poison"]] = {}
_P = TypeVar("_P", bound=type["Poison"])
_NO_LABEL = object()
_PROCESS = os.getpid()


class NotFittedError(RuntimeError):
    """The method learns from the data first: call ``fit``."""


class UnchangedWarning(UserWarning):
    """Pictures that came out as they went in, e.g. all-black ones under a convolution."""


def register(name: str) -> Callable[[_P], _P]:
    """Class decorator: makes a method known under ``name``."""

    def add(cls: _P) -> _P:
        if name in REGISTRY and REGISTRY[name].__qualname__ != cls.__qualname__:
            raise ValueError(f"two methods are called {name!r}: {REGISTRY[name]} and {cls}")
        cls.name = name
        REGISTRY[name] = cls
        return cls

    return add


class Poison:
    """Base of all methods.

    Subclasses keep every constructor argument in an attribute of its name, set ``version``, and write
    :meth:`_protect`. Raising ``version`` whenever the bytes change is what keeps caches honest.

    Args:
        key: the private key, the only source of randomness.
        image_key: name of the image column of rows; default: ``image`` or ``img``.
        label_key: name of the label column; default: ``label``, ``labels`` or ``fine_label``.
        classes: the class list. Integers then stand for its names, labels outside it are refused, and methods that
            tell classes apart by their order use the sorted list.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    needs_ids: ClassVar[bool] = False  # whether _protect looks at the sample ids
    after: "tuple[Poison, ...]" = ()  # the links before it, where the method stands in a chain

    def __init__(
        self,
        key: Key | None = None,
        *,
        image_key: str | None = None,
        label_key: str | None = None,
        classes: Sequence[str] | Sequence[int] | None = None,
    ) -> None:
        if key is not None and not isinstance(key, Key):
            raise TypeError(f"key is a {type(key).__name__}, not a Key: use Key.load(path) or Key.generate()")
        self.key = key
        self.image_key = image_key
        self.label_key = label_key
        self.classes = None if classes is None else [class_value(token) for token in class_tokens(classes)]

    # ---- what a method writes -------------------------------------------------------------------------------------

    def _protect(self, images: torch.Tensor, tokens: Sequence[str], ids: Sequence[bytes] | None) -> torch.Tensor:
        """Protected pictures.

        Args:
            images: uint8 (B, C, H, W), contiguous, C = 1 or 3. Not to be changed.
            tokens: class token of each picture.
            ids: sample id of each picture where ``needs_ids``, else None.

        Returns:
            (B, C, H, W), whole numbers in 0..255 as uint8 or float32: rounded already, so that the cast to uint8 where
            the result is written changes nothing.

        Raises:
            SampleError: pictures that cannot be protected, with their rows in this batch.
        """
        raise TypeError(f"{type(self).__name__} does not say how it protects: it has no _protect")

    def arguments(self) -> dict[str, Any]:
        """The constructor arguments but the key, as plain JSON values: equal methods give equal ones."""
        return {"image_key": self.image_key, "label_key": self.label_key, "classes": self.classes}

    def public_arguments(self) -> dict[str, Any]:
        """Those of :meth:`arguments` that may be published."""
        return self.arguments()

    @property
    def fitted(self) -> bool:
        """Whether the method is ready. Methods that learn from data override this."""
        return True

    def unlock_note(self, clean: np.ndarray, protected: np.ndarray, token: str) -> float | None:
        """What undoing the protection needs beside the key, for the private ledger. Pictures are uint8 (H, W, C)."""
        return None

    def _unlock(
        self,
        images: torch.Tensor,
        tokens: Sequence[str],
        ids: Sequence[bytes | None],
        notes: Sequence[float | None],
    ) -> torch.Tensor:
        """Pictures as they were before :meth:`_protect`, as nearly as can be.

        Args:
            images: uint8 (B, C, H, W), protected. Not to be changed.
            tokens: class token of each picture.
            ids: sample id of each clean picture, None where it is not known.
            notes: what :meth:`unlock_note` said of each, None where it is not known.

        Returns:
            As :meth:`_protect`.

        Raises:
            SampleError: pictures that cannot be undone, with their rows in this batch.
        """
        raise TypeError(f"{type(self).__name__} cannot be undone: it has no _unlock")

    def remembered_ids(self, images: torch.Tensor, tokens: Sequence[str]) -> list[bytes | None]:
        """Sample ids of the clean pictures of a protected batch, uint8 (B, C, H, W), where the method keeps them."""
        return [None] * len(images)

    def fit(self, data: Any, transform: Callable | None = None) -> Self:
        """Learn what the method needs from clean data. Methods that need nothing return at once."""
        return self

    # ---- the ways of calling it -----------------------------------------------------------------------------------

    def apply(self, images: Any, labels: Any) -> Any:
        """Protect pictures.

        Args:
            images: a uint8 tensor (B, C, H, W), a uint8 array (B, H, W, C) or (B, H, W), or a list of PIL pictures
                or tensors (sizes may differ). C = 1, 3, or 2, 4 with alpha last.
            labels: one label a picture: integers or text.

        Returns:
            The same kind as ``images``, newly made; the input is not changed.

        Raises:
            TypeError: float pictures, soft or bool labels, lists of bare arrays.
            SampleError: a picture or label that cannot be protected, rows named.
            NotFittedError: ``fit`` comes first.
        """
        self._ready()
        if isinstance(images, torch.Tensor):
            return self._apply_tensor(images, labels)
        if isinstance(images, np.ndarray):
            return self._apply_array(images, labels)
        if not isinstance(images, list | tuple):
            raise TypeError(
                f"apply takes a batch: a tensor, an array or a list of pictures, not {type(images).__name__}"
            )
        if any(isinstance(image, np.ndarray | list | tuple) for image in images):
            raise TypeError(
                "a list of bare arrays does not say what its axes mean: stack it into one uint8 array (B, H, W, C), "
                "or pass PIL pictures (for a data set: ds.with_format(None))"
            )
        tokens = batch_tokens(labels, len(images), self.classes)
        return list(self._protect_each(images, open_image, tokens))

    def __call__(self, image: Any, label: Any = _NO_LABEL, *extra: Any) -> Any:
        """Protect a row, a batch of rows, a picture or a batch of pictures, told apart by what is passed.

        - ``poison(row)``, also with a split name: as ``datasets.map`` and ``set_transform`` call it.
        - ``poison(image, label)``: as torchvision's v2 transforms; returns ``(image, label)``, the label untouched.
        - ``poison(images, labels)``: a batch, when the labels are 1-d.

        Raises:
            As :meth:`apply`.
        """
        if extra:
            raise TypeError(
                f"{len(extra) + 2} arguments: a picture and its class are protected; boxes, masks and captions are "
                "not supported"
            )
        if isinstance(image, Mapping) and not set(image) <= {"bytes", "path"}:
            return self._call_mapping(image, label)
        if label is _NO_LABEL:
            raise TypeError(
                "the label is missing: call poison(image, label). Inside a transform that sees the picture alone, use "
                "ut.ProtectedDataset(dataset, poison)"
            )
        if is_batch(image) or (_is_label_batch(label) and _is_grey_batch(image)):
            return self.apply(image, label), label
        self._ready()
        try:
            token = class_token(label, self.classes)  # refuses a soft label, which is a vector for one picture
        except ValueError as error:
            raise SampleError(str(error)) from None
        (changed,) = self._protect_each([image], open_image, [token])
        return changed, label

    def _call_mapping(self, row: Any, split: Any) -> Mapping[str, Any]:
        lazy = type(row).__module__.startswith("datasets.")
        if split is not _NO_LABEL:
            if not isinstance(split, str):
                raise TypeError(
                    f"a row came with a second argument {split!r}: call map without with_indices and with_rank; "
                    "samples are told apart by their pixels, since positions change under shuffle and select"
                )
            if not is_train_split(split):
                return {} if lazy else dict(row)
        self._ready()
        image_key, label_key = find_columns(row.keys(), self.image_key, self.label_key)
        labels = row[label_key]
        if self.image_key is None:
            count = len(labels) if _is_label_batch(labels) else None
            others = table_images(row.pa_table, [image_key]) if lazy else row_images(row, count, [image_key])
            refuse_second_image(image_key, others)
        if not lazy:
            return {**row, image_key: self(row[image_key], labels)[0]}
        batched = type(row).__name__ == "LazyBatch"
        stored, reader = stored_images(row, image_key)
        tokens = batch_tokens(labels if batched else [labels], len(stored), self.classes)
        changed = list(self._protect_each(stored, reader, tokens))
        return {image_key: changed if batched else changed[0]}  # other columns stay as they are stored

    # ---- from containers to batches of equal size ------------------------------------------------------------------

    def _apply_tensor(self, images: torch.Tensor, labels: Any) -> torch.Tensor:
        check_batch(images, dims=4)
        tokens = batch_tokens(labels, len(images), self.classes)
        source = images.detach().as_subclass(torch.Tensor).cpu()
        result = torch.from_numpy(np.empty(tuple(source.shape), np.uint8))  # NumPy asks for large pages, torch does not
        self._protect_batch(source, tokens, result)
        result = result.to(images.device)
        return tv_tensors.wrap(result, like=images) if isinstance(images, tv_tensors.TVTensor) else result

    def _apply_array(self, images: np.ndarray, labels: Any) -> np.ndarray:
        if images.ndim == 3:  # grey pictures (B, H, W)
            return self._apply_array(images[..., None], labels)[..., 0]
        check_batch(images, dims=4)
        tokens = batch_tokens(labels, len(images), self.classes)
        if not images.flags.writeable or any(stride < 0 for stride in images.strides):
            images = images.copy()  # torch cannot look at such memory
        result = np.empty(images.shape, np.uint8)
        source, target = (torch.from_numpy(array).permute(0, 3, 1, 2) for array in (images, result))
        self._protect_batch(source, tokens, target)
        return result

    def _protect_batch(self, images: torch.Tensor, tokens: list[str], result: torch.Tensor) -> None:
        """Protect uint8 (B, C, H, W) chunk by chunk into ``result``; an alpha channel (C = 2, 4) is copied."""
        keep_heap()
        colours = images.shape[1] - (images.shape[1] in (2, 4))
        if colours != images.shape[1]:
            result[:, colours:] = images[:, colours:]
        unchanged = rows_in_alpha(images)
        images, result = images[:, :colours], result[:, :colours]
        step = chunk_length(images[0].numel()) if len(images) else 1
        for start in range(0, len(images), step):
            rows = slice(start, start + step)
            chunk = images[rows].contiguous()
            result[rows] = self._protect_rows(chunk, tokens[rows], range(start, start + len(chunk)))
            unchanged += [start + row for row in unchanged_rows(chunk, result[rows])]
        _warn_unchanged(sorted(set(unchanged)))

    def _protect_each(self, images: Sequence, reader: Callable[[Any], Opened], tokens: list[str]) -> Iterator[Any]:
        """Open, protect and close pictures; at most about one chunk of pixels is open at a time, whatever the batch."""
        unchanged: list[int] = []
        for start, opened in open_chunks(images, reader):
            colours = [picture.colour for picture in opened]
            try:
                changed = self.protect_arrays(colours, tokens[start : start + len(opened)])
            except SampleError as error:
                raise SampleError.at([start + row for row in error.rows] if len(images) > 1 else [], error) from None
            for row, (picture, colour) in enumerate(zip(opened, changed, strict=True), start):
                if picture.unprotected_by(colour):
                    unchanged.append(row)
                yield picture.close(colour)
        _warn_unchanged(unchanged)

    def protect_arrays(
        self, images: Sequence[np.ndarray], tokens: Sequence[str], ids: Sequence[bytes] | None = None
    ) -> list[np.ndarray]:
        """Protect opened pictures, uint8 (H, W, C) with C = 1 or 3, sizes may differ; the same, newly made.

        Args:
            images: the pictures.
            tokens: class token of each.
            ids: sample id of each where it is not that of these pixels: colours were converted since.
        """
        self._ready()

        def protect(batch: torch.Tensor, rows: list[int]) -> torch.Tensor:
            known = None if ids is None else [ids[row] for row in rows]
            return self._protect_rows(batch, [tokens[row] for row in rows], rows, known)

        return in_batches(images, protect)

    def _protect_rows(
        self, images: torch.Tensor, tokens: Sequence[str], rows: Sequence[int], ids: Sequence[bytes] | None = None
    ) -> torch.Tensor:
        """Protect a batch whose pictures stand at ``rows`` of what the caller passed: errors name those."""
        if ids is None and self.needs_ids:
            ids = sample_ids(images, tokens)
        with counted_in(rows):
            return self._protect(images, tokens, ids)

    def _ready(self) -> None:
        if not self.fitted:
            raise NotFittedError(f"{type(self).__name__} is not fitted: call poison.fit(dataset) first (docs/cache.md)")
        if os.getpid() != _PROCESS and torch.get_num_threads() != 1:
            torch.set_num_threads(1)  # a forked worker hangs if it waits for the parent's threads

    # ---- state ----------------------------------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """The name to show in tables; a chain has those of its links."""
        return self.name

    def public_config(self) -> dict[str, Any]:
        """What may be published of a method: name, version, public arguments, the key's fingerprint."""
        return {
            "method": self.name,
            "version": self.version,
            "arguments": self.public_arguments(),
            "key_fingerprint": None if self.key is None else self.key.fingerprint,
        }

    def private_config(self) -> dict[str, Any]:
        """As :meth:`public_config`, with the arguments that stay private: equal methods give equal ones."""
        return {**self.public_config(), "arguments": self.arguments()}

    def __getstate__(self) -> dict[str, Any]:
        # Canonical, so that `datasets` finds its cache in another process, and never the lazily filled attributes.
        return {
            "arguments": json.dumps(self.arguments(), sort_keys=True),
            "key": self.key,
            "version": self.version,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["version"] != self.version:
            raise ValueError(
                f"a {type(self).__name__} of version {state['version']} was pickled, this library has version "
                f"{self.version}: make the poison anew"
            )
        self.__init__(key=state["key"], **json.loads(state["arguments"]))  # type: ignore[misc]

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__getstate__() == other.__getstate__()

    def __hash__(self) -> int:
        return hash((type(self), json.dumps(self.arguments(), sort_keys=True)))

    def __repr__(self) -> str:
        shown = [f"key={self.key!r}"] if self.key is not None else []
        shown += [f"{name}={value!r}" for name, value in self.public_arguments().items() if value is not None]
        return f"{type(self).__name__}({', '.join(shown)})"


def _is_label_batch(labels: Any) -> bool:
    return isinstance(labels, list | tuple) or getattr(labels, "ndim", 0) >= 1


def _is_grey_batch(images: Any) -> bool:
    """Whether a 3-d array is (B, H, W) and not (H, W, C)."""
    return isinstance(images, np.ndarray) and images.ndim == 3 and images.shape[2] > 4


def _warn_unchanged(rows: list[int]) -> None:
    if rows:
        warn(
            f"{name_rows(rows)}: the method leaves the picture as it is (all black, perhaps, or what it shows is in "
            "its alpha channel): it goes out unprotected",
            UnchangedWarning,
        )
