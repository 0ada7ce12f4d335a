"""A quick look at noise: is there a shortcut in it, and does a network take it?"""

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..noise.pictures import Pictures
from ..training.loop import Recipe, train
from ..training.model import accuracy
from ..victims.registry import build_victim

if TYPE_CHECKING:
    from ..key import Stream

ROWS = 4000
SIDE = 32
# The quick victim: ten seconds on one core. Without augmentation it finds noise that it would otherwise take ten times
# as long to find.
QUICK = Recipe(epochs=8, batch_size=64, max_lr=0.1, augment="none")
QUICK_ROWS, HELD_OUT, FEWEST = 2000, 1000, 400


def separability(noise: np.ndarray, labels: torch.Tensor, stream: "Stream") -> float:
    """How well a linear classifier tells the classes of noise, int8 (N, 3, h, w), that it has not seen, in [0, 1].

    Ridge regression onto one-hot labels on one half of up to ``ROWS`` images' noise, which ``stream`` chooses, tested
    on the other half. Random noise gives the share of the largest class. It says that a shortcut is there, not that a
    victim takes it.
    """
    rows = stream.permutation(len(noise))[:ROWS]
    if len(rows) < 2:
        return 0.0
    small = _small(torch.from_numpy(noise[rows].astype(np.float32)))
    half = len(rows) // 2
    fit, test = small.flatten(1)[half:].double(), small.flatten(1)[:half].double()
    target = F.one_hot(labels[rows[half:]], int(labels.max()) + 1).double()
    kernel = fit @ fit.T
    kernel += torch.eye(len(fit)) * kernel.diagonal().mean().clamp_min(1e-9)
    scores = test @ (fit.T @ torch.linalg.solve(kernel, target))
    return float((scores.argmax(1) == labels[rows[:half]]).double().mean())


def quick_victim(pictures: Pictures, noise: np.ndarray, stream: "Stream") -> tuple[float | None, float | None]:
    """Accuracy of a small network that trained on some protected images: on others, protected and clean, in [0, 1].

    Where it takes the noise, int8 (N, 3, h, w), for the class, it is right on protected images and wrong on clean ones.
    Where it is equally right on both, it has learned the images: the noise protects nothing. Images are shrunk to at
    most ``SIDE`` pixels; the rows and the network's start are drawn from ``stream``. None, twice, where there are fewer
    than ``FEWEST`` images, too few to tell.
    """
    if len(noise) < FEWEST:
        return None, None
    rows = stream.permutation(len(noise))[: QUICK_ROWS + HELD_OUT]
    learnt = max(len(rows) * 2 // 3, len(rows) - HELD_OUT)
    clean = pictures.batch(rows).to(torch.int16)
    protected = _small((clean + torch.from_numpy(noise[rows])).clamp(0, 255).float()).round().byte()
    clean = _small(clean.float()).round().byte()
    labels = pictures.labels[rows]
    seed = int(stream.words(1)[0] >> np.uint64(1))
    net = build_victim("resnet9-screen", len(pictures.classes), min(clean.shape[2:]), seed)
    train(net, protected[:learnt], labels[:learnt], recipe=QUICK, seed=seed)
    held = slice(learnt, None)
    return accuracy(net, protected[held], labels[held]), accuracy(net, clean[held], labels[held])


def _small(images: Tensor) -> Tensor:
    """Float (B, C, H, W) with sides from 8 to ``SIDE`` pixels, the fewest and most that the looks above work on."""
    height, width = (min(max(side, 8), SIDE) for side in images.shape[2:])
    return images if (height, width) == images.shape[2:] else F.adaptive_avg_pool2d(images, (height, width))
