"""Where the picture and its label are in a row or a data set, and how stored pictures are read."""

from collections.abc import Callable, Collection, Iterable, Sequence
from types import FrameType
from typing import Any

import pyarrow as pa

from ..errors import UsageError, UsageKeyError, UsageTypeError, did_you_mean
from ..sample import SampleError
from .image import Opened, open_encoded, readable

IMAGE_KEYS = ("image", "img")
LABEL_KEYS = ("label", "labels", "fine_label")


def find_columns(names: Iterable[str], image_key: str | None = None, label_key: str | None = None) -> tuple[str, str]:
    """The image and the label column among ``names``: the given ones, else the common names.

    Raises:
        KeyError: a column is missing or ambiguous; the message lists the choices.
    """
    names = list(names)
    return find_image_column(names, image_key), _find(names, label_key, LABEL_KEYS, "label")


def find_image_column(names: Iterable[str], image_key: str | None = None) -> str:
    """The image column alone, as :func:`find_columns`."""
    return _find(list(names), image_key, IMAGE_KEYS, "image")


def _find(names: list[str], given: str | None, common: tuple[str, ...], kind: str) -> str:
    if given is not None:
        if given not in names:
            raise UsageKeyError(f"there is no column {given!r}{did_you_mean(given, names)}; the columns are {names}")
        return given
    found = [name for name in common if name in names]
    if len(found) == 1:
        return found[0]
    problem = f"{found} could all be" if found else "none of the columns is known to be"
    hint = ""
    if kind == "label" and not found:
        hint = '. Images without labels are protected with labels="auto" (docs/labels.md)'
    raise UsageKeyError(f"{problem} the {kind} column; say which with {kind}_key=. The columns are {names}{hint}")


def refuse_second_image(image_key: str, others: Collection[str]) -> None:
    """Refuse rows with another image beside the one that gets protected: often it is the same one.

    Args:
        image_key: the image column.
        others: columns with images, see :mod:`.beside`.

    Raises:
        ValueError: names the other columns and the remedy.
    """
    if others:
        raise UsageError(
            f"columns {list(others)} hold pictures too, or what could be one (bytes, arrays, encoded text), and would "
            f"stay unprotected beside {image_key!r}; remove these columns, or say that they may stay as they are: pass "
            f'keep= to protect, or image_key="{image_key}" to the method (docs/conventions.md)'
        )


def refuse_beside(where: str, others: Collection[str]) -> None:
    """As :func:`refuse_second_image`, of what is written again beside image files.

    Args:
        where: what the names are, for people.
        others: names of what holds images.

    Raises:
        ValueError: names them and the remedy.
    """
    if others:
        raise UsageError(
            f"{where} {list(others)} hold images too, or what could be one (bytes, arrays, encoded text), and would "
            "stay unprotected: take them out, or say by name that they may stay as they are: pass keep= to protect"
        )


def refuse_formatted(row: Any, caller: FrameType | None) -> None:
    """Refuse what ``Dataset.map`` makes of the stored rows where the dataset has a format or a transform.

    The result would be stored: augmented images, images read by another reader, or lists of numbers. A plain row does
    not say who made it, therefore the caller's frame is asked; a stream has no stored rows and passes plain ones.

    Args:
        row: what was passed.
        caller: the frame that passed it.

    Raises:
        UsageTypeError: a formatted row of ``Dataset.map``, or a table; names the remedy.
    """
    while caller is not None and caller.f_globals.get("__name__") == "datasets.dataset_dict":
        caller = caller.f_back  # binds the name of a split
    mapped = caller is not None and caller.f_globals.get("__name__") == "datasets.arrow_dataset"
    table = type(row).__module__.partition(".")[0] in ("pyarrow", "pandas", "polars")
    if table or (mapped and type(row).__name__ not in ("LazyRow", "LazyBatch")):
        raise UsageTypeError(
            f"map passed a {type(row).__name__}, not the stored row, because the dataset has a format or a transform, "
            "or because of input_columns=. Use ds.with_format(None).map(poison) without input_columns=, or "
            "ut.protect(ds, poison), which protects the stored images and puts the format back"
        )


def stored_images(row: Any, image_key: str) -> tuple[Sequence, Callable[[Any], Opened]]:
    """The still encoded images of a LazyRow or LazyBatch, and how to read one.

    Read from the table and not through the row, which would decode a whole batch of photographs at once, and cut 16
    bits a channel to 8.
    """
    from datasets import Image as ImageFeature

    feature = row.formatter.features.get(image_key)
    if not isinstance(feature, ImageFeature):
        raise SampleError(
            f"column {image_key!r} is {feature}, not Image: cast it first, "
            f"ds.cast_column({image_key!r}, datasets.Image())"
        )

    def reader(stored: dict[str, Any] | None) -> Opened:
        if stored is None:
            raise UsageError("the picture is missing")
        data, path = stored["bytes"], stored["path"]
        if data is None and "://" in (path or ""):  # remote, or inside an archive
            storage = pa.array([stored], feature.pa_type)
            with readable():
                storage = feature.embed_storage(storage, token_per_repo_id=row.formatter.token_per_repo_id)
            data = storage[0]["bytes"].as_py()
        return open_encoded(data, path, feature.mode)

    return row.pa_table.column(image_key).to_pylist(), reader
