"""``unlearnable audit``: is a set protected, and how well?"""

import argparse
import json
from typing import Any

from . import say
from .method import add_column_options, count


def add_to(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "audit",
        help="report whether a set is protected, and with a clean test set how well",
        description="Look for signs of protection in a labelled set. With --test also train quick victims, plainly and "
        "under three cheap defenses, and test them on clean images. These victims start from nothing.",
        epilog="Exit code: 0 if nothing was found, 1 for signs, a protection, or an owner who reserves training, 2 for "
        "an error, 3 for signs or a protection in a set whose files give something away. "
        "A set is a folder with one folder a class, Parquet, a saved data set or a Hub name.",
    )
    add = parser.add_argument
    add("data", metavar="DATA", help="the set")
    add("--test", metavar="TEST", help="clean images of the same classes")
    add("--json", action="store_true", help="print JSON")
    add("--split", default="train", metavar="NAME", help="of DATA, where it has several (default: train)")
    add_column_options(parser)
    add("--rows", type=count, default=4000, metavar="N", help="images to examine (default: 4000)")
    add("--seed", type=int, default=0, metavar="N", help="of the victims' trainings (default: 0)")
    add("--device", metavar="NAME", help="of the victims: cpu or cuda (default: a GPU where there is one)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Audit; print the verdict and what it rests on.

    Returns:
        The exit code.
    """
    from ..auditing.audit import audit

    found = audit(
        args.data,
        args.test,
        split=args.split,
        image_key=args.image_key,
        label_key=args.label_key,
        rows=args.rows,
        seed=args.seed,
        device=args.device,
    )
    say(*(json.dumps(found.to_dict(), indent=1) if args.json else str(found)).split("\n"))
    return found.exit_code
