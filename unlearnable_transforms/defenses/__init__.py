"""Defenses, one file a family; a decorated class in a file of this package is found by its name."""

from .base import REGISTRY, Defense


def list_defenses(pattern: str = "*") -> list[str]:
    """Sorted names of the defenses that match the shell-style ``pattern``, as :func:`get_defense` takes them.

    "erm", plain training, is among them.
    """
    return REGISTRY.names(pattern)


def get_defense(name: str) -> type[Defense]:
    """The class of a defense.

    Raises:
        KeyError: no such defense; the message names the nearest one and lists all.
    """
    return REGISTRY.find(name)
