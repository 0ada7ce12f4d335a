"""Images made smaller: by which rule, and what of them stays."""

import numpy as np
import pytest
from conftest import encode
from folders import PROFILE, photograph
from PIL import Image

from unlearnable_transforms.data.image import open_bytes
from unlearnable_transforms.data.shrink import check_max_side, shrink
from unlearnable_transforms.errors import UsageError

LARGE = photograph(2, 90, 120)


def test_the_longest_side_and_the_proportions():
    image = open_bytes(encode(LARGE))
    small = shrink(image, 40)
    assert small.colour.shape == (30, 40, 3)
    expected = Image.fromarray(LARGE).resize((40, 30), Image.Resampling.LANCZOS, reducing_gap=3.0)
    assert np.array_equal(small.colour, np.asarray(expected))
    assert np.array_equal(np.asarray(small.close(small.colour)), small.colour)
    assert shrink(open_bytes(encode(LARGE.transpose(1, 0, 2))), 40).colour.shape == (40, 30, 3)
    assert shrink(open_bytes(encode(photograph(1, 2, 400))), 40).colour.shape == (1, 40, 3)


def test_never_larger():
    image = open_bytes(encode(LARGE))
    for side in (None, 120, 121, 5000):
        assert shrink(image, side) is image


def test_an_image_is_turned_upright_first():
    exif = Image.Exif()
    exif[0x0112] = 6
    small = shrink(open_bytes(encode(LARGE, exif=exif)), 60)
    assert small.colour.shape == (60, 45, 3)


def test_grey_profile_and_transparency_stay():
    grey = shrink(open_bytes(encode(LARGE[..., 0])), 40)
    assert grey.colour.shape == (30, 40, 1)
    linear = open_bytes(encode(LARGE, icc_profile=PROFILE))
    assert shrink(linear, 40).space == linear.space is not None
    assert shrink(linear, 40).close(shrink(linear, 40).colour).info["icc_profile"]
    alpha = np.zeros((90, 120), np.uint8)
    alpha[:, :60] = 255
    hidden = np.where(alpha[..., None], 200, 0).astype(np.uint8).repeat(3, axis=2)  # black that nobody sees
    half = shrink(open_bytes(encode(np.dstack([hidden, alpha]))), 40)
    assert half.alpha.shape == (30, 40, 1)
    assert (half.colour[half.alpha[..., 0] > 8] >= 180).all()  # the black does not show at the edge
    assert half.close(half.colour).mode == "RGBA"


@pytest.mark.parametrize("side", [0, -1, 2.5, "40", True])
def test_sides_that_are_none(side):
    with pytest.raises(UsageError, match="max_side= is a number of pixels from 1 up"):
        check_max_side(side)
