"""Writing files whole or not at all, reading files of others with no trust in them, and where private ones live."""

import json
import math
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from io import BufferedReader
from pathlib import Path, PurePath
from typing import Any

from .errors import UnlearnableError, UsageError, did_you_mean
from .warn import warn

CACHE_VARIABLE = "UNLEARNABLE_TRANSFORMS_CACHE"
PART_PREFIX, PART_SUFFIX = ".unlearnable-", ".part"
MOST_JSON = 1 << 28  # bytes of a JSON file: a manifest of a million images
MOST_DEPTH = 40  # of brackets; our deepest file, a report's cell, has 8
MOST_NAME, MOST_PATH = 255, 4096  # bytes of a name and of a path on the usual file systems
RESTORE = "restore it from a copy"
_own_cache: ContextVar[Path | None] = ContextVar("own_cache", default=None)
_MARKDOWN = re.compile(r"([\\`*_\[\]|~$#@]|(?i:(?<=http)|(?<=https)|(?<=ftp)|(?<=mailto)|(?<=xmpp)):|(?i:(?<=www))\.)")


class DamagedError(UsageError):
    """A file that is not what its name promises: cut off, of another kind, or made to do harm."""

    def __init__(self, path: str | os.PathLike, remedy: str, reason: str = "") -> None:
        super().__init__(f"{os.fspath(path)} is damaged{f' ({reason})' if reason else ''}: {remedy}")


class IrregularFileError(UnlearnableError, OSError):
    """A name that is to be read, and belongs to a pipe, a socket, a device or a folder."""


def check_hub_name(source: str | os.PathLike) -> None:
    """Refuse a path that is not here, unless it can only be the name of a dataset of the Hub, ``user/name`` without a
    folder ``user`` here: the name of a private folder that was mistyped does not leave this machine.

    Raises:
        FileNotFoundError: says how a dataset of the Hub is called.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", os.fspath(source)) or Path(source).parent.is_dir():
        hub = "a data set of the Hub is called user/name, or hf://name"
        raise FileNotFoundError(f"there is no {source} here ({hub}){beside(source)}")


def beside(path: str | os.PathLike) -> str:
    """``: did you mean 'photos'?``, where a path that is not there is nearly one that is."""
    parent = Path(path).parent
    names = [str(parent / name) for name in os.listdir(parent)] if parent.is_dir() else []
    return did_you_mean(Path(path), names)


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

    For public output in great numbers: it gets the usual rights, and nothing waits for the disk, as :func:`replacing`
    does. A process that is killed leaves the temporary file: see :func:`remove_parts`.
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


def put_in_place(made: Path, out: Path) -> None:
    """Let a folder take the place of one that is not there, or empty: perhaps a link to a folder, a mounted disk or the
    current folder. It gets the usual rights.

    Raises:
        FileExistsError: ``out`` is no longer empty.
    """
    if not out.exists():
        out.mkdir()
        made.chmod(out.stat().st_mode)
        out.rmdir()
        made.rename(out)
        return
    if any(out.iterdir()):
        raise FileExistsError(f"{out} is no longer empty: choose a new folder")
    for entry in list(made.iterdir()):
        shutil.move(entry, out.resolve() / entry.name)


def private_directory(*parts: str) -> Path:
    """A folder of the library's cache, with mode 0700 at every level: what lies there is as secret as the key.

    The cache's root gets the mode, too, but for a folder that the user chose and that holds other things already. A
    warning says so where others may write into such a folder, and so can put files of theirs in the place of ours.
    """
    own = _own_cache.get()
    chosen = own or os.environ.get(CACHE_VARIABLE)
    if chosen is None:
        from platformdirs import user_cache_dir

        chosen = user_cache_dir("unlearnable-transforms")
    root = Path(chosen).expanduser()
    root.parent.mkdir(parents=True, exist_ok=True)
    shared = own is None and CACHE_VARIABLE in os.environ and root.is_dir() and any(root.iterdir())
    if not shared:
        _make_private(root)
    elif os.name == "posix" and stat.S_IMODE(root.stat().st_mode) & (0o022 | stat.S_ISVTX) in (0o002, 0o020, 0o022):
        warn(f"others may write into {root}, where keys' noise and ledgers lie: run `chmod 700 {root}`")
    directory = root
    for part in parts:
        directory = directory / part
        _make_private(directory)
    return directory


@contextmanager
def cache_at(folder: Path | None) -> Iterator[None]:
    """Another cache for what this thread does in the block; None: the usual one. Other processes know nothing of it."""
    token = _own_cache.set(folder)
    try:
        yield
    finally:
        _own_cache.reset(token)


def _make_private(directory: Path) -> None:
    directory.mkdir(exist_ok=True, mode=0o700)
    if stat.S_IMODE(directory.stat().st_mode) != 0o700:
        directory.chmod(0o700)  # mkdir's mode is subject to the umask, and the folder may be older


# ---- files of others -------------------------------------------------------------------------------------------------


def open_regular(path: str | os.PathLike) -> BufferedReader:
    """Open a regular file, or a link to one, for reading: nothing is waited for, and no device is opened.

    Raises:
        FileNotFoundError: there is none.
        IrregularFileError: a pipe, a socket, a device or a folder.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise IrregularFileError(f"{os.fspath(path)} is no regular file: take it out, or put the file in its place")
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))


def read_regular(path: str | os.PathLike, most: int = MOST_JSON, remedy: str = RESTORE) -> bytes:
    """The bytes of a regular file, opened by :func:`open_regular`.

    Raises:
        DamagedError: it has more than ``most`` bytes.
    """
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise DamagedError(path, remedy, f"larger than {most:,} bytes")
    return data


def read_json(path: str | os.PathLike, kind: Any, remedy: str = RESTORE, *, most: int = MOST_JSON) -> Any:
    """The value in a JSON file, whoever wrote it.

    Args:
        path: a regular file of at most ``most`` bytes.
        kind: what it has to be, see :func:`fits`.
        remedy: what to do about a damaged file; ends the message.

    Raises:
        FileNotFoundError, IrregularFileError: as :func:`open_regular`.
        DamagedError: it is no JSON, too deep, too large, or of another kind.
    """
    data = read_regular(path, most, remedy)
    try:
        return parse_json(data, kind)
    except ValueError as error:
        raise DamagedError(path, remedy, str(error)) from None


def parse_json(data: bytes | str, kind: Any = object) -> Any:
    """The value of some JSON text in UTF-8, of a kind as in :func:`fits`.

    Raises:
        ValueError: it is no JSON, a name occurs twice in an object, it is deeper than ``MOST_DEPTH``, or it is of
            another kind.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("too deep") from None
    except ValueError as error:
        raise ValueError("no JSON" if isinstance(error, json.JSONDecodeError | UnicodeDecodeError) else error) from None
    if text.count("[") + text.count("{") > MOST_DEPTH and not _is_flat(value, MOST_DEPTH):
        raise ValueError("too deep")
    if "\\u" in text and not is_utf8(json.dumps(value, ensure_ascii=False)):
        raise ValueError("half a character")
    if not fits(value, kind):
        raise ValueError("of another kind")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a name occurs twice")
    return value


def _is_flat(value: Any, depth: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth > 0 and all(_is_flat(part, depth - 1) for part in inner if isinstance(part, dict | list))


def fits(value: Any, kind: Any) -> bool:
    """Whether a JSON value is of a kind.

    Args:
        value: from a file.
        kind: ``str``, ``bool``, ``int`` (no truth value), ``float`` (a finite number), ``dict``, ``list``, or
            ``object`` for anything; None for null; a tuple of kinds, of which one has to fit; ``[kind]`` for a list of
            those; ``{str: kind}`` for an object with values of that kind; ``{"name": kind, "other?": kind}`` for one
            that has these names, those with a question mark only if it likes, and may have more.
    """
    if kind is None:
        return value is None
    if isinstance(kind, tuple):
        return any(fits(value, one) for one in kind)
    if isinstance(kind, list):
        return isinstance(value, list) and all(fits(part, kind[0]) for part in value)
    if isinstance(kind, dict) and str in kind:
        return isinstance(value, dict) and all(fits(part, kind[str]) for part in value.values())
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(
            fits(value[name.rstrip("?")], inner) if name.rstrip("?") in value else name.endswith("?")
            for name, inner in kind.items()
        )
    if kind in (int, float) and isinstance(value, bool):
        return False
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, kind)


def is_inner_path(text: str, *, parts: int | None = None) -> bool:
    """Whether text of others, such as ``train/cat/1.png``, may become a path below a folder: relative, leading nowhere
    else, and of so many ``parts`` where they are given."""
    if not is_utf8(text):
        return False
    path, sizes = PurePath(text), [len(name.encode()) for name in text.split("/")]
    return (
        "\0" not in text
        and sum(sizes) + len(sizes) <= MOST_PATH
        and 0 < min(sizes) <= max(sizes) <= MOST_NAME
        and not {".", ".."} & set(text.split("/"))
        and path.as_posix() == text
        and not path.anchor
        and parts in (None, len(path.parts))
    )


def is_utf8(text: str) -> bool:
    """Whether text can be written as UTF-8; names of files that are in another encoding cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# ---- text of others --------------------------------------------------------------------------------------------------


class Markdown(str):
    """Text that is Markdown already, which :func:`markdown_text` leaves as it is."""


def markdown_text(value: Any) -> Markdown:
    """Any value as Markdown that shows its text and does nothing else: no markup, HTML, link, or line of its own. What
    cannot be seen (control characters, marks of the direction of writing) is written as its code."""
    if isinstance(value, Markdown):
        return value
    text = " ".join(str(value).split())
    text = "".join(sign if sign.isprintable() else f"(U+{ord(sign):04X})" for sign in text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return Markdown(_MARKDOWN.sub(r"\\\1", text))


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds a lock on a file, which is made, or on a folder, which must be there: one process at a time.

    Raises:
        BlockingIOError: another process holds the lock and ``wait`` is False.
    """
    try:
        import fcntl
    except ImportError:  # Windows: two runs at once are not noticed there
        yield
        return
    flags = os.O_RDONLY if path.is_dir() else os.O_WRONLY | os.O_CREAT
    handle = os.open(path, flags, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:  # a file system without locks: the journal's lock in the cache still holds
            pass
        yield
    finally:
        os.close(handle)
