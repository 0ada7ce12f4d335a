"""The private key: the only source of randomness in the library.

Every random choice is read from a stream of words addressed by *labels* (method, class token, sample id, ...).
A keyed hash of the labels seeds NumPy's Philox generator, whose raw words are the same on every machine and in every
NumPy version; uniforms, integers and permutations are made from those words here, because NumPy does not promise its
own derived distributions across versions.
"""

import hashlib
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Any

import numpy as np

from .errors import UsageError, UsageTypeError
from .files import replacing
from .warn import warn

_MOST_BYTES = 1 << 16  # of a key file: a public key's name has no limit, but nobody needs more
_HEADER = "unlearnable-key-1"
_NAME = "name:"  # of a public key, in its file
_KEY_BYTES = 32
_WORKERS_PROTOCOL = 4  # the lowest pickle protocol by which DataLoader, datasets and Ray send objects to workers


class Key:
    """A 256-bit private key. Whoever has it can find, imitate and partly undo the protection: never publish it.

    Make one with :meth:`Key.generate`, keep it with :meth:`save`, use one :meth:`derive`-d key a release. A secret is
    32 bytes; passphrases are refused: they can be guessed offline from one protected image.

    Raises:
        TypeError: ``secret`` is not bytes.
        ValueError: ``secret`` is not 32 bytes long.
    """

    __slots__ = ("_secret", "name")

    def __init__(self, secret: bytes) -> None:
        if isinstance(secret, str):
            raise UsageTypeError(
                "a key is 32 random bytes, not text: a passphrase can be guessed from one protected picture. "
                "Use Key.generate(), or Key.load(path) for a key file."
            )
        if not isinstance(secret, bytes | bytearray):
            raise UsageTypeError(f"a key is 32 bytes, not {type(secret).__name__}; use Key.generate()")
        if len(secret) != _KEY_BYTES:
            raise UsageError(f"a key is {_KEY_BYTES} bytes, got {len(secret)}; use Key.generate()")
        self._secret = bytes(secret)
        self.name: str | None = None

    @classmethod
    def generate(cls) -> "Key":
        """A new key from the operating system's random source."""
        return cls(secrets.token_bytes(_KEY_BYTES))

    @classmethod
    def public(cls, name: str) -> "Key":
        """A key that everybody can make again from ``name``: for measurements and examples, protects nothing. Its
        ``repr`` shows the name, so that a table can say which keys it used."""
        secret = hashlib.sha256(b"unlearnable-transforms public key\0" + name.encode()).digest()
        return _named(secret, f"public:{name}")

    @property
    def is_public(self) -> bool:
        """Whether the key came from :meth:`public` and is therefore known to everybody."""
        return self.name is not None

    def derive(self, name: str) -> "Key":
        """The key of one release, e.g. ``key.derive("user/dataset")``. One release's key tells nothing of another's."""
        if not isinstance(name, str) or not name:
            raise UsageError("a derived key needs the name of an album or a release: key.derive('user/dataset')")
        if name != name.strip() or not name.isprintable():  # which nobody sees, and another name is another key
            raise UsageError(
                f"the name {name!r} of a derived key begins or ends with a space, or holds a line end or what is no "
                "text: leave that out"
            )
        secret = self._digest(b"derive", (name,), _KEY_BYTES)
        return _named(secret, None if self.name is None else f"{self.name}/{name}")

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that name the key without revealing it; may be published."""
        return self._digest(b"fingerprint", (), 8).hex()

    def save(self, path: str | os.PathLike, *, overwrite: bool = False) -> Path:
        """Write the key file, readable by its owner only (mode 0600), whole or not at all.

        The file of a public key holds its name, so that it is public again when it is loaded.

        Raises:
            FileExistsError: a file is there and ``overwrite`` is False: a lost key cannot be made again.
        """
        path = Path(path)
        try:
            with replacing(path, overwrite=overwrite) as temporary, temporary.open("w", encoding="ascii") as file:
                name = () if self.name is None else (_NAME + self.name.encode().hex(),)
                file.write(" ".join((_HEADER, self._secret.hex(), self._checksum(), *name)) + "\n")
        except FileExistsError:
            raise FileExistsError(f"{path} exists; a lost key cannot be made again, so it is not replaced") from None
        return path

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Key":
        """Read a key file.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a key file, or a damaged one.
        """
        path = Path(path)
        with path.open("rb") as file:  # a pipe is welcome: `--key <(command)`
            key, problem = _parse(file.read(_MOST_BYTES).decode("ascii", "replace"))
        if key is None:  # raised here, where no local variable holds the file's text
            raise UsageError(f"{path} {problem}")
        if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
            warn(f"{path} can be read by other users; run `chmod 600 {path}`")
        return key

    def stream(self, *labels: str | bytes | int) -> "Stream":
        """The random words that belong to these labels; equal labels give equal words, always and everywhere."""
        return Stream(self._digest(b"stream", labels, 16))

    def _digest(self, purpose: bytes, labels: tuple[str | bytes | int, ...], size: int) -> bytes:
        digest = hashlib.blake2b(key=self._secret, person=b"ut1:" + purpose, digest_size=size)
        for label in labels:  # each label is tagged with its type and length, so that no two lists read the same
            kind, data = _encode_label(label)
            digest.update(kind + len(data).to_bytes(8, "little") + data)
        return digest.digest()

    def _checksum(self) -> str:
        return self._digest(b"checksum", () if self.name is None else (self.name,), 4).hex()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and secrets.compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        return hash((Key, self.fingerprint))

    def __repr__(self) -> str:
        return f"Key({self.name or 'fingerprint ' + self.fingerprint})"

    def __reduce_ex__(self, protocol: Any) -> tuple:
        """For workers and copies, which use protocols 4 and 5. ``torch.save`` and ``yaml.dump`` use 2, by which the key
        would get into a checkpoint: a UsageTypeError."""
        if protocol < _WORKERS_PROTOCOL:
            raise UsageTypeError(
                "torch.save or yaml.dump would write the key into the file: leave keys and poisons out "
                "of checkpoints, in Lightning with save_hyperparameters(ignore=['poison']), and load the key with "
                "Key.load(path)"
            )
        return _named, (self._secret, self.name)


def _parse(text: str) -> tuple[Key | None, str]:
    """The key in a key file, else what is wrong with it. Does not raise: a traceback can show local variables."""
    fields = text.split()
    if not fields:
        return None, "is empty, not a key file; make one with `unlearnable keygen`"
    name = fields[3].removeprefix(_NAME) if len(fields) == 4 and fields[3].startswith(_NAME) else None
    if len(fields) != (3 if name is None else 4) or fields[0] != _HEADER:
        return None, "is not a key file; make one with `unlearnable keygen`"
    if not re.fullmatch(f"[0-9a-f]{{{2 * _KEY_BYTES}}}", fields[1]):
        return None, f"is damaged: the key is not {_KEY_BYTES} bytes in hexadecimal; restore it from a copy"
    try:
        key = _named(bytes.fromhex(fields[1]), None if name is None else bytes.fromhex(name).decode())
    except ValueError:
        return None, "is damaged: its name is unreadable; restore it from a copy"
    if fields[2] != key._checksum():
        return None, "is damaged: its checksum does not fit; restore it from a copy"
    return key, ""


def _named(secret: bytes, name: str | None) -> Key:
    key = Key(secret)
    key.name = name
    return key


def _encode_label(label: str | bytes | int) -> tuple[bytes, bytes]:
    if isinstance(label, str):
        return b"s", label.encode()
    if isinstance(label, bytes):
        return b"b", label
    return b"i", str(int(label)).encode()


class Stream:
    """Random words of one address. Draws follow each other; make a new stream to start over."""

    def __init__(self, seed: bytes) -> None:
        low, high = (int.from_bytes(seed[i : i + 8], "little") for i in (0, 8))
        self._philox = np.random.Philox(key=np.array([low, high], dtype=np.uint64))

    def words(self, n: int) -> np.ndarray:
        """``n`` raw words, uint64."""
        return self._philox.random_raw(n)

    def uniform(self, *shape: int) -> np.ndarray:
        """Float64 in [0, 1), multiples of 2**-53."""
        return ((self.words(int(np.prod(shape))) >> np.uint64(11)) * 2.0**-53).reshape(shape)

    def integers(self, n: int, below: int) -> np.ndarray:
        """``n`` int64 in [0, below). ``below`` is at most 2**31, which keeps the bias under 2**-32."""
        if not 0 < below <= 2**31:
            raise UsageError("below must be in 1..2**31")
        return ((self.words(n) >> np.uint64(32)) * np.uint64(below) >> np.uint64(32)).astype(np.int64)

    def permutation(self, n: int) -> np.ndarray:
        """A random order of 0..n-1, int64."""
        return np.argsort(self.words(n), kind="stable")
