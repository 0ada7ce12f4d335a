"""What the tests of secret classes share: pictures that fall into clusters, and the classes in a ledger."""

from pathlib import Path

import numpy as np
import torch
from conftest import encode
from datasets import Dataset, Features, Image, Value

from unlearnable_transforms.jobs.ledger import read_ledger

KINDS = 3


def striped(number: int, side: int = 40) -> np.ndarray:
    """Noisy stripes: upright, level or slanting by ``number % KINDS``, of any phase and width; uint8 (H, W, 3)."""
    generator = np.random.default_rng(number)
    rows, columns = np.mgrid[:side, : side + 4]
    along = (columns, rows, rows + columns)[number % KINDS]
    wave = np.sin(along * generator.uniform(0.6, 0.9) + generator.uniform(0, 6))
    return (120 + 70 * wave[..., None] + generator.integers(-20, 20, (*wave.shape, 3))).astype(np.uint8)


def pictures(count: int = 12) -> list[np.ndarray]:
    return [striped(number) for number in range(count)]


def unlabelled(images: list[np.ndarray]) -> Dataset:
    columns = {
        "image": [{"bytes": encode(image), "path": None} for image in images],
        "note": [f"row {row}" for row in range(len(images))],
    }
    return Dataset.from_dict(columns, features=Features({"image": Image(), "note": Value("string")}))


def grouped(places: np.ndarray) -> set[frozenset]:
    """The rows of each cluster, whatever its number."""
    return {frozenset(np.flatnonzero(places == number).tolist()) for number in np.unique(places)}


def brightness(images: torch.Tensor) -> torch.Tensor:
    assert images.dtype == torch.uint8
    assert images.shape[1:] == (3, 224, 224)
    mean = images.float().mean((1, 2, 3)) / 255
    return torch.stack([mean, 1 - mean], 1)


def tokens(ledger: Path) -> list[str]:
    return read_ledger(ledger)["class_token"].to_pylist()


def integers(ledger: Path) -> list[int]:
    return [int(token.removeprefix("i:")) for token in tokens(ledger)]
