"""The table of noise and its cache: what is kept comes back, in any order; what is damaged is an error."""

import json
import os
import shutil
import stat

import datasets
import numpy as np
import pytest
from conftest import KEY, encode, error_of, image_set, pixels

from unlearnable_transforms import Key, PILPoison, SampleError
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.noise import cache as caches
from unlearnable_transforms.noise.cache import NoiseCache, export_noise, import_noise, list_folders
from unlearnable_transforms.noise.pictures import Pictures, Source
from unlearnable_transforms.noise.table import NoiseError, NoiseTable, Shard, id_array

ADDRESS = {"method": "test", "version": 1, "arguments": {}, "key_fingerprint": "0" * 16}
LABELS = [0, 1] * 6
IMAGES = pixels(12, 9, 8, 3)


def rows(count: int, seed: int = 0) -> tuple[list[bytes], list[np.ndarray], list[bytes]]:
    """Ids, deltas of several shapes, ids of the protected; some ids end with zero bytes, some begin with them."""
    random = np.random.default_rng(seed)
    ids = [random.bytes(16) for _ in range(count)]
    ids[:3] = [ids[0][:14] + b"\0\0", b"\0\0" + ids[1][2:], ids[0][:15] + b"\1"]
    shapes = [(3, 4, 5), (1, 7, 3), (3, 2, 2)]
    deltas = [random.integers(-8, 9, shapes[row % 3], np.int8) for row in range(count)]
    return ids, deltas, [random.bytes(16) for _ in range(count)]


def table_of(ids: list[bytes], deltas: list[np.ndarray], protected: list[bytes]) -> NoiseTable:
    known = id_array(ids)
    order = np.argsort(known, kind="stable")
    shapes = np.array([deltas[row].shape for row in order])
    blob = np.concatenate([deltas[row].reshape(-1) for row in order])
    return NoiseTable([Shard.build(known[order], id_array(protected)[order], shapes, blob)])


# ---- tables ----


def test_a_table_gives_each_id_its_own_delta():
    ids, deltas, protected = rows(50)
    table = table_of(ids, deltas, protected)
    found = table.find(ids)
    assert sorted(found) == list(range(50))
    for place, row in enumerate(found):
        assert np.array_equal(table[row], deltas[place])
        assert table.protected[row : row + 1].tobytes() == protected[place]
    assert (table.find_protected(protected) == found).all()
    assert table.find([b"x" * 16, ids[7], bytes(16)]).tolist() == [-1, found[7], -1]
    assert table.find_protected([b"x" * 16, protected[7]]).tolist() == [-1, found[7]]
    assert table.covers(id_array(ids[::-2]))
    assert not table.covers(id_array([*ids[:3], b"y" * 16]))


def test_the_digest_is_that_of_the_noise_and_not_of_its_order_or_shards():
    ids, deltas, protected = rows(30)
    table = table_of(ids, deltas, protected)
    turned = table_of(ids[::-1], deltas[::-1], protected[::-1])
    halves = [table_of(*(part[half] for part in (ids, deltas, protected))) for half in (slice(0, 11), slice(11, 30))]
    split = NoiseTable([as_shard(half) for half in halves])
    assert table.digest == turned.digest == split.digest
    assert all(np.array_equal(split[row], table[row]) for row in range(30))
    deltas[5] = deltas[5] + (deltas[5] < 8)
    assert table_of(ids, deltas, protected).digest != table.digest
    with pytest.raises(NoiseError, match="twice"):
        NoiseTable([as_shard(halves[0]), as_shard(halves[0])])


def as_shard(table: NoiseTable) -> Shard:
    blob = np.concatenate([table[row].reshape(-1) for row in range(len(table))])
    return Shard.build(table.ids, table.protected, table.shapes, blob)


def test_shards_come_back_from_disk_and_their_noise_stays_there(tmp_path):
    shard = as_shard(table_of(*rows(20)))
    shard.save(tmp_path / "x.safetensors")
    opened = Shard.open(tmp_path / "x.safetensors")
    assert not isinstance(opened.blob, np.ndarray)
    assert opened.index_checksum() == shard.index_checksum()
    table = NoiseTable([opened])
    assert table.digest == NoiseTable([shard]).digest
    assert all(np.array_equal(table[row], NoiseTable([shard])[row]) for row in range(20))


# ---- the cache ----


@pytest.fixture
def poison() -> PILPoison:
    caches._open_table.cache_clear()
    return PILPoison(key=KEY, epochs=2, steps=3, data=(IMAGES, LABELS))


def folder_of(poison: PILPoison):
    return poison._cache().folder / poison.noise


def again(**changes) -> PILPoison:
    """The same poison as another process would make it, which knows the noise's name."""
    caches._open_table.cache_clear()
    return PILPoison(**{"key": KEY, "epochs": 2, "steps": 3, **changes})


def test_files_are_private(poison, tmp_path):
    paths = [path for path in (tmp_path / "unlearnable-cache" / "noise").rglob("*") if path.name != "memo"]
    assert {path.name for path in paths} >= {
        "address.json",
        "manifest.json",
        "00000.safetensors",
        "surrogate.safetensors",
    }
    assert not [path for path in paths if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert not [path for path in paths if path.name.startswith(("work-", ".part"))]


def test_a_covering_table_is_found_whatever_the_order(poison, monkeypatch):
    monkeypatch.setattr(PILPoison, "_learn", None)  # a second fit would call it
    order = np.random.default_rng(0).permutation(12)
    data = image_set([encode(image) for image in IMAGES], LABELS)
    sources = [
        (IMAGES[order], [LABELS[row] for row in order]),
        (IMAGES[3:7], LABELS[3:7]),
        (np.concatenate([IMAGES, IMAGES]), LABELS * 2),
        list(zip(IMAGES, LABELS, strict=True)),
        data,
        data.shuffle(seed=3).select(range(5)),
        data.rename_column("image", "img").rename_column("label", "labels"),
    ]
    for source in sources:
        assert again().fit(source) == poison
    bmp = image_set([encode(image, "BMP") for image in IMAGES], LABELS)
    assert again().fit(bmp) == poison


def test_a_data_set_that_was_read_is_not_read_again(poison, monkeypatch):
    data = image_set([encode(image) for image in IMAGES], LABELS)
    assert again().fit(data) == poison
    monkeypatch.setattr(Source, "__iter__", lambda _: pytest.fail("read again"))
    assert again().fit(data) == poison
    with pytest.raises(pytest.fail.Exception, match="read again"):
        again().fit(data.select([1, 0, 2]))


def test_files_behind_a_data_set_are_looked_at(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(3):
            image = pixels(9, 8, 3, seed=10 * number + (name == "a"))
            (tmp_path / "set" / name / f"{number}.png").write_bytes(encode(image))
    data = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "set"), split="train", cache_dir=str(tmp_path))
    first = again().fit(data)
    ids = Source(data).remembered()
    assert ids is not None
    assert (ids == Pictures(Source(data)).ids).all()
    (tmp_path / "set" / "a" / "0.png").write_bytes(encode(pixels(9, 8, 3, seed=99)))
    assert Source(data).remembered() is None
    assert again().fit(data).noise != first.noise


@pytest.mark.parametrize(
    "change", [{"key": Key.public("other")}, {"eps": 9 / 255}, {"steps": 4}, {"classes": [0, 1, 2]}]
)
def test_what_makes_other_noise_has_another_address(poison, change):
    other = again(**change)
    assert other._cache().name != poison._cache().name
    error = error_of(lambda: again(**change, noise=poison.noise).apply(IMAGES, LABELS), NoiseError)
    assert f"there is no noise {poison.noise}" in str(error)
    assert other.fit((IMAGES, LABELS)).noise != poison.noise


def flip(name: str, place):
    def damage(folder):
        data = bytearray((folder / name).read_bytes())
        at = place(data) if callable(place) else place
        data[at] ^= 0x10
        (folder / name).write_bytes(data)

    return damage


def cut(name: str, keep: float):
    def damage(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * keep)])

    return damage


def edit(change):
    def damage(folder):
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))

    return damage


def of_another_fit(folder):
    other = again(steps=4).fit((IMAGES, LABELS))
    shutil.copyfile(folder_of(other) / "00000.safetensors", folder / "00000.safetensors")


def blob_place(data: bytes) -> int:
    """Somewhere in the noise itself."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return 8 + int.from_bytes(data[:8], "little") + header["blob"]["data_offsets"][0] + 100


def index_place(data: bytes) -> int:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return 8 + int.from_bytes(data[:8], "little") + header["offsets"]["data_offsets"][0] + 9


def a_pipe(name: str):
    def damage(folder):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return damage


def with_header(change):
    """A shard whose header was rewritten."""

    def damage(folder):
        path = folder / "00000.safetensors"
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = change(json.loads(data[8 : 8 + length])).encode()[:length].ljust(length)
        path.write_bytes(data[:8] + header + data[8 + length :])

    return damage


DAMAGES = {
    "a pipe as the manifest": a_pipe("manifest.json"),
    "a pipe as a shard": a_pipe("00000.safetensors"),
    "brackets as the manifest": lambda folder: (folder / "manifest.json").write_text("[" * 200_000),
    "a list as the manifest": lambda folder: (folder / "manifest.json").write_text("[]"),
    "brackets as the header": with_header(lambda header: "[" * 100_000),
    "a header of other types": with_header(lambda header: json.dumps(dict.fromkeys(header, 5))),
    "a header of huge sizes": with_header(
        lambda header: json.dumps({**header, "ids": {**header["ids"], "shape": [9**25]}})
    ),
    "a bit of the noise": flip("00000.safetensors", blob_place),
    "a bit of the index": flip("00000.safetensors", index_place),
    "a bit of the header": flip("00000.safetensors", 20),
    "a bit of the header's length": flip("00000.safetensors", 5),
    "a bit of the manifest": flip("manifest.json", 40),
    "a manifest cut off": cut("manifest.json", 0.5),
    "a shard cut off": cut("00000.safetensors", 0.7),
    "an empty shard": cut("00000.safetensors", 0),
    "no shard": lambda folder: (folder / "00000.safetensors").unlink(),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "another manifest": edit(lambda manifest: manifest.update(rows=3)),
    "another fit's shard": of_another_fit,
    "another key's address": lambda folder: (folder.parent / "address.json").write_text(json.dumps(ADDRESS)),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_an_error_and_never_wrong_noise(poison, name):
    DAMAGES[name](folder_of(poison))
    error = error_of(lambda: again(noise=poison.noise).apply(IMAGES, LABELS), (NoiseError, SampleError))
    assert (
        "damaged" in str(error)
        or "bytes instead of" in str(error)
        or "holds noise of another" in str(error)
        or ("there is no noise" in str(error))
    )
    assert "fit again" in str(error)


@pytest.mark.parametrize("which", ["surrogate.safetensors", "00000.safetensors"])
def test_verify_reads_everything(poison, which):
    entry = caches.Entry(folder_of(poison))
    entry.verify()
    flip(which, -3)(folder_of(poison))
    with pytest.raises(NoiseError, match="damaged"):
        entry.verify()


def test_a_save_that_is_killed_leaves_nothing_to_be_found(tmp_path):
    cache = NoiseCache(ADDRESS)

    def shards():
        yield as_shard(table_of(*rows(6)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), cache.locked():
        cache.save(shards(), {}, {})
    assert cache.entries() == []
    (cache.folder / ".part-1").mkdir()
    with cache.locked():
        assert not (cache.folder / ".part-1").exists()


def test_shards_are_cut_at_their_size(monkeypatch, tmp_path):
    monkeypatch.setattr("unlearnable_transforms.poisons.deltas.SHARD_BYTES", 3 * IMAGES[0].size)
    cut_up = again().fit((IMAGES, LABELS))
    assert len(list(folder_of(cut_up).glob("0*.safetensors"))) == 4
    truth = cut_up.apply(IMAGES, LABELS)
    monkeypatch.setattr("unlearnable_transforms.poisons.deltas.SHARD_BYTES", 1 << 28)
    monkeypatch.setenv("UNLEARNABLE_TRANSFORMS_CACHE", str(tmp_path / "elsewhere"))
    whole = again().fit((IMAGES, LABELS))
    assert len(list(folder_of(whole).glob("0*.safetensors"))) == 1
    assert whole.noise == cut_up.noise
    assert (whole.apply(IMAGES, LABELS) == truth).all()


# ---- from the command line ----


def test_cache_commands(poison, tmp_path, capsys, monkeypatch):
    truth = poison.apply(IMAGES, LABELS)
    assert main(["cache", "ls"]) == 0
    shown = capsys.readouterr().out
    assert poison.noise[:12] in shown
    assert "pil" in shown
    assert KEY.fingerprint in shown
    assert main(["cache", "verify"]) == 0
    assert main(["cache", "export", poison.noise[:12], str(tmp_path / "copy")]) == 0
    assert main(["cache", "rm", poison.noise[:12]]) == 0
    assert list_folders() == []
    with pytest.raises(NoiseError, match="there is no noise"):
        again(noise=poison.noise).apply(IMAGES, LABELS)
    monkeypatch.setenv("UNLEARNABLE_TRANSFORMS_CACHE", str(tmp_path / "elsewhere"))
    assert main(["cache", "import", str(tmp_path / "copy")]) == 0
    assert (again(noise=poison.noise).apply(IMAGES, LABELS) == truth).all()
    flip("00000.safetensors", -1)(folder_of(poison))
    capsys.readouterr()
    assert main(["cache", "verify"]) == 1
    assert "damaged" in capsys.readouterr().out
    assert main(["cache", "rm", "0" * 32]) == 2


def test_a_damaged_export_is_refused(poison, tmp_path):
    copy = export_noise(poison.noise, tmp_path / "copy")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o700
    flip("00000.safetensors", -1)(copy / poison.noise)
    with pytest.raises(NoiseError, match="damaged"):
        import_noise(copy)
    with pytest.raises(FileNotFoundError, match="cache export"):
        import_noise(tmp_path)


IMPOSTORS = {
    "a path that is absolute": {"method": "/tmp/evil"},
    "a path that leads out": {"method": "../../evil"},
    "a path that leads out of its folder": {"method": "a/b"},
    "no method": {"method": None},
    "a number": {"method": 5},
    "no name": {"method": ""},
    "arguments in a list": {"arguments": []},
    "a version in words": {"version": "one"},
    "escape sequences": {"key_fingerprint": "\x1b[2J"},
}


@pytest.mark.parametrize("name", IMPOSTORS)
def test_an_address_of_others_is_no_path(poison, tmp_path, name, monkeypatch):
    copy = export_noise(poison.noise, tmp_path / "copy")
    address = json.loads((copy / "address.json").read_text())
    (copy / "address.json").write_text(json.dumps({**address, **IMPOSTORS[name]}))
    monkeypatch.setenv("UNLEARNABLE_TRANSFORMS_CACHE", str(tmp_path / "elsewhere"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(NoiseError, match=r"address\.json is damaged"):
        import_noise(copy)
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "elsewhere"] == before


def test_a_shard_that_is_named_elsewhere_is_not_read(poison, tmp_path):
    copy = export_noise(poison.noise, tmp_path / "copy")
    path = copy / poison.noise / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["shards"][0]["file"] = str(tmp_path / "other")
    del manifest["checksum"]
    path.write_text(json.dumps({**manifest, "checksum": caches._json_checksum(manifest)}))
    with pytest.raises(NoiseError, match="damaged"):
        import_noise(copy)


def test_only_what_belongs_to_a_fit_is_exported_and_imported(poison, tmp_path, monkeypatch):
    before = os.umask(0)
    try:
        copy = export_noise(poison.noise, tmp_path / "copy")
        (copy / poison.noise / "run-me.desktop").write_text("evil")
        monkeypatch.setenv("UNLEARNABLE_TRANSFORMS_CACHE", str(tmp_path / "elsewhere"))
        taken = import_noise(copy).folder
    finally:
        os.umask(before)
    names = {"00000.safetensors", "manifest.json", "surrogate.safetensors"}
    assert {path.name for path in taken.iterdir()} == names
    for folder in (copy, tmp_path / "elsewhere"):
        for path in (folder, *folder.rglob("*")):
            if path.name != "run-me.desktop":
                assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
