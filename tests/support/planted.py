"""Ways to leak, planted: each by the name that it has in docs/publish.md, with the check that is to find it."""

import base64
import os
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from certificates import GPS, moved_manifest, sign_otherwise, with_ingredient, with_second, with_thumbnail
from conftest import SECRET, decode, encode, stored
from datasets import Dataset, DatasetDict, Features, Image, Value
from folders import save_key
from packets import PACKET, with_packets
from PIL.PngImagePlugin import PngInfo
from publications import (
    FEATURES,
    ROWS,
    clean_set,
    exif,
    key,
    pictures,
    protected_folder,
    reencoded,
    shrunk,
    with_picture,
)

import unlearnable_transforms as ut
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.publishing.signature import make_signing_key

PLANTS: dict[str, tuple[str, Callable[..., "Planted"]]] = {}


class Planted(NamedTuple):
    """What is published, where the leak is, and with what options."""

    source: Any
    where: str = ""
    options: Mapping[str, Any] = MappingProxyType({})


def plant(name: str, check: str) -> Callable:
    """Decorator: a way to leak, by the name that it has in the docs, and the check that is to find it."""

    def add(function: Callable[..., Planted]) -> Callable[..., Planted]:
        PLANTS[name] = check, function
        return function

    return add


def protected(**options: Any) -> Dataset:
    return ut.protect(clean_set(), ut.CUDAPoison(key=key()), **options)


def with_test(train: Dataset, test: list[np.ndarray]) -> DatasetDict:
    """The set with a test split, rows 0 and 1 of which are harmless."""
    images = [*pictures(2, first=200), *test]
    values = [{"bytes": encode(image), "path": None} for image in images]
    return DatasetDict(
        train=train, test=Dataset.from_dict({"image": values, "label": [0] * len(images)}, features=FEATURES)
    )


def with_column(values: list, feature: Any) -> Dataset:
    """The protected set with one more column."""
    data = protected()
    return Dataset.from_dict(
        {"image": stored(data), "label": data["label"][:], "extra": values},
        features=Features({**data.features, "extra": feature}),
    )


def forget_ledgers() -> None:
    shutil.rmtree(Path(os.environ["UNLEARNABLE_TRANSFORMS_CACHE"], "ledgers"))


# ---- coverage


@plant("a clean row among the protected ones", "clean picture")
def _(tmp_path):
    return Planted(with_picture(protected(), 3, pictures()[3]), "train row 3")


@plant("the same, under another label", "clean picture")
def _(tmp_path):
    return Planted(with_picture(protected(), 3, pictures()[4]), "train row 3")


@plant("the same, without a ledger but with the originals", "clean picture")
def _(tmp_path):
    source = with_picture(protected(), 5, pictures()[5])
    forget_ledgers()
    return Planted(source, "train row 5", {"original": clean_set()})


@plant("a set that was never protected", "clean picture")
def _(tmp_path):
    protected()
    return Planted(clean_set(), "train rows 0, 1, 2, 3, 4 ... (12 in all)")


@plant("a set that was never protected, without a ledger", "not confirmed")
def _(tmp_path):
    return Planted(clean_set())


@plant("the same, under a method that pictures alone do not show", "not confirmed")
def _(tmp_path):
    return Planted(clean_set(), options={"poison": ut.LSPPoison(key=key(), known=[0, 1, 2])})


@plant("a set of another key, without a ledger", "not confirmed")
def _(tmp_path):
    other = ut.protect(clean_set(), ut.CUDAPoison(key=ut.Key.generate()))
    forget_ledgers()
    return Planted(other)


@plant("a row left out", "missing rows")
def _(tmp_path):
    return Planted(protected().select(range(1, ROWS)), "ledger row 0")


@plant("an original that was never protected", "missing rows")
def _(tmp_path):
    return Planted(protected(), "original row 12", {"original": clean_set(ROWS + 1)})


@plant("a row that was changed after protection", "unknown picture")
def _(tmp_path):
    data = protected()
    changed = np.array(data[7]["image"])
    changed[0, 0, 0] ^= 1
    return Planted(with_picture(data, 7, changed), "train row 7")


@plant("a share left clean (fraction)", "partial coverage")
def _(tmp_path):
    with pytest.warns(UserWarning, match="only 50%"):
        return Planted(protected(fraction=0.5), "train rows ")


@plant("a black picture, which filters leave as it is", "partial coverage")
def _(tmp_path):
    with pytest.warns(ut.UnchangedWarning):
        data = ut.protect(with_picture(clean_set(), 2, np.zeros((36, 40, 3), np.uint8)), ut.CUDAPoison(key=key()))
    return Planted(data, "train row 2")


@plant("a training picture, clean, in the test split", "pair")
def _(tmp_path):
    return Planted(with_test(protected(), [pictures()[4]]), "test row 2")


@plant("the same, shrunk and through JPEG", "pair")
def _(tmp_path):
    return Planted(with_test(protected(), [shrunk(pictures()[4])]), "test row 2")


@plant("the same, without a ledger", "pair")
def _(tmp_path):
    source = with_test(protected(), [shrunk(pictures()[4])])
    forget_ledgers()
    return Planted(source, "test row 2")


@plant("a row that points to the original's file", "clean picture")
def _(tmp_path):
    (tmp_path / "8.png").write_bytes(encode(pictures()[8]))
    data, values = protected(), stored(protected())
    values[8] = {"bytes": None, "path": str(tmp_path / "8.png")}
    return Planted(Dataset.from_dict({"image": values, "label": data["label"][:]}, features=FEATURES), "train row 8")


@plant("a lazy transform: the originals are what is stored", "lazy transform")
def _(tmp_path):
    return Planted(clean_set().with_transform(ut.CUDAPoison(key=key())))


# ---- encodings and what is in the files


@plant("one JPEG among PNGs", "mixed encodings")
def _(tmp_path):
    data = protected()
    return Planted(with_picture(data, 9, encode(data[9]["image"], "JPEG", quality=95)), "train row 9")


@plant("one PNG of another encoder's settings", "mixed encodings")
def _(tmp_path):
    data = protected()
    return Planted(with_picture(data, 9, encode(data[9]["image"], compress_level=9)), "train row 9")


@plant("JPEG after a method that adds a small pattern", "lossy")
def _(tmp_path):
    return Planted(reencoded(protected(), "JPEG"), "train rows 0", {"poison": ut.PILPoison(key=key())})


@plant("lossy WebP after such a method", "lossy")
def _(tmp_path):
    return Planted(reencoded(protected(), "WEBP", quality=90), "train rows 0", {"poison": ut.PILPoison(key=key())})


def _file_with(name: str, make: Callable[[Any], bytes], format: str = "PNG") -> None:
    """A plant: all files are of one format, and one of them holds something."""

    @plant(name, "metadata")
    def _(tmp_path):
        data = protected() if format == "PNG" else reencoded(protected(), format)
        return Planted(with_picture(data, 6, make(decode(stored(data)[6]["bytes"]))), "train row 6")


def _text(image: Any) -> bytes:
    info = PngInfo()
    info.add_text("Comment", "CANARY", zip=True)
    return encode(image, compress_level=1, pnginfo=info)


def _second_frame(image: Any) -> bytes:
    return encode(image, compress_level=1, save_all=True, append_images=[image])


def _jfxx(image: Any) -> bytes:
    jpeg = encode(image, "JPEG")
    thumbnail = b"JFXX\0\x10" + encode(pictures()[6][::4, ::4], "JPEG")
    return jpeg[:20] + b"\xff\xe0" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail + jpeg[20:]


_file_with("EXIF with GPS in a PNG", lambda image: encode(image, compress_level=1, exif=exif()))
_file_with(
    "EXIF with a thumbnail in a JPEG", lambda image: encode(image, "JPEG", exif=exif() + encode(image, "JPEG")), "JPEG"
)
_file_with("a JFIF thumbnail", _jfxx, "JPEG")
_file_with("a comment in a JPEG", lambda image: encode(image, "JPEG", comment=b"CANARY"), "JPEG")
_file_with("text in a PNG", _text)
_file_with("XMP in a WebP", lambda image: encode(image, "WEBP", lossless=True, xmp=b"<x:xmpmeta/>"), "WEBP")
_file_with("bytes behind the end of a file", lambda image: encode(image, compress_level=1) + b"CANARY")
_file_with("a further frame in a PNG", _second_frame)


def _c2pa_with(name: str, options: Callable[[bytes], dict[str, Any]], format: str = "PNG") -> None:
    """A plant: a file is signed with C2PA, and its manifest holds more than the opt-out, perhaps of an original."""

    def make(image: Any) -> bytes:
        plain = encode(image, format, **({"compress_level": 1} if format == "PNG" else {}))
        return sign_otherwise(plain, **options(encode(pictures()[6], "JPEG")))

    _file_with(name, make, format)


_c2pa_with("a thumbnail of the original in a C2PA manifest", with_thumbnail)
_c2pa_with("an original as an ingredient of a C2PA manifest", with_ingredient, "JPEG")
_c2pa_with("a path in a C2PA manifest", lambda _: {"change": {"title": "/home/ann/photos/6.png"}})
_c2pa_with("a place in a C2PA manifest", lambda _: {"assertions": (GPS,)}, "JPEG")
_file_with("a second C2PA manifest", lambda image: with_second(sign_otherwise(encode(image, compress_level=1))))
_file_with(
    "a C2PA signature of other pixels",
    lambda image: moved_manifest(encode(image, compress_level=1), encode(pictures()[6])),
)


@plant("the path of the original beside a picture", "local path")
def _(tmp_path):
    values = stored(protected())
    values[1]["path"] = "/home/ann/photos/1.png"
    table = protected().with_format("arrow")[:]
    column = pa.array(values, table.schema.field("image").type)
    (tmp_path / "tables").mkdir()
    pq.write_table(table.set_column(0, table.schema.field(0), column), tmp_path / "tables/train-00000-of-00001.parquet")
    return Planted(tmp_path / "tables", "train row 1")


@plant("a path in a table's own metadata", "local path")
def _(tmp_path):
    table = protected().with_format("arrow")[:]
    (tmp_path / "tables").mkdir()
    path = tmp_path / "tables/train-00000-of-00001.parquet"
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"from": b"/home/ann/clean.parquet"}), path)
    return Planted(tmp_path / "tables", f"data/{path.name}")


@plant("a path in a column's own metadata", "local path")
def _(tmp_path):
    table = protected().with_format("arrow")[:]
    (tmp_path / "tables").mkdir()
    path = tmp_path / "tables/train-00000-of-00001.parquet"
    label = table.schema.field("label").with_metadata({"from": "/home/ann/labels.csv"})
    pq.write_table(pa.table(table.columns, schema=table.schema.set(1, label)), path)
    return Planted(tmp_path / "tables", f"data/{path.name}")


@plant("the name of the original beside a picture", "telling name")
def _(tmp_path):
    data = protected()
    return Planted(with_picture(data, 1, stored(data)[1]["bytes"], "Ann at the lake.png"), "train row 1")


@plant("a telling name that begins with a number", "telling name")
def _(tmp_path):
    data = protected()
    return Planted(with_picture(data, 1, stored(data)[1]["bytes"], "0001.Ann at the lake"), "train row 1")


@plant("a path in the name of a class", "local path")
def _(tmp_path):
    features = Features({"image": Image(), "label": datasets.ClassLabel(names=["/home/ann/clean", "b", "c"])})
    return Planted(protected().cast(features), "data/train-00000-of-00001.parquet")


@plant("a second packet of XMP beside the known one", "metadata")
def _(tmp_path):
    data = protected()
    values = [{"bytes": with_packets(decode(row["bytes"]), PACKET), "path": None} for row in stored(data)]
    values[6]["bytes"] = with_packets(decode(stored(data)[6]["bytes"]), PACKET, PACKET)
    return Planted(Dataset.from_dict({"image": values, "label": data["label"][:]}, features=FEATURES), "train row 6")


@plant("a packet of XMP that differs by one space", "metadata")
def _(tmp_path):
    data = protected()
    packet = PACKET.replace(b"<dc:creator>", b"<dc:creator> ")
    return Planted(with_picture(data, 6, with_packets(decode(stored(data)[6]["bytes"]), packet)), "train row 6")


@plant("a packet with the opt-out in one image alone", "mixed encodings")
def _(tmp_path):
    data = protected()
    return Planted(with_picture(data, 6, with_packets(decode(stored(data)[6]["bytes"]), PACKET)), "train row 6")


# ---- what the publisher says


@plant("a path in the description", "local path")
def _(tmp_path):
    return Planted(protected(), "README.md", {"description": "taken from /home/ann/photos"})


@plant("an original in base64 as the contact", "second image")
def _(tmp_path):
    return Planted(protected(), "croissant.json", {"contact": f"data:image/jpeg;base64,{_IN_TEXT}"})


@plant("the key in the description", "key")
def _(tmp_path):
    return Planted(protected(), "croissant.json", {"description": SECRET.hex()})


@plant("a path in an earlier card", "local path")
def _(tmp_path):
    (tmp_path / "card.md").write_text("# Mine\n\nThe originals are in /home/ann/photos\n")
    return Planted(protected(), "README.md", {"card": tmp_path / "card.md"})


# ---- other columns


def _column_with(name: str, check: str, value: Any, other: Any, feature: Any, where: str = "train row 5") -> None:
    """A plant: one more column, with something in one row."""

    @plant(name, check)
    def _(tmp_path):
        return Planted(with_column([value if row == 5 else other for row in range(ROWS)], feature), where)


_JPEG = encode(pictures()[5], "JPEG")
_IN_TEXT = base64.b64encode(_JPEG).decode()
_column_with("a path in a text column", "local path", "from /home/ann/x", "no", Value("string"))
_column_with("a file's name in a text column", "telling name", "Ann.JPG", "7.jpg", Value("string"))
_column_with("a link to the original", "link", "see https://example.org/1", "", Value("string"))
_column_with("a link to a bucket", "link", "s3://ann/clean", "", Value("string"))
_column_with("a path in a binary column", "local path", b"\xff /home/ann/x", b"", Value("binary"))
_column_with("the key in a text column", "key", f"key={SECRET.hex()}", "", Value("string"))
_IN_BASE64 = base64.b64encode(b"x" + SECRET).decode()
_column_with("the key in base64, inside a struct", "key", {"a": [_IN_BASE64]}, {"a": ["b"]},
             {"a": datasets.Sequence(Value("string"))})  # fmt: skip
_column_with("the key's bytes in a binary column", "key", b"0" + SECRET, b"0", Value("binary"))
_NUMBERS = list(SECRET)
_column_with(
    "the key's bytes as a list of numbers", "key", _NUMBERS, [0], datasets.Sequence(Value("uint8")), "train row "
)
_column_with("the same, as wider numbers", "key", _NUMBERS, [0], datasets.Sequence(Value("int64")), "train row ")
_column_with("the same, written out", "key", str(_NUMBERS), "[0]", Value("string"))


@plant("the signing key in a text column", "key")
def _(tmp_path):
    pytest.importorskip("cryptography")
    make_signing_key(tmp_path / "signing.pem")
    secret = (tmp_path / "signing.pem").read_text().splitlines()[1]
    source = with_column(["a"] * 5 + [secret] + ["a"] * (ROWS - 6), Value("string"))
    return Planted(source, "train row 5", {"signing_key": tmp_path / "signing.pem"})


_column_with("the originals in a second image column", "second image", {"bytes": _JPEG, "path": None},
             {"bytes": _JPEG, "path": None}, Image(), "")  # fmt: skip
_column_with("the originals in a list of images", "second image", [{"bytes": _JPEG, "path": None}], [],
             datasets.Sequence(Image()), "")  # fmt: skip
_column_with("an original's file in a binary column", "second image", _JPEG, b"no", Value("binary"))
_column_with("an original in base64", "second image", base64.b64encode(_JPEG).decode(), "no", Value("string"))
_column_with("an original in base64, inside a text", "second image",
             f"<img src='data:image/jpeg;base64,{base64.b64encode(_JPEG).decode()}'>", "", Value("string"))  # fmt: skip
_column_with("an original's pixels, fewer, in an array column", "second image", pictures()[5][::2, ::2],
             pictures()[5][::2, ::2], datasets.Array3D((18, 20, 3), "uint8"), "")  # fmt: skip
_FLAT = pictures(1)[0].ravel().tolist()
_column_with("an original's pixels in a flat list", "second image", _FLAT, _FLAT, datasets.Sequence(Value("uint8")), "")


@plant("the ledger's columns", "cache")
def _(tmp_path):
    return Planted(with_column([b"1"] * ROWS, Value("binary")).rename_column("extra", "_clean_id"))


# ---- keys


@plant("a public key that was saved and loaded", "public key")
def _(tmp_path):
    poison = ut.CUDAPoison(key=ut.Key.load(ut.Key.public("docs").save(tmp_path / "public.key")))
    return Planted(ut.protect(clean_set(), poison), options={"poison": poison})


@plant("a public key", "public key")
def _(tmp_path):
    poison = ut.CUDAPoison(key=ut.Key.public("demo"))
    return Planted(ut.protect(clean_set(), poison), "", {"poison": poison})


@plant("the key of an earlier release", "key used before")
def _(tmp_path):
    data = protected()
    ut.publish(data, "user/earlier", poison=ut.CUDAPoison(key=key()), folder=tmp_path / "old", originals_public=False)
    return Planted(data)


# ---- folders


def _file_in_folder(name: str, check: str, path: str, data: bytes) -> None:
    """A plant: one more file among the protected pictures."""

    @plant(name, check)
    def _(tmp_path):
        folder = protected_folder(tmp_path)
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(data)
        return Planted(folder, path.split("/")[0] if path.startswith(".") else path)


_file_in_folder("a key file in the folder", "key", "release.txt", b"unlearnable-key-1 00")
_file_in_folder("noise of the cache in the folder", "cache", "00000.safetensors", b"\x10\0\0\0\0\0\0\0{}")
_file_in_folder("the same under another name", "cache", "ant/noise.bin", b"\x10\0\0\0\0\0\0\0" + b'{"noise":{}}')
_file_in_folder("a sidecar with metadata", "stray file", "ant/000.xmp", b"<x:xmpmeta/>")
_file_in_folder("a hidden folder with thumbnails", "stray file", ".thumbnails/1.png", encode(pictures()[0]))
_file_in_folder(
    "a path in metadata.csv", "local path", "metadata.csv", b"file_name,from\nant/000.png,/home/ann/1.jpg\n"
)
_file_in_folder("a link inside metadata.jsonl", "link", "metadata.jsonl",
                b'{"file_name": "ant/000.png", "a": {"b": ["http://x.org/1"]}}')  # fmt: skip
_file_in_folder("a link as a name inside metadata.jsonl", "link", "metadata.jsonl",
                b'{"file_name": "ant/000.png", "a": {"http://x.org/1": 1}}')  # fmt: skip
_file_in_folder("an original under the name of a licence", "stray file", "LICENSE.psd", b"8BPS")
_file_in_folder("the same, as if it were text", "stray file", "licence.txt", encode(pictures()[0]))
_file_in_folder("the key in metadata.csv", "key", "metadata.csv", b"file_name,x\nant/000.png," + SECRET.hex().encode())


@plant("a path in a CSV that names the pictures", "local path")
def _(tmp_path):
    (tmp_path / "photos").mkdir()
    lines = ["id,class,from"]
    for number, picture in enumerate(pictures(4)):
        (tmp_path / "photos" / f"{number:03d}.png").write_bytes(encode(picture))
        lines.append(f"{number:03d},{'ab'[number % 2]},/home/ann/{number}.jpg")
    (tmp_path / "photos" / "train.csv").write_text("\n".join(lines) + "\n")
    save_key(tmp_path / "my.key")
    folders = [str(tmp_path / "photos"), str(tmp_path / "protected")]
    assert main(["protect", *folders, "--key", str(tmp_path / "my.key"), "--workers", "1"]) == 0
    return Planted(tmp_path / "protected", "train.csv")


@plant("a pipe in the folder", "stray file")
def _(tmp_path):
    folder = protected_folder(tmp_path)
    os.mkfifo(folder / "pipe")
    return Planted(folder, "pipe")


_file_in_folder("an original added to the folder", "clean picture", "ant/900.png", encode(pictures()[0]))
_file_in_folder("a picture of another kind", "encoding", "ant/900.gif", encode(pictures()[0], "GIF"))


@plant("the originals' names in a folder", "telling name")
def _(tmp_path):
    return Planted(protected_folder(tmp_path, names="Ann at the lake {}"), "ant/Ann at the lake 0.png")


@plant("the camera's names, dates in them", "telling name")
def _(tmp_path):
    return Planted(protected_folder(tmp_path, names="2024051{}"), "ant/20240510.png")


@plant("telling folders of a tree without classes", "telling name")
def _(tmp_path):
    return Planted(protected_folder(tmp_path, "--label", "Ann"), "ant/000.png", {"label": "Ann"})
