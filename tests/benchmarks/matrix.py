"""The screen: `python tests/benchmarks/matrix.py [--out docs/results/screen] [--workers 2] [--draw]`.

Prints {clean, CUDA, one filter for all classes} x {plain training, cutout, mixup, grayscale, JPEG-10, COIN, RSK+FF,
FGSM-RS adversarial training, orthogonal projection, UEraser-lite, fine-tuning}: a ResNet-9 on the first 10,000 rows of
CIFAR-10's training set, tested on the clean test set, one training seed; three for the three defenses under which CUDA
fares worst. Fine-tuning starts from a network pre-trained on rows 10,000-19,999. Every training is kept as a JSON file:
a stopped run goes on, and a finished one is printed at once. `--draw` prints what is there and trains nothing.
"""

import argparse
from pathlib import Path

from datasets import disable_progress_bars
from screen import cifar

from unlearnable_transforms import CUDAPoison, Key, Report, evaluate
from unlearnable_transforms.jobs.workers import cores

ROOT = Path(__file__).parents[2]
KEY = "screen-0"
DEFENSES = (
    "erm",
    "cutout",
    "mixup",
    "grayscale",
    "jpeg:quality=10",
    "coin",
    "rsk-ff",
    "at-fgsm",
    "orthogonal-projection",
    "ueraser:variant=lite",
    "fine-tune",
)
TRAINING, ATTACKER = range(10_000), range(10_000, 20_000)
SEEDS, MORE_SEEDS, WORST = (0,), (0, 1, 2), 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "screen")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--workers", type=int, default=cores())
    parser.add_argument("--defenses", nargs="+", default=list(DEFENSES), help="only these (default: all)")
    parser.add_argument("--draw", action="store_true", help="print what is there, train nothing")
    arguments = parser.parse_args()
    if arguments.draw:
        print(Report.load(arguments.out))
        return
    disable_progress_bars()
    data = cifar(arguments.data)
    settings = {
        "clean": data["train"].select(TRAINING),
        "attacker_clean": data["train"].select(ATTACKER),
        "test": data["test"],
        "poisons": {f"CUDA, key {KEY}": CUDAPoison(key=Key.public(KEY))},
        "recipe": "screen",
        "out": arguments.out,
        "workers": arguments.workers,
        "samples": 4,
    }
    report = evaluate(**settings, defenses=arguments.defenses, seeds=SEEDS)
    print(report, flush=True)
    worst = worst_defenses(report)
    names = [name for name in arguments.defenses if name.partition(":")[0] in worst]
    print(f"\nThree seeds for {', '.join(names)}", flush=True)
    evaluate(**settings, defenses=names, seeds=MORE_SEEDS, controls=False)
    report = Report.load(arguments.out)
    print(f"\n{report}\n\nLook at {report.save(arguments.out)}")


def worst_defenses(report: Report) -> set[str]:
    """Names of the defenses under which the victim of the protected pictures gets furthest."""
    (table,) = report.tables
    (headline,) = table.headlines
    entries = {column: table.entries.get((headline.row, column)) for column in table.columns}
    known = {column: entry for column, entry in entries.items() if entry is not None and entry.last is not None}
    ranked = sorted(known, key=lambda column: known[column].last or 0.0, reverse=True)
    return {known[column].cells[0]["defense"]["name"] for column in ranked[:WORST]}


if __name__ == "__main__":
    main()
