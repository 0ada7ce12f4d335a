"""How cost grows: `python tests/benchmarks/scale.py rows|sides|workers [--data ../shared/data]`.

- `rows`: 1,000 to 1,000,000 pictures of 32x32 through `ut.protect` with CUDA, from a data set on the disk, each number
  of rows in a process of its own: seconds of processor and of the clock; the same divided by those of a `Dataset.map`
  that decodes and encodes alike; and the largest memory. The pictures are CIFAR-10's training set, repeated, with the
  row's number written into two pixels. Takes 9 GB of disk for a million rows.
- `sides`: `apply` of methods that need no network on pictures of 32 to 1,024 pixels, equally many values each time,
  divided by a bare pass uint8 -> float32 -> round -> uint8; medians of rounds that alternate the two.
- `workers`: `ut.protect(num_proc=...)` on 50,000 rows, against one process; the same for `Dataset.map` alone.

Memory is what the process owns (`RssAnon`, sampled; Linux alone tells), and in brackets its largest resident set, which
counts the pages of mapped files too: those the system takes back when somebody else needs them.
"""

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from screen import cifar
from speed import seconds

import unlearnable_transforms as ut
from unlearnable_transforms.data.image import PNG_LEVEL
from unlearnable_transforms.jobs.workers import cores
from unlearnable_transforms.pixels import chunk_length

ROWS = (1_000, 10_000, 50_000, 100_000, 1_000_000)
SIDES = (32, 64, 128, 256, 512, 1024)
VALUES = 3 * 1024 * 1024 * 16  # of each batch of `sides`: 16 pictures of 1,024 pixels
SAMPLED = 0.02  # seconds
BATCH = 256  # rows, as in protect
WRITTEN = 1000  # rows, as `datasets` writes
SOURCE = "source.arrow"
KEY = ut.Key.public("scale")


def encoded(image: np.ndarray) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=PNG_LEVEL)
    return {"bytes": buffer.getvalue(), "path": None}


def identity(batch: dict) -> dict:
    """The bare pass: decoded and encoded, with an equal codec."""
    return {"image": [encoded(np.asarray(image)) for image in batch["image"]]}


def make(file: Path, data: Path, count: int) -> None:
    """A data set of ``count`` different pictures on the disk, as `datasets` keeps it."""
    source = cifar(data)["train"]
    images, labels = np.stack([np.asarray(image) for image in source["image"]]), source["label"]
    schema = source.features.arrow_schema
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for start in range(0, count, WRITTEN):
            rows = []
            for row in range(start, min(start + WRITTEN, count)):
                image = images[row % len(images)].copy()
                image[0, :2] = np.frombuffer(row.to_bytes(6, "little"), np.uint8).reshape(2, 3)
                rows.append({"image": encoded(image), "label": labels[row % len(images)]})
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))


class Memory:
    """The most that this process owned meanwhile, in MiB."""

    def __enter__(self) -> "Memory":
        self.most, self.stop = 0.0, threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.stop.wait(SAMPLED):
            self.most = max(self.most, status("RssAnon"))


def status(name: str) -> float:
    """A figure that Linux keeps of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def work(kind: str, source: str, count: int, processes: int) -> None:
    """One number of rows, in this process alone: prints JSON."""
    datasets.disable_progress_bars()
    datasets.disable_caching()
    torch.set_num_threads(1)
    data = datasets.Dataset.from_file(source).select(range(count))
    options = {} if processes == 1 else {"num_proc": processes}
    usage = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    with Memory() as memory:
        if kind == "protect":
            result = ut.protect(data, ut.CUDAPoison(key=KEY), **options)
        else:
            result = data.map(identity, batched=True, batch_size=BATCH, **options)
    clock = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert len(result) == count
    print(
        json.dumps(
            {
                "processor": after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime,
                "clock": clock,
                "own": memory.most,
                "resident": status("VmHWM"),
            }
        )
    )


def measured(kind: str, folder: Path, count: int, processes: int = 1) -> dict[str, float]:
    code = f"from scale import work; work({kind!r}, {str(folder / SOURCE)!r}, {count}, {processes})"
    paths = [str(Path(__file__).parent), *sys.path]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "UNLEARNABLE_TRANSFORMS_CACHE": str(folder / "cache"),
        "TMPDIR": str(folder),
    }
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def rows(folder: Path, counts: list[int]) -> None:
    print("rows through ut.protect: processor s (ratio to a map that decodes and encodes), clock s (ratio), memory MiB")
    for count in counts:
        ours, bare = measured("protect", folder, count), measured("map", folder, count)
        print(
            f"{count:9,}: {ours['processor']:7.1f} ({ours['processor'] / bare['processor']:.2f}), "
            f"{ours['clock']:7.1f} ({ours['clock'] / bare['clock']:.2f}), {ours['own']:.0f} ({ours['resident']:.0f}); "
            f"the map alone {bare['own']:.0f} ({bare['resident']:.0f})",
            flush=True,
        )


def workers(folder: Path, count: int, rounds: int) -> None:
    print(f"times as fast as one process, {count:,} rows, median of {rounds} rounds (machine with {cores()} cores):")
    numbers = [number for number in (2, 4, 8, 16) if number <= cores()]
    for kind in ("protect", "map"):
        clocks = [
            {number: measured(kind, folder, count, number)["clock"] for number in [1, *numbers]} for _ in range(rounds)
        ]
        for number in numbers:
            ratio = statistics.median(clock[1] / clock[number] for clock in clocks)
            print(f"  {kind:8} {number} processes: {ratio:.2f}", flush=True)


def sides(rounds: int) -> None:
    methods: dict[str, Callable[[], ut.Poison]] = {
        "cuda": lambda: ut.CUDAPoison(key=KEY),
        "lsp": lambda: ut.LSPPoison(key=KEY, classes=list(range(10))),
        "ar": lambda: ut.ARPoison(key=KEY, classes=list(range(10))),
        "ops": lambda: ut.OPSPoison(key=KEY),
    }
    print(f"apply / a bare pass, square pictures, {VALUES / 1e6:.0f} million values, median of {rounds} rounds:")
    for side in SIDES:
        count = VALUES // (3 * side * side)
        images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.manual_seed(0))
        labels, step = torch.arange(count) % 10, chunk_length(images[0].numel())

        def bare(images: torch.Tensor = images, step: int = step) -> None:
            result = torch.empty_like(images)
            for start in range(0, len(images), step):
                result[start : start + step] = images[start : start + step].float().round_().to(torch.uint8)

        line = []
        for name, method in methods.items():
            poison = method()
            if not poison.fitted:
                poison.fit((images, labels))

            def ours(poison: ut.Poison = poison, images: torch.Tensor = images, labels: torch.Tensor = labels) -> None:
                poison.apply(images, labels)

            ours()
            ratio = statistics.median(seconds(ours) / seconds(bare) for _ in range(rounds))
            line.append(f"{name} {ratio:6.1f}")
        print(f"  {side:5} px, {count:6,} pictures: {', '.join(line)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("rows", "sides", "workers"))
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS), help="of `rows`")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[3] / "shared" / "data")
    parser.add_argument("--scratch", type=Path, help="folder on a disk with room; default: that of temporary files")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread")
    if arguments.part == "sides":
        return sides(arguments.rounds)
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        make(Path(scratch, SOURCE), arguments.data, max(arguments.rows) if arguments.part == "rows" else 50_000)
        if arguments.part == "rows":
            return rows(Path(scratch), arguments.rows)
        return workers(Path(scratch), 50_000, arguments.rounds)


if __name__ == "__main__":
    main()
