"""The search of OPS for pixels: against its definition, on any container, with the colours of grey pictures."""

import json
import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from conftest import KEY, encode, image_set, pixels
from model_free import IMAGES, LABELS
from model_free import make_ops as make
from PIL import Image
from torchvision.transforms import v2

from unlearnable_transforms import Chain, CUDAPoison, Key, OPSPoison


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


def test_every_container_and_order_finds_the_same():
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


# ---- grey ----


def test_where_pictures_are_grey_colours_are_black_or_white():
    grey = np.repeat(pixels(12, 6, 6, 1), 3, 3)
    one = np.concatenate([pixels(11, 6, 6, 3), grey[:1]])
    plain = [[0] * 3, [255] * 3]
    assert not all(spot[2:] in plain for _, (spot,) in make((one[:9], [0, 1, 2] * 3)).pixels)
    for data in (grey, grey[..., :1], one, one[::-1], list(map(Image.fromarray, [grey[0, ..., 0], *one[:11]]))):
        assert all(spot[2:] in plain for _, (spot,) in make((data, [0, 1, 2] * 4)).pixels)
    assert make((grey, [0, 1, 2] * 4)) == make((grey[..., 0], [0, 1, 2] * 4))
