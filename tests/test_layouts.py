"""One labelled set in every layout means the same rows, classes, labels and splits to every verb."""

import re
import unicodedata
from dataclasses import fields
from pathlib import Path
from typing import Any

import doors
import pytest
from layouts import LAYOUTS, TRAIN, Layout, class_folders, competition, metadata_csv

import unlearnable_transforms as ut
from unlearnable_transforms.sample import class_value

PROTECTED_ONCE = ("protect", "reread", "publish")  # verbs for which `protect` runs once a layout
AFTER_PROTECT = (*PROTECTED_ONCE, "unlock")  # verbs for which it runs first, and may refuse


def cases() -> list:
    """A test for each layout and verb."""
    return [
        pytest.param(layout, door, id=f"{door}: {name}")
        for name, layout in LAYOUTS.items()
        for door in doors.DOORS
        if door != "test" or layout.test
    ]


def expected(layout: Layout, door: str, reading: doors.Reading) -> doors.Reading:
    """What is right, as far as a reading says it."""
    rows = sorted((row.image, layout.token(row)) for row in (layout.test if door == "test" else layout.train))
    labels = sorted({class_value(token) for _, token in rows}, key=str)
    right = doors.Reading(
        rows=rows,
        images=[place for place, _ in rows],
        count=len(rows),
        classes=list(layout.classes) if layout.classes else labels if door == "audit" else None,
        splits={layout.split},
        clean=[row.image for row in layout.test] if layout.keeps_test and door != "reread" else [],
    )
    said = {field.name for field in fields(reading) if getattr(reading, field.name) is not None}
    always = {"classes"} if door in ("evaluate", "test", "audit", "publish") else set()
    return doors.Reading(**{name: getattr(right, name) for name in said | always if name != "text"})


@pytest.fixture(scope="module")
def made_once() -> dict[str, tuple[doors.Room, doors.Protected | doors.Refused]]:
    """What `protect` made of each layout, or why it refused it."""
    return {}


def enter(layout: Layout, folder: Path, monkeypatch: pytest.MonkeyPatch) -> doors.Room:
    """A folder for a layout, and for all that the library keeps."""
    monkeypatch.setenv("UNLEARNABLE_TRANSFORMS_CACHE", str(folder / "cache"))
    (folder / "source").mkdir()
    return doors.Room(layout, layout.make(folder / "source"), folder)


def read(layout: Layout, door: str, folder: Path, monkeypatch: pytest.MonkeyPatch, made_once: dict) -> doors.Reading:
    """What a verb reads; what `protect` makes is made once for all that follow."""
    verb = doors.DOORS[door]
    if door not in PROTECTED_ONCE:
        room = enter(layout, folder, monkeypatch)
        return verb(room, monkeypatch) if door == "audit" else verb(room)
    if layout.name not in made_once:
        room = enter(layout, folder, monkeypatch)
        try:
            made_once[layout.name] = room, doors.protected(room, ut.CUDAPoison(key=doors.KEY))
        except doors.Refused as refused:
            made_once[layout.name] = room, refused
    room, made = made_once[layout.name]
    monkeypatch.setenv("UNLEARNABLE_TRANSFORMS_CACHE", str(room.folder / "cache"))
    if isinstance(made, doors.Refused):
        raise made
    return verb(room, made)


@pytest.mark.parametrize(("layout", "door"), cases())
def test_every_verb_reads_the_same(layout, door, tmp_path, monkeypatch, made_once):
    try:
        reading = read(layout, door, tmp_path, monkeypatch, made_once)
    except doors.Refused as refused:
        message = str(refused)
    else:
        check_reading(layout, door, reading)
        return
    remedy = layout.refusals.get(door) or (layout.refusals.get("protect") if door in AFTER_PROTECT else None)
    assert remedy, f"refused: {message}"
    assert re.search(remedy, message), f"refused without the remedy: {message}"


def check_reading(layout: Layout, door: str, reading: doors.Reading) -> None:
    """Compare what a verb read with what is right."""
    right = expected(layout, door, reading)
    for name in (field.name for field in fields(right) if field.name != "text"):
        value = in_one_form(getattr(reading, name))
        assert value == getattr(right, name), f"{name} {value}, not {getattr(right, name)}"
    if reading.text is not None:
        silent = [word for word in (*layout.unreadable, *layout.mentions) if word not in reading.text]
        assert not silent, f"nothing is said of {silent}: {reading.text}"


def in_one_form(value: Any) -> Any:
    """Names in one normal form of Unicode."""
    if not isinstance(value, list):
        return value
    return [unicodedata.normalize("NFC", each) if isinstance(each, str) else each for each in value]


@pytest.mark.parametrize("make", [class_folders, metadata_csv, competition])
def test_classes_keep_their_numbers_when_others_come(make, tmp_path, monkeypatch):
    monkeypatch.setenv("UNLEARNABLE_TRANSFORMS_CACHE", str(tmp_path / "cache"))
    key = doors.KEY.save(tmp_path / "my.key")
    numbers = {"bee": "i:0", "cat": "i:1", "ant": "i:2"}  # of the first run, and behind them the new name
    for year, names in (("first", ("bee", "cat")), ("second", ("ant", "bee", "cat")), ("third", ("ant", "cat"))):
        rows = [row for row in TRAIN if row.name in names]
        source = make(tmp_path / year, rows)
        doors.command("protect", source, tmp_path / f"{year} out", "--key", key, "--workers", 1)
        protected, clean = doors.sort_out(doors.images_in(tmp_path / f"{year} out"))
        assert protected == sorted((row.image, numbers[row.name]) for row in rows)
        assert not clean
