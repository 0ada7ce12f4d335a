"""What is left of CUDA on photographs that are shrunk: `python tests/benchmarks/photographs.py PART [--jobs 2]`.

Parts, in the order in which they were used:

    choose    validation: 400 rows held out of the training set; sum of the halo's entries and their distance
    strengths validation: the strengths, and one halo for all classes
    test      the test set: three keys at 96 px, protected and shrunk, protected and saved as JPEG 75 and shrunk
    picture   docs/images/photographs.png and photographs-difference.png, nothing is trained
    write     brings the figures of the strengths into the package, for what `protect` and `preview` say; nothing is
              trained

The victim is the screen's ResNet-9, 40 epochs, batch 64, crop and flip; accuracy after the last epoch on photographs
that nobody changed. Shrinking: shorter side with bicubic antialiasing, middle square. Every run is appended to
docs/results/photographs.jsonl and not made again.
"""

import argparse
import io
import json
import multiprocessing
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import load_dataset
from PIL import Image, ImageOps

from unlearnable_transforms import CUDAPoison, Key
from unlearnable_transforms.evaluation.worth import PHOTOGRAPHS
from unlearnable_transforms.pixels import gain_fitted_psnr, psnr, ssim
from unlearnable_transforms.poisons.convolution import HALO_GRID
from unlearnable_transforms.poisons.cuda import Shape
from unlearnable_transforms.training.loop import Recipe, train
from unlearnable_transforms.training.model import accuracy
from unlearnable_transforms.victims.registry import build_victim

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "clothing"
RESULTS = ROOT / "docs" / "results" / "photographs.jsonl"
IMAGES = ROOT / "docs" / "images"
RECIPE = Recipe(epochs=40, batch_size=64, max_lr=0.1)
HELD_OUT = 400
KEYS = ("clothing-0", "clothing-1", "clothing-2")


class Trial(CUDAPoison):
    """A halo of any sum, whose entries lie side / reach pixels apart."""

    def __init__(self, key: Key, total: float, reach: int) -> None:
        super().__init__(key=key)
        self.total, self.reach = total, reach

    def _shape(self, side: int) -> Shape:
        return Shape(3, self.total, max(2, round(side / self.reach)), ("halo",))


class Dense(Trial):
    """A halo of all eight entries of the filter that small pictures get."""

    def _make_filter(self, token: str, shape: Shape) -> np.ndarray:
        weights, peak = self._draw(token, shape.size, "")
        weights = weights.copy()
        weights.flat[peak] = 0
        weights = np.rint(weights * (shape.mass * HALO_GRID / weights.sum())) / HALO_GRID
        weights.flat[peak] = 1
        return weights.astype(np.float32)


def make(method: dict[str, Any], key: str) -> CUDAPoison | None:
    if not method:
        return None
    if "reach" not in method:
        return CUDAPoison(
            key=Key.public(key), **{name: value for name, value in method.items() if name != "one for all"}
        )
    kind = Dense if method.get("entries") == 8 else Trial
    return kind(Key.public(key), method["total"], method["reach"])


@cache
def photographs(split: str) -> tuple[list[np.ndarray], np.ndarray]:
    data = load_dataset("parquet", data_files=str(DATA / f"{split}-*.parquet"), split="train")
    return [np.asarray(ImageOps.exif_transpose(row).convert("RGB")) for row in data["image"]], np.array(data["label"])


def shrunk(image: np.ndarray, side: int) -> np.ndarray:
    height, width = image.shape[:2]
    scale = side / min(height, width)
    size = max(side, round(width * scale)), max(side, round(height * scale))
    small = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return np.asarray(small.crop((left, top, left + side, top + side)))


def as_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def stack(images: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Protect, wash, shrink, train, test."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    images, labels = photographs("train")
    order = np.random.default_rng(0).permutation(len(labels))
    if task["on"] == "validation":
        rows, held = np.sort(order[HELD_OUT:]), np.sort(order[:HELD_OUT])
        test_images, test_labels = [images[row] for row in held], labels[held]
    else:
        rows = np.arange(len(labels))
        test_images, test_labels = photographs("test")
    chosen, side = [images[row] for row in rows], task["side"]
    poison = make(task["method"], task["key"])
    first, last = (chosen, labels[rows]), (test_images, test_labels)
    native = task.get("native", False)  # filters drawn for the small picture itself
    protected = chosen
    if poison is not None:
        if native:
            first, last = (([shrunk(image, side) for image in some], marks) for some, marks in (first, last))
        one = task["method"].get("one for all", False)  # the control: class 0's filter on every class
        protected, own = (
            [poison(image, 0 if one else label)[0] for image, label in zip(*some, strict=True)]
            for some in (first, last)
        )
    washed = protected if task["jpeg"] is None else [as_jpeg(image, task["jpeg"]) for image in protected]
    train_set = stack([shrunk(image, side) for image in washed]), torch.from_numpy(labels[rows])
    targets = torch.from_numpy(test_labels)
    test_set = stack([shrunk(image, side) for image in test_images]), targets
    net = build_victim("resnet9-screen", 10, side, task["seed"])
    history = train(net, *train_set, recipe=RECIPE, seed=task["seed"], test=test_set)
    result = {
        **task,
        "accuracy": round(100 * history.last, 1),
        "last 5": round(100 * history.last5, 1),
        "best": round(100 * history.best, 1),
        "training accuracy": round(100 * history.train_accuracy[-1], 1),
    }
    if poison is not None:
        result["own filters"] = round(100 * accuracy(net, stack([shrunk(i, side) for i in own]), targets), 1)
        pairs = list(zip(first[0][:100], protected[:100], strict=True))
        for name, measure in (("PSNR", psnr), ("gain-fitted PSNR", gain_fitted_psnr), ("SSIM", ssim)):
            result[name] = round(float(np.mean([measure(a, b) for a, b in pairs])), 3)
    result["seconds"] = round(time.perf_counter() - started)
    return result


def task(method: dict[str, Any], *, side: int, on: str = "validation", key: str = KEYS[0], jpeg: int | None = None,
         seed: int = 0, native: bool = False) -> dict[str, Any]:  # fmt: skip
    made = {"on": on, "method": method, "key": key if method else None, "side": side, "jpeg": jpeg, "seed": seed}
    return {**made, "native": True} if native else made


PAPER = {"kernel_size": 9, "blur": 0.06}
SMALL = {"kernel_size": 3, "blur": 0.3}
STRENGTHS = ("subtle", "normal", "strong")


def tasks(part: str) -> list[dict[str, Any]]:
    if part == "choose":
        halos = [{"total": total, "reach": reach} for reach in (64, 48, 40, 32) for total in (0.5, 1.0)]
        halos += [{"total": 2.0, "reach": 48}, {"total": 1.2, "reach": 64, "entries": 8}]
        plain = [task({}, side=64), task(PAPER, side=64), task(SMALL, side=64, native=True)]
        return plain + [task(halo, side=64) for halo in halos]
    if part == "strengths":
        control = {"strength": "normal", "one for all": True}
        return [task(method, side=64) for method in ({}, control, *({"strength": name} for name in STRENGTHS))]
    made = [task({}, side=96, on="test")]
    for key in KEYS:
        made += [task({"strength": "normal"}, side=96, on="test", key=key, jpeg=jpeg) for jpeg in (None, 75)]
    return made


def known() -> dict[str, dict[str, Any]]:
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    results = [json.loads(line) for line in lines]
    return {identity(result): result for result in results}


def identity(result: dict[str, Any]) -> str:
    names = ("on", "method", "key", "side", "jpeg", "seed", "native")
    return json.dumps({name: result.get(name) for name in names}, sort_keys=True)


def show(result: dict[str, Any]) -> str:
    method = "clean" if not result["method"] else ", ".join(f"{k}={v}" for k, v in result["method"].items())
    washed = "" if result["jpeg"] is None else f" JPEG {result['jpeg']}"
    quality = "" if not result["method"] else (
        f"  own filters {result['own filters']:5.1f} %  PSNR {result['PSNR']:.1f} dB, gain-fitted "
        f"{result['gain-fitted PSNR']:.1f} dB, SSIM {result['SSIM']:.3f}"
    )  # fmt: skip
    return (
        f"{result['on']:10} {result['side']:4} px {method:32} {result['key'] or '':11}"
        f"{' native' if result.get('native') else ''}{washed:8}  {result['accuracy']:5.1f} %{quality}"
    )


def picture() -> None:
    images, labels = photographs("train")
    rows, differences = [], []
    for row in (3, 500, 900, 1200, 300):
        image = images[row]
        changed = [CUDAPoison(key=Key.public(KEYS[0]), strength=s)(image, labels[row])[0] for s in STRENGTHS]
        rows.append(np.concatenate([shrunk(each, 300) for each in (image, *changed)], axis=1))
        four = [np.clip(128 + 4 * (each.astype(int) - image), 0, 255).astype(np.uint8) for each in changed]
        differences.append(np.concatenate([shrunk(each, 300) for each in (image, *four)], axis=1))
    for name, part in (("photographs", rows), ("photographs-difference", differences)):
        Image.fromarray(np.concatenate(part)).save(IMAGES / f"{name}.jpg", quality=88)
        print(IMAGES / f"{name}.jpg", ": clean,", ", ".join(STRENGTHS), "(4x difference)" if "diff" in name else "")


def figures() -> dict[str, Any]:
    """What the package says of halos in words: accuracies in percent on photographs that nobody changed."""
    have = known()
    strengths = {name: have[identity(task({"strength": name}, side=64))] for name in STRENGTHS}
    clean, one = (have[identity(task(method, side=64))] for method in
                  ({}, {"strength": "normal", "one for all": True}))  # fmt: skip
    return {
        "images": "photographs of ten kinds of clothes",
        "classes": 10,
        "side": 64,
        "network": "a small network that learns from nothing but them",
        "clean": clean["accuracy"],
        "one filter for all classes": one["accuracy"],
        "strengths": {name: {"accuracy": result["accuracy"], "SSIM": result["SSIM"], "gain-fitted PSNR":
                             result["gain-fitted PSNR"]} for name, result in strengths.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["choose", "strengths", "test", "picture", "write"])
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="processes of one thread")
    arguments = parser.parse_args()
    if arguments.part == "picture":
        picture()
        return
    if arguments.part == "write":
        PHOTOGRAPHS.write_text(json.dumps(figures(), indent=1) + "\n")
        return
    wanted, have = tasks(arguments.part), known()
    missing = [each for each in wanted if identity(each) not in have]
    with multiprocessing.get_context("spawn").Pool(arguments.jobs) as pool:
        for result in pool.imap(run, missing):
            with RESULTS.open("a") as file:
                file.write(json.dumps(result) + "\n")
            print(show(result), f" ({result['seconds']} s)", flush=True)
    have = known()
    print("\n".join(show(have[identity(each)]) for each in wanted))


if __name__ == "__main__":
    main()
