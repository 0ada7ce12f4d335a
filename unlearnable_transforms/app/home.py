"""What the page remembers on this computer: the private key, and the albums that were protected with it."""

import contextlib
import io
import json
import re
import tempfile
import unicodedata
import zipfile
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any

from platformdirs import user_config_dir

from ..errors import UsageError
from ..files import parse_json, private_directory, read_json, replacing
from ..jobs.ledger import read_ledger
from ..key import Key

LONGEST_NAME = 80  # characters of an album's name
MOST_COPY = 100_000_000  # bytes of a copy of the key with all that was noted
_KEY, _ALBUMS, _LEDGERS = "private.key", "albums.json", "ledgers/"  # in such a copy
_NOTED = re.compile(r"[0-9a-f]{16}(-[0-9a-f]{32}\.parquet|\.classes\.json)")
_CLASSES = {"classes": [str]}
_KINDS = {"copied": bool, "albums": [{"name": str}]}


@dataclass
class Album:
    """An album and how it was protected last.

    Attributes:
        name: by which its own key is made of the private key.
        strength, site, max_side, opt_out, creator, copyright: as chosen; empty and 0: not set.
        source, out: folders on this computer; empty: dropped pictures, a zip file.
        last: the day, ``2026-11-29``.
        unfinished: whether the run did not come to its end.
    """

    name: str
    strength: str = "normal"
    site: str = ""
    max_side: int = 0
    opt_out: str = ""
    creator: str = ""
    copyright: str = ""
    source: str = ""
    out: str = ""
    last: str = ""
    unfinished: bool = False


class Home:
    """The folder in which the key and the list of albums lie, readable by their owner alone.

    Args:
        key_path: of the private key; default: in the user's configuration folder, and made when it is first asked for.
        folder: default: the user's configuration folder.

    Attributes:
        copied: whether a copy of the key was taken from the page.
    """

    def __init__(self, key_path: Path | None = None, folder: Path | None = None) -> None:
        self.folder = folder or Path(user_config_dir("unlearnable-transforms"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self.key_path = key_path or self.folder / "private.key"
        if not self.key_path.exists():
            Key.generate().save(self.key_path)
        self.key = Key.load(self.key_path)
        self._albums_path = self.folder / "albums.json"
        self.albums, self.copied = self._read()

    def _read(self) -> tuple[dict[str, Album], bool]:
        try:
            known = read_json(self._albums_path, _KINDS, "move it away: the list of albums begins anew")
        except FileNotFoundError:
            return {}, False
        return {row["name"]: _album(row) for row in known["albums"]}, known["copied"]

    def _write(self) -> None:
        known: dict[str, Any] = {"copied": self.copied, "albums": [asdict(album) for album in self.albums.values()]}
        with replacing(self._albums_path) as temporary:
            temporary.write_text(json.dumps(known, ensure_ascii=False, indent=1), encoding="utf-8")

    def remember(self, album: Album) -> None:
        """Keep an album, as the newest."""
        album.last = date.today().isoformat()
        self.albums.pop(album.name, None)
        self.albums[album.name] = album
        self._write()

    def names(self) -> list[str]:
        """Of the albums, the newest first."""
        return list(reversed(self.albums))

    def album_name(self, typed: str) -> str:
        """A typed name as an album's name: that of a known album where only capitals differ.

        Raises:
            UsageError: it cannot be one.
        """
        name = " ".join(unicodedata.normalize("NFC", typed).split())
        if not name or len(name) > LONGEST_NAME or not name.isprintable():
            raise UsageError(f"an album's name has 1 to {LONGEST_NAME} letters, digits and spaces")
        return next((known for known in self.albums if known.casefold() == name.casefold()), name)

    def key_of(self, album: str) -> Key:
        """The key of an album."""
        return self.key.derive(album)

    def export(self) -> bytes:
        """A zip file to be kept elsewhere: the key, the albums, and what was noted when they were protected."""
        self.copied = True
        self._write()
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(self.key_path, _KEY)
            archive.write(self._albums_path, _ALBUMS)
            prints = {self.key_of(name).fingerprint for name in self.albums}
            for path in sorted(private_directory("ledgers").iterdir()):
                if _NOTED.fullmatch(path.name) and path.name[:16] in prints:
                    archive.write(path, f"{_LEDGERS}{path.name}")
        return buffer.getvalue()

    def replace_key(self, data: bytes) -> bool:
        """Use another private key from now on. The one before stays beside it, under a name of its own.

        Args:
            data: what :meth:`export` gave, or a key file alone.

        Returns:
            Whether it is another one than before.

        Raises:
            UsageError: it is no key, one that everybody knows, or what it brings contradicts what is known here.
        """
        files = _files_of(data)
        new = self._read_key(files[_KEY])
        notes = {name.removeprefix(_LEDGERS): content for name, content in files.items() if name.startswith(_LEDGERS)}
        _take_notes({name: content for name, content in notes.items() if _NOTED.fullmatch(name)})
        other = new != self.key
        if other:
            with contextlib.suppress(FileExistsError):
                self.key.save(self.key_path.with_name(f"{self.key_path.stem}-before-{self.key.fingerprint}.key"))
            new.save(self.key_path, overwrite=True)
            self.key, self.copied = new, True
        if _ALBUMS in files:
            with contextlib.suppress(ValueError):
                for row in parse_json(files[_ALBUMS], _KINDS)["albums"]:
                    album = _album(row)
                    album.source, album.out, album.unfinished = "", "", False  # folders of that computer
                    self.albums.setdefault(album.name, album)
        self._write()
        return other

    def _read_key(self, data: bytes) -> Key:
        try:
            with tempfile.NamedTemporaryFile(dir=self.folder) as file:
                file.write(data)
                file.flush()
                key = Key.load(file.name)
        except ValueError:
            raise UsageError(
                "this file is no private key of this program, or a damaged one: take another copy"
            ) from None
        if key.is_public:
            raise UsageError("this key is one for examples, which everybody knows: it protects nothing")
        return key


def _album(row: dict[str, Any]) -> Album:
    """An album from a file: values of other kinds are as if they were not there."""
    kinds = {field.name: type(field.default) for field in fields(Album)[1:]} | {"name": str}
    return Album(**{name: row[name] for name, kind in kinds.items() if isinstance(row.get(name), kind)})


def _files_of(data: bytes) -> dict[str, bytes]:
    """The files of a copy, which may be a key file alone."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return {_KEY: data}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MOST_COPY:
                raise UsageError("this file is larger than a copy of a private key can be")
            files = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError):
        files = {}
    if _KEY not in files:
        raise UsageError("there is no private key in this zip file: take the copy that you saved from this page")
    return files


def _take_notes(notes: dict[str, bytes]) -> None:
    """Add what another computer noted of albums.

    Raises:
        UsageError: both computers noted an album, and differ in which folder was protected in which way.
    """
    place = private_directory("ledgers")
    for name, content in notes.items():
        target = place / name
        if name.endswith(".json"):
            try:
                here, there = (parse_json(text, _CLASSES)["classes"] for text in (target.read_bytes(), content))
            except (FileNotFoundError, ValueError):
                here, there = [], [""]
            if here[: len(there)] == there:
                continue
            if there[: len(here)] != here:
                raise UsageError(
                    "an album was protected on both computers, with different folders in it: go on with it on one of "
                    "them alone"
                )
        elif target.exists():
            continue
        with contextlib.suppress(ValueError), replacing(target) as temporary:
            temporary.write_bytes(content)
            if name.endswith(".json"):
                parse_json(content, _CLASSES)
            else:
                read_ledger(temporary)
