"""The report's graphics: the geometry of curves, and confusion matrices as PNGs."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from markupsafe import Markup

from .pictures import png

WIDTH, HEIGHT = 300, 170
LEFT, RIGHT, TOP, BOTTOM = 30, 292, 8, 148  # of the axes
COLOURS = ("#2f6fde", "#d1495b", "#2a9d6f", "#c98a1b", "#8457c9", "#1b98a8", "#8a8f2a", "#c2603a")  # on white and black
DASHES = ("", "7 3", "2 3", "9 3 2 3")
CLEAN = Markup('class="clean" stroke="currentColor"')
STYLES = [
    Markup(f'stroke="{colour}"' + f' stroke-dasharray="{dash}"' * bool(dash))
    for dash, colour in product(DASHES, COLOURS)
]
FURTHER = Markup('stroke="#888888" stroke-dasharray="1 4"')
"""Where there are more lines than styles: all of them alike, and grey, so that none is taken for another."""


def line_styles(names: Sequence[str], clean: str | None) -> dict[str, Markup]:
    """How each line is drawn: attributes of an SVG element, no two alike among the first 33."""
    others = [name for name in names if name != clean]
    styles = {name: STYLES[place] if place < len(STYLES) else FURTHER for place, name in enumerate(others)}
    return {name: CLEAN if name == clean else styles[name] for name in names}


def curves(lines: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Where the parts of a chart of accuracies in [0, 1] over epochs lie, in units of its view box.

    The axis goes from 0 to the next ten percent above the highest value.
    """
    epochs = max((len(line) for line in lines.values()), default=1)
    top = max(0.1, np.ceil(10 * max((value for line in lines.values() for value in line), default=1.0) - 1e-9) / 10)

    def x(epoch: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * (epoch - 1) / max(1, epochs - 1), 1)

    def y(share: float) -> float:
        return round(float(BOTTOM - (BOTTOM - TOP) * share / top), 1)

    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": RIGHT,
        "grid": [(y(top * part), f"{100 * top * part:g}") for part in (0, 0.25, 0.5, 0.75, 1)],
        "epochs": [(x(epoch), epoch) for epoch in sorted({1, (epochs + 1) // 2, epochs})],
        "lines": {
            name: " ".join(f"{x(epoch)},{y(share)}" for epoch, share in enumerate(line, 1))
            for name, line in lines.items()
        },
    }


def confusion(counts: Sequence[Sequence[int]]) -> str:
    """A confusion matrix, rows true and columns predicted classes, as a PNG in base64: one pixel an entry.

    White is none and dark blue all of the pictures of the true class.
    """
    shares = np.asarray(counts, np.float64)
    shares /= np.maximum(shares.sum(1, keepdims=True), 1)
    light, dark = np.array([244.0, 246.0, 250.0]), np.array([20.0, 54.0, 130.0])
    colour = light + (dark - light) * np.sqrt(shares)[..., None]  # the root shows small shares, too
    return png(np.rint(colour).astype(np.uint8), side=10_000)
