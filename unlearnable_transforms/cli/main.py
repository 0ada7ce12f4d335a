"""The command line: parses arguments, calls a command, turns our errors into one line."""

import argparse
import sys
import traceback
from collections.abc import Sequence

from .. import __version__
from . import (
    ERROR,
    INTERRUPTED,
    audit,
    cache,
    evaluate,
    fit,
    keygen,
    methods,
    protect,
    publish,
    quickstart,
    unlock,
    verify,
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands. Building it imports nothing heavy: the commands import what they use."""
    parser = argparse.ArgumentParser(
        prog="unlearnable", description="Protect pictures from being trained on without consent."
    )
    parser.add_argument("--version", action="version", version=f"unlearnable-transforms {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (quickstart, keygen, fit, protect, evaluate, audit, publish, verify, unlock, methods, cache):
        command.add_to(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; default: those of the process.

    Returns:
        The exit code: what the command says, else 0; 2 for an error, told in one line on stderr; 130 after Ctrl-C.
    """
    args = build_parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if args.traceback or not _is_ours(error):
            raise
        text = str(error.args[0]) if isinstance(error, KeyError) else str(error)  # a KeyError's str is in quotes
        print("unlearnable: error:", " ".join(text.split()), file=sys.stderr)
        return ERROR


def _is_ours(error: Exception) -> bool:
    """Whether the library raised it on purpose, or the system refused a file; anything else is a bug to be seen."""
    if isinstance(error, OSError):
        return True
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    module = str(frame.f_globals.get("__name__", ""))
    told = isinstance(error, ImportError | LookupError | RuntimeError | TypeError | ValueError)
    return told and module.split(".")[0] == __name__.split(".")[0]


if __name__ == "__main__":
    sys.exit(main())
