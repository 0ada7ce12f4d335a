"""How well a set is protected, measured: quick victims, with clean test pictures at hand."""

from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from ..evaluation.data import Pictures
from ..evaluation.evaluate import evaluate
from ..evaluation.metrics import Z95, worst_defense
from ..evaluation.recipes import Plan
from ..evaluation.report import Report
from ..poisons.checks import FEWEST, QUICK, QUICK_ROWS
from ..sample import spread

# docs/measurements.md: between them they win back the most from every method, and cost little more than plain training.
DEFENSES = ("erm", "grayscale", "jpeg:quality=10", "rsk-ff")
TESTED = 2000  # test pictures
MARGIN = 0.05  # and two standard errors


@dataclass(frozen=True)
class Measured:
    """Accuracies on clean test pictures, in [0, 1].

    Attributes:
        reference: of a plain victim that trained on as many other pictures of the clean test set.
        accuracies: by defense, of victims that trained on the audited set; "erm" is plain training.
        rows, tested: how many pictures each trained on, and was tested on.
        margin: differences below it say nothing.
    """

    reference: float
    accuracies: dict[str, float]
    rows: int
    tested: int
    margin: float

    @property
    def worst(self) -> tuple[str, float]:
        """The kind of training that gets farthest, and its accuracy."""
        return worst_defense(self.accuracies)

    @property
    def taken(self) -> float:
        """What a plain victim loses against the reference."""
        return self.reference - self.accuracies["erm"]

    @property
    def kept(self) -> float:
        """The share of that loss which is left under the worst defense, in [0, 1]; 0 where nothing is lost."""
        left = self.reference - self.worst[1]
        return min(max(left / self.taken, 0.0), 1.0) if self.taken > self.margin else 0.0

    @property
    def kept_interval(self) -> tuple[float, float]:
        """95 % interval of ``kept``, of which the number of test pictures is the only uncertainty: the first-order
        error of a ratio, with the three accuracies taken as independent."""
        kept = self.kept
        terms = ((self.worst[1], 1.0), (self.accuracies["erm"], kept), (self.reference, 1 - kept))
        variance = sum(weight**2 * share * (1 - share) for share, weight in terms) / self.tested
        half = Z95 * variance**0.5 / max(self.taken, self.margin)
        return max(kept - half, 0.0), min(kept + half, 1.0)


def measure(pictures: Pictures, test: Pictures, size: int, seed: int, device: str | None = None) -> Measured:
    """Train quick victims on the set, plainly and under three cheap defenses, and one on clean test pictures.

    A part of the clean test pictures trains the reference, the rest is tested on. Victims see ``size`` pixels a side.

    Raises:
        ValueError: too few test pictures, or classes that do not fit together.
    """
    rows = min(QUICK_ROWS, len(pictures), len(test) * 2 // 3)
    if rows < FEWEST:
        raise UsageError(
            f"a victim needs {FEWEST} pictures to train on and its reference as many out of two thirds of the test "
            f"set: there are {len(pictures)} pictures and {len(test)} test pictures. Leave the test set out for the "
            "signs alone"
        )
    learnt = spread(len(test), rows)
    chosen = set(learnt)
    others = [row for row in range(len(test)) if row not in chosen]
    tested = test.select([others[place] for place in spread(len(others), TESTED)])
    options: dict[str, Any] = {
        "test": tested,
        "recipe": Plan("audit", QUICK, "resnet9-screen", rows=rows),
        "seeds": (seed,),
        "image_size": size,
        "device": device,
        "samples": 0,
        "progress": False,
    }
    clean = _accuracies(evaluate(clean=test.select(learnt), defenses=DEFENSES[:1], **options))["erm"]
    accuracies = _accuracies(evaluate(protected=pictures, defenses=DEFENSES, **options))
    margin = MARGIN + 2 * (2 * 0.25 / len(tested)) ** 0.5
    return Measured(clean, accuracies, rows, len(tested), margin)


def _accuracies(report: Report) -> dict[str, float]:
    """Last accuracy by the defense's label; a training that diverged learnt nothing."""
    return {cell["defense"]["label"]: cell["result"].get("last", 0.0) for cell in report.cells}
