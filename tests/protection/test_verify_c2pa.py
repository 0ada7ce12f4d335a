"""Folders whose images are signed with C2PA: run again, resumed, published, verified, changed."""

import json
import shutil
import subprocess
import zlib

import pytest
from certificates import make_certificate
from conftest import encode, image_set, pixels, stored
from datasets import load_dataset
from folders import interrupted, photograph, tree
from PIL import Image
from publications import key, publish

pytest.importorskip("c2pa", reason="c2pa-python is not installed")
pytest.importorskip("cbor2")

import unlearnable_transforms as ut
from unlearnable_transforms.checks.encodings import read_encoding
from unlearnable_transforms.checks.leaks import LeakError
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.data.c2pa import C2paSigner, read_anchors, state_of
from unlearnable_transforms.data.codec import Codec
from unlearnable_transforms.protection.protect import protect_source
from unlearnable_transforms.protection.unlock_source import unlock_source
from unlearnable_transforms.protection.verify_folder import verify_folder
from unlearnable_transforms.publishing.manifest import verify

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}


@pytest.fixture
def certificate(tmp_path):
    return make_certificate(tmp_path / "mine")


@pytest.fixture
def signed(certificate) -> Codec:
    return Codec(signer=C2paSigner(*certificate))


@pytest.fixture
def source(tmp_path):
    """Images of three formats, one of them grey."""
    root = tmp_path / "source"
    names = "cat/000.png ant/001.jpg dog/002.png cat/003.webp ant/004.png dog/005.png dog/006.png"
    for number, path in enumerate(map(root.joinpath, names.split())):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(photograph(number) if number < 6 else photograph(6)[..., 0], FORMATS[path.suffix]))
    return root


@pytest.fixture
def options(certificate) -> tuple:
    return "--format", "auto", "--c2pa-certificate", certificate[0], "--c2pa-key", certificate[1]


def with_note(png: bytes) -> bytes:
    """A PNG with a note that some program added: not one pixel differs."""
    place, note = png.index(b"IEND") - 4, b"tEXta\0bc"
    part = (len(note) - 4).to_bytes(4, "big") + note + zlib.crc32(note).to_bytes(4, "big")
    return png[:place] + part + png[place:]


def states(out) -> set[str]:
    return {state_of(data)[0] for data in tree(out).values()}


def test_signed_files_are_as_they_were_in_the_next_run(source, out, protect, options, capsys):
    assert protect(source, *options) == 0
    assert "signed with C2PA by CN=Ann Lee; the certificate ends on 2" in capsys.readouterr().out
    before = tree(out)
    assert states(out) == {"valid"}
    assert {path.suffix for path in out.rglob("*.*")} == set(FORMATS)
    assert protect(source, *options) == 0
    assert "since the last run: 7 as they were" in capsys.readouterr().out
    assert tree(out) == before
    (source / "cat" / "new.png").write_bytes(encode(pixels(9, 9, 3, seed=77)))
    (source / "dog" / "006.png").rename(source / "dog" / "007.png")
    assert protect(source, *options) == 0
    assert "1 new, 1 renamed, 6 as they were" in capsys.readouterr().out
    assert states(out) == {"valid"}
    assert main(["verify", str(out)]) == 0
    text = capsys.readouterr().out
    assert "C2PA: 8 of 8 images are signed, and unchanged since" in text
    assert "signed by CN=Ann Lee, certificate issued by CN=Root" in text


def test_what_was_interrupted_ends_signed(source, out, poison, signed, monkeypatch):
    with interrupted(monkeypatch, after=3):
        protect_source(source, out, poison, codec=signed)
    before = tree(out)
    assert 0 < len(before) < 7
    protect_source(source, out, poison, codec=signed)
    after = tree(out)
    assert {name: after[name] for name in before} == before
    assert (len(after), states(out)) == (7, {"valid"})


@pytest.mark.slow
def test_workers_sign_alike(source, out, poison, signed, monkeypatch):
    monkeypatch.setattr("unlearnable_transforms.jobs.run.WORKER_UNITS", 2)
    protect_source(source, out, poison, codec=signed, workers=2)
    assert states(out) == {"valid"}


def test_another_holder_is_refused_and_a_renewed_certificate_goes_on(source, out, protect, options, tmp_path, capsys):
    assert protect(source, *options) == 0
    assert protect(source, "--format", "auto") == 2
    assert 'was begun with C2PA holder "CN=Ann Lee", now it is not set' in capsys.readouterr().err
    chain, private = make_certificate(tmp_path / "other", "Bob")
    assert protect(source, *options[:2], "--c2pa-certificate", chain, "--c2pa-key", private) == 2
    assert "C2PA holder" in capsys.readouterr().err
    assert protect(source, *options, "--opt-out", "all") == 2
    assert "opt-out" in capsys.readouterr().err
    chain, private = make_certificate(tmp_path / "renewed")
    (source / "cat" / "new.png").write_bytes(encode(pixels(9, 9, 3, seed=77)))
    assert protect(source, *options[:2], "--c2pa-certificate", chain, "--c2pa-key", private) == 0
    assert states(out) == {"valid"}


@pytest.mark.parametrize("by", ["journal", "ledger"])
def test_after_a_change_the_signature_is_void_and_named(source, out, poison, signed, tmp_path, no_ledgers, by):
    ledger = protect_source(source, out, poison, codec=signed, ledger=tmp_path / "ledger.parquet").ledger
    ledger = None if by == "journal" else no_ledgers() or ledger
    whole = verify_folder(out, ledger=ledger)
    assert (whole.exit_code, whole.c2pa.whole, whole.c2pa.void) == (0, 7, {})
    path = out / "dog" / "002.png"
    path.write_bytes(with_note(path.read_bytes()))
    verdict = verify_folder(out, ledger=ledger)
    assert (verdict.exit_code, verdict.changed, verdict.c2pa.whole) == (1, [], 6)
    assert verdict.c2pa.void == {"dog/002.png": "changed after it was signed"}
    assert "C2PA is VOID in 1 of 7 images: dog/002.png (changed after it was signed)" in "\n".join(verdict.lines())


def test_a_changed_pixel_and_a_signature_that_is_gone(source, out, poison, signed):
    protect_source(source, out, poison, codec=signed)
    one, other = out / "dog" / "002.png", out / "dog" / "005.png"
    data = bytearray(one.read_bytes())
    data[data.index(b"IDAT") + 40] ^= 1
    one.write_bytes(bytes(data))
    Image.open(other).save(other)
    verdict = verify_folder(out)
    assert (verdict.changed, verdict.saved_anew) == (["dog/002.png"], ["dog/005.png"])
    assert set(verdict.c2pa.void) == {"dog/002.png"}
    assert verdict.c2pa.unsigned == ["dog/005.png"]
    protect_source(source, out, poison, codec=signed)
    assert states(out) == {"valid"}


def test_who_is_trusted(source, out, protect, options, certificate, tmp_path, capsys):
    assert protect(source, *options) == 0
    other, _ = make_certificate(tmp_path / "other", self_made=True)
    assert main(["verify", str(out), "--c2pa-trust", str(certificate[0])]) == 0
    assert "7 of them lead to a certificate that you trust" in capsys.readouterr().out
    assert main(["verify", str(out), "--c2pa-trust", str(other)]) == 0
    assert "0 of them lead to a certificate that you trust" in capsys.readouterr().out
    assert main(["verify", str(out), "--c2pa-trust", str(certificate[1])]) == 2
    assert "holds no certificates in PEM" in capsys.readouterr().err
    assert read_anchors(other).startswith("-----BEGIN")


def test_a_self_made_certificate_is_said_to_be_untrusted(source, out, poison, tmp_path):
    signer = C2paSigner(*make_certificate(tmp_path / "self", self_made=True))
    protect_source(source, out, poison, codec=Codec(signer=signer))
    assert "self-made: other programs will call it untrusted" in "\n".join(verify_folder(out).lines())


@pytest.mark.filterwarnings("ignore:only")
def test_images_that_were_left_clean_are_signed_as_the_others(source, out, poison, signed):
    protect_source(source, out, poison, codec=signed, fraction=0.5)
    assert states(out) == {"valid"}


def test_tables_and_what_is_undone(tmp_path, poison, signed, out):
    rows = [encode(pixels(30, 40, 3, seed=number)) for number in range(4)]
    image_set(rows, [0, 1, 0, 1]).to_parquet(tmp_path / "rows.parquet")
    protect_source(tmp_path / "rows.parquet", out, poison, codec=signed)
    table = load_dataset("parquet", data_dir=str(out), split="train")
    assert {state_of(row["bytes"])[0] for row in stored(table)} == {"valid"}
    assert verify_folder(out).c2pa.whole == 4
    unlock_source(out, tmp_path / "back", poison)
    back = load_dataset("parquet", data_dir=str(tmp_path / "back"), split="train")
    assert {state_of(row["bytes"])[0] for row in stored(back)} == {""}


def test_options_that_do_not_fit(source, out, protect, options, certificate, capsys):
    assert protect(source, "--c2pa-key", certificate[1]) == 2
    assert "--c2pa-certificate and --c2pa-key belong together" in capsys.readouterr().err
    assert protect(source, "--c2pa-certificate", certificate[0]) == 2
    assert "belong together" in capsys.readouterr().err
    out.mkdir()
    shutil.copy(certificate[1], out / "private.pem")
    assert protect(source, "--c2pa-certificate", certificate[0], "--c2pa-key", out / "private.pem") == 2
    assert "which will be published: put it elsewhere" in capsys.readouterr().err
    assert protect(source, "--c2pa-certificate", "none.pem", "--c2pa-key", certificate[1]) == 2
    assert "none.pem" in capsys.readouterr().err


# ---- published


def test_signed_files_are_published_as_they_are(source, out, signed, tmp_path):
    poison = ut.CUDAPoison(key=key())
    protect_source(source, out, poison, codec=Codec("auto", signer=signed.signer))
    folder = publish(out, tmp_path / "ready", poison, rename=True).folder
    images = {path.name: path.read_bytes() for path in folder.rglob("*.*g") if path.suffix != ".json"}
    assert {state_of(data)[0] for data in images.values()} == {"valid"}
    verdict = verify(folder)
    assert (verdict.exit_code, verdict.c2pa.whole) == (0, 7), verdict.lines()
    path = next(folder.rglob("dog/*.png"))
    data = bytearray(path.read_bytes())
    data[-13] ^= 1
    path.write_bytes(bytes(data))
    verdict = verify(folder)
    assert verdict.exit_code == 1
    assert list(verdict.c2pa.void) == [path.relative_to(folder).as_posix()]


def test_a_void_signature_is_not_published(source, out, signed, tmp_path):
    poison = ut.CUDAPoison(key=key())
    protect_source(source, out, poison, codec=signed)
    path = out / "dog" / "002.png"
    path.write_bytes(with_note(path.read_bytes()))
    with pytest.raises(LeakError, match="holds a C2PA signature that does not hold: changed after it was signed"):
        publish(out, tmp_path / "ready", poison)


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
def test_exiftool_sees_the_assertion(source, out, poison, certificate):
    protect_source(source, out, poison, codec=Codec("auto", signer=C2paSigner(*certificate, "all")))
    for name in ("dog/002.png", "ant/001.jpg"):  # exiftool 12.57 does not look for it in WebP
        shown = subprocess.run(["exiftool", "-j", "-G1", str(out / name)], capture_output=True, text=True, check=True)
        (said,) = json.loads(shown.stdout)
        assert said["CBOR:EntriesCawgAi_TrainingUse"] == "notAllowed"
        assert said["CBOR:EntriesCawgData_MiningUse"] == "notAllowed"
    assert read_encoding((out / "cat" / "003.webp").read_bytes()).signed.opt_out == "all"
