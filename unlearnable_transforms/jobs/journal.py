"""The journal of one output folder: what was asked for, what the source was, and what is done.

Private, like the ledger: it lies in the library's cache, in a folder named by a hash of the output's absolute path.

- ``settings.json``: everything that changes a byte of the output.
- ``source.jsonl``: path, size and time of every source file.
- ``done.jsonl``: one line a finished file, appended. A line that a killed process left torn is cut off.

Nothing here waits for the disk. After a power failure a finished line may stand for a file that never reached the disk:
that is why a resumed run compares the checksum of every file it finds.
"""

import json
import os
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import xxhash

from ..data.codec import checksum
from ..data.listing import named
from ..files import private_directory, remove_parts, replacing

VERSION = 1
REMEDY = "use the same again, or start with an empty output folder"


class Journal:
    """The journal of an output folder, locked against a second run.

    Args:
        out: the output folder.
        directory: where the journal lies; the lock is held by the caller.
    """

    def __init__(self, out: Path, directory: Path) -> None:
        self.out = out
        self.directory = directory
        self._settings = directory / "settings.json"
        self._source = directory / "source.jsonl"
        self._done = directory / "done.jsonl"
        self._file: IO[bytes] | None = None

    @property
    def scratch(self) -> Path:
        """A private folder for the caller, which removes it."""
        return self.directory / "scratch"

    def begin(self, settings: dict[str, Any], source: Iterable[str]) -> bool:
        """Start, or go on after an interruption; returns whether something is there to go on with.

        Args:
            settings: name -> JSON value.
            source: a line of JSON ``[path, size, mtime]`` a source file, sorted.

        Raises:
            ValueError: the output folder holds something else, or the settings or the source are not what they were.
        """
        settings = json.loads(json.dumps({"journal version": VERSION, **settings}))
        empty = not self.out.exists() or not any(self.out.iterdir())
        resumed = not empty
        if resumed:
            if not self._settings.exists():
                raise ValueError(f"{self.out} is not empty, and there is no journal to go on with: {REMEDY}")
            self._check_settings(json.loads(self._settings.read_text()), settings)
            self._cut_torn_line()
        else:
            for path in self.directory.iterdir():
                if path.is_dir() and path != self.scratch:
                    shutil.rmtree(path)
                elif path.is_file() and path.name != "lock":
                    path.unlink()
            self.out.mkdir(exist_ok=True)
        self.remove_parts()
        self._write_source(source, resumed)
        if not resumed:  # last: a journal with settings is a whole one
            with replacing(self._settings) as temporary:
                temporary.write_text(json.dumps(settings, indent=1))
        self._file = os.fdopen(os.open(self._done, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")
        return resumed

    def remove_parts(self) -> None:
        """Remove what killed processes left of files that they were writing."""
        remove_parts(self.out)
        remove_parts(self.directory)

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Note finished files."""
        assert self._file is not None
        self._file.write(b"".join(json.dumps(record).encode() + b"\n" for record in records))
        self._file.flush()

    def close(self) -> None:
        """Stop writing."""
        if self._file is not None:
            with suppress(OSError):  # a full disk was told when it was met
                self._file.close()
            self._file = None

    def finished(self, paths: list[str], target: Callable[[str], str]) -> bytearray:
        """For each path 1 if its output is there, whole and unchanged, else 0.

        Args:
            paths: source files.
            target: a source file's place in the output.
        """
        done = bytearray(len(paths))
        for place, record in self._latest(paths):
            done[place] = record["status"] != "failed" and self._intact(target(record["path"]), record)
        return done

    def records(self, paths: list[str]) -> Iterator[dict[str, Any]]:
        """The last record of each path that has one, in the order of ``paths``."""
        for _, record in self._latest(paths):
            yield record

    def _latest(self, paths: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Only places in the file are held in memory, not the records."""
        if not self._done.exists():
            return
        places = {path: place for place, path in enumerate(paths)}
        starts = array("q", [-1]) * len(paths)
        with self._done.open("rb") as file:
            start = 0
            for line in file:
                place = places.get(json.loads(line)["path"])
                if place is not None:
                    starts[place] = start
                start += len(line)
            del places
            for place, start in enumerate(starts):
                if start >= 0:
                    file.seek(start)
                    yield place, json.loads(file.readline())

    def _intact(self, target: str, record: dict[str, Any]) -> bool:
        path = self.out / target
        try:
            return path.stat().st_size == record["bytes"] and checksum(path.read_bytes()) == record["checksum"]
        except OSError:
            return False

    def _check_settings(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        for name in sorted({*before, *now}):
            old, new = before.get(name), now.get(name)
            if old == new:
                continue
            if isinstance(old, list) and isinstance(new, list):
                gone, added = [x for x in old if x not in new], [x for x in new if x not in old]
                raise ValueError(
                    f"the {name} are not those {self.out} was begun with: added {added}, gone {gone}; {REMEDY}"
                )
            raise ValueError(f"{self.out} was begun with {name} {_show(old)}, now it is {_show(new)}: {REMEDY}")

    def _write_source(self, lines: Iterable[str], resumed: bool) -> None:
        """Keep the list of source files; on resume, first compare it with the one that is kept.

        A file that could not be read may have been repaired or taken away: it has no output yet.
        """
        failed: set[str] = set()
        if resumed and self._done.exists():
            with self._done.open("rb") as file:
                for record in map(json.loads, file):
                    (failed.add if record["status"] == "failed" else failed.discard)(record["path"])
        with replacing(self._source) as temporary, temporary.open("w", encoding="ascii") as file:
            file.writelines(line + "\n" for line in lines)
            file.flush()
            if resumed:
                with self._source.open(encoding="ascii") as before, temporary.open(encoding="ascii") as now:
                    _compare(map(json.loads, before), map(json.loads, now), failed)

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


def _show(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _compare(before: Iterator[list], now: Iterator[list], failed: set[str]) -> None:
    """Refuse a source that is not what it was; both lists are sorted by path."""
    added, gone, changed = [], [], []
    old, new = next(before, None), next(now, None)
    while old is not None or new is not None:
        if new is None or (old is not None and old[0] < new[0]):
            assert old is not None
            gone.append(old[0])
            old = next(before, None)
        elif old is None or new[0] < old[0]:
            added.append(new[0])
            new = next(now, None)
        else:
            if old != new:
                changed.append(old[0])
            old, new = next(before, None), next(now, None)
    told = [
        f"{kind}: {named(paths)}"
        for kind, paths in (
            ("new", added),
            ("gone", [path for path in gone if path not in failed]),
            ("changed", [path for path in changed if path not in failed]),
        )
        if paths
    ]
    if told:
        raise ValueError(f"the source is not what it was when the run began ({'; '.join(told)}): {REMEDY}")


@contextmanager
def open_journal(out: Path) -> Iterator[Journal]:
    """The journal of an output folder, for one run at a time.

    Raises:
        RuntimeError: another run is writing to this folder.
    """
    name = xxhash.xxh3_128(os.fsencode(out.resolve())).hexdigest()
    directory = private_directory("journals", name)
    with os.fdopen(os.open(directory / "lock", os.O_WRONLY | os.O_CREAT, 0o600), "wb") as lock:
        _lock(lock, out)
        journal = Journal(out, directory)
        try:
            yield journal
        except BaseException:
            journal.remove_parts()  # a worker that took too long to stop was ended while it wrote
            raise
        finally:
            journal.close()


def _lock(file: IO[bytes], out: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: two runs at once are not noticed there
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RuntimeError(f"another run is writing to {out}: wait for it, or stop it") from None
