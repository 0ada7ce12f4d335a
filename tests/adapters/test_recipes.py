"""Lightning, accelerate, timm and webdataset: what docs/recipes.md promises beside the code that it runs."""

import json
import pickle

import numpy as np
import pytest
import torch
import yaml
from conftest import SECRET, encode, pixels
from safetensors.torch import save
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

import unlearnable_transforms as ut
from unlearnable_transforms.errors import UsageTypeError

KEY = ut.Key(SECRET)
REFUSED = r"leave keys and poisons out of checkpoints, in Lightning with save_hyperparameters\(ignore="


@pytest.fixture
def poison() -> ut.Poison:
    return ut.CUDAPoison(key=KEY)


@pytest.fixture
def photos(tmp_path):
    for number, image in enumerate(pixels(4, 16, 16, 3)):
        path = tmp_path / "photos" / ("cat", "dog")[number // 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(image))
    return tmp_path / "photos"


def holds_the_key(folder) -> list:
    """Files below a folder that hold the key, as bytes or as text."""
    forms = SECRET, SECRET.hex().encode()
    return [path for path in folder.rglob("*") if path.is_file() and any(form in path.read_bytes() for form in forms)]


def test_a_lightning_checkpoint_with_a_poison_is_refused(tmp_path, monkeypatch, poison):
    lightning = pytest.importorskip("lightning")
    monkeypatch.chdir(tmp_path)

    class Model(lightning.LightningModule):
        def __init__(self, poison, rate=0.1, ignore=()):
            super().__init__()
            self.save_hyperparameters(ignore=["ignore", *ignore])
            self.poison, self.layer = poison, torch.nn.Linear(3, 2)

        def training_step(self, batch, number):
            return self.layer(batch).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.hparams.rate)

    def fit(model):
        logger = lightning.pytorch.loggers.CSVLogger("logs")
        options = {"logger": logger, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", log_every_n_steps=1, **options)
        trainer.fit(model, DataLoader(torch.rand(4, 3)))
        trainer.save_checkpoint("model.ckpt")

    with pytest.raises(UsageTypeError, match=REFUSED):
        fit(Model(poison))
    assert not (tmp_path / "model.ckpt").exists()
    fit(Model(poison, ignore=["poison"]))
    assert torch.load("model.ckpt", weights_only=True)["hyper_parameters"] == {"rate": 0.1}
    assert holds_the_key(tmp_path) == []


@pytest.mark.parametrize("what", ["poison", "key", "chain", "dataset", "loader"])
def test_no_usual_way_of_saving_writes_the_key(tmp_path, poison, photos, what):
    data = ut.ProtectedDataset(ImageFolder(photos), poison)
    chain = ut.Chain([method(key=KEY, classes=[0, 1]) for method in (ut.CUDAPoison, ut.LSPPoison)])
    value = {"poison": poison, "key": KEY, "chain": chain, "dataset": data, "loader": DataLoader(data)}[what]
    path = tmp_path / "saved"
    for write in (torch.save, lambda value, path: path.write_text(yaml.dump(value))):
        with pytest.raises(UsageTypeError, match=REFUSED):
            write({"model": {}, "data": value}, path)
    with pytest.raises(TypeError, match="not JSON serializable"):
        json.dumps({"data": value})
    path.write_bytes(save({"x": torch.zeros(1)}, metadata={"data": str(value), "again": repr(value)}))
    assert holds_the_key(tmp_path) == []
    assert SECRET in pickle.dumps(value)  # as a worker gets it: the page says so


def test_accelerate_saves_its_state_without_the_key(tmp_path, poison, photos):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    data = ut.ProtectedDataset(ImageFolder(photos, transform=np.asarray), poison)
    loader = accelerator.prepare(DataLoader(data, batch_size=2))
    batches = [images.numpy() for images, _ in loader]
    assert (np.concatenate(batches) == poison.apply(pixels(4, 16, 16, 3), [0, 0, 1, 1])).all()
    accelerator.save_state(str(tmp_path / "state"))
    assert holds_the_key(tmp_path) == []
    with pytest.raises(ValueError, match="state_dict"):
        accelerator.register_for_checkpointing(poison)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_transform_of_timms_loader_runs_after_the_poison(poison, photos, workers):
    timm_data = pytest.importorskip("timm.data")
    protected = ut.ProtectedDataset(timm_data.create_dataset("", root=str(photos)), poison)
    options = {"mean": (0, 0, 0), "std": (1, 1, 1), "crop_pct": 1.0, "interpolation": "nearest"}
    loader = timm_data.create_loader(
        protected,
        input_size=(3, 16, 16),
        batch_size=4,
        num_workers=workers,
        persistent_workers=workers > 0,
        use_prefetcher=False,
        **options,
    )
    ((images, labels),) = loader
    levels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert labels.tolist() == [0, 0, 1, 1]
    assert (levels == poison.apply(pixels(4, 16, 16, 3), [0, 0, 1, 1])).all()


def test_webdataset_shards_in_workers(tmp_path, poison):
    webdataset = pytest.importorskip("webdataset")
    images, labels = pixels(4, 16, 16, 3), [0, 0, 1, 1]
    for part in (0, 2):
        with webdataset.TarWriter(str(tmp_path / f"{part:03}.tar")) as writer:
            for row in (part, part + 1):
                writer.write({"__key__": str(row), "png": encode(images[row]), "cls": labels[row]})
    tars = sorted(map(str, tmp_path.glob("*.tar")))
    data = webdataset.WebDataset(tars, shardshuffle=False).decode("pil").to_tuple("png", "cls")
    pairs = list(DataLoader(data.map(lambda pair: poison(*pair)), batch_size=None, num_workers=2))
    assert sorted(label for _, label in pairs) == labels
    truth = {image.tobytes() for image in poison.apply(images, labels)}
    assert {np.asarray(image).tobytes() for image, _ in pairs} == truth
