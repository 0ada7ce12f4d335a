"""Signs of protection in pictures, without clean ones to compare with.

A protection puts something into pictures that tells their class and is no part of what they show. Each sign compares
two simple classifiers on held-out pictures of one set: one that sees what a protection leaves, and one that sees the
picture made coarse, which is the yardstick of how much the content tells. In clean pictures the coarse picture tells
the class best; nothing else about the set has to be known.

All classifiers are ridge regressions onto one-hot labels, fitted on one half and tested on the other, both ways.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Chosen on CIFAR-10's training rows 0-9,999 with one key: docs/audit.md. Beside them stand two standard errors.
FIXED_MARGIN, BETTER_MARGIN = 0.05, 0.04
LAGS = 3  # pixels, of the autocorrelation
LEFT = 0.4  # of what fine detail tells beyond chance, after a shift: 0 to 0.3 of noise, 0.5 and more of content
COARSE = 8  # side of the coarse picture
SOFT = 4.0  # levels, where the detail stops to count in full
FRAME = 2  # pixels at the border, where the detail is that of a filter's black beyond it, or of a shift's seam
CHUNK = 500


@dataclass(frozen=True)
class Sign:
    """One comparison.

    Attributes:
        name: ``pattern``, ``texture`` or ``brightness``; behind it ``, crop`` for pictures at their own resolution.
        found: whether ``value`` is above ``reference`` by more than ``margin``; of ``pattern`` also that little is left
            after the shift.
        value, reference: what is compared, in [-1, 1]: accuracies, or what a shift takes of them.
        margin: at least so far apart, of which a part is the uncertainty of so few pictures.
        share: roughly the share of pictures whose class only this tells, in [0, 1]; 0 where it is not found. As a
            rule fewer than carry it.
        shuffled: accuracy of the same classifier on shuffled labels.
        what: the figures in words.
    """

    name: str
    found: bool
    value: float
    reference: float
    margin: float
    share: float
    shuffled: float
    what: str


def look(
    images: Tensor, light: Tensor, labels: Tensor, order: Tensor, content: float | None = None
) -> tuple[list[Sign], float]:
    """The signs in pictures of one size, and how well the coarse picture tells their class.

    Args:
        images: uint8 (N, 3, H, W), sides of at least 8 pixels, in random order; ``light`` is their brightness.
        labels: int64 (N,), the places of the classes; ``order`` is the permutation that shuffles them.
        content: given where the pictures are cut out of larger ones: how well these tell the class.
    """
    shuffled = labels[order]
    behind = "" if content is None else ", crop"
    if content is None:
        (content,), _ = held_out([coarse(images)], labels, shuffled, gaussian=True)
    return [
        pattern("pattern" + behind, images, labels, shuffled),
        better("texture" + behind, "fine texture", texture(images), content, labels, shuffled),
        better("brightness" + behind, "brightness and contrast", light, content, labels, shuffled),
    ], content


def pattern(name: str, images: Tensor, labels: Tensor, shuffled: Tensor) -> Sign:
    """Does fine detail tell the class, and only at its place?

    Edges of what pictures show reach over a pixel: a classifier of them outlives a shift by one. Noise that was made
    for each pixel falls to chance. Compared is how much accuracy that shift costs on fine detail, and on the coarse
    picture; and next to nothing may be left. (In pictures of 8 pixels a shift costs content as much: the first tells.)
    """
    moved = images.roll((1, 1), (2, 3))
    (fine, fine_moved), chance = held_out([detail(images), detail(moved)], labels, shuffled)
    (plain, plain_moved), _ = held_out([coarse(images), coarse(moved)], labels, shuffled, strength=0.1)
    lost, usual = fine - fine_moved, plain - plain_moved
    margin = FIXED_MARGIN + 2 * _error(fine, len(labels))
    is_sign = lost - usual > margin and fine_moved - chance < LEFT * (fine - chance)
    what = (
        f"fine detail tells {_percent(fine)} of the classes, shifted by a pixel {_percent(fine_moved)}; the coarse "
        f"picture {_percent(plain)}, shifted {_percent(plain_moved)}"
    )
    otherwise = max(fine_moved, chance)
    share = (fine - otherwise) / (1 - otherwise) if is_sign else 0.0
    return Sign(name, is_sign, lost, usual, margin, share, chance, what)


def better(name: str, called: str, features: Tensor, content: float, labels: Tensor, shuffled: Tensor) -> Sign:
    """Do these features tell the class better than the coarse picture does?"""
    (value,), chance = held_out([features], labels, shuffled, gaussian=True)
    margin = BETTER_MARGIN + 2 * _error(value, len(labels))
    is_sign = value - content > margin
    share = (value - content) / (1 - content) if is_sign else 0.0
    what = f"{called} tells {_percent(value)} of the classes, the coarse picture {_percent(content)}"
    return Sign(name, is_sign, value, content, margin, share, chance, what)


def held_out(
    features: Sequence[Tensor],
    labels: Tensor,
    shuffled: Tensor,
    *,
    strength: float | None = None,
    gaussian: bool = False,
) -> tuple[list[float], float]:
    """Accuracy of a ridge regression on the half that it has not seen; both halves take turns.

    Args:
        features: float (N, D) each. Learnt is from the first; tested on all of them, for instance on shifted pictures.
        labels, shuffled: int64 (N,); what is learnt is the true ones, and apart from them the shuffled ones.
        strength: of the ridge, relative to the mean power of a row; default 0.1 with ``gaussian``, else 1.
        gaussian: standardise the features and use the kernel exp(-d^2 / (2 mean d^2)) in place of the inner product.

    Returns:
        The accuracies on each of ``features``, in [0, 1], and the one of the shuffled labels on the first.
    """
    strength = strength or (0.1 if gaussian else 1.0)
    classes = int(labels.max()) + 1
    half = torch.arange(len(labels)) % 2 == 0
    right = torch.zeros(len(features) + 1)
    for fit, test in ((half, ~half), (~half, half)):
        mean = features[0][fit].mean(0)
        scale = features[0][fit].std(0).clamp_min(1e-6) if gaussian else torch.ones(())
        known = (features[0][fit] - mean) / scale
        targets = torch.cat([F.one_hot(kind[fit], classes).float() for kind in (labels, shuffled)], 1)
        middle = targets.mean(0)
        if gaussian:
            distances = torch.cdist(known, known).square_()
            width = 2 * distances.mean().clamp_min(1e-9)
            kernel = (-distances / width).exp_()
        else:
            kernel = known @ known.T
            width = kernel.diagonal().mean().clamp_min(1e-9)
            kernel /= width
        weights = torch.linalg.solve(kernel + strength * torch.eye(len(known)), targets - middle)
        for place, tested in enumerate(features):
            rows = (tested[test] - tested[fit].mean(0)) / scale  # its own mean: what all classes share tells nothing
            likeness = (-torch.cdist(rows, known).square_() / width).exp_() if gaussian else rows @ known.T / width
            scores = likeness @ weights + middle
            right[place] += (scores[:, :classes].argmax(1) == labels[test]).sum()
            if place == 0:
                right[-1] += (scores[:, classes:].argmax(1) == shuffled[test]).sum()
    accuracies = (right / len(labels)).tolist()
    return accuracies[:-1], accuracies[-1]


# ---- what is seen ----------------------------------------------------------------------------------------------------


def residual(images: Tensor) -> Tensor:
    """What differs from the mean of the 3 x 3 pixels around: float (B, C, H, W), levels."""
    pixels = images.float()
    return pixels - F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)


def detail(images: Tensor) -> Tensor:
    """The residual at each place but the border's, squashed so that strong edges do not drown faint noise: float
    (N, 3(H - 4)(W - 4)), in (-1, 1).

    What all pictures have in common there (a watermark, a sensor's pattern) is taken away first. Squashed with the
    rest it would weaken content where it is strong and not elsewhere, and a shift would cost what was learnt of that.
    What classes differ in stays, however many pictures each has.
    """
    inside = slice(FRAME, -FRAME)
    fine = torch.cat([residual(chunk)[..., inside, inside] for chunk in images.split(CHUNK)])
    fine -= fine.mean(0)
    return fine.div_(fine.abs().add_(SOFT)).flatten(1)


def coarse(images: Tensor) -> Tensor:
    """The picture shrunk to 8 x 8 by means: (N, 192), levels."""
    return F.adaptive_avg_pool2d(images.float(), COARSE).flatten(1)


def brightness(images: Tensor) -> Tensor:
    """Mean and standard deviation of each channel: (N, 6), levels."""
    pixels = images.float().flatten(2)
    return torch.cat([pixels.mean(2), pixels.std(2)], 1)


def texture(images: Tensor) -> Tensor:
    """Autocorrelation of the residual and its channels' with each other, up to ``LAGS`` pixels: the spectrum of the
    finest scale without places, (N, 147) in about [-1, 1]. A filter, or noise by a rule, shows in it wherever it is."""
    lags = [(down, across) for down in range(LAGS + 1) for across in range(-LAGS, LAGS + 1) if down or across >= 0]
    pairs = [(0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (0, 2)]
    height, width = images.shape[2:]
    parts = []
    for chunk in images.split(CHUNK):
        fine = residual(chunk)
        fine = fine / (fine.square().mean((2, 3), keepdim=True).sqrt() + 0.5)
        values = []
        for down, across in lags:
            right, left = max(across, 0), max(-across, 0)
            first = fine[:, :, down:, right : width - left]
            second = fine[:, :, : height - down, left : width - right]
            values += [
                (first[:, a] * second[:, b]).mean((1, 2)) for a, b in pairs if (down, across) != (0, 0) or a != b
            ]
        parts.append(torch.stack(values, 1))
    return torch.cat(parts)


def grid(images: Tensor) -> float | None:
    """How much larger steps between neighbours are across the borders of 8 x 8 blocks than elsewhere, a ratio.

    About 1 without JPEG, or with a fine one; None for pictures of fewer than 16 pixels a side.
    """
    if min(images.shape[2:]) < 16:
        return None
    grey = images.float().mean(1)
    ratios = []
    for steps in (grey.diff(dim=2).abs().mean((0, 1)), grey.diff(dim=1).abs().mean((0, 2))):
        border = torch.arange(len(steps)) % 8 == 7
        ratios.append(steps[border].mean() / steps[~border].mean().clamp_min(1e-6))
    return float(sum(ratios)) / 2


def per_class(images: Tensor, light: Tensor, labels: Tensor) -> list[dict[str, float]]:
    """For each class the mean level, the mean standard deviation and the mean root of the residual's power (its finest
    scale), in levels. ``light`` is what :func:`brightness` gives."""
    fine = torch.cat([residual(chunk).square().mean((1, 2, 3)).sqrt() for chunk in images.split(CHUNK)])
    figures = []
    for label in range(int(labels.max()) + 1):
        rows = labels == label
        if rows.any():
            values = light[rows, :3].mean(), light[rows, 3:].mean(), fine[rows].mean()
            numbers = [round(float(value), 2) for value in values]
            figures.append({"class": label, **dict(zip(("brightness", "contrast", "fine"), numbers, strict=True))})
    return figures


def _error(share: float, count: int) -> float:
    """Standard error of a share of ``count`` pictures."""
    return (max(share * (1 - share), 0.01) / count) ** 0.5


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
