"""`unlearnable protect`: options, exit codes, messages."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import encode, pixels
from folders import PROFILE, make_folder, photograph, tree
from PIL import Image

import unlearnable_transforms as ut
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.jobs.ledger import read_ledger


def test_a_folder_with_its_summary(tmp_path, out, protect, capsys):
    source = make_folder(tmp_path / "source")
    (source / "Thumbs.db").write_bytes(b"x")
    assert protect(source, "--ledger", tmp_path / "ledger.parquet") == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert re.search(r"12 files written: 12 protected\n[\d.]+ kB in, [\d.]+ kB out\nwhat is seen: ", told.out)
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
    assert "cat/bad.png: this is not a picture" in told.out
    assert "left out" in told.err
    assert ": 1 picture, named above with what to do" in told.err
    assert len(tree(out)) == 12
    assert protect(source) == 1
    (source / "cat" / "bad.png").write_bytes(encode(pixels(9, 9, 3)))
    assert protect(source) == 0
    assert len(tree(out)) == 13


def test_options_of_the_method_and_of_the_format(tmp_path, out, protect, key_file, capsys):
    source = make_folder(tmp_path / "source", 3)
    options = ("--format", "jpeg", "--quality", 90, "--kernel-size", 5, "--blur", 0.2, "--keep-metadata", "none")
    assert protect(source, *options) == 0
    assert capsys.readouterr().err == ""  # a filter survives it
    assert {Path(name).suffix for name in tree(out)} == {".jpg"}
    assert protect(source, *options[:-4], "--keep-metadata", "none") == 2
    assert "begun with blur 0.2, now it is not set" in capsys.readouterr().err


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
        (("--quality", "90", "--format", "png"), "--quality is for"),
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


# ---- where they will be shown, and what stands in the files ----------------------------------------------------------


@pytest.fixture
def large(tmp_path) -> Path:
    """A JPEG and a PNG of 1200 x 30 pixels."""
    for format, name in (("JPEG", "a.jpg"), ("PNG", "b.png")):
        (tmp_path / "large" / "cat").mkdir(parents=True, exist_ok=True)
        (tmp_path / "large" / "cat" / name).write_bytes(encode(photograph(1, 30, 1200), format))
    return tmp_path / "large"


def sizes(out: Path) -> dict[str, tuple[str, int]]:
    """Format and longest side of each file."""
    return {path.name: (image.format, max(image.size)) for path in out.rglob("*.*") if (image := Image.open(path))}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {"a.png": ("PNG", 1200), "b.png": ("PNG", 1200)}),
        (("--format", "auto"), {"a.jpg": ("JPEG", 1200), "b.png": ("PNG", 1200)}),
        (("--max-side", 300, "--format", "auto"), {"a.jpg": ("JPEG", 300), "b.png": ("PNG", 300)}),
        (("--max-side", 5000, "--format", "jpg"), {"a.jpg": ("JPEG", 1200), "b.jpg": ("JPEG", 1200)}),
        (("--site", "instagram"), {"a.jpg": ("JPEG", 1080), "b.jpg": ("JPEG", 1080)}),
        (("--site", "web", "--max-side", 200), {"a.jpg": ("JPEG", 200), "b.png": ("PNG", 200)}),
        (("--site", "instagram", "--format", "webp"), {"a.webp": ("WEBP", 1080), "b.webp": ("WEBP", 1080)}),
    ],
    ids=str,
)
def test_sizes_and_formats(large, out, protect, capsys, options, expected):
    assert protect(large, *options) == 0
    assert sizes(out) == expected
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        (
            ("--method", "lsp", "--format", "jpeg"),
            r"JPEG takes away much of what this method adds: .*png and webp keep",
        ),
        (("--method", "lsp", "--site", "flickr"), r"written as PNG, but sites often save them as JPEG"),
        (
            ("--method", "lsp", "--format", "auto"),
            r"1 JPEG files .* become PNG, at full size five to ten times as large",
        ),
        (
            ("--format", "jpeg", "--quality", 60),
            r"what JPEG 60 leaves of the protection was not measured; at 75 it is 97",
        ),
    ],
    ids=str,
)
def test_what_is_lost_is_said_for_the_method(tmp_path, out, protect, large, capsys, options, warning):
    (large / "dog").mkdir()
    (large / "dog" / "c.png").write_bytes(encode(photograph(5, 30, 40)))
    assert protect(large, *options) == 0
    assert re.search(warning, capsys.readouterr().err)


def test_the_table_of_sites(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["protect", "--list-sites"])
    assert caught.value.code == 0
    told = capsys.readouterr().out
    assert "flickr: at most 2048 px, jpeg, quality 92; " in told
    assert "\n    https://www.flickr.com/services/api/misc.urls.html, 2026-" in told
    assert "\n    unsure: " in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--site", "insta"), "did you mean 'instagram'"),
        (("--opt-out", "photos"), "takes nothing or one of ai-training, .*: put it behind SOURCE and OUT"),
        (("--keep", "creator,gps"), "takes some of creator, .* not 'gps'"),
        (("--max-side", "0"), "a whole number from 1 up"),
        (("--creator", "a\tb"), r"--creator holds U\+0009"),
        (("--copyright", ""), "--copyright is empty"),
        (("--quality", "80"), "--quality is for --format jpeg or auto"),
        (("--method", "lsp", "--format", "auto", "--quality", "80"), "the images are written as PNG here"),
    ],
    ids=str,
)
def test_options_of_files_that_are_refused(large, out, protect, capsys, options, message):
    try:
        code = protect(large, *options)
    except SystemExit as caught:  # options that cannot be parsed
        code = caught.code
    assert code == 2
    assert re.search(message, capsys.readouterr().err)
    assert not out.exists()


EXIFTOOL = shutil.which("exiftool")


@pytest.mark.skipif(EXIFTOOL is None, reason="exiftool, which is a program of its own, is not installed")
@pytest.mark.parametrize("format", ["jpeg", "png", "webp"])
def test_another_program_reads_the_packet_and_nothing_of_the_original(tmp_path, out, protect, format):
    photo = tmp_path / "source" / "cat" / "1.jpg"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(encode(photograph(1, 60, 80), "JPEG", icc_profile=PROFILE))
    (tmp_path / "thumbnail.jpg").write_bytes(encode(photograph(2, 12, 16), "JPEG", comment=b"CANARY-thumbnail"))
    planted = [
        "-GPSLatitude=48.25",
        "-GPSLatitudeRef=N",
        "-GPSLongitude=11.5",
        "-GPSLongitudeRef=E",
        "-GPSAreaInformation=CANARY-gps",
        "-SerialNumber=CANARY-serial",
        "-LensSerialNumber=CANARY-lens",
        "-OwnerName=CANARY-owner",
        "-Make=Canon",
        "-Model=CANARY-model",
        "-UserComment=CANARY-comment",
        "-ImageDescription=CANARY-caption",
        "-Software=CANARY-software",
        "-Artist=CANARY-artist",
        "-XMP-dc:Description=CANARY-description",
        "-XMP-dc:Subject=CANARY-keyword",
        "-XMP-iptcCore:Location=CANARY-place",
        "-XMP-xmpMM:DocumentID=CANARY-document",
        "-IPTC:City=CANARY-city",
        "-IPTC:Keywords=CANARY-word",
        "-Comment=CANARY-com",
        "-XMP-photoshop:City=CANARY-town",
        "-XMP-dc:Creator=Bo",
        "-XMP-photoshop:Credit=CREDIT",
    ]
    run = [
        EXIFTOOL,
        "-q",
        "-overwrite_original",
        *planted,
        f"-ThumbnailImage<={tmp_path / 'thumbnail.jpg'}",
        str(photo),
    ]
    subprocess.run(run, check=True, timeout=60)
    assert photo.read_bytes().count(b"CANARY") >= 15
    said = ("--creator", "Ann Lée & Co", "--copyright", "© 2026 <Ann>", "--keep", "creator,credit", "--opt-out")
    assert protect(tmp_path / "source", "--format", format, *said) == 0
    (file,) = out.rglob("1.*")
    assert b"CANARY" not in file.read_bytes()
    read = subprocess.run([EXIFTOOL, "-j", "-G1", "-struct", str(file)], check=True, capture_output=True, timeout=60)
    (tags,) = json.loads(read.stdout)
    mine = {name: value for name, value in tags.items() if name.startswith("XMP")}
    assert mine == {
        "XMP-plus:DataMining": "http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED-AIMLTRAINING",
        "XMP-dc:Creator": ["Ann Lée & Co"],
        "XMP-dc:Rights": "© 2026 <Ann>",
        "XMP-photoshop:Credit": "CREDIT",
        "XMP-xmpRights:Marked": True,
    }
    others = {name.split(":")[0] for name in tags} - {"SourceFile"} - {name.split(":")[0] for name in mine}
    profile = {name for name in others if name.startswith("ICC") or name == "PNG-iCCP"}
    assert others - profile <= {"ExifTool", "System", "File", "JFIF", "PNG", "RIFF", "Composite"}
    assert "ExifTool:Warning" not in tags
