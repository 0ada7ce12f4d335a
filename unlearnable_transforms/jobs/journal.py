"""The journal of one output folder: what was asked for, and what is done.

Private, like the ledger: it lies in the library's cache, in a folder named by a hash of the output's absolute path.

- ``settings.json``: everything that changes a byte of the output.
- ``done.jsonl``: one line a unit, appended. A line that a killed process left torn is cut off; of several lines about
  one unit the last counts. Its status is ``written``, ``failed``, or ``removed``: the unit is neither in the source nor
  in the output any more.

Nothing here waits for the disk. After a power failure a line may say that a file is there which never reached the disk,
or be damaged itself: that is why a resumed run compares the checksum of every file, and passes over lines that it
cannot read.
"""

import json
import os
import shutil
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import xxhash

from ..data.base import Unit
from ..errors import UsageError, WorkError
from ..files import fits, locked, open_regular, private_directory, remove_parts, replacing

VERSION = 2
BLOCK = 1 << 20  # bytes of a file that are read at a time
REMEDY = "use the same again, or start with an empty output folder"
Record = dict[str, Any]
# What a line holds, see `files.fits`.
FAILED = {"target": str, "status": str, "split": str, "start": int, "rows": int, "place": str, "unreadable": [[str]]}
WRITTEN = {
    **{"target": str, "status": str, "split": str, "start": int, "rows": int, "place": str, "size": int},
    **{"stamp": object, "bytes": int, "checksum": str, "digest": str, "facts": [{"status": str}]},
}


class Journal:
    """The journal of an output folder, locked against a second run.

    Args:
        out: the output folder.
        directory: where the journal lies; the caller holds the lock.
    """

    def __init__(self, out: Path, directory: Path) -> None:
        self.out = out
        self.directory = directory
        self._settings = directory / "settings.json"
        self._done = directory / "done.jsonl"
        self._file: IO[bytes] | None = None

    @property
    def is_of_out(self) -> bool:
        """Whether it was written for ``out``, and not for a folder at another place."""
        return self.directory.name == _name(self.out)

    def knows(self, checksums: Iterable[str]) -> int:
        """How many of some checksums stand in it; fast."""
        data = self._done.read_bytes() if self._done.exists() else b""
        return sum(checksum.encode() in data for checksum in checksums)

    @property
    def begun(self) -> bool:
        """Whether an earlier run wrote to the output folder."""
        return self.out.exists() and any(self.out.iterdir())

    @property
    def missing(self) -> int | None:
        """How many units have no record though the last run came to its end; None where it did not."""
        try:
            count = int((self.directory / "finished").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return max(0, count - sum(1 for _ in self.records()))

    def finish(self) -> None:
        """Note that the run came to its end."""
        with replacing(self.directory / "finished") as temporary:
            temporary.write_text(str(sum(1 for _ in self.records())))

    def settings(self) -> dict[str, Any] | None:
        """What the run that began the output was asked for; None where nothing is known of it.

        Raises:
            ValueError: the journal is damaged.
        """
        try:
            settings = json.loads(self._settings.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError):
            settings = None
        if not isinstance(settings, dict):
            raise UsageError(
                f"the journal {self._settings} is damaged, so what {self.out} holds is not known: start with an empty "
                "output folder"
            )
        return settings

    def begin(self, settings: dict[str, Any]) -> bool:
        """Start, or go on after an interruption; returns whether something is there to go on with.

        Args:
            settings: name -> JSON value. A list ``classes`` may have grown at its end.

        Raises:
            ValueError: the output folder holds something else, or the settings are not what they were.
        """
        settings = json.loads(json.dumps({"journal version": VERSION, **settings}))
        resumed = self.begun
        if resumed:
            before = self.settings()
            if before is None:
                raise UsageError(
                    f"{self.out} is not empty, and there is no journal to go on with: start with an empty output folder"
                )
            if before.get("journal version") != VERSION:
                raise UsageError(
                    f"{self.out} was begun with another version of unlearnable-transforms: go on with that version, or "
                    "start with an empty output folder"
                )
            self._check_settings(before, settings)
            self._cut_torn_line()
        self.out.mkdir(exist_ok=True)
        self.remove_parts()
        (self.directory / "finished").unlink(missing_ok=True)
        with replacing(self._settings) as temporary:  # last: a journal with settings is a whole one
            temporary.write_text(json.dumps(settings, indent=1), encoding="utf-8")
        self._file = os.fdopen(os.open(self._done, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")
        return resumed

    def clear(self) -> None:
        """Forget what is known of an output folder that is gone, or empty again."""
        for path in self.directory.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()

    def remove_parts(self) -> None:
        """Remove what killed processes left of files that they were writing."""
        remove_parts(self.out)
        remove_parts(self.directory)

    def append(self, records: Iterable[Record]) -> None:
        """Note what is done."""
        assert self._file is not None
        self._file.write(b"".join(json.dumps(record).encode() + b"\n" for record in records))
        self._file.flush()

    def close(self) -> None:
        """Stop writing."""
        if self._file is not None:
            with suppress(OSError):  # a full disk was reported when it was met
                self._file.close()
            self._file = None

    def records(self, units: Sequence[Unit] | None = None) -> Iterator[Record]:
        """The last record of each unit that has one, in the order of ``units``; default: of all, in that of the lines.

        Only places in the file are held in memory, not the records.
        """
        starts: dict[str, int] = {}
        if not self._done.exists():
            return
        with self._done.open("rb") as file:
            start = 0
            for line in file:
                target = _target(line) if line.endswith(b"\n") else None  # a torn line
                if target is not None:
                    starts[target] = start
                start += len(line)
            places = starts.values() if units is None else (starts.get(unit.target, -1) for unit in units)
            for start in array("q", places):
                if start >= 0:
                    file.seek(start)
                    yield json.loads(file.readline())

    def intact(self, record: Record) -> bool:
        """Whether the file of a record is there, whole and unchanged."""
        path = self.out / record["target"]
        try:
            return path.stat().st_size == record["bytes"] and file_checksum(path) == record["checksum"]
        except OSError:
            return False

    def _check_settings(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        for name in sorted({*before, *after}, key=lambda name: (name != "method", name)):  # whose arguments differ, too
            old, new = before.get(name), after.get(name)
            if old == new or (name == "classes" and _agree(old, new)):
                continue
            if name == "key_fingerprint":
                raise UsageError(
                    f"{self.out} was begun with another key, of fingerprint {old}, now it is {new}, or with a key "
                    f"derived by another name (--derive): {REMEDY}"
                )
            if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
                self._check_settings(old, new)
            if isinstance(old, list) and isinstance(new, list):
                gone, added = [x for x in old if x not in new], [x for x in new if x not in old]
                raise UsageError(
                    f"the {name} are not those {self.out} was begun with: added {added}, gone {gone}; {REMEDY}"
                )
            raise UsageError(
                f"{self.out} was begun with {name.replace('_', ' ')} {_show(old)}, now it is {_show(new)}: {REMEDY}"
            )

    def _cut_torn_line(self) -> None:
        if not self._done.exists():
            return
        with self._done.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            while size:
                step = min(size, 1 << 16)
                file.seek(size - step)
                newline = file.read(step).rfind(b"\n")
                if newline >= 0:
                    size += newline + 1 - step
                    break
                size -= step
            file.truncate(size)


def file_checksum(path: Path) -> str:
    """xxh3-128 of a file's bytes, hexadecimal, as :func:`~..data.codec.checksum` gives it; a block in memory at a time.

    Raises:
        OSError: the file cannot be read, or is no regular file.
    """
    digest = xxhash.xxh3_128()
    with open_regular(path) as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _target(line: bytes) -> str | None:
    """The unit that a line is about; None for a line that a power failure damaged."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    failed = isinstance(record, dict) and record.get("status") == "failed"
    return record["target"] if fits(record, FAILED if failed else WRITTEN) else None


def _agree(old: Any, new: Any) -> bool:
    """Whether no class has another number than before; an empty name is a number that a set has no images of."""
    if not isinstance(old, list) or not isinstance(new, list):
        return False
    return all(a == b or "" in (a, b) for a, b in zip(old, new, strict=False)) and not (old and not new)


def _show(value: Any) -> str:
    return "not set" if value is None else json.dumps(value, sort_keys=True, ensure_ascii=False)


@contextmanager
def open_journal(out: Path) -> Iterator[Journal]:
    """The journal of an output folder, for one run at a time.

    The lock is on a file of the cache and on the folder itself, which runs with other caches see, too.

    Raises:
        RuntimeError: another run is writing to this folder.
    """
    directory = private_directory("journals", _name(out))
    made = not out.exists()
    if made:
        out.mkdir()
    try:
        with locked(directory / "lock", wait=False), locked(out, wait=False):
            journal = Journal(out, directory)
            if not journal.begun:
                journal.clear()
            try:
                yield journal
            except BaseException:
                journal.remove_parts()  # a worker that took too long to stop was ended while it wrote
                raise
            finally:
                journal.close()
                if made and out.is_dir() and not any(out.iterdir()):
                    out.rmdir()
    except BlockingIOError:
        raise WorkError(f"another run is writing to {out}: wait for it, or stop it") from None


def lies_in_output(path: Path) -> bool:
    """Whether a file would lie in a folder that a run of this machine wrote, and be published with it."""
    journals = private_directory("journals")
    return any((journals / _name(folder) / "settings.json").exists() for folder in path.resolve().parents)


def protected_journals(out: Path) -> Iterator[Journal]:
    """The journals of all protected outputs, to be read; that of ``out`` first, if there is one."""
    directories = sorted(private_directory("journals").iterdir(), key=lambda path: (path.name != _name(out), path.name))
    for directory in directories:
        journal = Journal(out, directory)
        with suppress(ValueError):  # a damaged one knows nothing
            if "fraction" in (journal.settings() or {}):  # what unlock writes has none
                yield journal


def _name(out: Path) -> str:
    return xxhash.xxh3_128(os.fsencode(out.resolve())).hexdigest()
