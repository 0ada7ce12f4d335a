"""Private local pages with images before and after: HTML and CSS as template files, no request to anywhere."""

import base64
import io
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from ..data.image import Opened
from ..errors import UsageError
from ..files import replacing

MARK = b'<meta name="generator" content="unlearnable-transforms">'  # stands in each page, within its first bytes
WITHIN = 400
QUALITY = 88  # of the JPEG in which pages show images


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Write a page with mode 0600, whole or not at all. All text is escaped.

    Args:
        path: where to; an earlier page there is replaced.
        template: name of a file beside this one.
        values: for the template.

    Raises:
        UsageError: something else lies there.
        FileNotFoundError: there is no such folder.
    """
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.absolute().parent} to write {path.name} to")
    if os.path.lexists(path) and not is_page(path):
        raise UsageError(f"{path} exists and is no page of this library: choose another name")
    text = _templates().get_template(template).render(**values)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files may be no text
    return path


def is_page(path: Path) -> bool:
    """Whether a file is a page that :func:`write_page` wrote."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return MARK in file.read(WITHIN)


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip


def as_shown(opened: Opened, colour: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """Colour as a page shows it: in sRGB, and on white where it is transparent; uint8 (h, w, 3).

    Args:
        opened: the image that it belongs to.
        colour: uint8 (h, w, C) of it, reduced or cut out.
        alpha: uint8 (h, w, 1) of the same part, or None.
    """
    plain = Opened(colour, opened.close, None, opened.space).in_srgb().colour
    if alpha is not None:
        share = alpha.astype(np.float32) / 255
        plain = np.rint(plain * share + 255 * (1 - share)).astype(np.uint8)
    return np.repeat(plain, 3, axis=2) if plain.shape[2] == 1 else plain


def reduced(pixels: np.ndarray, side: int) -> np.ndarray:
    """An image whose longer side is at most ``side`` pixels, uint8 (H, W, C) -> (h, w, C)."""
    small = np.asarray(shrink(Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels), side))
    return small if small.ndim == 3 else small[:, :, None]


def shrink(image: Image.Image, side: int) -> Image.Image:
    """The same of a PIL image. Large ones are first averaged in whole blocks, which is fast and needs no memory."""
    block = max(image.size) // (2 * side)
    if block > 1:
        image = image.reduce(block)
    scale = min(1, side / max(image.size))
    size = [max(1, round(length * scale)) for length in image.size]
    return image.resize((size[0], size[1]), Image.Resampling.LANCZOS) if scale < 1 else image


def data_url(pixels: np.ndarray, quality: int = QUALITY) -> str:
    """Pixels as JPEG inside the page, with no other data, uint8 (H, W, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG", quality=quality, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
