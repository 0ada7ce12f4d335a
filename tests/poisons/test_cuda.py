"""CUDA against the paper; what does not matter to it, pictures that it cannot change, its arguments and its bytes."""

import hashlib
import warnings

import numpy as np
import pytest
import torch
from conftest import CLASSES, arithmetic, pixels
from PIL import Image
from scipy.ndimage import correlate

from unlearnable_transforms import CUDAPoison, Key, UnchangedWarning, get_poison, list_poisons
from unlearnable_transforms.pixels import CHUNK_VALUES, chunk_length
from unlearnable_transforms.poisons.convolution import GRID


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


# ---- arguments ----


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({}, TypeError, "takes a key .* or explicit kernels, not both"),
        ({"key": "k", "kernels": {0: np.ones((3, 3))}}, TypeError, "not both"),
        ({"key": b"0" * 32}, TypeError, "key is a bytes, not a Key"),
        ({"key": "passphrase"}, TypeError, "key is a str, not a Key"),
        ({"key": "k", "kernel_size": 4}, ValueError, "kernel_size is an odd whole number from 3, got 4"),
        ({"key": "k", "kernel_size": 1}, ValueError, "odd whole number from 3"),
        ({"key": "k", "kernel_size": -3}, ValueError, "odd whole number from 3"),
        ({"key": "k", "kernel_size": 3.0}, ValueError, "odd whole number from 3"),
        ({"key": "k", "kernel_size": True}, ValueError, "odd whole number from 3"),
        ({"key": "k", "blur": 0}, ValueError, r"\(0, 1\], got 0"),
        ({"key": "k", "blur": 1.01}, ValueError, r"\(0, 1\]"),
        ({"key": "k", "blur": float("nan")}, ValueError, r"\(0, 1\]"),
        ({"key": "k", "kernel_size": 9, "blur": 0.3}, ValueError, "heavier than 16.0: lower the blur"),
        ({"kernels": {0: np.ones((3, 3))}, "blur": 0.3}, TypeError, "leave out strength, kernel_size and blur"),
        ({"kernels": {0: np.ones((3, 3))}, "strength": "strong"}, TypeError, "leave out strength"),
        ({"key": "k", "strength": "strong", "blur": 0.3}, TypeError, "stands for kernel_size and blur"),
        ({"key": "k", "strength": "stron"}, ValueError, "subtle, normal, strong, got 'stron': did you mean 'strong'"),
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
    batch = np.stack([arithmetic(side, channels)] * 4)
    digest = hashlib.sha256(poison.apply(batch, [0, 3, 17, 40]).tobytes()).hexdigest()
    assert CUDAPoison.version == 2
    assert digest == GOLDEN[side, channels]


def test_golden_bytes_of_names():
    key, image = Key.public("golden"), arithmetic(32, 3)
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
