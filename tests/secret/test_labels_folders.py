"""Secret classes of a folder: one a subfolder, a table of names, clusters; interrupted and resumed; the command."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, command_here, encode
from folders import command, interrupted, make_folder, tree, wait_for_end, wait_for_lines
from PIL import Image as PILImage
from secret_classes import KINDS, brightness, grouped, integers, pictures, striped, tokens, unlabelled

import unlearnable_transforms as ut
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.data import table as shards
from unlearnable_transforms.data.open import open_data
from unlearnable_transforms.files import private_directory
from unlearnable_transforms.protection.fit import fit_source
from unlearnable_transforms.protection.protect import protect_source
from unlearnable_transforms.secret import labels

# ---- folders ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def album(tmp_path) -> Path:
    """Pictures at several depths."""
    places = ("one.png", "ann/one.png", "ann/two.png", "bob/1999/one.png", "bob/2000/one.png", "bob/2000/two.png")
    for number, place in enumerate(places):
        path = tmp_path / "album" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(striped(number)))
    return tmp_path / "album"


def in_order(source: Path) -> list[np.ndarray]:
    """The pictures of a folder, by their paths."""
    return [np.asarray(PILImage.open(path)) for path in sorted(source.rglob("*.png"))]


def as_classes(source: Path, out: Path, names: list[int], poison: ut.Poison) -> bool:
    """Whether the pictures of a folder, sorted, were protected as these classes."""
    pairs = zip(in_order(out), in_order(source), names, strict=True)
    return all(np.array_equal(protected, poison(clean, name)[0]) for protected, clean, name in pairs)


def test_one_class_a_folder_at_any_depth(album, out, poison, ledger):
    summary = protect_source(album, out, poison, labels="folder", ledger=ledger)
    assert tree(out).keys() == tree(album).keys()
    assert integers(ledger) == [1, 1, 2, 3, 3, 0]  # in the order of the paths
    assert as_classes(album, out, [1, 1, 2, 3, 3, 0], poison)
    assert "labels hidden: the protection follows 4 secret classes" in "\n".join(summary.lines())


def test_folders_of_classes_come_out_as_without(tmp_path, out, poison):
    source = make_folder(tmp_path / "source")
    protect_source(source, out, poison, labels="folder")
    protect_source(source, tmp_path / "other", poison)
    assert tree(out) == tree(tmp_path / "other")


def test_splits_are_told_apart_as_ever(tmp_path, out, poison, ledger):
    for split in ("train1", "train2", "test"):
        make_folder(tmp_path / "source" / split / "deep", 6, ("x", "y/z"))
    protect_source(tmp_path / "source", out, poison, labels="folder", keep_splits=["test"], ledger=ledger)
    assert integers(ledger) == [0, 0, 0, 1, 1, 1] * 2  # deep/x is one class in both
    clean, protected = (tree(place) for place in (tmp_path / "source", out))
    assert protected["test/deep/x/0002.png"] != protected["train1/deep/x/0002.png"]
    assert protected["train2/deep/x/0002.png"] == protected["train1/deep/x/0002.png"]
    assert len(protected) == len(clean) == 18
    (tmp_path / "source" / "loose.png").write_bytes(encode(striped(1)))
    for how in ("auto", "folder"):
        with pytest.raises(ValueError, match=r"loose.png: images beside the splits"):
            protect_source(tmp_path / "source", tmp_path / "other", poison, labels=how)


def write_table(path: Path, rows: list[str], encoding: str = "utf-8") -> Path:
    path.write_text("\n".join(["path,label", *rows]) + "\n", encoding=encoding)
    return path


PEOPLE = ["ann/one.png,Änne", "ann/two.png,Änne", "bob/1999/one.png,Bob", "./one.png,Zoë", "bob/2000/one.png,Bob"]


def test_a_table_names_the_class_of_each_picture(album, out, poison, ledger, tmp_path):
    table = write_table(tmp_path / "people.csv", [*PEOPLE, '"bob/2000/two.png","Zoë"', "gone.png,Nobody"], "utf-8-sig")
    protect_source(album, out, poison, labels=table, ledger=ledger)
    assert integers(ledger) == [2, 2, 0, 0, 1, 1]
    assert as_classes(album, out, [2, 2, 0, 0, 1, 1], poison)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (PEOPLE, r"no line for bob/2000/two.png: it names"),
        ([*PEOPLE, "bob/2000/two.png,"], r"line 7: bob/2000/two.png has no label"),
        ([*PEOPLE, "bob/2000/two.png"], "line 7 has more or fewer fields"),
        ([*PEOPLE, "bob/2000/two.png,Bob", "ann/one.png,Bob"], r"line 8: ann/one.png has no label, or two"),
        ([*PEOPLE, '"bob/2000/two.png,Bob'], "unexpected end of data"),
    ],
)
def test_tables_that_leave_a_class_open_are_refused(album, out, poison, tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        protect_source(album, out, poison, labels=write_table(tmp_path / "people.csv", rows))
    assert not out.exists()
    (tmp_path / "other.csv").write_text("file,name\n")
    with pytest.raises(ValueError, match="the first line is path,label"):
        protect_source(album, out, poison, labels=tmp_path / "other.csv")
    with pytest.raises(ValueError, match='"auto", "folder" or a CSV file'):
        protect_source(album, out, poison, labels="nothing.csv")


def test_json_lines_name_classes_too(album, out, poison, ledger, tmp_path):
    names = sorted(tree(album))
    table = tmp_path / "people.jsonl"
    rows = [{"path": name, "label": number % 2} for number, name in enumerate(names)]
    table.write_text("\n".join(map(json.dumps, rows)))
    protect_source(album, out, poison, labels=table, ledger=ledger)
    assert integers(ledger) == [0, 1] * 3
    for bad in ({"path": names[0]}, {"label": 1}, {"path": names[0], "label": [1]}):
        table.write_text("\n".join(map(json.dumps, [{"path": "x", "label": 1}, bad])))
        with pytest.raises(ValueError, match=r"has no label|has no line for"):
            protect_source(album, tmp_path / "other", poison, labels=table)


def test_a_folder_whose_name_is_no_text_is_refused(album, out, poison):
    os.rename(album / "ann", os.fsencode(album) + b"/caf\xe9")
    with pytest.raises(ValueError, match=r"caf\\udce9: the name is not UTF-8"):
        protect_source(album, out, poison, labels="folder")


@pytest.fixture
def stripes(tmp_path) -> Path:
    """Pictures that fall into three clusters, not by folder."""
    for number in range(15):
        path = tmp_path / "stripes" / f"{number % 2}" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(striped(number)))
    return tmp_path / "stripes"


def test_clusters_of_a_folder_are_those_of_the_data_set(stripes, out, poison, key, ledger):
    protect_source(stripes, out, poison, labels="auto", clusters=KINDS, ledger=ledger)
    expected = ut.auto_labels(in_order(stripes), key, clusters=KINDS)
    assert integers(ledger) == expected
    assert as_classes(stripes, out, expected, poison)


def test_a_fit_sees_the_secret_classes(stripes, key):
    data = open_data(stripes, unlabelled=True)
    labels.hide(data, "auto", ut.CUDAPoison(key=key), clusters=KINDS)
    seen = data.to_fit(ut.CUDAPoison(key=key))
    assert list(seen.labels) == ut.auto_labels(in_order(stripes), key, clusters=KINDS)


def test_methods_that_learn_from_a_folder(stripes, out, key, ledger):
    poison = ut.EMPoison(key=key, kind="class", **TINY)
    with pytest.warns(ut.FitWarning):
        fit_source(stripes, poison, labels="auto", clusters=KINDS)
    assert poison.report["class_tokens"] == ["i:0", "i:1", "i:2"]
    with pytest.warns(ut.FitWarning):
        fit_source(stripes, ut.EMPoison(key=key, kind="class", **TINY))  # by folders: other noise
    fresh = ut.EMPoison(key=key, kind="class", **TINY)
    protect_source(stripes, out, fresh, labels="auto", clusters=KINDS, ledger=ledger)
    assert fresh.noise == poison.noise
    assert integers(ledger) == ut.auto_labels(in_order(stripes), key, clusters=KINDS)


# ---- interrupted, and started again ----------------------------------------------------------------------------------


@pytest.fixture
def begun(stripes, out, poison, monkeypatch) -> Path:
    """A run that was interrupted after four files; one more cannot be read."""
    (stripes / "0" / "00.png").write_bytes(b"?")
    with interrupted(monkeypatch, after=5):
        protect_source(stripes, out, poison, labels="auto", clusters=KINDS)
    assert len(tree(out)) == 4
    return out


def test_goes_on_with_the_same_classes_and_looks_at_nothing_again(begun, stripes, tmp_path, poison, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(labels, "find_clusters", lambda *arguments: pytest.fail("clusters were found again"))
        summary = protect_source(
            stripes, begun, poison, labels="auto", clusters=KINDS, ledger=tmp_path / "resumed.parquet"
        )
    assert summary.counts == {"protected": 14}
    protect_source(
        stripes, tmp_path / "whole", poison, labels="auto", clusters=KINDS, ledger=tmp_path / "whole.parquet"
    )
    assert tree(begun) == tree(tmp_path / "whole")
    assert tokens(tmp_path / "resumed.parquet") == tokens(tmp_path / "whole.parquet")


def test_a_repaired_picture_joins_the_clusters_that_there_are(begun, stripes, poison, ledger):
    before = tree(begun)
    (stripes / "0" / "00.png").write_bytes(encode(striped(30)))
    assert protect_source(stripes, begun, poison, labels="auto", clusters=KINDS, ledger=ledger).counts == {
        "protected": 15
    }
    assert before.items() <= tree(begun).items()
    numbers = [int(path.stem) for path in sorted(stripes.rglob("*.png"))]
    assert grouped(np.array(integers(ledger))) == grouped(np.array(numbers) % KINDS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clusters": 4}, "clusters|classes"),
        ({"backbone": brightness}, "backbone"),
        ({"labels": "folder"}, "labels|classes|backbone|clusters"),
        ({"labels": None}, "labels|classes|backbone|clusters"),
    ],
)
def test_other_classes_are_refused(begun, stripes, poison, options, message):
    options = {"labels": "auto", "clusters": KINDS, **options}
    if options["labels"] != "auto":
        del options["clusters"]
    before = tree(begun)
    with pytest.raises(ValueError, match=message) as caught:
        protect_source(stripes, begun, poison, **options)
    assert "empty output folder" in str(caught.value)
    assert tree(begun) == before


def test_a_source_may_grow_and_a_changed_table_is_refused(begun, album, stripes, tmp_path, poison):
    before = tree(begun)
    (stripes / "1" / "new.png").write_bytes(encode(striped(40)))  # a new image goes to the clusters that there are
    assert protect_source(stripes, begun, poison, labels="auto", clusters=KINDS).counts == {"protected": 15}
    assert before.items() <= tree(begun).items()
    table = write_table(tmp_path / "people.csv", [*PEOPLE, "bob/2000/two.png,Bob"])
    protect_source(album, tmp_path / "other", poison, labels=table)
    write_table(table, [*PEOPLE, "bob/2000/two.png,Zoë"])
    with pytest.raises(ValueError, match=r"begun with labels .*empty output folder"):
        protect_source(album, tmp_path / "other", poison, labels=table)


def test_an_emptied_output_folder_finds_its_clusters_anew(begun, stripes, poison, ledger, key):
    for path in sorted(begun.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (stripes / "0" / "00.png").write_bytes(encode(striped(30)))
    protect_source(stripes, begun, poison, labels="auto", clusters=KINDS, ledger=ledger)
    assert integers(ledger) == ut.auto_labels(in_order(stripes), key, clusters=KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_a_kill_leaves_the_classes_as_they_were(kind, tmp_path, key_file, out, ledger, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    for number in range(120):
        (source / f"{number:03}.png").write_bytes(encode(striped(number)))
    if kind == "parquet":
        unlabelled(pictures(120)).to_parquet(tmp_path / "source.parquet")
        source = tmp_path / "source.parquet"
    options = ("--key", key_file, "--ledger", ledger, "--workers", 1, "--labels", "auto")
    process = command(source, out, *options, shard_bytes=8000)
    lines = wait_for_lines(process, 5)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert wait_for_end(process.pid) == []
    assert lines >= 5
    journals = Path(os.environ["UNLEARNABLE_TRANSFORMS_CACHE"], "journals")
    (kept,) = journals.glob("*/classes.json")
    assert kept.stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr(shards, "SHARD_BYTES", 8000)
    with monkeypatch.context() as patch:
        patch.setattr(labels, "find_clusters", lambda *arguments: pytest.fail("clusters were found again"))
        assert command_here(out, key_file)(source, "--ledger", ledger, "--labels", "auto") == 0
    whole = command_here(tmp_path / "whole", key_file)
    assert whole(source, "--ledger", tmp_path / "whole.parquet", "--labels", "auto") == 0
    assert tree(out) == tree(tmp_path / "whole")
    assert tokens(ledger) == tokens(tmp_path / "whole.parquet")
    assert len(set(tokens(ledger))) == 10


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_and_what_it_publishes(album, tmp_path, protect, out, ledger, capsys):
    table = write_table(tmp_path / "people.csv", [f"{path},CANARY {path[0]}" for path in tree(album)])
    assert protect(album, "--labels", table, "--ledger", ledger) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert "labels hidden: the protection follows 3 secret classes, which stand in the ledger alone" in told.out
    assert "CANARY" not in told.out
    assert not any(b"CANARY" in data or b"classes" in data for data in tree(out).values())
    assert set(tokens(ledger)) == {"i:0", "i:1", "i:2"}
    assert protect(album, "--labels", "folder") == 2
    assert "was begun with labels" in capsys.readouterr().err


def test_the_command_on_clusters(stripes, protect, key_file, ledger):
    options = ("--labels", "auto", "--clusters", 3, "--backbone", "shapes", "--ledger", ledger)
    assert protect(stripes, *options) == 0
    key = ut.Key.load(key_file)
    assert integers(ledger) == ut.auto_labels(in_order(stripes), key, clusters=3)


@pytest.mark.filterwarnings("ignore::unlearnable_transforms.FitWarning")  # of so few pictures
def test_protect_finds_what_was_fitted_to_the_same_classes(stripes, protect, key_file, capsys):
    options = ["--method", "pil", "--labels", "auto", "--clusters", "3"]
    assert main(["fit", str(stripes), "--key", str(key_file), *options]) == 0
    assert f"for {len(in_order(stripes))} pictures" in capsys.readouterr().out

    def fits():
        return sorted(path.name for path in private_directory("noise").glob("*/*") if path.is_dir())

    found = fits()
    assert len(found) == 1
    assert protect(stripes, *options) == 0
    assert "follows 3 secret classes" in capsys.readouterr().out
    assert fits() == found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--clusters", "3"), "clusters is for"),
        (("--backbone", "shapes"), "backbone is for"),
        (("--labels", "folder", "--clusters", "3"), "clusters is for"),
        (("--labels", "auto", "--label", "Ann"), "one of the two"),
        (("--labels", "auto", "--backbone", "x"), "the backbone is"),
        (("--labels", "auto", "--clusters", "99"), "cannot make 99 clusters"),
        (("--labels", "autos"), "autos is no file"),
        (("--labels", "{out}/people.csv"), "published"),
    ],
)
def test_options_that_do_not_go_together(stripes, protect, out, capsys, options, message):
    assert protect(stripes, *(option.format(out=out) for option in options)) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
