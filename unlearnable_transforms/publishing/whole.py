"""What a published folder says of itself, compared with what lies in it: no ledger, no originals, no Hub.

Each check reads the files once more, whoever wrote them: images and tables by the checks before publishing, the card,
``croissant.json`` and the card's picture against ``protection.json``.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features

from ..checks.leaks import NEW_KEY, Findings, Leak, holds_secret, strings, text_leak
from ..errors import UsageError
from ..files import MOST_JSON, DamagedError, open_regular, parse_json, read_regular
from ..sample import class_token
from .croissant import CROISSANT, check_croissant, prohibits_training
from .own import generated_digest, split_card
from .picture import shows_published
from .scan import Checked, PictureCheck, check_files, check_tables
from .stage import CARD, MANIFEST, Upload

UNREADABLE = (OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, pa.ArrowException)
AGAIN = "take it out, or fetch the set again"
_TOLD = ("local path", "second image")  # what no text of a published set holds; links may stand there


@dataclass
class Seen:
    """What was seen in a published folder.

    Attributes:
        leaks: what is wrong.
        edited: the card was edited by hand, outside of the part that the library writes.
        images: those that were looked at; None where the data files are not those that were published.
        opt_outs: where training is reserved: files, and ``N of N images``.
    """

    leaks: list[Leak] = field(default_factory=list)
    edited: bool = False
    images: int | None = None
    opt_outs: list[str] = field(default_factory=list)


def look(folder: Path, manifest: Mapping[str, Any], changed: Sequence[str], forms: Sequence[bytes]) -> Seen:
    """Compare a folder with its manifest.

    Args:
        folder: that was published.
        manifest: its own, of the right types.
        changed: files that are not as the manifest lists them, or are missing.
        forms: :func:`~..checks.leaks.key_forms` of the keys to look for.
    """
    findings, seen = Findings(), Seen()
    texts = {name: text for name in (CARD, MANIFEST, CROISSANT) if (text := _text(folder, name)) is not None}
    check_texts(texts, forms, findings)
    if CROISSANT in texts and CROISSANT in manifest["files"]:
        try:
            for check, what in check_croissant(folder, manifest):
                findings.add(check, what, AGAIN, CROISSANT)
        except UNREADABLE as error:
            findings.add("unreadable", str(error) or "it cannot be read", AGAIN, CROISSANT)
    if CARD in texts and manifest.get("card") is not None:
        same = generated_digest(texts[CARD]) == manifest["card"]
        seen.edited = same and CARD in changed
        if not same:
            what = "what the library wrote into the card, or its metadata on loading and consent, is not as published"
            findings.add("description", what, AGAIN, CARD)
    seen.opt_outs = [*_reserved(texts, manifest)]
    data = {path for split in manifest["splits"].values() for path in split["files"]}
    if not data & set(changed):
        try:
            checked = _look_at_data(folder, manifest, forms, findings)
        except UNREADABLE as error:
            findings.add("unreadable", str(error) or "the data cannot be read", AGAIN)
        else:
            seen.images = sum(checked.rows.values())
            if checked.opted_out:
                seen.opt_outs.append(f"{checked.opted_out:,} of {seen.images:,} images")
    seen.leaks = findings.leaks()
    return seen


def check_texts(texts: Mapping[str, str], forms: Sequence[bytes], findings: Findings) -> None:
    """Look for the key, paths of a computer and images in texts by their file's name; JSON is read, not only seen."""
    for name, text in texts.items():
        if holds_secret(text.encode("utf-8", "surrogatepass"), forms):
            findings.add("key", "the file holds the key", NEW_KEY, name)
        parts: Iterator[str] = iter(text.splitlines())
        if name != CARD:
            with suppress(ValueError):
                parts = strings(parse_json(text))
        for check, what in dict.fromkeys(leak for part in parts if (leak := text_leak(part))):
            if check in _TOLD:
                findings.add(check, what, "take it out", name)


def upload_of(folder: Path, manifest: Mapping[str, Any]) -> Upload:
    """A published folder as it was before it went up."""
    splits = {name: split["files"] for name, split in manifest["splits"].items()}
    training = [name for name, split in manifest["splits"].items() if split["protected"]]
    columns, names = manifest["columns"], manifest["classes"] or []
    known = known_classes(manifest["arguments"])
    upload = Upload(folder, splits, training, classes=manifest["classes"], known=known)
    if columns is None:
        for path in (path for name in training for path in splits[name]):
            parts = path.split("/")
            if len(parts) > 1 and parts[-2] in names:
                upload.tokens[path] = class_token(names.index(parts[-2]), upload.known)
    else:
        upload.image_key, upload.label_key = columns["image"], columns["label"]
        with open_regular(folder / splits[training[0]][0]) as file:
            upload.features = Features.from_arrow_schema(pq.read_schema(file))
    named = {path for paths in splits.values() for path in paths} | {CARD, MANIFEST, CROISSANT}
    picture = manifest.get("picture") or {}
    upload.extra = sorted(set(manifest["files"]) - named - {picture.get("file")})
    return upload


def known_classes(arguments: Mapping[str, Any]) -> list | None:
    """The class list of a method, from its public arguments; of a chain, that of its links, which agree."""
    links = arguments.get("links")
    return arguments.get("classes") if links is None else known_classes(links[0]["arguments"])


def is_inside(folder: Path, path: str) -> bool:
    """Whether a file lies in the folder, and no link leads elsewhere; those of the Hub's cache lead to its blobs."""
    root, place = folder.resolve(), (folder / path).resolve()
    return place.is_relative_to(root) or place.parent == root.parent.parent / "blobs"  # beside snapshots/REVISION


def _look_at_data(folder: Path, manifest: Mapping[str, Any], forms: Sequence[bytes], findings: Findings) -> Checked:
    """The checks before publishing, on what was published."""
    upload = upload_of(folder, manifest)
    check_files(upload, forms, findings)
    if upload.features is not None:
        check_tables(upload, forms, manifest.get("kept_columns", list(upload.features)), findings)  # else unknown
    check = PictureCheck(upload, manifest, None, findings)
    statuses = manifest.get("statuses")
    check.all_protected = isinstance(statuses, dict) and set(statuses) == {"protected"}
    checked = check.run()
    check.judge(checked, True, manifest.get("originals_public", True))
    # Classes that a table beside the images names are not read again: there the ids cannot be taken.
    tables = upload.features is None and any(path.endswith((".csv", ".jsonl")) for path in upload.extra)
    untold = tables and any(path not in upload.tokens for name in upload.training for path in upload.splits[name])
    if checked.digest != manifest["protected_ids"]["sha256"] and not untold:
        findings.add("unknown picture", f"the training images are not those that {MANIFEST} counts", AGAIN)
    picture = manifest.get("picture")
    if picture and not picture["originals"] and not shows_published(upload, picture["file"]):
        what = "it shows something else than the images of this set: originals, perhaps"
        findings.add("clean picture", what, "take it out; if others may have seen it, protect anew", picture["file"])
    return checked


def _text(folder: Path, name: str) -> str | None:
    """A text of a folder; None where there is none that may be read."""
    try:
        return read_regular(folder / name, MOST_JSON).decode("utf-8", "replace") if is_inside(folder, name) else None
    except (OSError, DamagedError):
        return None


def _reserved(texts: Mapping[str, str], manifest: Mapping[str, Any]) -> Iterator[str]:
    """The files that reserve training in words for programs."""
    with suppress(UsageError):
        if split_card(texts.get(CARD, ""))[0].get("extra_gated_fields"):
            yield f"{CARD} (consent)"
    if manifest.get("opt_out"):
        yield f"{MANIFEST} (CAWG)"
    with suppress(ValueError):
        if prohibits_training(parse_json(texts.get(CROISSANT, "{}"))):
            yield f"{CROISSANT} (ODRL)"
