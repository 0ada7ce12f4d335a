"""Classes by name: methods, defenses, or whatever else one file a piece makes known."""

import importlib
import pkgutil
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from .errors import UsageError, UsageKeyError, did_you_mean

T = TypeVar("T")
C = TypeVar("C", bound=Any)


class Registry(dict[str, T]):
    """What the files of a package registered.

    ``kind`` is the noun for messages, ``package`` is imported, file by file, when something is looked up, and ``page``
    of the docs is named in messages.
    """

    def __init__(self, kind: str, package: str, page: str) -> None:
        self.kind, self.package, self.page = kind, package, page
        self.unlisted: set[str] = set()

    def register(self, name: str, *, listed: bool = True) -> Callable[[C], C]:
        """Decorator: make a class, or a function, known under ``name``, which becomes its attribute ``name``. A name
        that another has is a ValueError."""

        def add(item: C) -> C:
            other = self.get(name)
            if other is not None and _place(other) != _place(item):
                raise UsageError(f"two {self.kind}s are called {name!r}: {other} and {item}")
            item.name = name
            self[name] = item
            if not listed:
                self.unlisted.add(name)
            return item

        return add

    def names(self, pattern: str = "*") -> list[str]:
        """The sorted names that match a shell-style pattern."""
        self._import()
        return sorted(name for name in self.keys() - self.unlisted if fnmatchcase(name, pattern))

    def find(self, name: str) -> T:
        """What has this name.

        Raises:
            KeyError: nothing; the message lists what there is.
        """
        self._import()
        if name not in self:
            known = self.names()
            hint = did_you_mean(name, known)
            raise UsageKeyError(f"there is no {self.kind} {name!r}{hint}; the {self.kind}s are {known} ({self.page})")
        return self[name]

    def _import(self) -> None:
        for module in pkgutil.iter_modules(importlib.import_module(self.package).__path__):
            importlib.import_module(f"{self.package}.{module.name}")


def _place(item: Any) -> tuple[str, str]:
    return item.__module__, item.__qualname__
