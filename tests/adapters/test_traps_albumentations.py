"""Traps of albumentations: what would let a clean, or a wrong, picture out without a word.

Each is shown first where it can be (as people write it), then that the library is not caught in it.
"""

import json
import warnings

import albumentations as A
import numpy as np
import pytest
import torch
from conftest import CLASSES, error_of, pixels
from PIL import Image
from torchvision.transforms import v2

import unlearnable_transforms as ut
from unlearnable_transforms import CUDAPoison, Key, SampleError

IMAGES = pixels(4, 12, 10, 3)
LABELS = [0, 1, 2, 3]


@pytest.fixture
def op(poison):
    return ut.albumentations.Protect(poison)


@pytest.mark.parametrize("p", [0, 0.5, 0.999])
def test_p_below_one_is_refused(poison, p):
    with pytest.raises(ValueError, match=r"leave images unprotected.*fraction="):
        ut.albumentations.Protect(poison, p=p)


def test_p_is_one_by_default(op):
    assert op.p == 1.0
    for _ in range(20):
        assert (op(image=IMAGES[0], label=1)["image"] != IMAGES[0]).any()


def nested(op):
    """A chance hidden below a container that always runs."""
    return A.OneOf([A.Sequential([op], p=1), A.NoOp(p=1)], p=1)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda op: A.Compose([op], p=0.5), r"A.Compose\(p=0.5\)"),
        (lambda op: A.ReplayCompose([op], p=0.5), r"A.ReplayCompose\(p=0.5\)"),
        (lambda op: A.Compose([A.Sequential([op], p=0.9)]), r"A.Sequential\(p=0.9\)"),
        (lambda op: A.Compose([A.Sequential([A.Sequential([op], p=1)])]), r"A.Sequential\(p=0.5\)"),
        (lambda op: A.OneOf([op, A.NoOp(p=1)], p=1), "A.OneOf"),
        (lambda op: A.SomeOf([op, A.NoOp(p=1)], n=1), "A.SomeOf"),
        (lambda op: A.RandomOrder([op, A.NoOp(p=1)], n=1), "A.RandomOrder"),
        (lambda op: A.OneOrOther(op, A.NoOp(p=1), p=1), "A.OneOrOther"),
        (lambda op: A.SelectiveChannelTransform([op]), "A.SelectiveChannelTransform"),
        (nested, "A.OneOf"),
    ],
)
def test_containers_that_run_the_op_only_sometimes_are_refused(op, make, name):
    with pytest.raises(ValueError, match=rf"{name} would leave images unprotected at random.*fraction="):
        make(op)


def test_a_chance_that_comes_later_is_refused(op, poison):
    with pytest.raises(ValueError, match=r"p=0\.5 would leave images unprotected"):
        op.p = 0.5
    assert op.p == 1.0
    pipeline = A.Compose([A.Sequential([op], p=1)])
    pipeline.transforms[0].p = 0.999
    with pytest.raises(ValueError, match=r"A.Sequential\(p=0.999\)"):
        pipeline(image=IMAGES[0], label=1)
    late = A.OneOf([A.NoOp(p=1)], p=1)
    late.transforms[0] = op
    with pytest.raises(ValueError, match=r"A\.OneOf"):
        late(image=IMAGES[0], label=1)
    pipeline.transforms[0].p = 1
    assert pipeline(image=IMAGES[0], label=1)["image"].tolist() == poison(IMAGES[0], 1)[0].tolist()


def test_a_replay_asks_for_the_label_of_the_image_at_hand(tmp_path, monkeypatch, poison):
    monkeypatch.setenv("UNLEARNABLE_KEY_FILE", str(poison.key.save(tmp_path / "a.key")))
    pipeline = A.ReplayCompose([ut.albumentations.Protect(poison), A.HorizontalFlip(p=1)])
    recorded = pipeline(image=IMAGES[0], label=0)["replay"]
    flipped = poison(IMAGES[1], 3)[0][:, ::-1].tolist()
    assert A.ReplayCompose.replay(recorded, image=IMAGES[1], label=3)["image"].tolist() == flipped
    with pytest.raises(ValueError, match="label"):
        A.ReplayCompose.replay(recorded, image=IMAGES[1])
    recorded["transforms"][0]["applied"] = False
    assert A.ReplayCompose.replay(recorded, image=IMAGES[1], label=3)["image"].tolist() == flipped


def test_a_poison_is_no_op(poison):
    with pytest.raises(AttributeError, match=r"A.Compose\(\[ut.albumentations.Protect\(poison\)\]\)"):
        A.Compose([poison])
    assert not hasattr(poison, "available_keys")


@pytest.mark.parametrize("pack", [list, tuple, np.array, torch.tensor], ids=lambda pack: pack.__name__)
def test_images_get_a_label_each(op, poison, pack):
    """A plain op would be called once a picture with the labels of all."""
    labels = pack([3, 0, 3, 1])
    result = A.Compose([op])(images=IMAGES, label=labels)
    assert result["images"].tolist() == poison.apply(IMAGES, [3, 0, 3, 1]).tolist()
    assert list(result["label"]) == list(labels)


def test_images_with_one_label_for_all_are_refused(op):
    with pytest.raises(TypeError, match="a batch of labels, not int"):
        A.Compose([op])(images=IMAGES, label=1)
    with pytest.raises(SampleError, match="4 images came with 2 labels"):
        A.Compose([op])(images=IMAGES, label=[1, 2])


def test_a_missing_label_is_refused(op, poison):
    for pipeline in (op, A.Compose([op])):
        with pytest.raises((ValueError, KeyError), match="label"):
            pipeline(image=IMAGES[0])
    named = ut.albumentations.Protect(poison, label_key="species")
    with pytest.raises((ValueError, KeyError), match="species"):
        A.Compose([named])(image=IMAGES[0])
    result = A.Compose([named], strict=True)(image=IMAGES[0], species=1)
    assert result["image"].tolist() == poison(IMAGES[0], 1)[0].tolist()


@pytest.mark.parametrize(
    ("image", "label", "kind", "message"),
    [
        (IMAGES[0].astype(np.float32) / 255, 1, TypeError, "not uint8"),
        (IMAGES[0], -1, ValueError, "unlabelled"),
        (IMAGES[0], [0.5, 0.5], TypeError, "before MixUp"),
        (IMAGES[0], True, TypeError, "bool"),
    ],
    ids=["float", "unlabelled", "soft", "bool"],
)
def test_albumentations_refuses_what_cannot_be_protected(op, image, label, kind, message):
    with pytest.raises(kind, match=message):
        A.Compose([op])(image=image, label=label)


def test_the_callers_array_is_not_changed(op):
    for shape in ((12, 10, 3), (12, 10), (12, 10, 1)):
        image = pixels(*shape)
        before = image.copy()
        result = A.Compose([op])(image=image, label=1)["image"]
        assert result.shape == shape
        assert (image == before).all()
        assert (result != before).any()


def test_seeds_do_not_matter(poison):
    truth = poison(IMAGES[0], 1)[0].tolist()
    for seed in (None, 0, 1):
        pipeline = A.Compose([ut.albumentations.Protect(poison)], seed=seed)
        assert [pipeline(image=IMAGES[0], label=1)["image"].tolist() for _ in range(2)] == [truth, truth]


def test_a_second_image_beside_the_first_is_refused(op, poison):
    sample = {"image": IMAGES[0], "label": 1, "original": IMAGES[0]}
    with pytest.raises(ValueError, match=r"\['original'\] hold pictures too"):
        A.Compose([op])(**sample)
    assert (A.Compose([op], additional_targets={"original": "image"})(**sample)["original"] != IMAGES[0]).any()
    named = CUDAPoison(key=poison.key, image_key="image")
    assert (A.Compose([ut.albumentations.Protect(named)])(**sample)["original"] == IMAGES[0]).all()
    assert A.Compose([op])(image=IMAGES[0], label=1, caption="a dog", boxes=[[0, 0, 9, 9]])["caption"] == "a dog"


def test_masks_are_left_alone(op):
    result = A.Compose([op])(image=IMAGES[0], mask=IMAGES[1, :, :, 0], label=1)
    assert (result["mask"] == IMAGES[1, :, :, 0]).all()


def test_to_dict_and_from_dict_without_the_key(tmp_path, monkeypatch):
    key = Key.generate()
    poison = CUDAPoison(key=key, kernel_size=5, blur=0.2, classes=CLASSES)
    pipeline = A.Compose([ut.albumentations.Protect(poison, label_key="y")])
    config = json.loads(json.dumps(A.to_dict(pipeline)))
    text = json.dumps(config)
    assert key._secret.hex() not in text
    assert key.fingerprint in text
    with pytest.raises(ValueError, match=f"set UNLEARNABLE_KEY_FILE to the key file of fingerprint {key.fingerprint}"):
        A.from_dict(config)
    monkeypatch.setenv("UNLEARNABLE_KEY_FILE", str(Key.generate().save(tmp_path / "wrong.key")))
    with pytest.raises(ValueError, match=f"but the pipeline was made with {key.fingerprint}"):
        A.from_dict(config)
    monkeypatch.setenv("UNLEARNABLE_KEY_FILE", str(key.save(tmp_path / "right.key")))
    again = A.from_dict(config)
    assert again.transforms[0].poison == poison
    assert again.transforms[0].label_key == "y"
    expected = poison(IMAGES[0], "cat")[0].tolist()
    assert again(image=IMAGES[0], y="cat")["image"].tolist() == expected
    for suffix, kind in (("json", "json"), ("yaml", "yaml")):
        A.save(pipeline, tmp_path / f"p.{suffix}", data_format=kind)
        assert key._secret.hex() not in (tmp_path / f"p.{suffix}").read_text()
        assert (
            A.load(tmp_path / f"p.{suffix}", data_format=kind)(image=IMAGES[0], y="cat")["image"].tolist() == expected
        )


def test_from_dict_refuses_other_versions_and_explicit_filters(tmp_path, monkeypatch, poison):
    monkeypatch.setenv("UNLEARNABLE_KEY_FILE", str(poison.key.save(tmp_path / "a.key")))
    config = A.to_dict(ut.albumentations.Protect(poison))
    config["transform"]["poison"]["version"] += 1
    assert f"version {poison.version + 1} of 'cuda'" in str(error_of(lambda: A.from_dict(config), ValueError))
    explicit = ut.albumentations.Protect(CUDAPoison(kernels={0: np.full((3, 3), 0.12345)}))
    config = A.to_dict(explicit)
    assert "0.123" not in json.dumps(config)
    assert "explicit secret filters" in str(error_of(lambda: A.from_dict(config), ValueError))


def test_protect_takes_a_poison(poison):
    for wrong in (None, poison.key, "cuda", lambda image: image):
        with pytest.raises(TypeError, match="not a protection method"):
            ut.albumentations.Protect(wrong)


def test_nothing_warns_on_the_way(op, poison):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        A.Compose([op])(image=IMAGES[0], label=1)
        A.Compose([op])(images=IMAGES, label=LABELS)
        v2.Compose([poison])(Image.fromarray(IMAGES[0]), 1)
