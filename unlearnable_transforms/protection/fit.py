"""Make a method ready for a data set: fit it, or find what an earlier run made and add what is new."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..data.base import LabelledSet, Rows, Unit, joined, select
from ..data.open import open_data
from ..data.shrink import check_max_side
from ..files import read_json, replacing
from ..jobs.journal import Journal
from ..jobs.ledger import learnt_by, remember
from ..poisons.base import Poison
from ..sample import class_value
from ..secret.labels import check_options, hide

LEARNT = "learnt.json"  # in the journal: what the method knew when the last run began


def fit_source(
    source: str | os.PathLike,
    poison: Poison,
    *,
    label: str | None = None,
    labels: str | Path | None = None,
    clusters: int | None = None,
    backbone: str | Callable | None = None,
    config: str | None = None,
    max_side: int | None = None,
) -> None:
    """Fit a method on the training data of a source.

    Args:
        source: as for :func:`~.protect.protect_source`.
        poison: fitted afterwards.
        label: one class for all images of a folder; methods that learn what separates classes refuse it.
        labels, clusters, backbone: secret classes, as for ``protect_source``.
        config: configuration of a Hub data set.
        max_side: as for ``protect_source``: the noise is for images of that size.

    Raises:
        SampleError: an image or label that cannot be protected.
        ValueError: the source is not as it must be.
    """
    check_max_side(max_side)
    check_options(labels, clusters, backbone, poison.key)
    data = open_data(
        source,
        label=label,
        unlabelled=labels is not None,
        image_key=poison.image_key,
        label_key=poison.label_key,
        config=config,
    )
    if labels is not None:
        hide(data, labels, poison, clusters=clusters, backbone=backbone)
    data.shrink(max_side)
    poison.fit(data.to_fit(poison))


def make_ready(poison: Poison, data: LabelledSet, todo: Sequence[Unit], journal: Journal) -> None:
    """Fit a method on a set; where an earlier run protected some of it, take what that run used and add the new rows.

    So a folder that grew keeps the noise of the images that were there before.

    Args:
        poison: ready afterwards.
        data: the set.
        todo: the units that are not done.
        journal: of the earlier run.
    """
    if poison.fitted:
        return
    ids = [
        bytes.fromhex(fact["clean_id"])
        for record in journal.records()
        if record["status"] != "failed"
        for fact in record["facts"]
        if fact["status"] == "protected"
    ]
    learnt = journal.directory / LEARNT
    if ids:
        if learnt.exists():
            remember(poison, read_json(learnt, [dict], "start with an empty output folder"))
        poison.recall(ids)
        _extend(poison, data, todo)
    else:
        poison.fit(data.to_fit(poison))
    with replacing(learnt) as temporary:
        temporary.write_text(json.dumps(learnt_by(poison)))


def _extend(poison: Poison, data: LabelledSet, todo: Sequence[Unit]) -> None:
    """Let those parts of a method learn from new rows that can."""
    new = _rows_of(data, todo, poison)
    if len(new) and any(hasattr(link, "extend") for link in poison.links):
        poison.extend(new)  # type: ignore[attr-defined]


def _rows_of(data: LabelledSet, units: Sequence[Unit], poison: Poison) -> Rows:
    """The training rows of some units, with the labels as the method gets them."""
    parts: list[Rows] = []
    labels: list[Any] = []
    for unit in units:
        if unit.split in data.training:
            parts.append(select(data.splits[unit.split], list(unit.rows)))
            labels += [class_value(token) for token in data.tokens(unit.split, poison, unit.rows)]
    return joined(parts, labels)
