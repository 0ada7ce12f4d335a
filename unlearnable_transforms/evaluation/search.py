"""The worst case is searched, not listed: which defenses, one after the other, recover the most.

All single defenses are screened by short trainings, and the best are trained in full; then, likewise, pairs of the best
in both orders, and longer sequences out of the best pairs, until the budget is spent. Each step is chosen by the
accuracy on the test set, which a real trainer does not have: the result is an upper bound of what this search would
find without.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from ..errors import UsageError

LEAST = 8  # trainings: fewer than that search nothing
BEST = 4  # sequences of each length that are trained in full and made longer
JOIN = " + "
SCREENED = 1 / 3  # of a full training: what a screened one costs
ROUNDING = 1e-9  # thirds do not add up to whole numbers exactly


@dataclass(frozen=True)
class Trial:
    """One training of a search.

    Attributes:
        defense: its specification, such as ``jpeg:quality=10 + rsk-ff``.
        full: whether it was trained by the whole recipe, or screened.
        accuracy: on clean test images, in [0, 1]; None where the training diverged.
    """

    defense: str
    full: bool
    accuracy: float | None

    @property
    def cost(self) -> float:
        """In full trainings."""
        return 1.0 if self.full else SCREENED


Measure = Callable[[Sequence[str], bool], Sequence[float | None]]
"""measure(specifications, full) -> accuracies in the same order."""


def search(
    measure: Measure, singles: Sequence[str], budget: int, *, identify: Callable[[str], Hashable | None]
) -> list[Trial]:
    """Spend ``budget`` trainings on finding the sequence of defenses with the highest accuracy.

    Args:
        measure: trains and tests.
        singles: all single defenses, screened in this order.
        budget: full trainings in all, at least 8; a screened one, with a third of the epochs, counts a third.
        identify: an identity of the training of a composed specification, None where it is not possible. Of two with
            the same identity, such as two orders of defenses that use different hooks, the first is trained.

    Returns:
        The trainings in the order in which they were made.

    Raises:
        UsageError: the budget is too small.
    """
    if budget < LEAST:
        raise UsageError(f"a search needs a budget of at least {LEAST} trainings, got {budget}")
    trials: list[Trial] = []

    def left() -> float:
        return budget - spent(trials)

    def spend(specs: Iterable[str], full: bool, most: float) -> list[Trial]:
        known = {trial.defense for trial in trials if trial.full or not full}
        count = int(most / (1 if full else SCREENED) + ROUNDING)
        chosen = [spec for spec in dict.fromkeys(specs) if spec not in known][:count]
        made = [Trial(spec, full, accuracy) for spec, accuracy in zip(chosen, measure(chosen, full), strict=True)]
        trials.extend(made)
        return made

    def best_of(specs: Iterable[str]) -> list[str]:
        """Those that were trained in full in the end, the best first; half of what is left goes into screening."""
        screened = spend(specs, False, left() / 2)
        return _best(spend(_best(screened, BEST), True, left()), BEST)

    singles = sequences = best_of(singles)
    while sequences:
        longer = [
            JOIN.join(order)
            for start in sequences
            for added in singles
            if added not in start.split(JOIN)
            for order in ((start, added), (added, start))
        ]
        different: dict[Hashable, str] = {}
        for spec in longer:
            if (identity := identify(spec)) is not None:
                different.setdefault(identity, spec)
        sequences = best_of(different.values())
    return trials


def spent(trials: Iterable[Trial]) -> float:
    """What trainings cost, in full ones."""
    return sum(trial.cost for trial in trials)


def worst(trials: Iterable[Trial]) -> Trial:
    """The full training with the highest accuracy.

    Raises:
        ValueError: there is none.
    """
    return max(_full(trials), key=lambda trial: trial.accuracy or 0.0)


def growth(trials: Sequence[Trial]) -> list[float]:
    """The highest accuracy of a full training so far, after 1, 2, ... full trainings' worth of a search."""
    spent, highest = 0.0, [0.0] * math.ceil(sum(trial.cost for trial in trials) - ROUNDING)
    for trial in trials:
        spent += trial.cost
        for place in range(math.ceil(spent - ROUNDING) - 1, len(highest) if trial.full else 0):
            highest[place] = max(highest[place], trial.accuracy or 0.0)
    return highest


def _full(trials: Iterable[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.full and trial.accuracy is not None]


def _best(trials: Sequence[Trial], count: int) -> list[str]:
    done = [trial for trial in trials if trial.accuracy is not None]
    return [trial.defense for trial in sorted(done, key=lambda trial: -(trial.accuracy or 0.0))[:count]]
