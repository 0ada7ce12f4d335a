"""What all protection methods share: calling conventions, canonical state, registry.

A method is a class with one pure function, :meth:`Poison._protect`, on a batch of equal-sized uint8 pictures. This file
gives it every way of being called, and makes sure that what comes in is either protected or refused.
"""

import copy
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch

from ..data.beside import row_images, table_images
from ..data.columns import find_columns, refuse_formatted, refuse_second_image, stored_images
from ..data.image import Opened, check_batch, is_batch, open_chunks, open_image, wrapped_like
from ..data.splits import is_train_split
from ..errors import UnlearnableError, UnlearnableWarning, UsageError, UsageTypeError
from ..key import Key, Stream
from ..params import Parameters, param
from ..pixels import checksum, chunk_length, keep_heap, rows_in_alpha, unchanged_rows
from ..registry import Registry
from ..sample import SampleError, batch_tokens, class_token, class_tokens, class_value, name_rows, sample_ids
from ..warn import warn
from .batches import counted_in, in_batches

REGISTRY: Registry[type["Poison"]] = Registry("method", "unlearnable_transforms.poisons", "docs/compare.md")
register = REGISTRY.register
_NO_LABEL = object()
_PROCESS = os.getpid()
FILTERS = frozenset({"cuda"})  # methods whose change JPEG keeps: docs/protect.md has the figures


class NotFittedError(UnlearnableError, RuntimeError):
    """The method learns from the data first: call ``fit``."""


class UnchangedWarning(UnlearnableWarning):
    """Pictures that came out as they went in, e.g. all-black ones under a convolution."""


class Behind(NamedTuple):
    """What a chain hands to the ``fit`` of a link.

    Attributes:
        data: the clean data, as ``fit`` takes them.
        chain: the links before; its output is what the link learns from.
    """

    data: Any
    chain: "Poison"

    @classmethod
    def split(cls, data: Any) -> "tuple[Any, Poison | None]":
        """Data, and what stands between them and the link; None where nothing does."""
        return data if isinstance(data, cls) else (data, None)


class Poison(Parameters):
    """Base of all methods.

    Subclasses declare their parameters, set ``version``, and write :meth:`_protect`. Raising ``version`` whenever the
    bytes change is what keeps caches honest.

    Raises:
        TypeError: no key, where the method needs one.
        ValueError: a value out of range.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    paper: ClassVar[str] = ""  # where the method comes from, for cards
    needs_key: ClassVar[bool] = False  # whether it cannot be made without a key
    needs_ids: ClassVar[bool] = False  # whether _protect looks at the sample ids

    key: Key | None = param(
        "the private key, the only source of randomness", default=None, decides="key", kw_only=False
    )
    image_key: str | None = param(
        "name of the image column of rows; none: image or img", default=None, decides="columns"
    )  # fmt: skip
    label_key: str | None = param(
        "name of the label column of rows; none: label, labels or fine_label", default=None, decides="columns"
    )
    classes: Any = param(
        "the class list. Integers then stand for its names, labels outside it are refused, and methods that tell "
        "classes apart by their order use the sorted list",
        default=None,
    )

    def _prepare(self) -> None:
        if self.key is not None and not isinstance(self.key, Key):
            raise UsageTypeError(f"key is a {type(self.key).__name__}, not a Key: use Key.load(path) or Key.generate()")
        if self.needs_key:
            self._private_key()
        if self.classes is not None:
            self.classes = [class_value(token) for token in class_tokens(self.classes)]

    def _private_key(self) -> Key:
        """The key.

        Raises:
            TypeError: there is none.
        """
        if self.key is None:
            raise UsageTypeError(f"{type(self).__name__} needs key=Key.generate() or Key.load(path)")
        return self.key

    def _stream(self, *purpose: str | bytes | int) -> Stream:
        """Random words of the key for one purpose of this method."""
        return self._private_key().stream(self.name, *purpose)

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
        raise UsageTypeError(f"{type(self).__name__} does not say how it protects: it has no _protect")

    @property
    def fitted(self) -> bool:
        """Whether the method is ready. Methods that learn from data override this."""
        return True

    def recall(self, ids: Any, values: Sequence = ()) -> Self:
        """Take what an earlier fit has learnt, where it can be found without the images.

        Args:
            ids: sample ids of the clean or of the protected images; :class:`Behind` that in a chain.
            values: the classes of the fit, for methods that need nothing else.

        Raises:
            NotFittedError: the method learns from images, and keeps nothing.
            NoiseError: the noise cache has nothing of these images.
        """
        if not self.fitted:
            raise NotFittedError(
                f"{type(self).__name__} has learnt nothing, and no ledger says what it had: pass the method as it was "
                "when it protected these pictures (docs/unlock.md)"
            )
        return self

    def _place(self, chain: "Poison | None") -> None:
        """Called by a chain with the links before this one, None before the first.

        Raises:
            ValueError: what the method has learnt belongs to another place.
        """

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
        raise UsageTypeError(f"{type(self).__name__} cannot be undone: it has no _unlock")

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
            raise UsageTypeError(
                f"apply takes a batch: a tensor, an array or a list of pictures, not {type(images).__name__}"
            )
        if any(isinstance(image, np.ndarray | list | tuple) for image in images):
            raise UsageTypeError(
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
            raise UsageTypeError(
                f"{len(extra) + 2} arguments: a picture and its class are protected; boxes, masks and captions are "
                "not supported"
            )
        refuse_formatted(image, sys._getframe(1))
        if isinstance(image, Mapping) and not set(image) <= {"bytes", "path"}:
            return self._call_mapping(image, label)
        if label is _NO_LABEL:
            raise UsageTypeError(
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
                raise UsageTypeError(
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

    @property
    def available_keys(self) -> set[str]:
        """What albumentations asks its ops for: a poison is none, :class:`..adapters.albumentations.Protect` is."""
        raise AttributeError("albumentations takes ops: A.Compose([ut.albumentations.Protect(poison)])")

    # ---- from containers to batches of equal size ------------------------------------------------------------------

    def _apply_tensor(self, images: torch.Tensor, labels: Any) -> torch.Tensor:
        check_batch(images, dims=4)
        tokens = batch_tokens(labels, len(images), self.classes)
        source = images.detach().as_subclass(torch.Tensor).cpu()
        result = torch.from_numpy(np.empty(tuple(source.shape), np.uint8))  # NumPy asks for large pages, torch does not
        self._protect_batch(source, tokens, result)
        return wrapped_like(images, result.to(images.device))

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
            return self._protect_checked(images, tokens, ids)

    def _protect_checked(
        self, images: torch.Tensor, tokens: Sequence[str], ids: Sequence[bytes] | None
    ) -> torch.Tensor:
        """What :meth:`_protect` returns, as uint8.

        Raises:
            RuntimeError: it is no batch of images, or not whole numbers in 0..255, or ``images`` was changed.
        """
        before = _state_of(images)
        result = whole_levels(self._protect(images, tokens, ids), images, f"{type(self).__name__}._protect")
        if _state_of(images) != before:
            raise RuntimeError(f"{type(self).__name__}._protect changed the images that it was given: copy them first")
        return result

    def _ready(self) -> None:
        if not self.fitted:
            raise NotFittedError(f"{type(self).__name__} is not fitted: call poison.fit(dataset) first (docs/cache.md)")
        if os.getpid() != _PROCESS and torch.get_num_threads() != 1:
            torch.set_num_threads(1)  # a forked worker hangs if it waits for the parent's threads

    # ---- state ----------------------------------------------------------------------------------------------------

    @property
    def links(self) -> "tuple[Poison, ...]":
        """The methods that it is made of: itself, or those of a chain."""
        return (self,)

    @property
    def title(self) -> str:
        """The name to show in tables; a chain has those of its links."""
        return self.name

    def public_config(self, *, fitted: bool = False) -> dict[str, Any]:
        """What may be published of a method: name, version, public arguments, the key's fingerprint.

        Args:
            fitted: with what ``fit`` has learnt, as far as it may be public, among the arguments. For records of
                results, which other noise would change; methods are compared without it, see :func:`decisive`.
        """
        return {
            "method": self.name,
            "version": self.version,
            "arguments": {**self.public_arguments(), **(self.public_state() if fitted else {})},
            "key_fingerprint": None if self.key is None else self.key.fingerprint,
        }

    def private_config(self) -> dict[str, Any]:
        """As ``public_config(fitted=True)``, with secrets: equal methods give equal ones."""
        return {**self.public_config(), "arguments": {**self.arguments(), **self.fitted_state()}}

    def public_state(self) -> dict[str, Any]:
        """What of :meth:`fitted_state` may be published."""
        return self.fitted_state()

    def __getstate__(self) -> dict[str, Any]:
        # Canonical, so that `datasets` finds its cache in another process, and never the lazily filled attributes.
        return {
            "arguments": json.dumps({**self.arguments(), **self.fitted_state()}, sort_keys=True),
            "key": self.key,
            "version": self.version,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._check_version(state)
        values, declared = json.loads(state["arguments"]), self.declared()
        vars(self).update({name: value for name, value in values.items() if name not in declared})  # kept by hand
        self._set({"key": state["key"], **values})

    def _check_version(self, state: dict[str, Any]) -> None:
        if state["version"] != self.version:
            raise UsageError(
                f"a {type(self).__name__} of version {state['version']} was pickled, this library has version "
                f"{self.version}: make the poison anew"
            )

    def __copy__(self) -> Self:
        """All attributes, also those that a pickle leaves out since they change no bytes, such as ``device``."""
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        return other

    def __deepcopy__(self, memo: dict) -> Self:
        return copy.copy(self)  # attributes are replaced as a whole, never changed in place

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__getstate__() == other.__getstate__()

    def __hash__(self) -> int:
        return hash((type(self), json.dumps(self.arguments(), sort_keys=True)))

    def __repr__(self) -> str:
        values = {"key": self.key, **self.public_arguments(), **self.public_state()}
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in values.items() if v is not None)})"


def decisive(config: Mapping[str, Any], *, keys: bool = False) -> dict[str, Any]:
    """What of a ``public_config``, of ours or as a file keeps it, decides the bytes: without columns and without what a
    fit has learnt; links of chains likewise. What a file leaves out stays out.

    Args:
        config: JSON values, which are not trusted.
        keys: with the keys' fingerprints.
    """
    said = ("method", "version", "arguments", *["key_fingerprint"] * keys)
    result = {name: config[name] for name in said if name in config}
    if isinstance(arguments := result.get("arguments"), Mapping):
        method = result.get("method")
        declared = REGISTRY.find(method).declared() if method in REGISTRY.names() else {}
        kept = {
            name: value
            for name, value in arguments.items()
            if name not in declared or (declared[name].decides == "bytes" and not declared[name].learnt)
        }
        if isinstance(links := kept.get("links"), list):
            kept["links"] = [decisive(link, keys=keys) if isinstance(link, Mapping) else link for link in links]
        result["arguments"] = kept
    return result


def methods_of(config: Mapping[str, Any]) -> list[str]:
    """The names of a method, or of the links of a chain, from ``public_config``."""
    links = config["arguments"].get("links")
    return [config["method"]] if links is None else [name for link in links for name in methods_of(link)]


def is_additive(config: Mapping[str, Any]) -> bool:
    """Whether a method adds a small pattern, which lossy encoding takes away; unknown methods are taken to."""
    return not set(methods_of(config)) <= FILTERS


def whole_levels(result: Any, images: torch.Tensor, who: str) -> torch.Tensor:
    """Images as uint8 that a method returned as uint8 or as whole numbers of another type.

    Raises:
        RuntimeError: they have another shape than ``images``, or are not whole numbers in 0..255.
    """
    if not isinstance(result, torch.Tensor) or result.shape != images.shape:
        got = f"shape {tuple(result.shape)}" if isinstance(result, torch.Tensor) else type(result).__name__
        raise RuntimeError(f"{who} returned {got} for images of shape {tuple(images.shape)}")
    if result.dtype == torch.uint8:
        return result
    values = result.detach().cpu().numpy()  # NumPy converts and compares twice as fast as torch
    with np.errstate(invalid="ignore"):
        levels = values.astype(np.uint8)
    if not (levels == values).all():  # also where a value is not finite
        raise RuntimeError(f"{who} returned values that are not whole numbers in 0..255: round and clip them")
    return torch.from_numpy(levels)


def _state_of(images: torch.Tensor) -> tuple[int, ...]:
    """What changes with a batch: torch counts its writes; those of NumPy show in the first or the last image."""
    writes = 0 if images.is_inference() else images._version
    return writes, *(checksum(images[row]) for row in (0, -1) if len(images))


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
