"""What fitted methods protect, on the screen: `python tests/benchmarks/optimised.py [table|passes] [--test-set]`.

`table` fits every method with preset `cpu` on the first 10,000 rows of CIFAR-10's training set, for three keys made
from fixed strings, and trains the screen's victim on the protected pictures, plainly and adversarially (FGSM-RS with
4/255). It is tested on validation rows 40,000-49,999, or with `--test-set` on the clean test set. Printed are the
accuracies and for each fit its time, its passes of 128 pictures and what it reports of itself. Fits and trainings are
kept as JSON below `--out`: a stopped run goes on. `passes` counts SEM's and REM's passes at equal settings, in a run
of two steps of each.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
from datasets import Dataset, disable_progress_bars, load_dataset

from unlearnable_transforms import Key, Report, evaluate, get_poison
from unlearnable_transforms.poisons.fitted import FittedPoison
from unlearnable_transforms.workers import cores

ROOT = Path(__file__).parents[2]
METHODS = ("pil", "em", "sem", "tap", "rem")
KEYS = ("screen-0", "screen-1", "screen-2")
DEFENSES = ("erm", "at-fgsm:eps=4/255")
TRAINING, VALIDATION = range(10_000), range(40_000, 50_000)
KEPT = ("surrogate_accuracy", "target_share", "separability", "psnr", "largest_delta", "unchanged", "passes", "rows")


def fit(method: str, key: str, data: Dataset, folder: Path) -> FittedPoison:
    """A fitted method, and a line about the fit. Its time is that of the run that made it, without interruption."""
    poison = get_poison(method)(key=Key.public(key))
    assert isinstance(poison, FittedPoison)
    record = folder / f"{method}-{key}.json"
    started, worked = time.perf_counter(), time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        poison.fit(data)
    facts = {
        "method": method,
        "arguments": poison.arguments(),
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
        f"{method:4} {key}  fit {facts['seconds']:7.0f} s ({facts['cpu_seconds']:.0f} s of CPU), "
        f"{facts['passes']:7.0f} passes; surrogate {facts['surrogate_accuracy']:.3f}, for what the noise says "
        f"{facts['target_share']:.3f}; linear {facts['separability']:.3f}; PSNR {facts['psnr']:.1f} dB, at most "
        f"{facts['largest_delta']} levels, without noise {facts['unchanged']}",
        flush=True,
    )
    return poison


def table(arguments: argparse.Namespace) -> None:
    files = {split: str(arguments.data / "cifar10" / f"{split}-00000-of-00001.parquet") for split in ("train", "test")}
    data = load_dataset("parquet", data_files=files)
    train = data["train"].select(TRAINING)
    out = arguments.out / ("test" if arguments.test_set else "validation")
    for key in arguments.keys:
        for method in arguments.methods:
            poison = fit(method, key, train, arguments.out / "fits")
            evaluate(
                clean=train,
                test=data["test"] if arguments.test_set else data["train"].select(VALIDATION),
                poisons={f"{method}, key {key}": poison},
                defenses=DEFENSES,
                recipe="screen",
                out=out,
                controls=key == KEYS[0],
                workers=arguments.workers,
                samples=0,
            )
    print(f"\n{Report.load(out)}")


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
    parser.add_argument("part", nargs="?", choices=["table", "passes"], default="table")
    parser.add_argument("--test-set", action="store_true", help="for the end: test on the test set")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--keys", nargs="+", default=list(KEYS))
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "optimised")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--workers", type=int, default=cores())
    arguments = parser.parse_args()
    disable_progress_bars()
    if arguments.part == "passes":
        passes()
    else:
        table(arguments)


if __name__ == "__main__":
    main()
