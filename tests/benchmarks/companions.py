"""Robust training as it is practised, on clean and on protected pictures: `python tests/benchmarks/companions.py PART`.

`bullet` trains with PGD and with BulletTrain around it, on {clean, CUDA, SEM}, three seeds, and prints clean accuracy,
robust accuracy (PGD-20, L-inf at the training radius, and L2) and passes: images forward and backward.

A ResNet-9 on 4,000 rows of CIFAR-10's training set, 10 epochs of batches of 64, tested on the clean test set and under
attack on 1,000 pictures of it; the radius is 4/255. Every training is kept as a JSON file: a stopped run goes on.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import disable_progress_bars
from methods import KEY, TRAINING, make
from screen import cifar

from unlearnable_transforms import Report, evaluate
from unlearnable_transforms.evaluation.metrics import mean, t_interval
from unlearnable_transforms.evaluation.recipes import Plan
from unlearnable_transforms.training.loop import SCREEN
from unlearnable_transforms.workers import cores

ROOT = Path(__file__).parents[2]
ROWS, EPS, SEEDS = 4000, "4/255", (0, 1, 2)
PLAN = Plan("companions", replace(SCREEN, batch_size=64), "resnet9-screen", rows=ROWS)
ATTACKS = (f"linf:eps={EPS}", "l2:eps=0.25")
AT, BULLET = f"at-pgd:eps={EPS}", f"at-bullet:eps={EPS}"
SETS = ("clean", "cuda", "sem")


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    data = cifar(arguments.data)
    return {
        "clean": data["train"].select(TRAINING),
        "attacker_clean": data["train"].select(range(10_000, 14_000)),
        "test": data["test"],
        "recipe": PLAN,
        "out": arguments.out,
        "workers": arguments.workers,
        "controls": False,
        "samples": 0,
    }


def run(arguments: argparse.Namespace, defenses: list[str], seeds: tuple[int, ...], **options: Any) -> Report:
    """All sets that were asked for, one after the other, so that what is done is whole rows."""
    shared = settings(arguments) | options
    poisons = {name: make(name, KEY).fit(shared["clean"]) for name in arguments.sets if name != "clean"}
    for name in arguments.sets:
        own = {name: poisons[name]} if name in poisons else {}
        evaluate(**shared, poisons=own, defenses=defenses, seeds=seeds)
    return evaluate(**shared, poisons=poisons, defenses=defenses, seeds=seeds)


def spread_of(values: list[float]) -> str:
    interval = t_interval(values)
    text = f"{100 * mean(values):5.1f}"
    return text if interval is None else f"{text} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


def bullet(arguments: argparse.Namespace) -> None:
    report = run(arguments, [AT, BULLET], arguments.seeds, attacks=ATTACKS)
    (table,) = report.tables
    print(report)
    print("\nMean (95 % interval over seeds), in %; the seed's own differences, mining minus none:")
    for row in table.rows:
        plain, mined = (table.entries[row, column].cells for column in sorted(table.columns, reverse=True))
        for cells in (plain, mined):
            results = [cell["result"] for cell in cells]
            passes = mean([r["forward_images"] + r["backward_images"] for r in results])
            figures = [spread_of([r["last"] for r in results])]
            figures += [spread_of([r["robust"][place]["robust"] for r in results]) for place in range(len(ATTACKS))]
            print(f"  {row[0]:6} {cells[0]['defense']['name']:10} {passes / 1e6:6.2f} M passes; {'; '.join(figures)}")
        pairs = list(zip(*([cell["result"] for cell in cells] for cells in (plain, mined)), strict=True))
        passes = [sum(r[f"{way}_images"] for way in ("forward", "backward")) for pair in pairs for r in pair]
        print(
            f"  {row[0]:6} fewer passes: {sum(passes[::2]) / sum(passes[1::2]):.2f} times; clean accuracy "
            f"{spread_of([mined['last'] - plain['last'] for plain, mined in pairs])}; robust "
            + "; ".join(
                spread_of([mined["robust"][k]["robust"] - plain["robust"][k]["robust"] for plain, mined in pairs])
                for k in range(len(ATTACKS))
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["bullet"])
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "companions")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--workers", type=int, default=cores())
    arguments = parser.parse_args()
    disable_progress_bars()
    bullet(arguments)


if __name__ == "__main__":
    main()
