"""Secret classes of a data set, in memory and on the disk. The protection follows them and nobody sees them."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import TINY, encode, image_set, stored
from datasets import ClassLabel, Dataset, DatasetDict, load_from_disk
from secret_classes import KINDS, brightness, integers, pictures, tokens, unlabelled

import unlearnable_transforms as ut
from unlearnable_transforms.data import table as shards
from unlearnable_transforms.jobs.ledger import read_ledger
from unlearnable_transforms.protection.fit import fit_source
from unlearnable_transforms.protection.protect import protect_source

SECRET = [5, 0, 5, 2, 2, 0, 5, 2, 0, 2, 5, 0]


# ---- ut.protect ------------------------------------------------------------------------------------------------------


@pytest.fixture
def data() -> Dataset:
    data = unlabelled(pictures()).add_column("label", [row % 2 for row in range(12)])
    return data.cast_column("label", ClassLabel(names=["cat", "dog"]))


@pytest.mark.parametrize("secret", [SECRET, [f"person {number}" for number in SECRET], np.array(SECRET)])
def test_the_secret_class_takes_the_place_of_the_label(data, poison, ledger, secret):
    protected = ut.protect(data, poison, labels=secret, ledger=ledger)
    relabelled = data.remove_columns("label").add_column("label", list(secret))
    as_label = ut.protect(relabelled, poison, ledger=ledger.with_name("other.parquet"))
    assert stored(protected) == stored(as_label) == stored(relabelled.map(poison))
    assert protected.features == data.features
    assert [protected[name] for name in ("label", "note")] == [data[name] for name in ("label", "note")]
    assert read_ledger(ledger).equals(read_ledger(ledger.with_name("other.parquet")))
    assert stored(protected) != stored(ut.protect(data, poison, ledger=ledger))


def test_without_a_label_column_by_clusters(poison, key, ledger):
    data = unlabelled(pictures(30))
    protected = ut.protect(data, poison, labels="auto", clusters=KINDS, ledger=ledger)
    found = ut.auto_labels(data, key, clusters=KINDS)
    assert integers(ledger) == found
    assert protected.features == data.features
    two_lines = data.add_column("secret", found).map(ut.CUDAPoison(key=key, label_key="secret"))
    assert stored(protected) == stored(two_lines.remove_columns("secret"))
    with pytest.raises(KeyError, match="label column"):
        ut.protect(data, poison)


def test_ten_clusters_by_default_and_with_any_backbone(poison, ledger):
    ut.protect(unlabelled(pictures(30)), poison, labels="auto", ledger=ledger)
    assert set(integers(ledger)) == set(range(10))
    ut.protect(unlabelled(pictures(30)), poison, labels="auto", clusters=2, backbone=brightness, ledger=ledger)
    assert set(integers(ledger)) == {0, 1}


def test_rows_in_another_order_and_with_a_format(data, poison, ledger):
    whole = stored(ut.protect(data, poison, labels=SECRET, ledger=ledger))
    backwards = ut.protect(data.select(range(11, -1, -1)), poison, labels=SECRET[::-1], ledger=ledger)
    assert stored(backwards) == whole[::-1]
    formatted = data.with_format("torch", columns=["image", "label"])
    protected = ut.protect(formatted, poison, labels=SECRET, ledger=ledger)
    assert protected.format == formatted.format
    assert stored(protected) == whole
    plain = ut.protect(data, poison, labels=SECRET, ledger=ledger)
    assert plain.format == data.format


def test_the_same_call_gives_the_same_set(data, poison, ledger, tmp_path):
    data.save_to_disk(tmp_path / "saved")
    first, again = (
        ut.protect(load_from_disk(tmp_path / "saved"), poison, labels="auto", ledger=ledger) for _ in range(2)
    )
    assert stored(again) == stored(first)
    assert again._fingerprint == first._fingerprint
    other = ut.protect(load_from_disk(tmp_path / "saved"), poison, labels=SECRET, ledger=ledger)
    assert stored(other) != stored(first)
    assert other._fingerprint != first._fingerprint


def test_clusters_go_over_all_training_splits(poison, key, ledger):
    data = unlabelled(pictures(20))
    parts = DatasetDict({"train1": data.select(range(8)), "train2": data.select(range(8, 20)), "test": data})
    protected = ut.protect(parts, poison, labels="auto", clusters=KINDS, ledger=ledger)
    assert integers(ledger) == ut.auto_labels(data, key, clusters=KINDS)
    assert stored(protected["test"]) == stored(data)
    both = ut.protect(parts, poison, labels={"train1": SECRET[:8], "train2": SECRET}, ledger=ledger)
    assert tokens(ledger) == [f"i:{number}" for number in SECRET[:8] + SECRET]
    assert stored(both["train1"]) == stored(ut.protect(parts["train1"], poison, labels=SECRET[:8], ledger=ledger))
    with pytest.raises(ValueError, match="mapping from"):
        ut.protect(parts, poison, labels=SECRET)
    with pytest.raises(ValueError, match=r"are for the splits \['train1'\]"):
        ut.protect(parts, poison, labels={"train1": SECRET[:8]})


def test_a_method_that_learns_learns_the_secret_classes(data, key, ledger):
    secret = [row % 3 for row in range(12)]
    poison = ut.EMPoison(key=key, kind="class", **TINY)
    with pytest.warns(ut.FitWarning):
        protected = ut.protect(data, poison, labels=secret, ledger=ledger)
    assert poison.report["class_tokens"] == ["i:0", "i:1", "i:2"]
    assert stored(protected) != stored(data)
    relabelled = data.remove_columns("label").add_column("label", secret)
    assert stored(protected) == stored(relabelled.map(poison))
    again = ut.EMPoison(key=key, kind="class", **TINY, label_key="label")
    assert stored(ut.protect(data, again, labels=secret, ledger=ledger)) == stored(protected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": SECRET[:5]}, "12 images came with 5 labels"),
        ({"labels": [*SECRET[:-1], -1]}, "row 11: .*unlabelled"),
        ({"labels": [*SECRET[:-1], "Ann"]}, "mix integers and text"),
        ({"labels": "folder"}, "one secret class a row, not 'folder'"),
        ({"labels": "label"}, "label_key="),
        ({"labels": "auto", "clusters": 13}, "12 different pictures cannot make 13 clusters"),
        ({"clusters": 3}, 'clusters is for labels="auto"'),
        ({"labels": SECRET, "backbone": "shapes"}, 'backbone is for labels="auto"'),
    ],
)
def test_labels_that_are_none(data, poison, options, message):
    with pytest.raises(ValueError, match=message):
        ut.protect(data, poison, **options)


def test_clusters_need_a_key(data):
    explicit = ut.CUDAPoison(kernels={number: np.eye(3) for number in range(6)})
    with pytest.raises(ValueError, match="draws from the key"):
        ut.protect(data, explicit, labels="auto")
    assert len(ut.protect(data, explicit, labels=SECRET)) == 12


# ---- data sets on the disk -------------------------------------------------------------------------------------------


def test_parquet_and_saved_sets_without_labels(out, tmp_path, poison, key, ledger, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 8000)
    data = unlabelled(pictures(20))
    data.to_parquet(tmp_path / "train.parquet")
    summary = protect_source(tmp_path / "train.parquet", out, poison, labels="auto", clusters=KINDS, ledger=ledger)
    expected = ut.protect(data, poison, labels="auto", clusters=KINDS, ledger=ledger.with_name("other.parquet"))
    assert "follows 3 secret classes" in "\n".join(summary.lines())
    written = [Dataset(pq.read_table(path)) for path in sorted(out.iterdir())]
    assert len(written) > 1
    assert [row for part in written for row in part.with_format("arrow")[:]["image"].to_pylist()] == stored(expected)
    assert all(part.column_names == ["image", "note"] for part in written)
    assert integers(ledger) == ut.auto_labels(data, key, clusters=KINDS)
    DatasetDict(train=data, test=data).save_to_disk(tmp_path / "saved")
    protect_source(tmp_path / "saved", tmp_path / "again", poison, labels="auto", clusters=KINDS, keep_splits=["test"])
    again = load_from_disk(tmp_path / "again")
    assert stored(again["train"]) == stored(expected)
    assert again["train"].features == data.features
    assert not list((tmp_path / "saved").rglob("cache-*"))


def test_methods_that_learn_from_a_table(out, tmp_path, key):
    unlabelled(pictures(15)).to_parquet(tmp_path / "train.parquet")
    poison = ut.EMPoison(key=key, kind="class", **TINY)
    with pytest.warns(ut.FitWarning):
        fit_source(tmp_path / "train.parquet", poison, labels="auto", clusters=KINDS)
    fresh = ut.EMPoison(key=key, kind="class", **TINY)
    protect_source(tmp_path / "train.parquet", out, fresh, labels="auto", clusters=KINDS)
    assert fresh.noise == poison.noise


def test_rows_that_cannot_be_read_stop_a_table_before_it_begins(out, tmp_path, poison):
    image_set([encode(image) for image in pictures(5)] + [b"?"], [0] * 6).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ut.SampleError, match=r"train row 5: .*not a picture"):
        protect_source(tmp_path / "train.parquet", out, poison, labels="auto", clusters=2)
    assert not out.exists()


def test_the_command_on_tables(tmp_path, protect, capsys):
    unlabelled(pictures(12)).to_parquet(tmp_path / "train.parquet")
    for options, message in (
        (("--labels", "folder"), "one secret class a row"),
        (("--labels", "auto", "--label-key", "note"), "--label-key has no meaning for --labels"),
    ):
        assert protect(tmp_path / "train.parquet", *options) == 2
        assert message in capsys.readouterr().err
    assert protect(tmp_path / "train.parquet", "--labels", "auto", "--clusters", 3) == 0
    assert "follows 3 secret classes" in capsys.readouterr().out
