"""Warnings name the line of the program that called the library, from whatever depth they come."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import KEY, TINY, image_set, pixels
from PIL import Image

import unlearnable_transforms as ut

BLACK = np.zeros((2, 16, 16, 3), np.uint8)
LABELS = [0, 1] * 6
FEW = pixels(12, 8, 8, 3), LABELS


def rows(images: np.ndarray):
    return image_set([Image.fromarray(image) for image in images], LABELS[: len(images)])


def readable(folder: Path) -> None:
    KEY.save(folder / "my.key")
    (folder / "my.key").chmod(0o644)
    ut.Key.load(folder / "my.key")


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda _: ut.CUDAPoison(key=KEY).apply(BLACK, [0, 1]), id="apply"),
        pytest.param(lambda _: ut.CUDAPoison(key=KEY)(BLACK, np.array([0, 1])), id="call"),
        pytest.param(lambda _: ut.protect(rows(BLACK), ut.CUDAPoison(key=KEY)), id="protect"),
        pytest.param(lambda _: ut.protect(rows(pixels(12, 8, 8, 3)), ut.CUDAPoison(key=KEY), 0.5), id="fraction"),
        pytest.param(lambda _: ut.EMPoison(key=KEY, data=FEW, **TINY), id="data="),
        pytest.param(lambda _: ut.EMPoison(key=KEY, **TINY).fit(FEW), id="fit"),
        pytest.param(lambda _: ut.Chain([ut.CUDAPoison(key=KEY), ut.EMPoison(key=KEY, **TINY)], data=FEW), id="chain"),
        pytest.param(readable, id="key file"),
    ],
)
def test_the_line_is_the_callers(call, tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(tmp_path)
    assert caught
    assert {warning.filename for warning in caught} == {__file__}
