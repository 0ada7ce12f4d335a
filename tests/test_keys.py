"""Keys: where all randomness comes from, and how little of them is seen."""

import base64
import logging
import os
import pickle
import stat
import traceback

import numpy as np
import pytest
from conftest import error_of

from unlearnable_transforms import CUDAPoison, Key
from unlearnable_transforms.errors import UsageError
from unlearnable_transforms.key import Stream

SECRET = bytes(range(7, 39))
TRACES = (SECRET.hex(), SECRET.hex().upper(), base64.b64encode(SECRET).decode(), repr(SECRET), str(list(SECRET))[1:-1])


def leaks(text: str) -> list[str]:
    return [trace for trace in TRACES if trace in text]


def test_generate_makes_different_keys_of_256_bits():
    keys = {Key.generate() for _ in range(20)}
    assert len(keys) == len({key.fingerprint for key in keys}) == 20
    assert {len(key._secret) for key in keys} == {32}
    assert not any(key.is_public for key in keys)


def test_save_and_load_give_the_same_key(tmp_path):
    key = Key(SECRET)
    path = key.save(tmp_path / "my.key")
    loaded = Key.load(str(path))
    assert loaded == key
    assert loaded.fingerprint == key.fingerprint
    assert hash(loaded) == hash(key)
    assert os.listdir(tmp_path) == ["my.key"]  # no temporary file is left


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_key_files_are_for_their_owner_only(tmp_path):
    before = os.umask(0)
    try:
        path = Key(SECRET).save(tmp_path / "a.key")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    with pytest.warns(UserWarning, match="chmod 600"):
        Key.load(path)
    Key.generate().save(path, overwrite=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_save_does_not_replace_a_key(tmp_path):
    path = Key(SECRET).save(tmp_path / "a.key")
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="lost key"):
        Key.generate().save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.key"]
    other = Key.generate()
    other.save(path, overwrite=True)
    assert Key.load(path) == other


@pytest.mark.parametrize("name", ["docs", "two words\nand a line", "ключ", ""])
def test_a_public_key_that_was_saved_is_public_again(tmp_path, name):
    for number, key in enumerate((Key.public(name), Key.public(name).derive("user/name"))):
        loaded = Key.load(key.save(tmp_path / f"{number}.key"))
        assert loaded == key
        assert loaded.is_public
        assert loaded.name == key.name


def test_the_name_cannot_be_cut_off_a_public_key_file(tmp_path):
    path = Key.public("docs").save(tmp_path / "public.key")
    path.write_text(" ".join(path.read_text().split()[:3]))
    with pytest.raises(ValueError, match=r"damaged.*checksum"):
        Key.load(path)


def test_key_files_of_earlier_versions_are_read(tmp_path):
    path = tmp_path / "old.key"
    path.write_text(f"unlearnable-key-1 {SECRET.hex()} 2ab8966e\n")
    path.chmod(0o600)
    assert Key.load(path) == Key(SECRET)
    assert not Key.load(path).is_public


GOOD_LINE = f"unlearnable-key-1 {SECRET.hex()} {Key(SECRET)._checksum()}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("hunter2\n", "is not a key file"),
        (GOOD_LINE.replace("key-1", "key-2"), "is not a key file"),
        (GOOD_LINE + "more", "is not a key file"),
        (GOOD_LINE.replace(SECRET.hex(), SECRET.hex()[:-2]), "damaged.*32 bytes"),
        (GOOD_LINE.replace(SECRET.hex(), SECRET.hex()[:-1] + "g"), "damaged.*32 bytes"),
        (GOOD_LINE.replace(SECRET.hex(), "ff" + SECRET.hex()[2:]), "damaged.*checksum"),
        (GOOD_LINE[:-3], "damaged.*checksum"),
        (GOOD_LINE[:-1] + " name:ff", "damaged.*name"),
        (GOOD_LINE[:-1] + " name:61", "damaged.*checksum"),
        ("\x00\xff\xfe binary", "is not a key file"),
    ],
)
def test_load_refuses_what_is_not_a_whole_key_file(tmp_path, text, message):
    path = tmp_path / "bad.key"
    path.write_bytes(text.encode("latin-1"))
    path.chmod(0o600)
    error = error_of(lambda: Key.load(path), ValueError)
    with pytest.raises(ValueError, match=message):
        Key.load(path)
    assert str(path) in str(error)
    assert not leaks(str(error))


def test_load_says_that_there_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.key"):
        Key.load(tmp_path / "none.key")


@pytest.mark.parametrize(
    ("secret", "kind", "message"),
    [
        ("correct horse battery staple", TypeError, "passphrase"),
        ("0" * 32, TypeError, "passphrase"),
        (b"", ValueError, "32 bytes, got 0"),
        (SECRET[:31], ValueError, "32 bytes, got 31"),
        (SECRET + b"x", ValueError, "32 bytes, got 33"),
        (12345, TypeError, "not int"),
        (None, TypeError, "not NoneType"),
    ],
)
def test_a_key_is_32_bytes(secret, kind, message):
    with pytest.raises(kind, match=message) as caught:
        Key(secret)
    assert "generate" in str(caught.value)
    assert str(secret) not in str(caught.value) or not secret


def test_derived_keys_differ_and_are_found_again():
    key = Key(SECRET)
    names = ["user/a", "user/b", "user", "é", "e\u0301"]
    derived = [key.derive(name) for name in names]
    assert len({key, *derived}) == len(names) + 1
    assert [Key(SECRET).derive(name) for name in names] == derived
    assert Key(SECRET).derive("user/a").derive("user/b") != Key(SECRET).derive("user/b").derive("user/a")
    assert not any(one.is_public for one in derived)
    for bad in ("", None, 3, b"user/a"):
        with pytest.raises(ValueError, match="needs the name of an album or a release"):
            key.derive(bad)


@pytest.mark.parametrize("name", [" user/a", "user/a\n", "user/\ta", "user/\udcff"])
def test_a_derived_key_has_no_name_with_what_nobody_sees(name):
    """Else a slip of the hand protects an album anew under another key."""
    with pytest.raises(UsageError, match="leave that out"):
        Key(SECRET).derive(name)


def test_public_keys_show_their_name_and_private_ones_their_fingerprint():
    assert repr(Key.public("table 1")) == "Key(public:table 1)"
    assert repr(Key.public("a").derive("b/c")) == "Key(public:a/b/c)"
    assert Key.public("a").derive("b").is_public
    assert repr(Key(SECRET)) == f"Key(fingerprint {Key(SECRET).fingerprint})"
    assert Key.public("a") != Key.public("b")


@pytest.mark.parametrize("make", [lambda: Key(SECRET), lambda: Key.public("a")], ids=["private", "public"])
def test_keys_pickle_whole(make):
    again = pickle.loads(pickle.dumps(make()))
    assert again == make()
    assert again.name == make().name


def test_key_bytes_are_in_no_repr_string_or_format():
    key = Key(SECRET)
    poison = CUDAPoison(key=key)
    shown = [
        repr(key),
        str(key),
        f"{key}",
        f"{key!r:>90}",
        f"{key:}",
        repr(poison),
        str(poison),
        repr([key, {key: key}]),
    ]
    shown += [repr(key.derive("x")), repr(key.stream("x")), str(poison.public_config()), key.fingerprint]
    assert not leaks("\n".join(shown))
    assert key.fingerprint in shown[0]


def _raise_in_use(key: Key, path) -> None:
    CUDAPoison(key=key)("not a picture", 1)


def _raise_in_stream(key: Key, path) -> None:
    key.stream(object())


def _raise_on_bad_checksum(key: Key, path) -> None:
    path.write_text(f"unlearnable-key-1 {key._secret.hex()} 00000000")
    path.chmod(0o600)
    Key.load(path)


def _raise_on_long_key(key: Key, path) -> None:
    path.write_text(f"unlearnable-key-1 {key._secret.hex()}00 00000000")
    path.chmod(0o600)
    Key.load(path)


def _raise_on_existing_file(key: Key, path) -> None:
    path.touch()
    key.save(path)


def _raise_on_full_disk(key: Key, path) -> None:
    resource = pytest.importorskip("resource", reason="limits on file sizes are POSIX")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        key.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _raise_on_missing_folder(key: Key, path) -> None:
    key.save(path / "no" / "such")


@pytest.mark.parametrize(
    "action",
    [
        _raise_in_use,
        _raise_in_stream,
        _raise_on_bad_checksum,
        _raise_on_long_key,
        _raise_on_existing_file,
        _raise_on_full_disk,
        _raise_on_missing_folder,
    ],
)
def test_key_bytes_are_in_no_traceback_even_with_locals(tmp_path, caplog, action):
    try:
        action(Key(SECRET), tmp_path / "some.key")
    except Exception as error:
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        with caplog.at_level(logging.DEBUG):
            logging.getLogger("test").exception("failed")
    assert "Key(fingerprint" in shown  # locals were shown
    assert not leaks(shown + caplog.text)


# Literals: a change of NumPy, of the hash or of the arithmetic must not pass unseen, for it would change every
# protected picture that anybody makes.


def test_golden_fingerprints():
    assert Key.public("golden").fingerprint == "7dbf306db5431a17"
    assert Key.public("golden").derive("user/name").fingerprint == "7c78f0338525e7cb"
    assert Key(SECRET)._checksum() == "2ab8966e"


def test_golden_words():
    assert Key.public("golden").stream("cuda", "i:3", 3, b"\0").words(4).tolist() == [
        9309321962578909832,
        10774112790020029398,
        5183215694387077546,
        8472576732667229109,
    ]


def test_golden_uniforms():
    assert Key.public("golden").stream("u").uniform(2, 2).tolist() == [
        [0.05554827766665227, 0.7497904035957429],
        [0.5246757352514695, 0.15900235286712594],
    ]


def test_golden_integers_and_permutation():
    assert Key.public("golden").stream("i").integers(12, 9).tolist() == [8, 8, 6, 6, 6, 4, 5, 1, 2, 7, 8, 3]
    assert Key.public("golden").stream("i").integers(3, 2**31).tolist() == [2057581554, 1981508841, 1485241131]
    assert Key.public("golden").stream("p").permutation(10).tolist() == [4, 5, 6, 2, 9, 0, 1, 8, 7, 3]


def test_words_are_philox_4x64_10():
    """The published test vector (Random123, kat_vectors): all-ones counter and key; NumPy counts up before a block."""
    generator = np.random.Philox(counter=2**256 - 2, key=2**128 - 1)
    assert [f"{word:016x}" for word in generator.random_raw(4)] == [
        "87b092c3013fe90b",
        "438c3c67be8d0224",
        "9cc7d7c69cd777b6",
        "a09caebf594f0ba0",
    ]


def test_words_do_not_depend_on_how_they_are_drawn():
    whole = Key.public("a").stream("x").words(23)
    stream = Key.public("a").stream("x")
    assert np.concatenate([stream.words(n) for n in (1, 2, 5, 0, 8, 7)]).tolist() == whole.tolist()
    assert len(set(whole.tolist())) == 23
    assert whole.dtype == np.uint64


def test_streams_are_told_apart_by_type_length_and_order_of_labels():
    key = Key.public("a")
    addresses = [(), ("",), ("1",), (1,), (b"1",), ("1", "2"), ("2", "1"), ("12",), (12,), (1, 2), ("1", 2), (-1,)]
    first = [int(key.stream(*address).words(1)[0]) for address in addresses]
    assert len(set(first)) == len(addresses)
    assert int(key.stream(np.int64(12)).words(1)[0]) == int(key.stream(12).words(1)[0])
    assert int(Key.public("b").stream(1).words(1)[0]) != int(key.stream(1).words(1)[0])


def test_draws_lie_in_their_ranges_and_are_even():
    stream = Key.public("a").stream("ranges")
    uniform = stream.uniform(100, 100)
    assert 0 <= uniform.min() < 0.001
    assert 0.999 < uniform.max() < 1
    assert uniform.mean() == pytest.approx(0.5, abs=0.01)
    assert np.unique(uniform * 2.0**53 % 1).tolist() == [0]
    counts = np.bincount(stream.integers(9000, 9), minlength=9)
    assert len(counts) == 9
    assert counts.min() > 880
    assert counts.max() < 1120
    assert sorted(stream.permutation(50).tolist()) == list(range(50))
    assert stream.integers(3, 1).tolist() == [0, 0, 0]
    for below in (0, -1, 2**31 + 1):
        with pytest.raises(ValueError, match="below"):
            stream.integers(1, below)


def test_integers_of_the_largest_word_stay_below():
    stream = Stream(bytes(16))
    stream.words = lambda n: np.full(n, 2**64 - 1, np.uint64)
    assert stream.integers(2, 2**31).tolist() == [2**31 - 1] * 2
    assert stream.integers(2, 9).tolist() == [8, 8]
    assert stream.uniform(1)[0] == 1 - 2.0**-53
