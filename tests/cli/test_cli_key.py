"""Options that name the key: one file holds it, and each album or release has a derived key."""

import re

import datasets
import numpy as np
import pytest
from conftest import encode, pixels
from folders import make_folder
from PIL import Image

import unlearnable_transforms as ut
from unlearnable_transforms.cli.main import build_parser, main


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def derived(key_file) -> ut.Key:
    return ut.Key.load(key_file).derive("ann/cats")


def test_every_command_that_takes_a_key_takes_a_derived_one():
    commands = build_parser()._subparsers._group_actions[0].choices
    with_key = [name for name, command in commands.items() if "--key FILE" in command.format_help()]
    assert {"keygen", "fit", "protect", "evaluate", "publish", "verify", "unlock"} <= set(with_key)
    without = [name for name in with_key if "--derive NAME" not in commands[name].format_help()]
    assert without == ["app"]  # which derives a key for each album by the album's name


def test_protect_and_unlock_with_a_derived_key(tmp_path, out, key_file, derived, capsys):
    source, back = tmp_path / "source", tmp_path / "back"
    for name in ("cat", "dog"):
        (source / name).mkdir(parents=True)
        Image.fromarray(pixels(40, 40, 3)).save(source / name / "1.png")
    assert run("protect", source, out, "--key", key_file, "--derive", "ann/cats", "--workers", 1) == 0
    truth = [ut.CUDAPoison(key=derived)(pixels(40, 40, 3), label)[0].tolist() for label in (0, 1)]
    assert [np.asarray(Image.open(out / name / "1.png")).tolist() for name in ("cat", "dog")] == truth
    assert run("unlock", out, back, "--key", key_file, "--workers", 1) == 2
    assert "another key" in capsys.readouterr().err
    assert run("unlock", out, back, "--key", key_file, "--derive", "ann/cats", "--workers", 1) == 0


def test_a_derived_key_can_be_handed_on_alone(tmp_path, key_file, derived, capsys):
    alone = tmp_path / "cats.key"
    assert run("keygen", alone, "--key", key_file, "--derive", "ann/cats") == 0
    assert ut.Key.load(alone) == derived
    assert f"{key_file} makes it again" in capsys.readouterr().out
    assert run("keygen", tmp_path / "other.key", "--key", key_file) == 2
    assert "--derive NAME says which key" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["keygen", "new.key"], ["verify", "."], ["evaluate", "out", "--test", "."]])
def test_a_name_without_a_key_file_is_refused(tmp_path, monkeypatch, arguments, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--derive", "ann/cats"]) == 2
    assert "--derive makes a key from that of --key FILE" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_empty_name_is_refused(tmp_path, key_file, capsys):
    assert run("keygen", tmp_path / "a.key", "--key", key_file, "--derive", "") == 2
    assert re.search(r"a derived key needs the name of .*: --derive user/dataset\n", capsys.readouterr().err)


def test_the_key_of_another_release_names_the_option(tmp_path, out, key_file, capsys):
    """The last step in which a release learns that its key was used before."""
    folder = make_folder(tmp_path / "source", 2)
    assert run("protect", folder, out, "--key", key_file, "--workers", 1) == 0
    options = ("--key", key_file, "--originals-public", "no", "--rename")
    assert run("publish", out, "ann/cats", *options, "--folder", tmp_path / "first") == 0
    capsys.readouterr()
    assert run("publish", out, "ann/dogs", *options, "--folder", tmp_path / "second") == 1
    assert (
        "protect with another key: --derive ann/dogs, or a new one of `unlearnable keygen`" in capsys.readouterr().err
    )
    assert run("verify", tmp_path / "first", "--key", key_file) == 0


def test_a_mistyped_key_file_or_folder_is_nearly_named(tmp_path, monkeypatch, key_file, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "ann.key").write_bytes(key_file.read_bytes())
    assert run("protect", "fotos", "out", "--key", "ann.key") == 2
    assert capsys.readouterr().err.endswith("hf://name): did you mean 'photos'?\n")
    assert run("protect", "photos", "out", "--key", "an.key") == 2
    assert "no key file an.key: did you mean 'ann.key'?; `unlearnable keygen an.key`" in capsys.readouterr().err


def test_images_without_a_class_name_the_ways_out(tmp_path, out, protect, capsys):
    (tmp_path / "album" / "a" / "b").mkdir(parents=True)
    Image.fromarray(pixels(9, 9, 3)).save(tmp_path / "album" / "a" / "b" / "1.png")
    assert protect(tmp_path / "album") == 2
    assert re.search(r"--label NAME for the whole tree, or --labels folder", capsys.readouterr().err)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "album" / "2.png")
    assert protect(tmp_path / "album") == 2
    assert re.search(r"--label NAME .*--labels table.csv .*--labels auto", capsys.readouterr().err)


def test_a_mistyped_column_is_nearly_named(tmp_path, protect, capsys):
    table = tmp_path / "a.parquet"
    datasets.Dataset.from_dict({"image": [encode(pixels(9, 9, 3))]}).to_parquet(table)
    assert protect(table, "--image-key", "imag") == 2
    assert "no column 'imag': did you mean 'image'?; the columns are ['image']\n" in capsys.readouterr().err
    assert protect(table) == 2
    assert re.search(r"with --label-key\..*protected with --labels auto", capsys.readouterr().err)
