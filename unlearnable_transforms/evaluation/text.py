"""Tables and numbers as plain text."""

import textwrap
from collections.abc import Callable
from functools import partial

from .tables import Entry, Headline, Table

WIDTH, COLUMN = 118, 15  # characters of the console, and of a column there


def text_table(table: Table) -> str:
    """Defenses down, training sets across; accuracy in percent after the last epoch, with the sd over seeds."""
    about = table.about
    lines = [
        f"{about['victim']}, recipe {about['recipe']}, {about['rows']:,} training rows of {about['image_size']} px, "
        f"{about['test_rows']:,} test rows, seeds {', '.join(map(str, about['seeds']))}",
        "Accuracy on clean test pictures after the last epoch, in %" + (", ± sd" if len(about["seeds"]) > 1 else ""),
    ]
    lines += _blocks(table, entry_text)
    for attack in dict.fromkeys(name for entry in table.entries.values() for name in entry.robust):
        lines += ["", f"Accuracy under {attack}, in %", *_blocks(table, partial(_robust_text, attack=attack))]
    lines += ["", *(headline_text(headline) for headline in table.headlines)]
    return "\n".join(lines).rstrip()


def _blocks(table: Table, text: Callable[[Entry | None], str]) -> list[str]:
    """As many training sets as fit side by side, then the next; their names are broken into lines."""
    left = max(map(len, table.columns))
    across = max(1, (WIDTH - left) // (COLUMN + 2))
    lines: list[list[str]] = []
    for start in range(0, len(table.rows), across):
        rows = table.rows[start : start + across]
        names = [textwrap.wrap(row[0], COLUMN) for row in rows]
        height = max(map(len, names))
        header = [[""] * (height - len(name)) + name for name in names]
        lines += [[], *(["".ljust(left), *(name[line].rjust(COLUMN) for name in header)] for line in range(height))]
        for column in table.columns:
            numbers = [text(table.entries.get((row, column))).rjust(COLUMN) for row in rows]
            lines.append([column.ljust(left), *numbers])
    return ["  ".join(line).rstrip() for line in lines]


def percent(share: float | None, digits: int = 1) -> str:
    """``74.6``, or a dash."""
    return "-" if share is None else f"{100 * share:.{digits}f}"


def entry_text(entry: Entry | None) -> str:
    """``74.6 ±0.4``."""
    if entry is None:
        return "-"
    if entry.last is None:
        return "diverged"
    spread = f" ±{percent(entry.sd)}" if entry.sd is not None else ""
    return f"{percent(entry.last)}{spread}" + ("*" if entry.diverged else "")


def _robust_text(entry: Entry | None, attack: str) -> str:
    return percent(None if entry is None else entry.robust.get(attack))


def headline_text(headline: Headline) -> str:
    """One sentence: how far a victim gets, under which defense, and what that means."""
    entry = headline.entry
    under = "plain training" if headline.defense == "erm" else headline.defense
    text = f"{headline.row[0]}: at most {percent(entry.last)} %, under {under} (of {headline.defenses} tried)"
    if entry.protection is not None:
        text += f"; clean data under it {percent(entry.clean)} %: protection {percent(entry.protection)} points"
    if entry.recovery is not None:
        text += f", recovery {percent(entry.recovery, 0)} %"
    return text + "."
