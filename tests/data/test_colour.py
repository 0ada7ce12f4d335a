"""Colour spaces: what the numbers of an image mean is kept, and nothing but that."""

import io
import struct
import zlib

import datasets
import numpy as np
import pytest
from conftest import decode, encode, image_set, pixels
from messy import adobe_exif
from PIL import ExifTags, Image, ImageCms

from unlearnable_transforms.data.codec import Codec
from unlearnable_transforms.data.image import open_bytes, open_image

RGB, GREY, ALPHA = pixels(12, 10, 3), pixels(12, 10, seed=1), pixels(12, 10, seed=2)
SRGB = ImageCms.createProfile("sRGB")
# XYZ of red, green and blue (D50), as the profiles of these spaces say, and their gamma.
SPACES = {
    "Display P3": ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407), 2.2),
    "Adobe RGB": ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457), 2.2),
    "ProPhoto": ((0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00009, 0.82491), 1.8),
}
CURVE = b"curv\0\0\0\0"


def fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def profile(space: bytes, *tags: tuple[bytes, bytes], pcs: bytes = b"XYZ ", kind: bytes = b"mntr") -> bytes:
    """An ICC profile made by hand."""
    white = b"XYZ \0\0\0\0" + fixed(0.9642, 1, 0.8249)
    name = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"made\0" + bytes(78)
    tags = ((b"desc", name), (b"cprt", b"text\0\0\0\0me\0\0"), (b"wtpt", white), *tags)
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for tag, data in tags:
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"", 0x02400000, kind, space, pcs)
    head += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + white[8:] + bytes(48)
    return head + struct.pack(">I", len(tags)) + table + body


def gamma_curve(gamma: float) -> bytes:
    return CURVE + struct.pack(">IH", 1, round(gamma * 256))


def rgb_profile(name: str, *more: tuple[bytes, bytes]) -> bytes:
    *points, gamma = SPACES[name]
    tags = [
        (tag, b"XYZ \0\0\0\0" + fixed(*point)) for tag, point in zip((b"rXYZ", b"gXYZ", b"bXYZ"), points, strict=True)
    ]
    tags += [(tag, gamma_curve(gamma)) for tag in (b"rTRC", b"gTRC", b"bTRC")]
    return profile(b"RGB ", *tags, *more)


def grey_profile(gamma: float = 1.4) -> bytes:
    return profile(b"GRAY", (b"kTRC", gamma_curve(gamma)))


def table_profile(space: bytes = b"RGB ", channels: int = 3, kind: bytes = b"mntr") -> bytes:
    """A profile whose colours are a table of 2 entries a channel: CMYK, or RGB that swaps red and blue."""
    table = (
        b"mft1\0\0\0\0" + bytes([channels, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + bytes(range(256)) * channels
    )
    for corner in range(2**channels):
        first, second, third = ((corner >> channels - 1 - channel) & 1 for channel in range(3))
        table += bytes((255 * (first + second + third) // 3, 128 + 60 * (third - second), 128 + 60 * (second - first)))
    return profile(space, (b"A2B0", table + bytes(range(256)) * 3), pcs=b"Lab ", kind=kind)


def shown(image: Image.Image) -> np.ndarray:
    """The colours that a colour-managed viewer shows, in sRGB; it refuses a profile of other pixels."""
    data = image.info.get("icc_profile")
    if not data:
        return np.asarray(image.convert("RGB")).astype(int)
    source = ImageCms.ImageCmsProfile(io.BytesIO(data))
    return np.asarray(ImageCms.profileToProfile(image, source, SRGB, outputMode="RGB")).astype(int)


def away(a: Image.Image, b: Image.Image) -> float:
    """How many levels the shown colours are apart, in the mean."""
    return float(np.abs(shown(a) - shown(b)).mean())


def given_back(data: bytes) -> Image.Image:
    opened = open_image({"bytes": data, "path": None})
    return decode(opened.close(opened.colour)["bytes"])


PROFILES = {
    **{name: (RGB, rgb_profile(name)) for name in SPACES},
    "sRGB": (RGB, ImageCms.ImageCmsProfile(SRGB).tobytes()),  # of parametric curves
    "with alpha": (np.dstack([RGB, ALPHA]), rgb_profile("Display P3")),
    "grey": (GREY, grey_profile()),
    "grey, in RGB": (np.repeat(GREY[..., None], 3, 2), grey_profile()),
}


@pytest.mark.parametrize("name", PROFILES)
def test_pixels_and_what_they_mean_are_kept(name):
    image, data = PROFILES[name]
    source = encode(image, icc_profile=data)
    opened = open_bytes(source)
    assert opened.colour.tolist() == image.reshape(12, 10, -1)[:, :, : opened.colour.shape[2]].tolist()
    back = given_back(source)
    clean = decode(source)
    if name == "grey, in RGB":  # a viewer refuses that profile for these pixels
        clean = decode(encode(GREY, icc_profile=data))
    assert (
        away(
            back.convert("RGB") if back.mode == "RGBA" else back, clean.convert("RGB") if back.mode == "RGBA" else clean
        )
        < 0.5
    )
    assert b"made" not in back.info["icc_profile"]  # nor its other texts


def test_a_pil_image_keeps_its_space_without_a_file():
    opened = open_image(decode(encode(RGB, icc_profile=rgb_profile("ProPhoto"))))
    assert away(opened.close(RGB), decode(encode(RGB, icc_profile=rgb_profile("ProPhoto")))) < 0.5


NOTHING = {
    "an image": encode(RGB, "JPEG"),
    "text": b"a profile",
    "a profile of CMYK": table_profile(b"CMYK", 4, b"prtr"),
    "a profile cut off": rgb_profile("Display P3")[:200],
    "curves that fall": profile(
        b"RGB ", *[(tag, CURVE + struct.pack(">I3H", 3, 9, 5, 7)) for tag in (b"rTRC", b"gTRC", b"bTRC")]
    ),
    "an image for curves": profile(
        b"RGB ",
        *[(tag, b"XYZ \0\0\0\0" + fixed(0.3, 0.3, 0.3)) for tag in (b"rXYZ", b"gXYZ", b"bXYZ")],
        *[(tag, CURVE + struct.pack(">I", 600) + pixels(1200).tobytes()) for tag in (b"rTRC", b"gTRC", b"bTRC")],
    ),
}


@pytest.mark.parametrize("name", NOTHING)
def test_what_is_no_profile_of_these_pixels_is_left_out(name):
    assert given_back(encode(RGB, icc_profile=NOTHING[name])).info == {}


def test_nothing_else_of_a_profile_goes_out():
    original = encode(RGB, "JPEG")
    for tags in (
        [(b"priv", original)],
        [(b"dmdd", b"text\0\0\0\0" + original)],
        [(b"vued", b"desc\0\0\0\0" + original)],
    ):
        data = rgb_profile("Display P3", *tags) + original
        back = given_back(encode(RGB, icc_profile=data))
        assert original[:40] not in back.info["icc_profile"]
        assert len(back.info["icc_profile"]) < 600
        assert away(back, decode(encode(RGB, icc_profile=rgb_profile("Display P3")))) < 0.5


def test_profiles_of_tables_are_used_and_not_embedded():
    source = encode(RGB, icc_profile=table_profile())
    back = given_back(source)
    assert back.info == {}
    assert away(back, decode(source)) == 0
    assert away(back, Image.fromarray(RGB)) > 5  # the table does something


@pytest.mark.parametrize("name", ["Display P3", "ProPhoto"])
def test_without_a_profile_the_same_colours_are_shown(name):
    soft = (60 + RGB // 4).astype(np.uint8)  # all of them are in sRGB
    source = encode(soft, icc_profile=rgb_profile(name))
    codec = Codec(icc=False)
    opened = codec.prepare(open_bytes(source))
    written = decode(codec.encode(opened.close(opened.colour)))
    assert written.info == {}
    assert away(written, decode(source)) < 0.5
    assert away(Image.fromarray(soft), decode(source)) > 3
    grey = codec.prepare(open_bytes(encode(GREY, icc_profile=grey_profile())))
    assert away(decode(codec.encode(grey.close(grey.colour))), decode(encode(GREY, icc_profile=grey_profile()))) < 1


def test_numbers_of_srgb_are_written_as_they_are():
    opened = open_bytes(encode(RGB))
    assert Codec(icc=False).prepare(opened) is opened


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_every_format_shows_grey_as_it_was(format):
    smooth = np.tile(np.arange(20, 220, 20, dtype=np.uint8), (12, 1))
    source = encode(smooth, icc_profile=grey_profile())
    opened = open_bytes(source)
    written = decode(Codec(format).encode(opened.close(opened.colour)))
    assert away(written, decode(source)) < 2


@pytest.mark.parametrize("profiled", ["CMYK", "L"])
def test_columns_with_a_mode_get_a_profile_that_fits_or_none(poison, profiled):
    data = table_profile(b"CMYK", 4, b"prtr") if profiled == "CMYK" else grey_profile()
    source = encode(Image.fromarray(RGB).convert(profiled), "JPEG", icc_profile=data)
    kinds = datasets.Features({"image": datasets.Image(mode="RGB"), "label": datasets.Value("int64")})
    mapped = image_set([source], [0], kinds).map(poison).cast_column("image", datasets.Image(decode=False))
    image = decode(mapped[0]["image"]["bytes"])
    assert image.mode == "RGB"
    assert image.info.get("icc_profile", b"")[16:20] == (b"" if profiled == "CMYK" else b"RGB ")


# ---- spaces by other names ----


def with_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    data = encode(RGB)
    made = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    ]
    return data[:33] + b"".join(made) + data[33:]


def corners(*values: float) -> bytes:
    return struct.pack(">8I", *(round(value * 100_000) for value in values))


P3_CORNERS = corners(0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
NAMED = {  # name: how the file says it, the space that is shown
    "PNG's gAMA and cHRM": (with_chunks((b"gAMA", struct.pack(">I", 45455)), (b"cHRM", P3_CORNERS)), "Display P3"),
    "cICP goes before cHRM": (
        with_chunks((b"cHRM", corners(*[0.3] * 8)), (b"cICP", bytes((12, 4, 0, 1)))),
        "Display P3",
    ),
    "EXIF of a camera": (None, "Adobe RGB"),
}


def exif_space(value: int) -> bytes:
    tags = Image.Exif()
    tags[ExifTags.Base.Artist] = "A. Photographer"
    tags[ExifTags.IFD.Exif] = {ExifTags.Base.ColorSpace: value}
    return tags.tobytes()


SPACES_OF_EXIF = {"R03": (adobe_exif(), True), "2": (exif_space(2), True), "sRGB": (exif_space(1), False)}


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("name", SPACES_OF_EXIF)
def test_adobe_rgb_of_a_camera_is_known_in_every_format(format, name):
    exif, adobe = SPACES_OF_EXIF[name]
    space = open_bytes(encode(RGB, format, exif=exif)).space
    assert (space is not None) == adobe
    if adobe:
        flat = Image.fromarray(np.full((1, 1, 3), (40, 200, 90), np.uint8))
        flat.info["icc_profile"] = space.profile()
        assert away(flat, decode(encode(np.asarray(flat), icc_profile=rgb_profile("Adobe RGB")))) < 0.5


def test_the_order_of_answers():
    """Code points, profile, sRGB, gAMA: the first that is there counts."""
    linear, p3 = (b"gAMA", struct.pack(">I", 100_000)), (b"cICP", bytes((12, 13, 0, 1)))
    profile_of_adobe = b"a\0\0" + zlib.compress(rgb_profile("Adobe RGB"))
    of = {
        name: open_bytes(with_chunks(*chunks)).space
        for name, chunks in {
            "profile": [(b"iCCP", profile_of_adobe)],
            "profile, gAMA": [(b"iCCP", profile_of_adobe), linear],
            "cICP": [p3],
            "cICP, profile": [p3, (b"iCCP", profile_of_adobe)],
            "sRGB, gAMA": [(b"sRGB", b"\0"), linear],
            "gAMA": [linear],
        }.items()
    }
    assert of["profile"] == of["profile, gAMA"] is not None
    assert of["cICP"] == of["cICP, profile"] is not None
    assert of["cICP"] != of["profile"]
    assert of["sRGB, gAMA"] is None
    assert of["gAMA"] is not None


@pytest.mark.parametrize("name", NAMED)
def test_spaces_are_known_by_their_other_names(name):
    source, space = NAMED[name]
    back = given_back(source or encode(RGB, exif=adobe_exif()))
    assert away(back, decode(encode(RGB, icc_profile=rgb_profile(space)))) < 0.5
    assert set(back.info) == {"icc_profile"}


def test_linear_pixels_stay_linear():
    back = given_back(with_chunks((b"gAMA", struct.pack(">I", 100_000))))
    truth = np.where(RGB / 255 <= 0.0031308, RGB * 12.92, 255 * (1.055 * (RGB / 255) ** (1 / 2.4) - 0.055))
    assert np.abs(shown(back) - truth).max() < 2


@pytest.mark.parametrize(
    "source",
    [
        with_chunks((b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 45455)), (b"cHRM", P3_CORNERS)),
        with_chunks((b"gAMA", struct.pack(">I", 45455))),
        with_chunks((b"cICP", bytes((1, 13, 0, 1)))),
        with_chunks((b"cHRM", corners(0.3127, 0.3290, *[0] * 6))),
        with_chunks((b"gAMA", struct.pack(">I", 0))),
    ],
    ids=["sRGB", "gamma of sRGB", "code points of sRGB", "corners of nothing", "gamma of nothing"],
)
def test_what_is_srgb_needs_no_profile(source):
    assert given_back(source).info == {}


def test_hdr_is_refused():
    with pytest.raises(TypeError, match=r"HDR.*convert it to 8-bit RGB"):
        open_image({"bytes": with_chunks((b"cICP", bytes((9, 16, 0, 1)))), "path": None})


def test_exif_of_other_cameras_says_nothing():
    tags = Image.Exif()
    tags[ExifTags.Base.Artist] = "A. Photographer"
    assert given_back(encode(RGB, exif=tags.tobytes())).info == {}
