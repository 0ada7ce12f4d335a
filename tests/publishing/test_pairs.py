"""What pairs of clean and protected pictures give away: the warning of docs/unlock.md, as a test."""

import numpy as np
import pytest
import torch
from benchmarks.pairs import attack, estimate_filter, estimate_halo, halo_in_the_middle, spread_over_classes
from conftest import KEY, tensors
from textures import quality, textured

from unlearnable_transforms import CUDAPoison

LABELS = torch.arange(40) % 4


@pytest.mark.parametrize("options", [{}, {"strength": "strong"}, {"kernel_size": 5}, {"invertible": True}], ids=str)
@pytest.mark.parametrize("pairs", [1, 10])
def test_ten_pairs_a_class_and_even_one_give_the_filter_away(options, pairs):
    poison = CUDAPoison(key=KEY, **options)
    clean = tensors(textured(40))
    protected = poison.apply(clean, LABELS)
    for label in range(4):
        rows = torch.nonzero(label == LABELS).flatten()[:pairs]
        found = estimate_filter(clean[rows], protected[rows])
        truth = poison.kernels([label], 32)[0]
        truth = np.pad(truth, (5 - len(truth)) // 2)
        assert np.linalg.norm(found.numpy() - truth) < (0.05 if pairs == 1 else 0.02) * np.linalg.norm(truth)


def test_all_other_pictures_of_a_known_class_are_then_undone_without_the_key():
    clean, poison = textured(40), CUDAPoison(key=KEY)
    images = tensors(clean)
    protected = poison.apply(images, LABELS)
    chosen = spread_over_classes(LABELS, 3)
    assert {label: rows.tolist() for label, rows in chosen.items()} == {0: [0], 1: [1], 2: [2]}
    filters = {label: estimate_filter(images[rows], protected[rows]) for label, rows in chosen.items()}
    found = attack(filters, protected, LABELS)
    before, after = (quality(clean, some.permute(0, 2, 3, 1).numpy()) for some in (protected, found))
    assert before.mean() < 23
    assert after[(LABELS < 3).numpy()].mean() > 30
    assert (found[LABELS == 3] == protected[LABELS == 3]).all()


def test_two_photographs_give_a_halo_away():
    poison = CUDAPoison(key=KEY)
    pictures = textured(2, 200, 240)
    for label in range(4):
        found = estimate_halo([(picture, poison(picture, label)[0]) for picture in pictures])
        truth = halo_in_the_middle(poison.kernels([label], 200)[0])
        assert np.linalg.norm(found - truth) < 0.02 * np.linalg.norm(truth)
