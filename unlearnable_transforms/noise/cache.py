"""Where noise is kept: tables by what made them, found again by the pictures that they cover.

    noise/<method>-<address>/                what made the noise: method, version, arguments, key fingerprint
        address.json
        <digest of the table>/               one fit
            manifest.json                    written last: rows, shards, checksums, the fit's report
            00000.safetensors ...            shards, see table.py
            surrogate.safetensors            what `extend` makes noise for further pictures with
        work-<digest of the ids>/            a fit under way: its checkpoint

Noise is as secret as the key: folders have mode 0700, files 0600.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from ..errors import UsageKeyError
from ..files import (
    DamagedError,
    is_inner_path,
    locked,
    open_regular,
    private_directory,
    read_json,
    read_regular,
    replacing,
)
from .table import REMEDY, NoiseError, NoiseTable, Shard

SHARD_BYTES = 1 << 28
SURROGATE = "surrogate.safetensors"
_MANIFEST = {
    "digest": str,
    "rows": int,
    "created": float,
    "shards": [{"file": str, "bytes": int, "index": str}],
    "surrogate": str,
    "report": dict,
    "checksum": str,
}
_ADDRESS = {"method": str, "version": int, "arguments": dict, "key_fingerprint": (str, None)}
_DIGEST, _FINGERPRINT = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{16}")
_LATEST = 1 << 35  # seconds: the year 3058
_MOST_SURROGATE = 1 << 32  # bytes


class Entry:
    """One fit in the cache: a folder with a manifest.

    Attributes:
        rows: how many images it knows.
        report: what the fit reported of itself.

    Raises:
        NoiseError: the manifest is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "manifest.json"
        if not path.exists():
            raise NoiseError(
                f"there is no noise {folder.name} in {folder.parent}: fit again, or `unlearnable cache import`"
            )
        manifest = _read_json(path, _MANIFEST)
        checksum = manifest.pop("checksum")
        names = [shard["file"] for shard in manifest["shards"]]
        if (
            checksum != _json_checksum(manifest)
            or names != [f"{number:05}.safetensors" for number in range(len(names))]
            or not _DIGEST.fullmatch(manifest["digest"])
            or not 0 <= manifest["created"] < _LATEST
        ):
            raise NoiseError(f"{path} is damaged: {REMEDY}")
        self.manifest: dict[str, Any] = manifest
        self.rows: int = manifest["rows"]
        self.report: dict[str, Any] = manifest["report"]

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    def table(self) -> NoiseTable:
        """The noise, one copy a process; a damaged shard, or one of another table, is a NoiseError."""
        return _open_table(self.folder, self.manifest["digest"])

    def surrogate(self) -> dict[str, np.ndarray]:
        """The tensors that ``extend`` starts from, verified; a NoiseError where they are damaged."""
        path, known = self.folder / SURROGATE, self.manifest["surrogate"]
        try:
            data = read_regular(path, _MOST_SURROGATE)
            if known != xxhash.xxh3_128_hexdigest(data):
                raise NoiseError(f"{path} is damaged: {REMEDY}")
            return load(data)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            raise NoiseError(f"{path} is damaged: {REMEDY}") from None

    def copy(self, target: Path) -> None:
        """Copy the files that belong to it, and no others, to an empty folder."""
        for name in (*(shard["file"] for shard in self.manifest["shards"]), SURROGATE, "manifest.json"):
            _copy(self.folder / name, target / name)

    def verify(self) -> None:
        """Read everything and compare it with its checksums; a NoiseError where something is damaged."""
        table = _read_table(self.folder, self.manifest["shards"], self.manifest["digest"])
        for row in range(len(table)):
            table[row]
        self.surrogate()


class NoiseCache:
    """All noise that one method makes with one key.

    ``address``: JSON values that say what makes the noise: method, version, arguments, key_fingerprint.
    """

    def __init__(self, address: Mapping[str, Any]) -> None:
        self.address = json.loads(json.dumps(address))
        self.name = f"{address['method']}-{_json_checksum(self.address)[:16]}"

    @property
    def folder(self) -> Path:
        """Where its tables lie, made when it is first asked for; a NoiseError where something else made it."""
        folder = private_directory("noise", self.name)
        path = folder / "address.json"
        if not path.exists():
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(self.address, indent=1, sort_keys=True))
        elif read_address(folder) != self.address:
            raise NoiseError(f"{folder} holds noise of another method or key: {REMEDY}")
        return folder

    def entries(self) -> list[Entry]:
        """All fits, the oldest first, so that a set goes on finding the noise that it found before."""
        folders = [path.parent for path in self.folder.glob("*/manifest.json") if not path.parent.name.startswith(".")]
        return sorted(map(Entry, folders), key=lambda entry: (entry.manifest["created"], entry.folder.name))

    def find(self, ids: np.ndarray) -> Entry | None:
        """The first fit that knows all of these pictures, whatever their order and whatever else it knows."""
        return next((entry for entry in self.entries() if entry.rows >= len(ids) and entry.table().covers(ids)), None)

    def save(
        self,
        shards: Iterable[Shard],
        surrogate: Mapping[str, np.ndarray],
        report: Mapping[str, Any],
        *,
        extends: Entry | None = None,
    ) -> Entry:
        """Keep a fit, whole or not at all, with what ``extend`` needs. The caller holds the lock.

        Args:
            shards: written as they come.
            surrogate: tensors.
            report: JSON values.
            extends: an earlier fit whose shards are part of this one, too: they are linked, not copied.
        """
        listed = list(extends.manifest["shards"]) if extends else []
        with self._part() as part:
            for known in listed:
                _link(extends.folder / known["file"], part / known["file"])  # type: ignore[union-attr]
            for shard in shards:
                path = part / f"{len(listed):05}.safetensors"
                with replacing(path) as temporary:
                    shard.save(temporary)
                    temporary.chmod(0o600)
                listed.append({"file": path.name, "bytes": path.stat().st_size, "index": shard.index_checksum()})
            with replacing(part / SURROGATE) as temporary:
                save_file({name: np.ascontiguousarray(array) for name, array in surrogate.items()}, temporary)
                temporary.chmod(0o600)
            table = _read_table(part, listed, None)
            manifest = {
                "digest": table.digest,
                "rows": len(table),
                "created": time.time(),
                "shards": listed,
                "surrogate": xxhash.xxh3_128_hexdigest((part / SURROGATE).read_bytes()),
                "report": dict(report),
            }
            with replacing(part / "manifest.json") as temporary:
                temporary.write_text(json.dumps({**manifest, "checksum": _json_checksum(manifest)}, indent=1))
            return self._keep(part, table.digest)

    def take(self, entry: Entry) -> Entry:
        """Keep a copy of a fit of another cache, whole or not at all. The caller holds the lock."""
        with self._part() as part:
            entry.copy(part)
            return self._keep(part, entry.manifest["digest"])

    @contextmanager
    def _part(self) -> Iterator[Path]:
        """A folder for a fit that is being written; gone at the end unless it was kept."""
        part = self.folder / f".part-{os.getpid()}"
        part.mkdir(mode=0o700)
        try:
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _keep(self, part: Path, digest: str) -> Entry:
        target = self.folder / digest
        if not target.exists():
            part.rename(target)
        return Entry(target)

    def work(self, ids: np.ndarray) -> Path:
        """The folder of the checkpoint of a fit on these pictures."""
        folder = self.folder / f"work-{xxhash.xxh3_128_hexdigest(ids.tobytes())}"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """For one process at a time: others wait here, and then find what this one has made."""
        with locked(self.folder / "lock"):
            for rest in self.folder.glob(".part-*"):  # what a killed process left
                shutil.rmtree(rest, ignore_errors=True)
            yield


# ---- the whole cache, for the command line ---------------------------------------------------------------------------


def list_folders() -> list[Path]:
    """The folder of every fit in the cache, damaged ones included."""
    return sorted(path.parent for path in private_directory("noise").glob("*/*/manifest.json"))


def read_address(folder: Path) -> dict[str, Any]:
    """What made the noise in a folder; a NoiseError where it does not say, or has the name of another."""
    path = folder / "address.json"
    address = _read_json(path, _ADDRESS)
    fingerprint = address["key_fingerprint"]
    named = fingerprint is None or _FINGERPRINT.fullmatch(fingerprint)
    if not named or not is_inner_path(address["method"], parts=1):
        raise NoiseError(f"{path} is damaged: {REMEDY}")
    return address


def find_folder(digest: str) -> Path:
    """The folder of the fit whose digest begins like this.

    Raises:
        KeyError: there is none, or more than one.
    """
    folders = [folder for folder in list_folders() if folder.name.startswith(digest)]
    if len(folders) != 1:
        raise UsageKeyError(f"{len(folders) or 'none'} of the fits in the cache begins with {digest!r}: see `cache ls`")
    return folders[0]


def export_noise(digest: str, target: Path) -> Path:
    """Copy a fit to a new folder, verified. It is as secret as the key.

    Raises:
        FileExistsError: the folder exists.
        NoiseError: the fit is damaged.
    """
    folder = find_folder(digest)
    entry = Entry(folder)
    entry.verify()
    for made in (target, target / folder.name):
        made.mkdir(mode=0o700)
    entry.copy(target / folder.name)
    _copy(folder.parent / "address.json", target / "address.json")
    return target


def import_noise(source: Path) -> Entry:
    """Take what :func:`export_noise` wrote into this cache.

    Raises:
        NoiseError: it is damaged.
        FileNotFoundError: there is no noise in the folder.
    """
    found = [path.parent for path in source.glob("*/manifest.json")]
    if len(found) != 1:
        raise FileNotFoundError(f"{source} is not a folder made by `unlearnable cache export`")
    entry = Entry(found[0])
    entry.verify()
    cache = NoiseCache(read_address(source))
    with cache.locked():
        return cache.take(entry)


# ---- files -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def _open_table(folder: Path, digest: str) -> NoiseTable:
    return _read_table(folder, Entry(folder).manifest["shards"], digest)


def _read_table(folder: Path, listed: list[dict[str, Any]], digest: str | None) -> NoiseTable:
    shards = []
    for known in listed:
        path = folder / known["file"]
        if path.is_file() and path.stat().st_size != known["bytes"]:
            raise NoiseError(f"{path} has {path.stat().st_size} bytes instead of {known['bytes']}: {REMEDY}")
        shard = Shard.open(path)
        if shard.index_checksum() != known["index"]:
            raise NoiseError(f"the index of {path} is damaged, or another table's: {REMEDY}")
        shards.append(shard)
    table = NoiseTable(shards)
    if digest is not None and table.digest != digest:
        raise NoiseError(f"{folder} holds other noise than its name says: {REMEDY}")
    return table


def _read_json(path: Path, kind: Any) -> Any:
    try:
        return read_json(path, kind, REMEDY)
    except (OSError, DamagedError) as error:
        raise NoiseError(str(error) if isinstance(error, DamagedError) else f"{path} is damaged: {REMEDY}") from None


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    """Copy a file; the copy can be read by its owner only."""
    with open_regular(source) as file, replacing(target) as temporary, temporary.open("wb") as copy:
        shutil.copyfileobj(file, copy)


def _json_checksum(value: Any) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(value, sort_keys=True).encode())
