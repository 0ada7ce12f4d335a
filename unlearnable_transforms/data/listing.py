"""What lies in a folder of pictures: which files are pictures, of which class, and where each one goes."""

import json
import os
from array import array
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .splits import is_train_split, leading_split

# Also kinds that Pillow cannot read: they are pictures, so they are told as unreadable and not passed over.
_PICTURES = (
    ".apng .arw .avif .bmp .cr2 .cr3 .dib .dng .gif .heic .heif .j2k .jfif .jp2 .jpe .jpeg .jpg .jxl .mpo .nef .orf "
    ".pbm .pgm .png .pnm .ppm .raf .rw2 .tga .tif .tiff .webp"
)
PICTURES = frozenset(_PICTURES.split())
SUFFIXES = {"png": (".png",), "webp": (".webp",), "jpeg": (".jpg", ".jpeg", ".jpe", ".jfif")}
METADATA = ("metadata.csv", "metadata.jsonl")
LONGEST_NAME = 255  # bytes, on the usual file systems
SHOWN = 5


@dataclass
class Listing:
    """The pictures of a folder, in sorted order, and what else lies there. Paths are relative, with ``/``.

    Attributes:
        paths: pictures to write.
        sizes, mtimes: of the files, in bytes and nanoseconds; -1 where there is none (a broken link).
        metadata: ``metadata.csv`` and ``metadata.jsonl`` files.
        others: what is not copied; folders end with ``/``.
        classes: names of the class folders, sorted; empty where a label is given for all.
        splits: whether the top folders are splits: the class folders lie in them.
        left_out: splits that are not training data and not kept.
        secret: the secret class of each picture, a place in ``classes``, where labels are hidden.
    """

    paths: list[str] = field(default_factory=list)
    sizes: array = field(default_factory=lambda: array("q"))
    mtimes: array = field(default_factory=lambda: array("q"))
    metadata: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    splits: bool = False
    left_out: list[str] = field(default_factory=list)
    secret: array | None = None

    def label(self, place: int) -> int:
        """The class of the picture at a place in ``paths``: the place of its class folder in the sorted list."""
        if self.secret is not None:
            return self.secret[place]
        return self.classes.index(self.paths[place].split("/")[self.splits])

    def split(self, path: str) -> str:
        """The split that a picture or other file belongs to; empty where the folder has none."""
        return path.split("/")[0] if self.splits else ""

    def is_training(self, path: str) -> bool:
        """Whether a picture is to be protected, and not of a split that is kept as it is."""
        return not self.splits or is_train_split(self.split(path))

    def lines(self) -> Iterator[str]:
        """One line of JSON a picture: path, size, mtime."""
        for entry in zip(self.paths, self.sizes, self.mtimes, strict=True):
            yield json.dumps(entry)


def list_folder(root: Path, labelled: bool, keep_splits: Collection[str] = (), hidden: bool = False) -> Listing:
    """Look through a folder of pictures.

    Args:
        root: the folder.
        labelled: one label is given for all pictures: any tree will do. Else every folder is a class, or every folder
            is a split (``train``, ``test``, ...) with class folders in it.
        keep_splits: splits that are not training data and are wanted in the output, unprotected.
        hidden: secret classes will be given: any tree will do, and splits are told by the top folders as ever.

    Raises:
        ValueError: no pictures, pictures whose class is not clear, a link to a folder, an unknown split.
    """
    listing = Listing()
    found = sorted(_walk(root, listing))
    if not found:
        raise ValueError(f"there are no pictures in {root}")
    if not labelled:
        tops = sorted({path.split("/")[0] for path, _, _ in found if "/" in path})
        listing.splits = bool(tops) and all(map(leading_split, tops))
        if listing.splits:
            found = _choose_splits(listing, found, tops, keep_splits)
        paths = [path for path, _, _ in found]
        if hidden:
            _refuse_loose(listing, paths)
        else:
            listing.classes = _classes(listing, paths)
    if keep_splits and not listing.splits:
        raise ValueError(f"keep-split {sorted(keep_splits)}: the folders of {root} are not splits (train, test, ...)")
    for path, size, mtime in found:
        listing.paths.append(path)
        listing.sizes.append(size)
        listing.mtimes.append(mtime)
    return listing


def is_picture(name: str) -> bool:
    """Whether a file is meant to be a picture, by its name."""
    return os.path.splitext(name)[1].lower() in PICTURES


def is_hidden(name: str) -> bool:
    """Names that programs use for themselves: ``.thumbnails``, ``__MACOSX``, ``@eaDir``; `datasets` skips them too."""
    return name.startswith((".", "__", "@"))


def _walk(root: Path, listing: Listing) -> Iterator[tuple[str, int, int]]:
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                path = folder + entry.name
                if entry.is_dir():
                    if is_hidden(entry.name):
                        listing.others.append(path + "/")
                    elif entry.is_symlink():
                        raise ValueError(
                            f"{root / path} is a link to a folder: links to files are read, links to folders are not "
                            "followed; replace it by the folder, or name that folder as the source"
                        )
                    else:
                        folders.append(path + "/")
                elif entry.name in METADATA:
                    listing.metadata.append(path)
                elif is_hidden(entry.name) or not is_picture(entry.name):
                    listing.others.append(path)
                else:
                    yield path, *_stamp(entry)
    listing.metadata.sort()
    listing.others.sort()


def _stamp(entry: os.DirEntry) -> tuple[int, int]:
    try:
        status = entry.stat()
    except FileNotFoundError:  # a broken link: it will be told as unreadable
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _choose_splits(
    listing: Listing, found: list[tuple[str, int, int]], tops: list[str], keep: Collection[str]
) -> list[tuple[str, int, int]]:
    training = [name for name in tops if is_train_split(name)]
    if not training:
        raise ValueError(f"none of the folders {tops} is training data, so nothing would be protected")
    unknown = sorted(set(keep) - set(tops))
    if unknown:
        raise ValueError(f"keep-split {unknown}: the splits are {tops}")
    listing.left_out = [name for name in tops if name not in training and name not in keep]
    return [entry for entry in found if entry[0].split("/")[0] not in listing.left_out]


def _refuse_loose(listing: Listing, paths: list[str]) -> None:
    loose = [path for path in paths if listing.splits and "/" not in path]
    if loose:
        raise ValueError(f"{named(loose)}: pictures beside the splits: training data or not? Move them into one")


def _classes(listing: Listing, paths: list[str]) -> list[str]:
    """The class folders' names, sorted. Kept splits have no say: their labels are not looked at."""
    depth = 1 + listing.splits
    paths = [path for path in paths if listing.is_training(path)]
    loose = [path for path in paths if path.count("/") < depth]
    if loose:
        raise ValueError(
            f"{named(loose)}: pictures that lie in no class folder have no class. Make one folder a class, or pass "
            "--label NAME (an album, an artist or a person is a class)"
        )
    deep = [path for path in paths if path.count("/") > depth]
    if deep:
        raise ValueError(
            f"{named(deep)}: pictures in folders of a class folder. torchvision takes the outer folder as the class, "
            "datasets the inner one: move the pictures up, or pass --label NAME for the whole tree"
        )
    lists: dict[str, set[str]] = {}
    for path in paths:
        lists.setdefault(listing.split(path), set()).add(path.split("/")[listing.splits])
    first, *rest = lists.values()
    if any(other != first for other in rest):
        raise ValueError(f"the training splits {sorted(lists)} have different class folders: the numbers would differ")
    return sorted(first)


def named(paths: Collection[str]) -> str:
    """``a.jpg, b.jpg ... (12 in all)``, also for names that are not valid text."""
    shown = ", ".join(readable_name(path) for path in list(paths)[:SHOWN])
    return shown + (f" ... ({len(paths)} in all)" if len(paths) > SHOWN else "")


def readable_name(path: str) -> str:
    """A file's name as it can be printed anywhere."""
    return path.encode("utf-8", "backslashreplace").decode()


def target_name(path: str, format: str) -> str:
    """Where a picture goes: the same path, with the suffix of the format unless it has one already."""
    stem, suffix = os.path.splitext(path)
    return path if suffix.lower() in SUFFIXES[format] else stem + SUFFIXES[format][0]


def check_targets(paths: list[str], format: str) -> None:
    """Refuse pictures that would overwrite each other, and names that get too long.

    Raises:
        ValueError: names them.
    """

    def place(path: str) -> str:  # a.PNG and a.png are one file where names have no case
        stem, suffix = os.path.splitext(target_name(path, format))
        return stem + suffix.lower()

    targets = {place(path) for path in paths}
    if len(targets) < len(paths):
        sources: dict[str, list[str]] = {}
        for path in paths:
            sources.setdefault(place(path), []).append(path)
        clashes = [f"{' and '.join(both)} -> {target}" for target, both in sources.items() if len(both) > 1]
        raise ValueError(f"pictures would overwrite each other: {named(clashes)}. Rename them, or choose --format")
    long = [path for path in targets if len(os.fsencode(path.rsplit("/", 1)[-1])) > LONGEST_NAME]
    if long:
        raise ValueError(f"names get too long with the new suffix: {named(long)}")
