"""CUDA against the paper, its exactness under every setting of torch, and how well its filters are told apart."""

import hashlib
import warnings

import numpy as np
import pytest
import torch
from conftest import CLASSES, error_of, pixels
from PIL import Image
from scipy.ndimage import correlate

from unlearnable_transforms import CUDAPoison, Key, SampleError, UnchangedWarning, get_poison, list_poisons
from unlearnable_transforms.pixels import CHUNK_VALUES, chunk_length
from unlearnable_transforms.poisons.convolution import GRID, convolve
from unlearnable_transforms.poisons.cuda import default_blur, spread_filters

BACKENDS = ("folded", "single", "fft")


def paper(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Section 3.3 of the paper in float64, for a picture (H, W, C): filter every channel, divide by the maximum."""
    blurred = correlate(image.astype(np.float64) / 255, weights.astype(np.float64)[:, :, None], mode="constant")
    return blurred / blurred.max() * 255


@pytest.mark.parametrize("shape", [(8, 8), (32, 32), (97, 61), (1, 1), (3, 40)], ids=str)
@pytest.mark.parametrize("size", [None, 3, 5, 9, 13])
@pytest.mark.parametrize("channels", [1, 3])
def test_equals_the_paper_written_out(key, shape, size, channels):
    image = pixels(*shape, channels, seed=size or 0)
    poison = CUDAPoison(key=key, kernel_size=size)
    protected = poison(image, 4)[0]
    truth = paper(image, poison.kernels([4], image_size=shape)[0])
    assert protected.shape == image.shape
    assert protected.max() == 255
    assert np.abs(protected - truth).max() <= 0.5 + 1e-4  # rounded to nearest; a tie may go either way
    clear = np.abs(truth % 1 - 0.5) > 1e-4
    assert (protected == np.rint(truth))[clear].all()
    assert clear.mean() > 0.99


@pytest.mark.parametrize("shape", [(8, 8), (32, 32), (97, 61), (61, 97), (600, 600)], ids=str)
@pytest.mark.parametrize("size", [3, 5, 9, 13])
@pytest.mark.parametrize("channels", [1, 3])
def test_three_backends_agree_byte_for_byte(key, shape, size, channels):
    count = 1 if shape == (600, 600) else 3
    images = torch.from_numpy(pixels(count, channels, *shape))
    images[0] = 255  # the largest sums
    poison = CUDAPoison(key=key, kernel_size=size)
    weights = torch.from_numpy(poison.kernels(range(count), image_size=shape))
    sums = [convolve(images, weights, backend) for backend in BACKENDS]
    assert sums[0].dtype == torch.float32
    assert sums[0].equal(sums[1])
    assert sums[0].equal(sums[2])
    assert (sums[0] * GRID % 1).eq(0).all()  # exact: on the grid, below 2**24 steps of it
    assert sums[0].max() * GRID < 2**24
    tokens = [f"i:{label}" for label in range(count)]
    protected = [poison._protect(images, tokens, None, backend) for backend in BACKENDS]
    assert protected[0].equal(protected[1])
    assert protected[0].equal(protected[2])
    assert poison.apply(images, range(count)).equal(protected[0])


@pytest.mark.parametrize("shape", [(1, 4200), (4201, 1), (65, 64), (131, 70), (17, 300)], ids=str)
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("channels", [1, 3])
def test_backends_agree_where_pictures_are_cut_into_strips(key, shape, count, channels):
    images = torch.from_numpy(pixels(count, channels, *shape))
    for size in (3, 9):
        weights = torch.from_numpy(CUDAPoison(key=key, kernel_size=size).kernels(range(count), image_size=shape))
        sums = [convolve(images, weights, backend) for backend in BACKENDS]
        assert sums[0].is_contiguous()
        assert sums[0].shape == images.shape
        assert sums[0].equal(sums[1])
        assert sums[0].equal(sums[2])


def test_the_heaviest_filters_are_still_exact():
    weights = np.random.default_rng(0).random((3, 13, 13))
    weights *= 16 / weights.sum((1, 2), keepdims=True) * (1 - 1e-4)
    poison = CUDAPoison(kernels=dict(enumerate(weights)))
    table = torch.from_numpy(poison.kernels(range(3)))
    images = torch.full((3, 3, 40, 40), 255, dtype=torch.uint8)
    sums = [convolve(images, table, backend) for backend in BACKENDS]
    assert sums[0].equal(sums[1])
    assert sums[0].equal(sums[2])
    assert 4050 < sums[0].max() < 4096


# ---- nothing but picture, class and key matters ----


def test_batch_size_order_and_chunks_do_not_matter(poison):
    count = chunk_length(3 * 32 * 32) * 2 + 37  # three chunks, the last one short
    images, labels = pixels(count, 32, 32, 3), np.random.default_rng(1).integers(0, 10, count)
    whole = poison.apply(images, labels)
    order = np.random.default_rng(2).permutation(count)
    assert (poison.apply(images[order], labels[order]) == whole[order]).all()
    for start, stop in ((0, 1), (5, 22), (count - 40, count)):
        assert (poison.apply(images[start:stop], labels[start:stop]) == whole[start:stop]).all()
    assert (poison(images[77], labels[77])[0] == whole[77]).all()
    assert 3 * 32 * 32 * chunk_length(3 * 32 * 32) <= CHUNK_VALUES


def test_mixed_sizes_are_protected_each_as_if_alone(poison):
    images = [
        Image.fromarray(pixels(h, w, 3, seed=h)) for h, w in ((8, 8), (40, 30), (8, 8), (9, 8), (300, 20), (40, 30))
    ]
    labels = [0, 1, 2, 3, 0, 1]
    together = poison.apply(images, labels)
    for image, label, protected in zip(images, labels, together, strict=True):
        assert poison(image, label)[0].tobytes() == protected.tobytes()
        assert protected.size == image.size


class Setting:
    """Sets a global of torch for a while."""

    def __init__(self, get, set_, value):
        self.get, self.set, self.value = get, set_, value

    def __enter__(self):
        self.before = self.get()
        self.set(self.value)

    def __exit__(self, *_):
        self.set(self.before)


def precision(module_path: str, value: str) -> Setting:
    """A setting ``fp32_precision`` of torch 2.9 and later."""
    module = torch.backends
    for name in module_path.split("."):
        module = getattr(module, name, None) if name else module
    if not hasattr(module, "fp32_precision"):
        pytest.skip("this torch has no fp32_precision")
    return Setting(lambda: "none", lambda v: setattr(module, "fp32_precision", v), value)


SETTINGS = {
    "1 thread": lambda: Setting(torch.get_num_threads, torch.set_num_threads, 1),
    "3 threads": lambda: Setting(torch.get_num_threads, torch.set_num_threads, 3),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "matmul precision medium": lambda: Setting(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"
    ),
    "convolutions in bf16": lambda: precision("mkldnn.conv", "bf16"),
    "oneDNN in bf16": lambda: precision("mkldnn", "bf16"),
    "everything in bf16": lambda: precision("", "bf16"),
    "oneDNN off": lambda: torch.backends.mkldnn.flags(enabled=False),
    "float64 by default": lambda: Setting(torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "float16 by default": lambda: Setting(torch.get_default_dtype, torch.set_default_dtype, torch.float16),
    "another device by default": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
    "gradients": torch.enable_grad,
    "deterministic": lambda: Setting(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
    ),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_settings_of_torch_do_not_matter(key, setting):
    # One channel alone takes another kernel; the last one gets halos.
    shapes = [(1, 64, 64, 1), (1, 40, 40, 3), (20, 32, 32, 3), (2, 97, 61, 3), (2, 150, 131, 3)]
    batches = [(pixels(*shape), range(shape[0])) for shape in shapes]
    tensors = [torch.from_numpy(pixels(3, 3, 32, 32))]
    sizes = (None, 5, 13)
    before = [CUDAPoison(key=key, kernel_size=k).apply(*batch) for k in sizes for batch in batches]
    before_tensors = [CUDAPoison(key=key).apply(batch, [0, 1, 2]) for batch in tensors]
    enabled = torch.backends.mkldnn.enabled
    with SETTINGS[setting]():
        inside = torch.backends.mkldnn.enabled
        after = [CUDAPoison(key=key, kernel_size=k).apply(*batch) for k in sizes for batch in batches]
        assert torch.backends.mkldnn.enabled == inside
        if "device" not in setting:  # asking for the values of a tensor is not for meta
            after_tensors = [CUDAPoison(key=key).apply(batch, [0, 1, 2]) for batch in tensors]
            weights = torch.from_numpy(CUDAPoison(key=key, kernel_size=5).kernels([1], image_size=32))
            sums = [convolve(tensors[0][:1], weights, backend) for backend in BACKENDS]
            assert sums[0].equal(sums[1])
            assert sums[0].equal(sums[2])
            assert all(a.equal(b) for a, b in zip(before_tensors, after_tensors, strict=True))
    assert all((a == b).all() for a, b in zip(before, after, strict=True))
    assert torch.backends.mkldnn.enabled == enabled


def test_bf16_would_change_bytes_here_if_it_were_let():
    """The test above means something only where torch really has bf16 convolutions."""
    if not hasattr(torch.backends, "fp32_precision") or not torch.cpu.get_capabilities().get("amx_bf16", False):
        pytest.skip("this torch cannot, or this machine (without AMX) does not, multiply float32 as bf16")
    image, weights = torch.rand(1, 1, 64, 64), torch.rand(1, 1, 5, 5)
    exact = torch.nn.functional.conv2d(image, weights)
    with precision("mkldnn.conv", "bf16"):
        assert not torch.nn.functional.conv2d(image, weights).equal(exact)


def test_inference_tensors_and_gradients_pass(poison):
    images = torch.from_numpy(pixels(2, 3, 8, 8))
    expected = poison.apply(images, [0, 1])
    with torch.inference_mode():
        inside = images.clone()
    assert poison.apply(inside, [0, 1]).equal(expected)
    assert not expected.requires_grad


# ---- pictures that cannot change ----


def test_black_pictures_stay_black_and_are_named(poison):
    images = pixels(5, 8, 8, 3)
    images[[1, 3]] = 0
    with pytest.warns(UnchangedWarning, match=r"^rows 1, 3: .*unprotected"):
        protected = poison.apply(images, [0] * 5)
    assert not protected[[1, 3]].any()
    assert (protected[[0, 2, 4]] != images[[0, 2, 4]]).any((1, 2, 3)).all()
    for image in (np.zeros((8, 8, 3), np.uint8), torch.zeros(3, 8, 8, dtype=torch.uint8), Image.new("L", (8, 8))):
        with pytest.warns(UnchangedWarning, match=r"^row 0: "):
            result, label = poison(image, 3)
        assert not np.asarray(result).any()
        assert label == 3


def test_unchanged_rows_are_counted_over_chunks_and_sizes(poison):
    images = [Image.fromarray(pixels(side, side, 3)) for side in (900, 8) * 4]
    images[3], images[4] = Image.new("RGB", (8, 8)), Image.new("RGB", (900, 900))
    with pytest.warns(UnchangedWarning, match=r"^rows 3, 4: ") as caught:
        poison.apply(images, range(8))
    assert len(caught) == 1


def test_nothing_is_said_when_everything_is_protected(poison):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        poison.apply(pixels(20, 8, 8, 3), range(20))
        poison(Image.new("RGB", (9, 9), (0, 0, 1)), 1)


def test_one_dark_pixel_is_enough(poison):
    image = np.zeros((9, 9, 1), np.uint8)
    image[4, 4] = 1
    protected = poison(image, 2)[0][3:6, 3:6, 0]
    assert (protected == np.rint(poison.kernels([2], image_size=9)[0][::-1, ::-1] * 255)).all()  # not flipped twice


# ---- the filters ----


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


# ---- explicit filters ----


def test_explicit_filters_are_used_as_they_are():
    weights = np.zeros((3, 3))
    weights[0, 2] = 1  # takes the pixel up and right
    image = pixels(6, 7, 3)
    image[2, 2] = 255
    shifted = np.zeros_like(image)
    shifted[1:, :-1] = image[:-1, 1:]
    protected = CUDAPoison(kernels={"a": weights})(image, "a")[0]
    assert (protected == np.rint(shifted * (255 / shifted.max()))).all()


def test_explicit_filters_of_several_sizes_and_signs():
    random = np.random.default_rng(3)
    kernels = {0: random.random((3, 3)), 1: random.random((7, 7)) / 8, 2: random.normal(size=(5, 5)) / 5}
    kernels[2][2, 2] = 2
    poison = CUDAPoison(kernels=kernels)
    images = pixels(3, 20, 24, 3)
    together = poison.apply(images, [0, 1, 2])
    for label, image in enumerate(images):
        assert (poison(image, label)[0] == together[label]).all()
        rounded = np.rint(kernels[label] * GRID) / GRID
        truth = paper(image, rounded).clip(0)
        assert np.abs(together[label] - truth).max() <= 0.5 + 1e-4


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


# ---- arguments ----


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({}, TypeError, "takes a key .* or explicit kernels, not both"),
        ({"key": "k", "kernels": {0: np.ones((3, 3))}}, TypeError, "not both"),
        ({"key": b"0" * 32}, TypeError, "key is a bytes, not a Key"),
        ({"key": "passphrase"}, TypeError, "key is a str, not a Key"),
        ({"key": "k", "kernel_size": 4}, ValueError, "odd integer and at least 3, got 4"),
        ({"key": "k", "kernel_size": 1}, ValueError, "at least 3"),
        ({"key": "k", "kernel_size": -3}, ValueError, "at least 3"),
        ({"key": "k", "kernel_size": 3.0}, ValueError, "odd integer"),
        ({"key": "k", "kernel_size": True}, ValueError, "odd integer"),
        ({"key": "k", "blur": 0}, ValueError, r"\(0, 1\], got 0"),
        ({"key": "k", "blur": 1.01}, ValueError, r"\(0, 1\]"),
        ({"key": "k", "blur": float("nan")}, ValueError, r"\(0, 1\]"),
        ({"key": "k", "kernel_size": 9, "blur": 0.3}, ValueError, "heavier than 16.0: lower the blur"),
        ({"kernels": {0: np.ones((3, 3))}, "blur": 0.3}, TypeError, "leave out strength, kernel_size and blur"),
        ({"kernels": {0: np.ones((3, 3))}, "strength": "strong"}, TypeError, "leave out strength"),
        ({"key": "k", "strength": "strong", "blur": 0.3}, TypeError, "stands for kernel_size and blur"),
        ({"key": "k", "strength": "huge"}, ValueError, "subtle, normal, strong"),
        ({"key": "k", "classes": []}, ValueError, "at least one"),
        ({"key": "k", "classes": "abc"}, ValueError, "list of class names"),
        ({"key": "k", "classes": {"a", "b"}}, ValueError, "fixed order"),
        ({"key": "k", "classes": ["a", "a"]}, ValueError, "twice"),
    ],
)
def test_bad_arguments_are_refused(key, arguments, kind, message):
    if arguments.get("key") == "k":
        arguments = {**arguments, "key": key}
    with pytest.raises(kind, match=message) as caught:
        CUDAPoison(**arguments)
    assert "passphrase" not in str(caught.value)


def test_a_blur_too_heavy_for_the_size_is_refused(key):
    with pytest.raises(ValueError, match=r"kernel_size=9 with blur=0\.5 is heavier"):
        CUDAPoison(key=key, kernel_size=9, blur=0.5)


def test_the_registry_knows_it():
    assert "cuda" in list_poisons()
    assert get_poison("cuda") is CUDAPoison
    with pytest.raises(KeyError, match="the methods are"):
        get_poison("nope")


def test_unlock_note_is_the_maximum(poison):
    for shape in ((9, 7, 3), (32, 32, 1), (64, 40, 3)):
        clean = pixels(*shape)
        clean[:2] = 255  # many brightest places
        protected = poison(clean, 5)[0]
        weights = poison.kernels([5], image_size=shape[:2])[0]
        truth = correlate(clean.astype(np.float64), weights.astype(np.float64)[:, :, None], mode="constant").max()
        assert poison.unlock_note(clean, protected, "i:5") == truth
    black = np.zeros((8, 8, 3), np.uint8)
    assert poison.unlock_note(black, black, "i:5") is None


# ---- golden bytes: a change here is a new version of the method, and stale caches ----


def photograph(side: int, channels: int) -> np.ndarray:
    """A picture (side, side + 3, channels) of integer arithmetic, the same for ever."""
    y, x, c = np.meshgrid(np.arange(side), np.arange(side + 3), np.arange(channels), indexing="ij")
    return ((x * 7 + y * 13 + c * 50 + (x * y) // 3) % 256).astype(np.uint8)


GOLDEN = {
    (8, 1): "eae606bf9ef1cb99348f6f5e4dece8a81d2ed8aa03231037a491988b2bd0ec3a",
    (8, 3): "1b91cd6ceeb5f72d2f26e86f30042189863489c63310ed2ecda85b76606a88a0",
    (32, 1): "32d256a9bbbd201070ee7cf8d20037bdfe1a230771223decc97cac09fa2d7875",
    (32, 3): "0521742b7a5da4344f06826e0f2a057568e64857a18c0b1025910a466b86d859",
    (64, 1): "d6b135be41c976e3eb3100ab3a842c34bf2928bfde95c0aada80e7ef674c880f",
    (64, 3): "2ba04e29bd3f4baff8176b96828c35b3769cc1ea60c7279ee967d415491e3853",
    (224, 1): "6b84e0a3aa3e5689de3479b994717bcd5a73f49c127e555ce347fefc9d2f3935",
    (224, 3): "cea00dae19dd1027baa64c41ca146332c77a9ccae52b735d3fab6af4989803db",
}


@pytest.mark.parametrize("side", [8, 32, 64, 224])
@pytest.mark.parametrize("channels", [1, 3])
def test_golden_bytes(side, channels):
    poison = CUDAPoison(key=Key.public("golden"))
    batch = np.stack([photograph(side, channels)] * 4)
    digest = hashlib.sha256(poison.apply(batch, [0, 3, 17, 40]).tobytes()).hexdigest()
    assert CUDAPoison.version == 2
    assert digest == GOLDEN[side, channels]


def test_golden_bytes_of_names():
    key, image = Key.public("golden"), photograph(32, 3)
    batch = np.stack([image] * 3)
    free = CUDAPoison(key=key).apply(batch, ["cat", "dog", "Möwe"])
    listed = CUDAPoison(key=key, classes=CLASSES).apply(batch, ["ant", "cat", "dog"])
    large = CUDAPoison(key=key, kernel_size=13, blur=0.05).apply(batch, [0, 1, 2])
    digests = [hashlib.sha256(result.tobytes()).hexdigest()[:32] for result in (free, listed, large)]
    assert digests == [
        "d3c30ef828133454dbacd6700a674e7b",
        "8fc88306714f40276215b65a534adf82",
        "d951e39b4a9c0444a85d8858b3d3b6c8",
    ]
