"""Folders of small pictures for the tests of `unlearnable protect`, and what they look at afterwards."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from conftest import ROOT, encode, pixels

import unlearnable_transforms as ut


def photograph(seed: int, height: int = 24, width: int = 30) -> np.ndarray:
    """A smooth picture, uint8 (H, W, 3), that JPEG can hold."""
    rows, columns = np.mgrid[:height, :width]
    levels = [np.sin(rows / (3 + seed % 5)), np.cos(columns / (2 + seed % 7)), np.sin((rows + columns + seed) / 6)]
    return np.stack([127 + 100 * level for level in levels], axis=2).astype(np.uint8)


def make_folder(root: Path, files: int = 12, classes: tuple[str, ...] = ("cat", "ant", "dog")) -> Path:
    """``files`` pictures in class folders; every third a JPEG."""
    for number in range(files):
        folder = root / classes[number % len(classes)]
        folder.mkdir(parents=True, exist_ok=True)
        jpeg = number // len(classes) % 3 == 0
        image = photograph(number) if jpeg else pixels(14 + number % 3, 17, 3, seed=number)
        (folder / f"{number:04d}.{'jpg' if jpeg else 'png'}").write_bytes(encode(image, "JPEG" if jpeg else "PNG"))
    return root


def tree(root: Path) -> dict[str, bytes]:
    """Every file's bytes."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def save_key(path: Path) -> Path:
    """A key file."""
    return ut.Key(b"unlearnable tests: a secret key!").save(path)


def command(*arguments: object, **options) -> subprocess.Popen:
    """`unlearnable protect` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "unlearnable_transforms.cli.main", "protect", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
