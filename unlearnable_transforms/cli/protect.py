"""``unlearnable protect``: folders of pictures, Parquet files, saved data sets and Hub data sets, protected."""

import argparse
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..warn import warn
from . import say
from .method import add_column_options, add_label_options, add_method_options, count, make_poison

INCOMPLETE = 1  # some pictures could not be read, or the disk is full


def add_to(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "protect",
        help="protect a folder of pictures or a data set",
        description="Protect a folder of pictures, Parquet, a saved data set or one of the Hugging Face Hub. "
        "Interrupted and started again, it goes on where it stopped.",
        epilog="Exit code: 0, 1 if pictures could not be read or the disk is full, 2 for an error, 130 after Ctrl-C.",
    )
    add = parser.add_argument
    add("source", metavar="SOURCE", help="folder of pictures, Parquet file or folder, saved data set, or Hub name")
    add("out", type=Path, metavar="OUT", help="new or empty folder; or one that the same command began")
    add("--key", type=Path, required=True, metavar="FILE", help="private key, see `unlearnable keygen`")
    add_label_options(parser)
    folders = parser.add_argument_group("folders of pictures")
    folders.add_argument("--label", metavar="NAME", help="one class for all: an album, an artist or a person")
    folders.add_argument(
        "--format",
        type=_format,
        choices=("png", "webp", "jpeg"),
        default="png",
        help="png and webp lose nothing (default: png)",
    )
    folders.add_argument("--quality", type=_quality, metavar="N", help="of JPEG, 1..100 (default: 95)")
    folders.add_argument(
        "--keep-metadata",
        choices=("none", "icc"),
        default="icc",
        help="icc keeps the colour space, none converts to sRGB; all other metadata goes, always (default: icc)",
    )
    tables = parser.add_argument_group("data sets")
    tables.add_argument("--config", metavar="NAME", help="configuration of a Hub data set")
    add_column_options(tables)
    tables.add_argument(
        "--keep-column",
        action="append",
        default=[],
        metavar="COLUMN",
        help="another column of pictures, to stay unprotected as it is; again for each",
    )
    both = parser.add_argument_group("for all")
    both.add_argument(
        "--keep-split",
        action="append",
        default=[],
        metavar="NAME",
        help="write a split that is not training data too, unprotected; again for each",
    )
    both.add_argument("--fraction", type=float, default=1.0, metavar="F", help="share to protect (default: 1)")
    both.add_argument("--workers", type=count, metavar="N", help="processes (default: one a core)")
    both.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray: workers are actors of a Ray cluster, of the one that RAY_ADDRESS names or of this machine (default: "
        "local)",
    )
    both.add_argument("--ledger", type=Path, metavar="PATH", help="private record (default: in the cache folder)")
    add_method_options(parser)
    parser.set_defaults(run=run, resume="; run the same command again to continue")


def _format(text: str) -> str:
    return "jpeg" if text.lower() == "jpg" else text.lower()


def _quality(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"a whole number in 1..100, not {text!r}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Protect; print what was done.

    Returns:
        The exit code.
    """
    from ..data.codec import Codec
    from ..jobs.workers import cores
    from ..protection.protect import protect_source

    if args.quality is not None and args.format != "jpeg":
        raise UsageError("--quality is for --format jpeg: png and webp are lossless here")
    if args.labels is not None and args.label_key is not None:
        raise UsageError("--label-key has no meaning for --labels: other classes stand in for the labels")
    table = Path(args.labels) if args.labels not in (None, "auto", "folder") else None
    for path in (args.key, args.ledger, table):
        if path is not None and args.out.resolve() in path.resolve().parents:
            raise UsageError(f"{path} lies in {args.out}, which will be published: put it elsewhere")
    try:
        poison = make_poison(args)
        if args.format == "jpeg":
            warn(
                "JPEG loses detail: methods that add a small pattern lose much of their effect, filters such as "
                "CUDA's less. png and webp keep every pixel as it was made",
            )
        summary = protect_source(
            args.source,
            args.out,
            poison,
            codec=Codec(args.format, args.quality or 95, args.keep_metadata == "icc"),
            fraction=args.fraction,
            label=args.label,
            labels=args.labels,
            clusters=args.clusters,
            backbone=args.backbone,
            keep_splits=args.keep_split,
            keep_columns=args.keep_column,
            config=args.config,
            workers=args.workers or cores(),
            engine=args.engine,
            ledger=args.ledger,
            progress=True,
        )
    except OSError as error:
        if not _is_full(error):
            raise
        say(
            f"unlearnable: error: {error.strerror} ({error.filename or args.out}): make room and run the same command "
            "again to continue",
            error=True,
        )
        return INCOMPLETE
    say(*summary.lines())
    if summary.failed:
        say(
            f"unlearnable: {len(summary.failed)} pictures could not be read and are not in {args.out}; repair or "
            "remove them and run the same command again",
            error=True,
        )
        return INCOMPLETE
    return 0


def _is_full(error: OSError) -> bool:
    import errno

    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
