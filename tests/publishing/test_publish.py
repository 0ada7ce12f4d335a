"""Publishing: to a Hub on this machine and back by `load_dataset`, to a folder, again after an interruption."""

import hashlib
import json
import os
import re
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import SECRET, decode, encode, image_set, run_python, stored
from folders import forms, photograph, save_key, tree
from huggingface_hub import DatasetCard, HfApi
from huggingface_hub.errors import HfHubHTTPError
from loopback import Loopback, loopback
from publications import CLASSES, FEATURES, ROWS, clean_set, exif, key, pictures, protected_folder, publish

import unlearnable_transforms as ut
from unlearnable_transforms.checks.leaks import LeakError
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.publishing.hub import PublishWarning
from unlearnable_transforms.publishing.manifest import verify

STRANGER = """
import datasets, hashlib, json, numpy as np
told = {}
for name in NAMES:
    for split, rows in datasets.load_dataset(name).items():
        pixels = [hashlib.sha256(np.asarray(image).tobytes()).hexdigest() for image in rows["image"]]
        told[f"{name} {split}"] = [pixels, rows["label"][:], rows.features["label"].names]
print(json.dumps(told))
"""


@pytest.fixture
def hub(monkeypatch) -> Loopback:
    with loopback(monkeypatch) as server:
        yield server


@pytest.fixture
def poison() -> ut.CUDAPoison:
    return ut.CUDAPoison(key=key())


@pytest.fixture
def protected(poison) -> datasets.Dataset:
    return ut.protect(clean_set(), poison)


def as_a_stranger(hub: Loopback, home: Path, *names: str) -> dict:
    """What `load_dataset` gives in another process without a token: digests of pixels, labels and class names."""
    environment = {**hub.environment(home), "HF_DATASETS_CACHE": str(home / "data"), "HF_TOKEN": ""}
    return json.loads(run_python(STRANGER.replace("NAMES", repr(names)), timeout=300, **environment).splitlines()[-1])


def digests(images: list) -> list[str]:
    return [hashlib.sha256(np.asarray(image).tobytes()).hexdigest() for image in images]


def canaries(tmp_path: Path) -> tuple[datasets.DatasetDict, list[np.ndarray]]:
    """A set whose pictures come from files with names, paths, EXIF and thumbnails; and the clean pixels."""
    clean = []
    rows: dict[str, list] = {"train": [], "test": []}
    for number in range(ROWS + 3):
        split = "train" if number < ROWS else "test"
        path = tmp_path / "CANARY-folder" / f"CANARY-{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        image = photograph(number if split == "train" else 100 + number, 36, 40)
        thumbnail = encode(image[::4, ::4], "JPEG", comment=b"CANARY-thumbnail")
        path.write_bytes(encode(image, "JPEG", quality=95, exif=exif() + thumbnail, comment=b"CANARY-comment"))
        rows[split].append(str(path))
        clean.append(np.asarray(decode(path.read_bytes())))
    sets = {
        split: datasets.Dataset.from_dict(
            {"image": paths, "label": [row % 3 for row in range(len(paths))]}, features=FEATURES
        )
        for split, paths in rows.items()
    }
    return datasets.DatasetDict(sets), clean[:ROWS]


def test_published_and_loaded_by_a_stranger(tmp_path, hub, poison):
    """The whole way: through the command line, with canaries everywhere, and one clean row that must not get out."""
    originals, clean = canaries(tmp_path)
    save_key(tmp_path / "my.key")
    originals.save_to_disk(str(tmp_path / "originals"))
    arguments = ["--key", str(tmp_path / "my.key"), "--workers", "1", "--keep-split", "test"]
    assert main(["protect", str(tmp_path / "originals"), str(tmp_path / "protected"), *arguments]) == 0
    saved = datasets.load_from_disk(str(tmp_path / "protected"))
    slipped = saved["train"].to_dict()
    slipped["image"][5] = {"bytes": encode(clean[5]), "path": None}
    wrong = datasets.DatasetDict(saved, train=datasets.Dataset.from_dict(slipped, features=FEATURES))
    with pytest.raises(LeakError, match="clean picture: train row 5"):
        ut.publish(wrong, "user/name", poison=poison, originals_public=False)
    assert hub.paths("POST") == hub.paths("PUT") == []

    command = ["publish", str(tmp_path / "protected"), "user/name", "--key", str(tmp_path / "my.key")]
    assert main([*command, "--originals-public", "no", "--license", "cc-by-4.0"]) == 0
    told = as_a_stranger(hub, tmp_path / "home", "user/name")
    train = originals["train"].map(poison, batched=True)
    assert told["user/name train"] == [digests(train["image"]), originals["train"]["label"][:], CLASSES]
    assert told["user/name test"] == [digests(originals["test"]["image"]), originals["test"]["label"][:], CLASSES]

    card = DatasetCard(hub.repos["user/name"].files()["README.md"].decode())
    assert card.data.license == "cc-by-4.0"
    assert card.data.to_dict()["dataset_info"]["splits"][0]["num_examples"] == ROWS
    assert "verified with the ledger" in card.text
    sent = hub.sent
    assert len(sent) > sum(len(row["bytes"]) for row in stored(train))
    assert b"CANARY" not in sent
    assert str(tmp_path).encode() not in sent
    assert not any(form in sent for form in forms(SECRET))
    for number, image in enumerate(clean):  # neither its pixels, nor the file, nor the PNG that it would have become
        original = (tmp_path / "CANARY-folder" / f"CANARY-{number}.jpg").read_bytes()
        assert image.tobytes()[: image.shape[1] * 9] not in sent
        assert encode(image, compress_level=1)[41:-12] not in sent
        assert original[-400:-2] not in sent


def test_folders_of_pictures_come_back_with_their_labels(tmp_path, hub, poison):
    two = protected_folder(tmp_path / "two")
    one = protected_folder(tmp_path / "one", classes=1)
    ut.publish(two, "user/two", poison=poison, originals_public=False)
    other = ut.CUDAPoison(key=ut.Key.load(tmp_path / "one" / "my.key"))
    ut.publish(one, "user/one", poison=other, originals_public=False)
    told = as_a_stranger(hub, tmp_path / "home", "user/two", "user/one")
    assert told["user/two train"][1:] == [[0, 0, 0, 1, 1, 1], ["ant", "bee"]]
    assert set(told["user/two train"][0]) == set(digests([decode(data) for data in tree(two).values()]))
    assert told["user/one train"][1:] == [[0] * 6, ["ant"]]  # which the library drops where nobody says otherwise


def test_a_tree_without_classes_goes_up_flat_and_without_the_label(tmp_path, hub, poison):
    folder = protected_folder(tmp_path, "--label", "Ann Lee")
    ut.publish(folder, "user/name", poison=poison, label="Ann Lee", rename=True, originals_public=False)
    files = hub.repos["user/name"].files()
    assert sorted(name for name in files if name.endswith(".png")) == [f"00000{number}.png" for number in range(6)]
    assert b"Ann Lee" not in hub.sent
    assert b"verified with the ledger" in files["README.md"]


def test_repository_settings_branch_and_pull_request(hub, poison, protected):
    done = ut.publish(
        protected, "user/name", poison=poison, private=True, gated="manual", revision="v1", originals_public=False
    )
    repo = hub.repos["user/name"]
    assert (repo.visibility, repo.gated) == ("private", "manual")
    assert set(repo.files("v1")) > {"README.md", "protection.json", "data/train-00000-of-00001.parquet"}
    assert set(repo.files("main")) == {".gitattributes"}
    assert done.url.endswith("/datasets/user/name")
    assert "extra_gated_prompt" in repo.files("v1")["README.md"].decode()
    order = [path for method, path, _ in hub.received if method in ("POST", "PUT")]
    assert order.index("/api/datasets/user/name/settings") < next(n for n, path in enumerate(order) if "/lfs/" in path)
    done = ut.publish(protected, "user/name", poison=poison, create_pr=True, originals_public=False)
    assert "/discussions/" in done.url
    assert "data/train-00000-of-00001.parquet" in repo.files("refs/pr/2")


def test_an_interrupted_upload_goes_on(hub, poison, protected):
    hub.fail = r"POST .*/commit/"
    with pytest.raises(HfHubHTTPError):
        ut.publish(protected, "user/name", poison=poison, originals_public=False)
    assert set(hub.repos["user/name"].files()) == {".gitattributes"}
    uploads = len([path for path in hub.paths("PUT") if "/lfs/" in path])
    assert uploads == 2  # the table and the card's picture
    hub.fail = None
    ut.publish(protected, "user/name", poison=poison, originals_public=False)
    assert len([path for path in hub.paths("PUT") if "/lfs/" in path]) == uploads
    before = hub.repos["user/name"].files()
    ut.publish(protected, "user/name", poison=poison, originals_public=False)  # and once more, after all is done
    assert hub.repos["user/name"].files() == before


def test_an_earlier_commit_with_other_data_files(hub, poison, protected):
    repo = "user/name"
    HfApi().create_repo(repo, repo_type="dataset")
    upload = HfApi().upload_file
    data = encode(pictures()[0])
    upload(path_or_fileobj=b"x", path_in_repo="README.md", repo_id=repo, repo_type="dataset")
    upload(path_or_fileobj=data, path_in_repo="data/clean.png", repo_id=repo, repo_type="dataset")
    HfApi().delete_file("data/clean.png", repo, repo_type="dataset")
    before = len(hub.received)
    with pytest.raises(LeakError, match="super_squash_history") as caught:
        ut.publish(protected, repo, poison=poison, originals_public=False)
    assert [leak.places for leak in caught.value.leaks] == [("data/clean.png",)]
    assert {method for method, _, _ in hub.received[before:]} <= {"GET", "HEAD"}
    HfApi().super_squash_history(repo, repo_type="dataset")
    ut.publish(protected, repo, poison=poison, originals_public=False)
    assert "data/clean.png" not in hub.repos[repo].files()
    other = ut.protect(clean_set(ROWS + 1), poison)
    with pytest.raises(LeakError, match="earlier commit"):
        ut.publish(other, repo, poison=poison, originals_public=False)
    ut.publish(other.select(range(ROWS + 1)), repo, poison=poison, originals_public=False, allow_history=True)
    assert verify(repo, key()).exit_code == 0


@pytest.mark.parametrize("ref", ["refs/pr/1", "v1", "draft"])
def test_pull_requests_tags_and_branches_with_data_files_count_as_history(hub, poison, protected, ref):
    HfApi().create_repo("user/name", repo_type="dataset")
    repo = hub.repos["user/name"]
    repo.tags.add("v1")
    repo.commit(ref, {"old.parquet": b"PAR1"}, repo.refs["main"])
    with pytest.raises(LeakError, match=r"earlier commit: old.parquet"):
        ut.publish(protected, "user/name", poison=poison, originals_public=False)


def test_what_lay_there_before_is_not_part_of_the_new_set(hub, poison, protected):
    HfApi().create_repo("user/name", repo_type="dataset")
    HfApi().upload_file(path_or_fileobj=b"1", path_in_repo="old.csv", repo_id="user/name", repo_type="dataset")
    ut.publish(protected, "user/name", poison=poison, originals_public=False, allow_history=True)
    assert set(hub.repos["user/name"].files()) == {
        ".gitattributes", "README.md", ".card.webp", "croissant.json", "protection.json",
        "data/train-00000-of-00001.parquet",
    }  # fmt: skip


def test_files_that_the_hub_leaves_out_are_an_error(hub, poison, protected, monkeypatch):
    monkeypatch.setattr("loopback.IGNORED", "*.parquet")  # as a .gitignore in the repository says it
    with pytest.raises(RuntimeError, match=r"did not take \['data/train-00000-of-00001.parquet'\]"):
        ut.publish(protected, "user/name", poison=poison, originals_public=False)


@pytest.mark.parametrize("how", ["link", "here"])
def test_a_folder_may_be_a_link_or_the_current_one(tmp_path, monkeypatch, poison, protected, how):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "elsewhere")
    folder = "." if how == "here" else tmp_path / "link"
    ut.publish(protected, "user/name", poison=poison, folder=folder, originals_public=False)
    assert verify(tmp_path / "elsewhere", key()).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_a_folder_is_ready_to_upload(tmp_path, hub, poison, protected):
    done = publish(protected, tmp_path / "ready")
    assert hub.received == []
    assert done.folder == tmp_path / "ready"
    assert set(tree(done.folder)) == {
        "README.md", ".card.webp", "croissant.json", "protection.json", "data/train-00000-of-00001.parquet"
    }  # fmt: skip
    assert verify(done.folder, key()).exit_code == 0
    for name, told in ((".git/x", []), (".cache/x", []), (".gitattributes", []), (".thumbs/x", [".thumbs/x"])):
        (done.folder / name).parent.mkdir(exist_ok=True)
        (done.folder / name).write_bytes(b"x")
        assert verify(done.folder).added == told
        assert verify(done.folder).exit_code == len(told)
        (done.folder / name).unlink()
    loaded = datasets.load_dataset(str(done.folder), split="train")
    assert stored(loaded) == stored(protected)
    assert loaded.features == protected.features
    with pytest.raises(ValueError, match="not empty"):
        publish(protected, tmp_path / "ready")


def test_files_that_were_written_anew_hold_the_same_pictures(tmp_path):
    """Those of other splits do not count; classes are those of a chain's links."""
    chain = ut.Chain([ut.CUDAPoison(key=key(), classes=CLASSES), ut.CUDAPoison(key=key(), classes=CLASSES)])
    both = datasets.DatasetDict(train=ut.protect(clean_set(), chain), test=clean_set(3, first=80))
    ready = publish(both, tmp_path / "ready", chain).folder
    train = ready / "data" / "train-00000-of-00001.parquet"
    pq.write_table(pq.read_table(train), train, compression="zstd")
    assert verify(ready).changed == ["data/train-00000-of-00001.parquet"]
    assert verify(ready).same_pictures is True
    pq.write_table(pq.read_table(train).slice(1), train)
    assert verify(ready).same_pictures is False


def test_a_manifest_of_a_later_version_is_refused(tmp_path, protected):
    manifest = publish(protected, tmp_path / "ready").folder / "protection.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 2}))
    with pytest.raises(ValueError, match="of a later version: this library reads format 1"):
        verify(tmp_path / "ready")


def test_names_are_dropped_on_request(tmp_path, protected):
    values = [{"bytes": row["bytes"], "path": "Ann.png"} for row in stored(protected)]
    named = datasets.Dataset.from_dict({"image": values, "label": protected["label"][:]}, features=FEATURES)
    publish(named, tmp_path / "rows", rename=True)
    loaded = datasets.load_dataset(str(tmp_path / "rows"), split="train")
    assert stored(loaded) == stored(protected)
    folder = protected_folder(tmp_path, names="Ann {}")
    (folder / "metadata.jsonl").write_text('{"file_name": "ant/Ann 2.png", "note": 1}\n')
    publish(folder, tmp_path / "files", rename=True)
    files = tree(tmp_path / "files")
    assert {name for name in files if name.endswith(".png")} == {
        f"{name}/00000{n}.png" for name in ("ant", "bee") for n in range(3)
    }
    assert json.loads(files["metadata.jsonl"]) == {"file_name": "ant/000001.png", "note": 1}
    assert not any(b"Ann" in data for data in files.values())


def test_what_may_be_is_let_through_and_told(tmp_path, poison):
    with pytest.warns(UserWarning, match="only 50%"):
        half = ut.protect(clean_set(), poison, fraction=0.5)
    done = publish(half, tmp_path / "half", allow_partial=True)
    assert set(done.checked.counts) == {"left", "protected"}
    card = (tmp_path / "half" / "README.md").read_text()
    assert re.search(r"\d of 12 training images are not protected", card)
    some = ut.protect(clean_set(), poison).select(range(10))
    assert publish(some, tmp_path / "some", allow_partial=True).checked.missing == 2
    assert "2 images that were protected with these are not published" in (tmp_path / "some/README.md").read_text()


def test_without_ledger_and_originals_the_card_says_so(tmp_path):
    values = [
        {"bytes": row["bytes"], "path": None} for row in stored(ut.protect(clean_set(), ut.CUDAPoison(key=key())))
    ]
    data = image_set([value["bytes"] for value in values], [0] * ROWS, FEATURES)
    for path in Path(os.environ["UNLEARNABLE_TRANSFORMS_CACHE"], "ledgers").iterdir():
        path.unlink()
    with pytest.warns(PublishWarning) as told:
        publish(data, tmp_path / "out", originals_public=None, allow_unverified=True)
    assert [str(warning.message).split(":")[0] for warning in told] == [
        "whether the originals are public was not said", "coverage not verified"
    ]  # fmt: skip
    card = (tmp_path / "out" / "README.md").read_text()
    assert "**coverage not verified**" in card
    assert "12 unverified" in card
    assert "were changed" not in card
    assert "**That was not verified**" in card
    assert "Whether the originals can be had elsewhere was not said" in card


def test_pairs_of_public_originals_are_told_in_the_card(tmp_path, protected):
    test = image_set([encode(picture) for picture in pictures(3)], [0, 1, 2], FEATURES)
    both = datasets.DatasetDict(train=protected, test=test)
    done = publish(both, tmp_path / "out", originals_public=True)
    assert done.checked.pairs == 3
    card = (tmp_path / "out" / "README.md").read_text()
    assert "**The originals are public.**" in card
    assert "3 clean images of the other splits" in card
