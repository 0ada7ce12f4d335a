"""Interrupted and started again: the same bytes as without interruption, or a refusal that names the difference."""

import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from conftest import encode, image_set, pixels
from folders import command, interrupted, make_folder, tree, wait_for_end, wait_for_lines

import unlearnable_transforms as ut
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.data import table as shards
from unlearnable_transforms.data.codec import Codec
from unlearnable_transforms.files import PART_PREFIX, PART_SUFFIX
from unlearnable_transforms.jobs.journal import open_journal
from unlearnable_transforms.jobs.ledger import read_ledger
from unlearnable_transforms.protection.protect import Protect, protect_source


@pytest.fixture
def source(tmp_path) -> Path:
    return make_folder(tmp_path / "source")


def journal_of(out: Path) -> Path:
    (directory,) = Path(os.environ["UNLEARNABLE_TRANSFORMS_CACHE"], "journals").iterdir()
    return directory


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
    assert resumed.lines()[:-1] == whole.lines()[:-1]


def test_a_finished_run_started_again_does_nothing(source, out, poison, monkeypatch):
    first = protect_source(source, out, poison)
    monkeypatch.setattr(Protect, "_write", lambda self, task: pytest.fail("nothing is left to do"))
    assert protect_source(source, out, poison).lines() == first.lines()


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
    assert any("dog/0002.jpg" in note and "no longer in the source" in note for note in summary.notes)
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


@pytest.mark.parametrize("change", [lambda source: (source / "dog").rename(source / "bat")])
def test_a_renamed_class_is_a_new_one(source, out, poison, change):
    protect_source(source, out, poison)
    before = tree(out)
    change(source)
    summary = protect_source(source, out, poison)
    assert before.items() <= tree(out).items()
    assert any("no longer in the source" in note for note in summary.notes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"poison": ut.CUDAPoison(key=ut.Key.public("other"))}, "key_fingerprint"),
        ({"poison": ut.CUDAPoison(key=ut.Key.public("tests"), blur=0.1)}, "arguments"),
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

    def run(source: Path, out: Path) -> int:
        ledger = tmp_path / f"{out.name}.parquet"
        return main(f"protect|{source}|{out}|--key|{key_file}|--ledger|{ledger}|--workers|1".split("|"))

    return run


def in_parquet(folder: Path) -> Path:
    """The pictures of a folder as one Parquet file."""
    files = sorted(folder.rglob("*.*"))
    image_set([file.read_bytes() for file in files], [0] * len(files)).to_parquet(f"{folder}.parquet")
    return Path(f"{folder}.parquet")


@pytest.fixture(params=["folder", "parquet"])
def many(request, tmp_path) -> Path:
    """Many pictures, as a folder or as one Parquet file."""
    folder = request.param == "folder"
    source = make_folder(tmp_path / "many", (100 if folder else 40) * (KILLS + 1))
    return source if folder else in_parquet(source)


@pytest.mark.slow
def test_kills_at_random_moments(many, out, tmp_path, key_file, run):
    """`UNLEARNABLE_KILLS=20 pytest tests/test_resume.py -k kills` kills more often."""
    choose = random.Random(KILLS)
    step = 100 if many.is_dir() else 8  # files, or shards, a kill
    lines = 0
    for kill in range(KILLS):
        options = ("--key", key_file, "--ledger", tmp_path / "out.parquet", "--workers", 1 + kill % 2)
        process = command(many, out, *options, shard_bytes=SHARD_BYTES)
        lines = wait_for_lines(process, lines + choose.randrange(1, step))
        time.sleep(choose.random() / 50)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert wait_for_end(process.pid) == []
    assert 0 < lines < step * (KILLS + 1)
    assert run(many, out) == 0
    assert run(many, tmp_path / "whole") == 0
    assert len(tree(out)) >= step * (KILLS + 1)
    assert tree(out) == tree(tmp_path / "whole")
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


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
