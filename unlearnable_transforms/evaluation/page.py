"""What the report's page shows. How it looks is in ``report.html.j2``, which escapes all text, and ``report.css``."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean as mean
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .cells import Cell
from .charts import confusion, curves, line_styles
from .search import Trial, growth
from .tables import Entry, Table
from .text import (
    defense_name,
    entry_text,
    extent,
    headline_text,
    overview_text,
    percent,
    recovery_text,
    search_text,
    title,
    weak_text,
)  # fmt: skip
from .trainers import Overview

PROTECTED = ("poison", "partial")


def page(
    overviews: Sequence[Overview], tables: Sequence[Table], cells: Sequence[Cell], sets: Mapping[str, Any],
    searches: Mapping[str, list[Trial]],
) -> str:  # fmt: skip
    """One HTML page that needs no other file and no script, light and dark."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    named = {"name": defense_name, "recovery": recovery_text}
    templates.filters |= {function.__name__: function for function in (percent, entry_text, plain)} | named
    dates = sorted({cell["date"] for cell in cells})
    return templates.get_template("report.html.j2").render(
        overviews=[(each, sets[each.row[1]]["quality"] if each.row[1] in sets else None) for each in overviews],
        tables=tables,
        cells=cells,
        searches=searches,
        sets={digest: about for digest, about in sets.items() if about["quality"] is not None},
        dates=dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}",
        settings=_settings(cells),
        machines=sorted({plain(cell[what]) for cell in cells for what in ("machine", "versions")}),
        sorted_cells=sorted(cells, key=_order),
        line_styles=lambda table: line_styles([table.names[row] for row in table.rows], table.names.get(table.clean)),
        line_styles_of=lambda lines: line_styles(list(lines), None),
        **{function.__name__.lstrip("_"): function for function in (
            _heat, _interval, _mean_curves, _confusions, _quality_text, curves, extent, growth, headline_text,
            overview_text, search_text, title, weak_text,
        )},
    )  # fmt: skip


def plain(value: Any) -> str:
    """Nested settings as one line."""
    if isinstance(value, Mapping):
        inner = {name: plain(each) for name, each in value.items() if each is not None}
        return ", ".join(f"{name} {text}" for name, text in inner.items() if text)
    if isinstance(value, list):
        return f"[{', '.join(map(plain, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _interval(entry: Entry) -> str:
    spread = entry.interval or entry.wilson
    if spread is None:
        return ""
    kind = "95 % over seeds" if entry.interval else "95 %, test set size alone"
    return f"{percent(max(0.0, spread[0]))} to {percent(min(1.0, spread[1]))} ({kind})"


def _heat(entry: Entry) -> int | None:
    """How red a protected field is, in percent."""
    if entry.protection is None or entry.clean is None or entry.cells[0]["set"]["role"] not in PROTECTED:
        return None
    left = max(0.0, min(1.0, entry.protection / max(entry.clean, 0.01)))
    return round(55 * (1 - left))


def _mean_curves(table: Table, column: str) -> dict[str, list[float]]:
    """Test accuracy over epochs, mean over seeds, by the training set's name."""
    lines = {}
    for row in table.rows:
        if (row, column) in table.entries:
            cells = table.entries[row, column].cells
            runs = [cell["result"]["test_accuracy"] for cell in _done(cells) or cells]
            lines[table.names[row]] = [mean(values) for values in zip(*runs, strict=False)]
    return lines


def _confusions(table: Table) -> Iterator[tuple[str, str, float]]:
    """Name, PNG in base64 and macro recall of each field."""
    for column in table.columns:
        for row in table.rows:
            entry = table.entries.get((row, column))
            if entry is not None and (done := _done(entry.cells)):
                recall = mean([cell["result"]["macro_recall"] for cell in done])
                name = f"{table.names[row]}, {defense_name(column)}"
                yield name, confusion(done[0]["result"]["confusion"]), recall


def _done(cells: Sequence[Cell]) -> list[Cell]:
    return [cell for cell in cells if cell["status"] == "done"]


def _quality_text(quality: Mapping[str, Any]) -> str:
    kinds = {"psnr": "PSNR {:.1f} dB", "gain_fitted_psnr": "gain-fitted PSNR {:.1f} dB", "ssim": "SSIM {:.3f}"}
    parts = [text.format(quality[kind]) for kind, text in kinds.items() if quality[kind] is not None]
    parts.append(f"largest difference {quality['linf']} of 255; mean over {quality['pictures']:,} pictures")
    if quality["unchanged"]:
        parts.append(f"of which {quality['unchanged']} did not change")
    return ", ".join(parts)


def _settings(cells: Sequence[Cell]) -> list[list[str]]:
    lines = {
        (cell["victim"], f"{cell['defense']['label']} (version {cell['defense']['version']})",
         plain(cell["defense"]["arguments"]), plain(cell["recipe"]))
        for cell in cells
    }  # fmt: skip
    return [list(line) for line in sorted(lines)]


def _order(cell: Cell) -> tuple[str, str, str, int]:
    return cell["set"]["label"], cell["defense"]["label"], cell["victim"], cell["seed"]
