"""The sites that ``--site`` knows: a table in ``sites.toml``, each row with its source and date."""

import datetime
import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Site:
    """Where photographs are shown, and what to write for it.

    Attributes:
        name: as on the command line.
        max_side: longest side, in pixels.
        format: of :class:`~.codec.Codec`.
        quality: of JPEG.
        sure: whether the site itself says so.
        source: where it is said.
        date: when that was read.
        note: what else to know.
    """

    name: str
    max_side: int
    format: str
    quality: int
    sure: bool
    source: str
    date: datetime.date
    note: str


def sites() -> dict[str, Site]:
    """All of the table, by name."""
    rows = tomllib.loads(Path(__file__).with_name("sites.toml").read_text(encoding="utf-8"))["site"]
    return {row["name"]: Site(**row) for row in rows}
