"""The two other things that the page does: take the protection off, and check whether pictures are protected."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..auditing.audit import FEWEST, audit
from ..data.folder import is_image_name
from ..data.walk import walk
from ..errors import UsageError
from ..poisons.cuda import CUDAPoison
from ..protection.preview import STRENGTHS
from ..protection.unlock_source import unlock_source
from ..protection.verify_folder import FolderVerdict, verify_folder
from .home import Home
from .report import Section, pictures, section
from .tray import Tray
from .wording import sentence


@dataclass
class Errand:
    """One of the two, as the page shows it.

    Attributes:
        tray: of the pictures that were dropped.
        phase: ``empty``, ``arriving``, ``ready``, ``working``, ``done`` or ``failed``.
        source: the folder that was chosen; None: what was dropped.
        count: pictures in it.
        album: that was chosen; empty: any.
        headline, tone, lines, sections: what came out. ``error``: what went wrong.
        out: the folder on this computer with what was made; empty: a zip file, or nothing.
    """

    tray: Tray
    phase: str = "empty"
    source: Path | None = None
    count: int = 0
    album: str = ""
    headline: str = ""
    tone: str = "good"
    lines: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    error: str = ""
    out: str = ""

    @property
    def made(self) -> Path:
        """Where what becomes a zip file is written."""
        return self.tray.root / "out"

    def forget(self) -> None:
        """Begin again; dropped pictures and what was made of them go."""
        self.tray.clear()
        self.phase, self.source, self.count, self.error, self.out = "empty", None, 0, "", ""
        self.headline, self.tone, self.lines, self.sections = "", "good", [], []

    def settle(self, folder: Path | None) -> None:
        """See what was chosen, or dropped."""
        self.tray.unpack()
        source = folder or self.tray.source()
        self.count = sum(is_image_name(file.path) for file in walk(source)[0])
        if not self.count:
            self.forget()
            raise UsageError("there are no pictures in it")
        self.source, self.phase = source, "ready"


def undo(errand: Errand, home: Home, workers: int) -> None:
    """Take the protection off, with the key of the album that fits.

    Raises:
        UsageError: none fits, or pictures that cannot be undone.
    """
    assert errand.source is not None
    dropped = errand.source.is_relative_to(errand.tray.root)
    out = errand.made if dropped else _free(errand.source.with_name(f"{errand.source.name} without protection"))
    first: ValueError | None = None
    for poison in _candidates(errand.album, home):
        shutil.rmtree(errand.made, ignore_errors=True)
        try:
            lines = unlock_source(errand.source, out, poison, workers=workers)
        except ValueError as error:  # another key or strength is refused before anything is written
            first = first or error
            continue
        errand.headline = f"The protection is off: {pictures(errand.count)}"
        errand.lines = [sentence(line) for line in lines]
        errand.lines.append("These are nearly your originals, not exactly: keep the originals. Do not publish these.")
        errand.out = "" if dropped else str(out)
        if dropped:
            shutil.rmtree(errand.tray.files, ignore_errors=True)
        return
    if first is None or not errand.album:
        raise UsageError(
            "none of the albums that are known here fits these pictures. Were they protected with another private key, "
            "on another computer, or saved anew by a site or a program since?"
        )
    raise first


def _candidates(album: str, home: Home) -> Iterator[CUDAPoison]:
    """What may have protected pictures of an album, or of any, the likeliest first."""
    for name in [album] if album else home.names():
        known = home.albums.get(name)
        strengths = sorted(STRENGTHS, key=lambda strength: known is None or strength != known.strength)
        for strength in strengths:
            yield CUDAPoison(key=home.key_of(name), strength=strength)


def _free(path: Path) -> Path:
    """A path at which nothing lies: with a number where something does."""
    number, result = 1, path
    while result.exists():
        number += 1
        result = path.with_name(f"{path.name} {number}")
    return result


def check(errand: Errand) -> None:
    """Whether pictures are as they were protected here; of others, whether they show signs of a protection.

    Raises:
        ValueError: pictures that cannot be looked at.
    """
    assert errand.source is not None
    try:
        verdict = verify_folder(errand.source)
    except FileNotFoundError:
        _look_for_signs(errand)
        return
    errand.tone = "good" if verdict.is_whole else "bad"
    errand.headline = (
        f"All is well: {pictures(verdict.whole)}, as protected"
        if verdict.is_whole
        else f"Not all is well: {pictures(verdict.whole)} as protected, others are not"
    )
    errand.sections = _sections(verdict)
    left = sum(verdict.statuses.values())
    if left:
        errand.lines.append(
            f"{pictures(left)} of them could not be protected, as the report said: do not publish them."
        )
    if verdict.is_whole:
        errand.lines.append(
            "The files are what was written. How much the protection is worth, only a training can say."
        )


def _sections(verdict: FolderVerdict) -> list[Section]:
    lists = [
        ("unprotected originals: take them out before anybody sees them", "bad", verdict.unprotected),
        ("unknown here, and so unprotected as far as is known: protect them, too", "bad", verdict.added),
        ("changed since: edited, or saved anew by a site or a program. Protect their originals again", "warn",
         verdict.changed),
        ("missing", "warn", verdict.missing),
        ("under another name, and protected", "quiet", [f"{new} (was {old})" for new, old in verdict.renamed]),
        ("saved anew without loss, and protected", "quiet", verdict.saved_anew),
        ("no pictures, not looked at", "quiet", verdict.others),
    ]  # fmt: skip
    found = [
        section(f"{len(names):,} {title}", tone, ((name, "") for name in names))
        for title, tone, names in lists
        if names
    ]
    if verdict.missing_rows:
        found.append(Section(f"{verdict.missing_rows:,} missing", "warn", []))
    return found


def _look_for_signs(errand: Errand) -> None:
    """For pictures of which nothing is known here."""
    assert errand.source is not None
    errand.tone, errand.headline = "quiet", "Nothing on this computer remembers these pictures"
    if errand.count < FEWEST:
        errand.lines = [
            "They were protected elsewhere, saved anew by a site or a program, or never protected.",
            f"With {FEWEST} pictures or more, in folders by what they show, signs of a protection could be looked for.",
        ]
        return
    found = audit(errand.source)
    errand.headline = "There are signs of a protection" if found.found else "No signs of a protection"
    errand.lines = [
        f"{found.looked_at:,} of {pictures(found.rows)} were looked at, in {len(found.classes):,} folders. Nothing on "
        "this computer remembers them.",
        "Signs are no proof, and no signs are no proof of the contrary.",
    ]
    errand.sections = [
        section(
            "What was looked for", "quiet", ((sign.name, "seen" if sign.found else "not seen") for sign in found.signs)
        )
    ]
