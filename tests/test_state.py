"""State: fingerprints that find the cache again, pickles that are whole, and keys that stay where they are."""

import base64
import copy
import json
import pickle
import unicodedata

import albumentations as A
import datasets
import dill
import numpy as np
import pytest
import torch
import yaml
from conftest import CLASSES, FILTERS, KEY, POISONS, encode, image_set, pixels, report, run_python
from datasets.fingerprint import Hasher

import unlearnable_transforms as ut
from unlearnable_transforms import CUDAPoison, Key

IMAGES = pixels(5, 12, 10, 3)

WAYS = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda poison: pickle.loads(pickle.dumps(poison)),
    "oldest pickle": lambda poison: pickle.loads(pickle.dumps(poison, protocol=4)),
    "dill": lambda poison: dill.loads(dill.dumps(poison)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", POISONS)
def test_copies_are_equal_and_make_the_same_bytes(name, way):
    make, labels = POISONS[name]
    poison = make()
    truth = poison.apply(IMAGES, labels)
    again = WAYS[way](poison)
    assert again is not poison
    assert again == poison == make()
    assert hash(again) == hash(poison)
    assert repr(again) == repr(poison)
    assert (again.apply(IMAGES, labels) == truth).all()
    assert Hasher.hash(again) == Hasher.hash(poison)


def test_another_process_computes_the_same(elsewhere):
    """Fingerprints, random words and bytes, with another PYTHONHASHSEED and one thread."""
    assert elsewhere == json.loads(report())


@pytest.mark.parametrize("name", POISONS)
def test_use_does_not_change_the_fingerprint(name):
    make, labels = POISONS[name]
    poison = make()
    before = Hasher.hash(poison)
    poison.apply(IMAGES, labels)
    poison(IMAGES[0], labels[0])
    if isinstance(poison, CUDAPoison):
        poison.kernels(labels, image_size=50)
        poison.fit(None)
    repr(poison), hash(poison), poison.public_config()
    assert Hasher.hash(poison) == before == Hasher.hash(make())


EQUAL = [
    lambda: CUDAPoison(KEY, kernel_size=5, blur=0.25, classes=["é", "b"]),
    lambda: CUDAPoison(
        key=pickle.loads(pickle.dumps(KEY)), blur=np.float64(0.25), kernel_size=np.int32(5), classes=("é", "b")
    ),
    lambda: CUDAPoison(KEY, kernel_size=5, blur=0.25, classes=np.array([unicodedata.normalize("NFD", "é"), "b"])),
]
EQUAL_FILTERS = [
    lambda: CUDAPoison(kernels=FILTERS),
    lambda: CUDAPoison(kernels=dict(reversed(FILTERS.items()))),
    lambda: CUDAPoison(kernels={np.int64(label): np.asfortranarray(f) for label, f in FILTERS.items()}),
    lambda: CUDAPoison(kernels={label: f.tolist() for label, f in FILTERS.items()}),
    lambda: CUDAPoison(kernels={label: f.astype(np.float32) for label, f in FILTERS.items()}),
    lambda: CUDAPoison(kernels=list(FILTERS.items())),
]


@pytest.mark.parametrize("makers", [EQUAL, EQUAL_FILTERS], ids=["keyed", "explicit"])
def test_equal_arguments_make_equal_poisons(makers):
    poisons = [make() for make in makers]
    assert all(poison == poisons[0] for poison in poisons)
    assert len({Hasher.hash(poison) for poison in poisons}) == 1
    assert len({repr(poison) for poison in poisons}) == 1


def test_one_array_given_twice_is_two_equal_arrays():
    """Pickles, and so fingerprints, tell an object that occurs twice from two equal ones."""
    one = FILTERS[0]
    twice, apart = CUDAPoison(kernels={0: one, 1: one}), CUDAPoison(kernels={0: one.copy(), 1: one.copy()})
    assert Hasher.hash([one, one]) != Hasher.hash([one.copy(), one.copy()])  # the trap
    assert Hasher.hash(twice) == Hasher.hash(apart)


def test_every_argument_changes_the_fingerprint(monkeypatch):
    other = {**FILTERS, 0: FILTERS[0] + 1 / 4096}
    different = [
        CUDAPoison(KEY),
        CUDAPoison(Key.public("another")),
        CUDAPoison(KEY.derive("a/b")),
        CUDAPoison(KEY, kernel_size=3),
        CUDAPoison(KEY, kernel_size=5),
        CUDAPoison(KEY, blur=0.3),
        CUDAPoison(KEY, image_key="image"),
        CUDAPoison(KEY, label_key="label"),
        CUDAPoison(KEY, classes=CLASSES),
        CUDAPoison(KEY, classes=CLASSES[::-1]),  # integers mean others then
        CUDAPoison(KEY, classes=[0, 1]),
        CUDAPoison(KEY, classes=["0", "1"]),
        CUDAPoison(kernels=FILTERS),
        CUDAPoison(kernels=other),
        CUDAPoison(kernels={str(label): f for label, f in FILTERS.items()}),
    ]
    hashes = {Hasher.hash(poison) for poison in different}
    assert len(hashes) == len(different)
    assert all(a != b for i, a in enumerate(different) for b in different[:i])
    monkeypatch.setattr(CUDAPoison, "version", 99)
    assert Hasher.hash(CUDAPoison(KEY)) not in hashes


def test_pickles_of_another_version_are_refused(monkeypatch):
    data = pickle.dumps(CUDAPoison(KEY))
    monkeypatch.setattr(CUDAPoison, "version", 99)
    with pytest.raises(ValueError, match=r"version \d+ was pickled, this library has version 99: make the poison anew"):
        pickle.loads(data)


def test_poisons_are_no_keys_of_other_things():
    poison = CUDAPoison(KEY)
    assert poison != KEY
    assert poison != "cuda"
    assert {poison: 1}[CUDAPoison(KEY)] == 1


# ---- the cache of datasets ----


def on_disk(folder) -> datasets.Dataset:
    """A data set whose results of map are cached on disk."""
    labels = POISONS["cuda"][1]
    image_set([encode(image, "JPEG") for image in IMAGES], labels).save_to_disk(folder)
    return datasets.load_from_disk(folder)


@pytest.fixture
def calls(monkeypatch) -> list:
    """One entry for every batch that is really protected."""
    made = []
    original = CUDAPoison._protect

    def counting(self, images, tokens, ids, *rest):
        made.append(len(images))
        return original(self, images, tokens, ids, *rest)

    monkeypatch.setattr(CUDAPoison, "_protect", counting)
    return made


@pytest.mark.parametrize("batched", [False, True])
def test_the_second_map_calls_nothing(tmp_path, calls, batched):
    data = on_disk(tmp_path / "set")
    first = data.map(CUDAPoison(KEY), batched=batched)
    assert sum(calls) == 5
    files, before = sorted(tmp_path.rglob("*.arrow")), list(calls)
    used = CUDAPoison(KEY)
    used._filter("i:77", 500)  # a used object is still the same one
    second = datasets.load_from_disk(tmp_path / "set").map(used, batched=batched)
    assert calls == before
    assert sorted(tmp_path.rglob("*.arrow")) == files
    assert second.cache_files == first.cache_files
    for other in (CUDAPoison(Key.public("another")), CUDAPoison(KEY, blur=0.2), CUDAPoison(KEY, classes=range(4))):
        data.map(other, batched=batched)
    assert sum(calls) == 5 * 4


def test_a_new_version_of_the_method_does_not_take_old_pictures(tmp_path, calls, monkeypatch):
    data = on_disk(tmp_path / "set")
    data.map(CUDAPoison(KEY))
    monkeypatch.setattr(CUDAPoison, "version", 99)
    data.map(CUDAPoison(KEY))
    assert sum(calls) == 10


def test_another_process_finds_the_cache(tmp_path):
    mapped = on_disk(tmp_path / "set").map(CUDAPoison(KEY), batched=True)
    code = f"""
import datasets
from conftest import KEY
from unlearnable_transforms import CUDAPoison
def refuse(*arguments):
    raise AssertionError("called again")
CUDAPoison._protect = refuse
mapped = datasets.load_from_disk({str(tmp_path / "set")!r}).map(CUDAPoison(KEY), batched=True)
print(mapped.cache_files[0]["filename"], mapped._fingerprint)
"""
    theirs = run_python(code, PYTHONHASHSEED="11").split()
    assert theirs == [mapped.cache_files[0]["filename"], mapped._fingerprint]


# ---- where the key is ----


def traces(poison: CUDAPoison) -> list[bytes]:
    secret = poison.key._secret
    numbers = str(list(secret))[1:-1].encode()
    codes = [base64.b64encode(secret), base64.urlsafe_b64encode(secret), base64.b32encode(secret)]
    return [secret, secret[::-1], secret.hex().encode(), secret.hex().upper().encode(), numbers, *codes]


def test_the_key_is_in_no_file_that_anything_wrote(tmp_path):
    poison = CUDAPoison(Key.generate())
    data = on_disk(tmp_path / "set")
    data.map(poison, desc="x")
    data.map(poison, batched=True, num_proc=2)
    mapped = ut.protect(data, poison, ledger=tmp_path / "ledger.parquet")
    ut.protect(data, poison)
    mapped.save_to_disk(tmp_path / "saved")
    mapped.to_parquet(tmp_path / "saved.parquet")
    pipeline = A.Compose([ut.albumentations.Protect(poison)])
    pipeline(image=IMAGES[0], label=1)
    for kind in ("json", "yaml"):
        A.save(pipeline, tmp_path / f"pipeline.{kind}", data_format=kind)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"ledger.parquet", "saved.parquet", "pipeline.json", "pipeline.yaml"} <= {path.name for path in files}
    assert sum(path.name.startswith("cache-") for path in files) >= 3
    assert len([path for path in files if path.parent.name == "ledgers"]) == 1
    for path in files:
        content = path.read_bytes()
        assert not [trace for trace in traces(poison) if trace in content], path


def test_the_key_is_in_nothing_that_may_be_shown():
    poison = CUDAPoison(Key.generate(), classes=CLASSES)
    op = ut.albumentations.Protect(poison)
    pipeline = A.Compose([op])
    pipeline(image=IMAGES[0], label=1)
    shown = [
        repr(poison),
        str(poison),
        repr(op),
        repr(pipeline),
        repr(poison.public_config()),
        repr(poison.arguments()),
    ]
    shown += [json.dumps(A.to_dict(pipeline)), repr(ut.ProtectedDataset([(IMAGES[0], 1)], poison).poison)]
    shown += [repr(pipeline.get_dict_with_id()), repr(op.get_transform_init_args()), repr(op.to_dict())]
    assert not [trace for trace in traces(poison) if trace in "\n".join(shown).encode()]
    assert poison.key.fingerprint in shown[0]
    assert poison.public_config()["key_fingerprint"] == poison.key.fingerprint


def test_explicit_filters_are_as_secret_as_a_key():
    poison = CUDAPoison(kernels={"cat": np.full((3, 3), 0.123456)})
    number = str(float(np.float32(round(0.123456 * 4096) / 4096)))[:6]
    assert number in json.dumps(poison.arguments())
    shown = [repr(poison), json.dumps(poison.public_config()), json.dumps(A.to_dict(ut.albumentations.Protect(poison)))]
    assert number not in "\n".join(shown)
    assert poison.public_config()["key_fingerprint"] is None


def test_a_pickled_poison_has_its_key():
    """The documented exception: workers need it. The library writes no pickle to disk."""
    assert KEY._secret in pickle.dumps(CUDAPoison(KEY))


@pytest.mark.parametrize(
    "save",
    [
        lambda value, path: torch.save({"hyper_parameters": {"poison": value}}, path),
        lambda value, path: path.write_text(yaml.dump({"poison": value})),
        lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2)),
    ],
    ids=["torch.save", "yaml", "pickle 2"],
)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda poison: poison.key,
        lambda poison: poison,
        lambda poison: ut.Chain([poison]),
        lambda poison: ut.ProtectedDataset([(IMAGES[0], 0)], poison),
        lambda poison: poison.apply,
    ],
    ids=["key", "poison", "chain", "dataset", "method"],
)
def test_a_checkpoint_never_gets_the_key(tmp_path, save, wrap):
    key, path = Key.generate(), tmp_path / "file"
    with pytest.raises(TypeError, match=r"leave keys and poisons out of checkpoints.*Key.load\(path\)"):
        save(wrap(CUDAPoison(key=key)), path)
    assert not path.exists() or key._secret not in path.read_bytes()
