"""`unlearnable protect`: options, exit codes, messages."""

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import encode, pixels
from folders import make_folder, photograph, tree
from PIL import Image

import unlearnable_transforms as ut
from unlearnable_transforms.jobs.ledger import read_ledger


def test_a_folder_with_its_summary(tmp_path, out, protect, capsys):
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


def test_strength_is_that_of_the_method(tmp_path, out, protect, key_file):
    image = photograph(3, 100, 130)
    for folder in ("ant", "cat"):
        (tmp_path / "source" / folder).mkdir(parents=True)
        (tmp_path / "source" / folder / "one.png").write_bytes(encode(image))
    assert protect(tmp_path / "source", "--strength", "strong") == 0
    key = ut.Key.load(key_file)
    strong, normal = (ut.CUDAPoison(key=key, strength=name)(image, 1)[0] for name in ("strong", "normal"))
    written = np.asarray(Image.open(out / "cat" / "one.png"))
    assert (written == strong).all()
    assert (written != normal).any()


def test_a_key_that_others_can_read_is_told_in_one_line(tmp_path, protect, key_file, capsys):
    key_file.chmod(0o644)
    assert protect(make_folder(tmp_path / "source", 3)) == 0
    assert re.fullmatch(r"unlearnable: warning: .*chmod 600.*\n", capsys.readouterr().err)


def test_fraction_warns_with_the_papers_figure(tmp_path, protect, capsys):
    assert protect(make_folder(tmp_path / "source"), "--fraction", 0.8) == 0
    told = capsys.readouterr()
    assert told.err.count("85.6 %") == 1
    assert "left clean" in told.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--quality", "90"), "--quality is for"),
        (("--image-key", "x"), "--image-key and --label-key name columns"),
        (("--config", "x"), "--config is for data sets of the Hub"),
        (("--method", "nothing"), "no method 'nothing'"),
        (("--kernel-size", "4"), "odd"),
        (("--strength", "strong", "--blur", "0.2"), "strength stands for"),
        (("--fraction", "0"), "fraction"),
        (("--ledger", "{out}/ledger.parquet"), "published"),
        (("--label-key", "x"), "--image-key and --label-key name columns"),
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
    monkeypatch.setattr("unlearnable_transforms.cli.method.METHOD_OPTIONS", ("config",))
    assert protect(make_folder(tmp_path / "source", 3), "--config", "x") == 2
    assert "the method cuda has no option --config" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere/at/all", "no nowhere/at/all here"),
        ("/nowhere", "no /nowhere here"),
        (".", "no images, Parquet files or tars"),
    ],
)
def test_a_source_that_is_nothing(tmp_path, protect, capsys, monkeypatch, source, message):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert protect(source) == 2
    assert message in capsys.readouterr().err


def test_ctrl_c_has_its_exit_code(tmp_path, protect, capsys, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("unlearnable_transforms.protection.protect.open_data", stop)
    assert protect(make_folder(tmp_path / "source", 3)) == 130
    assert "run the same command again" in capsys.readouterr().err
