"""What an image file says about itself, read from its head before any pixel is decoded.

Pillow cuts 16 bits a channel to 8 without a word in some formats, takes the preview of a raw file for the photograph,
and refuses large files. So a file is looked at here first, and Pillow gets it only if it is one of ``FORMATS``, of at
most 8 bits a channel and with one frame.
"""

import io
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, ImageFile, UnidentifiedImageError

# What is read, in the order in which it is tried: of each it is known how many bits a channel has.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "DIB", "PPM", "JPEG2000", "AVIF", "QOI", "PCX", "TGA")
MAX_MEGAPIXELS = 500  # of one image; protecting it takes about 20 bytes a pixel

# How files begin that are images and are not read, and what they are.
_OTHERS = {
    rb"....ftyp(heic|heix|hevc|hevx|heim|heis|mif1|msf1)": "a HEIC image",
    rb"\xff\x0a|\x00\x00\x00\x0cJXL ": "a JPEG XL image",
    rb"II\*\x00.{4}CR|....ftypcrx |FUJIFILMCCD-RAW|IIR[OS]|MMOR|IIU\x00|FOVb|\x00MRM": "a raw file of a camera",
    rb"8BP[SB]": "a Photoshop file",
    rb"%PDF": "a PDF",
    rb"%!PS|\xc5\xd0\xd3\xc6": "PostScript",
    rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*|<!DOCTYPE svg[^>]*>\s*)*<svg": "an SVG drawing",
    rb"\x76\x2f\x31\x01": "an OpenEXR image",
    rb"#\?RADIANCE|#\?RGBE": "a Radiance HDR image",
    rb"DDS ": "a DDS texture",
    rb"\x00\x00\x01\x00": "a Windows icon",
    rb"icns": "a Mac icon",
    rb"\x01\xda[\x00\x01][\x01\x02]": "an SGI image",
    rb"SIMPLE  =": "a FITS image",
}
_OTHER = {re.compile(pattern, re.DOTALL): kind for pattern, kind in _OTHERS.items()}
_RAW_PHOTOMETRIC = (32803, 34892)  # TIFF 6 / DNG: the values of a colour filter array, and linear raw
_HDR = (16, 18)  # transfer characteristics of ITU-T H.273: PQ and HLG


@contextmanager
def readable() -> Iterator[None]:
    """Turns whatever a decoder raises into a ValueError with the reason: nothing but a decoder belongs inside.

    Raises:
        ValueError: the reason, and what to do.
    """
    try:
        yield
    except UnidentifiedImageError:
        raise ValueError("the bytes are not a picture that can be read; replace or remove it") from None
    except FileNotFoundError as error:
        raise ValueError(f"the picture's file {error.filename} does not exist; restore or remove it") from None
    except (MemoryError, Image.DecompressionBombError) as error:
        raise ValueError(f"the image is too large ({str(error) or 'out of memory'}): make it smaller") from None
    except Exception as error:  # decoders raise whatever comes up, also AttributeError and SyntaxError
        raise ValueError(
            f"the picture is damaged ({str(error) or type(error).__name__}); replace or remove it"
        ) from None


def open_file(data: bytes) -> ImageFile.ImageFile:
    """The image in a file's bytes, with nothing decoded yet; ``info["cicp"]`` holds the colour space that PNG and AVIF
    may name by code points (ITU-T H.273).

    Raises:
        TypeError: 16 bits a channel, HDR.
        ValueError: no image, one of a kind that is not read, damaged, too large, or of several frames.
    """
    if not data:
        raise ValueError("the file is empty: it is not a picture that can be read; replace or remove it")
    Image.init()
    kind = next((kind for pattern, kind in _OTHER.items() if pattern.match(data)), "")
    if kind or _is_raw(data):
        raise ValueError(f"this is {kind or 'a raw file of a camera'}, which is not read: export it as JPEG or PNG")
    reason, head = "not a picture that can be read", data[:16].ljust(16, b"\0")
    for name in FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is None or (accept and accept(head) is not True):
            continue
        cicp = _check_depth(name, data)
        try:
            image = factory(io.BytesIO(data), "")
        except MemoryError:
            raise
        except Exception as error:  # plugins raise whatever comes up
            if accept:
                reason = f"a {name} file that is damaged or of an unusual kind ({error})"
            continue
        check_opened(image)
        if cicp is not None:
            image.info["cicp"] = cicp
        return image
    raise ValueError(f"the bytes are {reason}; replace or remove it")


def check_image(image: Image.Image) -> None:
    """Refuse an image that others opened, by what its file says, where that can still be read.

    Raises:
        TypeError, ValueError: as :func:`open_file`.
    """
    check_opened(image)
    if image.format in _HEADS:
        data = _file_of(image)
        cicp = None if data is None else _check_depth(image.format, data)
        if cicp is not None:
            image.info["cicp"] = cicp


def check_opened(image: Image.Image) -> None:
    """Refuse too many pixels and more than one frame.

    Raises:
        ValueError: as :func:`open_file`.
    """
    width, height = image.size
    if width * height > MAX_MEGAPIXELS * 1_000_000:
        raise ValueError(
            f"the image has {width * height / 1e6:.0f} megapixels ({width} x {height}); at most {MAX_MEGAPIXELS} are "
            "taken: make it smaller"
        )
    with readable():
        frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format == "TIFF":
        raise ValueError(f"the image has {frames} pages; save each as an image of its own")
    if frames > 1 and image.format != "MPO":  # a camera's JPEG with previews after the image
        raise ValueError(f"the image is animated ({frames} frames); save one frame as an image of its own")


def _check_depth(format: str, data: bytes) -> tuple[int, ...] | None:
    """The code points of the colour space, after a look at the bits of a channel."""
    try:
        bits, cicp = _HEADS[format](data) if format in _HEADS else (8, None)
    except (struct.error, IndexError, ValueError):  # the head ends early: the decoder says so
        return None
    if bits > 8:
        raise TypeError(f"the image has {bits} bits a channel; scale and convert it to 8-bit RGB or L first")
    if cicp is not None and cicp[1] in _HDR:
        raise TypeError("the image is HDR (PQ or HLG); convert it to 8-bit RGB of an ordinary colour space first")
    return cicp


def _file_of(image: Image.Image) -> bytes | None:
    """The bytes of the file that an image was opened from, where they can still be had."""
    file = getattr(image, "fp", None)
    if file is not None and not file.closed:
        place = file.tell()
        file.seek(0)
        data = file.read()
        file.seek(place)
        return data
    path = getattr(image, "filename", None)
    return Path(path).read_bytes() if isinstance(path, str) and path and Path(path).is_file() else None


# ---- one function a format: bits a channel, and the colour space by code points --------------------------------------


def _png(data: bytes) -> tuple[int, tuple[int, ...] | None]:
    place, cicp = 8, None
    while True:
        size, name = struct.unpack_from(">I4s", data, place)
        if name == b"cICP":
            cicp = tuple(data[place + 8 : place + 11])
        if name in (b"IDAT", b"IEND"):
            return data[24], cicp
        place += 12 + size


def _jpeg(data: bytes) -> tuple[int, None]:
    place = 2
    while True:
        mark, kind, size = struct.unpack_from(">BBH", data, place)
        if mark != 0xFF:
            raise ValueError("no marker")
        if kind == 0xFF:  # padding
            place += 1
        elif 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):  # start of a frame
            return data[place + 4], None
        else:
            place += 2 + size


def _tiff(data: bytes) -> tuple[int, None]:
    return max(_tiff_tags(data).get(258, [1])), None


def _ppm(data: bytes) -> tuple[int, None]:
    if data[:2] in (b"P1", b"P4"):
        return 1, None
    if data[1:2] in (b"f", b"F"):
        return 32, None
    plain = re.sub(rb"#[^\r\n]*", b"", data[:4096]).split(maxsplit=4)  # magic, width, height, highest value
    return int(plain[3]).bit_length(), None


def _jpeg2000(data: bytes) -> tuple[int, None]:
    start = data.index(b"\xff\x4f\xff\x51")  # a codestream, and in it the sizes
    (count,) = struct.unpack_from(">H", data, start + 40)
    return max((data[start + 42 + 3 * channel] & 127) + 1 for channel in range(count)), None


def _avif(data: bytes) -> tuple[int, tuple[int, ...] | None]:
    config = data[data.index(b"av1C") + 6]
    start = data.find(b"colrnclx")
    cicp = None if start < 0 else struct.unpack_from(">HHH", data, start + 8)
    return 8 if not config & 64 else 12 if config & 32 else 10, cicp


_HEADS: dict[str, Callable[[bytes], Any]] = {
    "PNG": _png,
    "JPEG": _jpeg,
    "MPO": _jpeg,
    "TIFF": _tiff,
    "PPM": _ppm,
    "JPEG2000": _jpeg2000,
    "AVIF": _avif,
}


def _is_raw(data: bytes) -> bool:
    """Whether a TIFF file is a camera's raw file (DNG, NEF, ARW, PEF ...), whose first image is a preview."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return False
    try:
        tags = _tiff_tags(data)
    except (struct.error, IndexError):
        return False
    preview = tags.get(254, [0])[0] & 1  # NewSubfileType: a smaller version of another image
    return bool(preview or 50706 in tags or tags.get(262, [0])[0] in _RAW_PHOTOMETRIC)


def _tiff_tags(data: bytes) -> dict[int, list[int]]:
    """The whole numbers of the first directory of a TIFF or BigTIFF file, by tag."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    word, count_kind, size = ("Q", "Q", 20) if big else ("I", "H", 12)
    (place,) = struct.unpack_from(order + word, data, 8 if big else 4)
    (count,) = struct.unpack_from(order + count_kind, data, place)
    place += struct.calcsize("=" + count_kind)
    return dict(_tiff_entries(data, order, word, range(place, place + count * size, size)))


def _tiff_entries(data: bytes, order: str, word: str, places: range) -> Iterator[tuple[int, list[int]]]:
    for place in places:
        tag, kind, count = struct.unpack_from(order + "HH" + word, data, place)
        letter = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
        if letter is None or count > 64:
            continue
        value = place + 4 + struct.calcsize("=" + word)
        if count * struct.calcsize("=" + letter) > struct.calcsize("=" + word):
            (value,) = struct.unpack_from(order + word, data, value)
        yield tag, list(struct.unpack_from(f"{order}{count}{letter}", data, value))
