"""What the page shows and does: pictures chosen, looked at, protected; undone; checked.

There is one of it for a running program. All tabs of the browser show the same, and a reload loses nothing. Work on
pictures is done in one thread, one piece after another; everything else only notes what is wanted.
"""

import shutil
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any, cast

import xxhash

from ..data.codec import AUTO, QUALITY, Codec
from ..data.credit import OPT_OUTS, credit_from
from ..data.folder import FolderSet
from ..data.open import open_data
from ..data.shrink import check_max_side
from ..data.sites import sites
from ..errors import UnlearnableError, UsageError, WorkError
from ..evaluation.worth import worth
from ..files import cache_at
from ..jobs.workers import cores
from ..poisons.cuda import CUDAPoison, Strength
from ..protection.album import shorter_side
from ..protection.preview import STRENGTHS, views_of
from ..protection.protect import protect_source
from ..sample import spread
from ..secret.labels import FOLDER, hide
from .errands import Errand, check, undo
from .home import Album, Home
from .report import Report, report_of
from .tray import Limits, Tray
from .wording import plain, sentence

LOOKS = 3  # pictures that are looked at before and after
SILENCE = 4  # seconds after which files that do not arrive any more are given up
AREAS = ("protect", "undo", "check")


class Stopped(WorkError):
    """The run was stopped on the page."""


@dataclass
class Chosen:
    """Pictures that were chosen.

    Attributes:
        source: their folder.
        dropped: whether they were dropped on the page.
        paths: of the pictures, below the folder.
        folders: in which they lie, below the folder; each is protected in its own way.
        unread: pictures that cannot be read, with the reason. ``others``: how many files are no pictures.
    """

    source: Path
    dropped: bool
    paths: list[str]
    folders: list[str]
    unread: list[tuple[str, str]] = field(default_factory=list)
    others: int = 0


class Studio:
    """The state of the page.

    Args:
        home: the private key and the known albums.
        work: a private folder, which is emptied at the start and at the end.
        workers: processes for the protection; default: one a core.
        limits: of a demonstration; default: none.
        thread: that works on pictures; default: one of its own.
        cache: private folder for what is noted of protected pictures; default: the library's.

    Attributes:
        version: grows with every change of what is shown.
        phase: ``empty``, ``arriving``, ``reading``, ``chosen``, ``running``, ``stopped``, ``failed`` or ``done``.
        album: what was chosen for the pictures.
        chosen: the pictures. ``report``: of the finished run. ``error``: what went wrong, in words.
        done, total: progress, in pictures.
    """

    def __init__(
        self,
        home: Home,
        work: Path,
        workers: int | None = None,
        limits: Limits | None = None,
        thread: ThreadPoolExecutor | None = None,
        cache: Path | None = None,
    ) -> None:
        self.home, self.work, self.workers = home, work, workers or cores()
        self.limits, self._cache = limits, cache
        self._thread = thread or ThreadPoolExecutor(1, "work")
        self._stop = threading.Event()
        self.version = 0
        self.trays = {area: Tray(work / area, limits) for area in AREAS}
        self.errands = {area: Errand(self.trays[area]) for area in AREAS[1:]}
        self.active = 0  # files that arrive right now
        self._heard = monotonic()
        self.begin_again()

    def begin_again(self) -> None:
        """Forget the pictures and everything that was made of them in the private folder."""
        shutil.rmtree(self.work / "albums", ignore_errors=True)
        self.trays["protect"].clear()
        self.phase, self.error = "empty", ""
        self.chosen: Chosen | None = None
        self.report: Report | None = None
        self.done, self.total, self._first, self._since = 0, 0, 0, 0.0
        self.refused: list[tuple[str, str]] = []
        self.more_refused = 0
        last = next(reversed(self.home.albums.values()), Album(""))
        self.album = replace(last, name="", source="", out="", unfinished=False, site="", max_side=0)
        self.changed()

    def changed(self) -> None:
        """Note that all tabs have to show something else."""
        self.version += 1

    def close(self) -> None:
        """Stop what runs, and empty the private folder."""
        self._stop.set()
        self._thread.shutdown(wait=True, cancel_futures=True)
        shutil.rmtree(self.work, ignore_errors=True)

    # ---- work --------------------------------------------------------------------------------------------------------

    def submit(self, work: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Do something with pictures in the thread for it."""
        return self._thread.submit(self._quietly, work, *arguments)

    def _quietly(self, work: Callable[..., Any], *arguments: Any) -> Any:
        with warnings.catch_warnings(), cache_at(self._cache):
            warnings.simplefilter("ignore")  # the report says what matters
            return work(*arguments)

    # ---- 1. choose ---------------------------------------------------------------------------------------------------

    def begin_arrival(self, area: str) -> None:
        """Files are going to arrive."""
        if area == "protect":
            if self.phase == "done":
                self.begin_again()
            if self.phase == "empty":
                self.trays[area].clear()  # of what could not be taken
            if self.phase not in ("empty", "arriving", "chosen"):
                raise UsageError("wait until the pictures that are here are protected, or throw them away first")
            if self.chosen is not None and not self.chosen.dropped:
                self.chosen = None
            self.phase, self.error = "arriving", ""
        else:
            errand = self.errands[area]
            if errand.phase == "working" or (errand.phase == "arriving" and self.active):
                raise UsageError("wait until this is done")
            errand.forget()
            errand.phase = "arriving"
        self._heard = monotonic()
        self.changed()

    def heard(self) -> None:
        """Note that something arrives."""
        self._heard = monotonic()

    def awaits(self, area: str) -> bool:
        """Whether files were said to arrive."""
        return (self.phase if area == "protect" else self.errands[area].phase) == "arriving"

    @property
    def busy(self) -> bool:
        """Whether pictures are being worked on, or wait for it."""
        return self.phase in ("running", "reading") or any(e.phase == "working" for e in self.errands.values())

    @property
    def untouched(self) -> bool:
        """Whether nothing was ever done here."""
        begun = self.home.albums or self.active or any(errand.phase != "empty" for errand in self.errands.values())
        return self.phase == "empty" and not begun

    @property
    def interrupted(self) -> bool:
        """Whether files were arriving and do not any more."""
        return self.phase == "arriving" and not self.active and monotonic() - self._heard > SILENCE

    def end_arrival(self) -> "Future[Any]":
        """All files are there: see what they are."""
        if self.phase not in ("empty", "arriving", "reading", "chosen"):
            raise UsageError("wait until the pictures that are here are protected, or throw them away first")
        self.phase = "reading"
        self.changed()
        return self.submit(self._guarded, self._read_dropped)

    def _read_dropped(self) -> None:
        tray = self.trays["protect"]
        tray.unpack()
        if not tray.count:
            self.phase = "empty"
            reasons = {reason for _, reason in tray.refused}
            raise UsageError(
                "none of these files is a picture that can be taken"
                + (f": {'; '.join(sorted(reasons))}" * bool(reasons))
            )
        source = tray.source()
        self._settle(read_folder(source, dropped=True), "" if source == tray.files else source.name)

    def choose_folder(self, path: str) -> "Future[Any]":
        """Take the pictures of a folder on this computer, which are left where they are."""
        if self.phase not in ("empty", "chosen", "done"):
            raise UsageError("wait until the pictures that are here are protected, or throw them away first")
        if self.phase == "done" or self.trays["protect"].count:
            self.begin_again()
        folder = existing_folder(path)
        self.phase = "reading"
        self.changed()
        return self.submit(self._guarded, self._read_folder, folder)

    def _read_folder(self, folder: Path) -> None:
        self.phase = "empty"
        self._settle(read_folder(folder, dropped=False), folder.name)

    def _settle(self, chosen: Chosen, name: str) -> None:
        self.chosen, self.phase, self.error = chosen, "chosen", ""
        source = "" if chosen.dropped else str(chosen.source)
        known = next((a for a in self.home.albums.values() if source and a.source == source), None)
        if known is not None:
            self.album = replace(known)
        elif not self.album.name or (name and not chosen.dropped):
            try:
                self.album.name = self.home.album_name(name or "My pictures")
            except UsageError:
                self.album.name = "My pictures"
            if earlier := self.home.albums.get(self.album.name):
                self.album = replace(earlier)
            self.album.source = source
            self.album.out = "" if chosen.dropped else str(chosen.source.with_name(f"{chosen.source.name} protected"))
        self.changed()

    def set_option(self, name: str, value: Any) -> None:
        """One choice of the person.

        Raises:
            UsageError: it cannot be.
        """
        if self.phase not in ("chosen", "empty"):
            raise UsageError("the protection has begun: stop it first, and begin again")
        text = str(value).strip()
        if name == "name":
            text = self.home.album_name(text)
        elif name == "max_side":
            if text and not text.isdecimal():
                raise UsageError("the longest side is a number of pixels, such as 2048")
            self.album.max_side = int(text or 0)
            check_max_side(self.album.max_side or None)
            self.changed()
            return
        allowed = {"strength": STRENGTHS, "site": ("", *sites()), "opt_out": ("", *OPT_OUTS)}
        if name not in ("name", "creator", "copyright", "out") and text not in allowed.get(name, ()):
            raise UsageError("this cannot be chosen")
        if name in ("creator", "copyright") and text:
            credit_from(creator=[text])
        if name == "out" and text and not Path(text).expanduser().is_absolute():
            raise UsageError("name the whole path of the folder, from its beginning")
        setattr(self.album, name, text)
        self.changed()

    # ---- 2. look -----------------------------------------------------------------------------------------------------

    def longest_side(self) -> int | None:
        """To which the pictures are made smaller."""
        return self.album.max_side or (sites()[self.album.site].max_side if self.album.site else None)

    def look(self, number: int) -> dict[str, Any]:
        """One of the pictures in each strength, in the thread for work."""
        if self.chosen is None or self.phase not in ("chosen", "stopped", "failed"):
            raise UsageError("choose pictures first")
        album = replace(self.album)
        data = open_data(self.chosen.source, unlabelled=True, convert=True)
        poison = CUDAPoison(key=self.home.key_of(album.name))
        hide(data, FOLDER, poison)
        data.shrink(self.longest_side())
        name = data.training[0]
        rows = data.splits[name]
        places = [*spread(len(rows), LOOKS), len(rows)]
        error: Exception | None = None
        for row in range(places[number], places[number + 1]):  # the first of its third that can be read
            try:
                opened = rows.open(rows.stored(range(row, row + 1))[0])
                break
            except (OSError, TypeError, ValueError) as problem:
                error = error or problem
        else:
            return {"name": plain(rows.place(places[number])), "error": sentence(error)}
        assert poison.key is not None
        views, detail = views_of(opened, poison.key, data.tokens(name, poison)[row])
        height, width = opened.colour.shape[:2]
        shown = [view._asdict() for view in views]
        return {"name": plain(rows.place(row)), "width": width, "height": height, "detail": detail, "views": shown}

    # ---- 3. protect --------------------------------------------------------------------------------------------------

    def start(self) -> "Future[Any]":
        """Protect, or go on."""
        if self.phase not in ("chosen", "stopped", "failed") or self.chosen is None:
            raise UsageError("choose pictures first")
        if not self.album.name:
            raise UsageError("give the album a name")
        self.phase, self.error = "running", ""
        self._stop.clear()
        self.done, self.total = 0, len(self.chosen.paths)
        self.changed()
        return self.submit(self._guarded, self._protect)

    def stop(self) -> None:
        """Stop the run soon; what is done is kept."""
        self._stop.set()

    def back(self) -> None:
        """Choose otherwise, after a run that was stopped or did not work; what it wrote for a zip file goes."""
        if self.phase not in ("stopped", "failed") or self.chosen is None:
            raise UsageError("stop it first")
        if self.chosen.dropped and self.chosen.source == self._place() / "in":
            tray = self.trays["protect"]
            move(self.chosen.source, tray.files)
            tray.count, tray.refused, tray.more = len(self.chosen.paths), self.refused, self.more_refused
            self.chosen.source = tray.files
        shutil.rmtree(self._place(), ignore_errors=True)
        self.phase, self.error = "chosen", ""
        self.changed()

    def _show_progress(self, done: int, total: int) -> None:
        if not self._since:
            self._first, self._since = done, monotonic()
        self.done, self.total = done, total
        if self._stop.is_set():
            raise Stopped("stopped")

    def seconds_left(self) -> float | None:
        """Until the run is done, about; None where nothing is known yet."""
        done = self.done - self._first
        if self.phase != "running" or not self._since or done < 1:
            return None
        return (monotonic() - self._since) / done * (self.total - self.done)

    def output(self) -> Path:
        """The folder that the protected pictures are written to."""
        return Path(self.album.out).expanduser() if self.album.out else self._place() / "out"

    def _place(self) -> Path:
        """The private folder of the album: always the same one, so that an album goes on where it was."""
        return self.work / "albums" / xxhash.xxh3_64_hexdigest(self.album.name.encode())

    def _protect(self) -> None:
        assert self.chosen is not None
        tray, album = self.trays["protect"], self.album
        if self.chosen.dropped and self.chosen.source != self._place() / "in":
            self.refused, self.more_refused = list(tray.refused), tray.more
            move(self.chosen.source, self._place() / "in")
            self.chosen.source = self._place() / "in"
            tray.clear()
        album.unfinished = True
        self.home.remember(replace(album))
        out = self.output()
        out.parent.mkdir(parents=True, exist_ok=True)
        poison = CUDAPoison(key=self.home.key_of(album.name), strength=cast(Strength, album.strength))
        self._since = 0.0
        summary = protect_source(
            self.chosen.source,
            out,
            poison,
            codec=codec_of(album),
            labels=FOLDER,
            max_side=self.longest_side(),
            workers=self.workers,
            progress=self._show_progress,
            convert=True,
        )
        known = worth(poison, shorter_side(summary)) if summary.images else []
        report = report_of(summary, self.refused, self.more_refused, known)
        report.out = album.out
        if self.chosen.dropped:
            shutil.rmtree(self._place() / "in", ignore_errors=True)
        album.unfinished = False
        self.home.remember(replace(album))
        self.report, self.phase = report, "done"
        self.changed()

    # ---- undo and check ----------------------------------------------------------------------------------------------

    def settle_errand(self, area: str, path: str = "") -> "Future[Any]":
        """Take what was dropped, or a folder of this computer."""
        errand = self.errands[area]
        folder = existing_folder(path) if path else None
        if errand.phase == "working":
            raise UsageError("wait until this is done")
        if folder is not None:
            errand.forget()
        errand.phase, errand.error = "working", ""
        self.changed()
        return self.submit(self._settle_errand, area, folder)

    def _settle_errand(self, area: str, folder: Path | None) -> None:
        errand = self.errands[area]
        if self._reported(errand, "empty", lambda: errand.settle(folder)) and area == "check":
            self._run_errand(area)

    def run_errand(self, area: str) -> "Future[Any]":
        """Do it."""
        errand = self.errands[area]
        if errand.phase not in ("ready", "failed"):
            raise UsageError("choose pictures first")
        errand.phase, errand.error = "working", ""
        self.changed()
        return self.submit(self._run_errand, area)

    def _run_errand(self, area: str) -> None:
        errand = self.errands[area]
        errand.phase = "working"
        self.changed()
        work = (lambda: undo(errand, self.home, self.workers)) if area == "undo" else (lambda: check(errand))
        done = self._reported(errand, "ready" if area == "undo" else "working", work)
        if area == "check":
            errand.tray.clear()
        if area == "check" or done:
            errand.phase = "done" if done else "empty"
        self.changed()

    def _reported(self, errand: Errand, otherwise: str, work: Callable[[], None]) -> bool:
        """Whether work was done; else the page says why not."""
        try:
            work()
        except Exception as error:
            if not isinstance(error, UnlearnableError | OSError | ImportError):
                traceback.print_exc(file=sys.stderr)
            errand.phase, errand.error = otherwise, message_of(error)
            self.changed()
            return False
        self.changed()
        return True

    def _guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        """Work whose errors are shown on the page."""
        began = self.phase
        try:
            work(*arguments)
        except Stopped:
            self.phase = "stopped"
        except (UnlearnableError, OSError, ImportError) as error:
            self.phase = "failed" if began == "running" else "empty" if self.chosen is None else "chosen"
            self.error = message_of(error)
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            self.phase = "failed" if began == "running" else "empty" if self.chosen is None else "chosen"
            self.error = message_of(error)
        self.changed()


def codec_of(album: Album) -> Codec:
    """How the files of an album are written: as the option ``--site`` of the command line does, else as they come."""
    site = sites()[album.site] if album.site else None
    said = album.opt_out or album.creator or album.copyright
    credit = (
        credit_from(album.opt_out, [album.creator] if album.creator else (), album.copyright or None) if said else None
    )
    return Codec(site.format if site else AUTO, site.quality if site else QUALITY, True, credit)


def move(folder: Path, place: Path) -> None:
    """Move a folder of the private one to another place in it; what lies there goes."""
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(place)


def existing_folder(typed: str) -> Path:
    """A typed path as that of a folder of this computer.

    Raises:
        UsageError: it is none.
    """
    text = typed.strip().strip("\"'")
    if "\0" in text or not text:
        raise UsageError("name a folder of this computer")
    path = Path(text).expanduser()
    if not path.is_absolute():
        raise UsageError("name the whole path of the folder, from its beginning")
    if not path.is_dir():
        raise UsageError(f"there is no folder {path} on this computer")
    path = path.resolve()
    if path in (Path(path.anchor), Path.home()):
        raise UsageError(f"{path} holds everything: name the folder of the album in it")
    return path


def read_folder(source: Path, dropped: bool) -> Chosen:
    """What lies in a folder of pictures.

    Raises:
        UsageError: there are no pictures, or something that cannot be protected as a whole.
    """
    data = open_data(source, unlabelled=True, convert=True)
    if not isinstance(data, FolderSet):
        raise UsageError(f"{source.name} holds a data set and no folder of pictures: this page is for pictures")
    if data.named_splits and (data.left_out or len(data.training) > 1):
        names = ", ".join(data.splits)
        raise UsageError(
            f"folders called {names} have a special meaning to programs that train on pictures, and some of them would "
            "be left out: rename them, or choose one of them alone"
        )
    paths = [rows.place(row) for rows in data.splits.values() for row in range(len(rows))]
    folders = sorted({path.rpartition("/")[0] for path in paths})
    unread = [(plain(name), plain(reason)) for name, reason in data.unreadable.items()]
    if not paths:
        raise UsageError(f"none of the pictures in {source.name} can be read: {unread[0][0]}: {unread[0][1]}")
    return Chosen(source, dropped, paths, folders, unread, len(data.others))


def message_of(error: BaseException) -> str:
    """What went wrong, in words."""
    if not isinstance(error, UnlearnableError | OSError | ImportError):
        return (
            "Something went wrong inside the program. Your pictures are as they were. What is written in the window of "
            "the program says more: please report it."
        )
    if isinstance(error, OSError) and not isinstance(error, UnlearnableError) and error.strerror:
        import errno

        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return "The disk is full. Make room, and press “Continue”."
        where = f" ({plain(error.filename)})" if error.filename else ""
        return sentence(f"{error.strerror}{where}")
    return sentence(error)
