"""Every file below a folder, in one way for every format: hidden names, links, pipes and names that are no text."""

import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import UsageError, printable

SHOWN = 5


class File(NamedTuple):
    """A file below a folder: its path with ``/``, bytes, time stamp in nanoseconds; and why it is not read, if so."""

    path: str
    size: int
    mtime: int
    problem: str = ""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def suffix(self) -> str:
        """In lower case, with its dot."""
        return os.path.splitext(self.path)[1].lower()


def is_hidden(name: str) -> bool:
    """Names that programs use for themselves: ``.thumbnails``, ``__MACOSX``, ``@eaDir``; `datasets` skips them, too."""
    return name.startswith((".", "__", "@"))


def walk(root: Path) -> tuple[list[File], list[str]]:
    """The files below a folder, sorted by path, and what is hidden there; hidden folders end with ``/``.

    Raises:
        ValueError: a link to a folder, which is not followed.
    """
    hidden: list[str] = []
    files = sorted(_walk(root, hidden))
    return files, sorted(hidden)


def _walk(root: Path, hidden: list[str]) -> Iterator[File]:
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                path = folder + entry.name
                if entry.is_dir():
                    if is_hidden(entry.name):
                        hidden.append(path + "/")
                    elif entry.is_symlink():
                        raise UsageError(
                            f"{root / path} is a link to a folder: links to files are read, links to folders are not "
                            "followed; replace it by the folder, or name that folder as the source"
                        )
                    else:
                        folders.append(path + "/")
                elif is_hidden(entry.name):
                    hidden.append(path)
                else:
                    yield _file(entry, path)


def _file(entry: os.DirEntry, path: str) -> File:
    try:
        status = entry.stat()
    except OSError as error:  # a broken link, for one
        return File(path, -1, -1, f"the file cannot be read: {error.strerror}")
    problem = "" if stat.S_ISREG(status.st_mode) else "it is a pipe, a device or a socket, not a file"
    return File(path, status.st_size, status.st_mtime_ns, problem)


def one_file(path: Path) -> File:
    """A file by its own name.

    Raises:
        ValueError: a pipe or device.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path} is a pipe or a device, not a file")
    return File(path.name, status.st_size, status.st_mtime_ns)


def named(paths: Collection[str]) -> str:
    """``a.jpg, b.jpg ... (12 in all)``, also for names that are not valid text."""
    shown = ", ".join(readable_name(path) for path in list(paths)[:SHOWN])
    return shown + (f" ... ({len(paths)} in all)" if len(paths) > SHOWN else "")


def readable_name(path: str) -> str:
    """A file's name as it can be printed anywhere."""
    return printable(path)
