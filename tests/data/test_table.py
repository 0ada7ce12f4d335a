"""Tables: what is refused where splits or files do not fit together, and saved sets of others."""

import json
import os
from pathlib import Path

import pytest
from conftest import encode, pixels
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image

import unlearnable_transforms as ut
from unlearnable_transforms.data.open import open_data


def rows(names: str = "ab") -> Dataset:
    features = Features({"image": Image(), "label": ClassLabel(names=list(names))})
    images = [{"bytes": encode(pixels(5, 5, 3, seed=row)), "path": None} for row in range(2)]
    return Dataset.from_dict({"image": images, "label": [0, 1]}, features)


def test_a_number_is_the_same_class_in_every_split(poison):
    with pytest.raises(ValueError, match=r"split 'train_extra' .*class 0 is 'b', in the first split or file 'a'"):
        ut.protect(DatasetDict(train=rows("ab"), train_extra=rows("ba")), poison)
    open_data(DatasetDict(train=rows("abc"), test=rows("ab")))


def test_a_number_is_the_same_class_in_every_file(tmp_path):
    for number, names in enumerate(("ab", "ba")):
        rows(names).to_parquet(tmp_path / f"train-{number}.parquet")
    with pytest.raises(ValueError, match=r"train-1\.parquet: class 0 is 'b'"):
        open_data(tmp_path)


def test_a_split_without_a_column_is_named(poison):
    with pytest.raises(ValueError, match="split 'train_extra' of data has no column 'image'"):
        ut.protect(DatasetDict(train=rows(), train_extra=rows().remove_columns("image")), poison)
    with pytest.raises(KeyError, match=r"the label column.*\['image'\]"):
        ut.protect(DatasetDict(train=rows(), train_extra=rows().remove_columns("label")), poison)
    assert len(ut.protect(DatasetDict(train=rows(), test=rows().remove_columns("label")), poison)["test"]) == 2


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: pipe(root / "train/state.json"), "no regular file"),
        (lambda root: pipe(next((root / "train").glob("*.arrow"))), "no regular file"),
        (lambda root: pipe(root / "dataset_dict.json"), "no regular file"),
        (lambda root: (root / "train/state.json").write_text("[" * 100_000), "too deep"),
        (lambda root: (root / "train/state.json").write_text("{}"), "damaged"),
        (lambda root: (root / "train/dataset_info.json").write_text("[]"), "damaged"),
        (lambda root: (root / "train/dataset_info.json").write_text('{"features": 5}'), "cannot be read"),
        (lambda root: (root / "dataset_dict.json").write_text('{"splits": ["train/../../other"]}'), "damaged"),
        (lambda root: next((root / "train").glob("*.arrow")).write_bytes(b"junk" * 9), "cannot be read"),
    ],
)
def test_saved_sets_of_others_are_not_trusted(tmp_path, damage, message):
    DatasetDict(train=rows()).save_to_disk(tmp_path / "saved")
    damage(tmp_path / "saved")
    with pytest.raises((ValueError, OSError), match=message):
        open_data(tmp_path / "saved")


def test_a_saved_set_reads_no_file_outside(tmp_path):
    rows().save_to_disk(tmp_path / "saved")
    state = json.loads((tmp_path / "saved/state.json").read_text())
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    arrow.rename(tmp_path / arrow.name)
    for name in (str(tmp_path / arrow.name), f"../{arrow.name}"):
        state["_data_files"] = [{"filename": name}]
        (tmp_path / "saved/state.json").write_text(json.dumps(state))
        with pytest.raises(ValueError, match="damaged"):
            open_data(tmp_path / "saved")
