"""Any container of images <-> uint8 pixels.

Single images: PIL images, uint8 tensors and tv_tensors (C, H, W), uint8 arrays (H, W, C) or (H, W), and the
``{"bytes", "path"}`` mappings in which ``datasets`` stores encoded images. Batches: one uint8 tensor (B, C, H, W),
one array (B, H, W, C) or (B, H, W), or a list of single images. C = 1, 3, or 2, 4 with alpha last; alpha is kept as
it is.

Anything else is refused, because an image that is passed through unread is an image left unprotected.
"""

import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image

from ..errors import UsageError, UsageTypeError
from ..pixels import CHUNK_VALUES, content_in_alpha, equal_arrays
from ..sample import SampleError
from .colour import Space, space_of, to_srgb
from .convert import COLOURS, eight_bits, to_rgb
from .header import OR_CONVERT, NeedsConversion, check_image, open_file, readable

PNG_LEVEL = 1  # zlib level: level 9 is four times slower for a few percent
_MODES = {"RGB": "RGB", "RGBA": "RGBA", "L": "L", "LA": "LA", "1": "L"}
_REFUSED = {"I": "16-bit or 32-bit grey", "F": "floating point"}
_TURNS: dict[Any, Image.Transpose] = {  # what the orientation of EXIF asks for
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Opened:
    """One image as pixels, and the way back.

    Attributes:
        colour: uint8 (H, W, C), C = 1 or 3, orientation applied.
        close: makes the caller's kind of image from new colour of the same shape (alpha, if any, is put back).
        alpha: uint8 (H, W, 1), or None.
        space: the colour space of the pixels where it is not sRGB; ``close`` embeds its profile.
        converted: how the pixels differ from what the file holds, for people: "CMYK to sRGB".
        left_behind: what else the file held, for people: "depth map".
    """

    colour: np.ndarray
    close: Callable[[np.ndarray], Any]
    alpha: np.ndarray | None = None
    space: Space | None = None
    converted: tuple[str, ...] = ()
    left_behind: tuple[str, ...] = ()

    def unprotected_by(self, changed: np.ndarray) -> bool:
        """Whether new colour leaves what the image shows as it is: equal pixels, or content that lives in alpha."""
        hidden = self.alpha is not None and content_in_alpha(self.colour, self.alpha)
        return hidden or equal_arrays(self.colour, changed)

    def in_srgb(self) -> "Opened":
        """The same colours in numbers of sRGB, so that the image needs no profile."""
        if self.space is None:
            return self
        colour = to_srgb(self.colour, self.space)
        return replace(self, colour=colour, close=lambda colour: _without_profile(self.close(colour)), space=None)


def _without_profile(image: Any) -> Any:
    if isinstance(image, Image.Image):
        image.info.pop("icc_profile", None)
    return image


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
        raise UsageTypeError('encoded bytes are passed as {"bytes": data, "path": None}, as `datasets` stores them')
    raise UsageTypeError(
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


def open_encoded(data: bytes | None, path: str | None, mode: str | None = None) -> Opened:
    """Read an encoded image; it is given back as ``{"bytes": PNG, "path": None}``.

    The path is never kept: with a path beside it, ``datasets`` would store the original file.

    Args:
        data: the bytes of a file.
        path: of a local file, read where there are no bytes.
        mode: what ``datasets.Image(mode=...)`` asks for: the pixels are those that it would show.
    """
    if data is None:
        if path is None:
            raise UsageError("the picture is missing: it has neither bytes nor path")
        data = read_file(path)
    opened = open_bytes(data, mode)
    return replace(opened, close=lambda colour: encode_png(opened.close(colour)))


def read_file(path: str) -> bytes:
    """The bytes of a local image file.

    Raises:
        ValueError: it is not there, no regular file, or cannot be read.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise UsageError(f"{path} is no regular file; replace or remove it")
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise UsageError(f"the picture's file {path} does not exist; restore or remove it") from None
    except OSError as error:
        raise UsageError(f"the picture's file {path} cannot be read ({error.strerror}); restore or remove it") from None


def open_bytes(data: bytes, mode: str | None = None, convert: bool = False) -> Opened:
    """An image file's pixels, and the way back to a PIL image without a trace of the file but its colour space.

    Args:
        data: the file.
        mode: what ``datasets.Image(mode=...)`` asks for.
        convert: whether 9 to 16 bits a channel, CMYK, Lab and the first of several frames become 8-bit RGB or grey.

    Raises:
        NeedsConversion: an image that only ``convert`` takes.
        TypeError, ValueError: another image that is refused, or cannot be read.
    """
    head = open_file(data, convert)
    opened = _decode_pil(head.image, mode, data if head.bits > 8 else b"", head.bits, convert)
    return replace(opened, converted=head.converted + opened.converted, left_behind=head.left_behind)


def encode_png(image: Image.Image) -> dict[str, Any]:
    """``{"bytes": PNG, "path": None}``: lossless, and no trace of the file it came from."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=PNG_LEVEL)
    return {"bytes": buffer.getvalue(), "path": None}


def _open_pil(image: Image.Image) -> Opened:
    check_image(image)
    return _decode_pil(image)


def _decode_pil(
    image: Image.Image, asked_mode: str | None = None, deep: bytes = b"", bits: int = 8, convert: bool = False
) -> Opened:
    """The pixels of an image.

    Args:
        image: with nothing decoded yet, perhaps.
        asked_mode: see :func:`open_encoded`.
        deep: the file, where a channel has more than 8 bits.
        bits: of a channel.
        convert: whether CMYK and the like become RGB.
    """
    converted: tuple[str, ...] = ()
    with readable():
        image.load()
        source, turn = image, _turn(image)
        if deep:
            image = eight_bits(image, bits, deep)
        if turn is not None:
            image = image.transpose(turn)
        if convert and image.mode in COLOURS:
            image, said = to_rgb(image)
            source, converted = image, (said,)
        if asked_mode is not None and image.mode != asked_mode:
            image = image.convert(asked_mode)
        if image.mode in ("P", "PA"):
            image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
        elif image.mode in ("RGB", "L", "1") and "transparency" in image.info:  # PNG's one transparent colour
            image = image.convert("LA" if image.mode != "RGB" else "RGBA")
    mode = _MODES.get(image.mode)
    if mode is None:
        kind = _REFUSED.get(image.mode.split(";")[0], "not RGB or grey")
        message = f"the image is {kind} (mode {image.mode}); scale and convert it to 8-bit RGB or L first"
        raise NeedsConversion(f"{message}, {OR_CONVERT}") if image.mode in COLOURS else TypeError(message)
    with readable():
        pixels = _pixels(image if image.mode == mode else image.convert(mode))
    if 0 in pixels.shape:
        raise UsageError(f"the image is empty: its size is {image.size}")
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    colours = 3 if mode.startswith("RGB") else 1
    colour, alpha = pixels[:, :, :colours], pixels[:, :, colours:]
    space = space_of(source, "RGB" if colours == 3 else "L")
    if space is not None and space.table:  # such a profile is not embedded
        colour, space = to_srgb(colour, space), None
    profile = None if space is None else space.profile()

    def close(changed: np.ndarray) -> Image.Image:
        # A fresh image: one opened from a file carries its path and format, and `datasets` would store that file,
        # or JPEG-encode the pixels.
        whole = np.concatenate([changed, alpha], axis=2) if alpha.size else changed
        fresh = Image.fromarray(np.ascontiguousarray(whole[:, :, 0] if whole.shape[2] == 1 else whole))
        if profile:
            fresh.info["icc_profile"] = profile
        return fresh

    return Opened(colour, close, alpha if alpha.size else None, space, converted)


def _pixels(image: Image.Image) -> np.ndarray:
    """uint8 (H, W) or (H, W, C); strip by strip, since Pillow would hold the pixels three times over."""
    width, height = image.size
    rows = max(1, CHUNK_VALUES // max(1, width))
    if rows >= height:
        return np.asarray(image)
    pixels = np.empty((height, width, *[len(image.getbands())] * (image.mode != "L")), np.uint8)
    for top in range(0, height, rows):
        pixels[top : top + rows] = np.asarray(image.crop((0, top, width, min(top + rows, height))))
    return pixels


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How EXIF or XMP asks to turn the image; nothing of them is written again."""
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # metadata that cannot be read says nothing, and cannot fail an image
        return None


def _open_tensor(image: torch.Tensor) -> Opened:
    check_batch(image, dims=3)
    pixels = image.detach().cpu().permute(1, 2, 0).numpy()

    def give_back(changed: np.ndarray) -> torch.Tensor:
        plain = torch.from_numpy(np.ascontiguousarray(changed.transpose(2, 0, 1))).to(image.device)
        return wrapped_like(image, plain)

    return _split_alpha(pixels, give_back)


def wrapped_like(image: torch.Tensor, plain: torch.Tensor) -> torch.Tensor:
    """``plain`` as the tv_tensor that ``image`` is, or as it is. Importing torchvision takes seconds; where nobody has,
    there is no tv_tensor."""
    if "torchvision" not in sys.modules:
        return plain
    from torchvision import tv_tensors

    return tv_tensors.wrap(plain, like=image) if isinstance(image, tv_tensors.TVTensor) else plain


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
    return Opened(pixels[:, :, :-1], lambda colour: give_back(np.concatenate([colour, alpha], axis=2)), alpha)


def check_batch(images: torch.Tensor | np.ndarray, dims: int) -> None:
    """Refuse tensors (..., C, H, W) and arrays (..., H, W, C) that are not ``dims``-d uint8 pictures."""
    tensor = isinstance(images, torch.Tensor)
    layout = ("(B, " if dims == 4 else "(") + ("C, H, W)" if tensor else "H, W, C)")
    if images.dtype not in (torch.uint8, np.uint8):
        raise UsageTypeError(
            f"the image has data type {images.dtype}, not uint8: protection is made on 8-bit pixels, because that is "
            "what gets published. Put the poison before ToDtype / ToTensor / Normalize, or scale to 0..255, round "
            "and convert to uint8 first (docs/conventions.md)"
            + ("; it also holds NaN or infinity" if _has_nan(images) else "")
        )
    channels = images.shape[-3 if tensor else -1] if images.ndim == dims else 0
    if images.ndim != dims or channels not in (1, 2, 3, 4):
        kind = "tensor" if tensor else "array"
        raise UsageError(f"a uint8 {kind} here has shape {layout} with C = 1..4; got {tuple(images.shape)}")
    if 0 in images.shape[1 if dims == 4 else 0 :]:
        raise UsageError(f"the image is empty: its shape is {tuple(images.shape)}")


def _has_nan(images: torch.Tensor | np.ndarray) -> bool:
    if isinstance(images, torch.Tensor):
        return images.is_floating_point() and not bool(torch.isfinite(images).all())
    return np.issubdtype(images.dtype, np.floating) and not bool(np.isfinite(images).all())
