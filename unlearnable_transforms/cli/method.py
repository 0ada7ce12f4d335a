"""The options that name a protection method, the same for every command."""

import argparse
import inspect
from typing import TYPE_CHECKING, get_args

if TYPE_CHECKING:
    from ..poisons.base import Poison

METHOD_OPTIONS = ("strength", "kernel_size", "blur", "invertible", "preset", "eps", "image_key", "label_key")


def add_method_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--method`` and what belongs to it."""
    add = parser.add_argument_group("method").add_argument
    add(
        "--method",
        default="cuda",
        metavar="NAME",
        help="see `unlearnable methods`; several with commas make a chain, cuda,pil (default: cuda)",
    )
    add(
        "--strength",
        choices=("subtle", "normal", "strong"),
        help="of CUDA; what each looks like and is worth: docs/photographs.md (default: normal)",
    )
    add("--kernel-size", type=count, metavar="K", help="side of CUDA's filters, odd, instead of --strength")
    add("--blur", type=float, metavar="P", help="CUDA's blur parameter p_b, instead of --strength")
    add(
        "--invertible",
        action="store_true",
        default=None,
        help="filters of CUDA for small pictures that `unlock` undoes better",
    )
    add("--preset", choices=("paper", "fast", "cpu"), help="how much work a fit of em, rem, sem, tap is (default: cpu)")
    add("--eps", type=_levels, metavar="LEVELS", help="strength of added noise in levels of 255 (default: 8, of lsp 6)")


def add_column_options(group: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    """Add ``--image-key`` and ``--label-key``."""
    group.add_argument("--image-key", metavar="COLUMN", help="default: image or img")
    group.add_argument("--label-key", metavar="COLUMN", help="default: label, labels or fine_label")


def add_label_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--labels`` and what belongs to it."""
    add = parser.add_argument_group("without class labels").add_argument
    add(
        "--labels",
        metavar="HOW",
        help="secret classes: auto, clusters of pictures that look alike; folder, one for each folder at any depth (an "
        "album, a person); or a CSV file with the columns path,label. The labels of the data stay as they are",
    )
    add("--clusters", type=count, metavar="N", help="how many, with --labels auto (default: 10)")
    add(
        "--backbone",
        metavar="NAME",
        help="what sees likeness, with --labels auto: shapes, built in, or a pretrained network of timm such as "
        "timm:resnet18.a1_in1k (default: shapes)",
    )


def _levels(text: str) -> float:
    return count(text) / 255


def count(text: str) -> int:
    """A whole number from 1 up, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 up, not {text!r}")
    return int(text)


def make_poison(args: argparse.Namespace) -> "Poison":
    """The method that the arguments ask for, or the chain. An option goes to every link that knows it.

    Raises:
        KeyError: no such method.
        ValueError: no link has such an option.
    """
    from ..key import Key
    from ..poisons import get_poison
    from ..poisons.chain import Chain

    methods = [get_poison(name) for name in args.method.split(",")]
    given = {name: value for name in METHOD_OPTIONS if (value := getattr(args, name)) is not None}
    known = [_arguments_of(method) for method in methods]
    unknown = sorted(set(given).difference(*known))
    if unknown:
        raise ValueError(f"the method {args.method} has no option --{unknown[0].replace('_', '-')}")
    key = Key.load(args.key)
    links = [
        method(key=key, **{name: value for name, value in given.items() if name in names})
        for method, names in zip(methods, known, strict=True)
    ]
    return links[0] if len(links) == 1 else Chain(links)


def _arguments_of(method: type["Poison"]) -> set[str]:
    """Names of the constructor's arguments, those that it hands on included."""
    names = set()
    for name, parameter in inspect.signature(method).parameters.items():
        (handed_on,) = get_args(parameter.annotation) if parameter.kind is parameter.VAR_KEYWORD else (None,)
        names |= {name} if handed_on is None else set(handed_on.__annotations__)
    return names
