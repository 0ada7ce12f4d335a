"""Undo the protection of a data set, with the key and, where there is one, the ledger.

How each method is undone stands with the method (``_unlock``). Here pictures are opened and closed, what the ledger
says of each is found by its id, another key and other options are refused before anything is made, and what came out is
compared with the ids of the clean pictures.
"""

import os
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, DatasetDict, Features, Value

from ..data.base import TRAIN, LabelledSet
from ..data.image import open_chunks, open_image
from ..data.table import TableRows, TableSet, open_rows
from ..errors import UnlearnableWarning, UsageError, UsageTypeError
from ..files import private_directory
from ..jobs.ledger import check_fit, learnt_in, max_side_in, names_method, other_method, read_ledger, remember
from ..poisons.base import Poison
from ..poisons.batches import counted_in
from ..poisons.undo import unlock_arrays
from ..sample import SampleError, batch_tokens, class_value, ids_as, sample_id, spread
from ..warn import warn
from .protect import PNG, map_privately
from .unlock_check import fits_pictures

SAMPLE = 20  # pictures by which ledgers, key and options are recognised
EXACT, NEAR, UNKNOWN, CLEAN = "exact", "near", "unknown", "clean"
_SAYS = "says that they were protected with"

Picture = tuple[np.ndarray, str | None]  # uint8 (H, W, C) and its class token, where a label says it


class UnlockWarning(UnlearnableWarning):
    """Pictures that are not restored exactly."""


def unlock(
    protected: Any,
    poison: Poison,
    ledger: str | os.PathLike | None = None,
    *,
    changed: bool = False,
    num_proc: int | None = None,
) -> Any:
    """The clean pictures of a protected data set, exactly where noise was added, nearly where a filter was.

    Args:
        protected: what ``ut.protect`` returned: a ``Dataset``, or a ``DatasetDict`` whose training splits are undone
            and whose others are kept. Or ``(images, labels)`` as ``Poison.apply`` takes them.
        poison: what it was protected with. One that is to be fitted takes its noise from the cache.
        ledger: the private record that ``protect`` wrote. Default: those of this key in the cache that know some of
            the pictures; without any, what they would have said is guessed.
        changed: the pictures were resized or saved as JPEG since, or are drawings in black and white, so that without a
            ledger it cannot be told from them whether key and options are the right ones. Others then go unnoticed.
        num_proc: worker processes, as for ``Dataset.map``.

    Returns:
        The same kind; of ``(images, labels)`` the images.

    Warns:
        UnlockWarning: how many pictures are not exactly what they were, or cannot be compared; or that larger originals
            were made smaller.

    Raises:
        ValueError: pictures or ledger belong to another key or to other options.
        SampleError: pictures that a given ledger does not know, or that cannot be undone; rows named.
        TypeError: a method that cannot be undone, or another kind of data.
        NotFittedError, NoiseError: a method whose noise or settings are nowhere to be found.
    """
    if isinstance(protected, tuple) and len(protected) == 2:
        images, labels = protected
        tokens = batch_tokens(labels, len(images), poison.classes)
        some = [(open_image(images[row]).colour, tokens[row]) for row in spread(len(images), SAMPLE)]
        unlocker = make_unlocker(poison, some, ledger, changed)
        result, counts = _unlock_batch(images, tokens, unlocker)
    elif isinstance(protected, Dataset | DatasetDict):
        data = open_rows(protected, "data", image_key=poison.image_key, label_key=poison.label_key)
        unlocker = make_unlocker(poison, some_images(data, poison), ledger, changed)
        done, counts = {}, Counter[str]()
        for name in data.training:
            done[name], states = _unlock_split(data, name, unlocker, num_proc=num_proc)
            done[name].set_format(**data.rows_of(name).data.format)
            counts += states
        result = DatasetDict({**protected, **done}) if isinstance(protected, DatasetDict) else done[TRAIN]
    else:
        raise UsageTypeError(
            f"unlock takes a datasets.Dataset or DatasetDict, or a tuple (images, labels), not "
            f"{type(protected).__name__}; for files there is `unlearnable unlock`"
        )
    if counts[NEAR] or counts[UNKNOWN] or unlocker.records.max_side:
        warn("; ".join(told(counts, unlocker.records.max_side)), UnlockWarning)
    return result


def told(counts: Mapping[str, int], max_side: int | None = None) -> list[str]:
    """What came out, in words; ``max_side``: to which larger images were made smaller before they were protected."""
    total = sum(counts.values())
    texts = {
        EXACT: "are restored exactly",
        NEAR: "are restored nearly: the rest was lost in rounding, at borders, or since",
        UNKNOWN: "are undone, how well is not known: no ledger knows their clean ids",
        CLEAN: "were never protected and stay as they are",
    }
    lines = [f"{counts[state]:,} of {total:,} pictures {text}" for state, text in texts.items() if counts.get(state)]
    if max_side is not None:
        lines.append(
            f"larger pictures were made smaller, to {max_side} pixels on the longest side, before they were protected: "
            "these come back at that size"
        )
    return lines


# ---- what ledgers say ------------------------------------------------------------------------------------------------


class Record(NamedTuple):
    """What a ledger says of one protected picture."""

    clean_id: bytes
    token: str
    status: str
    note: float | None


class Records:
    """What some ledgers say, by protected id.

    Args:
        tables: the ledgers.
        complete: whether every picture has to be in them.

    Attributes:
        named: whether all of them name the method, which is then the right one.
    """

    def __init__(self, tables: Sequence[pa.Table], complete: bool) -> None:
        self.complete = complete
        self.named = bool(tables) and all(map(names_method, tables))
        self.by_id: dict[bytes, Record] = {}
        names = ("protected_id", "clean_id", "class_token", "status", "unlock_note")
        for table in tables:
            for id_, *values in zip(*(table[name].to_pylist() for name in names), strict=True):
                self.by_id.setdefault(id_, Record(*values))
        self.learnt = learnt_in(tables)
        self.max_side = max_side_in(tables)
        self.tokens = sorted({record.token for record in self.by_id.values()})

    def find(self, colour: np.ndarray, token: str | None) -> Record | None:
        """The record of a picture, by its label's class, else by any: secret classes stand in the ledger alone."""
        for tokens in ([token] if token is not None else [], self.tokens):
            for id_ in ids_as(colour, tokens):
                if id_ in self.by_id:
                    return self.by_id[id_]
        return None


def _find_records(poison: Poison, some: Sequence[Picture], ledger: str | os.PathLike | None) -> Records:
    """The records of a ledger, or of those in the cache that know one of some pictures.

    Raises:
        ValueError: they are of another key, or of other options.
    """
    fingerprint = None if poison.key is None else poison.key.fingerprint
    if ledger is not None:
        table = read_ledger(ledger)
        check_fit(table, ledger, poison)
        return Records([table], complete=True)
    ours: list[tuple[Path, pa.Table]] = []
    others: list[tuple[Path, pa.Table]] = []
    for path in sorted(private_directory("ledgers").glob("*.parquet")):
        mine = path.name.startswith(f"{fingerprint or 'explicit'}-")
        if mine or not ours:
            table = read_ledger(path)
            records = Records([table], complete=False)
            if any(records.find(*picture) for picture in some):
                (ours if mine else others).append((path, table))
    if others and not ours:
        raise UsageError(
            f"these pictures were protected with another key than {poison!r} has: the ledger {others[0][0]} knows them"
        )
    fitting = [table for _, table in ours if not other_method(table, poison)]
    if ours and not fitting:
        check_fit(ours[0][1], ours[0][0], poison)
    return Records(fitting, complete=False)


# ---- pictures --------------------------------------------------------------------------------------------------------


class Unlocker:
    """Undoes opened pictures. It can be sent to other processes.

    Args:
        poison: ready to use.
        records: what is known of the pictures.
    """

    def __init__(self, poison: Poison, records: Records) -> None:
        self.poison, self.records = poison, records

    def __call__(
        self, colours: Sequence[np.ndarray], tokens: Sequence[str | None]
    ) -> tuple[list[np.ndarray], list[str]]:
        """The clean pictures, as nearly as can be, and how well each is restored.

        Args:
            colours: uint8 (H, W, C), protected, C = 1 or 3; sizes may differ.
            tokens: class of each, None where no label says it.

        Raises:
            SampleError: pictures that the ledger does not know or that cannot be undone, with their rows.
        """
        found = [self.records.find(*picture) for picture in zip(colours, tokens, strict=True)]
        strange = [row for row, record in enumerate(found) if record is None]
        if strange and self.records.complete:
            raise SampleError(
                "the ledger does not know the picture: it was changed since (resized, saved as JPEG), or is of another "
                "data set. Without a ledger what it says is guessed",
                strange,
            )
        unlabelled = [row for row in strange if tokens[row] is None]
        if unlabelled:
            raise SampleError("no label and no ledger says the image's class: pass ledger=", unlabelled)
        results, states = list(colours), [CLEAN] * len(colours)
        todo = [row for row, record in enumerate(found) if record is None or record.status == "protected"]
        classes = [record.token if record else str(token) for record, token in zip(found, tokens, strict=True)]
        with counted_in(todo):
            restored, ids = unlock_arrays(
                self.poison,
                [colours[row] for row in todo],
                [classes[row] for row in todo],
                [record.clean_id if (record := found[row]) else None for row in todo],
                [record.note if (record := found[row]) else None for row in todo],
            )
        for row, colour, id_ in zip(todo, restored, ids, strict=True):
            results[row] = colour
            states[row] = UNKNOWN if id_ is None else EXACT if sample_id(colour, classes[row]) == id_ else NEAR
        return results, states


def make_unlocker(
    poison: Poison, some: Sequence[Picture], ledger: str | os.PathLike | None = None, changed: bool = False
) -> Unlocker:
    """Find what is known of a data set from some of its pictures; nothing is undone yet.

    Args:
        poison: is fitted from the cache or the ledger if it has to be.
        some: protected pictures, opened, from all over the set: the first ones may be of one class.
        ledger, changed: as for :func:`unlock`.

    Raises:
        ValueError: pictures or ledger belong to another key or to other options.
        NotFittedError, NoiseError: what a fit made is not to be found.
    """
    records = _find_records(poison, some, ledger)
    known = [(record, token) for colour, token in some if (record := records.find(colour, token))]
    if any(record.token != token for record, token in known):
        records.complete = True  # secret classes: where the ledger does not know a picture, its label says nothing
    ids = [record.clean_id for record in records.by_id.values() if record.status == "protected"]
    ids = ids or [sample_id(colour, token) for colour, token in some if token is not None]
    remember(poison, records.learnt)
    poison.recall(ids, [class_value(token) for token in records.tokens])
    if not (changed or (records.named and has_keys(poison))):
        _check_pictures(poison, some, records)
    return Unlocker(poison, records)


def _check_pictures(poison: Poison, some: Sequence[Picture], records: Records) -> None:
    """Refuse another key and other options where no ledger names the right ones.

    Raises:
        ValueError: protected again, what was undone does not become what it was.
    """
    colours, tokens = [], []
    for colour, token in some:
        record = records.find(colour, token)
        class_ = record.token if record else token
        if class_ is not None and (record is None or record.status == "protected"):
            colours.append(colour)
            tokens.append(class_)
    if not fits_pictures(poison, colours, tokens):
        raise UsageError(
            f"{poison!r} did not make these pictures: protected again, what it undoes becomes something else. Give the "
            "key and the options that they were protected with, or its ledger; if they were resized or saved as JPEG "
            "since, or are drawings in black and white, pass changed=True"
        )


def has_keys(poison: Poison) -> bool:
    """Whether key and public arguments say all of a method: explicit filters and pixels stand in neither."""
    return all(link.key is not None for link in poison.links)


def _unlock_batch(images: Any, tokens: Sequence[str | None], unlocker: Unlocker) -> tuple[Any, Counter[str]]:
    """Images of the kind that ``Poison.apply`` takes."""
    results: list[Any] = []
    counts: Counter[str] = Counter()
    for start, opened in open_chunks(images, open_image):
        rows = range(start, start + len(opened))
        with counted_in(rows):
            colours, states = unlocker([picture.colour for picture in opened], [tokens[row] for row in rows])
        results += [picture.close(colour) for picture, colour in zip(opened, colours, strict=True)]
        counts.update(states)
    if isinstance(images, torch.Tensor):
        return torch.stack(results) if results else images.clone(), counts
    if isinstance(images, np.ndarray):
        return np.stack(results) if results else images.copy(), counts
    return results, counts


# ---- data sets -------------------------------------------------------------------------------------------------------


def tokens_of(data: LabelledSet, split: str, poison: Poison) -> list[str] | None:
    """The class token of each row; None where there are no labels, since secret classes are in the ledger alone."""
    return None if data.splits[split].labels is None else data.tokens(split, poison)


def some_images(data: LabelledSet, poison: Poison) -> list[Picture]:
    """Some training images of a set, as :func:`make_unlocker` takes them.

    Raises:
        ValueError: one that cannot be read.
    """
    result: list[Picture] = []
    for name in data.training:
        rows, tokens = data.splits[name], tokens_of(data, name, poison)
        for row in spread(len(rows), SAMPLE):
            try:
                colour = rows.open(rows.stored(range(row, row + 1))[0]).colour
            except (TypeError, ValueError) as error:
                raise SampleError(f"{rows.place(row)}: {error}") from None
            result.append((colour, None if tokens is None else tokens[row]))
    return result


def _unlock_split(data: TableSet, name: str, unlocker: Unlocker, **map_options: Any) -> tuple[Dataset, Counter[str]]:
    """One split undone, without a format, and how well. ``map_options`` go to ``Dataset.map``.

    Raises:
        SampleError: as :func:`unlock`.
    """
    rows = data.rows_of(name)
    plain = rows.data.with_format(None)
    mapped = map_privately(
        plain,
        _UnlockRows(rows, unlocker, tokens_of(data, name, unlocker.poison)),
        secrets.token_hex(8),
        features=Features({**plain.features, "_state": Value("string")}),
        desc="Unlocking",
        **map_options,
    )
    states = mapped.select_columns(["_state"]).with_format("arrow")[:]["_state"].to_pylist()
    return mapped.remove_columns("_state"), Counter(states)


class _UnlockRows:
    """The function that ``Dataset.map`` calls on batches."""

    def __init__(self, rows: TableRows, unlocker: Unlocker, tokens: Sequence[str] | None) -> None:
        self.rows, self.unlocker, self.tokens = rows, unlocker, tokens

    def __call__(self, batch: Any, positions: list[int]) -> dict[str, list]:
        result: dict[str, list] = {self.rows.image_key: [], "_state": []}
        for first, opened in self.rows.chunks(range(positions[0], positions[-1] + 1)):
            some = range(first, first + len(opened))
            tokens = [None if self.tokens is None else self.tokens[row] for row in some]
            with counted_in(some):
                changed = self.unlocker([image.colour for image in opened], tokens)
            for image, colour, state in zip(opened, *changed, strict=True):
                result[self.rows.image_key].append({"bytes": PNG.encode(image.close(colour)), "path": None})
                result["_state"].append(state)
        return result
