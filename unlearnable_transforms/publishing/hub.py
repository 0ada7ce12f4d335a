"""``publish``: stage, check, describe, and only then send."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from ..checks.leaks import Findings, LeakError, key_forms
from ..errors import UnlearnableWarning, UsageError, WorkError
from ..evaluation.report import Report
from ..files import MOST_JSON, parse_json, private_directory, put_in_place, read_json, read_regular, replacing
from ..jobs.run import check_places
from ..key import Key
from ..noise.table import NoiseError
from ..poisons.base import NotFittedError, Poison
from ..warn import warn
from .card import About, make_card, rows_of_method, words_of
from .coverage import confirm, find_coverage, open_originals
from .croissant import CROISSANT, make_croissant, write_croissant
from .manifest import REPO, checksum, list_files, make_manifest, write_manifest
from .own import OwnPart, generated_digest, kept_text, own_part
from .picture import draw, picture_name
from .scan import Checked, PictureCheck, check_files, check_tables
from .signature import load_signing_key
from .stage import CARD, LICENCE, MANIFEST, UNVERIFIED, Upload, stage
from .whole import check_texts

_NO_DATA = re.compile(rf"README\.md|\.git\w+|{LICENCE}|protection\.json|croissant\.json")


@dataclass
class Publication:
    """What was published.

    Attributes:
        url: of the data set, or of the pull request; empty for a folder.
        folder: that is ready to upload, if one was asked for.
        coverage: how it is known that every picture is protected.
        notes: what else to know, one line each.
    """

    repo: str
    url: str
    folder: Path | None
    coverage: str
    checked: Checked
    notes: list[str] = field(default_factory=list)


class PublishWarning(UnlearnableWarning):
    """Something that a publisher should know, and that does not stop a publication."""


def publish(
    protected: Any,
    repo: str,
    *,
    poison: Poison,
    original: Any = None,
    ledger: str | os.PathLike | None = None,
    report: Report | str | os.PathLike | None = None,
    folder: str | os.PathLike | None = None,
    private: bool | None = None,
    gated: Literal["auto", "manual", False] | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    allow_partial: bool = False,
    allow_unverified: bool = False,
    allow_history: bool = False,
    originals_public: bool | None = None,
    rename: bool = False,
    keep: Collection[str] = (),
    label: str | None = None,
    license: str | None = None,
    description: str | None = None,
    contact: str | None = None,
    opt_out: bool = True,
    signing_key: str | os.PathLike | None = None,
    viewer: bool = True,
    picture: bool = True,
    show_originals: bool = False,
    card: str | os.PathLike | None = None,
) -> Publication:
    """Publish a protected set on the Hugging Face Hub, or make a folder that is ready for it.

    Everything that goes up is put into a folder first and checked there; nothing is sent before all checks have passed.
    An upload that was interrupted can be started again: what is there already is not sent twice.

    Args:
        protected: a ``Dataset`` or ``DatasetDict``, or a folder made by ``unlearnable protect``: Parquet, a saved set,
            or pictures.
        repo: ``user/name``.
        poison: the method, with its key; it need not be fitted.
        original: the clean training data, to check against: a data set, or a path. Without a ledger it is protected
            once more, to know what should have come out.
        ledger: the record that ``protect`` wrote; default: the one in the library's cache that knows the pictures.
        report: what ``ut.evaluate`` measured, or the folder of its results; the card is made from it.
        folder: write this new folder instead of uploading.
        private, gated: of the repository; None leaves what is set there. ``gated``: "auto", "manual" or False.
        revision: the branch, made if it is not there; default: main.
        create_pr: open a pull request instead of committing.
        allow_partial: publish although training pictures are unprotected, or protected ones are not among them.
        allow_unverified: publish although no ledger, no originals and no look at a sample of them say that the
            training pictures are protected.
        allow_history: publish although earlier commits of the repository hold other data files.
        originals_public: whether the originals can be had by everybody. Then everybody has pairs of clean and protected
            pictures anyway, and the card says that this protects nothing.
        rename: number the pictures, and drop their names.
        keep: other columns that may stay as they are.
        label: for pictures that lie in no class folders: the label they were protected with, or any text where the
            classes were secret.
        license: identifier of the Hub, such as ``cc-by-4.0``; default: that of the earlier card.
        description: what the set shows, in a sentence or two, for the card. It replaces the text that an earlier card
            has above the generated part; without it that text stays.
        contact: whom to ask for permission or the originals, for the card; default: as it was published before.
        opt_out: whether the card, the manifest and ``croissant.json`` reserve training and data mining. The card then
            asks for consent where access is gated.
        viewer: whether the Hub may show the images on its page, for which it makes copies of them.
        picture: whether the card shows some of the protected images.
        show_originals: whether the picture has the originals of four images, too; needs ``original``.
        card: an earlier README.md whose own text and metadata are kept; default: that of the repository, unless
            ``folder`` is given.
        signing_key: file of a private key of ``unlearnable keygen --signing``, another one than that of the poison: the
            manifest is signed with it, so that all who have its public key can tell who published the set.

    Raises:
        LeakError: checks failed; nothing was sent. All leaks are named with their rows.
        TypeError, ValueError, KeyError: not a set that can be published.
        OSError: the Hub refused, or cannot be reached; call again to continue.
    """
    if not REPO.fullmatch(repo):
        raise UsageError(f"the repository is named as user/name, got {repo!r}")
    if gated not in (None, False, "auto", "manual"):
        raise UsageError(f'gated is "auto", "manual" or False, got {gated!r}')
    if show_originals and original is None:
        raise UsageError("show_originals= takes originals for the card's picture from original=: pass it")
    signer = None if signing_key is None else load_signing_key(signing_key)
    config = json.loads(json.dumps(poison.public_config()))
    if report is not None and not isinstance(report, Report):
        report = Report.load(os.fspath(report))
    if report is not None:
        rows_of_method(report, config)
    out = None if folder is None else Path(folder)
    if out is not None:
        _check_out(out, protected)
    findings = Findings()
    keys = keys_of(poison)
    _check_keys(keys, repo, findings)
    forms = key_forms([*keys, *([] if signer is None else [Key(signer.private_bytes_raw())])])
    api = HfApi()
    earlier = [] if out is not None or allow_history else earlier_files(api, repo)
    own, notes = _earlier_card(api, repo, revision, card, asked=out is None)
    with _staging(out) as place:
        upload = stage(protected, place, poison, findings, rename=rename, label=label, copy=out is not None)
        check_files(upload, forms, findings)
        if upload.features is not None:
            check_tables(upload, forms, keep, findings)
        coverage = find_coverage(upload, poison, ledger, original, label, findings)
        confirmation = UNVERIFIED if coverage is None else f"verified with {coverage.source}"
        if coverage is None and not allow_unverified:
            confirmation = _confirm(upload, poison, findings)
        check = PictureCheck(upload, config, coverage, findings)
        checked = check.run()
        check.judge(checked, allow_partial, originals_public)
        _refuse(findings)
        shown = picture_name(upload) if picture or show_originals else None
        if shown:
            originals = open_originals(original, poison, label, coverage) if show_originals else None
            (place / shown).write_bytes(draw(upload, originals, coverage))
        about = About(
            repo=repo,
            upload=upload,
            poison=poison,
            config=config,
            checked=checked,
            coverage=confirmation,
            originals_public=originals_public,
            licence=license or kept_text(own.metadata.get("license")),
            description=description,
            contact=own.contact if contact is None else contact,
            opt_out=opt_out,
            gated=gated,
            viewer=viewer,
            picture=shown,
            with_originals=show_originals,
            own=own,
        )
        text = make_card(about, report)
        (place / CARD).write_text(text, encoding="utf-8")
        files = sorted([*upload.files, *([shown] if shown else [])])
        manifest = {
            **make_manifest(upload, config, repo, checked, confirmation, opt_out),
            "originals_public": originals_public,
            "kept_columns": sorted(keep),
            "picture": {"file": shown, "originals": show_originals} if shown else None,
            "card": generated_digest(text),
            "contact": about.contact,
            "files": list_files(place, files),
        }
        write_croissant(make_croissant(manifest, words_of(about, report)), place)
        write_manifest(manifest, place, [*files, CARD, CROISSANT], poison.key, signer)
        _check_own(place, forms, findings)
        _check_history(earlier, place, repo, findings)
        _refuse(findings)
        _warn(originals_public, confirmation)
        result = Publication(repo, "", out, confirmation, checked, notes)
        if out is None:
            result.url = _send(api, place, repo, keys, private, gated, revision, create_pr)
        else:
            _remember(keys, repo)
            result.notes.append("earlier commits of the repository were not looked at: nothing was asked of the Hub")
            put_in_place(place, out)
        return result


def _refuse(findings: Findings) -> None:
    if leaks := findings.leaks():
        raise LeakError(leaks)


def _confirm(upload: Upload, poison: Poison, findings: Findings) -> str:
    """How far a sample says that the pictures are protected; noted as a finding if it does not."""
    try:
        return f"{UNVERIFIED}, but for {confirm(upload, poison)} pictures that fit method and key"
    except (TypeError, ValueError, NotFittedError, NoiseError) as error:
        findings.add(
            "not confirmed",
            f"no ledger knows these pictures, and they do not show that {poison!r} protected them: {error}",
            "publish what `protect` wrote, with its key and options; pass ledger= or original=; or, if you know "
            "that they are protected, allow_unverified=True",
        )
        return UNVERIFIED


def keys_of(poison: Poison) -> list[Key]:
    """All keys of a method, each once."""
    return list(dict.fromkeys(link.key for link in poison.links if link.key is not None))


# ---- keys and releases -----------------------------------------------------------------------------------------------


def _check_keys(keys: Sequence[Key], repo: str, findings: Findings) -> None:
    for key in keys:
        if key.is_public:
            remedy = "protect with a private key: Key.generate(), `unlearnable keygen`"
            findings.add("public key", f"the key {key.name} is known to everybody", remedy)
        before = _release_file(key)
        used = read_json(before, {"repository": str})["repository"] if before.exists() else repo
        if used != repo:
            remedy = f"protect with another key: key.derive({repo!r}), or a new one of `unlearnable keygen`"
            findings.add("key used before", f"the key {key.fingerprint} protects {used} already", remedy)


def _remember(keys: Sequence[Key], repo: str) -> None:
    for key in keys:
        with replacing(_release_file(key)) as temporary:
            temporary.write_text(json.dumps({"repository": repo}))


def _release_file(key: Key) -> Path:
    return private_directory("releases") / f"{key.fingerprint}.json"


# ---- the folder that goes up -----------------------------------------------------------------------------------------


def _check_out(out: Path, source: Any) -> None:
    if isinstance(source, str | os.PathLike):
        check_places(Path(source), out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not empty: name a new folder")
    if not out.resolve().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {out.resolve().parent} to make {out.name} in")


@contextmanager
def _staging(out: Path | None) -> Iterator[Path]:
    """A private folder that is gone afterwards, beside ``out`` where that is where it moves to."""
    parent = private_directory("uploads") if out is None else out.resolve().parent
    place = Path(tempfile.mkdtemp(prefix=".unlearnable-", dir=parent))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _check_own(place: Path, forms: Sequence[bytes], findings: Findings) -> None:
    check_texts({name: (place / name).read_text("utf-8") for name in (CARD, MANIFEST, CROISSANT)}, forms, findings)


def _earlier_card(
    api: HfApi, repo: str, revision: str | None, card: str | os.PathLike | None, *, asked: bool
) -> tuple[OwnPart, list[str]]:
    """What an owner wrote into an earlier card: the file given, or where the Hub is ``asked``, that of the repository;
    and what to tell about it."""
    earlier: dict[str, str] = {}
    if card is not None:
        earlier[CARD] = read_regular(card, MOST_JSON).decode("utf-8", "replace")
        beside = Path(card).with_name(MANIFEST)
        if beside.is_file():
            earlier[MANIFEST] = read_regular(beside, MOST_JSON).decode("utf-8", "replace")
    elif asked:
        for name in (CARD, MANIFEST):
            text = _fetch(api, repo, name, revision)
            if text is not None:
                earlier[name] = text
    if CARD not in earlier:
        return OwnPart(), []
    own, notes = own_part(earlier[CARD], published=MANIFEST in earlier), []
    said = _said(earlier.get(MANIFEST))
    own.contact = said.get("contact")
    if own.above or own.below:
        notes.append("the card keeps what was written above and below its generated part")
    if "card" in said and said["card"] != generated_digest(earlier[CARD]):
        notes.append("the generated part of the earlier card was edited by hand: it was written anew")
    return own, notes


def _fetch(api: HfApi, repo: str, name: str, revision: str | None) -> str | None:
    """A text of a repository, of a branch that is still to be made that of main; None where there is none."""
    with tempfile.TemporaryDirectory(dir=private_directory("uploads")) as scratch:
        try:
            path = api.hf_hub_download(repo, name, repo_type="dataset", revision=revision, local_dir=scratch)
        except RevisionNotFoundError:
            return None if revision is None else _fetch(api, repo, name, None)
        except LocalEntryNotFoundError:  # the Hub did not answer: what is there is not known
            raise
        except (EntryNotFoundError, RepositoryNotFoundError):
            return None
        return Path(path).read_text("utf-8", "replace")


def _said(manifest: str | None) -> dict[str, Any]:
    """An earlier manifest; empty where there is none, or it cannot be read."""
    try:
        return parse_json(manifest or "{}", {"card?": str, "contact?": (str, None)})
    except ValueError:
        return {}


def _warn(originals_public: bool | None, coverage: str) -> None:
    if originals_public is None:
        text = "whether the originals are public was not said: pass originals_public=. The card says so"
        warn(text, PublishWarning)
    if coverage.startswith(UNVERIFIED):
        text = "there is no ledger that knows these pictures, and no originals; pass ledger= or original="
        warn(f"{coverage}: {text}. The card says so", PublishWarning)


# ---- the Hub ---------------------------------------------------------------------------------------------------------


def earlier_files(api: HfApi, repo: str) -> list[tuple[str, RepoFile]]:
    """All data files of all commits that branches, tags and pull requests of a repository can reach."""
    try:
        refs = api.list_repo_refs(repo, repo_type="dataset", include_pull_requests=True)
    except RepositoryNotFoundError:
        return []
    names = [ref.name for ref in (*refs.branches, *refs.tags)] + [ref.ref for ref in refs.pull_requests or ()]
    commits = {
        commit.commit_id: None
        for name in names
        for commit in api.list_repo_commits(repo, repo_type="dataset", revision=name)
    }
    return [
        (commit, file)
        for commit in commits
        for file in api.list_repo_tree(repo, recursive=True, revision=commit, repo_type="dataset")
        if isinstance(file, RepoFile) and not _NO_DATA.fullmatch(file.path)
    ]


def _check_history(earlier: list[tuple[str, RepoFile]], place: Path, repo: str, findings: Findings) -> None:
    """Note data files of earlier commits that are not those of this upload: an unprotected version, perhaps."""
    same: dict[tuple[str, str], bool] = {}
    for commit, file in earlier:
        known = file.lfs.sha256 if file.lfs else file.blob_id
        if (file.path, known) not in same:
            mine = place / file.path
            same[file.path, known] = mine.is_file() and known in (checksum(mine), _git_name(mine))
        if not same[file.path, known]:
            findings.add(
                "earlier commit",
                f"the commit {commit[:7]} of {repo} holds other data files, which everybody can still fetch",
                f"delete them and run HfApi().super_squash_history({repo!r}, repo_type='dataset'), or take a new "
                "repository, or pass allow_history=True if they may stay",
                file.path,
            )


def _git_name(path: Path) -> str:
    """The name that git gives a file's content."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    digest.update(path.read_bytes())
    return digest.hexdigest()


def _send(
    api: HfApi,
    place: Path,
    repo: str,
    keys: Sequence[Key],
    private: bool | None,
    gated: Any,
    revision: str | None,
    create_pr: bool,
) -> str:
    """Make the repository what it is to be, and only then upload; in one commit, so that nothing is ever half there."""
    api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
    _remember(keys, repo)
    settings = {"gated": gated, "private": private}
    changes = {name: value for name, value in settings.items() if value is not None}
    if changes:
        api.update_repo_settings(repo, repo_type="dataset", **changes)
    if revision is not None and not revision.startswith("refs/"):
        api.create_branch(repo, branch=revision, repo_type="dataset", exist_ok=True)
    commit = api.upload_folder(
        folder_path=place,
        repo_id=repo,
        repo_type="dataset",
        revision=revision,
        create_pr=create_pr,
        delete_patterns="*",  # what lay there before is no part of this set
        commit_message="Protected data set",
    )
    there = {file.path for file in api.list_repo_tree(repo, recursive=True, revision=commit.oid, repo_type="dataset")}
    missing = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()} - there
    if missing:
        raise WorkError(f"the Hub did not take {sorted(missing)[:5]}: is there a .gitignore? Remove it and try again")
    return commit.pr_url or f"{api.endpoint}/datasets/{repo}"
