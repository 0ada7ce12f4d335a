"""One picture file in, one protected picture file out: what the workers of a folder do."""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from PIL import Image

from ..data.image import PNG_LEVEL, Opened, open_image, readable
from ..errors import UsageError
from ..files import whole
from ..pixels import SSIM_WINDOW, gain_fitted_psnr, psnr, ssim
from ..poisons.base import Poison
from ..poisons.fraction import is_chosen
from ..sample import sample_id

CROP = 128  # SSIM is measured on the middle of a picture, at most this large, PSNR on about so many rows and columns


class SourceChanged(UsageError):
    """A source file is not what it was when the run began."""


@dataclass(frozen=True)
class Codec:
    """How pictures are written.

    Attributes:
        format: ``png``, ``webp`` (both lossless) or ``jpeg``.
        quality: of JPEG, 1..100; colours are never subsampled.
        icc: whether the colour profile is embedded. No other metadata ever is.
    """

    format: str = "png"
    quality: int = 95
    icc: bool = True

    def encode(self, image: Image.Image) -> bytes:
        """The bytes of a file.

        Raises:
            ValueError: the format cannot hold the picture.
        """
        options: dict[str, Any] = {
            "png": {"compress_level": PNG_LEVEL},
            "webp": {"lossless": True, "method": 0, "exact": True},
            "jpeg": {"quality": self.quality, "subsampling": 0},
        }[self.format]
        profile = image.info.pop("icc_profile", None)
        if self.icc and profile:
            options["icc_profile"] = profile
        if self.format == "jpeg" and image.mode not in ("RGB", "L"):
            raise ValueError("the picture has transparency, which JPEG cannot hold: choose --format png or webp")
        buffer = io.BytesIO()
        try:
            image.save(buffer, self.format.upper(), **options)
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.format} cannot hold the picture: {error}") from None
        return buffer.getvalue()


@dataclass(frozen=True)
class Task:
    """One picture to write.

    Attributes:
        path, target: below the source and the output folder.
        token: the class; None for a picture of a kept split, which is encoded anew and not protected.
        size, mtime: what the file was when the run began.
        measure: whether to measure how far the protected picture is from the clean one.
    """

    path: str
    target: str
    token: str | None
    size: int
    mtime: int
    measure: bool


@dataclass(frozen=True)
class FileWorker:
    """Writes protected pictures. What it returns is small: a record for the journal a picture."""

    source: Path
    out: Path
    poison: Poison
    codec: Codec
    fraction: float

    def __call__(self, tasks: list[Task]) -> list[dict[str, Any]]:
        return [self._write(task) for task in tasks]

    def _write(self, task: Task) -> dict[str, Any]:
        record: dict[str, Any] = {"path": task.path, "size": task.size, "mtime": task.mtime}
        try:
            with open(self.source / task.path, "rb") as file:
                status = os.fstat(file.fileno())
                data = file.read()
        except OSError as error:
            return {**record, "status": "failed", "reason": error.strerror or str(error)}
        if (status.st_size, status.st_mtime_ns) != (task.size, task.mtime):
            raise SourceChanged(
                f"{self.source / task.path} changed while it was to be protected: put back what it was and run the "
                "same command again, or start with an empty output folder"
            )
        try:
            encoded, facts = self._protect(data, task)
        except (TypeError, ValueError) as error:
            return {**record, "status": "failed", "reason": str(error)}
        target = self.out / task.target
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole(target) as temporary:
            temporary.write_bytes(encoded)
        return {**record, **facts, "bytes": len(encoded), "checksum": checksum(encoded)}

    def _protect(self, data: bytes, task: Task) -> tuple[bytes, dict[str, Any]]:
        """The new file's bytes, and what the journal is to know about it."""
        opened = open_bytes(data)
        if task.token is None:
            return self.codec.encode(opened.close(opened.colour)), {"status": "kept"}
        clean = opened.colour
        clean_id = sample_id(clean, task.token)
        changed, changed_id, status = clean, clean_id, "left"
        if is_chosen(self.poison.key, clean_id, self.fraction):
            (changed,) = self.poison.protect_arrays([clean], [task.token])
            changed_id = sample_id(changed, task.token)
            status = "unchanged" if changed_id == clean_id else "protected"
        encoded = self.codec.encode(opened.close(changed))
        shown = changed
        if self.codec.format == "jpeg":  # others will find the picture by the pixels that they decode
            shown = open_bytes(encoded).colour
            changed_id = sample_id(shown, task.token)
        facts: dict[str, Any] = {
            "clean_id": clean_id.hex(),
            "protected_id": changed_id.hex(),
            "token": task.token,
            "status": status,
            "note": self.poison.unlock_note(clean, changed, task.token) if status == "protected" else None,
        }
        if task.measure and status == "protected":
            facts["measured"] = measure(clean, shown)
        return encoded, facts


def open_bytes(data: bytes) -> Opened:
    """A picture file's pixels, and the way back to a PIL image without a trace of the file but its colour profile.

    Raises:
        TypeError, ValueError: a picture that is refused or cannot be read.
    """
    with readable():
        image = Image.open(io.BytesIO(data))
    with image:
        return open_image(image)


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
