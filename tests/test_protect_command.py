"""``unlearnable protect`` on a folder: the same bytes as ``ds.map``, nothing of the original, honest about failures."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import unlearnable_transforms as ut
from unlearnable_transforms.cli.main import main

CANARY = b"planted-canary"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a key file and a source of two classes, whose pictures carry text that must not get out."""
    ut.Key.public("command").save(tmp_path / "my.key")
    generator = np.random.default_rng(5)
    for number in range(6):
        folder = tmp_path / "source" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(generator.integers(0, 256, (40, 33, 3), dtype=np.uint8))
        exif = Image.Exif()
        exif[0x010E] = CANARY.decode()
        text = PngInfo()
        text.add_text("comment", CANARY.decode())
        if number < 4:
            image.save(folder / f"{number}.png", exif=exif, pnginfo=text)
        else:
            image.save(folder / f"{number}.jpg", exif=exif, comment=CANARY)
    (tmp_path / "source" / "Thumbs.db").write_bytes(CANARY)
    return tmp_path


def protect(place: Path, *options: str) -> int:
    arguments = [str(place / "source"), str(place / "out"), "--key", str(place / "my.key"), "--workers", "1"]
    return main(["protect", *arguments, *options])


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_folder_keeps_its_tree_and_loses_all_else(place):
    assert protect(place) == 0
    written = files(place / "out")
    assert set(written) == {f"{('cat', 'dog')[n % 2]}/{n}.png" for n in range(6)}
    secret = ut.Key.load(place / "my.key")._secret
    for data in written.values():
        assert CANARY not in data
        assert secret not in data
        assert secret.hex().encode() not in data
    poison = ut.CUDAPoison(key=ut.Key.public("command"))
    for name, data in written.items():
        (source,) = (place / "source").glob(name.replace(".png", ".*"))
        expected = poison(Image.open(source), ("cat", "dog").index(source.parent.name))[0]
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(expected))


def test_started_again_it_goes_on_and_gives_the_same_bytes(place):
    assert protect(place) == 0
    whole = files(place / "out")
    (place / "out" / "cat" / "0.png").unlink()
    assert protect(place) == 0
    assert files(place / "out") == whole


def test_another_key_is_refused_for_a_folder_that_was_begun(place, capsys):
    assert protect(place) == 0
    ut.Key.generate().save(place / "my.key", overwrite=True)
    assert protect(place) == 2
    assert "key" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_is_listed_and_not_copied(place, capsys):
    (place / "source" / "cat" / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    assert protect(place) == 1
    told = capsys.readouterr()
    assert "broken.jpg" in told.out + told.err
    assert not list((place / "out").rglob("broken*"))
    assert len(files(place / "out")) == 6


def test_two_files_that_would_become_one_are_refused_before_anything_is_written(place, capsys):
    Image.new("RGB", (9, 9), "red").save(place / "source" / "cat" / "0.jpg")
    assert protect(place) == 2
    assert "0.png" in capsys.readouterr().err
    assert not (place / "out").exists() or not files(place / "out")


def test_out_that_is_not_empty_is_refused(place, capsys):
    (place / "out").mkdir()
    (place / "out" / "mine.txt").write_text("mine")
    assert protect(place) == 2
    assert (place / "out" / "mine.txt").read_text() == "mine"
