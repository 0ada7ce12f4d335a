"""Fit a method on what lies on the disk: a folder of pictures, Parquet, a saved data set, or one of the Hub."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..data.listing import list_folder
from ..jobs.folder import FolderPictures
from ..jobs.tables import is_picture_folder, load_training_splits
from ..poisons.base import Poison
from ..secret.labels import check_options, hide_files, secret_classes, to_fit, with_secret


def fit_source(
    source: str | os.PathLike,
    poison: Poison,
    *,
    label: str | None = None,
    labels: str | Path | None = None,
    clusters: int | None = None,
    backbone: str | Callable | None = None,
    config: str | None = None,
) -> None:
    """Fit a method on the training data of a source.

    Args:
        source: as for ``protect_folder`` and ``protect_tables``.
        poison: fitted afterwards.
        label: one class for all pictures of a folder; methods that learn what tells classes apart refuse it.
        labels, clusters, backbone: secret classes, as for ``protect_folder`` and ``protect_tables``.
        config: configuration of a Hub data set.

    Raises:
        SampleError: a picture or label that cannot be protected.
        ValueError: the source is not as it must be, or has several training splits.
    """
    check_options(labels, clusters, backbone, poison.key)
    if is_picture_folder(source):
        folder = Path(source)
        listing = list_folder(folder, label is not None, hidden=labels is not None)
        if labels is not None:
            hide_files(listing, folder, labels, poison.key, clusters=clusters, backbone=backbone)
        poison.fit(FolderPictures(folder, listing, label))
        return
    with (
        tempfile.TemporaryDirectory() as scratch,
        load_training_splits(os.fspath(source), config, Path(scratch)) as train,
    ):
        if len(train) > 1:
            raise ValueError(f"there are several training splits {sorted(train)}: name the files of one")
        if labels is not None:
            values = secret_classes(train, labels, poison, clusters=clusters, backbone=backbone)
            train = with_secret(train, values)
        poison.fit(to_fit(next(iter(train.values())), poison))
