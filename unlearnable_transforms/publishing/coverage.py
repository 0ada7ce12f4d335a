"""Whether an upload is what the ledger says, or what the originals become: every picture protected, none clean."""

import copy
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict

from ..checks.leaks import Findings, Place, name_places
from ..data.base import LabelledSet
from ..data.image import open_bytes
from ..data.open import open_data
from ..errors import UsageError, UsageTypeError
from ..files import private_directory
from ..jobs.ledger import check_fit, other_method, read_ledger
from ..poisons.base import NotFittedError, Poison
from ..protection.protect import ledger_of
from ..protection.unlock import UNKNOWN, Records, make_unlocker
from ..protection.unlock_check import LEVELS, ONE_PICTURE, SHARE
from ..sample import ids_as
from .stage import Picture, Upload

_SAMPLE = 200  # pictures by which a ledger is recognised
_CONFIRMED, _MOST_VALUES = 100, 12_000_000  # pictures, and numbers in them, that are undone where there is no ledger


class Coverage:
    """What a ledger knows of the pictures of an upload; ``source`` names it in messages."""

    def __init__(self, table: pa.Table, source: str = "the ledger") -> None:
        self.source, self.table = source, table
        self.records = Records([table], complete=True)
        self._clean = set(table["clean_id"].to_pylist())
        self.is_partial = any(record.status != "protected" for record in self.records.by_id.values())
        self.seen: Counter[bytes] = Counter()

    def look_up(self, colour: np.ndarray, token: str | None) -> str:
        """What a picture is: ``protected``, ``left``, ``unchanged``, ``clean``, or ``unknown``.

        All classes are tried, its own first: the protection may have followed secret ones, and a clean picture is one
        under any label.
        """
        for id_ in ids_as(colour, dict.fromkeys([*([token] if token else []), *self.records.tokens])):
            if id_ in self.records.by_id:
                self.seen[id_] += 1
                return self.records.by_id[id_].status
            if id_ in self._clean:
                return "clean"
        return "unknown"

    def missing(self) -> list[Place]:
        """Rows of the ledger of which the upload has no picture."""
        left = self.seen.copy()
        places: list[Place] = []
        columns = (self.table[name].to_pylist() for name in ("split", "row", "protected_id"))
        for split, row, id_ in zip(*columns, strict=True):
            if left[id_] > 0:
                left[id_] -= 1
            else:
                places.append((split or "ledger", row))
        return places


def find_coverage(
    upload: Upload, poison: Poison, ledger: Any, original: Any, label: str | None, findings: Findings
) -> Coverage | None:
    """What to compare an upload with: the ledger given, one of the cache that knows the pictures, or the originals.

    ``label`` is the class of all originals, where they are a tree without class folders.

    Raises:
        ValueError: the ledger was written for another key or another method.
        NotFittedError: there are only the originals to go by, and the method has no noise.
    """
    coverage = _recognise(upload, poison) if ledger is None else _read(ledger, poison)
    if original is None:
        return coverage
    originals = open_originals(original, poison, label, coverage)
    if coverage is not None:
        _compare(originals, coverage, poison, findings)
        return coverage
    if not poison.fitted:
        raise NotFittedError(
            f"{type(poison).__name__} has no noise to make protected images of the originals with: pass ledger="
        )
    return Coverage(ledger_of(originals, poison), "the originals")


def open_originals(original: Any, poison: Poison, label: str | None, coverage: Coverage | None) -> LabelledSet:
    """The originals, as large as they were when they were protected.

    Raises:
        TypeError: no data set and no path.
    """
    if not isinstance(original, Dataset | DatasetDict | str | Path):
        raise UsageTypeError(f"original is a data set or a path, not a {type(original).__name__}")
    originals = open_data(
        original, what="original", label=label, image_key=poison.image_key, label_key=poison.label_key, convert=True
    )
    if coverage is not None:
        originals.shrink(coverage.records.max_side)
    return originals


def _read(ledger: Any, poison: Poison) -> Coverage:
    table = read_ledger(ledger)
    check_fit(table, ledger, poison)
    return Coverage(table)


def _recognise(upload: Upload, poison: Poison) -> Coverage | None:
    """The ledger of the cache that knows most of some pictures, if one knows any; a ValueError if only ledgers of other
    methods do."""
    opened = _opened(islice(upload.pictures(upload.training[0]), _SAMPLE))
    name = "explicit" if poison.key is None else poison.key.fingerprint
    best, known = None, 0
    paths = private_directory("ledgers").glob(f"{name}-*.parquet")
    others: list[tuple[pa.Table, Path]] = []
    for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
        table = read_ledger(path)
        coverage = Coverage(table)
        count = sum(coverage.look_up(*picture) != "unknown" for picture in opened)
        coverage.seen.clear()
        if count > known and other_method(table, poison):
            others.append((table, path))
        elif count > known:
            best, known = coverage, count
    if others and best is None:
        check_fit(*others[0], poison)
    return best


def _opened(pictures: Iterable[Picture]) -> list[tuple[np.ndarray, str | None]]:
    """Pixels and class token; without pictures that cannot be opened, which are told later, with their place."""
    return [(colour, token) for colour, token, _ in _opened_at(pictures)]


def _opened_at(pictures: Iterable[Picture]) -> list[tuple[np.ndarray, str | None, Place]]:
    opened = []
    for picture in pictures:
        with suppress(TypeError, ValueError):
            opened.append((open_bytes(picture.data).colour, picture.token, picture.place))
    return opened


def confirm(upload: Upload, poison: Poison) -> int:
    """Look at a sample of pictures that no ledger knows, and undo their protection.

    Noise that is kept in the cache knows its protected pictures. What other methods undo has to become, protected
    again, what it was, wherever they change it; of a picture that was never protected it becomes something else.

    Returns:
        How many pictures were looked at; all of them are protected.

    Raises:
        ValueError, NotFittedError, NoiseError: they are not, or it cannot be told from them.
    """
    poison = copy.deepcopy(poison)  # which is fitted from the cache where that is needed
    some = _opened_at(upload.sample(_CONFIRMED))
    sizes = np.cumsum([colour.size for colour, *_ in some])
    some = some[: max(1, int((sizes <= _MOST_VALUES).sum()))]
    colours, tokens = [colour for colour, *_ in some], [token for _, token, _ in some]
    pairs = list(zip(colours, tokens, strict=True))
    restored, states = make_unlocker(poison, pairs, changed=True)(colours, tokens)
    doubtful = [row for row, state in enumerate(states) if state == UNKNOWN]
    again = poison.protect_arrays([restored[row] for row in doubtful], [str(tokens[row]) for row in doubtful])
    shares = []
    for row, protected in zip(doubtful, again, strict=True):
        changed = protected != restored[row]
        off = np.abs(protected.astype(np.int16) - colours[row]) > LEVELS
        shares.append(float(off[changed].mean()) if changed.any() else 1.0)
    if shares and np.mean(shares) > SHARE + ONE_PICTURE / len(shares):
        limit = min(ONE_PICTURE, max(shares))
        wrong = [some[row][2] for row, share in zip(doubtful, shares, strict=True) if share >= limit]
        raise UsageError(
            f"protected again, what {poison!r} undoes becomes something else in {len(wrong)} of {len(some)} images "
            f"that were looked at: {name_places(wrong)}"
        )
    return len(some)


def _compare(originals: LabelledSet, coverage: Coverage, poison: Poison, findings: Findings) -> None:
    """Note originals that a ledger does not know: they were not protected."""
    for name in originals.training:
        rows, tokens = originals.splits[name], originals.tokens(name, poison)
        for first, opened in rows.chunks():
            for row, image in enumerate(opened, first):
                if coverage.look_up(image.colour, tokens[row]) == "unknown":
                    what = "originals that the ledger does not know: they were never protected"
                    place = (name if originals.named_splits else "original", row)
                    findings.add("missing rows", what, "protect the whole set again", place)
    coverage.seen.clear()
