"""Why CUDA works, on mixtures of Gaussians: prints the figures of docs/theory.md and draws its pictures.

python examples/theory.py [FOLDER]
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import theory_plots as plots

from unlearnable_transforms import theory

BLURS = np.linspace(0, 0.5, 20)
GRID = BLURS[:, None], BLURS[None, :]
DIMENSION, SAMPLES = 10, 10_000  # samples a class and cell


def grids() -> None:
    print(f"== 1. Clean accuracy over a 20 x 20 grid of (a_-1, a_1), d = {DIMENSION}")
    for direction in theory.mixtures.DIRECTIONS:
        seconds, errors, above, cells = 0.0, [], 0, 0
        lowest, equal, slack = [], [], []
        for seed, norm in enumerate(plots.NORMS):
            start = time.process_time()
            mean = theory.mean_vector(norm, DIMENSION, direction)
            rule = theory.bayes_rule(*GRID, mean)
            exact, bound = theory.accuracy(rule, mean), theory.chernoff_bound(rule, mean)
            seconds += time.process_time() - start
            estimate = theory.monte_carlo(rule, mean, SAMPLES, seed).accuracy
            variance = sum(share * (1 - share) for share in theory.class_accuracies(rule, mean)) / (4 * SAMPLES)
            # At least the weight of one answer: where an error is expected once in several samples, one is no surprise.
            errors.append((estimate - exact) / np.maximum(np.sqrt(variance), 1 / (2 * SAMPLES)))
            above += int((bound >= estimate).sum())
            assert (bound >= exact).all()
            cells += bound.size
            lowest.append(f"{exact.min():.3f}")
            equal.append(f"{np.diag(exact).min():.3f}")
            slack.append((bound - exact).max())
            different = ~np.eye(len(BLURS), dtype=bool)
            assert (exact[different] < theory.clean_accuracy(mean)).all()
        size = np.abs(errors)
        print(f"mu {direction}: lowest {', '.join(lowest)}; lowest with equal blurs {', '.join(equal)}")
        print(
            f"  Monte-Carlo beyond 2 standard errors in {(size > 2).sum()} of {cells} cells (by chance "
            f"{0.0455 * cells:.0f}), 3 in {(size > 3).sum()} ({0.0027 * cells:.1f}), at most {size.max():.1f}"
        )
        print(f"  bound above Monte-Carlo in {above}, above the formula in all, by at most {max(slack):.2f}")
        print(f"  formula and bound for three means: {seconds:.1f} s of a core")


def printed() -> None:
    print("\n== 2. The bound as printed against the exact accuracy, 380 cells with different blurs")
    different = ~np.eye(len(BLURS), dtype=bool)
    for direction in theory.mixtures.DIRECTIONS:
        for norm in plots.NORMS:
            mean = theory.mean_vector(norm, DIMENSION, direction)
            rule = theory.bayes_rule(*GRID, mean)
            exact, bound = theory.accuracy(rule, mean), theory.printed_bound(rule, mean)
            gap = np.where(different, exact - bound, -1)
            minus, plus = np.unravel_index(gap.argmax(), gap.shape)
            at = f"a = ({BLURS[minus]:.3f}, {BLURS[plus]:.3f}): {bound[minus, plus]:.3f} < {exact[minus, plus]:.3f}"
            below = (gap > 1e-9).sum()
            print(f"mu {direction}, |mu| = {norm:g}: below in {below} cells" + (f", most at {at}" if below else ""))


def probes() -> None:
    print("\n== 3. The rule learnt from a = (0.1, 0.45) and from (0.2, 0.3), mu constant")
    print("   d |mu|      a_-1  a_1   clean rule  clean data (class -1, class 1)", end="")
    print("  own filters  swapped  linear rule  bound")
    for dimension in (10, 100):
        for norm in plots.NORMS:
            mean = theory.mean_vector(norm, dimension)
            for blurs in ((0.1, 0.45), (0.2, 0.3)):
                rule = theory.bayes_rule(*blurs, mean)
                minus, plus = theory.class_accuracies(rule, mean)
                print(
                    f"{dimension:4} {norm:4g}      {blurs[0]:4g} {blurs[1]:4g}   {theory.clean_accuracy(mean):9.1%}   "
                    f"{theory.accuracy(rule, mean):9.1%} ({minus:6.1%}, {plus:6.1%})       "
                    f"{theory.accuracy(rule, mean, blurs):11.1%}  {theory.accuracy(rule, mean, blurs[::-1]):7.1%}  "
                    f"{theory.linear_accuracy(theory.linear_rule(*blurs, mean), mean):10.1%}"
                    f"  {theory.chernoff_bound(rule, mean):5.3f}"
                )


def latent(folder: Path) -> None:
    eps = 1.5
    curves = plots.tradeoff_curves(eps=eps)
    print("\n== 4. Latent mixtures, d = 500, |mu| = 2.5, eps = 1.5 in L2, means of ten maps")
    print("  k/d   Bayes rule: clean, attacked    most robust rule: clean, attacked")
    for ratio, *row in zip(*curves.values(), strict=True):
        print(f" {ratio:.2f}   {row[0]:17.2%} {row[1]:9.2%}    {row[2]:23.2%} {row[3]:9.2%}")
    errors = []
    for k in (5, 50, 250, 500):
        weights, mean = theory.latent_map(500, k, 0), plots.random_mean(2.5, k, 0)
        for theta in (theory.bayes_direction(weights, mean), theory.robust_direction(weights, mean, eps)):
            for budget, p in ((0, 2), (eps, 2), (eps / 500**0.5, np.inf)):
                exact = theory.robust_accuracy(theta, weights, mean, budget, p)
                estimate = theory.monte_carlo_linear(theta, weights, mean, budget, SAMPLES, 0, p).accuracy
                errors.append(abs(estimate - exact) / max((exact * (1 - exact) / SAMPLES) ** 0.5, 1 / SAMPLES))
    beyond = sum(error > 2 for error in errors)
    print(f"Monte-Carlo, {len(errors)} cells: {beyond} beyond 2 standard errors, at most {max(errors):.1f}")
    save(plots.tradeoff(curves, eps), folder / "theory-tradeoff.png")


def filters_on_latent(folder: Path) -> None:
    print("\n== 5. CUDA on latent mixtures, d = 40, k = 4, |mu| = 2.5, a_-1 = 0.2: clean accuracy, means of five maps")
    noises, differences = (1.0, 0.3, 0.1, 0.03, 0.01), np.geomspace(1e-4, 0.3, 16)
    poisoned, clean = plots.difference_curves(differences, noises)
    print("noise   clean rule   rule learnt from CUDA, by a_1 - a_-1")
    print(" " * 22 + "".join(f"{difference:9.4f}" for difference in differences[::3]))
    for noise, without, row in zip(noises, clean, poisoned, strict=True):
        print(f"{noise:5g} {without:11.1%}     " + "".join(f"{value:9.1%}" for value in row[::3]))
    mean = theory.mean_vector(2.5, 40)
    row = theory.accuracy(theory.bayes_rule(0.2, 0.2 + differences, mean), mean)
    print("no subspace (1.)      " + "".join(f"{value:9.1%}" for value in row[::3]))
    half = [np.exp(np.interp(-0.75, -values, np.log(differences))) for values in (*poisoned, row)]
    names = [f"noise {noise:g}" for noise in noises] + ["no subspace"]
    print("75 % at a difference of", ", ".join(f"{d:.2g} ({name})" for d, name in zip(half, names, strict=True)))
    save(plots.plane(), folder / "theory-plane.png")
    save(plots.difference_plot(differences, noises, poisoned), folder / "theory-latent.png")


def save(figure, path: Path) -> None:
    figure.savefig(path, dpi=110, bbox_inches="tight")
    print("drew", path)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    grids()
    save(plots.contours(), folder / "theory-contours.png")
    printed()
    save(plots.bound_gaps(), folder / "theory-printed.png")
    probes()
    latent(folder)
    filters_on_latent(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
