"""What the tests of the methods without a network share: AR, LSP and OPS, made with the key of the tests."""

import numpy as np
from conftest import KEY, pixels
from numpy.lib.stride_tricks import sliding_window_view

from unlearnable_transforms import ARPoison, LSPPoison, OPSPoison

TEN = list(range(10))
IMAGES = pixels(24, 7, 5, 3)
LABELS = [0, 2, 1] * 8


def make_ar(**arguments) -> ARPoison:
    """AR for ten classes."""
    return ARPoison(**{"key": KEY, "classes": TEN, **arguments})


def make_lsp(**arguments) -> LSPPoison:
    """LSP for ten classes."""
    return LSPPoison(**{"key": KEY, "classes": TEN, **arguments})


def make_ops(data=(IMAGES, LABELS), **arguments) -> OPSPoison:
    """OPS, fitted."""
    return OPSPoison(**{"key": KEY, "data": data, **arguments})


def answers(patterns: np.ndarray, processes: np.ndarray) -> np.ndarray:
    """Energy of the output of each class's filter on each pattern, as the sum of ReLUs of a normal output, (n, k)."""
    filters = np.concatenate([processes, -np.ones((len(processes), 3, 1))], 2).reshape(-1, 27)
    found = []
    for windows in sliding_window_view(patterns, (3, 3), axis=(2, 3)):
        outputs = windows.transpose(1, 2, 0, 3, 4).reshape(-1, 27) @ filters.T
        found.append(np.sqrt((outputs**2).sum(0) * len(outputs) / (2 * np.pi)))
    return np.stack(found)
