"""What a set of somebody else says of itself: of protection, of an opt-out, of gated access."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import decode, encode, image_set
from datasets import Dataset
from folders import photograph
from loopback import loopback
from packets import PACKET, with_packets
from PIL import Image

import unlearnable_transforms as ut
from unlearnable_transforms.auditing import audit as module
from unlearnable_transforms.auditing.signals import Signals, opt_outs_in, read_signals
from unlearnable_transforms.cli.main import main

COUNT = 240
SIGNS_OF = {"usageInfo": {"odrl:prohibition": {"odrl:action": {"@id": "odrl:use"}}}}


def noise() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (16, 16, 3), np.uint8) for _ in range(COUNT)]


def folder(path: Path, encoded: list[bytes]) -> Path:
    for number, data in enumerate(encoded):
        (path / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        (path / "ab"[number % 2] / f"{number:03d}.png").write_bytes(data)
    return path


def test_published_sets_are_known_by_all_their_signals(tmp_path, monkeypatch, capsys):
    key = ut.Key.generate()
    poison = ut.CUDAPoison(key=key)
    images = [encode(photograph(number, 24, 24)) for number in range(COUNT)]
    data = ut.protect(image_set(images, [row % 2 for row in range(COUNT)]), poison)
    out = ut.publish(data, "user/name", poison=poison, folder=tmp_path / "out", originals_public=False).folder
    assert main(["audit", str(out)]) == 1
    told = capsys.readouterr().out
    assert "; its owner reserves training\n" in told
    assert (
        "training is reserved in README.md (tag noai), README.md (consent, if access is gated), croissant.json (ODRL), "
        "protection.json (CAWG)\n"
    ) in told
    assert "declared as protected in README.md (tags), croissant.json (RAI), protection.json\n" in told
    with loopback(monkeypatch):
        ut.publish(data, "user/name", poison=poison, originals_public=False, gated="manual")
        signals = read_signals("user/name", [])
    assert signals.gated == "manual"
    assert "README.md (consent, manual)" in signals.reserved
    assert len(signals.declared) == 3


def test_clean_images_with_an_opt_out(tmp_path, capsys):
    path = folder(tmp_path / "set", [with_packets(Image.fromarray(image), PACKET) for image in noise()])
    assert main(["audit", str(path), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "no signs of protection; its owner reserves training"
    assert told["signals"] == {"declared": [], "reserved": [f"XMP in {COUNT} of {COUNT} images"], "gated": None}


def test_a_claim_of_protection_that_shows_nowhere(tmp_path, capsys):
    path = folder(tmp_path / "set", [encode(image) for image in noise()])
    claim = {"rai:dataManipulationProtocol": "The images are unlearnable examples."}
    (path / "croissant.json").write_text(json.dumps(claim))
    assert main(["audit", str(path)]) == 1
    assert capsys.readouterr().out.startswith("declared as protected, but no signs of protection\n")


def test_verdicts():
    both = Signals(["a"], ["b"])
    assert module.judge([], None) == module.NONE
    assert (
        module.judge([], None, both) == "declared as protected, but no signs of protection; its owner reserves training"
    )
    assert not module.Audit(module.NONE, 1, 1, [], 8, [], 0.0, 0.0, [], None).found
    assert module.Audit(module.SIGNS + module.RESERVED, 1, 1, [], 8, [], 0.0, 0.0, [], None).found


def xmp_of(image: Image.Image, packet: bytes, format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, xmp=packet)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("DMI-PROHIBITED", True),
        ("DMI-PROHIBITED-SEECONSTRAINT", True),
        ("DMI-ALLOWED", False),
        ("DMI-UNSPECIFIED", False),
    ],
)
def test_packets_of_other_programs(format, value, found):
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/" '
        f'plus:DataMining="http://ns.useplus.org/ldf/vocab/{value}"/></rdf:RDF></x:xmpmeta>'
    ).encode()
    data = xmp_of(decode(encode(photograph(1))), packet, format)
    assert opt_outs_in(data) == (["XMP"] if found else [])


def test_other_bytes_say_nothing():
    plain = encode(photograph(1))
    assert opt_outs_in(plain) == opt_outs_in(b"") == opt_outs_in(b"<x:xmpmeta></x:xmpmeta>") == []
    chunk = b"jumb cawg.training-mining cawg.ai_training use notAllowed"
    assert opt_outs_in(plain + chunk) == ["C2PA"]
    assert opt_outs_in(plain + chunk.replace(b"notAllowed", b"allowed")) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("README.md", "---\n[\n---\n"),
        ("README.md", "---\ntags: 5\nextra_gated_fields: [1]\n---\n"),
        ("README.md", ""),
        ("croissant.json", "[" * 10_000),
        ("croissant.json", "[]"),
        ("croissant.json", '{"rai:dataManipulationProtocol": 5}'),
        ("protection.json", '{"method": 5}'),
        ("protection.json", "\0"),
    ],
)
def test_descriptions_that_nobody_can_read_say_nothing(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_signals(tmp_path, []) == Signals()


def test_a_pipe_is_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "README.md")
    (tmp_path / "croissant.json").write_text(json.dumps(SIGNS_OF))
    assert read_signals(tmp_path, []) == Signals(reserved=["croissant.json (ODRL)"])


def test_rows_have_only_their_images(tmp_path):
    assert read_signals(Dataset.from_dict({"a": [1]}), [["XMP"], []]) == Signals(reserved=["XMP in 1 of 2 images"])
