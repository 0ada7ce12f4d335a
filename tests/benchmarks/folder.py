"""`unlearnable protect` on folders: `python tests/benchmarks/folder.py [--photographs 200] [--files 1000 10000]`.

Prints, each with equal codec settings on both sides:

1. protecting photographs with one worker of one thread / a bare loop that reads, decodes, encodes and writes the same
   photographs: the median over interleaved rounds, of processor time and of the clock;
2. the clock of one worker / of two workers on the same photographs, without the start of the processes, which is
   printed apart; meaningful on a machine that does nothing else;
3. the largest memory of the main process and of its largest worker, for each number of small files;
4. with --jpeg: the share of a change that JPEG leaves, <jpeg(changed) - jpeg(clean), changed - clean> / |changed -
   clean|^2, mean over photographs, for CUDA and for noise of +-8 at every pixel;
5. with --sizes: bytes of the protected files / bytes of the JPEG files that they were made of, by format, and how near
   `unlearnable unlock` comes to the clean photographs.

The photographs are those of a Parquet file with JPEG bytes in a column image.
"""

import argparse
import io
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from unlearnable_transforms import CUDAPoison, Key
from unlearnable_transforms.data.codec import Codec
from unlearnable_transforms.data.image import PNG_LEVEL
from unlearnable_transforms.jobs.workers import run_tasks
from unlearnable_transforms.protection.protect import protect_source
from unlearnable_transforms.protection.unlock_source import unlock_source

PHOTOGRAPHS = Path(__file__).parents[3] / "shared" / "data" / "clothing" / "train-00000-of-00001.parquet"
KEY = Key.public("folder benchmark")
SIDE = 48
QUALITIES = (95, 92, 85, 75)


def bare(source: Path, out: Path) -> None:
    """What any program must do that reads and writes the same files."""
    for path in sorted(source.rglob("*.jpg")):
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            pixels = np.asarray(image.convert("RGB"))
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=PNG_LEVEL)
        target = out / path.relative_to(source).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(buffer.getvalue())


def timed(work: Callable[[Path], object]) -> tuple[float, float]:
    """Seconds of processor and of the clock; the output folder is new each time."""
    with tempfile.TemporaryDirectory() as scratch:
        start = time.process_time(), time.perf_counter()
        work(Path(scratch) / "out")
        return time.process_time() - start[0], time.perf_counter() - start[1]


def throughput(source: Path, rounds: int) -> None:
    poison = CUDAPoison(key=KEY)
    ratios = []
    for _ in range(rounds + 1):
        ours, theirs = timed(lambda out: protect_source(source, out, poison)), timed(lambda out: bare(source, out))
        ratios.append((ours[0] / theirs[0], ours[1] / theirs[1]))
    for name, column in zip(("processor time", "clock"), zip(*ratios[1:], strict=True), strict=True):
        print(
            f"1. one worker / bare decode + encode, {name}: {statistics.median(column):.2f} "
            f"(min {min(column):.2f}, max {max(column):.2f}, {rounds} rounds)",
            flush=True,
        )


def _ready(_: int) -> int:
    return os.getpid()


def scaling(source: Path, rounds: int) -> None:
    poison = CUDAPoison(key=KEY)
    starts, ratios = [], []
    for _ in range(rounds):
        start = timed(lambda _: list(run_tasks(_ready, range(4), 2)))[1]
        two = timed(lambda out: protect_source(source, out, poison, workers=2))[1]
        one = timed(lambda out: protect_source(source, out, poison))[1]
        starts.append(start)
        ratios.append((one / (two - start), one / two))
    columns = list(zip(*ratios, strict=True))
    print(
        f"2. two workers against one: {statistics.median(columns[0]):.2f} times as fast once started "
        f"(min {min(columns[0]):.2f}, max {max(columns[0]):.2f}, {rounds} rounds), {statistics.median(columns[1]):.2f} "
        f"with the start, which takes {statistics.median(starts):.1f} s; load of the machine {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def jpeg(photographs: list[Image.Image]) -> None:
    poison = CUDAPoison(key=KEY)
    generator = np.random.default_rng(0)
    kept: dict[tuple[str, int], list[float]] = {}
    for number, photograph in enumerate(photographs):
        clean = np.asarray(photograph.convert("RGB"))
        noise = generator.choice([-8, 8], clean.shape)
        changes = {
            "CUDA": poison.protect_arrays([clean], [f"i:{number % 10}"])[0],
            "noise of +-8": np.clip(clean + noise, 0, 255).astype(np.uint8),
        }
        for name, changed in changes.items():
            change = changed.astype(float) - clean
            for quality in QUALITIES:
                before, after = (through_jpeg(image, quality) for image in (clean, changed))
                kept.setdefault((name, quality), []).append(
                    float(((after - before) * change).sum() / (change**2).sum())
                )
    for (name, quality), shares in kept.items():
        print(f"4. JPEG {quality} leaves {np.mean(shares):.0%} of {name} ({len(shares)} photographs)", flush=True)


def through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """A picture as others decode it, float64."""
    data = Codec("jpeg", quality).encode(Image.fromarray(image))
    return np.asarray(Image.open(io.BytesIO(data))).astype(float)


def sizes(source: Path, scratch: Path) -> None:
    kinds = {
        "png": (Codec("png"), None),
        "webp": (Codec("webp"), None),
        "auto, which is JPEG 92": (Codec("auto"), None),
        "auto, at most 320 px": (Codec("auto"), 320),
    }
    for name, (codec, max_side) in kinds.items():
        out, poison = scratch / name, CUDAPoison(key=KEY)
        summary = protect_source(source, out, poison, codec=codec, max_side=max_side)
        *_, near = unlock_source(out, scratch / f"{name} undone", poison, clean=source)
        times = summary.bytes_out / summary.bytes_in
        print(f"5. {name}: {times:.1f} times the bytes; undone and {near}", flush=True)


def memory(files: int) -> None:
    """Protect ``files`` small pictures in a process of its own, with two workers, and print the largest memory."""
    code = f"from folder import peak; peak({files})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def peak(files: int) -> None:
    """The body of :func:`memory`."""
    generator = np.random.default_rng(0)
    base = generator.integers(0, 256, (8, SIDE, SIDE, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["UNLEARNABLE_TRANSFORMS_CACHE"] = f"{scratch}/cache"
        for number in range(files):
            folder = Path(scratch, "source", f"class {number % 10}")
            folder.mkdir(parents=True, exist_ok=True)
            pixels = base[number % 8].copy()
            pixels[0, :2] = np.frombuffer(number.to_bytes(6, "little"), np.uint8).reshape(2, 3)
            Image.fromarray(pixels).save(folder / f"picture {number:07d}.png", compress_level=1)
        start = time.perf_counter()
        summary = protect_source(Path(scratch, "source"), Path(scratch, "out"), CUDAPoison(key=KEY), workers=2)
        seconds = time.perf_counter() - start
        assert sum(summary.counts.values()) == files
        main, worker = (
            resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        print(
            f"3. {files:,} files: main process {main:.0f} MiB, largest worker {worker:.0f} MiB, {seconds:.0f} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, default=200)
    parser.add_argument("--parquet", type=Path, default=PHOTOGRAPHS)
    parser.add_argument("--files", type=int, nargs="*", default=[1000, 10_000], help="up to 100,000")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jpeg", action="store_true", help="only the effect of JPEG")
    parser.add_argument("--sizes", action="store_true", help="only the sizes of files")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    if arguments.photographs:
        table = pq.read_table(arguments.parquet, columns=["image"]).slice(0, arguments.photographs)
        rows = table["image"].to_pylist()
    if arguments.jpeg:
        jpeg([Image.open(io.BytesIO(row["bytes"])) for row in rows])
        return
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["UNLEARNABLE_TRANSFORMS_CACHE"] = f"{scratch}/cache"
        if rows:
            source = Path(scratch, "source")
            for number, row in enumerate(rows):
                folder = source / f"class {number % 10}"
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{number:05d}.jpg").write_bytes(row["bytes"])
            if arguments.sizes:
                sizes(source, Path(scratch))
                return
            throughput(source, arguments.rounds)
            scaling(source, arguments.rounds)
    for files in arguments.files:
        memory(files)


if __name__ == "__main__":
    main()
