"""Whether a method is the one that protected some pictures, told by the pictures alone: no ledger, no manifest.

What was undone is protected again. With the right key and options that gives the protected picture back, to a level or
two. With others it does not: what other filters would have had to start from has pixels below 0 and above 255, which no
picture has, and fine patterns which they cannot make. The less another filter changes, the less it shows.
"""

from collections.abc import Sequence

import numpy as np

from ..poisons.base import Poison
from ..poisons.undo import unlock_arrays

LEVELS = 4  # by which a pixel may be off: rounding is undone and done again
SHARE = 0.001  # of the pixels that may be off by more, mean of the pictures
ONE_PICTURE = 0.05  # of the pixels of a picture on its own: a dark one can be hard to undo
MOST_PIXELS = 4_000_000  # of the pictures that are looked at; one is, however large


def fits_pictures(poison: Poison, pictures: Sequence[np.ndarray], tokens: Sequence[str]) -> bool:
    """Whether what a method undoes becomes, protected again, what it was.

    Args:
        poison: ready to use.
        pictures: protected, uint8 (H, W, C), C = 1 or 3, unchanged since; of several classes if there are.
        tokens: class of each.

    Returns:
        True also where this cannot be told: for methods whose noise hangs on the clean picture's id, which refuse
        pictures that they do not know.
    """
    if any(link.needs_ids for link in poison.links):
        return True
    sizes = np.cumsum([picture.shape[0] * picture.shape[1] for picture in pictures])
    count = max(1, int((sizes <= MOST_PIXELS).sum()))
    pictures, tokens = list(pictures[:count]), list(tokens[:count])
    if not pictures:
        return True
    nothing = [None] * len(pictures)
    restored, _ = unlock_arrays(poison, pictures, tokens, nothing, nothing)
    again = poison.protect_arrays(restored, tokens)
    pairs = zip(pictures, again, strict=True)
    shares = [float((np.abs(one.astype(np.int16) - other) > LEVELS).mean()) for one, other in pairs]
    return float(np.mean(shares)) <= SHARE + ONE_PICTURE / len(shares)
