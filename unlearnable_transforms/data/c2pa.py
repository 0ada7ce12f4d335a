"""C2PA in image files: one signed manifest that prohibits training, and nothing else.

:class:`C2paSigner` embeds it with the user's certificate, when all other bytes of the file are final: any later change
makes it void. :func:`parse` lets exactly this manifest pass and names what any other one holds, so that a check can
refuse thumbnails, ingredients, names and places. :func:`state_of` says whether a file is still what was signed.

Sources: C2PA Technical Specification 2.x (claims of version 2); CAWG Training and Data Mining Assertion 1.1. The
packages are those of the extra ``c2pa``: c2pa-python signs and reads, cbor2 and cryptography take manifests apart.
"""

import importlib
import io
import os
import re
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UnlearnableError, UsageError, printable
from ..files import read_regular
from ..warn import warn
from .walk import named

ASSERTION = "cawg.training-mining"
DEFAULT = "ai-training"
_TRAINING = {name: {"use": "notAllowed"} for name in ("cawg.ai_training", "cawg.ai_generative_training")}
_SEARCH = {"use": "constrained", "constraint_info": "Allowed for the index of a search engine, and for nothing else."}
STATEMENTS: dict[str, dict[str, dict[str, str]]] = {  # entries of the assertion, by the names of credit.OPT_OUTS
    "ai-training": _TRAINING,
    "generative-ai": {"cawg.ai_generative_training": {"use": "notAllowed"}},
    "all-but-search": {**_TRAINING, "cawg.data_mining": _SEARCH},
    "all": {**_TRAINING, "cawg.data_mining": {"use": "notAllowed"}},
}
# Version 2 of a claim wants an action that says where the image comes from; c2pa.opened would want an ingredient. All
# files say the same, also those of images that were left clean.
_ACTIONS = {
    "actions": [
        {
            "action": "c2pa.created",
            "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/algorithmicallyEnhanced",
        }
    ]
}
_GENERATOR = "unlearnable-transforms"
_ASSERTIONS = ("c2pa.actions.v2", ASSERTION, "c2pa.hash.data")  # in the order of the claim
_LARGEST = 60_000  # bytes of a manifest: it fits into one part of a JPEG
_MOST_PEM = 1 << 20  # bytes of a file of certificates or of a key
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_VERSION = re.compile(r"[\w.+-]{1,40}")
_KIND_END = bytes.fromhex("00110010800000aa00389b71")  # of the UUIDs of all kinds of boxes, behind four letters
_LABEL_ONLY, _LABEL_AND_SALT = 0x03, 0x13  # toggles of a description box
_ALGORITHMS = {"es256": -7, "es384": -35, "es512": -36, "ps256": -37, "ed25519": -8}  # by their numbers in COSE
_OFFLINE = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
_PROFILE = (
    "C2PA wants one for digital signatures: key usage digitalSignature, extended key usage emailProtection or "
    "documentSigning, not that of an authority, no server certificate"
)
VALID, TRUSTED, EXPIRED, VOID = "valid", "trusted", "expired", "void"


class ForeignManifestError(UnlearnableError, ValueError):
    """A manifest that :class:`C2paSigner` did not write; the message names what it holds."""


@dataclass(frozen=True)
class Signed:
    """What a manifest says.

    Attributes:
        opt_out: one of ``STATEMENTS``.
        holder: of the certificate, such as ``CN=Ann Lee,O=Studio Lee``.
        issuer: who issued the certificate; equal to ``holder`` for a self-made one.
    """

    opt_out: str
    holder: str
    issuer: str


def _package(name: str) -> Any:
    """A package of the extra.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError(
            "C2PA needs packages that are not installed: pip install 'unlearnable-transforms[c2pa]'"
        ) from None


def _media_type(data: bytes) -> str | None:
    """The format of an image file that can hold a manifest."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


# ---- signing ---------------------------------------------------------------------------------------------------------


class C2paSigner:
    """Signs image files with a certificate. Workers get it with its private key; its ``repr`` shows the holder alone.

    Args:
        certificates: PEM file, the signing certificate first, then those of the authorities that lead to a root.
        key: PEM file of its private key: EC P-256, P-384 or P-521, RSA from 2,048 bits, or Ed25519; not encrypted.
        opt_out: what is prohibited, one of ``STATEMENTS``.

    Raises:
        FileNotFoundError: there is no such file.
        UsageError: files that hold something else, a key of another certificate, a certificate that is not valid today
            or that C2PA does not take.
        ImportError: the extra ``c2pa`` is not installed.
    """

    def __init__(self, certificates: str | os.PathLike, key: str | os.PathLike, opt_out: str = DEFAULT) -> None:
        if opt_out not in STATEMENTS:
            raise UsageError(f"opt_out= takes one of {', '.join(STATEMENTS)}, not {opt_out!r}")
        self.opt_out = opt_out
        chain = _read_chain(certificates)
        self.holder = chain[0].subject.rfc4514_string()
        self.last_day = chain[0].not_valid_after_utc.date().isoformat()
        self._algorithm, self._key = _read_key(key, chain[0], certificates)
        encoding = _package("cryptography.hazmat.primitives.serialization").Encoding.PEM
        self._chain = b"".join(certificate.public_bytes(encoding) for certificate in chain)
        self._try(certificates)

    def sign(self, data: bytes) -> bytes:
        """The file with its manifest.

        Args:
            data: a whole PNG, JPEG or WebP without a manifest.

        Raises:
            UsageError: it cannot be signed; the certificate may have expired meanwhile.
        """
        c2pa = _package("c2pa")
        signed = io.BytesIO()
        try:
            information = c2pa.C2paSignerInfo(self._algorithm, self._chain, self._key, None)
            with (
                c2pa.Signer.from_info(information) as signer,
                c2pa.Context.from_dict({"builder": {"thumbnail": {"enabled": False}}, **_OFFLINE}) as context,
                c2pa.Builder(self._definition(), context) as builder,
            ):
                manifest = builder.sign(signer, _media_type(data), io.BytesIO(data), signed)
        except c2pa.C2paError as error:
            raise UsageError(f"C2PA does not sign it: {error}") from None
        result = signed.getvalue()
        try:
            parse(manifest)
        except ForeignManifestError as error:
            raise UsageError(
                f"this version of c2pa-python wrote {error}: install the one that the extra names"
            ) from None
        state, reason = state_of(result)
        if state != VALID:
            raise UsageError(f"the signature does not hold: {reason}")
        return result

    def _definition(self) -> dict[str, Any]:
        contents = {"c2pa.actions.v2": _ACTIONS, ASSERTION: {"entries": STATEMENTS[self.opt_out]}}
        return {
            "claim_generator_info": [{"name": _GENERATOR}],
            "assertions": [{"label": label, "data": data, "created": True} for label, data in contents.items()],
        }

    def _try(self, certificates: str | os.PathLike) -> None:
        """Sign a small image before any work: C2PA's rules for certificates are the package's to know."""
        from PIL import Image

        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "PNG")
        try:
            self.sign(buffer.getvalue())
        except UsageError as error:
            raise UsageError(
                f"{os.fspath(certificates)}: the certificate cannot be used ({error}). {_PROFILE}"
            ) from None

    def __repr__(self) -> str:
        return f"C2paSigner({self.holder}, {self.opt_out})"


def _read_chain(path: str | os.PathLike) -> list[Any]:
    """The certificates of a PEM file, each issued by the next one; the first is valid today."""
    x509 = _package("cryptography.x509")
    try:
        chain = x509.load_pem_x509_certificates(read_regular(path, _MOST_PEM))
    except ValueError:
        raise UsageError(
            f"{os.fspath(path)} holds no certificates in PEM: the file begins with -----BEGIN CERTIFICATE-----"
        ) from None
    for certificate, issuer in pairwise(chain):
        try:
            certificate.verify_directly_issued_by(issuer)
        except Exception:  # of several kinds, by what does not fit
            raise UsageError(
                f"{os.fspath(path)}: the certificate of {certificate.subject.rfc4514_string()} was not issued by the "
                "one below it: the signing certificate comes first, then the one that issued it, and so on"
            ) from None
    first, today = chain[0], datetime.now(UTC)
    if not first.not_valid_before_utc <= today <= first.not_valid_after_utc:
        expired = today > first.not_valid_after_utc
        raise UsageError(
            f"{os.fspath(path)}: the certificate {'expired' if expired else 'is not valid before'} "
            f"{(first.not_valid_after_utc if expired else first.not_valid_before_utc):%Y-%m-%d}: "
            + ("renew it" if expired else "wait, or check the clock of this machine")
        )
    return chain


def _read_key(path: str | os.PathLike, certificate: Any, certificates: str | os.PathLike) -> tuple[str, bytes]:
    """The name of the algorithm, and the private key in PEM."""
    s = _package("cryptography.hazmat.primitives.serialization")
    data, name = read_regular(path, _MOST_PEM), os.fspath(path)
    key = problem = None
    try:
        key = s.load_pem_private_key(data, None)
    except TypeError:
        problem = "is encrypted: decrypt it into a file of mode 0600, with `openssl pkey -in KEY -out NEW`"
    except Exception:  # of several kinds, by what is wrong
        problem = "holds no private key in PEM: the file begins with -----BEGIN PRIVATE KEY-----"
    if problem or key is None:  # raised here, where the error that is replaced holds no text of the file
        raise UsageError(f"{name} {problem}")
    public = s.Encoding.DER, s.PublicFormat.SubjectPublicKeyInfo
    if key.public_key().public_bytes(*public) != certificate.public_key().public_bytes(*public):
        raise UsageError(
            f"{name} is not the key of the first certificate of {os.fspath(certificates)}, that of "
            f"{certificate.subject.rfc4514_string()}: name the key that was made with it"
        )
    if os.name == "posix" and stat.S_IMODE(os.stat(path).st_mode) & 0o077:
        warn(f"{name} can be read by other users; run `chmod 600 {name}`")
    return _algorithm(key, name), key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())


def _algorithm(key: Any, name: str) -> str:
    kinds = "cryptography.hazmat.primitives.asymmetric"
    ec, rsa, ed25519 = (_package(f"{kinds}.{kind}") for kind in ("ec", "rsa", "ed25519"))
    curves = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        return "ps256"
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in curves:
        return curves[key.curve.name]
    raise UsageError(f"{name}: C2PA signs with EC keys of P-256, P-384 or P-521, RSA from 2,048 bits, or Ed25519")


# ---- the one manifest ------------------------------------------------------------------------------------------------


class _Box(NamedTuple):
    """A box of boxes (JUMBF): its kind, four letters or empty; its label; type and bytes of the boxes in it."""

    kind: str
    label: str
    contents: list[tuple[bytes, bytes]]


def parse(manifest: bytes) -> Signed:
    """What a manifest says, if it is of the form that :class:`C2paSigner` writes, byte for byte but for hashes, random
    names, salts, certificates and the signature.

    Args:
        manifest: the JUMBF boxes of a file, put together.

    Raises:
        ForeignManifestError: any other; named is the first thing that does not belong there.
        ImportError: the extra ``c2pa`` is not installed.
    """
    stores = _boxes(manifest)
    if [name for name, _ in stores] != [b"jumb"]:
        raise ForeignManifestError("bytes beside a C2PA manifest")
    store = _open(stores[0])
    manifests = [_open(content) for content in store.contents]
    if (store.kind, store.label) != ("c2pa", "c2pa") or len(manifests) != 1:
        raise ForeignManifestError("several C2PA manifests, as those of ingredients are")
    one = manifests[0]
    if one.kind != "c2ma" or not re.fullmatch(f"urn:c2pa:{_UUID}", one.label):
        raise ForeignManifestError(f"a C2PA manifest called {one.label!r}")
    parts = {box.label: box for box in map(_open, one.contents)}
    kinds = {"c2pa.assertions": "c2as", "c2pa.claim.v2": "c2cl", "c2pa.signature": "c2cs"}
    if len(one.contents) != len(kinds) or {label: box.kind for label, box in parts.items()} != kinds:
        raise ForeignManifestError(f"a C2PA manifest of other parts ({named(list(parts))})")
    assertions = [_open(content) for content in parts["c2pa.assertions"].contents]
    if other := [box.label for box in assertions if box.label not in _ASSERTIONS]:
        raise ForeignManifestError(f"a C2PA manifest with {named(other)}")
    if len(manifest) > _LARGEST:
        raise ForeignManifestError(f"a C2PA manifest of {len(manifest):,} bytes")
    if tuple(box.label for box in assertions) != _ASSERTIONS or any(box.kind != "cbor" for box in assertions):
        raise ForeignManifestError("a C2PA manifest with other assertions")
    actions, mining, digest = map(_value, assertions)
    if actions != _ACTIONS:
        raise ForeignManifestError("a C2PA manifest with other actions")
    opt_out = [name for name, entries in STATEMENTS.items() if mining == {"entries": entries}]
    if not opt_out:
        raise ForeignManifestError(f"a C2PA manifest with another {ASSERTION}")
    _check_digest(digest)
    _check_claim(_value(parts["c2pa.claim.v2"]), one.label)
    return Signed(opt_out[0], *_names(_value(parts["c2pa.signature"])))


def _boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    """Type and bytes of the boxes that lie one behind the other."""
    boxes, place = [], 0
    while place < len(data):
        if len(data) - place < 8:
            raise ForeignManifestError("a damaged C2PA manifest")
        size, name = struct.unpack_from(">I4s", data, place)
        if not 8 <= size <= len(data) - place:
            raise ForeignManifestError("a damaged C2PA manifest")
        boxes.append((name, data[place + 8 : place + size]))
        place += size
    return boxes


def _open(content: tuple[bytes, bytes]) -> _Box:
    boxes = _boxes(content[1]) if content[0] == b"jumb" else []
    if not boxes or boxes[0][0] != b"jumd" or len(boxes[0][1]) < 18:
        raise ForeignManifestError("a C2PA manifest with other boxes")
    description = boxes[0][1]
    label, _, rest = description[17:].partition(b"\0")
    salts = [(name, len(salt)) for name, salt in _boxes(rest)]
    if (description[16], salts) not in ((_LABEL_ONLY, []), (_LABEL_AND_SALT, [(b"c2sh", 16)])):
        raise ForeignManifestError("a C2PA manifest with other boxes")
    kind = description[:4].decode("latin-1") if description[4:16] == _KIND_END else ""
    return _Box(kind, printable(label.decode("latin-1")), boxes[1:])


def _value(box: _Box) -> Any:
    """The value of a box that holds one, written as CBOR in the one short form."""
    if [name for name, _ in box.contents] != [b"cbor"]:
        raise ForeignManifestError(f"a C2PA manifest whose {box.label} is no CBOR")
    return _decoded(box.contents[0][1], box.label)


def _decoded(data: bytes, label: str) -> Any:
    cbor = _package("cbor2")
    try:
        value = cbor.loads(data)
        if cbor.dumps(value) == data:
            return value
    except Exception:  # cbor2 raises whatever comes up
        pass
    raise ForeignManifestError(f"a C2PA manifest whose {label} is written otherwise")


def _check_digest(digest: Any) -> None:
    """The hash of the file: without the manifest itself, which is left out of it, and with padding that is empty."""
    good = (
        isinstance(digest, dict)
        and set(digest) == {"exclusions", "name", "alg", "hash", "pad"}
        and (digest["name"], digest["alg"]) == ("jumbf manifest", "sha256")
        and isinstance(digest["exclusions"], list)
        and [set(left_out) for left_out in digest["exclusions"] if isinstance(left_out, dict)] == [{"start", "length"}]
        and len(digest["exclusions"]) == 1
        and all(type(value) is int for value in digest["exclusions"][0].values())
        and _is_bytes(digest["hash"], 32)
        and _is_empty(digest["pad"])
    )
    if not good:
        raise ForeignManifestError("a C2PA manifest with another c2pa.hash.data")


def _check_claim(claim: Any, label: str) -> None:
    known = {"instanceID", "claim_generator_info", "signature", "created_assertions", "alg"}
    if not isinstance(claim, dict) or set(claim) != known:
        other = [name for name in claim if name not in known] if isinstance(claim, dict) else []
        raise ForeignManifestError(f"a C2PA claim with {named([printable(name) for name in other]) or 'too little'}")
    generator, made = claim["claim_generator_info"], claim["created_assertions"]
    if (
        not isinstance(generator, dict)
        or set(generator) != {"name", "org.contentauth.c2pa_rs"}
        or generator["name"] != _GENERATOR
        or not isinstance(version := generator["org.contentauth.c2pa_rs"], str)
        or not _VERSION.fullmatch(version)
    ):
        raise ForeignManifestError("a C2PA claim of another program")
    if (
        not isinstance(claim["instanceID"], str)
        or not re.fullmatch(f"xmp.iid:{_UUID}", claim["instanceID"])
        or (claim["signature"], claim["alg"]) != (f"self#jumbf=/c2pa/{label}/c2pa.signature", "sha256")
        or not isinstance(made, list)
        or any(not isinstance(entry, dict) or set(entry) != {"url", "hash"} for entry in made)
        or [entry["url"] for entry in made] != [f"self#jumbf=c2pa.assertions/{name}" for name in _ASSERTIONS]
        or not all(_is_bytes(entry["hash"], 32) for entry in made)
    ):
        raise ForeignManifestError("a C2PA claim that says something else")


def _names(signature: Any) -> tuple[str, str]:
    """Holder and issuer of the certificate of a COSE signature that holds nothing but certificates."""
    x509, encoding = _package("cryptography.x509"), _package("cryptography.hazmat.primitives.serialization").Encoding
    parts = getattr(signature, "value", None)
    if getattr(signature, "tag", None) != 18 or not isinstance(parts, list | tuple) or len(parts) != 4:
        raise ForeignManifestError("another C2PA signature")
    head, padding, payload, value = parts
    known = _decoded(head, "c2pa.signature") if isinstance(head, bytes) else None
    if (
        not isinstance(known, dict)
        or set(known) != {1, 33}
        or known[1] not in _ALGORITHMS.values()
        or not isinstance(padding, Mapping)
        or not set(padding) <= {"pad", "pad2"}
        or not all(map(_is_empty, padding.values()))
        or payload is not None
        or not isinstance(value, bytes)
        or len(value) > 1024  # of an RSA key of 8,192 bits
    ):
        raise ForeignManifestError("a C2PA signature with more than certificates")
    chain = known[33] if isinstance(known[33], list) else [known[33]]
    try:
        certificates = [x509.load_der_x509_certificate(data) for data in chain]
        if [one.public_bytes(encoding.DER) for one in certificates] == chain:
            return certificates[0].subject.rfc4514_string(), certificates[0].issuer.rfc4514_string()
    except Exception:  # of several kinds, by what is wrong
        pass
    raise ForeignManifestError("a C2PA signature with a damaged certificate")


def _is_bytes(value: Any, size: int) -> bool:
    return isinstance(value, bytes) and len(value) == size


def _is_empty(padding: Any) -> bool:
    return isinstance(padding, bytes) and not any(padding)


# ---- whether it holds ------------------------------------------------------------------------------------------------


def state_of(data: bytes, anchors: str | None = None) -> tuple[str, str]:
    """Whether a file is still what was signed, and the reason where it is not. Nothing is fetched from the net.

    Args:
        data: an image file.
        anchors: certificates in PEM that are trusted.

    Returns:
        ``trusted`` or ``valid``; ``expired``: unchanged, and the certificate is not valid any more; ``void``: changed,
        or damaged; empty where the file has no manifest.

    Raises:
        ImportError: the extra ``c2pa`` is not installed.
    """
    media_type = _media_type(data)
    if media_type is None or b"jumb" not in data:  # a manifest on the net, which XMP can name, is not asked for
        return "", ""
    c2pa = _package("c2pa")
    settings = {**_OFFLINE, **({"trust": {"trust_anchors": anchors}} if anchors else {})}
    try:
        with (
            c2pa.Context.from_dict(settings) as context,
            c2pa.Reader(media_type, io.BytesIO(data), context=context) as reader,
        ):
            state, results = reader.get_validation_state(), reader.get_validation_results()
    except c2pa.C2paError.ManifestNotFound:
        return "", ""
    except c2pa.C2paError as error:
        return VOID, f"damaged: {error}"
    failures = {one["code"]: one["explanation"] for one in (results or {}).get("activeManifest", {}).get("failure", ())}
    failures.pop("signingCredential.untrusted", None)
    if not failures and state in ("Trusted", "Valid"):
        return (TRUSTED if state == "Trusted" else VALID), ""
    if set(failures) == {"signingCredential.expired"}:
        return EXPIRED, "the certificate has expired"
    failures.pop("signingCredential.expired", None)
    changed = "assertion.dataHash.mismatch" in failures
    return VOID, "changed after it was signed" if changed else "; ".join(failures.values()) or "not valid"


def manifest_of(data: bytes) -> bytes | None:
    """The manifest in a file that :func:`state_of` knows: it is one run of bytes there, in JPEG too."""
    start = data.find(b"jumb\0\0\0\x1ejumdc2pa") - 4
    if start < 0:
        return None
    (size,) = struct.unpack_from(">I", data, start)
    return data[start : start + size]


def read_anchors(path: str | Path) -> str:
    """The certificates of a PEM file, such as the trust list of C2PA.

    Raises:
        UsageError: there are none in it.
        ImportError: the extra ``c2pa`` is not installed.
    """
    data = read_regular(path, 1 << 24)
    try:
        _package("cryptography.x509").load_pem_x509_certificates(data)
    except ValueError:
        raise UsageError(f"{path} holds no certificates in PEM: name the file of those that you trust") from None
    return data.decode("ascii", "replace")
