"""Samples: the token of a class and the id of a picture."""

import pickle
import unicodedata
from array import array
from decimal import Decimal
from enum import IntEnum

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from conftest import encode, error_of, image_set, pixels, upright
from PIL import Image

from unlearnable_transforms import SampleError
from unlearnable_transforms.data.image import open_image
from unlearnable_transforms.sample import SampleTypeError, batch_tokens, class_token, name_rows, sample_id, sample_ids


class Animal(IntEnum):
    CAT = 3


NFC, NFD = (unicodedata.normalize(form, "Möwe") for form in ("NFC", "NFD"))
THREES = [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), torch.tensor(3, dtype=torch.int8), Animal.CAT]
THREES += [np.array([3]), torch.tensor([3]), [3], (3,)]  # a row of labels (N, 1), as Keras and MedMNIST have them


@pytest.mark.parametrize("label", THREES, ids=lambda label: type(label).__name__)
def test_integers_of_every_kind_name_the_same_class(label):
    assert class_token(label) == "i:3"
    assert class_token(label, ["a", "b", "c", "d"]) == "s:d"
    assert class_token(label, [7, 3]) == "i:3"
    assert batch_tokens([label, 0], 2) == ["i:3", "i:0"]


def test_text_is_told_apart_by_what_it_says():
    assert NFC != NFD
    assert class_token(NFC) == class_token(NFD) == class_token(np.str_(NFD)) == f"s:{NFC}"
    assert class_token("cat") != class_token("Cat") != class_token("cat ")
    assert class_token("3") == "s:3" != class_token(3)
    assert class_token("i:3") == "s:i:3"


def test_classes_turn_numbers_into_names():
    names = ["cat", NFD]
    assert [class_token(label, names) for label in (0, 1, "cat", NFC)] == ["s:cat", f"s:{NFC}", "s:cat", f"s:{NFC}"]
    assert class_token(5, np.array([5, 6])) == "i:5"
    assert class_token("b", np.array(["a", "b"])) == "s:b"


@pytest.mark.parametrize(
    ("label", "classes", "kind", "message"),
    [
        (None, None, ValueError, "missing.*leave it out"),
        (-1, None, ValueError, "-1, which means unlabelled"),
        (np.int8(-1), ["a"], ValueError, "unlabelled"),
        (torch.tensor(-100), None, ValueError, "-100"),
        ("", None, ValueError, "empty text"),
        (True, None, TypeError, "bool.*int()"),
        (np.False_, None, TypeError, "bool"),
        (torch.tensor(True), None, TypeError, "bool"),
        (1.0, None, TypeError, "float.*int()"),
        (np.float32("nan"), None, TypeError, "float"),
        (torch.tensor(1.0), None, TypeError, "float"),
        ([0, 1], None, TypeError, "soft.*before MixUp"),
        ((0.5, 0.5), None, TypeError, "soft"),
        (np.array([0.1, 0.9]), None, TypeError, "soft"),
        (torch.tensor([0.5]), None, TypeError, "float"),
        (torch.tensor([True]), None, TypeError, "bool"),
        ([None], None, ValueError, "missing"),
        ([[3, 3]], None, TypeError, "soft"),
        (np.array([3, 3]), None, TypeError, "soft"),
        (b"cat", None, TypeError, "not bytes"),
        ("caf\udce9", None, ValueError, "no text that can be written as UTF-8"),
        (object(), None, TypeError, "not object"),
        (3, ["a", "b", "c"], ValueError, "label is 3, but there are 3 classes"),
        (3, [0, 1], ValueError, r"3 is not in classes=\[0, 1\]"),
        ("d", ["a", "b"], ValueError, r"'d' is not in classes=\['a', 'b'\]"),
        ("a", [0, 1], ValueError, "not in classes"),
        (0, [], ValueError, "at least one"),
        (0, "ab", ValueError, "list of class names"),
        (0, {"a", "b"}, ValueError, "fixed order"),
        (0, {"a": 1}, ValueError, "fixed order"),
        (0, b"ab", ValueError, "fixed order"),
        (0, ["a", "a"], ValueError, "twice"),
        (0, [NFC, NFD], ValueError, "twice"),
        (0, ["a", 1], ValueError, "mixes"),
        (0, ["a", None], ValueError, "missing"),
        (0, [True, 0], TypeError, "bool"),
    ],
)
def test_labels_that_name_no_class_are_refused(label, classes, kind, message):
    with pytest.raises(kind, match=message):
        class_token(label, classes)


@pytest.mark.parametrize(
    "labels",
    [
        [2, 0, 2],
        (2, 0, 2),
        np.array([2, 0, 2]),
        np.array([2, 0, 2], np.uint8),
        np.array([2, 0, 2], object),
        torch.tensor([2, 0, 2]),
        [np.int64(2), 0, torch.tensor(2)],
        range(2, -1, -1),
        np.array([[2], [0], [2]], np.uint8),
        torch.tensor([[2], [0], [2]]),
        [[2], [0], [2]],
        array("q", [2, 0, 2]),
        pd.Series([2, 0, 2], index=[7, 5, 6]),
        pd.Categorical([2, 0, 2]),
        pa.array([2, 0, 2]),
        pa.chunked_array([[2], [0, 2]]),
        image_set([b""] * 3, [2, 0, 2])["label"],
    ],
    ids=lambda labels: type(labels).__name__,
)
def test_batches_of_labels(labels):
    expected = ["i:2", "i:1" if isinstance(labels, range) else "i:0", "i:0" if isinstance(labels, range) else "i:2"]
    assert batch_tokens(labels, 3) == expected
    assert batch_tokens(labels, 3, ["a", "b", "c"]) == ["s:" + "abc"[int(token[2:])] for token in expected]


def test_batches_of_text():
    assert batch_tokens(["a", NFD, "a"], 3) == batch_tokens(np.array(["a", NFD, "a"]), 3) == ["s:a", f"s:{NFC}", "s:a"]
    assert batch_tokens([], 0) == []


@pytest.mark.parametrize(
    ("labels", "rows", "message"),
    [
        ([0, -1, 2, -1], (1, 3), r"^rows 1, 3: the label is -1"),
        ([0, None, 2, 3], (1,), r"^row 1: the label is missing"),
        ([-1] * 12, tuple(range(12)), r"^rows 0, 1, 2, 3, 4 \.\.\. \(12 in all\): "),
        (torch.tensor([0, 1, -1]), (2,), "^row 2: "),
        (["a", "", "b"], (1,), "^row 1: .*empty"),
        ([0, 1, float("nan")], (2,), "^row 2: .*float"),
        ([0, True, 1], (1,), "^row 1: .*bool"),
        ([1, True], (1,), "^row 1: .*bool"),
        ([True, 1], (0,), "^row 0: .*bool"),
        ([0, 1.0], (1,), "^row 1: .*float"),
        ([1, 1.0], (1,), "^row 1: .*float"),
        ([1, Decimal(1)], (1,), "^row 1: .*not Decimal"),
        ([0, [0, 1]], (1,), "^row 1: .*soft"),
        ([torch.tensor([0.5, 0.5])] * 2, (0,), "^row 0: .*soft"),
        (torch.tensor([True, False]), (), "bool"),
        (np.array([True, False]), (), "bool"),
        (torch.eye(3), (), "soft.*MixUp"),
        (np.eye(3, dtype=int), (), r"shape \(3, 3\): soft"),
        (3, (), "a batch of labels, not int"),
        ("cat", (), "a batch of labels, not str"),
        (torch.tensor(3), (), "a batch of labels, not Tensor"),
        (np.array(3), (), "a batch of labels, not ndarray"),
        (None, (), "a batch of labels, not NoneType"),
        ({0: 1, 1: 0}, (), "a batch of labels, not dict: pass a list, an array or a tensor"),
        ({0, 1}, (), "not set"),
        (frozenset((0, 1)), (), "not frozenset"),
        ({0: 1, 1: 0}.keys(), (), "not dict_keys"),
        ({0: 1, 1: 0}.values(), (), "not dict_values"),
        (iter([0, 1]), (), "not list_iterator"),
        ((label for label in (0, 1)), (), "not generator"),
        (b"01", (), "not bytes"),
        (bytearray(b"01"), (), "not bytearray"),
        (pd.DataFrame({"label": [0, 1]}), (), "not DataFrame"),
        (np.array([[0, 1]]), (), r"shape \(1, 2\).*labels\.ravel\(\)"),
        (np.array([[0.0], [1.0]]), (0,), "^row 0: .*float"),
        (np.array([[True], [False]]), (), "bool"),
        (np.ma.array([[0], [1]], mask=[[False], [True]]), (1,), "^row 1: .*missing"),
    ],
)
def test_bad_labels_in_a_batch_are_named_by_row(labels, rows, message):
    count = len(labels) if hasattr(labels, "__len__") and getattr(labels, "ndim", 1) else 1
    error = error_of(lambda: batch_tokens(labels, count), (SampleError, TypeError))
    with pytest.raises(type(error), match=message):
        batch_tokens(labels, count)
    assert getattr(error, "rows", ()) == rows


@pytest.mark.parametrize("count", [0, 2, 4])
def test_as_many_labels_as_images(count):
    with pytest.raises(SampleError, match=f"{count} images came with 3 labels"):
        batch_tokens([0, 1, 2], count)


def test_labels_outside_the_class_list_are_named_by_row():
    with pytest.raises(SampleError, match=r"^rows 1, 2: the label is 7, but there are 2 classes"):
        batch_tokens([0, 7, 8], 3, ["a", "b"])


def test_rows_are_named_briefly():
    assert name_rows([4]) == "row 4"
    assert name_rows([4, 7]) == "rows 4, 7"
    assert name_rows(range(5)) == "rows 0, 1, 2, 3, 4"
    assert name_rows(range(6)) == "rows 0, 1, 2, 3, 4 ... (6 in all)"


def test_errors_keep_rows_and_kind_between_processes():
    for error in (SampleError("bad", [1, 2]), SampleError.at([3], TypeError("odd")), SampleError("plain")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.rows) == (type(error), str(error), error.rows)
    assert isinstance(SampleError.at([3], TypeError("odd")), TypeError)
    assert str(SampleError.at([3], SampleError("x", [1]))) == "row 3: x"
    assert issubclass(SampleTypeError, SampleError)


# ---- ids ---------------------------------------------------------------------------------------------------------


def test_a_grey_picture_is_the_same_sample_as_rgb_of_equal_channels():
    grey = pixels(5, 7, 1)
    assert sample_id(grey, "i:1") == sample_id(np.repeat(grey, 3, axis=2), "i:1")


def test_ids_differ_by_pixel_shape_and_class():
    image = pixels(6, 6, 3)
    other = image.copy()
    other[5, 5, 2] ^= 1
    ids = {
        sample_id(image, "i:1"),
        sample_id(other, "i:1"),
        sample_id(image, "i:2"),
        sample_id(image, "s:1"),
        sample_id(image.reshape(4, 9, 3), "i:1"),
        sample_id(image.reshape(9, 4, 3), "i:1"),
        sample_id(image.transpose(1, 0, 2), "i:1"),
        sample_id(image[:, :, ::-1], "i:1"),
        sample_id(image[:, :, :1], "i:1"),
    }
    assert len(ids) == 9
    assert {len(one) for one in ids} == {16}


def test_ids_do_not_depend_on_memory_layout():
    image = pixels(6, 8, 3)
    views = [
        np.asfortranarray(image),
        np.flip(np.flip(image, 1).copy(), 1),
        image.transpose(2, 0, 1).copy().transpose(1, 2, 0),
    ]
    assert {sample_id(view, "i:0") for view in views} == {sample_id(image, "i:0")}


@pytest.mark.parametrize(
    "container",
    [
        lambda image: image,
        lambda image: torch.from_numpy(image).permute(2, 0, 1),
        lambda image: Image.fromarray(image),
        lambda image: {"bytes": encode(image), "path": None},
        lambda image: {"bytes": encode(image, "WEBP", lossless=True), "path": None},
        lambda image: {"bytes": upright(image), "path": None},
        lambda image: Image.fromarray(np.dstack([image, pixels(*image.shape[:2])])),
    ],
    ids=["array", "tensor", "PIL", "PNG", "lossless WebP", "EXIF-rotated", "RGBA"],
)
def test_ids_are_the_same_over_every_container(container):
    image = pixels(9, 7, 3)
    assert sample_id(open_image(container(image)).colour, "s:x") == sample_id(image, "s:x")


@pytest.mark.parametrize("shape", [(4, 3, 12, 10), (4, 1, 12, 10), (2, 3, 1, 1), (1, 1, 7, 300), (0, 3, 8, 8)], ids=str)
def test_ids_of_a_batch_are_those_of_its_pictures(shape):
    images, tokens = torch.from_numpy(pixels(*shape)), ["i:1", "s:möwe", "i:1", "i:2"][: shape[0]]
    expected = [sample_id(image.permute(1, 2, 0).numpy(), token) for image, token in zip(images, tokens, strict=True)]
    assert sample_ids(images, tokens) == expected
    turned = images.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
    assert sample_ids(turned, tokens) == expected


def test_golden_id():
    assert (
        sample_id(np.arange(60, dtype=np.uint8).reshape(4, 5, 3), "s:cat").hex() == "ce20262a8a27f59ef8e561be0a344782"
    )
