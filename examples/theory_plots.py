"""The pictures of docs/theory.md, drawn by theory.py. They need matplotlib (the extra ``quickstart``)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from unlearnable_transforms.theory import (
    accuracy,
    bayes_direction,
    bayes_rule,
    blur_matrix,
    chernoff_bound,
    latent_map,
    mean_vector,
    poisoned_accuracy,
    poisoned_rule,
    printed_bound,
    robust_accuracy,
    robust_direction,
    standard_accuracy,
)

NORMS = (1.0, 2.5, 5.0)  # |mu| of the paper's figure 3
BLUE, ORANGE, GREY = "#1f5fa8", "#d1661b", "#666666"


def contours(
    norms: Sequence[float] = NORMS, dimension: int = 10, direction: str = "constant", points: int = 31
) -> Figure:
    """Clean accuracy of the poisoned Bayes rule, above, and its Chernoff bound, below, over (a_-1, a_1).

    Args:
        norms: |mu|, one column each.
        dimension, direction: see :func:`~unlearnable_transforms.theory.mixtures.mean_vector`.
        points: blurs from 0 to 0.5 on each axis.
    """
    blurs = np.linspace(0, 0.5, points)
    figure, axes = _figure(2, len(norms))
    for column, norm in zip(axes.T, norms, strict=True):
        mean = mean_vector(norm, dimension, direction)
        rule = bayes_rule(blurs[:, None], blurs, mean)
        for cell, values in zip(column, (accuracy(rule, mean), chernoff_bound(rule, mean)), strict=True):
            # Along equal blurs runs a ridge that no grid resolves: each side of it is drawn for itself.
            for away in (np.triu(values, 1), np.tril(values, -1)):
                side = np.ma.masked_where(away > 0, np.clip(values, 0.5, 1)).T
                filled = cell.contourf(blurs, blurs, side, np.linspace(0.5, 1, 11), cmap="viridis")
                cell.contour(blurs, blurs, side, [0.6, 0.7, 0.8, 0.9], colors="white", linewidths=0.5, alpha=0.7)
        column[0].set_title(f"|μ| = {norm:g}")
    _label_blurs(axes, ("accuracy", "Chernoff bound"))
    figure.colorbar(filled, ax=axes, label="on clean data", shrink=0.8)
    return figure


def bound_gaps(
    norms: Sequence[float] = NORMS,
    dimension: int = 10,
    directions: Sequence[str] = ("constant", "axis", "rough"),
    points: int = 20,
) -> Figure:
    """The bound as printed less the accuracy, over (a_-1, a_1): where it is negative (red), it is none.

    Args:
        directions: of mu, one row each.
        others: as for :func:`contours`.
    """
    blurs = np.linspace(0, 0.5, points)
    figure, axes = _figure(len(directions), len(norms))
    for row, direction in zip(axes, directions, strict=True):
        for cell, norm in zip(row, norms, strict=True):
            mean = mean_vector(norm, dimension, direction)
            rule = bayes_rule(blurs[:, None], blurs, mean)
            gap = printed_bound(rule, mean) - accuracy(rule, mean)
            mesh = cell.pcolormesh(blurs, blurs, gap.T, cmap="RdBu", vmin=-0.3, vmax=0.3)
            cell.set_title(f"|μ| = {norm:g}: negative in {int((gap < 0).sum())} of {points**2 - points}", fontsize=9)
    _label_blurs(axes, [f"μ: {direction}" for direction in directions])
    figure.colorbar(mesh, ax=axes, label="printed bound − accuracy", shrink=0.8, extend="both")
    return figure


def tradeoff_curves(
    norm: float = 2.5,
    eps: float = 1.5,
    dimension: int = 500,
    latent: Sequence[int] = (5, 10, 25, 50, 100, 150, 200, 250, 300, 350, 400, 450, 500),
    maps: int = 10,
) -> dict[str, np.ndarray]:
    """Accuracies of the Bayes rule and of the most robust linear rule of latent mixtures, means over maps and means mu.

    Args:
        norm: |mu|; its direction is random.
        eps: the adversary's L_2 budget.
        dimension, latent: d, and the k to try.
        maps: how many W and mu to average over.

    Returns:
        ``ratio``, k / d, and the accuracies ``bayes``, ``bayes attacked``, ``robust`` and ``robust attacked``: float64
        (len(latent),).
    """
    names = ("bayes", "bayes attacked", "robust", "robust attacked")
    table = np.zeros((len(names), len(latent)))
    for column, k in enumerate(latent):
        for seed in range(maps):
            weights, mean = latent_map(dimension, k, seed), random_mean(norm, k, seed)
            rules = bayes_direction(weights, mean), robust_direction(weights, mean, eps)
            for row, theta in zip((0, 2), rules, strict=True):
                table[row, column] += standard_accuracy(theta, weights, mean) / maps
                table[row + 1, column] += robust_accuracy(theta, weights, mean, eps) / maps
    return {"ratio": np.array(latent) / dimension, **dict(zip(names, table, strict=True))}


def tradeoff(curves: dict[str, np.ndarray], eps: float = 1.5) -> Figure:
    """Accuracy and robust accuracy of two rules over k / d, and what each rule gives up.

    Args:
        curves: of :func:`tradeoff_curves`.
        eps: what they were made with, for the labels.
    """
    figure, axes = _figure(1, 2, size=(4.6, 3.6))
    ratio = curves["ratio"]
    left, right = axes[0]
    for name, colour, text in (("bayes", BLUE, "Bayes rule"), ("robust", ORANGE, "most robust rule")):
        left.plot(ratio, curves[name], color=colour, label=f"{text}, clean")
        left.plot(ratio, curves[f"{name} attacked"], color=colour, linestyle="--", label=f"{text}, attacked")
    left.set(xlabel="k / d", ylabel="accuracy", ylim=(0, 1.02), title=f"clean, and attacked in L2 with eps = {eps:g}")
    lost = curves["bayes"] - curves["robust"]
    right.plot(ratio, lost, color=ORANGE, label="most robust rule, of clean accuracy")
    lost = curves["robust attacked"] - curves["bayes attacked"]
    right.plot(ratio, lost, color=BLUE, linestyle="--", label="Bayes rule, of robust accuracy")
    right.set(
        xscale="log",
        yscale="log",
        xlabel="k / d",
        ylabel="lost against the other rule",
        title="what each rule gives up",
    )
    for cell in (left, right):
        cell.legend(fontsize=8, frameon=False)
        cell.spines[["top", "right"]].set_visible(False)
    return figure


def difference_curves(
    differences: Sequence[float],
    noises: Sequence[float],
    start: float = 0.2,
    norm: float = 2.5,
    dimension: int = 40,
    latent: int = 4,
    maps: int = 5,
) -> tuple[np.ndarray, np.ndarray]:
    """Clean accuracies of the poisoned and of the clean Bayes rule of latent mixtures, means over maps.

    Args:
        differences: of the filters: a_-1 = ``start``, a_1 = ``start`` + difference.
        noises: standard deviations around the latent subspace.
        norm, maps: as for :func:`tradeoff_curves`.
        dimension, latent: d and k.

    Returns:
        float64 (len(noises), len(differences)), and of the clean rule (len(noises),).
    """
    poisoned, clean = np.zeros((len(noises), len(differences))), np.zeros(len(noises))
    for row, noise in enumerate(noises):
        for seed in range(maps):
            weights, mean = latent_map(dimension, latent, seed), random_mean(norm, latent, seed)
            clean[row] += poisoned_accuracy(weights, mean, 0, 0, noise) / maps
            for column, difference in enumerate(differences):
                poisoned[row, column] += poisoned_accuracy(weights, mean, start, start + difference, noise) / maps
    return poisoned, clean


def difference_plot(differences: Sequence[float], noises: Sequence[float], poisoned: np.ndarray) -> Figure:
    """The curves of :func:`difference_curves`, one colour a noise."""
    figure, axes = _figure(1, 1, size=(5.6, 3.6))
    cell = axes[0, 0]
    for noise, shade, values in zip(noises, np.linspace(0.1, 0.85, len(noises)), poisoned, strict=True):
        cell.plot(differences, values, color=colormaps["viridis"](shade), label=f"{noise:g}")
    cell.set(xscale="log", xlabel="difference of the filters, a₁ − a₋₁", ylabel="accuracy on clean data")
    cell.legend(fontsize=8, frameon=False, title="noise", title_fontsize=8)
    cell.spines[["top", "right"]].set_visible(False)
    return figure


def plane(blurs: tuple[float, float] = (0.1, 0.4), norm: float = 1.5, noise: float = 0.05, seed: int = 0) -> Figure:
    """CUDA on the smallest latent mixture, d = 2 and k = 1: what is released, and clean data under the rule learnt."""
    weights, mean = np.array([[1.0], [0.0]]), np.array([norm])
    matrix, vector, constant = poisoned_rule(weights, mean, *blurs, noise)
    generator = np.random.default_rng(seed)
    y = np.repeat([-1, 1], 150)
    z = y[:, None] * mean + generator.standard_normal((len(y), 1))
    x = z @ weights.T + noise * generator.standard_normal((len(y), 2))
    released = np.where(y[:, None] < 0, x @ blur_matrix(blurs[0], 2), x @ blur_matrix(blurs[1], 2))
    across, up = np.linspace(-4.5, 4.5, 400), np.linspace(-2, 2, 300)
    grid = np.stack(np.meshgrid(across, up), -1)
    value = np.einsum("...i,ij,...j", grid, matrix, grid) + grid @ vector + constant
    figure, axes = _figure(1, 2, size=(4.6, 2.7))
    panels = ((released, "released: two lines", True), (x, "clean: a third line", False))
    for cell, (points, title, filtered) in zip(axes[0], panels, strict=True):
        right = poisoned_accuracy(weights, mean, *blurs, noise, filtered=filtered)
        cell.contourf(across, up, value > 0, [-0.5, 0.5, 1.5], colors=["#d6e4f2", "#f8e0cf"])
        for side, colour in ((-1, BLUE), (1, ORANGE)):
            cell.scatter(*points[y == side].T, s=7, color=colour, linewidths=0, label=f"y = {side}")
        cell.set(title=f"{title}, {right:.1%} right", xlabel="x₁", ylabel="x₂", aspect="equal")
        cell.set(xlim=across[[0, -1]], ylim=up[[0, -1]])
    axes[0, 0].legend(fontsize=8, loc="upper left", framealpha=0.9)
    return figure


def random_mean(norm: float, latent: int, seed: int) -> np.ndarray:
    """A mean (k,) of this length in a random direction."""
    vector = np.random.default_rng([seed, latent]).standard_normal(latent)
    return norm * vector / np.linalg.norm(vector)


def _figure(rows: int, columns: int, size: tuple[float, float] = (2.9, 2.7)) -> tuple[Figure, Any]:
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), facecolor="white", layout="compressed")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _label_blurs(axes: Any, names: Sequence[str]) -> None:
    for row, name in zip(axes, names, strict=True):
        row[0].set_ylabel(f"{name}\na₁")
        for cell in row:
            cell.set(aspect="equal", xticks=[0, 0.25, 0.5], yticks=[0, 0.25, 0.5])
    for cell in axes[-1]:
        cell.set_xlabel("a₋₁")
