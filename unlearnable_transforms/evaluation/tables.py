"""From cells to the numbers of a table: means over seeds, controls, protection, recovery, the headline.

Cells share a place of a table, and are averaged, if they differ in nothing but the seed.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import fmean as mean
from typing import Any, NamedTuple

from .cells import Cell, settings
from .metrics import recovery, sd, t_interval, wilson, worst_defense
from .robust import Attack

PLAIN = "erm"
WEAK = 0.4  # our choice
ACROSS = 6  # training sets that fit side by side
_ROLES = ("clean", "poison", "control", "partial", "clean part")
Row = tuple[str, str]  # label, digest of the pixels


@dataclass
class Entry:
    """One place of a table: a training set under a defense, over all seeds. Accuracies are in [0, 1].

    Attributes:
        cells: one a seed, in the order of the seeds; those that diverged are left out of the means.
        last, last5, best: means of the accuracy after the last epoch, of the mean of the last five epochs, and of the
            best epoch, which is an oracle: it looks at the test set. None where every training diverged.
        sd, interval: of ``last`` over seeds; None for one seed.
        wilson: what the size of the test set alone leaves open.
        clean: ``last`` of clean data under the same defense.
        protection: what the protection takes away under this defense, ``clean - last``.
        recovery: see :func:`~.metrics.recovery`.
        robust: mean accuracies under the attacks that all of its victims were tested by, by the attack's label, which
            names all of its settings.
    """

    cells: list[Cell]
    last: float | None = None
    last5: float | None = None
    best: float | None = None
    sd: float | None = None
    interval: tuple[float, float] | None = None
    wilson: tuple[float, float] | None = None
    clean: float | None = None
    protection: float | None = None
    recovery: float | None = None
    robust: dict[str, float] = field(default_factory=dict)

    @property
    def diverged(self) -> int:
        """How many of the trainings gave a loss that is not finite."""
        return sum(cell["status"] == "diverged" for cell in self.cells)


@dataclass
class Headline:
    """What a protector has to answer for: of so many ``defenses`` tried the one under which a victim gets furthest.
    ``beyond`` is protection beyond that of the poison's control under it, where that was measured."""

    row: Row
    defense: str
    entry: Entry
    defenses: int
    beyond: float | None = None


@dataclass
class Table:
    """Everything that may be compared: one victim, plain recipe, image size, clean and test set.

    Attributes:
        rows: training sets, clean first.
        columns: labels of the defenses, plain training first. Defenses of one label and other settings have those
            behind it.
        entries: by row and column; missing where no cell was computed.
        sets: what the cells of a row say of its training set.
        headlines: one a protected set.
        names: of the rows, no two alike.
        weak: accuracy on clean images under plain training, where it is so low that the table says little.
    """

    about: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    entries: dict[tuple[Row, str], Entry] = field(default_factory=dict)
    sets: dict[Row, dict[str, Any]] = field(default_factory=dict)
    headlines: list[Headline] = field(default_factory=list)
    clean: Row | None = None
    weak: float | None = None

    @property
    def names(self) -> dict[Row, str]:
        alike = Counter(label for label, _ in self.rows)
        return {row: row[0] if alike[row[0]] == 1 else f"{row[0]} ({row[1][:6]})" for row in self.rows}

    def grid(self) -> "Grid":
        """The table as it is shown: training sets across, or down where there are many of them."""
        rows = [(self.names[row], [self.entries.get((row, column)) for column in self.columns]) for row in self.rows]
        if len(rows) > max(ACROSS, len(self.columns)):
            return Grid("trained on", self.columns, rows)
        fields = [[entries[place] for _, entries in rows] for place in range(len(self.columns))]
        return Grid("defense", [name for name, _ in rows], list(zip(self.columns, fields, strict=True)))


class Grid(NamedTuple):
    """Heads across, and lines with a name and an entry for each head."""

    corner: str
    heads: list[str]
    lines: list[tuple[str, list[Entry | None]]]


def tables(cells: Iterable[Cell]) -> list[Table]:
    """Sort cells into tables and fill these."""
    groups: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[_canonical(_shared(cell))].append(cell)
    made = [_table(groups[key]) for key in sorted(groups)]
    return sorted(made, key=lambda table: (table.about["victim"], table.about["recipe"]))


def _shared(cell: Cell) -> dict[str, Any]:
    """What all cells of a table have in common."""
    data = {name: cell["data"][name] for name in ("clean", "test", "image_size", "classes")}
    return {name: cell[name] for name in ("victim", "init", "plain")} | data


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _table(cells: list[Cell]) -> Table:
    first = min(cells, key=lambda cell: _ROLES.index(cell["set"]["role"]))
    about = {
        "victim": first["victim"],
        "init": first["init"],
        "recipe": first["recipe"]["name"],
        "plain": first["plain"],
        "rows": max(cell["data"]["rows"] for cell in cells),
        "test_rows": first["data"]["test_rows"],
        "image_size": first["data"]["image_size"],
        "classes": first["data"]["classes"],
        "seeds": sorted({cell["seed"] for cell in cells}),
    }
    roles = {row_of(cell): cell["set"]["role"] for cell in cells}
    controls = {cell["set"]["of"]: row_of(cell) for cell in cells if cell["set"]["role"] == "control"}
    places = {row_of(cell): _place(cell["set"]) for cell in cells}
    columns = _columns(cells)
    table = Table(
        about,
        rows=sorted(roles, key=lambda row: (places[row], row)),
        columns=sorted(set(columns.values()), key=lambda label: (label != PLAIN, label)),
    )
    grouped: dict[tuple[Row, str], dict[int, Cell]] = defaultdict(dict)
    for cell in sorted(cells, key=lambda cell: cell["seed"]):  # sets of equal pixels are one, whatever made them
        grouped[row_of(cell), columns[_canonical(_column(cell))]].setdefault(cell["seed"], cell)
    table.entries = {place: _entry(list(group.values())) for place, group in grouped.items()}
    table.sets = {row: table.entries[row, column].cells[0]["set"] for row, column in reversed(grouped)}
    clean = table.clean = next((row for row in table.rows if roles[row] == "clean"), None)
    for (row, column), entry in table.entries.items():
        _compare(entry, table.entries.get((clean, column)) if clean else None, table.entries.get((row, PLAIN)))
    for row in table.rows:
        if roles[row] == "poison":
            _add_headline(table, row, controls.get(row[0]))
    plain = table.entries.get((clean, PLAIN)) if clean else None
    if plain is not None and plain.last is not None and _is_weak(plain.last, len(about["classes"])):
        table.weak = plain.last
    return table


def _is_weak(accuracy: float, classes: int) -> bool:
    """Less than ``WEAK`` of the way from guessing to always right."""
    return (accuracy - 1 / classes) / (1 - 1 / classes) < WEAK


def _column(cell: Cell) -> dict[str, Any]:
    """What the cells of a column have in common beside the table's: the defense, and how long and on what it trains."""
    trained = settings(cell)
    return {**trained["defense"], "recipe": trained["recipe"], "clean images": cell["data"]["spare"]}


def _columns(cells: list[Cell]) -> dict[str, str]:
    """Labels by settings, no two alike: what differs stands behind the defense's own label."""
    known = {_canonical(_column(cell)): cell for cell in cells}
    labels = {}
    for key, cell in known.items():
        label = cell["defense"]["label"]
        alike = [_flat(_column(other)) for other in known.values() if other["defense"]["label"] == label]
        mine = _flat(_column(cell))
        values = {name: {repr(other.get(name, "default")) for other in alike} for other in alike for name in other}
        differing = ", ".join(f"{name} {mine.get(name, 'default')}" for name in sorted(values) if len(values[name]) > 1)
        labels[key] = f"{label} ({differing})" if differing else label
    return labels


def _flat(column: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in column.items() if name not in ("arguments", "recipe")}
    inner = {f"recipe's {name}": value for name, value in column["recipe"].items()}
    return {**rest, **inner, **{f"argument {name}": value for name, value in column["arguments"].items()}}


def _place(set: dict[str, Any]) -> tuple:
    """Where a training set stands; a share of protected pictures stands beside the clean rest of the same share."""
    share = set["config"].get("fraction", set["config"].get("clean part of", 0.0))
    role = _ROLES.index(set["role"])
    return (min(role, _ROLES.index("partial")), set["of"] or set["label"], share, role)


def row_of(cell: Cell) -> Row:
    """The training set of a cell: two sets of one name are told apart by their pixels."""
    return cell["set"]["label"], cell["data"]["train"]


def _entry(cells: list[Cell]) -> Entry:
    entry = Entry(cells)
    done = [cell for cell in cells if cell["status"] == "done"]
    results = [cell["result"] for cell in done]
    if not results:
        return entry
    robust = [_robust(cell) for cell in done]
    shared = [attack for attack in robust[0] if all(attack in other for other in robust)]
    entry.robust = {attack: mean([each[attack] for each in robust]) for attack in shared}
    last = [result["last"] for result in results]
    entry.last, entry.sd, entry.interval = mean(last), sd(last), t_interval(last)
    entry.last5, entry.best = (mean([result[name] for result in results]) for name in ("last5", "best"))
    entry.wilson = wilson(entry.last, cells[0]["data"]["test_rows"])
    return entry


def _robust(cell: Cell) -> dict[str, float]:
    pairs = zip(cell.get("attacks", []), cell["result"].get("robust", []), strict=True)
    return {Attack(**attack).label: accuracies["robust"] for attack, accuracies in pairs}


def _compare(entry: Entry, clean: Entry | None, plain: Entry | None) -> None:
    if entry.last is None or clean is None or clean.last is None:
        return
    entry.clean = clean.last
    if entry is clean:
        return
    entry.protection = clean.last - entry.last
    if plain is not None and plain.last is not None and plain is not entry:
        entry.recovery = recovery(entry.last, clean.last, plain.last)


def _add_headline(table: Table, row: Row, control: Row | None) -> None:
    accuracies = {
        column: entry.last
        for column in table.columns
        if (entry := table.entries.get((row, column))) is not None and entry.last is not None
    }
    if accuracies:
        defense, worst = worst_defense(accuracies)
        beside = table.entries.get((control, defense)) if control else None
        beyond = None if beside is None or beside.last is None else beside.last - worst
        table.headlines.append(Headline(row, defense, table.entries[row, defense], len(accuracies), beyond))
