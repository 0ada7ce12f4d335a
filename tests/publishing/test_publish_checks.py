"""The checks before publishing: names, text, keys and coverage, what they let pass, and what is refused as it is."""

import json
import os
import shutil
import sys
import warnings
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SECRET, encode, image_set, pixels, stored
from datasets import Dataset, DatasetDict, Features, Image, Sequence, Value
from folders import forms, photograph
from publications import FEATURES, ROWS, clean_set, key, pictures, protected_folder, publish, with_picture

import unlearnable_transforms as ut
from unlearnable_transforms.checks.leaks import (
    Findings,
    LeakError,
    file_leak,
    holds_secret,
    is_neutral_name,
    key_forms,
    metadata_leaks,
    numbers_of_rows,
    text_leak,
    value_leaks,
)
from unlearnable_transforms.jobs.ledger import read_ledger
from unlearnable_transforms.poisons.base import is_additive

FLOATS = Features(image=Sequence(Value("float32")), label=Value("int64"))


# ---- names, text, keys


def test_names():
    neutral = ("7", "1.WEBP", "000012.png", "a b/0000123.jpg", "000000000012.webp")
    telling = ("IMG_1234.jpg", "20240512.png", "Ann.png", "d41d8cd98f00b204.png", "1-2.png", ".png", "1.Ann")
    assert [is_neutral_name(name) for name in (*neutral, *telling)] == [True] * 5 + [False] * 7


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("/home/ann/x", "local path"), ("from /Users/ann", "local path"), ('{"a": "/mnt/x/1.png"}', "local path"),
        (r"C:\pictures\1.png", "local path"), ("file:///x", "local path"), (r"\\server\x", "local path"),
        ("~/x", "local path"), ("at D:/x", "local path"), ("/scratch/x", "local path"),
        ("(gs://a/b)", "link"), ("www.a.org", "link"), ("HTTPS://a.org", "link"), ("ab www. c", None),
        ("x data:image/png", "second image"), ('{"a": "iVBORw0KGgoAA', "second image"), ("xiVBORw0KGgo", None),
        ("UklGRiIAAABXRUJQVlA4", "second image"), ("UklGRiIAAABXAVFWRUZN", None),
        ("Ann.JPG", "telling name"), ("a/b c.heic ", "telling name"), ("/9j/4AAQ", "second image"),
        ("a photo of /home cooking", None), ("https://example.org/home/x", "link"), ("0001.jpg", None),
        ("see 3/4", None), ("and/or", None), ("C: yes", None), ("", None),
    ],
)  # fmt: skip
def test_text(text, check):
    told = text_leak(text)
    assert (told and told[0]) == check
    for array in (pa.array(["no", None, text]), pa.array([b"\xff", None, text.encode()])):
        assert [row for row, *_ in value_leaks("c", array, [])] == ([2] if check else [])


def test_what_could_be_an_image_is_one_for_publishing_too():
    """As `protect` refuses it: by value, at any depth, with the rows; an embedding and boxes are none."""
    pixels = list(range(0, 250, 2))
    for array in (
        pa.array([None, pixels, [1, 2]]),
        pa.array([{"a": [[]]}, {"a": [[bytes(300)]]}, None]),
        pa.array(["no", "0a1b" * 100, ""]),
        pa.array([[[[1]]], [[pixels[:60]], [pixels[:60]]], []]),
    ):
        assert [(row, check) for row, check, _ in value_leaks("c", array, [])] == [(1, "second image")]
    for array in (
        pa.array([[value * 0.0137 for value in pixels]]),
        pa.array([[[1.5, 2, 30, 40]] * 9]),
        pa.array([b"id"]),
    ):
        assert list(value_leaks("c", array, [])) == []


def test_places_inside_lists_and_structs_are_those_of_the_rows():
    values = [[], [{"a": "no"}], None, [{"a": "no"}, {"a": "/tmp/x"}], [{"a": "Ann.png"}]]
    array = pa.array(values, pa.list_(pa.struct([("a", pa.string())])))
    assert [(row, check) for row, check, _ in value_leaks("c", array, [])] == [(3, "local path"), (4, "telling name")]
    nested = pa.array([[["no"]], [[], ["x", "file://y"]]])
    assert [row for row, *_ in value_leaks("c", nested, [])] == [1]
    words = pa.array(["no", "Ann.png", "no"]).dictionary_encode()
    assert [row for row, *_ in value_leaks("c", words, [])] == [1]


def test_numbers_are_counted_by_row():
    assert numbers_of_rows(pa.array([[1, 2], None, [], [3.0]])).tolist() == [2, 0, 0, 1]
    assert numbers_of_rows(pa.array([[[1], [2, 3]], [[4]]])).tolist() == [3, 1]
    assert numbers_of_rows(pa.array([1, 2])).tolist() == [1, 1]
    assert numbers_of_rows(pa.array([["a"]])) is None


def test_all_kinds_of_leaks_in_one_column_of_metadata_are_told(tmp_path):
    lines = '{"file_name": "/home/a/b.png", "a": "/home/x"}\n\n{"a": ["http://x.org"]}\n{"a": "/home/y"}\n'
    pixels = json.dumps({"a": [[0, 255] * 8] * 8})
    for name, text, checks in (
        ("a.jsonl", lines, ["local path", "link"]),
        ("b.csv", "file_name,a,b\n/home/a/b.png,/home/x,Ann.png\n", ["local path", "telling name"]),
        ("c.jsonl", pixels, ["second image"]),
        ("d.csv", "file_name,a\n1.png,1,2\n", ["unreadable"]),
    ):
        (tmp_path / name).write_text(text)
        assert [check for check, _ in metadata_leaks(tmp_path / name, [])] == checks


@pytest.mark.parametrize(("channels", "copy"), [(1, True), (2, False), (3, True), (4, True)])
def test_as_many_numbers_as_pixels(tmp_path, channels, copy):
    data = ut.protect(clean_set(), ut.CUDAPoison(key=key()))
    data = data.add_column("numbers", [[0] * (36 * 40 * channels)] * ROWS)
    if not copy:
        assert publish(data, tmp_path / "out").folder
        return
    with pytest.raises(LeakError, match="as many numbers as the picture has pixels"):
        publish(data, tmp_path / "out")


def test_a_column_that_may_stay_still_must_not_hold_the_key(tmp_path):
    data = ut.protect(clean_set(), ut.CUDAPoison(key=key()))
    links = data.add_column("link", ["https://example.org/1"] * ROWS)
    publish(links, tmp_path / "out", keep=["link"])
    with pytest.raises(LeakError, match="key: train rows 0, 1, 2"):
        publish(data.add_column("link", [SECRET.hex()] * ROWS), tmp_path / "other", keep=["link"])
    columns = {"image": stored(data), "label": data["label"][:], "copy": stored(clean_set())}
    copies = Dataset.from_dict(columns, features=Features({**FEATURES, "copy": Image()}))
    assert publish(copies, tmp_path / "copies", keep=["copy"]).folder


def test_rows_are_counted_across_row_groups(tmp_path):
    data = image_set([encode(pixels(4, 4, 3, seed=row)) for row in range(250)], [0] * 250, FEATURES)
    data = ut.protect(data, ut.CUDAPoison(key=key())).add_column("text", ["x"] * 230 + ["file:///a"] + ["x"] * 19)
    with pytest.raises(LeakError, match="local path: train row 230: "):
        publish(data, tmp_path / "out")


def test_of_two_equal_rows_both_must_be_there(tmp_path):
    images = [*pictures(), pictures()[0]]
    twice = image_set([encode(image) for image in images], [row % 3 for row in range(ROWS)] + [0], FEATURES)
    data = ut.protect(twice, ut.CUDAPoison(key=key()))
    publish(data, tmp_path / "out")
    with pytest.raises(LeakError, match="missing rows: ledger row 12: "):
        publish(data.select(range(ROWS)), tmp_path / "other")


def test_a_key_is_found_in_every_form_and_alone():
    known = key_forms([key()])
    for form in forms(SECRET):
        assert holds_secret(b"x" * 7 + form + b"y", known)
    assert holds_secret(SECRET.hex().encode("utf-16"), known)
    other = key_forms([ut.Key(b"0" * 32)])
    assert not any(holds_secret(form, other) for form in forms(SECRET))
    assert len(known) == len(set(known))


def test_methods_that_add_are_told_from_filters():
    cuda, pil = ut.CUDAPoison(key=key()), ut.PILPoison(key=key())
    assert not is_additive(cuda.public_config())
    assert is_additive(pil.public_config())
    assert is_additive(ut.Chain([cuda, pil]).public_config())
    assert not is_additive(ut.Chain([cuda, cuda]).public_config())


def test_other_files():
    assert file_leak("x/.DS_Store", b"Bud1")[0] == "stray file"
    assert file_leak("ledger-of-may.parquet", b"PAR1")[0] == "cache"
    assert file_leak("my.key", b"")[0] == "key"


def test_findings_of_one_kind_stand_together():
    findings = Findings()
    for row in range(7):
        findings.add("pair", "what", "do", ("test", row))
    findings.add("pair", "what", "do", "a.png")
    (leak,) = findings.leaks()
    assert str(leak) == "pair: test rows 0, 1, 2, 3, 4 ... (7 in all); a.png: what; do"
    assert isinstance(LeakError([leak]), ValueError)


# ---- coverage


def test_secret_classes_are_tried(tmp_path):
    """The protection followed other classes than the labels that are published."""
    data = ut.protect(clean_set(), ut.CUDAPoison(key=key()))
    relabelled = image_set([row["bytes"] for row in stored(data)], [(row + 1) % 3 for row in range(ROWS)], FEATURES)
    assert publish(relabelled, tmp_path / "out").coverage == "verified with the ledger"


@pytest.mark.parametrize("kind", ["set", "splits", "saved", "parquet", "folder"])
def test_coverage_by_the_originals_alone(tmp_path, kind):
    original, folder = clean_set(), None
    source = ut.protect(original, ut.CUDAPoison(key=key()))
    if kind == "splits":
        original = DatasetDict(train=original, test=clean_set(3, first=80))
    elif kind == "saved":
        original.save_to_disk(str(tmp_path / "saved"))
        original = tmp_path / "saved"
    elif kind == "parquet":
        original.to_parquet(str(tmp_path / "train.parquet"))
        original = tmp_path / "train.parquet"
    elif kind == "folder":
        source, original = protected_folder(tmp_path), tmp_path / "photos"
        folder = source
    shutil.rmtree(os.environ["UNLEARNABLE_TRANSFORMS_CACHE"] + "/ledgers")
    done = publish(source, tmp_path / "out", original=original)
    assert done.coverage == "verified with the originals"
    assert done.checked.counts == {"protected": 6 if folder else ROWS}


def test_a_method_without_its_noise_needs_the_ledger(tmp_path):
    poison = ut.PILPoison(key=key())
    with pytest.raises(ut.NotFittedError, match="pass ledger="):
        publish(clean_set(), tmp_path / "out", poison, original=clean_set())


def test_the_ledger_that_is_given_counts(tmp_path):
    data = ut.protect(clean_set(), ut.CUDAPoison(key=key()), ledger=tmp_path / "mine.parquet")
    assert publish(data, tmp_path / "out", ledger=tmp_path / "mine.parquet").coverage == "verified with the ledger"
    with pytest.warns(match="coverage not verified"):
        publish(data, tmp_path / "other")
    ut.protect(clean_set(ROWS, first=40), ut.CUDAPoison(key=key()), ledger=tmp_path / "wrong.parquet")
    with pytest.raises(LeakError, match="unknown picture"):
        publish(data, tmp_path / "third", ledger=tmp_path / "wrong.parquet")


def test_of_several_ledgers_the_one_that_fits_is_taken(tmp_path):
    poison = ut.CUDAPoison(key=key())
    data = ut.protect(clean_set(), poison)
    ut.protect(clean_set(ROWS, first=40), poison)
    ut.protect(clean_set(3), poison)
    assert publish(data, tmp_path / "out").coverage == "verified with the ledger"
    strange = ut.protect(clean_set(ROWS, first=70), poison, ledger=tmp_path / "mine.parquet")
    with pytest.warns(match="coverage not verified"):  # and none where none fits
        publish(strange, tmp_path / "other")


@pytest.mark.parametrize("method", ["cuda", "halos", "ops", "pil"])
def test_a_sample_shows_what_map_has_protected(tmp_path, method):
    """`Dataset.map` leaves no ledger; a set that was never protected is not taken for one that was."""
    images = [photograph(number, 100, 120) for number in range(6)] if method == "halos" else pictures()
    clean = image_set(images, [row % 3 for row in range(len(images))], FEATURES)
    if method in ("ops", "pil"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ut.FitWarning)
            poison = {"ops": ut.OPSPoison, "pil": ut.PILPoison}[method](key=key(), data=clean)
    else:
        poison = ut.CUDAPoison(key=key())
    with pytest.warns(match="coverage not verified, but for"):
        done = publish(clean.map(poison), tmp_path / "out", poison)
    assert done.coverage == f"coverage not verified, but for {len(images)} pictures that fit method and key"
    assert "**That was not verified**" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(LeakError, match="not confirmed"):
        publish(clean, tmp_path / "clean", poison)


def test_one_clean_image_in_the_sample_is_named(tmp_path):
    poison = ut.CUDAPoison(key=key())
    mixed = with_picture(clean_set().map(poison), 7, pictures()[7])
    with pytest.raises(LeakError, match="something else in 1 of 12 images that were looked at: train row 7;"):
        publish(mixed, tmp_path / "out", poison)


def test_a_ledger_of_another_key_or_method_is_refused(tmp_path):
    """Also on a machine whose cache knows nothing of it."""
    ledger = tmp_path / "mine.parquet"
    data = ut.protect(clean_set(), ut.CUDAPoison(key=key()), ledger=ledger)
    with pytest.raises(ValueError, match="was written for another key"):
        publish(data, tmp_path / "out", ut.CUDAPoison(key=ut.Key.generate()), ledger=ledger)
    with pytest.raises(ValueError, match="protected with strength None, not strong"):
        publish(data, tmp_path / "out", ut.CUDAPoison(key=key(), strength="strong"), ledger=ledger)
    ut.protect(clean_set(), ut.CUDAPoison(key=key()))
    with pytest.raises(ValueError, match="protected with strength None, not strong"):  # the one in the cache
        publish(data, tmp_path / "out", ut.CUDAPoison(key=key(), strength="strong"))
    assert not (tmp_path / "out").exists()


LEDGERS = {
    "a text": lambda table, path: path.write_text("[]"),
    "other columns": lambda table, path: pq.write_table(table.drop_columns(["status"]), path),
    "ids in words": lambda table, path: write_column(table, path, "protected_id", ["x"] * len(table)),
    "short ids": lambda table, path: write_column(table, path, "clean_id", [b"12"] * len(table)),
    "a status of its own": lambda table, path: write_column(table, path, "status", ["40 evil"] * len(table)),
    "no status": lambda table, path: write_column(table, path, "status", pa.nulls(len(table), pa.string())),
    "a method of brackets": lambda table, path: pq.write_table(
        table.replace_schema_metadata({b"method": b"[" * 100_000}), path
    ),
    "a pipe": lambda table, path: os.mkfifo(path),
    "a folder": lambda table, path: path.mkdir(),
}


def write_column(table: pa.Table, path: Path, name: str, values) -> None:
    pq.write_table(table.set_column(table.schema.get_field_index(name), name, pa.array(values)), path)


@pytest.mark.parametrize("name", LEDGERS)
def test_a_damaged_ledger_is_refused(tmp_path, name):
    ut.protect(clean_set(), ut.CUDAPoison(key=key()), ledger=tmp_path / "mine.parquet")
    LEDGERS[name](pq.read_table(tmp_path / "mine.parquet"), tmp_path / "bad.parquet")
    with pytest.raises((ValueError, OSError), match=r"bad\.parquet is (damaged|not a ledger|no regular file)"):
        read_ledger(tmp_path / "bad.parquet")


@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are UTF-8")
def test_names_that_are_not_utf8_are_refused_before_any_work(tmp_path):
    folder = protected_folder(tmp_path)
    os.rename(folder / "ant", os.fsencode(folder) + b"/caf\xe9")
    with pytest.raises(ValueError, match=r"caf.*udce9.*not UTF-8.*rename it"):
        publish(folder, tmp_path / "out")


# ---- what is refused as it is


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda data: data.to_iterable_dataset(), TypeError, "streaming"),
        (lambda data: data.select([]), ValueError, "no rows"),
        (lambda data: DatasetDict(test=data), ValueError, "training data"),
        (lambda data: DatasetDict(train=data, test=data.remove_columns("label")), ValueError, "other columns"),
        (lambda data: data.rename_column("image", "picture"), KeyError, "image_key"),
        (lambda data: "nowhere", FileNotFoundError, "no folder"),
        (lambda data: data.map(lambda row: {"image": [1.0]}, features=FLOATS), ValueError, "not Image"),
    ],
)
def test_what_cannot_be_published(tmp_path, make, error, message):
    source = make(ut.protect(clean_set(), ut.CUDAPoison(key=key())))
    with pytest.raises(error, match=message):
        publish(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_repositories_have_two_names(tmp_path):
    with pytest.raises(ValueError, match="user/name"):
        ut.publish(clean_set(), "name", poison=ut.CUDAPoison(key=key()), folder=tmp_path / "out")
    assert len(pictures()) == ROWS
