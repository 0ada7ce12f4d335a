"""Ways in which a protected set gives away what it hides. Each check is a function of what it looks at alone.

Checks return what they found in words, or nothing; :class:`Findings` collects these with their places and the remedy.
Nothing here knows a ledger or the originals (see coverage.py), so that a set of somebody else can be audited with it.
"""

import base64
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data.annotations import read_table
from ..data.beside import holds_images, is_image
from ..data.folder import IMAGES
from ..data.walk import named
from ..errors import UsageError, printable
from ..files import read_regular
from ..key import Key
from ..sample import name_rows
from .encodings import Encoding, grey_trace

Place = str | tuple[str, int]
"""A file, or a row of a split."""

REENCODE = (
    "write the pictures anew: `unlearnable protect` does it, also for splits that it does not protect (--keep-split)"
)
ONE_FORMAT = (
    "write all pictures alike: `unlearnable protect` with --format png into a new folder, also for splits that it does "
    "not protect (--keep-split)"
)
RENAME = "pass rename=True: pictures are then numbered"
NEW_KEY = "take it out; if others may have seen it, protect anew with another key"
DROP = "remove the column, or pass keep= if it may stay as it is"
REMEDIES = {
    "key": NEW_KEY,
    "second image": DROP,
    "cache": "remove it: it is as secret as the key",
    "local path": "remove it; for the paths of pictures " + RENAME,
    "telling name": RENAME,
    "metadata": REENCODE,
    "encoding": REENCODE,
    "lossy": "publish PNG or WebP as the protection was made: what is lost cannot be put back",
    "unreadable": "replace or remove it",
}
_NEUTRAL = re.compile(r"0*\d{1,7}")
_TOPS = (
    "content data export gpfs home kaggle media mnt nfs opt private root scratch srv tmp usr Users var Volumes work "
    "workspace"
)
_LOCAL = r"(?:^|[\s\"'=:(\[,])(?:/(?:" + "|".join(_TOPS.split()) + r")/|~/\w|[A-Za-z]:\\|[A-Za-z]:/\w|\\\\\w|file://)"
_LOCAL_PATH = re.compile(_LOCAL)
_PICTURE_NAME = r"\.(?i:" + "|".join(sorted(suffix[1:] for suffix in IMAGES)) + r")\s*$"
# PNG, JPEG and WebP in base64
_PICTURE_TEXT = r"data:image/|(?:^|[^A-Za-z0-9+/])(?:iVBORw0KGgo|/9j/4|UklGR[A-Za-z0-9+/]{6}XRUJQ)"
_LINK = r"(?i:\b(?:[a-z][a-z0-9+.-]*://|www\.)\S)"
_SUSPECT = "|".join((_LOCAL, _PICTURE_TEXT, _PICTURE_NAME, _LINK))
_SECRET_FILES = re.compile(
    r".*\.(?:key|safetensors|ledger|npy|npz|pt|pth|pkl|pickle)|ledger.*|(?:done|source)\.jsonl|"
    r"(?:address|manifest|settings|classes)\.json"
)
_LEDGER_COLUMNS = frozenset(("clean_id", "protected_id", "class_token", "unlock_note"))
_KEY_FILE = b"unlearnable-key-"
_SAFETENSORS = re.compile(rb'[\s\S]{8}\{"')
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


@dataclass(frozen=True)
class Leak:
    """One way in which a set gives away what it hides.

    Attributes:
        check: the short name of the check, as in docs/publish.md.
        what: what was found.
        remedy: what to do about it.
        places: the files, or the rows as (split, row), where it was found; none where it is the set as a whole.
    """

    check: str
    what: str
    remedy: str
    places: tuple[Place, ...] = ()

    def __str__(self) -> str:
        where = name_places(self.places)
        return printable(f"{self.check}: {where + ': ' if where else ''}{self.what}; {self.remedy}")


class LeakError(UsageError):
    """A set that is not published, and why. ``leaks`` has all of them."""

    def __init__(self, leaks: Sequence[Leak]) -> None:
        self.leaks = list(leaks)
        super().__init__("nothing was published:\n" + "\n".join(f"- {leak}" for leak in self.leaks))


class Findings:
    """Collects what the checks find, by check and kind."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, str], list[Place]] = defaultdict(list)

    def add(self, check: str, what: str, remedy: str, *places: Place) -> None:
        """Note one finding, at places if it has any."""
        self._found[check, what, remedy] += places

    def leaks(self) -> list[Leak]:
        """All of them, those of one kind together."""
        return [Leak(*kind, tuple(places)) for kind, places in self._found.items()]


def name_places(places: Sequence[Place]) -> str:
    """``train rows 3, 5; test row 7`` or ``cat/1.png, cat/2.png``."""
    rows: dict[str, list[int]] = defaultdict(list)
    for place in places:
        if isinstance(place, tuple):
            rows[place[0]].append(place[1])
    told = [f"{split} {name_rows(found)}" for split, found in rows.items()]
    files = [place for place in places if isinstance(place, str)]
    return "; ".join([*told, *([named(files)] if files else [])])


# ---- keys ------------------------------------------------------------------------------------------------------------


def key_forms(keys: Iterable[Key]) -> list[bytes]:
    """Every way in which keys are looked for in bytes: raw, hexadecimal, decimal numbers, base64 at each alignment, and
    a key file."""
    found = [_KEY_FILE]
    for key in keys:
        secret = key._secret
        found += [secret, secret.hex().encode(), secret.hex().upper().encode(), secret.hex().encode("utf-16-le")]
        found += [between.join(b"%d" % byte for byte in secret) for between in (b",", b", ", b" ")]
        for shift in range(3):  # the characters at the ends depend on what stands around the key
            for encode in (base64.b64encode, base64.urlsafe_b64encode):
                found.append(encode(b"\0" * shift + secret)[4:-4])
    return list(dict.fromkeys(found))


def holds_secret(data: Any, forms: Sequence[bytes]) -> bool:
    """Whether bytes (or a memory map) hold one of :func:`key_forms`."""
    return any(data.find(form) >= 0 for form in forms)


# ---- names and files -------------------------------------------------------------------------------------------------


def is_neutral_name(name: str) -> bool:
    """Whether a picture's name tells nothing: it is a number of at most seven digits (eight could be a date)."""
    path = PurePosixPath(name)
    return _NEUTRAL.fullmatch(path.stem) is not None and path.suffix.lower() in ("", *IMAGES)


def stored_path_leak(path: str | None) -> tuple[str, str] | None:
    """(check, what) for the path beside a picture in a table."""
    if not path:
        return None
    if "/" in path or "\\" in path:
        return "local path", "the table holds the path of the picture's file"
    return None if is_neutral_name(path) else ("telling name", "the table holds the name of the picture's file")


def file_leak(path: str, head: bytes) -> tuple[str, str]:
    """(check, what) for a file that is neither a picture nor data, from its name and first bytes."""
    name = PurePosixPath(path).name
    if head.startswith(_KEY_FILE) or name.endswith(".key"):
        return "key", "a key file"
    if _SECRET_FILES.fullmatch(name) or _SAFETENSORS.match(head):
        return "cache", "a file of the library's private cache"
    return "stray file", "a file that is no part of a protected set; it may hold an original"


def text_leak(text: str) -> tuple[str, str] | None:
    """(check, what) for a piece of text."""
    if _LOCAL_PATH.search(text):
        return "local path", "text with a path of this computer"
    if re.search(_PICTURE_TEXT, text):
        return "second image", "a picture in base64"
    if re.search(_LINK, text):
        return "link", "a link, which may lead to the original"
    if re.search(_PICTURE_NAME, text) and not is_neutral_name(text.strip()):
        return "telling name", "text with the name of a picture's file"
    return None


# ---- encodings -------------------------------------------------------------------------------------------------------


def encoding_leaks(encoding: Encoding, additive: bool) -> Iterator[tuple[str, str]]:
    """(check, what) for how one picture is encoded.

    It is ``additive`` where it was protected by a method that lossy encoding weakens.
    """
    if encoding.format == "unknown":
        yield "encoding", "neither a whole PNG, nor WebP, nor JPEG"
    for what in dict.fromkeys(encoding.foreign):
        yield "metadata", f"the file holds {what}"
    for field, text in () if encoding.credit is None else encoding.credit.texts():
        told = text_leak(text)
        if told and told[0] != "link":  # terms and notices name pages
            yield told[0], f"{told[1]} in the field {field} of the file"
    for text in () if encoding.signed is None else (encoding.signed.holder, encoding.signed.issuer):
        if told := text_leak(text):
            yield told[0], f"{told[1]} in the certificate of the file's C2PA signature"
    if additive and not encoding.lossless and encoding.format != "unknown":
        yield "lossy", f"{encoding.format} loses what the method added"


def mixed_leak(traces: Mapping[str, Sequence[Place]]) -> tuple[str, tuple[Place, ...]] | None:
    """(what, the rarer ones) for the pictures of one split, by the traces of their encoding."""

    def alike(trace: str) -> list[str]:
        """With the grey pictures that the same settings make; without what other settings make of them."""
        return [other for other in traces if other in (trace, grey_trace(trace))]

    common = max(traces, key=lambda trace: sum(len(traces[other]) for other in alike(trace)), default="")
    rare = tuple(place for trace, places in traces.items() if trace not in alike(common) for place in places)
    if not rare:
        return None
    kinds = ", ".join(sorted(traces))
    return f"encoded otherwise than the rest ({kinds}): it tells which were protected", rare


# ---- tables ----------------------------------------------------------------------------------------------------------


def column_leaks(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(check, what) for the names of a table's columns."""
    for name in names:
        if name.removeprefix("_") in _LEDGER_COLUMNS:
            yield "cache", f"the column {name!r} is one of the ledger's"


def value_leaks(column: str, values: pa.Array, forms: Sequence[bytes]) -> Iterator[tuple[int, str, str]]:
    """(row, check, what) for the values of a column that is not the image column, also inside lists and structs;
    ``forms`` are the keys'."""
    if holds_images(values):
        for at in range(len(values)):
            if holds_images(values.slice(at, 1)):
                yield at, "second image", f"the column {column!r} holds images too, or what could be one"
    for row, array in enumerate_leaves(values):
        if _is_text(array.type):
            suspect = pc.fill_null(pc.match_substring_regex(array, _SUSPECT), False)
            for at, value in _present(array.filter(suspect), pc.indices_nonzero(suspect)):
                if told := text_leak(value if isinstance(value, str) else value.decode("latin-1")):
                    yield row(at), told[0], f"{told[1]} in the column {column!r}"
        if buffers_hold(array, forms):
            values_of_text = _present(array) if _is_text(array.type) else ()
            rows = [row(at) for at, value in values_of_text if holds_secret(_as_bytes(value), forms)]
            for found in rows or [row(0)]:  # a key in numbers goes over several rows
                yield found, "key", f"the column {column!r} holds the key"


def _is_text(kind: pa.DataType) -> bool:
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(is_kind(kind) for is_kind in texts)


def _as_bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def numbers_of_rows(values: pa.Array) -> np.ndarray | None:
    """How many numbers each row of a column holds, also in lists of lists; None where it does not hold numbers."""
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        return np.ones(len(values))
    if not any(kind(values.type) for kind in _LISTS):
        return None
    inner = numbers_of_rows(pc.list_flatten(values))
    return None if inner is None else np.bincount(pc.list_parent_indices(values), inner, len(values))


def buffers_hold(values: pa.Array, forms: Sequence[bytes]) -> bool:
    """Whether the memory of an array holds a key: numbers, text or bytes, however they are packed in a file."""
    if any(buffer is not None and holds_secret(buffer.to_pybytes(), forms) for buffer in values.buffers()):
        return True
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        return False
    with np.errstate(invalid="ignore"):  # what is not a number is no byte of a key
        lowest = values.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64).astype(np.uint8)
    return holds_secret(lowest.tobytes(), forms)


def enumerate_leaves(values: pa.Array) -> Iterator[tuple[Any, pa.Array]]:
    """The plain arrays inside an array, each with the way from a place in it to a row of the whole."""
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_struct(values.type):
        for place in range(values.type.num_fields):
            yield from enumerate_leaves(values.field(place))
    elif any(kind(values.type) for kind in _LISTS):
        parents = pc.list_parent_indices(values)
        for row, array in enumerate_leaves(pc.list_flatten(values)):
            yield (lambda at, row=row, parents=parents: parents[row(at)].as_py() if len(parents) else 0), array
    else:
        yield (lambda at: int(at)), values


def _present(array: pa.Array, places: Any = None) -> Iterator[tuple[int, Any]]:
    for at, value in enumerate(array.to_pylist()):
        if value is not None:
            yield (at if places is None else places[at].as_py()), value


def metadata_leaks(path: Path, forms: Sequence[bytes]) -> Iterator[tuple[str, str]]:
    """(check, what) for a CSV or JSON lines beside the images; the names in ``file_name`` are those of the files."""
    if holds_secret(read_regular(path), forms):
        yield "key", "the file holds the key"
    try:
        _, rows, _ = read_table(path)
    except ValueError:
        yield "unreadable", "the file is no table in UTF-8, so nobody knows what it tells"
        return
    leaks = []
    for row in rows:
        for name, value in row.items():
            if name != "file_name":
                told = [leak for leak in map(text_leak, strings(value)) if leak]
                if is_image(value):
                    told.append(("second image", "what could be an image"))
                leaks += [(check, f"{what} in the column {name!r}") for check, what in told]
    yield from dict.fromkeys(leaks)


def strings(value: Any) -> Iterator[str]:
    """All texts in a value of JSON or YAML, names too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield str(name)
            yield from strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)
