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

import pytest
from conftest import encode, pixels
from folders import command, make_folder, save_key, tree

import unlearnable_transforms as ut
from unlearnable_transforms.files import PART_PREFIX, PART_SUFFIX
from unlearnable_transforms.protection.encode import Codec, FileWorker
from unlearnable_transforms.protection.folder import protect_folder
from unlearnable_transforms.protection.journal import open_journal


@pytest.fixture
def source(tmp_path) -> Path:
    return make_folder(tmp_path / "source")


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


def journal_of(out: Path) -> Path:
    (directory,) = Path(os.environ["UNLEARNABLE_TRANSFORMS_CACHE"], "journals").iterdir()
    return directory


@pytest.fixture
def begun(source, out, poison, monkeypatch):
    """A run that was interrupted after four files."""
    write, seen = FileWorker._write, []

    def interrupted(self, task):
        seen.append(task)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return write(self, task)

    with monkeypatch.context() as patch:
        patch.setattr(FileWorker, "_write", interrupted)
        patch.setattr("unlearnable_transforms.protection.folder.TASK_FILES", 1)
        with pytest.raises(KeyboardInterrupt):
            protect_folder(source, out, poison)
    assert len(tree(out)) == 4
    return out


def test_goes_on_and_ends_with_the_same_bytes(begun, source, tmp_path, poison, monkeypatch):
    written = []
    write = FileWorker._write
    monkeypatch.setattr(FileWorker, "_write", lambda self, task: written.append(task.path) or write(self, task))
    resumed = protect_folder(source, begun, poison, ledger=tmp_path / "resumed.parquet")
    assert len(written) == 8
    whole = protect_folder(source, tmp_path / "whole", poison, ledger=tmp_path / "whole.parquet")
    assert tree(begun) == tree(tmp_path / "whole")
    assert (tmp_path / "resumed.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert resumed.lines()[:-1] == whole.lines()[:-1]


def test_a_finished_run_started_again_does_nothing(source, out, poison, monkeypatch):
    first = protect_folder(source, out, poison)
    monkeypatch.setattr(FileWorker, "_write", lambda self, task: pytest.fail("nothing is left to do"))
    assert protect_folder(source, out, poison).lines() == first.lines()


def test_the_journal_is_private_and_its_torn_line_is_cut_off(begun, source, poison):
    directory = journal_of(begun)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in directory.iterdir())
    with (directory / "done.jsonl").open("ab") as file:
        file.write(b'{"path": "cat/00')
    assert protect_folder(source, begun, poison).counts == {"protected": 12}
    assert (directory / "done.jsonl").read_bytes().count(b"\n") == 12


def test_left_temporary_files_are_removed_and_damaged_files_made_anew(begun, source, tmp_path, poison):
    (begun / "ant" / f"{PART_PREFIX}1-0{PART_SUFFIX}").write_bytes(b"half")
    first, second, *_ = sorted(path for path in begun.rglob("*.png"))
    first.write_bytes(first.read_bytes()[:-1] + b"?")
    second.unlink()
    protect_folder(source, begun, poison)
    protect_folder(source, tmp_path / "whole", poison)
    assert tree(begun) == tree(tmp_path / "whole")


def test_an_error_while_writing_leaves_no_temporary_file(source, out, poison, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        protect_folder(source, out, poison)
    assert tree(out) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda source: (source / "cat" / "0000.jpg").write_bytes(encode(pixels(5, 5, 3), "JPEG")),
            "changed: cat/0000",
        ),
        (lambda source: os.utime(source / "cat" / "0000.jpg", (1, 1)), "changed: cat/0000"),
        (lambda source: (source / "cat" / "0000.jpg").unlink(), "gone: cat/0000"),
        (lambda source: (source / "cat" / "new.png").write_bytes(encode(pixels(5, 5, 3))), "new: cat/new"),
        (lambda source: make_folder(source, 1, ("bee",)), r"classes.* added \['bee'\]"),
        (lambda source: shutil.rmtree(source / "dog"), r"classes.* gone \['dog'\]"),
        (lambda source: (source / "dog").rename(source / "bat"), r"added \['bat'\], gone \['dog'\]"),
    ],
)
def test_a_changed_source_is_refused(begun, source, poison, change, message):
    change(source)
    before = tree(begun)
    with pytest.raises(ValueError, match=message) as caught:
        protect_folder(source, begun, poison)
    assert "empty output folder" in str(caught.value)
    assert tree(begun) == before


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
        protect_folder(source, begun, **{"poison": poison, **arguments})
    assert "empty output folder" in str(caught.value)


def test_an_output_folder_that_holds_something_else_is_refused(source, out, poison):
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        protect_folder(source, out, poison)
    assert tree(out) == {"mine.txt": b"mine"}


def test_an_emptied_output_folder_is_a_new_start(begun, source, poison):
    shutil.rmtree(begun)
    other = ut.CUDAPoison(key=ut.Key.public("other"))
    assert protect_folder(source, begun, other).counts == {"protected": 12}


def test_a_second_run_at_the_same_time_is_refused(source, out, poison):
    with open_journal(out), pytest.raises(RuntimeError, match="another run"):
        protect_folder(source, out, poison)


def test_unreadable_files_are_tried_again_and_may_be_repaired_or_taken_away(source, out, poison):
    (source / "cat" / "bad.png").write_bytes(b"?")
    (source / "dog" / "bad.png").write_bytes(b"?")
    first = protect_folder(source, out, poison)
    assert len(first.failed) == 2
    (source / "cat" / "bad.png").write_bytes(encode(pixels(9, 9, 3)))
    (source / "dog" / "bad.png").unlink()
    second = protect_folder(source, out, poison)
    assert second.failed == []
    assert second.counts == {"protected": 13}


def test_a_source_that_changes_during_the_run_is_noticed(source, out, poison, monkeypatch):
    write = FileWorker._write

    def late(self, task):
        os.utime(self.source / task.path, (1, 1))
        return write(self, task)

    monkeypatch.setattr(FileWorker, "_write", late)
    with pytest.raises(ValueError, match="changed while"):
        protect_folder(source, out, poison)


# ---- processes -------------------------------------------------------------------------------------------------------


def wait_for_lines(process: subprocess.Popen, lines: int, seconds: float = 60) -> int:
    """Wait until the journal has so many lines, or the process ends; how many it has."""
    journals = Path(os.environ["UNLEARNABLE_TRANSFORMS_CACHE"], "journals")
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end and process.poll() is None:
        count = sum(path.read_bytes().count(b"\n") for path in journals.glob("*/done.jsonl"))
        if count >= lines:
            break
        time.sleep(0.002)
    return count


def alive(group: int) -> list[str]:
    """Processes of a group that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of_group = path.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(of_group) == group and state != "Z":
            found.append(path.parent.name)
    return found


@pytest.fixture
def many(tmp_path) -> Path:
    return make_folder(tmp_path / "many", 400)


@pytest.fixture
def key_file(tmp_path) -> Path:
    return save_key(tmp_path / "my.key")


@pytest.mark.slow
def test_three_kills_at_random_moments(many, out, tmp_path, key_file):
    choose = random.Random(20)
    lines = 0
    for kill in range(3):
        process = command(
            many, out, "--key", key_file, "--workers", 1 + kill % 2, "--ledger", tmp_path / "killed.parquet"
        )
        lines = wait_for_lines(process, lines + choose.randrange(1, 90))
        time.sleep(choose.random() / 50)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert 0 < lines < 400
    process = command(many, out, "--key", key_file, "--ledger", tmp_path / "killed.parquet")
    assert process.communicate()[1] == ""
    assert process.returncode == 0
    poison = ut.CUDAPoison(key=ut.Key.load(key_file))
    protect_folder(many, tmp_path / "whole", poison, ledger=tmp_path / "whole.parquet")
    assert tree(out) == tree(tmp_path / "whole")
    assert (tmp_path / "killed.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


@pytest.mark.slow
def test_ctrl_c_stops_the_workers_and_says_how_to_go_on(many, out, key_file):
    process = command(many, out, "--key", key_file, "--workers", 2, start_new_session=True)
    wait_for_lines(process, 1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.strip() == "stopped; run the same command again to continue"
    assert not [path for path in tree(out) if PART_SUFFIX in path]
    end = time.monotonic() + 20
    while alive(process.pid) and time.monotonic() < end:  # multiprocessing's own helper takes a moment
        time.sleep(0.05)
    assert alive(process.pid) == []


@pytest.mark.slow
def test_a_file_that_cannot_grow_is_told_and_resumable(tmp_path, out, key_file):
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
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "File too large" in told
    assert "again to continue" in told
    assert not [path for path in tree(out) if PART_SUFFIX in path]
    poison = ut.CUDAPoison(key=ut.Key.load(key_file))
    protect_folder(source, out, poison)
    protect_folder(source, tmp_path / "whole", poison)
    assert tree(out) == tree(tmp_path / "whole")


@pytest.mark.slow
def test_a_full_disk_is_told_and_resumable(tmp_path, key_file):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        source = make_folder(tmp_path / "source", 6)
        for number in range(12):
            (source / "dog" / f"large {number}.png").write_bytes(encode(pixels(150, 150, 3, seed=number)))
        process = command(source, disk / "out", "--key", key_file)
        _, told = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "No space left on device" in told
        assert "again to continue" in told
        assert not [path for path in tree(disk) if PART_SUFFIX in path]
        subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
        poison = ut.CUDAPoison(key=ut.Key.load(key_file))
        protect_folder(source, disk / "out", poison)
        protect_folder(source, tmp_path / "whole", poison)
        assert tree(disk / "out") == tree(tmp_path / "whole")
    finally:
        subprocess.run(["umount", disk], check=True)
