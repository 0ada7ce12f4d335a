"""Latent mixtures against chance and brute-force search; the pictures; that the theory stands apart."""

import subprocess
import sys

import numpy as np
import pytest
import theory_plots as plots
from scipy import optimize, stats

from unlearnable_transforms import theory


@pytest.mark.parametrize("p", [1, 1.5, 2, np.inf])
def test_robust_accuracy_is_what_is_left_under_attack(p):
    weights, mean = theory.latent_map(30, 6, seed=1), plots.random_mean(1.5, 6, 1)
    theta = theory.bayes_direction(weights, mean) + 0.05 * np.random.default_rng(0).standard_normal(30)
    eps = {1: 1.0, 1.5: 0.7, 2: 0.5, np.inf: 0.1}[p]
    exact = theory.robust_accuracy(theta, weights, mean, eps, p)
    assert 0.55 < exact < theory.standard_accuracy(theta, weights, mean) < stats.norm.cdf(1.5)
    estimate = theory.monte_carlo_linear(theta, weights, mean, eps, 20_000, 0, p)
    assert abs(estimate.accuracy - exact) < 3 * estimate.standard_error
    assert estimate.standard_error == pytest.approx((exact * (1 - exact) / 20_000) ** 0.5, rel=0.05)
    # No perturbation of this size does more than the one assumed.
    moves = np.random.default_rng(1).standard_normal((2000, 30)) ** 3
    moves *= eps / np.linalg.norm(moves, p, axis=1, keepdims=True)
    v = weights.T @ theta
    assert stats.norm.cdf((v @ mean - (moves @ theta).max()) / np.linalg.norm(v)) > exact


def test_the_bayes_rule_of_a_latent_mixture():
    weights, mean = theory.latent_map(30, 6, seed=2), plots.random_mean(1.5, 6, 2)
    theta = theory.bayes_direction(weights, mean)
    assert theory.standard_accuracy(theta, weights, mean) == pytest.approx(stats.norm.cdf(1.5), abs=1e-14)
    across = np.random.default_rng(0).standard_normal(30)
    across -= weights @ np.linalg.lstsq(weights, across, rcond=None)[0]  # what the data do not reach
    assert theory.standard_accuracy(theta + across, weights, mean) == pytest.approx(stats.norm.cdf(1.5), abs=1e-12)
    attacked = theory.robust_accuracy(theta, weights, mean, 0.5)
    assert theory.robust_accuracy(theta + 0.1 * across, weights, mean, 0.5) < attacked
    smallest = np.linalg.svd(weights, compute_uv=False).min()
    assert attacked >= stats.norm.cdf(1.5 - 0.5 / smallest)


@pytest.mark.parametrize(("dimension", "latent", "eps"), [(30, 6, 0.5), (30, 28, 0.8), (8, 8, 0.2), (20, 1, 1.0)])
def test_the_most_robust_rule_is_the_most_robust(dimension, latent, eps):
    weights, mean = theory.latent_map(dimension, latent, seed=3), plots.random_mean(1.5, latent, 3)
    best = theory.robust_direction(weights, mean, eps)
    reached = theory.robust_accuracy(best, weights, mean, eps)

    def distance(t):  # to the points of the ellipsoid |W delta| <= eps
        delta = t * min(1, eps / np.linalg.norm(weights @ t)) if np.any(t) else t
        return np.linalg.norm(mean - delta)

    found = [optimize.minimize(distance, start, method="BFGS") for start in (0.3 * mean, mean, 0.1 * mean)]
    assert reached == pytest.approx(stats.norm.cdf(min(one.fun for one in found)), abs=1e-5)
    generator = np.random.default_rng(0)
    for size in (1e-3, 0.1, 1):
        for _ in range(100):
            other = best + size * np.linalg.norm(best) * generator.standard_normal(dimension) / dimension**0.5
            assert theory.robust_accuracy(other, weights, mean, eps) <= reached + 1e-12
    assert theory.robust_accuracy(theory.bayes_direction(weights, mean), weights, mean, eps) <= reached + 1e-12
    none = theory.robust_direction(weights, mean, 0.0)
    np.testing.assert_allclose(none, theory.bayes_direction(weights, mean))
    with pytest.raises(ValueError, match="can be made the same"):
        theory.robust_direction(weights, mean, 1.000001 * np.linalg.norm(weights @ mean))


def test_the_trade_off_closes_as_the_latent_dimension_falls():
    curves = plots.tradeoff_curves(eps=1.5, dimension=200, latent=(2, 20, 100, 200), maps=8)
    for lost in (curves["bayes"] - curves["robust"], curves["robust attacked"] - curves["bayes attacked"]):
        assert (np.diff(lost) > 0).all()
        assert lost[0] < 0.05 * lost[-1]
    assert curves["bayes"] == pytest.approx(stats.norm.cdf(2.5), abs=1e-12)
    assert curves["ratio"].tolist() == [0.01, 0.1, 0.5, 1]


def test_cuda_on_latent_mixtures_is_cuda_on_mixtures_where_they_are_the_same():
    weights, mean = 0.6 * np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0], plots.random_mean(3, 6, 0)
    for blurs in ((0.1, 0.45), (0.3, 0.2)):  # W W' + 0.8^2 I = I
        rule = theory.bayes_rule(*blurs, weights @ mean)
        for filtered in (False, True):
            expected = theory.accuracy(rule, weights @ mean, blurs if filtered else (0, 0))
            found = theory.poisoned_accuracy(weights, mean, *blurs, noise=0.8, filtered=filtered)
            assert found == pytest.approx(float(expected), abs=1e-10)


@pytest.mark.parametrize("filtered", [False, True])
def test_cuda_on_latent_mixtures_against_drawn_pixels(filtered):
    weights, mean, blurs, noise, samples = (
        theory.latent_map(8, 3, 4),
        plots.random_mean(1.5, 3, 4),
        (0.2, 0.3),
        0.3,
        20_000,
    )
    covariance, generator = weights @ weights.T + noise**2 * np.eye(8), np.random.default_rng(5)
    right, densities = [], []
    for y, blur in zip((-1, 1), blurs, strict=True):
        matrix = theory.blur_matrix(blur, 8)
        densities.append(stats.multivariate_normal(y * matrix @ weights @ mean, matrix @ covariance @ matrix))
    for y, blur in zip((-1, 1), blurs, strict=True):
        z = y * mean + generator.standard_normal((samples, 3))
        x = z @ weights.T + noise * generator.standard_normal((samples, 8))
        x = x @ theory.blur_matrix(blur, 8) if filtered else x
        right.append((y * (densities[1].logpdf(x) - densities[0].logpdf(x)) > 0).mean())
    exact = theory.poisoned_accuracy(weights, mean, *blurs, noise, filtered)
    assert abs(np.mean(right) - exact) < 3 * (sum(r * (1 - r) for r in right) / 4 / samples) ** 0.5
    assert abs(exact - 0.5) > 0.05  # a coin would prove little


def test_the_nearer_to_a_subspace_the_less_the_filters_need_to_differ():
    weights, mean = theory.latent_map(40, 4, 0), plots.random_mean(2.5, 4, 0)
    inverse = np.linalg.inv(weights @ weights.T + 0.01 * np.eye(40))
    signal = weights @ mean
    clean = theory.poisoned_accuracy(weights, mean, 0, 0, 0.1)
    assert clean == pytest.approx(stats.norm.cdf((signal @ inverse @ signal) ** 0.5), abs=1e-10)
    near, far = (theory.poisoned_accuracy(weights, mean, 0.2, 0.21, noise) for noise in (0.01, 0.3))
    assert near == pytest.approx(0.5, abs=1e-3)
    assert far > 0.98
    assert theory.poisoned_accuracy(weights, mean, 0.2, 0.21, 0.01, filtered=True) > 0.99


def test_bad_arguments_of_latent_mixtures():
    weights, mean = theory.latent_map(5, 2, 0), np.ones(2)
    theta = theory.bayes_direction(weights, mean)
    assert np.linalg.norm(theory.latent_map(400, 20, 0), axis=0) == pytest.approx(1, abs=0.2)
    for latent in (0, 6):
        with pytest.raises(ValueError, match=r"1\.\.5"):
            theory.latent_map(5, latent, 0)
    with pytest.raises(ValueError, match="k <= d"):
        theory.bayes_direction(weights, np.ones(3))
    with pytest.raises(ValueError, match="k <= d"):
        theory.poisoned_accuracy(weights.T, np.ones(5), 0.1, 0.2, 0.1)
    with pytest.raises(ValueError, match="noise"):
        theory.poisoned_accuracy(weights, mean, 0.1, 0.2, 0.0)
    with pytest.raises(ValueError, match=r"theta is \(5,\)"):
        theory.standard_accuracy(np.ones(4), weights, mean)
    with pytest.raises(ValueError, match="sees nothing"):
        theory.standard_accuracy(np.zeros(5), weights, mean)
    for eps, p in ((-1, 2), (1, 0.5)):
        with pytest.raises(ValueError, match="eps is at least 0 and p at least 1"):
            theory.robust_accuracy(theta, weights, mean, eps, p)
    with pytest.raises(ValueError, match="eps is at least 0"):
        theory.robust_direction(weights, mean, -0.1)
    with pytest.raises(ValueError, match="at least 2"):
        theory.monte_carlo_linear(theta, weights, mean, 0, 1, 0)


# ---- the package ----


def test_pictures_are_drawn(tmp_path):
    differences, noises = [0.01, 0.1], [0.1, 1.0]
    poisoned, clean = plots.difference_curves(differences, noises, maps=1)
    assert poisoned.shape == (2, 2)
    assert (poisoned < clean[:, None]).all()
    curves = plots.tradeoff_curves(dimension=20, latent=(2, 20), maps=1)
    for number, figure in enumerate(
        (
            plots.contours(points=5),
            plots.bound_gaps(norms=(1.0,), points=5),
            plots.tradeoff(curves),
            plots.plane(),
            plots.difference_plot(differences, noises, poisoned),
        )
    ):
        figure.savefig(tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").stat().st_size > 5000


def test_it_stands_apart():
    code = (
        "import sys, unlearnable_transforms as ut\n"
        "before = set(sys.modules)\n"
        "ut.theory.clean_accuracy([1.0])\n"
        "new = sorted(name for name in set(sys.modules) - before if name.startswith('unlearnable_transforms'))\n"
        "print([name for name in new if not name.startswith('unlearnable_transforms.theory')])\n"
        "print('matplotlib' in sys.modules, 'scipy' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "False False"]
