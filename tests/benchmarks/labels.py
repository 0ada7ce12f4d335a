"""What secret classes are worth: `python tests/benchmarks/labels.py PART [--test-set] [--jobs 2]`.

Parts:

    clusters  how well clusters agree with the true classes; nothing is trained
    victims   clothing at 64 px: a victim trained with the true labels on clean photographs, and on those that CUDA
              protected by labels="auto", by the same clusters dealt out at random (the control), and by true classes

Victim and photographs are those of photographs.py: 40 epochs, accuracy after the last one on photographs that nobody
changed; validation (400 rows held out of the training set) or, with --test-set, the test set. Every run is appended to
docs/results/labels.jsonl and not made again.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import load_dataset
from photographs import DATA, HELD_OUT, RECIPE, ROOT, photographs, shrunk, stack

from unlearnable_transforms import CUDAPoison, Key, auto_labels
from unlearnable_transforms.data.memory import ArrayRows
from unlearnable_transforms.pixels import gain_fitted_psnr, ssim
from unlearnable_transforms.secret.clusters import find_clusters, nearest
from unlearnable_transforms.secret.features import features_of, get_backbone
from unlearnable_transforms.training.loop import train
from unlearnable_transforms.victims.registry import build_victim

RESULTS = ROOT / "docs" / "results" / "labels.jsonl"
KEYS = ("labels-0", "labels-1", "labels-2")
SIDE = 64
CIFAR_ROWS = 5000


def entropy(counts: np.ndarray) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum())


def agreement(clusters: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Normalised mutual information (by the mean of the entropies), purity, and the sizes of the clusters."""
    table = np.zeros((clusters.max() + 1, labels.max() + 1))
    np.add.at(table, (clusters, labels), 1)
    own, true, both = entropy(table.sum(1)), entropy(table.sum(0)), entropy(table.ravel())
    return {
        "NMI": round(2 * (own + true - both) / (own + true), 3),
        "purity": round(float(table.max(1).sum() / table.sum()), 3),
        "smallest": int(table.sum(1).min()),
        "largest": int(table.sum(1).max()),
    }


def cifar() -> tuple[list[np.ndarray], np.ndarray]:
    data = load_dataset("parquet", data_files=str(DATA.parent / "cifar10" / "train-*.parquet"), split="train")
    data = data.select(range(CIFAR_ROWS))
    return [np.asarray(image) for image in data["image"]], np.array(data["label"])


def show_clusters(counts: list[int], backbone: str) -> None:
    sets: dict[str, Callable] = {"clothing": lambda: photographs("train"), f"CIFAR-10, {CIFAR_ROWS} rows": cifar}
    for name, read in sets.items():
        images, labels = read()
        points, _ = features_of(ArrayRows(images, labels), get_backbone(backbone))  # once: auto_labels is these lines
        for count in counts:
            for key in KEYS:
                found, _ = nearest(points, find_clusters(points, count, Key.public(key)))
                told = ", ".join(f"{what} {value}" for what, value in agreement(found, labels).items())
                dealt = agreement(np.random.default_rng(0).permutation(found), labels)
                print(
                    f"{name:20} {backbone:12} {count:4} clusters  {key}  {told}; dealt out at random: NMI "
                    f"{dealt['NMI']}, purity {dealt['purity']}",
                    flush=True,
                )


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Hide, protect, shrink, train, test."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    images, labels = photographs("train")
    rows, test_images, test_labels = np.arange(len(labels)), None, None
    if task["on"] == "validation":
        order = np.random.default_rng(0).permutation(len(labels))
        rows, held = np.sort(order[HELD_OUT:]), np.sort(order[:HELD_OUT])
        test_images, test_labels = [images[row] for row in held], labels[held]
    else:
        test_images, test_labels = photographs("test")
    chosen, true = [images[row] for row in rows], labels[rows]
    protected, facts = chosen, {}
    if task["by"] != "nothing":
        key, classes = Key.public(task["key"]), true
        if task["by"] != "true classes":
            classes = np.array(auto_labels(chosen, key, clusters=task["clusters"], backbone=task["backbone"]))
            if task["by"] == "shuffled clusters":
                classes = np.random.default_rng(1).permutation(classes)
        poison = CUDAPoison(key=key)
        protected = [poison(image, label)[0] for image, label in zip(chosen, classes, strict=True)]
        pairs = list(zip(chosen[:100], protected[:100], strict=True))
        facts = agreement(classes, true)
        facts |= {
            name: round(float(np.mean([measure(a, b) for a, b in pairs])), 3)
            for name, measure in (("gain-fitted PSNR", gain_fitted_psnr), ("SSIM", ssim))
        }
    train_set = stack([shrunk(image, SIDE) for image in protected]), torch.from_numpy(true)
    test_set = stack([shrunk(image, SIDE) for image in test_images]), torch.from_numpy(test_labels)
    net = build_victim("resnet9-screen", 10, SIDE, task["seed"])
    recipe = replace(RECIPE, epochs=task["epochs"])
    history = train(net, *train_set, recipe=recipe, seed=task["seed"], test=test_set)
    return {
        **task,
        "accuracy": round(100 * history.last, 1),
        "last 5": round(100 * history.last5, 1),
        "best": round(100 * history.best, 1),
        "training accuracy": round(100 * history.train_accuracy[-1], 1),
        **facts,
        "seconds": round(time.perf_counter() - started),
    }


def tasks(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    common = {"on": "test" if arguments.test_set else "validation", "seed": 0, "epochs": arguments.epochs}
    none = {"clusters": None, "backbone": None}
    made = [{**common, "by": "nothing", "key": None, **none}]
    for key in KEYS[: arguments.keys]:
        for count in arguments.clusters:
            some = {"key": key, "clusters": count, "backbone": arguments.backbone}
            made += [{**common, "by": by, **some} for by in ("auto", "shuffled clusters")]
        made.append({**common, "by": "true classes", "key": key, **none})
    return made


def identity(result: dict[str, Any]) -> str:
    names = ("on", "seed", "epochs", "by", "key", "clusters", "backbone")
    return json.dumps({name: result[name] for name in names})


def known(path: Path) -> dict[str, dict[str, Any]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return {identity(result): result for result in map(json.loads, lines)}


def show(result: dict[str, Any]) -> str:
    by = result["by"] if result["clusters"] is None else f"{result['by']}, {result['clusters']}, {result['backbone']}"
    facts = [f"{name} {result[name]}" for name in ("NMI", "purity", "gain-fitted PSNR", "SSIM") if name in result]
    return (
        f"{result['on']:10} {result['key'] or '':9} protected by {by:32} {result['accuracy']:5.1f} %  "
        f"(mean of the last five {result['last 5']:.1f}, best {result['best']:.1f})  {', '.join(facts)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["clusters", "victims"])
    parser.add_argument("--clusters", type=int, nargs="+", default=[10], metavar="N")
    parser.add_argument("--backbone", default="shapes", metavar="NAME", help="shapes, efficientnet_lite0 or timm:NAME")
    parser.add_argument("--keys", type=int, default=1, metavar="N", help=f"the first N of {', '.join(KEYS)}")
    parser.add_argument("--test-set", action="store_true", help="once, when all choices are made")
    parser.add_argument("--epochs", type=int, default=RECIPE.epochs)
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="processes of one thread")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.part == "clusters":
        show_clusters(arguments.clusters, arguments.backbone)
        return
    wanted, have = tasks(arguments), known(arguments.results)
    missing = [each for each in wanted if identity(each) not in have]
    with multiprocessing.get_context("spawn").Pool(arguments.jobs) as pool:
        for result in pool.imap(run, missing):
            with arguments.results.open("a") as file:
                file.write(json.dumps(result) + "\n")
            print(show(result), f" ({result['seconds']} s)", flush=True)
    have = known(arguments.results)
    print("\n".join(show(have[identity(each)]) for each in wanted))


if __name__ == "__main__":
    main()
