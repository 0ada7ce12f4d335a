"""How one image file is written: encoded in a format, named by its checksum, measured against the clean one."""

import io
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xxhash
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..errors import UsageError
from ..pixels import SSIM_WINDOW, gain_fitted_psnr, psnr, ssim
from .c2pa import C2paSigner
from .colour import profile_for_rgb
from .credit import LONGEST_TEXT, Credit, build
from .image import PNG_LEVEL, Opened
from .original import read_credit

CROP = 128  # SSIM is measured on the middle of an image, at most this large, PSNR on about so many rows and columns
AUTO = "auto"
QUALITY = 92  # of JPEG
_LONGEST_SIDE = {"webp": 16383, "jpeg": 65500, "png": 2**31 - 1}
_LOSSY = frozenset([".jpg", ".jpeg", ".jpe", ".jfif", ".heic", ".heif", ".hif", ".avif"])


def is_lossy(path: str) -> bool:
    """Whether a photograph comes in a lossy format, by its name. WebP may be either."""
    return os.path.splitext(path)[1].lower() in _LOSSY


@dataclass(frozen=True)
class Codec:
    """How images are written.

    Attributes:
        format: ``png``, ``webp`` (both lossless) or ``jpeg``; ``auto`` follows the source, see :meth:`for_file`.
        quality: of JPEG, 1..100; colours are never subsampled.
        icc: whether a colour profile is embedded; else colours are converted to sRGB.
        credit: what the file says about the rights; None: nothing. No other metadata is ever written.
        keep: fields of the original's that are taken where ``credit`` has none, some of :data:`~.credit.KEPT`.
        signer: which signs each file when all of it is there; None: files are not signed.
    """

    format: str = "png"
    quality: int = QUALITY
    icc: bool = True
    credit: Credit | None = None
    keep: tuple[str, ...] = ()
    signer: C2paSigner | None = None

    def for_file(self, path: str) -> "Codec":
        """How one file is written. ``auto`` makes JPEG of photographs that come in a lossy format, WebP of WebP, and
        PNG of all others.

        Args:
            path: of the original or of the target.
        """
        if self.format != AUTO:
            return self
        webp = path.lower().endswith(".webp")
        return replace(self, format="jpeg" if is_lossy(path) else "webp" if webp else "png")

    def prepare(self, opened: Opened) -> Opened:
        """The image in the numbers that are written: protect these."""
        return opened if self.icc else opened.in_srgb()

    def packet(self, original: Callable[[], bytes | None]) -> bytes:
        """The XMP packet of one image; empty where files say nothing.

        Args:
            original: gives the bytes of the original's file; asked only where fields of it are kept.

        Raises:
            ValueError: a field of the original that is too long.
        """
        if self.credit is None:
            return b""
        data = original() if self.keep else None
        if data is None:
            return build(self.credit)
        try:
            return build(self.credit.filled_from(read_credit(data, self.keep)))
        except UsageError:
            raise UsageError(
                f"a field that --keep takes from it has more than {LONGEST_TEXT:,} characters: leave the field out"
            ) from None

    def encode(self, image: Image.Image, packet: bytes = b"") -> bytes:
        """The bytes of a file.

        Args:
            image: from ``Opened.close``.
            packet: of :meth:`packet`.

        Raises:
            ValueError: the format cannot hold the image, or the file cannot be signed.
        """
        options: dict[str, Any] = {
            "png": {"compress_level": PNG_LEVEL},
            "webp": {"lossless": True, "method": 0, "exact": True},
            "jpeg": {"quality": self.quality, "subsampling": 0},
        }[self.format]
        profile = image.info.pop("icc_profile", None)
        if self.format == "jpeg" and image.mode in ("LA", "RGBA"):
            image = _without_alpha(image)
        if self.icc and profile:
            options["icc_profile"] = profile_for_rgb(profile) if self.format == "webp" else profile  # WebP has no grey
        if packet and self.format == "png":
            options["pnginfo"] = PngInfo()
            options["pnginfo"].add_itxt("XML:com.adobe.xmp", packet.decode())
        elif packet:
            options["xmp"] = packet
        longest = _LONGEST_SIDE[self.format]
        if max(image.size) > longest:
            raise UsageError(
                f"{self.format} holds at most {longest} pixels a side, the image has {max(image.size)}: choose "
                "--format png, or make it smaller"
            )
        buffer = io.BytesIO()
        try:
            image.save(buffer, self.format.upper(), **options)
        except MemoryError:
            raise
        except Exception as error:  # encoders raise whatever comes up
            raise UsageError(f"{self.format} cannot hold the picture: {error}") from None
        return buffer.getvalue() if self.signer is None else self.signer.sign(buffer.getvalue())


def _without_alpha(image: Image.Image) -> Image.Image:
    if image.getextrema()[-1] != (255, 255):
        raise UsageError("the picture has transparency, which JPEG cannot hold: choose --format png or webp")
    return image.convert(image.mode[:-1])


def checksum(data: bytes) -> str:
    """xxh3-128, hexadecimal."""
    return xxhash.xxh3_128(data).hexdigest()


def measure(clean: np.ndarray, changed: np.ndarray) -> list[float | None]:
    """PSNR and gain-fitted PSNR in dB of evenly spread pixels, and SSIM of the middle; None where there is none."""
    step = max(1, min(clean.shape[:2]) // CROP)
    some = clean[::step, ::step], changed[::step, ::step]
    window = tuple(slice(max(0, (side - CROP) // 2), max(0, (side - CROP) // 2) + CROP) for side in clean.shape[:2])
    small = min(clean.shape[:2]) < SSIM_WINDOW
    likeness = None if small else ssim(clean[window], changed[window])
    return [
        value if value is None or np.isfinite(value) else None
        for value in (psnr(*some), gain_fitted_psnr(*some), likeness)
    ]
