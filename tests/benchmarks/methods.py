"""All methods and four chains under eight kinds of training: `python tests/benchmarks/methods.py [--draw]`.

Prints {clean, every method, four chains, controls} x {plain training, grayscale, JPEG-10, COIN, RSK+FF, orthogonal
projection, FGSM-RS adversarial training, UEraser-lite}: a ResNet-9 on the first 10,000 rows of CIFAR-10's training
set, tested on the clean test set, one key, one training seed; then three seeds, and three fresh keys, of the three
methods whose highest accuracy is lowest, under the three defenses that are worst for each. Fitted methods are fitted
with preset `cpu`. Behind the table: how much each method changes a picture, and Kendall's tau between its columns and
published ones of ResNet-18. Every training is kept as a JSON file: a stopped run goes on. `--draw` trains nothing and
prints what is there. `--controls pil "cuda > sem"` measures the controls of these: random noise of equal PSNR, one
filter for all classes, of a chain both. `--write` brings the figures into the package, for `ut.recommended`.
"""

import argparse
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datasets import disable_progress_bars
from scipy.stats import kendalltau
from screen import cifar

from unlearnable_transforms import Key, Poison, Report, evaluate
from unlearnable_transforms.evaluation.cells import INIT
from unlearnable_transforms.evaluation.recommended import MEASURED, make_poison
from unlearnable_transforms.jobs.workers import cores
from unlearnable_transforms.pixels import gain_fitted_psnr, psnr, ssim

ROOT = Path(__file__).parents[2]
KEY, FRESH_KEYS = "screen-0", ("screen-1", "screen-2", "screen-3")
DEFENSES = (
    "erm", "grayscale", "jpeg:quality=10", "coin", "rsk-ff", "orthogonal-projection", "at-fgsm", "ueraser:variant=lite",
)  # fmt: skip
TRAINING, ATTACKER = range(10_000), range(10_000, 20_000)
BEST, WORST, SEEDS = 3, 3, (0, 1, 2)
METHODS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    **{name: [(name, {})] for name in ("cuda", "sem", "em", "rem", "tap", "pil", "lsp", "ar", "ops", "hypo", "aue")},
    "cuda > sem": [("cuda", {}), ("sem", {})],
    "sem > cuda": [("sem", {}), ("cuda", {})],
    "cuda, invertible > sem": [("cuda", {"invertible": True}), ("sem", {})],
    "cuda > ops": [("cuda", {}), ("ops", {})],
}
PUBLISHED = tomllib.loads((ROOT / "docs" / "results" / "literature" / "published.toml").read_text(encoding="utf-8"))
"""By source: what it is, its settings, and accuracies in %, by defense and method."""
LEAST = 3  # methods: an order of fewer says nothing


def make(title: str, key: str) -> Poison:
    return make_poison(METHODS[title], Key.public(key))


def label(title: str, key: str) -> str:
    return f"{'CUDA' if title == 'cuda' else title}, key {key}"  # as the other tables of this folder call it


def accuracies(report: Report, name: str) -> dict[str, float]:
    """Mean accuracy over seeds of a row, by the defense's name, on the training rows of this benchmark.

    The folder's other benchmarks train on other rows too, and earlier versions started their victims in another way:
    the report has a table for each.
    """
    tables = [
        table
        for table in report.tables
        if table.about["init"] == INIT and any(row[0] == label("cuda", KEY) for row, _ in table.entries)
    ]
    return {
        entry.cells[0]["defense"]["name"]: entry.last
        for table in tables
        for (row, _), entry in table.entries.items()
        if row[0] == name and entry.last is not None
    }


def quality_of(poison: Poison, images: np.ndarray, labels: list[int]) -> dict[str, float]:
    """Mean PSNR, also after the best gain, and SSIM over some pictures."""
    pairs = list(zip(images, poison.apply(images, labels), strict=True))
    kinds = {"psnr": psnr, "psnr_gain": gain_fitted_psnr, "ssim": ssim}
    return {name: float(np.mean([min(kind(*pair), 99.0) for pair in pairs])) for name, kind in kinds.items()}


def agreement(measured: dict[str, dict[str, float]]) -> Iterator[tuple[str, str, float, float, list[str]]]:
    """Defense, source, Kendall's tau between our order of the methods and the published one, its p-value, and the
    methods that both have. Clean images are no method.

    Args:
        measured: accuracies by method and the name of the defense.
    """
    for source, known in PUBLISHED.items():
        for defense, published in known["accuracy"].items():
            both = [title for title in published if title != "clean" and defense in measured.get(title, {})]
            if len(both) >= LEAST:
                tau, p = kendalltau([measured[title][defense] for title in both], [published[title] for title in both])
                yield defense, source, tau, p, both


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "screen")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--workers", type=int, default=cores())
    parser.add_argument(
        "--methods", nargs="+", default=list(METHODS), choices=METHODS, help="only these (default: all)"
    )
    parser.add_argument("--defenses", nargs="+", default=list(DEFENSES), help="only these (default: all)")
    parser.add_argument("--once", action="store_true", help="one seed and key: leave the best methods' others out")
    parser.add_argument(
        "--controls", nargs="+", default=[], choices=METHODS, help="measure the controls of these, and nothing else"
    )
    parser.add_argument("--draw", action="store_true", help="print what is there, train nothing")
    parser.add_argument("--write", action="store_true", help="also write the figures that ut.recommended reads")
    arguments = parser.parse_args()
    disable_progress_bars()
    data = cifar(arguments.data)
    train = data["train"].select(TRAINING)
    settings: dict[str, Any] = {
        "clean": train,
        "attacker_clean": data["train"].select(ATTACKER),
        "test": data["test"],
        "recipe": "screen",
        "out": arguments.out,
        "workers": arguments.workers,
        "samples": 0,
    }
    if arguments.controls:
        for title in arguments.controls:
            own = {label(title, KEY): make(title, KEY).fit(train)}
            print(evaluate(**settings, poisons=own, defenses=arguments.defenses), flush=True)
        return
    if not arguments.draw:
        poisons = {label(title, KEY): make(title, KEY).fit(train) for title in arguments.methods}
        for name, poison in poisons.items():  # one after the other, so that what is done is whole rows
            evaluate(**settings, poisons={name: poison}, defenses=arguments.defenses, controls=False)
        print(evaluate(**settings, poisons=poisons, defenses=arguments.defenses, controls=False), flush=True)
    report = Report.load(arguments.out)
    measured = {title: accuracies(report, label(title, KEY)) for title in arguments.methods}
    complete = [title for title in measured if len(measured[title]) >= len(DEFENSES)]
    names = [defense.partition(":")[0] for defense in DEFENSES]
    rows = train.select(range(200)).with_format("numpy")
    images, labels = np.stack(list(rows["image"])), [int(value) for value in rows["label"]]
    ranked = sorted(complete, key=lambda title: max(measured[title][name] for name in names))
    print("\nWorst case first, in %; how pictures look (mean of 200):")
    figures = []
    for title in ranked:
        worst = max(names, key=lambda name: measured[title][name])
        quality = quality_of(make(title, KEY).fit(train), images, labels)
        accuracies_of = {name: round(measured[title][name], 4) for name in names}
        quality = {name: round(value, 3) for name, value in quality.items()}
        figures.append(
            {"method": title, "links": METHODS[title], "worst": worst, "accuracies": accuracies_of, **quality}
        )
        print(
            f"  {title:12} at most {100 * measured[title][worst]:5.1f} under {worst:22} PSNR {quality['psnr']:5.1f}, "
            f"after the best gain {quality['psnr_gain']:5.1f} dB, SSIM {quality['ssim']:.3f}"
        )
    print("\nKendall's tau between the order of the methods here and in published tables (methods in both):")
    for defense, source, tau, p, both in agreement(measured):
        print(f"  {defense:22} {source:10} {tau:+.2f} (p {p:.2f}; {', '.join(both)})")
    clean = accuracies(report, "clean")
    if arguments.write:
        clean = {name: round(clean[name], 4) for name in names}
        MEASURED.write_text(json.dumps({"clean": clean, "methods": figures}, indent=1) + "\n")
        print(f"\nwrote {MEASURED}")
    if not (arguments.draw or arguments.once):
        for title in ranked[:BEST]:
            worst = sorted(names, key=lambda name: measured[title][name])[-WORST:]
            columns = [defense for defense in DEFENSES if defense.partition(":")[0] in worst]
            own = {label(title, KEY): make(title, KEY).fit(train)}
            print(evaluate(**settings, poisons=own, defenses=columns, seeds=SEEDS, controls=False), flush=True)
            fresh = {label(title, key): make(title, key).fit(train) for key in FRESH_KEYS}
            print(evaluate(**settings, poisons=fresh, defenses=columns, controls=False), flush=True)


if __name__ == "__main__":
    main()
