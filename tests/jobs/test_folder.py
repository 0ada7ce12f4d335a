"""Folders of pictures: tree, classes, formats, what is not copied, what must not leak, equal bytes however called."""

import json
import os
import shutil
import stat
import warnings
from pathlib import Path

import datasets
import numpy as np
import pytest
from conftest import decode, encode, image_set, pixels, stored
from folders import PROFILE, make_folder, photograph, tree
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import unlearnable_transforms as ut
from unlearnable_transforms.data.codec import Codec
from unlearnable_transforms.data.image import open_bytes
from unlearnable_transforms.jobs.ledger import read_ledger
from unlearnable_transforms.pixels import ssim
from unlearnable_transforms.protection.protect import protect_source
from unlearnable_transforms.sample import sample_id


@pytest.fixture
def source(tmp_path) -> Path:
    return make_folder(tmp_path / "source")


def pixels_of(data: bytes) -> np.ndarray:
    return np.asarray(decode(data))


def test_same_tree_and_class_indices_in_the_order_of_the_sorted_names(source, out, poison):
    summary = protect_source(source, out, poison)
    before, after = tree(source), tree(out)
    assert set(after) == {str(Path(path).with_suffix(".png")) for path in before}
    for path, data in before.items():
        label = ["ant", "cat", "dog"].index(path.split("/")[0])
        expected = poison(decode(data), label)[0]
        assert np.array_equal(pixels_of(after[str(Path(path).with_suffix(".png"))]), np.asarray(expected))
    assert summary.counts == {"protected": 12}
    assert summary.bytes_in == sum(map(len, before.values()))
    assert summary.bytes_out == sum(map(len, after.values()))


def test_same_bytes_as_map_with_the_labels_that_datasets_finds(source, out, poison):
    protect_source(source, out, poison)
    loaded = datasets.load_dataset("imagefolder", data_dir=str(source), split="train")
    mapped = loaded.map(poison, batched=True)
    assert sorted(row["bytes"] for row in stored(mapped)) == sorted(tree(out).values())
    again = datasets.load_dataset("imagefolder", data_dir=str(out), split="train")
    assert again["label"] == loaded["label"]


@pytest.mark.slow
def test_workers_do_not_change_a_byte(tmp_path, poison):
    source = make_folder(tmp_path / "source", 110)
    one = protect_source(source, tmp_path / "one", poison, ledger=tmp_path / "1.parquet")
    two = protect_source(source, tmp_path / "two", poison, ledger=tmp_path / "2.parquet", workers=2)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert Path(one.ledger).read_bytes() == Path(two.ledger).read_bytes()
    assert (one.counts, one.measured, one.notes) == (two.counts, two.measured, two.notes)


def test_of_tiny_images_no_ssim_is_told(tmp_path, out, poison):
    (tmp_path / "source" / "cat").mkdir(parents=True)
    Path(tmp_path / "source" / "cat" / "1.png").write_bytes(encode(pixels(8, 8, 3)))
    (line,) = [line for line in protect_source(tmp_path / "source", out, poison).lines() if "PSNR" in line]
    assert "no SSIM of images so small; means over 1 protected images)" in line
    assert "nan" not in line


def test_the_ledger_knows_every_file_and_is_private(source, out, poison):
    summary = protect_source(source, out, poison)
    table = read_ledger(summary.ledger).to_pydict()
    paths = sorted(tree(source))
    labels = [["ant", "cat", "dog"].index(path.split("/")[0]) for path in paths]
    assert table["row"] == list(range(12))
    assert table["class_token"] == [f"i:{label}" for label in labels]
    clean, after = tree(source), tree(out)
    for path, clean_id, protected_id, token in zip(
        paths, table["clean_id"], table["protected_id"], table["class_token"], strict=True
    ):
        assert clean_id == sample_id(pixels_of(clean[path]), token)
        assert protected_id == sample_id(pixels_of(after[str(Path(path).with_suffix(".png"))]), token)
    assert all(note > 0 for note in table["unlock_note"])
    assert stat.S_IMODE(os.stat(summary.ledger).st_mode) == 0o600


def test_one_label_for_any_tree(tmp_path, out, poison):
    for name in ("a.png", "deep/er/b.png", "test/c.png"):
        path = tmp_path / "album" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(pixels(9, 9, 3, seed=len(name))))
    summary = protect_source(tmp_path / "album", out, poison, label="Ann")
    assert set(tree(out)) == {"a.png", "deep/er/b.png", "test/c.png"}
    assert set(read_ledger(summary.ledger)["class_token"].to_pylist()) == {"s:Ann"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.png"], "--label"),
        (["cat/a.png", "b.png"], "--label"),
        (["cat/black/a.png"], "inner"),
        (["train/a.png", "test/b.png"], "--label"),
        (["test/cat/a.png"], "none of the splits"),
        (["train/cat/a.png", "train2/dog/b.png"], "different class folders"),
        (["cat/a.txt"], "no images"),
    ],
)
def test_folders_whose_classes_are_not_clear_are_refused(tmp_path, out, poison, names, message):
    for name in names:
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(pixels(9, 9, 3)))
    with pytest.raises(ValueError, match=message):
        protect_source(tmp_path / "source", out, poison)
    assert not out.exists()


def test_only_training_data_is_protected_and_other_splits_are_left_out_or_kept(tmp_path, poison):
    source = tmp_path / "source"
    for split in ("train", "test", "val"):
        make_folder(source / split, 6)
    left = protect_source(source, tmp_path / "left", poison)
    assert {path.split("/")[0] for path in tree(tmp_path / "left")} == {"train"}
    assert "test, val" in "\n".join(left.lines())
    kept = protect_source(source, tmp_path / "kept", poison, keep_splits=["test"])
    after = tree(tmp_path / "kept")
    assert kept.counts == {"protected": 6, "kept": 6}
    assert {path.split("/")[0] for path in after} == {"train", "test"}
    for path, data in tree(source / "test").items():
        assert np.array_equal(pixels_of(after[f"test/{Path(path).with_suffix('.png')}"]), pixels_of(data))
    assert set(read_ledger(kept.ledger)["split"].to_pylist()) == {"train"}
    with pytest.raises(ValueError, match="keep_splits="):
        protect_source(source, tmp_path / "other", poison, keep_splits=["nothing"])


@pytest.mark.parametrize("format", ["png", "webp"])
def test_lossless_formats_hold_every_pixel(tmp_path, out, poison, format):
    (tmp_path / "source" / "cat").mkdir(parents=True)
    kinds = {"rgb": pixels(20, 21, 3), "grey": pixels(20, 21), "alpha": pixels(20, 21, 4)}
    for name, image in kinds.items():
        (tmp_path / "source" / "cat" / f"{name}.png").write_bytes(encode(image))
    protect_source(tmp_path / "source", out, poison, codec=Codec(format))
    for name, image in kinds.items():
        written = decode((out / "cat" / f"{name}.{format}").read_bytes())
        assert written.format == format.upper()
        expected = poison(Image.fromarray(image), 0)[0].convert(written.mode)
        assert np.array_equal(np.asarray(written), np.asarray(expected))


def test_jpeg_keeps_colours_whole_and_the_ledger_knows_what_others_decode(source, out, poison):
    summary = protect_source(source, out, poison, codec=Codec("jpeg", 80))
    files = tree(out)
    assert {Path(path).suffix for path in files} == {".jpg"}
    ids = read_ledger(summary.ledger)["protected_id"].to_pylist()
    shown = []
    for path, data in sorted(files.items()):
        image = decode(data)
        assert image.layer[0][1:3] == image.layer[1][1:3] == (1, 1)  # no subsampling
        shown.append(sample_id(np.asarray(image), f"i:{['ant', 'cat', 'dog'].index(path.split('/')[0])}"))
    assert sorted(shown) == sorted(ids)


def test_jpeg_cannot_hold_transparency(tmp_path, out, poison):
    (tmp_path / "source" / "cat").mkdir(parents=True)
    (tmp_path / "source" / "cat" / "a.png").write_bytes(encode(pixels(9, 9, 4)))
    (tmp_path / "source" / "cat" / "b.png").write_bytes(encode(pixels(9, 9, 3)))
    summary = protect_source(tmp_path / "source", out, poison, codec=Codec("jpeg"))
    assert [path for path, _ in summary.left_out] == ["cat/a.png"]
    assert "transparency" in summary.left_out[0][1]
    assert set(tree(out)) == {"cat/b.jpg"}


ALLOCATION = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 507000000 bytes"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError(ALLOCATION), RuntimeError("a bug of ours")], ids=repr)
def test_an_image_that_does_not_fit_into_memory_is_named_and_the_rest_goes_on(source, out, poison, monkeypatch, error):
    first = sorted(tree(source))[0]
    large = np.asarray(decode(tree(source)[first]))

    def short_of_memory(images, *rest):
        if np.array_equal(images[0], large):
            raise error
        return type(poison).protect_arrays(poison, images, *rest)

    monkeypatch.setattr(poison, "protect_arrays", short_of_memory)
    if "bug" in str(error):
        with pytest.raises(RuntimeError, match="a bug of ours"):
            protect_source(source, out, poison, workers=1)
        return
    summary = protect_source(source, out, poison, workers=1)
    assert summary.failed == [(first, "the image does not fit into memory: make it smaller")]
    assert summary.counts == {"protected": 11}


def test_without_profiles_the_colours_are_those_that_were_shown(source, out, poison):
    """Numbers of another space are converted first, protected then; the sample stays that of the file."""
    linear = PngInfo()
    linear.add(b"gAMA", (100_000).to_bytes(4, "big"))
    data = encode(pixels(20, 20, 3), pnginfo=linear)
    (source / "ant" / "linear.png").write_bytes(data)
    summary = protect_source(source, out, poison, codec=Codec(icc=False))
    clean = open_bytes(data)
    in_srgb = clean.in_srgb().colour
    assert np.abs(in_srgb.astype(int) - clean.colour).mean() > 20
    written = np.asarray(decode((out / "ant" / "linear.png").read_bytes()))
    assert np.array_equal(written, poison.protect_arrays([in_srgb], ["i:0"])[0])
    ledger = dict(
        zip(*(read_ledger(summary.ledger)[name].to_pylist() for name in ("clean_id", "protected_id")), strict=True)
    )
    assert ledger[sample_id(clean.colour, "i:0")] == sample_id(written, "i:0")


def test_collisions_are_an_error_before_anything_is_written(source, out, poison):
    shutil.copy(source / "cat" / "0000.jpg", source / "cat" / "0000.webp")
    with pytest.raises(ValueError, match=r"cat/0000\.jpg and cat/0000\.webp -> cat/0000\.png"):
        protect_source(source, out, poison)
    assert not out.exists()


def test_names_that_differ_only_in_the_case_of_the_suffix_collide(source, out, poison):
    (source / "cat" / "0000.PNG").write_bytes(encode(pixels(9, 9, 3)))
    with pytest.raises(ValueError, match=r"cat/0000\.PNG and cat/0000\.jpg -> cat/0000\.png"):
        protect_source(source, out, poison)
    assert not out.exists()


def test_metadata_files_name_the_new_files(source, out, poison):
    (source / "cat" / "broken.png").write_bytes(b"no picture")
    (source / "metadata.csv").write_text('file_name,text\ncat/0000.jpg,"a, b"\ncat/broken.png,x\n')
    (source / "dog" / "metadata.jsonl").write_text(
        json.dumps({"file_name": "0002.jpg", "text": "ü"}) + "\n" + json.dumps({"file_name": "gone.png"}) + "\n"
    )
    summary = protect_source(source, out, poison)
    assert (out / "metadata.csv").read_text() == 'file_name,text\ncat/0000.png,"a, b"\n'
    assert (out / "dog" / "metadata.jsonl").read_text() == '{"file_name": "0002.png", "text": "ü"}\n'
    notes = "\n".join(summary.notes)
    assert "cat/broken.png" in notes
    assert "gone.png" in notes


def test_metadata_that_names_pictures_elsewhere_is_refused(source, out, poison):
    (source / "metadata.jsonl").write_text('{"file_name": "cat/0000.jpg", "depth_file_name": "x.png"}\n')
    with pytest.raises(ValueError, match="depth_file_name"):
        protect_source(source, out, poison)
    assert not out.exists()


def test_other_files_are_listed_and_never_copied(source, out, poison):
    for name in ("Thumbs.db", "cat/0000.xmp", ".hidden.png", ".thumbnails/cat.png", "notes/read.txt"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(encode(pixels(8, 8, 3)))
    summary = protect_source(source, out, poison)
    assert summary.others == [".hidden.png", ".thumbnails/", "Thumbs.db", "cat/0000.xmp", "notes/read.txt"]
    assert len(tree(out)) == 12


def test_links(source, tmp_path, out, poison):
    outside = tmp_path / "outside.png"
    outside.write_bytes(encode(pixels(9, 9, 3)))
    (source / "cat" / "link.png").symlink_to(outside)
    (source / "cat" / "broken link.png").symlink_to(tmp_path / "nothing.png")
    summary = protect_source(source, out, poison)
    assert not (out / "cat" / "link.png").is_symlink()
    assert not np.array_equal(pixels_of((out / "cat" / "link.png").read_bytes()), pixels_of(outside.read_bytes()))
    assert [path for path, _ in summary.failed] == ["cat/broken link.png"]
    (source / "cat" / "round").symlink_to(source)
    with pytest.raises(ValueError, match="link to a folder"):
        protect_source(source, tmp_path / "other", poison)


def test_the_colour_profile_can_be_left_out(tmp_path, out, poison):
    (tmp_path / "source" / "cat").mkdir(parents=True)
    (tmp_path / "source" / "cat" / "a.png").write_bytes(encode(pixels(9, 9, 3), icc_profile=PROFILE))
    protect_source(tmp_path / "source", out, poison, codec=Codec(icc=False))
    assert "icc_profile" not in decode((out / "cat" / "a.png").read_bytes()).info


def test_orientation_is_applied(tmp_path, out, poison):
    (tmp_path / "source" / "cat").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(pixels(20, 30, 3), "PNG", exif=exif)
    (tmp_path / "source" / "cat" / "a.png").write_bytes(turned)
    protect_source(tmp_path / "source", out, poison)
    upright = np.ascontiguousarray(np.rot90(pixels(20, 30, 3), -1))
    assert np.array_equal(pixels_of((out / "cat" / "a.png").read_bytes()), poison.apply(upright[None], [0])[0])


def test_pictures_that_cannot_be_read_are_listed_and_not_copied(source, out, poison):
    good = encode(photograph(1), "JPEG")
    bad = {
        "cut.jpg": good[: len(good) // 2],
        "empty.png": b"",
        "text.png": b"hello",
        "photo.heic": b"\0\0\0\x18ftypheic",
    }
    for name, data in bad.items():
        (source / "cat" / name).write_bytes(data)
    summary = protect_source(source, out, poison)
    assert {path for path, _ in summary.failed} == {f"cat/{name}" for name in bad}
    assert all(reason for _, reason in summary.failed)
    assert len(tree(out)) == 12
    assert "NOT READABLE" in "\n".join(summary.lines())


def test_unchanged_pictures_are_told(source, out, poison):
    (source / "dog" / "black.png").write_bytes(encode(np.zeros((9, 9, 3), np.uint8)))
    summary = protect_source(source, out, poison)
    assert summary.unchanged == ["dog/black.png"]
    assert "UNPROTECTED" in "\n".join(summary.lines())


def test_a_fraction_is_chosen_as_protect_does_and_all_are_encoded_alike(source, out, poison):
    data = image_set([path.read_bytes() for path in sorted(source.rglob("*.*"))], [0] * 12)
    flat = make_flat(source)
    with pytest.warns(UserWarning, match=r"85\.6 %"):
        summary = protect_source(flat, out, poison, fraction=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = ut.protect(data, poison, 0.5)
    assert 0 < summary.counts["left"] < 12
    files = tree(out)
    assert sorted(row["bytes"] for row in stored(table)) == sorted(files.values())
    assert all(encode(Image.fromarray(pixels_of(bytes_)), compress_level=1) == bytes_ for bytes_ in files.values())
    statuses = read_ledger(summary.ledger)["status"].to_pylist()
    assert statuses.count("left") == summary.counts["left"]


def make_flat(source: Path) -> Path:
    """All pictures of a folder in one class folder."""
    flat = source.parent / "flat" / "all"
    flat.mkdir(parents=True)
    for path in source.rglob("*.*"):
        shutil.copy(path, flat / path.name)
    return flat.parent


@pytest.mark.parametrize("place", ["source", "source/out", "."])
def test_an_output_folder_in_the_source_or_around_it_is_refused(source, tmp_path, poison, place):
    with pytest.raises(ValueError, match="lie in each other"):
        protect_source(source, tmp_path / place, poison)


def test_a_ledger_in_the_output_or_over_another_file_is_refused(source, out, tmp_path, poison):
    with pytest.raises(ValueError, match="published"):
        protect_source(source, out, poison, ledger=out / "ledger.parquet")
    (tmp_path / "my.key").write_text("a key")
    with pytest.raises(ValueError, match="not a ledger"):
        protect_source(source, out, poison, ledger=tmp_path / "my.key")
    assert (tmp_path / "my.key").read_text() == "a key"


def test_ssim_is_that_of_the_formula():
    a, b = pixels(20, 22, 3, seed=1), pixels(20, 22, 3, seed=2)
    assert ssim(a, a) == pytest.approx(1)
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for row in range(10):
        for column in range(12):
            for channel in range(3):
                x, y = (i[row : row + 11, column : column + 11, channel].astype(float) for i in (a, b))
                mx, my = (window * x).sum(), (window * y).sum()
                vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
                covariance = (window * (x - mx) * (y - my)).sum()
                c1, c2 = 2.55**2, 7.65**2
                values.append((2 * mx * my + c1) * (2 * covariance + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    assert ssim(a, b) == pytest.approx(np.mean(values), abs=1e-9)
