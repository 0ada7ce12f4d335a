"""LSP against the formula, its norm, its classes and its class list."""

import hashlib
import pickle
import warnings

import numpy as np
import pytest
import torch
from conftest import CLASSES, encode, image_set, middling, pixels
from model_free import TEN
from model_free import make_lsp as make

import unlearnable_transforms as ut
from unlearnable_transforms import Key, LSPPoison, SampleError, UnchangedWarning
from unlearnable_transforms.poisons.checks import separability
from unlearnable_transforms.poisons.lsp import COARSE, FINE, SEPARATION, add_cells, quantiles
from unlearnable_transforms.poisons.undo import unlock_arrays
from unlearnable_transforms.sample import sample_id

SHAPES = [(32, 32), (8, 8), (97, 61), (7, 300), (300, 7), (33, 40), (4, 4)]


def points_of(poison: LSPPoison, images: np.ndarray, labels) -> np.ndarray:
    """What the formula is at, (B, D), not scaled."""
    tokens = [f"i:{label}" for label in labels]
    ids = [sample_id(image, token) for image, token in zip(images, tokens, strict=True)]
    return poison._points(tokens, ids).reshape(len(ids), -1) / COARSE


# ---- the formula ----


@pytest.mark.parametrize("cells", [4, 7])
@pytest.mark.parametrize("shape", [*SHAPES, (1, 1), (2, 5)], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_equals_the_formula_written_out(shape, channels, cells):
    """Pixel by pixel from the points of the pictures: cell, scale, sum, rounding to nearest, clip."""
    poison, labels = make(cells=cells, eps=9 / 255), [3, 0, 3]
    images = pixels(3, *shape, channels)
    images[0, 0, 0], images[1, 0, 0] = 0, 255
    points = points_of(poison, images, labels).reshape(3, 3, cells, cells)
    if channels == 1 or shape == (1, 1):  # the pixels of 1 x 1 above are grey
        grey = [True, True, channels == 1]
        points[grey] = points[grey].mean(1, keepdims=True)
    protected = poison.apply(images, labels)
    for image, point, result in zip(images, points, protected, strict=True):
        noise = np.empty((*shape, 3))
        for i in range(shape[0]):
            for j in range(shape[1]):
                noise[i, j] = point[:, i * cells // shape[0], j * cells // shape[1]]
        noise *= 9 * np.sqrt(noise.size) / np.sqrt((noise**2).sum())
        expected = np.clip(image + noise[..., :channels], 0, 255)
        assert np.abs(result - expected).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("eps", [2, 6, 20])
def test_norm_before_clipping(shape, eps):
    """eps * sqrt(3 H W) in units of 1 = white, but for rounding, which adds 1/12 to the mean square at most."""
    images = middling(60, *shape, 3)
    noise = make(eps=eps / 255).apply(images, TEN * 6).astype(int) - images
    norms = np.sqrt((noise**2).sum((1, 2, 3)))
    target = eps * np.sqrt(3 * shape[0] * shape[1])
    assert np.abs(norms / target - 1).max() < 0.2 / eps
    assert norms.mean() / target == pytest.approx(np.sqrt(1 + 1 / 12 / eps**2), rel=0.02 / eps)
    assert np.abs(noise).max() < 4 * eps


def test_grey_pictures_keep_the_norm_and_equal_channels():
    images = middling(40, 16, 16, 1)
    noise = make().apply(np.repeat(images, 3, 3), TEN * 4).astype(int) - images
    assert (noise == noise[..., :1]).all()
    assert np.sqrt((noise**2).mean()) == pytest.approx(6, rel=0.02)


def test_the_default_is_the_setting_of_the_papers_code():
    poison = make()
    assert poison.eps * 255 == pytest.approx(6)
    noise = poison.apply(middling(1, 32, 32, 3), [0]).astype(int)[0] - middling(1, 32, 32, 3)[0]
    assert (noise.reshape(4, 8, 4, 8, 3) == noise[::8, ::8].reshape(4, 1, 4, 1, 3)).all()  # squares of 8 x 8 pixels
    assert len(np.unique(noise[::8, ::8], axis=None)) > 10


def test_a_thumbnail_has_the_same_pattern():
    """Cells grow with the picture: what a trainer shrinks is what was there."""
    poison = make()
    large = middling(30, 128, 96, 3)
    noise = poison.apply(large, TEN * 3).astype(float) - large
    shrunk = noise.reshape(30, 8, 16, 8, 12, 3).mean((2, 4))
    assert (shrunk == noise[:, ::16, ::12]).all()


def test_points_are_drawn_as_the_paper_says():
    """Corner plus a class's own matrix times a normal vector: mean and covariance of 4000 draws."""
    poison = make()
    images = pixels(4000, 4, 4, 3)
    corners = poison.centres()
    for label in (0, 7):
        points = points_of(poison, images, [label] * 4000)
        corner = corners[f"i:{label}"].ravel()
        assert set(np.abs(corner)) == {SEPARATION}
        assert np.abs(points.mean(0) - corner).max() < 5 * 4 / np.sqrt(4000)
        matrix = poison._matrix(f"i:{label}") / FINE
        expected, got = matrix.T @ matrix, np.cov(points.T)
        assert np.abs(got - expected).max() < 5 * 16 * np.sqrt(2 / 4000)
        assert np.corrcoef(got.ravel(), expected.ravel())[0, 1] > 0.97
        other = np.cov(points_of(poison, images, [3] * 4000).T)
        off = ~np.eye(48, dtype=bool)
        assert abs(np.corrcoef(got[off], other[off])[0, 1]) < 0.15
    matrices = np.stack([poison._matrix(f"i:{label}") / FINE for label in TEN])
    assert np.abs(matrices).max() <= 1
    assert matrices.mean() == pytest.approx(0, abs=0.02)
    assert (matrices**2).mean() == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize("size", [48, 147])
def test_draws_are_normal_and_independent(size):
    ids = [bytes([number % 256, number // 256] * 8) for number in range(5000)]
    draws = make()._normals(ids, size) / FINE
    assert draws.shape == (5000, size)
    assert np.abs(draws.mean(0)).max() < 5 / np.sqrt(5000)
    assert (draws**2).mean() == pytest.approx((quantiles() ** 2).mean() / FINE**2, abs=0.01)
    assert (quantiles() ** 2).mean() / FINE**2 == pytest.approx(1, abs=0.01)
    assert np.abs(np.cov(draws.T) - np.eye(size)).max() < 0.1
    assert (draws**4).mean() == pytest.approx(3, abs=0.2)


def test_noise_is_added_and_clipped_at_both_ends():
    images = torch.tensor([0, 3, 128, 250, 255], dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 9, 6).contiguous()
    levels = np.arange(-240, 240, dtype=np.int16)[: 5 * 3 * 16].reshape(5, 3, 4, 4) * 2 - 3
    result = add_cells(images, levels)
    for place in np.ndindex(5, 3, 9, 6):
        b, c, i, j = place
        expected = int(images[place]) + int(levels[b, c, i * 4 // 9, j * 4 // 6])
        assert int(result[place]) == min(255, max(0, expected))


# ---- classes ----


@pytest.mark.parametrize("count", [2, 10, 200, 1000])
def test_corners_of_classes_differ_in_colour_and_in_grey(count):
    corners = np.stack(list(make(classes=list(range(count))).centres().values()))
    assert corners.shape == (count, 3, 4, 4)
    assert len(np.unique(corners.sum(1).reshape(count, -1), axis=0)) == count


def test_a_corner_that_is_taken_is_drawn_again(monkeypatch):
    """As if all classes drew the same: without the check all corners were one."""
    stream = Key.stream
    monkeypatch.setattr(Key, "stream", lambda key, *labels: stream(key, *labels[:2]))
    corners = np.stack(list(make(classes=CLASSES).centres().values()))
    assert len(np.unique(corners.sum(1).reshape(4, -1), axis=0)) == 4


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("count", [2, 10, 200])
def test_a_linear_classifier_tells_classes_of_noise_that_it_has_not_seen(count, grey):
    images = middling(4000, 8, 8, 1 if grey else 3)
    labels = np.random.default_rng(0).integers(0, count, 4000)
    poison = make(classes=list(range(count)))
    noise = poison.apply(np.repeat(images, 3, 3) if grey else images, labels).astype(int) - images
    noise = noise.astype(np.int8).transpose(0, 3, 1, 2)
    found = separability(noise, torch.from_numpy(labels), Key.public("x").stream("rows"))
    assert found > (0.97 if not grey else 0.9 if count < 200 else 0.5)
    shuffled = np.random.default_rng(1).permutation(labels)
    assert separability(noise, torch.from_numpy(shuffled), Key.public("x").stream("rows")) < 0.1 + 1 / count


# ---- the class list: more of it in test_classlist.py ----


def test_a_batch_with_some_of_the_classes_gets_what_the_whole_gets():
    images, labels = pixels(20, 8, 8, 3), TEN * 2
    poison = make(classes=None, data=(images, labels))
    assert (poison.apply(images[3:5], labels[3:5]) == poison.apply(images, labels)[3:5]).all()


@pytest.mark.parametrize("batched", [False, True])
def test_a_fitted_poison_in_map(batched):
    images, labels = pixels(6, 8, 8, 3), [0, 1, 2] * 2
    data = image_set([encode(image) for image in images], labels)
    poison = make(classes=None, data=data)
    mapped = data.map(poison, batched=batched)
    assert [np.asarray(row["image"]).tolist() for row in mapped] == poison.apply(images, labels).tolist()
    assert pickle.loads(pickle.dumps(poison)) == poison
    assert len(pickle.dumps(poison)) < 700


# ---- pictures of all kinds ----


@pytest.mark.parametrize("count", [1, 200])
def test_one_class_and_two_hundred(count):
    images = pixels(2 * count, 32, 32, 3)
    protected = make(classes=None, data=(images, [*range(count)] * 2)).apply(images, [*range(count)] * 2)
    assert (protected != images).any((1, 2, 3)).all()


def test_black_and_white_pictures_are_protected():
    images = np.zeros((20, 32, 32, 3), np.uint8)
    images[10:] = 255
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        protected = make().apply(images, TEN * 2)
    change = protected.astype(int) - images
    assert (change[:10] >= 0).all()
    assert (change[10:] <= 0).all()
    assert (np.abs(change).max((1, 2, 3)) >= 4).all()
    assert np.sqrt((change**2).mean()) == pytest.approx(6 / np.sqrt(2), rel=0.15)  # half of it is clipped


def test_a_picture_whose_noise_is_clipped_away_is_named():
    images = np.zeros((60, 1, 1, 1), np.uint8)
    images[:] = np.array([0, 1, 255], np.uint8).repeat(20)[:, None, None, None]
    with pytest.warns(UnchangedWarning, match="row") as caught:
        protected = make().apply(images, TEN * 6)
    unchanged = (protected == images).all((1, 2, 3))
    assert 0 < unchanged.sum() < 60
    assert f"({unchanged.sum()} in all)" in str(caught[0].message)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_key_and_the_ids_of_the_clean_pictures_lead_back(channels):
    poison, labels = make(), TEN * 2
    for images, exact in ((middling(20, 33, 40, channels), True), (pixels(20, 33, 40, channels), False)):
        ids = [sample_id(image, f"i:{label}") for image, label in zip(images, labels, strict=True)]
        protected = list(poison.apply(images, labels))
        tokens = [f"i:{label}" for label in labels]
        restored, _ = unlock_arrays(poison, protected, tokens, ids, [None] * 20)
        assert (np.stack(restored) == images).mean() > (0.9999 if exact else 0.9)
        assert np.abs(np.stack(restored).astype(int) - images).max() <= 12
    with pytest.raises(SampleError, match="the noise of this method follows from the id"):
        unlock_arrays(poison, protected, tokens, [None] * 20, [None] * 20)


# ---- arguments and state ----


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"eps": 0}, ValueError, r"eps is a number in \[1/255, 127/255\], in units of 1 = white"),
        ({"eps": 6}, ValueError, r"eps is a number in \[1/255, 127/255\], in units of 1 = white"),
        ({"cells": 3}, ValueError, r"cells is a whole number in \[4, 8\]"),
        ({"cells": 4.5}, ValueError, r"cells is a whole number in \[4, 8\]"),
        ({"key": None}, TypeError, "needs key="),
    ],
)
def test_bad_arguments(arguments, kind, message):
    with pytest.raises(kind, match=message):
        make(**arguments)


def test_equal_poisons_after_use():
    poison = make()
    poison.apply(pixels(10, 8, 8, 3), TEN)
    assert poison == make()
    assert poison != make(eps=7 / 255)
    assert poison != make(cells=5)
    assert isinstance(poison, ut.get_poison("lsp"))
    assert ut.LSPPoison is LSPPoison
    assert "corner" not in repr(poison)


def test_the_same_bytes_everywhere():
    """Golden bytes: of the library's first version with this method."""
    images = np.arange(3 * 19 * 24 * 3, dtype=np.int64).reshape(3, 19, 24, 3).astype(np.uint8)
    protected = make(classes=["a", "b", "c"]).apply(images, ["b", "c", "a"])
    assert hashlib.sha256(protected.tobytes()).hexdigest()[:16] == "abb8315238110f3c"


def test_draws_come_from_the_key_alone():
    np.random.seed(1), torch.manual_seed(1)
    first = make().apply(pixels(3, 8, 8, 3), [0, 1, 2])
    np.random.seed(2), torch.manual_seed(2)
    state = torch.random.get_rng_state()
    assert (make().apply(pixels(3, 8, 8, 3), [0, 1, 2]) == first).all()
    assert torch.random.get_rng_state().equal(state)
