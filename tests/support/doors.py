"""What each verb reads in a source: the same small answer from every one of them.

A verb is called as people call it: a path by the command line, in this process; an object by Python. Which images were
read, and under which class, is seen from what comes out: a CUDA filter depends on the class, so that the protected
pixels alone say both.
"""

import contextlib
import io
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from conftest import SECRET, decode
from datasets import Dataset, DatasetDict, load_from_disk
from layouts import IMAGES, TOKENS, Layout
from PIL import Image

import unlearnable_transforms as ut
from unlearnable_transforms.auditing import audit as auditing
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.evaluation.data import read_pictures
from unlearnable_transforms.jobs.ledger import read_ledger
from unlearnable_transforms.noise.cache import Entry, list_folders
from unlearnable_transforms.publishing.manifest import verify
from unlearnable_transforms.sample import class_token, sample_id

KEY = ut.Key(SECRET)
INCOMPLETE = 1  # exit code of `protect` where images could not be read
Pair = tuple[int, str]  # a place in IMAGES and a class token


class Refused(Exception):
    """A verb refused a source; its message."""


@dataclass(frozen=True)
class Reading:
    """What a verb read. What it does not say is None.

    Attributes:
        rows: image and class token of each training image, sorted.
        images: the training images, where their classes are not to be seen.
        count: of training images.
        classes: their names; or, of an audit without names, the sorted labels.
        splits: names of the training splits.
        clean: images that come out unprotected.
        text: what was printed.
    """

    rows: list[Pair] | None = None
    images: list[int] | None = None
    count: int | None = None
    classes: list[int | str] | None = None
    splits: set[str] | None = None
    clean: list[int] | None = None
    text: str | None = None


@dataclass(frozen=True)
class Room:
    """A private place for one source.

    Attributes:
        layout: what is read.
        source: a path or an object.
        folder: for what is written.
    """

    layout: Layout
    source: Any
    folder: Path

    @property
    def is_path(self) -> bool:
        return isinstance(self.source, Path)

    @property
    def key(self) -> Path:
        path = self.folder / "my.key"
        return path if path.exists() else KEY.save(path)

    @property
    def label(self) -> list[str]:
        """The option that says the class of all images."""
        return [] if self.layout.label is None else ["--label", self.layout.label]


@dataclass(frozen=True)
class Protected:
    """What `protect` made of a source: a folder or an object, and its ledger."""

    result: Any
    ledger: Path | None
    text: str


def command(*arguments: object, code: int = 0) -> str:
    """Run a command in this process; what it printed.

    Raises:
        Refused: an error in one line.
        AssertionError: another exit code than ``code``.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        result = main([str(argument) for argument in arguments])
    if result == 2:
        raise Refused(err.getvalue())
    assert result == code, f"exit code {result}: {out.getvalue()}{err.getvalue()}"
    return out.getvalue() + err.getvalue()


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Errors that a verb called from Python raises on purpose."""
    try:
        yield
    except (TypeError, ValueError, LookupError, OSError) as error:
        raise Refused(str(error)) from error


# ---- which image, which class ----------------------------------------------------------------------------------------


@cache
def clean_images() -> dict[bytes, int]:
    return {image.tobytes(): place for place, image in enumerate(IMAGES)}


@cache
def clean_ids() -> dict[bytes, Pair]:
    return {sample_id(image, token): (place, token) for place, image in enumerate(IMAGES) for token in TOKENS}


@cache
def protected_images() -> dict[bytes, Pair]:
    """Each image under the filter of each class."""
    poison = ut.CUDAPoison(key=KEY)
    labels = [int(token[2:]) if token.startswith("i:") else token[2:] for token in TOKENS]
    return {
        image.tobytes(): (place, token)
        for token, label in zip(TOKENS, labels, strict=True)
        for place, image in enumerate(poison.apply(IMAGES, [label] * len(IMAGES)))
    }


def sort_out(images: Iterator[np.ndarray]) -> tuple[list[Pair], list[int]]:
    """The protected images with their classes, and the clean ones. An image that is neither has the place -1."""
    rows, clean = [], []
    for image in images:
        pixels = np.ascontiguousarray(image).tobytes()
        if pixels in clean_images():
            clean.append(clean_images()[pixels])
        else:
            rows.append(protected_images().get(pixels, (-1, "?")))
    return sorted(rows), sorted(clean)


def images_in(place: Any) -> Iterator[np.ndarray]:
    """All images in a folder of any layout, or in an object: uint8 (H, W, 3)."""
    if isinstance(place, DatasetDict):
        for split in place.values():
            yield from images_in(split)
    elif isinstance(place, Dataset):
        yield from (np.asarray(row["image"]) for row in place)
    elif not isinstance(place, Path):
        yield from (np.asarray(image) for image, _ in (zip(*place, strict=True) if isinstance(place, tuple) else place))
    elif (place / "dataset_dict.json").exists() or (place / "state.json").exists():
        yield from images_in(load_from_disk(str(place)))
    else:
        hidden = (path for path in place.rglob(".*") if path.is_file())  # the picture of a published card
        for path in sorted({path for path in place.rglob("*") if path.is_file()} - set(hidden)):
            yield from (np.asarray(decode(data).convert("RGB")) for data in _encoded(path))


def _encoded(path: Path) -> Iterator[bytes]:
    if path.suffix == ".parquet":
        for stored in pq.read_table(path)["image"].to_pylist():
            yield stored["bytes"] if isinstance(stored, dict) else stored
    elif path.suffix == ".tar":
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None and member.name.endswith(".png"):
                    yield file.read()
    elif path.suffix in Image.registered_extensions():
        yield path.read_bytes()


def rows_in(data: Any, names: Mapping[bytes, Any]) -> list[Pair]:
    """Image and class token of each row of what `evaluate` reads.

    Args:
        names: pixels -> what they are, from ``clean_images`` or ``protected_images``.
    """
    rows = []
    for image, label in zip(data.images, data.labels, strict=True):
        what = names.get(np.ascontiguousarray(image).tobytes(), -1)
        rows.append((what[0] if isinstance(what, tuple) else what, class_token(label)))
    return sorted(rows)


# ---- the verbs -------------------------------------------------------------------------------------------------------


def protected(room: Room, poison: ut.Poison) -> Protected:
    """The source protected by the way that its kind is for: a path by `unlearnable protect`, an object by Python."""
    ledger = room.folder / "ledger.parquet"
    if room.is_path:
        out = room.folder / "protected"
        fixed = ["--key", room.key, "--workers", 1, "--ledger", ledger, "--method", poison.name]
        code = INCOMPLETE if room.layout.unreadable else 0
        return Protected(out, ledger, command("protect", room.source, out, *fixed, *room.label, code=code))
    source = room.source
    with refusals():
        if isinstance(source, Dataset | DatasetDict):
            return Protected(ut.protect(source, poison, ledger=ledger), ledger, "")
        if not poison.fitted:
            poison.fit(source)
        if isinstance(source, tuple):
            return Protected((poison.apply(*source), source[1]), None, "")
        if isinstance(source, list):
            return Protected([poison(*pair) for pair in source], None, "")
        return Protected([*ut.ProtectedDataset(source, poison)], None, "")


def protect(_: Room, made: Protected) -> Reading:
    """What `protect` wrote, and what the ledger says of it."""
    rows, clean = sort_out(images_in(made.result))
    if made.ledger is None:
        return Reading(rows, clean=clean)
    ledger = read_ledger(made.ledger).to_pylist()
    noted = sorted(clean_ids().get(row["clean_id"], (-1, "?")) for row in ledger if row["status"] == "protected")
    assert noted == rows, f"the ledger says {noted}"
    assert all(clean_ids().get(row["clean_id"], (-1, "?"))[1] == row["class_token"] for row in ledger)
    return Reading(rows, clean=clean, splits={row["split"] or "train" for row in ledger}, text=made.text)


def fit(room: Room) -> Reading:
    """The rows of the noise that a fitted method made."""
    if room.is_path:
        command("fit", room.source, "--key", room.key, "--method", "pil")
    else:
        with refusals():
            ut.PILPoison(key=KEY).fit(room.source)
    (noise,) = list_folders()
    ids = Entry(noise).table().ids
    return Reading(sorted(clean_ids().get(bytes(id_).ljust(16, b"\0"), (-1, "?")) for id_ in ids.tolist()))


def evaluate(room: Room) -> Reading:
    """The clean training set of `evaluate`."""
    with refusals():
        data = read_pictures(room.source, what="clean", split="train")
        return Reading(rows_in(data, clean_images()), classes=data.names and list(data.names))


def test(room: Room) -> Reading:
    """The test set of `evaluate`."""
    with refusals():
        data = read_pictures(room.source, what="test", split="test")
        return Reading(rows_in(data, clean_images()), classes=data.names and list(data.names))


def audit(room: Room, monkeypatch: Any) -> Reading:
    """What an audit of so few images reports; it asks for more, to see signs in them."""
    monkeypatch.setattr(auditing, "FEWEST", 1)
    with refusals():
        report = ut.audit(room.source)
    return Reading(count=report.rows, classes=report.classes)


def reread(_: Room, made: Protected) -> Reading:
    """The training set of `evaluate` in what `protect` wrote: the labels, and the classes that the filters show."""
    with refusals():
        data = read_pictures(made.result, what="protected", split="train")
        labelled = rows_in(data, protected_images())
    filtered, clean = sort_out(iter(data.images))
    assert labelled == filtered, f"the labels say {labelled}"
    return Reading(labelled, clean=clean, classes=data.names and list(data.names))


def publish(room: Room, made: Protected) -> Reading:
    """What lies in a folder that is ready to upload, which `verify` then finds to be as it was published."""
    folder = room.folder / "published"
    options: dict[str, Any] = {"originals_public": True, "rename": True, "label": room.layout.label}
    with refusals():
        ut.publish(
            made.result, "user/name", poison=ut.CUDAPoison(key=KEY), folder=folder, ledger=made.ledger, **options
        )
    rows, clean = sort_out(images_in(folder))
    verdict = verify(folder, KEY)
    assert verdict.exit_code == 0, "\n".join(verdict.lines())
    known = verdict.manifest
    return Reading(
        rows,
        clean=clean,
        count=known["protected_ids"]["count"],
        classes=known["classes"],
        splits={name for name, split in known["splits"].items() if split["protected"]},
    )


def unlock(room: Room) -> Reading:
    """What `unlock` makes of images to which a method added noise: the clean ones, exactly."""
    poison = (ut.LSPPoison if room.is_path else ut.PILPoison)(key=KEY)  # one needs no second class, one no ledger
    made = protected(room, poison)
    if room.is_path:
        out = room.folder / "unlocked"
        fixed = ["--key", room.key, "--workers", 1, "--ledger", made.ledger, "--method", "lsp"]
        command("unlock", made.result, out, *fixed, *room.label)
        unlocked = out
    else:
        with refusals():
            unlocked = ut.unlock(made.result, poison, made.ledger)
        unlocked = (unlocked, made.result[1]) if isinstance(made.result, tuple) else unlocked
        unlocked = unlocked["train"] if isinstance(unlocked, DatasetDict) else unlocked
    rows, clean = sort_out(images_in(unlocked))
    return Reading(images=clean + [place for place, _ in rows])


DOORS: dict[str, Callable[..., Reading]] = {
    each.__name__: each for each in (protect, fit, evaluate, test, audit, reread, publish, unlock)
}
