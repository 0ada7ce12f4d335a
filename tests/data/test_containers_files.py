"""Files of pictures: animations, 16 bits, orientation, colour profiles, damage; what is written is bare PNG."""

import io
import struct

import numpy as np
import pytest
from conftest import decode, encode, pixels
from PIL import ExifTags, Image

from unlearnable_transforms.data.image import open_chunks, open_image
from unlearnable_transforms.sample import SampleError

RGB = pixels(6, 5, 3)
GREY = pixels(6, 5, seed=1)
ALPHA = pixels(6, 5, seed=2)


def animation(format: str) -> bytes:
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB), Image.fromarray(RGB // 2)]
    return encode(frames[0], format, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animations_are_refused(format):
    with pytest.raises(ValueError, match=r"animated \(3 frames\); save one frame"):
        open_image({"bytes": animation(format), "path": None})
    with pytest.raises(ValueError, match="animated"):
        open_image(Image.open(io.BytesIO(animation(format))))


def test_a_camera_jpeg_with_previews_is_one_picture():
    data = encode(Image.fromarray(RGB), "MPO", save_all=True, append_images=[Image.fromarray(255 - RGB)])
    assert Image.open(io.BytesIO(data)).n_frames == 2
    opened = open_image({"bytes": data, "path": None})
    assert opened.colour.tolist() == np.asarray(decode(encode(RGB, "JPEG"))).tolist()
    assert getattr(decode(opened.close(opened.colour)["bytes"]), "n_frames", 1) == 1


def png16(colour_type: int, channels: int) -> bytes:
    """A 4x4 PNG of 16 bits a channel, which Pillow reads but does not write."""
    from zlib import compress, crc32

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))

    lines = b"".join(b"\0" + pixels(4 * channels * 2, seed=row).tobytes() for row in range(4))
    header = struct.pack(">IIBBBBB", 4, 4, 16, colour_type, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)], ids=["L", "RGB", "LA", "RGBA"])
def test_sixteen_bit_files_are_refused_and_not_cut_to_eight(colour_type, channels):
    data = png16(colour_type, channels)
    assert Image.open(io.BytesIO(data)).size == (4, 4)  # Pillow reads it
    with pytest.raises(TypeError, match=r"16.*convert it to 8-bit"):
        open_image({"bytes": data, "path": None})


# ---- orientation, colour profiles, damage ----

TURNS = {  # EXIF orientation: how the upright picture is stored
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    tags[ExifTags.Base.Artist] = "A. Photographer"
    return tags.tobytes()


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG"])
def test_orientation_is_applied_and_its_tag_gone(orientation, format):
    options = {"lossless": True} if format == "WEBP" else {}
    stored = np.ascontiguousarray(TURNS[orientation](RGB))
    data = encode(stored, format, exif=exif(orientation), **options)
    kept = np.asarray(decode(encode(stored, format, **options)))  # JPEG is lossy
    upright = TURNS[{6: 8, 8: 6}.get(orientation, orientation)](kept)
    assert (upright.tolist() == RGB.tolist()) == (format != "JPEG")
    for picture in ({"bytes": data, "path": None}, Image.open(io.BytesIO(data)), decode(data)):
        opened = open_image(picture)
        assert opened.colour.tolist() == upright.tolist()
        back = opened.close(opened.colour)
        back = decode(back["bytes"]) if isinstance(back, dict) else back
        assert dict(back.getexif()) == {}
        assert set(back.info) <= {"icc_profile"}
        assert back.size == (5, 6)


def test_impossible_orientations_are_left_alone():
    for orientation in (0, 9, 77):
        data = encode(RGB, exif=exif(orientation))
        assert open_image({"bytes": data, "path": None}).colour.tolist() == RGB.tolist()


@pytest.mark.parametrize("image", [RGB, GREY, np.dstack([RGB, ALPHA])], ids=["RGB", "L", "RGBA"])
def test_colour_profiles_are_kept(image):
    data = encode(image, icc_profile=b"a profile", exif=exif(6))
    opened = open_image({"bytes": data, "path": None})
    assert decode(opened.close(opened.colour)["bytes"]).info == {"icc_profile": b"a profile"}
    opened = open_image(decode(data))
    assert opened.close(opened.colour).info == {"icc_profile": b"a profile"}


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("share", [0, 0.02, 0.3, 0.6, 0.9])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_truncated_files_are_refused(format, share):
    data = encode(pixels(40, 40, 3), format)
    cut = data[: int(len(data) * share)]
    with pytest.raises(SampleError, match=r"row 1: .*replace or remove the row"):
        list(open_chunks([{"bytes": data, "path": None}, {"bytes": cut, "path": None}], open_image))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
def test_damaged_files_never_escape_as_another_error(format):
    clean = bytearray(encode(pixels(24, 24, 3), format, exif=exif(6)))
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        data = clean.copy()
        start = int(random.integers(len(data)))
        data[start : start + 4] = random.bytes(len(data[start : start + 4]))
        try:
            assert open_image({"bytes": bytes(data), "path": None}).colour.dtype == np.uint8
        except (ValueError, TypeError):
            refused += 1
    assert refused >= (1 if format == "BMP" else 5)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ({"bytes": b"", "path": None}, "not a picture that can be read; replace or remove"),
        ({"bytes": b"hello", "path": None}, "not a picture that can be read"),
        ({"bytes": b"hello", "path": "/somewhere/good.png"}, "not a picture"),
        ({"bytes": None, "path": None}, "missing: it has neither bytes nor path"),
        ({"path": "/no/such/file.png"}, "/no/such/file.png does not exist"),
        ({"bytes": None, "path": "/"}, "damaged"),
        ({"bytes": encode(RGB, "DDS")[:80] + bytes(4) + encode(RGB, "DDS")[84:], "path": None}, "damaged"),
    ],
)
def test_what_cannot_be_read_is_refused(picture, message):
    with pytest.raises(ValueError, match=message):
        open_image(picture)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_fresh_pictures_do_not_know_their_file(tmp_path, format):
    path = tmp_path / f"a.{format.lower()}"
    path.write_bytes(encode(RGB, format))
    for picture in (Image.open(path), Image.open(io.BytesIO(path.read_bytes()))):
        opened = open_image(picture)
        back = opened.close(opened.colour)
        assert type(back) is Image.Image
        assert (back.format, getattr(back, "filename", None)) == (None, None)
    for picture in ({"bytes": None, "path": str(path)}, {"bytes": path.read_bytes(), "path": str(path)}):
        opened = open_image(picture)
        back = opened.close(255 - opened.colour)
        assert set(back) == {"bytes", "path"}
        assert back["path"] is None
        assert back["bytes"].startswith(b"\x89PNG")
        assert np.asarray(decode(back["bytes"])).tolist() == (255 - opened.colour).tolist()


def test_bytes_come_before_the_path(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(255 - RGB))
    assert open_image({"bytes": encode(RGB), "path": str(path)}).colour.tolist() == RGB.tolist()
