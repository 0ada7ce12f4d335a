"""Smaller images, formats that follow the source, what files say about rights: in a run, its ledger, and undone."""

from pathlib import Path

import numpy as np
import pytest
from conftest import decode, encode, image_set, pixels
from datasets import load_dataset
from folders import make_folder, photograph, tree
from PIL import Image

import unlearnable_transforms as ut
from unlearnable_transforms.data.codec import Codec
from unlearnable_transforms.data.credit import Credit, credit_from
from unlearnable_transforms.data.image import open_bytes
from unlearnable_transforms.data.original import read_credit
from unlearnable_transforms.data.shrink import shrink
from unlearnable_transforms.jobs.ledger import read_ledger
from unlearnable_transforms.protection.fit import fit_source
from unlearnable_transforms.protection.protect import protect_source
from unlearnable_transforms.protection.unlock_source import unlock_source
from unlearnable_transforms.sample import sample_id

SIDE = 20


def add(source: Path, name: str, number: int, format: str = "PNG", **options) -> None:
    (source / name).parent.mkdir(parents=True, exist_ok=True)
    (source / name).write_bytes(encode(photograph(number, 30, 40), format, **options))


def artist(name: str) -> bytes:
    """EXIF with a name and a place."""
    exif = Image.Exif()
    exif[0x013B] = name
    exif.get_ifd(0x8825)[0x001D] = "CANARY-gps"
    return exif.tobytes()


@pytest.fixture
def source(tmp_path) -> Path:
    """Two classes with a PNG of 30 x 40, a JPEG and a WebP each; and one that is small already."""
    for number, folder in enumerate(("ant", "bee")):
        add(tmp_path / "source", f"{folder}/1.png", number)
        add(tmp_path / "source", f"{folder}/2.JPG", number + 2, "JPEG")
        add(tmp_path / "source", f"{folder}/3.webp", number + 4, "WEBP", lossless=True)
    (tmp_path / "source" / "ant" / "small.png").write_bytes(encode(pixels(12, 15, 3)))
    return tmp_path / "source"


def test_images_are_made_smaller_and_protected_then(source, out, poison):
    summary = protect_source(source, out, poison, max_side=SIDE)
    clean = {path: shrink(open_bytes(data), SIDE).colour for path, data in tree(source).items()}
    assert {image.shape for image in clean.values()} == {(15, 20, 3), (12, 15, 3)}
    ids = []
    for path, image in clean.items():
        number = ("ant", "bee").index(path.split("/")[0])
        written = np.asarray(decode((out / Path(path).with_suffix(".png")).read_bytes()))
        assert np.array_equal(written, poison.protect_arrays([image], [f"i:{number}"])[0])
        ids.append(sample_id(image, f"i:{number}"))
    assert sorted(read_ledger(summary.ledger)["clean_id"].to_pylist()) == sorted(ids)


def test_what_comes_back_is_the_smaller_clean_image(tmp_path, source, out):
    poison = ut.PILPoison(key=ut.Key.public("tests"))
    protect_source(source, out, poison, max_side=SIDE)
    again = ut.PILPoison(key=ut.Key.public("tests"))
    lines = unlock_source(out, tmp_path / "back", again, clean=source)
    assert "7 of 7 pictures are restored exactly" in lines
    assert any("made smaller, to 20 pixels on the longest side" in line for line in lines)
    assert "compared with 7 clean pictures: 7 are equal" in lines
    for path, data in tree(source).items():
        restored = np.asarray(decode((tmp_path / "back" / Path(path).with_suffix(".png")).read_bytes()))
        assert np.array_equal(restored, shrink(open_bytes(data), SIDE).colour)


def test_an_album_grows_with_the_same_options_and_refuses_others(source, out, poison):
    options = {"max_side": SIDE, "codec": Codec("auto", credit=credit_from("all", ["Ann"], "(c)"), keep=("credit",))}
    protect_source(source, out, poison, **options)
    before = tree(out)
    add(source, "bee/new.jpg", 9, "JPEG")
    summary = protect_source(source, out, poison, **options)
    assert before.items() <= tree(out).items()
    assert set(tree(out)) - set(before) == {"bee/new.jpg"}
    assert len(read_ledger(summary.ledger)) == 8
    others = {
        "longest side 20, now it is 21": {"max_side": 21},
        "longest side 20, now it is not set": {"max_side": None},
        'format "auto"': {"codec": Codec("png", credit=options["codec"].credit, keep=("credit",))},
        'opt-out "all"': {"codec": Codec("auto", credit=credit_from("ai-training", ["Ann"], "(c)"), keep=("credit",))},
        'creator "Ann", now it is "Ann; Bo"': {"codec": Codec("auto", credit=credit_from("all", ["Ann", "Bo"], "(c)"))},
        'fields kept "credit", now it is not set': {"codec": Codec("auto", credit=options["codec"].credit)},
    }
    for message, changed in others.items():
        with pytest.raises(ValueError, match=message) as caught:
            protect_source(source, out, poison, **{**options, **changed})
        assert "empty output folder" in str(caught.value)


def test_a_run_of_before_these_options_goes_on(source, out, poison):
    """None of them is set, and none of them stands in its journal."""
    protect_source(source, out, poison)
    before = tree(out)
    assert protect_source(source, out, poison, codec=Codec()).counts == {"protected": 7}
    assert tree(out) == before


def test_an_image_that_is_protected_is_not_taken_for_a_clean_one(tmp_path, source, out, poison):
    protect_source(source, out, poison)
    with pytest.raises(ValueError, match="protected already"):
        protect_source(out, tmp_path / "second", poison, max_side=SIDE)


def test_auto_keeps_names_and_kinds_of_what_a_filter_changes(tmp_path, source, out, poison):
    protect_source(source, out, poison, codec=Codec("auto"))
    assert set(tree(out)) == {
        f"{folder}/{name}" for folder in ("ant", "bee") for name in ("1.png", "2.JPG", "3.webp")
    } | {"ant/small.png"}
    assert {Path(path).suffix: decode(data).format for path, data in tree(out).items()} == {
        ".png": "PNG", ".JPG": "JPEG", ".webp": "WEBP",
    }  # fmt: skip
    unlock_source(out, tmp_path / "back", poison)
    assert {Path(path).suffix for path in tree(tmp_path / "back")} == {".png"}
    add(source, "ant/2.png", 8)
    with pytest.raises(ValueError, match=r"ant/2\.JPG and ant/2\.png -> ant/2\.png"):  # both would come back so
        protect_source(source, tmp_path / "other", poison, codec=Codec("auto"))


@pytest.mark.parametrize("chained", [False, True], ids=["noise", "a chain with noise"])
def test_auto_is_png_for_added_noise_and_says_why(source, out, chained):
    pil = ut.PILPoison(key=ut.Key.public("tests"))
    poison = ut.Chain([ut.CUDAPoison(key=ut.Key.public("tests")), pil]) if chained else pil
    with pytest.warns(UserWarning, match=r"2 JPEG files .* become PNG, at full size five to ten .*--max-side"):
        protect_source(source, out, poison, codec=Codec("auto"))
    assert {Path(path).suffix for path in tree(out)} == {".png"}


def test_png_that_grew_names_the_remedy(source, out, poison):
    for path in source.rglob("*.png"):
        path.unlink()
    for path in source.rglob("*.webp"):
        path.unlink()
    for number in range(2):
        add(source, f"ant/{number}.jpg", number, "JPEG", quality=5)
    assert "--format auto writes JPEG" in "\n".join(protect_source(source, out, poison).lines())


def test_files_say_what_was_asked_for_and_what_the_originals_said(source, out, poison):
    add(source, "bee/mine.jpg", 7, "JPEG", exif=artist("Bo Kim"))
    codec = Codec("auto", credit=credit_from("generative-ai", copyright="(c) 2026"), keep=("creator",))
    protect_source(source, out, poison, codec=codec, keep_splits=())
    plain = tree(out)
    said = {path: read_credit(data, ["creator", "copyright"]) for path, data in plain.items()}
    assert said.pop("bee/mine.jpg") == Credit(creator=("Bo Kim",), copyright="(c) 2026")
    assert set(said.values()) == {Credit(copyright="(c) 2026")}


def test_what_files_say_changes_no_pixel_and_no_id(tmp_path, source, out, poison):
    plain = protect_source(source, out, poison, codec=Codec("auto"))
    credit = credit_from("all", ["Ann"])
    said = protect_source(source, tmp_path / "said", poison, codec=Codec("auto", credit=credit, keep=("credit",)))
    one, two = tree(out), tree(tmp_path / "said")
    assert one.keys() == two.keys()
    assert all(one[path] != two[path] for path in one)
    assert all(np.array_equal(np.asarray(decode(one[path])), np.asarray(decode(two[path]))) for path in one)
    assert read_ledger(plain.ledger).equals(read_ledger(said.ledger))


def test_a_field_that_is_too_long_leaves_its_image_out(source, out, poison):
    add(source, "bee/long.jpg", 7, "JPEG", exif=artist("x" * 2001))
    summary = protect_source(source, out, poison, codec=Codec("auto", keep=("creator",)))
    ((path, reason),) = summary.left_out
    assert path == "bee/long.jpg"
    assert reason == "a field that --keep takes from it has more than 2,000 characters: leave the field out"
    with pytest.raises(ValueError, match=r"can be kept are creator, .*not 'gps'"):
        protect_source(source, out, poison, codec=Codec("auto", keep=("gps",)))


def test_tables_are_made_smaller_too(tmp_path, out, poison):
    images = [encode(photograph(number, 30, 40), "JPEG") for number in range(4)]
    table = image_set(images, [0, 1, 0, 1])
    table.to_parquet(str(tmp_path / "clean.parquet"))
    protect_source(tmp_path / "clean.parquet", out, poison, max_side=SIDE, codec=Codec("auto"))
    on_disk = load_dataset("parquet", data_dir=str(out), split="train")
    in_memory = ut.protect(table, poison, max_side=SIDE)
    assert [image.size for image in on_disk["image"]] == [(20, 15)] * 4
    assert [np.asarray(a).tolist() for a in on_disk["image"]] == [np.asarray(b).tolist() for b in in_memory["image"]]
    with pytest.warns(ut.UnlockWarning, match="made smaller, to 20 pixels"):
        back = ut.unlock(in_memory, poison)
    assert back["image"][0].size == (20, 15)
    with pytest.raises(ValueError, match=r"tables hold PNG\. --max-side is for their images, too"):
        protect_source(tmp_path / "clean.parquet", tmp_path / "other", poison, codec=Codec("jpeg"))
    with pytest.raises(ValueError, match="leave it out"):
        protect_source(tmp_path / "clean.parquet", tmp_path / "other", poison, codec=Codec("auto", 80))


def test_noise_that_was_fitted_before_is_that_of_the_smaller_images(tmp_path, source, out):
    def cached() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "unlearnable-cache" / "noise").rglob("*/*/*")}

    fit_source(source, ut.PILPoison(key=ut.Key.public("tests")), max_side=SIDE)
    before = cached()
    assert before
    protect_source(source, out, ut.PILPoison(key=ut.Key.public("tests")), max_side=SIDE)
    assert cached() == before  # nothing was fitted again
    protect_source(source, tmp_path / "large", ut.PILPoison(key=ut.Key.public("tests")))
    assert cached().keys() > before.keys()


def test_workers_make_the_same_bytes(tmp_path, poison):
    source = make_folder(tmp_path / "many", 60)
    codec = Codec("auto", credit=credit_from("all"), keep=("creator",))
    trees = []
    for workers in (1, 2):
        protect_source(source, tmp_path / f"{workers}", poison, codec=codec, max_side=12, workers=workers)
        trees.append(tree(tmp_path / f"{workers}"))
    assert trees[0] == trees[1]
