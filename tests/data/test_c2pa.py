"""C2PA: what is signed is one exact manifest, any changed byte is noticed, and wrong certificates are named as such."""

import copy
import io
import os
import pickle
import socket
import stat
import sys
import time

import numpy as np
import pytest
from certificates import (
    GPS,
    make_certificate,
    pem,
    private_key,
    sign_otherwise,
    with_ingredient,
    with_second,
    with_thumbnail,
)
from conftest import decode, pixels
from PIL import Image, UnidentifiedImageError

pytest.importorskip("c2pa", reason="c2pa-python is not installed")
pytest.importorskip("cbor2")

from unlearnable_transforms.checks.encodings import read_encoding
from unlearnable_transforms.checks.leaks import encoding_leaks, mixed_leak
from unlearnable_transforms.data import c2pa
from unlearnable_transforms.data.c2pa import C2paSigner, manifest_of, parse, state_of
from unlearnable_transforms.data.codec import Codec
from unlearnable_transforms.data.credit import OPT_OUTS, Credit, build
from unlearnable_transforms.errors import UsageError
from unlearnable_transforms.protection.verify_c2pa import Review

FORMATS = ("png", "jpeg", "webp")


@pytest.fixture
def certificate(tmp_path):
    return make_certificate(tmp_path)


@pytest.fixture
def signer(certificate) -> C2paSigner:
    return C2paSigner(*certificate)


def image(*shape: int) -> Image.Image:
    return Image.fromarray(pixels(*(shape or (21, 17, 3))))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("shape", [(21, 17, 3), (20, 16), (1, 1, 3), (300, 200, 3)])
def test_the_pixels_stay_and_a_reader_sees_the_assertion(signer, format, shape):
    import c2pa as package

    plain, signed = Codec(format).encode(image(*shape)), Codec(format, signer=signer).encode(image(*shape))
    assert np.array_equal(decode(plain), decode(signed))
    assert state_of(plain) == ("", "")
    assert state_of(signed) == ("valid", "")
    found = read_encoding(signed)
    assert (found.foreign, found.signed.holder, found.signed.issuer) == ([], "CN=Ann Lee", "CN=Root")
    assert list(encoding_leaks(found, additive=False)) == []
    with package.Reader(f"image/{format}", io.BytesIO(signed)) as reader:
        (_, assertion) = reader.get_active_manifest()["assertions"]
    assert assertion["label"] == "cawg.training-mining"
    assert assertion["data"]["entries"]["cawg.ai_training"] == {"use": "notAllowed"}


def test_every_opt_out_has_its_statement(certificate):
    assert set(c2pa.STATEMENTS) == set(OPT_OUTS)
    for name in OPT_OUTS:
        signed = Codec(signer=C2paSigner(*certificate, name)).encode(image())
        assert parse(manifest_of(signed)).opt_out == name
    with pytest.raises(UsageError, match="opt_out= takes one of"):
        C2paSigner(*certificate, "nothing")


def test_a_packet_and_a_signature_in_one_file(signer):
    credit = Credit("ai-training", ("Ann Lee",))
    for format in FORMATS:
        found = read_encoding(Codec(format, signer=signer).encode(image(), build(credit)))
        assert (found.foreign, found.credit, found.signed.opt_out) == ([], credit, "ai-training")


def test_some_images_with_a_signature_and_others_without(signer):
    """It may say which are protected. Grey images may lie among coloured ones."""
    for format in FORMATS:
        one, none = (read_encoding(Codec(format, signer=who).encode(image())).traces for who in (signer, None))
        grey = read_encoding(Codec(format, signer=signer).encode(image(20, 16))).traces
        assert mixed_leak({one: [1, 2], none: [3]})[1] == (3,)
        assert mixed_leak({one: [1, 2], grey: [3]}) is None


@pytest.mark.parametrize("step", [13, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("format", FORMATS)
def test_any_changed_byte_is_noticed(signer, format, step):
    signed = Codec(format, signer=signer).encode(image(5, 4, 3))
    for place in range(0, len(signed), step):
        changed = bytearray(signed)
        changed[place] ^= 1
        found = read_encoding(bytes(changed))
        if not found.foreign and found.format != "unknown" and found.signed is not None:
            with pytest.raises(UnidentifiedImageError):  # the checksum of a part
                decode(bytes(changed))
    pixel = bytearray(signed)
    pixel[-20] ^= 1  # of the compressed pixels, or of the length of a part
    assert state_of(bytes(pixel))[0] == "void"
    assert state_of(Codec(format).encode(decode(signed))) == ("", "")  # saved anew by a program


def test_who_is_trusted(tmp_path):
    chain, key = make_certificate(tmp_path)
    signed = Codec(signer=C2paSigner(chain, key)).encode(image())
    assert state_of(signed, c2pa.read_anchors(chain)) == ("trusted", "")
    other, _ = make_certificate(tmp_path / "other")
    assert state_of(signed, c2pa.read_anchors(other)) == ("valid", "")
    with pytest.raises(UsageError, match="holds no certificates"):
        c2pa.read_anchors(key)


@pytest.mark.slow
def test_a_signature_whose_certificate_has_expired_meanwhile(tmp_path):
    seconds = 10
    signer = C2paSigner(*make_certificate(tmp_path, days=1 + seconds / 86400))
    signed = Codec(signer=signer).encode(image())
    time.sleep(seconds + 1)
    assert state_of(signed) == ("expired", "the certificate has expired")
    assert state_of(signed + b"x") == ("void", "changed after it was signed")
    assert read_encoding(signed).foreign == []  # unchanged: a set that passed the checks once passes them later
    with pytest.raises(UsageError, match=r"C2PA does not sign it: .*not valid at time of signing"):
        Codec(signer=signer).encode(image())
    review = Review()
    review.add("cat/1.png", signed, None)
    assert review.expired == ["cat/1.png"]
    assert "C2PA has EXPIRED in 1 of 1 images, which are unchanged" in "\n".join(review.lines())


def test_nothing_is_fetched_from_the_net():
    """XMP may name a manifest elsewhere; the package c2pa would ask for it."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/jumb"
        packet = (
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            '<rdf:Description xmlns:dcterms="http://purl.org/dc/terms/" '
            f'dcterms:provenance="{address}"/></rdf:RDF></x:xmpmeta>'
        )
        for format in FORMATS:
            state_of(Codec(format).encode(image(), packet.encode()))
            with pytest.raises(TimeoutError):
                server.accept()


def test_a_self_made_certificate_is_recognised(tmp_path):
    signed = Codec(signer=C2paSigner(*make_certificate(tmp_path, self_made=True))).encode(image())
    found = parse(manifest_of(signed))
    assert found.holder == found.issuer == "CN=Ann Lee"


@pytest.mark.parametrize("kind", ["P-384", "P-521", "Ed25519", "2048"])
def test_kinds_of_keys(tmp_path, kind):
    signed = Codec(signer=C2paSigner(*make_certificate(tmp_path, kind=kind))).encode(image())
    assert read_encoding(signed).foreign == []


# ---- certificates that cannot be used


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_day": -40}, r"chain\.pem: the certificate expired .*: renew it"),
        ({"first_day": 4}, r"chain\.pem: the certificate is not valid before"),
        ({"usage": "SERVER_AUTH"}, r"chain\.pem: the certificate cannot be used .*no server certificate"),
        (
            {"authority": True, "self_made": True},
            r"chain\.pem: the certificate cannot be used .*not that of an authority",
        ),
        ({"kind": "K-256"}, r"private\.pem: C2PA signs with EC keys of P-256"),
        ({"kind": "1024"}, r"private\.pem: C2PA signs with .* RSA from 2,048 bits"),
    ],
)
def test_certificates_that_cannot_sign(tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        C2paSigner(*make_certificate(tmp_path, **options))


def test_files_that_are_no_certificate_or_no_key(tmp_path, certificate):
    chain, key = certificate
    _, other = make_certificate(tmp_path / "other")
    with pytest.raises(
        UsageError, match=r"private\.pem is not the key of the first certificate of .*that of CN=Ann Lee"
    ):
        C2paSigner(chain, other)
    with pytest.raises(UsageError, match=r"private\.pem holds no certificates in PEM"):
        C2paSigner(key, key)
    with pytest.raises(UsageError, match=r"chain\.pem holds no private key in PEM"):
        C2paSigner(chain, chain)
    with pytest.raises(FileNotFoundError):
        C2paSigner(tmp_path / "none.pem", key)
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_bytes(pem(private_key(), b"secret"))
    with pytest.raises(UsageError, match=r"encrypted\.pem is encrypted: .*openssl pkey"):
        C2paSigner(chain, encrypted)
    end = b"-----END CERTIFICATE-----\n"
    first, root, _ = chain.read_bytes().split(end)
    chain.write_bytes(root + end + first + end)
    with pytest.raises(UsageError, match="CN=Root was not issued by the one below it: the signing certificate comes"):
        C2paSigner(chain, key)


def test_a_key_that_others_can_read_is_warned_of(certificate):
    os.chmod(certificate[1], 0o644)
    with pytest.warns(UserWarning, match=r"private\.pem can be read by other users; run `chmod 600"):
        C2paSigner(*certificate)


def test_the_private_key_shows_nowhere(certificate, signer):
    lines = [line for line in certificate[1].read_text().splitlines() if "---" not in line]
    shown = repr(signer) + repr(Codec(signer=signer)) + str(signer)
    assert not any(line in shown for line in lines)
    assert all(line.encode() in pickle.dumps(signer) for line in lines)  # workers need it
    assert stat.S_IMODE(certificate[1].stat().st_mode) == 0o600
    again = Codec(signer=pickle.loads(pickle.dumps(signer))).encode(image())
    assert state_of(again) == ("valid", "")
    assert lines[0].encode() not in again


def test_an_expired_certificate_of_a_long_run_is_an_error_and_no_unsigned_file(signer, monkeypatch):
    late = copy.copy(signer)
    monkeypatch.setattr(c2pa, "state_of", lambda data: ("expired", "the certificate has expired"))
    with pytest.raises(UsageError, match="the signature does not hold: the certificate has expired"):
        Codec(signer=late).encode(image())


def test_without_the_packages_the_message_names_the_extra(certificate, signer, monkeypatch):
    signed = Codec(signer=signer).encode(image())

    for name in ("c2pa", "cbor2", "cryptography.x509"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'unlearnable-transforms\[c2pa\]'"):
        C2paSigner(*certificate)
    (what,) = read_encoding(signed).foreign
    assert what.startswith("a C2PA manifest, which is not looked into")
    assert read_encoding(Codec().encode(image())).foreign == []


# ---- manifests of other programs

ORIGINAL = Codec("jpeg").encode(Image.fromarray(pixels(48, 64, 3, seed=9)))


def _actions(**more) -> dict:
    return {
        "assertions": [{"label": "c2pa.actions.v2", "created": True, "data": {"actions": [{**_created(), **more}]}}]
    }


def _created() -> dict:
    return copy.deepcopy(c2pa._ACTIONS["actions"][0])


FOREIGN = {
    "a thumbnail of the original": (with_thumbnail(ORIGINAL), "c2pa.thumbnail.claim"),
    "a thumbnail that the package makes": ({"settings": {}}, "c2pa.thumbnail.claim"),
    "an ingredient": (with_ingredient(ORIGINAL), "with c2pa.ingredient.v3"),
    "a signed ingredient": (with_ingredient(sign_otherwise(ORIGINAL)), "several C2PA"),
    "a path as title": ({"change": {"title": "/home/ann/1.jpg"}}, "a C2PA claim with dc:title"),
    "a path as program": ({"change": {"claim_generator_info": [{"name": "/home/ann/x"}]}}, "of another program"),
    "the version of a program": (
        {"change": {"claim_generator_info": [{"name": "unlearnable-transforms", "version": "/home"}]}},
        "of another program",
    ),
    "a path in an action": ({"change": _actions(parameters={"description": "/home/ann"})}, "other assertions"),
    "a place": ({"assertions": (GPS,)}, "with cawg.metadata"),
    "an assertion of one's own": ({"assertions": ({"label": "org.ann.note", "data": {"x": 1}},)}, "with org.ann.note"),
    "an assertion in JSON": (
        {"assertions": ({"label": "org.ann.note", "data": {"x": 1}, "kind": "Json"},)}, "with org.ann.note"
    ),
    "a vendor": ({"change": {"vendor": "ann"}}, "a C2PA manifest called"),
}  # fmt: skip


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", FOREIGN)
def test_any_other_manifest_is_foreign_and_its_content_named(name, format):
    options, what = FOREIGN[name]
    if name == "a thumbnail that the package makes":
        options = {"settings": {"builder": {"thumbnail": {"enabled": True, "long_edge": 16}}}}
    signed = sign_otherwise(Codec(format).encode(image(48, 64, 3)), **options)
    assert state_of(signed) == ("valid", "")
    found = read_encoding(signed)
    assert found.signed is None
    assert what in found.foreign[0]


def test_statements_and_actions_that_say_something_else():
    data = Codec().encode(image())
    mining = {
        "label": "cawg.training-mining",
        "created": True,
        "data": {"entries": {"cawg.ai_training": {"use": "allowed"}}},
    }
    ours = {"label": "c2pa.actions.v2", "created": True, "data": c2pa._ACTIONS}
    found = read_encoding(sign_otherwise(data, {"assertions": [ours, mining]}))
    assert found.foreign == ["a C2PA manifest with another cawg.training-mining"]
    other = {**ours, "data": {"actions": [{**_created(), "parameters": {"description": "/home/ann"}}]}}
    right = {**mining, "data": {"entries": c2pa.STATEMENTS["all"]}}
    found = read_encoding(sign_otherwise(data, {"assertions": [other, right]}))
    assert found.foreign == ["a C2PA manifest with other actions"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_second_manifest_is_foreign(signer, format):
    signed = Codec(format, signer=signer).encode(image())
    assert "a second C2PA manifest" in read_encoding(with_second(signed)).foreign


def test_bytes_hidden_in_the_boxes_are_foreign(signer):
    manifest = manifest_of(Codec(signer=signer).encode(image()))
    assert parse(manifest).holder == "CN=Ann Lee"
    with pytest.raises(c2pa.ForeignManifestError, match="bytes beside"):
        parse(manifest + b"\0\0\0\x0cfreeXXXX")
    padding = manifest.rindex(bytes(100))
    with pytest.raises(c2pa.ForeignManifestError, match="more than certificates"):
        parse(manifest[: padding + 9] + b"/home/ann" + manifest[padding + 18 :])
    for size in range(0, len(manifest), 37):
        with pytest.raises(c2pa.ForeignManifestError):
            parse(manifest[:size])


def test_a_path_as_the_holder_of_a_certificate_is_a_leak(tmp_path):
    signed = Codec(signer=C2paSigner(*make_certificate(tmp_path, "/home/ann/photos"))).encode(image())
    assert [leak[0] for leak in encoding_leaks(read_encoding(signed), additive=False)] == ["local path"]
