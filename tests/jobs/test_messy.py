"""A folder of photographs as people have them: what came of each file, and the reason that is printed."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import encode
from folders import tree
from messy import BESIDE, CONVERTED, NEF, OTHER, PROTECTED, RAW_ALONE, TRUNCATED, UNREADABLE, build, heic, photograph
from PIL import Image

from unlearnable_transforms.data.codec import Codec
from unlearnable_transforms.data.image import open_bytes
from unlearnable_transforms.protection.protect import protect_source

pytest.importorskip("pillow_heif")


def target(path: str) -> str:
    return os.path.splitext(path)[0] + ".png"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_file_of_a_messy_folder_is_protected_or_named_with_a_true_reason(tmp_path, out, poison):
    kinds = build(tmp_path / "album")
    assert len(kinds) >= 50
    by_kind = {kind: {path for path in kinds if kinds[path] == kind} for kind in set(kinds.values())}
    first = protect_source(tmp_path / "album", out, poison)
    assert set(tree(out)) == {target(path) for path in by_kind[PROTECTED]}
    assert first.counts == {"protected": len(by_kind[PROTECTED])}
    assert set(first.others) == by_kind[OTHER]

    reasons = dict(first.failed)
    assert set(reasons) == by_kind[TRUNCATED] | by_kind[UNREADABLE] | by_kind[RAW_ALONE]
    assert all("truncated" in reasons[path] for path in by_kind[TRUNCATED])
    assert all("raw file" in reasons[path] and "export it as JPEG" in reasons[path] for path in by_kind[RAW_ALONE])
    assert "empty" in reasons["shoes/empty.jpg"]
    assert "not a picture" in reasons["shoes/text.jpg"]
    assert "damaged" in reasons["shoes/damaged.png"]
    assert sum("damaged" in reason for reason in reasons.values()) == 1

    options = dict(first.left_out)
    assert set(options) == by_kind[CONVERTED]
    assert all("convert=True" in reason for reason in options.values())
    beside = dict(first.beside)
    assert set(beside) == by_kind[BESIDE]
    assert beside["hats/IMG_1012.CR2"] == "raw file, not protected; IMG_1012.jpg beside it was"
    assert beside["hats/IMG_3001.HEIC"] == "HEIC, not protected; IMG_3001.jpg beside it was"
    assert beside["hats/IMG_3003.DNG"] == "raw file, not protected; IMG_3003.HEIC beside it was"
    assert first.converted == {}
    assert first.left_behind == {
        "video of a motion photo": ["hats/motion.jpg"],
        "further images in the same file": ["hats/two in one.mpo"],
        "gain map for bright screens (HDR)": ["hats/ultra hdr.jpg"],
    }
    text = "\n".join(first.lines())
    readable = text[text.index("LEFT OUT, though readable") : text.index("NOT READABLE")]
    assert "cmyk.jpg" in readable
    assert not re.search(r"\brows?\b", text)

    assert open_bytes(tree(out)["hats/adobe rgb.png"]).space is not None
    assert open_bytes(tree(out)["hats/profile.png"]).space is not None  # sRGB by a profile
    before = tree(out)
    second = protect_source(tmp_path / "album", out, poison, convert=True)
    after = tree(out)
    assert {path: after[path] for path in before} == before
    assert set(after) - set(before) == {target(path) for path in by_kind[CONVERTED]}
    assert {path for paths in second.converted.values() for path in paths} == by_kind[CONVERTED]
    assert second.left_out == []
    assert "converted, first page of several: shoes/pages.tiff" in second.lines()
    third = protect_source(tmp_path / "album", out, poison)  # what is converted stays, and is still said
    assert (third.converted, tree(out)) == (second.converted, after)

    for path in sorted(by_kind[PROTECTED] | by_kind[CONVERTED]):
        clean = open_bytes((tmp_path / "album" / path).read_bytes(), convert=True)
        label = sorted(["hats", "shoes"]).index(path.split("/")[0])
        shown = np.asarray(open_bytes(after[target(path)]).colour)
        assert shown.tolist() == poison(clean.colour, label)[0].tolist(), path
        assert not any(mark in after[target(path)] for mark in (b"A. Photographer", b"Exif", b"ftyp", b"hdrgm"))


def put(folder: Path, **files: bytes) -> Path:
    for name, data in files.items():
        path = folder / "hats" / name.replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_pairs_collide_in_no_format(tmp_path, out, poison, format):
    jpeg = encode(photograph(1), "JPEG")
    source = put(
        tmp_path / "album", a_jpg=jpeg, a_CR2=NEF, a_heic=heic(photograph(2)), b_NEF=NEF, b_tif=encode(photograph(4))
    )
    summary = protect_source(source, out, poison, codec=Codec(format))
    assert summary.counts == {"protected": 2}
    assert [path for path, _ in summary.beside] == ["hats/a.CR2", "hats/a.heic", "hats/b.NEF"]
    assert summary.failed == summary.left_out == []


def test_a_pair_whose_jpeg_is_damaged_is_not_called_protected(tmp_path, out, poison):
    jpeg = encode(photograph(1), "JPEG")
    cut = jpeg[: len(jpeg) // 2]
    source = put(
        tmp_path / "album", a_jpg=cut, a_heic=heic(photograph(2)), b_jpg=cut, b_nef=NEF, c_png=encode(photograph(3))
    )
    summary = protect_source(source, out, poison)
    assert dict(summary.beside) == {
        "hats/a.heic": "HEIC, not protected; neither was a.jpg beside it: remove that one to use this",
        "hats/b.nef": "raw file, not protected; neither was b.jpg beside it",
    }
    assert set(tree(out)) == {"hats/c.png"}


def test_a_heic_and_a_png_of_one_name_would_overwrite_each_other(tmp_path, out, poison):
    source = put(tmp_path / "album", a_heic=heic(photograph(1)), a_png=encode(photograph(2)))
    with pytest.raises(ValueError, match=r"hats/a\.heic and hats/a\.png -> hats/a\.png"):
        protect_source(source, out, poison)


def test_the_command_names_the_option_and_takes_it(tmp_path, protect, out, capsys):
    source = put(tmp_path / "album", a_jpg=encode(photograph(1), "JPEG"), a_cr2=NEF)
    assert protect(source) == 0  # a raw file beside its JPEG is no failure
    assert "raw file, not protected; a.jpg beside it was" in capsys.readouterr().out
    put(source, b_gif=encode(photograph(1), "GIF", save_all=True, append_images=[Image.fromarray(photograph(2))]))
    assert protect(source) == 1
    assert "--convert" in capsys.readouterr().out
    assert protect(source, "--convert") == 0
    assert "converted, first frame of an animation: hats/b.gif" in capsys.readouterr().out
