"""Protection methods, one file each; a decorated class in a file of this package is found by its name."""

import importlib
import pkgutil

from .base import REGISTRY, Poison


def _discover() -> dict[str, type[Poison]]:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return REGISTRY


def list_poisons() -> list[str]:
    """Names of all methods, sorted, as the command line and :func:`get_poison` take them."""
    return sorted(_discover())


def get_poison(name: str) -> type[Poison]:
    """The class of a method.

    Raises:
        KeyError: no such method; the message lists those there are.
    """
    try:
        return _discover()[name]
    except KeyError:
        raise KeyError(f"there is no method {name!r}; the methods are {list_poisons()} (docs/compare.md)") from None
