"""The classes of the library's errors and warnings, and text of others made printable."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import unlearnable_transforms as ut
from unlearnable_transforms.errors import (
    DivergedError,
    UsageError,
    UsageKeyError,
    UsageTypeError,
    WorkError,
    printable,
)


def library_exceptions() -> dict[str, type]:
    classes = {}
    for module in pkgutil.walk_packages(ut.__path__, f"{ut.__name__}."):
        if module.name.endswith("adapters.ray"):  # an extra that need not be installed
            continue
        for name, value in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(value, Exception) and value.__module__.startswith(ut.__name__) and not name.startswith("_"):
                classes[name] = value
    return classes


def test_every_error_and_warning_has_the_base_class():
    classes = library_exceptions()
    assert {"SampleError", "NotFittedError", "NoiseError", "LeakError", "SourceChanged", "FitWarning"} <= set(classes)
    others = [name for name, cls in classes.items() if not issubclass(cls, ut.UnlearnableError | ut.UnlearnableWarning)]
    assert others == []


# Where a built-in error is caught again by the function that calls, or is a mistake in a method's own code.
CAUGHT = ("checks/encodings.py", "data/header.py", "files.py", "noise/table.py", "poisons/base.py")


def test_a_user_never_meets_a_built_in_error():
    """The command line takes one for a bug, and shows its traceback."""
    root = Path(ut.__file__).parent
    built_in = re.compile(r"raise (ValueError|TypeError|KeyError|RuntimeError|FloatingPointError)\(")
    names = [path.relative_to(root).as_posix() for path in root.rglob("*.py") if built_in.search(path.read_text())]
    assert sorted(name for name in names if not name.startswith("theory/")) == sorted(CAUGHT)


@pytest.mark.parametrize(
    ("cls", "base"),
    [
        (ut.SampleError, ValueError),
        (ut.NotFittedError, RuntimeError),
        (ut.NoiseError, RuntimeError),
        (UsageError, ValueError),
        (UsageTypeError, TypeError),
        (UsageKeyError, KeyError),
        (WorkError, RuntimeError),
        (DivergedError, FloatingPointError),
        (ut.UnlearnableWarning, UserWarning),
        (ut.UnchangedWarning, UserWarning),
    ],
)
def test_the_built_in_base_stays(cls, base):
    assert issubclass(cls, base)


def test_one_except_catches_what_the_library_refuses(poison):
    with pytest.raises(ut.UnlearnableError, match="unlabelled"):
        poison({"image": None, "label": -1})
    with pytest.raises(ut.UnlearnableError, match="not fitted"):
        ut.EMPoison(key=poison.key)({"image": None, "label": 0})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cat/a b.png", "cat/a b.png"),
        ("é中\u3000😀", "é中\u3000😀"),
        ("x\x1b[2J", r"x\x1b[2J"),
        ("one\ntwo\r\tthree\x00", r"one\ntwo\r\tthree\x00"),
        ("gpj.\u202eexe\u2066", r"gpj.\u202eexe\u2066"),
        ("\x9b31m\x85\u2028", r"\x9b31m\x85\u2028"),
        ("not utf-8 \udcff", r"not utf-8 \udcff"),
        (3, "3"),
    ],
)
def test_printable_text_is_one_line_that_steers_nothing(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown
