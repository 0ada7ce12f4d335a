"""Splits by their names: whole words only."""

import datasets
import pytest
from conftest import encode, image_set, pixels

import unlearnable_transforms as ut
from unlearnable_transforms.data.splits import is_train_split, leading_split, split_words

TRAINING = ["train", "Training", "TRAIN", "train_extra", "train-00000-of-00002", "train2017", "train[:50%]", "trainval"]
HELD_OUT = ["test", "testing", "test-A", "test.clean.100", "val2017", "validation_matched", "dev", "eval", "holdout"]
UNCLEAR = ["validated", "valentines", "devices", "testimonials", "valley", "evaluated_by_hand", "developers"]
UNCLEAR += ["trains", "strain", "unsupervised", "all", "extra_train", "", "2017", "contest", "latest"]


def test_the_first_word_decides():
    assert all(map(is_train_split, TRAINING))
    assert not any(map(is_train_split, HELD_OUT))
    assert is_train_split(datasets.Split.TRAIN)
    assert [leading_split(name) for name in ("Train_2", "mnist_train")] == ["train", ""]


@pytest.mark.parametrize("name", UNCLEAR)
def test_names_that_only_look_like_a_split_are_refused(name):
    with pytest.raises(ValueError, match=f"is the split '{name}' training data.*Name it train"):
        is_train_split(name)


def test_files_may_name_the_split_anywhere():
    assert split_words("mnist_train-00000-of-00001") == ["train"]
    assert split_words("devices_train_test") == ["train", "test"]
    assert split_words("contest.latest") == []


@pytest.mark.parametrize("name", UNCLEAR[:4])
def test_no_door_leaves_such_a_split_clean(name, poison):
    data = image_set([encode(pixels(8, 8, 3))], [0])
    splits = datasets.DatasetDict({"train": data, name: data})
    for door in (
        lambda: ut.protect(splits, poison),
        lambda: splits.map(poison, with_split=True),
        lambda: splits.map(poison, with_split=True, batched=True),
        lambda: poison(data[0], name),
    ):
        with pytest.raises(ValueError, match="training data"):
            door()
