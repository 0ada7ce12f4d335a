"""A quick look at noise: is there a shortcut in it?"""

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from ..keys import Stream

ROWS = 4000
SIDE = 32


def separability(noise: np.ndarray, labels: torch.Tensor, stream: "Stream") -> float:
    """How well a linear classifier tells the classes of noise that it has not seen, in [0, 1].

    Ridge regression onto one-hot labels on one half of up to ``ROWS`` pictures' noise, tested on the other half.
    Random noise gives the share of the largest class. It says that a shortcut is there, not that a victim takes it.

    Args:
        noise: int8 (N, 3, h, w).
        labels: int64 (N,).
        stream: of the choice of rows.
    """
    rows = stream.permutation(len(noise))[:ROWS]
    if len(rows) < 2:
        return 0.0
    small = torch.from_numpy(noise[rows].astype(np.float32))
    if min(small.shape[2:]) > SIDE:
        small = torch.nn.functional.adaptive_avg_pool2d(small, SIDE)
    half = len(rows) // 2
    fit, test = small.flatten(1)[half:].double(), small.flatten(1)[:half].double()
    target = torch.nn.functional.one_hot(labels[rows[half:]], int(labels.max()) + 1).double()
    kernel = fit @ fit.T
    kernel += torch.eye(len(fit)) * kernel.diagonal().mean().clamp_min(1e-9)
    scores = test @ (fit.T @ torch.linalg.solve(kernel, target))
    return float((scores.argmax(1) == labels[rows[:half]]).double().mean())
