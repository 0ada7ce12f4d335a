"""Speed of methods that train no network: `python tests/benchmarks/modelfree.py [--methods lsp ops] [--threads 1]`.

Each row of the table sets a loop that protects one picture after the other in NumPy, as one would write it by hand,
against the library on the same 50,000 pictures of 32 x 32: the median of the ratios of rounds that alternate the two,
with equal threads, and the least and largest of them; and the same of processor time, which other programs on the
machine disturb less. A loop that is timed on a part of the work, which the row says, is counted up. The loops do the
same work: noise of a keyed hash of the picture, rounding, clipping. Those of AR and OPS have to give the same bytes,
that of LSP noise of equal strength, or there is no table. A last row for each method sets the library called for one
picture after the other, as in a DataLoader, against the library on all of them.
"""

import argparse
import hashlib
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy.signal import lfilter, lfiltic

from unlearnable_transforms import ARPoison, FitWarning, Key, LSPPoison, OPSPoison, PILPoison, Poison
from unlearnable_transforms.poisons.ar import normals
from unlearnable_transforms.poisons.lsp import FINE
from unlearnable_transforms.poisons.ops import COLOURS, Sums, scores
from unlearnable_transforms.sample import sample_id

ROWS, CLASSES, SIDE = 50_000, 10, 32
LOOP_ROWS, LOOP_CELLS = 5_000, 8
KEY = Key.public("modelfree")


class Row(NamedTuple):
    """A line of the table: the loop by hand, timed on this share of the work, and the library on all of it."""

    title: str
    loop: Callable[[], object]
    part: float
    library: Callable[[], object]


def one_by_one(title: str, poison: Poison, images: torch.Tensor, labels: torch.Tensor) -> Row:
    """The library itself, called for one picture after the other, as a transform of a DataLoader is."""
    pairs = list(zip(images[:LOOP_ROWS], labels[:LOOP_ROWS].tolist(), strict=True))

    def loop() -> list[torch.Tensor]:
        return [poison(image, label)[0] for image, label in pairs]

    assert torch.stack(loop()).equal(poison.apply(images[:LOOP_ROWS], labels[:LOOP_ROWS])), "other bytes"
    return Row(f"{title}, apply / one by one", loop, LOOP_ROWS / ROWS, lambda: poison.apply(images, labels))


# ---- LSP -------------------------------------------------------------------------------------------------------------


def lsp(images: torch.Tensor, labels: torch.Tensor) -> Iterator[Row]:
    poison = LSPPoison(key=KEY, classes=list(range(CLASSES)))
    corners = [corner.ravel() for corner in poison.centres().values()]
    matrices = [poison._matrix(f"i:{label}").T / FINE for label in range(CLASSES)]
    secret, norm = bytes(32), 6 * np.sqrt(3 * SIDE * SIDE)
    clean, numbers = images[:LOOP_ROWS].numpy(), labels[:LOOP_ROWS].tolist()

    def loop() -> np.ndarray:
        result = np.empty_like(clean)
        for row, (image, label) in enumerate(zip(clean, numbers, strict=True)):
            seed = hashlib.blake2b(image, key=secret, digest_size=16).digest()
            generator = np.random.default_rng(int.from_bytes(seed, "little"))
            point = matrices[label] @ generator.standard_normal(48) + corners[label]
            noise = point.reshape(3, 4, 4).repeat(8, 1).repeat(8, 2)
            noise *= norm / np.linalg.norm(noise)
            result[row] = np.clip(np.rint(image + noise), 0, 255)
        return result

    ours = poison.apply(images, labels)[:LOOP_ROWS].numpy()
    strengths = [np.std(changed.astype(np.float32) - clean) for changed in (ours, loop())]
    assert abs(strengths[0] / strengths[1] - 1) < 0.01, "the loop does not make noise of equal strength"
    yield Row("LSP, apply", loop, LOOP_ROWS / ROWS, lambda: poison.apply(images, labels))
    yield one_by_one("LSP", poison, images, labels)


# ---- OPS -------------------------------------------------------------------------------------------------------------


def ops(images: torch.Tensor, labels: torch.Tensor) -> Iterator[Row]:
    poison = OPSPoison(key=KEY, data=(images, labels))
    clean, numbers = images.numpy(), labels.tolist()

    def fit_loop() -> dict[int, list[int]]:
        """The sums picture by picture, then the scores of all pixels and colours of a class at once."""
        first, second = np.zeros((2, CLASSES, 3, SIDE, SIDE))
        for image, label in zip(clean, numbers, strict=True):
            first[label] += image
            second[label] += np.square(image, dtype=np.float64)
        free, found = np.ones((len(COLOURS), SIDE * SIDE)), {}
        for label in range(CLASSES):
            score = free * scores(Sums(numbers.count(label), first[label], second[label]), COLOURS)
            colour, place = np.unravel_index(score.argmax(), score.shape)
            free[colour, place] = 0
            found[label] = [*divmod(int(place), SIDE), *COLOURS[colour]]
        return found

    def apply_loop(spots: dict[int, list[int]]) -> np.ndarray:
        result = clean.copy()
        for image, label in zip(result, numbers, strict=True):
            row, column, *colour = spots[label]
            image[:, row, column] = colour
        return result

    def published() -> None:
        """The search as the paper's code makes it: of one class, pixel by pixel, colour by colour over its pictures."""
        pictures = images[labels == 0].permute(0, 2, 3, 1).numpy() / np.float32(255)
        for place in range(LOOP_CELLS):
            for colour in COLOURS / np.float32(255):
                change = np.abs(colour - pictures[:, place // SIDE, place % SIDE])
                change.mean() / change.std()

    spots = fit_loop()
    assert np.array_equal(apply_loop(spots), poison.apply(images, labels).numpy()), "the loop gives other bytes"
    new = OPSPoison(key=KEY)

    def fit_and_apply() -> None:
        new.fit((images, labels)).apply(images, labels)

    yield Row("OPS, fit and apply", lambda: apply_loop(fit_loop()), 1, fit_and_apply)
    yield Row("OPS, fit", fit_loop, 1, lambda: new.fit((images, labels)))
    part = LOOP_CELLS / SIDE**2 / CLASSES
    yield Row("OPS, fit; the loop searches as published", published, part, lambda: new.fit((images, labels)))
    yield Row("OPS, apply", lambda: apply_loop(spots), 1, lambda: poison.apply(images, labels))
    yield one_by_one("OPS", poison, images, labels)


# ---- AR --------------------------------------------------------------------------------------------------------------


def ar(images: torch.Tensor, labels: torch.Tensor) -> Iterator[Row]:
    poison = ARPoison(key=KEY, classes=list(range(CLASSES)))
    windows, numbers = poison.coefficients(range(CLASSES)), labels.tolist()
    side, few = SIDE + 4, 100

    def start(image: np.ndarray, label: int) -> np.ndarray:
        words = KEY.stream("ar", "start", sample_id(image.transpose(1, 2, 0), f"i:{label}")).words(3 * (4 * side - 4))
        values, field = normals(words).reshape(3, -1), np.zeros((3, side, side))
        field[:, :2] = values[:, : 2 * side].reshape(3, 2, side)
        field[:, 2:, :2] = values[:, 2 * side :].reshape(3, side - 2, 2)
        return field

    def by_pixel(field: np.ndarray, window: np.ndarray) -> None:
        """As the paper's code, but all channels at once."""
        for i in range(2, side):
            for j in range(2, side):
                field[:, i, j] = (field[:, i - 2 : i + 1, j - 2 : j + 1] * window).sum((1, 2))

    def by_row(field: np.ndarray, window: np.ndarray) -> None:
        """What the rows above bring in one go, then SciPy's recursive filter along the row."""
        for plane, weights in zip(field, window, strict=True):
            recursion = np.array([1, -weights[2, 1], -weights[2, 0]])
            for i in range(2, side):
                above = np.convolve(plane[i - 2], weights[0, ::-1], "valid")
                above += np.convolve(plane[i - 1], weights[1, ::-1], "valid")
                before = lfiltic([1.0], recursion, plane[i, 1::-1])
                plane[i, 2:] = lfilter([1.0], recursion, above, zi=before)[0]

    def loop(fill: Callable[[np.ndarray, np.ndarray], None], rows: int) -> torch.Tensor:
        clean = images[:rows].numpy()
        result = np.empty_like(clean)
        for row, image in enumerate(clean):
            field = start(image, numbers[row])
            fill(field, windows[numbers[row]])
            noise = field[:, 4:, 4:]
            noise *= 255 / np.linalg.norm(noise)
            result[row] = np.clip(np.rint(noise) + image, 0, 255)
        return torch.from_numpy(result)

    for fill in (by_pixel, by_row):
        assert loop(fill, few).equal(poison.apply(images[:few], labels[:few])), "the loop gives other bytes"
    yield Row("AR / pixel by pixel", lambda: loop(by_pixel, few), few / ROWS, lambda: poison.apply(images, labels))
    yield Row("AR / row by row", lambda: loop(by_row, few), few / ROWS, lambda: poison.apply(images, labels))
    yield one_by_one("AR", poison, images, labels)


# ---- PIL -------------------------------------------------------------------------------------------------------------


def pil(images: torch.Tensor, labels: torch.Tensor) -> Iterator[Row]:
    """The library makes noise once, in `fit`, and looks it up; the loop makes it anew for each picture, by 30 steps.

    The fit here is a short one: a lookup takes as long, whatever is looked up.
    """
    few, eps, weight = 500, np.float32(8 / 255), np.float32(0.9)
    with tempfile.TemporaryDirectory() as cache, warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        os.environ["UNLEARNABLE_TRANSFORMS_CACHE"] = cache
        poison = PILPoison(key=KEY, epochs=1, steps=1, data=(images, labels))
        surrogate = np.array(poison._entry().surrogate()["weight"])
        clean, wanted = images[:few].numpy(), np.eye(CLASSES, dtype=np.float32)[labels[:few].numpy()]

        def softmax(values: np.ndarray) -> np.ndarray:
            values = np.exp(values - values.max())
            return values / values.sum()

        def loop() -> torch.Tensor:
            result, generator = np.empty_like(clean), np.random.default_rng(0)
            for row, image in enumerate(clean):
                x = image.ravel().astype(np.float32) / 255
                delta = (2 * generator.random(x.size, np.float32) - 1) * eps
                for _ in range(30):
                    induced = softmax(surrogate @ delta) - wanted[row]
                    emptied = softmax(surrogate @ (x - delta)) - np.float32(1 / CLASSES)
                    gradient = (weight * induced - (1 - weight) * emptied) @ surrogate
                    delta = np.clip(delta - eps / 10 * np.sign(gradient), -eps, eps)
                result[row] = np.clip(np.rint(image - 255 * delta.reshape(image.shape)), 0, 255)
            return torch.from_numpy(result)

        yield Row("PIL, apply / noise anew", loop, few / ROWS, lambda: poison.apply(images, labels))
        yield one_by_one("PIL", poison, images, labels)


STATISTICS = (np.median, np.min, np.max)
METHODS = {"lsp": lsp, "ops": ops, "ar": ar, "pil": pil}


def seconds(function: Callable[[], object]) -> np.ndarray:
    """By the clock on the wall, and of the processor."""
    start = np.array([time.perf_counter(), time.process_time()])
    function()
    return np.array([time.perf_counter(), time.process_time()]) - start


def report(row: Row, rounds: int) -> str:
    times = [(seconds(row.loop) / row.part, seconds(row.library)) for _ in range(rounds + 1)][1:]  # the first warms up
    (wall, processor), low, high = (of([loop / library for loop, library in times], 0) for of in STATISTICS)
    loop, library = (np.median(column, 0)[0] for column in zip(*times, strict=True))
    return (
        f"{row.title:41} loop / library {wall:6.1f} ({low[0]:.1f} to {high[0]:.1f}), of processor time {processor:6.1f}"
        f"   {loop:.2f} s, timed on {row.part:.3%} / {library:.3f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.integers(0, 256, (ROWS, 3, SIDE, SIDE), dtype=np.uint8))
    labels = torch.from_numpy(random.integers(0, CLASSES, ROWS))
    print(
        f"{ROWS} pictures of {SIDE} x {SIDE}, {arguments.threads} threads, {arguments.rounds} rounds, torch "
        f"{torch.__version__}"
    )
    for method in arguments.methods:
        for row in METHODS[method](images, labels):
            print(report(row, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
