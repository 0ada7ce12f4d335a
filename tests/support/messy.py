"""A folder of photographs as people have them: at least forty kinds of files, each with what is to come of it.

``build(folder)`` writes them; from the command line: ``python tests/support/messy.py FOLDER``.
"""

import io
import os
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms
from PIL.PngImagePlugin import PngInfo

# What is to come of a file.
PROTECTED = "protected"
CONVERTED = "protected with --convert alone"
BESIDE = "not protected, another file of the same image was"
RAW_ALONE = "raw file alone"
TRUNCATED = "truncated"
UNREADABLE = "not an image"
OTHER = "no image, not copied"

SHAPE = (40, 56, 3)
MP4 = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(range(256)) * 8
NEF = b"MM\0*\0\0\0\x08\0\x01\0\xfe\0\x04\0\0\0\x01\0\0\0\x01\0\0\0\0" + bytes(2000)  # a preview comes first
CR2 = b"II*\0\x10\0\0\0CR\x02\0" + bytes(2000)
# 16x16 grey, 8 x + 7 y, written by libjpeg with arithmetic coding.
ARITHMETIC = bytes.fromhex(
    "ffd8ffdb0043000302020302020303030304030304050805050404050a070706080c0a0c0c0b0a0b0b0d0e12100d0e110e0b0b1016101113"
    "141515150c0f171816141812141514ffc9000b080010001001011100ffcc000600101005ffda0008010100003f00ff00e7e18e057529ff00"
    "d4c3028bb3806ac4f4ba7ab6db8acd59e28080ffd9"
)


def photograph(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Smooth colours and some noise, uint8."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    waves = [np.sin(rows / random.uniform(3, 9) + columns / random.uniform(3, 9)) for _ in range(3)]
    image = 128 + 70 * np.stack(waves, axis=-1) + random.normal(0, 8, (*shape[:2], 3))
    return np.clip(image, 0, 255).astype(np.uint8)[..., : shape[2] if len(shape) == 3 else 1].reshape(shape)


def encoded(image: Any, format: str, **options: Any) -> bytes:
    """The bytes of a file."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def frames() -> dict[str, Any]:
    """What `encoded` takes to write two more frames; Pillow leaves marks on images that it wrote."""
    return {"save_all": True, "append_images": [Image.fromarray(photograph(seed)) for seed in (901, 902)]}


def heic(image: np.ndarray, **options: Any) -> bytes:
    """A HEIC file; 16-bit pixels give one of 10 bits."""
    from pillow_heif import from_bytes

    mode = ("RGB;16" if image.dtype == np.uint16 else "RGB") if image.ndim == 3 else "L"
    buffer = io.BytesIO()
    file = from_bytes(mode, image.shape[1::-1], image.tobytes())
    file.save(buffer, quality=options.pop("quality", -1), chroma=444, matrix_coefficients=0, **options)
    return buffer.getvalue()


def png16(image: np.ndarray, *chunks: bytes) -> bytes:
    """A PNG of 16 bits a channel, which Pillow reads and does not write: uint16 (H, W, C)."""
    height, width, channels = image.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in image)
    parts = [chunk(b"IHDR", head), *chunks, chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def adobe_exif() -> bytes:
    """What a camera writes that is set to Adobe RGB: uncalibrated, and R03. Pillow does not write the second."""
    interop = struct.pack("<HHHI4sI", 1, 1, 2, 4, b"R03\0", 0)
    ifd = struct.pack("<HHHIIHHIII", 2, 0xA001, 3, 1, 0xFFFF, 0xA005, 4, 1, 56, 0)
    return b"Exif\0\0II*\0" + struct.pack("<IHHHIII", 8, 1, 0x8769, 4, 1, 26, 0) + ifd + interop


def camera_exif(orientation: int) -> Image.Exif:
    """Orientation, a name, and a place."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Artist] = "A. Photographer"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (48.0, 12.0, 30.0)
    return exif


def with_thumbnail(jpeg: bytes, thumbnail: bytes) -> bytes:
    """A JPEG whose EXIF holds a small JPEG."""
    tags = struct.pack("<HHHII", 2, 0x0201, 4, 1, 38 + 6) + struct.pack("<HHII", 0x0202, 4, 1, len(thumbnail))
    body = b"II*\0" + struct.pack("<I", 8) + struct.pack("<HI", 0, 14) + tags + bytes(4)
    tiff = body.ljust(44, b"\0") + thumbnail
    segment = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


def ultra_hdr(seed: int) -> bytes:
    """A JPEG with a second one behind it that holds the gain map, as telephones write it."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description hdrgm:Version="1.0"/></x:xmpmeta>'
    first, second = Image.fromarray(photograph(seed)), Image.fromarray(photograph(seed, (20, 28)))
    return encoded(first, "MPO", save_all=True, append_images=[second], xmp=xmp) + b"hdrgm:GainMapMax"


def build(folder: Path) -> dict[str, str]:
    """Write the folder.

    Returns:
        What is to come of each file, by its path with ``/``; folders of classes are ``hats`` and ``shoes``.
    """
    folder = Path(folder)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    gamma, chroma = PngInfo(), PngInfo()
    gamma.add(b"gAMA", struct.pack(">I", 100_000))
    chroma.add(b"gAMA", struct.pack(">I", 45455))
    chroma.add(b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000))
    wide = (photograph(902).astype(np.uint16) << 8) + 77
    alpha = np.dstack([photograph(7), photograph(8, (40, 56))])
    whole, broken = encoded(photograph(9), "JPEG"), encoded(photograph(39), "PNG")
    files: dict[str, tuple[bytes, str]] = {
        "hats/jpeg.jpg": (encoded(photograph(0), "JPEG"), PROTECTED),
        "hats/progressive.jpg": (encoded(photograph(1), "JPEG", progressive=True), PROTECTED),
        "hats/arithmetic.jpg": (ARITHMETIC, PROTECTED),
        "hats/grey.jpg": (encoded(photograph(2, (40, 56)), "JPEG"), PROTECTED),
        "hats/cmyk.jpg": (encoded(Image.fromarray(photograph(3)).convert("CMYK"), "JPEG"), CONVERTED),
        "hats/adobe rgb.jpg": (encoded(photograph(4), "JPEG", exif=adobe_exif()), PROTECTED),
        "hats/profile.jpg": (encoded(photograph(5), "JPEG", icc_profile=srgb), PROTECTED),
        "hats/turned.jpg": (encoded(photograph(6), "JPEG", exif=camera_exif(6)), PROTECTED),
        "hats/thumbnail.jpg": (with_thumbnail(whole, encoded(photograph(9, (8, 8, 3)), "JPEG")), PROTECTED),
        "hats/cut.jpg": (whole[: len(whole) // 2], TRUNCATED),
        "hats/motion.jpg": (encoded(photograph(10), "JPEG") + MP4, PROTECTED),
        "hats/ultra hdr.jpg": (ultra_hdr(11), PROTECTED),
        "hats/two in one.mpo": (encoded(photograph(12), "MPO", **frames()), PROTECTED),
        "hats/DSC_0001.JPG": (encoded(photograph(13), "JPEG"), PROTECTED),
        "hats/DSC_0001.NEF": (NEF, BESIDE),
        "hats/IMG_1012.CR2": (CR2, BESIDE),
        "hats/IMG_1012.jpg": (encoded(photograph(14), "JPEG"), PROTECTED),
        "hats/IMG_1012.xmp": (b"<x:xmpmeta/>", OTHER),
        "hats/alone.nef": (NEF, RAW_ALONE),
        "hats/IMG_3001.HEIC": (heic(photograph(15)), BESIDE),
        "hats/IMG_3001.jpg": (encoded(photograph(15), "JPEG"), PROTECTED),
        "hats/IMG_3001.MOV": (MP4, OTHER),
        "hats/IMG_3002.HEIC": (heic(photograph(16)), PROTECTED),
        "hats/IMG_3003.HEIC": (heic(photograph(17)), PROTECTED),
        "hats/IMG_3003.DNG": (NEF, BESIDE),
        "hats/ten bits.heic": (heic(wide), CONVERTED),
        "hats/called jpeg.jpg": (heic(photograph(18)), PROTECTED),
        "shoes/plain.png": (encoded(photograph(20), "PNG"), PROTECTED),
        "shoes/sixteen bits.png": (png16(wide), CONVERTED),
        "shoes/palette.png": (encoded(Image.fromarray(photograph(21)).quantize(32), "PNG"), PROTECTED),
        "shoes/alpha.png": (encoded(alpha, "PNG"), PROTECTED),
        "shoes/moving apng.png": (encoded(photograph(22), "PNG", **frames()), CONVERTED),
        "shoes/linear.png": (encoded(photograph(23), "PNG", pnginfo=gamma), PROTECTED),
        "shoes/wide gamut.png": (encoded(photograph(24), "PNG", pnginfo=chroma), PROTECTED),
        "shoes/one pixel.png": (encoded(np.full((1, 1, 3), 200, np.uint8), "PNG"), PROTECTED),
        "shoes/panorama.png": (encoded(photograph(25, (30, 900, 3)), "PNG"), PROTECTED),
        "shoes/still.gif": (encoded(photograph(26), "GIF"), PROTECTED),
        "shoes/moving.gif": (encoded(photograph(27), "GIF", **frames()), CONVERTED),
        "shoes/lossy.webp": (encoded(photograph(28), "WEBP"), PROTECTED),
        "shoes/lossless.webp": (encoded(photograph(29), "WEBP", lossless=True), PROTECTED),
        "shoes/animated.webp": (encoded(photograph(30), "WEBP", **frames()), CONVERTED),
        "shoes/cut.webp": (encoded(photograph(31), "WEBP")[:300], TRUNCATED),
        "shoes/scan.tif": (encoded(photograph(32), "TIFF"), PROTECTED),
        "shoes/sixteen bits grey.tif": (encoded(wide[:, :, 0], "TIFF"), CONVERTED),
        "shoes/pages.tiff": (encoded(photograph(33), "TIFF", **frames()), CONVERTED),
        "shoes/cmyk.tif": (encoded(Image.fromarray(photograph(34)).convert("CMYK"), "TIFF"), CONVERTED),
        "shoes/bitmap.bmp": (encoded(photograph(35), "BMP"), PROTECTED),
        "shoes/small.avif": (encoded(photograph(36), "AVIF"), PROTECTED),
        "shoes/called jpeg.jpg": (encoded(photograph(37), "PNG"), PROTECTED),
        "shoes/Übung Ä – №1 (2).jpg": (encoded(photograph(38), "JPEG"), PROTECTED),
        "shoes/empty.jpg": (b"", UNREADABLE),
        "shoes/text.jpg": (b"I am no image.\n" * 20, UNREADABLE),
        "shoes/damaged.png": (broken[:300] + bytes(10) + broken[310:], UNREADABLE),
        "shoes/.hidden.jpg": (encoded(photograph(40), "JPEG"), OTHER),
        "shoes/.DS_Store": (bytes(16) + b"Bud1", OTHER),
        "shoes/Thumbs.db": (b"\xd0\xcf\x11\xe0" + bytes(60), OTHER),
        "shoes/notes.txt": (b"buy laces\n", OTHER),
    }
    for path, (data, _) in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    os.symlink("plain.png", folder / "shoes" / "link.png")
    return {path: kind for path, (_, kind) in files.items()} | {"shoes/link.png": PROTECTED}


if __name__ == "__main__":
    for name, kind in build(Path(sys.argv[1])).items():
        print(f"{name}: {kind}")
