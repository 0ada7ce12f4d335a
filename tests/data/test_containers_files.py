"""Files of images: animations, 16 bits, orientation, kinds that are not read, damage; what is written is bare PNG."""

import io
import struct
import warnings
import zlib

import datasets
import numpy as np
import pytest
from conftest import decode, encode, image_set, pixels
from PIL import ExifTags, Image, features

from unlearnable_transforms.data.header import open_file
from unlearnable_transforms.data.image import open_chunks, open_image
from unlearnable_transforms.sample import SampleError

RGB = pixels(6, 5, 3)
GREY = pixels(6, 5, seed=1)
ALPHA = pixels(6, 5, seed=2)


def animation(format: str) -> bytes:
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB), Image.fromarray(RGB // 2)]
    return encode(frames[0], format, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_animations_are_refused(format):
    with pytest.raises(ValueError, match=r"animated \(3 frames\); save one frame"):
        open_image({"bytes": animation(format), "path": None})
    with pytest.raises(ValueError, match="animated"):
        open_image(Image.open(io.BytesIO(animation(format))))


def test_a_tiff_of_several_pages_is_refused():
    with pytest.raises(ValueError, match="has 3 pages; save each as an image of its own"):
        open_image({"bytes": animation("TIFF"), "path": None})


def test_a_camera_jpeg_with_previews_is_one_picture():
    data = encode(Image.fromarray(RGB), "MPO", save_all=True, append_images=[Image.fromarray(255 - RGB)])
    assert Image.open(io.BytesIO(data)).n_frames == 2
    opened = open_image({"bytes": data, "path": None})
    assert opened.colour.tolist() == np.asarray(decode(encode(RGB, "JPEG"))).tolist()
    assert getattr(decode(opened.close(opened.colour)["bytes"]), "n_frames", 1) == 1


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour_type: int, lines: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def png16(colour_type: int, channels: int) -> bytes:
    """A 4x4 PNG of 16 bits a channel, which Pillow reads but does not write."""
    return png(4, 4, 16, colour_type, b"".join(b"\0" + pixels(8 * channels, seed=row).tobytes() for row in range(4)))


def tiff(*entries: tuple[int, int, int], samples: bytes = bytes(16)) -> bytes:
    """A 4x4 TIFF by tags (number, type, value) beside those of its size; the pixels follow at once."""
    table = [(256, 3, 4), (257, 3, 4), (259, 3, 1), (278, 3, 4), (279, 4, len(samples)), *entries]
    start = 8 + 2 + 12 * (len(table) + 1) + 4
    table.append((273, 4, start))
    body = b"".join(
        struct.pack("<HHI4s", tag, kind, 1, value.to_bytes(4, "little")) for tag, kind, value in sorted(table)
    )
    return b"II*\0" + struct.pack("<IH", 8, len(table)) + body + bytes(4) + samples


def deep_avif() -> bytes:
    """An AVIF whose head says 10 bits a channel; its pixels are never decoded."""
    data = bytearray(encode(pixels(16, 16, 3), "AVIF"))
    data[data.index(b"av1C") + 6] |= 64
    return bytes(data)


WIDE = {
    "PNG, L": lambda: png16(0, 1),
    "PNG, RGB": lambda: png16(2, 3),
    "PNG, LA": lambda: png16(4, 2),
    "PNG, RGBA": lambda: png16(6, 4),
    "PPM": lambda: b"P6 # a comment\n4 4\n65535\n" + bytes(96),
    "PGM of 10 bits": lambda: b"P5 4 4 1023\n" + bytes(32),
    "PGM in text": lambda: b"P2 1 1 65535 40000",
    "TIFF": lambda: tiff((258, 3, 16), (262, 3, 1), samples=bytes(32)),
    "TIFF, float": lambda: tiff((258, 3, 32), (262, 3, 1), (339, 3, 3), samples=bytes(64)),
    "JPEG 2000": lambda: encode(Image.new("I;16", (16, 16), 40000), "JPEG2000"),
    "AVIF": deep_avif,
}


NEEDS = {"JPEG 2000": "jpg_2000", "AVIF": "avif"}  # what Pillow may be built without


@pytest.mark.parametrize("name", WIDE)
def test_more_than_eight_bits_a_channel_are_refused_and_not_cut(name, tmp_path, poison):
    if name in NEEDS and not features.check(NEEDS[name]):
        pytest.skip("this Pillow reads no such file")
    data = WIDE[name]()
    message = r"(10|16|32) bits a channel.*convert it to 8-bit"
    (tmp_path / "scan").write_bytes(data)
    rows = [{"bytes": data, "path": None}, {"bytes": None, "path": str(tmp_path / "scan")}]
    for row in rows:
        with pytest.raises(TypeError, match=message):
            open_image(row)
        for feature in (datasets.Image(), datasets.Image(mode="RGB")):
            table = image_set([row], [0], datasets.Features({"image": feature, "label": datasets.Value("int64")}))
            with pytest.raises(TypeError, match=message):
                table.map(poison)
    if name != "AVIF":  # Pillow looks at the pixels of that one at once
        with Image.open(tmp_path / "scan") as image, pytest.raises(TypeError, match=message):
            open_image(image)


def test_a_decoded_image_is_still_judged_by_its_file(tmp_path):
    """Pillow has cut it to 8 bits by then, and nothing in the image says so but the file it came from."""
    path = tmp_path / "scan.png"
    path.write_bytes(png16(2, 3))
    image = decode(path.read_bytes())
    assert image.mode == "RGB"  # the trap
    with Image.open(path) as loaded:
        loaded.load()
        with pytest.raises(TypeError, match="16 bits a channel"):
            open_image(loaded)
        assert open_image(loaded.convert("L")).colour.shape == (4, 4, 1)  # converted on purpose


def test_sixteen_bits_a_pixel_are_eight_a_channel_at_most():
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    head = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 3, 4, 0, 0, 0, 0)
    data = b"BM" + struct.pack("<IHHI", 70, 0, 0, 66) + head + masks + struct.pack("<HH", 0xF800, 0x07FF)
    assert open_image({"bytes": data, "path": None}).colour.tolist() == [[[255, 0, 0], [0, 255, 255]]]


OTHERS = {
    "JPEG XL": b"\xff\x0a" + bytes(40),
    "JPEG XL ": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40),
    "a raw file of a camera": tiff((254, 4, 1), (258, 3, 8), (262, 3, 1)),  # a preview comes first: NEF, ARW, DNG
    "a raw file of a camera ": tiff((50706, 1, 1), (258, 3, 8), (262, 3, 1)),  # DNG
    " a raw file of a camera": tiff((258, 3, 8), (262, 3, 32803)),  # a colour filter array
    "a raw file of a camera  ": b"II*\0\x10\0\0\0CR\x02\0" + bytes(40),
    "Photoshop": b"8BPS\0\1" + bytes(40),
    "SVG": b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg"></svg>',
    "PDF": b"%PDF-1.7" + bytes(40),
    "OpenEXR": b"\x76\x2f\x31\x01" + bytes(40),
    "Windows icon": encode(pixels(16, 16, 3), "ICO"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_images_of_other_kinds_are_named(name):
    with pytest.raises(
        ValueError, match=f"this is an? {name.strip()}.*export it as JPEG or PNG|this is {name.strip()}.*export"
    ):
        open_image({"bytes": OTHERS[name], "path": None})


def test_large_images_are_taken_up_to_a_limit_that_is_said():
    def blank(width: int, height: int) -> bytes:
        return png(width, height, 1, 0, b"")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_file(blank(16320, 12240)).image.size == (16320, 12240)  # as telephones make them; Pillow refuses it
    with pytest.raises(ValueError, match=r"900 megapixels \(30000 x 30000\); at most 500 are taken: make it smaller"):
        open_image({"bytes": blank(30000, 30000), "path": None})


def test_reading_leaves_the_limit_of_pillow_alone():
    before = Image.MAX_IMAGE_PIXELS
    open_image({"bytes": encode(RGB), "path": None})
    assert before == Image.MAX_IMAGE_PIXELS


# ---- orientation, metadata, damage ----

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


def odd_exif(tag: int, kind: int, value: bytes) -> bytes:
    """EXIF of two entries: to be turned by a quarter, and one that Pillow reads and cannot write again."""
    count = 1 if kind != 2 else len(value)
    table = sorted(
        [
            (274, 3, 1, b"\6\0\0\0"),
            (tag, kind, count, struct.pack("<I", 38) if len(value) > 4 else value.ljust(4, b"\0")),
        ]
    )
    body = b"".join(struct.pack("<HHI4s", *entry) for entry in table)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + body + bytes(4) + value


ODD_EXIF = {
    "a fraction for text": odd_exif(315, 5, struct.pack("<II", 5, 1)),
    "text for a number": odd_exif(256, 2, b"wide\0"),
    "too large for its type": odd_exif(296, 4, struct.pack("<I", 70000)),
    "not a number": odd_exif(282, 11, struct.pack("<f", float("nan"))),
}


@pytest.mark.parametrize("name", ODD_EXIF)
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_metadata_is_read_and_not_written_and_cannot_fail_an_image(name, format):
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(RGB, format, exif=ODD_EXIF[name], **options)
    opened = open_image({"bytes": data, "path": None})
    assert opened.colour.tolist() == np.rot90(np.asarray(decode(encode(RGB, format, **options))), -1).tolist()
    assert dict(decode(opened.close(opened.colour)["bytes"]).getexif()) == {}


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"nonsense", b"Exif\0\0" + bytes(200)])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_exif_that_cannot_be_read_leaves_the_image_as_it_is(exif):
    data = encode(RGB)
    data = data[:33] + chunk(b"eXIf", exif) + data[33:]
    assert open_image({"bytes": data, "path": None}).colour.tolist() == RGB.tolist()


def test_a_column_with_a_mode_is_read_as_datasets_shows_it(poison):
    """Also where EXIF cannot be written again, which `datasets` itself does."""
    data = encode(RGB, exif=exif(6))
    alpha = encode(np.dstack([RGB, ALPHA]))
    for mode in ("L", "RGB", "RGBA"):
        feature = datasets.Features({"image": datasets.Image(mode=mode), "label": datasets.Value("int64")})
        rows = image_set([data, alpha], [0, 1], feature)
        truth = [poison(row["image"], row["label"])[0] for row in rows]
        assert [np.asarray(row["image"]).tolist() for row in rows.map(poison)] == [
            np.asarray(one).tolist() for one in truth
        ]
    feature = datasets.Features({"image": datasets.Image(mode="RGB"), "label": datasets.Value("int64")})
    odd = image_set([encode(RGB, exif=ODD_EXIF["text for a number"])], [0], feature).map(poison)
    truth = poison(np.ascontiguousarray(np.rot90(RGB, -1)), 0)[0]
    assert np.asarray(odd[0]["image"]).tolist() == truth.tolist()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("share", [0, 0.02, 0.3, 0.6, 0.9])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_truncated_files_are_refused(format, share):
    data = encode(pixels(40, 40, 3), format)
    cut = data[: int(len(data) * share)]
    with pytest.raises(SampleError, match=r"row 1: .*replace or remove it"):
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
        ({"bytes": b"", "path": None}, "the file is empty.*replace or remove"),
        ({"bytes": b"hello", "path": None}, "not a picture that can be read"),
        ({"bytes": b"?", "path": None}, "not a picture that can be read"),
        ({"bytes": b"hello", "path": "/somewhere/good.png"}, "not a picture"),
        ({"bytes": None, "path": None}, "missing: it has neither bytes nor path"),
        ({"path": "/no/such/file.png"}, "/no/such/file.png does not exist"),
        ({"bytes": None, "path": "/"}, "/ is no regular file"),
        (
            {"bytes": encode(RGB, "DDS"), "path": None},
            "this is a DDS texture, which is not read: export it as JPEG or PNG",
        ),
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
