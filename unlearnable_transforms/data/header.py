"""What an image file says about itself, read from its head before any pixel is decoded.

Pillow cuts 16 bits a channel to 8 without a word in some formats, takes the preview of a raw file for the photograph,
and refuses large files. So a file is looked at here first, and Pillow gets it only if it is one of ``FORMATS``. More
than 8 bits a channel and more than one frame are refused unless the caller asks for a conversion.
"""

import io
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageFile, UnidentifiedImageError

from ..errors import UsageError, UsageTypeError
from ..sample import SampleTypeError

# What is read, in the order in which it is tried: of each it is known how many bits a channel has.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "DIB", "PPM", "JPEG2000", "AVIF", "HEIF", "QOI", "PCX", "TGA")
MAX_MEGAPIXELS = 500  # of one image; memory a pixel is in docs/photographs.md
OR_CONVERT = "or let protect do it with convert=True"

# Suffixes of files that are not read as such: raw files of cameras; and of HEIC, which telephones write beside JPEG.
_RAW = (
    ".3fr .ari .arw .bay .cr2 .cr3 .crw .dcr .dng .erf .fff .gpr .iiq .k25 .kdc .mef .mos .mrw .nef .nrw .orf .pef "
    ".raf .raw .rw2 .rwl .sr2 .srf .srw .x3f"
)
RAW = frozenset(_RAW.split())
HEIC = frozenset([".heic", ".heif", ".hif"])

# How files begin that are images and are not read, and what they are.
_OTHERS = {
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
_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1", b"mif2")
_DEEP = {"PNG": (16,), "TIFF": (16,), "PPM": tuple(range(9, 17)), "AVIF": (10, 12), "HEIF": tuple(range(9, 17))}
TRUNCATED = "the file is truncated, its end is missing: replace or remove it"


class NeedsConversion(SampleTypeError):
    """An image that can be read, but not without changing more than its encoding."""


@dataclass(frozen=True)
class Head:
    """An image file of which nothing is decoded yet.

    Attributes:
        image: of Pillow. ``info["cicp"]`` holds the colour space that PNG, AVIF and HEIC may name by code points
            (ITU-T H.273).
        bits: of a channel.
        converted: how the pixels will differ from what the file holds, for people.
        left_behind: what else the file holds, for people.
    """

    image: ImageFile.ImageFile
    bits: int = 8
    converted: tuple[str, ...] = ()
    left_behind: tuple[str, ...] = ()


@contextmanager
def readable() -> Iterator[None]:
    """Turns whatever a decoder raises into a ValueError with the reason: nothing but a decoder belongs inside.

    Raises:
        ValueError: the reason, and what to do.
    """
    try:
        yield
    except UnidentifiedImageError:
        raise UsageError("this is not a picture that can be read; replace or remove it") from None
    except FileNotFoundError as error:
        raise UsageError(f"the picture's file {error.filename} does not exist; restore or remove it") from None
    except (MemoryError, Image.DecompressionBombError) as error:
        raise UsageError(f"the image is too large ({str(error) or 'out of memory'}): make it smaller") from None
    except Exception as error:  # decoders raise whatever comes up, also AttributeError and SyntaxError
        raise UsageError(_damage(error)) from None


def _damage(error: Exception) -> str:
    if "truncated" in str(error).lower():
        return TRUNCATED
    return f"the picture is damaged ({str(error) or type(error).__name__}); replace or remove it"


def open_file(data: bytes, convert: bool = False) -> Head:
    """The image in a file's bytes, with nothing decoded yet.

    Args:
        data: the bytes.
        convert: whether more than 8 bits a channel, and several frames of which the first will do, are taken.

    Raises:
        NeedsConversion: more than 8 bits a channel, or several frames.
        TypeError: HDR.
        ValueError: no image, one of a kind that is not read, damaged, or too large.
    """
    if not data:
        raise UsageError("the file is empty: it is not a picture that can be read; replace or remove it")
    Image.init()
    kind = next((kind for pattern, kind in _OTHER.items() if pattern.match(data)), "")
    if kind or _is_raw(data):
        raise UsageError(f"this is {kind or 'a raw file of a camera'}, which is not read: export it as JPEG or PNG")
    reason, start = "this is not a picture that can be read; replace or remove it", data[:64].ljust(16, b"\0")
    for name in FORMATS:
        factory, accept = _plugin(name)
        if factory is None or (accept and accept(start) is not True):
            continue
        bits, cicp = _depth(name, data, convert)
        try:
            image = factory(io.BytesIO(data), "")
        except (MemoryError, UsageError):
            raise
        except Exception as error:  # plugins raise whatever comes up
            if accept:
                cut = _is_cut(name, data) or "truncated" in str(error).lower()
                unusual = f"this {name} file is damaged or of an unusual kind ({error}); replace or remove it"
                reason = TRUNCATED if cut else unusual
            continue
        frames = check_opened(image, convert)
        if _is_cut(name, data):
            raise UsageError(TRUNCATED)
        if name == "HEIF":
            bits = image.info.get("bit_depth", 8)
        elif cicp is not None and not (name == "AVIF" and image.info.get("icc_profile")):  # where the profile counts
            image.info["cicp"] = cicp
        converted = [f"{bits} bits a channel rounded to 8"] if bits > 8 else []
        if frames > 1:
            converted.append("first page of several" if name == "TIFF" else "first frame of an animation")
        return Head(image, bits, tuple(converted), tuple(_extras(name, image, data)))
    raise UsageError(reason)


def _plugin(name: str) -> tuple[Any, Callable[[bytes], Any] | None]:
    """What opens files of a format, and says whether a file is one by its first bytes."""
    if name == "AVIF":  # Pillow's would take some HEIC, too
        return Image.OPEN.get(name, (None, None))[0], lambda start: _brand(start) == "AVIF"
    if name == "HEIF":
        return _open_heif, lambda start: _brand(start) == "HEIF"
    return Image.OPEN.get(name, (None, None))


def _brand(start: bytes) -> str:
    """``AVIF``, ``HEIF``, or empty, by the brands of a file of the ISO base media file format."""
    if start[4:8] != b"ftyp":
        return ""
    size = int.from_bytes(start[:4], "big")
    brands = [start[8:12], *(start[place : place + 4] for place in range(16, min(size, len(start)), 4))]
    if any(brand in _AVIF_BRANDS for brand in brands):
        return "AVIF"
    return "HEIF" if brands[0] in _HEIC_BRANDS else ""


def _open_heif(file: Any, name: str) -> ImageFile.ImageFile:
    """Pillow's image of a HEIC file: the primary one, upright, whatever its EXIF says.

    Raises:
        UsageError: the package for it is not installed.
    """
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise UsageError(
            "this is a HEIC image, which needs another package: pip install 'unlearnable-transforms[photos]', or "
            "export it as JPEG"
        ) from None
    return HeifImageFile(file, name)


def check_image(image: Image.Image) -> None:
    """Refuse an image that others opened, by what its file says, where that can still be read.

    Raises:
        TypeError, ValueError: as :func:`open_file`.
    """
    check_opened(image)
    if image.format in _HEADS:
        data = _file_of(image)
        cicp = None if data is None else _depth(image.format, data)[1]
        if cicp is not None:
            image.info["cicp"] = cicp


def check_opened(image: Image.Image, convert: bool = False) -> int:
    """Refuse too many pixels and more than one frame; of HEIC also more than 8 bits a channel, and HDR.

    Returns:
        How many frames there are.

    Raises:
        TypeError, ValueError: as :func:`open_file`.
    """
    width, height = image.size
    if width * height > MAX_MEGAPIXELS * 1_000_000:
        raise UsageError(
            f"the image has {width * height / 1e6:.0f} megapixels ({width} x {height}); at most {MAX_MEGAPIXELS} are "
            "taken: make it smaller"
        )
    if image.format == "HEIF":
        nclx = image.info.get("nclx_profile") or {}
        cicp = nclx.get("color_primaries", 2), nclx.get("transfer_characteristics", 2)
        _check_depth("HEIF", image.info.get("bit_depth", 8), cicp, convert)
        if not image.info.get("icc_profile"):
            image.info["cicp"] = cicp
    if image.format in ("MPO", "HEIF"):  # one image, and further ones behind it: previews, bursts
        return 1
    with readable():
        frames = _pages(image) if image.format == "TIFF" else getattr(image, "n_frames", 1)
    if frames > 1 and not convert:
        if image.format == "TIFF":
            raise NeedsConversion(f"the image has {frames} pages; save each as an image of its own, {OR_CONVERT}")
        raise NeedsConversion(
            f"the image is animated ({frames} frames); save one frame as an image of its own, {OR_CONVERT}"
        )
    return frames


def _pages(image: Any) -> int:
    """How many pages a TIFF has, smaller copies and masks of a page not counted."""
    kinds = []
    for page in range(image.n_frames if image.n_frames > 1 else 0):
        image.seek(page)
        kinds.append(image.tag_v2.get(254, 0))  # NewSubfileType
    if kinds:
        image.seek(0)
    return max(1, sum(not kind & 5 for kind in kinds))


def _depth(format: str, data: bytes, convert: bool = False) -> tuple[int, tuple[int, ...] | None]:
    """Bits a channel, and the code points of the colour space, where the head of the file says them."""
    try:
        bits, cicp = _HEADS[format](data) if format in _HEADS else (8, None)
    except (struct.error, IndexError, ValueError):  # the head ends early: the decoder says so
        return 8, None
    _check_depth(format, bits, cicp, convert)
    return bits, cicp


def _check_depth(format: str, bits: int, cicp: tuple[int, ...] | None, convert: bool) -> None:
    if cicp is not None and cicp[1] in _HDR:
        raise UsageTypeError("the image is HDR (PQ or HLG); convert it to 8-bit RGB of an ordinary colour space first")
    if bits <= 8:
        return
    message = f"the image has {bits} bits a channel; scale and convert it to 8-bit RGB or L first"
    if bits not in _DEEP.get(format, ()):
        raise UsageTypeError(message)
    if not convert:
        raise NeedsConversion(f"{message}, {OR_CONVERT}")


def _is_cut(format: str, data: bytes) -> bool:
    """Whether a file ends before the end that its head names; decoders of other formats notice."""
    if format == "WEBP":
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    if format not in ("AVIF", "HEIF"):
        return False
    place = 0
    while place + 8 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        if size == 0:  # up to the end
            return False
        place += int.from_bytes(data[place + 8 : place + 16], "big") if size == 1 else max(size, 8)
    return place > len(data) or b"mdat" not in data


def _extras(format: str, image: Image.Image, data: bytes) -> Iterator[str]:
    """What a telephone's file holds beside its image, for people."""
    if format == "JPEG":
        start = _end_of_jpeg(data)
        gain_map = any(data.find(mark, start) >= 0 for mark in (b"hdrgm", b"hdrgainmap", b"iso:ts:21496"))
        further = data.find(b"\xff\xd8\xff", start) >= 0
        video = data.find(b"ftyp", start) >= 0
        depth = False
    elif format == "HEIF":
        kinds = " ".join(image.info.get("aux", {}))
        gain_map = "gainmap" in kinds or "21496" in kinds or b"tmap" in data[:65536]
        further = getattr(image, "n_frames", 1) > 1
        video = b"mpvd" in data
        depth = bool(image.info.get("depth_images"))
    else:
        return
    if gain_map:
        yield "gain map for bright screens (HDR)"
    elif further:
        yield "further images in the same file"
    if video:
        yield "video of a motion photo"
    if depth:
        yield "depth map"


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
    for kind, place in _segments(data):
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):  # start of a frame
            return data[place + 4], None
    raise UsageError("no frame")


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """The kind and place of each segment of a JPEG up to its first scan."""
    place, kind = 2, 0
    while kind != 0xDA:
        mark, kind, size = struct.unpack_from(">BBH", data, place)
        if mark != 0xFF:
            raise ValueError("no marker")
        if kind == 0xFF:  # padding
            place += 1
        else:
            yield kind, place
            place += 2 + size


def _end_of_jpeg(data: bytes) -> int:
    """Where the first image of a JPEG file ends: the end of image behind its first scan."""
    try:
        scan = max(place for kind, place in _segments(data))
    except (struct.error, ValueError):  # a decoder may take it all the same
        return len(data)
    end = data.find(b"\xff\xd9", scan)
    return len(data) if end < 0 else end


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
