"""`unlearnable unlock`: what `unlearnable protect` made, undone; and nothing written where something is wrong."""

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from conftest import encode, image_set, pixels
from folders import photograph, tree
from PIL import Image

import unlearnable_transforms as ut
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.data import table as shards
from unlearnable_transforms.jobs import run
from unlearnable_transforms.pixels import psnr

CLASSES = ("ant", "cat", "dog")
PIL = ("--method", "pil")
pytestmark = pytest.mark.filterwarnings("ignore::unlearnable_transforms.FitWarning")


@pytest.fixture
def other_key(tmp_path) -> Path:
    return ut.Key(b"unlearnable tests: another key!!").save(tmp_path / "other.key")


@pytest.fixture
def photos(tmp_path) -> Path:
    """Twelve photographs in class folders, PNG and JPEG, with a metadata file."""
    root = tmp_path / "photos"
    for number in range(12):
        folder = root / CLASSES[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        suffix = "jpg" if number % 4 == 0 else "png"
        image = encode(photograph(number, 28 + number % 2, 30), "JPEG" if suffix == "jpg" else "PNG")
        (folder / f"{number:02}.{suffix}").write_bytes(image)
    return root


@pytest.fixture
def undo(tmp_path, key_file) -> Callable[..., int]:
    """`unlearnable protect SOURCE protected OPTIONS`, then `unlearnable unlock protected clean OPTIONS`."""

    def run(source: Path, *options, protect=(), unlock=()) -> int:
        fixed = ["--key", str(key_file), "--workers", "1", *map(str, options)]
        assert main(["protect", str(source), str(tmp_path / "protected"), *fixed, *map(str, protect)]) == 0
        return again(tmp_path, key_file, *options, *unlock)

    return run


def again(tmp_path: Path, key_file: Path, *options, source: str = "protected", workers: int = 1) -> int:
    places = [str(tmp_path / source), str(tmp_path / "clean")]
    return main(["unlock", *places, "--key", str(key_file), "--workers", str(workers), *map(str, options)])


def images(root: Path) -> dict[str, np.ndarray]:
    """Pixels by path without suffix."""
    return {
        str(path.relative_to(root).with_suffix("")): np.asarray(Image.open(path))
        for path in sorted(root.rglob("*"))
        if path.suffix in (".png", ".jpg")
    }


def nothing_left(tmp_path: Path) -> bool:
    """Neither an output nor a part of one."""
    return not (tmp_path / "clean").exists() and not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_folder_of_filtered_photographs(tmp_path, photos, undo, key_file, capsys):
    (photos / "metadata.csv").write_text("file_name,caption\ncat/04.jpg,a cat\n")
    assert undo(photos, "--invertible", protect=("--format", "png"), unlock=("--clean", photos)) == 0
    told = capsys.readouterr().out
    assert "12 of 12 pictures are restored nearly" in told
    (value,) = re.findall(r"compared with 12 clean pictures: 0 are equal, PSNR of the others ([\d.]+) dB", told)
    clean, restored, protected = (images(root) for root in (photos, tmp_path / "clean", tmp_path / "protected"))
    assert clean.keys() == restored.keys()
    mine = [psnr(clean[name], restored[name]) for name in clean]
    assert float(value) == pytest.approx(np.mean(mine), abs=0.06)
    assert min(mine) > 45
    assert np.mean([psnr(clean[name], protected[name]) for name in clean]) < 25
    assert {Path(name).suffix for name in tree(tmp_path / "clean")} == {".png", ".csv"}
    assert (tmp_path / "clean" / "metadata.csv").read_text() == "file_name,caption\ncat/04.png,a cat\n"


def test_added_noise_of_a_folder_is_undone_exactly(tmp_path, photos, undo, key_file, capsys):
    assert undo(photos, *PIL, unlock=("--clean", photos)) == 0
    told = capsys.readouterr().out
    assert "12 of 12 pictures are restored exactly" in told
    assert "compared with 12 clean pictures: 12 are equal\n" in told
    clean, restored = images(photos), images(tmp_path / "clean")
    assert all((clean[name] == restored[name]).all() for name in clean)
    (photos / "ant" / "03.png").unlink()  # an original that is gone is not compared
    (tmp_path / "clean").rename(tmp_path / "first")
    assert again(tmp_path, key_file, *PIL, "--clean", photos) == 0
    assert "compared with 11 clean pictures: 11 are equal\n" in capsys.readouterr().out


def test_workers_get_all_that_they_need(tmp_path, photos, undo, key_file, monkeypatch):
    assert undo(photos, *PIL) == 0
    one = tree(tmp_path / "clean")
    (tmp_path / "clean").rename(tmp_path / "one")

    def run_tasks(worker, tasks, processes):  # as if in other processes, whose start takes long
        assert processes == 2
        for task in tasks:
            yield pickle.loads(pickle.dumps(worker))(pickle.loads(pickle.dumps(task)))

    monkeypatch.setattr(run, "run_tasks", run_tasks)
    monkeypatch.setattr(run, "WORKER_UNITS", 1)
    assert again(tmp_path, key_file, *PIL, workers=2) == 0
    assert tree(tmp_path / "clean") == one


def test_parquet_with_several_splits(tmp_path, undo, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    plain = {name: image_set([encode(pixels(9, 9, 3, seed=seed + row)) for row in range(6)], [0, 1, 2] * 2)
             for seed, name in ((0, "train_a"), (50, "test"))}  # fmt: skip
    for name, data in plain.items():
        data.to_parquet(folder / f"{name}.parquet")
    assert undo(folder, *PIL, protect=("--keep-split", "test"), unlock=("--clean", folder)) == 0
    assert "6 of 6 pictures are restored exactly" in capsys.readouterr().out
    (name,) = tree(tmp_path / "clean")
    assert name.startswith("train")
    restored = datasets.Dataset.from_parquet(str(tmp_path / "clean" / name), cache_dir=str(tmp_path / "cache"))
    assert restored.features == plain["train_a"].features
    assert restored["label"] == plain["train_a"]["label"]
    pairs = zip(restored["image"], plain["train_a"]["image"], strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)


def test_rows_that_cannot_be_undone_are_counted_in_the_whole_split(tmp_path, undo, key_file, monkeypatch, capsys):
    monkeypatch.setattr(shards, "SHARD_BYTES", 600)
    image_set([encode(pixels(9, 9, 3, seed=row)) for row in range(9)], [0, 1, 2] * 3).to_parquet(tmp_path / "x.parquet")
    assert undo(tmp_path / "x.parquet", *PIL) == 0
    assert len(tree(tmp_path / "clean")) > 2
    (tmp_path / "clean").rename(tmp_path / "first")
    (last,) = (tmp_path / "protected").glob("*-00004-of-*")
    data = datasets.Dataset.from_parquet(str(last), cache_dir=str(tmp_path / "cache"))
    images = [encode(pixels(9, 9, 3, seed=99)), *(encode(np.asarray(image)) for image in data["image"][1:])]
    image_set(images, data["label"]).to_parquet(last)
    capsys.readouterr()
    assert again(tmp_path, key_file, *PIL) == 2
    before = sum(datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache")).num_rows
                 for path in (tmp_path / "protected").iterdir() if path.name < last.name)  # fmt: skip
    assert before > 0
    assert f"row {before}: the method has no noise for these pictures" in capsys.readouterr().err
    assert nothing_left(tmp_path)


def test_one_label_and_secret_classes(tmp_path, photos, undo, key_file, capsys):
    assert undo(photos, "--label", "Ann Lee") == 0
    assert "12 of 12 pictures are restored nearly" in capsys.readouterr().out
    one = images(tmp_path / "clean")
    for name in ("protected", "clean"):
        (tmp_path / name).rename(tmp_path / f"first {name}")
    table = tmp_path / "labels.csv"
    rows = [f"{path.relative_to(photos)},{place % 4}" for place, path in enumerate(sorted(photos.rglob("*.*")))]
    table.write_text("\n".join(["path,label", *rows]))
    assert undo(photos, protect=("--labels", table)) == 0
    assert "12 of 12 pictures are restored nearly" in capsys.readouterr().out
    clean = images(photos)
    for restored in (one, images(tmp_path / "clean")):
        assert np.mean([psnr(clean[name], restored[name]) for name in clean]) > 34


def test_jpeg_is_undone_as_far_as_it_goes(tmp_path, photos, undo, capsys):
    assert undo(photos, *PIL, protect=("--format", "jpeg", "--quality", 95)) == 0
    assert "12 of 12 pictures are restored nearly" in capsys.readouterr().out
    clean, restored, protected = (images(root) for root in (photos, tmp_path / "clean", tmp_path / "protected"))
    gain = [psnr(clean[name], restored[name]) - psnr(clean[name], protected[name]) for name in clean]
    assert min(gain) > 0


@pytest.mark.parametrize("method", [(), PIL], ids=["filter", "noise"])
def test_another_key_writes_nothing(tmp_path, photos, undo, other_key, method, capsys):
    ledger = tmp_path / "ledger.parquet"
    assert undo(photos, *method, protect=("--ledger", ledger), unlock=("--ledger", ledger)) == 0
    (tmp_path / "clean").rename(tmp_path / "first")
    capsys.readouterr()
    assert again(tmp_path, other_key, *method, "--ledger", ledger) == 2
    assert "another key" in capsys.readouterr().err
    assert nothing_left(tmp_path)


def test_what_the_manifest_names_is_asked_for(tmp_path, photos, undo, key_file, capsys):
    assert undo(photos, "--strength", "strong") == 0
    (tmp_path / "clean").rename(tmp_path / "first")
    manifest = ut.CUDAPoison(key=ut.Key.load(key_file), strength="strong").public_config()
    path, options = tmp_path / "protected" / "protection.json", ("--strength", "strong")
    for change, said in (
        ({"key_fingerprint": "0123"}, "key fingerprint 0123, not "),
        ({"method": "pil"}, "method pil, not cuda"),
        ({"arguments": {}}, "strength None, not strong"),
        ({"arguments": {**manifest["arguments"], "invertible": True}}, "invertible True, not None"),
    ):
        path.write_text(json.dumps({**manifest, **change}))
        assert again(tmp_path, key_file, *options) == 2
        assert said in capsys.readouterr().err
        assert nothing_left(tmp_path)
    path.write_text(json.dumps(manifest))
    assert again(tmp_path, key_file, *options) == 0


def test_another_key_is_known_by_the_cache(tmp_path, photos, undo, other_key, capsys):
    assert undo(photos) == 0
    (tmp_path / "clean").rename(tmp_path / "first")
    assert again(tmp_path, other_key) == 2
    assert "these pictures were protected with another key" in capsys.readouterr().err
    assert nothing_left(tmp_path)


def test_pictures_that_cannot_be_undone_are_named_and_nothing_is_written(tmp_path, photos, undo, key_file, capsys):
    ledger = tmp_path / "ledger.parquet"
    assert undo(photos, protect=("--ledger", ledger, "--format", "png"), unlock=("--ledger", ledger)) == 0
    (tmp_path / "clean").rename(tmp_path / "first")
    strange = tmp_path / "protected" / "cat" / "04.png"
    (tmp_path / "protected" / "cat" / "01.png").write_bytes(strange.read_bytes())  # a copy is known
    assert again(tmp_path, key_file, "--ledger", ledger) == 0
    (tmp_path / "clean").rename(tmp_path / "second")
    strange.write_bytes(encode(photograph(4, 28, 30)))
    assert again(tmp_path, key_file, "--ledger", ledger) == 2
    assert "cat/04.png: the ledger does not know the picture" in capsys.readouterr().err
    assert nothing_left(tmp_path)
    strange.write_bytes(b"?")
    assert again(tmp_path, key_file, "--ledger", ledger) == 2
    assert "cat/04.png: this is not a picture" in capsys.readouterr().err
    assert nothing_left(tmp_path)


def test_an_output_that_holds_something_is_left_alone(tmp_path, photos, undo, key_file, capsys):
    (tmp_path / "clean").mkdir()
    assert undo(photos) == 0  # an empty folder will do
    before = tree(tmp_path / "clean")
    assert again(tmp_path, key_file) == 2
    assert "is not empty" in capsys.readouterr().err
    assert tree(tmp_path / "clean") == before
    table = image_set([encode(pixels(9, 9, 3))], [0])
    table.to_parquet(tmp_path / "x.parquet")
    (tmp_path / "clean").rename(tmp_path / "first")
    assert again(tmp_path, key_file, "--clean", tmp_path / "x.parquet") == 2
    assert "cannot be compared" in capsys.readouterr().err
    assert nothing_left(tmp_path)
