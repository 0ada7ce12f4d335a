"""Whole data sets undone: what the ledger is good for, what goes on without it, and whose key it has to be."""

import warnings

import datasets
import numpy as np
import pytest
import torch
from conftest import KEY, encode, error_of, image_set, pixels, stored
from PIL import Image
from textures import LABELS, quality, textured

import unlearnable_transforms as ut
from unlearnable_transforms import (
    Chain,
    CUDAPoison,
    Key,
    NoiseError,
    NotFittedError,
    PILPoison,
    SampleError,
    UnlockWarning,
    unlock,
)
from unlearnable_transforms.jobs.ledger import fits_key, read_ledger

CLEAN = textured()
pytestmark = pytest.mark.filterwarnings("ignore::unlearnable_transforms.FitWarning")


def data(images: np.ndarray = CLEAN, labels: list = LABELS) -> datasets.Dataset:
    return image_set([encode(image) for image in images], labels)


def pil() -> PILPoison:
    return PILPoison(key=KEY, epochs=2, steps=3)


def arrays(some: datasets.Dataset) -> np.ndarray:
    return np.stack([np.asarray(image) for image in some.with_format(None)["image"]])


def test_added_noise_comes_off_exactly_and_silently():
    plain = data().add_column("note", [str(row) for row in range(20)])
    protected = ut.protect(plain, pil())
    assert (arrays(protected) != CLEAN).any((1, 2, 3)).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restored = unlock(protected, pil())  # not fitted: its noise lies in the cache
    assert (arrays(restored) == CLEAN).all()
    assert restored.features == plain.features
    assert restored["note"] == plain["note"]
    assert {row["path"] for row in stored(restored)} == {None}
    shuffled = unlock(protected.shuffle(seed=1).select(range(7)), pil())  # positions do not matter
    assert {image.tobytes() for image in arrays(shuffled)} <= {image.tobytes() for image in CLEAN}


def test_filters_come_off_with_the_ledger_that_lies_in_the_cache(ledger, no_ledgers):
    poison = CUDAPoison(key=KEY)
    protected = ut.protect(data(), poison)
    with pytest.warns(UnlockWarning, match=r"20 of 20 pictures are restored nearly"):
        known = quality(CLEAN, arrays(unlock(protected, poison)))
    assert ut.protect(data(), poison, ledger=ledger).num_rows == 20
    no_ledgers()
    with pytest.warns(UnlockWarning, match="restored nearly"):
        assert (quality(CLEAN, arrays(unlock(protected, poison, ledger))) == known).all()
    with pytest.warns(UnlockWarning, match="20 of 20 .* how well is not known"):
        guessed = quality(CLEAN, arrays(unlock(protected, poison)))
    assert quality(CLEAN, arrays(protected)).mean() + 10 < guessed.mean() < known.mean() - 1
    assert known.mean() > 34


def test_every_kind_of_batch():
    poison = pil().fit((CLEAN, LABELS))
    images = torch.from_numpy(CLEAN).permute(0, 3, 1, 2)
    assert unlock((poison.apply(images, LABELS), torch.tensor(LABELS)), poison).equal(images)
    assert (unlock((poison.apply(CLEAN, LABELS), LABELS), poison) == CLEAN).all()
    pictures = [Image.fromarray(image) for image in CLEAN]
    restored = unlock((poison.apply(pictures, LABELS), LABELS), poison)
    assert all(one.tobytes() == other.tobytes() for one, other in zip(restored, pictures, strict=True))
    grey, cuda = textured()[..., 0], CUDAPoison(key=KEY, invertible=True)
    with pytest.warns(UnlockWarning):
        restored = unlock((cuda.apply(grey, LABELS), LABELS), cuda)
    assert restored.shape == grey.shape
    assert quality(grey, restored).mean() > quality(grey, cuda.apply(grey, LABELS)).mean() + 10
    with_alpha = np.concatenate([CLEAN, pixels(20, 32, 32, 1)], 3)
    assert (unlock((poison.apply(with_alpha, LABELS), LABELS), poison) == with_alpha).all()
    assert unlock((CLEAN[:0], []), poison).shape == (0, 32, 32, 3)


def test_only_training_splits_are_undone_and_formats_come_back():
    poison = pil()
    both = ut.protect(datasets.DatasetDict(train=data().with_format("torch"), test=data()), poison)
    restored = unlock(both, poison)
    assert (arrays(restored["train"]) == CLEAN).all()
    assert restored["train"].format["type"] == "torch"
    assert stored(restored["test"]) == stored(both["test"])


@pytest.mark.filterwarnings("ignore:.*protected")
def test_pictures_that_were_left_clean_stay_as_they_are():
    poison = CUDAPoison(key=KEY, invertible=True)
    protected = ut.protect(data(), poison, 0.5)
    left = (arrays(protected) == CLEAN).all((1, 2, 3))
    assert 0 < left.sum() < 20
    with pytest.warns(UnlockWarning, match=rf"{left.sum()} of 20 pictures were never protected"):
        restored = arrays(unlock(protected, poison))
    assert (restored[left] == CLEAN[left]).all()
    assert quality(CLEAN[~left], restored[~left]).min() > 40


def test_secret_classes_are_read_from_the_ledger(ledger, no_ledgers):
    poison, secret = CUDAPoison(key=KEY, invertible=True), [3, 1, 4, 1, 5] * 4
    for plain in (data(), data().remove_columns("label")):
        protected = ut.protect(plain, poison, labels=secret, ledger=ledger)
        with pytest.warns(UnlockWarning, match="20 of 20 pictures are restored nearly"):
            restored = unlock(protected, poison, ledger)
        assert quality(CLEAN, arrays(restored)).mean() > 45
        assert restored.column_names == plain.column_names
    assert error_of(lambda: unlock(protected, poison), SampleError).rows == tuple(range(20))


def test_labels_say_nothing_beside_secret_classes():
    poison = CUDAPoison(key=KEY, invertible=True)
    protected = arrays(ut.protect(data(), poison, labels=[3, 1, 4, 1, 5] * 4))  # the ledger lies in the cache
    protected[19, 0, 0, 0] ^= 1
    assert error_of(lambda: unlock(data(protected), poison), SampleError).rows == (19,)


def test_a_chain_with_what_each_link_needs():
    chain = Chain([CUDAPoison(key=KEY, invertible=True), pil()])
    protected = ut.protect(data(), chain)
    again = Chain([CUDAPoison(key=KEY, invertible=True), pil()])
    with pytest.warns(UnlockWarning, match="restored nearly"):
        assert quality(CLEAN, arrays(unlock(protected, again))).mean() > 45


def test_two_processes_give_the_same():
    protected = ut.protect(data(), pil())
    assert stored(unlock(protected, pil(), num_proc=2)) == stored(unlock(protected, pil()))


# ---- whose key ----


def test_another_key_is_refused_by_a_given_ledger(ledger):
    poison = CUDAPoison(key=KEY)
    protected = ut.protect(data(), poison, ledger=ledger)
    assert fits_key(read_ledger(ledger), KEY.fingerprint)
    with pytest.raises(ValueError, match="written for another key"):
        unlock(protected, CUDAPoison(key=Key.public("other")), ledger)
    with pytest.raises(ValueError, match="written for another key"):
        unlock(protected, CUDAPoison(kernels={label: np.eye(3) for label in range(4)}), ledger)


def test_another_key_is_refused_by_the_ledgers_of_the_cache():
    protected = ut.protect(data(), CUDAPoison(key=KEY))
    with pytest.raises(ValueError, match="protected with another key"):
        unlock(protected, CUDAPoison(key=Key.public("other")))
    ut.protect(data(textured(20, 24, 24)), CUDAPoison(key=Key.public("other")))  # the other key has a ledger too
    with pytest.raises(ValueError, match="protected with another key"):
        unlock(protected, CUDAPoison(key=Key.public("other")))
    with pytest.warns(UnlockWarning, match="nearly"):
        unlock(protected, CUDAPoison(key=KEY))


def test_another_key_has_no_noise_for_these_pictures(ledger):
    poison = pil()
    protected = ut.protect(data(), poison, ledger=ledger)
    with pytest.raises(NoiseError, match="the key or an argument is another one"):
        unlock(protected, PILPoison(key=Key.public("other"), epochs=2, steps=3))
    other = PILPoison(key=Key.public("other"), epochs=2, steps=3, data=(CLEAN[:, ::-1].copy(), LABELS))
    assert error_of(lambda: unlock(protected, other), SampleError).rows == tuple(range(20))


# ---- which pictures ----


def test_pictures_that_the_given_ledger_does_not_know_are_named(ledger):
    poison = CUDAPoison(key=KEY)
    protected = arrays(ut.protect(data(), poison, ledger=ledger))
    changed = protected.copy()
    changed[[3, 17], 0, 0, 0] ^= 1
    for source in (data(changed), (changed, LABELS)):
        error = error_of(lambda source=source: unlock(source, poison, ledger), SampleError)
        assert error.rows == (3, 17)
        assert "does not know the picture" in str(error)
    with pytest.warns(UnlockWarning, match="nearly"):
        relabelled = unlock((protected, [9] * 20), poison, ledger)  # the ledger knows better than a changed label
    assert quality(CLEAN, relabelled).mean() > 34
    ut.protect(data(), poison)
    with pytest.warns(UnlockWarning, match="18 of 20 .* nearly.*; 2 of 20 .* not known"):
        unlock((changed, LABELS), poison)  # one that was only found in the cache need not know all


def test_what_is_not_a_data_set_is_refused():
    for wrong in (CLEAN, [CLEAN, LABELS, 1], "photos/", data().to_iterable_dataset()):
        with pytest.raises(TypeError, match="unlock takes a"):
            unlock(wrong, CUDAPoison(key=KEY))


def test_a_method_whose_findings_are_lost_says_so(no_ledgers):
    ops = ut.OPSPoison(key=KEY)
    with pytest.raises(NotFittedError, match="pass the method as it was"):
        unlock((CLEAN, LABELS), ops)
