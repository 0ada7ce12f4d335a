"""Containers: every kind of picture is opened rightly and given back, or refused."""

import io
import struct

import numpy as np
import pytest
import torch
from conftest import decode, encode, pixels
from PIL import ExifTags, Image
from torchvision import tv_tensors

from unlearnable_transforms.containers import check_batch, encode_png, open_chunks, open_image
from unlearnable_transforms.pixels import CHUNK_VALUES, gain_fitted_psnr, psnr, unchanged_rows
from unlearnable_transforms.samples import SampleError

RGB = pixels(6, 5, 3)
GREY = pixels(6, 5, seed=1)
ALPHA = pixels(6, 5, seed=2)
PALETTE = Image.fromarray(RGB).quantize(8)
TRUTH = np.asarray(PALETTE.convert("RGB"))


def with_info(image: Image.Image, **info) -> Image.Image:
    image = image.copy()
    image.info.update(info)
    return image


def grey3(image: np.ndarray) -> np.ndarray:
    return image[:, :, None]


PIL_PICTURES = {  # name: picture, its colours, the mode it comes back in, its alpha
    "1": (Image.fromarray(GREY > 127), grey3((GREY > 127) * np.uint8(255)), "L", None),
    "L": (Image.fromarray(GREY), grey3(GREY), "L", None),
    "LA": (Image.fromarray(np.dstack([GREY, ALPHA])), grey3(GREY), "LA", ALPHA),
    "RGB": (Image.fromarray(RGB), RGB, "RGB", None),
    "RGBA": (Image.fromarray(np.dstack([RGB, ALPHA])), RGB, "RGBA", ALPHA),
    "P": (PALETTE, TRUTH, "RGB", None),
    "P, one colour transparent": (
        with_info(PALETTE, transparency=3),
        TRUTH,
        "RGBA",
        np.where(np.asarray(PALETTE) == 3, 0, 255),
    ),
    "P, alpha a colour": (
        with_info(PALETTE, transparency=bytes(range(100, 108))),
        TRUTH,
        "RGBA",
        np.asarray(PALETTE) + 100,
    ),
    "RGB, one colour transparent": (
        with_info(Image.fromarray(RGB), transparency=tuple(RGB[2, 3].tolist())),
        RGB,
        "RGBA",
        np.where((RGB[2, 3] == RGB).all(2), 0, 255),
    ),
    "L, one grey transparent": (
        with_info(Image.fromarray(GREY), transparency=int(GREY[1, 1])),
        grey3(GREY),
        "LA",
        np.where(GREY[1, 1] == GREY, 0, 255),
    ),
}


@pytest.mark.parametrize("name", PIL_PICTURES)
def test_pil_modes(name):
    image, colours, mode, alpha = PIL_PICTURES[name]
    before = image.tobytes()
    opened = open_image(image)
    assert opened.colour.dtype == np.uint8
    assert opened.colour.tolist() == colours.tolist()
    changed = 255 - opened.colour
    back = opened.close(changed)
    assert back.mode == mode
    result = np.asarray(back).reshape(6, 5, -1)
    assert result[:, :, : colours.shape[2]].tolist() == changed.tolist()
    if alpha is not None:
        assert result[:, :, -1].tolist() == alpha.tolist()
    assert image.tobytes() == before


def test_pa_pictures_keep_their_alpha():
    image = Image.fromarray(np.dstack([RGB, ALPHA])).convert("PA")
    truth = np.asarray(image.convert("RGBA"))
    opened = open_image(image)
    assert opened.colour.tolist() == truth[:, :, :3].tolist()
    back = opened.close(opened.colour)
    assert back.mode == "RGBA"
    assert np.asarray(back).tolist() == truth.tolist()


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("I;16", "16-bit or 32-bit grey"),
        ("I;16B", "16-bit or 32-bit grey"),
        ("I", "16-bit or 32-bit grey"),
        ("F", "floating point"),
        ("CMYK", "mode CMYK"),
        ("YCbCr", "mode YCbCr"),
        ("LAB", "mode LAB"),
        ("HSV", "mode HSV"),
        ("RGBX", "mode RGBX"),
        ("RGBa", "mode RGBa"),
        ("La", "mode La"),
    ],
)
def test_other_pil_modes_are_refused(mode, message):
    with pytest.raises(TypeError, match=f"{message}.*convert it to 8-bit RGB or L first"):
        open_image(Image.new(mode, (4, 4)))


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


# ---- files: orientation, colour profiles, damage -----------------------------------------------------------------

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


def test_png_is_lossless_and_bare():
    for image in (RGB, GREY, np.dstack([RGB, ALPHA]), np.dstack([GREY, ALPHA])):
        back = decode(encode_png(with_info(Image.fromarray(image), comment="secret"))["bytes"])
        assert np.asarray(back).tolist() == image.tolist()
        assert back.info == {}


# ---- arrays and tensors ------------------------------------------------------------------------------------------


def chw(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["array", "tensor", "Image", "Mask"])
def test_arrays_and_tensors_keep_kind_and_alpha(channels, kind):
    array = pixels(6, 5, channels)
    make = {"array": np.asarray, "tensor": chw, "Image": lambda a: tv_tensors.Image(chw(a))}
    make["Mask"] = lambda a: tv_tensors.Mask(chw(a))
    image = make[kind](array)
    opened = open_image(image)
    colours = channels - (channels in (2, 4))
    assert opened.colour.tolist() == array[:, :, :colours].tolist()
    back = opened.close(255 - opened.colour)
    expected = array.copy()
    expected[:, :, :colours] = 255 - expected[:, :, :colours]
    assert type(back) is type(image)
    assert back.dtype == image.dtype
    assert back.tolist() == make[kind](expected).tolist()
    assert back.is_contiguous() if kind != "array" else back.flags.c_contiguous


def test_grey_arrays_without_a_channel_axis():
    opened = open_image(GREY)
    assert opened.colour.shape == (6, 5, 1)
    assert opened.close(255 - opened.colour).tolist() == (255 - GREY).tolist()


def odd_views(array: np.ndarray) -> dict[str, np.ndarray]:
    """The same values in memory layouts that are easily got wrong."""
    frozen = array.copy()
    frozen.flags.writeable = False
    wide = np.zeros((array.shape[0], 2 * array.shape[1], array.shape[2]), np.uint8)
    wide[:, ::2] = array
    return {
        "read-only": frozen,
        "Fortran order": np.asfortranarray(array),
        "negative strides": np.ascontiguousarray(array[::-1, ::-1, ::-1])[::-1, ::-1, ::-1],
        "every other column": wide[:, ::2],
        "channels first": np.ascontiguousarray(array.transpose(2, 0, 1)).transpose(1, 2, 0),
    }


@pytest.mark.parametrize("layout", odd_views(RGB))
def test_memory_layouts(layout, poison):
    view = odd_views(RGB)[layout]
    assert open_image(view).colour.tolist() == RGB.tolist()
    expected = poison(RGB, 1)[0].tolist()
    assert poison(view, 1)[0].tolist() == expected
    assert poison.apply(view[None], [1])[0].tolist() == expected
    assert view.tolist() == RGB.tolist()


def test_tensor_layouts(poison):
    batch = torch.from_numpy(pixels(4, 6, 5, 3)).permute(0, 3, 1, 2)
    expected = poison.apply(batch.contiguous(), [1] * 4)
    wide = torch.zeros(8, 3, 6, 5, dtype=torch.uint8)
    wide[::2] = batch
    for view in (batch, batch.to(memory_format=torch.channels_last), wide[::2]):
        assert poison.apply(view, [1] * 4).equal(expected)
        assert poison(view[2], 1)[0].equal(expected[2])
    same = batch[:1].expand(4, -1, -1, -1)
    assert poison.apply(same, [1] * 4).equal(expected[:1].expand(4, -1, -1, -1))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((4, 4, 0), np.uint8),
        np.zeros((3, 4, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.array(3, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 0), np.uint8),
        torch.zeros(4, 4, dtype=torch.uint8),
        torch.zeros(5, 4, 4, dtype=torch.uint8),
        torch.zeros(4, 4, 3, dtype=torch.uint8)[:, :, :0],
        torch.zeros(3, 0, 4, dtype=torch.uint8),
    ],
    ids=lambda image: f"{type(image).__name__}{tuple(image.shape)}",
)
def test_wrong_shapes_are_refused(image):
    with pytest.raises(ValueError, match=r"shape"):
        open_image(image)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 5, 4, 4), (0, 2, 3, 4, 4), (2, 3, 0, 4)])
def test_wrong_batch_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        check_batch(torch.zeros(shape, dtype=torch.uint8), dims=4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int16, np.uint16, bool])
@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_other_data_types_are_refused(dtype, kind):
    image = np.ones((4, 4, 3), dtype)
    if kind == "tensor":
        image = chw(image)
    with pytest.raises(TypeError, match=r"not uint8.*scale to 0\.\.255"):
        open_image(image)


def test_nan_is_said():
    image = np.ones((4, 4, 3), np.float32)
    for value in (np.nan, np.inf):
        image[1, 1] = value
        for picture in (image, chw(image)):
            with pytest.raises(TypeError, match="NaN or infinity"):
                open_image(picture)
    with pytest.raises(TypeError, match="not uint8") as caught:
        open_image(np.ones((4, 4, 3), np.float32))
    assert "NaN" not in str(caught.value)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("a.png", "cannot protect a str"),
        (encode(RGB), 'passed as {"bytes": data'),
        (None, "cannot protect a NoneType"),
        ([[1, 2], [3, 4]], "cannot protect a list"),
        ({"pixels": RGB}, "cannot protect a dict"),
        (3, "cannot protect a int"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_things_are_refused(image, message):
    with pytest.raises(TypeError, match=message):
        open_image(image)


def test_chunks_are_bounded_and_in_order():
    side = 200
    images = [np.full((side, side, 3), value, np.uint8) for value in range(70)]
    chunks = list(open_chunks(images, open_image))
    assert [start for start, _ in chunks] == list(np.cumsum([0] + [len(opened) for _, opened in chunks[:-1]]))
    assert [int(one.colour[0, 0, 0]) for _, opened in chunks for one in opened] == list(range(70))
    assert max(sum(one.colour.size for one in opened) for _, opened in chunks) <= CHUNK_VALUES
    assert len(chunks) == -(-70 // (CHUNK_VALUES // (3 * side * side)))
    assert list(open_chunks([], open_image)) == []


# ---- how far two pictures are apart ------------------------------------------------------------------------------


def test_psnr():
    clean = np.full((4, 4, 3), 100, np.uint8)
    assert psnr(clean, clean) == float("inf")
    assert psnr(clean, clean + 1) == pytest.approx(10 * np.log10(255**2))
    assert psnr(np.zeros_like(clean), np.full_like(clean, 255)) == pytest.approx(0)
    assert psnr(clean, np.full_like(clean, 90)) == psnr(np.full_like(clean, 90), clean)  # no wrap-around


def test_gain_fitted_psnr_forgives_a_gain_only():
    clean = pixels(8, 8, 3) // 2
    assert gain_fitted_psnr(clean, clean * 2) == float("inf")
    assert psnr(clean, clean * 2) < 20
    assert gain_fitted_psnr(clean, np.zeros_like(clean)) == pytest.approx(psnr(clean, np.zeros_like(clean)))
    assert gain_fitted_psnr(clean, pixels(8, 8, 3, seed=1)) >= psnr(clean, pixels(8, 8, 3, seed=1))


def test_unchanged_rows():
    before = torch.from_numpy(pixels(5, 3, 7, 6))
    after = before.clone()
    after[1, 2, 6, 5] ^= 1  # the last pixel only
    after[3] ^= 1
    assert unchanged_rows(before, after) == [0, 2, 4]
    assert unchanged_rows(before[:0], after[:0]) == []
