"""Small pictures of numbers for the report: curves as SVG, confusion matrices as PNG."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from .pictures import png

WIDTH, HEIGHT = 300, 170
LEFT, RIGHT, TOP, BOTTOM = 30, 8, 8, 22  # margins
COLOURS = (  # to be seen on white and on black
    "#2f6fde", "#d1495b", "#2a9d6f", "#c98a1b", "#8457c9", "#1b98a8",
    "#b5577f", "#7a7f2a", "#5f7c9a", "#c2603a", "#4fae3f", "#a07be0",
)  # fmt: skip


def curves(lines: Mapping[str, Sequence[float]], colours: Mapping[str, str]) -> str:
    """Accuracy in [0, 1] over epochs, one line a name, as an SVG of WIDTH x HEIGHT that scales."""
    epochs = max((len(line) for line in lines.values()), default=1)

    def x(epoch: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (epoch - 1) / max(1, epochs - 1)

    def y(share: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="test accuracy over epochs">']
    for tick in (0, 25, 50, 75, 100):
        height = y(tick / 100)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{height + 3:.1f}" text-anchor="end">{tick}</text>')
    for epoch in sorted({1, (epochs + 1) // 2, epochs}):
        parts.append(f'<text x="{x(epoch):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{epoch}</text>')
    for name, line in lines.items():
        points = " ".join(f"{x(epoch):.1f},{y(share):.1f}" for epoch, share in enumerate(line, 1))
        title = f"<title>{escape(name)}</title>"
        parts.append(f'<polyline points="{points}" stroke="{colours[name]}" fill="none">{title}</polyline>')
    return "".join([*parts, "</svg>"])


def confusion(counts: Sequence[Sequence[int]]) -> str:
    """A confusion matrix, rows true and columns predicted classes, as a PNG in base64: one pixel an entry.

    White is none and dark blue all of the pictures of the true class.
    """
    shares = np.asarray(counts, np.float64)
    shares /= np.maximum(shares.sum(1, keepdims=True), 1)
    light, dark = np.array([244.0, 246.0, 250.0]), np.array([20.0, 54.0, 130.0])
    colour = light + (dark - light) * np.sqrt(shares)[..., None]  # the root shows small shares, too
    return png(np.rint(colour).astype(np.uint8), side=10_000)
