"""Methods that are not fitted, refuse a row or leave it as it is: the rows are named as the caller counts them."""

import albumentations as A
import datasets
import numpy as np
import pytest
import torch
from conftest import encode, error_of, image_set, pixels
from PIL import Image
from torchvision.transforms import v2

import unlearnable_transforms as ut
from unlearnable_transforms import Key, NotFittedError, Poison, SampleError, UnchangedWarning

IMAGES = pixels(4, 8, 8, 3)
PICTURES = [Image.fromarray(image) for image in IMAGES]
TENSORS = list(torch.from_numpy(IMAGES).permute(0, 3, 1, 2))


def test_rows_of_protect_are_counted_in_the_whole_set(poison):
    images = [encode(pixels(8, 8, 3, seed=row)) for row in range(600)]
    images[517] = images[517][:100]
    data = image_set(images, [0] * 600)
    assert error_of(lambda: ut.protect(data, poison), SampleError).rows == (517,)
    assert error_of(lambda: ut.protect(data, poison, num_proc=2), SampleError).rows == (517,)


class Unfitted(Poison):
    """A method that must learn first."""

    name = "unfitted"
    fitted = False

    def _protect(self, images, tokens, ids):
        raise AssertionError("used before it was fitted")


def test_an_unfitted_method_protects_nothing():
    poison = Unfitted(key=Key.public("tests"))
    data = image_set([encode(image) for image in IMAGES], [0] * 4)
    calls = [
        lambda: poison.apply(IMAGES, [0] * 4),
        lambda: poison.apply(TENSORS, [0] * 4),
        lambda: poison(PICTURES[0], 1),
        lambda: poison({"image": PICTURES[0], "label": 1}),
        lambda: data.map(poison),
        lambda: data.map(poison, batched=True),
        lambda: next(iter(data.to_iterable_dataset().map(poison))),
        lambda: data.with_transform(poison)[0],
        lambda: poison.protect_arrays([IMAGES[0]], ["i:1"]),
        lambda: ut.ProtectedDataset([(PICTURES[0], 1)], poison)[0],
        lambda: A.Compose([ut.albumentations.Protect(poison)])(image=IMAGES[0], label=1),
        lambda: v2.Compose([poison])(PICTURES[0], 1),
    ]
    for call in calls:
        with pytest.raises(NotFittedError, match=r"Unfitted is not fitted: call poison\.fit\(dataset\) first"):
            call()


def test_a_method_that_says_nothing_protects_nothing():
    class Empty(Poison):
        name = "empty"

    with pytest.raises(TypeError, match="does not say how it protects"):
        Empty(Key.public("tests")).apply(IMAGES, [0] * 4)


class Leaky(Poison):
    """A method that leaves some rows as they are and refuses others."""

    name = "leaky"
    needs_ids = True

    def _protect(self, images, tokens, ids):
        assert len(ids) == len(images) == len(set(ids))
        bad = [row for row, token in enumerate(tokens) if token == "i:9"]
        if bad:
            raise SampleError("no noise for the picture; fit again", bad)
        result = 255 - images
        for row, token in enumerate(tokens):
            if token == "i:7":
                result[row] = images[row]
        return result


@pytest.mark.parametrize("mixed", [False, True], ids=["equal sizes", "mixed sizes"])
def test_refused_and_unchanged_rows_are_named_as_the_caller_counts(mixed):
    poison = Leaky()
    pictures = [*PICTURES[:2], Image.fromarray(pixels(9, 8, 3)), PICTURES[3]] if mixed else PICTURES
    with pytest.raises(SampleError, match=r"^row 3: no noise for the picture; fit again"):
        poison.apply(pictures, [1, 7, 1, 9])
    with pytest.warns(UnchangedWarning, match=r"^rows 1, 3: "):
        poison.apply(pictures, [1, 7, 1, 7])
    if not mixed:
        for batch in (IMAGES, torch.stack(TENSORS)):
            with pytest.raises(SampleError, match=r"^rows 0, 3: no noise"):
                poison.apply(batch, [9, 7, 1, 9])
            with pytest.warns(UnchangedWarning, match=r"^row 1: "):
                poison.apply(batch, [1, 7, 1, 1])
    with pytest.raises(SampleError, match=r"^row 0: no noise|^no noise"):
        poison(pictures[2], 9)
    data = image_set([encode(picture) for picture in pictures], [1, 7, 1, 9])
    with pytest.raises(SampleError, match=r"^row 3: no noise"):
        data.map(poison, batched=True)


def test_refused_rows_of_protect_are_counted_in_the_whole_set():
    images = [encode(pixels(8, 8 + row % 3, 3, seed=row)) for row in range(300)]
    labels = [1] * 300
    labels[277] = 9
    assert error_of(lambda: ut.protect(image_set(images, labels), Leaky()), SampleError).rows == (277,)


@pytest.mark.parametrize("fraction", [1.0, 0.925])  # the key chooses row 3 and not row 2
@pytest.mark.filterwarnings("ignore:only 9")
def test_refused_rows_of_protect_are_counted_over_chunks(fraction):
    poison = Leaky(Key.public("tests"))
    large = [encode(np.full((1100, 1000, 3), row, np.uint8)) for row in range(4)]  # more than one fills a chunk
    data = image_set(large, [1, 1, 1, 9])
    assert error_of(lambda: ut.protect(data, poison, fraction=fraction), SampleError).rows == (3,)


def test_a_set_without_rows_is_refused_by_protect(poison):
    data = image_set([], [])
    with pytest.raises(ValueError, match=r"there are no rows to protect$"):
        ut.protect(data, poison)
    splits = datasets.DatasetDict(train=data, test=image_set([encode(IMAGES[0])], [0]))
    with pytest.raises(ValueError, match=r"there are no rows to protect in \['train'\]"):
        ut.protect(splits, poison)
    assert len(data.map(poison)) == 0
