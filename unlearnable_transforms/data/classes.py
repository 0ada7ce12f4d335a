"""Which number a class has that a source calls by a name: a folder, or a name in a table of files.

The number is the name's place in the sorted list at the key's first run. The list is kept with the key's ledgers: later
a known name keeps its number, and new names are added behind. So an album has the same class next year, alone or beside
other albums.
"""

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from ..errors import UsageError
from ..files import is_utf8, locked, private_directory, replacing
from ..key import Key
from .walk import named


def class_numbers(names: Sequence[str], key: Key | None) -> dict[str, int]:
    """The number of each class under a key.

    Args:
        names: of the classes, in any order.
        key: whose list counts; None, for methods without a key: places in the sorted names.

    Raises:
        ValueError: the list that is kept is damaged, or a name is not UTF-8.
    """
    if strange := [name for name in names if not is_utf8(name)]:
        raise UsageError(f"{named(strange)}: the name is not UTF-8, as data sets want their classes: rename it")
    kept = [] if key is None else kept_names(key)
    places = {name: place for place, name in enumerate([*kept, *_new(names, kept)])}
    return {name: places[_normal(name)] for name in names}


def keep_names(names: Sequence[str], key: Key) -> list[str]:
    """Add new names to the key's list, for later runs; the whole list."""
    with locked(_path(key).with_suffix(".lock")):  # two runs of one key at once: neither loses the other's names
        kept = kept_names(key)
        if new := _new(names, kept):
            with replacing(_path(key)) as temporary:
                temporary.write_text(json.dumps({"classes": [*kept, *new]}, ensure_ascii=False), encoding="utf-8")
    return [*kept, *new]


def kept_names(key: Key) -> list[str]:
    """The names that a key numbers, in the order of their numbers; empty before the key's first run.

    Raises:
        ValueError: the file is damaged.
    """
    path = _path(key)
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["classes"]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise UsageError(
            f"{path}, the list of this key's classes, is damaged: restore it from a backup. Without it classes may get "
            "other numbers, and so other filters, than before; remove it only if that does not matter"
        )
    return names


def _new(names: Sequence[str], kept: Sequence[str]) -> list[str]:
    return sorted({_normal(name) for name in names} - set(kept))


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _path(key: Key) -> Path:
    return private_directory("ledgers") / f"{key.fingerprint}.classes.json"
