"""Every poison in every way of calling: the same pixels come out, byte for byte, and nothing else is touched.

A new method joins ``POISONS`` and is thereby tested in each of them; ``test_every_method_is_in_the_table`` insists.
"""

import copy
import pickle
from collections import OrderedDict, UserDict
from pathlib import Path

import albumentations as A
import datasets
import numpy as np
import pytest
import torch
from conftest import CLASSES, KEY, NUMBERS, POISONS, encode, image_set, pixels, stored, tensors, upright
from conftest import decode as decode_file
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

import unlearnable_transforms as ut
from unlearnable_transforms import CUDAPoison, Poison, ProtectedDataset

IMAGES = pixels(5, 12, 10, 3)


@pytest.fixture(params=POISONS)
def case(request) -> tuple[Poison, list]:
    make, labels = POISONS[request.param]
    return make(), list(labels)


def test_classes_make_numbers_and_names_the_same():
    results = [
        POISONS[name][0]().apply(IMAGES, POISONS[name][1]) for name in ("cuda, classes", "cuda, classes and text")
    ]
    assert (results[0] == results[1]).all()


# ---- pictures, tensors and arrays ----


def back(results) -> np.ndarray:
    """Results of any kind as one array (B, H, W, C)."""
    if isinstance(results, torch.Tensor):
        return results.permute(0, 2, 3, 1).numpy()
    if isinstance(results, np.ndarray):
        return results
    arrays = [back(one[None])[0] if isinstance(one, torch.Tensor) else np.asarray(one) for one in results]
    return np.stack(arrays)


def each(poison, images, labels) -> list:
    """Protect one by one, asserting that the kind of picture and the very label object come back."""
    results = []
    for image, label in zip(images, labels, strict=True):
        protected, same = poison(image, label)
        assert type(protected) is (Image.Image if isinstance(image, Image.Image) else type(image))
        assert same is label
        results.append(protected)
    return results


def compose_dict(poison, images, labels):
    sink = []
    for image, label in zip(map(Image.fromarray, images), labels, strict=True):
        sample = v2.Compose([poison])({"image": image, "label": label, "name": "x"})
        assert list(sample) == ["image", "label", "name"]
        assert sample["label"] is label
        sink.append(sample["image"])
    return sink


def compose_with_crop(poison, images, labels):
    """A random crop after the poison sees protected pixels: the same crop of each truth is expected."""
    pipeline, crop = v2.Compose([poison, v2.RandomCrop(8)]), v2.RandomCrop(8)
    for number, (image, label) in enumerate(zip(tensors(images), labels, strict=True)):
        torch.manual_seed(number)
        cut, same = pipeline(tv_tensors.Image(image), label)
        torch.manual_seed(number)
        assert cut.equal(crop(tv_tensors.Image(poison(image, label)[0])))
        assert same is label
    return poison.apply(images, labels)


def loader(poison, images, labels):
    data = ProtectedDataset(list(zip(tensors(images), labels, strict=True)), poison)
    batches = list(DataLoader(data, batch_size=2, num_workers=2))
    assert [
        label for _, batch in batches for label in (batch.tolist() if hasattr(batch, "tolist") else batch)
    ] == labels
    return torch.cat([batch for batch, _ in batches])


def protect_op(poison):
    return ut.albumentations.Protect(poison)


def albumentations_each(poison, images, labels):
    pipeline = A.Compose([protect_op(poison), A.NoOp()], strict=True)
    results = [pipeline(image=image, label=label) for image, label in zip(images, labels, strict=True)]
    assert [result["label"] for result in results] == labels
    return [result["image"] for result in results]


CALLS = {
    "apply array": lambda p, x, y: p.apply(x, y),
    "apply array, labels in an array": lambda p, x, y: p.apply(x, np.array(y)),
    "apply tensor": lambda p, x, y: p.apply(tensors(x), y),
    "apply tv_tensor": lambda p, x, y: p.apply(tv_tensors.Image(tensors(x)), tuple(y)),
    "apply PIL": lambda p, x, y: p.apply([Image.fromarray(image) for image in x], y),
    "apply list of tensors": lambda p, x, y: p.apply(list(tensors(x)), y),
    "apply encoded": lambda p, x, y: [
        decode_file(one["bytes"]) for one in p.apply([{"bytes": encode(image), "path": None} for image in x], y)
    ],
    "apply twice the batch": lambda p, x, y: p.apply(np.concatenate([x, x]), y + y)[len(x) :],
    "call array": lambda p, x, y: each(p, x, y),
    "call tensor": lambda p, x, y: each(p, tensors(x), y),
    "call tv_tensor": lambda p, x, y: each(p, [tv_tensors.Image(image) for image in tensors(x)], y),
    "call PIL": lambda p, x, y: each(p, [Image.fromarray(image) for image in x], y),
    "call batch": lambda p, x, y: p(tensors(x), y)[0],
    "call batch of arrays": lambda p, x, y: p(x, y)[0],
    "call batch of PIL": lambda p, x, y: p([Image.fromarray(image) for image in x], y)[0],
    "call row": lambda p, x, y: [
        p({"image": Image.fromarray(a), "label": b})["image"] for a, b in zip(x, y, strict=True)
    ],
    "call other mappings": lambda p, x, y: [
        p(kind({"img": a, "labels": b}))["img"]
        for a, b, kind in zip(x, y, [OrderedDict, UserDict, dict, OrderedDict, UserDict], strict=True)
    ],
    "call batch row": lambda p, x, y: p({"image": [Image.fromarray(a) for a in x], "label": y, "id": list("abcde")})[
        "image"
    ],
    "call tensor row": lambda p, x, y: p({"image": tensors(x), "fine_label": y})["image"],
    "pickled": lambda p, x, y: pickle.loads(pickle.dumps(p)).apply(x, y),
    "copied": lambda p, x, y: copy.deepcopy(copy.copy(p)).apply(x, y),
    "v2.Compose": lambda p, x, y: [v2.Compose([p])(a, b)[0] for a, b in zip(tensors(x), y, strict=True)],
    "v2.Compose on a dict": compose_dict,
    "v2.Compose with a crop after": compose_with_crop,
    "ProtectedDataset": lambda p, x, y: [
        image for image, _ in ProtectedDataset(list(zip(map(Image.fromarray, x), y, strict=True)), p)
    ],
    "DataLoader with workers": loader,
    "albumentations": albumentations_each,
    "albumentations, bare": lambda p, x, y: [
        protect_op(p)(image=a, label=b)["image"] for a, b in zip(x, y, strict=True)
    ],
    "albumentations, images": lambda p, x, y: A.Compose([protect_op(p)])(images=x, label=y)["images"],
    "albumentations, pickled": lambda p, x, y: pickle.loads(pickle.dumps(A.Compose([protect_op(p)])))(
        images=x, label=y
    )["images"],
}


@pytest.mark.parametrize("call", CALLS)
def test_calling_with_pictures(case, call):
    poison, labels = case
    truth = poison.apply(IMAGES, labels)
    assert (truth != IMAGES).any((1, 2, 3)).all()
    before, labels_before = IMAGES.copy(), list(labels)
    result = back(CALLS[call](poison, IMAGES, labels))
    assert result.dtype == np.uint8
    assert result.shape == truth.shape
    assert (result == truth).all()
    assert (before == IMAGES).all()
    assert labels == labels_before


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("call", ["apply array", "apply tensor", "apply list of tensors", "call array", "call batch"])
def test_calling_with_other_channels(case, call, channels):
    poison, labels = case
    images = pixels(5, 12, 10, channels)
    result = back(CALLS[call](poison, images, labels))
    colours = channels - (channels in (2, 4))
    assert (result[..., :colours] == poison.apply(np.ascontiguousarray(images[..., :colours]), labels)).all()
    assert (result[..., colours:] == images[..., colours:]).all()


def test_grey_is_rgb_of_equal_channels(case):
    poison, labels = case
    grey = pixels(5, 12, 10)
    expected = poison.apply(np.repeat(grey[..., None], 3, axis=3), labels)
    assert (expected == expected[..., :1]).all()
    assert (poison.apply(grey, labels) == expected[..., 0]).all()
    assert (back(poison.apply([Image.fromarray(image) for image in grey], labels)) == expected[..., 0]).all()
    assert (poison(grey, labels)[0] == expected[..., 0]).all()  # (B, H, W) with a batch of labels
    assert (poison(grey[2], labels[2])[0] == expected[2, ..., 0]).all()


def test_results_are_new_memory(case):
    poison, labels = case
    for images in (IMAGES, tensors(IMAGES)):
        result = poison.apply(images, labels)
        assert not np.shares_memory(np.asarray(result), np.asarray(images))
        again = poison.apply(images, labels)
        assert not np.shares_memory(np.asarray(result), np.asarray(again))


# ---- data sets ----


def files(folder: Path, format: str):
    def write(image: np.ndarray) -> dict:
        path = folder / f"{len(list(folder.iterdir()))}.{format.lower()}"
        path.write_bytes(encode(image, format))
        return {"bytes": None, "path": str(path)}

    return write


SOURCES = {  # how a picture is stored; which pixels that holds
    "PNG": lambda folder: encode,
    "JPEG": lambda folder: lambda image: encode(image, "JPEG"),
    "PNG files": lambda folder: files(folder, "PNG"),
    "JPEG files": lambda folder: files(folder, "JPEG"),
    "EXIF-rotated": lambda folder: upright,
    "bytes with a path": lambda folder: lambda image: {"bytes": encode(image), "path": "somewhere/else.png"},
}


def decoded(row: dict) -> np.ndarray:
    return np.asarray(row["image"])


def protected_rows(data: datasets.Dataset) -> list[np.ndarray]:
    """Rows of a mapped data set, asserting that it holds pictures: PNG bytes without a path, same features."""
    assert isinstance(data.features["image"], datasets.Image)
    assert all(one["path"] is None and one["bytes"].startswith(b"\x89PNG") for one in stored(data))
    return [decoded(row) for row in data]


def only_train(data: datasets.Dataset, poison: Poison) -> list[np.ndarray]:
    splits = datasets.DatasetDict(train=data, test=data).map(poison, with_split=True)
    for mine, theirs in zip(splits["test"], data, strict=True):
        assert decoded(mine).tolist() == decoded(theirs).tolist()
    return protected_rows(splits["train"])


def streamed(data: datasets.Dataset, poison: Poison, **options) -> list[np.ndarray]:
    rows = list(data.to_iterable_dataset().map(poison, **options))
    assert [row["label"] for row in rows] == data["label"][:]
    assert all(type(row["image"]) is Image.Image for row in rows)
    return [decoded(row) for row in rows]


def lazily(data: datasets.Dataset, poison: Poison) -> list[np.ndarray]:
    view = data.with_transform(poison)
    rows, batch = [decoded(view[position]) for position in range(len(data))], view[:]["image"]
    assert [row.tolist() for row in rows] == [np.asarray(image).tolist() for image in batch]
    return rows


def undecoded(data: datasets.Dataset, poison: Poison, **options) -> list[np.ndarray]:
    raw = data.cast_column("image", datasets.Image(decode=False))
    mapped = raw.map(poison, **options)
    assert mapped.features == raw.features
    return protected_rows(mapped.cast_column("image", datasets.Image()))


DATASET_CALLS = {
    "map": lambda d, p: protected_rows(d.map(p)),
    "map batched": lambda d, p: protected_rows(d.map(p, batched=True)),
    "map in batches of 2": lambda d, p: protected_rows(d.map(p, batched=True, batch_size=2)),
    "map with_split": only_train,
    "streaming": streamed,
    "streaming batched": lambda d, p: streamed(d, p, batched=True, batch_size=2),
    "with_transform": lazily,
    "map, decode=False": undecoded,
    "map batched, decode=False": lambda d, p: undecoded(d, p, batched=True),
    "streaming, decode=False": lambda d, p: [
        np.asarray(decode_file(row["image"]["bytes"]))
        for row in d.cast_column("image", datasets.Image(decode=False)).to_iterable_dataset().map(p)
    ],
    "after shuffle and select": lambda d, p: protected_rows(
        d.select([4, 3, 2, 1, 0]).map(p, batched=True).select([4, 3, 2, 1, 0])
    ),
    "ut.protect": lambda d, p: protected_rows(ut.protect(d, p)),
    "ut.protect, torch format": lambda d, p: protected_rows(ut.protect(d.with_format("torch"), p).with_format(None)),
}


def make_set(folder: Path, source: str, labels: list) -> tuple[datasets.Dataset, np.ndarray]:
    """A data set of ``IMAGES`` as a source stores them, and the pixels that they then have."""
    label = datasets.ClassLabel(names=CLASSES) if isinstance(labels[0], int) else datasets.Value("string")
    features = datasets.Features({"image": datasets.Image(), "label": label, "note": datasets.Value("string")})
    folder.mkdir()
    store = SOURCES[source](folder)
    rows = [one if isinstance(one, dict) else {"bytes": one, "path": None} for one in map(store, IMAGES)]
    columns = {"image": rows, "label": labels, "note": list("abcde")}
    data = datasets.Dataset.from_dict(columns, features=features)
    return data, np.stack([decoded(row) for row in data])


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("call", DATASET_CALLS)
@pytest.mark.parametrize("name", ["cuda", "cuda, classes and text", "cuda, explicit", "ar", "lsp", "ops", "pil", "sem"])
@pytest.mark.filterwarnings("ignore:Downcasting array dtype", "ignore:To copy construct from a tensor")
def test_calling_with_data_sets(tmp_path, name, call, source):
    make, labels = POISONS[name]
    data, clean = make_set(tmp_path / "pictures", source, labels)
    assert (clean.tolist() == IMAGES.tolist()) == ("JPEG" not in source)
    poison = make()
    truth = make().apply(clean, labels)
    features, rows = data.features.copy(), stored(data)
    results = DATASET_CALLS[call](data, poison)
    assert np.stack(results).tolist() == truth.tolist()
    assert data.features == features
    assert stored(data) == rows


@pytest.mark.parametrize("call", ["map", "map batched", "ut.protect"])
@pytest.mark.parametrize("name", ["cuda", "cuda, explicit", "pil, classes and text"])
def test_calling_with_data_sets_in_two_processes(tmp_path, name, call):
    make, labels = POISONS[name]
    data, clean = make_set(tmp_path / "pictures", "JPEG", labels)
    if call == "ut.protect":
        result = ut.protect(data, make(), num_proc=2)
    else:
        result = data.map(make(), batched=call == "map batched", batch_size=2, num_proc=2)
    assert np.stack(protected_rows(result)).tolist() == make().apply(clean, labels).tolist()
    assert result.features == data.features
    assert result["label"][:] == data["label"][:]
    assert result["note"][:] == list("abcde")


@pytest.mark.parametrize("batched", [False, True])
def test_streams_of_splits(batched):
    poison = CUDAPoison(key=KEY)
    data = image_set([encode(image) for image in IMAGES], NUMBERS)
    splits = datasets.IterableDatasetDict(train=data.to_iterable_dataset(), test=data.to_iterable_dataset())
    mapped = splits.map(poison, with_split=True, batched=batched)
    assert [decoded(row).tolist() for row in mapped["train"]] == poison.apply(IMAGES, NUMBERS).tolist()
    assert [decoded(row).tolist() for row in mapped["test"]] == IMAGES.tolist()


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_modes_on_the_way_through_map(mode, batched):
    poison = CUDAPoison(key=KEY)
    pictures = [Image.fromarray(image).convert(mode) for image in IMAGES]
    data = image_set([encode(picture) for picture in pictures], NUMBERS)
    expected = poison.apply(pictures, NUMBERS)
    for row, picture in zip(data.map(poison, batched=batched), expected, strict=True):
        assert row["image"].mode == picture.mode
        assert row["image"].tobytes() == picture.tobytes()


def test_an_image_column_with_a_mode_of_its_own():
    poison = CUDAPoison(key=KEY)
    features = datasets.Features({"image": datasets.Image(mode="L"), "label": datasets.Value("int64")})
    data = image_set([encode(image) for image in IMAGES], NUMBERS, features)
    expected = poison.apply([Image.fromarray(image).convert("L") for image in IMAGES], NUMBERS)
    mapped = data.map(poison, batched=True)
    assert mapped.features == features
    assert [row["image"].tobytes() for row in mapped] == [picture.tobytes() for picture in expected]


def test_real_photographs_by_four_roads(clothing):
    poison = CUDAPoison(key=KEY)
    truth = [poison(row["image"], row["label"])[0].tobytes() for row in clothing]
    assert [row["image"].tobytes() for row in clothing.map(poison, batched=True)] == truth
    assert [row["image"].tobytes() for row in clothing.to_iterable_dataset().map(poison)] == truth
    assert [image.tobytes() for image in clothing.with_transform(poison)[:]["image"]] == truth
    assert [row["image"].tobytes() for row in ut.protect(clothing, poison)] == truth
