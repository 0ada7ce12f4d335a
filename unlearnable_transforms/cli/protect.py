"""``unlearnable protect``: folders of images, Parquet files, saved data sets and Hub data sets, protected."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.credit import KEPT, OPT_OUTS
from ..data.sites import sites
from ..errors import UsageError
from ..warn import warn
from . import say
from .method import add_column_options, add_key_options, add_label_options, add_method_options, count, make_poison

if TYPE_CHECKING:
    from ..data.codec import Codec
    from ..poisons.base import Poison

MEASURED_QUALITY = 75  # the lowest of docs/protect.md
INCOMPLETE = 1  # some images were left out, or the disk is full


def add_to(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "protect",
        help="protect a folder of images or a data set",
        description="Protect a folder of images, Parquet, a saved data set or one of the Hugging Face Hub. "
        "Interrupted and started again, it goes on where it stopped.",
        epilog="Exit code: 0, 1 if images were left out or the disk is full, 2 for an error, 130 after Ctrl-C.",
    )
    add = parser.add_argument
    add("source", metavar="SOURCE", help="folder of images, Parquet file or folder, saved data set, or Hub name")
    add("out", type=Path, metavar="OUT", help="new or empty folder; or one that the same command began")
    add_key_options(parser, required=True)
    add_label_options(parser)
    folders = parser.add_argument_group("folders of images")
    folders.add_argument("--label", metavar="NAME", help="one class for all: an album, an artist or a person")
    folders.add_argument(
        "--format",
        type=_format,
        choices=("auto", "png", "webp", "jpeg"),
        help="png and webp lose nothing. auto: JPEG and HEIC files become JPEG, which is several times smaller, "
        "unless the method adds noise, which JPEG takes away; WebP stays WebP, all others become PNG (default: png)",
    )
    folders.add_argument("--quality", type=_quality, metavar="N", help="of JPEG, 1..100 (default: 92)")
    folders.add_argument(
        "--keep-metadata",
        choices=("none", "icc"),
        default="icc",
        help="icc keeps the colour space, none converts to sRGB; all other metadata goes, always (default: icc)",
    )
    folders.add_argument(
        "--convert",
        action="store_true",
        help="also take CMYK, 16 bits a channel and the first frame of animations, as 8-bit RGB; each is named",
    )
    folders.add_argument(
        "--remove-gone",
        action="store_true",
        help="remove from OUT the files of images that are gone from SOURCE (default: they stay, and are named)",
    )
    sizes = parser.add_argument_group("where they will be shown")
    sizes.add_argument(
        "--max-side",
        type=count,
        metavar="N",
        help="make larger images smaller before they are protected: the longest side in pixels",
    )
    sizes.add_argument(
        "--site", choices=list(sites()), metavar="NAME", help="size and format for a site, see --list-sites"
    )
    sizes.add_argument("--list-sites", action=_ListSites, help="print the table of sites, with its sources, and exit")
    said = parser.add_argument_group("in the files")
    said.add_argument(
        "--opt-out",
        type=_opt_out,
        nargs="?",
        const="ai-training",
        metavar="WHAT",
        help=f"prohibit data mining, as IPTC and PLUS write it (XMP): {', '.join(OPT_OUTS)} (default: ai-training)",
    )
    said.add_argument("--creator", action="append", default=[], metavar="TEXT", help="who made them; again for each")
    said.add_argument("--copyright", metavar="TEXT", help='the notice, e.g. "(c) 2026 Ann Lee"')
    said.add_argument(
        "--keep",
        dest="kept_fields",
        type=_names,
        default=(),
        metavar="NAMES",
        help=f"what the originals say of {', '.join(KEPT)}; several with commas. Places are never kept",
    )
    said.add_argument(
        "--c2pa-certificate",
        type=Path,
        metavar="PEM",
        help="sign each file with C2PA, which says what --opt-out says (default: ai-training): your certificate, then "
        "those of the authorities above it",
    )
    said.add_argument("--c2pa-key", type=Path, metavar="PEM", help="private key of that certificate")
    tables = parser.add_argument_group("data sets")
    tables.add_argument("--config", metavar="NAME", help="configuration of a Hub data set")
    add_column_options(tables)
    tables.add_argument(
        "--keep-column",
        dest="keep",
        action="append",
        default=[],
        metavar="COLUMN",
        help="another column of images, to stay unprotected as it is; again for each",
    )
    both = parser.add_argument_group("for all")
    both.add_argument(
        "--keep-split",
        dest="keep_splits",
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


def _opt_out(text: str) -> str:
    if text not in OPT_OUTS:
        raise argparse.ArgumentTypeError(
            f"takes nothing or one of {', '.join(OPT_OUTS)}, not {text!r}: put it behind SOURCE and OUT"
        )
    return text


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if unknown := [name for name in names if name not in KEPT]:
        raise argparse.ArgumentTypeError(f"takes some of {', '.join(KEPT)}, not {', '.join(map(repr, unknown))}")
    return names


class _ListSites(argparse.Action):
    def __init__(self, option_strings: list[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **options)

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        for site in sites().values():
            say(
                f"{site.name}: at most {site.max_side} px, {site.format}, quality {site.quality}; {site.note}",
                f"    {'' if site.sure else 'unsure: '}{site.source}, {site.date}",
            )
        parser.exit()


def _quality(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"a whole number in 1..100, not {text!r}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Protect; print what was done.

    Returns:
        The exit code.
    """
    from ..evaluation.worth import worth
    from ..jobs.workers import cores
    from ..protection.album import shorter_side, write_album_page
    from ..protection.protect import protect_source

    if args.quality is not None and (args.format or ("auto" if args.site else "png")) in ("png", "webp"):
        raise UsageError("--quality is for --format jpeg or auto: png and webp are lossless here")
    if args.labels is not None and args.label_key is not None:
        raise UsageError("--label-key has no meaning for --labels: other classes stand in for the labels")
    table = Path(args.labels) if args.labels not in (None, "auto", "folder") else None
    if (args.c2pa_certificate is None) != (args.c2pa_key is None):
        raise UsageError("--c2pa-certificate and --c2pa-key belong together: give both, or neither")
    for path in (args.key, args.ledger, table, args.c2pa_key):
        if path is not None and args.out.resolve() in path.resolve().parents:
            raise UsageError(f"{path} lies in {args.out}, which will be published: put it elsewhere")
    try:
        poison = make_poison(args)
        codec, max_side = _size_and_codec(args, poison)
        summary = protect_source(
            args.source,
            args.out,
            poison,
            codec=codec,
            fraction=args.fraction,
            label=args.label,
            labels=args.labels,
            clusters=args.clusters,
            backbone=args.backbone,
            keep_splits=args.keep_splits,
            keep_columns=args.keep,
            config=args.config,
            remove_gone=args.remove_gone,
            workers=args.workers or cores(),
            engine=args.engine,
            ledger=args.ledger,
            max_side=max_side,
            progress=True,
            convert=args.convert,
        )
        if summary.images:
            summary.worth = worth(poison, shorter_side(summary))
            summary.page = str(write_album_page(summary))
    except OSError as error:
        if not _is_full(error):
            raise
        say(
            f"unlearnable: error: {error.strerror} ({error.filename or args.out}): make room and run the same command "
            "again to continue",
            error=True,
        )
        return INCOMPLETE
    say(*map(args.reworded, summary.lines()))
    missing = len(summary.failed) + len(summary.left_out)
    if missing:
        say(
            f"unlearnable: left out: {missing} picture{'s' if missing > 1 else ''}, named above with what to do. Then "
            "run the same command again",
            error=True,
        )
        return INCOMPLETE
    return 0


def _size_and_codec(args: argparse.Namespace, poison: "Poison") -> "tuple[Codec, int | None]":
    """What is written, and the longest side: of the options, else of the site, else as they come."""
    from ..data.c2pa import DEFAULT, C2paSigner
    from ..data.codec import AUTO, QUALITY, Codec
    from ..data.credit import credit_from
    from ..poisons.base import is_additive

    site = sites()[args.site] if args.site else None
    additive = is_additive(poison.public_config())
    format = args.format or (site.format if site and not additive else "png")
    quality = args.quality or (site.quality if site else QUALITY)
    if site and format != "jpeg" and additive:
        warn(
            "the pictures are written as PNG, but sites often save them as JPEG, which takes away much of what this "
            "method adds: of noise of 8 levels 36 % is left at quality 85. What --method cuda changes is left whole "
            "(docs/protect.md)"
        )
    elif format == "jpeg" and additive:
        warn(
            "JPEG takes away much of what this method adds: of noise of 8 levels 84 % is left at quality 92, 36 % at "
            "85, 22 % at 75 (docs/protect.md). png and webp keep every pixel as it was made"
        )
    elif format in ("jpeg", AUTO) and quality < MEASURED_QUALITY:
        warn(f"what JPEG {quality} leaves of the protection was not measured; at {MEASURED_QUALITY} it is 97 %")
    said = args.opt_out or args.creator or args.copyright is not None or args.kept_fields
    credit = credit_from(args.opt_out or "", args.creator, args.copyright) if said else None
    max_side = args.max_side or (site.max_side if site else None)
    signer = C2paSigner(args.c2pa_certificate, args.c2pa_key, args.opt_out or DEFAULT) if args.c2pa_key else None
    return Codec(format, quality, args.keep_metadata == "icc", credit, args.kept_fields, signer), max_side


def _is_full(error: OSError) -> bool:
    import errno

    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
