"""``evaluate``: training sets x defenses x victims x seeds -> cells -> a report."""

import itertools
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from ..defenses.base import Defense
from ..files import read_json
from ..jobs.workers import run_tasks
from ..poisons.base import Poison
from ..sample import spread
from ..training.loop import Recipe
from ..victims.registry import REGISTRY
from .cells import FORMAT, INIT, Cell, Task, compute, describe_recipe, identity, read_cells, save, write
from .columns import DEFENSES, defense_label, make_attack, make_defense
from .data import Pictures, common_classes, digest, numbers, own_size, read_pictures, settled, to_tensor
from .pictures import looks
from .recipes import Plan, get_plan
from .report import AGAIN, SETS, Report
from .robust import Attack
from .sets import TrainingSet, fitted, label_of, training_sets
from .tables import PLAIN


def evaluate(
    *,
    test: Any,
    clean: Any = None,
    poisons: Sequence[Poison] | Mapping[str, Poison] = (),
    protected: Any = None,
    defenses: Sequence[str | Defense] = DEFENSES,
    victims: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    attacks: Sequence[str | Attack] = (),
    recipe: str | Recipe | Plan = "screen",
    out: str | Path | None = None,
    controls: bool = True,
    fractions: Sequence[float] = (),
    attacker_clean: Any = None,
    image_size: int | None = None,
    rows: int | None = None,
    workers: int = 1,
    device: str | None = None,
    image_key: str | None = None,
    label_key: str | None = None,
    samples: int = 8,
    progress: bool = True,
) -> Report:
    """Train victims on clean and on protected pictures, with and without defenses, and test them on clean ones.

    Every cell (training set, defense, victim, recipe, seed) is one training. It is kept as a JSON file in ``out`` and
    never computed twice: started again, a killed run goes on, and a call with more defenses or seeds adds to the table.

    Args:
        test: clean test pictures. What a set may be is said in :func:`~.data.read_pictures`.
        clean: the unprotected training pictures, for the clean control and to make the protected ones from.
        poisons: methods to apply to ``clean``, or a mapping of names to methods. One that is not fitted is fitted.
        protected: a training set that somebody protected already.
        defenses: names as in ``list_defenses()``, also with arguments (``"jpeg:quality=30"``, ``"at-fgsm:eps=4/255"``),
            or instances. "erm" is plain training; it always belongs into a table. The default is a quick look.
        victims: names as in ``list_victims()``; default: the recipe's.
        seeds: training seeds. Keys are varied by passing several poisons.
        attacks: also test each victim on adversarial pictures: "linf", "l2", also with arguments
            ("linf:eps=4/255,steps=50"), or :class:`~.robust.Attack`. One that was trained without is trained again.
        recipe: "screen" (minutes on two cores), "paper" (the literature's; for a GPU), "digits", or a Recipe.
        out: folder of the cells; None keeps them in memory alone.
        controls: also measure each poison's control: one filter for all classes, or random noise of equal PSNR.
        fractions: shares in (0, 1): also measure each poison on that share of the pictures, and the clean rest alone.
        attacker_clean: clean pictures that the attacker has, disjoint from the others; some defenses need them.
        image_size: side in pixels to which a victim resizes; default: the pictures' own.
        rows: training pictures, spread evenly over the set; default: the recipe's number.
        workers: processes, each with one thread; 1 works in this process, with one thread, too. More than 1 needs
            ``if __name__ == "__main__":`` in a script. On a GPU cells are computed one after another.
        device: "cpu" or "cuda"; default: a GPU where there is one.
        image_key, label_key: columns of the sets; default: the common names.
        samples: training pictures shown in the report, clean beside protected. Such pairs tell something about the
            key: pass 0 for a report that leaves your hands.
        progress: show a bar with the time left.

    Raises:
        TypeError, ValueError: sets that do not fit together, are empty, have one class, or can be read only once.
        KeyError: unknown defenses, victims or recipes.
        RuntimeError: cells that could not be computed; the others are kept.
    """
    plan = get_plan(recipe)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    columns = [make_defense(defense, plan) for defense in defenses]
    asked = [asdict(make_attack(attack)) for attack in attacks]
    victims = list(victims or [plan.victim])
    for victim in victims:
        REGISTRY.find(victim)  # an unknown one is refused before anything is read
    if not columns or not seeds:
        raise ValueError("there is nothing to compute: name at least one defense and one seed")
    named = dict(poisons) if isinstance(poisons, Mapping) else {label_of(poison): poison for poison in poisons}
    if len(named) < len(poisons):
        raise ValueError("two poisons would have the same name: pass a mapping of names to poisons")

    keys = {"image_key": image_key, "label_key": label_key}
    sets = _read(clean, protected, test, attacker_clean, keys, rows or plan.rows)
    if named and "clean" not in sets:
        raise ValueError("poisons are applied to clean pictures: pass clean=")
    data = _Data.of(sets, image_size)
    needing = [column.name for column in columns if column.needs_clean]
    if needing and data.spare is None:
        raise ValueError(f"{', '.join(needing)} needs clean pictures that the attacker has: pass attacker_clean=")
    for poison in named.values():
        fitted(poison, sets["clean"])

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "cells") if out is None else Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        shared = save(Path(scratch, "test.npz"), *data.test)
        spare = None if data.spare is None else save(Path(scratch, "spare.npz"), *data.spare)
        known = {cell["id"]: cell.get("attacks", []) for cell in read_cells(folder)}
        wanted, seen, tasks, clean_digest = set(), {}, [], None
        for training in training_sets(
            sets.get("clean"), sets.get("protected"), named, controls=controls, fractions=fractions
        ):
            images = to_tensor(training.pictures, data.size, training.change)
            labels = numbers(training.pictures, data.classes)
            if len(labels.unique()) < 2:
                raise ValueError(f"the set {training.label!r} has {len(labels)} pictures of fewer than two classes")
            name = digest(images, labels)
            if training.role == "clean":  # the first of all
                clean_digest = name
            seen[name] = _looks(training, sets.get("clean"), samples, folder / SETS / f"{name}.json")
            stored = Path(scratch, f"{name}.npz")
            about = {"clean": clean_digest, "train": name, "rows": len(labels), **data.about}
            for cell, defense, training_recipe in _cells(training, about, data, plan, columns, victims, seeds):
                if cell["id"] in wanted:
                    continue  # asked for twice, such as "jpeg" and "jpeg:quality=10"
                wanted.add(cell["id"])
                measured = known.get(cell["id"], [])
                more = [attack for attack in asked if attack not in measured]
                if cell["id"] in known and not more:
                    continue
                if measured or more:
                    cell["attacks"] = measured + more
                if not stored.exists():
                    save(stored, images, labels)
                file = folder / f"{_slug(cell)}.json"
                own_spare = spare if defense.needs_clean else None
                tasks.append(Task(cell, file, stored, shared, own_spare, defense, training_recipe, device))
        _run(tasks, workers if device == "cpu" else 1, progress)
        return Report([cell for cell in read_cells(folder) if cell["id"] in wanted], seen)


def _read(
    clean: Any, protected: Any, test: Any, spare: Any, keys: dict[str, Any], rows: int | None
) -> dict[str, Pictures]:
    """The sets that were given, training sets first and cut to ``rows``."""
    if clean is None and protected is None:
        raise ValueError("there is nothing to train on: pass clean=, protected=, or both")
    given = {"clean": (clean, "train"), "protected": (protected, "train"), "attacker_clean": (spare, "train"),
             "test": (test, "test")}  # fmt: skip
    sets = {}
    for what, (source, split) in given.items():
        if source is not None:
            sets[what] = read_pictures(source, what=what, split=split, **keys)
    for what in ("clean", "protected"):
        if what in sets and rows is not None and rows < len(sets[what]):
            sets[what] = sets[what].select(spread(len(sets[what]), rows))
    return {what: settled(pictures) for what, pictures in sets.items()}


@dataclass(frozen=True)
class _Data:
    """What all cells of a call share, as tensors of one size."""

    classes: list[int | str]
    size: int
    test: tuple[Tensor, Tensor]
    spare: tuple[Tensor, Tensor] | None
    spare_digest: str | None
    about: dict[str, Any]

    @classmethod
    def of(cls, sets: dict[str, Pictures], image_size: int | None) -> "_Data":
        classes = common_classes(**sets)
        size = image_size or own_size(next(iter(sets.values())))
        test, spare = (
            (to_tensor(sets[what], size), numbers(sets[what], classes)) if what in sets else None
            for what in ("test", "attacker_clean")
        )
        assert test is not None
        about = {"test": digest(*test), "test_rows": len(test[1]), "image_size": size, "classes": classes}
        return cls(classes, size, test, spare, None if spare is None else digest(*spare), about)


def _cells(
    training: TrainingSet, about: dict[str, Any], data: _Data, plan: Plan, columns: Sequence[Defense],
    victims: Sequence[str], seeds: Sequence[int],
) -> Iterator[tuple[Cell, Defense, Recipe]]:  # fmt: skip
    """The cells of one training set, still without results. ``about`` is what its data is."""
    for seed, victim, defense in itertools.product(seeds, victims, columns):
        recipe = plan.training(victim, defense.name)
        cell: Cell = {
            "data": about | {"spare": data.spare_digest if defense.needs_clean else None},
            "set": training.about(),
            "defense": {
                "label": defense_label(defense),
                "name": defense.name,
                "version": defense.version,
                "arguments": defense.arguments(),
            },
            "victim": victim,
            "init": INIT,
            "recipe": {"name": plan.name, **describe_recipe(recipe)},
            "plain": describe_recipe(plan.training(victim, PLAIN)),
            "seed": int(seed),
        }
        cell = json.loads(json.dumps(cell))  # as it will be read: tuples become lists
        yield {"format": FORMAT, "id": identity(cell), **cell}, defense, recipe


def _looks(training: TrainingSet, clean: Pictures | None, samples: int, path: Path) -> dict[str, Any]:
    """How a set looks: from an earlier call, or measured now and kept beside the cells."""
    if path.exists():
        return read_json(path, dict, AGAIN)
    path.parent.mkdir(exist_ok=True)
    made = looks(training, clean, samples)
    write(made, path)
    return made


def _slug(cell: Cell) -> str:
    parts = (cell["set"]["label"], cell["defense"]["label"], cell["victim"], f"seed {cell['seed']}")
    text = "_".join(re.sub(r"[^a-z0-9.]+", "-", part.lower()).strip("-")[:40] for part in parts)
    return f"{text}_{cell['id']}"


def _run(tasks: list[Task], workers: int, progress: bool) -> None:
    """Compute the cells; one that fails does not stop the others."""
    if not tasks:
        return
    work = [task.recipe.epochs * task.cell["data"]["rows"] for task in tasks]
    problems: list[tuple[str, Exception]] = []
    shape = "{desc} |{bar}| {percentage:.0f} %  {elapsed}, about {remaining} left"
    with tqdm(total=sum(work), disable=not progress, smoothing=0, bar_format=shape) as bar:
        bar.set_description(f"cell 0 of {len(tasks)}")
        done = run_tasks(_attempt, list(enumerate(tasks)), min(workers, len(tasks)), ahead=1, patience=0.5)
        for count, (place, error) in enumerate(done, 1):
            if error is not None:
                problems.append((tasks[place].path.stem, error))
            bar.set_description(f"cell {count} of {len(tasks)}", refresh=False)
            bar.update(work[place])
    if problems:
        name, first = problems[0]
        raise RuntimeError(
            f"{len(problems)} of {len(tasks)} cells could not be computed, the others are kept. The first is {name}: "
            f"{type(first).__name__}: {first}"
        ) from first


def _attempt(numbered: tuple[int, Task]) -> tuple[int, Exception | None]:
    place, task = numbered
    try:
        compute(task)
    except Exception as error:
        return place, error
    return place, None
