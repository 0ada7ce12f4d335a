"""Ways to leak, planted into a published folder, whose manifest is then made anew: only what `verify` sees is left."""

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from conftest import SECRET, decode, encode
from packets import PACKET, with_packets
from publications import clean_set, key, pictures, publish

import unlearnable_transforms as ut
from unlearnable_transforms.publishing.manifest import write_manifest
from unlearnable_transforms.publishing.own import END
from unlearnable_transforms.publishing.picture import draw
from unlearnable_transforms.publishing.whole import upload_of

AFTER: dict[str, tuple[str, Callable[[Path], None]]] = {}
TABLE = "data/train-00000-of-00001.parquet"


def plant_after(name: str, check: str) -> Callable:
    """Decorator: a way to leak, by the name that it has in the docs, and the check that is to find it."""

    def add(function: Callable[[Path], None]) -> Callable[[Path], None]:
        AFTER[name] = check, function
        return function

    return add


def published(folder: Path) -> Path:
    """A set ready to upload, with words of its publisher."""
    data = ut.protect(clean_set(), ut.CUDAPoison(key=key()))
    return publish(data, folder, description="Ants and bees.", contact="Ann").folder


def relist(folder: Path) -> None:
    """Make the manifest anew, with the key: all checksums and the seal fit again."""
    manifest = json.loads((folder / "protection.json").read_text())
    files = manifest.pop("files")
    del manifest["seal"]
    write_manifest(manifest, folder, list(files), key())


def edit_json(folder: Path, change: Callable[[dict], Any], name: str = "croissant.json") -> None:
    value = json.loads((folder / name).read_text())
    change(value)
    (folder / name).write_text(json.dumps(value))


def edit_card(folder: Path, old: str, new: str) -> None:
    text = (folder / "README.md").read_text()
    assert old in text
    (folder / "README.md").write_text(text.replace(old, new))


def edit_image(folder: Path, data: bytes) -> None:
    """Put another file in the place of the first image of the table."""
    table = pq.read_table(folder / TABLE)
    values = table["image"].to_pylist()
    values[0] = {"bytes": data, "path": None}
    column = pa.array(values, table.schema.field("image").type)
    pq.write_table(table.set_column(0, table.schema.field(0), column), folder / TABLE)


_ORIGINAL = base64.b64encode(encode(pictures()[3][::2, ::2], "JPEG")).decode()


@plant_after("a thumbnail of an original in croissant.json", "description")
def _(folder):
    edit_json(folder, lambda made: made.update(thumbnailUrl=f"data:image/jpeg;base64,{_ORIGINAL}"))


@plant_after("the same, in the description there", "second image")
def _(folder):
    edit_json(folder, lambda made: made.update(description=f"see data:image/jpeg;base64,{_ORIGINAL}"))


@plant_after("a path in the description of croissant.json", "local path")
def _(folder):
    edit_json(folder, lambda made: made.update(description="from /home/ann/clean"))


@plant_after("the key among the limitations of croissant.json", "key")
def _(folder):
    edit_json(folder, lambda made: made["rai:dataLimitations"].append(SECRET.hex()))


@plant_after("a wrong checksum in croissant.json", "description")
def _(folder):
    edit_json(folder, lambda made: made["distribution"][-1].update(sha256="0" * 64))


@plant_after("an address of the originals in croissant.json", "description")
def _(folder):
    edit_json(folder, lambda made: made["distribution"][-1].update(contentUrl="https://example.org/clean.parquet"))


@plant_after("no prohibition in croissant.json, where the manifest has one", "description")
def _(folder):
    edit_json(folder, lambda made: made.pop("usageInfo"))


@plant_after("a limitation left out of croissant.json", "description")
def _(folder):
    edit_json(folder, lambda made: made.update({"rai:dataLimitations": []}))


@plant_after("no consent in the card's metadata", "description")
def _(folder):
    text = (folder / "README.md").read_text()
    (folder / "README.md").write_text(re.sub(r"extra_gated_fields:\n.*\n", "", text))


@plant_after("other data files in the card's metadata", "description")
def _(folder):
    edit_card(folder, "path: data/train-*", "path: hf://datasets/ann/clean/*")


@plant_after("an original in base64 below the card's generated part", "second image")
def _(folder):
    edit_card(folder, END, f"{END}\n\n![](data:image/jpeg;base64,{_ORIGINAL})")


@plant_after("the key in the card", "key")
def _(folder):
    edit_card(folder, "Ants and bees", SECRET.hex())


@plant_after("originals in the card's picture", "clean picture")
def _(folder):
    clean = publish(ut.protect(clean_set(), ut.CUDAPoison(key=key())), folder.parent / "clean").folder
    table = pq.read_table(folder / TABLE)
    values = [{"bytes": encode(image), "path": None} for image in pictures()]
    column = pa.array(values, table.schema.field("image").type)
    pq.write_table(table.set_column(0, table.schema.field(0), column), clean / TABLE)
    upload = upload_of(clean, json.loads((clean / "protection.json").read_text()))
    (folder / ".card.webp").write_bytes(draw(upload))


@plant_after("a path in protection.json", "local path")
def _(folder):
    edit_json(folder, lambda made: made.update(library="/home/ann/library"), "protection.json")


@plant_after("a second packet of XMP in an image of a table", "metadata")
def _(folder):
    first = decode(pq.read_table(folder / TABLE)["image"][0].as_py()["bytes"])
    edit_image(folder, with_packets(first, PACKET, PACKET))


@plant_after("a packet of XMP in one image alone", "mixed encodings")
def _(folder):
    first = decode(pq.read_table(folder / TABLE)["image"][0].as_py()["bytes"])
    edit_image(folder, with_packets(first, PACKET))


@plant_after("an original in the table", "unknown picture")
def _(folder):
    edit_image(folder, encode(pictures()[0], compress_level=1))
