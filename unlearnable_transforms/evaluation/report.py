"""A report of cells: on the console, as JSON, and as one HTML page that needs no other file."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from ..errors import UsageError, UsageKeyError
from ..files import read_json, whole
from ..jobs.journal import lies_in_output
from .cells import Cell, read_cells, write
from .page import page
from .search import Trial
from .tables import Table, tables
from .text import overview_table, overview_text, search_text, text_table
from .trainers import Overview, overviews

SETS = "sets"  # folder beside the cells: how each training set looks
SEARCHES = "searches.json"  # beside the cells: the trainings of each search, in their order
AGAIN = "remove it, and evaluate again"  # such a file that is damaged
JSON_NAME, HTML_NAME = "report.json", "report.html"


class Report:
    """What :func:`~.evaluate.evaluate` found. ``print(report)`` shows the tables.

    ``sets`` is how the training sets look, by the digest of their pixels; ``searches`` are the trainings of each search
    for the worst case, by the label of the training set.
    """

    def __init__(
        self, cells: Iterable[Cell], sets: Mapping[str, Any], searches: Mapping[str, list[Trial]] | None = None
    ) -> None:
        self.searches = dict(searches or {})
        self.cells = list(cells)
        if not self.cells:
            raise UsageError("there are no cells to report")
        used = {cell["data"]["train"] for cell in self.cells}
        self.sets = {name: sets[name] for name in sorted(used & set(sets))}
        self.tables = tables(self.cells)
        self.overviews = overviews(self.tables)

    @classmethod
    def load(cls, folder: str | Path) -> "Report":
        """The report of a folder of cells, from the files alone.

        Raises:
            ValueError: there is none, or a file is damaged.
        """
        folder = Path(folder)
        cells = list(read_cells(folder))
        if not cells:
            raise UsageError(f"there are no cells in {folder}")
        sets = {path.stem: read_json(path, dict, AGAIN) for path in sorted((folder / SETS).glob("*.json"))}
        kept = read_json(folder / SEARCHES, dict, AGAIN) if (folder / SEARCHES).exists() else {}
        return cls(cells, sets, {label: [Trial(**trial) for trial in trials] for label, trials in kept.items()})

    def accuracy(self, set: str, defense: str, table: int = 0) -> float | None:
        """Mean accuracy after the last epoch of a training set, by its label, under a defense, by its label.

        Raises:
            KeyError: there is no such cell.
        """
        for (row, column), entry in self.tables[table].entries.items():
            if (row[0], column) == (set, defense):
                return entry.last
        raise UsageKeyError(f"there is no cell of {set!r} under {defense!r}")

    def to_dict(self) -> dict[str, Any]:
        """The numbers of all tables as JSON values, without pictures."""
        return {
            "format": 1,
            "overviews": [_overview_dict(overview) for overview in self.overviews],
            "tables": [_table_dict(table) for table in self.tables],
            "sets": {
                name: {key: value for key, value in about.items() if key != "samples"}
                for name, about in self.sets.items()
            },
            "searches": {label: list(map(asdict, trials)) for label, trials in self.searches.items()},
            "cells": self.cells,
        }

    def html(self) -> str:
        """One page that needs no other file."""
        return page(self.overviews, self.tables, self.cells, self.sets, self.searches)

    def save(self, folder: str | Path) -> Path:
        """Write ``report.json`` and ``report.html``; returns the path of the page."""
        folder = Path(folder)
        if any(about.get("samples") for about in self.sets.values()):
            refuse_output(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write(self.to_dict(), folder / JSON_NAME)
        target = folder / HTML_NAME
        with whole(target) as temporary:  # a link there leads to a file of somebody
            temporary.write_text(self.html(), encoding="utf-8")
        return target

    def __str__(self) -> str:
        searched = [search_text(label, trials) for label, trials in self.searches.items()]
        over = [f"{overview_text(each, self._quality(each.row[1]))}\n{overview_table(each)}" for each in self.overviews]
        if over:
            over.insert(0, "Over all trainers (in brackets: clean data under the same)")
        return "\n\n".join([*over, *map(text_table, self.tables), *searched])

    def _quality(self, digest: str) -> dict[str, Any] | None:
        """How a training set looks, where that was measured."""
        return self.sets[digest]["quality"] if digest in self.sets else None

    def __repr__(self) -> str:
        return f"<Report: {len(self.cells)} cells, {len(self.tables)} tables; print() shows them>"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def refuse_output(folder: Path) -> None:
    """Refuse a folder of protected images, which gets published, for a report that shows originals."""
    if lies_in_output(folder / HTML_NAME):
        raise UsageError(
            f"{folder} lies in a folder of protected images, and the report shows originals: name another folder, or "
            "pass samples=0"
        )


def _overview_dict(overview: Overview) -> dict[str, Any]:
    (trainer, defense), entry = overview.worst, overview.headline
    return {
        "set": overview.row[0], "train": overview.row[1], "image_size": overview.image_size, "trainer": str(trainer),
        "defense": defense, "accuracy": entry.last, "clean": entry.clean, "protection": entry.protection,
        "trainers": list(map(str, overview.trainers)), "combinations_tried": len(overview.entries),
    }  # fmt: skip


def _table_dict(table: Table) -> dict[str, Any]:
    entries = []
    for (row, column), entry in sorted(table.entries.items()):
        numbers = {name: value for name, value in asdict(entry).items() if name != "cells"}
        seeds = [cell["seed"] for cell in entry.cells]
        entries.append(
            {"set": row[0], "train": row[1], "defense": column, "seeds": seeds, "diverged": entry.diverged, **numbers}
        )
    headlines = [
        {"set": h.row[0], "worst_defense": h.defense, "accuracy": h.entry.last, "clean": h.entry.clean,
         "protection": h.entry.protection, "recovery": h.entry.recovery, "defenses_tried": h.defenses}
        for h in table.headlines
    ]  # fmt: skip
    return {"about": table.about, "entries": entries, "headlines": headlines}
