"""WebDataset: tar files in which the files of one sample share a name: ``0001.jpg``, ``0001.cls``.

The headers are read first, by the standard library's tarfile, which skips what lies between them: so rows are known
without reading an image, and any image is read from its place. Each tar is written as a tar of the same name, sample by
sample.
"""

import io
import tarfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from ..files import parse_json
from .base import TRAIN, Label, LabelledSet, NamedRows, SourceChanged, Unit
from .beside import SHORT, is_image
from .codec import Codec
from .columns import LABEL_KEYS, refuse_beside
from .folder import IMAGES, target_name
from .image import Opened, open_bytes
from .table import split_of
from .walk import File, is_hidden, named, one_file, walk

TARS = (".tar",)
CLASS, JSON = "cls", "json"


@dataclass(frozen=True)
class Member:
    """A file in a tar: its name there, the part behind the sample's name, and where its bytes lie."""

    name: str
    kind: str
    offset: int
    size: int


@dataclass(frozen=True)
class Sample:
    """The files of one sample, in the order of the tar, and which of them is the image."""

    tar: int
    name: str
    members: tuple[Member, ...]
    image: int


class TarRows(NamedRows):
    """The samples of the tars of one split.

    Args:
        name: of the split.
        root: the folder of the tars.
        tars: their files.
        samples: in the order of the tars.
        labels: one a sample, or None.
    """

    def __init__(
        self, name: str, root: Path, tars: list[File], samples: list[Sample], labels: Sequence[Label] | None
    ) -> None:
        self.name, self.root, self.tars, self.samples, self.labels = name, root, tars, samples, labels

    def __len__(self) -> int:
        return len(self.samples)

    def stored(self, rows: range) -> list[Any]:
        images = []
        for row in rows:
            sample = self.samples[row]
            images.append({"bytes": self.read(sample.tar, sample.members[sample.image]), "path": None})
        return images

    def read(self, tar: int, member: Member) -> bytes:
        """The bytes of a file in a tar.

        Raises:
            SourceChanged: the tar ends before them.
        """
        with open(self.root / self.tars[tar].path, "rb") as file:
            file.seek(member.offset)
            data = file.read(member.size)
        if len(data) < member.size:
            raise SourceChanged(f"{self.root / self.tars[tar].path} is cut off: fetch it again")
        return data

    def decode(self, stored: Any) -> Opened:
        return open_bytes(stored["bytes"], convert=self.convert)

    def place(self, row: int) -> str:
        sample = self.samples[row]
        return f"{self.tars[sample.tar].path}: {sample.members[sample.image].name}"


@dataclass
class TarSet(LabelledSet):
    """Tars of samples.

    Attributes:
        root: the folder that they lie in.
    """

    root: Path = Path()
    stamps: list[File] = field(default_factory=list)

    any_format = True

    def units(self, codec: Codec) -> list[Unit]:
        units = []
        for name in self.written:
            rows = self.splits[name]
            assert isinstance(rows, TarRows)
            for sample in rows.samples:
                image, target = (member := sample.members[sample.image]).name, target_name(member.name, codec.format)
                if target != image and target in {other.name for other in sample.members}:
                    raise UsageError(
                        f"{self.root / rows.tars[sample.tar].path}: {image} would become {target}, which is there "
                        "already: choose --format"
                    )
            starts: dict[int, list[int]] = {}
            for row, sample in enumerate(rows.samples):
                starts.setdefault(sample.tar, []).append(row)
            for tar, places in starts.items():
                file = rows.tars[tar]
                units.append(Unit(file.path, name, places[0], places[-1] + 1, file.size, [file.size, file.mtime]))
        return units

    def write(self, unit: Unit, images: list[bytes], path: Path, codec: Codec) -> None:
        rows = self.splits[unit.split]
        assert isinstance(rows, TarRows)
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
            for row, image in zip(unit.rows, images, strict=True):
                sample = rows.samples[row]
                for place, member in enumerate(sample.members):
                    name, data = member.name, image
                    if place == sample.image:
                        name = target_name(name, codec.format)
                    else:
                        data = rows.read(sample.tar, member)
                    entry = tarfile.TarInfo(name)
                    entry.size, entry.mode = len(data), 0o644
                    tar.addfile(entry, io.BytesIO(data))

    def accompanying(self, unit: Unit) -> Iterator[bytes]:
        rows = self.splits[unit.split]
        assert isinstance(rows, TarRows)
        for row in unit.rows:
            sample = rows.samples[row]
            for place, member in enumerate(sample.members):
                yield f"|{member.name}|{member.size}|".encode()
                if place != sample.image:
                    yield rows.read(sample.tar, member)

    def check_columns(self, image_key: str | None, keep: Sequence[str]) -> None:
        found: dict[str, None] = {}
        for rows in map(self.splits.__getitem__, self.written):
            assert isinstance(rows, TarRows)
            for sample in rows.samples:
                for place, member in enumerate(sample.members):
                    known = member.kind in found or member.kind in keep or place == sample.image
                    # an image beside the one that `image_key` names stays, as was said with it
                    if known or member.size <= SHORT or (image_key is not None and _is_image_name(member)):
                        continue
                    if is_image(_value(rows.read(sample.tar, member), member)):
                        found[member.kind] = None
        refuse_beside(f"{self.source}: the files of the kinds", found)

    def check_unchanged(self) -> None:
        for file in self.stamps:
            status = (self.root / file.path).stat()
            if (status.st_size, status.st_mtime_ns) != (file.size, file.mtime):
                raise SourceChanged(
                    f"{self.root / file.path} changed while it was read: put back what it was, or start with an empty "
                    "output folder"
                )


def open_tars(
    path: Path,
    *,
    image_key: str | None = None,
    label_key: str | None = None,
    keep_splits: Collection[str] = (),
    unlabelled: bool = False,
) -> TarSet:
    """A tar file, or a folder of them.

    Args:
        path: of the file or folder.
        image_key: the kind of file that is the image, such as ``jpg``; default: the only one of a known kind.
        label_key: the kind of file that holds the class (``cls``), or the name of the class in ``json``; default:
            ``cls``, else one of the common names in ``json``.
        keep_splits: splits that are not training data and are kept.
        unlabelled: other classes will stand in for the labels.

    Raises:
        ValueError: damaged or compressed tars, samples without an image or label or with two images.
    """
    root = path.parent if path.is_file() else path
    files, hidden = ([one_file(path)], []) if path.is_file() else walk(path)
    tars = [file for file in files if file.suffix in TARS]
    groups: dict[str, list[File]] = {}
    for file in tars:
        if file.problem:
            raise UsageError(f"{root / file.path}: {file.problem}")
        groups.setdefault("" if path.is_file() else split_of(Path(path.name, file.path), path), []).append(file)
    if "" in groups and len(groups) > 1:
        raise UsageError(
            f"{named([file.path for file in groups['']])}: training data or not? Name files or folders train..., "
            "test..., or none"
        )
    result = TarSet(str(path), {}, root=root, stamps=tars, keep_splits=list(keep_splits))
    result.named_splits = "" not in groups
    groups = {name or TRAIN: some for name, some in groups.items()}
    result.others = [*(file.path for file in files if file not in tars), *hidden]
    for name, some in groups.items():
        samples = [
            _sample(root / file.path, number, stem, members, image_key)
            for number, file in enumerate(some)
            for stem, members in _grouped(root / file.path).items()
        ]
        rows = TarRows(name, root, some, samples, None)
        if not unlabelled:
            rows.labels = [_label(rows, sample, label_key) for sample in samples]
        result.splits[name] = rows
    result.check_kept()
    result.labels_from = label_key or "cls or json files"
    return result


def _grouped(path: Path) -> dict[str, list[Member]]:
    """The files of a tar by sample: names are equal up to the first dot of their last part.

    Raises:
        ValueError: not a tar, a damaged one, or names that lead out of the folder.
    """
    groups: dict[str, list[Member]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for entry in tar:
                parts = entry.name.removeprefix("./").split("/")
                if entry.isdir() or any(is_hidden(part) and part != ".." for part in parts):
                    continue
                folder, _, base = entry.name.rpartition("/")
                stem, dot, kind = base.partition(".")
                if not entry.isfile() or entry.issparse() or entry.name.startswith("/") or ".." in parts or not dot:
                    raise UsageError(f"{path} holds {entry.name!r}, which is no sample's file: take it out")
                key = f"{folder}/{stem}" if folder else stem
                if any(member.name == entry.name for member in groups.get(key, ())):
                    raise UsageError(f"{path} holds {entry.name!r} twice: take one of them out")
                groups.setdefault(key, []).append(Member(entry.name, kind, entry.offset_data, entry.size))
            tar.fileobj.seek(tar.offset)
            if any(tar.fileobj.read(tarfile.BLOCKSIZE)):
                raise tarfile.ReadError("damaged behind the last sample that can be read")
    except (tarfile.TarError, EOFError) as error:
        raise UsageError(f"{path} cannot be read as a tar ({error}); compressed ones are unpacked first") from None
    if not groups:
        raise UsageError(f"{path} holds no samples")
    return groups


def _sample(path: Path, tar: int, name: str, members: list[Member], image_key: str | None) -> Sample:
    images = [place for place, member in enumerate(members) if _is_image_name(member)]
    if image_key is not None:
        images = [place for place in images if members[place].kind == image_key]
    if len(images) != 1:
        kinds = [member.kind for member in members]
        raise UsageError(
            f"{path}: the sample {name} has {len(images)} images among {kinds}; one is protected: take the others out"
            + ("" if image_key is not None else ", or say which with --image-key KIND, and they stay as they are")
        )
    return Sample(tar, name, tuple(members), images[0])


def _suffix(member: Member) -> str:
    return "." + member.kind.lower().rsplit(".", 1)[-1]


def _is_image_name(member: Member) -> bool:
    return _suffix(member) in IMAGES


def _value(data: bytes, member: Member) -> Any:
    """What a file beside an image says: the value of JSON, an array, text, or bytes."""
    try:
        if _suffix(member) == ".npy":
            return np.load(io.BytesIO(data), allow_pickle=False)
        text = data.decode("utf-8-sig")
    except (ValueError, EOFError, SyntaxError, MemoryError):  # of a head that is no array's
        return data
    try:
        return parse_json(text) if _suffix(member) == ".json" else text
    except ValueError:
        return text


def _label(rows: TarRows, sample: Sample, label_key: str | None) -> Label:
    kinds = {member.kind: member for member in sample.members}
    where = f"{rows.root / rows.tars[sample.tar].path}: the sample {sample.name}"
    kind = label_key or CLASS
    if kind in kinds and kind != JSON:
        try:
            text = rows.read(sample.tar, kinds[kind]).decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            raise UsageError(f"{where}: its class in {kind} is not UTF-8") from None
        return int(text) if text.removeprefix("-").isdecimal() else text
    if JSON not in kinds:
        raise UsageError(f"{where} has no {kind} file with its class, and no json: say where it is, --label-key KIND")
    try:
        values = parse_json(rows.read(sample.tar, kinds[JSON]), dict)
    except ValueError:
        raise UsageError(f"{where}: its json is damaged") from None
    names = [label_key] if label_key is not None else [name for name in LABEL_KEYS if name in values]
    if len(names) != 1 or names[0] not in values:
        raise UsageError(f"{where}: which of its json's entries is the class? Say it with --label-key NAME")
    return values[names[0]]
