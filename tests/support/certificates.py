"""Certificates and C2PA manifests of tests: made when a test runs, kept nowhere."""

import io
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest


def private_key(kind: str = "P-256") -> Any:
    """A new key of a kind."""
    pytest.importorskip("cryptography")
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    curves = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1(), "K-256": ec.SECP256K1()}
    if kind in curves:
        return ec.generate_private_key(curves[kind])
    return ed25519.Ed25519PrivateKey.generate() if kind == "Ed25519" else rsa.generate_private_key(65537, int(kind))


def pem(key: Any, password: bytes | None = None) -> bytes:
    """A private key in PEM."""
    from cryptography.hazmat.primitives import serialization as s

    encryption = s.BestAvailableEncryption(password) if password else s.NoEncryption()
    return key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, encryption)


def make_certificate(
    folder: Path,
    holder: str = "Ann Lee",
    *,
    self_made: bool = False,
    first_day: float = -1,
    days: float = 30,
    kind: str = "P-256",
    usage: str = "EMAIL_PROTECTION",
    authority: bool = False,
) -> tuple[Path, Path]:
    """The files of a certificate, followed by that of its authority, and of its private key."""
    key, root = private_key(kind), private_key()
    issuer, issuer_key = (holder, key) if self_made else ("Root", root)
    start = datetime.now(UTC) + timedelta(days=first_day)
    one = _certificate(holder, key, issuer, issuer_key, authority, usage, start, days)
    above = [] if self_made else [_certificate("Root", root, "Root", root, True, usage, start, days)]
    folder.mkdir(parents=True, exist_ok=True)
    chain, private = folder / "chain.pem", folder / "private.pem"
    chain.write_bytes(b"".join([one, *above]))
    private.write_bytes(pem(key))
    private.chmod(0o600)
    return chain, private


def _certificate(
    holder: str, key: Any, issuer: str, issuer_key: Any, authority: bool, usage: str, start: datetime, days: float
) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
    may = dict.fromkeys((*others, "decipher_only"), False)
    builder = (
        x509.CertificateBuilder(name(issuer), name(holder), key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.BasicConstraints(authority, None), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False)
        .add_extension(
            x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, **may), True
        )
    )
    if not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([getattr(ExtendedKeyUsageOID, usage)]), False)
    digest = None if isinstance(issuer_key, Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(issuer_key, digest).public_bytes(serialization.Encoding.PEM)


@cache
def _pair() -> tuple[bytes, bytes]:
    with TemporaryDirectory() as folder:
        chain, private = make_certificate(Path(folder))
        return chain.read_bytes(), private.read_bytes()


def sign_otherwise(
    data: bytes,
    change: Mapping[str, Any] | None = None,
    *,
    assertions: tuple[dict, ...] = (),
    settings: Mapping[str, Any] | None = None,
    prepare: Callable[[Any], None] | None = None,
) -> bytes:
    """A file signed by the package c2pa as other programs do it: our manifest with a change.

    Args:
        data: of an image file.
        change: of the manifest's definition.
        assertions: further ones.
        settings: of c2pa.
        prepare: gets the builder before it signs.
    """
    c2pa = pytest.importorskip("c2pa")
    from unlearnable_transforms.data.c2pa import C2paSigner, _media_type

    ours = C2paSigner.__new__(C2paSigner)
    ours.opt_out = "ai-training"
    definition = {**ours._definition(), **(change or {})}
    definition["assertions"] = [*definition["assertions"], *assertions]
    chain, private = _pair()
    signed = io.BytesIO()
    context = c2pa.Context.from_dict({"builder": {"thumbnail": {"enabled": False}}, **(settings or {})})
    builder = c2pa.Builder(definition, context)
    if prepare is not None:
        prepare(builder)
    signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo("es256", chain, private, None))
    builder.sign(signer, _media_type(data), io.BytesIO(data), signed)
    return signed.getvalue()


GPS = {
    "label": "cawg.metadata",
    "data": {"@context": {"exif": "http://ns.adobe.com/exif/1.0/"}, "exif:GPSLatitude": "39,21.1N"},
}


def with_thumbnail(original: bytes) -> dict[str, Any]:
    """Options of :func:`sign_otherwise`: the manifest has a JPEG as its thumbnail."""
    change = {"thumbnail": {"format": "image/jpeg", "identifier": "thumbnail.jpg"}}
    return {"change": change, "prepare": lambda builder: builder.add_resource("thumbnail.jpg", io.BytesIO(original))}


def with_ingredient(original: bytes) -> dict[str, Any]:
    """Options of :func:`sign_otherwise`: the manifest says that a JPEG went into the image."""
    ingredient = {"title": "IMG_1.jpg", "relationship": "componentOf"}
    return {"prepare": lambda builder: builder.add_ingredient(ingredient, "image/jpeg", io.BytesIO(original))}


def with_second(signed: bytes) -> bytes:
    """A file with its part of C2PA twice."""
    if signed.startswith(b"RIFF"):
        data = signed + signed[signed.index(b"C2PA") :]
        return data[:4] + (len(data) - 8).to_bytes(4, "little") + data[8:]
    if signed.startswith(b"\xff\xd8"):
        start = signed.index(b"\xff\xeb")
        end = start + 2 + int.from_bytes(signed[start + 2 : start + 4], "big")
    else:
        start = signed.index(b"caBX") - 4
        end = start + 12 + int.from_bytes(signed[start : start + 4], "big")
    return signed[:end] + signed[start:end] + signed[end:]


def moved_manifest(png: bytes, other: bytes) -> bytes:
    """A PNG with the manifest that was made for another one."""
    signed = sign_otherwise(other)
    start = signed.index(b"caBX") - 4
    end = start + 12 + int.from_bytes(signed[start : start + 4], "big")
    return png[:33] + signed[start:end] + png[33:]
