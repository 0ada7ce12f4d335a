"""Protection methods, one file each; a decorated class in a file of this package is found by its name."""

from .base import REGISTRY, Poison


def list_poisons(pattern: str = "*") -> list[str]:
    """Sorted names of the methods that match a shell-style pattern, as :func:`get_poison` takes them."""
    return REGISTRY.names(pattern)


def get_poison(name: str) -> type[Poison]:
    """The class of a method.

    Raises:
        KeyError: no such method; the message lists those there are.
    """
    return REGISTRY.find(name)
