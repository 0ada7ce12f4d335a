"""Tables that name image files: how they are written, what they call an image, and which labels they may give."""

import base64
import json
from pathlib import Path

import pytest
from conftest import encode, pixels

from unlearnable_transforms.data.annotations import rewrite
from unlearnable_transforms.data.codec import Codec
from unlearnable_transforms.data.open import open_data

ROWS = "path,label\n0.png,a\n1.png,b\n2.png,a\n3.png,b\n"
PATHS = ROWS.replace("\n", "\nimages/").removesuffix("images/")


def make(root: Path, table: str | bytes, name: str = "train.csv") -> Path:
    """Four images in one folder, and a table beside it."""
    (root / "images").mkdir(parents=True)
    for number in range(4):
        (root / "images" / f"{number}.png").write_bytes(encode(pixels(5, 5, 3, seed=number)))
    (root / name).write_bytes(table if isinstance(table, bytes) else table.encode())
    return root


def labels_of(root: Path) -> list[str]:
    data = open_data(root)
    return [data.label_text("train", row) for row in range(len(data.splits["train"]))]


@pytest.mark.parametrize(
    "table",
    [
        ROWS,
        ROWS.replace(",", ";"),
        ROWS.replace(",", "\t"),
        ROWS.replace("\n", "\r\n"),
        b"\xef\xbb\xbf" + ROWS.encode(),
        ROWS.replace(".png", ""),
        PATHS,
        PATHS.replace("images/", "./images/"),
        PATHS.replace("images/", "images\\"),
        ROWS.replace("0.png,a", "0.png, a "),
        ROWS + "0.png,a\n",
        ROWS + "9.png,b\n",
    ],
)
def test_ways_to_write_one_table(tmp_path, table):
    assert labels_of(make(tmp_path, table)) == ["a", "b", "a", "b"]


def test_absolute_paths_and_a_suffix_in_capitals(tmp_path):
    table = PATHS.replace("images/", f"{tmp_path}/images/")
    assert labels_of(make(tmp_path, table, "TRAIN.CSV")) == ["a", "b", "a", "b"]


def test_a_path_is_one_image_also_where_another_has_that_name(tmp_path):
    make(tmp_path, "path,label\n0.png,a\nimages/0.png,b\nimages/1.png,a\nimages/2.png,b\nimages/3.png,b\n")
    (tmp_path / "0.png").write_bytes(encode(pixels(5, 5, 3, seed=9)))
    assert labels_of(tmp_path) == ["a", "b", "a", "b", "b"]


@pytest.mark.parametrize("one", ["1", "01", "1.0", " 1"])
def test_numbers_are_one_class_however_they_are_written(tmp_path, one):
    assert labels_of(make(tmp_path, f"path,label\n0.png,1\n1.png,{one}\n2.png,0\n3.png,0.0\n")) == ["1", "1", "0", "0"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (ROWS.split("\n", 1)[1], "no line of column names"),
        (ROWS.replace("1.png,b", "1.png,  "), "gives images/1.png no label"),
        (ROWS.replace("1.png,b", "1.png,nan"), "gives images/1.png no label"),
        (ROWS + "0.png,b\n", "two labels"),
        (ROWS.replace("path,label", "label,label"), "have one name"),
        (ROWS.replace(",a", ",é").encode("latin-1"), "cannot be read"),
    ],
)
def test_tables_that_are_refused(tmp_path, table, message):
    with pytest.raises(ValueError, match=message):
        open_data(make(tmp_path, table))


@pytest.mark.parametrize("label", [["a", "b"], True, 1.5, None, {"id": 1}])
def test_json_labels_that_are_no_class_are_refused(tmp_path, label):
    lines = [{"file_name": f"images/{number}.png", "label": label if number == 1 else "a"} for number in range(4)]
    make(tmp_path, "\n".join(map(json.dumps, lines)), "metadata.jsonl")
    with pytest.raises(ValueError, match=r"images/1\.png"):
        open_data(tmp_path)


def test_a_table_is_written_again_as_it_was_written(tmp_path):
    source = make(tmp_path / "source", PATHS.replace(",", ";").replace("images/", "./images/"))
    (table,) = open_data(source).tables
    rewrite(table, tmp_path, lambda image: image.replace(".png", ".webp"))
    assert (tmp_path / "train.csv").read_text() == PATHS.replace(",", ";").replace(".png", ".webp")


def test_a_table_as_the_source_has_its_classes_and_no_other(tmp_path):
    source = make(tmp_path, ROWS) / "train.csv"
    with pytest.raises(ValueError, match="--label is for folders"):
        open_data(source, label="Ann")
    assert [open_data(source).label_text("train", row) for row in range(4)] == ["a", "b", "a", "b"]
    assert open_data(source, unlabelled=True).splits["train"].labels is None


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "train.csv"])
def test_a_second_image_in_a_table_is_refused(tmp_path, name):
    rows = [
        {"file_name": f"images/{row}.png", "label": "ab"[row % 2], "caption": "a dog " * 20,
         "preview": base64.b64encode(encode(pixels(9, 9, 3, seed=row))).decode()}
        for row in range(4)
    ]  # fmt: skip
    if name.endswith(".csv"):
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    data = open_data(make(tmp_path / "photos", "\n".join(lines) + "\n", name))
    with pytest.raises(ValueError, match=rf"{name}: the columns \['preview'\] hold images too.*keep="):
        data.check_columns(None, [])
    data.check_columns(None, ["preview"])


def test_a_table_that_cannot_be_read_is_not_passed_over(tmp_path):
    root = make(tmp_path / "photos", PATHS)
    (root / "metadata.csv").symlink_to(tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match=r"metadata\.csv: the file cannot be read"):
        open_data(root, label="a").units(Codec())
