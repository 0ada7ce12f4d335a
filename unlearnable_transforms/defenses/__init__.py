"""Defenses, one file a family; a decorated class in a file of this package is found by its name."""

import importlib
import pkgutil
from difflib import get_close_matches
from fnmatch import fnmatchcase

from .base import REGISTRY, Defense


def _discover() -> dict[str, type[Defense]]:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return REGISTRY


def list_defenses(pattern: str = "*") -> list[str]:
    """Sorted names of the defenses that match the shell-style ``pattern``, as :func:`get_defense` takes them.

    "erm", plain training, is among them.
    """
    return sorted(name for name in _discover() if fnmatchcase(name, pattern))


def get_defense(name: str) -> type[Defense]:
    """The class of a defense.

    Raises:
        KeyError: no such defense; the message names the nearest one and lists all.
    """
    known = _discover()
    if name not in known:
        near = "".join(f" (did you mean {each!r}?)" for each in get_close_matches(name, known, 1))
        raise KeyError(f"there is no defense {name!r}{near}; the defenses are {list_defenses()} (docs/defenses.md)")
    return known[name]
