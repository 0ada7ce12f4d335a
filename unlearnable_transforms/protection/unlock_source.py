"""Undo the protection of files: a folder of images, Parquet, a saved data set, tars.

What is made lies in a hidden, private folder beside the output until all of it is there: after an error, such as the
wrong key or an image that the ledger does not know, nothing was written. After a kill the same command goes on.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from ..data.base import LabelledSet, Unit
from ..data.codec import Codec
from ..data.image import Opened
from ..data.open import open_data
from ..errors import UsageError
from ..files import PART_PREFIX, put_in_place, read_json
from ..jobs.journal import open_journal
from ..jobs.ledger import differences
from ..jobs.run import Failure, Failures, Job, Progress, check_places, run
from ..pixels import psnr
from ..poisons.base import Poison, decisive
from ..sample import SampleError
from .unlock import Unlocker, has_keys, make_unlocker, some_images, tokens_of, told

MANIFEST = "protection.json"  # which publishing writes
SAID = ("key_fingerprint", "method", "version", "arguments")  # by the manifest
MAX_NAMED = 20  # images that an error names


def unlock_source(
    source: str | os.PathLike,
    out: str | os.PathLike,
    poison: Poison,
    *,
    ledger: str | os.PathLike | None = None,
    label: str | None = None,
    clean: str | os.PathLike | None = None,
    config: str | None = None,
    changed: bool = False,
    workers: int = 1,
    progress: Progress = False,
) -> list[str]:
    """Undo what ``protect_source`` made.

    Args:
        source: the protected folder or data set. Splits that are not training data are left out.
        out: an empty or new folder, not in ``source``. What comes out is of the same kind; images become PNG.
        poison: what it was protected with.
        ledger, changed: as for :func:`~unlearnable_transforms.protection.unlock.unlock`.
        label: the class of all pictures of a folder, if one was given to protect them.
        clean: the clean folder or data set, to measure how near the result comes to it.
        config: configuration of a Hub data set.
        workers: processes, of one thread each.
        progress: whether to show a progress bar on a terminal; or a function, see :func:`~..jobs.run.run`.

    Returns:
        What was done, in lines of text.

    Raises:
        ValueError: pictures, ledger or manifest belong to another key or to other options; a source or output that is
            not as it must be.
        As :func:`~unlearnable_transforms.protection.unlock.unlock`.
    """
    source, out = Path(source), Path(out)
    check_places(source, out)
    changed = _check_manifest(source / MANIFEST, poison) or changed  # what a manifest names needs no other proof
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty: choose a new folder")
    data = _open(source, poison, label, config)
    originals = None if clean is None else _open(Path(clean), poison, None, None, unlabelled=True, convert=True)
    if originals is not None and originals.kind != data.kind:
        raise UsageError(f"{clean} cannot be compared with {source}: one is a folder of images, the other is not")
    codec = Codec()
    units = [unit for unit in data.units(codec) if unit.split in data.training]
    unlocker = make_unlocker(poison, some_images(data, poison), ledger, changed)
    tokens = {name: tokens_of(data, name, poison) for name in data.training}
    part = _part_of(out)
    with open_journal(part) as journal, _appearing(part, out):
        journal.begin({"source": str(source.resolve()), **poison.public_config(), "files": [u.target for u in units]})
        records = run(Undo(data, part, codec, unlocker, tokens), units, journal, workers=workers, progress=progress)
        failed = [entry for record in records if record["status"] == "failed" for entry in record["unreadable"]]
        failed += [*data.unreadable.items(), *data.unused.items()]
        if failed:
            named = "; ".join(f"{place}: {reason}" for place, reason, *_ in failed[:MAX_NAMED])
            raise SampleError(named + (f" ... ({len(failed)} in all)" if len(failed) > MAX_NAMED else ""))
        by_target = {record["target"]: record for record in records}
        data.finish(part, {unit: by_target[unit.target]["checksum"] for unit in units})
        counts = Counter(fact["status"] for record in records for fact in record["facts"])
        lines = told(counts, unlocker.records.max_side)
        if data.left_out:
            lines.append(f"splits left out, not being training data: {', '.join(data.left_out)}")
        if originals is not None:
            originals.shrink(unlocker.records.max_side)
            lines.append(_measured(_pairs(_open(part, poison, label, None, unlabelled=True), originals)))
    return lines


def _open(
    source: Path,
    poison: Poison,
    label: str | None,
    config: str | None,
    unlabelled: bool = False,
    convert: bool = False,
) -> LabelledSet:
    options: dict[str, Any] = {"image_key": poison.image_key, "label_key": poison.label_key, "config": config}
    options["convert"] = convert
    try:
        return open_data(source, label=label, unlabelled=unlabelled, **options)
    except ValueError:  # any tree, as secret classes allow: then the ledger knows the classes
        return open_data(source, unlabelled=True, **options)


def _part_of(out: Path) -> Path:
    """The hidden folder beside ``out`` in which it is made: a call after a kill finds it by its name."""
    name = xxhash.xxh3_64(os.fsencode(out.resolve())).hexdigest()
    return out.resolve().parent / f"{PART_PREFIX}{name}"


@contextmanager
def _appearing(part: Path, out: Path) -> Iterator[None]:
    """``part``, private, takes the place of ``out`` when the block ends without an error.

    It is removed after an error, and stays after a kill. The caller holds the lock of its journal.
    """
    part.chmod(0o700)
    try:
        yield
        put_in_place(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@dataclass(frozen=True)
class Undo(Job):
    """Writes clean images; facts say how well each is restored.

    Attributes:
        unlocker: ready to use.
        tokens: class token of each row, by split; None where no label says it.
    """

    unlocker: Unlocker
    tokens: dict[str, list[str] | None]

    def change(self, unit: Unit, rows: range, opened: list[Opened], failed: Failures) -> tuple[list[bytes], list[Any]]:
        known = self.tokens[unit.split]
        tokens = [None if known is None else known[row] for row in rows]
        try:
            colours, states = self.unlocker([image.colour for image in opened], tokens)
        except SampleError as error:
            failed += [Failure(rows[row], error.reason) for row in error.rows or range(len(rows))]
            return [], []
        images = [
            self.encode(unit, row, image.close(colour), failed)
            for row, image, colour in zip(rows, opened, colours, strict=True)
        ]
        return images, [{"status": state} for state in states]


def _check_manifest(path: Path, poison: Poison) -> bool:
    """Refuse another key, method or other options than the manifest of a published set names; whether it names all."""
    if not path.exists():
        return False
    manifest = read_json(path, dict, "take it out, or fetch the set again")
    ours = json.loads(json.dumps(poison.public_config()))
    was, now = (
        decisive({name: config[name] for name in SAID if name in manifest}, keys=True) for config in (manifest, ours)
    )
    if other := next(differences(was, now), ""):
        raise UsageError(f"{path} says that it was protected with {other}")
    return set(SAID) <= set(manifest) and has_keys(poison)


# ---- how near --------------------------------------------------------------------------------------------------------


def _pairs(restored: LabelledSet, clean: LabelledSet) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Clean and restored images: files with the same path but for the suffix, rows with the same number."""
    for name in restored.training:
        ours, theirs = restored.splits[name], clean.splits.get(name)
        if theirs is None or (restored.kind == "rows" and len(theirs) != len(ours)):
            raise UsageError(f"{clean.source} has no split {name} of {len(ours)} rows: it is not the clean data set")
        if restored.kind == "rows":
            rows = list(range(len(ours)))
        else:
            places = {os.path.splitext(theirs.place(row))[0]: row for row in range(len(theirs))}
            rows = [places.get(os.path.splitext(ours.place(row))[0], -1) for row in range(len(ours))]
        for row, other in enumerate(rows):
            if other >= 0:
                yield theirs.images[other], ours.images[row]


def _measured(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> str:
    values = np.array([psnr(*pair) if pair[0].shape == pair[1].shape else np.nan for pair in pairs])
    values = values[~np.isnan(values)]
    if not len(values):
        raise UsageError("none of the pictures has a clean one of the same place and size to compare it with")
    exact = np.isinf(values)
    near = f", PSNR of the others {values[~exact].mean():.1f} dB (mean)" if not exact.all() else ""
    return f"compared with {len(values):,} clean pictures: {exact.sum():,} are equal{near}"
