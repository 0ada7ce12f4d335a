"""What a set of somebody else says of itself for programs: that it is protected, and that training on it is reserved.

Read are the card's metadata, ``croissant.json``, ``protection.json`` and how the Hub gates access; and in each image
XMP (PLUS data mining, IPTC 2023.1) and the assertion on training and data mining of a C2PA manifest. Whether a C2PA
signature holds is not checked here, nor is the truth of anything that is said.
"""

import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from ..checks.leaks import strings
from ..data.credit import texts_in
from ..errors import UnlearnableError
from ..files import MOST_JSON, parse_json, private_directory, read_regular
from ..publishing.croissant import CROISSANT, EXPECTED, prohibits_training
from ..publishing.own import split_card
from ..publishing.stage import CARD, MANIFEST

XMP, C2PA = "XMP", "C2PA"
_PROHIBITED = "http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED"
_PACKET = re.compile(rb"<x:xmpmeta.{0,100000}?</x:xmpmeta>", re.DOTALL)
_PROTECTED = re.compile(r"unlearnable|poison|" + re.escape(EXPECTED), re.IGNORECASE)
_NO_TRAINING = re.compile(r"\b(?:not|no)\b.{0,80}\b(?:train|mine)", re.IGNORECASE | re.DOTALL)
_TAGS = {"noai", "no-ai", "noimageai"}


@dataclass
class Signals:
    """What a set says.

    Attributes:
        declared: where it says that it is protected.
        reserved: where it reserves training: files, ``access on the Hub``, ``XMP in 240 of 240 images``.
        gated: how the Hub gates access, ``auto`` or ``manual``; None where it does not, or was not asked.
    """

    declared: list[str] = field(default_factory=list)
    reserved: list[str] = field(default_factory=list)
    gated: str | None = None


def opt_outs_in(data: bytes) -> list[str]:
    """``XMP`` and ``C2PA``, if they say in an image file's bytes that training or mining is prohibited."""
    packets = map(texts_in, _PACKET.findall(data))
    said = [text for packet in packets for text in packet.get("opt_out", [])]
    found = [XMP] if any(text.strip().startswith(_PROHIBITED) for text in said) else []
    if b"training-mining" in data and (b"notAllowed" in data or b"constrained" in data):
        found.append(C2PA)
    return found


def read_signals(source: Any, opt_outs: list[list[str]]) -> Signals:
    """The signals of a set.

    Args:
        source: a folder, or a name of the Hub; of anything else only the images speak.
        opt_outs: :func:`opt_outs_in` of every image that was looked at.
    """
    signals = Signals()
    texts = {}
    if isinstance(source, str | Path):
        if Path(source).exists():
            texts = _texts(Path(source))
        else:
            texts, signals.gated = _texts_of_hub(str(source).removeprefix("hf://"))
    _read_card(texts.get(CARD, ""), signals)
    _read_croissant(texts.get(CROISSANT, ""), signals)
    _read_manifest(texts.get(MANIFEST, ""), signals)
    for kind in (XMP, C2PA):
        if count := sum(kind in found for found in opt_outs):
            signals.reserved.append(f"{kind} in {count:,} of {len(opt_outs):,} images")
    return signals


def _texts(folder: Path) -> dict[str, str]:
    """The descriptions that lie in a folder, or beside a file."""
    top = folder if folder.is_dir() else folder.parent
    found = {}
    for name in (CARD, CROISSANT, MANIFEST):
        with suppress(OSError, UnlearnableError):
            found[name] = read_regular(top / name, MOST_JSON).decode("utf-8", "replace")
    return found


def _texts_of_hub(name: str) -> tuple[dict[str, str], str | None]:
    """The descriptions of a set of the Hub, and how access to it is gated."""
    found, gated = {}, None
    with tempfile.TemporaryDirectory(dir=private_directory("uploads")) as scratch:
        for file in (CARD, CROISSANT, MANIFEST):
            with suppress(HfHubHTTPError, OSError, ValueError):
                path = HfApi().hf_hub_download(name, file, repo_type="dataset", local_dir=scratch)
                found[file] = Path(path).read_text("utf-8", "replace")
    with suppress(HfHubHTTPError, OSError, ValueError):
        gated = HfApi().dataset_info(name).gated
    return found, gated if isinstance(gated, str) else None


def _read_card(card: str, signals: Signals) -> None:
    with suppress(UnlearnableError):
        metadata, _ = split_card(card)
        tags = {tag.lower() for tag in strings(metadata.get("tags"))}
        if any("unlearnable" in tag for tag in tags):
            signals.declared.append(f"{CARD} (tags)")
        if tags & _TAGS:
            signals.reserved.append(f"{CARD} (tag noai)")
        gate = " ".join(strings([metadata.get(name) for name in ("extra_gated_prompt", "extra_gated_fields")]))
        if _NO_TRAINING.search(gate):
            signals.reserved.append(f"{CARD} (consent, {signals.gated or 'if access is gated'})")


def _read_croissant(text: str, signals: Signals) -> None:
    with suppress(ValueError):
        described = parse_json(text, dict)
        if prohibits_training(described):
            signals.reserved.append(f"{CROISSANT} (ODRL)")
        told = [value for name, value in described.items() if name.lower().endswith("manipulationprotocol")]
        if any(_PROTECTED.search(part) for part in strings(told)):
            signals.declared.append(f"{CROISSANT} (RAI)")


def _read_manifest(text: str, signals: Signals) -> None:
    with suppress(ValueError):
        manifest = parse_json(text, {"method": str, "opt_out?": dict})
        signals.declared.append(MANIFEST)
        if "notAllowed" in strings(manifest.get("opt_out", {})):
            signals.reserved.append(f"{MANIFEST} (CAWG)")
