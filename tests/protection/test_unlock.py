"""Protection undone: exactly where noise was added, nearly where a filter was, and not at all with the wrong key."""

import numpy as np
import pytest
import torch
from conftest import KEY, TINY, pixels
from textures import LABELS, TOKENS, quality, textured

from unlearnable_transforms import (
    Chain,
    CUDAPoison,
    Key,
    OPSPoison,
    PILPoison,
    Poison,
    SampleError,
    SEMPoison,
    get_poison,
)
from unlearnable_transforms.pixels import psnr
from unlearnable_transforms.poisons.cuda import spread_filters
from unlearnable_transforms.poisons.undo import subtract_keyed, unlock_arrays
from unlearnable_transforms.sample import sample_id

RANDOM = pixels(20, 12, 10, 3)
NONE = [None] * 20
pytestmark = pytest.mark.filterwarnings("ignore::unlearnable_transforms.FitWarning")


def unlock(poison: Poison, protected: np.ndarray, ids=NONE, notes=NONE) -> np.ndarray:
    return np.stack(unlock_arrays(poison, list(protected), TOKENS, ids, notes)[0])


def notes_of(poison: Poison, clean: np.ndarray, protected: np.ndarray) -> list[float | None]:
    return [poison.unlock_note(*three) for three in zip(clean, protected, TOKENS, strict=True)]


def ids_of(images: np.ndarray) -> list[bytes]:
    return [sample_id(*pair) for pair in zip(images, TOKENS, strict=True)]


# ---- CUDA ----


@pytest.mark.parametrize("options", [{}, {"strength": "subtle"}, {"kernel_size": 5}, {"invertible": True}], ids=str)
@pytest.mark.parametrize("shape", [(32, 32), (20, 45)], ids=str)
def test_filters_are_undone(options, shape):
    clean, poison = textured(20, *shape), CUDAPoison(key=Key.public("unlock"), **options)
    protected = poison.apply(clean, LABELS)
    before = quality(clean, protected)
    known = quality(clean, unlock(poison, protected, notes=notes_of(poison, clean, protected)))
    guessed = quality(clean, unlock(poison, protected))
    assert before.mean() < 23
    assert known.mean() > (48 if options.get("invertible") else 34)
    assert known.min() > 30
    assert known.mean() - 12 < guessed.mean() < known.mean()
    assert guessed.mean() > before.mean() + 10


def test_the_zero_border_is_undone_with_the_rest():
    """A method that took the picture for periodic would be wrong along the border first."""
    clean, poison = textured(), CUDAPoison(key=Key.public("unlock"), invertible=True)
    protected = poison.apply(clean, LABELS)
    error = unlock(poison, protected, notes=notes_of(poison, clean, protected)).astype(int) - clean
    frame = np.ones(error.shape, bool)
    frame[:, 3:-3, 3:-3] = False
    assert np.abs(error[frame]).mean() < 2 * np.abs(error[~frame]).mean() + 0.1


def test_another_keys_filters_undo_nothing():
    clean, poison = textured(), CUDAPoison(key=Key.public("unlock"))
    protected = poison.apply(clean, LABELS)
    notes = notes_of(poison, clean, protected)
    wrong = unlock(CUDAPoison(key=Key.public("another")), protected, notes=notes)
    assert quality(clean, wrong).mean() < quality(clean, unlock(poison, protected, notes=notes)).mean() - 12


@pytest.mark.parametrize("strength", ["subtle", "normal", "strong"])
def test_halos_are_undone_to_the_last_level(strength):
    clean = textured(8, 96, 131)
    poison = CUDAPoison(key=Key.public("unlock"), strength=strength)
    protected = poison.apply(clean, LABELS[:8])
    restored = np.stack(unlock_arrays(poison, list(protected), TOKENS[:8], NONE[:8], NONE[:8])[0])
    assert quality(clean, protected).mean() < 30
    assert quality(clean, restored).min() > 49
    assert np.abs(restored.astype(int) - clean).max() <= 7


def test_black_grey_and_pictures_of_several_sizes():
    poison = CUDAPoison(key=KEY)
    images = [np.zeros((9, 9, 3), np.uint8), textured(1, 30, 20)[0], textured(1, 30, 20)[0, :, :, :1]]
    with pytest.warns(UserWarning, match="row 0"):
        protected = [poison(image, 1)[0] for image in images]
    notes = [poison.unlock_note(*two, "i:1") for two in zip(images, protected, strict=True)]
    restored, _ = unlock_arrays(poison, protected, ["i:1"] * 3, NONE[:3], notes)
    assert [one.shape for one in restored] == [one.shape for one in images]
    assert not restored[0].any()
    assert psnr(images[1], restored[1]) > 30
    assert psnr(images[2], restored[2]) > 30


def test_a_class_without_a_filter_is_named():
    poison = CUDAPoison(kernels={0: np.eye(3)})
    with pytest.raises(SampleError, match=r"^rows 1, 2, 3, 5, 6 .*has no filter"):
        unlock(poison, RANDOM)


# ---- filters that are made to be undone ----


def test_invertible_filters_keep_every_frequency():
    for strength, mass in (("subtle", 0.5), ("normal", 0.9), ("strong", 0.95)):
        poison = CUDAPoison(key=KEY, invertible=True, strength=strength)
        filters = poison.kernels(range(50), 32)
        assert filters.shape == (50, 5, 5)
        assert (filters[:, 2, 2] == 1).all()
        assert ((filters > 0).sum((1, 2)) == 3).all()
        assert filters.sum((1, 2)) == pytest.approx(1 + mass, abs=1 / 64)
        response = np.abs(np.fft.fft2(filters, s=(64, 64)))
        assert response.min() > 1 - mass - 1 / 64
        assert len({one.tobytes() for one in filters}) == 50
    draws, of_halos = (spread_filters(KEY, 3, 0, 50, kind)[0] for kind in ("invertible", "halo"))
    assert (draws != of_halos).any((1, 2)).all()  # who learns the ones does not know the others


def condition(weights: np.ndarray, side: int = 12) -> float:
    """By how much a filter with a zero border may stretch what rounding did, compared with the picture."""
    impulses = torch.eye(side * side).view(-1, 1, side, side)
    images = torch.nn.functional.conv2d(impulses, torch.from_numpy(weights)[None, None], padding=len(weights) // 2)
    return float(np.linalg.cond(images.flatten(1).double().numpy()))


def test_what_is_shifted_out_of_the_picture_is_hard_to_find_again():
    invertible = [condition(one) for one in CUDAPoison(key=KEY, invertible=True).kernels(range(10), 32)]
    default = [condition(one) for one in CUDAPoison(key=KEY).kernels(range(10), 32)]
    assert max(invertible) < 1.9 / 0.1
    assert np.median(default) > 100


def test_invertible_changes_small_pictures_alone_and_is_part_of_the_state():
    plain, made = CUDAPoison(key=KEY), CUDAPoison(key=KEY, invertible=True)
    photo = textured(1, 80, 90)
    assert (plain.apply(photo, [1]) == made.apply(photo, [1])).all()
    assert (plain.apply(RANDOM, LABELS) != made.apply(RANDOM, LABELS)).any((1, 2, 3)).all()
    assert plain != made
    assert "invertible" not in plain.arguments()
    assert made.public_config()["arguments"]["invertible"] is True
    again = CUDAPoison.__new__(CUDAPoison)
    again.__setstate__(made.__getstate__())
    assert (again.apply(RANDOM, LABELS) == made.apply(RANDOM, LABELS)).all()
    for options in ({"kernel_size": 3}, {"blur": 0.2}):
        with pytest.raises(TypeError, match="leave out all but strength"):
            CUDAPoison(key=KEY, invertible=True, **options)


# ---- noise from a table ----


def fitted(method: type[Poison] = PILPoison, **options) -> Poison:
    options = {"epochs": 3, "steps": 5} if method is PILPoison else {**TINY, **options}
    return method(key=KEY, data=(RANDOM, LABELS), **options)


def test_stored_noise_is_undone_bit_for_bit_and_tells_the_clean_ids():
    poison = fitted()
    protected = poison.apply(RANDOM, LABELS)
    assert (protected == 0).any()  # noise that was cut off at black and at white, too
    assert (protected == 255).any()
    restored, ids = unlock_arrays(poison, list(protected), TOKENS, NONE, NONE)
    assert (np.stack(restored) == RANDOM).all()
    assert ids == ids_of(RANDOM)


def test_stored_noise_finds_changed_pictures_by_their_clean_ids_alone():
    poison = fitted()
    protected = poison.apply(RANDOM, LABELS)
    protected[2, 0, 0, 0] ^= 1
    with pytest.raises(SampleError, match=r"^row 2: .*The ledger"):
        unlock(poison, protected)
    restored = unlock(poison, protected, ids=ids_of(RANDOM))
    assert (restored != RANDOM).sum() == 1
    with pytest.raises(SampleError, match=r"^rows 1, 2 ?: .*another fit's or key's"):
        unlock(poison, np.concatenate([protected[:1], RANDOM[1:3], protected[3:]]))


def test_noise_is_recalled_from_the_cache_by_clean_or_protected_ids():
    poison = fitted()
    protected = poison.apply(RANDOM, LABELS)
    for ids in (ids_of(RANDOM), ids_of(protected), ids_of(protected)[3:5]):
        again = PILPoison(key=KEY, epochs=3, steps=5).recall(ids, [])
        assert again == poison
    for other in (PILPoison(key=KEY, epochs=4, steps=5), PILPoison(key=Key.public("x"), epochs=3, steps=5)):
        with pytest.raises(RuntimeError, match="the key or an argument is another one"):
            other.recall(ids_of(RANDOM), [])
    with pytest.raises(RuntimeError, match="for these pictures"):
        PILPoison(key=KEY, epochs=3, steps=5).recall([*ids_of(RANDOM), bytes(16)], [])


# ---- noise that follows from the key and the clean picture's id ----


def keyed(name: str, **options) -> Poison:
    return get_poison(name)(key=KEY, classes=[0, 1, 2, 3], **options)


@pytest.mark.parametrize("name", ["ar", "lsp"])
@pytest.mark.parametrize("shape", [(20, 12, 10, 3), (20, 40, 33, 1), (20, 32, 32, 3)], ids=str)
def test_keyed_noise_is_undone_exactly_where_it_was_not_cut_off(name, shape):
    clean = pixels(*shape) // 2 + 64
    clean[3:6] = clean[3:6, ..., :1]  # grey in three channels
    poison = keyed(name)
    protected = poison.apply(clean, LABELS)
    assert (protected != clean).any((1, 2, 3)).all()
    assert (unlock(poison, protected, ids=ids_of(clean)) == clean).all()
    wrong = ids_of(clean)[::-1]
    assert (unlock(poison, protected, ids=wrong) != clean).any((1, 2, 3)).all()


@pytest.mark.parametrize("name", ["ar", "lsp"])
@pytest.mark.parametrize("strength", [1, 5])
def test_keyed_noise_that_was_cut_off_leaves_a_little(name, strength):
    clean = textured()
    clean[:, 20:] = 255
    clean[:, :, 20:] = 0
    poison = keyed(name, eps={"ar": 1.0, "lsp": 6 / 255}[name] * strength)
    protected = poison.apply(clean, LABELS)
    restored = unlock(poison, protected, ids=ids_of(clean))
    free = (protected > 0) & (protected < 255)
    assert (restored == clean)[free].all()
    assert not (restored == clean).all()
    assert np.abs(restored.astype(int) - clean).max() <= np.abs(protected.astype(int) - clean).max()
    assert (quality(clean, restored) > quality(clean, protected)).all()


def test_what_was_cut_off_gets_the_middle_of_what_it_may_have_been():
    def protect(images, tokens, ids):
        return (images.short() + torch.tensor([10, -8]).view(-1, 1, 1, 1)).clamp(0, 255)

    clean = torch.tensor([[245, 246, 255, 3], [8, 7, 0, 255]], dtype=torch.uint8).view(2, 1, 2, 2)
    protected = protect(clean, None, None).to(torch.uint8)
    restored = subtract_keyed(protect, protected, ["i:0"] * 2, [b"a" * 16] * 2)
    assert restored.flatten(1).tolist() == [[250, 250, 250, 3], [4, 4, 4, 255]]


@pytest.mark.parametrize("name", ["ar", "lsp"])
def test_keyed_noise_needs_the_clean_ids(name):
    clean, ids = textured(), [*ids_of(textured())[:-1], None]
    poison = keyed(name)
    with pytest.raises(SampleError, match=r"^row 19: .*in the ledger"):
        unlock(poison, poison.apply(clean, LABELS), ids=ids)


# ---- pixels that were written over ----


@pytest.mark.parametrize("shape", [(20, 32, 32, 3), (20, 32, 32, 1), (20, 90, 70, 3)], ids=str)
def test_overwritten_pixels_get_the_mean_of_what_lies_around(shape):
    clean = textured(*shape[:3])[..., : shape[3]]
    spots = {label: [(0, 0, 255, 0, 0), (9 + label, 12, 255, 0, 255)] for label in range(4)}
    poison = OPSPoison(pixels=spots, grid=(32, 32))
    protected = poison.apply(clean, LABELS)
    restored = unlock(poison, protected)
    square = max(1, round(min(shape[1] / 32, shape[2] / 32)))
    changed = (protected != clean).any(3)
    assert (changed.sum((1, 2)) <= 2 * square**2).all()
    assert (restored == clean)[~changed].all()
    assert quality(clean, restored).mean() > quality(clean, protected).mean() + 6
    if square == 1:
        around = clean[0, 8:11, 11:14].astype(float).sum((0, 1)) - clean[0, 9, 12]
        assert (restored[0, 9, 12] == np.rint(around / 8)).all()


def test_a_picture_of_overwritten_pixels_alone_is_left():
    poison = OPSPoison(pixels={label: [(0, 0, 255, 255, 255)] for label in range(4)}, grid=(1, 1))
    protected = poison.apply(textured(20, 8, 8), LABELS)
    assert (unlock(poison, protected) == 255).all()


# ---- chains ----


def test_a_chain_of_noise_is_undone_bit_for_bit_backwards():
    chain = Chain([PILPoison(key=KEY, epochs=3, steps=5), SEMPoison(key=KEY, **TINY)], data=(RANDOM, LABELS))
    protected = chain.apply(RANDOM, LABELS)
    restored, ids = unlock_arrays(chain, list(protected), TOKENS, NONE, NONE)
    assert (np.stack(restored) == RANDOM).all()
    assert ids == ids_of(RANDOM)


def test_the_last_link_knows_the_ids_that_the_first_one_needs():
    clean = textured()
    links = [PILPoison(key=KEY, epochs=3, steps=5), CUDAPoison(key=KEY, invertible=True), SEMPoison(key=KEY, **TINY)]
    chain = Chain(links, data=(clean, LABELS))
    protected = chain.apply(clean, LABELS)
    assert quality(clean, unlock(chain, protected, notes=notes_of(chain, clean, protected))).mean() > 47


@pytest.mark.parametrize("order", ["filter first", "noise first"])
def test_a_chain_with_a_filter_is_undone_as_well_as_the_filter(order):
    clean = textured()
    links = [CUDAPoison(key=Key.public("unlock"), invertible=True), PILPoison(key=KEY, epochs=3, steps=5)]
    chain = Chain(links if order == "filter first" else links[::-1], data=(clean, LABELS))
    protected = chain.apply(clean, LABELS)
    notes = notes_of(chain, clean, protected)
    if order == "noise first":
        with pytest.raises(SampleError, match="The ledger"):
            unlock(chain, protected, notes=notes)  # what is deconvolved is no longer what was protected
    restored = unlock(chain, protected, ids=ids_of(clean) if order == "noise first" else NONE, notes=notes)
    assert quality(clean, restored).mean() > 47


def test_a_note_goes_to_the_link_that_left_it():
    clean = textured()
    chain = Chain([CUDAPoison(key=Key.public("one"), invertible=True), CUDAPoison(key=KEY)])
    protected = chain.apply(clean, LABELS)
    restored = unlock(chain, protected, notes=notes_of(chain, clean, protected))
    assert quality(clean, restored).mean() > 30


# ---- methods without a way back ----


def test_a_method_that_cannot_be_undone_says_so():
    class Replace(Poison):
        name = "replace"

        def _protect(self, images, tokens, ids):
            return torch.zeros_like(images)

    with pytest.raises(TypeError, match="Replace cannot be undone"):
        unlock(Replace(key=KEY), RANDOM)
