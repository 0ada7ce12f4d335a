"""Another key and other options are refused, by what ledger, manifest or the pictures themselves say."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import KEY, SHARED, STARTED, TINY, decode, encode, image_set, pixels
from folders import save_key, tree
from textures import LABELS, TOKENS, textured

import unlearnable_transforms as ut
from unlearnable_transforms import Chain, CUDAPoison, Key, OPSPoison, Poison, UnlockWarning, unlock
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.files import private_directory
from unlearnable_transforms.jobs.ledger import differences, method_of, other_method, read_ledger
from unlearnable_transforms.poisons.cuda import HALO_SIDE
from unlearnable_transforms.poisons.optimised import OptimisedPoison
from unlearnable_transforms.protection.unlock import SAMPLE
from unlearnable_transforms.protection.unlock_check import fits_pictures
from unlearnable_transforms.protection.unlock_source import unlock_source
from unlearnable_transforms.sample import spread

CLEAN = textured()
OPTIONS = ({}, {"invertible": True}, {"strength": "subtle"}, {"strength": "strong"}, {"kernel_size": 9}, {"blur": 0.9})
pytestmark = pytest.mark.filterwarnings("ignore::unlearnable_transforms.FitWarning")


def protected_arrays(poison: Poison, clean: np.ndarray) -> list[np.ndarray]:
    return list(poison.apply(clean, LABELS[: len(clean)]))


# ---- the pictures alone


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_right_options_fit_and_others_do_not(options):
    poison = CUDAPoison(key=KEY, **options)
    pictures = protected_arrays(poison, CLEAN)
    assert fits_pictures(poison, pictures, TOKENS)
    others = [CUDAPoison(key=KEY, **other) for other in OPTIONS if other != options]
    keys = [CUDAPoison(key=Key.public(f"other-{number}"), **options) for number in range(4)]
    assert [other for other in (*others, *keys) if fits_pictures(other, pictures, TOKENS)] == []


def test_hard_pictures_fit_as_well_unless_they_have_two_colours():
    noise, poison = pixels(20, 32, 32, 3), CUDAPoison(key=KEY, strength="strong")
    assert fits_pictures(poison, protected_arrays(poison, noise), TOKENS)
    drawings = np.where(noise > 250, 255, 0).astype(np.uint8)  # the smoothest picture is not the right one
    assert not fits_pictures(poison, protected_arrays(poison, drawings), TOKENS)


def test_one_picture_is_enough_where_filters_differ_much():
    pictures = protected_arrays(CUDAPoison(key=KEY), CLEAN[:1])
    assert fits_pictures(CUDAPoison(key=KEY), pictures, TOKENS[:1])
    assert not fits_pictures(CUDAPoison(key=KEY, kernel_size=9), pictures, TOKENS[:1])
    assert fits_pictures(CUDAPoison(key=KEY), [], [])


def test_halos_of_another_key_do_not_fit():
    clean, poison = textured(6, 90, 120), CUDAPoison(key=KEY)
    pictures = protected_arrays(poison, clean)
    assert fits_pictures(poison, pictures, TOKENS[:6])
    assert not any(
        fits_pictures(CUDAPoison(key=Key.public(f"other-{number}")), pictures, TOKENS[:6]) for number in range(4)
    )
    assert not fits_pictures(CUDAPoison(key=KEY, kernel_size=3), pictures, TOKENS[:6])


@pytest.mark.parametrize("strength", ["subtle", "strong"])
def test_a_forgotten_strength_of_photographs(strength):
    path = SHARED / "clothing" / "train-00000-of-00001.parquet"
    if not path.exists():
        pytest.skip(f"the data set clothing is not at {path.parent}")
    rows = pq.read_table(path).slice(0, SAMPLE).to_pylist()
    photos = [decode(row["image"]["bytes"]).convert("RGB") for row in rows]
    small = [np.asarray(photo.resize((photo.width // 3, photo.height // 3))) for photo in photos]
    tokens = [f"i:{row['label']}" for row in rows]
    poison = CUDAPoison(key=KEY, strength=strength)
    pictures = poison.protect_arrays(small, tokens)
    assert min(small[0].shape[:2]) >= HALO_SIDE
    assert fits_pictures(poison, pictures, tokens)
    assert not fits_pictures(CUDAPoison(key=KEY), pictures, tokens)


def test_of_large_pictures_few_are_looked_at(monkeypatch):
    poison = CUDAPoison(key=KEY)
    pictures = [*protected_arrays(poison, CLEAN[:10]), *CLEAN[10:]]  # the others were never protected
    assert not fits_pictures(poison, pictures, TOKENS)
    monkeypatch.setattr("unlearnable_transforms.protection.unlock_check.MOST_PIXELS", 10 * 32 * 32)
    assert fits_pictures(poison, pictures, TOKENS)
    monkeypatch.setattr("unlearnable_transforms.protection.unlock_check.MOST_PIXELS", 1)
    assert fits_pictures(poison, pictures, TOKENS)
    assert not fits_pictures(poison, pictures[::-1], TOKENS[::-1])


def test_overwritten_pixels_tell_the_method_and_its_key():
    poison, other = (OPSPoison(key=key, data=(CLEAN, LABELS)) for key in (KEY, Key.public("other")))
    grey = [np.full((32, 32, 3), 128, np.uint8)] * 20
    few = OPSPoison(pixels={label: [(0, 0, 255, 0, 0)] for label in range(4)}, grid=(4, 4))
    assert fits_pictures(few, poison_all(few, grey), TOKENS)
    assert not fits_pictures(few, grey, TOKENS)
    assert fits_pictures(poison, protected_arrays(poison, CLEAN), TOKENS)
    assert fits_pictures(other, protected_arrays(other, CLEAN), TOKENS)


def poison_all(poison: Poison, pictures: list[np.ndarray]) -> list[np.ndarray]:
    return poison.protect_arrays(pictures, TOKENS)


def test_methods_that_know_their_pictures_are_not_asked():
    poison = ut.PILPoison(key=KEY, epochs=2, steps=3, data=(CLEAN, LABELS))
    assert fits_pictures(poison, list(CLEAN), TOKENS)
    assert fits_pictures(Chain([CUDAPoison(key=KEY), ut.LSPPoison(key=KEY, known=[0, 1, 2, 3])]), [], [])
    filters = Chain([CUDAPoison(key=KEY, invertible=True), CUDAPoison(key=Key.public("b"), invertible=True)])
    pictures = protected_arrays(filters, CLEAN)
    assert fits_pictures(filters, pictures, TOKENS)
    assert not fits_pictures(Chain([*filters.links[:1], CUDAPoison(key=KEY)]), pictures, TOKENS)


def test_pictures_are_taken_from_all_over():
    assert list(spread(0, SAMPLE)) == []
    assert list(spread(7, SAMPLE)) == list(range(7))
    assert list(spread(SAMPLE, SAMPLE)) == list(range(SAMPLE))
    assert len(spread(SAMPLE + 1, SAMPLE)) == SAMPLE
    assert spread(1000, SAMPLE)[:3] == [0, 50, 100]
    assert spread(1000, SAMPLE)[-1] == 950


def test_unlock_refuses_what_does_not_fit(tmp_path, no_ledgers):
    data = image_set([encode(image) for image in CLEAN], LABELS)
    protected = ut.protect(data, CUDAPoison(key=KEY, strength="strong"))
    no_ledgers()
    arrays = np.stack([np.asarray(image) for image in protected["image"]])
    strong = CUDAPoison(key=KEY, strength="strong")
    for source in (protected, (arrays, LABELS)):
        for wrong in (CUDAPoison(key=KEY), CUDAPoison(key=Key.public("other"), strength="strong")):
            with pytest.raises(ValueError, match=r"did not make these pictures.*changed=True"):
                unlock(source, wrong)
        with pytest.warns(UnlockWarning, match="not known"):
            unlock(source, strong)
    changed = arrays ^ np.uint8(15)
    with pytest.raises(ValueError, match="did not make these pictures"):
        unlock((changed, LABELS), strong)
    with pytest.warns(UnlockWarning, match="not known"):
        unlock((changed, LABELS), strong, changed=True)


# ---- the ledger


def forget_method(ledger: Path) -> None:
    """Make it a ledger of an earlier version."""
    table = pq.read_table(ledger)
    metadata = {name: value for name, value in table.schema.metadata.items() if name != b"method"}
    pq.write_table(table.replace_schema_metadata(metadata), ledger)


def test_secret_classes_are_known_when_pictures_are_asked(tmp_path):
    ledger, poison = tmp_path / "old.parquet", CUDAPoison(key=KEY)
    plain = image_set([encode(image) for image in CLEAN], LABELS)
    protected = ut.protect(plain, poison, labels=[7, 8, 9, 5] * 5, ledger=ledger)
    forget_method(ledger)
    with pytest.warns(UnlockWarning, match="nearly"):
        unlock(protected, poison, ledger)
    with pytest.warns(UserWarning, match="only 20%"):
        some = ut.protect(plain, poison, 0.2, ledger=ledger)
    forget_method(ledger)
    with pytest.warns(UnlockWarning, match="never protected"):  # and these are not protected again
        unlock(some, poison, ledger)


def test_other_options_are_refused_by_ledgers(tmp_path):
    data = image_set([encode(image) for image in CLEAN], LABELS)
    ledger = tmp_path / "mine.parquet"
    strong = CUDAPoison(key=KEY, strength="strong")
    protected = ut.protect(data, strong)  # its ledger lies in the cache
    ut.protect(data, strong, ledger=ledger)
    for wrong, told in (
        (CUDAPoison(key=KEY), "strength strong, not None"),
        (CUDAPoison(key=KEY, strength="strong", invertible=True), "invertible None, not True"),
        (Chain([strong]), "method cuda, not chain"),
    ):
        with pytest.raises(ValueError, match=f"the ledger .* says that they were protected with {told}"):
            unlock(protected, wrong)
        with pytest.raises(ValueError, match=f"mine.parquet says that they were protected with {told}"):
            unlock(protected, wrong, ledger, changed=True)
    with pytest.warns(UnlockWarning, match="restored nearly"):
        unlock(protected, CUDAPoison(key=KEY, strength="strong", image_key="image"))
    other = CUDAPoison(key=KEY, strength="subtle")  # another release has a ledger too, which does not matter
    ut.protect(data, other)
    with pytest.warns(UnlockWarning, match="restored nearly"):
        unlock(protected, strong)


@pytest.mark.filterwarnings("ignore:.*protected")
def test_ledgers_that_know_the_same_clean_pictures_do_not_disturb_each_other():
    """Pictures that were left clean are the same under every key and option."""
    data = image_set([encode(image) for image in CLEAN], LABELS)
    keys = (KEY, Key.public("other"), Key.public("third"))
    poisons = [CUDAPoison(key=key, strength=strength) for key in keys for strength in ("normal", "strong")]
    sets = [ut.protect(data, poison, 0.5) for poison in poisons]
    for poison, protected in zip(poisons, sets, strict=True):
        with pytest.warns(UnlockWarning, match="restored nearly.*never protected"):
            unlock(protected, poison)


def test_a_ledger_that_names_no_method_leaves_it_to_the_pictures(tmp_path):
    data = image_set([encode(image) for image in CLEAN], LABELS)
    ledger = tmp_path / "old.parquet"
    protected = ut.protect(data, CUDAPoison(key=KEY), ledger=ledger)
    forget_method(ledger)
    assert other_method(read_ledger(ledger), CUDAPoison(key=KEY, blur=0.9)) == ""
    with pytest.raises(ValueError, match="did not make these pictures"):
        unlock(protected, CUDAPoison(key=KEY, blur=0.9), ledger)
    with pytest.warns(UnlockWarning, match="nearly"):
        unlock(protected, CUDAPoison(key=KEY), ledger)
    ledger.write_text("no ledger")
    with pytest.raises(ValueError, match=r"old\.parquet is not a ledger, or a damaged one"):
        unlock(protected, CUDAPoison(key=KEY), ledger)
    ut.protect(data, CUDAPoison(key=KEY))
    (in_cache,) = private_directory("ledgers").iterdir()
    in_cache.write_text("no ledger")
    with pytest.raises(ValueError, match=r"ledgers/.*is not a ledger, or a damaged one"):
        unlock(protected, CUDAPoison(key=KEY))


def test_explicit_filters_stand_in_no_ledger(tmp_path):
    right, wrong = np.eye(3), np.diag([1, 0, 0.9, 0, 0.9])
    poison, other = (CUDAPoison(kernels=dict.fromkeys(range(4), weights)) for weights in (right, wrong))
    protected = ut.protect(image_set([encode(image) for image in CLEAN], LABELS), poison)
    with pytest.raises(ValueError, match="did not make these pictures"):
        unlock(protected, other)
    with pytest.warns(UnlockWarning, match="nearly"):
        unlock(protected, poison)


def test_what_a_fit_finds_and_columns_are_no_other_method():
    for name in ut.list_poisons():
        method = ut.get_poison(name)
        options = {"epochs": 2, "steps": 3} if name == "pil" else TINY if issubclass(method, OptimisedPoison) else {}
        if name in ("bait", "uc"):  # whose surrogates start from trained weights
            options = {**STARTED, "steps": 3}
        before, after = (method(key=KEY, **options) for _ in range(2))
        if not after.fitted:
            after.fit((CLEAN, LABELS))
        assert method_of(before) == method_of(after)
        assert KEY.fingerprint not in json.dumps(method_of(after))


def test_differences_are_told_in_words():
    one, other = (Chain([CUDAPoison(key=KEY, blur=blur), CUDAPoison(key=KEY)]) for blur in (0.1, 0.2))
    assert list(differences(method_of(one), method_of(other))) == ["blur 0.1, not 0.2"]
    assert list(differences({"a": [1]}, {"a": [1, 2]})) == ["a [1], not [1, 2]"]
    assert list(differences(method_of(one), method_of(one))) == []


# ---- the command line, and the manifest


def test_explicit_filters_stand_in_no_manifest(tmp_path, no_ledgers):
    right, wrong = (CUDAPoison(kernels=dict.fromkeys(range(4), one)) for one in (np.eye(3), np.eye(5)))
    ut.protect(image_set([encode(image) for image in CLEAN], LABELS), right).to_parquet(
        tmp_path / "set" / "train.parquet"
    )
    (tmp_path / "set" / "protection.json").write_text(json.dumps(right.public_config()))
    no_ledgers()
    with pytest.raises(ValueError, match="did not make these pictures"):
        unlock_source(tmp_path / "set", tmp_path / "clean", wrong)
    assert not (tmp_path / "clean").exists()
    assert unlock_source(tmp_path / "set", tmp_path / "clean", right)


def test_the_command_writes_nothing_with_other_options(tmp_path, monkeypatch, capsys):
    photos, key = tmp_path / "photos", save_key(tmp_path / "my.key")
    for number, image in enumerate(textured(8)):
        path = photos / ("ant", "bee")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(image))
    fixed = ["--key", str(key), "--workers", "1"]
    protected = str(tmp_path / "protected")
    assert main(["protect", str(photos), protected, "--strength", "strong", *fixed]) == 0

    def undo(source: str, *options: str) -> tuple[int, str, bool]:
        shutil.rmtree(tmp_path / "clean", ignore_errors=True)
        code = main(["unlock", source, str(tmp_path / "clean"), *fixed, *options])
        return code, capsys.readouterr().err, (tmp_path / "clean").exists()

    assert undo(protected, "--strength", "strong")[::2] == (0, True)
    code, told, written = undo(protected)
    assert (code, written) == (2, False)
    assert "protected with strength strong, not None" in told
    poison = CUDAPoison(key=Key.load(key), strength="strong")
    ut.publish(protected, "user/name", poison=poison, folder=tmp_path / "ready", originals_public=False)
    monkeypatch.setenv("UNLEARNABLE_TRANSFORMS_CACHE", str(tmp_path / "empty"))
    code, told, written = undo(protected)
    assert (code, written) == (2, False)
    assert "did not make these pictures" in told
    assert undo(protected, "--changed")[::2] == (0, True)
    assert undo(protected, "--strength", "strong")[::2] == (0, True)
    ready = str(tmp_path / "ready")
    assert undo(ready, "--strength", "strong")[::2] == (0, True)
    for wrong in ([], ["--strength", "strong", "--invertible"], ["--strength", "strong", "--method", "cuda,cuda"]):
        code, told, written = undo(ready, *wrong)
        assert (code, written) == (2, False)
        assert "protection.json says that it was protected with" in told
    manifest = Path(ready, "protection.json")
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "version": 1}))
    assert "version 1, not 2" in undo(ready, "--strength", "strong")[1]
    manifest.write_text("{}")
    assert "did not make these pictures" in undo(ready)[1]
    manifest.write_text("{")
    assert "protection.json is damaged" in undo(ready, "--strength", "strong")[1]
    assert len(tree(photos)) == 8
