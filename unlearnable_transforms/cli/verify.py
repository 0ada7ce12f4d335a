"""``unlearnable verify``: whether a protected folder or a published set is whole, and whether a key fits."""

import argparse
from pathlib import Path
from typing import Any

from ..errors import UsageError
from . import say
from .method import add_key_options, load_key


def add_to(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "verify",
        help="is a protected folder or a published set whole, and does a key fit",
        description="Compare a folder that `unlearnable protect` wrote with the private record of it: what is missing, "
        "added, changed or unprotected. The folder may lie elsewhere by now. A published set is compared with its "
        "protection.json, and checked again as before publishing: images, tables, card, croissant.json. With "
        "--public-key it has to be signed. C2PA signatures of images are checked, too.",
        epilog="Exit code: 0 if all is as it was protected or published, 1 if not or if something leaks, 2 for an "
        "error, 3 if the key does not fit.",
    )
    add = parser.add_argument
    add("source", metavar="FOLDER", help="protected folder; published set, or its name on the Hub")
    add_key_options(parser, "the key; of a published set also the one it was derived from")
    add("--ledger", type=Path, metavar="PATH", help="record of a protected folder (default: found by the images in it)")
    add("--revision", metavar="NAME", help="of the Hub's repository (default: main)")
    add("--public-key", type=Path, metavar="FILE", help="public key of the publisher: the set has to be signed with it")
    add("--c2pa-trust", type=Path, metavar="PEM", help="certificates that you trust, for images signed with C2PA")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Verify; print the verdict.

    Returns:
        The exit code.
    """
    from ..data.c2pa import read_anchors
    from ..protection.verify_folder import verify_folder
    from ..publishing.manifest import verify
    from ..publishing.signature import load_public_key
    from ..publishing.stage import MANIFEST

    key = None if args.key is None else load_key(args)
    public_key = None if args.public_key is None else load_public_key(args.public_key)
    anchors = None if args.c2pa_trust is None else read_anchors(args.c2pa_trust)
    folder = Path(args.source)
    if folder.is_dir() and not (folder / MANIFEST).exists():
        if args.revision is not None:
            raise UsageError(f"--revision is for sets of the Hub, and {folder} lies here")
        if public_key is not None:
            raise UsageError(f"--public-key is for published sets, and {folder} has no {MANIFEST} that could be signed")
        beside = None if args.key is None else args.key.parent
        verdict: Any = verify_folder(folder, key, args.ledger, beside, anchors)
    elif args.ledger is not None:
        raise UsageError(f"--ledger is for folders that protect wrote; {folder} was published, and has a {MANIFEST}")
    else:
        verdict = verify(args.source, key, args.revision, public_key=public_key, anchors=anchors)
    say(*verdict.lines())
    return verdict.exit_code
