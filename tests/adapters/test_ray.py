"""Ray: the same bytes as without it, also where a worker is killed half way."""

import os
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import image_set
from folders import interrupted, make_folder, photograph, save_key, tree
from PIL import Image

import unlearnable_transforms as ut
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.protection.protect import Protect, protect_source

ray = pytest.importorskip("ray", reason="needs ray: pip install 'unlearnable-transforms[ray]'")


@pytest.fixture(scope="module")
def cluster():
    """This machine alone, with two workers, for all tests of the file."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def dying(worker: type, after: Path) -> type:
    """A worker whose process is killed after it wrote and before it told, once; ``after`` then exists.

    Made in a function, so that Ray sends it by value: its processes do not know this file.
    """

    class Dying(worker):
        def __call__(self, task):
            done = super().__call__(task)
            written = len([path for path in self.out.rglob("*") if path.is_file()])
            if written > 3 and not after.exists():
                after.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return done

    return Dying


@pytest.fixture
def small_tasks(monkeypatch):
    monkeypatch.setattr("unlearnable_transforms.jobs.run.UNITS", 1)
    monkeypatch.setattr("unlearnable_transforms.jobs.run.WORKER_UNITS", 1)
    monkeypatch.setattr("unlearnable_transforms.data.table.SHARD_BYTES", 1000)


def lines_of(summary) -> list[str]:
    return [line.replace(summary.out, "OUT") for line in summary.lines() if "ledger" not in line]


@pytest.mark.slow
def test_a_folder_where_an_actor_is_killed(cluster, small_tasks, tmp_path, poison, monkeypatch):
    source = make_folder(tmp_path / "source")
    whole = protect_source(source, tmp_path / "local", poison, ledger=tmp_path / "local.parquet")
    killed = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr("unlearnable_transforms.protection.protect.Protect", dying(Protect, killed))
        found = protect_source(
            source, tmp_path / "ray", poison, engine="ray", workers=2, ledger=tmp_path / "ray.parquet"
        )
    assert killed.exists()
    assert len(tree(tmp_path / "ray")) == 12
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")
    assert (tmp_path / "ray.parquet").read_bytes() == (tmp_path / "local.parquet").read_bytes()
    assert lines_of(found) == lines_of(whole)


@pytest.mark.slow
def test_parquet_where_an_actor_is_killed(cluster, small_tasks, tmp_path, key, monkeypatch):
    """With a method that has noise: it is fitted here, and opened by each actor."""
    images = [photograph(number, 16, 16) for number in range(40)]
    data = image_set(images, [number % 2 for number in range(40)])
    data.to_parquet(str(tmp_path / "train.parquet"))
    poison = ut.LSPPoison(key=key)
    protect_source(str(tmp_path / "train.parquet"), tmp_path / "local", poison)
    killed = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr("unlearnable_transforms.protection.protect.Protect", dying(Protect, killed))
        protect_source(str(tmp_path / "train.parquet"), tmp_path / "ray", poison, engine="ray", workers=2)
    assert killed.exists()
    assert len(tree(tmp_path / "ray")) > 6
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")
    rows = sum(pq.read_metadata(path).num_rows for path in (tmp_path / "ray").glob("*.parquet"))
    assert rows == 40


@pytest.mark.slow
def test_what_a_worker_refuses_is_told_as_without_ray(cluster, small_tasks, tmp_path, poison):
    source = make_folder(tmp_path / "source")
    (source / "cat" / "0003.png").write_bytes(b"no picture")
    summary = protect_source(source, tmp_path / "out", poison, engine="ray", workers=2)
    assert [path for path, _ in summary.failed] == ["cat/0003.png"]
    assert len(tree(tmp_path / "out")) == 11


@pytest.mark.slow
def test_a_run_on_ray_goes_on_where_a_local_one_stopped(cluster, small_tasks, tmp_path, poison, monkeypatch):
    source = make_folder(tmp_path / "source")
    with interrupted(monkeypatch, after=4):
        protect_source(source, tmp_path / "out", poison)
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in tree(tmp_path / "out")}
    assert len(before) == 4
    protect_source(source, tmp_path / "out", poison, engine="ray", workers=2)
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == time for name, time in before.items())
    protect_source(source, tmp_path / "whole", poison)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_the_command_line(cluster, tmp_path):
    source, key = make_folder(tmp_path / "source"), str(save_key(tmp_path / "my.key"))
    for engine in ("local", "ray"):
        arguments = ["protect", str(source), str(tmp_path / engine), "--key", key, "--engine", engine]
        assert main([*arguments, "--workers", "2"]) == 0
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")


def test_an_unknown_engine_is_refused(tmp_path, poison):
    with pytest.raises(ValueError, match="local"):
        protect_source(make_folder(tmp_path / "source"), tmp_path / "out", poison, engine="spark")
    assert not (tmp_path / "out").exists()


# ---- Ray Data


def protect_with_ray(data, poison):
    pool = ray.data.ActorPoolStrategy(size=1)
    return data.map_batches(ut.ray.Protect, fn_constructor_kwargs={"poison": poison}, compute=pool, batch_size=5)


def test_arrays_of_one_size(cluster, poison):
    images = np.random.default_rng(0).integers(0, 256, (12, 10, 14, 3), np.uint8)
    labels = np.arange(12) % 3
    rows = [
        {"image": image, "label": int(label), "name": f"n{label}"} for image, label in zip(images, labels, strict=True)
    ]
    found = protect_with_ray(ray.data.from_items(rows), poison).take_all()
    assert (np.stack([row["image"] for row in found]) == poison.apply(images, labels)).all()
    assert [row["name"] for row in found] == [row["name"] for row in rows]


@pytest.mark.slow
def test_files_of_mixed_sizes(cluster, tmp_path, poison):
    source = make_folder(tmp_path / "source")
    data = ray.data.read_images(str(source), mode="RGB", include_paths=True)
    data = data.map(lambda row: {"image": row["image"], "label": row["path"].split("/")[-2], "path": row["path"]})
    rows = protect_with_ray(data, poison).take_all()
    assert len(rows) == 12
    for row in rows:
        with Image.open(row["path"]) as image:
            expected, _ = poison(image.convert("RGB"), row["label"])
        assert (row["image"] == np.asarray(expected)).all()


@pytest.mark.slow
def test_parquet_of_datasets(cluster, tmp_path, poison):
    images = [photograph(number, 16, 16 + number % 2) for number in range(11)]
    data = image_set(images, [number % 2 for number in range(11)])
    data.to_parquet(str(tmp_path / "in.parquet"))
    protect_with_ray(ray.data.read_parquet(str(tmp_path / "in.parquet")), poison).write_parquet(str(tmp_path / "out"))
    found = [row for path in sorted((tmp_path / "out").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert len(found) == 11
    assert all(row["image"]["path"] is None for row in found)
    expected = {row["image"]["bytes"] for row in pq_rows(data.map(poison), tmp_path / "expected.parquet")}
    assert {row["image"]["bytes"] for row in found} == expected


def pq_rows(data, path: Path) -> list[dict]:
    data.to_parquet(str(path))
    return pq.read_table(path).to_pylist()


def test_what_is_not_ready_is_refused_before_ray_starts(key):
    with pytest.raises(TypeError, match="not a protection method"):
        ut.ray.Protect("cuda")
    with pytest.raises(ut.NotFittedError, match="before Ray gets it"):
        ut.ray.Protect(ut.SEMPoison(key=key))
    batch = {"image": np.full((2, 8, 8, 3), 90, np.uint8), "label": np.array([1, 2])}
    with pytest.raises(TypeError, match="batch_format"):
        ut.ray.Protect(ut.CUDAPoison(key=key))(list(batch.items()))
    encoded = np.empty(2, object)
    encoded[:] = [{"bytes": b"...", "path": None}] * 2
    for second in (batch["image"], encoded, batch["image"][None].swapaxes(0, 1)):
        with pytest.raises(ValueError, match="thumbnail"):
            ut.ray.Protect(ut.CUDAPoison(key=key))({**batch, "thumbnail": second})
        ut.ray.Protect(ut.CUDAPoison(key=key, image_key="image"))({**batch, "thumbnail": second})
    with pytest.raises(ut.SampleError, match="row 1: the label is -1"):
        ut.ray.Protect(ut.CUDAPoison(key=key))({"image": np.zeros((2, 8, 8, 3), np.uint8), "label": np.array([1, -1])})
