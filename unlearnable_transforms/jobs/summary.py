"""What a run did, in figures and in words."""

import math
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..data.walk import named, readable_name

LISTED = 20
MEASURED = 100  # about so many pictures, evenly spread, are measured


@dataclass
class Summary:
    """What a run did.

    Attributes:
        kind: what was written: "files" or "rows".
        out: the output.
        counts: how many, by status: protected, left, unchanged, kept.
        failed: what could not be read, with the reason.
        left_out: what can be read and was not protected, with the reason.
        beside: files of an image that was read from another file, and what came of that.
        converted: images by what was converted: "CMYK to sRGB".
        left_behind: images by what else their files held: "depth map".
        unchanged: images that the method leaves as they are.
        others: files that were not copied.
        changes: what became of the source since the last run, for people.
        notes: what else to know, one line each.
        measured: PSNR, gain-fitted PSNR and SSIM of images evenly spread over the set.
        worth: what the protection was measured to be worth, for people.
        images: of a folder: path of each image that was read, and path below ``out`` of what was made of it.
        fresh: those paths below ``out`` that this run wrote.
        key: the key's fingerprint, for people.
        ledger: where the ledger lies.
        page: where the private page with the images lies.
    """

    kind: str = "files"
    out: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    bytes_in: int = 0
    bytes_out: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    beside: list[tuple[str, str]] = field(default_factory=list)
    converted: dict[str, list[str]] = field(default_factory=dict)
    left_behind: dict[str, list[str]] = field(default_factory=dict)
    unchanged: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    measured: list[list[float | None]] = field(default_factory=list)
    worth: list[str] = field(default_factory=list)
    images: list[tuple[str, str]] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    key: str = ""
    ledger: str = ""
    page: str = ""

    def count(self, record: dict[str, Any], row: int, fact: dict[str, Any]) -> None:
        """Count one row of a unit, with the journal's record of the unit and its fact about the row."""
        status = fact["status"]
        self.counts[status] = self.counts.get(status, 0) + 1
        whole = record["rows"] == 1 and self.kind == "files"
        place = record["place"] if whole else f"{record['split']} row {record['start'] + row}"
        if status == "unchanged":
            self.unchanged.append(place)
        for said, by_kind in (("converted", self.converted), ("left_behind", self.left_behind)):
            for kind in fact.get(said, ()):
                by_kind.setdefault(kind, []).append(place)
        if "measured" in fact:
            self.measured.append(fact["measured"])

    def lines(self) -> list[str]:
        """The summary as text."""
        return [
            *self.done(),
            *self.changes,
            *self.quality(),
            *self.notes,
            *self.omissions(),
            *([f"key: {self.key}"] if self.key else []),
            *([f"ledger (private, keep it with the key): {self.ledger}"] if self.ledger else []),
            *([f"before and after, to look at (private, it shows the originals): {self.page}"] if self.page else []),
            *self.worth,
            *self.next_steps(),
        ]

    def done(self) -> list[str]:
        """How many were written, and how large they are."""
        statuses = {
            "protected": "protected",
            "left": "not chosen, left clean",
            "unchanged": "UNPROTECTED: the method leaves them as they are",
            "kept": "of kept splits, not protected",
        }
        parts = [f"{self.counts[status]:,} {text}" for status, text in statuses.items() if self.counts.get(status)]
        missing = len(self.failed) + len(self.left_out)
        rest = f"; {missing:,} images of the source are NOT in it, see below" if missing else ""
        return [
            f"{sum(self.counts.values()):,} {self.kind} written: {', '.join(parts) or 'none'}{rest}",
            f"{bytes_text(self.bytes_in)} in, {bytes_text(self.bytes_out)} out",
        ]

    def quality(self) -> list[str]:
        """How much can be seen of the change, in figures and in words."""
        if not self.measured:
            return []
        db, gain_db, likeness = map(self._mean, range(3))
        means = f"means over {len(self.measured)} protected images"
        ssim = f"SSIM {likeness:.3f}; {means}, SSIM of their middle 128x128"
        if math.isnan(likeness):  # its window fits into none of them
            ssim = f"no SSIM of images so small; {means}"
        words = in_words(gain_db, likeness)
        return [f"what is seen: {words} (PSNR {db:.1f} dB, with the best gain {gain_db:.1f} dB, {ssim})"]

    def omissions(self) -> list[str]:
        """What was converted, not protected or not copied, and why."""
        return [
            *(f"converted, {kind}: {named(places)}" for kind, places in self.converted.items()),
            *(f"left behind, {kind}: {named(places)}" for kind, places in self.left_behind.items()),
            *listed("unchanged, all black perhaps", map(readable_name, self.unchanged)),
            *listed("not copied", map(readable_name, self.others), LISTED),
            *listed("second files of one image, not copied: do not publish them", _reasons(self.beside), LISTED),
            *listed("LEFT OUT, though readable", _reasons(self.left_out)),
            *listed("NOT READABLE, not copied", _reasons(self.failed)),
        ]

    def next_steps(self) -> list[str]:
        """What to do by now, one step a line below a title; of a folder of images."""
        if not self.images:
            return []
        steps = []
        if self.failed:
            steps.append(f"repair or export the {len(self.failed)} that could not be read, and run the command again")
        if self.left_out:
            steps.append(f"decide on the {len(self.left_out)} left out, as said beside each, and run the command again")
        if self.unchanged:
            steps.append(f"do not publish the {len(self.unchanged)} UNPROTECTED: they show what they showed before")
        steps += [
            f"publish from {readable_name(self.out)} only, and delete originals that are online already: beside its "
            "original a protected image is worth little",
            f"back up the key and the folder {readable_name(os.path.dirname(self.ledger))}, where no one else reads: "
            "it holds the ledger, which is the record of what was protected, and the list of classes",
            "new images, next week or next year: run the same command again",
            f"to check the folder: unlearnable verify {shlex.quote(self.out)}",
        ]
        return ["what to do next:", *(f"  {number}. {step}" for number, step in enumerate(steps, 1))]

    def _mean(self, which: int) -> float:
        values = [value for row in self.measured if (value := row[which]) is not None]
        return sum(values) / len(values) if values else math.nan


def _reasons(entries: Iterable[tuple[str, str]]) -> Iterable[str]:
    return (f"{readable_name(path)}: {why}" for path, why in entries)


def in_words(gain_db: float, likeness: float) -> str:
    """How much of a change can be seen, after its PSNR with the best gain, in dB, and its SSIM; NaN is unknown.

    The bounds lie between the means of the strengths of halos (docs/photographs.md): what is said of each there is what
    people saw.
    """
    if gain_db >= 27 and not likeness < 0.92:
        return "hardly seen"
    if gain_db >= 22 and not likeness < 0.84:
        return "a soft glow along edges, double contours at hard ones"
    return "plainly seen" if math.isfinite(gain_db) else "not measured"


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


def bytes_text(count: float) -> str:
    """A size, for people."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def hidden_note(classes: int) -> str:
    """That the protection follows secret classes; not which."""
    return f"labels hidden: the protection follows {classes} secret classes, which stand in the ledger alone"
