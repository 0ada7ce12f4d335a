"""croissant.json: valid, the same pixels through its own loader, and nothing in it that the set does not say."""

import json
from pathlib import Path

import mlcroissant
import numpy as np
import pytest
from conftest import encode, image_set, stored
from datasets import ClassLabel, Dataset, Features, Image, Value
from planted import with_test
from publications import CLASSES, FEATURES, ROWS, clean_set, key, pictures, protected_folder, publish

import unlearnable_transforms as ut
from unlearnable_transforms.publishing.croissant import EXPECTED, method_text, prohibits_training
from unlearnable_transforms.publishing.manifest import verify


def described(folder: Path) -> mlcroissant.Dataset:
    """The set of a folder as mlcroissant reads it, without a word to say against it."""
    found = mlcroissant.Dataset(str(folder / "croissant.json"), mapping={"repository": str(folder)})
    assert found.metadata.ctx.issues.report() == ""
    return found


def pixels_of(found: mlcroissant.Dataset, split: str) -> list[list]:
    return [np.asarray(record[f"{split}/image"].convert("RGB")).tolist() for record in found.records(split)]


def json_of(folder: Path) -> dict:
    return json.loads((folder / "croissant.json").read_text())


@pytest.fixture
def protected() -> Dataset:
    return ut.protect(clean_set(), ut.CUDAPoison(key=key()))


def test_tables_load_with_the_same_pixels_and_labels(tmp_path, protected):
    both = with_test(protected, pictures(3, first=50))
    found = described(publish(both, tmp_path / "out", description="Ants & bees", contact="Ann").folder)
    for split in ("train", "test"):
        assert pixels_of(found, split) == [np.asarray(image.convert("RGB")).tolist() for image in both[split]["image"]]
        assert [record[f"{split}/label"] for record in found.records(split)] == both[split]["label"][:]
    assert [record["classes/name"] for record in found.records("classes")] == CLASSES


def test_several_files_of_a_split_are_one(tmp_path, protected, monkeypatch):
    monkeypatch.setattr("unlearnable_transforms.data.table.SHARD_BYTES", 3000)
    folder = publish(protected, tmp_path / "out").folder
    assert len(list(folder.glob("data/*.parquet"))) > 2
    assert pixels_of(described(folder), "train") == [np.asarray(image).tolist() for image in protected["image"]]
    assert verify(folder).exit_code == 0


@pytest.mark.parametrize("format", ["png", "jpeg"])
def test_folders_load_with_the_same_pixels_and_class_names(tmp_path, format):
    source = protected_folder(tmp_path, "--format", format)
    found = described(publish(source, tmp_path / "out").folder)
    paths = sorted(path for path in source.rglob("*.*") if path.suffix in (".png", ".jpg"))
    from PIL import Image as Pillow

    assert pixels_of(found, "train") == [np.asarray(Pillow.open(path).convert("RGB")).tolist() for path in paths]
    assert [record["train/label"].decode() for record in found.records("train")] == [path.parent.name for path in paths]


@pytest.mark.parametrize(
    ("labels", "feature", "first"),
    [([3, 1, 0] * 4, Value("int64"), 3), (["é", "b c", "a"] * 4, Value("string"), b"\xc3\xa9")],
)
def test_labels_without_a_list_of_classes(tmp_path, labels, feature, first):
    features = Features({"image": Image(), "label": feature})
    data = ut.protect(image_set([encode(p) for p in pictures()], labels, features), ut.CUDAPoison(key=key()))
    found = described(publish(data, tmp_path / "out").folder)
    assert next(iter(found.records("train")))["train/label"] == first


def test_what_it_says_of_the_protection(tmp_path, protected):
    folder = publish(protected, tmp_path / "out", license="mit", description="Ants", contact="Ann").folder
    metadata = described(folder).metadata
    assert metadata.conforms_to == ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
    assert (metadata.description, metadata.license) == ("Ants", ["mit"])
    assert EXPECTED in metadata.data_manipulation_protocol
    assert key().fingerprint in metadata.data_manipulation_protocol
    assert any("Not for training" in text for text in metadata.data_use_cases)
    assert metadata.data_release_maintenance_plan.endswith("Ann")
    raw = json_of(folder)
    assert raw["rai:dataManipulationProtocol"] == metadata.data_manipulation_protocol  # the specification's own name
    assert raw["usageInfo"]["odrl:prohibition"]["odrl:constraint"]["odrl:rightOperand"][1] == "cawg.ai_training"
    checksums = {f["name"]: f["sha256"] for f in raw["distribution"] if f["@type"] == "cr:FileObject"}
    manifest = json.loads((folder / "protection.json").read_text())
    assert {name: known["sha256"] for name, known in manifest["files"].items() if name in checksums} == {
        name: value for name, value in checksums.items() if name != "repository"
    }
    assert set(manifest["files"]) - set(checksums) == {"README.md", "croissant.json"}


def test_without_an_opt_out_nothing_is_prohibited(tmp_path, protected):
    raw = json_of(publish(protected, tmp_path / "out", opt_out=False).folder)
    assert "usageInfo" not in raw
    assert not prohibits_training(raw)
    assert prohibits_training(json_of(publish(protected, tmp_path / "other").folder))


def test_text_of_others_is_text(tmp_path):
    evil = ["<script>", 'a","b":"\n\n', "\x1b[2J\u202e"]
    features = Features({"image": Image(), "label": ClassLabel(names=evil)})
    data = image_set([encode(p) for p in pictures()], [row % 3 for row in range(ROWS)], features)
    poison = ut.CUDAPoison(key=key(), classes=evil)
    folder = publish(ut.protect(data, poison), tmp_path / "out", poison, description=evil[2], contact=evil[1]).folder
    assert [record["classes/name"] for record in described(folder).records("classes")] == evil
    assert json_of(folder)["description"] == r"\x1b[2J\u202e"
    assert verify(folder).leaks == []


def test_methods_are_named_with_their_strength():
    poison = ut.Chain([ut.CUDAPoison(key=key(), strength="strong"), ut.SEMPoison(key=key(), eps=8 / 255)])
    config = json.loads(json.dumps(poison.public_config()))
    told = method_text(config["method"], config["version"], config["arguments"])
    assert told.startswith(f"cuda (version {ut.CUDAPoison.version}, strength strong) > sem (version ")
    assert "eps 8/255" in told


@pytest.mark.parametrize(
    ("described", "prohibited"),
    [
        ({"usageInfo": {"odrl:prohibition": [{"odrl:action": {"@id": "odrl:use"}}]}}, True),
        ({"usageInfo": {"http://www.w3.org/ns/odrl/2/prohibition": {"a": "cawg.ai_training"}}}, True),
        (
            {"usageInfo": {"odrl:prohibition": {"odrl:constraint": {"odrl:leftOperand": "odrl:purpose", "x": "sale"}}}},
            False,
        ),
        ({"usageInfo": {"odrl:permission": {"odrl:action": "train"}}}, False),
        ([], False),
        ({"usageInfo": "ask"}, False),
    ],
)
def test_prohibitions_of_others(described, prohibited):
    assert prohibits_training(described) == prohibited


def test_the_same_set_gives_the_same_file(tmp_path, protected):
    first, second = (publish(protected, tmp_path / name).folder for name in "ab")
    assert json_of(first) == json_of(second)
    assert stored(protected)
    assert FEATURES
