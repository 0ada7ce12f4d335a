"""The options that name a protection method and its key, the same for every command."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    from ..key import Key
    from ..poisons.base import Poison

KEY_HELP = "private key, see `unlearnable keygen`"
METHOD_OPTIONS = ("strength", "kernel_size", "blur", "invertible", "preset", "eps")
COLUMN_OPTIONS = ("image_key", "label_key")


def add_key_options(parser: argparse.ArgumentParser, text: str = KEY_HELP, **rules: Any) -> None:
    """Add ``--key``, with ``text`` as its help and ``rules`` for argparse, and ``--derive``."""
    parser.add_argument("--key", type=Path, metavar="FILE", help=text, **rules)
    parser.add_argument(
        "--derive",
        metavar="NAME",
        help="use the key that follows from FILE and this NAME of an album or release, e.g. user/name",
    )


def load_key(args: argparse.Namespace) -> "Key":
    """The key of ``--key`` and ``--derive``."""
    from ..key import Key

    key = Key.load(args.key)
    return key if args.derive is None else key.derive(args.derive)


def add_method_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--method`` and options for its commonest arguments. Values are texts, which the method reads."""
    add = parser.add_argument_group("method").add_argument
    add(
        "--method",
        default="cuda",
        metavar="METHOD",
        help="NAME or NAME:ARGUMENT=VALUE,..., e.g. sem:steps=2000,surrogate=resnet18; `unlearnable methods` lists the "
        "names, `unlearnable methods NAME` the arguments; several make a chain, 'cuda > sem' or cuda,sem (default: "
        "cuda)",
    )
    add("--strength", metavar="S", help="of cuda: subtle, normal or strong, see docs/photographs.md (default: normal)")
    add("--kernel-size", metavar="K", help="of cuda: side of the filters, odd, instead of --strength")
    add("--blur", metavar="P", help="of cuda: blur parameter p_b, instead of --strength")
    add(
        "--invertible",
        action="store_const",
        const="true",
        help="of cuda: filters for small images that `unlock` undoes better",
    )
    add(
        "--preset",
        metavar="P",
        help="how long a fit takes. aue, em, hypo, rem, sem, tap: paper, fast or cpu (default: cpu); tap, "
        "bait, uc: photographs, against networks with ImageNet weights",
    )
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
        help="secret classes: auto, clusters of similar images; folder, one for each folder at any depth (an "
        "album, a person); or a CSV file with the columns path,label. The labels of the data stay as they are",
    )
    add("--clusters", type=count, metavar="N", help="how many, with --labels auto (default: 10)")
    add(
        "--backbone",
        metavar="NAME",
        help="what describes the images, with --labels auto: shapes, built in; efficientnet_lite0, a network with "
        "ImageNet weights (the extra pretrained, no download); or one of timm such as "
        "timm:resnet18.a1_in1k (default: shapes)",
    )


def _levels(text: str) -> str:
    return f"{count(text)}/255"


def count(text: str) -> int:
    """A whole number from 1 up, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 up, not {text!r}")
    return int(text)


def make_poison(args: argparse.Namespace) -> "Poison":
    """The method that the arguments ask for, or the chain. An option goes to every link that knows it.

    Raises:
        KeyError: no such method.
        ValueError: no link has such an option, or a value is wrong.
    """
    from ..params import read_arguments, split_spec
    from ..poisons import get_poison
    from ..poisons.chain import Chain

    specs = [(name, get_poison(name), texts) for name, texts in split_spec(args.method)]
    if any(issubclass(method, Chain) for _, method, _ in specs):
        raise UsageError('a chain is written as its links: --method "cuda > sem"')
    options = {name: value for name in METHOD_OPTIONS if (value := getattr(args, name)) is not None}
    known: list[Any] = [method.declared() for _, method, _ in specs]
    for name in options:
        if not any(name in declared for declared in known):
            raise UsageError(f"the method {args.method} has no option --{name.replace('_', '-')}")
        if any(name in texts for _, _, texts in specs):
            raise UsageError(f"{name}= is both in --method and an option of its own: give it once")
    columns = {name: getattr(args, name) for name in COLUMN_OPTIONS}
    key = load_key(args)
    links = [
        method(
            key=key,
            **columns,
            **read_arguments(method, {**texts, **{n: v for n, v in options.items() if n in declared}}, name),
        )
        for (name, method, texts), declared in zip(specs, known, strict=True)
    ]
    return links[0] if len(links) == 1 else Chain(links)
