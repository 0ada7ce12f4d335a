"""The filters of CUDA: as the paper draws them, spread over the classes of a key, or given one by one."""

import numpy as np
import pytest
import torch
from conftest import CLASSES, error_of, pixels
from PIL import Image

from unlearnable_transforms import CUDAPoison, Key, SampleError
from unlearnable_transforms.pixels import chunk_length
from unlearnable_transforms.poisons.convolution import GRID
from unlearnable_transforms.poisons.cuda import default_blur, spread_filters

# ---- drawn from the key ----


@pytest.mark.parametrize(("size", "blur"), [(3, 0.3), (9, 0.06)])
def test_the_paper_s_settings(key, size, blur):
    assert default_blur(size) == blur
    filters = CUDAPoison(key=key, kernel_size=size).kernels(range(50))
    assert filters.shape == (50, size, size)
    assert filters.dtype == np.float32
    assert (filters == 1).sum((1, 2)).tolist() == [1] * 50
    rest = filters[filters < 1]
    assert rest.min() >= 0
    assert 0.95 * blur < rest.max() <= blur + 1 / GRID
    assert rest.mean() == pytest.approx(blur / 2, rel=0.1)
    assert not (filters * GRID % 1).any()


def test_the_blur_falls_with_the_filter_s_size_and_its_sum_grows():
    sizes = range(3, 31, 2)
    blurs = [default_blur(size) for size in sizes]
    assert blurs == sorted(blurs, reverse=True)
    sums = [(size**2 - 1) * blur / 2 for size, blur in zip(sizes, blurs, strict=True)]
    assert sums == sorted(sums)


@pytest.mark.parametrize("side", [32, 300])
def test_normal_is_the_default_strength(key, side):
    named = CUDAPoison(key=key, strength="normal").kernels(range(5), side)
    assert (CUDAPoison(key=key).kernels(range(5), side) == named).all()


def test_the_shorter_side_counts(key):
    poison = CUDAPoison(key=key)
    assert (poison.kernels([0], image_size=(300, 32)) == poison.kernels([0], image_size=32)).all()
    assert (poison.kernels([0], image_size=(300, 400)) == poison.kernels([0], image_size=300)).all()
    with pytest.raises(ValueError, match="pass image_size="):
        poison.kernels([0])


def test_given_size_and_blur_are_used(key):
    filters = CUDAPoison(key=key, kernel_size=5, blur=0.5).kernels(range(40))
    assert filters.shape == (40, 5, 5)
    assert 0.48 < filters[filters < 1].max() <= 0.5
    one = CUDAPoison(key=key, kernel_size=np.int64(5), blur=np.float32(0.5))
    assert one == CUDAPoison(key=key, kernel_size=5, blur=0.5)
    assert (one.kernels(range(40)) == filters).all()


def test_filters_come_from_key_class_and_size_alone(key):
    first = CUDAPoison(key=key).kernels(range(10), image_size=32)
    again = CUDAPoison(key=key, image_key="x").kernels([7, 2, 7], image_size=8)
    assert (again == first[[7, 2, 7]]).all()
    other = CUDAPoison(key=Key.public("other")).kernels(range(10), image_size=32)
    assert not (first == other).all((1, 2)).any()
    assert not (first == CUDAPoison(key=key.derive("a/b")).kernels(range(10), image_size=32)).all((1, 2)).any()


@pytest.mark.parametrize("size", [3, 9])
def test_a_filter_does_not_depend_on_how_many_classes_are_asked(key, size):
    many = CUDAPoison(key=key, kernel_size=size, blur=0.1).kernels(range(70))
    for label in (0, 1, 15, 16, 31, 32, 69):
        spread_filters.cache_clear()
        assert (CUDAPoison(key=key, kernel_size=size, blur=0.1).kernels([label])[0] == many[label]).all()
    draws, peaks = spread_filters(key, size, 0, 16)
    more_draws, more_peaks = spread_filters(key, size, 0, 64)
    assert (draws == more_draws[:16]).all()
    assert (peaks == more_peaks[:16]).all()


def test_far_classes_are_drawn_anew(key):
    poison = CUDAPoison(key=key, kernel_size=3, blur=0.3)
    filters = poison.kernels([0, 1024, 2048, 10**12])
    assert len({one.tobytes() for one in filters}) == 4


def test_the_order_of_classes_does_not_matter(key):
    images, labels = pixels(4, 8, 8, 3), ["dog", "ant", "cat", "bee"]
    results = [
        CUDAPoison(key=key, classes=classes).apply(images, labels)
        for classes in (CLASSES, CLASSES[::-1], np.array(CLASSES), tuple(CLASSES[2:] + CLASSES[:2]))
    ]
    assert all((result == results[0]).all() for result in results)
    numbers = [CLASSES.index(label) for label in labels]
    assert (CUDAPoison(key=key, classes=CLASSES).apply(images, numbers) == results[0]).all()
    numbers = [CLASSES[::-1].index(label) for label in labels]
    assert (CUDAPoison(key=key, classes=CLASSES[::-1]).apply(images, numbers) == results[0]).all()
    assert (CUDAPoison(key=key).apply(images, labels) != results[0]).any()  # without the list: independent draws


def test_integer_classes_are_a_check_only(key):
    plain = CUDAPoison(key=key).kernels(range(10), image_size=32)
    assert (CUDAPoison(key=key, classes=range(10)).kernels(range(10), image_size=32) == plain).all()
    with pytest.raises(SampleError, match="row 1: the label 10 is not in classes"):
        CUDAPoison(key=key, classes=range(10)).apply(pixels(2, 8, 8, 3), [0, 10])


def nearest_pair(filters: np.ndarray) -> float:
    flat = filters.reshape(len(filters), -1).astype(np.float64)
    return min(float(np.linalg.norm(a - b)) for i, a in enumerate(flat) for b in flat[:i])


def test_filters_of_one_key_are_told_apart():
    """Over 100 keys, ten classes, k = 3 and p_b = 0.3: independent draws come as near as 0.1."""
    spread, places, independent = [], [], []
    for number in range(100):
        key = Key.public(f"spread {number}")
        filters = CUDAPoison(key=key, kernel_size=3, blur=0.3).kernels(range(10))
        spread.append(nearest_pair(filters))
        places.append(np.bincount(filters.reshape(10, 9).argmax(1)).max())
        names = [f"class {label}" for label in range(10)]
        independent.append(nearest_pair(CUDAPoison(key=key, kernel_size=3, blur=0.3).kernels(names)))
    assert min(spread) > 0.35
    assert max(places) <= 4
    assert min(independent) < 0.5 * min(spread)
    assert np.median(independent) < np.median(spread)


def test_named_classes_are_spread_as_well(key):
    names = [f"class {label}" for label in range(10)]
    poison = CUDAPoison(key=key, kernel_size=3, blur=0.3, classes=names)
    assert nearest_pair(poison.kernels(names)) > 0.35
    assert (poison.kernels(names) == CUDAPoison(key=key, kernel_size=3, blur=0.3).kernels(range(10))).all()


def test_many_classes_come_out_different(key):
    filters = CUDAPoison(key=key, kernel_size=3, blur=0.3).kernels(range(300))
    assert len({one.tobytes() for one in filters}) == 300


# ---- given one by one ----


def test_explicit_filters_are_used_as_they_are():
    weights = np.zeros((3, 3))
    weights[0, 2] = 1  # takes the pixel up and right
    image = pixels(6, 7, 3)
    image[2, 2] = 255
    shifted = np.zeros_like(image)
    shifted[1:, :-1] = image[:-1, 1:]
    protected = CUDAPoison(kernels={"a": weights})(image, "a")[0]
    assert (protected == np.rint(shifted * (255 / shifted.max()))).all()


@pytest.mark.parametrize(
    ("kernels", "message"),
    [
        ({}, "kernels is empty"),
        ({0: np.ones((2, 2))}, r"shape \(2, 2\), not \(k, k\) with odd k"),
        ({0: np.ones((3, 5))}, r"shape \(3, 5\)"),
        ({0: np.ones(3)}, r"shape \(3,\)"),
        ({0: np.zeros((3, 3))}, "not finite, or zero"),
        ({0: np.full((3, 3), 1e-5)}, r"zero in multiples of 1/4096: scale it up"),
        ({0: np.full((3, 3), np.nan)}, "not finite"),
        ({0: np.full((3, 3), np.inf)}, "not finite"),
        ({0: np.full((3, 3), 2.0)}, "above 16.0: scale it down"),
        ({0: np.full((3, 3), -2.0)}, "above 16.0"),
        ({-1: np.ones((3, 3))}, "unlabelled"),
        ({"": np.ones((3, 3))}, "empty text"),
        ([(0, np.ones((3, 3))), (np.int64(0), np.ones((3, 3)))], "names class 0 twice"),
    ],
)
def test_bad_filters_are_refused(kernels, message):
    with pytest.raises(ValueError, match=message):
        CUDAPoison(kernels=kernels)


def test_a_filter_that_is_too_heavy_only_after_rounding_is_refused():
    weights = np.full((31, 31), 16 / 961)  # rounds up to 68 / 4096
    weights += 0.4 / GRID
    with pytest.raises(ValueError, match="above 16"):
        CUDAPoison(kernels={0: weights})


@pytest.mark.parametrize(
    ("labels", "rows"), [([1, 2, 1, 3], (1, 3)), ([2, 1, 1, 1], (0,)), (["1", 1, 1, 1], (0,))], ids=str
)
def test_classes_without_a_filter_are_named_by_row(labels, rows):
    poison = CUDAPoison(kernels={1: np.ones((3, 3))})
    images = pixels(4, 8, 8, 3)
    pictures = [Image.fromarray(image) for image in images]
    for batch in (images, torch.from_numpy(images).permute(0, 3, 1, 2), pictures):
        error = error_of(lambda batch=batch: poison.apply(batch, labels), SampleError)
        assert error.rows == rows
        assert "has no filter in kernels=, which has [1]: add it" in str(error)


def test_rows_without_a_filter_are_counted_over_chunks():
    poison = CUDAPoison(kernels={1: np.ones((3, 3))})
    images = [Image.new("RGB", (900, 900), 9)] * 3 + [Image.new("RGB", (8, 8), 9)] * 2
    assert error_of(lambda: poison.apply(images, [1, 1, 1, 1, 2]), SampleError).rows == (4,)
    many = np.full((chunk_length(900 * 900 * 3) + 2, 900, 900, 3), 9, np.uint8)
    labels = [1] * (len(many) - 1) + [2]
    assert error_of(lambda: poison.apply(many, labels), SampleError).rows == (len(many) - 1,)


def test_filters_of_classes_that_look_like_tokens():
    weights = {"i:3": np.ones((3, 3)), "s:x": np.eye(3), 3: np.eye(3)[::-1]}
    poison = CUDAPoison(kernels=weights)
    for label, expected in weights.items():
        assert (poison.kernels([label])[0] == expected).all()
