"""OPS: the search against its definition, where the pixel goes in pictures of every size, and what stays secret."""

import json
import pickle
import tracemalloc

import albumentations as A
import numpy as np
import pytest
import torch
from conftest import CLASSES, KEY, decode, encode, image_set, pixels
from PIL import Image
from torchvision.transforms import v2

import unlearnable_transforms as ut
from unlearnable_transforms import Chain, CUDAPoison, Key, NotFittedError, OPSPoison, SampleError, UnchangedWarning
from unlearnable_transforms.adapters.albumentations import restore
from unlearnable_transforms.cli.main import main

IMAGES = pixels(24, 7, 5, 3)
LABELS = [0, 2, 1] * 8
SPOTS = {0: [(1, 2, 255, 0, 0)], 1: [(6, 4, 0, 0, 255)], 2: [(0, 0, 255, 255, 0)]}


def make(data=(IMAGES, LABELS), **arguments) -> OPSPoison:
    return OPSPoison(**{"key": KEY, "data": data, **arguments})


def explicit(spots=SPOTS, grid=(7, 5), **arguments) -> OPSPoison:
    return OPSPoison(pixels=spots, grid=grid, **arguments)


def written_out(images: np.ndarray, labels, sparsity: int = 1) -> dict:
    """The search as it is defined: every class, pixel and colour one by one, in float64. (B, H, W, 3) -> pixels."""
    taken, found = set(), {}
    for label in sorted(set(labels), key=lambda label: f"i:{label}"):
        x = images[np.array(labels) == label].astype(np.float64)
        scores = []
        for row, column in np.ndindex(*images.shape[1:3]):
            for colour in np.ndindex(2, 2, 2):
                change = np.abs(255 * np.array(colour) - x[:, row, column])
                score = change.mean() / change.std()
                if (row, column, colour) not in taken:
                    scores.append((score, row, column, colour))
        found[label], places = [], set()
        for _, row, column, colour in sorted(scores, reverse=True):
            if (row, column) not in places and len(places) < sparsity:
                places.add((row, column))
                taken.add((row, column, colour))
                found[label].append([row, column, *(255 * np.array(colour)).tolist()])
    return found


# ---- the search ----


@pytest.mark.parametrize("sparsity", [1, 3])
@pytest.mark.parametrize(
    ("shape", "classes"),
    [((40, 7, 5), 4), ((40, 5, 7), 4), ((60, 3, 2), 12), ((9, 1, 9), 3), ((80, 4, 4), 20), ((600, 2, 3), 2)],
)
def test_finds_what_the_definition_says(shape, classes, sparsity):
    images = pixels(*shape, 3, seed=shape[1])
    images[..., 0] //= 2
    labels = [number % classes for number in range(shape[0])]
    poison = make((images, labels), sparsity=sparsity)
    assert dict(poison.pixels) == written_out(images, labels, sparsity)
    assert poison.grid == shape[1:]


def test_a_pixel_with_its_colour_belongs_to_one_class():
    """All classes have the same pictures: all would choose the same."""
    images, labels = np.repeat(pixels(10, 3, 2, 3), 12, 0), list(range(12)) * 10
    spots = [tuple(spot) for _, found in make((images, labels)).pixels for spot in found]
    assert len(set(spots)) == 12
    assert len({spot[:2] for spot in spots}) < 12  # in other colours a pixel may come back


def test_pixels_of_one_class_differ():
    for _, found in make(sparsity=35).pixels:
        assert len({tuple(spot[:2]) for spot in found}) == 35


def test_where_nothing_varies_the_score_is_finite_and_the_key_chooses():
    images = pixels(30, 8, 8, 3)
    images[:, :, [0, 7]] = 0  # a black border on two sides
    choices = set()
    for number in range(12):
        with np.errstate(all="raise"):
            poison = make((images, [0, 1, 2] * 10), key=Key.public(f"border {number}"))
        for _, ((_, column, *colour),) in poison.pixels:
            assert column in (0, 7)
            assert colour == [255, 255, 255]
        choices.add(json.dumps(poison.pixels))
    assert len(choices) == 12
    again = make((images, [0, 1, 2] * 10), key=Key.public("border 11"))
    assert json.dumps(again.pixels) in choices


def test_the_same_choice_everywhere():
    """Golden: of the library's first version with this method."""
    images = np.arange(6 * 9 * 11 * 3).reshape(6, 9, 11, 3).astype(np.uint8)
    images[:, 5:] = 0
    spots = {label: found[0] for label, found in make((images, ["a", "b", "c"] * 2)).pixels}
    assert spots == {"a": [8, 6, 255, 255, 255], "b": [8, 8, 255, 255, 255], "c": [7, 8, 255, 255, 255]}


def test_pixels_that_would_change_nothing_are_not_chosen():
    black = np.zeros((4, 1, 1, 1), np.uint8)
    assert make((black, [0] * 4)).pixels == [[0, [[0, 0, 255, 255, 255]]]]
    with pytest.raises(ValueError, match="no 1 pixels are left that change pictures of class 1"):
        make((black, [0, 1] * 2))


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_pictures(value):
    images = np.full((30, 8, 8, 3), value, np.uint8)
    images[:, 0, 0] = [value, value, 255 - value]  # not grey
    protected = make((images, [0, 1, 2] * 10)).apply(images, [0, 1, 2] * 10)
    assert ((protected != images).any(3).sum((1, 2)) == 1).all()


def test_every_container_order_and_batch_finds_the_same(monkeypatch):
    truth = make()
    order = np.random.default_rng(0).permutation(24)
    turned = [LABELS[row] for row in order]
    pictures = list(map(Image.fromarray, IMAGES))
    tensors = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    alpha = np.concatenate([IMAGES, pixels(24, 7, 5, 1)], 3)
    sources = [
        (IMAGES[order], turned),
        (IMAGES[::-1], LABELS[::-1]),
        (alpha, np.array(LABELS)),
        (tensors, torch.tensor(LABELS)),
        (tensors.contiguous(), LABELS),
        (pictures, LABELS),
        list(zip(pictures, LABELS, strict=True)),
        image_set([encode(image) for image in IMAGES], LABELS),
        image_set([encode(image) for image in IMAGES], LABELS).shuffle(seed=3),
    ]
    for source in sources:
        assert make(source) == truth
    for chunk in (1, 2, 5):
        monkeypatch.setattr("unlearnable_transforms.poisons.ops.chunk_length", lambda values, chunk=chunk: chunk)
        monkeypatch.setattr("unlearnable_transforms.poisons.ops.EXACT", chunk)
        assert make() == make(sources[6]) == truth


def test_sums_are_exact_over_many_white_pictures():
    images = np.full((700, 2, 2, 3), 255, np.uint8)
    images[:, 0, 0] = pixels(700, 3)
    poison = make((images, [0] * 700), sparsity=3)
    assert sorted(spot[:2] for spot in poison.pixels[0][1]) == [[0, 1], [1, 0], [1, 1]]
    assert all(spot[2:] == [0, 0, 0] for spot in poison.pixels[0][1])


def test_memory_does_not_grow_with_the_data():
    class Endless:
        def __init__(self, length):
            self.length = length

        def __len__(self):
            return self.length

        def __getitem__(self, row):
            return pixels(40, 40, 3, seed=row), row % 2

    peaks = []
    for length in (600, 600, 2400):  # the first one fills caches
        tracemalloc.start()
        make(Endless(length))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.2 * peaks[1]


# ---- grey ----


def test_where_pictures_are_grey_colours_are_black_or_white():
    grey = np.repeat(pixels(12, 6, 6, 1), 3, 3)
    one = np.concatenate([pixels(11, 6, 6, 3), grey[:1]])
    plain = [[0] * 3, [255] * 3]
    assert not all(spot[2:] in plain for _, (spot,) in make((one[:9], [0, 1, 2] * 3)).pixels)
    for data in (grey, grey[..., :1], one, one[::-1], list(map(Image.fromarray, [grey[0, ..., 0], *one[:11]]))):
        assert all(spot[2:] in plain for _, (spot,) in make((data, [0, 1, 2] * 4)).pixels)
    assert make((grey, [0, 1, 2] * 4)) == make((grey[..., 0], [0, 1, 2] * 4))


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


def test_the_grid_of_large_pictures_is_learnt_from_what_a_trainer_sees():
    """A plain patch in all pictures of a class is found through the resize."""
    images = pixels(20, 128, 128, 3)
    images[::2, 40:44, 60:64] = 3
    poison = make((images, [0, 1] * 10))
    ((row, column, *colour),) = dict(poison.pixels)[0]
    assert (20 <= row < 22, 30 <= column < 32, colour) == (True, True, [255] * 3)
    assert (poison.apply(images, [0, 1] * 10)[0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] == 255).all()


def test_transform_comes_first():
    small = v2.Resize((7, 5))
    data = [(Image.fromarray(image), label) for image, label in zip(pixels(24, 40, 30, 3), LABELS, strict=True)]
    shrunk = [(small(image), label) for image, label in data]
    truth = OPSPoison(key=KEY).fit(shrunk)
    assert OPSPoison(key=KEY).fit(data, transform=small) == truth
    large = torch.from_numpy(pixels(24, 40, 30, 3)).permute(0, 3, 1, 2)
    resized = OPSPoison(key=KEY).fit((large, LABELS), transform=small)
    assert resized == OPSPoison(key=KEY).fit((small(large), LABELS))
    assert resized.grid == truth.grid == (7, 5)


def test_in_a_chain_it_learns_from_what_the_link_before_makes():
    cuda = CUDAPoison(key=KEY)
    chain = Chain([cuda, OPSPoison(key=KEY)], data=(IMAGES, LABELS))
    alone = make((cuda.apply(IMAGES, LABELS), LABELS))
    assert chain.links[1].pixels == alone.pixels != make().pixels
    assert (chain.apply(IMAGES, LABELS) == alone.apply(cuda.apply(IMAGES, LABELS), LABELS)).all()
    assert pickle.loads(pickle.dumps(chain)) == chain


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
        ({"key": KEY, "sparsity": 0}, ValueError, "at least 1"),
        ({"key": KEY, "work_size": 0}, ValueError, "at least 1"),
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
    with pytest.raises(TypeError, match="a fit needs a key"):
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
    shown = [repr(poison), json.dumps(poison.public_config()), json.dumps(A.to_dict(op)), repr(op)]
    for text in shown:
        assert "33" not in text.replace(key.fingerprint, "").replace(poison._digest(), "")
        assert "secret pixels of 2 classes" in text
    other = OPSPoison(key=key, pixels={**spots, 1: [(10, 20, 30, 40, 51)]}, grid=(64, 64))
    assert other.public_config() != poison.public_config()  # a resumed run must not mix the two
    assert "secret pixels of 3 classes" in repr(explicit())
    monkeypatch.setenv("UNLEARNABLE_KEY_FILE", str(key.save(tmp_path / "my.key")))
    with pytest.raises(TypeError, match="fit again"):
        restore(poison.public_config())
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
