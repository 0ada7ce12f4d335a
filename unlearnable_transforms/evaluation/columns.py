"""The columns of a table: defenses by name and arguments, and how they are called."""

import inspect
from dataclasses import fields
from typing import Any

from ..defenses import get_defense
from ..defenses.base import Defense
from ..params import read_value, short
from .recipes import Plan
from .robust import Attack

DEFENSES = ("erm", "grayscale", "jpeg", "coin", "rsk-ff", "at-fgsm")
"""A quick look: plain training and, of each family, what broke the most protections."""


def make_defense(spec: str | Defense, plan: Plan) -> Defense:
    """A defense from its name, with ``:name=value,name=value`` behind it where it is not to be the plan's form of it.

    Raises:
        KeyError: no such defense.
        ValueError: no such argument, or not a number, text, true or false.
    """
    if isinstance(spec, Defense):
        return spec
    name, _, text = spec.partition(":")
    kind = get_defense(name)
    given = _arguments(name, text, list(inspect.signature(kind).parameters))
    if not given and name in plan.columns:
        given = dict(plan.columns[name].arguments)
    return kind(**given)


def make_attack(spec: str | Attack) -> Attack:
    """An attack from its norm, with ``:name=value,name=value`` behind it.

    Raises:
        ValueError: no such norm or argument, or a value out of range.
    """
    if isinstance(spec, Attack):
        return spec
    norm, _, text = spec.partition(":")
    known = [each.name for each in fields(Attack) if each.name != "norm"]
    return Attack(norm, **_arguments(norm, text, known))  # type: ignore[arg-type]  # which norms there are it says


def _arguments(name: str, text: str, known: list[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        argument, equals, value = part.partition("=")
        if not equals or argument not in known:
            raise ValueError(f"{name} has the arguments {known}, got {part!r}")
        given[argument] = None if value == "null" else read_value(value)
    return given


def defense_label(defense: Defense) -> str:
    """The name, with those arguments that differ from the constructor's defaults."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(type(defense)).parameters.items()}
    changed = {name: value for name, value in defense.arguments().items() if value != defaults[name]}
    return " ".join([defense.name, *(f"{name}={short(value)}" for name, value in changed.items())])
