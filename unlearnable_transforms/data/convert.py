"""What ``--convert`` does to pixels: 16 bits a channel become 8, and CMYK and Lab become RGB."""

import io
import sys
from typing import Any

import numpy as np
from PIL import Image, ImageCms

COLOURS = ("CMYK", "LAB", "YCbCr")  # modes of Pillow that become RGB


def eight_bits(image: Image.Image, bits: int, data: bytes) -> Image.Image:
    """The image with 8 bits a channel, rounded to nearest.

    Args:
        image: as Pillow opened it, which keeps the first 8 bits of each channel in some formats.
        bits: of a channel in the file, 9..16.
        data: the file.
    """
    top = 2**bits - 1
    if image.format == "HEIF":
        from pillow_heif import open_heif

        wide = np.asarray(open_heif(io.BytesIO(data), convert_hdr_to_8bit=False, hdr_to_16bit=False))
    elif image.mode.startswith("I"):
        wide, top = np.asarray(image), 2**16 - 1  # Pillow scales PGM to 16 bits
    elif image.format in ("PNG", "TIFF"):
        wide = _sixteen_bits(image, data)
    else:  # Pillow rounds AVIF and PPM itself
        return image
    if image.format == "PNG" and "transparency" in image.info:
        wide = _with_transparency(wide, image.info["transparency"], top)
    table = ((np.arange(top + 1) * 255 + top // 2) // top).astype(np.uint8)
    result = Image.fromarray(table[wide], "CMYK") if image.mode == "CMYK" else Image.fromarray(table[wide])
    result.info = {name: value for name, value in image.info.items() if name != "transparency"}
    return result


def _with_transparency(pixels: np.ndarray, colour: Any, top: int) -> np.ndarray:
    """Pixels with an alpha channel where a PNG names one colour as transparent."""
    pixels = np.atleast_3d(pixels)
    alpha = np.where((pixels == np.asarray(colour)).all(2), 0, top)
    return np.dstack([pixels, alpha.astype(pixels.dtype)])


def _sixteen_bits(image: Image.Image, data: bytes) -> np.ndarray:
    """All 16 bits of an image of which Pillow keeps the first 8: the others come by another raw mode.

    Args:
        image: PNG or TIFF, decoded.
        data: the file.

    Returns:
        uint16 (H, W, C).
    """
    again: Any = Image.OPEN[str(image.format)][0](io.BytesIO(data), "")
    tiles = []
    for tile in again.tile:
        raw, *rest = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        # Grey with alpha has as many bytes a pixel as RGBA; else the other order of bytes gives the second ones.
        other = "RGBA" if raw == "LA;16B" else raw[:-1] + ("L" if _is_big(raw) else "B")
        tiles.append(tile._replace(args=(other, *rest)))
    again.tile = tiles
    second = np.asarray(again)
    return second.view(">u2") if other == "RGBA" else np.asarray(image).astype(np.uint16) << 8 | second


def _is_big(raw: str) -> bool:
    return raw.endswith("B") or (raw.endswith("N") and sys.byteorder == "big")


def to_rgb(image: Image.Image) -> tuple[Image.Image, str]:
    """CMYK, Lab or YCbCr as sRGB, and what was done in words.

    CMYK goes through its profile, relative to white and with the black point compensated, as programs for print do.
    Without one the colours are approximate.
    """
    transform = _transform(image)
    if transform is None:
        result, said = image.convert("RGB"), f"{image.mode} to sRGB"
        if image.mode == "CMYK":
            said += " without a profile, colours are approximate"
    else:
        result = Image.fromarray(np.asarray(ImageCms.applyTransform(image, transform)))
        said = f"{'Lab' if image.mode == 'LAB' else 'CMYK'} to sRGB"
    result.info = {name: value for name, value in image.info.items() if name != "icc_profile"}
    return result, said


def _transform(image: Image.Image) -> ImageCms.ImageCmsTransform | None:
    """The way from CMYK with a profile, or from Lab, to sRGB; None where there is none."""
    profile = image.info.get("icc_profile") or b""
    if image.mode != "LAB" and not (image.mode == "CMYK" and profile):
        return None
    try:
        if image.mode == "LAB":
            source = ImageCms.createProfile("LAB")
        else:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile
        return ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            image.mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (OSError, ImageCms.PyCMSError):  # no profile, or one of other pixels
        return None
