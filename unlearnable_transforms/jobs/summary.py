"""What a run did, in figures and in words."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..data.walk import readable_name

LISTED = 20
MEASURED = 100  # about so many pictures, evenly spread, are measured


@dataclass
class Summary:
    """What a run did.

    Attributes:
        kind: what was written: "files" or "rows".
        counts: how many, by status: protected, left, unchanged, kept.
        failed: what could not be read, with the reason.
        unchanged: pictures that the method leaves as they are.
        others: files that were not copied.
        notes: what else to know, one line each.
        measured: PSNR, gain-fitted PSNR and SSIM of pictures evenly spread over the set.
        ledger: where the ledger lies.
    """

    kind: str = "files"
    counts: dict[str, int] = field(default_factory=dict)
    bytes_in: int = 0
    bytes_out: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    measured: list[list[float | None]] = field(default_factory=list)
    ledger: str = ""

    def count(self, record: dict[str, Any], row: int, fact: dict[str, Any]) -> None:
        """Count one row of a unit, with the journal's record of the unit and its fact about the row."""
        status = fact["status"]
        self.counts[status] = self.counts.get(status, 0) + 1
        if status == "unchanged":
            whole = record["rows"] == 1 and self.kind == "files"
            self.unchanged.append(record["place"] if whole else f"{record['split']} row {record['start'] + row}")
        if "measured" in fact:
            self.measured.append(fact["measured"])

    def lines(self) -> list[str]:
        """The summary as text."""
        statuses = {
            "protected": "protected",
            "left": "not chosen, left clean",
            "unchanged": "UNPROTECTED: the method leaves them as they are",
            "kept": "of kept splits, not protected",
        }
        parts = [f"{self.counts[status]:,} {text}" for status, text in statuses.items() if self.counts.get(status)]
        lines = [f"{sum(self.counts.values()):,} {self.kind} written: {', '.join(parts) or 'none'}"]
        lines.append(f"{_bytes(self.bytes_in)} in, {_bytes(self.bytes_out)} out")
        if self.measured:
            lines.append(
                f"PSNR {self._mean(0):.1f} dB, with the best gain {self._mean(1):.1f} dB, SSIM {self._mean(2):.3f} "
                f"(means over {len(self.measured)} protected pictures, SSIM of their middle 128x128)"
            )
        lines += self.notes
        lines += listed("unchanged, all black perhaps", map(readable_name, self.unchanged))
        lines += listed("not copied", map(readable_name, self.others), LISTED)
        lines += listed("NOT READABLE, not copied", (f"{readable_name(path)}: {why}" for path, why in self.failed))
        if self.ledger:
            lines.append(f"ledger (private, keep it with the key): {self.ledger}")
        return lines

    def _mean(self, which: int) -> float:
        values = [value for row in self.measured if (value := row[which]) is not None]
        return sum(values) / len(values) if values else math.nan


def listed(title: str, entries: Iterable[str], most: int | None = None) -> list[str]:
    """A title with its number, and the entries indented below it."""
    entries = list(entries)
    if not entries:
        return []
    rest = [f"  ... and {len(entries) - most} more"] if most is not None and len(entries) > most else []
    return [f"{title} ({len(entries):,}):", *(f"  {entry}" for entry in entries[:most]), *rest]


def measured_every(count: int) -> int:
    """One picture in how many is measured."""
    return max(1, count // MEASURED)


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def hidden_note(classes: int) -> str:
    """That the protection follows secret classes; not which."""
    return f"labels hidden: the protection follows {classes} secret classes, which stand in the ledger alone"
