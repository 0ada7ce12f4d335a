"""What a run did, for the page: the same facts as the summary of the command line, in words for photographers."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..jobs.summary import Summary, bytes_text
from .wording import plain

LISTED = 300  # names a list


@dataclass
class Section:
    """A list of the report.

    Attributes:
        title: with the number.
        tone: ``good``, ``quiet``, ``warn`` or ``bad``.
        entries: name and reason; the first ones.
        more: how many others there are.
    """

    title: str
    tone: str
    entries: list[tuple[str, str]]
    more: int = 0


@dataclass
class Report:
    """A finished run.

    Attributes:
        headline: one sentence.
        facts: short lines below it.
        sections: what was left out, converted, not copied.
        worth: what the protection was measured to be worth.
        out: the folder on this computer; empty: a zip file to download.
        protected: how many pictures are protected.
        leaves: how many are in the output and not protected.
    """

    headline: str
    facts: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    worth: list[str] = field(default_factory=list)
    out: str = ""
    protected: int = 0
    leaves: int = 0


def report_of(summary: Summary, refused: list[tuple[str, str]], more: int, worth: list[str]) -> Report:
    """The report of a run.

    Args:
        summary: of the run.
        refused: name and reason of dropped files that were not taken, and ``more`` of them.
        worth: lines of :func:`~..evaluation.worth.worth`.
    """
    protected = summary.counts.get("protected", 0)
    report = Report(f"{pictures(protected)} protected", protected=protected, leaves=len(summary.unchanged))
    words = [line.split(": ", 1)[1].split(" (")[0] for line in summary.quality()]
    report.facts += [f"How much of it is seen, on average: {text}." for text in words]
    if summary.bytes_in:
        sizes = bytes_text(summary.bytes_in), bytes_text(summary.bytes_out)
        report.facts.append(f"{sizes[0]} of pictures became {sizes[1]}. Place, camera and all other data are removed.")
    if summary.changes:
        report.facts.append(plain(summary.changes[0]).capitalize() + ".")
    unread = [*summary.failed, *summary.left_out]
    add = report.sections.append
    if summary.unchanged:
        title = f"{pictures(len(summary.unchanged))} not protected, though in the result: do not publish"
        add(
            section(
                title,
                "bad",
                ((name, "nothing in it could be changed; all black, perhaps") for name in summary.unchanged),
            )
        )
    if unread:
        add(section(f"{pictures(len(unread))} left out", "warn", unread))
    if summary.beside:
        add(
            section(
                f"{files(len(summary.beside))} left out beside their pictures: do not publish", "warn", summary.beside
            )
        )
    converted = [(name, kind) for kind, names in summary.converted.items() for name in names]
    if converted:
        add(section(f"{pictures(len(converted))} protected as an ordinary picture", "quiet", converted))
    behind = [(name, kind) for kind, names in summary.left_behind.items() for name in names]
    if behind:
        add(section(f"{pictures(len(behind))} protected without what else the file held", "quiet", behind))
    others = [*refused, *((name, "not a picture") for name in summary.others)]
    if others:
        rest = section(f"{files(len(others) + more)} not taken", "quiet", others)
        rest.more += more
        add(rest)
    changed = [line.strip() for line in summary.changes[1:]]
    if changed:
        add(section("What changed since the last time", "quiet", ((line, "") for line in changed)))
    report.worth = [plain(line.strip()) for line in worth]
    return report


def section(title: str, tone: str, entries: Iterable[tuple[str, str]]) -> Section:
    """A list of the report, of all names and reasons."""
    entries = [(plain(name), plain(reason)) for name, reason in entries]
    return Section(title, tone, entries[:LISTED], max(0, len(entries) - LISTED))


def pictures(count: int) -> str:
    """``1 picture``, ``2,000 pictures``."""
    return f"{count:,} picture{'' if count == 1 else 's'}"


def files(count: int) -> str:
    """``1 file``, ``2,000 files``."""
    return f"{count:,} file{'' if count == 1 else 's'}"
