"""HEIC: the right pixels, upright once, the right colours, the primary image; and what a telephone adds to a file."""

import io
import sys

import numpy as np
import pytest
from conftest import decode, encode, pixels
from messy import ARITHMETIC, MP4, camera_exif, encoded, frames, heic, photograph, ultra_hdr, with_thumbnail
from PIL import Image
from test_colour import away, rgb_profile

from unlearnable_transforms.data.header import NeedsConversion
from unlearnable_transforms.data.image import open_bytes, open_image

pillow_heif = pytest.importorskip("pillow_heif")
PHOTO = photograph(1)


def test_heic_is_read_to_the_pixel():
    opened = open_bytes(heic(PHOTO))
    assert opened.colour.tolist() == PHOTO.tolist()
    assert (opened.space, opened.converted, opened.left_behind) == (None, (), ())
    assert open_bytes(heic(PHOTO[:, :, 0])).colour[:, :, 0].tolist() == PHOTO[:, :, 0].tolist()
    assert open_image({"bytes": heic(PHOTO), "path": "IMG_1.jpg"}).colour.tolist() == PHOTO.tolist()


UPRIGHT = {1: 0, 3: 2, 6: -1, 8: 1}  # orientation -> quarter turns of np.rot90 that make the stored image upright


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("format", ["HEIC", "AVIF"])
def test_the_turn_is_made_once_though_the_file_says_it_twice(format, orientation):
    exif = camera_exif(orientation)
    if format == "HEIC":
        data = heic(PHOTO, exif=exif.tobytes())
        inside = Image.Exif()
        inside.load(pillow_heif.open_heif(io.BytesIO(data)).info["exif"])
        assert inside[0x0112] == orientation  # beside the container's
        truth = PHOTO
    else:
        data, truth = encode(PHOTO, "AVIF", exif=exif), np.asarray(decode(encode(PHOTO, "AVIF")))
    opened = open_bytes(data)
    assert opened.colour.tolist() == np.rot90(truth, UPRIGHT[orientation]).tolist()


def test_ten_bits_are_refused_or_rounded():
    rows, columns, channels = np.mgrid[:40, :56, :3]
    ten = (20 * rows + 4 * columns + 3 * channels).astype(np.uint16)
    data = heic(ten << 6)
    with pytest.raises(NeedsConversion, match=r"10 bits a channel.*convert=True"):
        open_bytes(data)
    opened = open_bytes(data, convert=True)
    assert opened.colour.tolist() == np.rint(ten / 1023 * 255).astype(int).tolist()
    assert opened.converted == ("10 bits a channel rounded to 8",)


def test_hdr_is_refused():
    for convert in (False, True):
        with pytest.raises(TypeError, match="HDR"):
            open_bytes(heic(PHOTO, color_primaries=9, transfer_characteristics=16), convert=convert)


def test_the_primary_image_of_several_is_taken():
    file = pillow_heif.HeifFile()
    for seed in (1, 2, 3):
        file.add_frombytes("RGB", PHOTO.shape[1::-1], photograph(seed).tobytes())
    buffer = io.BytesIO()
    file.save(buffer, quality=-1, chroma=444, matrix_coefficients=0, primary_index=1)
    opened = open_bytes(buffer.getvalue())
    assert opened.colour.tolist() == photograph(2).tolist()
    assert opened.left_behind == ("further images in the same file",)


def test_display_p3_is_kept_by_profile_and_by_code_points():
    p3 = decode(encode(PHOTO, icc_profile=rgb_profile("Display P3")))
    for data in (
        heic(PHOTO, icc_profile=rgb_profile("Display P3"), icc_profile_type="prof"),
        heic(PHOTO, color_primaries=12, transfer_characteristics=13),
    ):
        opened = open_bytes(data)
        assert away(opened.close(opened.colour), p3) < 2
    assert away(Image.fromarray(PHOTO), p3) > 3


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.99])
def test_cut_files_are_called_truncated(share):
    for data in (heic(PHOTO), encode(PHOTO, "AVIF"), encode(PHOTO, "WEBP"), encode(PHOTO, "JPEG"), encode(PHOTO)):
        with pytest.raises(ValueError, match="the file is truncated, its end is missing"):
            open_bytes(data[: max(64, int(len(data) * share))])


def test_damage_is_called_damage():
    data = bytearray(encode(pixels(40, 40, 3)))
    data[300:310] = bytes(10)
    with pytest.raises(ValueError, match="the picture is damaged"):
        open_bytes(bytes(data))


def test_without_the_package_the_command_that_brings_it_is_named(monkeypatch):
    data = heic(PHOTO)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ValueError, match=r"HEIC.*pip install 'unlearnable-transforms\[photos\]'.*export it as JPEG"):
        open_bytes(data)


# ---- what a telephone puts into a JPEG ----


@pytest.mark.parametrize(
    ("data", "left_behind"),
    [
        (encoded(PHOTO, "JPEG"), ()),
        (encoded(PHOTO, "JPEG") + MP4, ("video of a motion photo",)),
        (ultra_hdr(1), ("gain map for bright screens (HDR)",)),
        (encoded(PHOTO, "MPO", **frames()), ("further images in the same file",)),
        (with_thumbnail(encoded(PHOTO, "JPEG"), encoded(PHOTO, "JPEG")), ()),
    ],
    ids=["nothing", "video", "gain map", "previews", "thumbnail"],
)
def test_what_else_a_jpeg_holds_is_left_behind_and_named(data, left_behind):
    opened = open_bytes(data)
    assert opened.left_behind == left_behind
    assert opened.colour.shape == PHOTO.shape
    assert np.abs(opened.colour.astype(int) - PHOTO).mean() < 12
    again = encode(opened.close(opened.colour))
    assert not any(mark in again for mark in (b"hdrgm", b"ftyp", b"MPF", b"Exif"))


def test_arithmetic_and_progressive_jpeg_are_read():
    truth = 8 * np.arange(16)[None] + 7 * np.arange(16)[:, None]
    assert np.abs(open_bytes(ARITHMETIC).colour[:, :, 0].astype(int) - truth).max() <= 1
    plain, progressive = (encode(PHOTO, "JPEG", progressive=asked) for asked in (False, True))
    assert open_bytes(progressive).colour.tolist() == open_bytes(plain).colour.tolist()
