"""What a picture file carries beside its pixels, and the key, do not get out of `unlearnable protect`."""

import base64
import os
import stat
import struct
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import SHARED, decode, encode
from folders import PROFILE, chunks, forms, photograph, save_key, tree
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import unlearnable_transforms as ut
from unlearnable_transforms.cli.main import main


def plant(image: Image.Image, number: int) -> tuple[str, bytes]:
    """The suffix and the bytes of a file of ``image`` with texts planted wherever its format has room."""
    text = f"CANARY-{number:03d}"
    exif = Image.Exif()
    exif[0x010E] = f"{text}-description"
    exif[0x013B] = f"{text}-artist"
    exif[0x0112] = 1 + number % 8
    exif.get_ifd(0x8825)[0x001D] = f"{text}-gps"
    exif.get_ifd(0x8769)[0x9286] = f"{text}-comment".encode()
    data = exif.tobytes()
    data += encode(photograph(number, 8, 8), "JPEG", comment=f"{text}-thumbnail".encode())  # follows, as cameras do it
    xmp = f"<x:xmpmeta xmlns:x='adobe:ns:meta/'>{text}-xmp</x:xmpmeta>".encode()
    iptc = b"\x1c\x02\x78" + struct.pack(">H", len(text) + 5) + f"{text}-iptc".encode()
    if number % 3 == 0:
        block = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(iptc)) + iptc + b"\0" * (len(iptc) % 2)
        jpeg = encode(image, "JPEG", exif=data, comment=f"{text}-com", xmp=xmp, icc_profile=PROFILE)
        return ".jpg", jpeg[:2] + b"\xff\xed" + struct.pack(">H", 2 + len(block)) + block + jpeg[2:] + b"CANARY-after"
    if number % 3 == 1:
        info = PngInfo()
        info.add_text("Comment", f"{text}-text")
        info.add_text("Long", f"{text}-ztext", zip=True)
        info.add_text("Raw profile type iptc", f"\niptc\n{len(iptc):8}\n{iptc.hex()}\n")
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        return ".png", encode(image, "PNG", exif=data, pnginfo=info, icc_profile=PROFILE) + b"CANARY-after"
    return ".webp", encode(image, "WEBP", exif=data, xmp=xmp, icc_profile=PROFILE)


ALLOWED = {  # and nothing else may stand in a file
    "png": {"IHDR", "iCCP", "IDAT", "IEND"},
    "webp": {"VP8X", "ICCP", "VP8L"},
    "jpeg": {"E0 JFIF", "E2 ICC_", "DB", "C0", "C4"},
}


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
@pytest.mark.parametrize("kind", ["drawn", "clothing"])
def test_nothing_of_forty_pictures_but_pixels_and_profile_gets_out(tmp_path, out, request, capsys, kind, format):
    key_file, source = tmp_path / "my.key", tmp_path / "source"
    assert main(["keygen", str(key_file)]) == 0
    drawn = kind == "drawn"
    pictures = [Image.fromarray(photograph(n)) for n in range(40)] if drawn else request.getfixturevalue("photographs")
    for number, photo in enumerate(pictures):
        suffix, data = plant(photo, number)
        assert data.count(b"CANARY-") >= 6
        path = source / f"class {number % 3}" / f"{number}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.with_suffix(".xmp").write_bytes(b"CANARY")
        with suppress(OSError):  # where the file system holds such notes
            os.setxattr(path, "user.xdg.origin.url", b"CANARY-url")
    (source / "class 0" / "Thumbs.db").write_bytes(b"CANARY")
    (source / "class 0" / ".picasa.ini").write_bytes(b"CANARY")
    arguments = ["protect", str(source), str(out), "--key", str(key_file), "--workers", "1", "--format", format]
    assert main([*arguments, "--ledger", str(tmp_path / "ledger.parquet")]) == 0
    told = capsys.readouterr()
    assert "not copied (42):" in told.out
    assert "Thumbs.db" in told.out
    files = tree(out)
    assert len(files) == 40
    for path, data in files.items():
        assert b"CANARY" not in data
        assert chunks(data) <= ALLOWED[format]
        profile = decode(data).info["icc_profile"]
        assert profile[12:20] == b"mntrRGB "
        assert b"sRGB" in PROFILE.replace(b"\0", b"")
        assert b"sRGB" not in profile.replace(b"\0", b"")  # names stay behind; test_colour.py asks what it means
        if hasattr(os, "listxattr"):
            assert os.listxattr(out / path) == []
    private = tree(Path(os.environ["UNLEARNABLE_TRANSFORMS_CACHE"]))
    assert any("done.jsonl" in path for path in private)
    shown = (told.out + told.err).encode()
    for data in (*files.values(), *private.values(), (tmp_path / "ledger.parquet").read_bytes(), shown):
        assert not any(form in data for form in forms(ut.Key.load(key_file)._secret))
    assert stat.S_IMODE(key_file.stat().st_mode) == stat.S_IMODE((tmp_path / "ledger.parquet").stat().st_mode) == 0o600


def test_the_scan_of_the_test_above_finds_what_it_looks_for(tmp_path):
    found = {suffix: chunks(data) for suffix, data in (plant(Image.new("RGB", (20, 20)), n) for n in range(3))}
    assert {"eXIf", "tEXt", "zTXt", "iTXt", "after"} <= found[".png"]
    assert {"EXIF", "XMP "} <= found[".webp"]
    assert {"E1 Exif", "E1 http", "ED Phot", "after"} <= found[".jpg"]
    secret = ut.Key.load(save_key(tmp_path / "my.key"))._secret
    for shift in range(3):
        assert any(form in base64.b64encode(b"x" * shift + secret + b"y") for form in forms(secret))
    assert any(form in (tmp_path / "my.key").read_bytes() for form in forms(secret))


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    """The first 40 photographs of a real data set, at most 200 pixels a side."""
    path = SHARED / "clothing" / "train-00000-of-00001.parquet"
    if not path.exists():
        pytest.skip(f"the data set {path.parent.name} is not at {path.parent}")
    found = [decode(row["bytes"]) for row in pq.read_table(path, columns=["image"])["image"].slice(0, 40).to_pylist()]
    for photo in found:
        photo.thumbnail((200, 200))
    return found
