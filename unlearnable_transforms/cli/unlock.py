"""``unlearnable unlock``: the clean images of a protected folder or data set, with the key."""

import argparse
from pathlib import Path
from typing import Any

from . import say
from .method import add_column_options, add_key_options, add_method_options, count, make_poison


def add_to(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "unlock",
        help="undo the protection of a folder of images or a data set",
        description="Undo what `unlearnable protect` made, with its key, its method options and its ledger: exactly "
        "where noise was added, nearly where a filter was. After an error, such as another key, nothing is written.",
    )
    add = parser.add_argument
    add(
        "source",
        metavar="SOURCE",
        help="protected folder of images, Parquet file or folder, saved data set, Hub name",
    )
    add("out", type=Path, metavar="OUT", help="new or empty folder: images become PNG, data sets Parquet")
    add_key_options(parser, "the private key", required=True)
    add("--ledger", type=Path, metavar="PATH", help="the private record (default: found in the cache folder)")
    add("--label", metavar="NAME", help="the class of all images, if `protect` was given one")
    add("--clean", metavar="SOURCE", help="the clean folder or data set, to print how close the result is")
    add(
        "--changed",
        action="store_true",
        help="images were resized or saved as JPEG since: without a ledger another key goes unnoticed then",
    )
    add("--config", metavar="NAME", help="configuration of a Hub data set")
    add_column_options(parser)
    add("--workers", type=count, metavar="N", help="processes (default: one a core)")
    add_method_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Undo; print what was done."""
    from ..jobs.workers import cores
    from ..protection.unlock_source import unlock_source

    lines = unlock_source(
        args.source,
        args.out,
        make_poison(args),
        ledger=args.ledger,
        label=args.label,
        clean=args.clean,
        config=args.config,
        changed=args.changed,
        workers=args.workers or cores(),
        progress=True,
    )
    say(*lines)
