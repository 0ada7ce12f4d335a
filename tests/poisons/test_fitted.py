"""Fitted methods: what they learn from, what they refuse, and how a picture finds its noise."""

import io
import pickle

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import CLASSES, KEY, encode, error_of, image_set, pixels
from PIL import ExifTags, Image
from torchvision.datasets import FakeData
from torchvision.transforms import v2

import unlearnable_transforms as ut
from unlearnable_transforms import FitWarning, PILPoison, SampleError
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.noise.pictures import Source

IMAGES = pixels(12, 16, 12, 3)
LABELS = [0, 1, 2] * 4
pytestmark = pytest.mark.filterwarnings("ignore::unlearnable_transforms.FitWarning")


def make(**arguments) -> PILPoison:
    return PILPoison(**{"key": KEY, "epochs": 3, "steps": 5, **arguments})


def image_folder(folder, images=IMAGES, labels=LABELS) -> None:
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / CLASSES[label]).mkdir(parents=True, exist_ok=True)
        (folder / CLASSES[label] / f"{number:02}.png").write_bytes(encode(image))


# ---- what fit takes ----


def test_every_container_gives_the_same_noise(tmp_path):
    truth = make().fit((IMAGES, LABELS)).apply(IMAGES, LABELS)
    tensors = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    pictures = list(map(Image.fromarray, IMAGES))
    data = image_set([encode(image) for image in IMAGES], LABELS)
    sources = [
        (tensors, torch.tensor(LABELS)),
        (pictures, LABELS),
        list(zip(pictures, LABELS, strict=True)),
        torch.utils.data.Subset(list(zip(tensors, LABELS, strict=True)), range(12)),
        data,
        data.with_format("torch"),
        data.with_transform(lambda batch: batch),
    ]
    for number, source in enumerate(sources):
        cache = pytest.MonkeyPatch()
        cache.setenv("UNLEARNABLE_TRANSFORMS_CACHE", str(tmp_path / str(number)))
        assert (make().fit(source).apply(IMAGES, LABELS) == truth).all()
        cache.undo()


def test_a_torchvision_data_set_is_read_before_its_own_transform():
    data = FakeData(10, (3, 16, 16), num_classes=3, transform=v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32)]))
    protected = ut.ProtectedDataset(data, make(data=data))
    plain = FakeData(10, (3, 16, 16), num_classes=3)
    for (image, label), (clean, same) in zip(protected, plain, strict=True):
        assert image.dtype == torch.float32
        assert int(label) == int(same)
        delta = image - v2.functional.to_image(clean)
        assert 0 < delta.abs().max() <= 8


def test_one_expression_for_map_and_for_protect(tmp_path):
    data = image_set([encode(image) for image in IMAGES], LABELS)
    mapped = data.map(make(data=data), batched=True)
    protected = ut.protect(data, make())
    protected.to_parquet(tmp_path / "x.parquet")
    for row, other, clean in zip(mapped, pq.read_table(tmp_path / "x.parquet").to_pylist(), IMAGES, strict=True):
        pixel = np.asarray(datasets.Image().decode_example(other["image"]))
        assert np.array_equal(np.asarray(row["image"]), pixel)
        assert 0 < np.abs(pixel.astype(int) - clean).max() <= 8
    shuffled = data.shuffle(seed=1).map(make(data=data))
    by_id = {bytes(np.asarray(row["image"])) for row in mapped}
    assert {bytes(np.asarray(row["image"])) for row in shuffled} == by_id


def test_a_second_map_finds_its_cache_in_a_new_object(tmp_path):
    image_set([encode(image) for image in IMAGES], LABELS).save_to_disk(tmp_path / "set")
    first = datasets.load_from_disk(tmp_path / "set").map(make(data=(IMAGES, LABELS)))
    again = datasets.load_from_disk(tmp_path / "set")
    assert again.map(make(data=again)).cache_files == first.cache_files


def test_transform_comes_first():
    small = v2.Resize(8)
    poison = make().fit(list(zip(map(Image.fromarray, IMAGES), LABELS, strict=True)), transform=small)
    assert poison.report["size"] == [10, 8]
    for image, label in zip(map(Image.fromarray, IMAGES), LABELS, strict=True):
        resized = small(image)
        delta = np.asarray(poison(resized, label)[0]).astype(int) - np.asarray(resized)
        assert 0 < np.abs(delta).max() <= 8


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: image_set([encode(IMAGES[0])], [0]).to_iterable_dataset(), "streaming"),
        (lambda: datasets.DatasetDict(train=image_set([encode(IMAGES[0])], [0])), r"data\['train'\]"),
        (lambda: None, "pass a datasets.Dataset"),
        (lambda: [IMAGES[0]], "not an \\(image, label\\) pair"),
        (lambda: (IMAGES.astype(np.float32), LABELS), "not uint8"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(data, message):
    with pytest.raises(TypeError, match=message):
        make().fit(data())


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES, [0] * 12, "of 1 classes"),
        (IMAGES[:1], [0], "1 different pictures"),
        (IMAGES[:0], [], "0 different pictures"),
        (IMAGES, [0, 1], "12 images came with 2 labels"),
        (IMAGES, [0, 1, -1] * 4, "rows 2, 5, 8, 11: the label is -1"),
        ([*map(Image.fromarray, IMAGES[:3]), Image.new("I;16", (8, 8))], [0, 1, 2, 0], "row 3"),
    ],
)
def test_rows_that_cannot_be_learnt_from_are_named(images, labels, message):
    with pytest.raises(SampleError, match=message):
        make().fit((images, labels))


# ---- how a picture finds its noise ----


def test_a_miss_names_the_rows_and_the_usual_causes():
    poison = make(data=(IMAGES, LABELS))
    error = error_of(lambda: poison.apply(np.concatenate([IMAGES[:2], 255 - IMAGES[2:5]]), LABELS[:5]), SampleError)
    assert error.rows == (2, 3, 4)
    for cause in ("resize", "EXIF", "JPEG decoder", "label", "poison.extend"):
        assert cause in str(error)
    with pytest.raises(SampleError, match="has not seen"):
        poison.apply(IMAGES, LABELS[::-1])
    with pytest.raises(SampleError, match="protected already"):
        poison.apply(poison.apply(IMAGES, LABELS), LABELS)
    with pytest.raises(ut.NotFittedError, match="fit"):
        make().apply(IMAGES, LABELS)


def test_the_same_pixels_in_another_file_get_the_same_noise():
    poison = make(data=(IMAGES, LABELS))
    truth = poison.apply(IMAGES, LABELS)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for image, label, expected in zip(IMAGES, LABELS, truth, strict=True):
        turned = encode(np.rot90(image).copy(), exif=exif.tobytes())
        for data in (encode(image), encode(image, "BMP"), encode(image, "TIFF"), turned):
            (result,) = poison.apply([{"bytes": data, "path": None}], [label])
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(result["bytes"]))), expected)


def test_two_equal_pictures_of_two_classes_get_two_noises():
    twice = np.concatenate([IMAGES, IMAGES[:1], IMAGES[:1]])
    poison = make(data=(twice, [*LABELS, 2, 0]))
    assert poison.report["rows"] == 13
    result = poison.apply(twice, [*LABELS, 2, 0])
    assert not np.array_equal(result[0], result[12])
    assert np.array_equal(result[0], result[13])


def test_pictures_of_several_sizes():
    images = [Image.fromarray(pixels(20 + 10 * row, 60 - 5 * row, 3, seed=row)) for row in range(6)]
    images[3] = images[3].convert("L")
    labels = [0, 1] * 3
    poison = make(data=(images, labels), work_size=24)
    assert poison.report["size"] == [24, 24]
    assert poison.report["largest_delta"] <= 8
    for image, result in zip(images, poison.apply(images, labels), strict=True):
        assert result.mode == image.mode
        delta = np.asarray(result).astype(int) - np.asarray(image)
        assert 3 < np.abs(delta).max() <= 8
    assert make(data=(images, labels)).report["size"] == [64, 64]


def test_a_picture_that_gets_no_noise_is_told(monkeypatch):
    white = np.full((1, 16, 12, 3), 255, np.uint8)
    poison = make()
    descend = PILPoison._descend
    monkeypatch.setattr(PILPoison, "_descend", lambda *a: -descend(*a).abs())  # released: x - delta, so brighter
    with pytest.warns(FitWarning, match="1 of 13 pictures got no noise"):
        poison.fit((np.concatenate([IMAGES, white]), [*LABELS, 0]))
    with pytest.warns(ut.UnchangedWarning, match="row 12"):
        poison.apply(np.concatenate([IMAGES, white]), [*LABELS, 0])


def test_pickles_are_small_and_hold_no_noise():
    poison = make(data=(IMAGES, LABELS))
    poison.apply(IMAGES, LABELS)
    assert len(pickle.dumps(poison)) < 700
    named = make(noise=poison.noise)
    assert named == poison
    assert (named.apply(IMAGES, LABELS) == poison.apply(IMAGES, LABELS)).all()


def test_albumentations_finds_the_noise_again(tmp_path, monkeypatch):
    import albumentations as A

    KEY.save(tmp_path / "key")
    monkeypatch.setenv("UNLEARNABLE_KEY_FILE", str(tmp_path / "key"))
    poison = make(data=(IMAGES, LABELS))
    stored = A.to_dict(A.Compose([ut.albumentations.Protect(poison)]))
    again = A.from_dict(stored)
    assert np.array_equal(again(image=IMAGES[1], label=1)["image"], poison(IMAGES[1], 1)[0])


def test_a_source_can_be_read_twice():
    source = Source((IMAGES, LABELS))
    assert [sample.id for sample in source] == [sample.id for sample in source]


# ---- the command line ----


def test_fit_then_protect_a_folder(tmp_path, capsys, monkeypatch):
    image_folder(tmp_path / "photos")
    KEY.save(tmp_path / "key")
    options = ["--method", "pil", "--eps", "6", "--key", str(tmp_path / "key")]
    assert main(["fit", str(tmp_path / "photos"), *options]) == 0
    shown = capsys.readouterr().out
    assert "12 pictures, at most 6 levels" in shown
    monkeypatch.setattr(PILPoison, "_learn", None)  # protect finds what fit has made
    assert main(["protect", str(tmp_path / "photos"), str(tmp_path / "out"), *options, "--workers", "1"]) == 0
    for path in (tmp_path / "photos").rglob("*.png"):
        other = tmp_path / "out" / path.relative_to(tmp_path / "photos")
        delta = np.asarray(Image.open(other)).astype(int) - np.asarray(Image.open(path))
        assert 0 < np.abs(delta).max() <= 6


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_protect_fits_where_there_is_no_noise(tmp_path, kind):
    KEY.save(tmp_path / "key")
    if kind == "folder":
        image_folder(tmp_path / "source")
        source = tmp_path / "source"
    else:
        source = tmp_path / "train.parquet"
        image_set([encode(image) for image in IMAGES], LABELS).to_parquet(source)
    command = ["protect", str(source), str(tmp_path / "out"), "--method", "pil", "--key", str(tmp_path / "key")]
    assert main([*command, "--workers", "1"]) == 0
    truth = PILPoison(KEY, data=(IMAGES, LABELS)).apply(IMAGES, LABELS)
    if kind == "folder":
        files = sorted((tmp_path / "out").rglob("*.png"), key=lambda path: path.name)
        results = [np.asarray(Image.open(path)) for path in files]
    else:
        results = [
            np.asarray(row["image"])
            for row in datasets.Dataset.from_parquet(str(next((tmp_path / "out").rglob("*.parquet"))))
        ]
    assert np.array_equal(np.stack(results), truth)


def test_the_command_line_refuses_what_makes_no_sense(tmp_path, capsys):
    image_folder(tmp_path / "photos")
    KEY.save(tmp_path / "key")
    key = ["--key", str(tmp_path / "key")]
    assert main(["fit", str(tmp_path / "photos"), *key]) == 2
    assert "needs no fit" in capsys.readouterr().err
    assert main(["fit", str(tmp_path / "photos"), *key, "--method", "pil", "--blur", "0.3"]) == 2
    assert "has no option --blur" in capsys.readouterr().err
    out = str(tmp_path / "out")
    assert main(["protect", str(tmp_path / "photos"), out, *key, "--method", "pil", "--label", "me"]) == 2
    assert "CUDA protects single classes" in capsys.readouterr().err
    (tmp_path / "photos" / CLASSES[0] / "bad.png").write_bytes(b"no picture")
    assert main(["fit", str(tmp_path / "photos"), *key, "--method", "pil"]) == 2
    assert "bad.png" in capsys.readouterr().err
