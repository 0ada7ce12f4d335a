"""Files that were dropped on the page: kept in a private folder until they are protected, and never anywhere else."""

import filecmp
import os
import secrets
import shutil
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ..data.folder import is_image_name
from ..data.walk import is_hidden
from ..errors import UsageError
from ..files import is_inner_path, is_utf8

BLOCK = 1 << 20  # bytes that are copied at a time
SPARE = 500_000_000  # bytes of the disk that stay free
MOST_FILES = 200_000  # in a zip file
LISTED = 500  # names of what was not taken
NO_IMAGE = "not a picture"


class Tray:
    """One set of dropped files, which keep their names and folders.

    Args:
        root: a private folder, which is emptied.

    Attributes:
        files: folder of what arrived.
        count: how many pictures arrived.
        refused: name and reason of what was not taken; the first ones.
        more: how many others were not taken.
        zips: files that are still to be unpacked.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.files = root, root / "in"
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
        """Where a file is written while it arrives."""
        return self._arriving / secrets.token_hex(8)

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
        if os.path.splitext(name)[1].lower() == ".zip":
            self.zips.append((temporary, name))
            return
        problem = problem_of(name)
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
        if len(entries) > MOST_FILES:
            raise UsageError(f"{name} holds more than {MOST_FILES:,} files: make several zip files of it")
        check_room(self.root, size)
        for entry in entries:
            inner = entry.filename.replace("\\", "/")  # as some programs on Windows write it
            if is_inner_path(inner) and any(map(is_hidden, inner.split("/"))):  # what programs keep for themselves
                continue
            problem = "a link, not a file" if stat.S_ISLNK(entry.external_attr >> 16) else problem_of(inner)
            if problem:
                self.refuse(inner, problem)
                continue
            temporary = self.temporary()
            with archive.open(entry) as source, temporary.open("wb") as target:  # at most what the entry says
                shutil.copyfileobj(source, target, BLOCK)
            self.keep(temporary, inner)

    def source(self) -> Path:
        """The folder of the pictures: what arrived in one folder alone is that folder."""
        folder = self.files
        while len(entries := list(folder.iterdir())) == 1 and entries[0].is_dir():
            folder = entries[0]
        return folder


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
