"""``unlearnable fit``: make noise for a data set and keep it, for `unlearnable protect` to find."""

import argparse
from typing import Any

from ..errors import UsageError
from . import say
from .method import add_column_options, add_key_options, add_label_options, add_method_options, count, make_poison


def add_to(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "fit",
        help="make the noise of a method that learns from the data, and keep it",
        description="Make the noise of a method that learns from the data and keep it in the cache. `unlearnable "
        "protect` finds it there with the same method, options, labels and key. Interrupted and started again, it goes "
        "on.",
    )
    add = parser.add_argument
    add("source", metavar="SOURCE", help="folder of images, Parquet file or folder, saved data set, or Hub name")
    add_key_options(parser, required=True)
    add("--config", metavar="NAME", help="configuration of a Hub data set")
    add("--max-side", type=count, metavar="N", help="the same as for `unlearnable protect`, which makes them smaller")
    add_column_options(parser)
    add_label_options(parser)
    add_method_options(parser)
    parser.set_defaults(run=run, resume="; what is done is kept, run the same command again to continue")


def run(args: argparse.Namespace) -> int:
    """Fit; print what the fit found.

    Returns:
        The exit code.
    """
    from ..poisons.fitted import FittedPoison
    from ..protection.fit import fit_source

    poison = make_poison(args)
    links = [link for link in poison.links if isinstance(link, FittedPoison)]
    if not links:
        raise UsageError(f"the method {args.method} needs no fit: use `unlearnable protect`")
    fit_source(
        args.source,
        poison,
        labels=args.labels,
        clusters=args.clusters,
        backbone=args.backbone,
        config=args.config,
        max_side=args.max_side,
    )
    for link in links:
        report = link.report
        say(f"{link.name}: noise {link.noise} for {report['rows']} pictures, at most {report['largest_delta']} levels")
        say(
            f"the surrogate is right on {report['surrogate_accuracy']:.1%} of the protected pictures; a linear "
            f"classifier tells the classes of {report['separability']:.1%} of held-out noise"
        )
        if report["quick_protected"] is not None:
            say(
                f"a small network that trained on protected pictures is right on {report['quick_protected']:.1%} of "
                f"others with noise and on {report['quick_clean']:.1%} without"
            )
    return 0
