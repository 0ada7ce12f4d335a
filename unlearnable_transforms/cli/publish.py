"""``unlearnable publish``: a protected set to the Hub, or to a folder ready for it, if no check finds a leak."""

import argparse
import sys
from pathlib import Path
from typing import Any

from ..errors import UsageError
from . import say
from .method import add_column_options, add_key_options, add_method_options, make_poison

REFUSED = 1
ANSWERS = {"yes": True, "no": False}


def add_to(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "publish",
        help="publish a protected set, if it leaks nothing",
        description="Publish what `unlearnable protect` wrote on the Hugging Face Hub, with a card and a manifest. It "
        "is checked first; nothing is sent before all checks have passed. Interrupted, start it again.",
        epilog="Exit code: 0, 1 if a check found a leak, 2 for an error, 130 after Ctrl-C. "
        "Example: unlearnable publish protected/ user/name --key release.key --report results/",
    )
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help="folder that `unlearnable protect` wrote")
    add("repo", metavar="REPO", help="of the Hub: user/name")
    add_key_options(parser, "the key that it was protected with", required=True)
    add("--original", metavar="SET", help="the clean images, to check against")
    add("--ledger", type=Path, metavar="PATH", help="record of the protection (default: the one in the cache)")
    add("--report", type=Path, metavar="FOLDER", help="results of `unlearnable evaluate`, for the card")
    add("--originals-public", choices=tuple(ANSWERS), help="whether the clean images can be had by everybody")
    add("--signing-key", type=Path, metavar="FILE", help="sign the manifest: a key of `unlearnable keygen --signing`")
    add("--folder", type=Path, metavar="OUT", help="write a folder that is ready to upload, and send nothing")
    visible = parser.add_argument_group("repository")
    visible.add_argument("--private", action=argparse.BooleanOptionalAction, help="who can see it (default: as it is)")
    visible.add_argument("--gated", choices=("auto", "manual"), help="access is granted on request")
    visible.add_argument("--revision", metavar="BRANCH", help="default: main")
    visible.add_argument("--create-pr", action="store_true", help="open a pull request instead")
    card = parser.add_argument_group("card")
    card.add_argument("--license", metavar="NAME", help="identifier of the Hub, such as cc-by-4.0")
    card.add_argument("--description", metavar="TEXT", help="what the set shows")
    card.add_argument("--contact", metavar="TEXT", help="whom to ask for permission or the originals")
    card.add_argument("--no-opt-out", action="store_true", help="do not reserve training and data mining")
    card.add_argument("--no-viewer", action="store_true", help="the Hub shows no copies of the images on its page")
    card.add_argument("--no-picture", action="store_true", help="show no images in the card")
    card.add_argument(
        "--show-originals", action="store_true", help="show four originals of --original in the card, too"
    )
    card.add_argument(
        "--card", type=Path, metavar="FILE", help="earlier README.md whose own text is kept (default: the repository's)"
    )
    allowed = parser.add_argument_group("what may be")
    allowed.add_argument("--rename", action="store_true", help="number the images, and drop their names")
    allowed.add_argument("--label", metavar="NAME", help="images that lie in no class folders: as for protect")
    allowed.add_argument(
        "--keep-column", dest="keep", action="append", default=[], metavar="COLUMN", help="may stay; repeatable"
    )
    allowed.add_argument("--allow-partial", action="store_true", help="unprotected training images, or missing ones")
    allowed.add_argument("--allow-unverified", action="store_true", help="images that nothing confirms as protected")
    allowed.add_argument("--allow-history", action="store_true", help="earlier commits with other data files")
    add_column_options(allowed)
    add_method_options(parser)
    parser.set_defaults(run=run, resume="; run the same command again, what is there already is not sent twice")


def run(args: argparse.Namespace) -> int:
    """Check and publish; say where it is, or what leaks.

    Returns:
        The exit code.
    """
    from ..checks.leaks import LeakError
    from ..publishing.hub import publish

    public = ANSWERS[args.originals_public] if args.originals_public else _ask()
    try:
        done = publish(
            args.source,
            args.repo,
            poison=make_poison(args),
            original=args.original,
            ledger=args.ledger,
            report=args.report,
            folder=args.folder,
            private=args.private,
            gated=args.gated,
            revision=args.revision,
            create_pr=args.create_pr,
            allow_partial=args.allow_partial,
            allow_unverified=args.allow_unverified,
            allow_history=args.allow_history,
            originals_public=public,
            rename=args.rename,
            keep=args.keep,
            label=args.label,
            license=args.license,
            description=args.description,
            contact=args.contact,
            opt_out=not args.no_opt_out,
            signing_key=args.signing_key,
            viewer=not args.no_viewer,
            picture=not args.no_picture,
            show_originals=args.show_originals,
            card=args.card,
        )
    except LeakError as error:
        say(
            "unlearnable: nothing was published:",
            *(f"- {args.reworded(str(leak))}" for leak in error.leaks),
            error=True,
        )
        return REFUSED
    counts = ", ".join(f"{count:,} {status}" for status, count in done.checked.counts.items())
    say(f"{counts}; {done.coverage}", *done.notes)
    say(f"ready to upload: {done.folder}" if done.folder else f"published: {done.url}")
    return 0


def _ask() -> bool:
    """Whether the originals are public, asked on a terminal.

    Raises:
        UsageError: there is no terminal, or no answer.
    """
    while sys.stdin.isatty():
        print("Can the clean images be had by everybody (a known dataset, a gallery on the net)? [yes/no] ", end="")
        try:
            answer = input().strip().lower()
        except EOFError:  # Ctrl-D
            break
        for name, value in ANSWERS.items():
            if answer and name.startswith(answer):
                return value
    raise UsageError("say with --originals-public yes or no whether the clean images can be had by everybody")
