"""Writing files whole or not at all, and where private ones live."""

import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE_VARIABLE = "UNLEARNABLE_TRANSFORMS_CACHE"
PART_PREFIX, PART_SUFFIX = ".unlearnable-", ".part"


def check_hub_name(source: str | os.PathLike) -> None:
    """Refuse a path that is not here, unless it can only be the name of a dataset of the Hub.

    The name of a private folder that was mistyped does not leave this machine: a name of the Hub is ``user/name``, and
    no folder ``user`` is here.

    Raises:
        FileNotFoundError: says how a dataset of the Hub is called.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", os.fspath(source)) or Path(source).parent.is_dir():
        raise FileNotFoundError(f"there is no {source} here (a dataset of the Hub is called user/name)")


@contextmanager
def replacing(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """A temporary file beside ``path``, mode 0600, that takes its place when the block ends without an error.

    Raises:
        FileExistsError: ``path`` exists and ``overwrite`` is False.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        if overwrite:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)  # fails if path exists, without a moment between test and write
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """The name of a temporary file beside ``path`` that takes its place when the block ends without an error.

    For public output in great numbers: what is written there gets the usual rights, and nothing waits for the disk
    (:func:`replacing` does). A process that is killed leaves the temporary file: see :func:`remove_parts`.
    """
    temporary = path.with_name(f"{PART_PREFIX}{os.getpid()}-{secrets.token_hex(4)}{PART_SUFFIX}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_parts(directory: Path) -> None:
    """Remove what killed processes left of :func:`whole`, in the whole tree."""
    for folder, _, names in os.walk(directory):
        for name in names:
            if name.startswith(PART_PREFIX) and name.endswith(PART_SUFFIX):
                Path(folder, name).unlink(missing_ok=True)


def private_directory(*parts: str) -> Path:
    """A folder of the library's cache, made with mode 0700: what lies there is as secret as the key."""
    root = os.environ.get(CACHE_VARIABLE)
    if root is None:
        from platformdirs import user_cache_dir

        root = user_cache_dir("unlearnable-transforms")
    directory = Path(root).expanduser().joinpath(*parts)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    directory.chmod(0o700)  # mkdir's mode is subject to the umask
    return directory
