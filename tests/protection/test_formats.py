"""One labelled set as five kinds of files: what comes out is of the same kind, and holds the same bytes."""

import io
import tarfile
from pathlib import Path

import datasets
import pytest
from conftest import encode, pixels
from folders import photograph

import unlearnable_transforms as ut
from unlearnable_transforms.protection.protect import protect_source

NAMES = ["ant", "bee", "cat"]
FILES = [(f"{row:02d}.png", NAMES[row * 7 % 3]) for row in range(9)]
DATA = [encode(photograph(row)) if row % 2 else encode(pixels(12 + row, 9, 3, seed=row)) for row in range(len(FILES))]


def as_rows() -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    images = [{"bytes": data, "path": None} for data in DATA]
    return datasets.Dataset.from_dict({"image": images, "label": [NAMES.index(name) for _, name in FILES]}, features)


def folder(root: Path) -> None:
    for (file, name), data in zip(FILES, DATA, strict=True):
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / file).write_bytes(data)


def csv(root: Path) -> None:
    (root / "images").mkdir(parents=True)
    for (file, _), data in zip(FILES, DATA, strict=True):
        (root / "images" / file).write_bytes(data)
    (root / "train.csv").write_text("image,class\n" + "".join(f"{file},{name}\n" for file, name in FILES))


def parquet(root: Path) -> None:
    root.mkdir()
    as_rows().to_parquet(root / "train.parquet")


def saved(root: Path) -> None:
    as_rows().save_to_disk(root)


def tars(root: Path) -> None:
    root.mkdir()
    for shard in range(2):
        with tarfile.open(root / f"train-{shard}.tar", "w") as tar:
            for (file, name), data in list(zip(FILES, DATA, strict=True))[shard::2]:
                for suffix, content in ((".png", data), (".cls", str(NAMES.index(name)).encode())):
                    entry = tarfile.TarInfo(Path(file).stem + suffix)
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))


def images_in(root: Path) -> set[bytes]:
    """The encoded images in a folder of any kind."""
    if (root / "state.json").exists():
        rows = datasets.load_from_disk(str(root))
    elif tables := list(root.glob("*.parquet")):
        rows = datasets.Dataset.from_parquet([str(path) for path in tables], cache_dir=str(root.parent / "rows"))
    elif shards := list(root.glob("*.tar")):
        found = set()
        for shard in shards:
            with tarfile.open(shard) as tar:
                found |= {tar.extractfile(entry).read() for entry in tar if entry.name.endswith(".png")}
        return found
    else:
        return {path.read_bytes() for path in root.rglob("*.png")}
    return {row["bytes"] for row in rows.cast_column("image", datasets.Image(decode=False))["image"]}


def test_the_same_bytes_in_every_kind(tmp_path):
    poison = ut.CUDAPoison(key=ut.Key.public("formats"))
    made = {}
    for kind in (folder, csv, parquet, saved, tars):
        kind(tmp_path / kind.__name__)
        protect_source(tmp_path / kind.__name__, tmp_path / f"{kind.__name__} out", poison)
        made[kind.__name__] = images_in(tmp_path / f"{kind.__name__} out")
    assert len(made["folder"]) == len(FILES)
    assert not made["folder"] & set(DATA)
    assert all(images == made["folder"] for images in made.values())


def test_protected_tars_are_read_by_datasets(tmp_path):
    tars(tmp_path / "tars")
    protect_source(tmp_path / "tars", tmp_path / "out", ut.CUDAPoison(key=ut.Key.public("formats")))
    rows = datasets.load_dataset(
        "webdataset",
        data_files={"train": [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]},
        split="train",
        cache_dir=str(tmp_path / "rows"),
    )
    order = [row for shard in range(2) for row in range(shard, len(FILES), 2)]
    assert [int(value) for value in rows["cls"]] == [NAMES.index(FILES[row][1]) for row in order]
    assert rows["__key__"] == [Path(FILES[row][0]).stem for row in order]


@pytest.mark.parametrize("kind", [folder, csv, parquet, saved, tars])
def test_undone_in_every_kind(tmp_path, kind):
    from unlearnable_transforms.protection.unlock_source import unlock_source

    kind(tmp_path / "source")
    poison = ut.PILPoison(key=ut.Key.public("formats"), epochs=1, steps=1, work_size=8)
    ledger = tmp_path / "ledger.parquet"
    protect_source(tmp_path / "source", tmp_path / "out", poison, ledger=ledger)
    lines = unlock_source(tmp_path / "out", tmp_path / "back", poison, ledger=ledger, clean=tmp_path / "source")
    assert any("9 are equal" in line for line in lines)
