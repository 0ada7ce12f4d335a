"""UC: noise of each cluster that leads whatever an image shows to the next cluster; secret classes."""

import numpy as np
import pytest
import torch
from conftest import KEY, SECRET, encode, image_set
from PIL import Image
from sklearn.datasets import load_digits

import unlearnable_transforms as ut
from unlearnable_transforms import Key, UCPoison
from unlearnable_transforms.noise.pictures import Pictures, Source
from unlearnable_transforms.poisons import optimised

pytestmark = pytest.mark.filterwarnings("ignore::unlearnable_transforms.FitWarning")


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """120 digits of 16 x 16 px, uint8 (N, H, W, 3), neither black nor white, and their labels."""
    data = load_digits()
    images = np.kron(data.images[:120] * 120 / 16 + 60, np.ones((2, 2))).astype(np.uint8)
    return np.repeat(images[..., None], 3, axis=3), data.target[:120]


def uc(key: Key = KEY, **more) -> UCPoison:
    arguments = {"surrogates": ["tiny-weights"], "work_size": 16, "steps": 12, "batch_size": 30, "augment": "none"}
    return UCPoison(key, **{**arguments, **more})


def surrogate_of(poison, data):
    """The surrogate that a fit left."""
    surrogate = poison._surrogate(Pictures(Source(data), (16, 16)), poison.settings_for(16))
    surrogate.load(poison._entry().surrogate())
    for model in surrogate.models:
        model.net.eval()
    return surrogate


def patterns(images: np.ndarray, labels, poison) -> list[np.ndarray]:
    """The noise of each class, int (H, W, 3): all images of a class have the same."""
    delta, found = poison.apply(images, labels).astype(int) - images, []
    for label in sorted(set(labels)):
        of_class = delta[np.asarray(labels) == label]
        assert (of_class == of_class[0]).all()
        found.append(of_class[0])
    return found


def distances(model, pixels: np.ndarray, loss: str) -> torch.Tensor:
    """How far images are from each class by a loss, (B, classes)."""
    mean, std, centres = (model.net.get_buffer(name) for name in ("feature_mean", "feature_std", "class_features"))
    with torch.no_grad():
        z = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        features, logits = model.features(z), model(z)
    if loss == "logits":
        return -logits.log_softmax(1)
    if loss == "features":
        return ((features - mean) / std - centres[:, None]).square().mean(2).T
    wanted, seen = (centres * std + mean).softmax(1)[:, None], features.softmax(1)
    return (wanted * (wanted / seen).log()).sum(2).T


@pytest.mark.parametrize("loss", ["logits", "divergence", "features"])
def test_the_noise_of_a_cluster_leads_every_image_to_the_next_cluster(digits, loss):
    images, labels = digits
    poison = uc(loss=loss, steps=60, noise_step_size=2 / 255, eps=16 / 255).fit(digits)
    noise = patterns(images, labels, poison)
    assert 8 < np.abs(noise).max() <= 16
    (model,) = surrogate_of(poison, digits).models
    before = distances(model, images.astype(int), loss).mean(0)
    after = torch.stack([distances(model, images + noise[label], loss).mean(0) for label in range(10)])
    for label in range(10):
        assert after[label, (label + 1) % 10] < before[(label + 1) % 10]
    assert after[range(10), [(label + 1) % 10 for label in range(10)]].mean() < 0.8 * before.mean()


def test_the_surrogates_stay_as_they_start(digits):
    poison = uc(steps=4, surrogates=["tiny-weights", "tiny-weights"]).fit(digits)
    surrogate = surrogate_of(poison, digits)
    fresh = poison._surrogate(surrogate_pictures := Pictures(Source(digits), (16, 16)), poison.settings_for(16))
    optimised.fit_heads(fresh.models, surrogate_pictures, "none", poison._generator("heads"))
    for model, start in zip(surrogate.models, fresh.models, strict=True):
        begun = start.net.state_dict()
        assert all(torch.equal(value, begun[name]) for name, value in model.net.state_dict().items())
    assert poison.report["passes"] * 128 == 2 * 4 * 30


def test_more_clusters_than_a_batch_has_images_go_in_turn(digits):
    """Each of ten classes needs one of the two images of a step: five steps are enough, four are not."""
    images, labels = digits
    assert all(noise.any() for noise in patterns(images, labels, uc(steps=5, batch_size=2).fit(digits)))
    with pytest.raises(ValueError, match="no image was pulled to 2 of 10 classes"):
        uc(steps=4, batch_size=2).fit(digits)


def test_new_images_get_the_noise_of_their_cluster_without_a_new_fit(digits, monkeypatch):
    images, labels = digits
    poison = uc().fit((images[:90], labels[:90]))
    before = patterns(images[:90], labels[:90], poison)
    monkeypatch.setattr(UCPoison, "_lower", None)
    monkeypatch.setattr(optimised, "fit_heads", None)
    poison.extend(digits)
    assert all((noise == known).all() for noise, known in zip(patterns(images, labels, poison), before, strict=True))
    assert poison.report["extended"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": None, "surrogates": ["smallcnn"]}, "UC needs surrogates with weights"),
        ({"loss": "pixels"}, "loss is one of logits, divergence, features, got 'pixels'"),
    ],
)
def test_wrong_arguments_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        uc(**arguments)


# ---- without labels ----


def photographs(count: int) -> list[bytes]:
    """PNG files: light rings on dark ground, and stripes, in turn; no two alike."""
    y, x = np.mgrid[-20:20, -20:20]
    waves = [np.hypot(x, y), x]
    files = []
    for number in range(count):
        image = 128 + 50 * np.sin(waves[number % 2] / 2 + number / 9)
        files.append(encode(np.repeat(image.astype(np.uint8)[..., None], 3, 2)))
    return files


def test_secret_clusters_in_python():
    ds = image_set(photographs(12), [0] * 12).remove_columns("label")
    key = Key.public("secret")
    protected = ut.protect(ds, uc(key), labels="auto", clusters=2)
    assert protected.column_names == ["image"]
    secret = np.array(ut.auto_labels(ds, key, clusters=2))
    delta = np.stack([
        np.asarray(after["image"], int) - np.asarray(before["image"])
        for before, after in zip(ds, protected, strict=True)
    ])  # fmt: skip
    noise = []
    for cluster in (0, 1):
        of_cluster = delta[secret == cluster]
        assert len(of_cluster) == 6
        assert (of_cluster == of_cluster[0]).all()
        noise.append(of_cluster[0])
    assert 0 < np.abs(noise).max() <= 8
    assert (noise[0] != noise[1]).any()


def test_secret_clusters_of_a_flat_folder_that_grows(tmp_path, protect, out):
    files, folder = photographs(10), tmp_path / "photos"
    folder.mkdir()
    for number in range(9):
        (folder / f"{number}.png").write_bytes(files[number])
    method = "uc:surrogates=tiny-weights,work_size=16,steps=12,batch_size=30,augment=none"
    command = ("--method", method, "--labels", "auto", "--clusters", "2")
    assert protect(folder, *command) == 0
    first = {path.name: path.read_bytes() for path in out.rglob("*.png")}
    assert len(first) == 9
    (folder / "9.png").write_bytes(files[9])
    assert protect(folder, *command) == 0
    second = {path.name: path.read_bytes() for path in out.rglob("*.png")}
    assert {name: second[name] for name in first} == first
    delta = [
        np.asarray(Image.open(out / f"{number}.png"), int) - np.asarray(Image.open(folder / f"{number}.png"))
        for number in range(10)
    ]
    secret = ut.auto_labels(image_set(files, [0] * 10), Key(SECRET), clusters=2)
    assert secret in ([0, 1] * 5, [1, 0] * 5)
    for number, noise in enumerate(delta):
        assert (noise == delta[number % 2]).all()
        assert 0 < np.abs(noise).max() <= 8
    assert (delta[0] != delta[1]).any()
