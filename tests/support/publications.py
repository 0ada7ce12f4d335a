"""What the tests of publishing share: small sets, their protected forms, and the call itself."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from conftest import SECRET, decode, encode, image_set, stored
from datasets import ClassLabel, Dataset, Features, Image
from folders import photograph, save_key

import unlearnable_transforms as ut
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.publishing.hub import Publication

CLASSES = ["ant", "bee", "cat"]
FEATURES = Features({"image": Image(), "label": ClassLabel(names=CLASSES)})
ROWS = 12


def key() -> ut.Key:
    return ut.Key(SECRET)


def pictures(count: int = ROWS, first: int = 0) -> list[np.ndarray]:
    """Smooth pictures that differ, uint8 (36, 40, 3)."""
    return [photograph(first + number, 36, 40) for number in range(count)]


def clean_set(count: int = ROWS, first: int = 0) -> Dataset:
    return image_set(pictures(count, first), [row % 3 for row in range(count)], FEATURES)


def with_picture(data: Dataset, row: int, picture: Any, path: str | None = None) -> Dataset:
    """The set with another picture, an array or the bytes of a file, in one row."""
    values = stored(data)
    values[row] = {"bytes": picture if isinstance(picture, bytes) else encode(picture), "path": path}
    columns = {name: data.with_format(None)[name][:] for name in data.column_names if name != "image"}
    return Dataset.from_dict({"image": values, **columns}, features=data.features)


def reencoded(data: Dataset, format: str, **options: Any) -> Dataset:
    """The set with every picture in another format."""
    files = [{"bytes": encode(decode(row["bytes"]), format, **options), "path": None} for row in stored(data)]
    return Dataset.from_dict({"image": files, "label": data["label"][:]}, features=data.features)


def publish(source: Any, folder: Path, poison: ut.Poison | None = None, **options: Any) -> Publication:
    """Make a folder that is ready to upload."""
    poison = poison or ut.CUDAPoison(key=key())
    return ut.publish(source, "user/name", poison=poison, folder=folder, **{"originals_public": False, **options})


def protected_folder(tmp_path: Path, *options: str, names: str = "{:03d}", classes: int = 2) -> Path:
    """A folder of six pictures that `unlearnable protect` wrote; the key is beside it, fresh if there is one class."""
    for number, picture in enumerate(pictures(6)):
        path = tmp_path / "photos" / CLASSES[number % classes] / f"{names.format(number)}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture))
    save_key(tmp_path / "my.key") if classes > 1 else ut.Key.generate().save(tmp_path / "my.key")
    arguments = ["--key", str(tmp_path / "my.key"), "--workers", "1", *options]
    assert main(["protect", str(tmp_path / "photos"), str(tmp_path / "protected"), *arguments]) == 0
    return tmp_path / "protected"


def exif() -> bytes:
    """EXIF with a place and the owner's name."""
    data = PIL.Image.Exif()
    data[0x013B] = "CANARY-artist"
    data.get_ifd(0x8825)[0x001D] = "CANARY-gps"
    return data.tobytes()


def shrunk(picture: np.ndarray, share: float = 0.75) -> np.ndarray:
    """A smaller copy that went through JPEG: not one pixel is as it was."""
    image = PIL.Image.fromarray(picture)
    small = image.resize((int(image.width * share), int(image.height * share)))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return np.asarray(decode(buffer.getvalue()))
