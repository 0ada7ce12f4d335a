"""From accuracies, in [0, 1], to statements: recovery, the worst defense, and how sure one may be."""

import math
import statistics
from collections.abc import Mapping, Sequence
from statistics import fmean as mean

# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom. scipy has them, too, but is no dependency of
# the core, and would be a hundred megabytes for these thirty numbers.
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
Z95 = statistics.NormalDist().inv_cdf(0.975)


def recovery(protected: float, clean: float, undefended: float) -> float | None:
    """The share of what the protection takes from a plain victim that a defense wins back.

    (acc(protected, D) - acc(protected, plain)) / (acc(clean, D) - acc(protected, plain)): 0 for no better than plain
    training, 1 for as good as on clean data. None where the plain victim already is as good as clean data.
    """
    gap = clean - undefended
    return (protected - undefended) / gap if gap > 0 else None


def worst_defense(accuracies: Mapping[str, float]) -> tuple[str, float]:
    """The defense with the highest accuracy on protected data, which a protector has to answer for."""
    name = max(accuracies, key=lambda defense: accuracies[defense])
    return name, accuracies[name]


def sd(values: Sequence[float]) -> float | None:
    """Standard deviation with n - 1; None for a single value."""
    return statistics.stdev(values) if len(values) > 1 else None


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean by Student's t; None for a single value."""
    spread = sd(values)
    if spread is None:
        return None
    freedom = len(values) - 1
    half = t_quantile(freedom) * spread / math.sqrt(len(values))
    return mean(values) - half, mean(values) + half


def t_quantile(freedom: int) -> float:
    """Two-sided 95 % quantile of Student's t, to three digits."""
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    z = Z95  # the expansion around the normal quantile (Abramowitz and Stegun, 26.7.5)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def wilson(share: float, count: int) -> tuple[float, float]:
    """95 % interval (Wilson 1927) of a share of ``count`` test pictures: what the test set's size alone leaves open."""
    z2 = Z95**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = math.sqrt(z2 * (share * (1 - share) / count + z2 / (4 * count**2))) / (1 + z2 / count)
    return middle - half, middle + half


def macro_recall(confusion: Sequence[Sequence[int]]) -> float:
    """Mean over the classes that occur of the share of their pictures that is recognised; rows are true classes."""
    recalls = [row[place] / sum(row) for place, row in enumerate(confusion) if sum(row)]
    return mean(recalls)


def retraining_bound(count: int) -> float:
    """The largest probability, at 95 % confidence, that one more training exceeds the highest of ``count`` independent
    ones: 1 - 0.05^(1/n). It needs no assumption on how accuracies are distributed: 63 % for 3, 26 % for 10, 5 % for 59.
    """
    return 1 - 0.05 ** (1 / count)
