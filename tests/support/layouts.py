"""One small labelled set in every layout that people keep such sets in, and what every verb has to read in each.

Six training images and three test images of three classes. The order of the classes in the rows, in the alphabet, in a
``ClassLabel`` and by number is different each time, so that a class that is counted in another way has another token.
"""

import io
import json
import tarfile
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from conftest import encode
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage

NUMBERS = {"cat": 5, "ant": 7, "bee": 3}
CLASS_LABEL = ["cat", "ant", "bee"]
ALBUM = "holiday"
NUMERALS = {"cat": "2", "ant": "10", "bee": "3"}  # as text 10 comes before 2
ACCENTED = {"cat": "Café", "ant": "Müller", "bee": "Über"}


class Row(NamedTuple):
    """One labelled image: its place in ``IMAGES``, its class and its split, ``train`` or ``test``."""

    image: int
    name: str
    split: str

    @property
    def file(self) -> str:
        """A file name that says nothing of the class."""
        return f"{100 + self.image}.png"


IMAGES = np.random.default_rng(17).integers(60, 196, (9, 16, 12, 3), np.uint8)  # noise is not clipped there
TRAIN = tuple(Row(place, name, "train") for place, name in enumerate(["cat", "ant", "bee"] * 2))
TEST = tuple(Row(place, name, "test") for place, name in enumerate(["cat", "ant", "bee"], 6))
ROWS = (*TRAIN, *TEST)


def png(row: Row) -> bytes:
    return encode(IMAGES[row.image])


# ---- how a label becomes a class token -----------------------------------------------------------------------------


def by_sorted_name(row: Row) -> str:
    return f"i:{sorted(NUMBERS).index(row.name)}"


def by_accented_name(row: Row) -> str:
    return f"i:{sorted(ACCENTED.values()).index(ACCENTED[row.name])}"


def by_sorted_number(row: Row) -> str:
    return f"i:{sorted(NUMERALS.values()).index(NUMERALS[row.name])}"


def by_number(row: Row) -> str:
    return f"i:{NUMBERS[row.name]}"


def by_class_label(row: Row) -> str:
    return f"i:{CLASS_LABEL.index(row.name)}"


def by_text(row: Row) -> str:
    return f"s:{row.name}"


def by_album(_: Row) -> str:
    return f"s:{ALBUM}"


TOKENS = [f"i:{number}" for number in range(8)] + [f"s:{name}" for name in (*NUMBERS, ALBUM)]
"""Every token that some layout has, and some that none has."""


@dataclass(frozen=True)
class Layout:
    """A layout and what has to be read in it.

    Attributes:
        name: of the layout.
        make: writes it into an empty folder and returns the source, or returns an object.
        token: the class token of a row.
        classes: the names of the classes, where the layout has names.
        train: the rows that are training data.
        split: the name of the training split; ``train`` where the layout has no splits.
        test: the rows of the split ``test``, where there is one.
        keeps_test: whether `protect` hands that split on, clean.
        label: of all images, where the source says none.
        unreadable: words that `protect` prints of what it cannot read; it ends with exit code 1 then.
        mentions: words that `protect` prints of what it leaves out.
        refusals: verb -> what its message says, where the verb may refuse the layout.
    """

    name: str
    make: Callable[[Path], Any]
    token: Callable[[Row], str]
    classes: tuple[str, ...] | None = None
    train: tuple[Row, ...] = TRAIN
    split: str = "train"
    test: tuple[Row, ...] = ()
    keeps_test: bool = False
    label: str | None = None
    unreadable: tuple[str, ...] = ()
    mentions: tuple[str, ...] = ()
    refusals: Mapping[str, str] = field(default_factory=dict)


LAYOUTS: dict[str, Layout] = {}


def layout(name: str, **expected: Any) -> Callable[[Callable[[Path], Any]], Callable[[Path], Any]]:
    """Register the function that makes a layout."""

    def register(make: Callable[[Path], Any]) -> Callable[[Path], Any]:
        LAYOUTS[name] = Layout(name, make, **expected)
        return make

    return register


def put(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


FOLDERS: dict[str, Any] = {"token": by_sorted_name, "classes": tuple(sorted(NUMBERS))}
WITH_CLASS_LABEL: dict[str, Any] = {"token": by_class_label, "classes": tuple(CLASS_LABEL)}
NO_CLASSES = r"--label|label=|one folder a class"  # what a verb says that needs classes and finds none


# ---- folders of images -----------------------------------------------------------------------------------------------


@layout("class folders", **FOLDERS)
def class_folders(root: Path, rows: Sequence[Row] = TRAIN) -> Path:
    for row in rows:
        put(root / row.name / row.file, png(row))
    return root


@layout("class folders with numbers for names", token=by_sorted_number, classes=("10", "2", "3"))
def numbered_folders(root: Path) -> Path:
    for row in TRAIN:
        put(root / NUMERALS[row.name] / row.file, png(row))
    return root


@layout(
    "flat folder and a label",
    token=by_album,
    label=ALBUM,
    refusals=dict.fromkeys(["fit", "evaluate", "audit", "reread"], NO_CLASSES),
)
def flat_folder(root: Path) -> Path:
    for row in TRAIN:
        put(root / row.file, png(row))
    return root


@layout("class folders beside another table", **FOLDERS)
def folders_and_notes(root: Path) -> Path:
    put(root / "weather.csv", "day,label\nMonday,rain\nTuesday,sun\n")
    return class_folders(root)


@layout("class folders and captions", **FOLDERS)
def folders_and_captions(root: Path) -> Path:
    lines = [f"{row.name}/{row.file},in the garden\n" for row in TRAIN]
    put(root / "metadata.csv", "file_name,text\n" + "".join(lines))
    return class_folders(root)


@layout("split folders", **FOLDERS, test=TEST, mentions=("test",))
def split_folders(root: Path) -> Path:
    for row in ROWS:
        put(root / row.split / row.name / row.file, png(row))
    return root


@layout("split folders, one class missing in test", **FOLDERS, test=tuple(row for row in TEST if row.name != "ant"))
def uneven_split_folders(root: Path) -> Path:
    for path in split_folders(root).glob("test/ant/*"):
        path.unlink()
    (root / "test/ant").rmdir()
    return root


@layout("split folders called training and validation", **FOLDERS, split="training", mentions=("validation",))
def other_split_folders(root: Path) -> Path:
    for row in ROWS:
        put(root / {"train": "training", "test": "validation"}[row.split] / row.name / row.file, png(row))
    return root


@layout("class folders beside hidden ones", **FOLDERS, mentions=(".thumbnails", "__MACOSX"))
def hidden_folders(root: Path) -> Path:
    for number, row in enumerate(TEST):
        put(root / (".thumbnails", "__MACOSX", "@eaDir")[number] / row.file, png(row))
        put(root / row.name / f"._{row.file}", png(row))
    return class_folders(root)


@layout("images and metadata.csv", **FOLDERS)
def metadata_csv(root: Path, rows: Sequence[Row] = TRAIN) -> Path:
    for row in rows:
        put(root / "images" / row.file, png(row))
    put(root / "metadata.csv", "file_name,label\n" + "".join(f"images/{row.file},{row.name}\n" for row in rows))
    return root


@layout("split folders with metadata.csv", **FOLDERS, test=TEST, mentions=("test",))
def metadata_in_splits(root: Path) -> Path:
    for split, rows in (("train", TRAIN), ("test", TEST)):
        for row in rows:
            put(root / split / row.file, png(row))
        put(root / split / "metadata.csv", "file_name,label\n" + "".join(f"{row.file},{row.name}\n" for row in rows))
    return root


@layout("images and metadata.jsonl", token=by_number)
def metadata_jsonl(root: Path) -> Path:
    lines = []
    for row in TRAIN:
        put(root / "images" / row.file, png(row))
        lines.append(json.dumps({"file_name": f"images/{row.file}", "label": NUMBERS[row.name]}) + "\n")
    put(root / "metadata.jsonl", "".join(lines))
    return root


@layout("images and train.csv", **FOLDERS)
def competition(root: Path, rows: Sequence[Row] = TRAIN) -> Path:
    for row in rows:
        put(root / "images" / row.file, png(row))
    put(root / "train.csv", "image_id,label\n" + "".join(f"{row.file},{row.name}\n" for row in rows))
    return root


@layout("images and train.csv without suffixes", token=by_number)
def competition_of_ids(root: Path) -> Path:
    for row in TRAIN:
        put(root / "images" / row.file, png(row))
    put(root / "train.csv", "id,label\n" + "".join(f"{100 + row.image},{NUMBERS[row.name]}\n" for row in TRAIN))
    return root


@layout("two parts and a table", **FOLDERS, refusals=dict.fromkeys(
    ["protect", "fit", "evaluate", "audit"], r"lesions_metadata\.csv"
))  # fmt: skip
def parts_and_table(root: Path) -> Path:
    for row in TRAIN:
        put(root / f"lesions_part_{1 + row.image // 4}" / row.file, png(row))
    lines = [f"{100 + row.image},{row.name}\n" for row in TRAIN]
    put(root / "lesions_metadata.csv", "image_id,diagnosis\n" + "".join(lines))
    return root


@layout("decomposed names, composed metadata", token=by_accented_name, classes=tuple(sorted(ACCENTED.values())))
def two_normal_forms(root: Path) -> Path:
    lines = []
    for row in TRAIN:
        name = f"é{row.file}"
        put(root / "images" / unicodedata.normalize("NFD", name), png(row))
        lines.append(f"images/{unicodedata.normalize('NFC', name)},{ACCENTED[row.name]}\n")
    put(root / "metadata.csv", "file_name,label\n" + "".join(lines))
    return root


@layout(
    "class folders with what cannot be read",
    **FOLDERS,
    unreadable=("IMG_9.heic", "DSC_2.nef", "broken.png"),
    refusals=dict.fromkeys(["fit", "evaluate", "audit"], r"IMG_9\.heic|DSC_2\.nef|broken\.png"),
)
def unreadable_files(root: Path) -> Path:
    class_folders(root)
    (root / "cat/100.png").rename(root / "cat/100.gif")
    put(root / "cat/100.gif", gif(IMAGES[0]))
    (root / "bee/102.png").rename(root / "bee/DSC_2.png")
    put(root / "bee/DSC_2.nef", b"MM\0*\0\0\0\x08" + bytes(200))
    put(root / "ant/IMG_9.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))
    put(root / "ant/broken.png", png(TEST[0])[:150])
    return root


def gif(image: np.ndarray) -> bytes:
    """A still GIF of an image with at most 256 colours: nothing of it is lost."""
    colours, places = np.unique(image.reshape(-1, 3), axis=0, return_inverse=True)
    indexed = PILImage.fromarray(places.reshape(image.shape[:2]).astype(np.uint8), "P")
    indexed.putpalette(colours.ravel().tolist())
    return encode(indexed, "GIF")


# ---- tables ----------------------------------------------------------------------------------------------------------

NAMED = Features({"image": Image(), "label": ClassLabel(names=CLASS_LABEL)})
TEXT = Features({"image": Image(), "label": Value("string")})


def rows_of(rows: Sequence[Row], features: Features = NAMED) -> Dataset:
    """A data set of PNG bytes, with labels as the features ask for."""
    columns = {"image": [{"bytes": png(row), "path": None} for row in rows], "label": [row.name for row in rows]}
    return Dataset.from_dict(columns, features=features)


def parquet(path: Path, rows: Sequence[Row], features: Features = NAMED) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows_of(rows, features).to_parquet(path)


@layout("one Parquet file", **WITH_CLASS_LABEL)
def parquet_file(root: Path) -> Path:
    parquet(root / "flowers.parquet", TRAIN)
    return root / "flowers.parquet"


@layout("Parquet with labels in text", token=by_text)
def parquet_text(root: Path) -> Path:
    parquet(root / "flowers.parquet", TRAIN, TEXT)
    return root / "flowers.parquet"


@layout("Parquet in split folders", **WITH_CLASS_LABEL, test=TEST, mentions=("test",))
def parquet_split_folders(root: Path) -> Path:
    parquet(root / "default/train/0000.parquet", TRAIN[:3])
    parquet(root / "default/train/0001.parquet", TRAIN[3:])
    parquet(root / "default/test/0000.parquet", TEST)
    return root


@layout("Parquet files with a prefix", **WITH_CLASS_LABEL, test=TEST, mentions=("test",))
def parquet_prefix(root: Path) -> Path:
    parquet(root / "mnist_train.parquet", TRAIN)
    parquet(root / "mnist_test.parquet", TEST)
    return root


@layout(
    "Parquet beside a preview",
    **WITH_CLASS_LABEL,
    test=TEST,
    refusals=dict.fromkeys(["protect", "fit", "evaluate", "audit", "test"], r"preview\.png"),
)
def parquet_beside_preview(root: Path) -> Path:
    parquet(root / "data/train-00000-of-00001.parquet", TRAIN)
    parquet(root / "data/test-00000-of-00001.parquet", TEST)
    put(root / "assets/preview.png", png(TEST[0]))
    put(root / "README.md", "---\nlicense: cc0-1.0\n---\n")
    return root


@layout("Parquet of plain bytes", token=by_number)
def parquet_bytes(root: Path) -> Path:
    return _by_pandas(root, png)


@layout("Parquet of bytes and path", token=by_number)
def parquet_struct(root: Path) -> Path:
    return _by_pandas(root, lambda row: {"bytes": png(row), "path": row.file})


def _by_pandas(root: Path, cell: Callable[[Row], Any]) -> Path:
    import pandas

    frame = pandas.DataFrame({"image": list(map(cell, TRAIN)), "label": [NUMBERS[row.name] for row in TRAIN]})
    frame.to_parquet(root / "flowers.parquet")
    return root / "flowers.parquet"


@layout("Parquet under a linked folder", **WITH_CLASS_LABEL, refusals=dict.fromkeys(
    ["protect", "fit", "evaluate", "audit"], r"more.*link|link.*more"
))  # fmt: skip
def parquet_linked(root: Path) -> Path:
    parquet(root / "photos/train-00000-of-00002.parquet", TRAIN[:3])
    parquet(root / "elsewhere/train-00001-of-00002.parquet", TRAIN[3:])
    (root / "photos/more").symlink_to(root / "elsewhere")
    return root / "photos"


@layout("link to a folder of Parquet", **WITH_CLASS_LABEL)
def parquet_behind_link(root: Path) -> Path:
    parquet(root / "elsewhere/train-00000-of-00001.parquet", TRAIN)
    (root / "photos").symlink_to(root / "elsewhere")
    return root / "photos"


@layout("saved Dataset", **WITH_CLASS_LABEL)
def saved_set(root: Path) -> Path:
    rows_of(TRAIN).save_to_disk(root / "saved")
    return root / "saved"


@layout("saved DatasetDict", **WITH_CLASS_LABEL, test=TEST, mentions=("test",))
def saved_dict(root: Path) -> Path:
    dataset_dict(root).save_to_disk(root / "saved")
    return root / "saved"


# ---- tars ------------------------------------------------------------------------------------------------------------


@layout("WebDataset with cls", refusals={"publish": "load_dataset"}, token=by_number, test=TEST, mentions=("test",))
def tars_cls(root: Path) -> Path:
    return _tars(root, "cls", lambda row: str(NUMBERS[row.name]))


@layout("WebDataset with json", refusals={"publish": "load_dataset"}, token=by_text, test=TEST, mentions=("test",))
def tars_json(root: Path) -> Path:
    return _tars(root, "json", lambda row: json.dumps({"label": row.name, "width": 12}))


def _tars(root: Path, suffix: str, label: Callable[[Row], str]) -> Path:
    for shard, rows in {"train-000000": TRAIN[:3], "train-000001": TRAIN[3:], "test-000000": TEST}.items():
        with tarfile.open(root / f"flowers-{shard}.tar", "w") as tar:
            for row in rows:
                for name, data in ((f"{row.image:04d}.png", png(row)), (f"{row.image:04d}.{suffix}", label(row))):
                    data = data.encode() if isinstance(data, str) else data
                    entry = tarfile.TarInfo(name)
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
    return root


# ---- objects ---------------------------------------------------------------------------------------------------------

ONLY_DATASETS = dict.fromkeys(["publish"], r"datasets\.Dataset|Dataset\.from|Parquet")


@layout("Dataset", **WITH_CLASS_LABEL)
def dataset(_: Path) -> Dataset:
    return rows_of(TRAIN)


@layout("DatasetDict", **WITH_CLASS_LABEL, test=TEST, keeps_test=True, refusals={"fit": r"\[.train.\]|train"})
def dataset_dict(_: Path) -> DatasetDict:
    return DatasetDict({"train": rows_of(TRAIN), "test": rows_of(TEST)})


@layout("ImageFolder", **FOLDERS, refusals={**ONLY_DATASETS, "unlock": "Dataset"})
def image_folder(root: Path) -> Any:
    from torchvision.datasets import ImageFolder

    return ImageFolder(str(class_folders(root)))


@layout("images and labels", token=by_number, refusals=ONLY_DATASETS)
def arrays(_: Path) -> tuple[np.ndarray, np.ndarray]:
    return IMAGES[:6], np.array([NUMBERS[row.name] for row in TRAIN])


@layout("images and a column of labels", token=by_number, refusals=dict.fromkeys(
    ["protect", "fit", "evaluate", "audit", "publish", "unlock"], r"ravel|reshape|squeeze|flatten|\[:, 0\]|Dataset"
))  # fmt: skip
def arrays_with_column(_: Path) -> tuple[np.ndarray, np.ndarray]:
    return IMAGES[:6], np.array([[NUMBERS[row.name]] for row in TRAIN], np.uint8)


@layout("pairs", token=by_text, refusals={**ONLY_DATASETS, "unlock": "Dataset"})
def pairs(_: Path) -> list[tuple[PILImage.Image, str]]:
    return [(PILImage.fromarray(IMAGES[row.image]), row.name) for row in TRAIN]
