"""The card's picture: some of the images that are published, side by side; with the originals only if asked for.

Without originals it is made from the published files alone, so that :func:`shows_published` can make it again.
"""

import io
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from ..data.base import LabelledSet
from ..data.image import open_bytes
from ..errors import UsageError
from ..files import read_regular
from ..sample import ids_as
from .coverage import Coverage
from .stage import PICTURE, PICTURES, Upload

SHOWN, WITH_ORIGINALS = 8, 4  # images
_ACROSS, _SIDE, _GAP = 4, 160, 8  # pixels
_OPTIONS: dict[str, dict[str, Any]] = {"webp": {"lossless": True}, "jpg": {"quality": 95}}
_CLOSE = 3.0  # levels, mean: what versions of Pillow resize otherwise
_MOST = 1 << 26  # bytes


def picture_name(upload: Upload) -> str:
    """A hidden file, with an ending that no published image has: else a loader would take it for one of them."""
    used = {PurePosixPath(path).suffix.lower() for paths in upload.splits.values() for path in paths}
    return next(f"{PICTURE}.{ending}" for ending in [*PICTURES, "gif"] if f".{ending}" not in used or ending == "gif")


def draw(upload: Upload, originals: LabelledSet | None = None, coverage: Coverage | None = None) -> bytes:
    """The picture as a file: up to eight images, or four originals above what they became.

    Raises:
        UsageError: of the images shown, an original is not among ``originals``.
    """
    some = [(open_bytes(picture.data).colour, picture.token) for picture in upload.sample(SHOWN)]
    if originals is not None:
        some = some[:WITH_ORIGINALS]
        images = [*_originals_of(some, originals, coverage), *(colour for colour, _ in some)]
    else:
        images = [colour for colour, _ in some]
    return _encode(_sheet(images, min(_ACROSS, len(some))), picture_name(upload))


def shows_published(upload: Upload, name: str) -> bool:
    """Whether the picture in a published folder is the one that its images make."""
    made = np.asarray(Image.open(io.BytesIO(draw(upload))).convert("RGB"), np.int16)
    try:
        found = open_bytes(read_regular(upload.folder / name, _MOST)).colour
    except (TypeError, ValueError):
        return False
    found = np.broadcast_to(found, (*found.shape[:2], 3)).astype(np.int16)
    return found.shape == made.shape and float(np.abs(found - made).mean()) <= _CLOSE


def _originals_of(
    some: Sequence[tuple[np.ndarray, str | None]], originals: LabelledSet, coverage: Coverage | None
) -> list[np.ndarray]:
    """The originals of some protected images, found by the ids that the ledger has."""
    if coverage is None:
        raise UsageError("which originals belong to the images is not known: pass ledger=, or publish without them")
    records = [coverage.records.find(colour, token) for colour, token in some]
    wanted = {record.clean_id: None for record in records if record is not None}
    found: dict[bytes, np.ndarray] = {}
    for name in originals.training:
        for _, opened in originals.splits[name].chunks():
            for image in opened:
                for id_ in ids_as(image.colour, coverage.records.tokens):
                    if id_ in wanted:
                        found.setdefault(id_, image.colour)
        if len(found) == len(wanted):
            break
    if any(record is None or record.clean_id not in found for record in records):
        raise UsageError("original= lacks some that the card's picture is to show: pass the whole training data")
    return [found[record.clean_id] for record in records if record is not None]


def _sheet(images: Iterable[np.ndarray], across: int) -> Image.Image:
    """Images in rows of ``across``, each fitted into a square and never cut."""
    tiles = [_tile(image) for image in images]
    down = -(-len(tiles) // across)
    step = _SIDE + _GAP
    sheet = Image.new("RGB", (across * step - _GAP, down * step - _GAP), "white")
    for place, tile in enumerate(tiles):
        left, top = place % across * step, place // across * step
        sheet.paste(tile, (left + (_SIDE - tile.width) // 2, top + (_SIDE - tile.height) // 2))
    return sheet


def _tile(colour: np.ndarray) -> Image.Image:
    image = Image.fromarray(np.repeat(colour, 3, axis=2) if colour.shape[2] == 1 else colour)
    scale = _SIDE / max(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)  # type: ignore[arg-type]


def _encode(image: Image.Image, name: str) -> bytes:
    buffer = io.BytesIO()
    ending = name.rpartition(".")[2]
    image.save(buffer, {"jpg": "JPEG"}.get(ending, ending.upper()), **_OPTIONS.get(ending, {}))
    return buffer.getvalue()
