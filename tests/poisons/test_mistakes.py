"""A method's own mistakes are errors: what it returns is checked, so that nothing wrong goes out."""

import pickle

import numpy as np
import pytest
import torch
from conftest import KEY, pixels

import unlearnable_transforms as ut
from unlearnable_transforms.poisons.undo import unlock_arrays

IMAGES = 100 + pixels(4, 8, 8, 3) % 56
LABELS = [0, 1, 2, 0]


class Mistaken(ut.Poison):
    """Does what it is told."""

    name = "mistaken"
    needs_key = False

    def __init__(self, change, **more):
        super().__init__(**more)
        self.change = change

    def _protect(self, images, tokens, ids):
        return self.change(images)

    def _unlock(self, images, tokens, ids, notes):
        return self.change(images)


MISTAKES = {
    "one image for all": (lambda images: images[:1] + 5, r"returned shape \(1, 3, 8, 8\) for images of shape"),
    "one channel for all": (lambda images: images[:, :1] + 5, r"returned shape \(\d, 1, 8, 8\)"),
    "channels last": (lambda images: images.permute(0, 2, 3, 1), r"returned shape \(\d, 8, 8, 3\)"),
    "an array": (lambda images: images.numpy() + 5, "returned ndarray"),
    "nothing": (lambda images: None, "returned NoneType"),
    "too large": (lambda images: images.to(torch.int16) + 300, "whole numbers in 0..255"),
    "negative": (lambda images: images.to(torch.int16) - 300, "whole numbers in 0..255"),
    "not finite": (lambda images: images.float() * torch.nan, "whole numbers in 0..255"),
    "infinite": (lambda images: images.float() * torch.inf, "whole numbers in 0..255"),
    "not rounded": (lambda images: images.float() * 1.1, "whole numbers in 0..255"),
    "in place": (lambda images: images.add_(1), "changed the images that it was given"),
    "in place, by NumPy": (lambda images: torch.from_numpy(np.add(images.numpy(), 1, out=images.numpy())), "changed"),
    "in place, something else back": (lambda images: images.add_(1).clone(), "changed the images"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_a_method_returns_is_checked(name):
    change, message = MISTAKES[name]
    poison = Mistaken(change)
    for call in (
        lambda: poison.apply(IMAGES.copy(), LABELS),
        lambda: poison.apply(torch.from_numpy(IMAGES).permute(0, 3, 1, 2).contiguous(), LABELS),
        lambda: poison(IMAGES[:2].copy(), LABELS[:2]),
        lambda: poison.protect_arrays(list(IMAGES.copy()), ["i:0"] * 4),
        lambda: ut.Chain([poison, ut.CUDAPoison(KEY)]).apply(IMAGES.copy(), LABELS),
        lambda: ut.Chain([ut.CUDAPoison(KEY), poison]).apply(IMAGES.copy(), LABELS),
    ):
        with pytest.raises(RuntimeError, match=message):
            call()
    if not name.startswith("in place"):
        with pytest.raises(RuntimeError, match=message):
            unlock_arrays(poison, list(IMAGES), ["i:0"] * 4, [None] * 4, [None] * 4)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int64, torch.float32, torch.float64])
def test_whole_numbers_of_any_type_are_right(kind):
    poison = Mistaken(lambda images: (images.to(torch.int16) + 5).to(kind))
    assert (poison.apply(IMAGES, LABELS) == IMAGES + 5).all()


class Keyed(Mistaken):
    """Needs a key."""

    needs_key = True


class Careless(ut.Poison):
    """Takes the key for granted."""

    name = "careless"
    needs_key = False

    def _protect(self, images, tokens, ids):
        return images + self._stream("x").integers(1, 5)[0]


def test_a_missing_key_is_said_clearly():
    with pytest.raises(TypeError, match=r"SEMPoison needs key=Key.generate\(\) or Key.load\(path\)"):
        ut.SEMPoison()
    with pytest.raises(TypeError, match="Careless needs key="):
        Careless().apply(IMAGES, LABELS)


class ByHand(ut.Poison):
    """A method with a constructor of its own, which keeps its argument and returns it."""

    name = "by-hand"

    def __init__(self, key=None, *, more=5, **common):
        super().__init__(key, **common)
        self.more = more

    def arguments(self):
        return {"more": self.more, **super().arguments()}

    def _protect(self, images, tokens, ids):
        return images + self.more


def test_a_method_may_keep_its_arguments_by_hand():
    poison = ByHand(KEY, more=7, classes=[0, 1, 2])
    again = pickle.loads(pickle.dumps(poison))
    assert again == poison != ByHand(KEY, classes=[0, 1, 2])
    assert (again.apply(IMAGES, LABELS) == IMAGES + 7).all()
