"""Pictures as large as a camera's: `python tests/benchmarks/camera.py PART`, one of `unlock`, `evaluate`, `formats`.

- `unlock`: processor time of undoing a photograph / of protecting it, the least of three each, and how near the result
  is, for halos (the default) and for the paper's filters. Photographs of `--megapixels`, enlarged from one of the
  clothing set; the last figure is the largest memory of a process that does nothing else.
- `evaluate`: the largest memory of `unlearnable evaluate` on folders of `--pictures` JPEG files of 3.4 megapixels each,
  for training and for the test, victims at 32 pixels, one short training each.
- `formats`: seconds and bytes of PNG at zlib's levels and of lossless WebP, on the first 60 photographs of the clothing
  test set, as they are protected by CUDA.
"""

import argparse
import io
import os
import resource
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
from unlearnable_transforms.pixels import psnr
from unlearnable_transforms.poisons.undo import unlock_arrays

PHOTOGRAPHS = Path(__file__).parents[3] / "shared" / "data" / "clothing" / "test-00000-of-00001.parquet"
KEY = Key.public("camera benchmark")
CLASS = "i:3"
POISONS = {
    "halo": CUDAPoison(key=KEY),
    "halo, strong": CUDAPoison(key=KEY, strength="strong"),
    "k = 3": CUDAPoison(key=KEY, kernel_size=3),
    "k = 9": CUDAPoison(key=KEY, kernel_size=9),
}
SIDES = 2125, 1600  # 3.4 megapixels


def photographs(parquet: Path, count: int) -> list[Image.Image]:
    rows = pq.read_table(parquet, columns=["image"]).slice(0, count)["image"].to_pylist()
    return [Image.open(io.BytesIO(row["bytes"])).convert("RGB") for row in rows]


def enlarged(photograph: Image.Image, width: int, height: int, seed: int) -> Image.Image:
    """With a little noise, so that it is no smoother than a photograph."""
    pixels = np.asarray(photograph.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    pixels += np.random.default_rng(seed).integers(-3, 4, pixels.shape, dtype=np.int16)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def least(work: Callable[[], object], rounds: int) -> float:
    """Seconds of processor time."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def in_new_process(call: str) -> None:
    """Run a function of this file in a new process, whose largest memory is measured."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    subprocess.run([sys.executable, "-c", f"import camera; camera.{call}"], env=environment, check=True)


def unlock(parquet: str, name: str, megapixels: float, rounds: int) -> None:
    torch.set_num_threads(1)
    height = round((megapixels * 1e6 * 2 / 3) ** 0.5)
    (photograph,) = photographs(Path(parquet), 1)
    clean = np.asarray(enlarged(photograph, round(height * 1.5), height, 0))
    poison = POISONS[name]
    (protected,) = poison.protect_arrays([clean], [CLASS])
    there = least(lambda: poison.protect_arrays([clean], [CLASS]), rounds)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    notes = [poison.unlock_note(clean, protected, CLASS)]
    undone: list[np.ndarray] = []

    def undo() -> None:
        undone[:] = unlock_arrays(poison, [protected], [CLASS], [None], notes)[0]

    back = least(undo, rounds)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{name}, {megapixels:g} megapixels: {there:.2f} s and {back:.2f} s, {back / there:.1f} times; PSNR "
        f"{psnr(clean, undone[0]):.2f} dB; largest memory {before:.0f} MiB, undoing it {after:.0f} MiB",
        flush=True,
    )


def evaluate(parquet: Path, pictures: list[int]) -> None:
    code = "import sys; from unlearnable_transforms.cli.main import main; sys.exit(main())"
    source = photographs(parquet, 20)
    for count in pictures:
        with tempfile.TemporaryDirectory() as scratch:
            for name in ("train", "test"):
                for number in range(count):
                    folder = Path(scratch, name, f"class {number % 2}")
                    folder.mkdir(parents=True, exist_ok=True)
                    picture = enlarged(source[number % len(source)], *SIDES, seed=number)
                    picture.save(folder / f"{number:04d}.jpg", quality=90)
            key = Path(scratch, "my.key")
            Key.generate().save(key)
            command = [sys.executable, "-c", code, "evaluate", f"{scratch}/out", "--clean", f"{scratch}/train"]
            command += ["--test", f"{scratch}/test", "--key", str(key), "--recipe", "digits", "--defense", "erm"]
            command += ["--image-size", "32", "--no-controls", "--workers", "1", "--samples", "2"]
            pid = os.posix_spawn(sys.executable, command, os.environ)
            _, status, usage = os.wait4(pid, 0)
            assert status == 0, "the command failed"
            print(
                f"{count} pictures of {SIDES[0] * SIDES[1] / 1e6:.1f} megapixels: largest memory "
                f"{usage.ru_maxrss / 1024:,.0f} MiB, {usage.ru_utime + usage.ru_stime:.0f} s of the processor",
                flush=True,
            )


def formats(parquet: Path, count: int) -> None:
    images = photographs(parquet, count)
    poison = CUDAPoison(key=KEY)
    images = [Image.fromarray(poison.protect_arrays([np.asarray(image)], [CLASS])[0]) for image in images]
    megapixels = sum(image.width * image.height for image in images) / 1e6
    kinds = {f"PNG, level {level}": ("PNG", {"compress_level": level}) for level in (0, 1, 2, 3, 4, 6, 9)}
    kinds |= {
        f"WebP, method {method}": ("WEBP", {"lossless": True, "exact": True, "method": method}) for method in (0, 1, 4)
    }
    print(f"{len(images)} photographs, {megapixels:.1f} megapixels\n\n| format | seconds a megapixel | bytes a pixel |")
    print("| --- | --- | --- |")
    for name, (format, options) in kinds.items():
        start, size = time.process_time(), 0
        for image in images:
            buffer = io.BytesIO()
            image.save(buffer, format, **options)
            size += len(buffer.getvalue())
        print(
            f"| {name} | {(time.process_time() - start) / megapixels:.3f} | {size / megapixels / 1e6:.2f} |", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["unlock", "evaluate", "formats"])
    parser.add_argument("--parquet", type=Path, default=PHOTOGRAPHS)
    parser.add_argument("--megapixels", type=float, nargs="*", default=[0.5, 6])
    parser.add_argument("--methods", nargs="*", default=list(POISONS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, nargs="*", default=[20, 60])
    parser.add_argument("--photographs", type=int, default=60)
    arguments = parser.parse_args()
    if arguments.part == "unlock":
        for name in arguments.methods:
            for size in arguments.megapixels:
                in_new_process(f"unlock({str(arguments.parquet)!r}, {name!r}, {size}, {arguments.rounds})")
    elif arguments.part == "evaluate":
        evaluate(arguments.parquet, arguments.pictures)
    else:
        formats(arguments.parquet, arguments.photographs)


if __name__ == "__main__":
    main()
