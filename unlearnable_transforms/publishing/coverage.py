"""Whether an upload is what the ledger says, or what the originals become: every picture protected, none clean."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, Image, Value

from ..checks.leaks import Findings, Place
from ..data.columns import find_columns
from ..data.image import open_bytes, open_image
from ..data.listing import list_folder
from ..data.splits import is_train_split
from ..files import private_directory
from ..jobs.ledger import read_ledger
from ..jobs.tables import is_picture_folder, load_training_splits
from ..poisons.base import NotFittedError, Poison
from ..protection.protect import protect_split
from ..sample import batch_tokens, sample_id
from .stage import Upload

_SAMPLE = 200  # pictures by which a ledger is recognised


class Coverage:
    """What is known of the pictures of an upload.

    Args:
        table: a ledger.
        source: ``the ledger`` or ``the originals``, for messages.
    """

    def __init__(self, table: pa.Table, source: str = "the ledger") -> None:
        self.source = source
        self.splits, self.rows = table["split"].to_pylist(), table["row"].to_pylist()
        self.status = table["status"].to_pylist()
        self.protected_ids = table["protected_id"].to_pylist()
        self._protected = {id_: row for row, id_ in enumerate(self.protected_ids)}
        self._clean = {id_: row for row, id_ in enumerate(table["clean_id"].to_pylist())}
        self._tokens = sorted(set(table["class_token"].to_pylist()))
        self.seen: Counter[bytes] = Counter()

    def look_up(self, colour: np.ndarray, token: str | None) -> str:
        """What a picture is: ``protected``, ``left``, ``unchanged``, ``clean``, or ``unknown``.

        All classes are tried, its own first: the protection may have followed secret ones, and a clean picture is one
        under any label.
        """
        for name in dict.fromkeys([*([token] if token else []), *self._tokens]):
            id_ = sample_id(colour, name)
            row = self._protected.get(id_)
            if row is not None:
                self.seen[id_] += 1
                return self.status[row]
            if id_ in self._clean:
                return "clean"
        return "unknown"

    def missing(self) -> list[Place]:
        """Rows of the ledger of which the upload has no picture."""
        left = self.seen.copy()
        found: list[Place] = []
        for split, row, id_ in zip(self.splits, self.rows, self.protected_ids, strict=True):
            if left[id_] > 0:
                left[id_] -= 1
            else:
                found.append((split or "ledger", row))
        return found


def find_coverage(
    upload: Upload, poison: Poison, ledger: Any, original: Any, label: str | None, findings: Findings
) -> Coverage | None:
    """What to compare an upload with: the ledger given, one of the cache that knows the pictures, or the originals.

    Args:
        ledger: path of a ledger, or None.
        original: the clean data, as :func:`open_originals` takes them, or None.
        label: the class of all originals, where they are a tree without class folders.

    Raises:
        NotFittedError: there are only the originals to go by, and the method has no noise.
    """
    coverage = _recognise(upload, poison) if ledger is None else Coverage(read_ledger(ledger))
    if original is None:
        return coverage
    with open_originals(original, poison, label) as splits:
        if coverage is not None:
            _compare(splits, coverage, poison, findings)
            return coverage
        if not poison.fitted:
            raise NotFittedError(
                f"{type(poison).__name__} has no noise to make protected pictures of the originals with: pass ledger="
            )
        tables = [protect_split(data, poison, 1.0, list(data.column_names), name)[1] for name, data in splits.items()]
    return Coverage(pa.concat_tables(tables), "the originals")


def _recognise(upload: Upload, poison: Poison) -> Coverage | None:
    """The ledger of the cache that knows most of some pictures, if one knows any."""
    sample = [(picture.data, picture.token) for picture in islice(upload.pictures(upload.training[0]), _SAMPLE)]
    opened = []
    for data, token in sample:
        try:
            opened.append((open_bytes(data).colour, token))
        except (TypeError, ValueError):  # told later, with its place
            continue
    name = "explicit" if poison.key is None else poison.key.fingerprint
    best, known = None, 0
    paths = private_directory("ledgers").glob(f"{name}-*.parquet")
    for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
        coverage = Coverage(read_ledger(path))
        count = sum(coverage.look_up(*picture) != "unknown" for picture in opened)
        coverage.seen.clear()
        if count > known:
            best, known = coverage, count
    return best


@contextmanager
def open_originals(original: Any, poison: Poison, label: str | None) -> Iterator[dict[str, Dataset]]:
    """The training data among the originals, by split.

    Args:
        original: a ``Dataset``, a ``DatasetDict``, a folder of pictures, Parquet, or a saved set.

    Raises:
        TypeError, ValueError, FileNotFoundError: something else.
    """
    if isinstance(original, DatasetDict):
        yield {str(name): data for name, data in original.items() if is_train_split(name)}
    elif isinstance(original, Dataset):
        yield {"": original}
    elif not isinstance(original, str | Path):
        raise TypeError(f"original is a data set or a path, not a {type(original).__name__}")
    elif is_picture_folder(original):
        yield _open_pictures(Path(original), poison, label)
    else:
        with (
            tempfile.TemporaryDirectory(dir=private_directory("uploads")) as scratch,
            load_training_splits(str(original), None, Path(scratch, "cache")) as splits,
        ):
            yield splits


def _open_pictures(folder: Path, poison: Poison, label: str | None) -> dict[str, Dataset]:
    """A folder's training pictures as rows with the paths of their files, by split."""
    listing = list_folder(folder, label is not None)
    rows: dict[str, tuple[list, list]] = {}
    for place, path in enumerate(listing.paths):
        paths, labels = rows.setdefault(listing.split(path), ([], []))
        paths.append({"bytes": None, "path": str(folder.resolve() / path)})
        labels.append(label if label is not None else listing.label(place))
    kind = Value("int64" if label is None else "string")
    columns = poison.image_key or "image", poison.label_key or "label"
    features = Features(dict(zip(columns, (Image(), kind), strict=True)))
    return {
        split: Dataset.from_dict(dict(zip(columns, values, strict=True)), features=features)
        for split, values in rows.items()
    }


def _compare(splits: Mapping[str, Dataset], coverage: Coverage, poison: Poison, findings: Findings) -> None:
    """Note originals that a ledger does not know: they were not protected."""
    for name, data in splits.items():
        image_key, label_key = find_columns(data.column_names, poison.image_key, poison.label_key)
        plain = data.with_format(None)
        tokens = batch_tokens(plain.select_columns([label_key])[label_key][:], len(plain), poison.classes)
        pictures = plain.select_columns([image_key]).cast_column(image_key, Image(decode=False))
        for row, token in enumerate(tokens):
            if coverage.look_up(open_image(pictures[row][image_key]).colour, token) == "unknown":
                what = "originals that the ledger does not know: they were never protected"
                findings.add("missing rows", what, "protect the whole set again", (name or "original", row))
    coverage.seen.clear()
