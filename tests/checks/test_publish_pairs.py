"""Pairs of a protected picture and its clean twin: what is found, and what is no pair."""

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
from conftest import SHARED, decode, image_set, pixels
from folders import photograph
from publications import FEATURES, ROWS, key, pictures, publish, shrunk

import unlearnable_transforms as ut
from unlearnable_transforms.checks.leaks import LeakError
from unlearnable_transforms.checks.pairs import MOST_LEFT, ReducedImages, compare, find_pairs


def test_a_filter_and_noise_are_seen_through_and_other_pictures_are_not():
    clean = photograph(3, 32, 32)
    filtered = ut.CUDAPoison(key=key())(clean, 1)[0]
    noisy = np.clip(clean + np.random.default_rng(0).choice([-8, 8], clean.shape), 0, 255).astype(np.uint8)
    left, explained = compare(clean, np.stack([clean, filtered, noisy, photograph(4, 32, 32)]))
    assert (left[:2] < 1).all()
    assert 50 < left[2] < 64.1
    assert (explained[:3] > 0.9).all()
    assert left[3] > 3 * MOST_LEFT


def test_small_and_plain_pictures_are_no_pairs():
    reduced = ReducedImages()
    for number in range(4):
        reduced.add(np.full((32, 32, 3), 40 * number, np.uint8))
    assert list(find_pairs(reduced, np.arange(2), np.arange(2, 4))) == []
    tiny = ReducedImages()
    for _ in range(2):
        tiny.add(pixels(8, 8, 3))
    assert list(find_pairs(tiny, np.arange(1), np.arange(1, 2))) == []


def test_one_tiny_picture_does_not_hide_the_others():
    reduced, clean = ReducedImages(), pictures(3, first=1)
    reduced.add(pixels(9, 9, 3))
    for picture in [*clean, *(shrunk(picture) for picture in clean)]:
        reduced.add(picture)
    assert dict(find_pairs(reduced, np.array([0, 4, 5, 6]), np.array([1, 2, 3]))) == {4: 1, 5: 2, 6: 3}


@pytest.mark.parametrize("name", ["cifar10", "clothing"])
def test_pairs_of_real_pictures(name):
    """All twins are found although they were shrunk and went through JPEG; of the test split nothing else is."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"the data set {name} is not at {path.parent}")
    count = 200 if name == "cifar10" else 25

    def read(split):
        table = pq.read_table(path / f"{split}-00000-of-00001.parquet").slice(0, count)
        labels = table["label"].to_pylist()
        return [np.asarray(decode(row["bytes"]).convert("RGB")) for row in table["image"].to_pylist()], labels

    (train, labels), (test, _) = read("train"), read("test")
    reduced = ReducedImages()
    for picture in ut.CUDAPoison(key=key()).apply([PIL.Image.fromarray(picture) for picture in train], labels):
        reduced.add(np.asarray(picture))
    for picture in [*test, *(shrunk(picture, 1.0 if name == "cifar10" else 0.6) for picture in train)]:
        reduced.add(picture)
    found = dict(find_pairs(reduced, np.arange(count, 3 * count), np.arange(count)))
    assert found == {2 * count + number: number for number in range(count)}


def test_a_row_left_clean_whose_copy_is_protected_is_a_pair(tmp_path):
    images = [*pictures(ROWS, first=1), *(shrunk(picture) for picture in pictures(ROWS, first=1))]
    labels = [row % 3 for row in range(ROWS)] * 2
    with pytest.warns(UserWarning, match="only 50%"):
        half = ut.protect(image_set(images, labels, FEATURES), ut.CUDAPoison(key=key()), fraction=0.5)
    with pytest.raises(LeakError) as caught:
        publish(half, tmp_path / "out", allow_partial=True)
    (leak,) = caught.value.leaks
    changed = [bool((np.array(row["image"]) != image).any()) for row, image in zip(half, images, strict=True)]
    expected = {row for row in range(2 * ROWS) if not changed[row] and changed[(row + ROWS) % (2 * ROWS)]}
    assert leak.check == "pair"
    assert expected
    assert {place[1] for place in leak.places} <= expected
    assert len(leak.places) >= len(expected) - 1
