"""Which colours the numbers of an image mean, and how that goes with them.

The first of these answers: the code points of a PNG, the ICC profile, the code points of AVIF and HEIC, PNG's ``sRGB``,
its ``gAMA`` and ``cHRM``, the EXIF of a camera that is set to Adobe RGB. A profile that is embedded is made here, from
the primaries and tone curves of the one that was read: whatever else a profile may hold (names of its owner and screen,
private tags, another file) stays behind. Profiles that are tables of colours could hold anything: pixels are converted
to sRGB by them.
"""

import io
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms

_D50 = (0.9642, 1.0, 0.8249)  # the white of every profile
_D65 = (0.3127, 0.3290)
_SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
_PRIMARIES = {  # by their numbers in ITU-T H.273
    1: _SRGB,
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
_ADOBE = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
_ADOBE_GAMMA = 2.19921875
_SRGB_VALUES = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_SRGB_CURVE = b"para\0\0\0\0" + struct.pack(">HH5i", 3, 0, *(round(value * 65536) for value in _SRGB_VALUES))
_PARAMETERS = (1, 3, 4, 5, 7)  # of the kinds of parametric curves
_POINTS = (b"rXYZ", b"gXYZ", b"bXYZ")
_MAX_TAGS, _MAX_CURVE = 100, 4096  # tags of a profile, entries of a curve
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


@dataclass(frozen=True)
class Space:
    """A colour space of an image's pixels.

    Attributes:
        curves: the tone curves as ICC elements, one for grey, three for RGB; none where only a table gives the colours.
        primaries: XYZ of red, green and blue (D50), each an ICC element; empty for grey.
        table: the profile as it was read where it holds a table; such a profile is used and not embedded.
    """

    curves: tuple[bytes, ...] = ()
    primaries: tuple[bytes, ...] = ()
    table: bytes = b""

    def profile(self) -> bytes:
        """An ICC profile with these curves and primaries, and neutral names."""
        return self.table or _build(self)

    def as_rgb(self) -> "Space":
        """The space of grey pixels written as RGB with equal channels."""
        if self.primaries or self.table:
            return self
        return Space(self.curves * 3, _points(_SRGB, _D65))


def space_of(image: Image.Image, mode: str) -> Space | None:
    """The colour space of an image's pixels; None for sRGB, which is what pixels mean that say nothing.

    A profile of another kind of pixels (CMYK beside RGB) says nothing. One that is no colour profile does not, either.

    Args:
        image: from Pillow, with ``info``.
        mode: what its pixels were converted to, ``L`` or ``RGB``.
    """
    info = image.info
    cicp, data = info.get("cicp"), info.get("icc_profile")
    if cicp is not None and cicp[0] in _PRIMARIES:
        return _of_code_points(cicp, mode)
    if isinstance(data, bytes) and data:
        return _fitting(_parse(data), mode)
    if info.get("srgb") is not None:
        return None
    if "gamma" in info or "chromaticity" in info:
        return _of_png(info, mode)
    return _named(_ADOBE, _ADOBE_GAMMA, mode) if _is_adobe(image) else None


def profile_for_rgb(profile: bytes) -> bytes:
    """The profile of pixels, made by :meth:`Space.profile`, where grey ones are written as RGB with equal channels."""
    space = _fitting(_parse(profile), "RGB")
    return b"" if space is None else space.profile()


def to_srgb(pixels: np.ndarray, space: Space) -> np.ndarray:
    """The same colours as numbers of sRGB.

    Args:
        pixels: uint8 (H, W, C), C = 1 or 3.
        space: of the pixels.

    Returns:
        uint8 of the same shape, newly made.
    """
    grey = pixels.shape[2] == 1
    transform = _transform(space.profile(), "L" if grey else "RGB")
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if grey else pixels))
    converted = np.asarray(ImageCms.applyTransform(image, transform))
    return converted[:, :, 1:2].copy() if grey else converted


def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")


# ---- profiles that are read ------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)  # the images of a set have few profiles
def _parse(data: bytes) -> tuple[bytes, Space] | None:
    """The kind of pixels that a profile is for, and its space; None where it is no colour profile."""
    if len(data) < 132 or data[36:40] != b"acsp":
        return None
    kind = data[16:20]
    names = {b"RGB ": (b"rTRC", b"gTRC", b"bTRC"), b"GRAY": (b"kTRC",)}.get(kind)
    tags = _tags(data)
    if names is None or tags is None:
        return None
    if data[20:24] == b"XYZ " and not any(name[:3] in (b"A2B", b"D2B") for name in tags):
        curves = tuple(_curve(tags.get(name, b"")) for name in names)
        points = () if kind == b"GRAY" else tuple(_point(tags.get(name, b"")) for name in _POINTS)
        if not (all(curves) and all(points)):
            return None
        space = Space(curves, points)
    else:
        space = Space(table=data)
    try:
        _transform(space.profile(), "L" if kind == b"GRAY" else "RGB")
    except (OSError, ImageCms.PyCMSError):
        return None
    return kind, space


def _tags(data: bytes) -> dict[bytes, bytes] | None:
    (count,) = struct.unpack_from(">I", data, 128)
    if count > _MAX_TAGS or len(data) < 132 + 12 * count:
        return None
    places = (struct.unpack_from(">4sII", data, 132 + 12 * number) for number in range(count))
    return {name: data[start : start + size] for name, start, size in places}


def _fitting(parsed: tuple[bytes, Space] | None, mode: str) -> Space | None:
    """The space where it is one of such pixels; grey and RGB stand for each other where the channels are equal."""
    if parsed is None:
        return None
    kind, space = parsed
    if kind == (b"RGB " if mode == "RGB" else b"GRAY"):
        return space
    if kind == b"GRAY" and not space.table:
        return space.as_rgb()
    if kind == b"RGB " and len(set(space.curves)) == 1:
        return Space(space.curves[:1])
    return None


def _curve(element: bytes) -> bytes:
    """A tone curve without anything behind it; empty where it is none."""
    if element[:4] == b"curv" and len(element) >= 12:
        (count,) = struct.unpack_from(">I", element, 8)
        end = 12 + 2 * count
        values = np.frombuffer(element[12:end], ">u2").astype(int) if len(element) >= end else np.array([])
        if count <= _MAX_CURVE and len(values) == count and (np.diff(values) >= 0).all():
            return element[:4] + bytes(4) + element[8:end]
    if element[:4] == b"para" and len(element) >= 12:
        (kind,) = struct.unpack_from(">H", element, 8)
        end = 12 + 4 * _PARAMETERS[kind] if kind < len(_PARAMETERS) else len(element) + 1
        if len(element) >= end:
            return element[:4] + bytes(4) + element[8:10] + bytes(2) + element[12:end]
    return b""


def _point(element: bytes) -> bytes:
    return element[:4] + bytes(4) + element[8:20] if element[:4] == b"XYZ " and len(element) >= 20 else b""


# ---- spaces by other names -------------------------------------------------------------------------------------------


def _named(primaries: Sequence, gamma: float, mode: str, white: tuple[float, float] = _D65) -> Space:
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    return Space((curve,)) if mode == "L" else Space((curve,) * 3, _points(primaries, white))


def _of_code_points(cicp: tuple[int, ...], mode: str) -> Space | None:
    primaries, transfer = cicp[:2]
    if transfer in (4, 8):
        return _named(_PRIMARIES[primaries], 2.2 if transfer == 4 else 1.0, mode)
    if primaries == 1 or mode == "L":
        return None
    return Space((_SRGB_CURVE,) * 3, _points(_PRIMARIES[primaries], _D65))


def _of_png(info: Mapping[Any, Any], mode: str) -> Space | None:
    gamma, corners = info.get("gamma") or 1 / 2.2, info.get("chromaticity")
    white, primaries = (corners[:2], [corners[2:4], corners[4:6], corners[6:]]) if corners else (_D65, [*_SRGB])
    if abs(gamma - 1 / 2.2) < 0.01 and np.allclose(primaries, _SRGB, atol=0.01):
        return None
    try:
        with np.errstate(all="raise"):
            return _named(primaries, 1 / gamma, mode, white)
    except (ArithmeticError, ValueError, struct.error):  # corners and gammas of no colour space
        return None


def _is_adobe(image: Image.Image) -> bool:
    """Whether a camera says "Adobe RGB" without a profile: uncalibrated and R03, after the Design rule for Camera File
    system, or by a 2, as some do."""
    if not ({"exif", "Raw profile type exif"} & set(image.info)):
        return False
    try:
        exif = image.getexif()
        space = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace)
        mark = str(exif.get_ifd(ExifTags.IFD.Interop).get(1, "")).strip("\0 ")
        return space == 2 or (space == 0xFFFF and mark == "R03")
    except Exception:  # EXIF that cannot be read says nothing, and Pillow raises whatever comes up
        return False


def _points(primaries: Sequence, white: tuple[float, float]) -> tuple[bytes, ...]:
    """XYZ of the primaries, adapted to D50 after Bradford, as ICC elements."""
    x, y = np.asarray([*primaries, white], float).T
    corners = np.stack([x / y, np.ones(4), (1 - x - y) / y])
    columns = corners[:, :3] * np.linalg.solve(corners[:, :3], corners[:, 3])
    scale = (_BRADFORD @ _D50) / (_BRADFORD @ corners[:, 3])
    adapted = np.linalg.solve(_BRADFORD, scale[:, None] * (_BRADFORD @ columns))
    return tuple(_xyz(column) for column in adapted.T)


def _xyz(values: Sequence[float] | np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(float(value) * 65536) for value in values))


# ---- profiles that are written ---------------------------------------------------------------------------------------


def _build(space: Space) -> bytes:
    name = "RGB" if space.primaries else "Grey"
    new = any(curve.startswith(b"para") for curve in space.curves)  # version 4, which has other texts
    if new:
        text = name.encode("utf-16-be")
        texts = [b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", len(text), 28) + text] * 2
    else:
        plain = name.encode() + b"\0"
        texts = [b"desc\0\0\0\0" + struct.pack(">I", len(plain)) + plain + bytes(78), b"text\0\0\0\0" + plain]
    elements = dict(zip((b"desc", b"cprt"), texts, strict=True)) | {b"wtpt": _xyz(_D50)}
    elements |= dict(zip(_POINTS, space.primaries, strict=False))
    curves = (b"rTRC", b"gTRC", b"bTRC") if space.primaries else (b"kTRC",)
    elements |= dict(zip(curves, space.curves, strict=True))
    table, body, start = b"", b"", 132 + 12 * len(elements)
    for tag, element in elements.items():
        table += tag + struct.pack(">II", start + len(body), len(element))
        body += element + bytes(-len(element) % 4)
    head = struct.pack(">I4sI4s", start + len(body), b"", 0x04200000 if new else 0x02400000, b"mntr")
    head += (b"RGB " if space.primaries else b"GRAY") + b"XYZ "
    head += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _xyz(_D50)[8:] + bytes(48)
    return head + struct.pack(">I", len(elements)) + table + body
