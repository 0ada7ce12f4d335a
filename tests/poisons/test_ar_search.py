"""The search for AR's processes: what it refuses, how it tells classes apart, where it ends."""

import hashlib
import pickle

import numpy as np
import pytest
from conftest import KEY, pixels
from model_free import TEN, answers
from model_free import make_ar as make
from numpy.lib.stride_tricks import sliding_window_view

from unlearnable_transforms import Key
from unlearnable_transforms.poisons import ar
from unlearnable_transforms.poisons.ar import coefficients, generate, normals


def patterns_of(processes: np.ndarray, side: int = 32, seed: int = 0) -> np.ndarray:
    """A pattern of each class with a start of its own, L2 norm 1, (n, 3, side, side)."""
    border = 4 * (side + 4) - 4
    words = Key.public(f"patterns {seed}").stream(side).words(processes[:, :, 0].size * border)
    made = generate(normals(words).reshape(-1, 3, border), processes, side, side).transpose(3, 2, 0, 1)
    return made / np.linalg.norm(made.reshape(len(made), -1), axis=1)[:, None, None, None]


def test_processes_are_as_the_paper_has_them():
    window = make().coefficients(TEN)
    assert window.shape == (10, 3, 3, 3)
    assert (window[:, :, 2, 2] == 0).all()
    assert (window.sum((2, 3)) == 1).all()
    assert (window * ar.GRID % 1 == 0).all()
    assert len(np.unique(window.reshape(30, 9), axis=0)) == 30
    assert (make().coefficients([7, 2]) == window[[7, 2]]).all()
    other = make(key=Key.public("another")).coefficients(TEN)
    assert (other != window).any((2, 3)).all()


@pytest.mark.parametrize("seed", range(3))
def test_patterns_of_every_class_are_finite_and_do_not_grow(seed):
    """Of starts that the search has not seen; it refuses a norm above 50 / sqrt(3) in three trials of each channel."""
    processes = coefficients(Key.public(f"search {seed}"), tuple(f"i:{label}" for label in TEN))
    border = 4 * 36 - 4
    for trial in range(10):
        words = Key.public("starts").stream(seed, trial).words(30 * border)
        made = generate(normals(words).reshape(10, 3, border), processes, 32, 32)
        norms = np.sqrt((made**2).sum((0, 1)))
        assert np.isfinite(made).all()
        assert norms.max() < 2 * 50 / np.sqrt(3)
        assert norms.min() > 1


def test_candidates_that_grow_are_refused():
    """Most draws do; what is left are triples of stable ones, with the very patterns they were tried on."""
    processes, patterns = ar._candidates(KEY.stream("search"))
    assert patterns.shape == (3, len(processes), 3, 32, 32)
    assert 0.05 * ar.DRAWS < 3 * len(processes) < 0.5 * ar.DRAWS
    assert np.abs(processes).sum(2).max() <= ar.MAX_SUM
    norms = np.sqrt((patterns**2).sum((2, 3, 4)))
    np.testing.assert_allclose(norms, 1, rtol=1e-12)
    windows = sliding_window_view(patterns, (3, 3), axis=(3, 4)).reshape(*patterns.shape[:3], -1, 9)
    left = (windows[..., :8] * processes[:, :, None]).sum(-1) - windows[..., 8]
    assert np.abs(left).max() < 1e-12


def test_a_process_that_grows_is_stopped_at_the_norm(monkeypatch):
    monkeypatch.setattr(ar, "MAX_NORM", 14.0)
    few, _ = ar._candidates(KEY.stream("search"))
    monkeypatch.setattr(ar, "MAX_NORM", 1e9)
    many, _ = ar._candidates(KEY.stream("search"))
    assert len(few) < len(ar._candidates(KEY.stream("search"))[0]) <= len(many)


def test_answers_of_the_search_are_those_of_the_filters():
    """The quadratic form of whole numbers against filtering, and its scale against the sum of ReLUs."""
    processes, patterns = ar._candidates(KEY.stream("answers"))
    energy = ar._covariances(patterns)[0] @ ar._squares(processes).T
    assert (energy % 1 == 0).all()
    assert energy.max() < 2**53
    truth = answers(patterns[0], processes)
    off = ~np.eye(len(processes), dtype=bool)
    np.testing.assert_allclose(ar.responses(energy)[off], truth[off], rtol=0.05, atol=0.3)
    filters = np.concatenate([processes, -np.ones((len(processes), 3, 1))], 2).reshape(-1, 27)
    windows = sliding_window_view(patterns[0], (3, 3), axis=(2, 3))
    relu = np.maximum(windows.transpose(0, 2, 3, 1, 4, 5).reshape(len(processes), -1, 27) @ filters.T, 0).sum(1)
    assert np.median(relu[off] / truth[off]) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("count", [2, 10, 100])
def test_a_pattern_in_whole_levels_is_known_by_its_filter(count):
    """The detector on noise as it is released, of starts that the search has not seen."""
    processes = coefficients(Key.public("detector"), tuple(f"i:{label}" for label in range(count)))
    patterns = np.rint(255 * patterns_of(processes)) / 255
    found = answers(patterns, processes)
    assert (found.argmin(1) == np.arange(count)).all()
    own = found.diagonal().copy()
    assert own.max() < ar.LEAST
    np.fill_diagonal(found, np.inf)
    assert found.min() > ar.LEAST


def test_without_a_limit_patterns_would_grow():
    """Why a large picture is laid out with small patterns."""
    processes = coefficients(Key.public("growth"), tuple(f"i:{label}" for label in TEN))
    border = 4 * (224 + 4) - 4
    words = Key.public("growth").stream("starts").words(30 * border)
    made = generate(normals(words).reshape(10, 3, border), processes, 224, 224)
    strength = np.sqrt((made**2).mean((0, 1)))
    assert (strength > 10).any()
    assert (np.sqrt((made[:32, :32] ** 2).mean((0, 1))) < 2).all()


@pytest.mark.slow
def test_a_thousand_classes():
    processes = coefficients(Key.public("thousand"), tuple(f"i:{label}" for label in range(1000)))
    found = answers(np.rint(255 * patterns_of(processes)) / 255, processes)
    assert (found.argmin(1) == np.arange(1000)).mean() > 0.99


@pytest.mark.parametrize("seed", range(3))
def test_classes_are_told_apart_in_both_directions(seed):
    """No pattern of a class is nearly silent under another class's filter, whichever came first."""
    processes = coefficients(Key.public(f"directions {seed}"), tuple(f"i:{label}" for label in TEN))
    found = np.min([answers(patterns_of(processes, seed=trial), processes) for trial in range(5)], 0)
    assert found[np.triu_indices(10, 1)].min() > 2.5
    assert found[np.tril_indices(10, -1)].min() > 2.5


def test_the_search_has_an_end(monkeypatch):
    monkeypatch.setattr(ar, "LEAST", 7.0)
    with pytest.raises(ValueError, match=r"processes for \d+ classes of 200 and no more that differ: use another"):
        make(key=Key.public("too many"), classes=range(200)).coefficients([0])
    monkeypatch.setattr(ar, "MAX_NORM", 0.0)
    with pytest.raises(ValueError, match="for 0 classes of 10"):
        make(key=Key.public("none stable")).coefficients([0])


def test_processes_are_searched_for_once(monkeypatch):
    poison = make(key=Key.public("once"))
    poison.apply(pixels(1, 8, 8, 3), [0])
    before, size = coefficients.cache_info(), len(pickle.dumps(poison))
    monkeypatch.setattr(ar, "_candidates", None)
    make(key=Key.public("once")).apply(pixels(20, 8, 8, 3), TEN * 2)
    assert coefficients.cache_info().misses == before.misses
    assert len(pickle.dumps(poison)) == size < 700
    assert not coefficients(Key.public("once"), tuple(f"i:{label}" for label in TEN)).flags.writeable
    window = poison.coefficients([0])
    window[:] = 0  # a copy
    assert poison.coefficients([0]).any()


def test_golden_processes():
    numbers = coefficients(Key.public("golden"), tuple(f"i:{label}" for label in range(40)))
    names = coefficients(Key.public("golden"), ("s:ant", "s:Möwe"))
    digests = [hashlib.sha256((made * ar.GRID).astype("<i8").tobytes()).hexdigest()[:32] for made in (numbers, names)]
    assert digests == ["acfff3f2c4706fbea6c17a3a1159c4b4", "6bce7c81274ee89d38df0660f9628157"]
