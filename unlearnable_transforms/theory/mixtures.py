"""CUDA on Gaussian mixtures (Sadasivan, Soltanolkotabi and Feizi, CVPR 2023, section 4).

Clean data: x | y ~ N(y mu, I) in d dimensions, y = -1 or 1 with equal odds. The Bayes rule is sign(mu' x), its accuracy
Phi(|mu|). CUDA filters class y with [a_y, 1, a_y], 0 <= a_y <= 1/2, zeros beyond the border: x | y ~ N(y A_y mu, A_y^2)
with A_y tridiagonal. The Bayes rule of what is released is the sign of x' A x + b' x + c with

    A = A_-1^-2 - A_1^-2,    b = 2 (A_-1^-1 + A_1^-1) mu,    c = 2 (log det A_-1 - log det A_1)

and the question is how it does on clean data. All A_y have the same eigenvectors,

    Q_ij = sqrt(2 / (d + 1)) sin(i j pi / (d + 1)),    eigenvalues 1 + 2 a cos(i pi / (d + 1)),    i = 1..d

so that in their basis (waves from smooth to rough) everything is diagonal, x' A x is a sum over coordinates, and a
whole grid of blurs is computed at once. The direction of mu counts by how much of it each wave carries.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .quadratic import Floats, chernoff, normal_cdf, probability_positive

DIRECTIONS = ("constant", "smooth", "rough", "axis")


class Rule(NamedTuple):
    """The sign of sum_i (a_i u_i^2 + b_i u_i) + c, u = Q x: a and b (..., d), c (...), in the basis of the waves."""

    a: Floats
    b: Floats
    c: Floats


class Estimate(NamedTuple):
    """A Monte-Carlo accuracy and its standard error, both float64 of the same shape."""

    accuracy: Floats
    standard_error: Floats


def mean_vector(norm: float, dimension: int, direction: str | ArrayLike = "constant") -> Floats:
    """A mean mu of length ``norm``, float64 (d,), in pixels. What a blur does to the mixture depends on its direction:
    ``constant`` (all entries equal: mostly smooth, as images are), ``smooth`` and ``rough`` (the first and last
    eigenvector of all blurs), ``axis`` (the entry in the middle alone), or that of a vector (d,).

    Raises:
        ValueError: an unknown direction, or a vector of another length or zero.
    """
    if isinstance(direction, str):
        waves = eigenvectors(dimension)
        vectors = {
            "constant": np.ones(dimension),
            "smooth": waves[0],
            "rough": waves[-1],
            "axis": np.eye(dimension)[dimension // 2],
        }
        if direction not in vectors:
            raise ValueError(f"direction is one of {', '.join(DIRECTIONS)} or a vector, got {direction!r}")
        vector = vectors[direction]
    else:
        vector = np.asarray(direction, np.float64)
        if vector.shape != (dimension,) or not np.linalg.norm(vector) > 0:
            raise ValueError(f"direction is a vector of {dimension} entries, not all 0; got shape {vector.shape}")
    return norm * vector / np.linalg.norm(vector)


def eigenvectors(dimension: int) -> Floats:
    """Q, float64 (d, d): symmetric and its own inverse; row i is the wave number i + 1. Waves are u = Q x."""
    i = np.arange(1, dimension + 1)
    return np.sqrt(2 / (dimension + 1)) * np.sin(np.outer(i, i) * (np.pi / (dimension + 1)))


def eigenvalues(blur: ArrayLike, dimension: int) -> Floats:
    """Those of the blur matrix A, all positive: float64 (..., d) for ``blur`` (...). Blurs outside [0, 1/2], where A
    need not be positive definite, are refused."""
    blur = np.asarray(blur, np.float64)
    if not ((blur >= 0) & (blur <= 0.5)).all():
        raise ValueError("the blur parameters a lie in [0, 0.5]")
    return 1 + 2 * blur[..., None] * np.cos(np.arange(1, dimension + 1) * (np.pi / (dimension + 1)))


def blur_matrix(blur: float, dimension: int) -> Floats:
    """A, float64 (d, d): 1 on the diagonal, ``blur`` beside it. A x is x filtered with [a, 1, a]."""
    beside = np.eye(dimension, k=1) + np.eye(dimension, k=-1)
    return np.eye(dimension) + blur * beside


def bayes_rule(minus: ArrayLike, plus: ArrayLike, mean: ArrayLike) -> Rule:
    """The Bayes rule of the mixture with mean mu (d,) whose classes are blurred with a_-1 = ``minus`` and a_1 =
    ``plus``, of any shapes that broadcast; both 0: the clean mixture."""
    m = _waves(mean)
    s_minus, s_plus = eigenvalues(minus, len(m)), eigenvalues(plus, len(m))
    # Equal blurs give exactly 0: the difference of the squares in one piece.
    a = (s_plus - s_minus) * (s_plus + s_minus) / (s_minus * s_plus) ** 2
    return Rule(a, 2 * (1 / s_minus + 1 / s_plus) * m, 2 * (np.log(s_minus) - np.log(s_plus)).sum(-1))


def linear_rule(minus: ArrayLike, plus: ArrayLike, mean: ArrayLike) -> Rule:
    """Fisher's linear discriminant of the same mixture, w = (A_-1^2 + A_1^2)^-1 (A_-1 + A_1) mu, cut half-way between
    the means -A_-1 mu and A_1 mu: what a victim learns that does not see how the covariances differ."""
    m = _waves(mean)
    s_minus, s_plus = eigenvalues(minus, len(m)), eigenvalues(plus, len(m))
    b = (s_minus + s_plus) / (s_minus**2 + s_plus**2) * m
    return Rule(np.zeros_like(b), b, -(b * (s_plus - s_minus) * m).sum(-1) / 2)


def class_accuracies(
    rule: Rule, mean: ArrayLike, blurs: tuple[ArrayLike, ArrayLike] = (0.0, 0.0)
) -> tuple[Floats, Floats]:
    """How often a rule is right on class -1 and on class 1, exactly, by numeric inversion (see :mod:`.quadratic`).

    ``blurs`` are those of the test data of class -1 and of class 1: (0, 0) for clean data, (a_-1, a_1) for data
    protected as the training data were, (a_1, a_-1) for each class with the other's filter.
    """
    minus, plus = (probability_positive(*_form(rule, mean, y, blur)) for y, blur in zip((-1, 1), blurs, strict=True))
    return 1 - minus, plus


def accuracy(rule: Rule, mean: ArrayLike, blurs: tuple[ArrayLike, ArrayLike] = (0.0, 0.0)) -> Floats:
    """The mean of :func:`class_accuracies`: how often a rule is right."""
    minus, plus = class_accuracies(rule, mean, blurs)
    return (minus + plus) / 2


def clean_accuracy(mean: ArrayLike) -> float:
    """Phi(|mu|): what the Bayes rule of clean data reaches on clean data, and no rule surpasses."""
    return float(normal_cdf(np.linalg.norm(np.asarray(mean))))


def linear_accuracy(rule: Rule, mean: ArrayLike) -> Floats:
    """The clean accuracy of a rule with a = 0, by formula: [Phi((b' mu + c) / |b|) + Phi((b' mu - c) / |b|)] / 2.

    The Bayes rule of equal blurs is linear, b = 4 A^-1 mu and c = 0: Phi(mu' A^-1 mu / |A^-1 mu|).

    Raises:
        ValueError: the rule is not linear.
    """
    if np.any(rule.a):
        raise ValueError("the formula is for linear rules, a = 0: use accuracy()")
    towards, size = (rule.b * _waves(mean)).sum(-1), np.linalg.norm(rule.b, axis=-1)
    return (normal_cdf((towards + rule.c) / size) + normal_cdf((towards - rule.c) / size)) / 2


def monte_carlo(
    rule: Rule,
    mean: ArrayLike,
    samples: int,
    seed: int,
    blurs: tuple[ArrayLike, ArrayLike] = (0.0, 0.0),
) -> Estimate:
    """The same accuracy from ``samples`` >= 2 test points of each class, new ones for every entry of the grid, so that
    errors are independent, and its standard error as the sample shows it (0 where all answers of a class are the
    same)."""
    if samples < 2:
        raise ValueError(f"samples is at least 2, got {samples}")
    m = _waves(mean)
    generator = np.random.default_rng(seed)
    correct, variance = np.zeros(()), np.zeros(())
    for y, blur in zip((-1, 1), blurs, strict=True):
        s = eigenvalues(blur, len(m))
        shape = np.broadcast_shapes(rule.c.shape, s.shape[:-1])
        a, b, scale = (np.broadcast_to(values, (*shape, len(m))).reshape(-1, len(m)) for values in (rule.a, rule.b, s))
        share = np.empty(len(a))
        for entry, c in enumerate(np.broadcast_to(rule.c, shape).flat):
            u = scale[entry] * (y * m + generator.standard_normal((samples, len(m))))
            share[entry] = (y * (u**2 @ a[entry] + u @ b[entry] + c) > 0).mean()
        correct = correct + share.reshape(shape) / 2
        variance = variance + (share * (1 - share)).reshape(shape) / (4 * (samples - 1))
    return Estimate(correct, np.sqrt(variance))


def chernoff_bound(rule: Rule, mean: ArrayLike) -> Floats:
    """An upper bound on the clean accuracy of a rule, from E exp(t Q) of each class at its best t >= 0; at most 1.

    P(Q >= 0) <= exp(t q + t^2 r' (I - 2 t A)^-1 r / 2) / det(I - 2 t A)^(1/2) with q = mu' A mu + b' mu + c and
    r = 2 A mu + b for y = 1, the twin with all signs turned for y = -1, averaged. This is the exact moment, where the
    paper's theorem has an estimate of it: see :func:`printed_bound`.
    """
    plus, minus = _form(rule, mean, 1, 0.0), _form(rule, mean, -1, 0.0)
    return (chernoff(*plus) + chernoff(*(-part for part in minus))) / 2


def printed_bound(rule: Rule, mean: ArrayLike) -> Floats:
    """The bound p_1 + p_2 of the paper's theorem, as its text has it. **Not a bound**: see docs/theory.md.

    2 p_1 = exp{t [b' mu + mu' A mu + c - 1 / (4 |2 A mu + b| |Lambda|)]} / det(I - 2 t Lambda)^(1/2), Lambda the
    eigenvalues of A, |Lambda| the largest in size, and its twin for y = -1; each at its best t >= 0; nan where the
    blurs are equal. That the text that we have, taken from a PDF, lost a sign or a square is possible. It is here to
    show that it does not hold.
    """
    size = np.abs(rule.a).max(-1)
    total = np.zeros(rule.c.shape)
    for y in (1, -1):
        a, r, q = (y * part for part in _form(rule, mean, y, 0.0))
        product = 4 * np.linalg.norm(r, axis=-1) * size
        estimate = q - 1 / np.where(product > 0, product, 1)
        # What is left is the Chernoff bound of a form without a linear term.
        total += np.where(product > 0, chernoff(a, np.zeros_like(a), estimate), np.nan) / 2
    return total


def _waves(mean: ArrayLike) -> Floats:
    mean = np.asarray(mean, np.float64)
    if mean.ndim != 1 or not len(mean):
        raise ValueError(f"the mean is one vector (d,), got shape {mean.shape}")
    return eigenvectors(len(mean)) @ mean


def _form(rule: Rule, mean: ArrayLike, y: int, blur: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """The rule's value on test data u = s (y m + z) of class y, as a form in z ~ N(0, I)."""
    m = _waves(mean)
    s = eigenvalues(blur, len(m))
    shift = y * s * m
    return rule.a * s**2, (2 * rule.a * shift + rule.b) * s, rule.c + (rule.a * shift**2 + rule.b * shift).sum(-1)
