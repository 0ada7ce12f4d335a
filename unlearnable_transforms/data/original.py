"""What an original's file says about the rights: fields by name, from its XMP, IPTC or EXIF.

The names are on a list. Whatever else a file says (places, serial numbers, thumbnails, captions) is not read at all.
"""

import unicodedata
from collections.abc import Collection

from PIL import ExifTags, Image, ImageFile, IptcImagePlugin

from .credit import Credit, credit_of, is_text, texts_in
from .header import open_file

_IPTC = {"creator": 80, "copyright": 116, "credit": 110}  # datasets of record 2
_EXIF = {"creator": ExifTags.Base.Artist, "copyright": ExifTags.Base.Copyright}


def read_credit(data: bytes, names: Collection[str]) -> Credit:
    """Fields of an original, each from the first that has it: XMP, IPTC, EXIF.

    Line ends become spaces, and control characters are left out. Metadata that cannot be read says nothing.

    Args:
        data: the bytes of an image file.
        names: of :data:`~.credit.KEPT`.
    """
    image = open_file(data, convert=True).image
    sources = (_of_xmp(image), _of_iptc(image), _of_exif(image))
    found = {}
    for name in (name.replace("-", "_") for name in names):
        tidied = ([text for text in map(_tidy, source.get(name, [])) if text] for source in sources)
        found[name] = next(filter(None, tidied), [])
    return credit_of(found)


def _tidy(text: str) -> str:
    plain = "".join(mark if is_text(mark) else " " for mark in unicodedata.normalize("NFC", text))
    return " ".join(plain.split())


def _of_xmp(image: Image.Image) -> dict[str, list[str]]:
    if image.format == "PNG" and "xmp" not in image.info:
        image.load()  # some programs write it behind the pixels
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    return texts_in(packet.encode() if isinstance(packet, str) else packet)


def _of_iptc(image: ImageFile.ImageFile) -> dict[str, list[str]]:
    try:
        records = IptcImagePlugin.getiptcinfo(image) or {}
    except Exception:  # Pillow raises whatever comes up
        return {}
    found = {}
    for name, number in _IPTC.items():
        value = records.get((2, number), [])
        found[name] = [_decoded(text) for text in (value if isinstance(value, list) else [value])]
    return found


def _of_exif(image: Image.Image) -> dict[str, list[str]]:
    try:
        exif = image.getexif()
        values = {name: exif.get(tag) for name, tag in _EXIF.items()}
    except Exception:  # Pillow raises whatever comes up
        return {}
    found = {}
    for name, value in values.items():
        if isinstance(value, str | bytes):
            text = _decoded(value if isinstance(value, bytes) else value.encode("latin-1", "replace"))
            found[name] = text.split(";") if name == "creator" else [text]
    return found


def _decoded(data: bytes) -> str:
    """Text as UTF-8 where it is that, else as Latin-1: neither IPTC nor EXIF says it reliably."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
