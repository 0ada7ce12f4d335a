"""What the library says: the base of its errors and warnings, and text that any terminal can show."""

import difflib
import unicodedata
from collections.abc import Iterable
from typing import Any


class UnlearnableError(Exception):
    """Base of all errors that the library raises on purpose: each says what is wrong and names the next step.

    Every subclass has a built-in error as its second base, so that ``except ValueError`` goes on working.
    """


class UsageError(UnlearnableError, ValueError):
    """An argument, a file or a dataset that cannot be used."""


class UsageTypeError(UnlearnableError, TypeError):
    """Something of a kind that is refused."""


class UsageKeyError(UnlearnableError, KeyError):
    """A name that is not there: a method, a column, a fit."""

    def __str__(self) -> str:
        return str(self.args[0])  # a KeyError puts it in quotes


class WorkError(UnlearnableError, RuntimeError):
    """Work that cannot go on: the message says why, and how to continue."""


class DivergedError(UnlearnableError, FloatingPointError):
    """A training whose loss is no longer finite."""


class UnlearnableWarning(UserWarning):
    """Base of all warnings of the library."""


def printable(text: object) -> str:
    """Text as one line that any terminal shows as it is: names of files, classes and columns, manifests of others.

    Control characters, line ends, invisible marks and bytes that are no text become escapes such as ``\\x1b``.
    """
    return "".join(
        mark if mark.isprintable() or unicodedata.category(mark) == "Zs" else mark.encode("unicode_escape").decode()
        for mark in str(text)
    )


def did_you_mean(text: Any, known: Iterable[str]) -> str:
    """``: did you mean 'steps'?``, where something known comes close."""
    close = difflib.get_close_matches(str(text), list(known), 1)
    return f": did you mean {close[0]!r}?" if close else ""
