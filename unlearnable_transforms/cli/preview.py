"""``unlearnable preview``: one photograph in each strength beside the original."""

import argparse
from pathlib import Path
from typing import Any

from . import say
from .method import add_key_options, load_key


def add_to(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "preview",
        help="look at one photograph in each strength, before and after",
        description="Write a private local page that shows a photograph in the strengths subtle, normal and strong of "
        "the method cuda, beside the original and with a slider. Nothing is sent anywhere.",
    )
    add = parser.add_argument
    add("photo", type=Path, metavar="PHOTO", help="an image file")
    add_key_options(parser, "private key, see `unlearnable keygen`", required=True)
    add("--label", metavar="NAME", help="the class, as protect --label (default: the folder of PHOTO, as its class)")
    add("--out", type=Path, metavar="PAGE.html", help="where the page goes (default: in the private cache folder)")
    add("--open", action="store_true", help="open the page in the browser")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Make the page; print where it is, and what is seen on it."""
    from ..evaluation.worth import of_strengths
    from ..protection.preview import preview

    result = preview(args.photo, load_key(args), label=args.label, out=args.out, measured=of_strengths())
    say(*result.lines())
    key = f"--key {args.key}" + (f" --derive {args.derive}" if args.derive else "")
    say(f"protect with the strength that you like: unlearnable protect FOLDER OUT {key} --strength normal")
    if args.open:
        import webbrowser

        if not webbrowser.open(result.page.absolute().as_uri()):
            say("no browser could be started: open the page by hand", error=True)
