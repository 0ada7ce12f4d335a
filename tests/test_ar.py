"""AR against the rule written out pixel by pixel, the search for processes, and the class list."""

import hashlib
import pickle
import warnings

import datasets
import numpy as np
import pytest
import torch
from conftest import CLASSES, KEY, encode, image_set, pixels
from folders import make_folder, save_key
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from scipy.ndimage import correlate
from torchvision.datasets import FakeData

import unlearnable_transforms as ut
from unlearnable_transforms import ARPoison, Chain, CUDAPoison, Key, NotFittedError, SampleError
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.pixels import chunk_length
from unlearnable_transforms.poisons import ar
from unlearnable_transforms.poisons.ar import coefficients, generate, normals
from unlearnable_transforms.poisons.undo import unlock_arrays
from unlearnable_transforms.protection.folder import FolderPictures
from unlearnable_transforms.protection.listing import list_folder
from unlearnable_transforms.samples import sample_id

TEN = list(range(10))
SHAPES = [(32, 32), (8, 8), (1, 1), (5, 40), (33, 7), (97, 61)]


def make(**arguments) -> ARPoison:
    return ARPoison(**{"key": KEY, "classes": TEN, **arguments})


def middling(count: int, *shape: int) -> np.ndarray:
    """Different pictures (count, H, W, C) with values so far from 0 and 255 that noise is not clipped."""
    return 100 + pixels(count, *shape) % 56


def raster(starts: np.ndarray, window: np.ndarray, high: int, wide: int) -> np.ndarray:
    """A field of one channel, pixel by pixel: every pixel is the weighted sum of the window that ends in it."""
    field = np.zeros((high, wide))
    field[:2] = starts[: 2 * wide].reshape(2, wide)
    field[2:, :2] = starts[2 * wide :].reshape(high - 2, 2)
    for i in range(2, high):
        for j in range(2, wide):
            field[i, j] = (field[i - 2 : i + 1, j - 2 : j + 1] * window).sum()
    return field


def written_out(poison: ARPoison, image: np.ndarray, label: int) -> np.ndarray:
    """What is added to a picture (H, W, C), in levels, before rounding: pattern by pattern, channel by channel."""
    height, width = image.shape[:2]
    rows, columns = -(-height // 32), -(-width // 32)
    high, wide = -(-height // rows), -(-width // columns)
    border = 2 * (wide + 4) + 2 * (high + 2)
    window = poison.coefficients([label])[0]
    words = poison.key.stream("ar", "start", sample_id(image, f"i:{label}")).words(rows * columns * 3 * border)
    starts = normals(words).reshape(rows, columns, 3, border)
    grey = (image == image[..., :1]).all()
    noise = np.empty((height, width, 3))
    for row in range(rows):
        for column in range(columns):
            place = np.s_[row * high : (row + 1) * high, column * wide : (column + 1) * wide]
            of = [0, 0, 0] if grey else [0, 1, 2]
            fields = [raster(starts[row, column, c], window[c], high + 4, wide + 4)[4:, 4:] for c in of]
            pattern = np.stack(fields, 2)[: noise[place].shape[0], : noise[place].shape[1]]
            area = pattern.shape[0] * pattern.shape[1]
            noise[place] = pattern * 255 * poison.eps * np.sqrt(area / 1024) / np.linalg.norm(pattern)
    return noise[..., : image.shape[2]]


def patterns_of(processes: np.ndarray, side: int = 32, seed: int = 0) -> np.ndarray:
    """A pattern of each class with a start of its own, L2 norm 1, (n, 3, side, side)."""
    border = 4 * (side + 4) - 4
    words = Key.public(f"patterns {seed}").stream(side).words(processes[:, :, 0].size * border)
    made = generate(normals(words).reshape(-1, 3, border), processes, side, side).transpose(3, 2, 0, 1)
    return made / np.linalg.norm(made.reshape(len(made), -1), axis=1)[:, None, None, None]


def answers(patterns: np.ndarray, processes: np.ndarray) -> np.ndarray:
    """Energy of the output of each class's filter on each pattern, as the sum of ReLUs of a normal output, (n, k)."""
    filters = np.concatenate([processes, -np.ones((len(processes), 3, 1))], 2).reshape(-1, 27)
    windows = sliding_window_view(patterns, (3, 3), axis=(2, 3))
    outputs = windows.transpose(0, 2, 3, 1, 4, 5).reshape(len(patterns), -1, 27) @ filters.T
    return np.sqrt((outputs**2).sum(1) * outputs.shape[1] / (2 * np.pi))


# ---- the rule ----


@pytest.mark.parametrize("shape", [(32, 32), (1, 1), (3, 9), (20, 7)], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_patterns_equal_the_rule_pixel_by_pixel(shape, channels):
    random = np.random.default_rng(0)
    processes = coefficients(KEY, tuple(f"i:{label}" for label in TEN))[:4, :channels]
    border = 2 * (shape[1] + 4) + 2 * (shape[0] + 2)
    starts = random.standard_normal((4, channels, border))
    made = generate(starts, processes, *shape)
    assert made.shape == (*shape, channels, 4)
    for n in range(4):
        for c in range(channels):
            window = np.append(processes[n, c], 0).reshape(3, 3)
            truth = raster(starts[n, c], window, shape[0] + 4, shape[1] + 4)[4:, 4:]
            np.testing.assert_allclose(made[:, :, c, n], truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.filterwarnings("ignore::unlearnable_transforms.UnchangedWarning")
def test_pictures_equal_the_rule_written_out(shape, channels):
    poison, labels = make(eps=1.5), [3, 0, 3]
    images = pixels(3, *shape, channels)
    images[0, 0, 0], images[1, 0, 0] = 0, 255
    protected = poison.apply(images, labels)
    for image, label, result in zip(images, labels, protected, strict=True):
        expected = np.clip(image + written_out(poison, image, label), 0, 255)
        assert np.abs(result - expected).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("shape", [*SHAPES, (224, 200)], ids=str)
@pytest.mark.parametrize("eps", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_norm_of_pictures_of_every_size(shape, eps, channels):
    """eps * sqrt(H W / 1024), over three channels; rounding adds up to 1/12 to the mean square of a value."""
    images = middling(20, *shape, channels)
    noise = make(eps=eps).apply(images, TEN * 2).astype(float) - images
    target = 255 * eps * np.sqrt(shape[0] * shape[1] / 1024)
    norms = np.sqrt((noise**2).sum((1, 2, 3)) * (3 / channels))
    rounding = np.sqrt(shape[0] * shape[1] * 3 / 12)
    assert np.abs(norms - target).max() < (rounding if min(shape) > 7 else 3 * rounding)


def test_the_published_settings():
    poison = make()
    for side, eps in ((32, 1.0), (96, 3.0)):
        images = middling(10, side, side, 3)
        noise = poison.apply(images, TEN).astype(float) - images
        assert np.linalg.norm(noise.reshape(10, -1), axis=1) / 255 == pytest.approx(eps, rel=0.01)


def test_grey_pictures_keep_equal_channels_and_their_process():
    images = middling(10, 32, 32, 1)
    noise = make().apply(np.repeat(images, 3, 3), TEN).astype(float) - images
    assert (noise == noise[..., :1]).all()
    for label in TEN:
        process = make().coefficients([label])[0, 0]
        process[2, 2] = -1
        left = correlate(noise[label, ..., 0], process, mode="constant", origin=1)[2:, 2:]  # the window ends at (i, j)
        assert np.sqrt((left**2).mean()) < 2 * np.sqrt((process**2).sum() / 12)  # nothing but rounding


@pytest.mark.parametrize("shape", [(32, 32), (32, 20), (11, 32)], ids=str)
def test_a_filter_annihilates_its_own_patterns_and_no_others(shape):
    """The filter with -1 as its last tap; the paper's detector."""
    processes = coefficients(KEY, tuple(f"i:{label}" for label in TEN))
    images = middling(30, *shape, 3)
    poison = make()
    noise = np.stack([written_out(poison, image, label) for image, label in zip(images, TEN * 3, strict=True)])
    found = answers(noise.transpose(0, 3, 1, 2) / 255, processes)
    own = found[np.arange(30), TEN * 3]
    assert own.max() < 1e-9
    found[np.arange(30), TEN * 3] = np.inf
    assert found.min() > 0.3
    rounded = poison.apply(images, TEN * 3).astype(float) - images
    assert (answers(rounded.transpose(0, 3, 1, 2) / 255, processes).argmin(1) == TEN * 3).all()


def test_patterns_do_not_grow_or_fade_with_the_size():
    """Every 32 x 32 part of a large picture has the same strength."""
    images = np.full((10, 1024, 160, 3), 128, np.uint8)
    noise = make().apply(images, TEN).astype(float) - 128
    parts = noise.reshape(10, 32, 32, 5, 32, 3)
    strengths = np.sqrt((parts**2).sum((2, 4, 5)))
    assert strengths.min() > 0.97 * 255
    assert strengths.max() < 1.03 * 255


def test_starts_are_nearly_normal_and_the_sum_of_four_parts():
    words = Key.public("x").stream("normals").words(100_000)
    values = normals(words)
    assert values.mean() == pytest.approx(0, abs=0.02)
    assert values.std() == pytest.approx(1, abs=0.02)
    assert (np.abs(values) < 1).mean() == pytest.approx(0.6827, abs=0.02)
    parts = np.stack([(words >> np.uint64(shift)) & np.uint64(0xFFFF) for shift in (0, 16, 32, 48)])
    expected = (parts.sum(0).astype(float) - 131070) / np.sqrt(4 * 2**32 / 12)
    np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-12)


# ---- pictures ----


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("channels", [1, 3])
def test_no_class_is_without_noise_and_every_picture_changes(value, channels):
    images = np.full((200, 32, 32, channels), value, np.uint8)
    images[:, 0, 0] = np.arange(200)[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        protected = make().apply(images, TEN * 20)
    change = np.abs(protected.astype(int) - images)
    assert (change.max((1, 2, 3)) > 2).all()
    assert (change.reshape(20, 10, -1).mean((0, 2)) > 0.5).all()


def test_each_picture_has_its_own_pattern():
    images = middling(50, 8, 8, 3)
    noise = make().apply(images, [4] * 50).astype(int) - images
    assert len(np.unique(noise.reshape(50, -1), axis=0)) == 50
    images[:] = images[0]
    assert len(np.unique(make().apply(images, [4] * 50).reshape(50, -1), axis=0)) == 1
    assert len(np.unique(make().apply(images[:10], TEN).reshape(10, -1), axis=0)) == 10
    assert (make(key=Key.public("another")).apply(images, [4] * 50) != make().apply(images, [4] * 50)).any()


def test_channels_have_patterns_of_their_own():
    images = middling(10, 32, 32, 3)
    images[..., 0] += 1  # not grey
    noise = make().apply(images, TEN).astype(float) - images
    for one in noise:
        assert np.abs(np.corrcoef(one.reshape(-1, 3).T)[~np.eye(3, dtype=bool)]).max() < 0.9


@pytest.mark.parametrize("shape", [(32, 32), (40, 37)], ids=str)
def test_order_batches_and_chunks_do_not_matter(shape):
    poison = make()
    count = chunk_length(3 * shape[0] * shape[1]) + 37
    images, labels = pixels(count, *shape, 3), np.random.default_rng(1).integers(0, 10, count)
    images[3::7] = images[3::7, :, :, :1]  # grey ones among them
    whole = poison.apply(images, labels)
    order = np.random.default_rng(2).permutation(count)
    assert (make().apply(images[order], labels[order]) == whole[order]).all()
    for start, stop in ((0, 1), (3, 4), (5, 22), (count - 40, count)):
        assert (make().apply(images[start:stop], labels[start:stop]) == whole[start:stop]).all()


def test_large_pictures_are_protected_part_by_part(monkeypatch):
    """How many patterns are made at a time makes no difference."""
    image = pixels(2, 300, 170, 3)
    truth = make().apply(image, [1, 2])
    monkeypatch.setattr(ar, "BLOCK", 7)
    assert (make().apply(image, [1, 2]) == truth).all()


def test_settings_of_torch_do_not_matter():
    images = torch.from_numpy(pixels(10, 3, 33, 40))
    before = make().apply(images, TEN)
    torch.set_default_dtype(torch.float16)
    try:
        assert make().apply(images, TEN).equal(before)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.inference_mode():
        assert make().apply(images, TEN).equal(before)


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7), (2, 3)], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "1", "P"])
@pytest.mark.filterwarnings("ignore::unlearnable_transforms.UnchangedWarning")
def test_pil_pictures_of_every_mode_and_size(size, mode):
    image = Image.fromarray(pixels(*size, 3)).convert(mode)
    protected, label = make()(image, 3)
    assert protected.size == image.size
    assert label == 3
    again = make().apply([Image.fromarray(pixels(40, 40, 3)), image], [0, 3])[1]
    assert again.tobytes() == protected.tobytes()


@pytest.mark.parametrize("shape", [(32, 32), (40, 37)], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_noise_is_taken_away_again(shape, channels):
    poison, images = make(), middling(10, *shape, channels)
    images[4] = images[4, :, :, :1]  # grey
    tokens = [f"i:{label}" for label in TEN]
    ids = [sample_id(image, token) for image, token in zip(images, tokens, strict=True)]
    protected = list(poison.apply(images, TEN))
    restored, _ = unlock_arrays(poison, protected, tokens, ids, [None] * 10)
    assert (np.stack(restored) == images).all()
    with pytest.raises(SampleError, match="ledger"):
        unlock_arrays(poison, protected, tokens, [None] * 10, [None] * 10)


# ---- the search ----


def test_processes_are_as_the_paper_has_them():
    window = make().coefficients(TEN)
    assert window.shape == (10, 3, 3, 3)
    assert (window[:, :, 2, 2] == 0).all()
    assert (window.sum((2, 3)) == 1).all()
    assert (window * ar.GRID % 1 == 0).all()
    assert len(np.unique(window.reshape(30, 9), axis=0)) == 30
    assert (make().coefficients([7, 2]) == window[[7, 2]]).all()
    other = make(key=Key.public("another")).coefficients(TEN)
    assert (other != window).any((2, 3)).all()


@pytest.mark.parametrize("seed", range(3))
def test_patterns_of_every_class_are_finite_and_do_not_grow(seed):
    """Of starts that the search has not seen; it refuses a norm above 50 / sqrt(3) in three trials of each channel."""
    processes = coefficients(Key.public(f"search {seed}"), tuple(f"i:{label}" for label in TEN))
    border = 4 * 36 - 4
    for trial in range(10):
        words = Key.public("starts").stream(seed, trial).words(30 * border)
        made = generate(normals(words).reshape(10, 3, border), processes, 32, 32)
        norms = np.sqrt((made**2).sum((0, 1)))
        assert np.isfinite(made).all()
        assert norms.max() < 2 * 50 / np.sqrt(3)
        assert norms.min() > 1


def test_candidates_that_grow_are_refused():
    """Most draws do; what is left are triples of stable ones, with the very patterns they were tried on."""
    processes, patterns = ar._candidates(KEY.stream("search"))
    assert patterns.shape == (3, len(processes), 3, 32, 32)
    assert 0.05 * ar.DRAWS < 3 * len(processes) < 0.5 * ar.DRAWS
    assert np.abs(processes).sum(2).max() <= ar.MAX_SUM
    norms = np.sqrt((patterns**2).sum((2, 3, 4)))
    np.testing.assert_allclose(norms, 1, rtol=1e-12)
    windows = sliding_window_view(patterns, (3, 3), axis=(3, 4)).reshape(*patterns.shape[:3], -1, 9)
    left = (windows[..., :8] * processes[:, :, None]).sum(-1) - windows[..., 8]
    assert np.abs(left).max() < 1e-12


def test_a_process_that_grows_is_stopped_at_the_norm(monkeypatch):
    monkeypatch.setattr(ar, "MAX_NORM", 14.0)
    few, _ = ar._candidates(KEY.stream("search"))
    monkeypatch.setattr(ar, "MAX_NORM", 1e9)
    many, _ = ar._candidates(KEY.stream("search"))
    assert len(few) < len(ar._candidates(KEY.stream("search"))[0]) <= len(many)


def test_answers_of_the_search_are_those_of_the_filters():
    """The quadratic form of whole numbers against filtering, and its scale against the sum of ReLUs."""
    processes, patterns = ar._candidates(KEY.stream("answers"))
    energy = ar._covariances(patterns)[0] @ ar._squares(processes).T
    assert (energy % 1 == 0).all()
    assert energy.max() < 2**53
    truth = answers(patterns[0], processes)
    off = ~np.eye(len(processes), dtype=bool)
    np.testing.assert_allclose(ar.responses(energy)[off], truth[off], rtol=0.05, atol=0.3)
    filters = np.concatenate([processes, -np.ones((len(processes), 3, 1))], 2).reshape(-1, 27)
    windows = sliding_window_view(patterns[0], (3, 3), axis=(2, 3))
    relu = np.maximum(windows.transpose(0, 2, 3, 1, 4, 5).reshape(len(processes), -1, 27) @ filters.T, 0).sum(1)
    assert np.median(relu[off] / truth[off]) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("count", [2, 10, 100])
def test_a_pattern_in_whole_levels_is_known_by_its_filter(count):
    """The detector on noise as it is released, of starts that the search has not seen."""
    processes = coefficients(Key.public("detector"), tuple(f"i:{label}" for label in range(count)))
    patterns = np.rint(255 * patterns_of(processes)) / 255
    found = answers(patterns, processes)
    assert (found.argmin(1) == np.arange(count)).all()
    own = found.diagonal().copy()
    assert own.max() < ar.LEAST
    np.fill_diagonal(found, np.inf)
    assert found.min() > ar.LEAST


@pytest.mark.slow
def test_a_thousand_classes():
    processes = coefficients(Key.public("thousand"), tuple(f"i:{label}" for label in range(1000)))
    found = answers(np.rint(255 * patterns_of(processes)) / 255, processes)
    assert (found.argmin(1) == np.arange(1000)).mean() > 0.99


def test_classes_are_told_apart_in_both_directions(monkeypatch):
    """No pattern of a class is nearly silent under another class's filter, whichever came first."""
    lowest = []
    for seed in range(3):
        processes = coefficients(Key.public(f"directions {seed}"), tuple(f"i:{label}" for label in TEN))
        found = np.min([answers(patterns_of(processes, seed=seed), processes) for seed in range(5)], 0)
        lowest.append((found[np.triu_indices(10, 1)].min(), found[np.tril_indices(10, -1)].min()))
    assert np.min(lowest) > 1.5
    assert np.mean(lowest, 0) == pytest.approx(np.mean(lowest), rel=0.4)


def test_the_search_has_an_end(monkeypatch):
    monkeypatch.setattr(ar, "LEAST", 7.0)
    with pytest.raises(ValueError, match=r"processes for \d+ classes of 200 and no more that differ: use another"):
        make(key=Key.public("too many"), classes=range(200)).coefficients([0])
    monkeypatch.setattr(ar, "MAX_NORM", 0.0)
    with pytest.raises(ValueError, match="for 0 classes of 10"):
        make(key=Key.public("none stable")).coefficients([0])


def test_processes_are_searched_for_once(monkeypatch):
    poison = make(key=Key.public("once"))
    poison.apply(pixels(1, 8, 8, 3), [0])
    before, size = coefficients.cache_info(), len(pickle.dumps(poison))
    monkeypatch.setattr(ar, "_candidates", None)
    make(key=Key.public("once")).apply(pixels(20, 8, 8, 3), TEN * 2)
    assert coefficients.cache_info().misses == before.misses
    assert len(pickle.dumps(poison)) == size < 700
    assert not coefficients(Key.public("once"), tuple(f"i:{label}" for label in TEN)).flags.writeable
    window = poison.coefficients([0])
    window[:] = 0  # a copy
    assert poison.coefficients([0]).any()


# ---- the class list ----


def test_a_growing_set_keeps_the_processes_of_its_classes():
    few, many = make(classes=range(4)).coefficients(range(4)), make(classes=range(12)).coefficients(range(4))
    assert (few == many).all()
    gaps = make(classes=[7, 2]).coefficients([2, 7])
    assert (gaps == make().coefficients([2, 7])).all()
    names = make(classes=None, known=["bee", "dog"])
    before = names.coefficients(["bee", "dog"])
    names.extend((pixels(3, 8, 8, 3), ["ant", "dog", "cat"]))
    assert names.known == ["bee", "dog", "ant", "cat"]
    assert (names.coefficients(["bee", "dog"]) == before).all()
    assert (make(classes=None, known=names.known).coefficients(["cat"]) == names.coefficients(["cat"])).all()
    alone = [make(classes=None, known=[name]).coefficients([name]) for name in ("ant", "bee")]
    assert (alone[0] != alone[1]).any()  # albums that are protected one by one do not all get one process


def test_class_order():
    assert make(classes=[2, 0]).class_order() == ["i:0", "i:1", "i:2"]
    assert make(classes=[5000, 1024, 2]).class_order() == ["i:0", "i:1", "i:2", "i:1024", "i:5000"]
    assert make(classes=["b", "a"]).class_order() == ["s:a", "s:b"]
    assert make(classes=None, known=["b", "a"]).class_order() == ["s:b", "s:a"]
    assert make(classes=None, known=[5000, 1030]).class_order() == ["i:5000", "i:1030"]


def test_where_the_class_list_comes_from_does_not_matter():
    images, labels = pixels(8, 8, 8, 3), [3, 0, 2, 1] * 2
    names = [CLASSES[label] for label in labels]
    truth = make(classes=CLASSES).apply(images, names)
    assert (make(classes=CLASSES[::-1]).apply(images, names) == truth).all()
    assert (make(classes=None, data=(images[::-1], names[::-1])).apply(images, names) == truth).all()
    assert (make(classes=CLASSES).apply(images, labels) == truth).all()
    numbers = make(classes=range(4)).apply(images, labels)
    for data in (
        (torch.from_numpy(images).permute(0, 3, 1, 2), torch.tensor(labels)),
        list(zip(images, labels, strict=True)),
        torch.utils.data.Subset(list(zip(images, labels, strict=True)), range(8)),
        image_set([encode(image) for image in images], labels),
        image_set([encode(image) for image in images], labels).with_format("torch"),
    ):
        assert (make(classes=None).fit(data).apply(images, labels) == numbers).all()
    given = make(classes=range(4))
    assert given.fit(None).extend(None) == make(classes=range(4))


def test_a_fit_reads_labels_and_opens_no_picture(tmp_path, monkeypatch):
    broken = image_set([b"not a picture"] * 3, [5, 0, 5])
    assert make(classes=None, data=broken).known == [0, 5]
    source = make_folder(tmp_path / "pictures")
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", lambda *_: pytest.fail("a picture was opened"))
        assert make(classes=None, data=FolderPictures(source, list_folder(source, False), None)).known == [0, 1, 2]
        assert make(classes=None, data=FolderPictures(source, list_folder(source, True), "me")).known == ["me"]

    data = Labelled(3)
    monkeypatch.setattr(Labelled, "__getitem__", lambda *_: pytest.fail("a picture was opened"))
    assert make(classes=None, data=data).known == [0, 1, 4]


class Labelled(FakeData):
    """A data set of torchvision with a list of its labels."""

    targets = (1, 0, 4)

    def __getitem__(self, row):
        return Image.new("RGB", (8, 8)), self.target_transform(self.targets[row])


def test_labels_that_are_transformed_are_read_one_by_one():
    data = Labelled(3, target_transform=lambda label: f"class {label}")
    assert make(classes=None, data=data).known == ["class 0", "class 1", "class 4"]


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (lambda: image_set([encode(pixels(8, 8, 3))], [0]).to_iterable_dataset(), TypeError, "streaming"),
        (lambda: datasets.DatasetDict(train=image_set([], [])), TypeError, r"data\['train'\]"),
        (lambda: None, TypeError, "fit takes"),
        (lambda: (pixels(2, 8, 8, 3), [0]), SampleError, "2 images came with 1 labels"),
        (lambda: (pixels(3, 8, 8, 3), [0, -1, 0]), SampleError, "row 1: the label is -1"),
        (lambda: (pixels(0, 8, 8, 3), []), SampleError, "empty"),
        (lambda: (pixels(2, 8, 8, 3), [0, "cat"]), ValueError, "mixes integers and text"),
        (lambda: (pixels(2, 8, 8, 3), np.eye(2)), TypeError, "one class"),
    ],
)
def test_data_without_a_class_list_is_refused(data, kind, message):
    with pytest.raises(kind, match=message):
        make(classes=None).fit(data())


def test_classes_that_are_not_known_are_refused_by_name():
    images = pixels(6, 8, 8, 3)
    poison = make(classes=None, data=(images[:4], ["ant", "bee"] * 2))
    with pytest.raises(SampleError, match=r"rows 1, 3: the class 'cat' .* poison.extend"):
        poison.apply(images[:4], ["ant", "cat", "bee", "dog"])
    gaps = make(classes=None, known=[0, 2])
    with pytest.raises(SampleError, match="row 1: the class 1"):
        gaps.apply(images[:2], [0, 1])
    with pytest.raises(SampleError, match="label 11 is not in classes="):
        make().apply(images[:2], [0, 11])
    with pytest.raises(ValueError, match="mixes"):
        poison.extend((images[:1], [3]))
    assert poison.known == ["ant", "bee"]


def test_without_the_class_list_nothing_is_protected():
    poison = make(classes=None)
    for call in (
        lambda: poison.apply(pixels(1, 8, 8, 3), [0]),
        lambda: poison.coefficients([0]),
        lambda: poison.extend(([], [])),
        lambda: pickle.loads(pickle.dumps(poison)).apply(pixels(1, 8, 8, 3), [0]),
    ):
        with pytest.raises(NotFittedError, match="fit"):
            call()


# ---- state and roads ----


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"eps": 8 / 255}, ValueError, "L2 norm of a 32 x 32 picture's noise, not levels"),
        ({"eps": 8}, None, None),
        ({"eps": 11}, ValueError, "got 11"),
        ({"eps": float("nan")}, ValueError, "got nan"),
        ({"key": None}, TypeError, "needs key="),
        ({"known": [0]}, TypeError, "leave out data= and classes="),
        ({"classes": None, "known": [0, 0]}, ValueError, "twice"),
    ],
)
def test_arguments(arguments, kind, message):
    if kind is None:
        assert make(**arguments).eps == 8
        return
    with pytest.raises(kind, match=message):
        make(**arguments)


def test_a_chain_finds_the_classes_and_can_be_sent_to_a_worker():
    images, names = pixels(6, 8, 8, 3), ["ant", "bee", "cat"] * 2
    chain = Chain([CUDAPoison(key=KEY), ARPoison(key=KEY)]).fit((images, names))
    first = CUDAPoison(key=KEY).apply(images, names)
    protected = chain.apply(images, names)
    assert (protected != first).any((1, 2, 3)).all()
    assert (pickle.loads(pickle.dumps(chain)).apply(images, names) == protected).all()
    chain.extend((images, ["dog"] * 6))
    assert (chain.apply(images, names) == protected).all()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_command_line(tmp_path, workers):
    source, out = make_folder(tmp_path / "pictures"), tmp_path / "protected"
    key = save_key(tmp_path / "my.key")
    options = ["--key", str(key), "--method", "ar", "--workers", str(workers), "--ledger", str(tmp_path / "ledger")]
    assert main(["protect", str(source), str(out), *options]) == 0
    poison = ARPoison(key=Key.load(key), classes=range(3))
    files = sorted(path for path in source.rglob("*.*"))
    assert len(files) == 12
    for path in files:
        label = ["ant", "cat", "dog"].index(path.parent.name)
        image = np.asarray(Image.open(path))
        protected = np.asarray(Image.open(out / path.relative_to(source).with_suffix(".png")))
        assert (protected == poison(image, label)[0]).all()
        assert (protected != image).any()


def test_protect_reads_the_class_list_itself():
    images, labels = pixels(6, 12, 9, 3), [0, 1, 2] * 2
    data = image_set([encode(image) for image in images], labels)
    protected = ut.protect(data, ARPoison(key=KEY))
    truth = ARPoison(key=KEY, classes=range(3)).apply(images, labels)
    assert [np.asarray(row["image"]).tolist() for row in protected] == truth.tolist()


# ---- golden bytes: a change here is a new version of the method, and stale caches ----


def photograph(side: int, channels: int) -> np.ndarray:
    """A picture (side, side + 3, channels) of integer arithmetic, the same for ever."""
    y, x, c = np.meshgrid(np.arange(side), np.arange(side + 3), np.arange(channels), indexing="ij")
    return ((x * 7 + y * 13 + c * 50 + (x * y) // 3) % 256).astype(np.uint8)


GOLDEN = {
    (8, 1): "354c6d018dd5ebc3ebdc87ee4dcd32df",
    (32, 1): "8c4c7e29becb76f7034035210fb218a7",
    (100, 1): "92428911b077e62a36236dd150c38cb0",
    (8, 3): "fcd551f4cf09797891a6d17025108087",
    (32, 3): "93906d4f88b55fd5f96b7391a99e7851",
    (100, 3): "bdd54a14c32fe5592b912ac8a66f854c",
}


@pytest.mark.parametrize("side", [8, 32, 100])
@pytest.mark.parametrize("channels", [1, 3])
def test_golden_bytes(side, channels):
    batch = np.stack([photograph(side, channels)] * 4)
    protected = ARPoison(key=Key.public("golden"), classes=range(40)).apply(batch, [0, 3, 17, 39])
    assert ARPoison.version == 1
    assert hashlib.sha256(protected.tobytes()).hexdigest()[:32] == GOLDEN[side, channels]


def test_golden_processes():
    numbers = coefficients(Key.public("golden"), tuple(f"i:{label}" for label in range(40)))
    names = coefficients(Key.public("golden"), ("s:ant", "s:Möwe"))
    digests = [hashlib.sha256((made * ar.GRID).astype("<i8").tobytes()).hexdigest()[:32] for made in (numbers, names)]
    assert digests == ["acfff3f2c4706fbea6c17a3a1159c4b4", "6bce7c81274ee89d38df0660f9628157"]
