"""Traps of datasets: what would let a clean, or a wrong, picture out without a word.

Each is shown first where it can be (as people write it), then that the library is not caught in it.
"""

import datasets
import numpy as np
import pytest
import torch
from conftest import CLASSES, ROOT, decode, encode, image_set, pixels, run_python, stored, upright
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import unlearnable_transforms as ut
from unlearnable_transforms import CUDAPoison, Key, ProtectedDataset, SampleError

IMAGES = pixels(4, 12, 10, 3)
LABELS = [0, 1, 2, 3]


def png_set() -> datasets.Dataset:
    return image_set([encode(image) for image in IMAGES], LABELS)


def jpeg_set() -> datasets.Dataset:
    return image_set([encode(image, "JPEG", quality=60) for image in IMAGES], LABELS)


def shown(data, column: str = "image") -> list:
    return [np.asarray(row[column]).tolist() for row in data]


BATCHED = pytest.mark.parametrize("batched", [False, True], ids=["rows", "batches"])


# ---- how pictures are stored ----


@BATCHED
def test_in_place_edit_would_store_the_original_path(tmp_path, poison, batched):
    rows = []
    for number, image in enumerate(IMAGES):
        (tmp_path / f"{number}.png").write_bytes(encode(image))
        rows.append({"bytes": None, "path": str(tmp_path / f"{number}.png")})
    data = image_set(rows, LABELS)

    def in_place(row):
        row["image"].paste(0, (0, 0, 5, 5))
        return {"image": row["image"]}

    assert shown(data.map(in_place)) == IMAGES.tolist()  # the trap: the edit is lost
    mapped = data.map(poison, batched=batched)
    assert shown(mapped) == poison.apply(IMAGES, LABELS).tolist()
    assert str(tmp_path) not in str(stored(mapped))


@BATCHED
def test_jpeg_sources_are_not_encoded_as_jpeg_again(poison, batched):
    data = jpeg_set()

    def in_place(row):
        row["image"].paste(0, (0, 0, 5, 5))
        return {"image": row["image"]}

    assert stored(data.map(in_place))[0]["bytes"].startswith(b"\xff\xd8")  # the trap
    mapped = data.map(poison, batched=batched)
    assert [one["bytes"][:4] for one in stored(mapped)] == [b"\x89PNG"] * 4
    clean = np.array(shown(data), np.uint8)
    assert shown(mapped) == poison.apply(clean, LABELS).tolist()


@BATCHED
def test_bytes_beside_an_existing_path_do_not_keep_the_clean_file(tmp_path, poison, batched):
    path = tmp_path / "clean.png"
    path.write_bytes(encode(IMAGES[0]))
    both = image_set([{"bytes": encode(IMAGES[1]), "path": str(path)}], [1])
    raw = both.cast_column("image", datasets.Image(decode=False))
    edited = raw.map(lambda row: {"image": {**row["image"], "bytes": encode(IMAGES[2])}})
    assert [one["path"] for one in stored(edited)] == [str(path)]  # the trap: the clean file is still named
    row = {"image": {"bytes": encode(IMAGES[1]), "path": str(path)}, "label": 1}
    protected = poison(row)["image"]
    assert protected["path"] is None
    rebuilt = image_set([protected], [1])
    assert shown(rebuilt) == poison.apply(IMAGES[1:2], [1]).tolist()
    assert [one["path"] for one in stored(raw.map(poison, batched=batched))] == [None]


@pytest.mark.filterwarnings("ignore:Downcasting array dtype")
def test_grey_does_not_become_mode_i(poison):
    grey = IMAGES[..., 0]
    data = image_set([encode(image) for image in grey], LABELS)
    assert data.map(lambda row: {"image": np.asarray(row["image"])})[0]["image"].mode == "I"  # the trap
    for batched in (False, True):
        mapped = data.map(poison, batched=batched)
        assert [row["image"].mode for row in mapped] == ["L"] * 4
        assert shown(mapped) == poison.apply(grey, LABELS).tolist()


def test_new_columns_do_not_change_features(poison):
    data = jpeg_set()
    for batched in (False, True):
        assert data.map(poison, batched=batched).features == data.features


@BATCHED
def test_untouched_columns_are_not_encoded_again(batched):
    thumbs = [encode(image[:4, :4], "JPEG", quality=50) for image in IMAGES]
    features = datasets.Features(
        {"image": datasets.Image(), "thumb": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)}
    )
    columns = {
        "image": [{"bytes": encode(image), "path": None} for image in IMAGES],
        "thumb": [{"bytes": thumb, "path": "thumb.jpg"} for thumb in thumbs],
        "label": LABELS,
    }
    data = datasets.Dataset.from_dict(columns, features=features)
    mapped = data.map(CUDAPoison(key=Key.public("tests"), image_key="image"), batched=batched)
    assert stored(mapped, "thumb") == columns["thumb"]
    assert mapped.features == features
    assert mapped["label"][:] == LABELS


@BATCHED
def test_rows_of_another_split_are_not_encoded_again(poison, batched):
    data = jpeg_set()
    mapped = datasets.DatasetDict(train=data, test=data).map(poison, with_split=True, batched=batched)
    assert stored(mapped["test"]) == stored(data)
    assert stored(mapped["train"]) != stored(data)


def test_orientation_tags_are_applied_by_every_reader(tmp_path, poison):
    """datasets turns a picture by its EXIF tag, torchvision's reader does not: the same sample either way."""
    path = tmp_path / "a" / "b" / "turned.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(upright(IMAGES[0]))
    truth = poison(IMAGES[0], 0)[0].tolist()
    assert np.asarray(poison(Image.open(path), 0)[0]).tolist() == truth
    assert shown(image_set([{"bytes": None, "path": str(path)}], [0]).map(poison)) == [truth]
    folder = ProtectedDataset(ImageFolder(tmp_path / "a", loader=Image.open), poison)
    assert np.asarray(folder[0][0]).tolist() == truth


# ---- how map calls ----


def test_lazy_rows_are_no_silent_no_op(poison):
    """A v2 transform sees a LazyRow as one leaf and returns it as it is; a poison must not be wrapped by one either."""
    data = png_set()
    assert shown(data.map(v2.RandomInvert(p=1.0))) == IMAGES.tolist()  # the trap
    truth = poison.apply(IMAGES, LABELS).tolist()
    assert shown(data.map(poison)) == truth
    assert shown(data.map(v2.Compose([poison]))) == truth


def test_a_poison_is_not_a_module_whose_mode_changes_its_fingerprint(poison):
    assert not isinstance(poison, torch.nn.Module)
    assert callable(poison)


@BATCHED
def test_position_does_not_matter_after_shuffle_and_select(poison, batched):
    data = png_set()
    truth = poison.apply(IMAGES, LABELS)
    shuffled = data.shuffle(seed=3)
    order = shuffled["label"][:]
    assert order != LABELS
    assert shown(shuffled.map(poison, batched=batched)) == truth[order].tolist()
    assert shown(data.select([2]).map(poison, batched=batched)) == truth[[2]].tolist()
    stream = shuffled.to_iterable_dataset().skip(1)
    assert shown(stream.map(poison, batched=batched)) == truth[order[1:]].tolist()


@pytest.mark.parametrize("option", ["with_indices", "with_rank"])
@BATCHED
def test_positions_and_ranks_are_refused(poison, option, batched):
    with pytest.raises(TypeError, match=r"without with_indices and with_rank.*pixels"):
        png_set().map(poison, batched=batched, **{option: True})


def test_dataset_dict_map_protects_every_split_and_with_split_the_training_data_only(poison):
    data = png_set()
    truth, clean = poison.apply(IMAGES, LABELS).tolist(), IMAGES.tolist()
    names = ["train", "train_extra", "Training", "test", "validation", "val", "dev", "eval", "holdout"]
    splits = datasets.DatasetDict(dict.fromkeys(names, data))
    assert [shown(split) for split in splits.map(poison).values()] == [truth] * len(names)
    for batched in (False, True):
        mapped = splits.map(poison, with_split=True, batched=batched)
        assert [shown(split) for split in mapped.values()] == [truth] * 3 + [clean] * 6


@BATCHED
@pytest.mark.parametrize("name", ["unsupervised", "full", "all", "extra", "data"])
def test_splits_of_unclear_purpose_are_refused(poison, name, batched):
    splits = datasets.DatasetDict({"train": png_set(), name: png_set()})
    with pytest.raises(ValueError, match=f"is the split '{name}' training data.*Name it train"):
        splits.map(poison, with_split=True, batched=batched)


@pytest.mark.slow
def test_num_proc_does_not_hang_after_torch_used_threads():
    """Forked workers wait for the parent's threads for ever, unless the poison sets its own number to one."""
    code = """
import torch, numpy as np
torch.set_num_threads(2)
torch.randn(3000, 3000).sort()  # the parent uses its threads
(torch.randn(1500, 1500) @ torch.randn(1500, 1500)).sum()
import datasets, unlearnable_transforms as ut
from conftest import encode, image_set, pixels
datasets.disable_progress_bars()
images = pixels(40, 64, 64, 3)
poison = ut.CUDAPoison(key=ut.Key.public("tests"))
truth = poison.apply(images, [1] * 40)
data = image_set([encode(image) for image in images], [1] * 40)
for batched in (False, True):
    for row, expected in zip(data.map(poison, num_proc=2, batched=batched), truth):
        assert (np.asarray(row["image"]) == expected).all()
assert torch.get_num_threads() == 2
print("done")
"""
    assert run_python(code, timeout=60, OMP_NUM_THREADS="2").strip() == "done"


def test_with_transform_is_lazy_and_would_publish_the_original(tmp_path, poison):
    data = png_set()
    view = data.with_transform(poison)
    assert shown([view[0]]) == poison.apply(IMAGES[:1], [0]).tolist()
    view.to_parquet(tmp_path / "view.parquet")
    written = datasets.Dataset.from_parquet(str(tmp_path / "view.parquet"), cache_dir=str(tmp_path / "cache"))
    assert shown(written) == IMAGES.tolist()  # the trap, which only documentation can mark
    data.map(poison).to_parquet(tmp_path / "mapped.parquet")
    written = datasets.Dataset.from_parquet(str(tmp_path / "mapped.parquet"), cache_dir=str(tmp_path / "cache"))
    assert shown(written) == poison.apply(IMAGES, LABELS).tolist()
    assert "to_parquet" in (ROOT / "docs" / "conventions.md").read_text(encoding="utf-8")


def test_a_transform_that_sees_no_label_is_refused(poison):
    """ds["image"] of a set with a transform formats the image column alone."""
    view = png_set().with_transform(poison)
    with pytest.raises(KeyError, match="label column; say which with label_key="):
        view.select_columns(["image"]).with_transform(poison)[0]


# ---- columns ----


def columns(**values) -> datasets.Dataset:
    pictures = {name: [Image.fromarray(image) for image in IMAGES] for name, kind in values.items() if kind == "image"}
    return datasets.Dataset.from_dict({name: pictures.get(name, LABELS) for name in values})


@BATCHED
@pytest.mark.parametrize("names", [("image", "label"), ("img", "labels"), ("img", "fine_label")], ids=" ".join)
def test_common_column_names_are_found(poison, names, batched):
    image, label = names
    data = columns(**{image: "image", "coarse_label": "int", label: "int"})
    assert shown(data.map(poison, batched=batched), image) == poison.apply(IMAGES, LABELS).tolist()


def test_fine_label_is_taken_and_coarse_label_never(poison):
    """v2's default getter takes the first key that contains "label"."""
    data = columns(img="image", coarse_label="int", fine_label="int").map(lambda row: {"coarse_label": 3})
    assert shown(data.map(poison), "img") == poison.apply(IMAGES, LABELS).tolist()
    coarse = CUDAPoison(key=poison.key, label_key="coarse_label")
    assert shown(data.map(coarse), "img") == poison.apply(IMAGES, [3] * 4).tolist()
    with pytest.raises(KeyError, match=r"none of the columns is known.*label_key=.*\['img', 'coarse_label'\]"):
        data.remove_columns("fine_label").map(poison)


@BATCHED
def test_ambiguous_columns_are_refused_with_the_choices(poison, batched):
    with pytest.raises(KeyError, match=r"\['label', 'fine_label'\] could all be the label column.*label_key="):
        columns(image="image", label="int", fine_label="int").map(poison, batched=batched)
    with pytest.raises(KeyError, match=r"\['image', 'img'\] could all be the image column.*image_key="):
        columns(image="image", img="image", label="int").map(poison, batched=batched)
    with pytest.raises(KeyError, match=r"there is no column 'picture'; the columns are \['image', 'label'\]"):
        columns(image="image", label="int").map(CUDAPoison(key=poison.key, image_key="picture"), batched=batched)


@BATCHED
def test_a_second_image_column_is_refused_unless_the_image_is_named(poison, batched):
    data = columns(image="image", thumbnail="image", label="int")
    message = r"columns \['thumbnail'\] hold pictures too.*remove these columns.*keep=.*image_key=\"image\""
    with pytest.raises(ValueError, match=message):
        data.map(poison, batched=batched)
    with pytest.raises(ValueError, match=message):
        list(data.to_iterable_dataset().map(poison, batched=batched))
    with pytest.raises(ValueError, match=message):
        data.with_transform(poison)[0]
    with pytest.raises(ValueError, match=message):
        ut.protect(data, poison)
    raw = data.cast_column("thumbnail", datasets.Image(decode=False))
    with pytest.raises(ValueError, match=message):
        list(raw.to_iterable_dataset().map(poison, batched=batched))
    named = data.map(CUDAPoison(key=poison.key, image_key="image"), batched=batched)
    assert shown(named) == poison.apply(IMAGES, LABELS).tolist()
    assert shown(named, "thumbnail") == IMAGES.tolist()


@pytest.mark.parametrize(
    "feature",
    [
        datasets.List(datasets.Image()) if hasattr(datasets, "List") else datasets.Sequence(datasets.Image()),
        {"inner": datasets.Image()},
        [{"inner": datasets.Image()}],
    ],
    ids=["list", "struct", "list of structs"],
)
def test_pictures_inside_lists_and_structs_count_as_second_columns(poison, feature):
    features = datasets.Features({"image": datasets.Image(), "more": feature, "label": datasets.Value("int64")})
    picture = {"bytes": encode(IMAGES[0]), "path": None}
    more = (
        {"inner": picture}
        if isinstance(feature, dict)
        else [{"inner": picture} if isinstance(feature, list) else picture]
    )
    data = datasets.Dataset.from_dict({"image": [picture], "more": [more], "label": [0]}, features=features)
    with pytest.raises(ValueError, match=r"columns \['more'\] hold pictures too"):
        data.map(poison)


@BATCHED
def test_a_column_that_is_not_an_image_is_refused(poison, batched):
    data = datasets.Dataset.from_dict({"image": ["a.png"], "label": [0]})
    with pytest.raises(SampleError, match=r"column 'image' is Value.*cast_column\('image', datasets.Image\(\)\)"):
        data.map(poison, batched=batched)
    nested = datasets.Dataset.from_dict({"image": [[[[1, 2, 3]]]], "label": [0]})
    with pytest.raises(SampleError, match="cast it first"):
        nested.map(poison, batched=batched)


@BATCHED
@pytest.mark.parametrize("kind", ["arrow", "pandas"])
def test_tables_are_refused(poison, batched, kind):
    message = r"passed a (Table|DataFrame), not the stored row.*ds.with_format\(None\).map\(poison\)"
    formatted = png_set().with_format(kind)
    with pytest.raises(TypeError, match=message):
        formatted.map(poison, batched=batched)
    with pytest.raises(TypeError, match=message):
        list(png_set().to_iterable_dataset().with_format(kind).map(poison, batched=batched))
    assert shown(ut.protect(formatted, poison).with_format(None)) == poison.apply(IMAGES, LABELS).tolist()


@BATCHED
@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_formatted_rows_are_not_what_is_stored(poison, batched, kind):
    formatted = png_set().with_format(kind)
    with pytest.raises(TypeError, match=r"passed a dict, not the stored row.*ut.protect\(ds, poison\)"):
        formatted.map(poison, batched=batched)
    assert shown(formatted.with_format(None).map(poison, batched=batched)) == poison.apply(IMAGES, LABELS).tolist()


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_formatted_streams_are_protected(poison, kind):
    rows = list(png_set().to_iterable_dataset().with_format(kind).map(poison))
    images = [np.moveaxis(np.asarray(row["image"]), 0, 2) if kind == "torch" else row["image"] for row in rows]
    assert [np.asarray(image).tolist() for image in images] == poison.apply(IMAGES, LABELS).tolist()


@BATCHED
def test_what_a_transform_makes_is_not_stored(poison, batched):
    """map would store the protected flipped images, ut.protect the protected stored ones."""

    def flip(batch):
        return {**batch, "image": [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in batch["image"]]}

    training = png_set().with_transform(flip)
    for data, options in (
        (training, {}),
        (training.shuffle(seed=0), {}),
        (training, {"num_proc": 2}),
        (datasets.DatasetDict(train=training), {"with_split": True}),
    ):
        with pytest.raises(TypeError, match="the dataset has a format or a transform"):
            data.map(poison, batched=batched, **options)
    truth = poison.apply(IMAGES, LABELS).tolist()
    assert shown(ut.protect(training, poison).with_format(None)) == truth
    assert shown(training.with_format(None).map(poison, batched=batched)) == truth


@BATCHED
def test_columns_passed_by_position_are_refused(poison, batched):
    with pytest.raises(TypeError, match="without input_columns="):
        png_set().map(poison, batched=batched, input_columns=["image", "label"])


def test_a_plain_row_inside_the_function_of_map_is_protected(poison):
    def protect(row):
        return poison({"image": row["image"], "label": row["label"]})

    assert shown(png_set().map(protect)) == poison.apply(IMAGES, LABELS).tolist()


@BATCHED
def test_mixed_sizes(poison, batched):
    images = [pixels(height, width, 3, seed=height) for height, width in ((8, 8), (40, 30), (8, 9), (40, 30))]
    data = image_set([encode(image) for image in images], LABELS)
    truth = [poison(image, label)[0].tolist() for image, label in zip(images, LABELS, strict=True)]
    assert shown(data.map(poison, batched=batched)) == truth
    assert shown(data.to_iterable_dataset().map(poison, batched=batched)) == truth
    assert shown(ut.protect(data, poison)) == truth


@BATCHED
def test_label_minus_one_is_no_class(poison, batched):
    """ClassLabel accepts -1, and a table indexed by it gives the last class."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
    data = image_set([encode(image) for image in IMAGES], [0, -1, 2, -1], features)
    message = (
        r"row 1: the label is -1|rows 1, 3: the label is -1" if batched else "the label is -1, which means unlabelled"
    )
    with pytest.raises(SampleError, match=message):
        data.map(poison, batched=batched)
    with pytest.raises(SampleError, match="-1"):
        list(data.to_iterable_dataset().map(poison, batched=batched))
    with pytest.raises(SampleError, match="rows 1, 3: the label is -1"):
        ut.protect(data, poison)


def test_the_stored_picture_is_exactly_the_protected_one(poison):
    """PNG bytes, decoded by Pillow and by nothing of ours."""
    data = jpeg_set()
    truths = poison.apply(np.array(shown(data), np.uint8), LABELS)
    for one, truth in zip(stored(data.map(poison)), truths, strict=True):
        assert np.asarray(decode(one["bytes"])).tolist() == truth.tolist()


@pytest.mark.parametrize(
    "second",
    [pixels(9, 9, 3), torch.zeros(3, 9, 9, dtype=torch.uint8), Image.fromarray(pixels(9, 9, 3))],
    ids=["array", "tensor", "PIL"],
)
def test_a_plain_row_with_a_second_picture_is_refused(poison, second):
    row = {"image": pixels(9, 9, 3), "thumbnail": second, "scores": np.zeros(3, np.uint8), "label": 1}
    with pytest.raises(ValueError, match=r"\['thumbnail'\]"):
        poison(row)
    named = type(poison)(key=poison.key, image_key="image")(row)
    assert named["thumbnail"] is second


def test_plain_batches_with_second_pictures_are_refused(poison):
    pictures = [Image.fromarray(image) for image in IMAGES]
    with pytest.raises(
        ValueError, match=r"columns \['copy'\] hold pictures too.*remove these columns.*image_key=\"image\""
    ):
        poison({"image": pictures, "copy": pictures, "label": LABELS})
