"""The command line: parses arguments, calls a command, prints errors of the library as one line."""

import argparse
import difflib
import dis
import io
import re
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

from .. import __version__
from ..errors import UnlearnableError
from . import (
    ERROR,
    INTERRUPTED,
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

COMMANDS = (quickstart, keygen, preview, fit, protect, evaluate, audit, publish, verify, unlock, methods, cache)
_INPUT_LIBRARIES = ("datasets", "httpx", "huggingface_hub", "pyarrow")  # their errors speak of files and the network
_DELIBERATE = (ArithmeticError, KeyError, RuntimeError, TypeError, ValueError)


class Parser(argparse.ArgumentParser):
    """A parser that names the choice which was probably meant."""

    def error(self, message: str) -> NoReturn:
        choice = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        super().error(message + (_meant(choice[1], re.findall(r"[\w-]+", choice[2])) if choice else ""))


def build_parser() -> Parser:
    """The parser of all commands. Building it imports nothing heavy: the commands import what they use."""
    parser = Parser(prog="unlearnable", description="Protect images from being trained on without consent.")
    parser.add_argument("--version", action="version", version=f"unlearnable-transforms {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_to(commands)
    for subparser in commands.choices.values():
        subparser.set_defaults(parser=subparser)
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
    args = _parse(sys.argv[1:] if argv is None else list(argv))
    try:
        with warnings_as_lines():
            _check_keys(args)
            return args.run(args) or 0
    except KeyboardInterrupt:
        say("", f"stopped{getattr(args, 'resume', '')}", error=True)
        return INTERRUPTED
    except Exception as error:
        if args.traceback or not _is_message(error):
            raise
        say(f"unlearnable: error: {_message(error, args)}", error=True)
        return ERROR


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = build_parser()
    args, unknown = parser.parse_known_args(argv or ["--help"])
    if unknown:
        meant = _meant(unknown[0], re.findall(r"--[\w-]+", args.parser.format_help()))
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}{meant}")
    return args


def _check_keys(args: argparse.Namespace) -> None:
    keys = getattr(args, "key", None)
    for path in keys if isinstance(keys, list) else [keys]:
        if path is not None and not path.exists():
            raise FileNotFoundError(f"there is no key file {path}; `unlearnable keygen {path}` makes a new key")


def _meant(word: str, choices: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(choices), 1)
    return f"; did you mean {near[0]}?" if near else ""


def _is_message(error: Exception) -> bool:
    """Whether an error speaks of what the user passed, or of the system; anything else is a bug to be seen.

    A built-in error counts where a ``raise`` of the package made it, and not an expression that failed. Errors of
    worker processes have lost that place: there, only those of the library's classes count.
    """
    library = type(error).__module__.partition(".")[0]
    if isinstance(error, UnlearnableError | OSError | ImportError) or library in _INPUT_LIBRARIES:
        return True
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or not isinstance(error, _DELIBERATE) or hasattr(error, "__notes__"):
        return False
    package = str(last.tb_frame.f_globals.get("__name__")).partition(".")[0]
    instruction = dis.opname[last.tb_frame.f_code.co_code[last.tb_lasti]]
    return package == __name__.partition(".")[0] and instruction == "RAISE_VARARGS"


def _message(error: Exception, args: argparse.Namespace) -> str:
    """The text of an error on one line, with arguments of the library named as the command's options."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)  # its str is in quotes
    options = args.parser.format_help()
    for name in vars(args):
        option = f"--{name.replace('_', '-')}"
        if re.search(rf"{option}\b", options):
            text = re.sub(rf"(?<!\w){name}=", f"{option} ", text)
    text = re.sub(r"(--[\w-]+) (?=[.,;)])", r"\1", text)
    return " ".join(text.split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
