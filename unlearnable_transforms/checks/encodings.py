"""What a picture file holds beside its pixels, and how it was encoded, from its bytes alone; no picture is decoded."""

import hashlib
import re
import struct
from dataclasses import dataclass, field

from ..data import c2pa
from ..data.credit import Credit, parse

_DIGITS = 8  # of a digest of settings
_WITH_PACKET, _WITH_MANIFEST = " with XMP", " with C2PA"  # in traces
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_PNG_PARTS = frozenset(("IHDR", "PLTE", "tRNS", "IDAT", "IEND", "iCCP", "sRGB", "gAMA", "cHRM", "sBIT", "bKGD", "pHYs"))
_PNG_TOLD = {"eXIf": "EXIF", "tEXt": "text", "zTXt": "text", "iTXt": "text", "tIME": "the time"}
_PNG_FRAMES = frozenset(("acTL", "fcTL", "fdAT"))
_WEBP_PARTS = frozenset(("VP8X", "VP8L", "VP8 ", "ALPH", "ICCP"))
_WEBP_TOLD = {"EXIF": "EXIF", "XMP ": "XMP", "ANIM": "further frames", "ANMF": "further frames"}
_XMP_TEXT = b"XML:com.adobe.xmp" + bytes(5)  # PNG: neither compressed, nor with a language or a translation
_XMP_PART = b"http://ns.adobe.com/xap/1.0/\0"  # JPEG
_MANIFEST_PART = b"JP\x02\x11\0\0\0\x01"  # JPEG: a run of boxes in one part
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # the next marker behind compressed data
_LONE_MARKERS = frozenset((0x01, *range(0xD0, 0xD9)))


@dataclass
class Encoding:
    """How a picture was encoded.

    Attributes:
        format: ``PNG``, ``JPEG``, ``WebP``, or ``unknown``.
        lossless: whether it keeps every pixel.
        traces: what tells one encoder's settings from another's; equal for pictures that were encoded alike. Those of a
            grey JPEG are the beginning of those of a colour one.
        foreign: what it holds beside pixels, colour space and the like: ``EXIF``, ``a comment``, ``a thumbnail``, ...
        credit: of the one XMP packet that `unlearnable protect` writes; any other is foreign.
        signed: of the one C2PA manifest that `unlearnable protect` writes; any other, and one that is void, is foreign.
    """

    format: str
    lossless: bool
    traces: str = ""
    foreign: list[str] = field(default_factory=list)
    credit: Credit | None = None
    signed: c2pa.Signed | None = None

    def add_part(self, name: str, packet: bytes | None) -> None:
        """Note a part that is no part of the image, unless it is the packet, for the first time."""
        credit = None if packet is None else parse(packet)
        if credit is None or self.credit is not None:
            self.foreign.append(name)
        else:
            self.credit = credit

    def add_manifest(self, manifest: bytes) -> None:
        """Note a C2PA manifest: as ours, or what is foreign in it."""
        if self.signed is not None:
            self.foreign.append("a second C2PA manifest")
            return
        try:
            self.signed = c2pa.parse(manifest)
        except c2pa.ForeignManifestError as error:
            self.foreign.append(str(error))
        except ImportError as error:
            self.foreign.append(f"a C2PA manifest, which is not looked into: {error}")


def read_encoding(data: bytes) -> Encoding:
    """The encoding of a picture file's bytes; damaged ones are of format ``unknown``."""
    try:
        found = _read(data)
    except (struct.error, IndexError, ValueError):
        return Encoding("unknown", lossless=False)
    if found.credit is not None:  # where some images have a packet and others have none, it may say which are protected
        found.traces += _WITH_PACKET
    if found.signed is not None:
        found.traces += _WITH_MANIFEST
        state, reason = c2pa.state_of(data)
        if state not in (c2pa.VALID, c2pa.EXPIRED):  # what passed once does not fail by the calendar
            found.foreign.append(f"a C2PA signature that does not hold: {reason}")
    return found


def _read(data: bytes) -> Encoding:
    if data.startswith(_PNG):
        return _read_png(data)
    if data.startswith(_JPEG):
        return _read_jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _read_webp(data)
    return Encoding("unknown", lossless=False)


def _read_png(data: bytes) -> Encoding:
    found = Encoding("PNG", lossless=True)
    place, name = len(_PNG), ""
    while name != "IEND":
        size, raw = struct.unpack_from(">I4s", data, place)
        name = raw.decode("latin-1")
        if name == "IDAT" and not found.traces:
            found.traces = f"PNG {data[place + 8 : place + 10].hex()}"  # zlib's header tells the level
        if name in _PNG_FRAMES:
            found.foreign.append("further frames")
        elif name == "caBX":
            found.add_manifest(data[place + 8 : place + 8 + size])
        elif name not in _PNG_PARTS:
            body = data[place + 8 : place + 8 + size]
            packet = body.removeprefix(_XMP_TEXT) if name == "iTXt" and body.startswith(_XMP_TEXT) else None
            found.add_part(_PNG_TOLD.get(name, f"the part {name!r}"), packet)
        place += 12 + size
    _check_end(found, data, place)
    return found


def _read_jpeg(data: bytes) -> Encoding:
    found = Encoding("JPEG", lossless=False)
    tables: dict[int, bytes] = {}
    sampling = b""
    place = 2
    while data[place : place + 2] != b"\xff\xd9":
        if data[place] != 0xFF:
            raise ValueError("no marker")
        marker = data[place + 1]
        if marker == 0xFF:  # padding
            place += 1
            continue
        if marker in _LONE_MARKERS:
            place += 2
            continue
        (size,) = struct.unpack_from(">H", data, place + 2)
        body = data[place + 4 : place + 2 + size]
        if marker == 0xDB:
            tables |= _quantisation(body)
        elif 0xC0 <= marker <= 0xC2 and body[5] > 1:
            sampling = body[5:]  # components, without the size of the picture
        elif marker == 0xEB and body.startswith(_MANIFEST_PART):
            found.add_manifest(body[8:])
        elif told := _jpeg_foreign(marker, body):
            packet = body.removeprefix(_XMP_PART) if marker == 0xE1 and body.startswith(_XMP_PART) else None
            found.add_part(told, packet)
        place += 2 + size
        if marker == 0xDA:
            scan_end = _AFTER_SCAN.search(data, place)
            if scan_end is None:
                raise ValueError("cut off")
            place = scan_end.start()
    colour = b"".join(table for number, table in sorted(tables.items()) if number) + sampling
    found.traces = f"JPEG {_digest(tables.get(0, b''))}{_digest(colour) if sampling else ''}"
    _check_end(found, data, place + 2)
    return found


def _quantisation(body: bytes) -> dict[int, bytes]:
    """The tables of quantisation, by their numbers: 64 steps of one byte or two."""
    tables, place = {}, 0
    while place < len(body):
        size = 128 if body[place] >> 4 else 64
        tables[body[place] & 15] = body[place + 1 : place + 1 + size]
        place += 1 + size
    return tables


def grey_trace(trace: str) -> str:
    """What the traces of a colour JPEG would be if it were grey: the same settings make both."""
    settings, mark, rest = trace.partition(" with ")
    return settings[: len("JPEG ") + _DIGITS] + mark + rest if trace.startswith("JPEG ") else trace


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_DIGITS]


def _jpeg_foreign(marker: int, body: bytes) -> str:
    """What a part holds that is no part of the picture; empty for the parts that are."""
    if marker == 0xFE:
        return "a comment"
    if marker == 0xE0:
        return "" if body.startswith(b"JFIF\0") and len(body) <= 14 else "a thumbnail"
    if marker == 0xE1:
        return "EXIF" if body.startswith(b"Exif") else "XMP"
    if marker == 0xE2:
        return "" if body.startswith(b"ICC_PROFILE\0") else "further pictures"
    if marker == 0xED:
        return "IPTC"
    if marker == 0xEE:
        return "" if body.startswith(b"Adobe") and len(body) <= 12 else "the part APP14"
    return f"the part APP{marker - 0xE0}" if 0xE0 <= marker <= 0xEF else ""


def _read_webp(data: bytes) -> Encoding:
    found = Encoding("WebP", lossless=True)
    (size,) = struct.unpack_from("<I", data, 4)
    place, end = 12, 8 + size + size % 2
    while place < 8 + size:
        raw, part = struct.unpack_from("<4sI", data, place)
        name = raw.decode("latin-1")
        if name == "VP8 ":
            found.lossless = False
        elif name == "C2PA":
            found.add_manifest(data[place + 8 : place + 8 + part])
        elif name not in _WEBP_PARTS:
            packet = data[place + 8 : place + 8 + part] if name == "XMP " else None
            found.add_part(_WEBP_TOLD.get(name, f"the part {name!r}"), packet)
        place += 8 + part + part % 2
    found.traces = "WebP" if found.lossless else "WebP, lossy"
    _check_end(found, data, end)
    return found


def _check_end(found: Encoding, data: bytes, end: int) -> None:
    if end > len(data):
        raise ValueError("cut off")
    if end < len(data):
        found.foreign.append("bytes behind its end")
