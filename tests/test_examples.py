"""The examples on sets that look like those of the Hub which they name: columns, features, files, grey and mixed sizes.

On digits, as they are, they run in .ci/run.
"""

import importlib
import json
import sys
import warnings
from dataclasses import replace
from functools import partial
from types import ModuleType

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, encode, image_set, pixels
from evaluations import PLAN
from loopback import Repo, loopback
from PIL import Image

import unlearnable_transforms as ut
from unlearnable_transforms.data.columns import find_columns
from unlearnable_transforms.evaluation.columns import make_defense
from unlearnable_transforms.evaluation.data import read_pictures
from unlearnable_transforms.evaluation.recipes import get_plan
from unlearnable_transforms.evaluation.sets import fitted
from unlearnable_transforms.pixels import ssim

pytestmark = pytest.mark.filterwarnings("ignore::unlearnable_transforms.FitWarning")  # of so few pictures
SIZES = {"cifar10": 32, "cifar100": 32, "tiny-imagenet": 64, "imagenet-100": None}  # None: mixed; smaller here
CLASSES = {"cifar10": 10, "cifar100": 100, "tiny-imagenet": 200, "imagenet-100": 100}
TESTS = {"cifar10": "test", "cifar100": "test", "tiny-imagenet": "valid", "imagenet-100": "validation"}
ROWS = 16


def standin(name: str) -> datasets.DatasetDict:
    """A few made-up pictures with the columns, features, encoding and splits of a set of the Hub."""
    cifar = name.startswith("cifar")
    labels = {"fine_label": 100, "coarse_label": 20} if name == "cifar100" else {"label": CLASSES[name]}
    features = {"img" if cifar else "image": datasets.Image()}
    features |= {
        label: datasets.ClassLabel(names=[f"{label} {n}" for n in range(count)]) for label, count in labels.items()
    }
    splits = {}
    for seed, split in enumerate(("train", TESTS[name])):
        images = []
        for row in range(ROWS):
            height, width = (SIZES[name],) * 2 if SIZES[name] else (80 + 20 * (row % 3 == 1), 80 + 27 * (row % 3 == 2))
            shape = (height, width) if not cifar and row % 8 == 2 else (height, width, 3)
            coarse = pixels(*shape, seed=100 * seed + row)[::8, ::8].repeat(8, 0).repeat(8, 1)
            data = encode(coarse[:height, :width], "PNG" if cifar else "JPEG")
            images.append({"bytes": data, "path": f"{row}.png"})
        columns = {label: [row % 4 for row in range(ROWS)] for label in labels}
        columns = {next(iter(features)): images, **columns}
        splits[split] = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    return datasets.DatasetDict(splits)


@pytest.fixture
def example(monkeypatch):
    """Import an example; the sets of the Hub are stand-ins."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    before = set(sys.modules)
    samples = importlib.import_module("samples")
    names = {repo: name for name, repo in samples.HUB.items()}
    monkeypatch.setattr(samples, "load_dataset", lambda repo: standin(names[repo]))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(ROOT / "examples") in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.fixture
def small_studies(monkeypatch):
    """Trainings and fits of seconds: one epoch, one key, plain training alone."""
    evaluate, get_poison, reports = ut.evaluate, ut.get_poison, []

    def small(**arguments):
        poisons = arguments.pop("poisons")
        assert [make_defense(name, get_plan(arguments["recipe"])) for name in arguments["defenses"]]
        if isinstance(poisons, dict):
            poisons = {name: poison for name, poison in poisons.items() if name.endswith("-0")}
        arguments |= {
            "recipe": replace(PLAN, recipe=replace(PLAN.recipe, epochs=1)),
            "defenses": arguments["defenses"][:1],
            "seeds": [0],
            "progress": False,
        }
        reports.append(evaluate(**arguments, poisons=poisons))
        return reports[-1]

    monkeypatch.setattr(ut, "evaluate", small)
    monkeypatch.setattr(
        ut, "get_poison", lambda name: partial(get_poison(name), **TINY if name in ("sem", "em") else {})
    )
    return reports


# ---- the sets


@pytest.mark.parametrize("name", SIZES)
def test_a_set_and_its_columns(example, name):
    samples = example("samples")
    train, test = samples.load(name)
    assert len(train) == len(test) == ROWS
    assert train.features == test.features
    image, label = samples.columns(train)
    assert isinstance(train.features[image], datasets.Image)
    assert train.features[label].num_classes == CLASSES[name]
    assert find_columns(train.column_names) == (image, label)  # the poisons choose the same


def test_a_misspelt_set_is_told(example):
    with pytest.raises(SystemExit, match=r"cifar-10.*digits, cifar10"):
        example("samples").load("cifar-10")


def test_a_set_comes_from_the_hub(example, monkeypatch, tmp_path):
    """By `load_dataset` itself, from files that are called as Tiny-ImageNet's are."""
    samples, made = example("samples"), standin("tiny-imagenet")
    monkeypatch.setattr(samples, "load_dataset", datasets.load_dataset)
    files = {}
    for split, rows in made.items():
        rows.to_parquet(tmp_path / "rows.parquet")
        files[f"data/{split}-00000-of-00001-1359597a978bc4fa.parquet"] = (tmp_path / "rows.parquet").read_bytes()
    with loopback(monkeypatch) as server:
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.url)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))  # not the user's own
        server.repos["zh-plus/tiny-imagenet"] = Repo()
        server.repos["zh-plus/tiny-imagenet"].commit("main", files, None)
        found = samples.load("tiny-imagenet")
    assert (tmp_path / "hub").exists()
    for one, other in zip(found, made.values(), strict=True):
        assert one.features == other.features
        assert (np.asarray(one[2]["image"]) == np.asarray(other[2]["image"])).all()


# ---- the examples


@pytest.mark.parametrize("name", SIZES)
def test_datasets_map(example, name, capsys):
    example("datasets_map").main(name)
    *described, clean, protected = capsys.readouterr().out.splitlines()
    assert f"num_rows: {ROWS}" in "".join(described)
    assert ("coarse_label" in "".join(described)) == (name == "cifar100")
    assert clean.split()[1:] != protected.split()[1:]


@pytest.mark.parametrize("name", ["cifar100", "tiny-imagenet", "imagenet-100"])
def test_map_learnt_noise(example, name, capsys, monkeypatch):
    module = example("map_learnt_noise")
    monkeypatch.setattr(module, "SEMPoison", partial(ut.SEMPoison, **TINY))
    module.main(name)
    printed = capsys.readouterr().out
    assert f"num_rows: {ROWS}" in printed
    assert "changes the first picture by at most 8" in printed
    assert "the same from the cache: True" in printed


@pytest.mark.parametrize("name", ["cifar100", "imagenet-100"])
def test_torchvision_dataloader(example, name, capsys):
    example("torchvision_dataloader").main(name)
    assert capsys.readouterr().out.startswith(f"({ROWS}, 3, 32, 32) torch.float32 [")


@pytest.mark.parametrize("name", SIZES)
def test_albumentations_pipeline(example, name, capsys):
    pytest.importorskip("albumentations", reason="needs albumentations")
    example("albumentations_pipeline").main(name)
    *shapes, described = capsys.readouterr().out.splitlines()
    assert shapes == [f"(32, 32, 3) {label}" for label in range(4)]
    assert "key_fingerprint" in described


@pytest.mark.parametrize("name", ["cifar100", "imagenet-100"])
def test_publish_dataset(example, name, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    example("publish_dataset").main(name, "user/name")
    printed = capsys.readouterr().out
    assert printed.startswith("HF_TOKEN is not set")
    assert "coverage: verified with the ledger" in printed
    assert ut.Key.load(tmp_path / "my.key")


def test_publish_to_the_hub(example, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with loopback(monkeypatch) as server:
        example("publish_dataset").main("cifar100", "user/name")
    assert f"Look at {server.url}/datasets/user/name" in capsys.readouterr().out
    assert server.repos["user/name"].visibility == "private"
    (table,) = [data for path, data in server.repos["user/name"].files().items() if path.endswith(".parquet")]
    (tmp_path / "found.parquet").write_bytes(table)
    found, clean = datasets.Dataset.from_parquet(str(tmp_path / "found.parquet")), standin("cifar100")["train"]
    assert found.features == clean.features
    poison = ut.CUDAPoison(key=ut.Key.load(tmp_path / "my.key").derive("user/name"))
    assert (np.asarray(found[3]["img"]) == np.asarray(poison(clean[3])["img"])).all()


@pytest.mark.parametrize(
    "name", ["cifar100", *(pytest.param(name, marks=pytest.mark.slow) for name in ("tiny-imagenet", "imagenet-100"))]
)
def test_comparison_study(example, name, small_studies, tmp_path):
    example("comparison_study").main(name, str(tmp_path))
    rows = {cell["set"]["label"] for cell in small_studies[0].cells}
    assert {"clean", *(f"{method}, study-0" for method in ("cuda", "lsp", "pil", "sem", "em"))} <= rows
    assert len(rows) == 11  # with the control of each
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize("name", SIZES)
def test_compare_defenses(example, name, small_studies, tmp_path):
    example("compare_defenses").main(name, str(tmp_path))
    assert {cell["set"]["role"] for cell in small_studies[0].cells} == {"clean", "poison", "control"}
    assert {cell["data"]["image_size"] for cell in small_studies[0].cells} == {SIZES[name] or 64}
    assert (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_ray_data(example, monkeypatch, capsys):
    ray = pytest.importorskip("ray", reason="needs ray: pip install 'unlearnable-transforms[ray]'")
    module = example("ray_data")
    monkeypatch.setattr(module.os, "cpu_count", lambda: 1)
    module.main("imagenet-100")
    assert "every row once: True; the pixels of ds.map(poison): True" in capsys.readouterr().out
    assert not ray.is_initialized()


# ---- the tutorials


def test_the_notebooks_agree_with_the_tutorials_and_hold_no_outputs(example, capsys):
    notebooks = example("notebooks")
    assert notebooks.main(write=False) == 0, capsys.readouterr().out
    found = sorted((ROOT / "examples").glob("*.ipynb"))
    assert [path.stem for path in found] == sorted(path.stem for path in (ROOT / "examples").glob("tutorial_*.py"))
    for path in found:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert cells[0]["cell_type"] == "markdown"
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
        code = [compile("".join(cell["source"]), path.name, "exec") for cell in cells if cell["cell_type"] == "code"]
        assert len(code) > 2


def test_a_notebook_that_does_not_agree_is_named(example, monkeypatch, tmp_path, capsys):
    notebooks = example("notebooks")
    monkeypatch.setattr(notebooks, "HERE", tmp_path)
    (tmp_path / "tutorial_a.py").write_text("# %% [markdown]\n# # A title\n#\n# Text\n\n# %%\nx = 1\n\n\ny = 2\n")
    assert notebooks.main(write=False) == 1
    assert "tutorial_a.ipynb" in capsys.readouterr().out
    notebooks.main(write=True)
    assert notebooks.main(write=False) == 0
    text, code = json.loads((tmp_path / "tutorial_a.ipynb").read_text())["cells"]
    assert "".join(text["source"]) == "# A title\n\nText"
    assert "".join(code["source"]) == "x = 1\n\n\ny = 2"


# ---- what they need of the package


def test_measuring_grey_pictures_is_quiet():
    """Decoders give arrays that may not be written to, of which torch warns."""
    grey = pixels(12, 12, 1)
    grey.flags.writeable = False
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert ssim(grey, grey) == pytest.approx(1)
    finally:
        torch.set_warn_always(False)


@pytest.mark.parametrize("shapes", [((16, 16), (16, 16, 3)), ((16, 20, 3), (18, 16, 3))])
def test_evaluating_fits_on_grey_and_mixed_sizes(shapes, key):
    """As a fit on the data set itself does."""
    images = [pixels(*shapes[row % 2], seed=row) for row in range(16)]
    labels = [row // 2 % 2 for row in range(16)]
    poison, other = ut.PILPoison(key=key), ut.PILPoison(key=key)
    fitted(poison, read_pictures((images, labels), what="clean"))
    other.fit(image_set([Image.fromarray(image) for image in images], labels))
    assert poison.noise is not None
    assert poison.noise == other.noise
