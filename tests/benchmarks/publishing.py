"""How well `publish` finds pairs, and what its checks cost: `python tests/benchmarks/publishing.py [pairs|speed]`.

`pairs`: protected training pictures, the test split, and clean copies of 300 training pictures, shrunk (clothing) and
stored as JPEG of quality 75. Printed: how many copies are found, and how many test pictures are taken for one; these
are put side by side with what they were taken for in `--show FILE`. Methods: CUDA, and noise of 8 levels.
`speed`: the checks of `publish` on a set of 32x32 pictures and one of photographs, against decoding the pictures alone.
"""

import argparse
import io
import os
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
from PIL import Image

import unlearnable_transforms as ut
from unlearnable_transforms.checks.pairs import ReducedImages, find_pairs

SHARED = Path(__file__).parents[3] / "shared" / "data"
SIZES = {"cifar10": (10_000, 4_000), "clothing": (500, 300)}
COPIES, SHOWN, SIDE = 300, 24, 64


def read(name: str, split: str, count: int) -> tuple[list[np.ndarray], list[int]]:
    """The first pictures of a split, and their labels."""
    table = pq.read_table(SHARED / name / f"{split}-00000-of-00001.parquet").slice(0, count)
    images = [Image.open(io.BytesIO(row["bytes"])).convert("RGB") for row in table["image"].to_pylist()]
    return [np.asarray(image) for image in images], table["label"].to_pylist()


def copy(picture: np.ndarray, share: float) -> np.ndarray:
    """What somebody would put into a test split."""
    image = Image.fromarray(picture)
    buffer = io.BytesIO()
    image.resize((int(image.width * share), int(image.height * share))).save(buffer, "JPEG", quality=75)
    return np.asarray(Image.open(buffer))


def noisy(pictures: list[np.ndarray]) -> list[np.ndarray]:
    """Noise of 8 levels at every pixel."""
    draws = np.random.default_rng(0)
    return [np.clip(p + draws.choice([-8, 8], p.shape), 0, 255).astype(np.uint8) for p in pictures]


def pairs(show: Path | None) -> None:
    """How many of the copies are found, and how many others."""
    rows = []
    for name, (count, others) in SIZES.items():
        (train, labels), (test, _) = read(name, "train", count), read(name, "test", others)
        poison = ut.CUDAPoison(key=ut.Key.public("publishing"))
        methods = {
            "cuda": lambda train=train, labels=labels, poison=poison: [
                np.asarray(image) for image in poison.apply([Image.fromarray(picture) for picture in train], labels)
            ],
            "noise": lambda train=train: noisy(train),
        }
        copies = [copy(picture, 1.0 if name == "cifar10" else 0.6) for picture in train[:COPIES]]
        for method, protect in methods.items():
            reduced, protected = ReducedImages(), protect()
            for picture in (*protected, *test, *copies):
                reduced.add(picture)
            first, last = len(train), len(train) + len(test)
            started = time.perf_counter()
            found = dict(find_pairs(reduced, np.arange(first, len(reduced)), np.arange(first)))
            seconds = time.perf_counter() - started
            right = sum(found.get(last + number) == number for number in range(len(copies)))
            taken = [(test[row - first], protected[twin]) for row, twin in found.items() if row < last]
            print(
                f"{name}, {method}: {right} of {len(copies)} copies found among {first:,} protected pictures; "
                f"{len(taken)} of {len(test):,} test pictures taken for one ({seconds:.1f} s)"
            )
            rows += [taken[:SHOWN]] if taken else []
    if show and rows:
        sheet = Image.new("RGB", (SHOWN * SIDE, 2 * SIDE * len(rows)))
        for line, taken in enumerate(rows):
            for column, pair in enumerate(taken):
                for half, picture in enumerate(pair):
                    place = column * SIDE, (2 * line + half) * SIDE
                    sheet.paste(Image.fromarray(picture).resize((SIDE, SIDE)), place)
        sheet.save(show)
        print(f"wrote {show}: test pictures above what they were taken for")


def speed() -> None:
    """The time of a publication into a folder, as a ratio to decoding the pictures."""
    for name, count in (("cifar10", 5_000), ("clothing", 300)):
        images, labels = read(name, "train", count)
        poison = ut.CUDAPoison(key=ut.Key.generate())
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
        clean = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
        protected = ut.protect(clean, poison)
        stored = [row["bytes"] for row in protected.with_format("arrow")[:]["image"].to_pylist()]
        started = time.perf_counter()
        for data in stored:
            Image.open(io.BytesIO(data)).load()
        decoding = time.perf_counter() - started
        with tempfile.TemporaryDirectory() as scratch:
            started = time.perf_counter()
            ut.publish(protected, "user/name", poison=poison, folder=Path(scratch, "out"), originals_public=True)
            whole = time.perf_counter() - started
        print(f"{name}: {whole:.1f} s for {count:,} pictures, {whole / decoding:.1f} times as long as decoding them")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("pairs", "speed"), default="pairs")
    parser.add_argument("--show", type=Path, help="picture of what was taken for a copy")
    arguments = parser.parse_args()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["UNLEARNABLE_TRANSFORMS_CACHE"] = cache
        pairs(arguments.show) if arguments.what == "pairs" else speed()
