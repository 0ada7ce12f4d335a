"""What fitted methods protect, on the screen: `python tests/benchmarks/optimised.py [table|fits|shapes|extend|passes]`.

`table` fits every method with preset `cpu` on the first 10,000 rows of CIFAR-10's training set, for three keys made
from fixed strings, and trains the screen's victim on the protected pictures, plainly and adversarially (FGSM-RS with
4/255); `fits` stops before the victims. The control is random noise as strong as the strongest, PIL's. `shapes` fits
SEM with the preset, and with the published settings but for network and steps, which are the preset's. `extend` trains
the victim on rows 10,000-19,999, whose noise was made afterwards with the surrogates of the fits on the first 10,000.
`passes` counts SEM's and REM's passes at equal settings, in a run of two steps of each.

Tested is on validation rows 40,000-49,999, or with `--test-set` on the clean test set. Printed are the accuracies and
for each fit its time, its passes of 128 pictures and what it reports of itself. Fits and trainings are kept as JSON
below `--out`: a stopped run goes on. Presets were chosen on validation rows with the key screen-0; the other keys are
fresh.
"""

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, disable_progress_bars
from screen import cifar

from unlearnable_transforms import Key, Report, evaluate, get_poison
from unlearnable_transforms.jobs.workers import cores
from unlearnable_transforms.poisons.fitted import FittedPoison

ROOT = Path(__file__).parents[2]
METHODS = ("pil", "em", "sem", "tap", "rem", "hypo", "aue")
KEYS = ("screen-0", "screen-1", "screen-2")
DEFENSES = ("erm", "at-fgsm")
TRAINING, LATER, VALIDATION = range(10_000), range(10_000, 20_000), range(40_000, 50_000)
SHAPES = {
    "published": {"preset": "paper", "surrogate": "resnet9-screen", "steps": 500},
    "cpu": {},
    "cpu, S = 3 at the end": {"final_samples": 3},
}
SUFFIX = {"published": "-published", "cpu": "", "cpu, S = 3 at the end": "-final-3"}  # of the file of a fit
EXTENDED = ("sem", "em", "pil")
KEPT = (
    "surrogate_accuracy", "target_share", "separability", "quick_protected", "quick_clean", "psnr", "largest_delta",
    "unchanged", "passes", "rows",
)  # fmt: skip


def fit(method: str, key: str, data: Dataset, folder: Path, shape: str = "cpu") -> FittedPoison:
    """A fitted method, and a line about the fit. Its time is that of the run that made it, without interruption."""
    poison = get_poison(method)(key=Key.public(key), **SHAPES[shape])
    assert isinstance(poison, FittedPoison)
    record = folder / f"{method}-{key}{SUFFIX[shape]}.json"
    started, worked = time.perf_counter(), time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        poison.fit(data)
    facts = {
        "method": method,
        "arguments": {**poison.arguments(), **poison.fitted_state()},
        "key": key,
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - worked, 1),
        "warnings": [str(warning.message) for warning in caught],
        **{name: poison.report[name] for name in KEPT},
    }
    if not record.exists() or json.loads(record.read_text())["arguments"]["noise"] != poison.noise:
        folder.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(facts, indent=1) + "\n")
    facts = json.loads(record.read_text())
    print(
        f"{method:4} {key} {shape:9} fit {facts['seconds']:7.0f} s ({facts['cpu_seconds']:.0f} s of CPU), "
        f"{facts['passes']:7.0f} passes; surrogate {facts['surrogate_accuracy']:.3f}, for what the noise says "
        f"{facts['target_share']:.3f}; linear {facts['separability']:.3f}; quick victim "
        f"{facts['quick_protected']:.2f} and {facts['quick_clean']:.2f} on clean ones; PSNR {facts['psnr']:.1f} dB, at "
        f"most {facts['largest_delta']} levels, without noise {facts['unchanged']}",
        flush=True,
    )
    return poison


def victims(arguments: argparse.Namespace, poisons: dict[str, FittedPoison], rows: range, **options: Any) -> Report:
    """Train the victims that are not trained yet."""
    return evaluate(
        clean=arguments.train.select(rows),
        test=arguments.test if arguments.test_set else arguments.train.select(VALIDATION),
        poisons=poisons,
        recipe="screen",
        out=arguments.out / ("screen" if arguments.test_set else "validation"),
        workers=arguments.workers,
        samples=0,
        **options,
    )


def fits(arguments: argparse.Namespace) -> dict[str, dict[str, FittedPoison]]:
    """For each key each method, fitted."""
    data = arguments.train.select(TRAINING)
    return {
        key: {f"{method}, key {key}": fit(method, key, data, arguments.out / "fits") for method in arguments.methods}
        for key in arguments.keys
    }


def table(arguments: argparse.Namespace) -> None:
    made = {label: poison for poisons in fits(arguments).values() for label, poison in poisons.items()}
    for label in [label for label in made if label.startswith("pil") and not arguments.no_control][:1]:
        print(victims(arguments, {label: made[label]}, TRAINING, defenses=arguments.defenses, controls=True))
    print(victims(arguments, made, TRAINING, defenses=arguments.defenses, controls=False))


def shapes(arguments: argparse.Namespace) -> None:
    key, data = arguments.keys[0], arguments.train.select(TRAINING)
    made = {f"sem, {shape}, key {key}": fit("sem", key, data, arguments.out / "fits", shape) for shape in SHAPES}
    print(f"\n{victims(arguments, made, TRAINING, defenses=DEFENSES, controls=False)}")


def extend(arguments: argparse.Namespace) -> None:
    key, data = arguments.keys[0], arguments.train.select(TRAINING)
    made = {f"{method}, extended, key {key}": fit(method, key, data, arguments.out / "fits") for method in EXTENDED}
    for poison in made.values():
        poison.extend(arguments.train.select(LATER))
    print(f"\n{victims(arguments, made, LATER, defenses=DEFENSES[:1], controls=False)}")


def passes() -> None:
    """From counters: two steps and the final noise, on 256 random pictures."""
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (256, 32, 32, 3), np.uint8), random.integers(0, 10, 256)
    counts = {}
    for method in ("sem", "rem"):
        arguments = {"preset": "paper", "surrogate": "resnet9-screen", "steps": 2}
        poison = get_poison(method)(key=Key.public(KEYS[0]), **arguments)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            counts[method] = poison.fit((images, labels)).report["passes"]
    print(f"passes of 128 pictures: SEM {counts['sem']:.0f}, REM {counts['rem']:.0f}", end="")
    print(f", {counts['rem'] / counts['sem']:.1f} times as many (K = 10, S = 5, A = 10; 2 steps, 2 batches at the end)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=["table", "fits", "shapes", "extend", "passes"], default="table")
    parser.add_argument("--test-set", action="store_true", help="for the end: test on the test set")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, help="of the table")
    parser.add_argument("--defenses", nargs="+", default=list(DEFENSES), help="of the table")
    parser.add_argument("--no-control", action="store_true", help="leave random noise out of the table")
    parser.add_argument("--keys", nargs="+", default=list(KEYS), help="of the table; the other parts take the first")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--workers", type=int, default=cores())
    arguments = parser.parse_args()
    disable_progress_bars()
    if arguments.part == "passes":
        passes()
        return
    data = cifar(arguments.data)
    arguments.train, arguments.test = data["train"], data["test"]
    {"table": table, "fits": fits, "shapes": shapes, "extend": extend}[arguments.part](arguments)


if __name__ == "__main__":
    main()
