"""The private page of a protected album: some images before and after, what was left out, and what to do next."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..data.header import open_file, readable
from ..errors import printable
from ..files import read_regular
from ..jobs.ledger import page_of
from ..jobs.summary import Summary
from ..sample import spread
from .pages import data_url, shrink, write_page

PAIRS = 12  # images that the page shows
SIDE = 360  # their longer side in pixels
LARGEST = 1 << 32  # bytes of a file
LISTED = 500  # names of what was left out


@dataclass(frozen=True)
class Pair:
    """An image before and after: its name, URLs that hold the thumbnails, and links to the files."""

    name: str
    before: str
    after: str
    source: str
    target: str


def write_album_page(summary: Summary) -> Path:
    """Write the page of a run on a folder of images, with mode 0600. It shows images that this run wrote, if any.

    Args:
        summary: of the run.
    """
    fresh = set(summary.fresh)
    images = [pair for pair in summary.images if pair[1] in fresh] or summary.images
    out = Path(summary.out).absolute()
    pairs = []
    for place in spread(len(images), PAIRS):
        source, target = Path(images[place][0]).absolute(), out / images[place][1]
        name, before, after = printable(images[place][1]), thumbnail(source), thumbnail(target)
        pairs.append(Pair(name, before, after, source.as_uri(), target.as_uri()))
    reasons = [
        (printable(place), printable(reason)) for place, reason in [*summary.failed, *summary.left_out, *summary.beside]
    ]
    reasons += [(printable(place), "UNPROTECTED: the method changes nothing in it") for place in summary.unchanged]
    reasons += [(printable(place), "no image: not copied") for place in summary.others]
    return write_page(
        page_of(Path(summary.ledger)),
        "album.html.j2",
        name=printable(out.name),
        folder=out.as_uri(),
        done=summary.done(),
        quality=summary.quality(),
        changes=[printable(line) for line in summary.changes],
        notes=[printable(line) for line in summary.notes],
        worth=summary.worth,
        steps=summary.next_steps(),
        pairs=pairs,
        images=len(images),
        all=len(summary.images),
        left_out=reasons[:LISTED],
        more=max(0, len(reasons) - LISTED),
    )


def shorter_side(summary: Summary) -> int:
    """The middle one of the shorter sides, in pixels, of some images of a run."""
    some = [summary.images[place][1] for place in spread(len(summary.images), PAIRS)]
    sides = []
    for target in some:
        with readable():
            sides.append(min(open_file(read_regular(Path(summary.out) / target, LARGEST), convert=True).image.size))
    return sorted(sides)[len(sides) // 2]


def thumbnail(path: Path) -> str:
    """A small version of an image file as a URL that holds it; empty where it cannot be shown.

    JPEG is decoded at a small size only.
    """
    try:
        with readable():
            image = open_file(read_regular(path, LARGEST), convert=True).image
            image.draft("RGB", (2 * SIDE, 2 * SIDE))
            clear = image.mode in ("P", "PA", "LA", "RGBA") or "transparency" in image.info
            small = shrink(ImageOps.exif_transpose(image).convert("RGBA" if clear else "RGB"), SIDE).convert("RGBA")
    except (OSError, TypeError, ValueError):  # taken away since, or shown by an option that is not known here
        return ""
    white = Image.new("RGBA", small.size, "white")
    return data_url(np.asarray(Image.alpha_composite(white, small).convert("RGB")), quality=80)
