"""Signed manifests: whoever has the public key can tell who published a set, and that it is as it was published.

The seal of a manifest needs the secret protection key, so only its owner can check it. The signature is made with a
key of its own (Ed25519, RFC 8032), which protects nothing and undoes nothing: its public half is given to everybody.

What is signed is the manifest without ``signature`` and ``seal``, as JSON with sorted names, in UTF-8. The checksums of
all files stand in it. The package ``cryptography`` does the work (extra ``signing``).
"""

import base64
import importlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError, printable
from ..files import read_regular, replacing
from ..warn import warn

KIND = {"algorithm": str, "public_key": str, "value": str}  # in a manifest, see `files.fits`
ALGORITHM = "Ed25519"
PUBLIC_SUFFIX = ".pub"
_NOT_SIGNED = ("signature", "seal")
_MOST_PEM = 1 << 16  # bytes of a key file
FITS, OTHER, CHANGED, MISSING, UNCHECKED = "fits", "other", "changed", "missing", "unchecked"


def _package(name: str) -> Any:
    """A module of the package ``cryptography``.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module(f"cryptography.hazmat.primitives.{name}")
    except ImportError:
        raise ImportError(
            "signatures need a package that is not installed: pip install 'unlearnable-transforms[signing]'"
        ) from None


def make_signing_key(path: Path) -> Path:
    """Write a new private key, mode 0600, and beside it the public key, of the same name with ``.pub`` behind it.

    Returns:
        The path of the public key.

    Raises:
        FileExistsError: one of the files is there.
        ImportError: the extra ``signing`` is not installed.
    """
    s, key = _package("serialization"), _package("asymmetric.ed25519").Ed25519PrivateKey.generate()
    public = path.with_name(path.name + PUBLIC_SUFFIX)
    contents = {
        path: key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()),
        public: key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo),
    }
    for place in contents:
        if os.path.lexists(place):
            raise FileExistsError(f"{place} exists; a lost key cannot be made again, so it is not replaced")
    for place, data in contents.items():
        with replacing(place, overwrite=False) as temporary:
            temporary.write_bytes(data)
    public.chmod(0o644)
    return public


def load_signing_key(path: str | os.PathLike) -> Any:
    """The private key of a file that :func:`make_signing_key` wrote, or of any PEM file of an Ed25519 key.

    Raises:
        FileNotFoundError: there is no such file.
        UsageError: it holds something else.
        ImportError: the extra ``signing`` is not installed.
    """
    s, kind = _package("serialization"), _package("asymmetric.ed25519").Ed25519PrivateKey
    data, key = read_regular(path, _MOST_PEM), None
    try:
        key = s.load_pem_private_key(data, None)
    except Exception:  # of several kinds, by what is wrong
        key = None
    if not isinstance(key, kind):  # raised here, where the error that is replaced holds no text of the file
        raise UsageError(
            f"{os.fspath(path)} holds no private signing key: `unlearnable keygen --signing NEW` makes one (PEM, "
            "Ed25519, not encrypted)"
        )
    if os.name == "posix" and stat.S_IMODE(os.stat(path).st_mode) & 0o077:
        warn(f"{os.fspath(path)} can be read by other users; run `chmod 600 {os.fspath(path)}`")
    return key


def load_public_key(path: str | os.PathLike) -> str:
    """The public key of a PEM file, as a manifest has it: its 32 bytes in base64.

    Raises:
        FileNotFoundError: there is no such file.
        UsageError: it holds something else; a private key, perhaps.
        ImportError: the extra ``signing`` is not installed.
    """
    s, kind = _package("serialization"), _package("asymmetric.ed25519").Ed25519PublicKey
    data, key = read_regular(path, _MOST_PEM), None
    try:
        key = s.load_pem_public_key(data)
    except Exception:  # of several kinds, by what is wrong
        key = None
    if not isinstance(key, kind):
        private = "that is a private key: keep it to yourself, and " if b"PRIVATE KEY" in data else ""
        raise UsageError(
            f"{os.fspath(path)} holds no public key of signatures: {private}name the file of the publisher that ends "
            f"with {PUBLIC_SUFFIX} (PEM, Ed25519)"
        )
    return _text_of(key)


def _text_of(public_key: Any) -> str:
    return base64.b64encode(public_key.public_bytes_raw()).decode()


def sign(manifest: Mapping[str, Any], key: Any) -> dict[str, str]:
    """The signature of a manifest, to be put into it as ``signature``.

    Args:
        manifest: with the checksums of all files.
        key: of :func:`load_signing_key`.
    """
    value = base64.b64encode(key.sign(_signed_part(manifest))).decode()
    return {"algorithm": ALGORITHM, "public_key": _text_of(key.public_key()), "value": value}


def _signed_part(manifest: Mapping[str, Any]) -> bytes:
    rest = {name: value for name, value in manifest.items() if name not in _NOT_SIGNED}
    return json.dumps(rest, sort_keys=True, ensure_ascii=False).encode()


def check(manifest: Mapping[str, Any], public_key: str | None = None) -> str | None:
    """Whether the signature of a manifest holds.

    Args:
        manifest: of the right types.
        public_key: of :func:`load_public_key`; without one only whether the manifest fits the key that it names itself.

    Returns:
        ``fits``; ``other``: it holds, and was made with another key; ``changed``: it does not hold; ``missing``: there
        is none, and a key was asked for; None: there is none.

    Raises:
        ImportError: the extra ``signing`` is not installed.
    """
    signature = manifest.get("signature")
    if signature is None:
        return None if public_key is None else MISSING
    try:
        key, value = (base64.b64decode(signature[name], validate=True) for name in ("public_key", "value"))
        if signature["algorithm"] != ALGORITHM:
            return CHANGED
        _package("asymmetric.ed25519").Ed25519PublicKey.from_public_bytes(key).verify(value, _signed_part(manifest))
    except ImportError:
        raise
    except Exception:  # of several kinds, by what is wrong
        return CHANGED
    return FITS if public_key is None or base64.b64decode(public_key) == key else OTHER


def wording(state: str, manifest: Mapping[str, Any], asked: bool) -> str:
    """What :func:`check` says, for people; ``asked``: whether for a public key."""
    by = printable(manifest.get("signature", {}).get("public_key", ""))
    return {
        FITS: "the manifest is signed with that public key"
        if asked
        else f"the manifest is signed, by whoever has the public key {by}: --public-key FILE asks whether it is the "
        "publisher's",
        OTHER: f"the manifest is signed by ANOTHER key than that of the file, by {by}: somebody else published it",
        CHANGED: "the manifest was CHANGED after it was signed",
        MISSING: "the manifest is NOT signed: that key's owner has not published it in this form",
        UNCHECKED: "the manifest is signed. To check it: pip install 'unlearnable-transforms[signing]'",
    }[state]
