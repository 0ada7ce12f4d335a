"""The card's picture: protected images alone, unless originals are asked for by name; never taken for data."""

import io

import numpy as np
import pytest
from datasets import load_dataset
from folders import tree
from PIL import Image
from planted import forget_ledgers
from publications import ROWS, clean_set, key, pictures, protected_folder, publish

import unlearnable_transforms as ut
from unlearnable_transforms.data.open import open_data


def tiles(folder, name: str = ".card.webp") -> list[np.ndarray]:
    """The middle of each tile of a picture."""
    sheet = np.asarray(Image.open(io.BytesIO((folder / name).read_bytes())).convert("RGB"), float)
    step = 168
    places = [(top, left) for top in range(0, sheet.shape[0], step) for left in range(0, sheet.shape[1], step)]
    return [sheet[top + 20 : top + 140, left + 20 : left + 140] for top, left in places]


def enlarged(image: np.ndarray) -> np.ndarray:
    small = Image.fromarray(image)
    size = (160, round(small.height * 160 / small.width))
    large = np.asarray(small.resize(size, Image.Resampling.NEAREST), float)
    top = (160 - size[1]) // 2
    return large[20 - top : 140 - top, 20:140]


def test_it_shows_protected_images(tmp_path):
    data = ut.protect(clean_set(), ut.CUDAPoison(key=key()))
    shown = tiles(publish(data, tmp_path / "out").folder)
    assert len(shown) == 8
    rows = [row * ROWS // 8 for row in range(8)]
    for row, tile in zip(rows, shown, strict=True):
        assert np.array_equal(tile, enlarged(np.asarray(data[row]["image"])))
        assert not np.array_equal(tile, enlarged(pictures()[row]))


def test_originals_stand_above_if_they_are_asked_for(tmp_path):
    data = ut.protect(clean_set(), ut.CUDAPoison(key=key()))
    out = publish(data, tmp_path / "out", original=clean_set(), show_originals=True).folder
    shown = tiles(out)
    rows = [row * ROWS // 8 for row in range(4)]
    for place, row in enumerate(rows):
        assert np.array_equal(shown[place], enlarged(pictures()[row]))
        assert np.array_equal(shown[place + 4], enlarged(np.asarray(data[row]["image"])))
    with pytest.raises(ValueError, match="show_originals= takes originals for the card's picture from original="):
        publish(data, tmp_path / "other", show_originals=True)


def test_originals_without_a_ledger(tmp_path):
    data = ut.protect(clean_set(), ut.CUDAPoison(key=key()))
    forget_ledgers()
    publish(data, tmp_path / "out", original=clean_set(), show_originals=True)
    assert np.array_equal(tiles(tmp_path / "out")[0], enlarged(pictures()[0]))


@pytest.mark.parametrize(("format", "name"), [("png", ".card.webp"), ("webp", ".card.png")])
def test_a_loader_does_not_take_it_for_an_image_of_the_set(tmp_path, format, name):
    folder = publish(protected_folder(tmp_path, "--format", format), tmp_path / "out").folder
    assert (folder / name).exists()
    assert len(load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))) == 6


def test_images_of_several_shapes(tmp_path):
    from conftest import encode, image_set

    shapes = [(40, 200), (300, 200), (50, 50), (1, 40)]
    random = np.random.default_rng(0)
    images = [encode(random.integers(0, 256, (*shape, 3), np.uint8)) for shape in shapes]
    images.append(encode(random.integers(0, 256, (30, 30), np.uint8)))
    data = ut.protect(image_set(images, [0, 1, 0, 1, 0]), ut.CUDAPoison(key=key(), kernel_size=3))
    out = publish(data, tmp_path / "out", ut.CUDAPoison(key=key(), kernel_size=3), rename=True).folder
    assert Image.open(out / ".card.webp").size == (664, 328)


def test_a_published_folder_can_be_read_and_published_again(tmp_path):
    """By the library's own reader, too: the picture is none of its images."""
    tables = publish(ut.protect(clean_set(), ut.CUDAPoison(key=key())), tmp_path / "tables").folder
    files = publish(protected_folder(tmp_path), tmp_path / "files").folder
    for folder, count in ((tables, ROWS), (files, 6)):
        assert len(open_data(folder).splits["train"]) == count
        again = publish(folder, tmp_path / f"again {count}").folder
        assert tree(again) == tree(folder)
