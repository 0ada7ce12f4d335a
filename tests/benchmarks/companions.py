"""Robust training as it is practised, on clean and on protected pictures: `python tests/benchmarks/companions.py PART`.

`bullet` trains with PGD and with BulletTrain around it, on {clean, CUDA, SEM}, three seeds, and prints clean accuracy,
robust accuracy (PGD-20, L-inf at the training radius, and L2) and passes: images forward and backward. `matrix` trains
with every companion defense on the same sets, one seed. `rsr` prints clean and robust accuracy of RSR against sparsity,
beside PGD adversarial training of the same net, pruned in the same way. `lasso` chooses that lasso: plain training on
validation rows 40,000-49,999 of the training set, pruned.

A ResNet-9 on 4,000 rows of CIFAR-10's training set, 10 epochs of batches of 64, tested on the clean test set and under
attack on 1,000 pictures of it; the radius is 4/255. Every training is kept as a JSON file: a stopped run goes on.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars
from methods import KEY, TRAINING, make
from screen import Set, cifar, read

from unlearnable_transforms import Report, evaluate, robust_accuracy
from unlearnable_transforms.defenses import get_defense
from unlearnable_transforms.defenses.base import Defense, Setting
from unlearnable_transforms.defenses.rsr import prune, set_noise, sparsity_of
from unlearnable_transforms.evaluation.metrics import mean, t_interval
from unlearnable_transforms.evaluation.recipes import Plan
from unlearnable_transforms.jobs.workers import cores
from unlearnable_transforms.sample import spread
from unlearnable_transforms.training.loop import SCREEN, train
from unlearnable_transforms.training.model import accuracy
from unlearnable_transforms.victims import build_victim

ROOT = Path(__file__).parents[2]
ROWS, EPS, SEEDS = 4000, "4/255", (0, 1, 2)
PLAN = Plan("companions", replace(SCREEN, batch_size=64), "resnet9-screen", rows=ROWS)
ATTACKS = (f"linf:eps={EPS}", "l2:eps=0.25")
AT, BULLET = f"at-pgd:eps={EPS}", f"at-bullet:eps={EPS}"
SETS = ("clean", "cuda", "sem")
LASSOS, LASSO = (0.0, 1e-4, 3e-4, 1e-3, 3e-3), 3e-4  # chosen by `lasso`
SPARSITIES = (0.0, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95)
RSR = f"rsr:eps={EPS},lasso={LASSO}"
# Of the 13 steps of the paper 5: the victim's own step is small beside them.
INPUTS = tuple(f'adversarial-input:external="{external}",steps=5' for external in ("protected", "clean"))


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


def matrix(arguments: argparse.Namespace) -> None:
    print(run(arguments, ["erm", AT, BULLET, RSR, *INPUTS], arguments.seeds[:1], attacks=ATTACKS[:1]))


def trained(defense: Defense, rows: Set) -> torch.nn.Module:
    """A victim as `evaluate` trains it, before the defense's last word."""
    images, labels = rows
    setting = Setting(10, 32, PLAN.victim, PLAN.recipe, 0)
    recipe = defense.recipe(PLAN.recipe)
    prepared = defense.prepare(images, labels, setting)
    net = defense.network(build_victim(PLAN.victim, 10, 32, 0), setting)
    train(
        net, prepared, labels, recipe=recipe, seed=0, perturb=defense.perturb, loss=defense.loss,
        on_epoch=defense.on_epoch,
    )  # fmt: skip
    return net


def lasso(arguments: argparse.Namespace) -> None:
    """Without an attack, which takes most of the time and has no part in what the lasso does."""
    data = cifar(arguments.data)["train"]
    rows, test = (read(data.select(part)) for part in (spread(10_000, ROWS), range(40_000, 50_000)))
    for strength in LASSOS:
        net = trained(get_defense("rsr")(lasso=strength, plain_share=0.999), rows)
        whole, small = accuracy(net, *test), sparsity_of(net, below=1e-3)
        prune(net, 0.85)
        pruned = accuracy(net, *test)
        print(
            f"lasso {strength:g}: validation accuracy {100 * whole:.1f} %, 85 % pruned {100 * pruned:.1f} %; "
            f"{100 * small:.1f} % of the weights are below 0.001 before",
            flush=True,
        )


def rsr(arguments: argparse.Namespace) -> None:
    file = arguments.out / "rsr-curve.json"
    if not file.exists():
        data = cifar(arguments.data)
        rows, test = read(data["train"].select(spread(10_000, ROWS))), read(data["test"])
        attacked = [part[spread(len(part), 1000)] for part in test]
        curves: dict[str, list[dict[str, float]]] = {}
        for defense in (get_defense("at-pgd")(eps=4 / 255), get_defense("rsr")(eps=4 / 255, lasso=LASSO)):
            net = trained(defense, rows)
            noisy = (True, False) if defense.name == "rsr" else (False,)
            for share in SPARSITIES:
                prune(net, share)
                for noise in noisy:
                    set_noise(net, noise)
                    name = f"{defense!r}, noise {'on' if noise else 'off'} in the test"
                    found = robust_accuracy(net, *attacked, eps=4 / 255)
                    point = {"sparsity": share, "clean": accuracy(net, *test), "robust": found.robust}
                    curves.setdefault(name, []).append(point)
                    print(name, point, flush=True)
        file.write_text(json.dumps(curves, indent=1) + "\n")
    for name, points in json.loads(file.read_text()).items():
        print(f"\n{name}")
        for point in points:
            clean, robust = (100 * point[kind] for kind in ("clean", "robust"))
            print(f"  {point['sparsity']:4.0%} zero: clean {clean:5.1f}, robust {robust:5.1f}")


PARTS = {"bullet": bullet, "matrix": matrix, "lasso": lasso, "rsr": rsr}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "companions")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--workers", type=int, default=cores())
    arguments = parser.parse_args()
    disable_progress_bars()
    PARTS[arguments.part](arguments)


if __name__ == "__main__":
    main()
