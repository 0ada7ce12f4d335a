"""The columns of a table: defenses by name and arguments, and how they are called."""

import inspect
from dataclasses import fields
from typing import Any

from ..defenses import get_defense
from ..defenses.base import Defense
from ..defenses.compose import Composed
from ..errors import UsageError
from ..params import read_value, short
from .recipes import Plan
from .robust import Attack

DEFENSES = ("erm", "grayscale", "jpeg", "coin", "rsk-ff", "at-fgsm")
"""A quick look: plain training and, of each family, what broke the most protections."""


def make_defense(spec: str | Defense, plan: Plan) -> Defense:
    """A defense from its name, with ``:name=value,name=value`` behind it where it is not to be the plan's form of it.

    Several names with " + " between them are one defense: ``jpeg:quality=10 + rsk-ff``.

    Raises:
        KeyError: no such defense.
        ValueError: no such argument, or not a number, text, true or false.
    """
    if isinstance(spec, Defense):
        return spec
    if "+" in spec:
        return Composed([make_defense(part.strip(), plan) for part in spec.split("+")])
    name, _, text = spec.partition(":")
    kind = get_defense(name)
    arguments = _arguments(name, text, list(inspect.signature(kind).parameters))
    if not arguments and name in plan.columns:
        arguments = dict(plan.columns[name].arguments)
    return kind(**arguments)


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
    arguments: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        argument, equals, value = part.partition("=")
        if not equals or argument not in known:
            raise UsageError(f"{name} has the arguments {known}, got {part!r}")
        arguments[argument] = None if value == "null" else read_value(value)
    return arguments


def defense_label(defense: Defense) -> str:
    """The name, with those arguments that differ from the constructor's defaults."""
    if isinstance(defense, Composed):
        return " + ".join(defense_label(part) for part in defense.parts)
    defaults = {name: parameter.default for name, parameter in inspect.signature(type(defense)).parameters.items()}
    changed = {name: value for name, value in defense.arguments().items() if value != defaults[name]}
    return " ".join([defense.name, *(f"{name}={short(value)}" for name, value in changed.items())])
