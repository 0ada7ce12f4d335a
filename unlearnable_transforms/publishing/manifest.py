"""``protection.json``: what a published set is, in a form that programs read; and the check of it.

Public by design: the method and its public arguments, the key's fingerprint, a digest of the protected pictures, the
class list and the checksum of every file. The seal is made with the key over all of this: without the key nobody can
make another manifest that the key's owner would take for his own.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Value

from .. import __version__
from ..checks.leaks import Leak, key_forms
from ..data.image import open_bytes
from ..errors import UsageError, printable
from ..files import DamagedError, check_hub_name, is_inner_path, open_regular, private_directory, read_json
from ..key import Key
from ..protection.verify_c2pa import Review, review_folder
from . import signature
from .scan import Checked, ids_digest, published_id
from .stage import CARD, MANIFEST, Upload
from .whole import UNREADABLE, Seen, is_inside, look, upload_of

FORMAT = 1
KIND = {
    "format": int,
    "release": str,
    "method": str,
    "arguments": dict,
    "key_fingerprint": (str, None),
    "classes": ([str], None),
    "columns": ({"image": str, "label": (str, None)}, None),
    "coverage": str,
    "protected_ids": {"count": int, "sha256": str},
    "splits": {str: {"protected": bool, "files": [str]}},
    "files": {str: {"bytes": int, "sha256": str}},
    "card?": str,
    "contact?": (str, None),
    "picture?": ({"file": str, "originals": bool}, None),
    "kept_columns?": [str],
    "originals_public?": (bool, None),
    "seal?": str,
    "signature?": signature.KIND,
}
REMEDY = "take it out, or fetch the set again"
REPO = re.compile(r"[\w.-]+/[\w.-]+")
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")
CHANGED, OTHER_KEY = 1, 3  # exit codes
_NOT_OURS = (".gitattributes", ".git/", ".cache/")  # of the Hub, and of what fetches from it
OPT_OUT = {  # as the Creator Assertions Working Group names it for C2PA
    "cawg.training-mining": {
        "entries": {
            name: {"use": "notAllowed"}
            for name in ("cawg.data_mining", "cawg.ai_training", "cawg.ai_generative_training")
        }
    }
}


def make_manifest(
    upload: Upload, config: Mapping[str, Any], repo: str, checked: Checked, coverage: str, opt_out: bool
) -> dict[str, Any]:
    """The manifest of an upload, without checksums and seal; ``config`` is the method's ``public_config``."""
    columns = None
    if upload.features is not None:
        feature = upload.features[upload.label_key] if upload.label_key else None
        numbers = pa.types.is_integer(feature.pa_type) if isinstance(feature, Value | ClassLabel) else False
        columns = {
            "image": upload.image_key,
            "label": upload.label_key,
            "labels": ("numbers" if numbers else "texts") if upload.label_key else None,
        }
    return {
        "format": FORMAT,
        "library": f"unlearnable-transforms {__version__}",
        "release": repo,
        **{name: config[name] for name in ("method", "version", "arguments", "key_fingerprint")},
        "classes": upload.classes,
        "columns": columns,
        "coverage": coverage,
        "statuses": checked.counts,
        "protected_ids": {"count": sum(checked.counts.values()), "sha256": checked.digest},
        "splits": {
            name: {"pictures": checked.rows[name], "protected": name in upload.training, "files": upload.splits[name]}
            for name in upload.splits
        },
        **({"opt_out": OPT_OUT} if opt_out else {}),
    }


def list_files(folder: Path, files: Iterable[str]) -> dict[str, Any]:
    """Sizes and checksums of files, by their paths below a folder."""
    return {path: {"bytes": (folder / path).stat().st_size, "sha256": checksum(folder / path)} for path in files}


def write_manifest(
    manifest: dict[str, Any], folder: Path, files: list[str], key: Key | None, signing_key: Any = None
) -> None:
    """Add the checksums of files that it lacks, the signature and the seal, and write it into their folder."""
    known = manifest.get("files", {})
    listed = {**known, **list_files(folder, [path for path in files if path not in known])}
    manifest = {**manifest, "files": dict(sorted(listed.items()))}
    if signing_key is not None:
        manifest["signature"] = signature.sign(manifest, signing_key)
    if key is not None:
        manifest["seal"] = seal(manifest, key)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest in a folder, whoever wrote it: of the right types, and naming files inside the folder only.

    Raises:
        FileNotFoundError, IrregularFileError: there is none.
        DamagedError: it is damaged.
        ValueError: it is of a later version of the library.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise FileNotFoundError(f"there is no {MANIFEST} in {folder}: it was not published by this library")
    if read_json(path, {"format": int}, REMEDY)["format"] > FORMAT:
        raise UsageError(f"{path} is of a later version: this library reads format {FORMAT}")
    manifest = read_json(path, KIND, REMEDY)
    files, fingerprint = manifest["files"], manifest["key_fingerprint"]
    named = (name for split in manifest["splits"].values() for name in split["files"])
    if (
        not all(map(is_inner_path, files))
        or not set(named) <= set(files)
        or not REPO.fullmatch(manifest["release"])
        or not (fingerprint is None or _FINGERPRINT.fullmatch(fingerprint))
    ):
        raise DamagedError(path, REMEDY)
    return manifest


def checksum(path: Path) -> str:
    """SHA-256 of a regular file, hexadecimal."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(manifest: Mapping[str, Any], key: Key) -> str:
    """What only the key's owner can make of a manifest: 128 bits, hexadecimal."""
    rest = {name: value for name, value in manifest.items() if name != "seal"}
    text = json.dumps(rest, sort_keys=True, ensure_ascii=False)
    return key.stream("manifest", text).words(2).tobytes().hex()


@dataclass
class Verdict:
    """What :func:`verify` found.

    Attributes:
        manifest: what the set says of itself.
        changed, missing, added: files that are not as they were published.
        same_pictures: whether the training pictures are nevertheless those that were published; None: not looked at.
        key: ``fits``, ``derived`` (``key.derive`` of the release's name fits), ``other``, or None: not asked.
        sealed: whether the manifest is as the key's owner wrote it; None: not known.
        signature: what :func:`~.signature.check` says; None: there is none. ``public_key``: whether it was asked for.
        c2pa: what the signatures in the images say; None where there are none.
        seen: what the folder says of itself, and what in it leaks.
    """

    manifest: dict[str, Any]
    changed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    same_pictures: bool | None = None
    key: str | None = None
    sealed: bool | None = None
    signature: str | None = None
    public_key: bool = False
    c2pa: Review | None = None
    seen: Seen = field(default_factory=Seen)

    @property
    def leaks(self) -> list[Leak]:
        """What is wrong beside changed files: descriptions that do not fit the set, and what gives something away."""
        return self.seen.leaks

    @property
    def exit_code(self) -> int:
        """0: all is as published; 1: files or the manifest changed, there is no signature, or something leaks; 3: a key
        does not fit."""
        if self.key == "other" or self.signature == signature.OTHER:
            return OTHER_KEY
        unsigned = self.signature in (signature.CHANGED, signature.MISSING)
        void = self.c2pa is not None and bool(self.c2pa.void)
        moved = self.changed or self.missing or self.added
        wrong = moved or self.leaks or self.sealed is False or unsigned or void
        return CHANGED if wrong else 0

    def lines(self) -> list[str]:
        """The verdict as text."""
        known = self.manifest
        lines = [
            f"{known['release']}: {printable(known['method'])}, key {known['key_fingerprint']}, "
            f"{known['protected_ids']['count']:,} pictures, coverage {printable(known['coverage'])}"
        ]
        for title, paths in (("changed", self.changed), ("missing", self.missing), ("added", self.added)):
            lines += [f"{title}: {printable(path)}" for path in paths]
        if self.seen.edited:
            lines.append(f"{CARD} was edited by hand, outside of what the library wrote; the data is not concerned")
        if not (self.changed or self.missing or self.added):
            others = "other " if self.seen.edited else ""
            lines.append(f"all {len(known['files']) - self.seen.edited} {others}files are as they were published")
        elif self.same_pictures is not None:
            same = "are those that were published" if self.same_pictures else "are NOT those that were published"
            lines.append(f"the training pictures {same}")
        messages = {
            "fits": "the key fits",
            "derived": f"the key fits: the release's key is derived from it, as {known['release']!r}",
            "other": "the key does NOT fit: it is another one",
        }
        if self.seen.images is not None and not self.leaks:
            lines.append(f"{self.seen.images:,} images looked at: nothing in the set gives anything away")
        lines += [f"training is reserved in {', '.join(self.seen.opt_outs)}"] if self.seen.opt_outs else []
        lines += [f"WRONG: {leak}" for leak in self.leaks]
        lines += [messages[self.key]] if self.key else []
        if self.sealed is not None:
            lines.append("the manifest is sealed with it" if self.sealed else "the manifest was CHANGED since")
        lines += [signature.wording(self.signature, known, self.public_key)] if self.signature else []
        return lines + (self.c2pa.lines() if self.c2pa else [])


def verify(
    source: str | Path,
    key: Key | None = None,
    revision: str | None = None,
    *,
    public_key: str | None = None,
    anchors: str | None = None,
) -> Verdict:
    """Whether a published set is as it was published, and whether a key fits.

    Args:
        source: a folder, or a name of the Hub.
        key: that of the release, or one from which it was derived.
        revision: of the Hub's repository.
        public_key: of the publisher, from :func:`~.signature.load_public_key`: the manifest has to be signed with it.
        anchors: certificates in PEM that are trusted, for C2PA.

    Raises:
        FileNotFoundError, ValueError: there is no manifest, or it cannot be read.
    """
    if Path(source).is_dir():
        return _verify(Path(source), key, public_key, anchors)
    check_hub_name(source)
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory(dir=private_directory("uploads")) as scratch:
        HfApi().snapshot_download(str(source), repo_type="dataset", revision=revision, local_dir=scratch)
        return _verify(Path(scratch), key, public_key, anchors)


def _verify(folder: Path, key: Key | None, public_key: str | None, anchors: str | None) -> Verdict:
    manifest = read_manifest(folder)
    verdict = Verdict(manifest, public_key=public_key is not None)
    try:
        verdict.signature = signature.check(manifest, public_key)
    except ImportError:
        verdict.signature = signature.UNCHECKED
    verdict.c2pa = review_folder(folder, anchors, (manifest["columns"] or {}).get("image"))
    there = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    }
    there = {path for path in there if path != MANIFEST and not path.startswith(_NOT_OURS)}
    files = manifest["files"]
    verdict.missing = sorted(set(files) - there)
    verdict.added = sorted(there - set(files))
    verdict.changed = sorted(path for path in set(files) & there if not _is_same(folder, path, files[path]))
    if any(path in split["files"] for path in verdict.changed for split in manifest["splits"].values()):
        verdict.same_pictures = _same_pictures(folder, manifest)
    keys = [] if key is None else [key, key.derive(manifest["release"])]
    verdict.seen = look(folder, manifest, [*verdict.changed, *verdict.missing], key_forms(keys))
    if verdict.seen.edited:
        verdict.changed.remove(CARD)
    if key is not None:
        release = manifest["release"]
        owner = next((k for k in (key, key.derive(release)) if k.fingerprint == manifest["key_fingerprint"]), None)
        verdict.key = "other" if owner is None else "fits" if owner is key else "derived"
        verdict.sealed = None if owner is None else manifest.get("seal") == seal(manifest, owner)
    return verdict


def _is_same(folder: Path, path: str, known: Mapping[str, Any]) -> bool:
    """Whether a file is the one that was published."""
    place = folder / path
    return (
        is_inside(folder, path)
        and place.is_file()
        and place.stat().st_size == known["bytes"]
        and checksum(place) == known["sha256"]
    )


def _same_pictures(folder: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether the training pictures have the digest that was published, however their files were written."""
    try:
        upload = upload_of(folder, manifest)
        if not all(is_inside(folder, path) for name in upload.training for path in upload.splits[name]):
            return False
        ids = [
            published_id(open_bytes(picture.data).colour, picture.token, upload)
            for name in upload.training
            for picture in upload.pictures(name)
        ]
    except UNREADABLE:
        return False  # what cannot be read is not what was published
    return ids_digest(ids) == manifest["protected_ids"]["sha256"]
