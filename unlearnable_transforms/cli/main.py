"""The command line: parses arguments, calls a command, prints errors of the library as one line."""

import argparse
import io
import re
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

from .. import __version__
from ..errors import UnlearnableError, UsageError, did_you_mean
from ..files import beside
from . import (
    ERROR,
    INTERRUPTED,
    app,
    audit,
    cache,
    evaluate,
    fit,
    keygen,
    methods,
    preview,
    protect,
    publish,
    quickstart,
    say,
    unlock,
    verify,
    warnings_as_lines,
)
from .wording import in_options

COMMANDS = (quickstart, app, keygen, preview, fit, protect, evaluate, audit, publish, verify, unlock, methods, cache)
_INPUT_LIBRARIES = ("datasets", "httpx", "huggingface_hub", "pyarrow")  # their errors speak of files and the network


class Parser(argparse.ArgumentParser):
    """A parser that names the choice which was probably meant."""

    def error(self, message: str) -> NoReturn:
        choice = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        super().error(message + (did_you_mean(choice[1], re.findall(r"[\w-]+", choice[2])) if choice else ""))

    def print_help(self, file: Any = None) -> None:
        say(*self.format_help().rstrip().split("\n"))


def build_parser() -> Parser:
    """The parser of all commands. Building it imports nothing heavy: the commands import what they use."""
    parser = Parser(prog="unlearnable", description="Protect images from being trained on without consent.")
    parser.add_argument("--version", action="version", version=f"unlearnable-transforms {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_to(commands)
    for subparser in commands.choices.values():
        others = [other for other in commands.choices.values() if other is not subparser]
        subparser.set_defaults(parser=subparser, reworded=partial(in_options, parsers=[subparser, *others]))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; default: those of the process.

    Returns:
        The exit code: what the command says, else 0; 2 for an error, printed as one line on stderr; 130 after Ctrl-C.

    Raises:
        SystemExit: arguments that cannot be parsed, code 2; help, code 0.
        Exception: a bug of the library, and every error with ``--traceback``.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may know fewer letters than the names have
    parser = build_parser()
    args = _parse(parser, sys.argv[1:] if argv is None else list(argv))
    try:
        with warnings_as_lines(args.reworded):
            _check_keys(args)
            return args.run(args) or 0
    except KeyboardInterrupt:
        say("", f"stopped{getattr(args, 'resume', '')}", error=True)
        return INTERRUPTED
    except Exception as error:
        if args.traceback or not _is_message(error):
            raise
        text = " ".join(args.reworded(str(error)).split()) or type(error).__name__
        say(f"unlearnable: error: {text}", error=True)
        return ERROR


def _parse(parser: Parser, argv: list[str]) -> argparse.Namespace:
    args, unknown = parser.parse_known_args(argv or ["--help"])
    if unknown:
        meant = did_you_mean(unknown[0], re.findall(r"--[\w-]+", args.parser.format_help()))
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}{meant}")
    return args


def _check_keys(args: argparse.Namespace) -> None:
    key = getattr(args, "key", None)
    paths = key if isinstance(key, list) else [] if key is None else [key]
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(
                f"there is no key file {path}{beside(path)}; `unlearnable keygen {path}` makes a new key"
            )
    if getattr(args, "derive", None) is not None and not paths:
        raise UsageError("--derive makes a key from that of --key FILE: name the file, too")


def _is_message(error: Exception) -> bool:
    """Whether an error speaks of what the user passed, or of the system; anything else is a bug to be seen."""
    library = type(error).__module__.partition(".")[0]
    return isinstance(error, UnlearnableError | OSError | ImportError) or library in _INPUT_LIBRARIES


if __name__ == "__main__":
    sys.exit(main())
