"""Files and text of others: read whole or refused by name, never waited for, and never taken for more than text."""

import os
import stat
import warnings
from pathlib import Path

import pytest

from unlearnable_transforms.files import (
    DamagedError,
    IrregularFileError,
    fits,
    is_inner_path,
    markdown_text,
    open_regular,
    parse_json,
    private_directory,
    read_json,
)

NO_JSON = {
    "nothing": b"",
    "half a value": b'{"a": ',
    "NULs after a power cut": b"\0" * 64,
    "another encoding": '{"a": "é"}'.encode("latin-1"),
    "brackets": b"[" * 200_000,
    "brackets in pairs": b"[" * 60 + b"]" * 60,
    "objects": b'{"a":' * 60 + b"1" + b"}" * 60,
    "a name twice": b'{"a": 1, "a": 2}',
    "half a character": b'{"a": "\\ud83d"}',
    "a number of 5,000 digits": b"1" * 5000,
    "another kind": b'{"b": 1}',
}


@pytest.mark.parametrize("name", NO_JSON)
def test_what_is_no_json_is_damaged(tmp_path, name):
    path = tmp_path / "some.json"
    path.write_bytes(NO_JSON[name])
    with pytest.raises(DamagedError, match=r"some\.json is damaged \(.+\): fetch it again"):
        read_json(path, {"a": object}, "fetch it again")


def test_json_is_read(tmp_path):
    path = tmp_path / "some.json"
    path.write_text('{"a": [1, 2.5, null, true, {"b": "\\ud83d\\ude00"}]}')
    assert read_json(path, {"a": list}) == {"a": [1, 2.5, None, True, {"b": "\U0001f600"}]}


def test_a_large_file_is_not_read(tmp_path):
    path = tmp_path / "some.json"
    path.write_text("[1, 2, 3]")
    with pytest.raises(DamagedError, match="larger than 5 bytes"):
        read_json(path, list, most=5)


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices are POSIX")
@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder", "a link to a pipe", "a link to a device"])
def test_only_regular_files_are_opened(tmp_path, kind):
    path = tmp_path / "some"
    os.mkfifo(tmp_path / "pipe")
    target = {"a pipe": tmp_path / "pipe", "a device": Path("/dev/zero"), "a folder": tmp_path}[kind.split("to ")[-1]]
    if "link" in kind:
        path.symlink_to(target)
    with pytest.raises(IrregularFileError, match="no regular file"):
        open_regular(path if "link" in kind else target)


def test_a_link_to_a_file_is_read(tmp_path):
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"text"


@pytest.mark.parametrize(
    ("value", "kind", "right"),
    [
        (1, int, True),
        (True, int, False),
        (True, bool, True),
        (1, float, True),
        (float("nan"), float, False),
        (float("inf"), float, False),
        ("x", (int, None), False),
        (None, (int, None), True),
        ([1, 2], [int], True),
        ([1, "x"], [int], False),
        ({"x": 1}, [int], False),
        ({"a": 1, "more": 2}, {"a": int}, True),
        ({}, {"a": int}, False),
        ({}, {"a?": int}, True),
        ({"a": "x"}, {"a?": int}, False),
        ({"x": [1], "y": []}, {str: [int]}, True),
        ({"x": [1], "y": None}, {str: [int]}, False),
        ([], {str: int}, False),
    ],
)
def test_kinds(value, kind, right):
    assert fits(value, kind) is right


@pytest.mark.parametrize("text", ["a", "a/b.png", "cat/été 1.png", "...", "a" * 255, "-x", "~"])
def test_paths_that_stay_inside(text):
    assert is_inner_path(text)


@pytest.mark.parametrize(
    "text",
    ["", "/", "/etc/passwd", "..", "../a", "a/../b", "a/..", ".", "./a", "a//b", "a/", "a\0b", "\udce9", "a" * 256]
    + ["/".join(["a" * 200] * 25)],
)
def test_paths_that_lead_elsewhere(text):
    assert not is_inner_path(text)


def test_a_name_is_one_part():
    assert is_inner_path("a", parts=1)
    assert not is_inner_path("a/b", parts=1)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("red panda", "red panda"),
        ("a\n\n## Licence\n\nMIT", r"a \#\# Licence MIT"),
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("[here](https://evil.example)", r"\[here\](https\://evil.example)"),
        ("WWW.evil.example", r"WWW\.evil.example"),
        ("me@evil.example", r"me\@evil.example"),
        ("a|b", r"a\|b"),
        ("`*_~$", r"\`\*\_\~\$"),
        ("&lt;b&gt;", "&amp;lt;b&amp;gt;"),
        ("\x1b[2J\u202edog", r"(U+001B)\[2J(U+202E)dog"),
        ("caf\udce9", "caf(U+DCE9)"),
        (12.5, "12.5"),
    ],
)
def test_text_of_others_in_markdown(text, shown):
    assert markdown_text(text) == shown
    assert markdown_text(markdown_text(text)) == shown  # what is Markdown already is not changed again


def modes(*paths: Path) -> list[int]:
    return [stat.S_IMODE(path.stat().st_mode) for path in paths]


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
@pytest.mark.parametrize("umask", [0, 0o022, 0o277])
def test_the_cache_is_for_its_owner_only_at_every_level(tmp_path, monkeypatch, umask):
    monkeypatch.setenv("UNLEARNABLE_TRANSFORMS_CACHE", str(tmp_path / "far" / "cache"))
    (tmp_path / "far").mkdir()
    before = os.umask(umask)
    try:
        leaf = private_directory("journals", "x")
    finally:
        os.umask(before)
    assert modes(leaf, leaf.parent, leaf.parent.parent) == [0o700] * 3


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_a_folder_with_other_things_keeps_its_mode_and_is_warned_of(tmp_path, monkeypatch):
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "thesis.txt").touch()
    shared.chmod(0o777)
    monkeypatch.setenv("UNLEARNABLE_TRANSFORMS_CACHE", str(shared))
    with pytest.warns(UserWarning, match="chmod 700"):
        leaf = private_directory("noise")
    assert modes(leaf, shared) == [0o700, 0o777]
    shared.chmod(0o1777)  # as /tmp: nobody can replace what belongs to others
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        private_directory("noise")


def test_numbers_of_json_stay_numbers():
    assert parse_json("1e3") == 1000.0
