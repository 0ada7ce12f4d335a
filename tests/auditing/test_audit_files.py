"""`ut.audit` and `unlearnable audit`: what files give away, exit codes, JSON."""

import json
import os
import weakref

import datasets
import numpy as np
import pytest
from conftest import encode, image_set
from PIL import Image

import unlearnable_transforms as ut
from unlearnable_transforms.auditing import audit as module
from unlearnable_transforms.auditing.measure import Measured
from unlearnable_transforms.auditing.traces import read_traces
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.data.folder import FolderRows
from unlearnable_transforms.evaluation.data import read_pictures

COUNT = 240
LABELS = [row % 3 for row in range(COUNT)]


def noisy(protect: bool) -> np.ndarray:
    """uint8 (COUNT, 16, 16, 3): noise; protected with a pattern of each class."""
    random = np.random.default_rng(0)
    images = 128 + 20 * random.normal(size=(COUNT, 16, 16, 3))
    if protect:
        images += random.choice([-12, 12], (3, 16, 16, 3))[np.array(LABELS)]
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def folder(path, images, suffix="png", **options):
    for number, (image, label) in enumerate(zip(images, LABELS, strict=True)):
        (path / f"class{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path / f"class{label}" / f"{number}.{suffix}", **options)
    return path


def checks(result) -> list[str]:
    return [leak.check for leak in result.leaks]


def test_exit_codes_and_text(tmp_path, capsys):
    clean, protected = (folder(tmp_path / name, noisy(name == "p")) for name in ("c", "p"))
    assert main(["audit", str(clean)]) == 0
    assert capsys.readouterr().out.startswith("no signs of protection\n")
    assert main(["audit", str(protected)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("signs of protection\n")
    assert "240 PNG; kinds of encoding: 1" in out
    assert "leak" not in out


def test_a_key_in_the_folder_is_told_and_changes_the_exit_code(tmp_path, capsys):
    protected = folder(tmp_path / "p", noisy(True))
    ut.Key.public("x").save(protected / "notes.txt")
    assert main(["audit", str(protected), "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert [(leak["check"], leak["places"]) for leak in told["leaks"]] == [("key", ["notes.txt"])]
    assert told["exit_code"] == 3
    assert told["formats"] == {"PNG": COUNT}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("metadata.jsonl", b"[" * 100_000),
        ("metadata.jsonl", b"5\n"),
        ("metadata.csv", b"\xff\xfe\x00"),
        ("metadata.csv", None),
    ],
)
def test_what_nobody_can_read_is_named_and_stops_nothing(tmp_path, name, data):
    place = folder(tmp_path / "set", noisy(False))
    if data is None:
        os.mkfifo(place / name)  # nothing is waited for
    else:
        (place / name).write_bytes(data)
    found = ut.audit(place)
    assert [(leak.check, leak.places) for leak in found.leaks] == ([] if data is None else [("unreadable", (name,))])


def test_errors_are_one_line(tmp_path, capsys):
    assert main(["audit", str(tmp_path / "nothing" / "here")]) == 2
    assert capsys.readouterr().err.startswith("unlearnable: error: there is no ")
    few = folder(tmp_path / "few", noisy(False))
    assert main(["audit", str(few), "--rows", "50"]) == 2
    assert "200 pictures" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("plain", "signs", "code", "verdict"),
    [
        (0.8, False, 0, "not protected (measured)"),
        (0.8, True, 1, "signs of protection, hardly felt by quick victims (measured)"),
        (0.2, True, 1, "protected (measured)"),
    ],
)
def test_with_a_test_set_the_measurement_decides(tmp_path, capsys, monkeypatch, plain, signs, code, verdict):
    def measured(pictures, test, size, seed, device):
        assert (len(pictures), len(test), size, seed) == (COUNT, COUNT, 16, 5)
        return Measured(0.8, {"erm": plain, "grayscale": 0.3}, 240, 240, 0.05)

    monkeypatch.setattr(module, "measure", measured)
    protected = folder(tmp_path / "p", noisy(signs))
    assert main(["audit", str(protected), "--test", str(protected), "--seed", "5"]) == code
    out = capsys.readouterr().out
    assert out.startswith(verdict + "\n")
    assert ("83% are still lost under grayscale, the best of these (71% to 95% by so few test pictures)" in out) == (
        plain < 0.5
    )


def test_a_saved_set_and_its_splits(tmp_path):
    data = image_set([encode(image) for image in noisy(True)], LABELS)
    both = datasets.DatasetDict({"train": data, "test": data.select(range(10))})
    assert ut.audit(both).verdict == ut.audit(data).verdict == "signs of protection"
    both.save_to_disk(tmp_path / "saved")
    result = ut.audit(tmp_path / "saved")
    assert (result.rows, result.traces.formats, result.leaks) == (COUNT, {"PNG": COUNT}, [])


def test_pictures_that_are_encoded_otherwise_and_hold_more(tmp_path):
    images = [encode(image) for image in noisy(True)]
    images[7] = encode(noisy(True)[7], "JPEG")
    exif = Image.Exif()
    exif[0x010F] = "maker"
    images[9] = encode(noisy(True)[9], "PNG", exif=exif)
    result = ut.audit(image_set(images, LABELS))
    assert checks(result) == ["metadata", "mixed encodings"]
    assert [leak.places for leak in result.leaks] == [(("row", 9),), (("row", 7),)]
    assert result.traces.formats == {"PNG": COUNT - 1, "JPEG": 1}
    assert "row 7" in str(result)


def test_columns_beside_the_pictures():
    data = image_set([encode(image) for image in noisy(True)[:6]], LABELS[:6])
    data = data.add_column("note", ["", "", "/home/me/a.png", "", "", ""])
    data = data.add_column("other", [{"bytes": encode(image), "path": None} for image in noisy(False)[:6]])
    found = read_traces([], read_pictures(data, what="audited"), None, 6).leaks
    assert {leak.check for leak in found} == {"local path", "second image"}
    assert (("row", 2),) in [leak.places for leak in found]


def test_files_are_read_once_and_say_what_arrays_say(tmp_path, monkeypatch):
    sorted_rows = sorted(range(COUNT), key=lambda row: (LABELS[row], str(row)))  # as a folder counts them
    images, labels = noisy(True)[sorted_rows], [LABELS[row] for row in sorted_rows]
    told = ut.audit((images, labels)).signs
    path, read, reads = folder(tmp_path / "p", noisy(True)), FolderRows.stored, []
    monkeypatch.setattr(FolderRows, "stored", lambda self, rows: reads.extend(rows) or read(self, rows))
    assert ut.audit(path).signs == told
    assert sorted(reads) == list(range(COUNT))
    assert ut.audit(image_set([encode(image) for image in images], labels)).signs == told


@pytest.mark.parametrize("kind", ["folder", "table"])
def test_a_damaged_picture_is_named(tmp_path, kind):
    if kind == "folder":
        source = folder(tmp_path / "p", noisy(False))
        (source / "class0" / "0.png").write_bytes(b"no picture")  # the first in the folder
    else:
        source = image_set([b"no picture"] + [encode(image) for image in noisy(False)[1:]], LABELS)
    with pytest.raises(ValueError, match=r"^class0/0.png: " if kind == "folder" else r"^row 0: "):
        ut.audit(source)


def test_of_a_folder_with_splits_one_is_looked_at(tmp_path):
    for split in ("train", "test"):
        folder(tmp_path / split, noisy(True), "png" if split == "train" else "jpg")
    exif = Image.Exif()
    exif[0x010F] = "maker"
    Image.fromarray(noisy(True)[0]).save(tmp_path / "train" / "class0" / "0.png", exif=exif)
    result = ut.audit(tmp_path)
    assert result.traces.formats == {"PNG": COUNT}
    assert [(leak.check, leak.places) for leak in result.leaks] == [("metadata", ("train/class0/0.png",))]


def test_pictures_of_several_sizes():
    random = np.random.default_rng(0)
    large, middle, small = (
        random.integers(0, 256, size, np.uint8) for size in [(130, 90, 3), (60, 40, 3), (20, 30, 1)]
    )
    shrunk, cut, files = module.views([(large, None), (middle, None), (small, None)])
    assert (shrunk.shape, cut, files) == ((3, 3, 20, 20), None, [])
    assert np.array_equal(shrunk[2, 1].numpy(), small[:, 5:25, 0])  # the middle
    shrunk, cut, _ = module.views([(large, None), (large, None)])
    assert shrunk.shape == cut.shape == (2, 3, 64, 64)
    assert np.array_equal(cut[0].permute(1, 2, 0).numpy(), large[32:96, 8:72])
    assert module.views([(np.zeros((4, 5, 3), np.uint8), None)])[0].shape == (1, 3, 8, 8)


def test_one_large_picture_is_open_at_a_time():
    opened = []

    def pairs():
        for _ in range(4):
            image = np.zeros((300, 300, 3), np.uint8)
            opened.append(weakref.ref(image))
            yield image, None
            del image
            assert sum(reference() is not None for reference in opened) <= 1

    module.views(pairs())
    assert len(opened) == 4


def test_arrays_have_no_files():
    result = ut.audit((noisy(True), LABELS))
    assert (result.traces.formats, result.leaks, result.exit_code) == ({}, [], 1)
