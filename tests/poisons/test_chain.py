"""Chains: every link on the output of the one before, one id from the clean picture, and nothing of it shared."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from conftest import KEY, NUMBERS, TINY, image_set, pixels

import unlearnable_transforms as ut
from unlearnable_transforms import Chain, CUDAPoison, EMPoison, Key, NotFittedError, PILPoison, SampleError, SEMPoison
from unlearnable_transforms.sample import batch_tokens, sample_id

IMAGES = pixels(40, 12, 10, 3)
LABELS = NUMBERS * 8

pytestmark = pytest.mark.filterwarnings("ignore::unlearnable_transforms.FitWarning")


def tiny_sem(**arguments) -> SEMPoison:
    return SEMPoison(key=KEY, **{**TINY, **arguments})


def chain_of(*links) -> Chain:
    return Chain(links).fit((IMAGES, LABELS))


def test_each_link_learns_from_and_works_on_what_the_one_before_makes():
    cuda = CUDAPoison(key=KEY)
    chain = chain_of(cuda, PILPoison(key=KEY))
    blurred = cuda.apply(IMAGES, LABELS)
    alone = PILPoison(key=KEY).fit((blurred, LABELS))
    learnt, other = chain.links[1]._entry(), alone._entry()
    # The same pictures in another order, since rows are taken in the order of the clean ids: the same bounds hold, and
    # what is added fits the blurred picture.
    assert learnt.rows == other.rows == len(IMAGES)
    protected = chain.apply(IMAGES, LABELS)
    delta = protected.astype(int) - blurred
    assert np.abs(delta).max() == 8
    assert all(picture.any() for picture in delta)


def test_the_learning_link_sees_the_links_before(monkeypatch):
    seen = []
    learn = PILPoison._learn

    def spy(self, pictures, noise, work):
        seen.append({pictures.batch(slice(row, row + 1)).numpy().tobytes() for row in range(len(pictures))})
        return learn(self, pictures, noise, work)

    monkeypatch.setattr(PILPoison, "_learn", spy)
    cuda = CUDAPoison(key=KEY)
    chain_of(cuda, PILPoison(key=KEY))
    blurred = cuda.apply(torch.from_numpy(IMAGES).permute(0, 3, 1, 2).contiguous(), LABELS)
    assert seen == [{picture.numpy().tobytes() for picture in blurred}]


def test_ids_are_those_of_the_clean_pictures_in_every_link():
    chain = chain_of(CUDAPoison(key=KEY), PILPoison(key=KEY), tiny_sem())
    wanted = {sample_id(image, token) for image, token in zip(IMAGES, batch_tokens(LABELS, 40, None), strict=True)}
    for link in chain.links[1:]:
        assert (link._entry().table().find(sorted(wanted)) >= 0).all()


def test_order_and_batches_leave_no_trace():
    chain = chain_of(CUDAPoison(key=KEY), PILPoison(key=KEY))
    whole = chain.apply(IMAGES, LABELS)
    order = np.random.default_rng(1).permutation(40)
    again = chain_of(CUDAPoison(key=KEY), PILPoison(key=KEY))
    assert again == chain
    for rows in np.array_split(order, 7):
        assert np.array_equal(again.apply(IMAGES[rows], [LABELS[row] for row in rows]), whole[rows])


def test_the_order_of_the_links_counts():
    first = chain_of(CUDAPoison(key=KEY), PILPoison(key=KEY))
    second = chain_of(PILPoison(key=KEY), CUDAPoison(key=KEY))
    assert first != second
    assert not np.array_equal(first.apply(IMAGES, LABELS), second.apply(IMAGES, LABELS))


def test_noise_of_another_place_is_not_taken():
    alone = PILPoison(key=KEY).fit((IMAGES, LABELS))
    behind = chain_of(CUDAPoison(key=KEY), PILPoison(key=KEY)).links[1]
    assert alone.noise != behind.noise
    assert alone._entry().folder.parent != behind._entry().folder.parent
    with pytest.raises(ValueError, match="fitted at another place"):
        Chain([CUDAPoison(key=KEY), alone])
    with pytest.raises(ValueError, match="fitted at another place"):
        Chain([CUDAPoison(key=Key.public("other")), behind])
    assert Chain([alone, CUDAPoison(key=KEY)]).fitted  # as the first link it stands where it was fitted


def test_a_poison_outside_the_chain_stays_as_it_is():
    pil = PILPoison(key=KEY)
    chain = chain_of(CUDAPoison(key=KEY), pil)
    assert not pil.fitted
    assert chain.links[1].fitted


def test_pickles_and_equal_chains():
    chain = chain_of(CUDAPoison(key=KEY), PILPoison(key=KEY), tiny_sem())
    again = pickle.loads(pickle.dumps(chain))
    assert again == chain
    assert hash(again) == hash(chain)
    assert [link._kept.name for link in again.links[1:]] == [link._kept.name for link in chain.links[1:]]
    assert np.array_equal(again.apply(IMAGES, LABELS), chain.apply(IMAGES, LABELS))
    assert len(pickle.dumps(chain)) < 2500
    state = chain.__getstate__()
    with pytest.raises(ValueError, match="version 7"):
        Chain.__new__(Chain).__setstate__({**state, "version": 7})


def test_the_key_is_not_in_what_may_be_public():
    private = Key.generate()
    chain = Chain([CUDAPoison(key=private), PILPoison(key=private)])
    config = chain.public_config()
    assert [link["method"] for link in config["arguments"]["links"]] == ["cuda", "pil"]
    assert config["key_fingerprint"] == private.fingerprint
    for text in (repr(chain), str(config)):
        assert private._secret.hex() not in text


def test_extend_goes_through_every_link_that_keeps_noise():
    chain = chain_of(CUDAPoison(key=KEY), PILPoison(key=KEY), tiny_sem())
    more = pixels(4, 12, 10, 3, seed=9)
    with pytest.raises(SampleError, match="has not seen"):
        chain.apply(more, NUMBERS[:4])
    before = chain.apply(IMAGES, LABELS)
    chain.extend((more, NUMBERS[:4]))
    assert np.array_equal(chain.apply(IMAGES, LABELS), before)
    assert (chain.apply(more, NUMBERS[:4]) != more).any((1, 2, 3)).all()
    with pytest.raises(TypeError, match="no link of this chain keeps noise"):
        Chain([CUDAPoison(key=KEY)]).extend((more, NUMBERS[:4]))


def test_rows_of_a_data_set_are_named_through_the_links():
    images, labels = pixels(150, 12, 10, 3), [0, 1] * 75
    labels[77] = labels[90] = 3  # in the second lot that goes through the links before
    explicit = CUDAPoison(kernels={label: np.eye(3) / 3 for label in (0, 1, 2)})
    with pytest.raises(SampleError) as caught:
        Chain([explicit, PILPoison(key=KEY)]).fit((images, labels))
    assert caught.value.rows == (77, 90)


def test_not_fitted_and_wrong_links():
    with pytest.raises(NotFittedError, match="link 2 of the chain, PILPoison"):
        Chain([CUDAPoison(key=KEY), PILPoison(key=KEY)]).apply(IMAGES, LABELS)
    with pytest.raises(ValueError, match="at least one link"):
        Chain([])
    with pytest.raises(TypeError, match="got str"):
        Chain(["cuda"])
    with pytest.raises(TypeError, match="got Chain"):
        Chain([Chain([CUDAPoison(key=KEY)])])
    with pytest.raises(ValueError, match="disagree in label_key"):
        Chain([CUDAPoison(key=KEY, label_key="a"), CUDAPoison(key=KEY)])


def test_a_protected_picture_is_not_protected_twice():
    chain = chain_of(CUDAPoison(key=KEY), PILPoison(key=KEY))
    with pytest.raises(SampleError, match="protected already"):
        chain.apply(chain.apply(IMAGES, LABELS), LABELS)


def test_the_note_for_unlocking_is_the_filters_maximum():
    cuda = CUDAPoison(key=KEY)
    token = batch_tokens([3], 1, None)[0]
    changed = cuda.apply(IMAGES[:1], LABELS[:1])[0]
    wanted = cuda.unlock_note(IMAGES[0], changed, token)
    assert wanted is not None
    behind = chain_of(cuda, PILPoison(key=KEY))
    assert behind.unlock_note(IMAGES[0], behind.apply(IMAGES[:1], LABELS[:1])[0], token) == wanted
    before = chain_of(PILPoison(key=KEY), cuda)
    noisy = before.links[0].apply(IMAGES[:1], LABELS[:1])[0]
    again = before.unlock_note(IMAGES[0], before.apply(IMAGES[:1], LABELS[:1])[0], token)
    assert again == cuda.unlock_note(noisy, cuda.apply(noisy[None], LABELS[:1])[0], token)
    assert chain_of(PILPoison(key=KEY), tiny_sem()).unlock_note(IMAGES[0], noisy, token) is None


def test_a_note_needs_no_second_protection(monkeypatch):
    calls = []
    protect = CUDAPoison._protect
    monkeypatch.setattr(CUDAPoison, "_protect", lambda self, *a: calls.append(len(a[0])) or protect(self, *a))
    chain = chain_of(PILPoison(key=KEY), CUDAPoison(key=KEY))
    tokens = batch_tokens(LABELS, 40, None)
    noisy = chain.links[0].apply(IMAGES, LABELS)
    changed = chain.protect_arrays(list(IMAGES), tokens)
    notes = [chain.unlock_note(*three) for three in zip(IMAGES, changed, tokens, strict=True)]
    assert calls == [40]
    alone = [CUDAPoison(key=KEY).unlock_note(*three) for three in zip(noisy, changed, tokens, strict=True)]
    assert notes == alone
    twice = np.concatenate([IMAGES[:1], IMAGES[:1]])  # one picture under two classes: two notes
    both = CUDAPoison(key=KEY), CUDAPoison(key=KEY)
    pair = Chain(both)
    changed = pair.protect_arrays(list(twice), ["i:0", "i:1"])
    first = [pair.unlock_note(*three) for three in zip(twice, changed, ["i:0", "i:1"], strict=True)]
    assert first[0] != first[1]
    pair.protect_arrays(list(IMAGES[5:]), tokens[5:])  # something else since
    assert [pair.unlock_note(*three) for three in zip(twice, changed, ["i:0", "i:1"], strict=True)] == first


def test_albumentations_restores_a_chain(tmp_path, monkeypatch):
    albumentations = pytest.importorskip("albumentations")
    KEY.save(tmp_path / "key")
    monkeypatch.setenv("UNLEARNABLE_KEY_FILE", str(tmp_path / "key"))
    chain = chain_of(CUDAPoison(key=KEY, kernel_size=5), PILPoison(key=KEY), ut.LSPPoison(key=KEY))
    stored = albumentations.to_dict(albumentations.Compose([ut.albumentations.Protect(chain)]))
    again = albumentations.from_dict(stored)
    assert again.transforms[0].poison == chain
    assert np.array_equal(again(image=IMAGES[1], label=LABELS[1])["image"], chain(IMAGES[1], LABELS[1])[0])
    Key.public("other").save(tmp_path / "other")
    monkeypatch.setenv("UNLEARNABLE_KEY_FILE", str(tmp_path / "other"))
    with pytest.raises(ValueError, match="but the pipeline was made with"):
        albumentations.from_dict(stored)


def test_protect_takes_a_chain():
    data = image_set(list(IMAGES), LABELS)
    chain = Chain([CUDAPoison(key=KEY), EMPoison(key=KEY, **TINY)])
    protected = ut.protect(data, chain)
    assert chain.fitted
    assert np.array_equal(np.stack([np.asarray(image) for image in protected["image"]]), chain.apply(IMAGES, LABELS))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mapped = data.map(chain, batched=True, batch_size=7)
    assert np.array_equal(np.stack([np.asarray(image) for image in mapped["image"]]), chain.apply(IMAGES, LABELS))


@pytest.mark.filterwarnings("default::unlearnable_transforms.FitWarning")
def test_a_warning_behind_other_links_names_them():
    with pytest.warns(ut.FitWarning, match="^behind cuda this noise may add nothing: "):
        chain_of(CUDAPoison(key=KEY), tiny_sem())
    with pytest.warns(ut.FitWarning, match="^this noise will hardly protect: "):
        tiny_sem().fit((IMAGES, LABELS))
