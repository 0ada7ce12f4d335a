"""Latent Gaussian mixtures: what robustness costs there (Javanmard and Mehrabi, Operations Research 72(3), 2024), and
what CUDA does to them.

Data: x = W z in d dimensions, z | y ~ N(y mu, I) in k <= d, y = -1 or 1 with equal odds. The entries of W have variance
1 / d here, so that |W z| is about |z| whatever d. A linear rule sign(theta' x) has the accuracy

    SA = Phi(theta' W mu / |W' theta|)

and, when every x may be moved by up to eps in L_p before it is classified, with 1/p + 1/q = 1,

    RA = Phi((theta' W mu - eps |theta|_q) / |W' theta|)

W is (d, k) of rank k, mu (k,) and theta (d,) everywhere. Only v = W' theta and the length of theta count. The Bayes
rule has v = mu, shortest with theta = W (W'W)^-1 mu, and SA = Phi(|mu|). For L_2 the most robust rule is found too: an
adversary with eps can move z by any delta with |W delta| <= eps, so the best RA is Phi of the distance from mu to that
ellipsoid, and v points along it. When k / d falls, W'W tends to I, the ellipsoid to a ball, and the two rules to one:
the trade-off closes.
"""

import numpy as np
from numpy.typing import ArrayLike

from .mixtures import Estimate, blur_matrix, eigenvalues, eigenvectors
from .quadratic import Floats, normal_cdf, probability_positive


def latent_map(dimension: int, latent: int, seed: int) -> Floats:
    """W, float64 (d, k), 1 <= k <= d: independent N(0, 1 / d) from NumPy's default generator."""
    if not 1 <= latent <= dimension:
        raise ValueError(f"the latent dimension lies in 1..{dimension}, got {latent}")
    return np.random.default_rng(seed).standard_normal((dimension, latent)) / np.sqrt(dimension)


def bayes_direction(weights: ArrayLike, mean: ArrayLike) -> Floats:
    """theta of the Bayes rule, W (W'W)^-1 mu, float64 (d,): of all that are as accurate the most robust in L_2."""
    weights, mean = _checked(weights, mean)
    return weights @ np.linalg.solve(weights.T @ weights, mean)


def robust_direction(weights: ArrayLike, mean: ArrayLike, eps: float) -> Floats:
    """theta of the linear rule with the highest robust accuracy in L_2, float64 (d,); that of Bayes for ``eps`` = 0.

    v = W' theta is mu minus its nearest point among the delta with |W delta| <= eps. That point is
    (I + lambda W'W)^-1 mu with the lambda at which it lies on the border.

    Raises:
        ValueError: eps is negative, or so large that the adversary can make the classes the same (|W mu| <= eps).
    """
    weights, mean = _checked(weights, mean)
    if eps < 0:
        raise ValueError(f"eps is at least 0, got {eps}")
    values, vectors = np.linalg.eigh(weights.T @ weights)
    m = vectors.T @ mean
    if eps >= np.sqrt((values * m**2).sum()):
        raise ValueError("with this eps the classes can be made the same: no rule is robust; choose a smaller one")
    if eps == 0:
        return bayes_direction(weights, mean)
    low, high = -50.0, 50.0  # of log lambda
    for _ in range(100):
        middle = (low + high) / 2
        outside = (values * (m / (1 + np.exp(middle) * values)) ** 2).sum() > eps**2
        low, high = (middle, high) if outside else (low, middle)
    ratio = np.exp((low + high) / 2)
    # (W'W)^-1 v, v = m - m / (1 + ratio * values)
    return weights @ (vectors @ (m * ratio / (1 + ratio * values)))


def standard_accuracy(theta: ArrayLike, weights: ArrayLike, mean: ArrayLike) -> float:
    """SA of the rule sign(theta' x)."""
    return robust_accuracy(theta, weights, mean, 0.0)


def robust_accuracy(theta: ArrayLike, weights: ArrayLike, mean: ArrayLike, eps: float, p: float = 2) -> float:
    """RA of the rule sign(theta' x) against an adversary that moves each x by up to ``eps`` in L_p, p in [1, inf].

    Raises:
        ValueError: shapes that do not fit, p < 1, eps < 0, or a rule that sees nothing of the data (W' theta = 0).
    """
    theta, weights, mean = _checked_rule(theta, weights, mean, eps, p)
    v = weights.T @ theta
    return float(normal_cdf((v @ mean - eps * _dual_norm(theta, p)) / np.linalg.norm(v)))


def monte_carlo_linear(
    theta: ArrayLike, weights: ArrayLike, mean: ArrayLike, eps: float, samples: int, seed: int, p: float = 2
) -> Estimate:
    """RA, or SA for ``eps`` = 0, by drawing at least 2 test points and moving each by the strongest perturbation."""
    theta, weights, mean = _checked_rule(theta, weights, mean, eps, p)
    if samples < 2:
        raise ValueError(f"samples is at least 2, got {samples}")
    generator = np.random.default_rng(seed)
    attack = eps * _steepest(theta, p)
    correct = 0
    for start in range(0, samples, 1024):
        y = np.where(generator.random(min(1024, samples - start)) < 0.5, -1, 1)
        z = y[:, None] * mean + generator.standard_normal((len(y), len(mean)))
        x = z @ weights.T - y[:, None] * attack
        correct += int((y * (x @ theta) > 0).sum())
    share = correct / samples
    return Estimate(np.asarray(share), np.sqrt(share * (1 - share) / (samples - 1)))


def poisoned_rule(
    weights: ArrayLike, mean: ArrayLike, minus: float, plus: float, noise: float
) -> tuple[Floats, Floats, float]:
    """The Bayes rule of a latent mixture under CUDA, x = W z + noise * n released as A_y x: sign(x' M x + v' x + c).

    With S = W W' + noise^2 I and S_y = A_y S A_y: M = S_-1^-1 - S_1^-1, v = 2 (A_-1^-1 + A_1^-1) S^-1 W mu and
    c = 2 (log det A_-1 - log det A_1), in pixels.

    Args:
        weights, mean: W and mu; the blurs act on the d.
        minus, plus: blur parameters of the classes, in [0, 1/2]; both 0: the Bayes rule of clean data.
        noise: standard deviation of n ~ N(0, I), above 0: without it the rule divides by 0.

    Returns:
        M (d, d) and v (d,), float64, and c.
    """
    weights, mean = _checked(weights, mean)
    if not noise > 0:
        raise ValueError(f"noise must be above 0, got {noise}")
    dimension = len(weights)
    waves = eigenvectors(dimension)
    s_minus, s_plus = eigenvalues(minus, dimension), eigenvalues(plus, dimension)
    a_minus, a_plus = (waves / s @ waves for s in (s_minus, s_plus))  # inverse blurs
    inverse = np.linalg.inv(weights @ weights.T + noise**2 * np.eye(dimension))
    matrix = a_minus @ inverse @ a_minus - a_plus @ inverse @ a_plus
    vector = 2 * (a_minus + a_plus) @ inverse @ weights @ mean
    return matrix, vector, 2 * float((np.log(s_minus) - np.log(s_plus)).sum())


def poisoned_accuracy(
    weights: ArrayLike, mean: ArrayLike, minus: float, plus: float, noise: float, filtered: bool = False
) -> float:
    """How often :func:`poisoned_rule` is right, exactly: on clean data, or if ``filtered`` on data blurred as the
    training data were. Without blurs it is Phi(sqrt(mu' W' S^-1 W mu))."""
    matrix, vector, constant = poisoned_rule(weights, mean, minus, plus, noise)
    weights, mean = _checked(weights, mean)
    root = np.linalg.cholesky(weights @ weights.T + noise**2 * np.eye(len(weights)))
    right = 0.0
    for y, blur in ((-1, minus), (1, plus)):
        moved = blur_matrix(blur if filtered else 0.0, len(weights))
        centre, spread = y * (moved @ weights @ mean), moved @ root  # x = centre + spread g, g ~ N(0, I)
        a, axes = np.linalg.eigh(spread.T @ matrix @ spread)
        b = axes.T @ (spread.T @ (2 * matrix @ centre + vector))
        positive = float(probability_positive(a, b, centre @ matrix @ centre + vector @ centre + constant))
        right += (positive if y == 1 else 1 - positive) / 2
    return right


def _checked(weights: ArrayLike, mean: ArrayLike) -> tuple[Floats, Floats]:
    weights, mean = np.asarray(weights, np.float64), np.asarray(mean, np.float64)
    if weights.ndim != 2 or mean.shape != weights.shape[1:] or weights.shape[0] < weights.shape[1]:
        raise ValueError(f"W is (d, k) with k <= d and mu (k,), got {weights.shape} and {mean.shape}")
    return weights, mean


def _checked_rule(
    theta: ArrayLike, weights: ArrayLike, mean: ArrayLike, eps: float, p: float
) -> tuple[Floats, Floats, Floats]:
    weights, mean = _checked(weights, mean)
    theta = np.asarray(theta, np.float64)
    if theta.shape != weights.shape[:1]:
        raise ValueError(f"theta is ({len(weights)},), got {theta.shape}")
    if not np.any(weights.T @ theta):
        raise ValueError("W' theta is 0: the rule sees nothing of the data")
    if eps < 0 or not p >= 1:
        raise ValueError(f"eps is at least 0 and p at least 1, got {eps} and {p}")
    return theta, weights, mean


def _dual_norm(theta: Floats, p: float) -> float:
    return float(np.linalg.norm(theta, np.inf if p == 1 else 1 if p == np.inf else p / (p - 1)))


def _steepest(theta: Floats, p: float) -> Floats:
    """The vector of L_p norm 1 with the largest product with theta."""
    if p == 1:
        return np.where(np.arange(len(theta)) == np.abs(theta).argmax(), np.sign(theta), 0.0)
    direction = np.sign(theta) * (np.ones_like(theta) if p == np.inf else np.abs(theta) ** (1 / (p - 1)))
    return direction / np.linalg.norm(direction, p)
