"""The worst case is searched, not listed: which defenses, one after the other, recover the most.

All single defenses are screened by short trainings; the best are trained in full; then pairs of the best in both
orders, and longer sequences out of the best pairs, until the budget is spent. Each step is chosen by the accuracy on
the test set, which a real trainer does not have: the result is an upper bound of what this search would find without.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations

from ..errors import UsageError

LEAST = 8  # trainings: fewer than that search nothing
BEST = 4  # single defenses that pairs are made of
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


def search(measure: Measure, singles: Sequence[str], budget: int, *, fits: Callable[[str], bool]) -> list[Trial]:
    """Spend ``budget`` trainings on finding the sequence of defenses with the highest accuracy.

    Args:
        measure: trains and tests.
        singles: all single defenses; half of the budget at most is spent on screening them, in this order.
        budget: full trainings in all, at least 8; a screened one, with a third of the epochs, counts a third.
        fits: whether a composed specification is possible.

    Returns:
        The trainings in the order in which they were made.

    Raises:
        UsageError: the budget is too small.
    """
    if budget < LEAST:
        raise UsageError(f"a search needs a budget of at least {LEAST} trainings, got {budget}")
    trials: list[Trial] = []

    def spend(specs: Iterable[str], full: bool, most: float) -> list[Trial]:
        known = {trial.defense for trial in trials if trial.full or not full}
        count = int(min(most, budget - spent(trials)) / (1 if full else SCREENED) + ROUNDING)
        chosen = [spec for spec in dict.fromkeys(specs) if spec not in known][:count]
        made = [Trial(spec, full, accuracy) for spec, accuracy in zip(chosen, measure(chosen, full), strict=True)]
        trials.extend(made)
        return made

    screened = spend(singles, False, budget / 2)
    spend(_best(screened, max(BEST, budget // 8)), True, budget)
    best = _best(_full(trials), BEST)
    sequences = [JOIN.join(pair) for pair in permutations(best, 2)]
    while spent(trials) < budget:
        if not (longer := spend(filter(fits, sequences), True, budget)):
            break
        sequences = [
            JOIN.join(order)
            for start in _best(longer, BEST)
            for added in best
            if added not in start.split(JOIN)
            for order in ((start, added), (added, start))
        ]
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


def _full(trials: Iterable[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.full and trial.accuracy is not None]


def _best(trials: Sequence[Trial], count: int) -> list[str]:
    done = [trial for trial in trials if trial.accuracy is not None]
    return [trial.defense for trial in sorted(done, key=lambda trial: -(trial.accuracy or 0.0))[:count]]
