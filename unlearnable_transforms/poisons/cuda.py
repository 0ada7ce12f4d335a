"""CUDA: Convolution-based Unlearnable DAtasets (Sadasivan, Soltanolkotabi and Feizi, CVPR 2023, section 3.3).

Every class y has one k x k filter s_y: entries U(0, p_b), one random entry set to 1. An image x of the class becomes

    x * s_y / max(x * s_y)

with the same filter on every colour channel and the maximum over the whole image. Where the paper is silent: the
convolution is a correlation (no flip) with zero padding of k // 2; results are rounded to nearest; an all-black image,
whose maximum is 0, stays black.

Photographs, from 72 px on the shorter side (ours, not the paper's). A filter of k pixels is gone once somebody shrinks
the image, so there its entries lie many pixels apart, smeared over as many, with the 1 in the middle and sharp: a soft
glow towards the sides that its class has. Only the 1 and the two largest others are kept, since a glow to all sides is
blur, which all classes share. The sum of the entries takes the place of the maximum, and borders are mirrored.

Filters that differ. Independent draws put the 1 of four in ten classes at the same place. Here class number i takes,
out of 64 draws of the paper's distribution, the one that is farthest from the filters of classes 0..i-1 (Mitchell's
best candidate), whatever classes follow. Far means: the largest cosine between the filter and any earlier one, both
shifted so that their 1 lies at the origin, also with one of them mirrored: a victim that crops and flips sees neither.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from ..errors import UsageError, UsageTypeError
from ..key import Key, Stream
from ..params import param
from ..sample import SampleError, class_token, class_tokens, class_value
from .base import Poison, register
from .convolution import GRID, HALO_GRID, MAX_STEP, MAX_SUM, convolve, convolve_at, halo
from .deconvolution import deconvolve, remove_halo

CANDIDATES = 64
BLOCK = 1024  # classes told apart from each other; class i and class i + BLOCK are drawn independently
HALO_SIDE = 72  # shorter side in pixels from which on pictures get halos
HALO_ENTRIES = 2  # beside the 1, also of invertible filters

Strength = Literal["subtle", "normal", "strong"]
BLUR: dict[Strength, float] = {"subtle": 0.15, "normal": 0.3, "strong": 0.5}  # p_b; the paper's is 0.3
HALO: dict[Strength, float] = {"subtle": 0.5, "normal": 1.0, "strong": 1.0}  # sum of the entries beside the 1
INVERTIBLE: dict[Strength, float] = {"subtle": 0.5, "normal": 0.9, "strong": 0.95}  # as HALO; below 1
REACH: dict[Strength, int] = {"subtle": 48, "normal": 48, "strong": 32}  # entries lie shorter side / reach apart


class Shape(NamedTuple):
    """What a filter is drawn with.

    Attributes:
        size: side k.
        mass: p_b, or the sum of the entries beside the 1 where only the largest are kept.
        step: distance of neighbouring entries in pixels; above 1: a halo.
        kind: ``()`` for the paper's filter, else ``("halo",)`` or ``("invertible",)``, which keep ``HALO_ENTRIES``
            entries and have draws of their own: who learns the filters of small images does not know the halos.
    """

    size: int
    mass: float
    step: int
    kind: tuple[str, ...] = ()


@register("cuda")
class CUDAPoison(Poison):
    """Class-wise convolutions from a private key.

    Filters that grow with the image, with ``strength``: up to 71 px on the shorter side k = 3 and p_b = 0.15, 0.3 (the
    paper's for CIFAR) or 0.5; above a halo of sum 0.5, 1.0 or 1.0 whose entries lie side / 48, side / 48 or side / 32
    pixels apart. Text labels without ``classes`` get independent draws, which may come out close to each other: pass
    ``classes``.

    Raises:
        TypeError: neither key nor kernels, or both.
        ValueError: a filter that is not square and odd, not finite, zero, or heavier than a sum of 16.
    """

    paper = "CUDA: Convolution-based Unlearnable DAtasets (Sadasivan, Soltanolkotabi and Feizi, CVPR 2023, section 3.3)"

    version = 2
    explicit: Any = param(
        "explicit filters instead of keyed ones, a mapping label -> (k, k) array, k odd, or its pairs: to reproduce "
        "a published data set. They are rounded to multiples of 2**-12, and as secret as a key",
        default=None, secret="filters", alias="kernels",
    )  # fmt: skip
    strength: Strength | None = param(
        "of filters that grow with the image; none: normal, unless kernel_size or blur is given", default=None
    )
    kernel_size: int | None = param(
        "k, instead of strength: the paper's filter, pixel by pixel, at every size of image. Default with blur: 3. "
        "The paper's setting for ImageNet at 224 px is 9",
        default=None, low=3, odd=True,
    )  # fmt: skip
    blur: float | None = param(
        "the blur parameter p_b, instead of strength. Default with kernel_size: 0.3 for k = 3 and 0.06 for k = 9, "
        "the paper's, in between and beyond such that the sum of the entries beside the 1, (k*k - 1) * p_b / 2, "
        "grows with the logarithm of k",
        default=None, above=0, high=1,
    )  # fmt: skip
    invertible: bool = param(
        "filters for small images that can be undone better, see unlock: 5 x 5, the 1 in the middle, two more "
        "entries of sum 0.5, 0.9 or 0.95, so that no detail is filtered away. Halos are so anyway",
        default=False, omit=True,
    )  # fmt: skip

    def _prepare(self) -> None:
        super()._prepare()
        if (self.key is None) == (self.explicit is None):
            raise UsageTypeError(
                "CUDAPoison takes a key (key=Key.generate() or Key.load(path)) or explicit kernels, not both"
            )
        sized = self.kernel_size is not None or self.blur is not None
        if self.explicit is not None and (sized or self.strength is not None):
            raise UsageTypeError(
                "explicit kernels have their size and blur in them: leave out strength, kernel_size and blur"
            )
        if sized and self.strength is not None:
            raise UsageTypeError("strength stands for kernel_size and blur: give it, or them")
        if self.invertible and (sized or self.explicit is not None):
            raise UsageTypeError("invertible filters have a size and a shape of their own: leave out all but strength")
        if sized:
            size = self.kernel_size or 3
            _check_weight(size, default_blur(size) if self.blur is None else self.blur)
        self._explicit = None if self.explicit is None else _explicit_filters(self.explicit, self.classes)
        if self._explicit is not None:
            self.explicit = [
                [class_value(token), weights.tolist()] for token, weights in sorted(self._explicit.items())
            ]
        in_order = [] if self.classes is None else sorted(class_tokens(self.classes))
        self._places = {token: place for place, token in enumerate(in_order)}
        self._made: dict[tuple[str, Shape], np.ndarray] = {}  # filled as filters are needed, not part of the state

    def kernels(self, labels: Sequence, image_size: int | tuple[int, int] | None = None) -> np.ndarray:
        """The filters of some classes, float32 (n, k, k). They are secret: whoever has them can undo much.

        Args:
            labels: class labels.
            image_size: side or (height, width) in pixels; needed where the filters grow with the image. From 72 px on
                the entries of what is returned stand for several pixels each.
        """
        if image_size is None:
            if self._grows:
                raise UsageError("the filters grow with the picture here: pass image_size=")
            image_size = 32
        side = image_size if isinstance(image_size, int) else min(image_size)
        tokens = [class_token(label, self.classes) for label in labels]
        self._check_filters(tokens)
        return np.stack([self._filter(token, side) for token in tokens])

    @property
    def _grows(self) -> bool:
        return self._explicit is None and self.kernel_size is None and self.blur is None

    def _shape(self, side: int) -> Shape:
        """The filter of a picture with this shorter side."""
        strength = self.strength or "normal"
        if self._grows and side >= HALO_SIDE:
            return Shape(3, HALO[strength], min(MAX_STEP, round(side / REACH[strength])), ("halo",))
        if self.invertible:
            return Shape(3, INVERTIBLE[strength], 1, ("invertible",))
        size = self.kernel_size or 3
        blur = BLUR[strength] if self._grows else self.blur
        return Shape(size, default_blur(size) if blur is None else blur, 1)

    def _protect(self, images: torch.Tensor, tokens: Sequence[str], ids: Any) -> torch.Tensor:
        side = min(images.shape[2:])
        self._check_filters(tokens)
        step = self._shape(side).step
        if step > 1:
            glowing = torch.empty_like(images)
            for image, token, result in zip(images, tokens, glowing, strict=True):
                halo(image, self._filter(token, side), step, result)
            return glowing
        weights = self._weights(tokens, side)
        with torch.no_grad():
            blurred = convolve(images, weights)
            if (weights < 0).any():
                blurred.clamp_(min=0)
            flat = blurred.view(len(images), -1)
            peak = flat.amax(1, keepdim=True)
            black = peak <= 0
            flat.mul_(torch.where(black, 0.0, 255.0 / peak)).round_()
        for row in black.flatten().nonzero().flatten().tolist():
            blurred[row] = images[row]
        return blurred

    def _check_filters(self, tokens: Sequence[str]) -> None:
        """Refuse classes without a filter, with the rows that have them."""
        if self._explicit is None:
            return
        if without := [row for row, token in enumerate(tokens) if token not in self._explicit]:
            known = [class_value(token) for token in sorted(self._explicit)]
            raise SampleError(
                f"class {class_value(tokens[without[0]])!r} has no filter in kernels=, which has {known}: add it, or "
                "leave the row out",
                without,
            )

    def _weights(self, tokens: Sequence[str], side: int) -> torch.Tensor:
        """The filter of each picture, float32 (B, k, k); explicit ones may be of several sizes."""
        filters = {token: self._filter(token, side) for token in dict.fromkeys(tokens)}
        size = max(f.shape[0] for f in filters.values())
        table = np.stack([np.pad(f, (size - f.shape[0]) // 2) for f in filters.values()])
        number = {token: n for n, token in enumerate(filters)}
        return torch.from_numpy(table[[number[token] for token in tokens]])

    def _unlock(self, images: torch.Tensor, tokens: Sequence[str], ids: Any, notes: Any) -> torch.Tensor:
        """By deconvolution: nearly, since rounding and the border took something away."""
        self._check_filters(tokens)
        side = min(images.shape[2:])
        step = self._shape(side).step
        with torch.no_grad():
            if step > 1:
                pairs = zip(images, tokens, strict=True)
                return torch.stack([remove_halo(image, self._filter(token, side), step) for image, token in pairs])
            peaks = torch.tensor([float("nan") if note is None else note for note in notes], dtype=torch.float32)
            return deconvolve(images, self._weights(tokens, side), peaks)

    def unlock_note(self, clean: np.ndarray, protected: np.ndarray, token: str) -> float | None:
        """The maximum that the picture was divided by, in pixel levels. None for a black picture and for halos."""
        side = min(clean.shape[:2])
        top = protected.max()
        if self._shape(side).step > 1 or not top:
            return None
        # The maximum lies where the protected picture is brightest, so few places need to be looked at.
        weights = self._filter(token, side)
        bright = np.flatnonzero(protected == top)
        if len(bright) * weights.size > clean.size:
            image = torch.from_numpy(clean.copy()).permute(2, 0, 1)[None]
            return float(convolve(image, torch.from_numpy(weights)[None]).max())
        return float(convolve_at(clean, weights, bright).max())

    def _filter(self, token: str, side: int) -> np.ndarray:
        if self._explicit is not None:
            return self._explicit[token]
        shape = self._shape(side)._replace(step=1)  # a filter is the same however far apart its entries lie
        if (token, shape) not in self._made:
            self._made[token, shape] = self._make_filter(token, shape)
        return self._made[token, shape]

    def _make_filter(self, token: str, shape: Shape) -> np.ndarray:
        size, mass, _, kind = shape
        draws, peak = self._draw(token, size, kind)
        if kind:
            weights = np.rint(draws * (mass * HALO_GRID / draws.sum())) / HALO_GRID
        else:
            _check_weight(size, mass)
            weights = np.rint(draws * (mass * GRID)) / GRID
        weights.flat[peak] = 1.0
        if kind == ("invertible",):
            weights = _centre(weights[None] * GRID, np.array([peak]))[0] / GRID
        return weights.astype(np.float32)

    def _draw(self, token: str, size: int, kind: tuple[str, ...]) -> tuple[np.ndarray, int]:
        """The class's uniform draws (k, k) in [0, 1) and the flat place of its 1."""
        if self._places:
            place = self._places[token]
        elif token.startswith("i:"):
            place = int(token[2:])
        else:
            draws, peaks = _draw_filters(self._stream(*kind, token, size), 1, size, bool(kind))
            return draws[0], int(peaks[0])
        # Walk in steps of powers of two: the filters of an open class list are found again in the cache.
        count = 1 << max(4, (place % BLOCK).bit_length())
        draws, peaks = spread_filters(self._private_key(), size, place // BLOCK, count, kind)
        return draws[place % BLOCK], int(peaks[place % BLOCK])


# ---- filters ---------------------------------------------------------------------------------------------------------


def default_blur(size: int) -> float:
    """p_b of a k x k filter: 0.3 for k = 3 and 0.06 for k = 9 (paper, section 5.1), between and beyond in log k."""
    return round(2 * 1.2 * 2 ** (np.log(size / 3) / np.log(3)) / (size**2 - 1), 4)


@lru_cache(maxsize=64)
def spread_filters(
    key: Key, size: int, block: int, count: int, kind: tuple[str, ...] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Draws for classes 0..count-1 of a block, each far from those before it: (count, k, k) in [0, 1), peaks (count,).

    Integer arithmetic below 2**53 in float64, so the choice is the same on every machine. ``kind`` is that of
    :class:`Shape`.
    """
    chosen = np.empty((count, size, size))
    peaks = np.empty(count, np.int64)
    seen = np.empty((2 * count, (2 * size - 1) ** 2))  # centred filters and their mirrors
    power = np.empty(2 * count)
    for i in range(count):
        stream = key.stream("cuda", *kind, "spread", size, block, i)
        draws, places = _draw_filters(stream, CANDIDATES, size, bool(kind))
        # With a fixed mass, that of normal strength: the choice must not depend on the strength.
        scale = HALO["normal"] / draws.sum((1, 2), keepdims=True) if kind else default_blur(size)
        centred = _centre(np.rint(draws * (scale * GRID)), places)
        flat = centred.reshape(CANDIDATES, -1)
        squares = (flat**2).sum(1)
        best = 0
        if i:
            overlap = (flat @ seen[: 2 * i].T) ** 2 / (squares[:, None] * power[: 2 * i])
            best = int(overlap.max(1).argmin())
        chosen[i], peaks[i] = draws[best], places[best]
        seen[2 * i], seen[2 * i + 1] = flat[best], centred[best][:, ::-1].ravel()
        power[2 * i : 2 * i + 2] = squares[best]
    return chosen, peaks


def _draw_filters(stream: Stream, n: int, size: int, sparse: bool) -> tuple[np.ndarray, np.ndarray]:
    """The paper's draw, n times: uniforms (n, k, k) and the flat place of the 1 (n,), where a sparse draw is 0."""
    draws, peaks = stream.uniform(n, size, size), stream.integers(n, size * size)
    if sparse:
        flat = draws.reshape(n, -1)
        flat[np.arange(n), peaks] = 0
        np.put_along_axis(flat, flat.argsort(1, kind="stable")[:, :-HALO_ENTRIES], 0, 1)
    return draws, peaks


def _centre(weights: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """Whole-number filters (n, k, k), 1 set, shifted so that it lies in the middle of (n, 2k-1, 2k-1)."""
    n, size, _ = weights.shape
    weights = weights.copy()
    weights.reshape(n, -1)[np.arange(n), peaks] = GRID
    centred = np.zeros((n, 2 * size - 1, 2 * size - 1))
    for filter_, peak, window in zip(weights, peaks, centred, strict=True):
        row, column = divmod(int(peak), size)
        window[size - 1 - row : 2 * size - 1 - row, size - 1 - column : 2 * size - 1 - column] = filter_
    return centred


def _check_weight(size: int, blur: float) -> None:
    if 1 + (size**2 - 1) * blur > MAX_SUM:
        raise UsageError(f"kernel_size={size} with blur={blur} is heavier than {MAX_SUM}: lower the blur")


def _explicit_filters(kernels: Mapping[Any, Any] | Sequence, classes: Sequence | None) -> dict[str, np.ndarray]:
    filters: dict[str, np.ndarray] = {}
    for label, values in kernels.items() if isinstance(kernels, Mapping) else kernels:
        token = class_token(label, classes)
        if token in filters:
            raise UsageError(f"kernels names class {class_value(token)!r} twice")
        weights = np.rint(np.array(values, np.float64) * GRID) / GRID
        if weights.ndim != 2 or weights.shape[0] != weights.shape[1] or weights.shape[0] % 2 == 0:
            raise UsageError(f"the filter of class {label!r} has shape {weights.shape}, not (k, k) with odd k")
        if not np.isfinite(weights).all() or not weights.any():
            raise UsageError(
                f"the filter of class {label!r} is not finite, or zero in multiples of 1/{GRID}: scale it up"
            )
        if np.abs(weights).sum() > MAX_SUM:
            raise UsageError(
                f"the filter of class {label!r} has absolute sum {np.abs(weights).sum():.1f}, above {MAX_SUM}: scale "
                "it down, its gain cancels since each picture is divided by its maximum"
            )
        filters[token] = weights.astype(np.float32)
    if not filters:
        raise UsageError("kernels is empty: give a filter for every class")
    return filters
