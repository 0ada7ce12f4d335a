"""Images made smaller before they are protected: once, from the decoded pixels, and never larger."""

from dataclasses import replace

from PIL import Image

from ..errors import UsageError
from .image import Opened, open_image

GAP = 3.0  # Pillow halves an image by plain means down to this multiple of the size before it resamples


def check_max_side(max_side: int | None) -> None:
    """Refuse what is no number of pixels.

    Raises:
        UsageError: it is not.
    """
    if max_side is not None and (not isinstance(max_side, int) or isinstance(max_side, bool) or max_side < 1):
        raise UsageError(f"max_side= is a number of pixels from 1 up, got {max_side!r}")


def shrink(opened: Opened, max_side: int | None) -> Opened:
    """The image with at most ``max_side`` pixels on its longest side, by Lanczos resampling.

    Transparent pixels weigh as little as they show. The colour space stays.

    Args:
        opened: read from a file, so that ``close`` makes a PIL image.
        max_side: None leaves the image as it is, and so does a longest side of at most this.
    """
    height, width = opened.colour.shape[:2]
    longest = max(height, width)
    if max_side is None or longest <= max_side:
        return opened
    size = max(1, round(width * max_side / longest)), max(1, round(height * max_side / longest))
    small = open_image(opened.close(opened.colour).resize(size, Image.Resampling.LANCZOS, reducing_gap=GAP))
    return replace(opened, colour=small.colour, close=small.close, alpha=small.alpha)
