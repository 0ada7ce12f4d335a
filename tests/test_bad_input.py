"""Bad input: a clear error that names the row and the remedy, in every way of calling."""

import warnings

import datasets
import numpy as np
import pytest
import torch
from conftest import encode, image_set, pixels
from PIL import Image
from torchvision.transforms import v2

import unlearnable_transforms as ut
from unlearnable_transforms import CUDAPoison, Key, SampleError

IMAGES = pixels(4, 8, 8, 3)
PICTURES = [Image.fromarray(image) for image in IMAGES]
TENSORS = list(torch.from_numpy(IMAGES).permute(0, 3, 1, 2))
FLOAT, NAN = torch.rand(3, 8, 8), torch.full((3, 8, 8), float("nan"))


def swapped(images: list, row: int, image) -> list:
    return [*images[:row], image, *images[row + 1 :]]


# What is passed to apply: images, labels, kind of error, rows, what the message says (the remedy).
BATCHES = {
    "label missing": (IMAGES, [0, None, 1, None], ValueError, (1, 3), "missing; label the sample or leave it out"),
    "label -1": (IMAGES, [0, 1, -1, 2], ValueError, (2,), "unlabelled; label the sample or leave it out"),
    "label -1 in a tensor": (
        IMAGES,
        torch.tensor([0, -1, -1, 2]),
        ValueError,
        (1, 2),
        "label the sample or leave it out",
    ),
    "label bool": (IMAGES, [0, 1, True, 2], TypeError, (2,), r"bool; .*make it an integer"),
    "labels bool": (IMAGES, np.array([True, False] * 2), TypeError, (), "bool; .*cast them to int64"),
    "label float": (IMAGES, [0, 1.0, 2, 3], TypeError, (1,), r"float; .*make it an integer"),
    "label soft": (IMAGES, [0, 1, [0.5, 0.5], 2], TypeError, (2,), "put the poison before MixUp and CutMix"),
    "labels soft": (IMAGES, torch.full((4, 3), 1 / 3), TypeError, (), "put the poison before MixUp and CutMix"),
    "labels one-hot": (IMAGES, np.eye(4, dtype=int), TypeError, (), "one class an image"),
    "label bytes": (IMAGES, [b"a", 1, 2, 3], TypeError, (0,), "integers or text"),
    "too few labels": (IMAGES, [0, 1], ValueError, (), "4 images came with 2 labels; pass one label an image"),
    "too many labels": (PICTURES, [0] * 5, ValueError, (), "4 images came with 5 labels; pass one label an image"),
    "one label": (IMAGES, 3, TypeError, (), "a batch of images needs a batch of labels"),
    "one label in a tensor": (IMAGES, torch.tensor(3), TypeError, (), "a batch of images needs a batch of labels"),
    "float batch": (IMAGES / 255, [0] * 4, TypeError, (), "before ToDtype / ToTensor / Normalize"),
    "float image": (swapped(TENSORS, 1, FLOAT), [0] * 4, TypeError, (1,), "before ToDtype / ToTensor / Normalize"),
    "NaN image": (swapped(TENSORS, 2, NAN), [0] * 4, TypeError, (2,), "holds NaN"),
    "float PIL": (
        swapped(PICTURES, 3, Image.new("F", (8, 8))),
        [0] * 4,
        TypeError,
        (3,),
        "convert it to 8-bit RGB or L",
    ),
    "16 bits": (
        swapped(PICTURES, 0, Image.new("I;16", (8, 8))),
        [0] * 4,
        TypeError,
        (0,),
        "convert it to 8-bit RGB or L",
    ),
    "CMYK": (swapped(PICTURES, 1, Image.new("CMYK", (8, 8))), [0] * 4, TypeError, (1,), "convert it to 8-bit RGB or L"),
    "list of arrays": (list(IMAGES), [0] * 4, TypeError, (), r"stack it into one uint8 array \(B, H, W, C\)"),
    "one array in the list": ([*PICTURES[:3], IMAGES[3]], [0] * 4, TypeError, (), "stack it into one uint8 array"),
    "list of lists": (IMAGES.tolist(), [0] * 4, TypeError, (), "stack it into one uint8 array"),
    "list of names": (["a.png"] * 4, [0] * 4, TypeError, (0,), "cannot protect a str: pass a PIL image"),
    "list of bytes": ([encode(IMAGES[0])] * 2, [0] * 2, TypeError, (0,), r'passed as \{"bytes": data'),
    "None": (swapped(PICTURES, 2, None), [0] * 4, TypeError, (2,), "cannot protect a NoneType: pass a PIL image"),
    "one picture": (PICTURES[0], [0], TypeError, (), "apply takes a batch"),
    "a generator": ((picture for picture in PICTURES), [0] * 4, TypeError, (), "apply takes a batch"),
    "five channels": (
        pixels(4, 8, 8, 5),
        [0] * 4,
        ValueError,
        (),
        r"shape \(B, H, W, C\) with C = 1..4; got \(4, 8, 8, 5\)",
    ),
    "channels first in an array": (pixels(4, 3, 8, 8), [0] * 4, ValueError, (), r"shape \(B, H, W, C\)"),
    "channels last in a tensor": (
        torch.zeros(4, 8, 8, 3, dtype=torch.uint8),
        [0] * 4,
        ValueError,
        (),
        r"\(B, C, H, W\)",
    ),
    "shape of one picture": (
        swapped(TENSORS, 3, torch.zeros(8, 8, dtype=torch.uint8)),
        [0] * 4,
        ValueError,
        (3,),
        "C, H, W",
    ),
    "no pixels": (np.zeros((4, 0, 8, 3), np.uint8), [0] * 4, ValueError, (), "empty"),
    "corrupt bytes": (
        swapped(PICTURES, 2, {"bytes": encode(IMAGES[0])[:90], "path": None}),
        [0] * 4,
        ValueError,
        (2,),
        "truncated.*replace or remove it",
    ),
    "no bytes": (swapped(PICTURES, 1, {"bytes": None, "path": None}), [0] * 4, ValueError, (1,), "missing"),
    "animated": (
        swapped(
            PICTURES,
            1,
            {"bytes": encode(PICTURES[0], "GIF", save_all=True, append_images=PICTURES[1:]), "path": None},
        ),
        [0] * 4,
        ValueError,
        (1,),
        "animated.*save one frame",
    ),
}


@pytest.mark.parametrize("name", BATCHES)
def test_bad_batches(poison, name):
    images, labels, kind, rows, message = BATCHES[name]
    for call in (
        (poison.apply, poison)
        if name not in ("one picture", "a generator", "one label", "one label in a tensor")
        else (poison.apply,)
    ):
        with pytest.raises(kind, match=message) as caught:
            call(images, labels)
        assert getattr(caught.value, "rows", ()) == rows
        if rows:
            named = "row " if len(rows) == 1 else "rows "
            assert str(caught.value).startswith(named + ", ".join(map(str, rows)) + ": ")


# One picture and one label, as torchvision calls: what is passed, and what the message says.
SINGLES = {
    "label missing": (PICTURES[0], None, ValueError, "missing; label the sample"),
    "label -1": (PICTURES[0], -1, ValueError, "unlabelled"),
    "label bool": (PICTURES[0], False, TypeError, "bool"),
    "label NumPy bool": (PICTURES[0], np.True_, TypeError, "bool"),
    "label float": (PICTURES[0], 2.0, TypeError, "float"),
    "soft, PIL": (PICTURES[0], [0.1, 0.9], TypeError, "before MixUp"),
    "soft, tensor": (TENSORS[0], torch.tensor([0.1, 0.9]), TypeError, "before MixUp"),
    "soft, array": (IMAGES[0], np.array([0.1, 0.9]), TypeError, "before MixUp"),
    "one-hot as long as the picture is high": (IMAGES[0], np.eye(8, dtype=int)[0], TypeError, "before MixUp"),
    "float tensor": (FLOAT, 1, TypeError, "not uint8"),
    "NaN tensor": (NAN, 1, TypeError, "NaN or infinity"),
    "float array": (IMAGES[0].astype(np.float32), 1, TypeError, "not uint8"),
    "a name": ("a.png", 1, TypeError, "cannot protect a str"),
    "nothing": (None, 1, TypeError, "cannot protect a NoneType"),
    "a matrix of numbers": (IMAGES[0].tolist(), 1, TypeError, "stack it|batch of labels"),
    "two dimensions in a tensor": (torch.zeros(8, 8, dtype=torch.uint8), 1, ValueError, r"shape \(C, H, W\)"),
    "corrupt bytes": ({"bytes": b"\x89PNG nothing", "path": None}, 1, ValueError, "replace or remove it"),
}


@pytest.mark.parametrize("name", SINGLES)
@pytest.mark.parametrize("way", ["call", "Compose", "row"])
def test_bad_singles(poison, name, way):
    image, label, kind, message = SINGLES[name]
    call = {
        "call": lambda: poison(image, label),
        "Compose": lambda: v2.Compose([poison])(image, label),
        "row": lambda: poison({"image": image, "label": label}),
    }[way]
    with pytest.raises(kind, match=message):
        call()


def bad_set(name: str) -> datasets.Dataset:
    """Data sets of four rows, of which the third is bad."""
    image, label = [encode(one) for one in IMAGES], [0, 1, 2, 3]
    kinds = {"label missing": datasets.Value("int64"), "label bool": datasets.Value("bool"), "label soft": None}
    kind = kinds.get(name, datasets.Value("int64")) or datasets.Sequence(datasets.Value("float32"))
    if name == "label missing":
        label[2] = None
    elif name == "label -1":
        label[2] = -1
    elif name == "label bool":
        label = [True, False, True, False]
    elif name == "label soft":
        label = [[0.5, 0.5]] * 4
    elif name == "label float":
        kind, label = datasets.Value("float32"), [0.0, 1.0, 2.0, 3.0]
    elif name == "label empty":
        kind, label = datasets.Value("string"), ["a", "b", "", "d"]
    elif name == "image missing":
        image[2] = None
    elif name == "file missing":
        image[2] = {"bytes": None, "path": "/no/such/file.png"}
    elif name == "corrupt bytes":
        image[2] = image[2][:100]
    elif name == "not a picture":
        image[2] = b"hello"
    elif name == "CMYK":
        image[2] = encode(Image.new("CMYK", (8, 8)), "TIFF")
    return image_set(image, label, datasets.Features({"image": datasets.Image(), "label": kind}))


SETS = {  # name: kind of error, row that is named by batches, what the message says
    "label missing": (ValueError, 2, "missing; label the sample or leave it out"),
    "label -1": (ValueError, 2, "unlabelled; label the sample or leave it out"),
    "label bool": (TypeError, 0, "bool"),
    "label soft": (TypeError, 0, "before MixUp"),
    "label float": (TypeError, 0, "float"),
    "label empty": (ValueError, 2, "empty text"),
    "image missing": (ValueError, 2, "the picture is missing"),
    "file missing": (ValueError, 2, r"/no/such/file.png does not exist; restore or remove it"),
    "corrupt bytes": (ValueError, 2, "truncated.*replace or remove it"),
    "not a picture": (ValueError, 2, "not a picture that can be read; replace or remove it"),
    "CMYK": (TypeError, 2, "mode CMYK.*convert"),
}


@pytest.mark.parametrize("name", SETS)
def test_bad_rows_of_data_sets(poison, name):
    kind, row, message = SETS[name]
    data = bad_set(name)
    with pytest.raises(kind, match=message):
        data.map(poison)
    for call in (lambda: data.map(poison, batched=True), lambda: ut.protect(data, poison)):
        with pytest.raises(kind, match=message) as caught:
            call()
        assert caught.value.rows[0] == row
        assert str(caught.value).startswith(f"row {row}: ")


@pytest.mark.parametrize(
    "name", ["label missing", "label -1", "label bool", "label soft", "label empty", "image missing"]
)
@pytest.mark.parametrize("batched", [False, True])
def test_bad_rows_of_streams(poison, name, batched):
    kind, row, message = SETS[name]
    with pytest.raises(kind) as caught:
        list(bad_set(name).to_iterable_dataset().map(poison, batched=batched))
    if name != "image missing":
        assert message.split(";")[0] in str(caught.value)
    if batched:
        assert caught.value.rows[0] == row


@pytest.mark.parametrize("name", ["label -1", "corrupt bytes", "label bool"])
def test_errors_of_workers_are_the_same(poison, name):
    kind, _, message = SETS[name]
    with pytest.raises(kind, match=message) as caught:
        bad_set(name).map(poison, batched=True, num_proc=2)
    assert isinstance(caught.value, SampleError)


def test_calls_that_are_not_calls(poison):
    with pytest.raises(TypeError, match=r"the label is missing: call poison\(image, label\).*ProtectedDataset"):
        poison(PICTURES[0])
    with pytest.raises(TypeError, match="the label is missing"):
        poison((PICTURES[0], 1))
    with pytest.raises(TypeError, match="the label is missing"):
        poison({})
    with pytest.raises(TypeError, match="4 arguments"):
        poison(PICTURES[0], 1, 2, 3)
    with pytest.raises(KeyError, match="image column; say which with image_key="):
        poison({"label": 1})
    with pytest.raises(KeyError, match="label column; say which with label_key="):
        poison({"image": PICTURES[0]})
    with pytest.raises(TypeError, match="second argument 5"):
        poison({"image": PICTURES[0], "label": 1}, 5)


@pytest.mark.parametrize("key", ["", b"", "secret words", 7, object()])
def test_a_key_is_a_key(key):
    with pytest.raises(TypeError, match=r"not a Key: use Key\.load\(path\) or Key\.generate\(\)"):
        CUDAPoison(key=key)


def test_an_empty_key_file_is_no_key(tmp_path):
    (tmp_path / "empty.key").touch(mode=0o600)
    with pytest.raises(ValueError, match=r"is empty, not a key file; make one with `unlearnable keygen`"):
        Key.load(tmp_path / "empty.key")


def test_empty_batches_are_no_error(poison):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert poison.apply(np.zeros((0, 8, 8, 3), np.uint8), []).shape == (0, 8, 8, 3)
        assert poison.apply(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), []).shape == (0, 3, 8, 8)
        assert poison.apply([], []) == []
        assert poison.apply((), np.array([], int)) == []
