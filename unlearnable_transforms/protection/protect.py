"""Protect a whole ``datasets`` data set: same columns and features, lossless pictures, a private ledger."""

import os
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, Value

from ..data.beside import dataset_images
from ..data.columns import refuse_second_image, stored_images
from ..data.image import open_chunks
from ..data.splits import is_train_split
from ..jobs.fraction import check_fraction
from ..jobs.ledger import SCHEMA, write_ledger
from ..poisons.base import NotFittedError, Poison, UnchangedWarning
from ..poisons.fraction import is_chosen
from ..sample import SampleError, batch_tokens, name_rows, sample_id
from ..secret.labels import SECRET, check_labels, check_options, label_columns, secret_classes, to_fit, with_secret
from ..warn import warn

_LEDGER_FEATURES = Features(
    {
        "_clean_id": Value("binary"),
        "_protected_id": Value("binary"),
        "_class_token": Value("string"),
        "_status": Value("string"),
        "_unlock_note": Value("float64"),
    }
)


def protect(
    data: Dataset | DatasetDict,
    poison: Poison,
    fraction: float = 1.0,
    *,
    labels: Any = None,
    clusters: int | None = None,
    backbone: str | Callable | None = None,
    keep: Collection[str] = (),
    num_proc: int | None = None,
    ledger: str | os.PathLike | None = None,
) -> Any:
    """The data set with every picture protected.

    Args:
        data: a ``Dataset``, or a ``DatasetDict`` whose training splits are protected and whose others are kept.
        poison: a protection method; fitted on the training data if it needs to be and is not.
        fraction: share of the pictures to protect, in (0, 1], chosen by a keyed hash of each picture. All pictures
            are encoded alike, so that the encoding does not tell which.
        labels: secret classes that the protection follows instead of the label column, which stays as it is and may be
            missing: ``"auto"``, clusters of pictures that look alike; or one class a row, integers or text (for a
            ``DatasetDict`` with several training splits a mapping from split to that).
        clusters, backbone: of ``labels="auto"``, see :func:`~unlearnable_transforms.secret.labels.auto_labels`.
        keep: other image columns that may stay as they are. Without it they are refused: often they are copies.
        num_proc: worker processes, as for ``Dataset.map``.
        ledger: file for the private record of what was protected (mode 0600). Default: in the library's cache
            folder, ``UNLEARNABLE_TRANSFORMS_CACHE`` or the platform's.

    Returns:
        The same kind of data set, same features, pictures stored as PNG without any path.

    Raises:
        TypeError: a streaming set (materialise it, or use ``ds.map(poison)``) or another kind of data set.
        SampleError: pictures or labels that cannot be protected; rows named, counted in the whole data set.
        ValueError: a second image column, a column that holds no images, a split of unclear purpose, fraction.
    """
    if isinstance(data, IterableDataset | IterableDatasetDict):
        raise TypeError(
            "a streaming data set has no end to check: use ds.map(poison), or load it without streaming=True"
        )
    if not isinstance(data, Dataset | DatasetDict):
        raise TypeError(
            f"protect takes a datasets.Dataset or DatasetDict, not {type(data).__name__}; for a torchvision data set "
            "use ut.ProtectedDataset(dataset, poison)"
        )
    check_fraction(fraction, poison)
    splits = data if isinstance(data, DatasetDict) else {"": data}
    chosen = {name: split for name, split in splits.items() if name == "" or is_train_split(name)}
    if not chosen:
        raise ValueError(f"none of the splits {list(splits)} is training data, so nothing would be protected")
    empty = [name for name, split in chosen.items() if not len(split)]
    if empty:
        raise ValueError(f"there are no rows to protect{f' in {empty}' if empty != [''] else ''}")
    formats = {name: split.format for name, split in chosen.items()}
    check_options(labels, clusters, backbone, poison.key)
    if labels is not None:
        values = secret_classes(chosen, labels, poison, clusters=clusters, backbone=backbone)
        chosen = with_secret(chosen, values)
    if not poison.fitted:
        if len(chosen) > 1:
            raise NotFittedError(
                f"fit the poison on one data set first: there are several training splits {list(chosen)}"
            )
        poison.fit(to_fit(next(iter(chosen.values())), poison))
    results, tables = {}, []
    for name, split in chosen.items():
        results[name], table = protect_split(split, poison, fraction, keep, name, num_proc=num_proc)
        results[name].set_format(**formats[name])
        tables.append(table)
        unchanged = unchanged_rows(table)
        if unchanged:
            warn(
                f"{name_rows(unchanged)}: the method leaves the picture as it is (all black, perhaps, or what it "
                "shows is in its alpha channel): it is unprotected",
                UnchangedWarning,
            )
    write_ledger(pa.concat_tables(tables), ledger, poison)
    if isinstance(data, DatasetDict):
        return DatasetDict({name: results.get(name, split) for name, split in data.items()})
    return results[""]


def protect_split(
    data: Dataset, poison: Poison, fraction: float, keep: Collection[str], name: str, **map_options: Any
) -> tuple[Dataset, pa.Table]:
    """One data set protected, and its rows of the ledger. ``map_options`` go to ``Dataset.map``.

    A column ``SECRET`` takes the place of the label column, and is left out of the result, which has no format.

    Raises:
        As :func:`protect`.
    """
    image_key, label_key = label_columns(data.column_names, poison)
    refuse_second_image(image_key, dataset_images(data, [image_key, *keep]))
    check_labels(data, label_key, poison)  # all of them, first
    plain = data.with_format(None)
    mapped = plain.map(
        _ProtectRows(poison, image_key, label_key, fraction),
        batched=True,
        batch_size=256,
        with_indices=True,
        features=Features({**plain.features, **_LEDGER_FEATURES}),
        desc=f"Protecting {name}".strip(),
        **map_options,
    )
    table = _ledger_table(mapped, name)
    return mapped.remove_columns([*_LEDGER_FEATURES, *({SECRET} & set(data.column_names))]), table


def unchanged_rows(table: pa.Table) -> list[int]:
    """The rows of a ledger whose pictures the method leaves as they are, counted in the table."""
    return pc.indices_nonzero(pc.equal(table["status"], "unchanged")).to_pylist()


def _ledger_table(mapped: Dataset, split: str) -> pa.Table:
    columns = mapped.select_columns(list(_LEDGER_FEATURES)).with_format("arrow")[:]
    columns = columns.rename_columns([column.removeprefix("_") for column in columns.column_names])
    rows = len(columns)
    columns = columns.append_column("split", pa.repeat(pa.scalar(split), rows))
    columns = columns.append_column("row", pa.array(np.arange(rows)))
    return columns.select(SCHEMA.names)


class _ProtectRows:
    """The function that ``Dataset.map`` calls on batches; its attributes are its fingerprint."""

    version = 1

    def __init__(self, poison: Poison, image_key: str, label_key: str, fraction: float) -> None:
        self.state = (self.version, image_key, label_key, float(fraction))
        self.poison = poison

    def __call__(self, batch: Any, positions: list[int]) -> dict[str, list]:
        _, image_key, label_key, fraction = self.state
        stored, reader = stored_images(batch, image_key)
        tokens = batch_tokens(batch[label_key], len(stored), self.poison.classes)
        rows: dict[str, list] = {name: [] for name in (image_key, *_LEDGER_FEATURES)}
        try:
            for start, opened in open_chunks(stored, reader):
                names = tokens[start : start + len(opened)]
                ids = [sample_id(picture.colour, token) for picture, token in zip(opened, names, strict=True)]
                chosen = [row for row, id_ in enumerate(ids) if is_chosen(self.poison.key, id_, fraction)]
                colours = [picture.colour for picture in opened]
                try:
                    changed = self.poison.protect_arrays(
                        [colours[row] for row in chosen], [names[row] for row in chosen]
                    )
                except SampleError as error:
                    raise SampleError.at([start + chosen[row] for row in error.rows], error) from None
                results = dict(zip(chosen, changed, strict=True))
                for row, (picture, token, clean_id) in enumerate(zip(opened, names, ids, strict=True)):
                    colour = results.get(row, picture.colour)
                    protected_id = sample_id(colour, token)
                    same = picture.unprotected_by(colour)
                    status = "left" if row not in results else "unchanged" if same else "protected"
                    note = self.poison.unlock_note(picture.colour, colour, token) if status == "protected" else None
                    for column, value in zip(
                        rows, (picture.close(colour), clean_id, protected_id, token, status, note), strict=True
                    ):
                        rows[column].append(value)
        except SampleError as error:
            where = [positions[row] for row in error.rows] if error.rows or len(stored) > 1 else [positions[0]]
            raise SampleError.at(where, error) from None
        return rows
