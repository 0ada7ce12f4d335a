"""The private page and the plain words after `unlearnable protect`."""

import json
import os
import re
import stat
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, encode, image_set, pixels
from folders import make_folder, photograph, tree
from PIL import Image

import unlearnable_transforms as ut
from unlearnable_transforms.evaluation.worth import PHOTOGRAPHS, STARTED, worth
from unlearnable_transforms.jobs.summary import in_words
from unlearnable_transforms.protection.album import thumbnail


@pytest.fixture
def source(tmp_path) -> Path:
    source = make_folder(tmp_path / "source")
    (source / "cat" / "bad.png").write_bytes(b"?")
    (source / "cat" / "black.png").write_bytes(encode(np.zeros((30, 30, 3), np.uint8)))
    (source / "cat" / "<b>.txt").write_text("x")
    return source


def pages() -> list[Path]:
    return sorted(Path(os.environ["UNLEARNABLE_TRANSFORMS_CACHE"], "ledgers").glob("*.html"))


def test_the_page_shows_before_and_after_and_what_was_left_out(source, out, protect, capsys):
    assert protect(source) == 1
    (page,) = pages()
    said = capsys.readouterr().out
    assert f"(private, it shows the originals): {page}" in said
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    text = page.read_text()
    assert len(re.findall(r'<img src="data:image/jpeg;base64,', text)) == 24  # twelve pairs
    assert (source / "ant" / "0001.jpg").as_uri() in text
    assert (out / "ant" / "0001.png").as_uri() in text
    assert "<b>cat/bad.png</b>: this is not a picture" in text
    assert "<b>cat/black.png</b>: UNPROTECTED" in text
    assert "cat/&lt;b&gt;.txt" in text
    assert not re.search(r"https?:", text)
    assert not [name for name in tree(out) if name.endswith(".html")]


def test_a_grown_album_has_one_page_with_what_is_new(source, out, protect):
    protect(source)
    (source / "cat" / "new.png").write_bytes(encode(pixels(9, 8, 3, seed=70)))
    protect(source)
    (page,) = pages()
    text = page.read_text()
    assert re.findall(r"<figcaption>(.*?)</figcaption>", text) == ["cat/new.png"]
    assert "1 of 1 images that this run wrote" in text
    assert "1 new, 13 as they were" in text


def test_the_summary_says_what_was_done_and_not_what_it_is_worth_and_what_to_do(source, out, protect, key_file, capsys):
    protect(source)
    said = capsys.readouterr().out
    steps = said[said.index("what to do next:") :]
    assert "1. repair or export the 1 that could not be read" in steps
    assert "2. do not publish the 1 UNPROTECTED" in steps
    assert f"unlearnable verify {out}" in steps
    assert f"key: {ut.Key.load(key_file).fingerprint}" in said
    measured = json.loads((ROOT / "unlearnable_transforms/evaluation/measured.json").read_text())
    (cuda,) = [row for row in measured["methods"] if row["method"] == "cuda"]
    assert f"trained on protected ones {100 * cuda['accuracies']['erm']:.0f}" in said
    assert "not measured: a trainer who starts from a network that has seen millions" in said


def test_a_table_has_no_page(tmp_path, out, protect, capsys):
    image_set([encode(pixels(9, 9, 3, seed=number)) for number in range(4)], [0, 1] * 2).to_parquet(
        tmp_path / "a.parquet"
    )
    assert protect(tmp_path / "a.parquet") == 0
    assert pages() == []
    assert "what to do next" not in capsys.readouterr().out


def test_a_page_beside_a_ledger_of_its_own_place(source, protect, ledger):
    protect(source, "--ledger", ledger)
    assert stat.S_IMODE(ledger.with_name("ledger.parquet.html").stat().st_mode) == 0o600


def test_figures_of_photographs_are_those_of_the_trainings():
    lines = (ROOT / "docs" / "results" / "photographs.jsonl").read_text().splitlines()
    at_64 = [row for row in map(json.loads, lines) if row["on"] == "validation" and row["side"] == 64]
    known = json.loads(PHOTOGRAPHS.read_text())
    (clean,) = [row for row in at_64 if row["method"] == {}]
    assert known["clean"] == clean["accuracy"]
    for name, figures in known["strengths"].items():
        (row,) = [row for row in at_64 if row["method"] == {"strength": name}]
        assert figures == {what: row[what] for what in figures}
        text = "\n".join(worth(ut.CUDAPoison(key=ut.Key.public("x"), strength=name), 400))
        assert f"recognised {clean['accuracy']:.0f} of 100" in text
        assert f"trained on protected ones {row['accuracy']:.0f}" in text


@pytest.mark.parametrize(
    ("method", "side", "text"),
    [
        ({"kernel_size": 5}, 400, "not measured with these options"),
        ({"image_key": "img"}, 32, "CIFAR-10"),
        ({}, 60, "at the size of your images, about 60 pixels, it was not measured"),
    ],
)
def test_what_was_not_measured_is_said(method, side, text):
    assert text in "\n".join(worth(ut.CUDAPoison(key=ut.Key.public("x"), **method), side))


def test_noise_for_photographs_is_worth_what_was_measured():
    (row,) = json.loads(STARTED.read_text())["noise"]
    ((name, settings),) = row["links"]
    poison = ut.get_poison(name)(ut.Key.public("x"), **settings)
    text = "\n".join(worth(poison, 400))
    assert f"protected {row['probe']:.0f}" in text
    assert "not measured" not in text
    assert "not measured" in "\n".join(worth(ut.TAPPoison(ut.Key.public("x"), preset="photographs"), 400))


def test_words_for_the_strengths_as_they_were_measured():
    known = json.loads(PHOTOGRAPHS.read_text())["strengths"]
    words = {name: in_words(figures["gain-fitted PSNR"], figures["SSIM"]) for name, figures in known.items()}
    assert words["subtle"] == "hardly seen"
    assert words["normal"].startswith("a soft glow")
    assert in_words(15.0, 0.6) == "plainly seen"
    assert in_words(float("nan"), float("nan")) == "not measured"


def test_thumbnails_of_large_jpegs_are_decoded_small(tmp_path, monkeypatch):
    Image.fromarray(photograph(1, 300, 400)).resize((3200, 2400)).save(tmp_path / "a.jpg")
    sizes, load = [], Image.Image.convert
    monkeypatch.setattr(Image.Image, "convert", lambda self, *a, **k: sizes.append(self.size) or load(self, *a, **k))
    assert thumbnail(tmp_path / "a.jpg").startswith("data:image/jpeg")
    assert sizes[0] == (1600, 1200)
    assert thumbnail(tmp_path / "gone.jpg") == ""
