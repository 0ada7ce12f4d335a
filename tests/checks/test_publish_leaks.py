"""Every way to leak that docs/publish.md lists is planted (planted.py) and caught, with its place; nothing is sent."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, encode
from folders import save_key
from loopback import loopback
from planted import PLANTS, protected, with_test
from planted_after import AFTER
from publications import CLASSES, ROWS, clean_set, key, pictures, protected_folder, publish

import unlearnable_transforms as ut
from unlearnable_transforms.checks.leaks import LeakError, name_places
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.jobs.journal import open_journal


@pytest.mark.parametrize("name", PLANTS)
def test_it_is_caught_and_nothing_is_written(tmp_path, name):
    check, make = PLANTS[name]
    planted = make(tmp_path)
    with pytest.raises(LeakError) as caught:
        publish(planted.source, tmp_path / "out", **planted.options)
    found = {leak.check: leak for leak in caught.value.leaks}
    assert check in found, caught.value
    assert planted.where in name_places(found[check].places)
    assert check in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".unlearnable-*"))


@pytest.mark.parametrize("kind", ["rows", "splits", "folder", "jpeg"])
def test_a_set_without_leaks_passes_all_checks(tmp_path, kind):
    source: Any = protected()
    if kind == "splits":
        source = with_test(source, pictures(3, first=50))
    elif kind == "folder":
        source = protected_folder(tmp_path)
    elif kind == "jpeg":
        source = protected_folder(tmp_path, "--format", "jpeg")
    assert publish(
        source, tmp_path / "out", original=clean_set(6) if kind in ("folder", "jpeg") else None
    ).coverage == ("verified with the ledger")


def test_the_docs_list_what_is_planted():
    text = (ROOT / "docs" / "publish.md").read_text()
    rows = dict(re.findall(r"^\| (.+?) \| `(.+?)` \|$", text, re.M))
    here = {name: check for name, (check, _) in [*PLANTS.items(), *AFTER.items()]}
    assert len(here) > 60
    assert rows == {**here, "an earlier commit of the repository with other data files": "earlier commit"}


def test_names_of_others_are_shown_as_text(tmp_path):
    """In a message they begin no line and steer no terminal."""
    folder = protected_folder(tmp_path)
    (folder / "ant" / "evil\n- all is well\x1b[2J.txt").write_text("x")
    with pytest.raises(LeakError, match=r"evil\\n- all is well\\x1b\[2J\.txt"):
        publish(folder, tmp_path / "out")


# ---- what is no leak, or no set


def test_grey_and_colour_photographs_are_encoded_alike(tmp_path):
    for number, picture in enumerate(pictures(6)):
        path = tmp_path / "photos" / CLASSES[number % 2] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture if number % 3 else picture[..., 0]))
    save_key(tmp_path / "my.key")
    fixed = ["--key", str(tmp_path / "my.key"), "--workers", "1", "--format", "jpeg"]
    assert main(["protect", str(tmp_path / "photos"), str(tmp_path / "protected"), *fixed]) == 0
    assert publish(tmp_path / "protected", tmp_path / "out").checked.counts == {"protected": 6}


def test_a_licence_goes_up_if_it_is_text(tmp_path):
    folder = protected_folder(tmp_path)
    (folder / "LICENSE.md").write_text("Ask https://example.org/ first")
    assert publish(folder, tmp_path / "out").folder
    assert (tmp_path / "out" / "LICENSE.md").read_text() == "Ask https://example.org/ first"
    (folder / "LICENSE.md").write_bytes(b"ID3\0a recording")
    with pytest.raises(LeakError, match=r"stray file: LICENSE\.md"):
        publish(folder, tmp_path / "other")


@pytest.mark.parametrize(
    "names",
    [["train-00000-of-00002"], ["train-00001-of-00001"], ["train-00000-of-00001", "train-00000-of-00002"],
     ["train-00000-of-00001", "data/train-00000-of-00001"], ["train-00000-of-00001", "test-00001-of-00002"]],
    ids=str,
)  # fmt: skip
def test_tables_of_which_some_are_missing_or_left_over(tmp_path, names):
    (tmp_path / "tables" / "data").mkdir(parents=True)
    for name in names:
        protected().to_parquet(str(tmp_path / "tables" / f"{name}.parquet"))
    with pytest.raises(ValueError, match="some are missing, or of another run"):
        publish(tmp_path / "tables", tmp_path / "out")


def test_all_tables_have_the_same_columns(tmp_path):
    (tmp_path / "tables").mkdir()
    protected().to_parquet(str(tmp_path / "tables" / "train-00000-of-00002.parquet"))
    protected().add_column("more", [1] * ROWS).to_parquet(str(tmp_path / "tables" / "train-00001-of-00002.parquet"))
    with pytest.raises(ValueError, match=r"train-00001-of-00002\.parquet has other columns"):
        publish(tmp_path / "tables", tmp_path / "out")


def test_a_file_whose_note_was_cut_off_counts_as_missing(tmp_path):
    folder = protected_folder(tmp_path)
    with open_journal(folder) as journal:
        done = journal.directory / "done.jsonl"
    done.write_bytes(done.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"has not finished in .*, 1 files are missing"):
        publish(folder, tmp_path / "out")


def test_what_is_published_is_never_written_to(tmp_path, monkeypatch):
    """Files are linked, not copied, where they go up: nothing may be written through the link."""
    folder = protected_folder(tmp_path)
    (folder / "metadata.csv").write_text("file_name,n\nant/000.png,1\n")
    (folder / "README.md").write_text("mine")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with loopback(monkeypatch):
        ut.publish(folder, "user/name", poison=ut.CUDAPoison(key=key()), originals_public=False)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not list(Path(os.environ["UNLEARNABLE_TRANSFORMS_CACHE"], "uploads").iterdir())
