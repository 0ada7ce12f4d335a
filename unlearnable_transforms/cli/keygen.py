"""``unlearnable keygen``: make a private key."""

import argparse
from pathlib import Path
from typing import Any

from ..errors import UsageError
from . import say
from .method import add_key_options, load_key


def add_to(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser("keygen", help="make a private key", description="Make a private key in a new file.")
    parser.add_argument("path", type=Path, metavar="PATH", help="the key file to write; an existing file is refused")
    add_key_options(parser, "write no new key, but one that --derive makes from this one, to hand it on alone")
    parser.add_argument(
        "--signing",
        action="store_true",
        help="a pair of keys that sign what you publish (Ed25519): the private one in PATH, for `publish "
        "--signing-key`, and the public one in PATH.pub, for others",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Write a new key, mode 0600, and name its fingerprint."""
    from ..key import Key

    if not args.path.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {args.path.parent} to write the key to")
    if args.signing:
        _make_pair(args)
        return
    if args.key is not None and args.derive is None:
        raise UsageError("--derive NAME says which key to make from that of --key")
    key = Key.generate() if args.key is None else load_key(args)
    key.save(args.path)
    say(f"Wrote {args.path}, fingerprint {key.fingerprint}.")
    again = "it cannot be made again" if args.key is None else f"{args.key} makes it again"
    say(f"Back it up and never publish it: {again}, and whoever has it can undo the protection.")


def _make_pair(args: argparse.Namespace) -> None:
    from ..publishing.signature import load_public_key, make_signing_key

    if args.key is not None:
        raise UsageError("--signing makes a new pair of keys, which belongs to no protection key: leave --key out")
    public = make_signing_key(args.path)
    say(f"Wrote {args.path}, private, and {public}, public key {load_public_key(public)}.")
    say(f"Back up {args.path} and never publish it: whoever has it can sign in your name. Give {public} to all.")
