"""Which splits are training data, by their names: of folders, Parquet files and ``datasets`` alike."""

import re

from ..errors import UsageError

TRAINING = frozenset(("train", "training", "trainset", "trainval"))
_TESTS = ("test", "testing", "testset", "eval", "evaluation", "holdout", "heldout")
HELD_OUT = frozenset((*_TESTS, "val", "valid", "validation", "valset", "dev"))


def split_words(name: str) -> list[str]:
    """The words of a name that name a split, in their order: whole words only, so that ``devices`` is none."""
    return [word for word in _words(name) if word in TRAINING | HELD_OUT]


def leading_split(name: str) -> str:
    """The first word of a name where it names a split, as in ``train_extra``, ``test-A`` or ``val2017``; else empty."""
    first = _words(name)[0]
    return first if first in TRAINING | HELD_OUT else ""


def is_train_split(split: str) -> bool:
    """Whether the rows of a split are training data, by the first word of its name.

    Raises:
        ValueError: the name says neither, so that protection would be a guess.
    """
    word = leading_split(str(split))
    if not word:
        raise UsageError(
            f"is the split {split!r} training data? Name it train... or test..., or protect the one data set you mean "
            "(docs/protect.md)"
        )
    return word in TRAINING


def _words(name: str) -> list[str]:
    return re.split(r"[\W\d_]+", name.lower())
