"""How a whole table is trained: the recipe, its victim, how many rows, and what some defenses need to say anything."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import UsageKeyError, did_you_mean
from ..training.loop import DIGITS, SCREEN, Recipe
from ..victims.registry import has_weights


@dataclass(frozen=True)
class Column:
    """One defense under one recipe: ``arguments`` where it is asked for by its bare name; ``epochs`` in place of the
    recipe's, for every form of the defense and for its clean control alike."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    epochs: int | None = None


@dataclass(frozen=True)
class Plan:
    """A recipe of plain training with its default victim, the number of training rows (None takes all), settings of
    defenses by their names, and the recipe of victims that start from weights (None is ``FINE_TUNING``)."""

    name: str
    recipe: Recipe
    victim: str
    rows: int | None = None
    columns: Mapping[str, Column] = field(default_factory=dict)
    started: Recipe | None = None

    def screening(self) -> "Plan":
        """The same with a third of the epochs, for a first look at many defenses."""

        def shorter(recipe: Recipe) -> Recipe:
            return replace(recipe, epochs=max(2, recipe.epochs // 3))

        columns = {name: replace(column, epochs=column.epochs and max(2, column.epochs // 3)) for name, column in
                   self.columns.items()}  # fmt: skip
        columns["smoothing"] = Column({"copies": 10})  # its test costs more than a short training by 100
        started = shorter(self.started or FINE_TUNING)
        name = f"{self.name}, screening"
        return replace(self, name=name, recipe=shorter(self.recipe), columns=columns, started=started)

    def training(self, victim: str, defense: str) -> Recipe:
        """The recipe that this victim gets under this defense."""
        recipe = self.recipe
        if victim.startswith("deit") and recipe.optimizer == "sgd":  # does not train with SGD at 0.1
            recipe = replace(recipe, optimizer="adamw", max_lr=1e-3, weight_decay=0.05, schedule="cosine", warmup=0.1)
        if has_weights(victim):
            recipe = self.started or FINE_TUNING
        epochs = [self.columns[part].epochs or 0 for part in defense.split(" + ") if part in self.columns]
        return replace(recipe, epochs=max(epochs)) if any(epochs) else recipe


# Radii and epochs of the adversarial columns: chosen on validation rows and clean data alone, such that the clean
# control stays well above 50 %. docs/evaluate.md has the figures, but for at-bullet, which has at-pgd's, unmeasured.
_SCREEN_ADVERSARIAL = {
    "at-fgsm": Column({"eps": 4 / 255}, epochs=20),
    "at-pgd": Column({"eps": 2 / 255, "steps": 3}, epochs=20),
    "at-bullet": Column({"eps": 2 / 255, "steps": 3}, epochs=20),
    "trades": Column({"eps": 2 / 255, "step_size": 1 / 255, "steps": 3}, epochs=20),
}

FINE_TUNING = Recipe(epochs=8, batch_size=32, max_lr=0.02, weight_decay=1e-4, schedule="cosine", warmup=0.1, bf16=False)
"""All layers of a network with ImageNet weights; the rate was chosen on held-out clean photographs. In float32: on a
CPU depthwise convolutions train twice as fast in it as in bfloat16."""
PHOTOGRAPHS = Recipe(epochs=40, batch_size=64, max_lr=0.1)
"""A small network from scratch on 1,600 photographs: it must be trained to the end to learn what protects them."""
PAPER_RECIPE = Recipe(
    epochs=60, batch_size=128, max_lr=0.1, schedule="cosine", warmup=0.0, nesterov=False, weight_decay=5e-4
)
"""What most of the literature trains CIFAR-10 victims with: SGD 0.1, momentum 0.9, cosine to 0, crop and flip."""

SPEEDRUN = Recipe(
    epochs=8, batch_size=2000, max_lr=0.24, momentum=0.6, weight_decay=2e-6, warmup=0.0, label_smoothing=0.2,
    augment="translate-flip", optimizer="muon",
)  # fmt: skip
"""airbench94 (Jordan, arXiv 2404.00498): about 94 % on CIFAR-10 from 50,000 rows."""

PLANS = {
    plan.name: plan
    for plan in (
        Plan("screen", SCREEN, "resnet9-screen", rows=10_000, columns=_SCREEN_ADVERSARIAL),
        Plan("speedrun", SPEEDRUN, "airbench94"),
        Plan("paper", PAPER_RECIPE, "resnet18"),
        Plan("digits", DIGITS, "smallcnn"),
        Plan("photographs", PHOTOGRAPHS, "resnet9-screen"),
    )
}


def get_plan(recipe: "str | Recipe | Plan") -> Plan:
    """A plan by its name; a bare :class:`Recipe` becomes one, with the screen's victim.

    Raises:
        KeyError: no such recipe.
    """
    if isinstance(recipe, Plan):
        return recipe
    if isinstance(recipe, Recipe):
        return Plan("own", recipe, "resnet9-screen", started=recipe)
    if recipe not in PLANS:
        hint = did_you_mean(recipe, PLANS)
        raise UsageKeyError(f"there is no recipe {recipe!r}{hint}; the recipes are {sorted(PLANS)} (docs/evaluate.md)")
    return PLANS[recipe]
