"""One photograph in each strength beside the original: a private local page, before anything is protected."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import xxhash

from ..data.classes import class_numbers
from ..data.codec import measure
from ..data.image import Opened, open_bytes
from ..errors import UsageError, printable
from ..files import private_directory, read_regular
from ..jobs.journal import lies_in_output
from ..jobs.summary import in_words
from ..key import Key
from ..poisons.cuda import CUDAPoison, Strength
from ..sample import class_token
from .pages import as_shown, data_url, reduced, write_page

STRENGTHS = get_args(Strength)  # from the weakest
LARGEST = 1 << 32  # bytes of the file
SHOWN = 1400  # pixels of the longer side of the whole image on the page
DETAIL = 640, 480  # width and height of the part that is shown pixel by pixel
LOOKED_AT = 512  # rows and columns in which the place of that part is looked for


class View(NamedTuple):
    """One version of the photograph on the page.

    Attributes:
        name: ``original`` or the strength.
        whole, detail: URLs that hold the images.
        db, likeness: PSNR with the best gain, in dB, and SSIM of the middle; None where there is none.
        words: how much can be seen.
    """

    name: str
    whole: str
    detail: str
    db: float | None = None
    likeness: float | None = None
    words: str = ""

    @property
    def figures(self) -> str:
        """PSNR and SSIM in brackets, as far as they are known."""
        parts = [] if self.db is None else [f"PSNR {self.db:.1f} dB"]
        parts += [] if self.likeness is None else [f"SSIM {self.likeness:.3f}"]
        return f" ({', '.join(parts)})" if parts else ""


@dataclass(frozen=True)
class Preview:
    """What :func:`preview` made.

    Attributes:
        page: the file.
        size: width and height of the photograph.
        class_name: that it was protected in.
        views: the original, then the strengths.
    """

    page: Path
    size: tuple[int, int]
    class_name: str
    views: list[View]

    def lines(self) -> list[str]:
        """The outcome as text."""
        width, height = self.size
        return [
            f"{width} x {height} pixels, protected as an image of the class {printable(self.class_name)}",
            *(f"  {view.name:7} {view.words}{view.figures}" for view in self.views[1:]),
            f"page (PRIVATE, it contains the original): {printable(self.page)}",
        ]


def preview(
    path: str | Path,
    key: Key,
    *,
    label: str | None = None,
    out: Path | None = None,
    measured: dict[str, Any] | None = None,
) -> Preview:
    """Write a page that shows a photograph in each strength of CUDA.

    The page has a reduced image and a part at 1:1 of each version.

    Args:
        path: of the photograph.
        key: the private key.
        label: the class, as ``protect --label``; default: the folder of the photograph, as ``protect`` numbers it.
        out: where the page goes; default: the library's cache. It has mode 0600 in either place.
        measured: what the strengths were measured to be worth, see :func:`~..evaluation.worth.of_strengths`.

    Raises:
        FileNotFoundError: there is no such file, or no folder for the page.
        UsageError: the file is no image that can be protected, ``out`` is something else than a page, or lies
            among protected images.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no image file {path}")
    if out is not None and lies_in_output(out):
        raise UsageError(f"{out} would show the original in a folder of protected images: name another place")
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name one photograph in it")
    try:
        opened = open_bytes(read_regular(path, LARGEST), convert=True)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from None
    name = label or path.resolve().parent.name or "photographs"
    token = class_token(label if label is not None else class_numbers([name], key)[name])
    height, width = opened.colour.shape[:2]
    views, detail = views_of(opened, key, token)
    page = write_page(
        out or _default_place(path),
        "preview.html.j2",
        name=printable(path.name),
        class_name=printable(name),
        width=width,
        height=height,
        detail=detail,
        views=views,
        measured=measured,
    )
    return Preview(page, (width, height), name, views)


def views_of(opened: Opened, key: Key, token: str) -> tuple[list[View], tuple[int, int]]:
    """A photograph and each strength of CUDA of it.

    One version at a time is in memory at full size.

    Args:
        opened: the photograph.
        key: the private key.
        token: of its class.

    Returns:
        The original, then the strengths from the weakest; width and height of the part at 1:1.
    """
    views: list[View] = []
    place: tuple[slice, slice] | None = None
    for strength in reversed(STRENGTHS):  # the strongest change says which part to show
        (changed,) = CUDAPoison(key=key, strength=strength).protect_arrays([opened.colour], [token])
        place = place or _most_changed(opened.colour, changed)
        _, db, likeness = measure(opened.colour, changed)
        unknown = float("nan")
        words = in_words(unknown if db is None else db, unknown if likeness is None else likeness)
        views.append(View(strength, *_urls(opened, changed, place), db, likeness, words))
        del changed  # before the next one is made
    assert place is not None
    views.append(View("original", *_urls(opened, opened.colour, place)))
    views.reverse()
    rows, columns = place
    return views, (columns.stop - columns.start, rows.stop - rows.start)


def _default_place(path: Path) -> Path:
    """One page a photograph: the next preview replaces it."""
    digest = xxhash.xxh3_64_hexdigest(str(path.resolve()).encode(errors="surrogateescape"))
    return private_directory("previews") / f"{re.sub(r'[^0-9A-Za-z-]+', '_', path.stem)[:40]}-{digest[:8]}.html"


def _urls(opened: Opened, colour: np.ndarray, place: tuple[slice, slice]) -> tuple[str, str]:
    """The whole image, reduced, and a part of it at 1:1."""
    alpha = opened.alpha
    whole = as_shown(opened, reduced(colour, SHOWN), None if alpha is None else reduced(alpha, SHOWN))
    detail = as_shown(opened, colour[place], None if alpha is None else alpha[place])
    return data_url(whole), data_url(detail, quality=95)


def _most_changed(clean: np.ndarray, changed: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the part that the method changes most, at most as large as ``DETAIL``."""
    sides = clean.shape[:2]
    step = max(1, max(sides) // LOOKED_AT)
    difference = np.abs(clean[::step, ::step].astype(np.int16) - changed[::step, ::step]).sum(2, dtype=np.int64)
    part = [min(side, most) for side, most in zip(sides, reversed(DETAIL), strict=True)]
    rows, columns = (max(1, size // step) for size in part)
    sums = np.pad(difference, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    inside = sums[rows:, columns:] - sums[:-rows, columns:] - sums[rows:, :-columns] + sums[:-rows, :-columns]
    corner = np.unravel_index(inside.argmax(), inside.shape)
    starts = [min(int(at) * step, side - size) for at, side, size in zip(corner, sides, part, strict=True)]
    top, left = (slice(start, start + size) for start, size in zip(starts, part, strict=True))
    return top, left
