"""What noise made against trained surrogates does to linear probes: `surrogates.py NAME... [--rows 200] [--size 112]`.

Data: photographs of `clothing` (CC0, ten classes), training rows only: `--rows` of them, drawn once, are protected at
full size, and 150 others are the validation rows. A trainer shrinks the photographs (shorter side, bicubic, middle
square), saves them as JPEG 75 or not, and fits a linear probe (`last-layer`) to features of EfficientNet-Lite0, a
surrogate of the noise, and of EfficientNet-Lite2, which is none. One key. Every result is a line of
docs/results/surrogates.jsonl. `seconds` are those of one core; None where the cache has the noise already.

NAME:

    clean
    tap, tap-without-jpeg: the same, but nothing is saved as JPEG while the noise is made
    tap-16, tap-16-hidden, tap-16-hidden-more: of 16 levels; with `similarity` 0.9 and 0.95
    tap-12-coarse: of 12 levels, made at 64 px
    tap-features, tap-features-random, tap-features-farthest: to the mean features of another class, three choices of it
    bait, bait-colour: without and with a shift of colour for each class, of up to COLOUR levels beside eps
    uc, uc-divergence, uc-features: the three losses
    uc-colour: uc with a shift of colour of up to COLOUR levels
    uc-clusters: uc whose classes are CLUSTERS clusters that EfficientNet-Lite0 finds; trainers have the true labels
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image

import unlearnable_transforms as ut
from unlearnable_transforms.pixels import psnr, ssim
from unlearnable_transforms.training import transforms
from unlearnable_transforms.training.jpeg import compress
from unlearnable_transforms.training.probe import fit_last_layer
from unlearnable_transforms.victims import build_victim
from unlearnable_transforms.victims.pretrained import last_linear

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "clothing"
RESULTS = ROOT / "docs" / "results" / "surrogates.jsonl"
KEY = ut.Key.public("surrogates")
VICTIMS = ("efficientnet_lite0", "efficientnet_lite2")
VALIDATION = slice(1000, 1150)  # of the drawn order; the rows that are protected come first
COLOUR = 8  # levels
CLUSTERS = 10
MEASURED = 40  # images whose PSNR and SSIM are measured

METHODS: dict[str, Callable[[ut.Key], ut.Poison]] = {
    "tap": lambda key: ut.TAPPoison(key=key, preset="photographs"),
    "tap-without-jpeg": lambda key: ut.TAPPoison(key=key.derive("without"), preset="photographs"),
    "tap-16": lambda key: ut.TAPPoison(key=key, preset="photographs", eps=16 / 255, noise_step_size=None),
    "tap-16-hidden": lambda key: ut.TAPPoison(
        key=key, preset="photographs", eps=16 / 255, noise_step_size=None, similarity=0.9
    ),
    "tap-16-hidden-more": lambda key: ut.TAPPoison(
        key=key, preset="photographs", eps=16 / 255, noise_step_size=None, similarity=0.95
    ),
    "tap-12-coarse": lambda key: ut.TAPPoison(
        key=key, preset="photographs", eps=12 / 255, noise_step_size=None, work_size=64
    ),
    "tap-features": lambda key: ut.TAPPoison(key=key, preset="photographs", loss="features"),
    "tap-features-random": lambda key: ut.TAPPoison(key=key, preset="photographs", loss="features", targets="random"),
    "tap-features-farthest": lambda key: ut.TAPPoison(
        key=key, preset="photographs", loss="features", targets="farthest"
    ),
    "bait": lambda key: ut.BAITPoison(key=key),
    "bait-colour": lambda key: ut.BAITPoison(key=key, colour=COLOUR),
    "uc": lambda key: ut.UCPoison(key=key),
    "uc-divergence": lambda key: ut.UCPoison(key=key, loss="divergence"),
    "uc-features": lambda key: ut.UCPoison(key=key, loss="features"),
    "uc-colour": lambda key: ut.UCPoison(key=key, colour=COLOUR),
    "uc-clusters": lambda key: ut.UCPoison(key=key),
}


def shrink(images: list[np.ndarray], size: int) -> torch.Tensor:
    """uint8 (N, 3, size, size): the middle squares."""
    squares = []
    for pixels in images:
        image = Image.fromarray(pixels)
        scale = size / min(image.size)
        image = image.resize([max(size, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
        left, top = (image.width - size) // 2, (image.height - size) // 2
        squares.append(np.array(image.crop((left, top, left + size, top + size))))
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).contiguous()


def probe(victim: str, images: torch.Tensor, labels: torch.Tensor, test: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Accuracy on the validation rows."""
    net = build_victim(f"{victim}:weights=imagenet", 10, images.shape[-1])
    return fit_last_layer(net, last_linear(net), images, labels, test=test).test_accuracy[-1]


def measure(name: str, options: argparse.Namespace) -> dict:
    path = str(options.data / "train-00000-of-00001.parquet")
    data = datasets.load_dataset("parquet", data_files={"train": path}, split="train")
    order = np.random.default_rng(0).permutation(len(data))
    train, validation = data.select(order[: options.rows]), data.select(order[VALIDATION])
    clean = [np.array(image.convert("RGB")) for image in train["image"]]
    held_out = shrink([np.array(image.convert("RGB")) for image in validation["image"]], options.size)
    labels, test = torch.tensor(train["label"]), (held_out, torch.tensor(validation["label"]))
    result: dict = {"name": name, "rows": options.rows, "size": options.size}
    protected = clean
    if name != "clean":
        through, poison = transforms.compress_through, METHODS[name](KEY)
        if name == "tap-without-jpeg":
            transforms.compress_through = lambda pixels, quality: pixels
        if name == "uc-clusters":
            clusters = ut.auto_labels(train, KEY, clusters=CLUSTERS, backbone="efficientnet_lite0")
            train = train.remove_columns("label").add_column("label", clusters)
        started = time.process_time()
        poison.fit(train)
        seconds = time.process_time() - started
        transforms.compress_through = through
        protected = [poison.apply(image[None], [label])[0] for image, label in zip(clean, train["label"], strict=True)]
        pairs = list(zip(clean, protected, strict=True))
        result |= {
            "seconds": round(seconds, 1) if seconds > 20 else None,
            "passes": poison.report["passes"],
            "target_share": poison.report["target_share"],
            "largest_delta": max(int(np.abs(after.astype(int) - before).max()) for before, after in pairs),
            "psnr": float(np.mean([psnr(*pair) for pair in pairs[:MEASURED]])),
            "ssim": float(np.mean([ssim(*pair) for pair in pairs[:MEASURED]])),
        }
    small = shrink(protected, options.size)
    for victim in VICTIMS:
        for saved, images in (("", small), (" jpeg-75", compress(small, 75))):
            result[victim + saved] = round(100 * probe(victim, images, labels, test), 1)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=["clean", *METHODS])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--size", type=int, default=112, help="side to which trainers shrink, in pixels")
    options = parser.parse_args()
    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    for name in options.names:
        result = measure(name, options)
        print(json.dumps(result), flush=True)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
