"""Images that are read only on request: 16 bits a channel, CMYK and Lab, the first of several frames."""

import io
import struct

import datasets
import numpy as np
import pytest
from conftest import decode, encode, image_set, pixels, stored
from messy import chunk, frames, photograph, png16
from PIL import Image, ImageCms
from test_colour import table_profile

import unlearnable_transforms as ut
from unlearnable_transforms.data.header import NeedsConversion
from unlearnable_transforms.data.image import open_bytes

WIDE = np.random.default_rng(0).integers(0, 65536, (6, 5, 4)).astype(np.uint16)


def rounded(values: np.ndarray, top: int = 65535) -> list:
    """What 8 bits can hold of values up to ``top``, to nearest."""
    return np.rint(values / top * 255).astype(int).tolist()


def wide_tiff(image: np.ndarray, order: str, photometric: int = 2) -> bytes:
    """A TIFF of 16 bits a channel, uint16 (H, W, C), C > 2."""
    height, width, channels = image.shape
    samples = image.astype(order + "u2").tobytes()
    bits = struct.pack(f"{order}{channels}H", *[16] * channels)
    start = 8 + 2 + 12 * 9 + 4
    table = [(256, width), (257, height), (258, start), (259, 1), (262, photometric), (273, start + len(bits))]
    table += [(277, channels), (278, height), (279, len(samples))]
    body = b"".join(
        struct.pack(order + "HHI", tag, 3, channels) + struct.pack(order + "I", value)
        if tag == 258
        else struct.pack(order + "HHII", tag, 4, 1, value)
        for tag, value in table
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(table))
    return head + body + bytes(4) + bits + samples


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_of_png_are_rounded(channels):
    data = png16(WIDE[:, :, :channels])
    with pytest.raises(NeedsConversion, match=r"16 bits a channel.*convert=True"):
        open_bytes(data)
    opened = open_bytes(data, convert=True)
    colours = channels - (channels in (2, 4))
    assert opened.colour.tolist() == rounded(WIDE[:, :, :colours])
    if colours < channels:
        assert opened.alpha.tolist() == rounded(WIDE[:, :, colours:channels])
    assert opened.converted == ("16 bits a channel rounded to 8",)


def test_the_transparent_colour_of_a_wide_png_is_kept():
    for channels in (1, 3):
        image = WIDE[:, :, :channels]
        key = image[2, 3]
        opened = open_bytes(png16(image, chunk(b"tRNS", key.astype(">u2").tobytes())), convert=True)
        assert opened.colour.tolist() == rounded(image)
        assert opened.alpha[:, :, 0].tolist() == np.where((image == key).all(2), 0, 255).tolist()


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_of_tiff_are_rounded(order):
    opened = open_bytes(wide_tiff(WIDE[:, :, :3], order), convert=True)
    assert opened.colour.tolist() == rounded(WIDE[:, :, :3])


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
def test_grey_of_sixteen_bits_is_rounded(compression):
    opened = open_bytes(encode(WIDE[:, :, 0], "TIFF", compression=compression), convert=True)
    assert opened.colour[:, :, 0].tolist() == rounded(WIDE[:, :, 0])


@pytest.mark.parametrize(("kind", "top"), [("P5", 65535), ("P6", 65535), ("P5", 1023)])
def test_wide_ppm_is_rounded(kind, top):
    image = (WIDE[:, :, :3] if kind == "P6" else WIDE[:, :, :1]) & top
    opened = open_bytes(f"{kind} 5 6 {top}\n".encode() + image.astype(">u2").tobytes(), convert=True)
    assert opened.colour.tolist() == rounded(image, top)


def test_wide_images_are_upright_and_keep_their_space():
    exif = Image.Exif()
    exif[0x0112] = 6
    chunks = chunk(b"gAMA", struct.pack(">I", 100_000)), chunk(b"eXIf", exif.tobytes()[6:])
    opened = open_bytes(png16(WIDE[:, :, :3], *chunks), convert=True)
    assert opened.colour.tolist() == np.rot90(np.asarray(rounded(WIDE[:, :, :3])), -1).tolist()
    assert opened.space is not None


def test_cmyk_goes_through_its_profile():
    image = Image.fromarray(pixels(9, 8, 4), "CMYK")
    profile = table_profile(b"CMYK", 4, b"prtr")
    opened = open_bytes(encode(image, "TIFF", icc_profile=profile), convert=True)
    truth = ImageCms.profileToProfile(
        image,
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        "RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert opened.colour.tolist() == np.asarray(truth).tolist()
    assert opened.colour.tolist() != np.asarray(image.convert("RGB")).tolist()
    assert opened.converted == ("CMYK to sRGB",)
    assert opened.space is None
    assert opened.close(opened.colour).info == {}


def test_cmyk_without_a_profile_is_approximate_and_says_so():
    image = Image.fromarray(pixels(9, 8, 4), "CMYK")
    for data in (encode(image, "TIFF"), encode(image, "TIFF", icc_profile=b"no profile")):
        with pytest.raises(NeedsConversion, match=r"CMYK.*with convert=True"):
            open_bytes(data)
        opened = open_bytes(data, convert=True)
        assert opened.colour.tolist() == np.asarray(image.convert("RGB")).tolist()
        assert "approximate" in opened.converted[0]


def test_lab_becomes_srgb():
    image = Image.frombytes("LAB", (2, 1), bytes([255, 0, 0, 136, 80, 67]))  # white; L* 53, a* 80, b* 67: red
    opened = open_bytes(encode(image, "TIFF"), convert=True)
    assert np.abs(opened.colour[0].astype(int) - [[255, 255, 255], [255, 0, 0]]).max() <= 12
    assert opened.converted == ("Lab to sRGB",)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_of_several_frames_is_taken(format):
    options = {"lossless": True} if format == "WEBP" else {}
    first = Image.fromarray(photograph(1)).quantize(32).convert("RGB")
    data = encode(first, format, **options, **frames())
    with pytest.raises(NeedsConversion, match=r"with convert=True"):
        open_bytes(data)
    opened = open_bytes(data, convert=True)
    assert opened.colour.tolist() == np.asarray(first).tolist()
    assert opened.converted == ("first page of several" if format == "TIFF" else "first frame of an animation",)


def test_a_smaller_copy_in_a_tiff_is_no_second_page():
    small = Image.fromarray(photograph(1, (20, 28, 3)))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    data = encode(photograph(1), "TIFF", save_all=True, append_images=[small])
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert open_bytes(data).colour.tolist() == photograph(1).tolist()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: encode(Image.new("F", (4, 4), 0.5), "TIFF"), "32 bits a channel"),
        (lambda: encode(Image.new("I", (4, 4), 70000), "TIFF"), "32 bits a channel"),
        (lambda: encode(Image.new("I;16", (16, 16), 40000), "JPEG2000"), "16 bits a channel"),
        (lambda: png16(WIDE[:, :, :3], chunk(b"cICP", bytes((9, 16, 0, 1)))), "HDR"),
    ],
)
def test_what_cannot_be_converted_does_not_point_to_it(data, message):
    with pytest.raises(TypeError, match=message) as caught:
        open_bytes(data(), convert=True)
    assert "--convert" not in str(caught.value)


def test_ordinary_images_are_the_same_with_conversion():
    for format in ("PNG", "JPEG", "WEBP", "BMP", "GIF"):
        data = encode(photograph(3), format)
        plain, asked = open_bytes(data), open_bytes(data, convert=True)
        assert plain.colour.tolist() == asked.colour.tolist()
        assert asked.converted == ()


def test_tables_are_converted_on_request_and_the_rows_are_named(poison):
    cmyk = Image.fromarray(photograph(4)).convert("CMYK")
    data = image_set([encode(photograph(3)), png16(WIDE[:, :, :3]), encode(cmyk, "TIFF")], [0, 1, 2])
    with pytest.raises(ut.SampleError, match=r"row 1: .*16 bits a channel.*convert=True"):
        ut.protect(data, poison)
    with pytest.warns(ut.UnlearnableWarning) as caught:
        protected = ut.protect(data, poison, convert=True)
    said = [str(warning.message) for warning in caught]
    assert "row 1: converted, 16 bits a channel rounded to 8" in said
    assert any(text.startswith("row 2: converted, CMYK to sRGB") for text in said)
    assert protected.features == data.features
    expected = poison(np.asarray(rounded(WIDE[:, :, :3]), np.uint8), 1)[0]
    assert np.asarray(decode(stored(protected)[1]["bytes"])).tolist() == expected.tolist()


def test_a_table_with_a_mode_is_converted_through_the_profile(poison):
    kinds = datasets.Features({"image": datasets.Image(mode="RGB"), "label": datasets.Value("int64")})
    image = Image.fromarray(pixels(9, 8, 4), "CMYK")
    source = encode(image, "TIFF", icc_profile=table_profile(b"CMYK", 4, b"prtr"))
    with pytest.warns(ut.UnlearnableWarning, match="row 0: converted, CMYK to sRGB$"):
        protected = ut.protect(image_set([source], [0], kinds), poison, convert=True)
    expected = poison(open_bytes(source, convert=True).colour, 0)[0]
    assert np.asarray(decode(stored(protected)[0]["bytes"])).tolist() == expected.tolist()
