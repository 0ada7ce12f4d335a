"""Tars of samples: what is read of them, what is refused, and what is written again."""

import base64
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import encode, pixels

from unlearnable_transforms.data.codec import Codec
from unlearnable_transforms.data.open import open_data

Members = list[tuple[str, bytes | tuple[bytes, str]]]


def image(seed: int = 0) -> bytes:
    return encode(pixels(5, 5, 3, seed=seed))


SAMPLES: Members = [("0.png", image()), ("0.cls", b"cat"), ("1.png", image(1)), ("1.cls", b"dog\n")]


def tar(path: Path, members: Members) -> Path:
    """A tar; a pair instead of bytes is the type of the member and where it leads."""
    with tarfile.open(path, "w") as file:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            if isinstance(data, tuple):
                entry.type, entry.linkname = data
                file.addfile(entry)
            else:
                entry.size = len(data)
                file.addfile(entry, io.BytesIO(data))
    return path


def written(path: Path, out: Path, **options) -> dict[str, bytes]:
    """The members of a tar that is written again with other images."""
    data = open_data(path, **options)
    codec = Codec()
    (unit,) = data.units(codec)
    data.write(unit, [b"new"] * len(unit.rows), out, codec)
    with tarfile.open(out) as file:
        return {entry.name: file.extractfile(entry).read() for entry in file}


@pytest.mark.parametrize(
    "members",
    [
        SAMPLES,
        [("./" + name, data) for name, data in SAMPLES],
        [("a/b/" + name, data) for name, data in SAMPLES],
        [*SAMPLES, ("._0.png", b"junk"), ("__MACOSX/0.png", b"junk"), (".DS_Store", b"junk")],
        [("0.png", image()), ("0.json", b'{"label": "cat"}'), ("1.png", image(1)), ("1.json", b'{"label": ["dog"]}')],
    ],
)
def test_what_is_read(tmp_path, members):
    data = open_data(tar(tmp_path / "train.tar", members))
    assert len(data.splits["train"]) == 2
    assert data.tokens("train", Labels()) == ["s:cat", "s:dog"]


class Labels:
    classes = None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([("9.png", (tarfile.SYMTYPE, "0.png")), ("9.cls", b"0")], "no sample's file"),
        ([("0.json", (tarfile.LNKTYPE, "0.cls"))], "no sample's file"),
        ([("0.json", (tarfile.FIFOTYPE, ""))], "no sample's file"),
        ([("../9.png", image())], "no sample's file"),
        ([("README", b"text")], "no sample's file"),
        ([("0.cls", b"dog")], "twice"),
        ([("9.png", image()), ("9.cls", b"caf\xe9")], "not UTF-8"),
        ([("9.png", image())], "no cls file"),
        ([("9.png", image()), ("9.json", b"5")], "json is damaged"),
        ([("9.png", image()), ("9.json", b"[[[" * 9999)], "json is damaged"),
        ([("9.png", image()), ("9.json", json.dumps({"text": "cat"}).encode())], "which of its json's entries"),
        ([("9.jpg", image()), ("9.png", image()), ("9.cls", b"0")], "has 2 images"),
    ],
)
def test_what_is_refused(tmp_path, more, message):
    with pytest.raises(ValueError, match=message):
        open_data(tar(tmp_path / "train.tar", [*SAMPLES, *more]))


def test_a_tar_that_is_damaged_in_the_middle_is_not_half_a_tar(tmp_path):
    path = tar(tmp_path / "train.tar", SAMPLES)
    with tarfile.open(path) as file:
        places = {entry.name: entry.offset for entry in file}
    data = bytearray(path.read_bytes())
    data[places["1.png"] + 20 : places["1.png"] + 30] = b"x" * 10
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged behind"):
        open_data(path)
    path.write_bytes(data[: places["1.cls"] + 100])
    with pytest.raises(ValueError, match="cannot be read as a tar"):
        open_data(path)


def test_the_image_alone_gets_another_name(tmp_path):
    members = [("0.left.jpg", image()), ("0.right.jpg", image(1)), ("0.cls", b"0")]
    path = tar(tmp_path / "train.tar", members)
    new = written(path, tmp_path / "new.tar", image_key="left.jpg")
    assert new == {"0.left.png": b"new", "0.right.jpg": image(1), "0.cls": b"0"}


def test_an_image_does_not_take_the_name_of_another(tmp_path):
    path = tar(tmp_path / "train.tar", [("0.jpg", image()), ("0.png", image(1)), ("0.cls", b"0")])
    with pytest.raises(ValueError, match="there already"):
        open_data(path, image_key="jpg").units(Codec())


@pytest.mark.parametrize("folder", ["d" * 90 + "/" + "e" * 90 + "/" + "f" * 90, "é€" * 60])
def test_long_names_are_written_again(tmp_path, folder):
    members = [(f"{folder}/0.png", image()), (f"{folder}/0.cls", b"0")]
    assert list(written(tar(tmp_path / "train.tar", members), tmp_path / "new.tar")) == [name for name, _ in members]


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("orig", image()),
        ("bin", image()[8:]),
        ("txt", base64.b64encode(image())),
        ("json", json.dumps({"label": 0, "preview": base64.b64encode(image()).decode()}).encode()),
        ("json", json.dumps({"pixels": pixels(5, 5, 3).tolist()}).encode()),
        ("npy", npy(pixels(5, 5, 3))),
        ("npy", npy(pixels(5, 5, 3))[:40] + b"x" * 60),
    ],
)
def test_a_second_image_in_any_file_of_a_sample_is_refused(tmp_path, kind, data):
    opened = open_data(tar(tmp_path / "train.tar", [*SAMPLES, (f"1.{kind}", data)]))
    with pytest.raises(ValueError, match=rf"\['{kind}'\] hold images too.*keep="):
        opened.check_columns(None, [])
    opened.check_columns(None, [kind])


def test_what_may_lie_beside_the_image_of_a_sample(tmp_path):
    rng = np.random.default_rng(0)
    boxes = {"boxes": rng.uniform(0, 999, (30, 4)).tolist(), "source": "https://example.org/" + "a" * 60}
    more: Members = [
        ("1.txt", "Ein Hund läuft über eine Wiese, und hinter ihm geht die Sonne unter. ".encode() * 2),
        ("1.json", json.dumps(boxes).encode()),
        ("1.npy", npy(rng.normal(size=512).astype(np.float32))),
    ]
    open_data(tar(tmp_path / "train.tar", [*SAMPLES, *more])).check_columns(None, [])


def test_an_image_beside_the_one_that_is_named_stays(tmp_path):
    members: Members = [("0.left.png", image()), ("0.right.png", image(1)), ("0.cls", b"0")]
    path = tar(tmp_path / "train.tar", members)
    open_data(path, image_key="left.png").check_columns("left.png", [])
