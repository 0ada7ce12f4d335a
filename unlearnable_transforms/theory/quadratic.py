"""How likely a quadratic form in a standard normal vector is positive: exactly, and the Chernoff bound.

    Q = sum_i (a_i z_i^2 + b_i z_i) + c,    z ~ N(0, I)

Every rule in this package that is quadratic, on data that are Gaussian, asks for P(Q > 0). With the cumulants'
generating function, finite for s between 1 / (2 min a) and 1 / (2 max a),

    K(s) = log E exp(s Q) = c s + sum_i [ -log(1 - 2 a_i s) / 2 + b_i^2 s^2 / (2 (1 - 2 a_i s)) ]

the Chernoff bound is min over s > 0 of exp K(s), and the inversion formula (Gil-Pelaez 1951; Imhof 1961 for quadratic
forms) is

    P(Q > 0) = 1 / (2 pi i) * integral of exp(K(s)) / s ds

upwards along any line Re s = sigma, 0 < sigma < 1 / (2 max a). Here the line goes through the saddle point of the
integrand, where the terms do not cancel, and is bent into a hyperbola, on which exp(c' s), the part of the integrand
that oscillates for large s, decays; there is nothing between the two but analytic function. On a hyperbola the
trapezoidal rule converges exponentially, so that about a hundred nodes give all digits of float64.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

NODES = 32  # computed at a time, until the integrand has died away
LAST_NODE = 1280
CHUNK = 2**20  # complex values held at a time
FAR = 1e4  # the largest sigma tried, where Q has standard deviation 1
AGREEMENT = 1e-9  # between step h and 2 h. The error falls like exp(-1/h): that of step h is the square of that of 2 h
# The bend in radians, against the vertical and towards where exp(c' s) decays, and the step. The first does, but for
# forms whose entries differ by many powers of ten.
CONTOURS = ((np.pi / 8, 1 / 16), (0.0, 1 / 32), (-np.pi / 8, 1 / 32), (np.pi / 16, 1 / 64), (0.0, 1 / 64))


def probability_positive(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Floats:
    """P(sum_i (a_i z_i^2 + b_i z_i) + c > 0) for z ~ N(0, I), to 1e-9 or better (mostly 1e-13).

    a and b (..., d), any signs and zeros, and c (...) broadcast. A form that is constantly 0 is positive half of the
    time.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.
        ArithmeticError: the quadrature did not settle. Seen with entries that differ by eight powers of ten and more,
            not with the forms that blurs lead to.
    """
    squares, slopes, constants = _forms(a, b, c)
    shape, dimension = constants.shape, squares.shape[-1]
    squares, slopes, constants = squares.reshape(-1, dimension), slopes.reshape(-1, dimension), constants.reshape(-1)
    deviation = np.sqrt((2 * squares**2 + slopes**2).sum(-1))
    probability = np.where(constants > 0, 1.0, np.where(constants < 0, 0.0, 0.5))  # right where Q is constant
    varies = np.flatnonzero(deviation)
    upper = squares[varies].sum(-1) + constants[varies] <= 0  # the smaller of the two tails
    scale = np.where(upper, 1.0, -1.0) / deviation[varies]  # to standard deviation 1
    forms = squares[varies] * scale[:, None], slopes[varies] * scale[:, None], constants[varies] * scale
    rows = max(1, CHUNK // (NODES * dimension))
    tails = [_tail(*(part[i : i + rows] for part in forms)) for i in range(0, len(varies), rows)]
    tail = np.concatenate([*tails, np.zeros(0)])
    probability[varies] = np.where(upper, tail, 1 - tail)
    return probability.reshape(shape)


def chernoff(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Floats:
    """The Chernoff bound on P(sum_i (a_i z_i^2 + b_i z_i) + c >= 0): the least E exp(t Q) over t >= 0, in [0, 1].

    It is 1, and says nothing, where Q has a mean of 0 or more. Any t gives a bound, so the search for the best one
    cannot make it wrong. Arguments as for :func:`probability_positive`.
    """
    squares, slopes, constants = _forms(a, b, c)
    deviation = np.sqrt((2 * squares**2 + slopes**2).sum(-1))
    scale = np.where(deviation > 0, deviation, 1.0)
    forms = squares / scale[..., None], slopes / scale[..., None], constants / scale
    least = np.exp(np.minimum(_log_moment(*forms, _zero_of_slope(*forms, pole=False)), 0))
    return np.where(squares.sum(-1) + constants < 0, least, 1.0)


def normal_cdf(x: ArrayLike) -> Floats:
    """Phi(x), float64 of the shape of ``x``. By erfc, since ``torch.special.ndtr`` is 0 in the tail, below about -8."""
    return torch.special.erfc(torch.as_tensor(np.asarray(x, np.float64) / -np.sqrt(2))).numpy() / 2


def _forms(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> tuple[Floats, Floats, Floats]:
    squares, slopes = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(b, np.float64))
    if squares.ndim == 0 or squares.shape[-1] == 0:
        raise ValueError(f"a and b have the shape (..., d) with d >= 1, got {squares.shape}")
    shape = np.broadcast_shapes(squares.shape[:-1], np.shape(c))
    squares, slopes = (np.broadcast_to(part, (*shape, squares.shape[-1])) for part in (squares, slopes))
    constants = np.broadcast_to(np.asarray(c, np.float64), shape)
    if not all(np.isfinite(part).all() for part in (squares, slopes, constants)):
        raise ValueError("a, b and c must be finite")
    return squares, slopes, constants


def _log_moment(a: Floats, b: Floats, c: Floats, s: NDArray) -> NDArray:
    """K(s): a, b (..., d) and c, s (...), s real or complex."""
    w = 1 - 2 * a * s[..., None]
    return c * s + ((b * s[..., None]) ** 2 / w - np.log(w)).sum(-1) / 2


def _zero_of_slope(a: Floats, b: Floats, c: Floats, pole: bool) -> Floats:
    """Where K(s), or K(s) - log s, is least for s > 0, by bisection: both are convex. At most ``FAR``."""
    largest = a.max(-1)
    low, high = np.zeros_like(c), np.minimum(np.where(largest > 0, 0.5 / np.where(largest > 0, largest, 1), FAR), FAR)
    for _ in range(60):
        s = (low + high) / 2
        as_ = a * s[..., None]
        w = 1 - 2 * as_
        slope = c + (a / w + b**2 * s[..., None] * (1 - as_) / w**2).sum(-1) - (1 / s if pole else 0)
        low, high = np.where(slope > 0, low, s), np.where(slope > 0, s, high)
    return low if not pole else (low + high) / 2  # below the largest s at which K is finite


def _tail(a: Floats, b: Floats, c: Floats) -> Floats:
    """P(Q > 0) of forms (n, d), (n, d), (n) with standard deviation 1."""
    saddle = _zero_of_slope(a, b, c, pole=True)
    w = 1 - 2 * a * saddle[:, None]
    width = 1 / np.sqrt((2 * (a / w) ** 2 + b**2 / w**3).sum(-1) + 1 / saddle**2)  # of the peak at the saddle
    square = np.divide(b**2, 4 * a, out=np.zeros_like(a), where=a != 0)
    decay = np.where(c - square.sum(-1) > 0, -1.0, 1.0)  # c' = c - sum b^2 / 4a; exp(c' s) decays to this side
    tail = np.full(len(c), np.nan)
    for bend, step in CONTOURS:
        left = np.flatnonzero(np.isnan(tail))
        if not len(left):
            break
        forms = a[left, None], b[left, None], c[left, None]
        tail[left] = _quadrature(*forms, saddle[left, None], width[left, None], decay[left, None] * bend, step)
    if np.isnan(tail).any():
        raise ArithmeticError("the quadrature of a quadratic form did not settle: its entries differ too much in size")
    return np.clip(tail, 0, 1)


def _quadrature(a: Floats, b: Floats, c: Floats, saddle: Floats, width: Floats, bend: Floats, step: float) -> Floats:
    """The integral along s(v) = saddle + width * ((cosh v - 1) sin(bend) + i sinh v cos(bend)); nan: not settled.

    The contour's lower half is the mirror image of its upper half and doubles the imaginary part.
    """
    fine, coarse = np.zeros(len(c)), np.zeros(len(c))
    peak = np.zeros(len(c))
    with np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, LAST_NODE, NODES):
            v = step * np.arange(first, first + NODES)
            s = saddle + width * ((np.cosh(v) - 1) * np.sin(bend) + 1j * np.sinh(v) * np.cos(bend))
            velocity = width * (np.sinh(v) * np.sin(bend) + 1j * np.cosh(v) * np.cos(bend))
            values = np.exp(_log_moment(a, b, c, s)) / s * velocity / np.pi
            size = np.abs(values)
            if first == 0:
                values[:, 0] /= 2
            fine += step * values.imag.sum(1)
            coarse += 2 * step * values.imag[:, ::2].sum(1)
            peak = np.maximum(peak, size.max(1))
            if not (size[:, -1] > 1e-17 * peak).any():
                break
        settled = (size[:, -1] <= 1e-15 * peak) & (np.abs(fine - coarse) < AGREEMENT)
    return np.where(settled, fine, np.nan)
