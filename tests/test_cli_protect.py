"""`unlearnable protect`: options, exit codes, messages; Parquet, saved sets and the Hub; a changed run is refused."""

import re
from pathlib import Path

import datasets
import numpy as np
import pytest
from conftest import encode, image_set, pixels, stored
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from folders import make_folder, photograph, save_key, tree

import unlearnable_transforms as ut
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.protection import shards
from unlearnable_transforms.protection.ledger import read_ledger

FEATURES = Features({"image": Image(), "label": ClassLabel(names=["ant", "bee", "cat"]), "note": Value("string")})


@pytest.fixture
def key_file(tmp_path) -> Path:
    return save_key(tmp_path / "my.key")


@pytest.fixture
def poison(key_file) -> ut.CUDAPoison:
    return ut.CUDAPoison(key=ut.Key.load(key_file))


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def protect(tmp_path, key_file):
    """Run the command with one worker; the exit code."""

    def run(source: object, *options: object) -> int:
        return main(
            [
                "protect",
                str(source),
                str(tmp_path / "out"),
                "--key",
                str(key_file),
                "--workers",
                "1",
                *map(str, options),
            ]
        )

    return run


def make_set(rows: int = 9, seed: int = 0) -> Dataset:
    images = [
        encode(photograph(seed + row), "JPEG", comment=b"CANARY")
        if row % 2
        else encode(pixels(12 + row % 3, 15, 3, seed=seed + row))
        for row in range(rows)
    ]
    columns = {
        "image": [{"bytes": image, "path": "CANARY.jpg"} for image in images],
        "label": [row % 3 for row in range(rows)],
        "note": [f"row {row}" for row in range(rows)],
    }
    return Dataset.from_dict(columns, features=FEATURES)


def load(out: Path) -> DatasetDict:
    return datasets.load_dataset("parquet", data_dir=str(out))


# ---- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_with_its_summary(tmp_path, out, protect, poison, capsys):
    source = make_folder(tmp_path / "source")
    (source / "Thumbs.db").write_bytes(b"x")
    assert protect(source, "--ledger", tmp_path / "ledger.parquet") == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert re.search(r"12 files written: 12 protected\n[\d.]+ kB in, [\d.]+ kB out\nPSNR \d", told.out)
    assert re.search(r"with the best gain [\d.]+ dB, SSIM 0\.\d+", told.out)
    assert "Thumbs.db" in told.out
    assert str(tmp_path / "ledger.parquet") in told.out
    assert len(read_ledger(tmp_path / "ledger.parquet")) == 12
    assert len(tree(out)) == 12


def test_unreadable_pictures_make_the_exit_code_1(tmp_path, out, protect, capsys):
    source = make_folder(tmp_path / "source")
    (source / "cat" / "bad.png").write_bytes(b"?")
    assert protect(source) == 1
    told = capsys.readouterr()
    assert "cat/bad.png: the bytes are not a picture" in told.out
    assert "1 pictures could not be read" in told.err
    assert len(tree(out)) == 12
    assert protect(source) == 1
    (source / "cat" / "bad.png").write_bytes(encode(pixels(9, 9, 3)))
    assert protect(source) == 0
    assert len(tree(out)) == 13


def test_options_of_the_method_and_of_the_format(tmp_path, out, protect, key_file, capsys):
    source = make_folder(tmp_path / "source", 3)
    options = ("--format", "jpeg", "--quality", 90, "--kernel-size", 5, "--blur", 0.2, "--keep-metadata", "none")
    assert protect(source, *options) == 0
    assert "JPEG loses detail" in capsys.readouterr().err
    assert {Path(name).suffix for name in tree(out)} == {".jpg"}
    assert protect(source, *options[:-4], "--keep-metadata", "none") == 2
    assert "arguments" in capsys.readouterr().err


def test_fraction_warns_with_the_papers_figure(tmp_path, protect, capsys):
    assert protect(make_folder(tmp_path / "source"), "--fraction", 0.8) == 0
    told = capsys.readouterr()
    assert told.err.count("85.6 %") == 1
    assert "left clean" in told.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--quality", "90"), "--quality is for"),
        (("--image-key", "x"), "--image-key has no meaning"),
        (("--config", "x"), "--config has no meaning"),
        (("--method", "nothing"), "no method 'nothing'"),
        (("--kernel-size", "4"), "odd"),
        (("--fraction", "0"), "fraction"),
        (("--ledger", "{out}/ledger.parquet"), "published"),
        (("--ledger", "{out}/../nowhere/ledger.parquet"), "no folder"),
    ],
)
def test_wrong_options_are_errors_of_one_line(tmp_path, out, protect, capsys, options, message):
    source = make_folder(tmp_path / "source", 3)
    assert protect(source, *(option.format(out=out) for option in options)) == 2
    told = capsys.readouterr().err
    assert re.fullmatch(r"unlearnable: error: .*\n", told)
    assert message in told
    assert not out.exists()


def test_an_option_that_the_method_does_not_have(tmp_path, out, protect, capsys, monkeypatch):
    monkeypatch.setattr("unlearnable_transforms.cli.protect.METHOD_OPTIONS", ("config",))
    assert protect(make_folder(tmp_path / "source", 3), "--config", "x") == 2
    assert "the method cuda has no option --config" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "message"),
    [("nowhere/at/all", "does not exist"), ("/nowhere", "does not exist"), (".", "no pictures and no Parquet")],
)
def test_a_source_that_is_nothing(tmp_path, protect, capsys, monkeypatch, source, message):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert protect(source) == 2
    assert message in capsys.readouterr().err


def test_ctrl_c_has_its_exit_code(tmp_path, protect, capsys, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("unlearnable_transforms.protection.folder.list_folder", stop)
    assert protect(make_folder(tmp_path / "source", 3)) == 130
    assert "run the same command again" in capsys.readouterr().err


# ---- data sets -------------------------------------------------------------------------------------------------------


def test_one_parquet_file(tmp_path, out, protect, poison, capsys):
    data = make_set()
    data.to_parquet(tmp_path / "photos.parquet")
    assert protect(tmp_path / "photos.parquet", "--ledger", tmp_path / "ledger.parquet") == 0
    assert "9 rows written: 9 protected" in capsys.readouterr().out
    assert list(tree(out)) == ["train-00000-of-00001.parquet"]
    assert b"CANARY" not in b"".join(tree(out).values())
    after = load(out)["train"]
    assert after.features == data.features
    assert after["note"] == data["note"]
    assert stored(after) == stored(data.map(poison, batched=True))
    expected = tmp_path / "expected.parquet"
    ut.protect(data, poison, ledger=expected)
    columns = ["row", "clean_id", "protected_id", "class_token", "status", "unlock_note"]
    assert read_ledger(tmp_path / "ledger.parquet").select(columns) == read_ledger(expected).select(columns)


def test_a_folder_of_parquet_with_splits(tmp_path, out, protect, poison, capsys):
    source = tmp_path / "source"
    source.mkdir()
    parts = {"train-00000-of-00002": 0, "train-00001-of-00002": 20, "test-00000-of-00001": 40}
    for name, seed in parts.items():
        make_set(seed=seed).to_parquet(source / f"{name}.parquet")
    assert protect(source) == 0
    assert "left out, not being training data: test" in capsys.readouterr().out
    assert set(load(out)) == {"train"}
    for path in out.iterdir():
        path.unlink()
    assert protect(source, "--keep-split", "test") == 0
    assert "9 of kept splits" in capsys.readouterr().out
    after = load(out)
    assert len(after["train"]) == 18
    clean = make_set(seed=40)
    assert all(np.array_equal(a, b) for a, b in zip(after["test"]["image"], clean["image"], strict=True))
    assert b"CANARY" not in b"".join(tree(out).values())


@pytest.mark.parametrize("splits", [False, True])
def test_a_saved_set_comes_out_as_a_saved_set(tmp_path, out, protect, poison, splits):
    data = make_set()
    (DatasetDict({"train": data, "test": data}) if splits else data).save_to_disk(tmp_path / "source")
    before = tree(tmp_path / "source")
    assert protect(tmp_path / "source") == 0
    after = datasets.load_from_disk(str(out))
    after = after["train"] if splits else after
    assert after.features == data.features
    assert stored(after) == stored(data.map(poison, batched=True))
    assert b"CANARY" not in b"".join(tree(out).values())
    assert tree(tmp_path / "source") == before


@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_shards_are_skipped_when_they_are_there(tmp_path, out, protect, monkeypatch, kind):
    monkeypatch.setattr(shards, "SHARD_BYTES", 2000)
    data = make_set(30)
    source = tmp_path / ("photos.parquet" if kind == "parquet" else "saved")
    data.to_parquet(source) if kind == "parquet" else data.save_to_disk(source)
    assert protect(source, "--ledger", tmp_path / "ledger.parquet") == 0
    whole, ledger = tree(out), (tmp_path / "ledger.parquet").read_bytes()
    names = [name for name in whole if "-of-" in name]
    assert len(names) > 3
    for name in names[1:3]:
        (out / name).unlink()
    written = []
    write = shards.ShardWorker._write
    monkeypatch.setattr(
        shards.ShardWorker,
        "_write",
        lambda self, shard, *rest: written.append(shard.target) or write(self, shard, *rest),
    )
    assert protect(source, "--ledger", tmp_path / "ledger.parquet") == 0
    assert written == names[1:3]
    assert tree(out) == whole
    assert (tmp_path / "ledger.parquet").read_bytes() == ledger


@pytest.mark.slow
def test_two_workers_on_parquet(tmp_path, out, key_file, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 2000)
    make_set(30).to_parquet(tmp_path / "photos.parquet")
    arguments = ["protect", str(tmp_path / "photos.parquet"), "--key", str(key_file)]
    for workers in "12":
        assert main([*arguments, str(tmp_path / f"out{workers}"), "--workers", workers]) == 0
    assert tree(tmp_path / "out1") == tree(tmp_path / "out2")


def test_a_changed_table_is_refused(tmp_path, out, protect, capsys):
    make_set().to_parquet(tmp_path / "photos.parquet")
    assert protect(tmp_path / "photos.parquet") == 0
    make_set(seed=1).to_parquet(tmp_path / "photos.parquet")
    assert protect(tmp_path / "photos.parquet") == 2
    assert "changed" in capsys.readouterr().err


def test_rows_that_cannot_be_protected_are_named_in_the_whole_set(tmp_path, out, protect, monkeypatch, capsys):
    monkeypatch.setattr(shards, "SHARD_BYTES", 2000)
    rows = [encode(pixels(12, 12, 3, seed=row)) for row in range(20)]
    rows[17] = b"no picture"
    image_set(rows, [0] * 20).to_parquet(tmp_path / "photos.parquet")
    assert protect(tmp_path / "photos.parquet") == 2
    assert "row 17" in capsys.readouterr().err
    image_set(rows[:3], [0, -1, 0]).to_parquet(tmp_path / "other.parquet")
    assert (
        main(["protect", str(tmp_path / "other.parquet"), str(tmp_path / "o"), "--key", str(tmp_path / "my.key")]) == 2
    )
    assert "row 1" in capsys.readouterr().err


def test_the_same_bytes_from_folder_parquet_and_map(tmp_path, protect, out, poison, key_file):
    source = make_folder(tmp_path / "source")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(source), split="train")
    mapped = sorted(row["bytes"] for row in stored(loaded.map(poison, batched=True)))
    loaded.cast_column("image", Image(decode=False)).map(
        lambda row: {"image": {"bytes": Path(row["image"]["path"]).read_bytes(), "path": None}}
    ).cast_column("image", Image()).to_parquet(tmp_path / "photos.parquet")
    assert protect(source) == 0
    arguments = ["protect", str(tmp_path / "photos.parquet"), str(tmp_path / "table"), "--key", str(key_file)]
    assert main([*arguments, "--workers", "1"]) == 0
    assert sorted(tree(out).values()) == mapped
    assert sorted(row["bytes"] for row in stored(load(tmp_path / "table")["train"])) == mapped


def test_a_name_of_the_hub_that_is_not_there(protect, out, monkeypatch, capsys):
    def offline(name, config):
        raise ConnectionError(f"Couldn't reach {name!r} on the Hub")

    monkeypatch.setattr("unlearnable_transforms.protection.tables.load_dataset", offline)
    assert protect("user/photos") == 2
    assert "user/photos" in capsys.readouterr().err
    assert not out.exists()
