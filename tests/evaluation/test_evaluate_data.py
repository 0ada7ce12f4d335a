"""What ut.evaluate trains and tests on: every kind of set, what is protected before it is resized, and bad input."""

import datasets
import numpy as np
import pytest
import torch
from evaluations import KEY, NEEDED, PARTS, PLAN
from PIL import Image

from unlearnable_transforms import CUDAPoison
from unlearnable_transforms.evaluation.data import common_classes, digest, numbers, read_pictures, to_tensor
from unlearnable_transforms.evaluation.evaluate import evaluate
from unlearnable_transforms.sample import spread


def test_all_kinds_of_sets_are_read_alike(tmp_path):
    images, labels = PARTS["clean"][0][:30], PARTS["clean"][1][:30]
    names = [f"digit {n}" for n in range(10)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    pictures = [Image.fromarray(image) for image in images]
    table = datasets.Dataset.from_dict({"image": pictures, "label": labels.tolist()}, features=features)
    table.to_parquet(tmp_path / "train.parquet")
    table.save_to_disk(tmp_path / "saved")
    sources = [
        table,
        datasets.DatasetDict(train=table, test=table),
        tmp_path / "train.parquet",
        str(tmp_path / "saved"),
        (images, labels),
        (torch.from_numpy(images)[:, None], torch.from_numpy(labels)),
        (pictures, labels.tolist()),
        list(zip(pictures, labels.tolist(), strict=True)),
    ]
    wanted = torch.from_numpy(images)[:, None].expand(-1, 3, -1, -1)
    for source in sources:
        read = read_pictures(source, what="training")
        assert to_tensor(read, 8).equal(wanted)
        assert numbers(read, common_classes(training=read)).tolist() == labels.tolist()
    assert read_pictures(table, what="training").names == names


def test_folders_are_read_and_photographs_resized(tmp_path):
    for label, height, width, value in (("b", 40, 20, 10), ("a", 24, 48, 200)):
        (tmp_path / label).mkdir()
        picture = np.full((height, width, 3), value, np.uint8)
        picture[:, : width // 4] = 0
        picture[: height // 4] = 0
        Image.fromarray(picture).save(tmp_path / label / "x.png")
    read = read_pictures(tmp_path, what="training")
    assert (read.labels, read.names) == ([0, 1], ["a", "b"])
    out = to_tensor(read, 8)
    assert out.shape == (2, 3, 8, 8)
    assert out[0, :, 3:, 1:].eq(200).all()  # 24x48: the middle 24x24, which begins where the dark left quarter ends
    assert out[0, :, 0].eq(0).all()
    assert out[1, :, 1:, 3:].eq(10).all()  # 40x20: the middle 20 rows, which begin where the dark top ends
    assert out[1, :, :, 0].eq(0).all()


def test_pictures_are_protected_before_they_are_resized():
    images = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    labels = [0, 1] * 6
    sets = {"clean": (images, labels), "test": (images, labels), "recipe": PLAN, "progress": False}
    report = evaluate(**sets, poisons=[CUDAPoison(key=KEY)], defenses=["erm"], controls=False, image_size=8)
    protected = read_pictures((CUDAPoison(key=KEY).apply(images, labels), labels), what="training")
    trained_on = {cell["set"]["role"]: cell["data"]["train"] for cell in report.cells}
    assert trained_on["poison"] == digest(to_tensor(protected, 8), torch.tensor(labels))


def test_somebody_elses_protected_set_alone():
    images, labels = PARTS["clean"]
    protected = (CUDAPoison(key=KEY).apply(images, labels), labels)
    report = evaluate(protected=protected, test=PARTS["test"], recipe=PLAN, defenses=["erm", "jpeg"], progress=False)
    assert {cell["set"]["label"] for cell in report.cells} == {"protected"}
    (headline,) = report.tables[0].headlines
    assert headline.entry.protection is None  # there is no clean control


def test_rows_are_spread():
    assert list(spread(10, 4)) == [0, 2, 5, 7]
    assert list(spread(3, 5)) == [0, 1, 2]


def _stream():
    yield {"image": None, "label": 0}


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"clean": _stream()}, TypeError, "materialise"),
        ({"clean": datasets.IterableDataset.from_generator(_stream)}, TypeError, "materialise"),
        ({"clean": (np.zeros((4, 8, 8), np.uint8), [0, 0, 0, 0])}, ValueError, "one label, 0"),
        ({"test": (np.zeros((0, 8, 8), np.uint8), [])}, ValueError, "test set is empty"),
        ({"test": (np.zeros((2, 8, 8), np.uint8), [0, 11])}, ValueError, r"test set has labels \[11\]"),
        ({"test": (np.zeros((2, 8, 8), np.uint8), ["a", "b"])}, ValueError, "does not know"),
        ({"test": (np.zeros((2, 8, 8), np.uint8), [0, -1])}, ValueError, "unlabelled"),
        ({"test": (np.zeros((2, 8, 8), np.float32), [0, 1])}, TypeError, "uint8"),
        ({"test": (np.zeros((2, 8, 8), np.uint8), [0])}, ValueError, "2 images came with 1 labels"),
        ({"clean": None}, ValueError, "nothing to train on"),
        ({"clean": "no/such/folder"}, FileNotFoundError, "no/such/folder"),
        ({"defenses": ["fine-tune"]}, ValueError, "attacker_clean"),
        ({"defenses": ["no-such"]}, KeyError, "no-such"),
        ({"defenses": []}, ValueError, "nothing to compute"),
        ({"victims": ["no-such"]}, KeyError, "no-such"),
        ({"fractions": [1.5], "poisons": [CUDAPoison(key=KEY)]}, ValueError, "between 0 and 1"),
        ({"poisons": [CUDAPoison(key=KEY), CUDAPoison(key=KEY, blur=0.1)]}, ValueError, "one name"),
    ],
)
def test_bad_input(change, kind, message):
    arguments = {**NEEDED, "defenses": ["erm"], **change}
    with pytest.raises(kind, match=message):
        evaluate(**arguments)


def test_class_names_must_agree():
    def named(names):
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
        pictures = [Image.fromarray(np.full((8, 8), 9 * n, np.uint8)) for n in range(4)]
        return datasets.Dataset.from_dict({"image": pictures, "label": [0, 1, 0, 1]}, features=features)

    with pytest.raises(ValueError, match="different things"):
        evaluate(clean=named(["cat", "dog"]), test=named(["dog", "cat"]), recipe=PLAN, progress=False)


def test_sizes_that_differ_need_an_image_size():
    pictures = [Image.new("RGB", (10 + n, 12)) for n in range(4)]
    with pytest.raises(ValueError, match="image_size="):
        evaluate(clean=(pictures, [0, 1, 0, 1]), test=(pictures, [0, 1, 0, 1]), recipe=PLAN, progress=False)
