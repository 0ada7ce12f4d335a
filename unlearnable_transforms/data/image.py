"""Any container of pictures <-> uint8 pixels.

Single pictures: PIL images, uint8 tensors and tv_tensors (C, H, W), uint8 arrays (H, W, C) or (H, W), and the
``{"bytes", "path"}`` mappings in which ``datasets`` stores encoded pictures. Batches: one uint8 tensor (B, C, H, W),
one array (B, H, W, C) or (B, H, W), or a list of single pictures. C = 1, 3, or 2, 4 with alpha last; alpha is kept as
it is.

Anything else is refused, because a picture that is passed through unread is a picture left unprotected.
"""

import io
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torchvision import tv_tensors

from ..pixels import CHUNK_VALUES
from ..sample import SampleError

PNG_LEVEL = 1  # zlib level: level 9 is four times slower for a few percent
_MODES = {"RGB": "RGB", "RGBA": "RGBA", "L": "L", "LA": "LA", "1": "L"}
_REFUSED = {"I": "16-bit or 32-bit grey", "F": "floating point"}


@dataclass(frozen=True)
class Opened:
    """One picture as pixels, and the way back.

    Attributes:
        colour: uint8 (H, W, C), C = 1 or 3, orientation applied.
        close: makes the caller's kind of picture from new colour of the same shape (alpha, if any, is put back).
    """

    colour: np.ndarray
    close: Callable[[np.ndarray], Any]


def is_batch(images: Any) -> bool:
    """Whether ``images`` can only be a batch: a 4-d tensor or array, or a list."""
    return isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4


def open_image(image: Any) -> Opened:
    """Read one picture.

    Raises:
        TypeError: a kind of picture or a data type that is refused; the message says what to do.
        ValueError: a wrong shape, or bytes that are not a readable picture.
    """
    if isinstance(image, Image.Image):
        return _open_pil(image)
    if isinstance(image, torch.Tensor):
        return _open_tensor(image)
    if isinstance(image, np.ndarray):
        return _open_array(image)
    if isinstance(image, Mapping) and {"bytes", "path"} & set(image):
        return open_encoded(image.get("bytes"), image.get("path"))
    if isinstance(image, bytes | bytearray):
        raise TypeError('encoded bytes are passed as {"bytes": data, "path": None}, as `datasets` stores them')
    raise TypeError(
        f"cannot protect a {type(image).__name__}: pass a PIL image, a uint8 tensor (C, H, W) or a uint8 array "
        "(H, W, C)"
    )


def open_chunks(images: Sequence, reader: Callable[[Any], Opened]) -> Iterator[tuple[int, list[Opened]]]:
    """Read pictures in chunks of about ``CHUNK_VALUES`` values: (first row, opened pictures).

    Raises:
        TypeError, SampleError: as ``reader``, with the row named where there are several.
    """
    opened: list[Opened] = []
    start = values = 0
    for row, image in enumerate(images):
        try:
            picture = reader(image)
        except (TypeError, ValueError) as error:
            raise SampleError.at([row] if len(images) > 1 else [], error) from None
        if opened and values + picture.colour.size > CHUNK_VALUES:
            yield start, opened
            opened, start, values = [], row, 0
        opened.append(picture)
        values += picture.colour.size
    if opened:
        yield start, opened


def open_encoded(data: bytes | None, path: str | None) -> Opened:
    """Read an encoded picture; it is given back as ``{"bytes": PNG, "path": None}``.

    The path is never kept: with a path beside it, ``datasets`` would store the original file.
    """
    source = io.BytesIO(data) if data is not None else path
    if source is None:
        raise ValueError("the picture is missing: it has neither bytes nor path")
    with readable(), Image.open(source) as image:
        opened = _open_pil(image)
    return Opened(opened.colour, lambda colour: encode_png(opened.close(colour)))


@contextmanager
def readable() -> Iterator[None]:
    """Turns whatever a decoder raises on a missing or damaged file into a ValueError that says so."""
    try:
        yield
    except UnidentifiedImageError:
        raise ValueError("the bytes are not a picture that can be read; replace or remove the row") from None
    except FileNotFoundError as error:
        raise ValueError(f"the picture's file {error.filename} does not exist; restore or remove the row") from None
    except (
        OSError,
        SyntaxError,
        EOFError,
        LookupError,
        RuntimeError,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        raise ValueError(f"the picture is damaged ({error}); replace or remove the row") from None


def encode_png(image: Image.Image) -> dict[str, Any]:
    """``{"bytes": PNG, "path": None}``: lossless, and no trace of the file it came from."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=PNG_LEVEL)
    return {"bytes": buffer.getvalue(), "path": None}


def _open_pil(image: Image.Image) -> Opened:
    with readable():
        return _decode_pil(image)


def _decode_pil(image: Image.Image) -> Opened:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a camera's JPEG with previews after the picture
        raise ValueError(f"the picture is animated ({frames} frames); save one frame as a picture of its own")
    if any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())):  # Pillow would cut it to 8 bits, unasked
        raise TypeError("the picture has 16 bits a channel; scale and convert it to 8-bit RGB or L first")
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    elif image.mode in ("RGB", "L", "1") and "transparency" in image.info:  # PNG's one transparent colour
        image = image.convert("LA" if image.mode != "RGB" else "RGBA")
    mode = _MODES.get(image.mode)
    if mode is None:
        kind = _REFUSED.get(image.mode.split(";")[0], "not RGB or grey")
        raise TypeError(f"the picture is {kind} (mode {image.mode}); scale and convert it to 8-bit RGB or L first")
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    profile = image.info.get("icc_profile")

    def give_back(changed: np.ndarray) -> Image.Image:
        # A fresh image: one opened from a file carries its path and format, and `datasets` would store that file,
        # or JPEG-encode the pixels.
        fresh = Image.fromarray(np.ascontiguousarray(changed))
        if profile:
            fresh.info["icc_profile"] = profile
        return fresh

    if mode == "L":
        return Opened(pixels[:, :, None], lambda colour: give_back(colour[:, :, 0]))
    return _split_alpha(pixels, give_back)


def _open_tensor(image: torch.Tensor) -> Opened:
    check_batch(image, dims=3)
    pixels = image.detach().cpu().permute(1, 2, 0).numpy()

    def give_back(changed: np.ndarray) -> torch.Tensor:
        plain = torch.from_numpy(np.ascontiguousarray(changed.transpose(2, 0, 1))).to(image.device)
        return tv_tensors.wrap(plain, like=image) if isinstance(image, tv_tensors.TVTensor) else plain

    return _split_alpha(pixels, give_back)


def _open_array(image: np.ndarray) -> Opened:
    if image.ndim == 2:
        check_batch(image[:, :, None], dims=3)
        return Opened(image[:, :, None], lambda colour: np.ascontiguousarray(colour[:, :, 0]))
    check_batch(image, dims=3)
    return _split_alpha(image, np.ascontiguousarray)


def _split_alpha(pixels: np.ndarray, give_back: Callable[[np.ndarray], Any]) -> Opened:
    if pixels.shape[2] in (1, 3):
        return Opened(pixels, give_back)
    alpha = pixels[:, :, -1:]
    return Opened(pixels[:, :, :-1], lambda colour: give_back(np.concatenate([colour, alpha], axis=2)))


def check_batch(images: torch.Tensor | np.ndarray, dims: int) -> None:
    """Refuse tensors (..., C, H, W) and arrays (..., H, W, C) that are not ``dims``-d uint8 pictures."""
    tensor = isinstance(images, torch.Tensor)
    layout = ("(B, " if dims == 4 else "(") + ("C, H, W)" if tensor else "H, W, C)")
    if images.dtype not in (torch.uint8, np.uint8):
        raise TypeError(
            f"the image has data type {images.dtype}, not uint8: protection is made on 8-bit pixels, because that is "
            "what gets published. Put the poison before ToDtype / ToTensor / Normalize, or scale to 0..255, round "
            "and convert to uint8 first (docs/conventions.md)"
            + ("; it also holds NaN or infinity" if _has_nan(images) else "")
        )
    channels = images.shape[-3 if tensor else -1] if images.ndim == dims else 0
    if images.ndim != dims or channels not in (1, 2, 3, 4):
        kind = "tensor" if tensor else "array"
        raise ValueError(f"a uint8 {kind} here has shape {layout} with C = 1..4; got {tuple(images.shape)}")
    if 0 in images.shape[1 if dims == 4 else 0 :]:
        raise ValueError(f"the image is empty: its shape is {tuple(images.shape)}")


def _has_nan(images: torch.Tensor | np.ndarray) -> bool:
    if isinstance(images, torch.Tensor):
        return images.is_floating_point() and not bool(torch.isfinite(images).all())
    return np.issubdtype(images.dtype, np.floating) and not bool(np.isfinite(images).all())
