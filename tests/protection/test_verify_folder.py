"""`unlearnable verify` of a folder that protect wrote: whole, or what is missing, added, changed, unprotected."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import encode, image_set, pixels
from folders import make_folder, tree
from PIL import Image

import unlearnable_transforms as ut
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.protection.protect import protect_source
from unlearnable_transforms.protection.verify_folder import verify_folder


@pytest.fixture
def source(tmp_path) -> Path:
    return make_folder(tmp_path / "source")


@pytest.fixture
def ledger(source, out, poison, tmp_path) -> Path:
    """The ledger of the protected folder ``out``, beside the key."""
    return Path(protect_source(source, out, poison, ledger=tmp_path / "ledger.parquet").ledger)


def wrong(verdict) -> dict[str, list[str]]:
    names = ("missing", "changed", "added", "unprotected", "renamed", "saved_anew", "others")
    return {name: getattr(verdict, name) for name in names if getattr(verdict, name)}


@pytest.fixture(params=["journal", "ledger"])
def by(request, ledger, no_ledgers):
    """How a folder is compared: with what lies in the cache, or with a ledger alone."""
    if request.param == "ledger":
        no_ledgers()
    return ledger if request.param == "ledger" else None


def test_a_folder_is_whole_also_where_it_was_moved_or_copied(out, by, tmp_path, key):
    for place in (out, tmp_path / "copy", tmp_path / "moved"):
        if place.name == "copy":
            shutil.copytree(out, place)
        elif place.name == "moved":
            out.rename(place)
        verdict = verify_folder(place, key, by)
        assert (verdict.is_whole, verdict.exit_code, verdict.whole, verdict.key) == (True, 0, 12, "fits")
        assert wrong(verdict) == {}


def test_what_is_wrong_is_named(source, out, by):
    (out / "ant" / "0001.png").unlink()
    shutil.copy(source / "cat" / "0003.png", out / "cat" / "0003.png")  # the original
    Image.fromarray(pixels(9, 9, 3)).save(out / "cat" / "new.png")
    with Image.open(out / "dog" / "0002.png") as image:
        image.save(out / "dog" / "0002.jpg", quality=75)  # as a site does it
    (out / "dog" / "0002.png").unlink()
    (out / "notes.txt").write_text("mine")
    verdict = verify_folder(out, ledger=by)
    assert verdict.exit_code == 1
    assert verdict.whole == 9
    expected = {"unprotected": ["cat/0003.png"], "others": ["notes.txt"]}
    if by is None:  # names are known
        expected |= {"missing": ["ant/0001.png"], "changed": ["dog/0002.jpg"], "added": ["cat/new.png"]}
    else:
        expected |= {"added": ["cat/new.png", "dog/0002.jpg"]}
    assert wrong(verdict) == expected
    assert verdict.missing_rows == (0 if by is None else 3)  # a ledger has no names
    text = "\n".join(verdict.lines())
    assert text.startswith("NOT WHOLE: 9 images")
    assert "UNPROTECTED, the clean originals: take them out before anybody sees them (1):\n  cat/0003.png" in text


def test_a_file_that_was_saved_anew_with_loss_is_changed_and_without_loss_is_whole(out, ledger):
    lossy, lossless = out / "cat" / "0003.png", out / "dog" / "0005.png"
    Image.fromarray(np.asarray(Image.open(lossy)) ^ 1).save(lossy)
    Image.open(lossless).save(lossless, compress_level=9, optimize=True)
    verdict = verify_folder(out)
    assert wrong(verdict) == {"changed": ["cat/0003.png"], "saved_anew": ["dog/0005.png"]}
    assert any("saved anew by a site" in line for line in verdict.lines())


def test_a_copy_that_a_site_saved_anew_is_recognised_by_its_names_and_said_to_differ(out, ledger, tmp_path):
    for path in sorted(out.rglob("*.png")):
        copy = (tmp_path / "downloaded" / path.relative_to(out)).with_suffix(".jpg")
        copy.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(copy, quality=75)
    verdict = verify_folder(tmp_path / "downloaded")
    assert verdict.exit_code == 1
    assert len(verdict.changed) == 12
    assert list(wrong(verdict)) == ["changed"]


def test_other_names_and_copies_are_no_loss(out, ledger):
    (out / "cat" / "0003.png").rename(out / "best.png")
    shutil.copy(out / "dog" / "0005.png", out / "ant" / "again.png")
    verdict = verify_folder(out)
    assert verdict.is_whole
    assert wrong(verdict) == {"renamed": [("best.png", "cat/0003.png")]}
    assert verdict.whole == 13


@pytest.mark.filterwarnings("ignore:only")
def test_images_that_were_left_clean_are_counted(source, out, poison):
    (source / "cat" / "black.png").write_bytes(encode(np.zeros((9, 9, 3), np.uint8)))
    counts = protect_source(source, out, poison, fraction=0.5).counts
    verdict = verify_folder(out)
    assert verdict.is_whole
    assert verdict.statuses == {name: count for name, count in counts.items() if name != "protected"}


def test_parquet_is_compared_file_by_file_or_row_by_row(out, poison, tmp_path, no_ledgers):
    rows = [encode(pixels(9, 9, 3, seed=number)) for number in range(4)]
    image_set(rows, [0, 1, 0, 1]).to_parquet(tmp_path / "rows.parquet")
    ledger = protect_source(tmp_path / "rows.parquet", out, poison, ledger=tmp_path / "ledger.parquet").ledger
    assert (verify_folder(out).kind, verify_folder(out).whole) == ("files", 1)
    no_ledgers()
    assert verify_folder(out, ledger=ledger).whole == 4
    (written,) = out.iterdir()
    shutil.copy(tmp_path / "rows.parquet", written)
    assert verify_folder(out, ledger=ledger).unprotected == [f"train row {row}" for row in range(4)]


def test_the_command_finds_a_ledger_beside_the_key_and_says_whether_the_key_fits(
    source, out, key_file, tmp_path, no_ledgers, capsys
):
    poison = ut.CUDAPoison(key=ut.Key.load(key_file))
    protect_source(source, out, poison, ledger=key_file.with_name("kept.parquet"))
    no_ledgers()
    assert main(["verify", str(out), "--key", str(key_file)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("WHOLE: all 12 images")
    assert "the key fits" in said
    assert "kept.parquet" in said
    ut.Key.public("another").save(tmp_path / "other.key")
    assert main(["verify", str(out), "--key", str(tmp_path / "other.key")]) == 3
    assert "does NOT fit" in capsys.readouterr().out
    next(out.rglob("*.png")).unlink()
    assert main(["verify", str(out), "--key", str(key_file)]) == 1
    assert "missing: 1 images" in capsys.readouterr().out


def test_what_nobody_knows_is_an_error_that_names_the_next_step(tmp_path, capsys):
    assert main(["verify", str(make_folder(tmp_path / "stranger"))]) == 2
    assert "--ledger" in capsys.readouterr().err


def test_a_messy_year(source, out, poison):
    """protect, grow, rename, remove, protect again: whole after each run, and each old image as it was."""
    protect_source(source, out, poison)
    first = tree(out)
    assert verify_folder(out).is_whole
    for number in range(20):
        (source / "cat" / f"new{number}.png").write_bytes(encode(pixels(9, 8, 3, seed=600 + number)))
    names = {"cat/0000.png": "cat/x.png", "dog/0002.png": "dog/y.png", "ant/0001.png": "ant/z.png"}
    for old, new in names.items():
        (source / old).with_suffix(".jpg").rename((source / new).with_suffix(".jpg"))
    for gone in ("cat/0003.png", "dog/0005.png"):
        (source / gone).unlink()
    protect_source(source, out, poison, remove_gone=True)
    verdict = verify_folder(out)
    assert verdict.is_whole
    assert verdict.whole == 30
    after = tree(out)
    kept = {names.get(name, name): data for name, data in first.items() if name not in ("cat/0003.png", "dog/0005.png")}
    assert {name: after[name] for name in kept} == kept
    os.utime(source / "cat" / "x.jpg", (1, 1))
    protect_source(source, out, poison)
    assert tree(out) == after
    assert verify_folder(out).is_whole
