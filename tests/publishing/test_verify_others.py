"""`verify` of a set of somebody else: whatever its manifest says, only files of the set are opened."""

import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from publications import clean_set, key, publish

import unlearnable_transforms as ut
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.publishing.manifest import verify

TABLE = "data/train-00000-of-00001.parquet"


@pytest.fixture
def published(tmp_path) -> Path:
    return publish(ut.protect(clean_set(), ut.CUDAPoison(key=key())), tmp_path / "out").folder


def edit(folder: Path, **change) -> None:
    path = folder / "protection.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


FILE = {"bytes": 1, "sha256": ""}
WRONG = {
    "a file is a number": {"files": {TABLE: 5}},
    "files in a list": {"files": [TABLE]},
    "the number of pictures in words": {"protected_ids": {"count": "x", "sha256": ""}},
    "a truth value for a number": {"protected_ids": {"count": True, "sha256": ""}},
    "a release with escape sequences": {"release": "\x1b[2J\x1b]0;x\x07"},
    "a release that is a number": {"release": 7},
    "a fingerprint with escape sequences": {"key_fingerprint": "\x1b[2J"},
    "no splits": {"splits": None},
    "a split without files": {"splits": {"train": {"protected": True}}},
    "an absolute path": {"files": {TABLE: FILE, "/etc/passwd": FILE}},
    "a path that leads out": {"files": {TABLE: FILE, "../x": FILE}},
    "a path with a NUL": {"files": {TABLE: FILE, "a\0b": FILE}},
    "a split of files elsewhere": {"splits": {"train": {"protected": True, "files": ["/dev/zero"]}}},
    "classes that are numbers": {"classes": [1, 2]},
    "columns in a list": {"columns": ["image", "label"]},
    "a format in words": {"format": "one"},
    "a coverage that is none": {"coverage": []},
    "arguments in a list": {"arguments": [1]},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_manifest_of_wrong_types_is_damaged(published, name, capsys):
    edit(published, **WRONG[name])
    assert main(["verify", str(published)]) == 2
    shown = capsys.readouterr()
    assert "protection.json is damaged" in shown.err
    assert "\x1b" not in shown.err + shown.out


@pytest.mark.parametrize("text", ["[" * 200_000, "[]", "", "\0" * 100, '{"format": 1, "format": 1}', "5" * 5000])
def test_a_manifest_that_is_none(published, text, capsys):
    (published / "protection.json").write_text(text)
    assert main(["verify", str(published)]) == 2
    assert "protection.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("inner", [{"links": []}, {"links": 5}, {"links": [{"arguments": None}]}, {"classes": 5}])
def test_arguments_that_make_no_sense(published, inner):
    edit(published, arguments=inner)
    pq.write_table(pq.read_table(published / TABLE), published / TABLE, compression="gzip")
    assert verify(published).same_pictures is False


def test_what_a_manifest_says_is_shown_as_text(published, capsys):
    evil = "\x1b[2J\u202e"
    files = json.loads((published / "protection.json").read_text())["files"]
    edit(published, files={**files, f"{evil}.png": FILE}, method=evil, coverage=evil)
    (published / f"{evil}.txt").touch()
    assert main(["verify", str(published)]) == 1
    shown = capsys.readouterr().out
    assert r"missing: \x1b[2J\u202e.png" in shown
    assert r"added: \x1b[2J\u202e.txt" in shown
    assert not {"\x1b", "\u202e"} & set(shown)


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices are POSIX")
@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "link to a device", "link to the same bytes", "huge"])
@pytest.mark.parametrize("name", [TABLE, "README.md", "more.txt"])
def test_only_files_of_the_set_are_opened(tmp_path, published, kind, name):
    (published / "more.txt").touch()
    (published / name).rename(tmp_path / "bytes")
    os.mkfifo(tmp_path / "pipe")
    if kind == "pipe":
        os.mkfifo(published / name)
    elif kind == "huge":
        with (published / name).open("wb") as file:
            file.truncate(1 << 42)  # no bytes on the disk
    else:
        (published / name).symlink_to("/dev/zero" if kind.endswith("device") else tmp_path / kind.split()[-1])
    verdict = verify(published)
    assert (verdict.added if name == "more.txt" else verdict.changed) == [name]
    assert verdict.same_pictures is (False if name == TABLE else None)


@pytest.mark.skipif(os.name != "posix", reason="links need no rights on POSIX only")
def test_a_set_in_the_hubs_cache_is_as_it_was_published(tmp_path, published):
    """There the files are links to blobs beside the snapshots."""
    snapshot, blobs = tmp_path / "cache/snapshots/0a1b", tmp_path / "cache/blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(path for path in published.rglob("*") if path.is_file()):
        place = snapshot / path.relative_to(published)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, blobs / str(number))
        place.symlink_to(os.path.relpath(blobs / str(number), place.parent))
    assert verify(snapshot).exit_code == 0
