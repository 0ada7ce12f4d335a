"""``unlearnable evaluate``: how far victims get on protected images, with and without defenses."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from . import say
from .method import add_column_options, add_key_options, add_method_options, count, make_poison

if TYPE_CHECKING:
    from ..evaluation.report import Report


def add_to(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "evaluate",
        help="train victims on protected images, with and without defenses",
        description="Train victims on clean and on protected images, with and without defenses, and test them on "
        "clean ones. Every training is kept in OUT: started again, a stopped run goes on; more defenses or seeds add "
        "to the table.",
        epilog="A set is a folder with one folder a class, Parquet, a saved data set or a Hub name. "
        "Example: unlearnable evaluate results/ --clean train/ --test test/ --key my.key --defense erm --defense jpeg",
    )
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="folder of the results")
    add("--report", action="store_true", help="compute nothing: draw the report of OUT again")
    add("--clean", metavar="SET", help="unprotected training images")
    add("--test", metavar="SET", help="clean test images")
    add("--protected", metavar="SET", help="training images that somebody protected already")
    add("--attacker-clean", metavar="SET", help="other clean images, for defenses that start from such")
    add_key_options(parser, "protect --clean with it; again for more", action="append", default=[])
    add(
        "--defense",
        dest="defenses",
        action="append",
        metavar="NAME[:ARGUMENT=VALUE,...]",
        help="again for more (default: six quick ones); 'jpeg + rsk-ff' is one after the other; 'search' alone looks "
        "for the worst case",
    )
    add("--budget", type=count, default=40, metavar="N", help="full trainings of --defense search (default: 40)")
    add(
        "--victim",
        dest="victims",
        action="append",
        metavar="NAME",
        help="again for more (default: the recipe's); efficientnet_lite0:weights=imagenet starts from ImageNet weights",
    )
    add("--seed", dest="seeds", type=int, action="append", metavar="N", help="of training, again for more (default: 0)")
    add(
        "--attack",
        dest="attacks",
        action="append",
        default=[],
        metavar="NORM[:ARGUMENT=VALUE,...]",
        help="also test on adversarial images: linf, l2, linf:eps=4/255; again for more",
    )
    recipes = "screen, photographs, speedrun, paper or digits (default: screen)"
    add("--recipe", default="screen", metavar="NAME", help=recipes)
    add(
        "--fraction",
        dest="fractions",
        type=float,
        action="append",
        default=[],
        metavar="F",
        help="also protect only this share",
    )
    add("--no-controls", action="store_true", help="leave out one filter for all, or random noise of equal PSNR")
    add("--rows", type=count, metavar="N", help="training images (default: the recipe's)")
    add("--image-size", type=count, metavar="PIXELS", help="to which victims resize (default: the images' own)")
    add_column_options(parser)
    add("--samples", type=int, default=8, metavar="N", help="images shown in the report; 0 for one that is published")
    add("--workers", type=count, metavar="N", help="processes (default: one a core)")
    add("--device", metavar="NAME", help="cpu or cuda (default: a GPU where there is one)")
    add_method_options(parser)
    parser.set_defaults(run=run, resume="; what is done is kept, run the same command again to continue")


def run(args: argparse.Namespace) -> int:
    """Compute what is missing, print the tables, write the page.

    Returns:
        The exit code.
    """
    from ..evaluation.report import Report

    report = Report.load(args.out) if args.report else _compute(args)
    say(*str(report).split("\n"))
    say("", f"Look at {report.save(args.out)}")
    return 0


def _compute(args: argparse.Namespace) -> "Report":
    from ..evaluation.columns import DEFENSES
    from ..evaluation.evaluate import evaluate
    from ..jobs.workers import cores

    if args.test is None:
        raise UsageError("say with --test which clean pictures to test on (or pass --report to draw OUT again)")
    poisons = [make_poison(argparse.Namespace(**{**vars(args), "key": key})) for key in args.key]
    return evaluate(
        clean=args.clean,
        test=args.test,
        protected=args.protected,
        attacker_clean=args.attacker_clean,
        poisons=poisons,
        defenses="search" if args.defenses == ["search"] else args.defenses or DEFENSES,
        budget=args.budget,
        victims=args.victims,
        seeds=args.seeds or [0],
        attacks=args.attacks,
        recipe=args.recipe,
        out=args.out,
        controls=not args.no_controls,
        fractions=args.fractions,
        image_size=args.image_size,
        rows=args.rows,
        workers=args.workers or cores(),
        device=args.device,
        image_key=args.image_key,
        label_key=args.label_key,
        samples=args.samples,
    )
