"""PIL pictures, arrays and tensors: every kind is opened rightly and given back, or refused."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import decode, encode, image_set, pixels
from PIL import Image
from torchvision import tv_tensors

import unlearnable_transforms as ut
from unlearnable_transforms import UnchangedWarning
from unlearnable_transforms.data.image import check_batch, encode_png, open_chunks, open_image
from unlearnable_transforms.pixels import CHUNK_VALUES

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


def test_png_is_lossless_and_bare():
    for image in (RGB, GREY, np.dstack([RGB, ALPHA]), np.dstack([GREY, ALPHA])):
        back = decode(encode_png(with_info(Image.fromarray(image), comment="secret"))["bytes"])
        assert np.asarray(back).tolist() == image.tolist()
        assert back.info == {}


def test_images_whose_content_lives_in_alpha_are_reported(poison, tmp_path):
    """What is seen of them is the same for every class, however the colours change."""
    flat = np.dstack([np.full((9, 8, 3), [200, 30, 30], np.uint8), pixels(9, 8)])
    plain = pixels(9, 8, 4)
    batch = np.stack([plain, flat, plain])
    containers = {
        "array": batch,
        "tensor": torch.from_numpy(batch).permute(0, 3, 1, 2),
        "PIL": [Image.fromarray(image) for image in batch],
    }
    for images in containers.values():
        with pytest.warns(UnchangedWarning, match="^row 1: .*alpha channel.*unprotected"):
            poison.apply(images, [0, 1, 2])
    data = image_set([encode(image) for image in batch], [0, 1, 2])
    with pytest.warns(UnchangedWarning, match="^row 1: .*alpha channel.*unprotected"):
        data.map(poison, batched=True)
    with pytest.warns(UnchangedWarning, match="^row 1: .*alpha channel.*unprotected"):
        ut.protect(data, poison, ledger=tmp_path / "ledger")
    assert pq.read_table(tmp_path / "ledger")["status"].to_pylist() == ["protected", "unchanged", "protected"]


# ---- arrays and tensors ----


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
