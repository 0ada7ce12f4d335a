"""How fast the screen's victim trains: `python tests/benchmarks/training.py [--epochs 10] [--threads 1]`.

Trains the same network from the same weights, with the same batch size, epochs, schedule, crop and flip, twice: by a
loop that a competent engineer would write (a DataLoader over pictures in memory, torchvision's v2 transforms picture
by picture, float32, channels last) and by the library's. Both with the same number of threads, one after the other in
one process, `--rounds` times. Prints both accuracies on validation rows 40,000-49,999 and the ratios of processor time
and of the clock. On a busy machine the processor time is the one to look at.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from datasets import disable_progress_bars, load_dataset
from screen import ROWS, Set, read
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from unlearnable_transforms.training.loop import SCREEN, Recipe, train
from unlearnable_transforms.training.model import accuracy, native_bf16, store_statistics
from unlearnable_transforms.victims.registry import build_victim


class Memory(Dataset):
    """Pictures in memory, transformed one by one."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, transform: v2.Transform) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.transform(self.images[row]), self.labels[row]


def fresh(victim: str) -> torch.nn.Module:
    return build_victim(victim, 10, 32, 0)


def baseline(training: Set, recipe: Recipe, victim: str = "resnet9-screen", device: str = "cpu") -> torch.nn.Module:
    """The loop of a tutorial, written with care."""
    images, labels = training
    net = fresh(victim).to(device, memory_format=torch.channels_last)
    store_statistics(net, images.to(device))
    transform = v2.Compose(
        [
            v2.RandomCrop(32, padding=4),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(net.pixel_mean.tolist(), net.pixel_std.tolist()),
        ]
    )
    torch.manual_seed(0)
    loader = DataLoader(Memory(images, labels, transform), recipe.batch_size, shuffle=True)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=1.0, momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
    )
    steps = recipe.epochs * len(loader)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: recipe.learning_rate((step + 0.5) / steps))
    net.train()
    for _ in range(recipe.epochs):
        for pixels, target in loader:
            pixels, target = pixels.to(device), target.to(device)
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(net(pixels.contiguous(memory_format=torch.channels_last)), target).backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def ours(training: Set, recipe: Recipe, victim: str = "resnet9-screen", device: str = "cpu") -> torch.nn.Module:
    net = fresh(victim)
    train(net, *training, recipe=recipe, seed=0, device=device)
    return net


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=SCREEN.epochs)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=1, help="whole trainings of each; the fastest counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[3] / "shared" / "data")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    disable_progress_bars()
    files = {"train": str(arguments.data / "cifar10" / "train-00000-of-00001.parquet")}
    data = load_dataset("parquet", data_files=files, split="train")
    training, validation = read(data.select(range(arguments.rows))), read(data.select(range(40_000, 50_000)))
    recipe = replace(SCREEN, epochs=arguments.epochs)
    for way in (baseline, ours):  # compiles kernels and fills caches
        way((training[0][:256], training[1][:256]), replace(recipe, epochs=1))
    best: dict[str, tuple[float, float]] = {}
    for _ in range(arguments.rounds):
        for name, way in (("baseline", baseline), ("ours", ours)):
            start = time.process_time(), time.perf_counter()
            net = way(training, recipe)
            spent = time.process_time() - start[0], time.perf_counter() - start[1]
            best[name] = min(best.get(name, spent), spent)
            score = 100 * accuracy(net, *validation)
            print(f"{name:9} {score:5.1f} %   processor {spent[0]:6.1f} s   clock {spent[1]:6.1f} s", flush=True)
    precision = "bfloat16" if native_bf16("cpu") else "float32"
    processor, clock = (before / after for before, after in zip(best["baseline"], best["ours"], strict=True))
    print(
        f"{arguments.rows:,} rows, {arguments.epochs} epochs, {arguments.threads} thread(s), ours in {precision}: "
        f"{processor:.2f} times as fast by processor time, {clock:.2f} by the clock"
    )


if __name__ == "__main__":
    main()
