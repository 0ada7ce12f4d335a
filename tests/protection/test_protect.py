"""Whole data sets: the same columns, protected pictures, a ledger that tells which."""

import os
import stat
from pathlib import Path

import datasets
import numpy as np
import pytest
from conftest import stored
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage

import unlearnable_transforms as ut
from unlearnable_transforms.data.image import encode_png
from unlearnable_transforms.jobs.ledger import read_ledger
from unlearnable_transforms.poisons.base import UnchangedWarning
from unlearnable_transforms.protection.protect import protect_source
from unlearnable_transforms.sample import sample_id

ROWS = 12
FEATURES = Features({"image": Image(), "label": ClassLabel(names=["a", "b", "c"]), "note": Value("string")})


def pictures(count: int = ROWS) -> list[np.ndarray]:
    generator = np.random.default_rng(3)
    return [generator.integers(0, 256, (16 + row % 3, 20, 3), dtype=np.uint8) for row in range(count)]


def make(images: list[np.ndarray], labels: list[int]) -> Dataset:
    columns = {
        "image": [encode_png(PILImage.fromarray(image)) for image in images],
        "label": labels,
        "note": [f"row {row}" for row in range(len(images))],
    }
    return Dataset.from_dict(columns, features=FEATURES)


@pytest.fixture
def data() -> Dataset:
    return make(pictures(), [row % 3 for row in range(ROWS)])


@pytest.fixture
def poison() -> ut.CUDAPoison:
    return ut.CUDAPoison(key=ut.Key.public("protect"))


def arrays(data: Dataset) -> list[np.ndarray]:
    return [np.asarray(image) for image in data["image"]]


def test_same_bytes_as_map_and_same_columns(data, poison, ledger):
    protected = ut.protect(data, poison, ledger=ledger)
    assert protected.features == data.features
    assert protected.column_names == data.column_names
    assert stored(protected) == stored(data.map(poison, batched=True))
    assert [protected[name] for name in ("label", "note")] == [data[name] for name in ("label", "note")]


def test_the_ledger_knows_every_row_and_is_private(data, poison, ledger):
    protected = ut.protect(data, poison, ledger=ledger)
    table = read_ledger(ledger)
    assert stat.S_IMODE(ledger.stat().st_mode) == 0o600
    assert table["row"].to_pylist() == list(range(ROWS))
    assert table["class_token"].to_pylist() == [f"i:{row % 3}" for row in range(ROWS)]
    assert table["status"].to_pylist() == ["protected"] * ROWS
    tokens = table["class_token"].to_pylist()
    assert table["clean_id"].to_pylist() == [sample_id(a, t) for a, t in zip(arrays(data), tokens, strict=True)]
    after = arrays(protected)
    assert table["protected_id"].to_pylist() == [sample_id(a, t) for a, t in zip(after, tokens, strict=True)]
    assert all(note > 255 for note in table["unlock_note"].to_pylist())  # the maximum, before it was divided away
    assert poison.key.fingerprint.encode() not in ledger.read_bytes()


def test_the_ledger_lies_in_the_cache_by_default(data, poison, tmp_path, monkeypatch):
    monkeypatch.setenv("UNLEARNABLE_TRANSFORMS_CACHE", str(tmp_path / "cache"))
    ut.protect(data, poison)
    (path,) = (tmp_path / "cache" / "ledgers").iterdir()
    assert len(read_ledger(path)) == ROWS
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_ledger_takes_the_place_of_no_other_file(data, poison, ledger):
    ut.protect(data, poison, ledger=ledger)
    before = ledger.read_bytes()
    ut.protect(data, poison, ledger=ledger)  # of the same images
    assert list(ledger.parent.glob("ledger*")) == [ledger]
    other = make(pictures(15)[12:], [0, 1, 2])
    with pytest.warns(UserWarning, match="had images that this run does not have"):
        ut.protect(other, poison, ledger=ledger)
    assert ledger.with_name(f"{ledger.name}.1").read_bytes() == before
    whole = ut.protect(data, poison, ledger=ledger.with_name("part"))
    with pytest.warns(UserWarning, match="had images that this run does not have"):
        ut.protect(data.select(range(3)), poison, ledger=ledger.with_name("part"))
    assert len(read_ledger(ledger.with_name("part.1"))) == len(whole)
    key = poison.key.save(ledger.with_name("my.key"))
    with pytest.raises(ValueError, match="is not a ledger"):
        ut.protect(other, poison, ledger=key)
    assert ut.Key.load(key) == poison.key


def test_what_map_keeps_lies_in_a_private_folder(data, poison, ledger, tmp_path):
    data.save_to_disk(tmp_path / "saved")
    before = set((tmp_path / "saved").rglob("*"))
    protected = ut.protect(datasets.load_from_disk(tmp_path / "saved"), poison, ledger=ledger)
    ut.unlock(protected, poison, ledger)
    assert set((tmp_path / "saved").rglob("*")) == before
    for cached in protected.cache_files:
        path = Path(cached["filename"])
        assert path.is_relative_to(os.environ["UNLEARNABLE_TRANSFORMS_CACHE"])
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_same_call_gives_a_set_of_the_same_fingerprint(data, poison, ledger):
    first, second = (ut.protect(data, poison, ledger=ledger) for _ in range(2))
    assert first._fingerprint == second._fingerprint
    assert stored(first) == stored(second)


def test_what_is_protected_already_is_refused(data, poison):
    once = ut.protect(data, poison)
    with pytest.raises(ValueError, match="row 0 is protected already"):
        ut.protect(once, poison)
    assert len(ut.protect(data, poison)) == len(data)  # the clean set may be protected again


def test_one_protected_image_among_clean_ones_is_named(data, poison, tmp_path):
    once = ut.protect(data, poison)
    images = pictures(45)
    images[7] = arrays(once)[7]  # not among those by which a protected set is recognised
    mixed = make(images, [row % 3 for row in range(45)])
    with pytest.warns(UserWarning, match=r"^row 7: protected already, .*protected twice"):
        ut.protect(mixed, poison)
    for row, image in enumerate(images):
        (tmp_path / "album" / "abc"[row % 3]).mkdir(parents=True, exist_ok=True)
        PILImage.fromarray(image).save(tmp_path / "album" / "abc"[row % 3] / f"{row:02d}.png")
    summary = protect_source(tmp_path / "album", tmp_path / "out", poison)
    assert any(note.startswith("b/07.png: protected already") for note in summary.notes)


def test_two_processes_give_the_same(data, poison, ledger):
    assert stored(ut.protect(data, poison, num_proc=2, ledger=ledger)) == stored(data.map(poison))
    assert read_ledger(ledger)["row"].to_pylist() == list(range(ROWS))


def test_a_dict_of_splits_gets_its_training_splits_protected(data, poison, ledger):
    protected = ut.protect(DatasetDict(train=data, test=data), poison, ledger=ledger)
    assert stored(protected["train"]) != stored(data)
    assert stored(protected["test"]) == stored(data)
    assert set(read_ledger(ledger)["split"].to_pylist()) == {"train"}


@pytest.mark.parametrize("name", ["test", "everything"])
def test_a_dict_without_training_data_is_refused(data, poison, name):
    with pytest.raises(ValueError, match="training data"):
        ut.protect(DatasetDict({name: data}), poison)


def test_a_fraction_is_chosen_by_key_and_pixels_and_encoded_alike(data, poison, ledger):
    with pytest.warns(UserWarning, match=r"85.6 %"):
        protected = ut.protect(data, poison, 0.5, ledger=ledger)
    status = read_ledger(ledger)["status"].to_pylist()
    assert {"protected", "left"} == set(status)
    whole, clean = arrays(ut.protect(data, poison, ledger=ledger)), arrays(data)
    for row, image in enumerate(arrays(protected)):
        assert np.array_equal(image, whole[row] if status[row] == "protected" else clean[row])
    assert all(row["bytes"][:8] == b"\x89PNG\r\n\x1a\n" for row in stored(protected))
    backwards = data.select(range(ROWS - 1, -1, -1))
    with pytest.warns(UserWarning, match="protected"):
        ut.protect(backwards, poison, 0.5, ledger=ledger)
    assert read_ledger(ledger)["status"].to_pylist() == status[::-1]  # positions do not matter


@pytest.mark.parametrize("fraction", [0, -0.1, 1.1])
def test_a_fraction_outside_its_range_is_refused(data, poison, fraction):
    with pytest.raises(ValueError, match="fraction"):
        ut.protect(data, poison, fraction)


def test_a_format_comes_back(data, poison, ledger):
    protected = ut.protect(data.with_format("torch", columns=["image", "label"]), poison, ledger=ledger)
    assert protected.format["type"] == "torch"
    assert isinstance(protected.features["image"], Image)
    assert stored(protected.with_format(None)) == stored(data.map(poison))


def test_rows_are_named_by_their_place_in_the_whole_data_set(poison):
    images = pictures(600)
    labels = [row % 3 for row in range(600)]
    with pytest.raises(ut.SampleError, match=r"rows 7, 555: .*unlabelled") as caught:
        ut.protect(make(images, [-1 if row in (7, 555) else label for row, label in enumerate(labels)]), poison)
    assert caught.value.rows == (7, 555)
    broken = make(images, labels).cast_column("image", Image(decode=False)).to_dict()
    broken["image"][555]["bytes"] = b"no picture"
    with pytest.raises(ut.SampleError, match=r"row 555: .*not a picture") as caught:
        ut.protect(Dataset.from_dict(broken, features=FEATURES), poison)
    assert caught.value.rows == (555,)


def test_unchanged_pictures_are_named_and_in_the_ledger(poison, ledger):
    images = pictures()
    images[4] = np.zeros_like(images[4])
    with pytest.warns(UnchangedWarning, match="row 4"):
        ut.protect(make(images, [0] * ROWS), poison, ledger=ledger)
    assert [row for row, status in enumerate(read_ledger(ledger)["status"].to_pylist()) if status == "unchanged"] == [4]


def test_a_second_image_column_is_refused_unless_kept(data, poison, ledger):
    twice = data.add_column("thumbnail", stored(data)).cast_column("thumbnail", Image())
    with pytest.raises(ValueError, match=r"\['thumbnail'\]"):
        ut.protect(twice, poison, ledger=ledger)
    assert ut.protect(twice, poison, keep=["thumbnail"], ledger=ledger).column_names == twice.column_names


def test_other_kinds_of_data_are_refused_with_the_remedy(data, poison):
    with pytest.raises(TypeError, match=r"ds.map"):
        ut.protect(data.to_iterable_dataset(), poison)
    with pytest.raises(TypeError, match="ProtectedDataset"):
        ut.protect([1, 2, 3], poison)
