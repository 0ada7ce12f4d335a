"""Trainers and defenses as two axes: what a protected set leaves to whoever trains on it.

A table compares cells of one victim. A protector has to answer for all of them: from nothing, from weights that were
trained before, by a linear probe, without labels. The overview puts tables of the same data beside each other.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from .tables import PLAIN, Entry, Row, Table

JOIN = " + "
PROBE = "last-layer"
HOW = {PROBE: "linear probe", "simclr": "without labels, then a probe"}  # defenses that train in a way of their own


class Trainer(NamedTuple):
    """A network with its start, and how it is trained."""

    victim: str
    how: str

    def __str__(self) -> str:
        network, _, start = self.victim.partition(":weights=")
        return f"{network}{f' from {start} weights' if start else ''}, {self.how}"


@dataclass
class Overview:
    """Everything that was measured of one training set at one size.

    Attributes:
        row: the training set.
        image_size: side in pixels to which trainers resize.
        trainers, defenses: the two axes, in the order in which they are shown.
        entries: by trainer and defense; missing where no cell was computed.
        worst: where the accuracy is highest.
    """

    row: Row
    image_size: int
    trainers: list[Trainer]
    defenses: list[str]
    entries: dict[tuple[Trainer, str], Entry]
    worst: tuple[Trainer, str]

    @property
    def headline(self) -> Entry:
        """The highest accuracy over trainers and defenses, with what stands beside it."""
        return self.entries[self.worst]


def split(victim: str, label: str) -> tuple[Trainer, str]:
    """The trainer, and the defenses that go before it: ``jpeg quality=75 + last-layer`` is a probe behind JPEG."""
    parts = label.split(JOIN)
    ways = [HOW[part.split()[0]] for part in parts if part.split()[0] in HOW]
    rest = [part for part in parts if part.split()[0] not in HOW]
    start = "all layers fine-tuned" if ":weights=" in victim else "from nothing"
    return Trainer(victim, ways[0] if ways else start), JOIN.join(rest) or PLAIN


def overviews(tables: Iterable[Table]) -> list[Overview]:
    """One for each protected set and size that more than one trainer was tried on, in the order of the tables."""
    found: dict[tuple[Row, int], dict[tuple[Trainer, str], Entry]] = defaultdict(dict)
    for table in tables:
        for (row, column), entry in table.entries.items():
            if table.sets[row]["role"] == "poison" and entry.last is not None:
                place = split(table.about["victim"], column)
                known = found[row, table.about["image_size"]].setdefault(place, entry)
                if (known.last or 0.0) < entry.last:  # of two recipes the one that gets further
                    found[row, table.about["image_size"]][place] = entry
    result = []
    for (row, size), entries in found.items():
        trainers = list(dict.fromkeys(trainer for trainer, _ in entries))
        if len(trainers) > 1:
            worst = max(entries, key=lambda place: entries[place].last or 0.0)
            result.append(Overview(row, size, trainers, _shortest_first(d for _, d in entries), entries, worst))
    return result


def _shortest_first(labels: Iterable[str]) -> list[str]:
    return sorted(dict.fromkeys(labels), key=lambda label: (label != PLAIN, label.count(JOIN), label))
