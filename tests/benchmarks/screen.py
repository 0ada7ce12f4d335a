"""How much CUDA protects, on the screen: `python tests/benchmarks/screen.py [main|weakest] [--data ../shared/data]`.

The screen trains a ResNet-9 (widths 16-32-64-128) for 10 epochs on the first 10,000 rows of CIFAR-10 and tests it on
the clean 10,000 test rows. `main` prints what the README quotes: clean, three keys made from fixed strings, and the
controls. `weakest` compares, on validation rows 40,000-49,999 of the training set, the three keys of 300 whose
independent filters lie closest together with the same keys' spread filters.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, DatasetDict, disable_progress_bars, load_dataset

from unlearnable_transforms import CUDAPoison, Key
from unlearnable_transforms.pixels import gain_fitted_psnr, psnr
from unlearnable_transforms.training.loop import SCREEN, train
from unlearnable_transforms.training.model import accuracy
from unlearnable_transforms.victims.registry import build_victim

ROWS = 10_000
KEYS = ("screen-0", "screen-1", "screen-2")
SEEDS = (0, 1, 2)
Set = tuple[torch.Tensor, torch.Tensor]


def cifar(folder: Path) -> DatasetDict:
    """CIFAR-10, splits train and test, from the folder of the data sets."""
    files = {split: str(folder / "cifar10" / f"{split}-00000-of-00001.parquet") for split in ("train", "test")}
    return load_dataset("parquet", data_files=files)


def read(data: Dataset) -> Set:
    """uint8 (N, 3, 32, 32) and int64 (N,)."""
    images = np.stack([np.asarray(image) for image in data["image"]])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(data["label"])


def victim(images: torch.Tensor, labels: torch.Tensor, test: Set, seed: int = 0) -> tuple[torch.nn.Module, float]:
    """A trained screen victim and its test accuracy in percent after the last epoch."""
    net = build_victim("resnet9-screen", num_classes=10, image_size=32, seed=seed)
    history = train(net, images, labels, recipe=SCREEN, seed=seed, test=test)
    return net, 100 * history.last


def main_table(train_set: Set, test: Set) -> None:
    images, labels = train_set
    start = time.perf_counter()
    clean = [victim(images, labels, test, seed)[1] for seed in SEEDS]
    print(
        f"clean, mean of training seeds {SEEDS}  {statistics.mean(clean):5.1f} %   "
        f"({', '.join(f'{score:.1f}' for score in clean)}; {(time.perf_counter() - start) / len(SEEDS):.0f} s a run)",
        flush=True,
    )
    protected_accuracies = []
    for name in KEYS:
        poison = CUDAPoison(key=Key.public(name))
        protected = poison.apply(images, labels)
        net, score = victim(protected, labels, test)
        protected_accuracies.append(score)
        own = 100 * accuracy(net, poison.apply(test[0], test[1]), test[1])
        other = 100 * accuracy(net, poison.apply(test[0], (test[1] + 1) % 10), test[1])
        pairs = list(zip(images[:1000].numpy(), protected[:1000].numpy(), strict=True))
        quality, fitted = (statistics.mean(measure(a, b) for a, b in pairs) for measure in (psnr, gain_fitted_psnr))
        print(
            f"CUDA, key {name!r}                 {score:5.1f} %   test set filtered with its own classes' filters "
            f"{own:.1f} %, with the next class's {other:.1f} %; PSNR {quality:.1f} dB, gain-fitted {fitted:.1f} dB",
            flush=True,
        )
    mean, worst = statistics.mean(protected_accuracies), max(protected_accuracies)
    print(f"CUDA, mean of {len(KEYS)} keys                   {mean:5.1f} %   (highest {worst:.1f} %)")
    universals = []
    for name in KEYS:
        one = CUDAPoison(key=Key.public(name)).kernels([0], 32)[0]
        universal = CUDAPoison(kernels=dict.fromkeys(range(10), one))
        net, score = victim(universal.apply(images, labels), labels, test)
        universals.append(score)
        alike = 100 * accuracy(net, universal.apply(*test), test[1])
        print(
            f"class 0's filter on all, key {name!r}  {score:5.1f} %   test set filtered alike {alike:.1f} %", flush=True
        )
    print(f"class-independent filter, mean of {len(KEYS)} keys  {statistics.mean(universals):5.1f} %")


def independent_filters(key: Key) -> np.ndarray:
    """Ten filters drawn independently, as the paper does: what text labels get without a class list."""
    return CUDAPoison(key=key).kernels([f"class {n}" for n in range(10)], 32)


def nearest_pair(filters: np.ndarray) -> float:
    flat = filters.reshape(len(filters), -1)
    distances = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    return float(distances[~np.eye(len(flat), dtype=bool)].min())


def same_place(filters: np.ndarray) -> int:
    return int(np.bincount(filters.reshape(len(filters), -1).argmax(1)).max())


def weakest_table(train_set: Set, validation: Set, keys: int = 300, shown: int = 3) -> None:
    images, labels = train_set
    makers = {"independent": independent_filters, "spread": lambda key: CUDAPoison(key=key).kernels(range(10), 32)}
    candidates = [Key.public(f"key-{n}") for n in range(keys)]
    distances = {}
    for rule, make in makers.items():
        filters = [make(key) for key in candidates]
        distances[rule] = np.array([nearest_pair(f) for f in filters])
        shares = [same_place(f) for f in filters]
        low, middle, high = np.quantile(distances[rule], [0, 0.5, 1])
        print(
            f"{rule:11}  nearest pair of ten classes over {keys} keys: lowest {low:.2f}, median {middle:.2f}, highest "
            f"{high:.2f}; classes that share the place of the 1: mean {np.mean(shares):.1f}, most {max(shares)}",
            flush=True,
        )
    for n in np.argsort(distances["independent"])[:shown]:
        for rule, make in makers.items():
            poison = CUDAPoison(kernels=dict(enumerate(make(candidates[n]))))
            scores = [victim(poison.apply(images, labels), labels, validation, seed)[1] for seed in (0, 1)]
            values = ", ".join(f"{score:.1f}" for score in scores)
            print(
                f"{candidates[n]!r} {rule:11}  nearest pair {distances[rule][n]:.2f}  validation accuracy "
                f"{statistics.mean(scores):.1f} % (training seeds 0, 1: {values})",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=["main", "weakest"], default="main")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[3] / "shared" / "data")
    arguments = parser.parse_args()
    disable_progress_bars()
    data = cifar(arguments.data)
    train_set = read(data["train"].select(range(ROWS)))
    if arguments.part == "main":
        main_table(train_set, read(data["test"]))
    else:
        weakest_table(train_set, read(data["train"].select(range(40_000, 50_000))))


if __name__ == "__main__":
    main()
