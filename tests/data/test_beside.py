"""What may lie beside an image in a row, and every form of a second image that may not."""

import base64
import datetime
import json
import zlib

import datasets
import numpy as np
import pytest
import torch
from conftest import encode, image_set, pixels
from datasets import Array2D, Array3D, ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Picture

import unlearnable_transforms as ut
from unlearnable_transforms.data.beside import dataset_images, row_images, table_images

List = getattr(datasets, "List", datasets.Sequence)
IMAGES = pixels(3, 16, 16, 3)
FILES = [encode(image) for image in IMAGES]
CODED = [base64.b64encode(file).decode() for file in FILES]
FLOATS = np.random.default_rng(0).normal(size=(3, 2048)).astype(np.float32)
STRUCT = {"bytes": Value("binary"), "path": Value("string")}

FORBIDDEN = {  # name: (values of three rows, feature)
    "Image": ([{"bytes": file, "path": None} for file in FILES], Image()),
    "Image, not decoded": ([{"bytes": file, "path": None} for file in FILES], Image(decode=False)),
    "a path where an image may be": ([{"bytes": None, "path": "a.png"}] * 3, STRUCT),
    "binary": (FILES, Value("binary")),
    "large binary": (FILES, Value("large_binary")),
    "binary, compressed": ([zlib.compress(image.tobytes()) for image in IMAGES], Value("binary")),
    "binary in one row": ([None, FILES[0], b"hash"], Value("binary")),
    "list of binary": ([[file] for file in FILES], List(Value("binary"))),
    "struct of binary": ([{"data": file} for file in FILES], {"data": Value("binary")}),
    "base64": (CODED, Value("string")),
    "base64, of other letters": ([base64.urlsafe_b64encode(file).decode() for file in FILES], Value("large_string")),
    "base64 in lines": ([base64.encodebytes(file).decode() for file in FILES], Value("string")),
    "base64 in JSON": ([json.dumps({"original": text}) for text in CODED], Value("string")),
    "base64 in pieces": ([[text[at : at + 300] for at in range(0, 900, 300)] for text in CODED], List(Value("string"))),
    "base64 deep inside": ([[{"more": text}] for text in CODED], List({"more": Value("string")})),
    "a data link in text": ([f"![it](data:image/png;base64,{text})" for text in CODED], Value("string")),
    "base85": ([base64.b85encode(file).decode() for file in FILES], Value("string")),
    "hexadecimal": ([file.hex() for file in FILES], Value("string")),
    "bytes as text": ([file.decode("latin-1") for file in FILES], Value("string")),
    "bytes as Python shows them": ([repr(file) for file in FILES], Value("string")),
    "pixels as text": ([" ".join(map(str, image.ravel())) for image in IMAGES], Value("string")),
    "pixels as JSON": ([json.dumps(image.tolist()) for image in IMAGES], Value("string")),
    "Array3D": (list(IMAGES), Array3D((16, 16, 3), "uint8")),
    "Array3D, float": (list(IMAGES / 255), Array3D((16, 16, 3), "float32")),
    "Array2D": (list(IMAGES[..., 0]), Array2D((16, 16), "uint8")),
    "lists in lists": ([image.tolist() for image in IMAGES], List(List(List(Value("uint8"))))),
    "rows of grey": ([image[..., 0].tolist() for image in IMAGES], List(List(Value("float64")))),
    "a flat list": ([image.ravel().tolist() for image in IMAGES], List(Value("int64"))),
    "a flat list of 0..1": ([(image.ravel() / 255).tolist() for image in IMAGES], List(Value("float32"))),
    "a flat list of -1..1": ([(image.ravel() / 127.5 - 1).tolist() for image in IMAGES], List(Value("float32"))),
}
ALLOWED = {
    "numbers": ([1, 2, 3], Value("int64")),
    "floats": ([0.1, None, 3.0], Value("float32")),
    "bools": ([True, False, None], Value("bool")),
    "classes": ([0, 1, 0], ClassLabel(names=["a", "b"])),
    "times": ([datetime.datetime(2026, 1, 1)] * 3, Value("timestamp[us]")),
    "names": (["a.png", "b.png", None], Value("string")),
    "captions": (["a photograph of a cat on a mat. " * 40] * 3, Value("string")),
    "captions without spaces": (["这是一只猫" * 200] * 3, Value("string")),
    "links": (["https://example.org/cat.png?signed=%2Fab&with=" + "k" * 100] * 3, Value("string")),
    "hashes": ([b"0123456789abcdef"] * 3, Value("binary")),
    "hashes in text": (["0123456789abcdef" * 4] * 3, Value("string")),
    "embeddings": (list(FLOATS[:, :768]), List(Value("float32"))),
    "embeddings of ReLU": (list(np.maximum(FLOATS, 0)), List(Value("float32"))),
    "probabilities": (list(np.abs(FLOATS) / np.abs(FLOATS).sum(1, keepdims=True)), List(Value("float32"))),
    "boxes": ([[[1, 2, 30, 40]] * 5] * 3, List(List(Value("int64")))),
    "polygons": ([[(FLOATS[0, :80] * 99).tolist()]] * 3, List(List(Value("float64")))),
    "tokens": ([[49406, 320, 1125] * 40] * 3, List(Value("int64"))),
    "a mask of tokens": ([[1] * 60 + [0] * 17] * 3, List(Value("int64"))),
    "licences": ([{"id": 3, "name": "CC0"}] * 3, {"id": Value("int64"), "name": Value("string")}),
    "nothing": ([None] * 3, Value("string")),
    "empty lists": ([[]] * 3, List(Value("float32"))),
}


def answers(values, feature) -> set[bool]:
    """Whether it is refused as a table, as its rows, as a batch of rows, and as plain values."""
    data = Dataset.from_dict(
        {"image": [0, 1, 2], "more": values}, features=Features(image=Value("int64"), more=feature)
    )
    rows = list(data)
    return {
        dataset_images(data, ["image"]) == ["more"],
        table_images(data.data.table, ["image"]) == ["more"],
        any(row_images(row, None, ["image"]) for row in rows),
        row_images({"more": [row["more"] for row in rows]}, 3) == ["more"],
        any(row_images({"more": value}, None) for value in values),
    }


@pytest.mark.parametrize("name", FORBIDDEN)
def test_second_images_are_known_in_every_form(name):
    assert answers(*FORBIDDEN[name]) == {True}


@pytest.mark.parametrize("name", ALLOWED)
def test_other_columns_may_stay(name):
    assert answers(*ALLOWED[name]) == {False}


@pytest.mark.parametrize(
    ("value", "refused"),
    [
        (Picture.fromarray(IMAGES[0]), True),
        ([Picture.fromarray(IMAGES[0])], True),
        (torch.zeros(3, 16, 16, dtype=torch.uint8), True),
        (bytearray(FILES[0]), True),
        ({"a": [{"b": FILES[0]}]}, True),
        (np.array([FILES[0]], object), True),
        (object(), True),
        (torch.randn(512), False),
        (torch.randn(512, dtype=torch.bfloat16), False),
        (np.datetime64("2026-01-01"), False),
        (np.array(["a", "b"]), False),
        (np.zeros(3, np.uint8), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_that_no_table_holds(value, refused):
    assert (row_images({"more": value}, None) == ["more"]) is refused


def test_a_batch_of_arrays_is_judged_row_by_row():
    assert row_images({"more": FLOATS[:, :512]}, 3) == []
    assert row_images({"more": IMAGES.reshape(3, -1)}, 3) == ["more"]
    assert row_images({"more": np.zeros((3, 8, 4), np.float32)}, 3) == []


@pytest.mark.parametrize("name", ["binary", "base64 deep inside", "Array3D", "a flat list"])
def test_every_door_refuses_them_unless_they_are_named(name, poison):
    values, feature = FORBIDDEN[name]
    kinds = Features(image=Image(), more=feature, label=Value("int64"))
    rows = {"image": [{"bytes": file, "path": None} for file in FILES], "more": values, "label": [0, 1, 2]}
    data = Dataset.from_dict(rows, features=kinds)
    stream = data.to_iterable_dataset()
    named = ut.CUDAPoison(key=poison.key, image_key="image")
    doors = {
        "map": lambda poison: list(data.map(poison)),
        "map, batched": lambda poison: list(data.map(poison, batched=True)),
        "stream": lambda poison: list(stream.map(poison)),
        "stream, batched": lambda poison: list(stream.map(poison, batched=True)),
        "row": lambda poison: [poison(row) for row in data],
    }
    for door in doors.values():
        with pytest.raises(ValueError, match=r"columns \['more'\] hold pictures too.*keep=.*image_key=\"image\""):
            door(poison)
        assert len(door(named)) == 3
    with pytest.raises(ValueError, match=r"columns \['more'\] hold pictures too"):
        ut.protect(data, poison)
    assert ut.protect(data, poison, keep=["more"])["more"][:] == data["more"][:]


def test_columns_of_plain_kinds_pass_every_door(poison):
    data = image_set(FILES, [0, 1, 2]).add_column("caption", ["a cat " * 30] * 3).add_column("emb", list(FLOATS[:, :9]))
    for made in (data.map(poison), data.map(poison, batched=True), ut.protect(data, poison)):
        assert made["caption"][:] == data["caption"][:]
    assert len(list(data.to_iterable_dataset().map(poison))) == 3
