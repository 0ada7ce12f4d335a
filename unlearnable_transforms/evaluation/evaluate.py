"""``evaluate``: training sets x defenses x victims x seeds -> cells -> a report."""

import itertools
import json
import re
import tempfile
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from ..defenses.base import REGISTRY, Defense
from ..defenses.compose import order_of_hooks
from ..errors import UnlearnableError, UsageError, WorkError
from ..files import read_json
from ..jobs.workers import run_tasks
from ..poisons.base import Poison
from ..sample import spread
from ..training.loop import Recipe
from ..victims.registry import public_name
from .cells import FORMAT, INIT, Cell, Task, compute, describe_recipe, identity, read_cells, save, write
from .columns import DEFENSES, defense_label, make_attack, make_defense
from .data import Pictures, common_classes, common_side, digest, numbers, read_pictures, settled, to_tensor
from .pictures import describe
from .recipes import Plan, get_plan
from .report import AGAIN, SEARCHES, SETS, Report, refuse_output
from .robust import Attack
from .search import LEAST, Trial, search, worst
from .sets import TrainingSet, fitted, label_of, training_sets
from .tables import PLAIN

SEARCH = "search"  # in place of a list of defenses


def evaluate(
    *,
    test: Any,
    clean: Any = None,
    poisons: Sequence[Poison] | Mapping[str, Poison] = (),
    protected: Any = None,
    defenses: Sequence[str | Defense] | str = DEFENSES,
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
    budget: int = 40,
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
        defenses: "search" looks for the worst case within ``budget`` (see :mod:`~.search`); else names as in
            ``list_defenses()``, also with arguments (``"jpeg:quality=30"``, ``"at-fgsm:eps=4/255"``), several one after
            the other (``"jpeg + rsk-ff"``), or instances. "erm" is plain training; it always belongs into a table. The
            default is a quick look.
        victims: names as in ``list_victims()``, also with a start (``"efficientnet_lite0:weights=imagenet"``); default:
            the recipe's.
        seeds: training seeds. Keys are varied by passing several poisons.
        attacks: also test each victim on adversarial pictures: "linf", "l2", also with arguments
            ("linf:eps=4/255,steps=50"), or :class:`~.robust.Attack`. One that was trained without is trained again.
        recipe: "screen" (minutes on two cores), "photographs", "paper" (the literature's; for a GPU), "digits", or a
            Recipe.
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
        budget: full trainings that a search may spend on each protected set, at least 8; a screened one counts a third.
        progress: show a bar with the time left.

    Raises:
        TypeError, ValueError: sets that do not fit together, are empty, have one class, or can be read only once.
        KeyError: unknown defenses, victims or recipes.
        RuntimeError: cells that could not be computed; the others are kept.
    """
    plan = get_plan(recipe)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    searched = defenses == SEARCH
    if isinstance(defenses, str):
        defenses = [PLAIN] if searched else [defenses]
    if searched and budget < LEAST:
        raise UsageError(f"a search needs a budget of at least {LEAST} trainings, got {budget}")
    columns = [make_defense(defense, plan) for defense in defenses]
    asked = [asdict(make_attack(attack)) for attack in attacks]
    victims = list(victims or [plan.victim])
    for victim in victims:
        public_name(victim)  # an unknown one, or a missing file, is refused before anything is read
    if not columns or not seeds:
        raise UsageError("there is nothing to compute: name at least one defense and one seed")
    named = dict(poisons) if isinstance(poisons, Mapping) else {label_of(poison): poison for poison in poisons}
    if len(named) < len(poisons):
        raise UsageError(
            "two methods would have one name, from the same key perhaps: leave one out, or name them in a mapping"
        )

    if samples and out is not None:
        refuse_output(Path(out))
    keys = {"image_key": image_key, "label_key": label_key}
    sets = _read(clean, protected, test, attacker_clean, keys, rows or plan.rows)
    if named and "clean" not in sets:
        raise UsageError("poisons are applied to clean pictures: pass clean=")
    data = _Data.of(sets, image_size, progress)
    needing = [column.name for column in columns if any(column.clean_for(victim) for victim in victims)]
    if needing and data.spare is None:
        raise UsageError(f"{', '.join(needing)} needs clean pictures that the attacker has: pass attacker_clean=")
    for poison in named.values():
        fitted(poison, sets["clean"])

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "cells") if out is None else Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        bench = _Bench(folder, Path(scratch), data, victims, seeds, asked, device, workers, progress)
        for training in training_sets(
            sets.get("clean"), sets.get("protected"), named, controls=controls, fractions=fractions
        ):
            bench.add(training, sets.get("clean"), samples)
        cell_ids = bench.train(bench.sets, columns, plan)
        searches = bench.search(plan, budget) if searched else {}
        if searches:
            best = [make_defense(worst(trials).defense, plan) for trials in searches.values()]
            cell_ids |= bench.train(bench.sets, best, plan)  # what it does to clean images and to the controls
            cell_ids |= bench.searched
            write({label: list(map(asdict, trials)) for label, trials in searches.items()}, folder / SEARCHES)
        cells = [cell for cell in read_cells(folder) if cell["id"] in cell_ids]
        return Report(cells, bench.descriptions, searches)


@dataclass
class _Prepared:
    """A training set as victims get it: what cells say of its data, and the file of its pixels and labels."""

    training: TrainingSet
    about: dict[str, Any]
    stored: Path


@dataclass
class _Bench:
    """Where the cells of a call are computed: each once, kept in ``folder``."""

    folder: Path
    scratch: Path
    data: "_Data"
    victims: Sequence[str]
    seeds: Sequence[int]
    attacks: Sequence[dict[str, Any]]
    device: str
    workers: int
    progress: bool
    sets: list[_Prepared] = field(default_factory=list)
    descriptions: dict[str, Any] = field(default_factory=dict)
    searched: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        data = self.data
        self.test = save(self.scratch / "test.npz", *data.test)
        self.spare = None if data.spare is None else save(self.scratch / "spare.npz", *data.spare)

    def add(self, training: TrainingSet, clean: Pictures | None, samples: int) -> None:
        """Protect and resize a training set; the clean one comes first."""
        images = to_tensor(training.pictures, self.data.size, training.change, training.label if self.progress else "")
        labels = numbers(training.pictures, self.data.classes)
        if len(labels.unique()) < 2:
            raise UsageError(f"the set {training.label!r} has {len(labels)} pictures of fewer than two classes")
        name = digest(images, labels)
        clean_digest = self.sets[0].about["clean"] if self.sets else name if training.role == "clean" else None
        self.descriptions[name] = _describe(
            training, clean, samples, self.folder / SETS / f"{name}.json", self.progress
        )
        about = {"clean": clean_digest, "train": name, "rows": len(labels), **self.data.about}
        stored = save(self.scratch / f"{name}.npz", images, labels)
        self.sets.append(_Prepared(training, about, stored))

    def train(self, sets: Sequence[_Prepared], columns: Sequence[Defense], plan: Plan) -> set[str]:
        """Compute the cells that are missing; the ids of all."""
        known = {cell["id"]: cell.get("attacks", []) for cell in read_cells(self.folder)}
        cell_ids: set[str] = set()
        tasks = []
        for prepared in sets:
            for cell, victim, defense, recipe in _cells(prepared, self.data, plan, columns, self.victims, self.seeds):
                if cell["id"] in cell_ids:
                    continue  # asked for twice, such as "jpeg" and "jpeg:quality=10"
                cell_ids.add(cell["id"])
                measured = known.get(cell["id"], [])
                more = [attack for attack in self.attacks if attack not in measured]
                if cell["id"] in known and not more:
                    continue
                if measured or more:
                    cell["attacks"] = measured + more
                file = self.folder / f"{_slug(cell)}.json"
                spare = self.spare if defense.clean_for(victim) else None
                tasks.append(Task(cell, file, prepared.stored, self.test, spare, defense, recipe, self.device, victim))
        _run(tasks, self.workers if self.device == "cpu" else 1, self.progress)
        return cell_ids

    def search(self, plan: Plan, budget: int) -> dict[str, list[Trial]]:
        """The sequence of defenses that recovers the most, for every protected set."""
        cheap = [name for name in REGISTRY.names() if name != PLAIN and not REGISTRY.find(name).costly]
        singles = [name for name in cheap if self._identify(name, plan) is not None]
        screening = plan.screening()
        result = {}
        for prepared in self.sets:
            if prepared.training.role != "poison":
                continue

            def measure(specs: Sequence[str], full: bool, prepared: _Prepared = prepared) -> list[float | None]:
                chosen = plan if full else screening
                columns = [make_defense(spec, chosen) for spec in specs]
                ids = self.train([prepared], columns, chosen)
                if full:
                    self.searched |= ids
                labels: dict[str, list[float]] = {defense_label(column): [] for column in columns}
                for cell in read_cells(self.folder):
                    if cell["id"] in ids and cell["status"] == "done":
                        labels[cell["defense"]["label"]].append(cell["result"]["last"])
                means = [labels[defense_label(column)] for column in columns]
                return [sum(each) / len(each) if each else None for each in means]

            result[prepared.training.label] = search(
                measure, singles, budget, identify=lambda spec: self._identify(spec, plan)
            )
        return result

    def _identify(self, spec: str, plan: Plan) -> Hashable | None:
        """The identity of a defense's training; None where the attacker lacks what it needs, or its parts clash."""
        try:
            defense = make_defense(spec, plan)
        except (UnlearnableError, ImportError):  # one without a default, such as "purify", or parts that clash
            return None
        if self.data.spare is None and any(defense.clean_for(victim) for victim in self.victims):
            return None
        return order_of_hooks(defense)


def _read(
    clean: Any, protected: Any, test: Any, spare: Any, keys: dict[str, Any], rows: int | None
) -> dict[str, Pictures]:
    """The sets that were passed, training sets first and cut to ``rows``."""
    if clean is None and protected is None:
        raise UsageError("there is nothing to train on: pass clean=, protected=, or both")
    sources = {"clean": (clean, "train"), "protected": (protected, "train"), "attacker_clean": (spare, "train"),
             "test": (test, "test")}  # fmt: skip
    sets = {}
    for what, (source, split) in sources.items():
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
    def of(cls, sets: dict[str, Pictures], image_size: int | None, progress: bool) -> "_Data":
        classes = common_classes(**sets)
        size = image_size or common_side(next(iter(sets.values())))
        test, spare = (
            (to_tensor(sets[what], size, None, what if progress else ""), numbers(sets[what], classes))
            if what in sets
            else None
            for what in ("test", "attacker_clean")
        )
        assert test is not None
        about = {"test": digest(*test), "test_rows": len(test[1]), "image_size": size, "classes": classes}
        return cls(classes, size, test, spare, None if spare is None else digest(*spare), about)


def _cells(
    prepared: _Prepared, data: _Data, plan: Plan, columns: Sequence[Defense], victims: Sequence[str],
    seeds: Sequence[int],
) -> Iterator[tuple[Cell, str, Defense, Recipe]]:  # fmt: skip
    """The cells of one training set, still without results."""
    public = {victim: public_name(victim) for victim in victims}
    for seed, victim, defense in itertools.product(seeds, victims, columns):
        recipe = plan.training(victim, defense.name)
        cell: Cell = {
            "data": prepared.about | {"spare": data.spare_digest if defense.clean_for(victim) else None},
            "set": prepared.training.about(),
            "defense": {
                "label": defense_label(defense),
                "name": defense.name,
                "version": defense.version,
                "arguments": defense.arguments(),
            },
            "victim": public[victim],
            "init": INIT,
            "recipe": {"name": plan.name, **describe_recipe(recipe)},
            "plain": describe_recipe(plan.training(victim, PLAIN)),
            "seed": int(seed),
        }
        cell = json.loads(json.dumps(cell))  # as it will be read: tuples become lists
        yield {"format": FORMAT, "id": identity(cell), **cell}, victim, defense, recipe


def _describe(
    training: TrainingSet, clean: Pictures | None, samples: int, path: Path, progress: bool
) -> dict[str, Any]:
    """How a set looks: from an earlier call, or measured now and kept beside the cells."""
    if path.exists():
        return read_json(path, dict, AGAIN)
    path.parent.mkdir(exist_ok=True)
    description = describe(training, clean, samples, progress)
    write(description, path)
    return description


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
        raise WorkError(
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
