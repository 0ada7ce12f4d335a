"""How well CUDA is undone, with the key and without: `python tests/benchmarks/pairs.py PART [--train]`.

Parts:

    restore   with the key (`ut.unlock`): PSNR of what comes back, with the maximum of the ledger and with a guess; the
              default filters class by class, invertible ones, noise, and halos on photographs at their own size
    attack    without it: from 1, 10, 100 or 1000 pairs of clean and protected pictures, spread over the classes, an
              attacker estimates each class's filter by least squares and deconvolves all other pictures
    strength  what invertible filters protect: a victim for each of three keys, beside the default ones (trains)

Pictures of CIFAR-10's training set: pairs are the first rows of each class from row 10,000 on, what is restored the
first --rows rows (200). Photographs: 30 of the clothing set, pairs are others of it. `--train` makes of the first
10,000 rows what the part makes of 200, and trains the screen's victim on them: as long as `screen.py` for each line.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset, disable_progress_bars, load_dataset
from PIL import ImageOps
from torch import Tensor

from unlearnable_transforms import CUDAPoison, Key, Poison, get_poison
from unlearnable_transforms.pixels import gain_fitted_psnr, psnr
from unlearnable_transforms.poisons.convolution import add_soft_copies
from unlearnable_transforms.poisons.deconvolution import deconvolve, remove_halo
from unlearnable_transforms.poisons.undo import unlock_arrays
from unlearnable_transforms.sample import sample_ids

KEYS = ("screen-0", "screen-1", "screen-2")
PAIRS = (1, 10, 100, 1000)
CLASSES = 10
SIDE = 5  # of the filters that the attacker looks for: large enough for all
HALO_STEP = 48  # public: entries of a halo lie shorter side / 48 pixels apart
PHOTOGRAPHS = 30
TRAINED = 10_000


# ---- the attack ------------------------------------------------------------------------------------------------------


def estimate_filter(clean: Tensor, protected: Tensor, side: int = SIDE) -> Tensor:
    """The filter of one class from pairs: float32 (side, side), the largest entry 1.

    Each pair alone gives the filter times an unknown factor, since the picture was divided by its maximum: scaled to
    a largest entry of 1 it says what the factor was. Then one least squares over all pairs.

    Args:
        clean, protected: uint8 (n, C, H, W).
        side: odd, at least the filter's.
    """
    count, channels, height, width = clean.shape
    around = F.unfold(clean.double().view(-1, 1, height, width), side, padding=side // 2)
    columns = around.view(count, channels, side * side, -1).transpose(2, 3).reshape(count, -1, side * side)
    targets = protected.double().view(count, -1, 1)
    squares, products = columns.mT @ columns, columns.mT @ targets
    ridge = 1e-6 * squares.diagonal(dim1=1, dim2=2).mean(1).view(-1, 1, 1) * torch.eye(side * side)
    alone = torch.linalg.solve(squares + ridge, products)
    factors = alone.amax((1, 2), keepdim=True)
    together = torch.linalg.solve((squares + ridge).sum(0), (products / factors).sum(0))
    return (together / together.max()).float().view(side, side)


def estimate_halo(pairs: list[tuple[np.ndarray, np.ndarray]], side: int = SIDE) -> np.ndarray:
    """The halo of one class from pairs of photographs (H, W, 3): float32 (side, side) with 1 in the middle.

    That two more entries count, and how far they lie apart, is public.
    """
    squares, products = 0.0, 0.0
    offsets = [(down - side // 2, right - side // 2) for down in range(side) for right in range(side)]
    one_to_the_right = np.float32([[0, 0, 0], [0, 1, 1 / 2], [0, 0, 0]])
    for clean, protected in pairs:
        step = round(min(clean.shape[:2]) / HALO_STEP)
        margin = (side // 2 + 1) * step
        inside = slice(margin, clean.shape[0] - margin), slice(margin, clean.shape[1] - margin)
        green, copies = torch.from_numpy(clean[..., 1].astype(np.float32)), torch.zeros(clean.shape[:2])
        add_soft_copies(green, one_to_the_right, step, copies, 2)
        soft = copies.numpy()
        columns = [np.roll(soft, (-down * step, (1 - right) * step), (0, 1)) for down, right in offsets]
        columns[len(offsets) // 2] = green.numpy()
        grid = np.stack([column[inside][::3, ::3].ravel() for column in columns]).astype(np.float64)
        squares = squares + grid @ grid.T
        products = products + grid @ protected[..., 1][inside][::3, ::3].ravel()
    found = np.linalg.lstsq(squares, products, rcond=None)[0]
    found /= found[len(found) // 2]
    found[len(found) // 2] = 0
    found[np.argsort(found)[:-2]] = 0
    found[len(found) // 2] = 1
    return found.reshape(side, side).astype(np.float32)


def attack(filters: dict[int, Tensor], protected: Tensor, labels: Tensor) -> Tensor:
    """Deconvolved, uint8 (B, 3, H, W), where the class's filter is known; the brightest pixel is taken for white."""
    result = protected.clone()
    for label, weights in filters.items():
        for rows in torch.nonzero(labels == label).flatten().split(500):
            unknown = torch.full((len(rows),), float("nan"))
            result[rows] = deconvolve(protected[rows], weights.expand(len(rows), -1, -1), unknown).to(torch.uint8)
    return result


def spread_over_classes(labels: Tensor, count: int) -> dict[int, Tensor]:
    """The rows of ``count`` pairs: the first of each class, then the second of each, and so on."""
    shares = [count // CLASSES + (label < count % CLASSES) for label in range(CLASSES)]
    rows = {label: torch.nonzero(labels == label).flatten()[:share] for label, share in enumerate(shares)}
    return {label: some for label, some in rows.items() if len(some)}


# ---- figures ---------------------------------------------------------------------------------------------------------


def quality(clean: Tensor, other: Tensor, measure: Callable = psnr) -> np.ndarray:
    """PSNR of each picture in dB; infinite where it is exact."""
    return np.array([measure(*pair) for pair in zip(clean.numpy(), other.numpy(), strict=True)])


def mean(values: np.ndarray) -> str:
    """The mean of what is not exact, and what is."""
    near = values[np.isfinite(values)]
    exact = f" ({1 - len(near) / len(values):.0%} exact)" if len(near) < len(values) else ""
    return (f"{near.mean():.1f}{exact}") if len(near) else "exact"


def line(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def table(*titles: str) -> None:
    print()
    line(*titles)
    line(*["---"] * len(titles))


def undo(poison: Poison, clean: Tensor, protected: Tensor, labels: Tensor, known: bool) -> Tensor:
    """What `ut.unlock` makes of it, with what a ledger says or without."""
    arrays = [images.permute(0, 2, 3, 1).numpy() for images in (clean, protected)]
    tokens = [f"i:{label}" for label in labels.tolist()]
    notes = [poison.unlock_note(*three) if known else None for three in zip(*arrays, tokens, strict=True)]
    ids = sample_ids(clean, tokens) if known else [None] * len(tokens)
    restored: list[np.ndarray] = []
    for start in range(0, len(tokens), 500):
        part = slice(start, start + 500)
        restored += unlock_arrays(poison, list(arrays[1][part]), tokens[part], ids[part], notes[part])[0]
    return torch.from_numpy(np.stack(restored)).permute(0, 3, 1, 2)


# ---- data ------------------------------------------------------------------------------------------------------------


class Cifar:
    """Rows of CIFAR-10, uint8 (N, 3, 32, 32) and int64 (N,), read when they are asked for."""

    def __init__(self, folder: Path) -> None:
        files = {split: str(folder / "cifar10" / f"{split}-00000-of-00001.parquet") for split in ("train", "test")}
        self.data = load_dataset("parquet", data_files=files)

    def rows(self, start: int, stop: int, split: str = "train") -> tuple[Tensor, Tensor]:
        data: Dataset = self.data[split].select(range(start, stop))
        images = np.stack([np.asarray(image) for image in data["image"]])
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(data["label"])


class Photographs:
    """The clothing set, shuffled; read when they are asked for."""

    def __init__(self, folder: Path) -> None:
        path = str(folder / "clothing" / "train-00000-of-00001.parquet")
        self.data = load_dataset("parquet", data_files={"train": path}, split="train").shuffle(seed=0)
        self.labels = torch.tensor(self.data["label"])

    def read(self, row: int) -> np.ndarray:
        """uint8 (H, W, 3)."""
        return np.asarray(ImageOps.exif_transpose(self.data[row]["image"]).convert("RGB"))


def accuracy_of(images: Tensor, labels: Tensor, cifar: Cifar) -> str:
    """Of a victim that trains on these pictures, in percent of the clean test set."""
    from screen import victim

    return f"{victim(images, labels, cifar.rows(0, 10_000, 'test'))[1]:.1f}"


# ---- parts -----------------------------------------------------------------------------------------------------------


def restore(cifar: Cifar, folder: Path, rows: int, train: bool) -> None:
    clean, labels = cifar.rows(0, rows)
    print(f"With the key: PSNR in dB, means over {rows} pictures of CIFAR-10; key {KEYS[0]!r} where none is named")
    table(
        "default filter of class", "place of the 1", "protected", "ledger", "ledger, without a frame of 3 px", "guess"
    )
    poison = CUDAPoison(key=Key.public(KEYS[0]))
    protected = poison.apply(clean, labels)
    known, guessed = (undo(poison, clean, protected, labels, way) for way in (True, False))
    for label in range(CLASSES):
        mine = labels == label
        place = divmod(int(poison.kernels([label], 32)[0].argmax()), 3)
        values = [quality(clean[mine], other[mine]) for other in (protected, known, guessed)]
        inner = quality(clean[mine, :, 3:-3, 3:-3], known[mine, :, 3:-3, 3:-3])
        line(label, place, mean(values[0]), mean(values[1]), mean(inner), mean(values[2]))
    table("method", "protected", "ledger", "guess", "guess, after the best gain")
    methods = {
        f"CUDA{text}, key {name}": CUDAPoison(key=Key.public(name), **options)
        for text, options in {
            "": {},
            " subtle": {"strength": "subtle"},
            " strong": {"strength": "strong"},
            " k=9": {"kernel_size": 9},
            " invertible": {"invertible": True},
            " invertible strong": {"invertible": True, "strength": "strong"},
        }.items()
        for name in (KEYS if text in ("", " invertible") else KEYS[:1])
    }
    for name, options in {"pil": {}, "lsp": {}, "ar": {}, "ops": {}}.items():
        methods[name] = get_poison(name)(key=Key.public(KEYS[0]), **options).fit((clean, labels))
    for title, poison in methods.items():
        protected = poison.apply(clean, labels)
        known = undo(poison, clean, protected, labels, True)
        guess = [undo(poison, clean, protected, labels, False)] if isinstance(poison, CUDAPoison) else []
        cells = [mean(quality(clean, other)) for other in (protected, known, *guess)]
        cells += [mean(quality(clean, guess[0], gain_fitted_psnr))] if guess else ["-", "-"]
        line(title, *cells)
    table(f"halos, {PHOTOGRAPHS} photographs", "protected", "restored", "pixels within a level")
    photographs = Photographs(folder)
    chosen = [(photographs.read(row), int(photographs.labels[row])) for row in range(PHOTOGRAPHS)]
    for strength in ("subtle", "normal", "strong"):
        poison = CUDAPoison(key=Key.public(KEYS[0]), strength=strength)
        before, after, close = [], [], []
        for image, label in chosen:
            changed = poison(image, label)[0]
            (restored,), _ = unlock_arrays(poison, [changed], [f"i:{label}"], [None], [None])
            before.append(psnr(image, changed))
            after.append(psnr(image, restored))
            close.append((np.abs(restored.astype(int) - image) <= 1).mean())
        line(strength, f"{np.mean(before):.1f}", f"{np.mean(after):.1f}", f"{np.mean(close):.1%}")
    if train:
        table("victim trained on", "accuracy on the clean test set, %")
        clean, labels = cifar.rows(0, TRAINED)
        line("clean", accuracy_of(clean, labels, cifar))
        for text, options in {"default": {}, "invertible": {"invertible": True}}.items():
            poison = CUDAPoison(key=Key.public(KEYS[0]), **options)
            protected = poison.apply(clean, labels)
            line(f"CUDA, {text} filters", accuracy_of(protected, labels, cifar))
            for way in (True, False):
                restored = undo(poison, clean, protected, labels, way)
                line(f"the same, unlocked with a {'ledger' if way else 'guess'}", accuracy_of(restored, labels, cifar))


def attacks(cifar: Cifar, folder: Path, rows: int, train: bool) -> None:
    pair_images, pair_labels = cifar.rows(10_000, 13_000)
    clean, labels = cifar.rows(0, TRAINED if train else rows)
    print(f"Without the key: PSNR in dB, means over {len(clean)} pictures of CIFAR-10; key {KEYS[0]!r}")
    trained = ["victim, accuracy in %"] if train else []
    titles = ("filters", "pairs", "classes known", "error of the filters", "PSNR", "after the best gain")
    table(*titles, "of known classes", *trained)
    for text, options in {"default": {}, "invertible": {"invertible": True}}.items():
        poison = CUDAPoison(key=Key.public(KEYS[0]), **options)
        protected, given = poison.apply(clean, labels), poison.apply(pair_images, pair_labels)
        truth = torch.from_numpy(poison.kernels(range(CLASSES), 32))
        truth = F.pad(truth, [(SIDE - truth.shape[-1]) // 2] * 4)
        for count in (0, *PAIRS):
            chosen = spread_over_classes(pair_labels, count)
            filters = {label: estimate_filter(pair_images[some], given[some]) for label, some in chosen.items()}
            errors = [float((filters[label] - truth[label]).norm() / truth[label].norm()) for label in filters]
            found = attack(filters, protected, labels)
            known = torch.isin(labels, torch.tensor(list(filters), dtype=labels.dtype))
            line(
                text, count, len(filters), f"{np.mean(errors):.3f}" if errors else "-", mean(quality(clean, found)),
                mean(quality(clean, found, gain_fitted_psnr)),
                mean(quality(clean[known], found[known])) if known.any() else "-",
                *([accuracy_of(found, labels, cifar)] if train else []),
            )  # fmt: skip
    print(f"\nThe same with halos, {PHOTOGRAPHS} photographs")
    table("pairs", "classes known", "error of the halos", "PSNR", "of known classes")
    poison, photographs = CUDAPoison(key=Key.public(KEYS[0])), Photographs(folder)
    chosen = [(photographs.read(row), int(photographs.labels[row])) for row in range(PHOTOGRAPHS)]
    shown = [poison(*pair)[0] for pair in chosen]
    for count in (0, *PAIRS[:3]):
        rows_of = spread_over_classes(photographs.labels[PHOTOGRAPHS:], count)
        halos = {}
        for label, some in rows_of.items():
            images = [photographs.read(PHOTOGRAPHS + row) for row in some.tolist()]
            halos[label] = estimate_halo([(image, poison(image, label)[0]) for image in images])
        truths = {label: halo_in_the_middle(poison.kernels([label], 400)[0]) for label in halos}
        errors = [np.linalg.norm(halos[label] - truths[label]) / np.linalg.norm(truths[label]) for label in halos]
        found = [
            without_halo(changed, halos[label]) if label in halos else changed
            for changed, (_, label) in zip(shown, chosen, strict=True)
        ]
        values = np.array([psnr(image, other) for (image, _), other in zip(chosen, found, strict=True)])
        known = np.array([label in halos for _, label in chosen])
        error, of_known = f"{np.mean(errors or 0):.3f}", mean(values[known]) if known.any() else "-"
        line(count, len(halos), error if errors else "-", mean(values), of_known)


def without_halo(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    planes = torch.from_numpy(image).permute(2, 0, 1)
    step = round(min(image.shape[:2]) / HALO_STEP)
    return remove_halo(planes, weights, step).to(torch.uint8).permute(1, 2, 0).numpy()


def halo_in_the_middle(weights: np.ndarray) -> np.ndarray:
    """A halo's filter (k, k) seen from its 1: (2k - 1, 2k - 1)."""
    size = len(weights)
    row, column = divmod(int((weights == 1).argmax()), size)
    wide = np.zeros((2 * size - 1, 2 * size - 1), np.float32)
    wide[size - 1 - row : 2 * size - 1 - row, size - 1 - column : 2 * size - 1 - column] = weights
    return wide


def strengths(cifar: Cifar) -> None:
    clean, labels = cifar.rows(0, TRAINED)
    table("filters", "key", "PSNR", "victim, accuracy in %")
    line("clean", "-", "-", accuracy_of(clean, labels, cifar))
    for text, options in {"default": {}, "invertible": {"invertible": True}}.items():
        for name in KEYS:
            protected = CUDAPoison(key=Key.public(name), **options).apply(clean, labels)
            line(text, name, mean(quality(clean[:300], protected[:300])), accuracy_of(protected, labels, cifar))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["restore", "attack", "strength"])
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[3] / "shared" / "data")
    parser.add_argument("--rows", type=int, default=200, help="pictures of CIFAR-10 that are restored")
    parser.add_argument("--train", action="store_true", help="train a victim on what comes out, too")
    arguments = parser.parse_args()
    disable_progress_bars()
    torch.set_num_threads(1)
    started, cifar = time.perf_counter(), Cifar(arguments.data)
    if arguments.part == "strength":
        strengths(cifar)
    else:
        part = restore if arguments.part == "restore" else attacks
        part(cifar, arguments.data, arguments.rows, arguments.train)
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
