"""Protect a folder of photographs, as `unlearnable protect` does: python examples/photograph_folder.py [SOURCE OUT]

Without arguments: on crops of scikit-learn's two photographs, as JPEG of several sizes, in a temporary folder.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from unlearnable_transforms import Key
from unlearnable_transforms.cli.main import main as unlearnable

SIZES = ((640, 427), (320, 427), (300, 200))


def write_photographs(folder: Path) -> None:
    """Two classes, a subfolder each."""
    for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        (folder / name).mkdir(parents=True)
        for number, (width, height) in enumerate(SIZES):
            left, top = (640 - width) // 2, (427 - height) // 2
            crop = Image.fromarray(pixels[top : top + height, left : left + width])
            crop.save(folder / name / f"{number}.jpg", quality=92)


def main(source: str | None = None, out: str | None = None) -> int:
    place = Path(tempfile.mkdtemp())
    key = place / "my.key" if source is None else Path("my.key")  # made once, kept for good, never published
    if not key.exists():
        Key.generate().save(key)
    if source is None or out is None:
        source, out = str(place / "photos"), str(place / "protected")
        write_photographs(Path(source))
    code = unlearnable(["protect", source, out, "--key", str(key), "--strength", "normal", "--workers", "1"])
    first = sorted(path for path in Path(out).rglob("*.png"))[:1]
    for path in first:
        print(path, np.asarray(Image.open(path)).shape)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
