"""CUDA on mixtures against independent ways: likelihoods in pixels, chance, textbook distributions, brute force."""

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from unlearnable_transforms import theory
from unlearnable_transforms.theory import quadratic

NORMS = (1.0, 2.5, 5.0)
BLURS = np.linspace(0, 0.5, 20)
GRID = BLURS[:, None], BLURS[None, :]
DIFFERENT = ~np.eye(20, dtype=bool)


# ---- quadratic forms ----


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dimension", [1, 2, 5, 60])
@pytest.mark.parametrize("noncentrality", [0, 1e-3, 7, 1e5])
def test_forms_of_equal_weights_are_chi_square(dimension, noncentrality, sign):
    shift = np.zeros(dimension)
    shift[0] = noncentrality**0.5
    known = stats.ncx2(dimension, noncentrality) if noncentrality else stats.chi2(dimension)
    at = known.mean() + known.std() * np.array([-1.5, -0.4, 0, 0.3, 2, 8])
    weights = sign * np.ones((len(at), dimension))
    expected = known.sf(at) if sign > 0 else known.cdf(at)
    found = theory.probability_positive(3 * weights, 6 * sign * shift, 3 * sign * (noncentrality - at))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_linear_forms_are_normal():
    b, c = np.random.default_rng(0).standard_normal((2, 7, 4)), np.linspace(-20, 20, 7)
    expected = stats.norm.cdf(c / np.linalg.norm(b[0], axis=-1))
    np.testing.assert_allclose(theory.probability_positive(0, b[0], c), expected, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(theory.normal_cdf([[-9.0, 0.3]]), stats.norm.cdf([[-9.0, 0.3]]), rtol=1e-12)


def exponentials(weights: np.ndarray, at: float) -> float:
    """P(sum_i 2 w_i E_i > at >= 0) for standard exponentials E_i and distinct weights of both signs."""
    others = [np.prod(weights[i] - np.delete(weights, i)) for i in range(len(weights))]
    terms = weights ** (len(weights) - 1) * np.exp(-at / (2 * np.abs(weights))) / others
    return float(terms[weights > 0].sum())


@pytest.mark.parametrize("spread", [0, 1, 3, 6])
def test_forms_of_both_signs_whose_weights_differ_by_powers_of_ten(spread):
    weights = np.array([1.0, -2.0, 0.5, -0.3, 3.0]) * 10.0 ** (spread * np.array([0.5, -0.5, 0, 0.4, -0.2]))
    scale = np.linalg.norm(weights)
    for at in (0, 0.01 * scale, scale, 10 * scale):
        pairs = np.repeat(weights, 2)  # z_1^2 + z_2^2 = 2 E
        found = theory.probability_positive(pairs, 0, -at)
        assert found == pytest.approx(exponentials(weights, at), abs=1e-10)
        assert theory.probability_positive(-pairs, 0, at) == pytest.approx(1 - found, abs=1e-12)


def test_general_forms_against_the_inversion_formula_on_the_real_line():
    generator = np.random.default_rng(1)
    a, b, c = generator.standard_normal((6, 9)), generator.standard_normal((6, 9)), 4 * generator.standard_normal(6)

    def integrand(u, a, b, c):
        w = 1 - 2j * a * u
        return (np.exp(1j * u * c - (u * b) ** 2 @ (1 / w) / 2) / np.prod(np.sqrt(w))).imag / u / np.pi

    expected = [0.5 + integrate.quad(integrand, 0, np.inf, args, limit=500)[0] for args in zip(a, b, c, strict=True)]
    np.testing.assert_allclose(theory.probability_positive(a, b, c), expected, atol=1e-7)


def test_constant_forms_shapes_and_refusals(monkeypatch):
    assert theory.probability_positive(np.zeros(3), np.zeros(3), [-1.0, 0.0, 2.0]).tolist() == [0, 0.5, 1]
    assert theory.probability_positive(np.ones((4, 1, 2)), np.zeros((3, 2)), 0.0).shape == (4, 3)
    assert theory.chernoff(np.ones((4, 1, 2)), np.zeros((3, 2)), 0.0).shape == (4, 3)
    assert theory.probability_positive(np.zeros((0, 2)), 0, np.zeros(0)).shape == (0,)
    for a, c in ((1.0, 0.0), (np.ones(0), 0.0), ([np.nan], 0.0), ([1.0], np.inf)):
        with pytest.raises(ValueError, match=r"shape|finite"):
            theory.probability_positive(a, a, c)
    monkeypatch.setattr(quadratic, "LAST_NODE", 32)
    with pytest.raises(ArithmeticError, match="did not settle"):
        theory.probability_positive([1.0], [0.0], -0.5)


def test_chernoff_is_the_least_of_its_bounds():
    generator = np.random.default_rng(2)
    a, b = generator.standard_normal((2, 50, 6))
    a[:, 0] = np.abs(a[:, 0])
    c = -a.sum(-1) - 3 * generator.random(50)  # mean below 0
    bound, exact = theory.chernoff(a, b, c), theory.probability_positive(a, b, c)
    assert (bound > exact).all()
    assert (bound < 1).all()
    t = np.linspace(0, 1, 2001)[1:-1, None] / (2 * a.max(-1))
    w = 1 - 2 * t[..., None] * a
    with np.errstate(over="ignore"):
        every = np.exp(c * t + ((b * t[..., None]) ** 2 / w - np.log(w)).sum(-1) / 2)
    np.testing.assert_allclose(bound, every.min(0), rtol=1e-3)
    assert (bound <= every.min(0) * (1 + 1e-12)).all()
    assert (theory.chernoff(a, b, -a.sum(-1) + 0.01) == 1).all()
    assert theory.chernoff([1.0], [0.0], 1.0) == 1


# ---- CUDA on mixtures ----


def likelihood_rule(x: np.ndarray, mean: np.ndarray, minus: float, plus: float) -> np.ndarray:
    """log p(x | y = 1) - log p(x | y = -1) of the poisoned mixture, in pixels."""
    logs = []
    for y, blur in ((-1, minus), (1, plus)):
        matrix = np.array([np.convolve(row, [blur, 1, blur], "same") for row in np.eye(len(mean))])
        logs.append(stats.multivariate_normal(y * matrix @ mean, matrix @ matrix.T).logpdf(x))
    return logs[1] - logs[0]


@pytest.mark.parametrize("dimension", [1, 2, 7])
def test_waves_are_the_eigenvectors_of_every_blur(dimension):
    waves, x = theory.eigenvectors(dimension), np.random.default_rng(0).standard_normal(dimension)
    np.testing.assert_allclose(waves @ waves, np.eye(dimension), atol=1e-14)
    for blur in (0, 0.3, 0.5):
        matrix = theory.blur_matrix(blur, dimension)
        np.testing.assert_allclose(waves @ matrix @ waves, np.diag(theory.eigenvalues(blur, dimension)), atol=1e-14)
        filtered = np.convolve(x, [blur, 1, blur])[1:-1]  # zeros beyond the border
        np.testing.assert_allclose(matrix @ x, filtered, atol=1e-14)
    assert (theory.eigenvalues(0.5, dimension) > 0).all()


@pytest.mark.parametrize("blurs", [(0.1, 0.45), (0.5, 0.0), (0.3, 0.3), (0, 0)], ids=str)
def test_the_rule_is_the_ratio_of_likelihoods(blurs):
    generator = np.random.default_rng(3)
    mean, x = generator.standard_normal(8), 2 * generator.standard_normal((40, 8))
    a, b, c = theory.bayes_rule(*blurs, mean)
    waves = x @ theory.eigenvectors(8)
    np.testing.assert_allclose(waves**2 @ a + waves @ b + c, 2 * likelihood_rule(x, mean, *blurs), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("direction", theory.mixtures.DIRECTIONS)
@pytest.mark.parametrize("blurs", [(0.1, 0.45), (0.35, 0.3)], ids=str)
def test_accuracy_is_what_likelihoods_reach_on_drawn_pixels(direction, blurs):
    mean, samples = theory.mean_vector(2.0, 6, direction), 20_000
    generator = np.random.default_rng(4)
    rule = theory.bayes_rule(*blurs, mean)
    for tested in ((0.0, 0.0), blurs, blurs[::-1]):
        shares = theory.class_accuracies(rule, mean, tested)
        for y, blur, share in zip((-1, 1), tested, shares, strict=True):
            x = (y * mean + generator.standard_normal((samples, 6))) @ theory.blur_matrix(blur, 6)
            found = (y * likelihood_rule(x, mean, *blurs) > 0).mean()
            assert abs(found - share) < 3 * max((share * (1 - share) / samples) ** 0.5, 1 / samples)
        assert theory.accuracy(rule, mean, tested) == pytest.approx(np.mean(shares), abs=1e-15)


def test_formulas_of_linear_rules():
    for direction in theory.mixtures.DIRECTIONS:
        for norm in NORMS:
            mean = theory.mean_vector(norm, 10, direction)
            assert np.linalg.norm(mean) == pytest.approx(norm)
            assert theory.clean_accuracy(mean) == pytest.approx(stats.norm.cdf(norm), abs=1e-15)
            equal = theory.bayes_rule(BLURS, BLURS, mean)
            exact = theory.accuracy(equal, mean)
            np.testing.assert_allclose(exact, theory.linear_accuracy(equal, mean), atol=1e-12)
            inverse = np.linalg.solve(theory.blur_matrix(BLURS[7], 10), mean)
            assert exact[7] == pytest.approx(stats.norm.cdf(mean @ inverse / np.linalg.norm(inverse)), abs=1e-12)
            assert exact[0] == pytest.approx(theory.clean_accuracy(mean), abs=1e-12)
            fisher = theory.linear_rule(*GRID, mean)
            np.testing.assert_allclose(theory.accuracy(fisher, mean), theory.linear_accuracy(fisher, mean), atol=1e-12)


def test_the_linear_rule_is_fisher_s():
    mean = np.random.default_rng(5).standard_normal(6)
    minus, plus = theory.blur_matrix(0.1, 6), theory.blur_matrix(0.4, 6)
    w = np.linalg.solve(minus @ minus + plus @ plus, (minus + plus) @ mean)
    middle = (plus - minus) @ mean / 2
    rule = theory.linear_rule(0.1, 0.4, mean)
    np.testing.assert_allclose(theory.eigenvectors(6) @ rule.b, w, atol=1e-12)
    assert rule.c == pytest.approx(-w @ middle)
    assert not rule.a.any()
    with pytest.raises(ValueError, match=r"use accuracy\(\)"):
        theory.linear_accuracy(theory.bayes_rule(0.1, 0.4, mean), mean)


@pytest.mark.parametrize("direction", theory.mixtures.DIRECTIONS)
def test_grids_monte_carlo_and_the_bound(direction):
    """1,200 cells: by chance about 55 lie beyond 2 standard errors and 3 beyond 3."""
    samples, errors, random = 1000, [], []
    for seed, norm in enumerate(NORMS):
        mean = theory.mean_vector(norm, 10, direction)
        rule = theory.bayes_rule(*GRID, mean)
        exact, bound = theory.accuracy(rule, mean), theory.chernoff_bound(rule, mean)
        assert exact.shape == bound.shape == (20, 20)
        np.testing.assert_allclose(exact, exact.T, atol=1e-12)  # naming the classes the other way round
        assert (bound >= exact).all()
        assert (bound[0] < 1).any() or norm == 5
        assert (exact[DIFFERENT] < theory.clean_accuracy(mean) - 1e-12).all()  # the theorem's "exists", for every pair
        estimate = theory.monte_carlo(rule, mean, samples, seed).accuracy
        assert (bound >= estimate - 4 * 0.5 / samples**0.5).all()
        variance = sum(share * (1 - share) for share in theory.class_accuracies(rule, mean)) / (4 * samples)
        errors.append(np.abs(estimate - exact) / np.maximum(np.sqrt(variance), 1 / (2 * samples)))
        random.append(np.sqrt(variance) > 5 / (2 * samples))  # the others answer nearly always the same
    errors, random = np.array(errors), np.array(random)
    assert random.sum() > 300
    assert stats.binom.cdf((errors > 2).sum(), errors.size, 0.0455) < 0.999
    assert (errors[random] > 1).mean() == pytest.approx(0.317, abs=0.08)  # and the errors are not too small either
    assert errors.max() < 4.5


def test_monte_carlo_draws_anew_for_every_cell_and_says_how_sure_it_is():
    mean = theory.mean_vector(1.0, 5)
    rule = theory.bayes_rule(np.full(200, 0.1), 0.3, mean)
    estimate = theory.monte_carlo(rule, mean, 400, seed=0)
    assert estimate.accuracy.std() == pytest.approx(estimate.standard_error.mean(), rel=0.2)
    exact = theory.accuracy(rule, mean)
    assert abs(estimate.accuracy.mean() - exact[0]) < 3 * estimate.standard_error.mean() / 200**0.5
    again = theory.monte_carlo(rule, mean, 400, seed=0)
    assert (again.accuracy == estimate.accuracy).all()
    assert (theory.monte_carlo(rule, mean, 400, seed=1).accuracy != estimate.accuracy).any()
    filtered = theory.monte_carlo(theory.bayes_rule(0.0, 0.5, mean), mean, 4000, 0, (0.0, 0.5))
    expected = theory.accuracy(theory.bayes_rule(0.0, 0.5, mean), mean, (0.0, 0.5))
    assert abs(filtered.accuracy - expected) < 3 * filtered.standard_error
    assert filtered.accuracy.shape == ()


def test_filters_are_what_is_learnt():
    """With d = 100, as in the paper's probes: right on data with its own filters, wrong with swapped, coin on clean."""
    mean = theory.mean_vector(1.0, 100)
    rule = theory.bayes_rule(0.1, 0.45, mean)
    assert theory.accuracy(rule, mean, (0.1, 0.45)) > 0.999
    assert theory.accuracy(rule, mean, (0.45, 0.1)) < 0.001
    assert theory.accuracy(rule, mean) == pytest.approx(0.5, abs=1e-6)
    assert theory.accuracy(theory.linear_rule(0.1, 0.45, mean), mean) > 0.82  # of 0.84: covariances are not seen


def matrix_bounds(mean: np.ndarray, minus: float, plus: float) -> tuple[float, float]:
    """The Chernoff bound and the bound as printed, in pixels, each class's best t by search."""
    a_minus, a_plus = (np.linalg.inv(theory.blur_matrix(blur, len(mean))) for blur in (minus, plus))
    a, b = a_minus @ a_minus - a_plus @ a_plus, 2 * (a_minus + a_plus) @ mean
    c = 2 * (np.linalg.slogdet(a_plus)[1] - np.linalg.slogdet(a_minus)[1])
    norm = np.abs(np.linalg.eigvalsh(a)).max()
    exact = printed = 0.0
    for y in (1, -1):
        m, q, r = y * a, y * (mean @ a @ mean + c) + b @ mean, 2 * a @ mean + y * b
        top = 1 / (2 * np.linalg.eigvalsh(m).max())

        def log_exact(t, m=m, q=q, r=r):
            w = np.eye(len(m)) - 2 * t * m
            return t * q + t**2 / 2 * r @ np.linalg.solve(w, r) - np.linalg.slogdet(w)[1] / 2

        def log_printed(t, m=m, q=q, r=r):
            w = np.eye(len(m)) - 2 * t * m
            return t * (q - 1 / (4 * np.linalg.norm(r) * norm)) - np.linalg.slogdet(w)[1] / 2

        best = [
            optimize.minimize_scalar(log, bounds=(0, top * (1 - 1e-9)), method="bounded", options={"xatol": 1e-12}).fun
            for log in (log_exact, log_printed)
        ]
        exact += np.exp(min(best[0], 0)) / 2
        printed += np.exp(min(best[1], 0)) / 2
    return exact, printed


@pytest.mark.parametrize("direction", ["constant", "axis", "rough"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("blurs", [(0.1, 0.45), (0.5, 0.0), (0.3, 0.4)], ids=str)
def test_both_bounds_in_pixels(direction, norm, blurs):
    mean = theory.mean_vector(norm, 10, direction)
    rule = theory.bayes_rule(*blurs, mean)
    exact, printed = matrix_bounds(mean, *blurs)
    assert theory.chernoff_bound(rule, mean) == pytest.approx(exact, abs=1e-5)
    assert theory.printed_bound(rule, mean) == pytest.approx(printed, abs=1e-5)


def test_the_printed_bound_is_none():
    """Below what drawn data reach, by far more than chance."""
    mean = theory.mean_vector(5.0, 10, "axis")
    rule = theory.bayes_rule(0.1, 0.45, mean)
    estimate = theory.monte_carlo(rule, mean, 20_000, seed=0)
    assert theory.printed_bound(rule, mean) < estimate.accuracy - 0.1
    assert estimate.standard_error < 0.003
    assert theory.chernoff_bound(rule, mean) > estimate.accuracy
    equal = theory.bayes_rule([0.2, 0.3], [0.2, 0.3], mean)
    assert np.isnan(theory.printed_bound(equal, mean)).all()


def test_bad_arguments_of_mixtures():
    mean = theory.mean_vector(1.0, 4)
    for blur in (-0.1, 0.51, np.nan):
        with pytest.raises(ValueError, match=r"\[0, 0.5\]"):
            theory.bayes_rule(0.1, blur, mean)
    for direction in ("up", np.ones(3), np.zeros(4)):
        with pytest.raises(ValueError, match="direction is"):
            theory.mean_vector(1.0, 4, direction)
    with pytest.raises(ValueError, match="one vector"):
        theory.bayes_rule(0.1, 0.2, np.ones((2, 2)))
    with pytest.raises(ValueError, match="at least 2"):
        theory.monte_carlo(theory.bayes_rule(0.1, 0.2, mean), mean, 1, 0)
    np.testing.assert_allclose(theory.mean_vector(2.0, 3, [0, -3, 4]), [0, -1.2, 1.6])
