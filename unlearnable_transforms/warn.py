"""Warnings that name the caller's own line."""

import sys
import warnings

from .errors import UnlearnableWarning

PACKAGE = __name__.partition(".")[0]


def warn(message: str, category: type[UnlearnableWarning] = UnlearnableWarning) -> None:
    """``warnings.warn`` in the name of the nearest caller outside this library, however deep the call came from."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == PACKAGE:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
