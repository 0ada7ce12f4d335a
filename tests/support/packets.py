"""The packet of XMP that `protect` writes, and PNG files with such packets."""

from typing import Any

from conftest import encode
from PIL.PngImagePlugin import PngInfo

from unlearnable_transforms.data.credit import build, credit_from

PACKET = build(credit_from("ai-training", ["Ann"]))


def with_packets(image: Any, *packets: bytes) -> bytes:
    """A PNG with packets of XMP."""
    info = PngInfo()
    for packet in packets:
        info.add_itxt("XML:com.adobe.xmp", packet.decode())
    return encode(image, compress_level=1, pnginfo=info)
