"""`unlearnable preview`: three strengths on one private page."""

import base64
import io
import re
import stat
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, encode, pixels
from folders import photograph, save_key
from PIL import Image

import unlearnable_transforms as ut
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.data.classes import keep_names
from unlearnable_transforms.errors import UsageError
from unlearnable_transforms.protection.pages import MARK, reduced
from unlearnable_transforms.protection.preview import DETAIL, SHOWN, preview
from unlearnable_transforms.protection.protect import protect_source

KEY = ut.Key.public("tests")


@pytest.fixture
def photo(tmp_path) -> Path:
    (tmp_path / "flowers").mkdir()
    path = tmp_path / "flowers" / "one.png"
    path.write_bytes(encode(photograph(3, 500, 700)))
    return path


def shown(page: Path) -> dict[str, np.ndarray]:
    """The images of a page by the ids of their elements."""
    found = re.findall(r'<img id="([\w-]+)" src="data:image/jpeg;base64,([^"]+)"', page.read_text())
    return {name: np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int) for name, data in found}


def test_each_strength_is_what_protect_makes(photo, tmp_path):
    keep_names(["ant", "flowers"], KEY)
    made = preview(photo, KEY, out=tmp_path / "page.html")
    original = np.asarray(Image.open(photo))
    images = shown(made.page)
    assert np.abs(images["whole-original"] - original).mean() < 3
    for view in made.views[1:]:
        expected = ut.CUDAPoison(key=KEY, strength=view.name)(original, 1)[0]  # the folder's number under the key
        assert images[f"whole-{view.name}"].shape == original.shape
        assert np.abs(images[f"whole-{view.name}"] - expected).mean() < 3
        assert np.abs(images[f"whole-{view.name}"] - original).mean() > 6
    assert [view.name for view in made.views] == ["original", "subtle", "normal", "strong"]
    assert made.views[1].db > max(made.views[2].db, made.views[3].db)


def test_the_detail_is_the_part_that_changes_most(tmp_path):
    image = np.full((900, 1400, 3), 128, np.uint8)
    image[500:800, 900:1300] = pixels(300, 400, 3)
    (tmp_path / "a.png").write_bytes(encode(image))
    made = preview(tmp_path / "a.png", KEY, label="Ann", out=tmp_path / "page.html")
    detail = shown(made.page)["detail-original"]
    assert detail.shape == (DETAIL[1], DETAIL[0], 3)
    assert (np.abs(detail - 128).max(2) > 20).sum() > 0.9 * 300 * 400


def test_the_page_is_private_bounded_and_asks_nobody_for_anything(photo):
    big = photo.with_name("big.jpg")
    Image.fromarray(photograph(1, 100, 200)).resize((4000, 3000)).save(big)
    made = preview(big, KEY)
    assert stat.S_IMODE(made.page.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.page.parent.stat().st_mode) == 0o700
    text = made.page.read_text()
    assert "Private." in text
    assert MARK.decode() in text
    assert set(re.findall(r'(?:src|href)="(\w+):', text)) == {"data"}
    assert "default-src 'none'" in text
    assert "http:" not in text
    assert "https:" not in text
    assert max(image.shape[1] for image in shown(made.page).values()) == SHOWN
    assert made.page.stat().st_size < 6_000_000
    assert preview(big, KEY).page == made.page  # the next one replaces it


def test_names_cannot_write_into_the_page(tmp_path):
    path = tmp_path / "<script>alert(1)</script>.png".replace("/", "")
    path.write_bytes(encode(photograph(2, 90, 90)))
    text = preview(path, KEY, label="<b>", out=tmp_path / "page.html").page.read_text()
    assert "<script>alert" not in text
    assert "&lt;b&gt;" in text


@pytest.mark.parametrize("kind", ["alpha", "grey", "small"])
def test_other_kinds_of_images(tmp_path, kind):
    image = {"alpha": pixels(100, 120, 4), "grey": pixels(100, 120), "small": pixels(20, 30, 3)}[kind]
    (tmp_path / "a.png").write_bytes(encode(image))
    made = preview(tmp_path / "a.png", KEY, label="x", out=tmp_path / "page.html")
    assert shown(made.page)["whole-strong"].shape == (*image.shape[:2], 3)


def test_a_photograph_that_protect_would_convert(tmp_path):
    path = tmp_path / "cats" / "print.jpg"
    path.parent.mkdir()
    Image.fromarray(photograph(1, 40, 50)).convert("CMYK").save(path)
    assert preview(path, ut.Key.public("preview")).size == (50, 40)
    with pytest.raises(UsageError, match="name one photograph in it"):
        preview(path.parent, ut.Key.public("preview"))


def test_no_page_with_an_original_lies_among_protected_images(photo, tmp_path):
    key = ut.Key.public("preview")
    protect_source(photo.parent, tmp_path / "protected", ut.CUDAPoison(key=key), label="cats")
    with pytest.raises(UsageError, match="name another place"):
        preview(photo, key, out=tmp_path / "protected" / "page.html")
    assert [path.name for path in (tmp_path / "protected").iterdir()] == [f"{photo.stem}.png"]


def test_no_report_and_no_noise_lie_among_protected_images(photo, tmp_path, capsys):
    out = tmp_path / "protected"
    protect_source(photo.parent, out, ut.CUDAPoison(key=ut.Key.public("preview")), label="cats")
    images = np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 0, 1]
    with pytest.raises(UsageError, match="the report shows originals"):
        ut.evaluate(clean=images, test=images, out=out)
    report = ut.Report.load(ROOT / "docs" / "results" / "search" / "cuda")
    report.sets["of it"] = {"samples": ["an original"]}
    with pytest.raises(UsageError, match="the report shows originals"):
        report.save(out)
    assert main(["cache", "export", "0123", str(out / "noise")]) == 2
    assert "name another one" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == [f"{photo.stem}.png"]


def test_an_alpha_channel_is_shown_on_white(tmp_path):
    image = np.zeros((100, 120, 4), np.uint8)
    image[:, 60:, 3] = 255
    image[:, 60:, :3] = photograph(4, 100, 60)
    (tmp_path / "a.png").write_bytes(encode(image))
    made = preview(tmp_path / "a.png", KEY, label="x", out=tmp_path / "page.html")
    assert shown(made.page)["whole-original"][:, :40].min() > 240


def test_the_command_says_what_is_seen_and_where_the_page_is(photo, tmp_path, capsys, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda url: bool(opened.append(url)) or True)
    page, key = tmp_path / "page.html", save_key(tmp_path / "my.key")
    assert main(["preview", str(photo), "--key", str(key), "--out", str(page), "--open"]) == 0
    said = capsys.readouterr().out
    assert "class flowers" in said
    assert re.search(r"subtle +(hardly seen|a soft glow|plainly seen).*PSNR \d", said)
    assert f"PRIVATE, it contains the original): {page}" in said
    assert opened == [page.as_uri()]
    assert "41 of 100 recognised instead of 72" in page.read_text()
    assert main(["preview", str(photo), "--key", str(key), "--out", str(page)]) == 0  # a page is replaced
    for wrong, message in ((photo, "choose another name"), (tmp_path / "no" / "page.html", "no folder")):
        assert main(["preview", str(photo), "--key", str(key), "--out", str(wrong)]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "text.jpg").write_text("x")
    assert main(["preview", str(tmp_path / "text.jpg"), "--key", str(key)]) == 2
    assert "text.jpg: " in capsys.readouterr().err


def test_reduced_keeps_the_mean_and_the_shape():
    image = photograph(1, 1300, 900)
    small = reduced(image, 130)
    assert small.shape == (130, 90, 3)
    assert abs(small.mean() - image.mean()) < 1
    assert reduced(image[:, :, :1], 130).shape == (130, 90, 1)
    assert reduced(small, 400) is not None
    assert np.array_equal(reduced(small, 400), small)


def test_templates_ask_for_nothing_from_elsewhere():
    for path in (ROOT / "unlearnable_transforms" / "protection").glob("*.*"):
        if path.suffix in (".j2", ".css"):
            assert not re.search(r"https?:|@import|url\(", path.read_text()), path
