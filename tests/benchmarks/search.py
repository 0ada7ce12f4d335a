"""The worst case for CUDA and for what `ut.recommended(32)` answers, searched: `python tests/benchmarks/search.py`.

The screen of methods.py: a ResNet-9 on the first 10,000 rows of CIFAR-10's training set, tested on the clean test set,
key screen-0, training seed 0. Each search may spend 40 full trainings (`--budget`); the attacker has no clean images.
Prints the sequence of defenses that recovers the most, what it does to clean images and to the control, and the best of
the fixed list of methods.py beside it. Every training is a cell in docs/results/search; a stopped run goes on.
"""

import argparse
from pathlib import Path

from datasets import disable_progress_bars
from methods import DEFENSES, KEY, TRAINING, label
from screen import cifar

import unlearnable_transforms as ut
from unlearnable_transforms.evaluation.search import worst

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", help="cuda, recommended (default: both)")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "search")
    parser.add_argument("--budget", type=int, default=40, help="full trainings of each search")
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread")
    options = parser.parse_args()
    disable_progress_bars()
    data = cifar(options.data)
    train = data["train"].select(TRAINING)
    key = ut.Key.public(KEY)
    recommended = ut.recommended(32)
    methods = {"cuda": ("cuda", ut.CUDAPoison(key=key)), "recommended": (recommended.title, recommended.poison(key))}
    listed = {row["method"]: row for row in recommended.table}
    for name in options.methods or methods:
        title, poison = methods[name]
        report = ut.evaluate(
            clean=train,
            test=data["test"],
            poisons={label(title, KEY): poison.fit(train)},
            defenses="search",
            budget=options.budget,
            recipe="screen",
            out=options.out / name,
            workers=options.jobs,
            samples=0,
        )
        print(report)
        (trials,) = report.searches.values()
        best, row = worst(trials), listed[title]
        print(
            f"{title}: the search found {best.defense}, {100 * (best.accuracy or 0):.1f} %; the fixed list of "
            f"{len(DEFENSES)} found {row['worst']}, {100 * row['accuracies'][row['worst']]:.1f} %.",
            flush=True,
        )


if __name__ == "__main__":
    main()
