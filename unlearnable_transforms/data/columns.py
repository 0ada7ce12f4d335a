"""Where the picture and its label are in a row or a data set, and how stored pictures are read."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FrameType
from typing import Any

from PIL import Image

from ..errors import UsageTypeError
from ..sample import SampleError
from .image import Opened, encode_png, open_encoded, open_image, readable

IMAGE_KEYS = ("image", "img")
LABEL_KEYS = ("label", "labels", "fine_label")


def find_columns(names: Iterable[str], image_key: str | None = None, label_key: str | None = None) -> tuple[str, str]:
    """The image and the label column among ``names``: the given ones, else the common names.

    Raises:
        KeyError: a column is missing or ambiguous; the message lists the choices.
    """
    names = list(names)
    return _find(names, image_key, IMAGE_KEYS, "image"), _find(names, label_key, LABEL_KEYS, "label")


def _find(names: list[str], given: str | None, common: tuple[str, ...], kind: str) -> str:
    if given is not None:
        if given not in names:
            raise KeyError(f"there is no column {given!r}; the columns are {names}")
        return given
    found = [name for name in common if name in names]
    if len(found) == 1:
        return found[0]
    problem = f"{found} could all be" if found else "none of the columns is known to be"
    raise KeyError(f"{problem} the {kind} column; say which with {kind}_key=. The columns are {names}")


def image_columns(features: Mapping[str, Any]) -> list[str]:
    """Names of the columns of a ``datasets.Features`` that hold pictures, also inside lists and structs."""
    return [name for name, feature in features.items() if _holds_images(feature)]


def _holds_images(feature: Any) -> bool:
    if type(feature).__name__ == "Image":
        return True
    if isinstance(feature, Mapping):
        return any(map(_holds_images, feature.values()))
    if isinstance(feature, list | tuple):
        return any(map(_holds_images, feature))
    inner = getattr(feature, "feature", None)
    return inner is not None and _holds_images(inner)


def image_values(row: Mapping[str, Any]) -> list[str]:
    """Names of the entries of a plain row or batch that hold pictures: PIL, encoded, or uint8 arrays and tensors of
    three or more axes."""

    def is_picture(value: Any) -> bool:
        if (isinstance(value, list | tuple) or str(getattr(value, "dtype", "")) == "object") and len(value):
            value = value[0]
        if isinstance(value, Mapping):
            return set(value) == {"bytes", "path"}
        pixels = getattr(value, "ndim", 0) >= 3 and str(value.dtype).endswith("uint8")
        return pixels or isinstance(value, Image.Image)

    return [name for name, value in row.items() if is_picture(value)]


def refuse_second_image(image_key: str, holding_images: Iterable[str]) -> None:
    """Refuse rows with another picture beside the one that gets protected: often it is the same one.

    Raises:
        ValueError: names the other columns and the remedy.
    """
    others = [name for name in holding_images if name != image_key]
    if others:
        raise ValueError(
            f"columns {others} hold pictures too and would stay unprotected beside {image_key!r}; remove them "
            f"(remove_columns), or pass image_key={image_key!r} to the poison to say that they may stay as they "
            "are (docs/conventions.md)"
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


def is_train_split(split: str) -> bool:
    """Whether the rows of a split are training data, by its name.

    Raises:
        ValueError: the name tells neither, so that protection would be a guess.
    """
    name = str(split).lower()
    if name.startswith("train"):
        return True
    if name.startswith(("test", "val", "dev", "eval", "holdout")):
        return False
    raise ValueError(
        f"is the split {split!r} training data? Name it train... or test..., or protect the one data set you mean "
        "(docs/protect.md)"
    )


def stored_images(row: Any, image_key: str) -> tuple[Sequence, Callable[[Any], Opened]]:
    """The still encoded pictures of a LazyRow or LazyBatch, and how to read one.

    Read from the table and not through the row, which would decode a whole batch of photographs at once.
    """
    from datasets import Image as ImageFeature

    feature = row.formatter.features.get(image_key)
    if not isinstance(feature, ImageFeature):
        raise SampleError(
            f"column {image_key!r} is {feature}, not Image: cast it first, "
            f"ds.cast_column({image_key!r}, datasets.Image())"
        )
    decode = ImageFeature(mode=feature.mode).decode_example
    tokens = row.formatter.token_per_repo_id

    def reader(stored: dict[str, Any] | None) -> Opened:
        if stored is None:
            raise ValueError("the picture is missing")
        if stored["bytes"] is None or feature.mode is not None:  # a path, perhaps a remote one, or a mode asked for
            with readable():
                picture = decode(stored, token_per_repo_id=tokens)
            opened = open_image(picture)
            return Opened(opened.colour, lambda colour: encode_png(opened.close(colour)))
        return open_encoded(stored["bytes"], None)

    return row.pa_table.column(image_key).to_pylist(), reader
