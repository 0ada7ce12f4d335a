"""Tables and numbers as plain text."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from .cells import INIT
from .metrics import retraining_bound
from .recipes import PLANS
from .search import Trial, spent, worst
from .tables import PLAIN, Entry, Headline, Table
from .trainers import Overview

WIDTH, COLUMN = 118, 15  # characters of the console, and of a column there


def text_table(table: Table) -> str:
    """Accuracy in percent after the last epoch, with the sd over seeds; the longer side of the table goes down."""
    lines = [
        f"{title(table)}, {extent(table)}",
        "Accuracy on clean test pictures after the last epoch, in %"
        + (", ± sd" if len(table.about["seeds"]) > 1 else ""),
        *_blocks(table, entry_text),
    ]
    for attack in dict.fromkeys(name for entry in table.entries.values() for name in entry.robust):
        lines += ["", f"Accuracy under {attack}, in %", *_blocks(table, partial(_robust_text, attack=attack))]
    lines += ["", *(headline_text(headline) for headline in table.headlines)]
    if table.weak is not None:
        lines.append(weak_text(table))
    return "\n".join(lines).rstrip()


def title(table: Table) -> str:
    """Victim and recipe; of a recipe that is not one of the library's, its settings."""
    about = table.about
    recipe = about["recipe"]
    if recipe not in PLANS:
        recipe += f" ({', '.join(f'{name} {value}' for name, value in about['plain'].items())})"
    earlier = "" if about["init"] == INIT else ", initialised as by earlier versions"
    return f"{about['victim']}, recipe {recipe}{earlier}"


def extent(table: Table) -> str:
    """How many rows, of which size, and which seeds."""
    about = table.about
    return (
        f"{about['rows']:,} training rows of {about['image_size']} px, {about['test_rows']:,} test rows, "
        f"seeds {', '.join(map(str, about['seeds']))}"
    )


def weak_text(table: Table) -> str:
    """That the victim learns little even from clean images."""
    return (
        f"The victim itself is weak: {percent(table.weak)} % on clean pictures under plain training, where guessing "
        f"gives {100 / len(table.about['classes']):.1f} %. Its figures say little: train longer, or on more pictures."
    )


def _blocks(table: Table, text: Callable[[Entry | None], str]) -> list[str]:
    """As many columns as fit side by side, then the next; their names are broken into lines."""
    grid = table.grid()
    lines = [(defense_name(label), [text(entry) for entry in entries]) for label, entries in grid.lines]
    return _wrapped([defense_name(head) for head in grid.heads], lines)


def _wrapped(heads: Sequence[str], lines: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    left = max(len(name) for name, _ in lines)
    across = max(1, (WIDTH - left) // (COLUMN + 2))
    shown: list[Sequence[str]] = []
    for start in range(0, len(heads), across):
        broken = [textwrap.wrap(head, COLUMN) for head in heads[start : start + across]]
        height = max(map(len, broken))
        header = [[""] * (height - len(head)) + head for head in broken]
        shown += [[], *(["".ljust(left), *(head[line].rjust(COLUMN) for head in header)] for line in range(height))]
        for name, texts in lines:
            shown.append([name.ljust(left), *(each.rjust(COLUMN) for each in texts[start : start + across])])
    return ["  ".join(line).rstrip() for line in shown]


def defense_name(label: str) -> str:
    """A column's label as people say it."""
    return "plain training" if label == PLAIN else label


def percent(share: float | None, digits: int = 1) -> str:
    """``74.6``, or a dash."""
    return "-" if share is None else f"{round(100 * share, digits) + 0.0:.{digits}f}"  # + 0.0: never "-0.0"


def entry_text(entry: Entry | None) -> str:
    """``74.6 ±0.4``."""
    if entry is None:
        return "-"
    if entry.last is None:
        return "diverged"
    spread = f" ±{percent(entry.sd)}" if entry.sd is not None else ""
    return f"{percent(entry.last)}{spread}" + ("*" if entry.diverged else "")


def recovery_text(recovery: float) -> str:
    """``recovery 64 %``; beyond 0 and 1 the figure itself would say nothing."""
    if recovery < 0:
        return "recovery none"
    return f"recovery {percent(recovery, 0)} %" if recovery <= 1 else "recovery full"


def _robust_text(entry: Entry | None, attack: str) -> str:
    return percent(None if entry is None else entry.robust.get(attack))


def headline_text(headline: Headline) -> str:
    """One sentence: how far a victim gets, under which defense, and what that means."""
    entry = headline.entry
    text = (
        f"{headline.row[0]}: at most {percent(entry.last)} %, under {defense_name(headline.defense)} "
        f"(of {headline.defenses} tried)"
    )
    if entry.protection is not None:
        text += f"; clean data under it {percent(entry.clean)} %: protection {percent(entry.protection)} points"
    if headline.beyond is not None:
        text += f", {percent(headline.beyond)} beyond its control"
    if entry.recovery is not None:
        text += f", {recovery_text(entry.recovery)}"
    return text + "." + _bound_text(entry)


def _bound_text(entry: Entry) -> str:
    """What several trainings say of a further one; three are the fewest that say anything worth a sentence."""
    last = [cell["result"]["last"] for cell in entry.cells if cell["status"] == "done"]
    if len(last) < 3:
        return ""
    return (
        f" {len(last)} trainings reached at most {percent(max(last))} %: with 95 % confidence a further one gets "
        f"beyond that with a probability of at most {percent(retraining_bound(len(last)), 0)} %."
    )


def overview_text(overview: Overview, quality: Mapping[str, Any] | None) -> str:
    """The highest accuracy over trainers and defenses, in a sentence, with how the images look."""
    (trainer, defense), entry = overview.worst, overview.headline
    text = f"{overview.row[0]}, {overview.image_size} px: at most {percent(entry.last)} %, by {trainer}"
    if defense != PLAIN:
        text += f", under {defense}"
    text += f" ({len(overview.trainers)} trainers, {len(overview.entries)} combinations tried)"
    if entry.protection is not None:
        text += f"; clean data gives the same {percent(entry.clean)} %: protection {percent(entry.protection)} points"
    if quality is not None and quality["ssim"] is not None:
        text += f". SSIM {quality['ssim']:.3f}, PSNR {quality['psnr']:.1f} dB"
    return text + "." + _bound_text(entry)


def overview_table(overview: Overview) -> str:
    """Trainers down, defenses across, in %; beside each accuracy that of clean data under the same."""
    lines = [
        (str(trainer), [_beside_clean(overview.entries.get((trainer, each))) for each in overview.defenses])
        for trainer in overview.trainers
    ]
    return "\n".join(_wrapped([defense_name(each) for each in overview.defenses], lines))


def _beside_clean(entry: Entry | None) -> str:
    if entry is None:
        return "-"
    return percent(entry.last) + (f" ({percent(entry.clean)})" if entry.clean is not None else "")


def search_text(label: str, trials: Sequence[Trial]) -> str:
    """What a search for the worst case found, in a sentence."""
    best = worst(trials)
    listed = worst(trial for trial in trials if " + " not in trial.defense)
    return (
        f"{label}: of {len(trials)} trainings of a search ({spent(trials):.0f} full ones' worth) the worst is "
        f"{percent(best.accuracy)} %, under "
        f"{defense_name(best.defense)}; the best single defense is {defense_name(listed.defense)}, "
        f"{percent(listed.accuracy)} %."
    )
