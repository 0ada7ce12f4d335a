"""What the library says: the base of its errors and warnings, and text that any terminal can show."""

import unicodedata


class UnlearnableError(Exception):
    """Base of all errors that the library raises on purpose: each says what is wrong and names the next step.

    Every subclass has a built-in error as its second base, so that ``except ValueError`` goes on working.
    """


class UsageError(UnlearnableError, ValueError):
    """An argument, a file or a dataset that cannot be used."""


class UsageTypeError(UnlearnableError, TypeError):
    """Something of a kind that is refused."""


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
