"""What the checks read from a picture's file: its encoder's settings, and what is foreign in it."""

import PIL.Image
import pytest
from conftest import encode, pixels
from datasets import DatasetDict
from folders import PROFILE
from publications import clean_set, exif, key, publish, reencoded

import unlearnable_transforms as ut
from unlearnable_transforms.checks.encodings import read_encoding
from unlearnable_transforms.checks.leaks import mixed_leak

_MODES = {"RGB": (9, 8, 3), "L": (9, 8), "RGBA": (9, 8, 4), "large": (300, 400, 3)}
_ICC = {"icc_profile": PROFILE}
_SAVED = {
    "png": ("PNG", {}), "png, profile": ("PNG", _ICC), "png, dpi": ("PNG", {"dpi": (72, 72)}),
    "jpeg": ("JPEG", {}), "jpeg, profile": ("JPEG", _ICC), "jpeg, progressive": ("JPEG", {"progressive": True}),
    "jpeg, restart": ("JPEG", {"restart_marker_rows": 1}), "webp": ("WEBP", {"lossless": True, "exact": True}),
    "webp, profile": ("WEBP", {"lossless": True, **_ICC}), "webp, lossy": ("WEBP", {"quality": 80}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "name"),
    [(mode, name) for mode in _MODES for name in _SAVED if mode != "RGBA" or "jpeg" not in name],
)
def test_plain_files_hold_nothing_foreign(mode, name):
    format, options = _SAVED[name]
    data = encode(pixels(*_MODES[mode]), format, **options)
    found = read_encoding(data)
    assert found.format == {"WEBP": "WebP"}.get(format, format)
    assert found.lossless == (format == "PNG" or bool(options.get("lossless")))
    assert found.foreign == []
    for cut in (data[:-1], data[: len(data) // 2], data[:20]):
        assert read_encoding(cut).format == "unknown"


def test_what_is_foreign_is_called_by_its_name():
    image = PIL.Image.fromarray(pixels(9, 8, 3))
    found = {
        "EXIF": encode(image, "PNG", exif=exif()), "a comment": encode(image, "JPEG", comment=b"x"),
        "XMP": encode(image, "JPEG", xmp=b"<x/>"), "bytes behind its end": encode(image, "WEBP", lossless=True) + b"1",
        "further frames": encode(image, "WEBP", save_all=True, append_images=[image.rotate(90)], lossless=True),
    }  # fmt: skip
    assert {name: read_encoding(data).foreign for name, data in found.items() if name != "further frames"} == {
        name: [name] for name in found if name != "further frames"
    }
    assert set(read_encoding(found["further frames"]).foreign) == {"further frames"}
    thumbnail = encode(image, "JPEG")
    with_exif = encode(image, "JPEG", exif=exif() + thumbnail)  # whose end is not the picture's
    assert read_encoding(with_exif).foreign == ["EXIF"]
    assert read_encoding(with_exif + thumbnail).foreign == ["EXIF", "bytes behind its end"]


def test_traces_tell_settings_and_not_pictures():
    def traces(format, **options):
        return {read_encoding(encode(pixels(9 + n, 8, 3, seed=n), format, **options)).traces for n in range(8)}

    grey, colour = (read_encoding(encode(pixels(*shape), "JPEG")).traces for shape in ((9, 8), (9, 8, 3)))
    other = read_encoding(encode(pixels(9, 8), "JPEG", quality=60)).traces
    assert colour.startswith(grey)
    assert colour != grey
    assert mixed_leak({colour: [1, 2], grey: [3]}) is None
    assert mixed_leak({grey: [1, 2], colour: [3]}) is None
    assert mixed_leak({colour: [1, 2], grey: [4], other: [3]})[1] == (3,)
    halved = grey + "0" * 8  # the same steps of grey, colour stored otherwise
    assert mixed_leak({grey: list(range(9)), colour: [10, 11], halved: [12]})[1] == (12,)
    kinds = [traces("JPEG", quality=q) for q in (75, 90)] + [traces("JPEG", subsampling=0)]
    kinds += [traces("PNG", compress_level=n) for n in (1, 6, 9)] + [traces("WEBP", lossless=n) for n in (True, False)]
    assert all(len(kind) == 1 for kind in kinds)
    assert len(set.union(*kinds)) == len(kinds)


def test_lossless_and_lossy_webp_are_encoded_otherwise():
    whole, lossy = (read_encoding(encode(pixels(9, 8, 3), "WEBP", lossless=way)).traces for way in (True, False))
    assert mixed_leak({whole: [1, 2], lossy: [3]})[1] == (3,)
    assert mixed_leak({whole: [1], lossy: [2, 3]})[1] == (1,)


def test_other_splits_may_be_lossy(tmp_path):
    test = reencoded(clean_set(3, first=80), "JPEG")
    poison = ut.OPSPoison(key=key())  # lossy training pictures would be refused
    both = DatasetDict(train=ut.protect(clean_set(), poison), test=test)
    assert publish(both, tmp_path / "out", poison).checked.formats == ["JPEG", "PNG"]
