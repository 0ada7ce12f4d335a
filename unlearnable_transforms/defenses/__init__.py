"""Defenses, one file a family; a decorated class in a file of this package is found by its name."""

import importlib
import pkgutil

from .base import REGISTRY, Defense


def _discover() -> dict[str, type[Defense]]:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return REGISTRY


def list_defenses() -> list[str]:
    """Names of all defenses, sorted, as the command line and :func:`get_defense` take them."""
    return sorted(_discover())


def get_defense(name: str) -> type[Defense]:
    """The class of a defense.

    Raises:
        KeyError: no such defense; the message lists those there are.
    """
    try:
        return _discover()[name]
    except KeyError:
        raise KeyError(f"there is no defense {name!r}; the defenses are {list_defenses()} (docs/defenses.md)") from None
