"""OPS: where the pixel goes in pictures of every size, the classes, what is refused, and what stays secret."""

import json
import pickle

import albumentations as A
import numpy as np
import pytest
from conftest import CLASSES, KEY, decode, encode, image_set, pixels
from model_free import IMAGES, LABELS
from model_free import make_ops as make
from PIL import Image

import unlearnable_transforms as ut
from unlearnable_transforms import Key, NotFittedError, OPSPoison, SampleError, UnchangedWarning
from unlearnable_transforms.adapters.albumentations import restore
from unlearnable_transforms.cli.main import main

SPOTS = {0: [(1, 2, 255, 0, 0)], 1: [(6, 4, 0, 0, 255)], 2: [(0, 0, 255, 255, 0)]}


def explicit(spots=SPOTS, grid=(7, 5), **arguments) -> OPSPoison:
    return OPSPoison(pixels=spots, grid=grid, **arguments)


# ---- where the pixel goes ----


def test_one_pixel_changes_and_all_else_stays():
    poison = make()
    protected = poison.apply(IMAGES, LABELS)
    expected = IMAGES.copy()
    spots = dict(poison.pixels)
    for image, label in zip(expected, LABELS, strict=True):
        ((row, column, *colour),) = spots[label]
        image[row, column] = colour
    assert (protected == expected).all()


def test_several_pixels():
    poison = make(sparsity=4)
    protected = poison.apply(IMAGES, LABELS)
    changed = (protected != IMAGES).any(3)
    assert changed.sum((1, 2)).max() == 4
    for image, label in zip(protected, LABELS, strict=True):
        for row, column, *colour in dict(poison.pixels)[label]:
            assert image[row, column].tolist() == colour


@pytest.mark.parametrize("grid", [(7, 5), (64, 64), (3, 9)])
@pytest.mark.parametrize("shape", [(7, 5), (21, 15), (64, 64), (200, 131), (7, 300), (300, 7), (1, 1), (2, 3)], ids=str)
@pytest.mark.parametrize("cell", [(0, 0), (1, 2), (-1, -1)])
def test_the_square_in_pictures_of_other_sizes(grid, shape, cell):
    """A square of the scale's side that covers the middle of the cell, as nearly as pixels allow, or lies inside."""
    row, column = (place % length for place, length in zip(cell, grid, strict=True))
    protected = explicit({0: [(row, column, 255, 0, 0)]}, grid)(100 + pixels(*shape, 3) % 50, 0)[0]
    rows, columns = np.nonzero((protected == [255, 0, 0]).all(2))
    scale = min(shape[0] / grid[0], shape[1] / grid[1])
    side = max(1, int(scale + 0.5))
    assert len(rows) == side**2
    for places, place, count, length in zip((rows, columns), (row, column), grid, shape, strict=True):
        assert places.max() - places.min() + 1 == side
        middle = (place + 0.5) * length / count
        inside = min(max(middle, side / 2), length - side / 2)
        assert abs((places.min() + places.max() + 1) / 2 - inside) <= 0.5
    if shape[0] * grid[1] == shape[1] * grid[0] and shape[0] % grid[0] == 0:
        assert (rows.min(), columns.min()) == (row * side, column * side)


def test_shrinking_gives_the_pixel_back():
    poison = explicit()
    large = pixels(3, 70, 50, 3)
    protected = poison.apply(large, [0, 1, 2])
    for label, image in enumerate(protected):
        small = np.asarray(Image.fromarray(image).resize((5, 7), Image.Resampling.BOX))
        ((row, column, *colour),) = SPOTS[label]
        assert small[row, column].tolist() == colour
        clean = np.asarray(Image.fromarray(large[label]).resize((5, 7), Image.Resampling.BOX))
        assert (small != clean).any(2).sum() == 1


def test_pictures_of_several_sizes_and_large_ones_share_a_grid_of_64():
    mixed = [Image.fromarray(pixels(20 + row, 90 - row, 3, seed=row)) for row in range(12)]
    poison = make((mixed, [0, 1, 2] * 4))
    assert poison.grid == (64, 64)
    for image, protected in zip(mixed, poison.apply(mixed, [0, 1, 2] * 4), strict=True):
        assert protected.size == image.size
        assert protected.tobytes() != image.tobytes()
    assert make((mixed[::-1], [2, 1, 0] * 4)) == poison
    assert make((pixels(6, 64, 64, 3), [0, 1] * 3)).grid == (64, 64)
    assert make((pixels(6, 16, 256, 3), [0, 1] * 3)).grid == (16, 256)
    assert make((pixels(6, 65, 64, 3), [0, 1] * 3)).grid == (64, 64)
    assert make((pixels(6, 16, 257, 3), [0, 1] * 3)).grid == (64, 64)
    assert make((pixels(6, 96, 96, 3), [0, 1] * 3)).grid == (64, 64)
    assert make((pixels(6, 96, 96, 3), [0, 1] * 3), work_size=96).grid == (96, 96)
    assert make(work_size=6).grid == (6, 6)


def test_a_colour_becomes_its_mean_in_a_grey_picture():
    poison = explicit()
    grey = pixels(3, 7, 5)
    protected = poison.apply(np.repeat(grey[..., None], 3, 3), [0, 1, 2])
    assert protected[[0, 1, 2], [1, 6, 0], [2, 4, 0]].tolist() == [[85] * 3, [85] * 3, [170] * 3]
    assert (poison.apply(grey, [0, 1, 2]) == protected[..., 0]).all()
    mixed = np.concatenate([pixels(3, 7, 5, 3), np.repeat(grey[1:2, ..., None], 3, 3)])
    protected = poison.apply(mixed, [0, 1, 2, 1])
    assert protected[0, 1, 2].tolist() == [255, 0, 0]
    assert protected[1, 6, 4].tolist() == [0, 0, 255]
    assert protected[3, 6, 4].tolist() == [85] * 3


# ---- classes ----


@pytest.mark.parametrize("count", [1, 200])
def test_one_class_and_two_hundred(count):
    images = pixels(400, 12, 10, 3)
    labels = [row % count for row in range(400)]
    poison = make((images, labels))
    protected = poison.apply(images, labels)
    assert ((protected != images).any(3).sum((1, 2)) <= 1).all()
    assert len({tuple(found[0]) for _, found in poison.pixels}) == count
    assert len(pickle.dumps(poison)) < 1000 + 60 * count


def test_more_classes_than_pixels_are_refused():
    grey = pixels(400, 8, 8, 1)
    with pytest.raises(ValueError, match="200 classes with 1 pixels each do not fit into 64 cells with 2 colours"):
        make((grey, list(range(200)) * 2))
    assert len(make((grey[:256], list(range(128)) * 2)).pixels) == 128
    with pytest.raises(ValueError, match="do not fit into 35 cells"):
        make(sparsity=36)


def test_names_numbers_and_the_class_list():
    names = [CLASSES[label] for label in LABELS]
    by_name = make((IMAGES, names), classes=CLASSES)
    assert make((IMAGES, LABELS), classes=CLASSES) == by_name
    assert [label for label, _ in by_name.pixels] == ["ant", "bee", "cat"]
    assert [found for _, found in by_name.pixels] == [found for _, found in make().pixels]
    assert (by_name.apply(IMAGES, names) == make().apply(IMAGES, LABELS)).all()
    with pytest.raises(SampleError, match=r"row 3: the label 'cow' is not in classes="):
        make((IMAGES[:4], ["ant", "bee", "cat", "cow"]), classes=CLASSES)


def test_classes_without_a_pixel_are_refused_by_name():
    poison = make((IMAGES, ["ant", "bee", "cat"] * 8))
    with pytest.raises(SampleError, match=r"rows 1, 2: the class 'dog' has no pixel.*\['ant', 'bee', 'cat'\]"):
        poison.apply(IMAGES[:3], ["cat", "dog", "dog"])
    assert (poison.apply(IMAGES[1:2], ["bee"]) == poison.apply(IMAGES, ["ant", "bee", "cat"] * 8)[1:2]).all()


def test_a_new_fit_replaces_the_old_one():
    poison = make()
    other = (pixels(12, 9, 9, 3, seed=5), ["x", "y"] * 6)
    assert poison.fit(other) == make(other)
    assert poison.grid == (9, 9)


def test_pictures_that_have_the_colour_already_are_named():
    poison = make()
    protected = poison.apply(IMAGES[:2], LABELS[:2])
    with pytest.warns(UnchangedWarning, match="rows 0, 1"):
        assert (poison.apply(protected, LABELS[:2]) == protected).all()


# ---- what is refused ----


def test_nothing_is_protected_before_the_fit():
    with pytest.raises(NotFittedError, match="fit"):
        OPSPoison(key=KEY).apply(IMAGES, LABELS)
    assert not pickle.loads(pickle.dumps(OPSPoison(key=KEY))).fitted


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({}, TypeError, "needs key="),
        ({"key": KEY, "sparsity": 0}, ValueError, "sparsity is a whole number from 1, got 0"),
        ({"key": KEY, "work_size": 0}, ValueError, "work_size is a whole number from 1, got 0"),
        ({"pixels": SPOTS}, TypeError, "grid"),
        ({"key": KEY, "grid": (7, 5)}, TypeError, "grid"),
        ({"pixels": SPOTS, "grid": (7, 5), "data": (IMAGES, LABELS)}, TypeError, "give one"),
        ({"pixels": {}, "grid": (7, 5)}, ValueError, "empty"),
        ({"pixels": {0: [(7, 0, 0, 0, 0)]}, "grid": (7, 5)}, ValueError, "outside the grid"),
        ({"pixels": {0: [(0, 5, 0, 0, 0)]}, "grid": (7, 5)}, ValueError, "outside the grid"),
        ({"pixels": {0: [(0, 0, 0, 256, 0)]}, "grid": (7, 5)}, ValueError, "outside"),
        ({"pixels": {0: [(0, 0, 0, -1, 0)]}, "grid": (7, 5)}, ValueError, "outside"),
        ({"pixels": {0: [(0, 0, 0.5, 1, 0)]}, "grid": (7, 5)}, ValueError, "whole"),
        ({"pixels": {0: [(0, 0, 0)]}, "grid": (7, 5)}, ValueError, "whole"),
        ({"pixels": [(0, SPOTS[0]), (0, SPOTS[1])], "grid": (7, 5)}, ValueError, "twice"),
        ({"pixels": {0: SPOTS[0], 1: SPOTS[0] * 2}, "grid": (7, 5)}, ValueError, "the same number"),
        ({"pixels": "secret pixels of 3 classes", "grid": (7, 5)}, TypeError, "fit again"),
    ],
)
def test_bad_arguments(arguments, kind, message):
    with pytest.raises(kind, match=message):
        OPSPoison(**arguments)


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (lambda: image_set([encode(IMAGES[0])], [0]).to_iterable_dataset(), TypeError, "streaming"),
        (lambda: (IMAGES.astype(np.float32), LABELS), TypeError, "uint8"),
        (lambda: (IMAGES, LABELS[:3]), SampleError, "24 images came with 3 labels"),
        (lambda: (IMAGES, [-1, *LABELS[1:]]), SampleError, "row 0"),
        (lambda: (IMAGES[:0], []), SampleError, "empty"),
        (lambda: ([Image.new("I;16", (8, 8))], [0]), SampleError, "row 0"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(data, kind, message):
    with pytest.raises(kind, match=message):
        make(data())
    with pytest.raises(TypeError, match="OPSPoison needs key="):
        explicit().fit((IMAGES, LABELS))


# ---- state and secrets ----


def test_a_fitted_poison_is_its_arguments():
    poison = make()
    for again in (
        pickle.loads(pickle.dumps(poison)),
        OPSPoison(key=KEY, pixels=dict(poison.pixels), grid=poison.grid),
        OPSPoison(key=KEY, pixels=poison.pixels[::-1], grid=list(poison.grid)),
        OPSPoison(key=KEY, pixels={n: np.array(spots) for n, spots in poison.pixels}, grid=np.array(poison.grid)),
    ):
        assert again == poison == make()
        assert (again.apply(IMAGES, LABELS) == poison.apply(IMAGES, LABELS)).all()
    assert len(pickle.dumps(poison)) < 700
    assert poison != OPSPoison(key=KEY)
    assert poison != make((255 - IMAGES, LABELS))
    assert isinstance(poison, ut.get_poison("ops"))


def test_pixels_are_in_nothing_that_may_be_published(tmp_path, monkeypatch):
    key = Key.generate()
    spots = {0: [(11, 22, 33, 44, 55)], 1: [(10, 20, 30, 40, 50)]}
    poison = OPSPoison(key=key, pixels=spots, grid=(64, 64))
    op = ut.albumentations.Protect(poison)
    shown = [repr(poison), json.dumps(poison.public_config(fitted=True)), json.dumps(A.to_dict(op)), repr(op)]
    digest = poison.public_state()["pixels"].rpartition(", ")[2]
    for text in shown:
        assert "33" not in text.replace(key.fingerprint, "").replace(digest, "")
        assert "secret pixels of 2 classes" in text
    other = OPSPoison(key=key, pixels={**spots, 1: [(10, 20, 30, 40, 51)]}, grid=(64, 64))
    assert other.public_config(fitted=True) != poison.public_config(fitted=True)  # a resumed run must not mix the two
    assert other.public_config() == poison.public_config()  # one method, fitted twice
    assert "secret pixels of 3 classes" in repr(explicit())
    monkeypatch.setenv("UNLEARNABLE_KEY_FILE", str(key.save(tmp_path / "my.key")))
    with pytest.raises(TypeError, match="fit again"):
        restore(poison.public_config(fitted=True))
    unfitted = OPSPoison(key=key, sparsity=2)
    assert restore(unfitted.public_config()) == unfitted


# ---- the command line ----


@pytest.mark.parametrize("method", ["ops", "lsp"])
def test_protect_fits_first(tmp_path, capsys, method):
    Key.public("folder").save(tmp_path / "my.key")
    for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        (tmp_path / "clean" / CLASSES[label]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "clean" / CLASSES[label] / f"{number:02}.png").write_bytes(encode(image))
    command = ["protect", str(tmp_path / "clean"), str(tmp_path / "out"), "--key", str(tmp_path / "my.key")]
    assert main([*command, "--method", method]) == 0
    poison = ut.get_poison(method)(key=Key.public("folder"), data=(IMAGES, LABELS))
    for number, (image, label) in enumerate(zip(poison.apply(IMAGES, LABELS), LABELS, strict=True)):
        written = decode((tmp_path / "out" / CLASSES[label] / f"{number:02}.png").read_bytes())
        assert (np.asarray(written) == image).all()
    assert main(["fit", str(tmp_path / "clean"), "--key", str(tmp_path / "my.key"), "--method", method]) == 2
    assert "unlearnable protect" in capsys.readouterr().err
