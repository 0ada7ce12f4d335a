"""``unlearnable verify``: whether a published set is as it was published, and whether a key fits."""

import argparse
from pathlib import Path
from typing import Any

from . import say


def add_to(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "verify",
        help="compare a published set with its manifest, and a key with it",
        description="Compare all files of a published set with the checksums in its protection.json, and tell whether "
        "a key is the one that it was protected with.",
        epilog="Exit code: 0 if all is as it was published, 1 if files or the manifest changed, 2 for an error, 3 if "
        "the key does not fit.",
    )
    parser.add_argument("source", metavar="SET", help="folder, or name of the Hub")
    parser.add_argument("--key", type=Path, metavar="FILE", help="the release's key, or the one it was derived from")
    parser.add_argument("--revision", metavar="NAME", help="of the Hub's repository (default: main)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Verify; print what was found.

    Returns:
        The exit code.
    """
    from ..key import Key
    from ..publishing.manifest import verify

    verdict = verify(args.source, None if args.key is None else Key.load(args.key), args.revision)
    say(*verdict.lines())
    return verdict.exit_code
