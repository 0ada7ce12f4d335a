"""``unlearnable quickstart``: protect scikit-learn's handwritten digits and watch a network fail to learn them.

Needs no network and no data at hand. The digits are 8x8 pixels; the first 1,300 are trained on and the other 497
tested on, in the order in which scikit-learn has them. For each key one network is trained on the clean digits and
the same network, from the same weights and in the same order, on the protected ones.
"""

import argparse
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from . import say
from .method import count

if TYPE_CHECKING:
    import torch

TRAIN_ROWS = 1300
CLASSES = 10
PICTURE = "quickstart.png"
COLUMN = 16  # characters of a column of the printed table
NEXT_STEPS = """\
This network starts from nothing. One that starts from ImageNet weights still learns most of what clean photographs
teach it: docs/trainers.md.

Next, a key, and your own photographs: a folder "photos" with a subfolder for each class (person, place, kind of thing).
  $ {command} keygen my.key
  $ {command} protect photos protected --key my.key
A datasets.Dataset with the columns image and label, in Python:
  >>> import unlearnable_transforms as ut
  >>> protected = ut.protect(dataset, ut.CUDAPoison(key=ut.Key.load("my.key")))"""


class Digits(NamedTuple):
    """uint8 images (N, 1, 8, 8) and int64 labels (N,), for training and for testing."""

    images: "torch.Tensor"
    labels: "torch.Tensor"
    test_images: "torch.Tensor"
    test_labels: "torch.Tensor"


def add_to(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    text = "protect handwritten digits and train on them, in under a minute"
    parser = commands.add_parser("quickstart", help=text, description=f"{text.capitalize()}.")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="folder of the picture (default: here)")
    parser.add_argument("--keys", type=count, default=3, metavar="N", help="how many keys to try (default: 3)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Protect, train, print the test accuracies, save the picture."""
    started = time.perf_counter()
    digits = load_digits()
    args.out.mkdir(parents=True, exist_ok=True)

    from ..key import Key
    from ..poisons.cuda import CUDAPoison

    test_rows = len(digits.test_images)
    say(f"Handwritten digits, 8x8 pixels: {TRAIN_ROWS:,} to train on, {test_rows} to test on, {CLASSES} classes.")
    say("Accuracy on clean test digits after training on", "")
    _print_row("", "clean", "protected")
    results = []
    for number in range(args.keys):
        key = Key.public(f"quickstart-{number}")
        protected = CUDAPoison(key=key).apply(digits.images, digits.labels)
        name = f"key quickstart-{number}"
        clean_accuracy = measure(digits, digits.images, number, f"{name}: training on clean digits")
        protected_accuracy = measure(digits, protected, number, f"{name}: training on protected digits")
        results.append((clean_accuracy, protected_accuracy))
        _print_row(name, *map(_percent, results[-1]))
        if number == 0:
            draw(args.out / PICTURE, digits, protected, clean_accuracy, protected_accuracy)
    mean_clean, mean_protected = (sum(column) / len(results) for column in zip(*results, strict=True))
    _print_row("mean", _percent(mean_clean), _percent(mean_protected))
    seconds = time.perf_counter() - started
    say("", f"Guessing gives {_percent(1 / CLASSES)}. Look at {args.out / PICTURE}; all took {seconds:.0f} s.", "")
    say(*next_steps().split("\n"))


def next_steps() -> str:
    """What to type next. The command is the one that is running, as it was typed: perhaps it is not on the PATH."""
    typed = sys.argv[0]
    known = Path(typed).name == "unlearnable" and typed != shutil.which("unlearnable")
    return NEXT_STEPS.format(command=shlex.quote(typed) if known else "unlearnable")


def load_digits() -> Digits:
    """scikit-learn's handwritten digits, their values 0..16 stretched to 0..255 and rounded.

    Raises:
        ImportError: scikit-learn or matplotlib is missing.
    """
    try:
        import matplotlib.figure  # noqa: F401  (used at the end: better missed now)
        from sklearn import datasets
    except ImportError:
        raise ImportError("the quickstart needs two more packages: pip install scikit-learn matplotlib") from None
    import numpy as np
    import torch

    loaded = datasets.load_digits()
    images = torch.from_numpy(np.rint(loaded.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(loaded.target.astype(np.int64))
    return Digits(images[:TRAIN_ROWS], labels[:TRAIN_ROWS], images[TRAIN_ROWS:], labels[TRAIN_ROWS:])


def measure(digits: Digits, images: "torch.Tensor", seed: int, title: str) -> float:
    """Test accuracy in [0, 1] of a small network trained on ``images``; a terminal is shown how far it is."""

    from ..training.loop import DIGITS, History, train
    from ..victims.registry import build_victim

    def show(epoch: int, history: History) -> None:
        if sys.stdout.isatty():
            done = epoch == DIGITS.epochs
            line = "" if done else f"{title}  [{'#' * epoch:.<{DIGITS.epochs}}]"
            print(f"\r\033[K{line}", end="", flush=True)

    net = build_victim("smallcnn", CLASSES, digits.images.shape[-1], seed)
    with _one_thread():
        history = train(
            net,
            images,
            digits.labels,
            recipe=DIGITS,
            seed=seed,
            test=(digits.test_images, digits.test_labels),
            progress=show,
        )
    return history.last


@contextmanager
def _one_thread() -> Iterator[None]:
    """Layers this small gain nothing from a second thread, and lose much if another program has the core."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def draw(path: Path, digits: Digits, protected: "torch.Tensor", clean: float, poisoned: float) -> None:
    """Save a picture of one digit a class: clean, protected, and four times their difference around mid-grey.

    Args:
        path: the PNG to write.
        digits: where the clean digits come from.
        protected: uint8 (N, 1, 8, 8), the training images under one key.
        clean, poisoned: test accuracy in [0, 1] after training on the clean and on these protected images.
    """
    import numpy as np
    from matplotlib.figure import Figure

    rows = [int((digits.labels == label).nonzero()[0]) for label in range(CLASSES)]
    before, after = (images[rows, 0].numpy().astype(np.int16) for images in (digits.images, protected))
    difference = np.clip(128 + 4 * (after - before), 0, 255)
    lines = [
        ("clean", f"a network that trains on these\nreads {_percent(clean)} of new digits", before),
        ("protected", f"a network that trains on these\nreads {_percent(poisoned)} of new digits", after),
        ("difference", "protected minus clean, times 4,\nmid-grey where nothing changed", difference),
    ]
    figure = Figure(figsize=(12, 3.5), facecolor="white")
    left, top, across, down, gap = 0.24, 0.9, 0.0755, 0.3, 0.025  # in parts of the figure's width and height
    for line, (name, text, pictures) in enumerate(lines):
        bottom = top - down * (line + 1) + gap
        middle = bottom + (down - gap) / 2
        figure.text(0.015, middle + 0.075, name, fontsize=15, weight="bold", va="center")
        figure.text(0.015, middle - 0.045, text, fontsize=10.5, color="0.35", va="center", linespacing=1.4)
        for label, picture in enumerate(pictures):
            axes = figure.add_axes((left + label * across, bottom, across - gap * 3.5 / 12, down - gap))
            axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_axis_off()
            if line == 0:
                axes.set_title(str(label), fontsize=12, color="0.35", pad=5)
    figure.savefig(path, dpi=110)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _print_row(name: str, clean: str, protected: str) -> None:
    say(f"{name:<{COLUMN + 2}}{clean:>{COLUMN}}{protected:>{COLUMN}}")
