"""What the checks read from a picture's file: its encoder's settings, and what is foreign in it."""

from pathlib import Path

import PIL.Image
import pytest
from conftest import decode, encode, pixels, stored
from datasets import DatasetDict, load_dataset
from folders import PROFILE, photograph, save_key
from PIL.PngImagePlugin import PngInfo
from publications import clean_set, exif, key, protected_folder, publish, reencoded, with_picture

import unlearnable_transforms as ut
from unlearnable_transforms.checks.encodings import read_encoding
from unlearnable_transforms.checks.leaks import LeakError, encoding_leaks, mixed_leak
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.data.codec import Codec
from unlearnable_transforms.data.credit import Credit, build
from unlearnable_transforms.protection.protect import protect_source
from unlearnable_transforms.protection.unlock_source import unlock_source

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


def folder_of_several_formats(root: Path) -> Path:
    """Photographs as people have them; what they are called does not tell anything."""
    for number, (format, options) in enumerate([("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True})] * 2):
        path = root / ("ant", "bee")[number // 3] / f"{number:03d}.{format.lower()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(photograph(number, 36, 40), format, **options))
    (root / "ant" / "006.jpg").write_bytes(encode(PIL.Image.fromarray(photograph(6, 36, 40)).convert("CMYK"), "JPEG"))
    return root


def test_what_auto_writes_of_several_formats_is_published(tmp_path):
    source, out, key_file = folder_of_several_formats(tmp_path / "in"), tmp_path / "out", save_key(tmp_path / "k.key")
    options = ("--format", "auto", "--convert", "--max-side", "32")
    assert main(["protect", str(source), str(out), "--key", str(key_file), *options]) == 0
    checked = publish(out, tmp_path / "ready", original=str(source)).checked
    assert (checked.formats, checked.counts) == (["JPEG", "PNG", "WebP"], {"protected": 7})
    restored = unlock_source(out, tmp_path / "back", ut.CUDAPoison(key=key()), clean=source)
    assert "compared with 7 clean pictures" in restored[-1]


def test_formats_tell_which_are_protected_where_some_are_not(tmp_path):
    """Those left clean could be all of one format; within a format all files are written alike in any case."""
    source, out = folder_of_several_formats(tmp_path / "in"), tmp_path / "out"
    poison = ut.CUDAPoison(key=key())
    protect_source(source, out, poison, codec=Codec("auto"), fraction=0.5, convert=True)
    with pytest.raises(LeakError, match=r"mixed encodings.*--format png"):
        publish(out, tmp_path / "ready", poison, allow_partial=True)
    protect_source(source, tmp_path / "all", poison, codec=Codec("auto"), convert=True)
    other = tmp_path / "all" / "ant" / "001.png"
    other.write_bytes(encode(decode(other.read_bytes()), compress_level=9))
    with pytest.raises(LeakError, match="mixed encodings"):
        publish(tmp_path / "all", tmp_path / "ready", poison)


# ---- the one packet --------------------------------------------------------------------------------------------------

CREDIT = Credit("ai-training", ("Ann Lee",), "(c) Ann Lee, https://example.org/terms")
IMAGE = PIL.Image.fromarray(pixels(9, 8, 3))


def with_packets(format: str, *packets: bytes) -> bytes:
    """A file with these XMP packets, one behind the other."""
    data = Codec(format).encode(IMAGE, packets[0])
    for packet in packets[1:]:
        other = Codec(format).encode(IMAGE, packet)
        if format == "png":
            start, end = other.index(b"iTXt") - 4, other.index(b"IDAT") - 4
            data = data[:start] + other[start:end] + data[start:]
        elif format == "jpeg":
            start = other.index(b"\xff\xe1")
            data = data[:2] + other[start : start + 2 + int.from_bytes(other[start + 2 : start + 4], "big")] + data[2:]
        else:
            data += other[other.index(b"XMP ") :]
            data = data[:4] + (len(data) - 8).to_bytes(4, "little") + data[8:]
    return data


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_one_exact_packet_passes_and_nothing_else(format):
    packet = build(CREDIT)
    found = read_encoding(with_packets(format, packet))
    assert (found.foreign, found.credit) == ([], CREDIT)
    assert list(encoding_leaks(found, additive=False)) == []
    name = "text" if format == "png" else "XMP"
    changed = packet.replace(b"</rdf:Description>", b"<dc:source>x</dc:source></rdf:Description>")
    assert read_encoding(with_packets(format, changed)).foreign == [name]
    assert read_encoding(with_packets(format, packet + b" ")).foreign == [name]
    for second in (packet, changed):
        assert read_encoding(with_packets(format, packet, second)).foreign == [name]


def test_a_packet_in_other_clothes_is_foreign():
    info, text = PngInfo(), build(CREDIT).decode()
    info.add_itxt("XML:com.adobe.xmp", text, zip=True)
    assert read_encoding(encode(IMAGE, "PNG", pnginfo=info)).foreign == ["text"]
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", text, lang="de")
    assert read_encoding(encode(IMAGE, "PNG", pnginfo=info)).foreign == ["text"]
    info = PngInfo()
    info.add_text("XML:com.adobe.xmp", text.encode())
    assert read_encoding(encode(IMAGE, "PNG", pnginfo=info)).foreign == ["text"]
    assert read_encoding(encode(IMAGE, "JPEG", exif=exif(), xmp=build(CREDIT))).foreign == ["EXIF"]
    assert read_encoding(encode(IMAGE, "WEBP", exif=exif(), xmp=build(CREDIT))).foreign == ["EXIF"]


def test_paths_and_names_in_a_packet_are_leaks():
    for text, check in (("/home/ann/photos", "local path"), ("IMG_1.jpg", "telling name")):
        found = read_encoding(with_packets("png", build(Credit(creator=(text,)))))
        assert [leak[0] for leak in encoding_leaks(found, additive=False)] == [check]


def test_some_images_with_a_packet_and_others_without():
    """It may say which are protected. The fields themselves may differ."""
    for format in ("png", "webp", "jpeg"):
        one, two = (read_encoding(with_packets(format, build(credit))).traces for credit in (CREDIT, Credit()))
        none = read_encoding(Codec(format).encode(IMAGE)).traces
        assert mixed_leak({one: [1], two: [2]}) is None
        assert mixed_leak({one: [1, 2], none: [3]})[1] == (3,)
        grey = read_encoding(Codec(format).encode(IMAGE.convert("L"), build(CREDIT))).traces
        assert mixed_leak({one: [1, 2], grey: [3]}) is None


def test_a_folder_with_packets_is_published(tmp_path):
    folder = protected_folder(tmp_path, "--opt-out", "--creator", "Ann Lee")
    assert publish(folder, tmp_path / "out").checked.counts == {"protected": 6}
    (image,) = (tmp_path / "out").rglob("000.png")
    assert read_encoding(image.read_bytes()).credit == Credit("ai-training", ("Ann Lee",))
    other = folder / "ant" / "000.png"
    other.write_bytes(Codec().encode(decode(other.read_bytes()), build(CREDIT) + b" "))
    with pytest.raises(LeakError, match=r"metadata: ant/000\.png: the file holds text"):
        publish(folder, tmp_path / "again")


def test_packets_in_the_images_of_a_table(tmp_path):
    clean_set().to_parquet(str(tmp_path / "clean.parquet"))
    poison = ut.CUDAPoison(key=key())
    protect_source(tmp_path / "clean.parquet", tmp_path / "protected", poison, codec=Codec(credit=CREDIT))
    table = load_dataset("parquet", data_dir=str(tmp_path / "protected"), split="train")
    data = [row["bytes"] for row in stored(table)]
    assert [read_encoding(image).credit for image in data] == [CREDIT] * 12
    assert publish(tmp_path / "protected", tmp_path / "out", poison).checked.counts == {"protected": 12}
    changed = Codec().encode(decode(data[3]), build(CREDIT).replace(b"Ann", b"<dc:x/>Ann"))
    with pytest.raises(LeakError, match="metadata: train row 3: the file holds text"):
        publish(with_picture(table, 3, changed), tmp_path / "again", poison)
