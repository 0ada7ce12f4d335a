"""One cell of a table: one victim trained on one set under one defense from one seed. Computed once, kept as JSON.

What identifies a cell is what determines its victim: the pixels and labels it was trained and tested on, the poison's
public configuration, the defense, the victim, the settings of its recipe and the seed; names of them do not count.
Where and when it was computed is noted in it, and by which attacks the victim was tested, too: more of them are added
by computing the same cell again.

Format 2 knows the initialisation of the victim (``init``) and the recipe of plain training in the same table
(``plain``). Cells of format 1 are read as what they are: victims drawn by the rule of that time, "uniform".
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..defenses.base import Defense, Setting
from ..errors import UsageError
from ..files import read_json, whole
from ..sample import spread
from ..training.loop import Augment, History, Recipe, recipe_augment
from ..training.model import native_bf16, predict
from ..victims.registry import build_victim
from .metrics import macro_recall
from .robust import Attack, robust_accuracy

FORMAT = 2
INIT = "library"  # build_victim's: as torchvision and timm start a network
Cell = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """What a worker process needs to compute a cell, of which ``cell`` is identity and description, into ``path``. Sets
    are ``.npz`` files with ``images`` and ``labels``; the recipe is that of plain training, which a defense changes.
    ``victim`` is the name as it was asked for; the cell has the public one."""

    cell: Cell
    path: Path
    train: Path
    test: Path
    spare: Path | None
    defense: Defense
    recipe: Recipe
    device: str
    victim: str


def identity(cell: Cell) -> str:
    """16 hexadecimal digits that name a cell by what determines its numbers."""
    known = settings(cell) | {"data": cell["data"], "seed": cell["seed"]}
    known["set"] = {name: value for name, value in cell["set"].items() if name not in ("label", "of")}
    text = json.dumps({"format": FORMAT, **known}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def settings(cell: Cell) -> dict[str, Any]:
    """How a cell was trained, without names that only people read."""
    defense = {name: value for name, value in cell["defense"].items() if name != "label"}
    recipe = {name: value for name, value in cell["recipe"].items() if name != "name"}
    return {**{name: cell[name] for name in ("victim", "init", "plain")}, "defense": defense, "recipe": recipe}


def describe_recipe(recipe: Recipe) -> dict[str, Any]:
    """What is not a default, so that a new kind of setting leaves old cells as they are."""
    fields = dataclasses.fields(recipe)
    return {f.name: getattr(recipe, f.name) for f in fields if getattr(recipe, f.name) != f.default}


def compute(task: Task) -> None:
    """Train, test, write the cell. A loss that is no longer finite gives a cell of status "diverged"."""
    started = time.perf_counter()
    history = History()
    cell = task.cell | {"status": "done"}
    try:
        with torch.random.fork_rng():  # for layers that draw from the global state (dropout)
            torch.manual_seed(cell["seed"])
            cell["result"] = _train(task, history)
    except FloatingPointError as error:
        cell |= {"status": "diverged", "reason": str(error), "result": _curves(history)}
    cell["result"]["seconds"] = round(time.perf_counter() - started, 2)
    date = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    write(cell | {"machine": machine(task.device, task.recipe), "versions": versions(), "date": date}, task.path)


def _train(task: Task, history: History) -> dict[str, Any]:
    defense, recipe, seed, victim = task.defense, task.recipe, task.cell["seed"], task.victim
    images, labels = load(task.train)
    clean_images, test_labels = load(task.test)
    classes = len(task.cell["data"]["classes"])
    spare = None if task.spare is None else load(task.spare)
    setting = Setting(classes, images.shape[-1], victim, recipe, seed, task.device, spare)
    recipe = defense.recipe(recipe)

    images, labels = defense.rows(images, labels, setting)
    prepared = defense.prepare(images, labels, setting)
    net = build_victim(victim, classes, images.shape[-1], seed)
    net = defense.network(net.to(task.device), setting)
    test_images = defense.test(clean_images, setting)
    before = None
    if defense.starts_trained:  # what does it know already?
        before = _share_right(predict(net, test_images), test_labels)
    defense.train(
        net, prepared, labels, setting=setting, recipe=recipe, history=history, test=(test_images, test_labels),
        augment=_augment(defense, recipe), perturb=defense.perturb, loss=defense.loss, on_epoch=defense.on_epoch,
    )  # fmt: skip
    defense.finish(net, setting)
    answers = defense.predict(net, test_images, setting)
    answers = predict(net, test_images) if answers is None else answers
    history.test_accuracy[-1] = _share_right(answers, test_labels)  # after `finish`, by the defense's own prediction
    confusion = _confusion(answers.argmax(1).cpu(), test_labels, classes)
    robust = [
        _robust(net, Attack(**attack), defense, setting, (clean_images, test_labels))
        for attack in task.cell.get("attacks", [])
    ]
    best = max(range(len(history.test_accuracy)), key=history.test_accuracy.__getitem__)
    return {
        "last": history.last,
        "last5": history.last5,
        "best": history.best,
        "best_epoch": best + 1,
        "before_training": before,
        "macro_recall": macro_recall(confusion),
        "confusion": confusion,
        **({"robust": robust} if robust else {}),
        **_curves(history),
    }


def _robust(
    net: nn.Module, attack: Attack, defense: Defense, setting: Setting, test: tuple[Tensor, Tensor]
) -> dict[str, float]:
    """Accuracies under one attack that knows what the defense does to test pictures."""
    images, labels = (tensor[spread(len(tensor), attack.rows)] for tensor in test)
    transform = None if type(defense).test is Defense.test else partial(defense.test, setting=setting)
    options = {name: value for name, value in vars(attack).items() if name != "rows"}
    accuracy = robust_accuracy(net, images, labels, **options, transform=transform, device=setting.device)
    return {"clean": accuracy.clean, "robust": accuracy.robust}


def _curves(history: History) -> dict[str, Any]:
    return {
        name: [round(each, 6) for each in value] if isinstance(value, list) else value
        for name, value in vars(history).items()
    }


def _augment(defense: Defense, recipe: Recipe) -> Augment | None:
    """The recipe's crop and flip, then the defense's augmentation, unless that takes their place."""
    augment = defense.augment
    if augment is None or defense.replaces_augment:
        return augment
    plain = recipe_augment(recipe)
    return lambda images, generator: augment(plain(images, generator), generator)


def _share_right(answers: Tensor, labels: Tensor) -> float:
    return float((answers.argmax(1).cpu() == labels).double().mean())


def _confusion(predicted: Tensor, true: Tensor, classes: int) -> list[list[int]]:
    """Counts; rows are true classes, columns predicted ones."""
    return torch.bincount(true * classes + predicted, minlength=classes**2).view(classes, classes).tolist()


# ---- files


def save(path: Path, images: Tensor, labels: Tensor) -> Path:
    """Images and labels where worker processes find them."""
    np.savez(path, images=images.numpy(), labels=labels.numpy())
    return path


def load(path: Path) -> tuple[Tensor, Tensor]:
    """What :func:`save` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])


def write(value: Mapping[str, Any], path: Path) -> None:
    """One JSON file, whole or not at all; a line for each entry."""
    lines = [f"{json.dumps(name)}: {json.dumps(inner, allow_nan=False)}" for name, inner in value.items()]
    with whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("{\n" + ",\n".join(lines) + "\n}\n")
        file.flush()
        os.fsync(file.fileno())


def read_cells(folder: Path) -> Iterator[Cell]:
    """All cells of a folder in the form of today's format, in the order of their file names.

    A cell that lies there twice, for instance in a copied file, is read once.

    Raises:
        ValueError: a file is damaged or of a later format; it is named.
    """
    seen = set()
    for path in sorted(folder.glob("*.json")):
        cell = read_json(path, object, "remove it, and it is computed again")
        if not isinstance(cell, dict) or "id" not in cell or "defense" not in cell:
            continue  # report.json, or somebody else's file
        if cell.get("format") not in (1, FORMAT):
            raise UsageError(f"{path} has the format {cell.get('format')}; this library reads 1 to {FORMAT}")
        if cell["id"] not in seen:
            seen.add(cell["id"])
            yield _of_format_1(cell) if cell["format"] == 1 else cell


def _of_format_1(cell: Cell) -> Cell:
    """Recipes of one's own were all called "own" and had no columns with epochs of their own."""
    name = cell["recipe"]["name"]
    plain = {"recipe": name} if name != "own" else {k: v for k, v in cell["recipe"].items() if k != "name"}
    return {**cell, "init": "uniform", "plain": plain}


# ---- where and when


def machine(device: str, recipe: Recipe) -> dict[str, Any]:
    """The hardware and its arithmetic; no host name, no user."""
    bf16 = native_bf16(device) if recipe.bf16 is None else recipe.bf16
    on_gpu = torch.device(device).type == "cuda"
    return {
        "processor": torch.cuda.get_device_name(device) if on_gpu else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "precision": "bfloat16" if bf16 else "float32",
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    result = {"python": platform.python_version()}
    names = ["unlearnable-transforms", "torch", "torchvision", "numpy", "pillow"]
    for name in names + ["timm"] * ("timm" in sys.modules):
        with contextlib.suppress(metadata.PackageNotFoundError):  # code that runs without having been installed
            result[name] = metadata.version(name)
    return result
