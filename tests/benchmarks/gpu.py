"""What two cores cannot measure, on a CUDA device: `python tests/benchmarks/gpu.py speed|fits|table [--device cuda]`.

- `speed`: training a ResNet-18 by a DataLoader loop as a competent engineer would write it / by the library.
- `fits`: how long each fitted method's noise takes, by `--preset`; it is kept in the library's cache.
- `table`: the literature's setting: {clean, methods, controls} x defenses, ResNet-18, 50,000 rows of CIFAR-10, recipe
  `paper`. Every training is kept as a JSON file in `--out`: a stopped run goes on.

Nothing of it was run on a GPU for the figures of the documentation. `--device cpu --rows 500 --epochs 1 --victim
resnet9-screen --preset cpu` tries the script itself.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from datasets import Dataset, disable_progress_bars
from methods import METHODS
from screen import cifar, read
from training import baseline, ours

import unlearnable_transforms as ut
from unlearnable_transforms.evaluation.recipes import get_plan
from unlearnable_transforms.evaluation.recommended import make_poison

ROOT = Path(__file__).parents[2]
PRESETS = ("em", "aue", "tap", "hypo", "sem", "rem")
FITTED = ("pil", *PRESETS)
TITLES = ("cuda", "cuda, invertible > sem", *FITTED, "lsp", "ops", "ar")
DEFENSES = (
    "erm", "grayscale", "jpeg:quality=10", "coin", "rsk-ff", "orthogonal-projection", "at-fgsm", "ueraser",
)  # fmt: skip


def make(title: str, preset: str, key: str) -> ut.Poison:
    """A method or chain of `methods.py`; those that have presets get this one."""
    links = [(name, {**options, "preset": preset} if name in PRESETS else options) for name, options in METHODS[title]]
    return make_poison(links, ut.Key.public(key))


def fit(title: str, train: Dataset, arguments: argparse.Namespace) -> ut.Poison:
    poison = make(title, arguments.preset, arguments.key)
    start = time.perf_counter()
    poison.fit(train)
    print(f"{title:24} fit, {len(train):,} rows: {time.perf_counter() - start:.1f} s", flush=True)
    return poison


def speed(train: Dataset, arguments: argparse.Namespace) -> None:
    data = read(train)
    recipe = replace(get_plan("paper").recipe, epochs=arguments.epochs or 3)
    seconds = {}
    for name, way in (("plain loop", baseline), ("library", ours)):
        way((data[0][:512], data[1][:512]), replace(recipe, epochs=1), arguments.victim, arguments.device)  # warms up
        start = time.perf_counter()
        way(data, recipe, arguments.victim, arguments.device)
        seconds[name] = time.perf_counter() - start
        print(f"{name}: {seconds[name] / recipe.epochs:.2f} s an epoch", flush=True)
    print(f"plain loop / library: {seconds['plain loop'] / seconds['library']:.2f}")


def table(data: dict[str, Dataset], train: Dataset, arguments: argparse.Namespace) -> None:
    plan = get_plan("paper")
    if arguments.epochs:
        plan = replace(plan, name="paper, shortened", recipe=replace(plan.recipe, epochs=arguments.epochs))
    poisons = {title: fit(title, train, arguments) for title in arguments.methods}
    report = ut.evaluate(
        clean=train, test=data["test"], poisons=poisons, defenses=arguments.defenses, victims=[arguments.victim],
        seeds=arguments.seeds, recipe=plan, out=arguments.out, device=arguments.device, samples=0,
    )  # fmt: skip
    print(f"\n{report}\n\nLook at {report.save(arguments.out)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("speed", "fits", "table"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--preset", default="fast", help="of surrogate methods: paper, fast or cpu (default: fast)")
    parser.add_argument("--key", default="screen-0", help="name of a public key (default: screen-0)")
    parser.add_argument("--methods", nargs="+", default=list(TITLES), choices=METHODS)
    parser.add_argument("--defenses", nargs="+", default=list(DEFENSES), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--victim", default="resnet18")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--epochs", type=int, help="fewer than the recipe's, to try it")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=Path("results-gpu"))
    arguments = parser.parse_args()
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("this torch sees no CUDA device; --device cpu tries the script")
    card = torch.cuda.get_device_name(arguments.device) if arguments.device.startswith("cuda") else "no GPU"
    print(f"torch {torch.__version__}, {card}")
    disable_progress_bars()
    data = cifar(arguments.data)
    train = data["train"].select(range(arguments.rows))
    if arguments.part == "speed":
        speed(train, arguments)
    elif arguments.part == "fits":
        for title in (title for title in arguments.methods if title in FITTED):
            fit(title, train, arguments)
    else:
        table(data, train, arguments)


if __name__ == "__main__":
    main()
