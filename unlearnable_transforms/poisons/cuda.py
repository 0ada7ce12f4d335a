"""CUDA: Convolution-based Unlearnable DAtasets (Sadasivan, Soltanolkotabi and Feizi, CVPR 2023, section 3.3).

Every class y has one k x k filter s_y: entries U(0, p_b), one random entry set to 1. A picture x of the class becomes

    x * s_y / max(x * s_y)

with the same filter on every colour channel and the maximum over the whole picture. No model, no norm bound: the filter
blurs, shifts and re-lights the picture, and a network that trains on it learns to tell filters instead of things.

Where the paper is silent: the convolution is a correlation (no flip) with zero padding of k // 2; results are rounded
to nearest; an all-black picture, whose maximum is 0, stays black.

Telling the filters of one key apart. Independent draws put the 1 of four in ten classes at the same place, and some
pairs of filters come out nearly equal, which leaves a victim nothing to learn but the things. Here class number i
takes, out of 64 draws of the paper's distribution, the one that is farthest from the filters of classes 0..i-1
(Mitchell's best candidate). That needs no knowledge of how many classes follow. Far means: the largest cosine between
the filter and any earlier one, both shifted so that their 1 lies at the origin, also with one of them mirrored, because
a victim that crops and flips does not see shifts and mirrors.

Exactness. Filters are rounded to multiples of 2**-12 and pixels are 0..255, so every product and partial sum is a
multiple of 2**-12 below 2**12 and float32 holds it exactly: the sum is the same in any order, on any backend.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from numbers import Integral
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from ..keys import Key, Stream
from ..pixels import keep_heap
from ..samples import SampleError, class_token, class_tokens, class_value
from .base import Poison, register

GRID = 2**12  # filters are multiples of 1 / GRID
MAX_SUM = 16.0  # largest sum of absolute weights for which float32 sums of pixels are exact
CANDIDATES = 64
BLOCK = 1024  # classes told apart from each other; class i and class i + BLOCK are drawn independently
FOLD_LIMIT = 11  # side of the largest filter that is faster as a direct sum than by Fourier transform

Backend = Literal["auto", "folded", "single", "fft"]


@register("cuda")
class CUDAPoison(Poison):
    """Class-wise convolutions from a private key.

    Args:
        key: the private key.
        kernels: explicit filters instead of keyed ones, a mapping label -> (k, k) array, k odd, or its pairs: to
            reproduce a published data set. They are rounded to multiples of 2**-12. They are as secret as a key.
        kernel_size: k, odd. Default from the shorter side of the picture: 3 up to 32 px, 9 from 224 px (the paper's
            settings), 5 and 7 in between.
        blur: the blur parameter p_b in (0, 1]. Default: 0.3 up to 32 px, 0.06 from 224 px (the paper's), in between
            such that the mass beside the 1, (k*k - 1) * p_b / 2, grows with the logarithm of the side.
        image_key, label_key, classes: see :class:`~unlearnable_transforms.poisons.base.Poison`. Text labels without
            ``classes`` get independent draws, which may come out close to each other: pass ``classes``.

    Raises:
        TypeError: neither key nor kernels, or both.
        ValueError: a filter that is not square and odd, not finite, zero, or heavier than a sum of 16.
    """

    version = 1

    def __init__(
        self,
        key: Key | None = None,
        *,
        kernels: Mapping[Any, Any] | Sequence[tuple[Any, Any]] | None = None,
        kernel_size: int | None = None,
        blur: float | None = None,
        image_key: str | None = None,
        label_key: str | None = None,
        classes: Sequence[str] | Sequence[int] | None = None,
    ) -> None:
        super().__init__(key, image_key=image_key, label_key=label_key, classes=classes)
        if (key is None) == (kernels is None):
            raise TypeError(
                "CUDAPoison takes a key (key=Key.generate() or Key.load(path)) or explicit kernels, not both"
            )
        if kernels is not None and (kernel_size is not None or blur is not None):
            raise TypeError("explicit kernels have their size and blur in them: leave out kernel_size and blur")
        if kernel_size is not None and (not _is_whole(kernel_size) or kernel_size % 2 == 0 or kernel_size < 3):
            raise ValueError(f"kernel_size is an odd integer and at least 3, got {kernel_size!r}")
        if blur is not None and not 0 < blur <= 1:
            raise ValueError(f"blur (p_b) lies in (0, 1], got {blur}")
        if kernel_size is not None and blur is not None:
            _check_weight(kernel_size, blur)
        self.kernel_size = None if kernel_size is None else int(kernel_size)
        self.blur = None if blur is None else float(blur)
        self._explicit = None if kernels is None else _explicit_filters(kernels, classes)
        in_order = [] if self.classes is None else sorted(class_tokens(self.classes))
        self._places = {token: place for place, token in enumerate(in_order)}
        self._made: dict[tuple[str, int, float], np.ndarray] = {}  # filled as filters are needed, not part of the state

    def arguments(self) -> dict[str, Any]:
        explicit = None
        if self._explicit is not None:
            explicit = [[class_value(token), weights.tolist()] for token, weights in sorted(self._explicit.items())]
        return {"kernel_size": self.kernel_size, "blur": self.blur, "kernels": explicit, **super().arguments()}

    def public_arguments(self) -> dict[str, Any]:
        hidden = None if self._explicit is None else f"{len(self._explicit)} secret filters"
        return {**self.arguments(), "kernels": hidden}

    def kernels(self, labels: Sequence, image_size: int | tuple[int, int] | None = None) -> np.ndarray:
        """The filters of some classes, float32 (n, k, k). They are secret: whoever has them can undo much.

        Args:
            labels: class labels.
            image_size: side or (height, width) in pixels; needed where size or blur are chosen from it.
        """
        if image_size is None:
            if self._explicit is None and (self.kernel_size is None or self.blur is None):
                raise ValueError("kernel_size and blur are chosen from the image size here: pass image_size=")
            image_size = 32
        side = image_size if isinstance(image_size, int) else min(image_size)
        return np.stack([self._filter(class_token(label, self.classes), side) for label in labels])

    def _protect(
        self,
        images: torch.Tensor,
        tokens: Sequence[str],
        ids: Sequence[bytes] | None,
        backend: Backend = "auto",
    ) -> torch.Tensor:
        side = min(images.shape[2:])
        if self._explicit is not None:
            without = [row for row, token in enumerate(tokens) if token not in self._explicit]
            if without:
                raise SampleError(self._no_filter(tokens[without[0]]), without)
        number = {token: n for n, token in enumerate(dict.fromkeys(tokens))}
        filters = [self._filter(token, side) for token in number]
        if len({f.shape for f in filters}) > 1:  # explicit filters of several sizes
            size = max(f.shape[0] for f in filters)
            filters = [np.pad(f, (size - f.shape[0]) // 2) for f in filters]
        table = np.stack(filters)
        weights = torch.from_numpy(table[[number[token] for token in tokens]])
        with torch.no_grad():
            blurred = convolve(images, weights, backend)
            if (table < 0).any():
                blurred.clamp_(min=0)
            flat = blurred.view(len(images), -1)
            peak = flat.amax(1, keepdim=True)
            black = peak <= 0
            flat.mul_(torch.where(black, 0.0, 255.0 / peak)).round_()
        for row in black.flatten().nonzero().flatten().tolist():
            blurred[row] = images[row]
        return blurred

    def unlock_note(self, clean: np.ndarray, protected: np.ndarray, token: str) -> float | None:
        """The maximum that the picture was divided by, in pixel levels. None for a black picture."""
        if not protected.any():
            return None
        # The maximum lies where the protected picture is brightest, so few places need to be looked at.
        weights = self._filter(token, min(clean.shape[:2]))
        bright = np.argwhere(protected == protected.max())
        pad = weights.shape[0] // 2
        if len(bright) * weights.size > clean.size:
            image = torch.from_numpy(clean.copy()).permute(2, 0, 1)[None]
            return float(convolve(image, torch.from_numpy(weights)[None]).max())
        padded = np.pad(clean, ((pad, pad), (pad, pad), (0, 0))).astype(np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(padded, weights.shape, axis=(0, 1))
        return float((windows[tuple(bright.T)] * weights).sum((1, 2)).max())

    def _filter(self, token: str, side: int) -> np.ndarray:
        if self._explicit is not None:
            if token not in self._explicit:
                raise SampleError(self._no_filter(token))
            return self._explicit[token]
        size = self.kernel_size or paper_kernel_size(side)
        blur = self.blur if self.blur is not None else paper_blur(side, size)
        if (token, size, blur) not in self._made:
            _check_weight(size, blur)
            draws, peak = self._draw(token, size)
            weights = np.rint(draws * (blur * GRID)) / GRID
            weights.flat[peak] = 1.0
            self._made[token, size, blur] = weights.astype(np.float32)
        return self._made[token, size, blur]

    def _no_filter(self, token: str) -> str:
        assert self._explicit is not None
        known = [class_value(known) for known in sorted(self._explicit)]
        return (
            f"class {class_value(token)!r} has no filter in kernels=, which has {known}: add it, or leave the row out"
        )

    def _draw(self, token: str, size: int) -> tuple[np.ndarray, int]:
        """The class's uniform draws (k, k) in [0, 1) and the flat place of its 1."""
        assert self.key is not None
        if self._places:
            place = self._places[token]
        elif token.startswith("i:"):
            place = int(token[2:])
        else:
            draws, peaks = _draw_filters(self.key.stream("cuda", token, size), 1, size)
            return draws[0], int(peaks[0])
        # Walk in steps of powers of two: the filters of an open class list are found again in the cache.
        count = 1 << max(4, (place % BLOCK).bit_length())
        draws, peaks = spread_filters(self.key, size, place // BLOCK, count)
        return draws[place % BLOCK], int(peaks[place % BLOCK])


# ---- filters ---------------------------------------------------------------------------------------------------------


def paper_kernel_size(side: int) -> int:
    """k for a picture with this shorter side: 3 up to 32 px, 9 from 224 px (paper, section 5.1), odd in between."""
    return 3 + 2 * round(3 * _between(side))


def paper_blur(side: int, size: int) -> float:
    """p_b: the mass beside the 1 is 1.2 up to 32 px and 2.4 from 224 px (paper, section 5.1)."""
    return round(2 * 1.2 * 2 ** _between(side) / (size**2 - 1), 4)


def _between(side: int) -> float:
    """0 at 32 px and below, 1 at 224 px and above, logarithmic in between."""
    return float(np.clip(np.log(side / 32) / np.log(7), 0, 1))


@lru_cache(maxsize=64)
def spread_filters(key: Key, size: int, block: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws for classes 0..count-1 of a block, each far from those before it: (count, k, k) in [0, 1), peaks (count,).

    Integer arithmetic below 2**53 in float64, so the choice is the same on every machine.
    """
    blur = paper_blur(32, size)  # a fixed one: the choice must not depend on the picture's size
    chosen = np.empty((count, size, size))
    peaks = np.empty(count, np.int64)
    seen = np.empty((2 * count, (2 * size - 1) ** 2))  # centred filters and their mirrors
    power = np.empty(2 * count)
    for i in range(count):
        draws, places = _draw_filters(key.stream("cuda", "spread", size, block, i), CANDIDATES, size)
        centred = _centre(np.rint(draws * (blur * GRID)), places)
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


def _draw_filters(stream: Stream, n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The paper's draw, n times: uniforms (n, k, k) and the flat place of the 1 (n,)."""
    return stream.uniform(n, size, size), stream.integers(n, size * size)


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


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _check_weight(size: int, blur: float) -> None:
    if 1 + (size**2 - 1) * blur > MAX_SUM:
        raise ValueError(f"kernel_size={size} with blur={blur} is heavier than {MAX_SUM}: lower the blur")


def _explicit_filters(kernels: Mapping[Any, Any] | Sequence, classes: Sequence | None) -> dict[str, np.ndarray]:
    filters: dict[str, np.ndarray] = {}
    for label, values in kernels.items() if isinstance(kernels, Mapping) else kernels:
        token = class_token(label, classes)
        if token in filters:
            raise ValueError(f"kernels names class {class_value(token)!r} twice")
        weights = np.rint(np.array(values, np.float64) * GRID) / GRID
        if weights.ndim != 2 or weights.shape[0] != weights.shape[1] or weights.shape[0] % 2 == 0:
            raise ValueError(f"the filter of class {label!r} has shape {weights.shape}, not (k, k) with odd k")
        if not np.isfinite(weights).all() or not weights.any():
            raise ValueError(
                f"the filter of class {label!r} is not finite, or zero in multiples of 1/{GRID}: scale it up"
            )
        if np.abs(weights).sum() > MAX_SUM:
            raise ValueError(
                f"the filter of class {label!r} has absolute sum {np.abs(weights).sum():.1f}, above {MAX_SUM}: scale "
                "it down, its gain cancels since each picture is divided by its maximum"
            )
        filters[token] = weights.astype(np.float32)
    if not filters:
        raise ValueError("kernels is empty: give a filter for every class")
    return filters


# ---- convolution -----------------------------------------------------------------------------------------------------


def convolve(images: torch.Tensor, weights: torch.Tensor, backend: Backend = "auto") -> torch.Tensor:
    """Correlate each picture with its own filter, zero-padded, exactly.

    Args:
        images: uint8 (B, C, H, W).
        weights: float32 (B, k, k), multiples of 1 / GRID with absolute sums up to MAX_SUM.
        backend: ``folded`` makes every channel of every picture a group of one convolution, ``single`` goes picture
            by picture, ``fft`` (float64, rounded back to the grid) pays for large filters. All give the same bits.

    Returns:
        float32 (B, C, H, W).
    """
    if backend == "auto":
        backend = "folded" if weights.shape[-1] <= FOLD_LIMIT else "fft"
    with _exact_float32():
        return {"folded": _folded, "single": _single, "fft": _fft}[backend](images, weights)


@contextmanager
def _exact_float32() -> Iterator[None]:
    """Float32 that is float32: autocast and torch's ``fp32_precision`` would make the sums bfloat16 ones."""
    with torch.autocast("cpu", enabled=False):
        conv = getattr(torch.backends.mkldnn, "conv", None)  # since torch 2.9
        if getattr(conv, "fp32_precision", "none") in ("ieee", "none"):
            yield
            return
        before = torch.backends.mkldnn.enabled  # the precision itself cannot be put back: reading it resolves defaults
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
        try:
            yield
        finally:
            torch.backends.mkldnn.enabled = before


def _folded(images: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    keep_heap()
    count, channels, height, width = images.shape
    pad = weights.shape[-1] // 2
    # The kernel works on blocks of 16 channels: a lone photograph is cut into strips of rows to fill one.
    strips = -(-16 // (count * channels)) if height * width > 64 * 64 else 1
    groups = count * channels * strips
    if strips == 1:
        stacked, row_padding = images.float(), pad
    else:
        rows = -(-height // strips)
        padded = F.pad(images, (0, 0, pad, pad + strips * rows - height))
        stacked, row_padding = padded.unfold(2, rows + 2 * pad, rows).transpose(3, 4).float(), 0
    blurred = F.conv2d(
        stacked.reshape(1, groups, -1, width),
        weights.repeat_interleave(channels * strips, 0)[:, None],
        padding=(row_padding, pad),
        groups=groups,
    )
    return blurred.view(count, channels, -1, width)[:, :, :height].contiguous()


def _single(images: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    padding = weights.shape[-1] // 2
    return torch.stack(
        [
            F.conv2d(image.float()[:, None], weight[None, None], padding=padding)[:, 0]
            for image, weight in zip(images, weights, strict=True)
        ]
    )


def _fft(images: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    height, width = images.shape[2:]
    pad = weights.shape[-1] // 2
    size = [-(-(side + 2 * pad) // 16) * 16 for side in (height, width)]  # multiples of 16 transform fast
    spectrum = torch.fft.rfft2(images.double(), s=size)
    spectrum *= torch.fft.rfft2(weights.double().flip(1, 2), s=size)[:, None]
    blurred = torch.fft.irfft2(spectrum, s=size)[..., pad : pad + height, pad : pad + width]
    return (blurred * GRID).round_().div_(GRID).float().contiguous()
