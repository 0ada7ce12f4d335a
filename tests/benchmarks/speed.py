"""Speed of CUDA as ratios of one run: `python tests/benchmarks/speed.py [--threads 2] [--photographs 400]`.

Prints four ratios, each the median over interleaved rounds with equal threads on both sides:

1. CUDAPoison.apply on 50,000 pictures of 32x32 / a bare pass uint8 -> float32 -> round -> uint8 in equal chunks;
2. a loop that convolves picture by picture / CUDAPoison.apply;
3. ds.map(poison, batched=True) on photographs / ds.map of an identity that decodes and encodes with the same codec
   settings, each with an empty cache;
4. seconds that `from unlearnable_transforms import Key, CUDAPoison` adds to `import torch, torchvision`.
"""

import argparse
import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from unlearnable_transforms import CUDAPoison, Key
from unlearnable_transforms.data.image import PNG_LEVEL
from unlearnable_transforms.pixels import chunk_length


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def ratio(name: str, slow: Callable[[], object], fast: Callable[[], object], rounds: int, scale: float = 1.0) -> None:
    """Print the median of slow/fast over rounds that alternate the two; ``scale`` corrects for unequal work."""
    times = [(seconds(slow), seconds(fast)) for _ in range(rounds + 1)][1:]  # the first round warms up
    ratios = sorted(scale * a / b for a, b in times)
    print(
        f"{name}: {statistics.median(ratios):.2f} (min {ratios[0]:.2f}, max {ratios[-1]:.2f}, {rounds} rounds)", end=""
    )
    print(f"   {statistics.median(a for a, _ in times):.3f} s / {statistics.median(b for _, b in times):.3f} s")


def small_images(rounds: int) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (50_000, 3, 32, 32), dtype=np.uint8)
    images = torch.from_numpy(pictures)
    labels = torch.arange(len(images)) % 10
    poison = CUDAPoison(key=Key.public("speed"))
    step = chunk_length(images[0].numel())

    def bare() -> None:
        result = torch.empty_like(images)
        for start in range(0, len(images), step):
            result[start : start + step] = images[start : start + step].float().round().to(torch.uint8)

    def bare_in_place() -> None:
        result = torch.empty_like(images)
        for start in range(0, len(images), step):
            result[start : start + step] = images[start : start + step].float().round_().to(torch.uint8)

    loop_rows = 5_000
    filters = torch.from_numpy(poison.kernels(range(10), 32))

    def loop() -> None:
        result = torch.empty_like(images[:loop_rows])
        for row in range(loop_rows):
            weights = filters[labels[row]][None, None].expand(3, 1, 3, 3)
            blurred = F.conv2d(images[row][None].float(), weights, padding=1, groups=3)
            result[row] = (blurred[0] * (255 / blurred.max())).round_().to(torch.uint8)

    def ours() -> None:
        poison.apply(images, labels)

    ratio("CUDA / bare pass", ours, bare, rounds)
    ratio("CUDA / bare pass with round_ in place", ours, bare_in_place, rounds)
    ratio("picture-by-picture loop / CUDA", loop, ours, max(3, rounds // 2), scale=len(images) / loop_rows)


def photographs(folder: Path, count: int, rounds: int) -> None:
    files = folder / "clothing" / "train-00000-of-00001.parquet"
    if not files.exists():
        print(f"ds.map: skipped, {files} is absent")
        return
    import datasets

    datasets.disable_progress_bars()
    poison = CUDAPoison(key=Key.public("speed"))

    def identity(batch: dict) -> dict:
        encoded = []
        for image in batch["image"]:
            buffer = io.BytesIO()
            Image.fromarray(np.asarray(image)).save(buffer, "PNG", compress_level=PNG_LEVEL)
            encoded.append({"bytes": buffer.getvalue(), "path": None})
        return {"image": encoded}

    with tempfile.TemporaryDirectory() as cache:
        data = datasets.load_dataset("parquet", data_files=str(files), split="train", cache_dir=cache)
        data = data.select(range(min(count, len(data))))
        options = {"batched": True, "batch_size": 100, "load_from_cache_file": False}
        ratio(
            f"ds.map(CUDA, batched=True) / ds.map(identity), {len(data)} photographs",
            lambda: data.map(poison, **options),
            lambda: data.map(identity, **options),
            rounds,
        )


def import_time(rounds: int) -> None:
    def run(code: str) -> float:
        code = f"import time; t = time.perf_counter(); {code}; print(time.perf_counter() - t)"
        return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    base = "import torch, torchvision"
    ours = f"{base}; from unlearnable_transforms import Key, CUDAPoison"
    times = [(run(base), run(ours)) for _ in range(rounds + 1)][1:]
    added = statistics.median(b for _, b in times) - statistics.median(a for a, _ in times)
    print(f"import: adds {added:.2f} s to torch and torchvision ({statistics.median(a for a, _ in times):.2f} s)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[3] / "shared" / "data")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--photographs", type=int, default=400, help="how many of the 1,593")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads")
    small_images(arguments.rounds)
    photographs(arguments.data, arguments.photographs, max(3, arguments.rounds // 2))
    import_time(arguments.rounds)


if __name__ == "__main__":
    main()
