"""What real trainers get from protected photographs: `python tests/benchmarks/trainers.py [PART ...] [--jobs 1]`.

Data: `clothing` (CC0, ten classes, 1,593 training and 510 test photographs), protected at full size. A trainer gets
them as a site serves them: shrunk to the side at which it trains (shorter side, middle square), then JPEG 75.

Trainers: EfficientNet-Lite0 with ImageNet weights as a linear probe (`last-layer`) and with all layers fine-tuned
(plain training, 8 epochs); a ResNet-9 from nothing (40 epochs), and the same without labels (`simclr`), then a probe.
Sets: clean; CUDA's strengths; the control, one halo for all classes; noise of PIL, TAP and SEM; CUDA > SEM.

Parts, in the order in which they were used (default: all but `choose`):

    choose   validation, 400 rows held out of the training set: all cheap defenses under the probe, for CUDA `normal`;
             prints the five that recover the most, which stand in DEFENSES below
    probe    test set, 96 px: all sets, the probe, no defense and the five
    tune     test set, 96 px: all sets, fine-tuned, no defense; CUDA's sets and clean also with the five
    scratch  test set, 96 px: CUDA `normal`, its control and clean, from nothing and without labels
    large    test set, 160 px: CUDA's sets, probe and fine-tuned
    keys     test set, 96 px: CUDA `normal` with two more keys, probe and fine-tuned
    clean    test set, 224 px: clean photographs, probe and fine-tuned

Every training is a cell in docs/results/trainers; a run that was stopped goes on. `--draw` trains nothing, prints what
is there, and writes docs/results/trainers/README.md.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, disable_progress_bars, load_dataset

import unlearnable_transforms as ut

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "clothing"
RESULTS = ROOT / "docs" / "results" / "trainers"
KEYS = ("clothing-0", "clothing-1", "clothing-2")
LITE, NOTHING = "efficientnet_lite0:weights=imagenet", "resnet9-screen"
SITE = "jpeg:quality=75"  # what a site does after shrinking
PROBE = "last-layer"
HELD_OUT = 400
CHEAP = (
    "channel-norm", "equalize", "whiten-lab", "whiten-yuv", "grayscale", "low-pass", "gaussian", "median", "bilateral",
    "bdr", "rsk-ff", "coin", "random-filters", "colour-jitter", "colour-noise", "class-spectrum", "class-residual",
    "jpeg:quality=10",
)  # fmt: skip
DEFENSES = ("class-residual", "class-spectrum", "random-filters", "rsk-ff", "equalize")


def site(*defenses: str) -> str:
    """What the trainer does, behind what the site did."""
    return " + ".join([SITE, *filter(None, defenses)])


def cuda(strength: str, key: str = KEYS[0]) -> ut.Poison:
    return ut.CUDAPoison(key=ut.Key.public(key), strength=strength)


def make(name: str) -> ut.Poison:
    """A method by its name in the table."""
    key = ut.Key.public(KEYS[0])
    match name.split():
        case ["cuda", strength]:
            return cuda(strength)
        case ["cuda", "normal", ">", other]:
            return ut.Chain([cuda("normal"), ut.get_poison(other)(key=key)])
        case [other]:
            return ut.get_poison(other)(key=key)
    raise ValueError(name)


STRENGTHS = ("cuda normal", "cuda subtle", "cuda strong")
NOISE = ("pil", "tap", "sem", "cuda normal > sem")


def read(folder: Path, split: str) -> Dataset:
    return load_dataset("parquet", data_files=str(folder / f"{split}-*.parquet"), split="train")


def measure(data: dict[str, Any], part: str, victim: str, defenses: list[str], size: int, **more: Any) -> ut.Report:
    """The cells of one part of the matrix, as a report that is printed."""
    settings = {"recipe": "photographs", "out": RESULTS, "samples": 0, **data, **more}
    report = ut.evaluate(victims=[victim], defenses=defenses, image_size=size, **settings)
    print(f"\n==== {part}: {victim}, {size} px\n{report}", flush=True)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("choose", "probe", "tune", "scratch", "large", "keys", "clean")
    parser.add_argument("parts", nargs="*", choices=[[], *parts], default=list(parts[1:]), metavar="PART")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--sets", nargs="*", default=[*STRENGTHS, *NOISE], help="of probe and tune (default: all)")
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread")
    options = parser.parse_args()
    disable_progress_bars()
    train, test = read(options.data, "train"), read(options.data, "test")
    data: dict[str, Any] = {"clean": train, "test": test, "workers": options.jobs}
    alone, trained = [site(PROBE), *(site(each, PROBE) for each in DEFENSES)], [site(), *map(site, DEFENSES)]
    for part in options.parts:
        match part:
            case "choose":
                order = np.random.default_rng(0).permutation(len(train))
                rows, held = np.sort(order[HELD_OUT:]), np.sort(order[:HELD_OUT])
                chosen = {**data, "clean": train.select(rows), "test": train.select(held)}
                defenses = [site(PROBE), *(site(each, PROBE) for each in CHEAP)]
                measure(chosen, part, LITE, defenses, 96, poisons={"cuda normal": cuda("normal")}, controls=False)
            case "probe":
                for name in options.sets:
                    measure(data, part, LITE, alone, 96, poisons={name: make(name)}, controls=name in STRENGTHS[:1])
            case "tune":
                for name in options.sets:
                    columns = trained if name in STRENGTHS[:1] else trained[:1]
                    measure(data, part, LITE, columns, 96, poisons={name: make(name)}, controls=name in STRENGTHS[:1])
            case "scratch":
                poisons = {"cuda normal": cuda("normal")}
                measure(data, part, NOTHING, [site(), site("simclr")], 96, poisons=poisons)
            case "large":
                poisons = {name: make(name) for name in STRENGTHS}
                measure(data, part, LITE, alone[:1], 160, poisons=poisons, controls=False)
                measure(data, part, LITE, trained[:1], 160, poisons={"cuda normal": cuda("normal")}, controls=False)
            case "keys":
                poisons = {f"cuda normal, {key}": cuda("normal", key) for key in KEYS[1:]}
                measure(data, part, LITE, [alone[0], trained[0]], 96, poisons=poisons, controls=False)
            case "clean":
                measure(data, part, LITE, [PROBE, "erm"], 224)


if __name__ == "__main__":
    main()
