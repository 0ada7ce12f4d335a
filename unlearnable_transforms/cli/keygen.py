"""``unlearnable keygen``: make a private key."""

import argparse
from pathlib import Path
from typing import Any

from . import say


def add_to(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser("keygen", help="make a private key", description="Make a private key in a new file.")
    parser.add_argument("path", type=Path, metavar="PATH", help="the key file to write; an existing file is refused")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Write a new key, mode 0600, and name its fingerprint."""
    from ..key import Key

    if not args.path.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {args.path.parent} to write the key to")
    key = Key.generate()
    key.save(args.path)
    say(f"Wrote {args.path}, fingerprint {key.fingerprint}.")
    say("Back it up and never publish it: it cannot be made again, and whoever has it can undo the protection.")
