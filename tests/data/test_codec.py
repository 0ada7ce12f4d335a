"""Files as they are written: what a format cannot hold is said, and only that."""

import numpy as np
import pytest
from conftest import decode, pixels
from PIL import Image

from unlearnable_transforms.checks.encodings import read_encoding
from unlearnable_transforms.data.codec import Codec, checksum, measure
from unlearnable_transforms.data.credit import Credit

RGB, ALPHA = pixels(12, 10, 3), pixels(12, 10, seed=2)
OPAQUE = np.full((12, 10), 255, np.uint8)


def test_opaque_alpha_is_no_transparency():
    for colour in (RGB, RGB[:, :, :1]):
        plain = Image.fromarray(colour.squeeze())
        with_alpha = Image.fromarray(np.dstack([colour, OPAQUE]))
        assert Codec("jpeg").encode(with_alpha) == Codec("jpeg").encode(plain)
        hidden = OPAQUE.copy()
        hidden[3, 4] = 254
        with pytest.raises(ValueError, match="transparency, which JPEG cannot hold: choose --format png or webp"):
            Codec("jpeg").encode(Image.fromarray(np.dstack([colour, hidden])))
    for format in ("png", "webp"):
        image = np.dstack([RGB, ALPHA])
        assert np.asarray(decode(Codec(format).encode(Image.fromarray(image)))).tolist() == image.tolist()


@pytest.mark.parametrize(("format", "longest"), [("webp", 16383), ("jpeg", 65500)])
def test_sides_that_a_format_cannot_hold_are_named(format, longest):
    with pytest.raises(
        ValueError, match=f"{format} holds at most {longest} pixels a side, the image has {longest + 1}"
    ):
        Codec(format).encode(Image.new("L", (longest + 1, 1)))
    assert decode(Codec(format).encode(Image.new("L", (longest, 1)))).size == (longest, 1)


def test_files_are_named_by_their_bytes():
    assert checksum(b"a") == "a96faf705af16834e6c632b61e964e1f"
    assert checksum(b"a") != checksum(b"b")


def test_measures_of_equal_and_small_images():
    large = pixels(20, 20, 3)
    assert measure(large, large) == [None, None, 1.0]  # no distance in decibels
    small = RGB[:5, :5]
    distance = measure(small, small ^ 1)
    assert distance[0] == pytest.approx(48.13, abs=0.01)  # one level everywhere
    assert distance[2] is None


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
@pytest.mark.parametrize("colour", [RGB, RGB[:, :, 0]], ids=["RGB", "grey"])
def test_a_packet_changes_no_pixel_and_can_be_read(format, colour):
    credit = Credit("all", ("Ann Lée",))
    codec = Codec(format, credit=credit)
    plain, said = (codec.encode(Image.fromarray(colour), packet) for packet in (b"", codec.packet(lambda: None)))
    assert np.array_equal(np.asarray(decode(plain)), np.asarray(decode(said)))
    assert plain == Codec(format).encode(Image.fromarray(colour))
    encoding = read_encoding(said)
    assert (encoding.credit, encoding.foreign) == (credit, [])
    assert read_encoding(plain).credit is None


def test_auto_follows_the_source():
    names = ["a.JPG", "b.jpeg", "c.heic", "d.avif", "e.png", "f.tif", "g.gif", "h.WebP", "i.bmp"]
    formats = [Codec("auto").for_file(name).format for name in names]
    assert formats == ["jpeg"] * 4 + ["png"] * 3 + ["webp", "png"]
    assert Codec("png").for_file("a.jpg") == Codec("png")
