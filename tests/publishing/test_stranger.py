"""A stranger without a token gets one set by three ways: `load_dataset`, mlcroissant, and a plain download."""

import json
import re
import shutil
import subprocess

import pytest
from conftest import SECRET, run_python
from folders import forms, tree
from loopback import loopback
from publications import clean_set, key, pictures, protected_folder

import unlearnable_transforms as ut
from unlearnable_transforms.publishing.own import split_card

STRANGER = """
import datasets, hashlib, io, json, mlcroissant, numpy as np, pyarrow.parquet as pq
from huggingface_hub import snapshot_download
from pathlib import Path
from PIL import Image

def digests(images):
    return sorted(hashlib.sha256(np.asarray(image.convert("RGB")).tobytes()).hexdigest() for image in images)

folder = Path(snapshot_download("user/name", repo_type="dataset", local_dir=HOME + "/plain"))
described = mlcroissant.Dataset(str(folder / "croissant.json"), mapping={"repository": str(folder)})
files = [path for path in folder.rglob("*") if path.suffix in (".png", ".jpg", ".webp") and path.stem != ".card"]
stored = [row["bytes"] for path in folder.glob("data/*.parquet") for row in pq.read_table(path)["image"].to_pylist()]
print(json.dumps({
    "issues": described.metadata.ctx.issues.report(),
    "hub": digests(datasets.load_dataset("user/name", split="train")["image"]),
    "croissant": digests(record["train/image"] for record in described.records("train")),
    "plain": digests([Image.open(path) for path in files] + [Image.open(io.BytesIO(data)) for data in stored]),
}))
"""


@pytest.mark.parametrize("kind", ["tables", "folder", "jpeg"])
def test_three_ways_give_the_same_pixels(tmp_path, monkeypatch, kind):
    poison = ut.CUDAPoison(key=key())
    options = [] if kind == "folder" else ["--format", "jpeg"]
    said = ["--opt-out", "ai-training", "--creator", "Ann"]
    data = ut.protect(clean_set(), poison) if kind == "tables" else protected_folder(tmp_path, *options, *said)
    with loopback(monkeypatch) as hub:
        ut.publish(
            data, "user/name", poison=poison, originals_public=False, gated="auto", contact="Ann", description="Ants."
        )
        environment = {
            **hub.environment(tmp_path / "home"),
            "HF_TOKEN": "",
            "HF_DATASETS_CACHE": str(tmp_path / "data"),
        }
        code = STRANGER.replace("HOME", repr(str(tmp_path)))
        told = json.loads(run_python(code, timeout=300, **environment).splitlines()[-1])
    assert told["issues"] == ""
    assert told["hub"] == told["croissant"] == told["plain"]
    assert len(told["hub"]) == (12 if kind == "tables" else 6)
    metadata, _ = split_card(hub.repos["user/name"].files()["README.md"].decode())
    assert list(metadata["extra_gated_fields"].values()) == ["checkbox"]
    assert hub.repos["user/name"].gated == "auto"
    assert not any(form in hub.sent for form in forms(SECRET))
    assert str(tmp_path).encode() not in hub.sent
    for image in pictures():
        assert image.tobytes()[: image.shape[1] * 9] not in hub.sent


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="needs exiftool")
@pytest.mark.parametrize(("format", "suffix"), [("png", "png"), ("webp", "webp"), ("jpeg", "jpg")])
def test_exiftool_sees_the_opt_out_of_a_published_image(tmp_path, format, suffix):
    source = protected_folder(tmp_path, "--format", format, "--opt-out", "ai-training", "--creator", "Ann")
    poison = ut.CUDAPoison(key=key())
    out = tmp_path / "out"
    ut.publish(source, "user/name", poison=poison, folder=out, originals_public=False)
    images = [out / name for name in tree(out) if name.endswith(suffix) and not name.startswith(".card")]
    assert len(images) == 6
    shown = subprocess.run(["exiftool", "-j", "-XMP-plus:DataMining", "-XMP-dc:Creator", *images], capture_output=True)
    for told in json.loads(shown.stdout):
        assert re.search("AI/?ML ?TRAINING", told["DataMining"], re.IGNORECASE)  # the value, or its words
        assert told["Creator"] in ("Ann", ["Ann"])
