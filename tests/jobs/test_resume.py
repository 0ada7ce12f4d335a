"""Interrupted and started again: the same bytes as without interruption, or a refusal that names the difference."""

import io
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import tarfile
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
from conftest import encode, image_set, pixels
from folders import command, interrupted, make_folder, tree, wait_for_end, wait_for_lines

import unlearnable_transforms as ut
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.data import table as shards
from unlearnable_transforms.data.codec import Codec
from unlearnable_transforms.data.memory import open_arrays
from unlearnable_transforms.files import PART_PREFIX, PART_SUFFIX
from unlearnable_transforms.jobs.journal import open_journal
from unlearnable_transforms.jobs.ledger import read_ledger
from unlearnable_transforms.jobs.run import RowDigest
from unlearnable_transforms.protection.protect import Protect, protect_source
from unlearnable_transforms.protection.unlock_source import Undo, unlock_source


@pytest.fixture
def source(tmp_path) -> Path:
    return make_folder(tmp_path / "source")


def journal_of(out: Path) -> Path:
    (directory,) = Path(os.environ["UNLEARNABLE_TRANSFORMS_CACHE"], "journals").iterdir()
    return directory


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    """A tar of files with these names and bytes."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def images_of(path: Path) -> list[np.ndarray]:
    """The images of a tar, in its order."""
    with tarfile.open(path) as tar:
        files = [tar.extractfile(entry) for entry in tar if entry.name.endswith(".png")]
        return [np.asarray(PIL.Image.open(io.BytesIO(file.read()))) for file in files if file is not None]


@pytest.fixture
def begun(source, out, poison, monkeypatch):
    """A run that was interrupted after four files."""
    with interrupted(monkeypatch, after=4):
        protect_source(source, out, poison)
    assert len(tree(out)) == 4
    return out


def test_goes_on_and_ends_with_the_same_bytes(begun, source, tmp_path, poison, monkeypatch):
    written = []
    write = Protect._write
    monkeypatch.setattr(Protect, "_write", lambda self, unit: written.append(unit.target) or write(self, unit))
    resumed = protect_source(source, begun, poison, ledger=tmp_path / "resumed.parquet")
    assert len(written) == 8
    whole = protect_source(source, tmp_path / "whole", poison, ledger=tmp_path / "whole.parquet")
    assert tree(begun) == tree(tmp_path / "whole")
    assert (tmp_path / "resumed.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert (resumed.counts, resumed.measured, resumed.notes) == (whole.counts, whole.measured, whole.notes)
    assert resumed.changes == ["since the last run: 8 new, 4 as they were"]


def test_a_finished_run_started_again_does_nothing(source, out, poison, monkeypatch):
    first = protect_source(source, out, poison)
    monkeypatch.setattr(Protect, "_write", lambda self, task: pytest.fail("nothing is left to do"))
    again = protect_source(source, out, poison)
    assert again.changes == ["since the last run: 12 as they were"]
    assert (again.counts, again.measured, again.ledger) == (first.counts, first.measured, first.ledger)


def test_the_journal_is_private_and_its_torn_line_is_cut_off(begun, source, poison):
    directory = journal_of(begun)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in directory.iterdir())
    with (directory / "done.jsonl").open("ab") as file:
        file.write(b'{"path": "cat/00')
    assert protect_source(source, begun, poison).counts == {"protected": 12}
    assert (directory / "done.jsonl").read_bytes().count(b"\n") == 12


def test_left_temporary_files_are_removed_and_damaged_files_made_anew(begun, source, tmp_path, poison):
    (begun / "ant" / f"{PART_PREFIX}1-0{PART_SUFFIX}").write_bytes(b"half")
    first, second, *_ = sorted(path for path in begun.rglob("*.png"))
    first.write_bytes(first.read_bytes()[:-1] + b"?")
    second.unlink()
    protect_source(source, begun, poison)
    protect_source(source, tmp_path / "whole", poison)
    assert tree(begun) == tree(tmp_path / "whole")


def test_an_error_while_writing_leaves_no_temporary_file(source, out, poison, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        protect_source(source, out, poison)
    assert tree(out) == {}


def test_an_image_that_changed_is_protected_again_and_the_others_stay(begun, source, tmp_path, poison):
    before = tree(begun)
    changed = min(before)
    (path,) = (source / changed).parent.glob(f"{Path(changed).stem}.*")
    path.write_bytes(encode(pixels(5, 5, 3), "JPEG" if path.suffix == ".jpg" else "PNG"))
    assert protect_source(source, begun, poison).counts == {"protected": 12}
    protect_source(source, tmp_path / "whole", poison)
    after = tree(begun)
    assert after == tree(tmp_path / "whole")
    assert after[changed] != before[changed]
    assert all(after[name] == data for name, data in before.items() if name != changed)


def test_a_source_is_compared_by_content_where_its_time_stamp_changed(begun, source, poison, monkeypatch):
    for path in source.rglob("*.*"):
        os.utime(path, (1, 1))
    written, write = [], Protect._write
    monkeypatch.setattr(Protect, "_write", lambda self, unit: written.append(unit.target) or write(self, unit))
    assert protect_source(source, begun, poison).counts == {"protected": 12}
    assert len(written) == 8


@pytest.mark.parametrize("kind", ["parquet", "saved", "tars"])
def test_tables_and_tars_are_compared_by_content_where_their_time_stamps_changed(kind, tmp_path, run, out, monkeypatch):
    source = MANY[kind][0](make_folder(tmp_path / "many"))
    assert run(source, out) == 0
    before = tree(out)
    for path in [source, *source.rglob("*.*")]:
        os.utime(path, (1, 1))
    write, written = Protect._write, []
    monkeypatch.setattr(Protect, "_write", lambda self, unit: written.append(unit.target) or write(self, unit))
    assert run(source, out) == 0
    assert written == []
    assert tree(out) == before


def test_a_tar_is_written_again_where_another_file_of_it_changed(out, tmp_path, poison):
    images = [encode(pixels(9, 9, 3, seed=number)) for number in range(2)]
    (tmp_path / "tars").mkdir()
    for caption in (b"old", b"new"):
        members = [(f"{number}.png", image) for number, image in enumerate(images)]
        others = [(f"{number}.{kind}", data) for number in range(2) for kind, data in (("cls", b"0"), ("txt", caption))]
        write_tar(tmp_path / "tars" / "train-0.tar", sorted(members + others))
        protect_source(tmp_path / "tars", out, poison)
    with tarfile.open(out / "train-0.tar") as tar:
        assert tar.extractfile("1.txt").read() == b"new"


@pytest.mark.parametrize("form", [lambda image: image, PIL.Image.fromarray, lambda image: image.tolist()])
def test_images_that_are_no_files_are_compared_by_all_their_pixels(form):
    image = pixels(60, 60, 3)
    other = image.copy()
    other[30, 30, 1] ^= 1  # of a large array, numpy prints the corners alone
    digests = []
    for one in (image, image.copy(), other):
        data = open_arrays([form(one)], [0])
        digest = RowDigest(data, "train")
        (stored,) = data.splits["train"].stored(range(1))
        digest.update(0, stored)
        digests.append(str(digest))
    assert digests[0] == digests[1] != digests[2]


def test_an_album_grows(source, out, tmp_path, poison, monkeypatch):
    """New images and a new class: what is there stays as it is, and the ledger knows all."""
    ledger = Path(protect_source(source, out, poison).ledger)
    before = tree(out)
    (source / "cat" / "new.png").write_bytes(encode(pixels(9, 8, 3, seed=70)))
    (source / "bee").mkdir()  # sorted between the others
    (source / "bee" / "new.png").write_bytes(encode(pixels(9, 8, 3, seed=71)))
    (source / "dog" / "0002.jpg").unlink()
    written, write = [], Protect._write
    monkeypatch.setattr(Protect, "_write", lambda self, unit: written.append(unit.target) or write(self, unit))
    summary = protect_source(source, out, poison)
    assert sorted(written) == ["bee/new.png", "cat/new.png"]
    assert {name: data for name, data in tree(out).items() if name not in written} == before
    assert summary.changes == [
        "since the last run: 2 new, 1 gone from the source, the protected file stays, 11 as they were",
        "  gone from the source, the protected file stays: dog/0002.jpg",
    ]
    image = np.asarray(PIL.Image.open(out / "bee" / "new.png"))
    assert (image == poison.apply(pixels(9, 8, 3, seed=71)[None], [3])[0]).all()  # ant, cat, dog came first
    table = read_ledger(summary.ledger)
    assert len(table) == 14
    assert len(set(table["protected_id"].to_pylist())) == 14
    assert not ledger.exists()  # the new one takes its place


def test_an_album_grows_under_noise_that_was_fitted(source, out, key):
    protect_source(source, out, ut.PILPoison(key=key))
    before = tree(out)
    for number in range(3):
        (source / "cat" / f"new{number}.png").write_bytes(encode(pixels(12, 12, 3, seed=80 + number)))
    assert protect_source(source, out, ut.PILPoison(key=key)).counts == {"protected": 15}
    after = tree(out)
    assert len(after) == 15
    assert all(after[name] == data for name, data in before.items())


@pytest.mark.parametrize("make", [ut.OPSPoison, lambda key: ut.Chain([ut.CUDAPoison(key=key), ut.OPSPoison(key=key)])])
def test_what_a_method_learnt_is_kept_for_a_run_that_goes_on(source, out, tmp_path, key, make, monkeypatch):
    protect_source(source, tmp_path / "whole", make(key=key))
    with interrupted(monkeypatch, after=4):
        protect_source(source, out, make(key=key))
    (source / "cat" / "new.png").write_bytes(encode(pixels(9, 8, 3, seed=70)))  # would have changed what is learnt
    protect_source(source, out, make(key=key))
    whole = tree(tmp_path / "whole")
    assert {name: data for name, data in tree(out).items() if name in whole} == whole
    assert "cat/new.png" in tree(out)


def in_one_tar_a_class(root: Path, classes: dict[str, int]) -> Path:
    """A tar for each class, named by text, with so many images."""
    root.mkdir(exist_ok=True)
    for place, (name, count) in enumerate(classes.items()):
        members = []
        for number in range(count):
            members.append((f"{number}.png", encode(pixels(12, 12, 3, seed=100 * place + number))))
            members.append((f"{number}.cls", name.encode()))
        write_tar(root / f"train-{place}.tar", members)
    return root


@pytest.mark.parametrize("method", [ut.LSPPoison, ut.ARPoison])
def test_classes_in_text_keep_their_order_when_a_run_goes_on(out, tmp_path, key, method, monkeypatch):
    """The tar of the class that is sorted last comes first: what is done by then says nothing of the others."""
    source = in_one_tar_a_class(tmp_path / "tars", {"c": 2, "b": 2, "a": 2})
    protect_source(source, tmp_path / "whole", method(key=key))
    with interrupted(monkeypatch, after=1):
        protect_source(source, out, method(key=key))
    protect_source(source, out, method(key=key))
    assert tree(out) == tree(tmp_path / "whole")


@pytest.mark.parametrize("method", [ut.LSPPoison, ut.ARPoison])
def test_classes_in_text_that_came_later_stay_behind(out, tmp_path, key, method):
    source = in_one_tar_a_class(tmp_path / "tars", {"c": 2, "b": 2})
    protect_source(source, out, method(key=key))
    first = tree(out)["train-0.tar"]
    for count in (3, 4):  # of the new class, in the tar of another one: it is written again
        source = in_one_tar_a_class(source, {"c": 2, "b": 2})
        members = [(f"{n}.{kind}", data) for n in range(count) for kind, data in
                   (("png", encode(pixels(12, 12, 3, seed=n))), ("cls", b"b" if n < 2 else b"a"))]  # fmt: skip
        write_tar(source / "train-1.tar", members)
        summary = protect_source(source, out, method(key=key))
    assert tree(out)["train-0.tar"] == first
    poison = method(key=key)
    poison.known = ["b", "c", "a"]
    (image,) = images_of(out / "train-1.tar")[-1:]
    assert (image == poison.apply(pixels(12, 12, 3, seed=3)[None], ["a"])[0]).all()
    unlock_source(out, tmp_path / "clean", method(key=key), ledger=summary.ledger)
    again = images_of(tmp_path / "clean" / "train-1.tar")[-1]
    assert np.abs(again.astype(int) - pixels(12, 12, 3, seed=3)).mean() < 1


def test_an_image_that_cannot_be_read_any_more_leaves_the_output(source, out, poison):
    protect_source(source, out, poison)
    (source / "cat" / "0003.png").write_bytes(b"?")
    summary = protect_source(source, out, poison)
    assert [place for place, _ in summary.failed] == ["cat/0003.png"]
    assert not (out / "cat" / "0003.png").exists()
    assert len(read_ledger(summary.ledger)) == len(tree(out)) == 11


def test_a_table_is_written_again_where_another_column_changed(out, tmp_path, poison):
    rows = image_set([encode(pixels(9, 9, 3, seed=number)) for number in range(4)], [0, 1, 0, 1])
    for caption in ("old", "new"):
        rows.add_column("caption", [caption] * 4).to_parquet(tmp_path / "rows.parquet")
        protect_source(tmp_path / "rows.parquet", out, poison)
    (path,) = out.glob("*.parquet")
    assert pq.read_table(path)["caption"].to_pylist() == ["new"] * 4


def test_lines_of_the_journal_that_lack_something_are_passed_over(begun, source, poison):
    with (journal_of(begun) / "done.jsonl").open("ab") as file:
        file.write(
            b'{"target": "gone.png", "status": "written", "bytes": 1, "checksum": "", "stamp": 0, "digest": ""}\n'
        )
        file.write(b'{"target": "ant/0001.png", "status": "written", "facts": 5}\n[5]\n')
    assert protect_source(source, begun, poison).counts == {"protected": 12}


def test_an_output_of_another_version_is_refused_with_the_remedy(begun, source, poison):
    settings = journal_of(begun) / "settings.json"
    settings.write_text(settings.read_text().replace('"journal version": 2', '"journal version": 1'))
    with pytest.raises(
        ValueError, match="another version of unlearnable-transforms: go on with that version, or start with"
    ):
        protect_source(source, begun, poison)


def test_an_output_folder_beside_a_table_and_its_images_is_refused(source, poison):
    beside_a_table(source)
    with pytest.raises(ValueError, match="lie in each other"):
        protect_source(source / "train.csv", source / "out", poison)


def test_a_renamed_class_is_a_new_one_and_no_image_stays_under_two_filters(source, out, poison):
    protect_source(source, out, poison)
    before = tree(out)
    (source / "dog").rename(source / "bat")
    summary = protect_source(source, out, poison)
    after = tree(out)
    assert {name for name in after if name not in before} == {
        name.replace("dog", "bat") for name in before if name not in after
    }
    assert not (out / "dog").exists()
    image = np.asarray(PIL.Image.open(source / "bat" / "0002.jpg"))
    assert (np.asarray(PIL.Image.open(out / "bat" / "0002.png")) == poison(image, 3)[0]).all()
    assert "4 in another class or split, written again, the old file removed, 8 as they were" in summary.changes[0]
    assert len(read_ledger(summary.ledger)) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"poison": ut.CUDAPoison(key=ut.Key.public("other"))}, "another key"),
        ({"poison": ut.CUDAPoison(key=ut.Key.public("tests"), blur=0.1)}, "blur not set, now it is 0.1"),
        ({"poison": ut.LSPPoison(key=ut.Key.public("tests"))}, 'method "cuda", now it is "lsp"'),
        ({"codec": Codec("webp")}, "format"),
        ({"codec": Codec(icc=False)}, "colour profile"),
        ({"label": "Ann"}, "classes|label"),
        ({"fraction": 0.5}, "fraction"),
    ],
)
@pytest.mark.filterwarnings("ignore:only")
def test_other_arguments_are_refused(begun, source, poison, arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        protect_source(source, begun, **{"poison": poison, **arguments})
    assert "empty output folder" in str(caught.value)


def test_an_output_folder_that_holds_something_else_is_refused(source, out, poison):
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        protect_source(source, out, poison)
    assert tree(out) == {"mine.txt": b"mine"}


def test_an_emptied_output_folder_is_a_new_start(begun, source, poison):
    shutil.rmtree(begun)
    other = ut.CUDAPoison(key=ut.Key.public("other"))
    assert protect_source(source, begun, other).counts == {"protected": 12}


def test_a_second_unlock_at_the_same_time_leaves_the_first_alone(source, out, tmp_path, poison, monkeypatch):
    protect_source(source, out, poison)
    write, seen = Undo._write, []

    def twice(self, unit):
        if not seen:
            seen.append(unit)
            with pytest.raises(RuntimeError, match="another run"):
                unlock_source(out, tmp_path / "clean", poison)
        return write(self, unit)

    monkeypatch.setattr(Undo, "_write", twice)
    unlock_source(out, tmp_path / "clean", poison)
    assert tree(tmp_path / "clean").keys() == tree(out).keys()
    assert not list(tmp_path.glob(f"{PART_PREFIX}*"))


def test_a_second_run_at_the_same_time_is_refused(source, out, poison):
    with open_journal(out), pytest.raises(RuntimeError, match="another run"):
        protect_source(source, out, poison)


def test_unreadable_files_are_tried_again_and_may_be_repaired_or_taken_away(source, out, poison):
    (source / "cat" / "bad.png").write_bytes(b"?")
    (source / "dog" / "bad.png").write_bytes(b"?")
    first = protect_source(source, out, poison)
    assert len(first.failed) == 2
    (source / "cat" / "bad.png").write_bytes(encode(pixels(9, 9, 3)))
    (source / "dog" / "bad.png").unlink()
    second = protect_source(source, out, poison)
    assert second.failed == []
    assert second.counts == {"protected": 13}


def test_a_source_that_changes_during_the_run_is_noticed(source, out, poison, monkeypatch):
    write = Protect._write

    def late(self, unit):
        os.utime(self.data.root / self.data.splits["train"].place(unit.start), (1, 1))
        return write(self, unit)

    monkeypatch.setattr(Protect, "_write", late)
    with pytest.raises(ValueError, match="changed while"):
        protect_source(source, out, poison)


def test_a_worker_that_was_ended_while_it_wrote_leaves_nothing(out):
    parts = []

    def stopped():
        with open_journal(out) as journal:
            journal.begin({})
            for folder in (out, journal.directory):
                parts.append(folder / f"{PART_PREFIX}1-0{PART_SUFFIX}")
                parts[-1].write_bytes(b"half")
            raise RuntimeError("a slow worker")

    with pytest.raises(RuntimeError, match="slow"):
        stopped()
    assert [part.exists() for part in parts] == [False, False]


# ---- processes -------------------------------------------------------------------------------------------------------

KILLS = int(os.environ.get("UNLEARNABLE_KILLS", "2"))
SHARD_BYTES = 4000  # several pictures


@pytest.fixture
def run(key_file, tmp_path, monkeypatch):
    """The command in this process, to its end; its exit code."""
    monkeypatch.setattr(shards, "SHARD_BYTES", SHARD_BYTES)

    def run(source: Path, out: Path, verb: str = "protect") -> int:
        ledger = tmp_path / f"{source.name if verb == 'unlock' else out.name}.parquet"
        return main(f"{verb}|{source}|{out}|--key|{key_file}|--ledger|{ledger}|--workers|1".split("|"))

    return run


def in_parquet(folder: Path) -> Path:
    """The pictures of a folder as one Parquet file."""
    files = sorted(folder.rglob("*.*"))
    image_set([file.read_bytes() for file in files], [0] * len(files)).to_parquet(f"{folder}.parquet")
    return Path(f"{folder}.parquet")


def as_saved_set(folder: Path) -> Path:
    """The images of a folder as a saved data set."""
    files = sorted(folder.rglob("*.*"))
    image_set([file.read_bytes() for file in files], [0] * len(files)).save_to_disk(f"{folder}-saved")
    return Path(f"{folder}-saved")


def in_tars(folder: Path) -> Path:
    """The images of a folder in tars of four."""
    files, tars = sorted(folder.rglob("*.*")), Path(f"{folder}-tars")
    tars.mkdir()
    for start in range(0, len(files), 4):
        members = []
        for number, file in enumerate(files[start : start + 4]):
            members += [(f"{number}{file.suffix}", file.read_bytes()), (f"{number}.cls", b"0")]
        write_tar(tars / f"train-{start:06d}.tar", members)
    return tars


def beside_a_table(folder: Path) -> Path:
    """The images of a folder, and a CSV that names them."""
    files = sorted(folder.rglob("*.*"))
    lines = [f"{file.relative_to(folder)},{file.parent.name}" for file in files]
    (folder / "train.csv").write_text("\n".join(["path,label", *lines]))
    return folder / "train.csv"


# What is made of a folder; for each kill, its images, and the files or shards that are written until then at most.
MANY = {
    "folder": (lambda folder: folder, 100, 100),
    "parquet": (in_parquet, 40, 8),
    "saved": (as_saved_set, 40, 8),
    "tars": (in_tars, 40, 5),
    "csv": (beside_a_table, 100, 100),
    "unlock": (lambda folder: folder, 30, 30),  # takes far longer for an image
}


def make_many(tmp_path: Path, kind: str) -> tuple[Path, int]:
    """Many images, as one of ``MANY``, and the files or shards a kill."""
    make, images, step = MANY[kind]
    return make(make_folder(tmp_path / "many", images * (KILLS + 1))), step


@pytest.fixture(params=["folder", "parquet"])
def many(request, tmp_path) -> Path:
    """Many pictures, as a folder or as one Parquet file."""
    return make_many(tmp_path, request.param)[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", MANY)
def test_kills_at_random_moments(kind, tmp_path, key_file, run):
    """`UNLEARNABLE_KILLS=20 pytest tests/jobs/test_resume.py -k kills` kills more often."""
    source, step = make_many(tmp_path, kind)
    verb, out, whole = "protect", tmp_path / "out", tmp_path / "whole"
    if kind == "unlock":
        assert run(source, tmp_path / "protected") == 0
        shutil.rmtree(Path(os.environ["UNLEARNABLE_TRANSFORMS_CACHE"], "journals"))
        verb, source = "unlock", tmp_path / "protected"
    ledger = tmp_path / f"{source.name if verb == 'unlock' else out.name}.parquet"
    choose = random.Random(KILLS)
    lines = 0
    for kill in range(KILLS):
        options = ("--key", key_file, "--ledger", ledger, "--workers", 1 + kill % 2)
        process = command(source, out, *options, verb=verb, shard_bytes=SHARD_BYTES)
        lines = wait_for_lines(process, lines + choose.randrange(1, step))
        time.sleep(choose.random() / 50)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert wait_for_end(process.pid) == []
    assert 0 < lines < step * (KILLS + 1)
    assert run(source, out, verb) == 0
    assert run(source, whole, verb) == 0
    assert len(tree(out)) >= step * (KILLS + 1)
    assert tree(out) == tree(whole)
    if verb == "protect":
        assert ledger.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not list(tmp_path.glob(f"{PART_PREFIX}*"))


@pytest.mark.slow
def test_ctrl_c_stops_the_workers_and_says_how_to_go_on(many, out, key_file, tmp_path, run):
    options = ("--key", key_file, "--workers", 2)
    process = command(many, out, *options, shard_bytes=SHARD_BYTES)
    wait_for_lines(process, 1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    _, told = process.communicate(timeout=300)
    assert process.returncode == 130
    assert told.strip() == "stopped; run the same command again to continue"
    assert tree(out)
    assert not [path for path in tree(out) if PART_SUFFIX in path]
    assert wait_for_end(process.pid) == []
    assert run(many, out) == run(many, tmp_path / "whole") == 0
    assert tree(out) == tree(tmp_path / "whole")


@pytest.mark.slow
def test_a_file_that_cannot_grow_is_told_and_resumable(tmp_path, out, key_file, run):
    source = make_folder(tmp_path / "source", 6)
    (source / "dog" / "large.png").write_bytes(encode(pixels(300, 300, 3)))
    limit = 100_000  # bytes a file: as a full disk, for the large picture alone
    process = command(
        source,
        out,
        "--key",
        key_file,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY)),
    )
    _, told = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "File too large" in told
    assert "again to continue" in told
    assert not [path for path in tree(out) if PART_SUFFIX in path]
    assert run(source, out) == run(source, tmp_path / "whole") == 0
    assert tree(out) == tree(tmp_path / "whole")


@pytest.fixture
def disk(tmp_path):
    """A file system of 64 MiB that a file ``other`` has filled but for 300 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "none", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    (place / "other").write_bytes(bytes((64 << 20) - 300_000))
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_a_full_disk_is_told_and_resumable(tmp_path, disk, run, capsys, kind):
    source = make_folder(tmp_path / "source", 6)
    for number in range(8):
        (source / "dog" / f"large {number}.png").write_bytes(encode(pixels(150, 150, 3, seed=number)))
    source = source if kind == "folder" else in_parquet(source)
    assert run(source, disk / "out") == 1
    told = capsys.readouterr().err
    assert "No space left on device" in told
    assert "make room and run the same command again to continue" in told
    before = tree(disk / "out")
    assert before
    assert not [path for path in before if PART_SUFFIX in path]
    (disk / "other").unlink()
    assert run(source, disk / "out") == run(source, tmp_path / "whole") == 0
    assert before.items() < tree(disk / "out").items()
    assert tree(disk / "out") == tree(tmp_path / "whole")


def test_a_function_that_shows_progress_can_stop_the_run_which_then_goes_on(source, out, key, monkeypatch):
    monkeypatch.setattr("unlearnable_transforms.jobs.run.UNITS", 1)
    poison, shown = ut.CUDAPoison(key=key), []

    def show(done, total):
        shown.append((done, total))
        if done == 2 and len(shown) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        protect_source(source, out, poison, progress=show)
    total = shown[0][1]
    assert shown == [(0, total), (1, total), (2, total)]
    protect_source(source, out, poison, progress=show)
    assert shown[3:] == [(done, total) for done in range(2, total + 1)]
    whole = out.with_name("whole")
    protect_source(source, whole, poison)
    assert tree(out) == tree(whole)
