"""``unlearnable methods``: what there is to choose from."""

import argparse
import inspect
import textwrap
from typing import Any

from . import say


def add_to(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    text = "list the protection methods"
    parser = commands.add_parser("methods", help=text, description=f"{text.capitalize()}.")
    parser.add_argument("name", nargs="?", metavar="NAME", help="instead, the arguments of this method")
    parser.add_argument(
        "--recommended", type=int, metavar="SIDE", help="instead, what to take for images of this side, and why"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print name, class and first line of each method; the arguments of one; or the recommended one."""
    if args.recommended is not None:
        from ..evaluation.recommended import recommended

        say(*str(recommended(args.recommended)).split("\n"))
        return
    from ..params import argument_rows
    from ..poisons import get_poison, list_poisons

    if args.name is not None:
        method = get_poison(args.name)
        lines = [(inspect.getdoc(method) or "").partition("\n")[0]]
        for argument, rule, default, doc in argument_rows(method, text=True):
            lines += ["", f"{argument}: {rule}{default and f' (default: {default})'}"]
            lines += textwrap.wrap(doc, 100, initial_indent="    ", subsequent_indent="    ")
        say(*lines)
        return
    rows = []
    for name in list_poisons():
        method = get_poison(name)
        rows.append((name, method.__name__, (inspect.getdoc(method) or "").partition("\n")[0]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
