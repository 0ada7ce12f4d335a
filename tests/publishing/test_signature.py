"""Signed manifests: who published a set, as everybody can tell who has the public key."""

import base64
import json
import stat
import sys
from pathlib import Path

import pytest
from conftest import error_of
from publications import clean_set, key, protected_folder, publish

pytest.importorskip("cryptography", reason="cryptography is not installed")

import unlearnable_transforms as ut
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.errors import UsageError
from unlearnable_transforms.publishing import signature
from unlearnable_transforms.publishing.manifest import seal, verify
from unlearnable_transforms.publishing.signature import load_public_key, load_signing_key, make_signing_key

TABLE = "data/train-00000-of-00001.parquet"


@pytest.fixture
def private(tmp_path) -> Path:
    make_signing_key(tmp_path / "ann.pem")
    return tmp_path / "ann.pem"


@pytest.fixture
def public(private) -> Path:
    return private.with_name("ann.pem.pub")


@pytest.fixture
def published(tmp_path, private) -> Path:
    return publish(ut.protect(clean_set(), ut.CUDAPoison(key=key())), tmp_path / "out", signing_key=private).folder


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def edit(folder: Path, **change) -> None:
    path = folder / "protection.json"
    manifest = {**json.loads(path.read_text()), **change}
    gone = [name for name in change if change[name] is None]
    path.write_text(json.dumps({name: value for name, value in manifest.items() if name not in gone}))


def test_the_command_makes_a_pair(tmp_path, capsys):
    private, public = tmp_path / "ann.pem", tmp_path / "ann.pem.pub"
    assert run("keygen", "--signing", private) == 0
    text = capsys.readouterr().out
    assert f"public key {load_public_key(public)}" in text
    assert "Back up" in text
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE(public.stat().st_mode) == 0o644
    assert private.read_text().startswith("-----BEGIN PRIVATE KEY-----")
    assert not set(private.read_text().splitlines()[1:-1]) & set(public.read_text().splitlines())
    before = private.read_bytes()
    assert run("keygen", "--signing", private) == 2
    assert "it is not replaced" in capsys.readouterr().err
    private.unlink()
    assert run("keygen", "--signing", private) == 2  # the public key of the lost one is there
    assert not private.exists()
    private.write_bytes(before)
    assert run("keygen", "--signing", tmp_path / "x.pem", "--key", private) == 2
    assert "belongs to no protection key" in capsys.readouterr().err
    assert run("keygen", "--signing", tmp_path / "no" / "x.pem") == 2
    assert "there is no folder" in capsys.readouterr().err


def test_a_stranger_can_tell_who_published(published, public, capsys):
    assert run("verify", published, "--public-key", public) == 0
    assert "the manifest is signed with that public key" in capsys.readouterr().out
    assert run("verify", published) == 0
    assert f"by whoever has the public key {load_public_key(public)}" in capsys.readouterr().out
    verdict = verify(published, key(), public_key=load_public_key(public))
    assert (verdict.key, verdict.sealed, verdict.signature) == ("fits", True, "fits")


def test_another_key(published, tmp_path, capsys):
    other = make_signing_key(tmp_path / "bob.pem")
    assert run("verify", published, "--public-key", other) == 3
    assert "signed by ANOTHER key than that of the file" in capsys.readouterr().out


def test_somebody_else_signs_it_again(published, public, tmp_path, capsys):
    """With a key of their own: what they changed then fits their signature, and not the publisher's key."""
    make_signing_key(tmp_path / "bob.pem")
    manifest = json.loads((published / "protection.json").read_text())
    manifest["release"] = "bob/set"
    edit(published, release="bob/set", signature=signature.sign(manifest, load_signing_key(tmp_path / "bob.pem")))
    assert verify(published).signature == "fits"
    assert run("verify", published, "--public-key", public) == 3
    manifest = json.loads((published / "protection.json").read_text())
    edit(published, signature={**manifest["signature"], "public_key": load_public_key(public)})
    assert run("verify", published, "--public-key", public) == 1
    assert "the manifest was CHANGED after it was signed" in capsys.readouterr().out


@pytest.mark.parametrize("asked", [True, False])
def test_a_changed_file_and_a_changed_manifest(published, public, capsys, asked):
    options = ("--public-key", public) if asked else ()
    table = published / TABLE
    data = table.read_bytes()
    table.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    assert run("verify", published, *options) == 1
    assert f"changed: {TABLE}" in capsys.readouterr().out
    table.write_bytes(data)
    assert run("verify", published, *options) == 0
    edit(published, coverage="all of it")
    assert run("verify", published, *options) == 1
    assert "the manifest was CHANGED after it was signed" in capsys.readouterr().out


def test_a_signature_that_was_removed(published, public, capsys):
    edit(published, signature=None)
    assert run("verify", published, "--public-key", public) == 1
    assert "the manifest is NOT signed" in capsys.readouterr().out
    assert run("verify", published) == 0  # a stranger without the public key cannot know
    assert verify(published, key()).sealed is False  # the owner's seal covers the signature
    assert verify(published, key()).exit_code == 1


def test_the_seal_can_be_removed_and_made_anew(published, public):
    """It is the owner's, and no part of what is signed."""
    edit(published, seal=None)
    assert verify(published, public_key=load_public_key(public)).exit_code == 0
    manifest = json.loads((published / "protection.json").read_text())
    edit(published, seal=seal(manifest, key()))
    assert verify(published, key(), public_key=load_public_key(public)).exit_code == 0


@pytest.mark.parametrize(
    "change",
    [{"algorithm": "none"}, {"value": ""}, {"value": "?"}, {"public_key": "AAAA"}, {"public_key": ""}],
)
def test_signatures_that_are_none(published, public, change):
    manifest = json.loads((published / "protection.json").read_text())
    edit(published, signature={**manifest["signature"], **change})
    assert verify(published, public_key=load_public_key(public)).signature == "changed"


@pytest.mark.parametrize("value", [5, "x", {"value": "x"}, [1]])
def test_a_signature_of_another_kind_is_a_damaged_manifest(published, value, capsys):
    edit(published, signature=value)
    assert run("verify", published) == 2
    assert "protection.json is damaged" in capsys.readouterr().err


def test_a_third_party_needs_no_code_of_ours(published, public):
    """As docs/publish.md says it."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    manifest = json.loads((published / "protection.json").read_text(encoding="utf-8"))
    value = base64.b64decode(manifest["signature"]["value"])
    rest = {name: value for name, value in manifest.items() if name not in ("signature", "seal")}
    signed = json.dumps(rest, sort_keys=True, ensure_ascii=False).encode()
    load_pem_public_key(public.read_bytes()).verify(value, signed)


def test_keys_that_are_none(tmp_path, private, public, published):
    data = ut.protect(clean_set(), ut.CUDAPoison(key=key()))
    for wrong in (public, save_protection_key(tmp_path)):
        error = error_of(lambda wrong=wrong: publish(data, tmp_path / "x", signing_key=wrong), UsageError)
        assert "holds no private signing key: `unlearnable keygen --signing NEW` makes one" in str(error)
    assert "that is a private key: keep it to yourself" in str(error_of(lambda: load_public_key(private), UsageError))
    assert "holds no public key" in str(error_of(lambda: load_public_key(published / TABLE), UsageError))
    with pytest.raises(FileNotFoundError):
        publish(data, tmp_path / "x", signing_key=tmp_path / "none.pem")
    private.chmod(0o644)
    with pytest.warns(UserWarning, match="can be read by other users; run `chmod 600"):
        load_signing_key(private)


def save_protection_key(folder: Path) -> Path:
    return key().save(folder / "protection.key")


def test_the_command_signs_and_the_signing_key_shows_nowhere(tmp_path, private, public):
    folder = protected_folder(tmp_path)
    fixed = ("--key", tmp_path / "my.key", "--originals-public", "no", "--folder", tmp_path / "ready")
    assert run("publish", folder, "user/name", *fixed, "--signing-key", private) == 0
    assert run("verify", tmp_path / "ready", "--public-key", public, "--key", tmp_path / "my.key") == 0
    raw = load_signing_key(private).private_bytes_raw()
    for path in (path for path in (tmp_path / "ready").rglob("*") if path.is_file()):
        assert raw not in path.read_bytes()
        assert raw.hex().encode() not in path.read_bytes()
        assert private.read_bytes().splitlines()[1] not in path.read_bytes()


def test_a_public_key_is_for_published_sets(tmp_path, public, capsys):
    assert run("verify", protected_folder(tmp_path), "--public-key", public) == 2
    assert "--public-key is for published sets" in capsys.readouterr().err


def test_without_the_package(published, public, tmp_path, monkeypatch, capsys):
    for name in ("serialization", "asymmetric.ed25519"):
        monkeypatch.setitem(sys.modules, f"cryptography.hazmat.primitives.{name}", None)
    assert run("verify", published) == 0
    assert "To check it: pip install 'unlearnable-transforms[signing]'" in capsys.readouterr().out
    for arguments in (("verify", published, "--public-key", public), ("keygen", "--signing", tmp_path / "x.pem")):
        assert run(*arguments) == 2
        assert "pip install 'unlearnable-transforms[signing]'" in capsys.readouterr().err
