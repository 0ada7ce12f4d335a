"""`unlearnable protect` on Parquet, saved sets and the Hub; a run that is not the same as before is refused."""

import json
import os
import re
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import encode, image_set, pixels, run_python, stored
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from folders import PROFILE, hub, make_folder, photograph, tree

import unlearnable_transforms as ut
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.data import table as shards
from unlearnable_transforms.jobs.ledger import read_ledger
from unlearnable_transforms.protection.protect import Protect, protect_source

FEATURES = Features({"image": Image(), "label": ClassLabel(names=["ant", "bee", "cat"]), "note": Value("string")})


@pytest.fixture
def poison(key_file) -> ut.CUDAPoison:
    return ut.CUDAPoison(key=ut.Key.load(key_file))


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


def test_one_parquet_file(tmp_path, out, protect, poison, capsys):
    data = make_set()
    data.to_parquet(tmp_path / "photos.parquet")
    table = pq.read_table(tmp_path / "photos.parquet")
    pq.write_table(
        table.replace_schema_metadata({**table.schema.metadata, b"by": b"CANARY"}), tmp_path / "photos.parquet"
    )
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
    write = Protect._write
    monkeypatch.setattr(
        Protect,
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


@pytest.mark.parametrize("kind", ["folder", "parquet", "saved"])
def test_another_run_is_refused_with_the_remedy(tmp_path, out, protect, key_file, capsys, kind):
    source = tmp_path / {"folder": "source", "parquet": "photos.parquet", "saved": "saved"}[kind]

    def make(seed: int, names: list[str]) -> None:
        data = make_set(seed=seed).cast_column("label", ClassLabel(names=names))
        if kind == "folder":
            make_folder(source, 3 + seed, tuple(names))
        elif kind == "parquet":
            data.to_parquet(source)
        else:
            data.save_to_disk(source)

    def refused(*options: str) -> str:
        assert protect(source, *options) == 2
        told = capsys.readouterr().err
        assert re.fullmatch(r"unlearnable: error: .*\n", told)
        assert "use the same again, or start with an empty output folder" in told
        assert tree(out) == first
        return told

    make(0, ["ant", "bee", "cat"])
    assert protect(source) == 0
    first = tree(out)
    capsys.readouterr()
    assert "blur" in refused("--blur", "0.2")
    key = key_file.read_bytes()
    ut.Key.generate().save(key_file, overwrite=True)
    assert "another key" in refused()
    key_file.write_bytes(key)
    assert protect(source) == 0
    capsys.readouterr()
    make(0, ["ant", "bee", "dog"])
    if kind == "folder":  # which grew
        assert protect(source) == 0
        assert first.items() <= tree(out).items()
    else:
        assert "added ['dog']" in refused()
    if kind != "folder":  # there the class folders of both stay
        make(1, ["ant", "bee", "cat"])
        assert protect(source) == 0  # other rows of the same kind: they are protected, too
        assert tree(out).keys() == first.keys()
        assert tree(out) != first


def test_a_table_that_changes_during_the_run_is_noticed(tmp_path, protect, capsys, monkeypatch):
    source = tmp_path / "saved"
    make_set().save_to_disk(source)
    write = Protect._write

    def late(self, *arguments):
        os.utime(source / "state.json", (1, 1))
        return write(self, *arguments)

    monkeypatch.setattr(Protect, "_write", late)
    assert protect(source) == 2
    assert "changed while" in capsys.readouterr().err


def test_all_rows_that_cannot_be_read_are_named_at_once(tmp_path, out, protect, monkeypatch, capsys):
    monkeypatch.setattr(shards, "SHARD_BYTES", 2000)
    rows = [encode(pixels(12, 12, 3, seed=row)) for row in range(20)]
    rows[3] = rows[17] = b"no picture"
    source = tmp_path / "source"
    source.mkdir()
    image_set(rows, [0] * 20).to_parquet(source / "train.parquet")
    image_set([b"?", *rows[4:9]], [0] * 6).to_parquet(source / "test.parquet")
    for _ in range(2):  # started again, too
        assert protect(source, "--keep-split", "test") == 2
        told = capsys.readouterr().err
        assert "test row 0; train row 3; train row 17: this is not a picture" in told
        assert "empty output folder" in told
    written = sum(len(split) for split in load(out).values())
    assert 0 < written < 26 - 3


def test_rows_without_a_label_are_named_before_anything_is_written(tmp_path, out, protect, capsys):
    image_set([encode(pixels(12, 12, 3))] * 3, [0, -1, 0]).to_parquet(tmp_path / "photos.parquet")
    assert protect(tmp_path / "photos.parquet") == 2
    assert "row 1" in capsys.readouterr().err
    assert not out.exists()


def test_parquet_whose_names_say_no_split_and_what_lies_beside(tmp_path, out, protect, capsys):
    source = tmp_path / "set [1]*"  # names that a glob would take for a pattern
    (source / "part").mkdir(parents=True)
    (source / ".cache").mkdir()
    make_set(3).to_parquet(source / "latest.parquet")
    make_set(3, seed=3).to_parquet(source / "part" / "more.parquet")
    make_set(3, seed=6).to_parquet(source / ".cache" / "old.parquet")
    (source / "notes.txt").write_text("x")
    assert protect(source) == 0
    told = capsys.readouterr().out
    assert "6 rows written" in told
    assert "notes.txt" in told
    assert ".cache/" in told
    assert load(out)["train"]["note"] == [f"row {row}" for row in range(3)] * 2


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train.parquet", "more.parquet"], "more.parquet: training data or not"),
        (["train_test.parquet"], "test or train"),
        (["train.parquet", "damaged train.parquet"], "damaged train.parquet cannot be read"),
        (["test.parquet", "val/a.parquet"], "none of the splits"),
    ],
)
def test_parquet_that_is_not_clear_or_not_readable(tmp_path, out, protect, capsys, names, message):
    for name in names:
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"?") if "damaged" in name else make_set(3).to_parquet(path)
    assert protect(tmp_path / "source") == 2
    told = capsys.readouterr().err
    assert re.fullmatch(r"unlearnable: error: .*\n", told)
    assert message in told
    assert not out.exists()


def test_parquet_files_of_different_columns(tmp_path, out, protect, capsys):
    (tmp_path / "source").mkdir()
    make_set(3).to_parquet(tmp_path / "source" / "a.parquet")
    make_set(3).rename_column("note", "other").to_parquet(tmp_path / "source" / "b.parquet")
    assert protect(tmp_path / "source") == 2
    assert "cannot be read as one data set" in capsys.readouterr().err
    assert not out.exists()


def add_every_kind(folder: Path) -> None:
    """Pictures of every kind that is taken: grey, with alpha, palette, 1 bit, with a profile, lying on their side."""
    turned = PIL.Image.Exif()
    turned[0x0112] = 6
    for name, data in {
        "grey.png": encode(pixels(15, 13)),
        "photograph in grey.jpg": encode(pixels(15, 13), "JPEG"),
        "alpha.png": encode(pixels(14, 13, 4)),
        "grey and alpha.png": encode(PIL.Image.fromarray(pixels(14, 13, 4)).convert("LA")),
        "palette.gif": encode(PIL.Image.fromarray(pixels(14, 13, 3)).quantize(9), "GIF"),
        "bits.png": encode(PIL.Image.fromarray(pixels(14, 13)).convert("1")),
        "profile.png": encode(pixels(14, 13, 3), icc_profile=PROFILE),
        "turned.jpg": encode(photograph(3), "JPEG", exif=turned, icc_profile=PROFILE),
    }.items():
        (folder / name).write_bytes(data)


@pytest.mark.parametrize("fraction", [1, 0.5])
def test_the_same_bytes_from_folder_parquet_saved_set_and_map(tmp_path, protect, out, poison, key_file, fraction):
    source = make_folder(tmp_path / "source")
    add_every_kind(source / "dog")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(source), split="train")
    inside = loaded.cast_column("image", Image(decode=False)).map(
        lambda row: {"image": {"bytes": Path(row["image"]["path"]).read_bytes(), "path": None}}
    )
    inside = inside.cast_column("image", Image())
    inside.to_parquet(tmp_path / "photos.parquet")
    inside.save_to_disk(tmp_path / "saved")
    assert protect(source, "--fraction", fraction, "--format", "png") == 0
    files = sorted(tree(out).values())
    assert len(files) == 20
    for kind in ("photos.parquet", "saved"):
        arguments = ["protect", str(tmp_path / kind), str(tmp_path / f"of {kind}"), "--key", str(key_file)]
        assert main([*arguments, "--workers", "1", "--fraction", str(fraction)]) == 0
    assert sorted(row["bytes"] for row in stored(load(tmp_path / "of photos.parquet")["train"])) == files
    assert sorted(row["bytes"] for row in stored(datasets.load_from_disk(str(tmp_path / "of saved")))) == files
    if fraction == 1:
        assert sorted(row["bytes"] for row in stored(loaded.map(poison, batched=True))) == files


# ---- the Hub ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_set_of_the_hub(tmp_path, out, poison, key_file):
    remote, changed = tmp_path / "remote", tmp_path / "changed.parquet"
    remote.mkdir()
    data = make_set(seed=3)
    data.to_parquet(remote / "train-00000-of-00001.parquet")
    data.to_parquet(remote / "test-00000-of-00001.parquet")
    make_set(seed=4).to_parquet(changed)
    code = f"""
import contextlib, io, json, shutil
from unlearnable_transforms.cli.main import main
def run(name):
    with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.redirect_stderr(io.StringIO()) as wrong:
        code = main(["protect", name, {str(out)!r}, "--key", {str(key_file)!r}, "--workers", "1"])
    results.append((code, told.getvalue(), wrong.getvalue()))
results = []
run("user/photos")
run("user/photos")
shutil.copy({str(changed)!r}, {str(remote / "train-00000-of-00001.parquet")!r})
run("user/photos")
run("user/nothing")
print(json.dumps(results))
"""
    with hub(remote) as server:
        first, again, other, nothing = json.loads(run_python(code, **server.environment(tmp_path / "home")))
    assert first[::2] == again[::2] == [0, ""]
    assert "9 rows written: 9 protected" in first[1]
    assert "left out, not being training data: test" in first[1]
    assert list(tree(out)) == ["train-00000-of-00001.parquet"]
    assert b"CANARY" not in b"".join(tree(out).values())
    assert other[::2] == [0, ""]  # the set was replaced by another: its rows are protected
    assert stored(load(out)["train"]) == stored(make_set(seed=4).map(poison, batched=True))
    assert nothing[0] == 2
    assert nothing[2].startswith("unlearnable: error: user/nothing is no file or folder here; as a name of the Hub: ")


@pytest.mark.parametrize(
    "error", [ConnectionError("Couldn't reach the Hub"), ValueError("Config name is missing.\nPick one of ['a', 'b']")]
)
def test_what_the_hub_answers_is_told_in_one_line(protect, out, monkeypatch, capsys, error):
    def refuse(name, config):
        raise error

    monkeypatch.setattr("unlearnable_transforms.data.table.load_dataset", refuse)
    assert protect("user/photos") == 2
    told = capsys.readouterr().err
    assert re.fullmatch(r"unlearnable: error: user/photos is no file or folder here.*\n", told)
    assert str(error).split("\n")[-1] in told
    assert not out.exists()


def test_files_and_splits_without_rows(out, tmp_path, poison):
    rows = image_set([encode(pixels(9, 9, 3, seed=number)) for number in range(4)], [0, 1, 0, 1])
    source = tmp_path / "source"
    source.mkdir()
    rows.to_parquet(source / "train-0.parquet")
    none = pq.read_table(source / "train-0.parquet").slice(0, 0)
    pq.write_table(none, source / "train-1.parquet")
    pq.write_table(none, source / "test.parquet")
    assert protect_source(source, out, poison).counts == {"protected": 4}
    (source / "train-0.parquet").unlink()
    with pytest.raises(ValueError, match="there are no rows"):
        protect_source(source, tmp_path / "none", poison)
    rows.select([]).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="has no rows"):
        protect_source(tmp_path / "saved", tmp_path / "none", poison)


@pytest.mark.parametrize(("labels", "classes"), [([3, 12, 3, 12], "3, 12"), ([[1], [0], [1], [0]], "0, 1")])
def test_what_was_read_as_classes_is_always_said(out, tmp_path, poison, labels, classes):
    images = [{"bytes": encode(pixels(9, 9, 3, seed=number)), "path": None} for number in range(4)]
    pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / "rows.parquet")
    summary = protect_source(tmp_path / "rows.parquet", out, poison)
    assert f"2 classes ({classes}), from column 'label'" in summary.lines()
