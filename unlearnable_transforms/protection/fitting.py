"""Fit a method on what lies on the disk: a folder of pictures, Parquet, a saved data set, or one of the Hub."""

import os
import tempfile
from pathlib import Path

from ..poisons.base import Poison
from .folder import FolderPictures
from .listing import list_folder
from .tables import is_picture_folder, load_training_splits


def fit_source(
    source: str | os.PathLike, poison: Poison, *, label: str | None = None, config: str | None = None
) -> None:
    """Fit a method on the training data of a source.

    Args:
        source: as for ``protect_folder`` and ``protect_tables``.
        poison: fitted afterwards.
        label: one class for all pictures of a folder; methods that learn what tells classes apart refuse it.
        config: configuration of a Hub data set.

    Raises:
        SampleError: a picture or label that cannot be protected.
        ValueError: the source is not as it must be, or has several training splits.
    """
    if is_picture_folder(source):
        folder = Path(source)
        poison.fit(FolderPictures(folder, list_folder(folder, label is not None), label))
        return
    with (
        tempfile.TemporaryDirectory() as scratch,
        load_training_splits(os.fspath(source), config, Path(scratch)) as train,
    ):
        if len(train) > 1:
            raise ValueError(f"there are several training splits {sorted(train)}: name the files of one")
        poison.fit(next(iter(train.values())))
