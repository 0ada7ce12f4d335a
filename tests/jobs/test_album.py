"""An album over the years: images come, go, get other names, and are protected once."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import encode, pixels
from folders import make_folder, tree
from PIL import Image

import unlearnable_transforms as ut
from unlearnable_transforms.jobs.ledger import read_ledger
from unlearnable_transforms.protection.protect import Protect, protect_source


@pytest.fixture
def source(tmp_path) -> Path:
    return make_folder(tmp_path / "source")


@pytest.fixture
def album(source, out, poison) -> Path:
    """The protected album of the test's source."""
    protect_source(source, out, poison)
    return out


@pytest.fixture
def written(monkeypatch) -> list[str]:
    """The files that runs write from here on."""
    names, write = [], Protect._write
    monkeypatch.setattr(Protect, "_write", lambda self, unit: names.append(unit.target) or write(self, unit))
    return names


def add(source: Path, count: int, seed: int = 500) -> list[str]:
    """New images in the class cat."""
    names = [f"cat/new{number}.png" for number in range(count)]
    for number, name in enumerate(names):
        (source / name).write_bytes(encode(pixels(9, 8, 3, seed=seed + number)))
    return names


def test_twenty_come_three_get_other_names_and_two_go(source, album, poison, written):
    before = tree(album)
    new = add(source, 20)
    (source / "cat" / "0000.jpg").rename(source / "cat" / "holiday.jpg")
    (source / "dog" / "0002.jpg").rename(source / "dog" / "0002b.jpg")
    (source / "ant" / "0004.png").rename(source / "ant" / "beach.png")
    for gone in ("cat/0003.png", "dog/0005.png"):
        (source / gone).unlink()
    summary = protect_source(source, album, poison)
    assert sorted(written) == sorted(new)
    assert summary.changes == [
        "since the last run: 20 new, 3 renamed, 2 gone from the source, the protected file stays, 7 as they were",
        "  renamed: ant/beach.png (was ant/0004.png), cat/holiday.jpg (was cat/0000.jpg), "
        "dog/0002b.jpg (was dog/0002.jpg)",
        "  gone from the source, the protected file stays: cat/0003.png, dog/0005.png",
    ]
    after = tree(album)
    names = {"cat/0000.png": "cat/holiday.png", "dog/0002.png": "dog/0002b.png", "ant/0004.png": "ant/beach.png"}
    assert {names.get(name, name): data for name, data in before.items()} == {
        name: data for name, data in after.items() if name not in new
    }
    ids = read_ledger(summary.ledger)["protected_id"].to_pylist()
    assert len(ids) == len(set(ids)) == len(after) == 32
    assert protect_source(source, album, poison).changes[0].endswith("the protected file stays, 30 as they were")


def test_files_of_images_that_are_gone_are_removed_on_request_unless_somebody_changed_them(source, album, poison):
    shutil.rmtree(source / "dog")
    (album / "dog" / "0005.png").write_bytes(b"mine")
    summary = protect_source(source, album, poison, remove_gone=True)
    assert sorted(path.name for path in (album / "dog").iterdir()) == ["0005.png"]
    assert "1 gone from the source, the protected file stays, 3 gone from the source, the" in summary.changes[0]
    assert len(read_ledger(summary.ledger)) == 9  # one file a row
    (album / "dog" / "0005.png").unlink()
    assert protect_source(source, album, poison).changes == ["since the last run: 8 as they were"]


def test_an_image_that_comes_back_is_protected_as_before(source, album, poison):
    before, image = tree(album), (source / "cat" / "0003.png").read_bytes()
    (source / "cat" / "0003.png").unlink()
    protect_source(source, album, poison, remove_gone=True)
    assert "cat/0003.png" not in tree(album)
    (source / "cat" / "0003.png").write_bytes(image)
    summary = protect_source(source, album, poison)
    assert summary.changes == ["since the last run: 1 new, 11 as they were"]
    assert tree(album) == before
    assert len(read_ledger(summary.ledger)) == 12


def test_copied_again_edited_and_damaged_images(source, album, poison, written):
    before = tree(album)
    os.utime(source / "cat" / "0000.jpg", (1, 1))
    (source / "cat" / "0003.png").write_bytes(encode(pixels(9, 8, 3, seed=3)))
    (album / "dog" / "0002.png").write_bytes(b"?")
    summary = protect_source(source, album, poison)
    assert sorted(written) == ["cat/0003.png", "dog/0002.png"]
    assert summary.changes == [
        "since the last run: 1 edited and protected again, 1 missing or damaged in the output and made again, "
        "10 as they were",
        "  edited and protected again: cat/0003.png",
        "  missing or damaged in the output and made again: dog/0002.jpg",
    ]
    assert {name for name, data in tree(album).items() if before[name] != data} == {"cat/0003.png"}


def test_names_that_go_in_a_circle(source, album, poison):
    """a becomes b, b becomes c: each output has the content of its source, made of the same bytes."""
    folder = source / "cat"
    before = tree(album)
    (folder / "0006.png").rename(folder / "c.png")
    (folder / "0003.png").rename(folder / "0006.png")
    protect_source(source, album, poison)
    after = tree(album)
    assert after["cat/c.png"] == before["cat/0006.png"]
    assert after["cat/0006.png"] == before["cat/0003.png"]
    assert "cat/0003.png" not in after


def test_an_image_of_another_secret_class_is_no_renamed_one(source, out, key):
    """With one class a folder that stands in for labels, the path decides the class: the old noise would be wrong."""
    poison = ut.CUDAPoison(key=key)
    protect_source(source, out, poison, labels="folder")
    (source / "cat" / "0003.png").rename(source / "dog" / "moved.png")
    protect_source(source, out, poison, labels="folder")
    assert not (out / "cat" / "0003.png").exists()
    (fresh := out.with_name("fresh")).mkdir()
    protect_source(source, fresh, poison, labels="folder")
    assert (fresh / "dog" / "moved.png").read_bytes() == (out / "dog" / "moved.png").read_bytes()


def test_renamed_under_noise_that_was_fitted(source, out, key):
    protect_source(source, out, ut.PILPoison(key=key))
    before = tree(out)
    (source / "cat" / "0003.png").rename(source / "cat" / "z.png")
    summary = protect_source(source, out, ut.PILPoison(key=key))
    assert summary.changes[0] == "since the last run: 1 renamed, 11 as they were"
    assert tree(out)["cat/z.png"] == before["cat/0003.png"]


def test_a_folder_that_is_there_and_empty_may_be_a_disk_that_is_not_mounted(source, album, poison):
    """What it held stays, whatever the options; what is gone with its folder goes."""
    before = tree(album)
    for path in (source / "dog").iterdir():
        path.unlink()
    shutil.rmtree(source / "ant")
    with pytest.warns(ut.UnlearnableWarning, match=r"dog: empty in .*not mounted"):
        summary = protect_source(source, album, poison, remove_gone=True)
    assert tree(album) == {name: data for name, data in before.items() if not name.startswith("ant/")}
    assert "4 gone from the source, the protected file stays, 4 gone from the source, the" in summary.changes[0]


def test_an_image_that_no_table_names_any_more_is_not_gone(tmp_path, out, poison):
    source = make_folder(tmp_path / "in", 4, classes=("img",))
    names = sorted(tree(source))
    (source / "train.csv").write_text("image,class\n" + "".join(f"{name},a\n" for name in names))
    protect_source(source, out, poison)
    before = tree(out)
    (source / "train.csv").write_text("image,class\n" + "".join(f"{name},a\n" for name in names[1:]))
    summary = protect_source(source, out, poison, remove_gone=True)
    assert summary.changes == ["since the last run: 3 as they were"]
    assert [name for name, _ in summary.left_out] == names[:1]
    assert {name for name in before if name not in tree(out)} == set()


@pytest.mark.parametrize("first", [False, True])
def test_a_table_with_classes_that_comes_or_goes_is_refused(source, out, poison, first):
    """Else a spreadsheet laid into the album would protect all images anew, in the classes of one of its columns."""
    rows = "".join(f"{name},{'good' if number % 2 else 'bad'}\n" for number, name in enumerate(sorted(tree(source))))
    table = source / "rating.csv"
    if first:
        table.write_text("file,stars\n" + rows)
    protect_source(source, out, poison)
    before = tree(out)
    if first:
        table.unlink()
    else:
        table.write_text("file,stars\n" + rows)
    with pytest.raises(ut.UnlearnableError, match="class column of a table"):
        protect_source(source, out, poison)
    assert tree(out) == before


def test_an_image_that_moves_into_a_kept_split_is_not_said_to_be_protected(tmp_path, out, poison):
    make_folder(tmp_path / "in" / "train")
    make_folder(tmp_path / "in" / "test", 3)
    protect_source(tmp_path / "in", out, poison, keep_splits=["test"])
    (tmp_path / "in" / "train" / "cat" / "0003.png").rename(tmp_path / "in" / "test" / "cat" / "0003.png")
    summary = protect_source(tmp_path / "in", out, poison, keep_splits=["test"])
    assert "1 in another class or split, written again, the old file removed" in summary.changes[0]
    assert summary.counts == {"protected": 11, "kept": 4}


def test_a_link_out_of_the_output_is_not_followed_to_remove_something(source, album, poison, tmp_path):
    shutil.move(album / "dog", tmp_path / "elsewhere")
    (album / "dog").symlink_to(tmp_path / "elsewhere")
    shutil.rmtree(source / "dog")
    protect_source(source, album, poison, remove_gone=True)
    assert len(tree(tmp_path / "elsewhere")) == 4


@pytest.mark.parametrize("other", [False, True])
def test_what_is_protected_already_is_refused_whatever_the_key(album, tmp_path, poison, other):
    again = ut.CUDAPoison(key=ut.Key.public("other")) if other else poison
    with pytest.raises(ValueError, match=r"protected already.*with unlock"):
        protect_source(album, tmp_path / "twice", again)
    assert not (tmp_path / "twice").exists()


def test_an_album_under_a_derived_key(source, tmp_path, key):
    """Each album of a master key has filters and a ledger of its own; the master finds neither as its own."""
    albums = [protect_source(source, tmp_path / name, ut.CUDAPoison(key=key.derive(name))) for name in ("a", "b")]
    assert [summary.key for summary in albums] == ["public:tests/a", "public:tests/b"]
    assert len({summary.ledger for summary in albums}) == 2
    assert not np.array_equal(*(np.asarray(Image.open(tmp_path / name / "cat" / "0000.png")) for name in ("a", "b")))
    again = protect_source(source, tmp_path / "a", ut.CUDAPoison(key=key.derive("a")))
    assert again.changes == ["since the last run: 12 as they were"]
    with pytest.raises(ValueError, match=r"another key, of fingerprint .*--derive"):
        protect_source(source, tmp_path / "a", ut.CUDAPoison(key=key))
