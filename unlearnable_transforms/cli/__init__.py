"""The command ``unlearnable``: one file a command, each thin."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import printable

ERROR = 2  # also what argparse exits with
INTERRUPTED = 130  # 128 + SIGINT, as shells say it


def say(*lines: object, error: bool = False) -> None:
    """Print lines on stdout, or on stderr. What is in a line cannot begin another or steer the terminal.

    A reader that has gone away, as in ``| head``, ends neither the work nor changes the exit code.
    """
    stream = sys.stderr if error else sys.stdout
    try:
        print(*map(printable, lines), sep="\n", file=stream, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def warnings_as_lines(reworded: Callable[[str], str]) -> Iterator[None]:
    """Warnings as one line on stderr each, in the words that ``reworded`` makes of theirs."""

    def show(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        say(f"unlearnable: warning: {' '.join(reworded(str(message)).split())}", error=True)

    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = show
        yield
