"""Protect whole data sets: in memory as a `datasets` set, and on disk file by file, to be interrupted at any time."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, Value
from datasets.fingerprint import Hasher

from ..data import credit
from ..data.base import LabelledSet, Unit
from ..data.classes import class_numbers, keep_names
from ..data.codec import AUTO, QUALITY, Codec, checksum, is_lossy, measure
from ..data.folder import FolderRows, FolderSet
from ..data.header import RAW
from ..data.image import Opened, open_bytes
from ..data.open import open_data
from ..data.shrink import check_max_side
from ..data.table import Scratch, TableRows, TableSet, open_rows
from ..data.walk import named, readable_name
from ..errors import UsageError, UsageTypeError
from ..jobs.journal import Journal, Record, open_journal
from ..jobs.ledger import SCHEMA, check_ledger_place, protected_before, protected_rows, write_ledger
from ..jobs.run import (
    READABLE,
    Engine,
    Failure,
    Failures,
    Job,
    Progress,
    check_engine,
    check_places,
    compare,
    follow,
    run,
)
from ..jobs.summary import Summary, bytes_text, hidden_note, measured_every
from ..poisons.base import Poison, UnchangedWarning, is_additive, methods_of
from ..poisons.batches import counted_in
from ..poisons.fraction import is_chosen
from ..sample import SampleError, class_value, ids_as, in_order, name_rows, sample_id, spread
from ..secret.labels import check_options, hide
from ..warn import warn
from .fit import make_ready

LEDGER_ROWS = 10_000  # are made at a time
SECRET_CLASSES = "classes.json"  # in the journal
MAX_NAMED = 20  # rows that an error names
PNG = Codec()
GROWN = 2  # times as many bytes as the source had: the summary says why
TWICE = (
    "protected already, says a ledger of this machine, and by now protected twice: unlock takes off one protection "
    "only. Protect the clean images instead"
)
SAMPLE = 20  # images by which a protected set is recognised
_SCRATCH: list[Scratch] = []  # as long as the process: data sets that were made of what lies there may live as long
_LEDGER_FEATURES = Features(
    {
        "_clean_id": Value("binary"),
        "_protected_id": Value("binary"),
        "_class_token": Value("string"),
        "_status": Value("string"),
        "_unlock_note": Value("float64"),
    }
)
_CONVERTED = "_converted"


def check_fraction(fraction: float, poison: Poison) -> None:
    """Refuse a share outside (0, 1], or below 1 without a key; warn of what a share below 1 costs."""
    if not 0 < fraction <= 1:
        raise UsageError(f"fraction lies in (0, 1], got {fraction}")
    if fraction < 1:
        if poison.key is None:
            raise UsageError("fraction < 1 chooses images by the key: this poison has none")
        warn(
            f"only {fraction:.0%} will be protected. The CUDA paper's victim reached 85.6 % with 80 % protected, "
            "against 18.5 % with all (table 5): below full coverage, the clean part teaches what the rest hides "
            "(docs/limits.md)",
        )


@dataclass(frozen=True)
class Changed:
    """One image that went through a method.

    Attributes:
        colour: uint8 (H, W, C), protected, or as it was where it was not chosen.
        clean_id, protected_id: sample ids; that of the clean image is taken before colours are converted.
        status: ``protected``, ``left`` (not chosen) or ``unchanged`` (nothing that can be seen of it changed).
        note: what unlock needs.
    """

    colour: np.ndarray
    clean_id: bytes
    protected_id: bytes
    status: str
    note: float | None


def protect_opened(
    poison: Poison, stored: Sequence[Opened], tokens: Sequence[str], fraction: float = 1.0, codec: Codec | None = None
) -> list[Changed]:
    """Images of any size protected.

    Args:
        poison: ready to use.
        stored: the images as they are stored.
        tokens: class token of each.
        fraction: share of the images to protect.
        codec: which converts colours first; default: they stay.

    Raises:
        SampleError: images that cannot be protected, with their places among ``stored``.
    """
    ids = [sample_id(image.colour, token) for image, token in zip(stored, tokens, strict=True)]
    opened = list(stored) if codec is None else [codec.prepare(image) for image in stored]
    chosen = [row for row, id_ in enumerate(ids) if is_chosen(poison.key, id_, fraction)]
    try:
        changed = poison.protect_arrays(
            [opened[row].colour for row in chosen], [tokens[row] for row in chosen], [ids[row] for row in chosen]
        )
    except SampleError as error:
        raise SampleError.at([chosen[row] for row in error.rows], error) from None
    by_row = dict(zip(chosen, changed, strict=True))
    result = []
    for row, (image, token) in enumerate(zip(opened, tokens, strict=True)):
        colour = by_row.get(row, image.colour)
        status = "left" if row not in by_row else "unchanged" if image.unprotected_by(colour) else "protected"
        note = poison.unlock_note(image.colour, colour, token) if status == "protected" else None
        result.append(Changed(colour, ids[row], sample_id(colour, token), status, note))
    return result


def refuse_protected(data: LabelledSet, tokens: dict[str, list[str]]) -> None:
    """Refuse a set that a ledger of this machine knows as protected, with whatever key: a second protection hides the
    first from unlock.

    Raises:
        ValueError: names the first image and the ledger.
    """
    ledgers = protected_rows()
    known = {token for _, table in ledgers for token in pc.unique(table["class_token"]).to_pylist()}
    some: dict[bytes, str] = {}
    for name in data.training if ledgers else ():
        rows = data.splits[name]
        for row in spread(len(rows), SAMPLE):
            try:
                colour = rows.open(rows.stored(range(row, row + 1))[0]).colour
            except (OSError, TypeError, ValueError):  # named later, with all others
                continue
            some |= dict.fromkeys(ids_as(colour, known | {tokens[name][row]}), rows.place(row))
    ids = pa.array(list(some), pa.binary(16))
    for ledger, table in ledgers:
        for id_ in table.filter(pc.is_in(table["protected_id"], ids))["protected_id"].to_pylist():
            raise UsageError(
                f"{some[id_]} is protected already, says the ledger {ledger}: protect the clean data, or undo the "
                "first protection with unlock. Several methods are combined in a chain (docs/chain.md)"
            )


# ---- data sets in memory ---------------------------------------------------------------------------------------------


def protect(
    data: Dataset | DatasetDict,
    poison: Poison,
    fraction: float = 1.0,
    *,
    labels: Any = None,
    clusters: int | None = None,
    backbone: str | Callable | None = None,
    keep: Collection[str] = (),
    num_proc: int | None = None,
    ledger: str | os.PathLike | None = None,
    max_side: int | None = None,
    convert: bool = False,
) -> Any:
    """The data set with every image protected.

    Args:
        data: a ``Dataset``, or a ``DatasetDict`` whose training splits are protected and whose others are kept.
        poison: a protection method; fitted on the training data if it needs to be and is not.
        fraction: share of the images to protect, in (0, 1], chosen by a keyed hash of each image. All images are
            encoded alike, so that the encoding does not say which.
        labels: secret classes that the protection follows instead of the label column, which stays as it is and may be
            missing: ``"auto"``, clusters of similar images; or one class a row, integers or text (for a
            ``DatasetDict`` with several training splits a mapping from split to that).
        clusters, backbone: of ``labels="auto"``, see :func:`~unlearnable_transforms.secret.labels.auto_labels`.
        keep: other image columns that may stay as they are. Without it they are refused: often they are copies.
        num_proc: worker processes, as for ``Dataset.map``.
        ledger: file for the private record of what was protected (mode 0600). Default: in the library's cache
            folder, ``UNLEARNABLE_TRANSFORMS_CACHE`` or the platform's.
        max_side: larger images are made smaller to this longest side, in pixels, before they are protected.
        convert: whether encoded images of 9 to 16 bits a channel, CMYK, Lab and the first frame of animations are
            taken, as 8-bit RGB or grey; a warning names their rows. Else they are an error.

    Returns:
        The same kind of data set, same features, images stored as PNG without any path.

    Raises:
        TypeError: a streaming set (materialise it, or use ``ds.map(poison)``) or another kind of data set.
        SampleError: images or labels that cannot be protected; rows named, counted in the whole data set.
        ValueError: a second image column, a column that holds no images, a split of unclear purpose, a set that is
            protected already, fraction.
    """
    if isinstance(data, IterableDataset | IterableDatasetDict):
        raise UsageTypeError(
            "a streaming data set has no end to check: use ds.map(poison), or load it without streaming=True"
        )
    if not isinstance(data, Dataset | DatasetDict):
        raise UsageTypeError(
            f"protect takes a datasets.Dataset or DatasetDict, not {type(data).__name__}; for a torchvision data set "
            "use ut.ProtectedDataset(dataset, poison)"
        )
    check_fraction(fraction, poison)
    check_max_side(max_side)
    check_options(labels, clusters, backbone, poison.key)
    check_ledger_place(ledger)
    rows = open_rows(data, "data", image_key=poison.image_key, label_key=poison.label_key)
    rows.check_columns(poison.image_key, list(keep))
    for split in rows.splits.values():
        split.convert = convert
    empty = [name for name in rows.training if not len(rows.splits[name])]
    if empty:
        raise UsageError(f"there are no rows to protect{f' in {empty}' if rows.named_splits else ''}")
    if labels is not None:
        hide(rows, labels, poison, clusters=clusters, backbone=backbone)
    tokens = {name: rows.tokens(name, poison) for name in rows.training}
    refuse_protected(rows, tokens)
    rows.shrink(max_side)
    if not poison.fitted:
        poison.fit(rows.to_fit(poison))
    results, tables = {}, []
    for name in rows.training:
        split = data[name] if isinstance(data, DatasetDict) else data
        results[name], table = protect_split(rows, name, poison, fraction, tokens[name], num_proc=num_proc)
        results[name].set_format(**split.format)
        tables.append(table if isinstance(data, DatasetDict) else _renamed(table, ""))
        unchanged = pc.indices_nonzero(pc.equal(table["status"], "unchanged")).to_pylist()
        if unchanged:
            warn(
                f"{name_rows(unchanged)}: the method leaves the image as it is (all black, perhaps, or what it shows "
                "is in its alpha channel): it is unprotected",
                UnchangedWarning,
            )
    table = pa.concat_tables(tables)
    if twice := protected_before(table):
        pairs = zip(table["row"].to_pylist(), table["clean_id"].to_pylist(), strict=True)
        warn(f"{name_rows([row for row, id_ in pairs if id_ in twice])}: {TWICE}")
    write_ledger(table, ledger, poison, max_side=max_side)
    if isinstance(data, DatasetDict):
        return DatasetDict({name: results.get(name, split) for name, split in data.items()})
    return results[rows.training[0]]


def protect_split(
    data: TableSet, name: str, poison: Poison, fraction: float, tokens: Sequence[str], **map_options: Any
) -> tuple[Dataset, pa.Table]:
    """One split protected, without a format, and its rows of the ledger. ``map_options`` go to ``Dataset.map``.

    What ``map`` keeps holds ids, classes and, after unlock, clean images: it lies in a private folder.

    Raises:
        As :func:`protect`.
    """
    rows = data.rows_of(name)
    plain = rows.data.with_format(None)
    made_of = plain._fingerprint, poison, fraction, checksum(repr(tokens).encode()), *["convert"] * rows.convert
    fingerprint = Hasher.hash(made_of if rows.max_side is None else (*made_of, rows.max_side))
    mapped = map_privately(
        plain,
        ProtectRows(rows, poison, fraction, tokens),
        fingerprint,
        features=Features({**plain.features, **_LEDGER_FEATURES, _CONVERTED: Value("string")}),
        desc=f"Protecting {name}" if data.named_splits else "Protecting",
        **map_options,
    )
    columns = mapped.select_columns(list(_LEDGER_FEATURES)).with_format("arrow")[:]
    columns = columns.rename_columns([column.removeprefix("_") for column in columns.column_names])
    _warn_of_conversions(mapped[_CONVERTED])
    count = len(columns)
    columns = columns.append_column("split", pa.repeat(pa.scalar(name), count))
    columns = columns.append_column("row", pa.array(np.arange(count)))
    return mapped.remove_columns([*_LEDGER_FEATURES, _CONVERTED]), columns.select(SCHEMA.names)


def _warn_of_conversions(converted: Sequence[str | None]) -> None:
    rows: dict[str, list[int]] = {}
    for row, said in enumerate(converted):
        if said:
            rows.setdefault(said, []).append(row)
    for said, some in rows.items():
        warn(f"{name_rows(some)}: converted, {said}")


def _renamed(table: pa.Table, split: str) -> pa.Table:
    return table.set_column(0, "split", pa.repeat(pa.scalar(split), len(table)))


class ProtectRows:
    """The function that ``Dataset.map`` calls on batches."""

    def __init__(self, rows: TableRows, poison: Poison, fraction: float, tokens: Sequence[str]) -> None:
        self.rows, self.poison, self.fraction, self.tokens = rows, poison, fraction, tokens

    def __call__(self, batch: Any, positions: list[int]) -> dict[str, list]:
        some = range(positions[0], positions[-1] + 1)
        result: dict[str, list] = {name: [] for name in (self.rows.image_key, *_LEDGER_FEATURES, _CONVERTED)}
        for first, opened in self.rows.chunks(some):
            tokens = self.tokens[first : first + len(opened)]
            with counted_in(range(first, first + len(opened))):
                changed = protect_opened(self.poison, opened, tokens, self.fraction)
            for image, token, made in zip(opened, tokens, changed, strict=True):
                encoded = {"bytes": PNG.encode(image.close(made.colour)), "path": None}
                facts = made.clean_id, made.protected_id, token, made.status, made.note, ", ".join(image.converted)
                for column, value in zip(result, (encoded, *facts), strict=True):
                    result[column].append(value)
        return result


def ledger_of(data: LabelledSet, poison: Poison) -> pa.Table:
    """The ledger that protecting a set would write; nothing is written.

    Raises:
        SampleError: images or labels that cannot be protected, with their rows.
    """
    rows: list[dict[str, Any]] = []
    for name in data.training:
        tokens = data.tokens(name, poison)
        for first, opened in data.splits[name].chunks():
            some = range(first, first + len(opened))
            names = tokens[first : some.stop]
            with counted_in(some):
                changed = protect_opened(poison, opened, names)
            split = name if data.named_splits else ""
            for row, token, made in zip(some, names, changed, strict=True):
                facts = (split, row, made.clean_id, made.protected_id, token, made.status, made.note)
                rows.append(dict(zip(SCHEMA.names, facts, strict=True)))
    return pa.Table.from_pylist(rows, SCHEMA)


def map_privately(data: Dataset, function: Callable, fingerprint: str, **options: Any) -> Dataset:
    """``Dataset.map`` over batches with positions, whose cache file lies in a private folder until the process ends."""
    scratch = Scratch()
    _SCRATCH.append(scratch)
    return data.map(
        function,
        batched=True,
        batch_size=256,
        with_indices=True,
        cache_file_name=str(scratch.folder / "rows.arrow"),
        load_from_cache_file=False,
        new_fingerprint=fingerprint,
        **options,
    )


# ---- files, Parquet, saved sets, tars --------------------------------------------------------------------------------


def protect_source(
    source: str | os.PathLike,
    out: str | os.PathLike,
    poison: Poison,
    *,
    codec: Codec | None = None,
    fraction: float = 1.0,
    label: str | None = None,
    labels: str | Path | None = None,
    clusters: int | None = None,
    backbone: str | Callable | None = None,
    keep_splits: Collection[str] = (),
    keep_columns: Collection[str] = (),
    config: str | None = None,
    remove_gone: bool = False,
    workers: int = 1,
    engine: Engine = "local",
    ledger: str | os.PathLike | None = None,
    max_side: int | None = None,
    progress: Progress = False,
    convert: bool = False,
) -> Summary:
    """Protect a source on the disk; go on where an earlier call was interrupted; or add what is new in the source.

    Args:
        source: a path or Hub name, as :func:`~unlearnable_transforms.data.open.open_data` takes it. What comes out is
            of the same kind: image files in the same tree, Parquet, a saved set, tars; a Hub set becomes Parquet.
        out: an empty or new folder, not in ``source``; or one that an earlier call wrote.
        poison: a protection method; fitted on the training data if it needs to be and is not.
        codec: how images are written, and what files say about the rights; default: PNG with the colour profile. Tables
            hold PNG.
        fraction: share of the images to protect, chosen by a keyed hash of each; all are encoded alike.
        label: the class of all images of a folder: an album, an artist or a person.
        labels: secret classes instead of the labels: ``"auto"``, ``"folder"`` or a CSV file, see
            :func:`~unlearnable_transforms.secret.labels.hide`; ``clusters`` and ``backbone`` belong to ``"auto"``.
        keep_splits: splits to write unprotected; others that are not training data are left out.
        keep_columns: other image columns of a table that may stay as they are.
        config: configuration of a Hub data set.
        remove_gone: remove the protected files of images that are not in the source any more; default: they stay.
        workers: processes, of one thread each.
        engine: "local", or "ray": actors of a Ray cluster instead of processes. Source, output and the library's cache
            must be on a storage that all its machines share.
        ledger: where the private record goes; default: the library's cache.
        max_side: larger images are made smaller to this longest side, in pixels, before they are protected. The clean
            image of the ledger, and what unlock gives back, is the smaller one.
        progress: whether to show a progress bar on a terminal; or a function, see :func:`~..jobs.run.run`.
        convert: whether images of 9 to 16 bits a channel, CMYK, Lab and the first frame of animations are taken, as
            8-bit RGB or grey; else they are left out of a folder, and an error in a table.

    Returns:
        What was done. Image files that could not be read are in ``failed``, those that another option would take in
        ``left_out``: none of them is in ``out``.

    Raises:
        ValueError: the source, the output folder or the journal are not as they must be.
        OSError: the output cannot be written, e.g. the disk is full. Call again to continue.
        SampleError: rows of a table or tar that cannot be protected, or a method that cannot learn from these images.
    """
    out, codec = Path(out), codec or Codec()
    check_fraction(fraction, poison)
    check_max_side(max_side)
    check_engine(engine)
    check_places(os.fspath(source), out)
    check_ledger_place(ledger, out)
    if label is not None and labels is not None:
        raise UsageError("label= is one class for all, labels= are secret classes: give one of the two")
    check_options(labels, clusters, backbone, poison.key)
    data = open_data(
        source,
        label=label,
        unlabelled=labels is not None,
        keep_splits=keep_splits,
        image_key=poison.image_key,
        label_key=poison.label_key,
        config=config,
        convert=convert,
    )
    codec = _settled(codec, data, poison)
    if remove_gone and not data.may_leave_out:
        raise UsageError("--remove-gone is for folders of images: tables and tars are written whole")
    data.check_columns(poison.image_key, list(keep_columns))
    units = data.units(codec)
    with open_journal(out) as journal:
        hidden = {}
        if labels is not None:
            memory = journal.directory / SECRET_CLASSES
            hidden = hide(data, labels, poison, clusters=clusters, backbone=backbone, processes=workers, memory=memory,
                          recall=journal.begun)  # fmt: skip
        classes = _keep_classes(data, poison)
        tokens = {name: data.tokens(name, poison) for name in data.training}  # all labels are looked at first
        refuse_protected(data, tokens)
        data.shrink(max_side)  # before it, a protected image would be taken for a clean one
        settings = {
            "source": os.path.abspath(data.source) if Path(data.source).exists() else data.source,
            "configuration": config,
            **poison.public_config(),
            "format": codec.format,
            "quality": codec.quality if codec.format in ("jpeg", AUTO) else None,
            "colour profile": codec.icc,
            "longest side": max_side,
            **_said(codec),
            "fraction": fraction,
            "label": label,
            "class column of a table": _class_columns(data) if label is None and labels is None else None,
            "kept splits": sorted(keep_splits),
            "kept columns": sorted(keep_columns),
            "classes": classes,
            **hidden,
            **({} if data.may_leave_out else {"files": [unit.target for unit in units]}),
        }
        resumed = journal.begin(settings)
        changes = compare(data, units, journal, tokens)
        if data.may_leave_out:
            follow(data, units, journal, changes, tokens, remove_gone=remove_gone)
        make_ready(poison, data, changes.todo, journal)
        job = Protect(data, out.resolve(), codec, poison, fraction, tokens)
        records = run(job, units, journal, todo=changes.todo, workers=workers, engine=engine, progress=progress)
        number = len(data.names or set(data.secret[data.training[0]])) if data.secret is not None else None
        summary = _finish(out, data, units, records, journal, poison, ledger, number, max_side)
        summary.fresh = [unit.target for unit in changes.todo]
        if resumed and data.may_leave_out:
            missing = [place for place, _ in [*summary.failed, *summary.left_out]]
            summary.changes = changes.lines(len(summary.images), without=missing)
        if codec.format == "png" and data.any_format and summary.bytes_out > GROWN * summary.bytes_in:
            summary.notes.append(_why_larger(poison))
        if codec.signer is not None:
            summary.notes.append(
                f"signed with C2PA by {codec.signer.holder}; the certificate ends on {codec.signer.last_day}"
            )
        journal.finish()
        return summary


def _settled(codec: Codec, data: LabelledSet, poison: Poison) -> Codec:
    """The codec for a set and a method: ``auto`` becomes PNG where JPEG would take away what the method adds.

    Raises:
        UsageError: a format for tables, or a credit that cannot be written.
    """
    credit.check_kept(codec.keep)
    if codec.keep and codec.credit is None:
        codec = replace(codec, credit=credit.Credit())
    if codec.credit is not None:
        credit.build(codec.credit)
    additive = is_additive(poison.public_config())
    if codec.format == AUTO and isinstance(data, FolderSet) and additive:
        _warn_of_size(data, poison)
    if codec.format == AUTO and (additive or not isinstance(data, FolderSet)):
        if codec.quality != QUALITY:
            raise UsageError("the quality is that of JPEG, and the images are written as PNG here: leave it out")
        codec = replace(codec, format="png")
    if (codec.format, codec.icc) != ("png", True) and not data.any_format:
        raise UsageError(
            "the format and the colour profile are chosen for image files; tables hold PNG. --max-side is for their "
            "images, too"
        )
    return codec


def _warn_of_size(data: LabelledSet, poison: Poison) -> None:
    """Warn that lossy files become PNG, and why."""
    rows = [data.splits[name] for name in data.written]
    sizes = [
        size for some in rows if isinstance(some, FolderRows)
        for path, size in zip(some.paths, some.sizes, strict=True) if is_lossy(path)
    ]  # fmt: skip
    if sizes:
        method = " > ".join(methods_of(poison.public_config()))
        warn(
            f"{len(sizes):,} JPEG files ({bytes_text(sum(sizes))}) become PNG, at full size five to ten times as "
            f"large: JPEG would take away much of what {method} adds (docs/protect.md). --max-side makes them smaller"
        )


def _why_larger(poison: Poison) -> str:
    why = "the files are PNG, which keeps every pixel and takes more room: "
    if is_additive(poison.public_config()):
        return f"{why}JPEG would take away much of what the method adds. --max-side makes them smaller"
    return f"{why}--format auto writes JPEG of JPEG files, which keeps what this method changes (docs/protect.md)"


def _said(codec: Codec) -> dict[str, Any]:
    """What files say about the rights, as settings of a run."""
    said = codec.credit or credit.Credit()
    return {
        "opt-out": said.opt_out or None,
        "creator": "; ".join(said.creator) or None,
        "copyright": said.copyright or None,
        "fields kept": ", ".join(codec.keep) or None,
        "C2PA holder": codec.signer and codec.signer.holder,  # of the certificate, which may have been renewed
        "C2PA opt-out": codec.signer and codec.signer.opt_out,
    }


def _class_columns(data: LabelledSet) -> str | None:
    """The columns of a folder's tables that name the classes, if they do. With a table that comes or goes all images
    would be in other classes."""
    columns = {table.label_column for table in data.tables if table.label_column} if isinstance(data, FolderSet) else ()
    return ", ".join(sorted(columns)) or None


def _protects(record: Record) -> bool:
    return record["status"] != "failed" and all(fact["status"] == "protected" for fact in record["facts"])


def _of_another_file(path: str, other: str, protected: bool) -> str:
    """What came of a file that is not read because another one holds the same image."""
    raw = os.path.splitext(path)[1].lower() in RAW
    kind, name = "raw file" if raw else "HEIC", readable_name(os.path.basename(other))
    if protected:
        return f"{kind}, not protected; {name} beside it was"
    return f"{kind}, not protected; neither was {name} beside it" + ("" if raw else ": remove that one to use this")


def _keep_classes(data: LabelledSet, poison: Poison) -> list[str] | None:
    """The names of the classes, in the order of their numbers under the key, which keeps them for later runs."""
    if data.by_name and poison.key is not None and poison.classes is None:
        names = keep_names(data.names or [], poison.key)
        mine = set(class_numbers(data.names or [], poison.key).values())
        return [name if number in mine else "" for number, name in enumerate(names)]
    return data.names


@dataclass(frozen=True)
class Protect(Job):
    """Protects rows. What it returns is small.

    Attributes:
        poison: ready to use.
        fraction: share of the images to protect.
        tokens: class token of each row, by split; other splits are encoded anew and not protected.
    """

    poison: Poison
    fraction: float
    tokens: dict[str, list[str]]

    def change(self, unit: Unit, rows: range, opened: list[Opened], failed: Failures) -> tuple[list[bytes], list[Any]]:
        images: list[bytes] = []
        if unit.split not in self.tokens:
            for row, image in zip(rows, map(self.codec.prepare, opened), strict=True):
                images.append(self.encode(unit, row, image.close(image.colour), failed))
            return images, [{"status": "kept"}] * len(images)
        tokens = self.tokens[unit.split][rows.start : rows.stop]
        try:
            changed = protect_opened(self.poison, opened, tokens, self.fraction, self.codec)
        except SampleError as error:
            failed += [Failure(rows[row], error.reason, readable=True) for row in error.rows or range(len(rows))]
            return [], []
        facts: list[Any] = []
        every = measured_every(len(self.tokens[unit.split]))
        lossy = self.codec.for_file(unit.target).format == "jpeg"
        for row, stored, token, made in zip(rows, opened, tokens, changed, strict=True):
            image = self.codec.prepare(stored)
            images.append(self.encode(unit, row, image.close(made.colour), failed))
            decoded, protected_id = made.colour, made.protected_id
            if lossy and images[-1]:  # others will know the image by the pixels that they decode
                decoded = open_bytes(images[-1]).colour
                protected_id = sample_id(decoded, token)
            fact: dict[str, Any] = {
                "status": made.status,
                "clean_id": made.clean_id.hex(),
                "protected_id": protected_id.hex(),
            }
            fact |= {"token": token, "note": made.note}
            for said, kinds in (("converted", stored.converted), ("left_behind", stored.left_behind)):
                if kinds:
                    fact[said] = kinds
            if made.status == "protected" and row % every == 0:
                fact["measured"] = measure(image.colour, decoded)
            facts.append(fact)
        return images, facts


# ---- the end of a run ------------------------------------------------------------------------------------------------


def _finish(
    out: Path,
    data: LabelledSet,
    units: Sequence[Unit],
    records: Sequence[Record],
    journal: Journal,
    poison: Poison,
    ledger: str | os.PathLike | None,
    hidden: int | None,
    max_side: int | None,
) -> Summary:
    entries = [entry for record in records if record["status"] == "failed" for entry in record["unreadable"]]
    if entries and not data.may_leave_out:
        raise SampleError(
            f"{'; '.join(place for place, *_ in entries[:MAX_NAMED])}"
            f"{f' ... ({len(entries)} in all)' if len(entries) > MAX_NAMED else ''}: {entries[0][1]}. Repair or remove "
            "them, then start with an empty output folder"
        )
    left_out = [(place, reason) for place, reason, readable in entries if readable == READABLE]
    failed = [(place, reason) for place, reason, readable in entries if readable != READABLE]
    summary = Summary(data.kind, str(out), others=data.others)
    summary.failed = sorted([*failed, *data.unreadable.items()])
    summary.left_out = sorted([*left_out, *data.unused.items()])
    summary.key = "" if poison.key is None else poison.key.name or poison.key.fingerprint
    listed = {unit.target for unit in units}
    gone = [record for record in journal.records() if record["target"] not in listed and record["status"] == "written"]
    table = pa.Table.from_batches(list(_ledger_batches([*records, *gone], data.named_splits, summary)), SCHEMA)
    if data.may_leave_out:
        known = [record for record in records if record["status"] == "written"]
        summary.images = [(os.path.join(data.source, record["place"]), record["target"]) for record in known]
    if twice := {id_.hex() for id_ in protected_before(table)}:
        again = [record for record in records if any(fact.get("clean_id") in twice for fact in record.get("facts", ()))]
        summary.notes.append(f"{named([record['place'] for record in again])}: {TWICE}")
    summary.ledger = str(write_ledger(table, ledger, poison, journal.directory / "ledger.txt", max_side))
    protected = {record["place"] for record in records if _protects(record)}
    summary.beside = [(path, _of_another_file(path, other, other in protected)) for path, other in data.beside.items()]
    written = {record["target"]: record["checksum"] for record in records if record["status"] != "failed"}
    summary.notes += data.finish(out, {unit: written[unit.target] for unit in units if unit.target in written})
    if hidden is not None:
        summary.notes.append(hidden_note(hidden))
    else:
        summary.notes.append(classes_note(data, poison))
    if data.left_out:
        summary.notes.append(f"splits left out, not being training data: {', '.join(data.left_out)} (--keep-split)")
    return summary


def classes_note(data: LabelledSet, poison: Poison) -> str:
    """What was read as classes, and where."""
    names = data.names
    if data.labels_from == "--label":
        names = ["one class for all images"]
    elif names is None:
        names = list(
            map(str, in_order(class_value(token) for name in data.training for token in data.tokens(name, poison)))
        )
    return f"{len(names)} class{'es' if len(names) > 1 else ''} ({named(names)}), from {data.labels_from}"


def _ledger_batches(records: Sequence[Record], split_names: bool, summary: Summary) -> Iterator[pa.RecordBatch]:
    """The ledger's rows, in the order of the records; the summary counts them."""
    rows: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    for record in records:
        if record["status"] == "failed":
            continue
        summary.bytes_in += record["size"]
        summary.bytes_out += record["bytes"]
        split = record["split"] if split_names else ""
        for place, fact in enumerate(record["facts"]):
            summary.count(record, place, fact)
            if fact["status"] == "kept":
                continue
            rows.append(
                {
                    "split": split,
                    "row": counts[split],
                    "clean_id": bytes.fromhex(fact["clean_id"]),
                    "protected_id": bytes.fromhex(fact["protected_id"]),
                    "class_token": fact["token"],
                    "status": fact["status"],
                    "unlock_note": fact.get("note"),
                }
            )
            counts[split] += 1
            if len(rows) == LEDGER_ROWS:
                yield pa.RecordBatch.from_pylist(rows, SCHEMA)
                rows = []
    yield pa.RecordBatch.from_pylist(rows, SCHEMA)
