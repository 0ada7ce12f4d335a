"""Files that were dropped on the page: kept in a private folder until they are protected, and never anywhere else."""

import contextlib
import filecmp
import os
import secrets
import shutil
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..data.folder import is_image_name
from ..data.header import open_file
from ..data.walk import is_hidden
from ..errors import UsageError
from ..files import is_inner_path, is_utf8

BLOCK = 1 << 20  # bytes that are copied at a time
MEGABYTE = 1_000_000
SPARE = 500_000_000  # bytes of the disk that stay free
MOST_FILES, MOST_FILES_OF_DEMO = 200_000, 1000  # in a zip file
LISTED = 500  # names of what was not taken
NO_IMAGE = "not a picture"


@dataclass(frozen=True)
class Limits:
    """What visitors of a demonstration may take up.

    Attributes:
        pictures: that one visitor sends at a time.
        each, all: megabytes of one picture, and of what one visitor sends at a time.
        megapixels: of one picture.
        visitors: at a time.
        minutes: of silence, after which everything of a visitor is removed.
    """

    pictures: int = 20
    each: int = 10
    all: int = 100
    megapixels: int = 50
    visitors: int = 20
    minutes: int = 15

    def check(self, pictures: int, largest: int, size: int) -> None:
        """Refuse files that are too many or too large.

        Args:
            pictures: how many. ``largest``: bytes of the largest one. ``size``: of all.

        Raises:
            UsageError: says what is allowed.
        """
        if pictures > self.pictures:
            raise UsageError(f"this demonstration takes at most {self.pictures} pictures at a time: choose fewer")
        if largest > self.each * MEGABYTE:
            raise UsageError(f"this demonstration takes pictures of at most {self.each} MB: leave out larger ones")
        if size > self.all * MEGABYTE:
            raise UsageError(f"this demonstration takes at most {self.all} MB at a time: choose fewer pictures")


class Tray:
    """One set of dropped files, which keep their names and folders.

    Args:
        root: a private folder, which is emptied.
        limits: of a demonstration.

    Attributes:
        files: folder of what arrived.
        count: how many pictures arrived.
        refused: name and reason of what was not taken; the first ones.
        more: how many others were not taken.
        zips: files that are still to be unpacked.
    """

    def __init__(self, root: Path, limits: Limits | None = None) -> None:
        self.root, self.files, self.limits = root, root / "in", limits
        self._arriving = root / "arriving"
        self.clear()

    def clear(self) -> None:
        """Forget everything, and remove the files."""
        shutil.rmtree(self.root, ignore_errors=True)
        self._arriving.mkdir(parents=True)
        self.files.mkdir()
        self.count, self.more = 0, 0
        self.refused: list[tuple[str, str]] = []
        self.zips: list[tuple[Path, str]] = []

    def temporary(self) -> Path:
        """Where a file is written while it arrives; it is there, so that it counts as one that arrives.

        Raises:
            UsageError: a demonstration takes no more of them.
        """
        if self.limits:
            self.limits.check(self.count + len(list(self._arriving.iterdir())) + 1, 0, 0)
        path = self._arriving / secrets.token_hex(8)
        path.touch(mode=0o600)
        return path

    def check_arriving(self, name: str, size: int) -> None:
        """Refuse a file of which so many bytes have arrived.

        Raises:
            UsageError: it is larger than a demonstration takes, or all of them together are.
        """
        if self.limits:
            here = _size(self.files) + _size(self._arriving)
            self.limits.check(0, 0 if _is_zip(name) else size, max(size, here))

    def _over(self, path: Path) -> str:
        """Why a demonstration does not take a picture; empty where it does."""
        if self.limits is None:
            return ""
        size = path.stat().st_size
        try:
            self.limits.check(self.count + 1, size, _size(self.files) + size)
        except UsageError as error:
            return str(error)
        try:
            width, height = open_file(path.read_bytes(), convert=True).image.size
        except (OSError, TypeError, ValueError):  # not readable: the report says why
            return ""
        most = self.limits.megapixels
        return f"this demonstration takes at most {most} megapixels" if width * height > most * 1_000_000 else ""

    def refuse(self, name: str, reason: str) -> None:
        """Note what was not taken."""
        if len(self.refused) < LISTED:
            self.refused.append((name, reason))
        else:
            self.more += 1

    def keep(self, temporary: Path, name: str) -> None:
        """Put a file that has arrived where it belongs; a zip file waits to be unpacked.

        Another file of the same name and content is the same file. Of another content, it gets a number.
        """
        if _is_zip(name):
            self.zips.append((temporary, name))
            return
        problem = problem_of(name) or self._over(temporary)
        if problem:
            temporary.unlink()
            self.refuse(name, problem)
            return
        stem, suffix = os.path.splitext(name)
        target, number = self.files / name, 1
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            while target.exists():
                if target.is_file() and filecmp.cmp(temporary, target, shallow=False):
                    temporary.unlink()
                    return
                number += 1
                target = self.files / f"{stem} ({number}){suffix}"
            os.rename(temporary, target)
        except (FileExistsError, NotADirectoryError):  # a folder and a file of one name
            temporary.unlink()
            self.refuse(name, "a file and a folder have the same name: rename one of them")
            return
        self.count += 1

    def unpack(self) -> None:
        """Take the pictures out of the zip files that arrived."""
        while self.zips:
            path, name = self.zips.pop()
            try:
                with zipfile.ZipFile(path) as archive:
                    self._unpack(archive, name)
            except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
                reason = "it needs a password" if "password" in str(error) else "the zip file is damaged"
                self.refuse(name, reason)
            finally:
                path.unlink(missing_ok=True)

    def _unpack(self, archive: zipfile.ZipFile, name: str) -> None:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        size = sum(entry.file_size for entry in entries)
        most = MOST_FILES_OF_DEMO if self.limits else MOST_FILES
        if len(entries) > most:
            raise UsageError(f"{name} holds more than {most:,} files: make several zip files of it")
        check_room(self.root, size)
        for entry in entries:
            inner = entry.filename.replace("\\", "/")  # as some programs on Windows write it
            if is_inner_path(inner) and any(map(is_hidden, inner.split("/"))):  # what programs keep for themselves
                continue
            problem = "a link, not a file" if stat.S_ISLNK(entry.external_attr >> 16) else problem_of(inner)
            if problem:
                self.refuse(inner, problem)
                continue
            if self.limits:
                try:
                    self.limits.check(self.count + 1, entry.file_size, _size(self.files) + entry.file_size)
                except UsageError as error:
                    self.refuse(inner, str(error))
                    continue
            temporary = self._arriving / secrets.token_hex(8)
            with archive.open(entry) as source, temporary.open("wb") as target:  # at most what the entry says
                shutil.copyfileobj(source, target, BLOCK)
            self.keep(temporary, inner)

    def source(self) -> Path:
        """The folder of the pictures: what arrived in one folder alone is that folder."""
        folder = self.files
        while len(entries := list(folder.iterdir())) == 1 and entries[0].is_dir():
            folder = entries[0]
        return folder


def _is_zip(name: str) -> bool:
    return os.path.splitext(name)[1].lower() == ".zip"


def _size(folder: Path) -> int:
    """Bytes of the files in a folder, some of which may go meanwhile."""
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_size if path.is_file() else 0
    return size


def problem_of(name: str) -> str:
    """Why a file of this name, which comes from outside, is not taken; empty where it is.

    Args:
        name: path with ``/``.
    """
    if not is_inner_path(name):
        return "its name is no name of a file in a folder: rename it"
    hidden = any(map(is_hidden, name.split("/")))
    return NO_IMAGE if hidden or not is_image_name(name) else ""


def check_room(folder: Path, size: int) -> None:
    """Refuse files for which the disk has no room.

    Raises:
        UsageError: says how much is missing.
    """
    free = shutil.disk_usage(folder).free
    if size > free - SPARE:
        raise UsageError(
            f"there is not enough room on the disk: {size / 1e9:.1f} GB are needed, and {free / 1e9:.1f} GB are free. "
            "Make room, or take fewer pictures"
        )


def zipped(folder: Path) -> Iterator[bytes]:
    """A zip file of a folder, a block at a time. Equal files give equal bytes."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder).as_posix()
            entry = zipfile.ZipInfo(name if is_utf8(name) else name.encode("utf-8", "replace").decode())
            entry.external_attr, entry.file_size = 0o644 << 16, path.stat().st_size
            with archive.open(entry, "w") as target, path.open("rb") as source:
                while block := source.read(BLOCK):
                    target.write(block)
                    yield sink.taken()
    yield sink.taken()


class _Sink:
    """What a zip file is written to: bytes that are taken away as they come."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._blocks.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def taken(self) -> bytes:
        data = b"".join(self._blocks)
        self._blocks.clear()
        return data
