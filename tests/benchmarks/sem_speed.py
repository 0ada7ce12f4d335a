"""How fast SEM is fitted: `python tests/benchmarks/sem_speed.py [--steps 20] [--rows 512] [--threads 2]`.

Fits the same surrogate from the same weights, with the same steps, batch size, EOT samples and attack steps, twice: by
a loop that an engineer would write from the paper (float32, channels first, each picture of each EOT sample cropped and
flipped on its own, as public code does) and by the library's. Both with the same number of threads, one after the
other in one process, `--rounds` times; the fastest counts. The clock of the library's includes what the baseline does
not do: ids, deltas, reports, the cache. Prints both surrogates' accuracies on their noise, and the ratios; on a busy
machine the processor time is the one to look at.
"""

import argparse
import os
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from datasets import disable_progress_bars, load_dataset
from torch import Tensor

from unlearnable_transforms import Key, SEMPoison
from unlearnable_transforms.poisons.optimised import Settings
from unlearnable_transforms.training.model import native_bf16, store_statistics
from unlearnable_transforms.victims.registry import build_victim

EPS, PADDING = 8 / 255, 4


def transform_each(images: Tensor) -> Tensor:
    """Crop after zero padding and flip, picture by picture; differentiable."""
    changed = []
    for image in F.pad(images, (PADDING,) * 4):
        top, left = torch.randint(2 * PADDING + 1, (2,)).tolist()
        image = image[:, top : top + images.shape[2], left : left + images.shape[3]]
        changed.append(image.flip(2) if torch.rand(()) < 0.5 else image)
    return torch.stack(changed)


def baseline(images: np.ndarray, labels: np.ndarray, settings: Settings) -> float:
    """Two nested loops, as the paper has them; returns the surrogate's accuracy on the pictures with noise."""
    torch.manual_seed(0)
    pixels, targets = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)
    net = build_victim(settings.surrogate, 10, 32, 0)
    store_statistics(net, pixels)
    mean, std = net.pixel_mean.view(1, 3, 1, 1), net.pixel_std.view(1, 3, 1, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=settings.rate, momentum=0.9, weight_decay=5e-4)

    def loss_of(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(net((z - mean) / std), y)

    def noise_of(x: Tensor, y: Tensor, noise_steps: int, samples: int, radius: float) -> Tensor:
        net.eval()
        delta = torch.empty_like(x).uniform_(-EPS, EPS)
        for _ in range(noise_steps):
            gradient = torch.zeros_like(delta)
            for _ in range(samples):
                delta.requires_grad_()
                z = transform_each((x + delta).clamp(0, 1))
                z = (z + torch.empty_like(z).uniform_(-radius, radius)).clamp(0, 1)
                gradient += torch.autograd.grad(loss_of(z, y), delta)[0]
                delta = delta.detach()
            delta = (delta - 2 * EPS / noise_steps * gradient.sign()).clamp(-EPS, EPS)
        return delta

    def attacked(z: Tensor, y: Tensor, radius: float) -> Tensor:
        net.eval()
        away = torch.empty_like(z).uniform_(-radius, radius)
        for _ in range(settings.attack_steps):
            away.requires_grad_()
            (gradient,) = torch.autograd.grad(loss_of((z + away).clamp(0, 1), y), away)
            away = (away.detach() + 2 * radius / settings.attack_steps * gradient.sign()).clamp(-radius, radius)
        return (z + away).clamp(0, 1)

    size, order = settings.batch_size, torch.randperm(len(pixels))
    for step in range(settings.steps):
        progress = step / settings.steps
        radius = settings.at(progress).radius
        rising = min(1.0, progress / settings.warmup) if settings.warmup else 1.0
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * rising * 0.1 ** sum(progress >= cut for cut in settings.cuts)
        start = step * size % len(pixels)
        rows = order[start : start + size]
        x, y = pixels[rows].float() / 255, targets[rows]
        delta = noise_of(x, y, settings.noise_steps, settings.samples, radius)
        z = attacked(transform_each((x + delta).clamp(0, 1)), y, radius)
        net.train()
        optimizer.zero_grad()
        loss_of(z, y).backward()
        optimizer.step()

    kept = settings.final
    right = 0
    for start in range(0, len(pixels), size):
        x, y = pixels[start : start + size].float() / 255, targets[start : start + size]
        delta = (255 * noise_of(x, y, kept.noise_steps, kept.samples, kept.radius)).round() / 255
        with torch.no_grad():
            right += int((net(((x + delta).clamp(0, 1) - mean) / std).argmax(1) == y).sum())
    return right / len(pixels)


def ours(images: np.ndarray, labels: np.ndarray, arguments: dict) -> float:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.environ["UNLEARNABLE_TRANSFORMS_CACHE"] = folder
        poison = SEMPoison(key=Key.public("screen-0"), **arguments)
        return poison.fit((images, labels)).report["surrogate_accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[3] / "shared" / "data")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    disable_progress_bars()
    files = {"train": str(given.data / "cifar10" / "train-00000-of-00001.parquet")}
    rows = load_dataset("parquet", data_files=files, split="train").select(range(given.rows)).with_format("numpy")
    images, labels = np.stack(list(rows["image"])), np.asarray(rows["label"])

    surrogate = {"surrogate": "resnet9-screen", "steps": given.steps}
    for preset in ("cpu", "paper"):
        arguments = {"preset": preset, **surrogate}
        settings = SEMPoison(key=Key.public("screen-0"), **arguments).settings_for(32)
        spent: dict[str, tuple[float, float]] = {}
        scores: dict[str, float] = {}
        for _ in range(given.rounds):
            for name in ("baseline", "ours"):
                start = time.process_time(), time.perf_counter()
                scores[name] = (
                    baseline(images, labels, settings) if name == "baseline" else ours(images, labels, arguments)
                )
                now = time.process_time() - start[0], time.perf_counter() - start[1]
                spent[name] = min(spent.get(name, now), now)
        processor, clock = (before / after for before, after in zip(spent["baseline"], spent["ours"], strict=True))
        print(
            f"{preset}: K = {settings.noise_steps}, S = {settings.samples}, A = {settings.attack_steps}; {given.steps} "
            f"steps and the noise of {given.rows} pictures, {given.threads} threads, ours in "
            f"{'bfloat16' if native_bf16('cpu') else 'float32'}: baseline {spent['baseline'][1]:.1f} s "
            f"({scores['baseline']:.2f} right), ours {spent['ours'][1]:.1f} s ({scores['ours']:.2f}): "
            f"{processor:.2f} times as fast by processor time, {clock:.2f} by the clock",
            flush=True,
        )


if __name__ == "__main__":
    main()
