"""PIL: Perturbation-Induced Linearization (Liu, Chen and Zhang, ICLR 2026, arXiv 2601.19967).

The surrogate f is linear and without bias, W2 W1 x. It is trained on clean pictures; then each delta goes down

    lambda * CE(f(delta), y)  +  (1 - lambda) * KL(uniform || softmax f(x - delta))

and x - delta is released: -delta is what the linear model knows the class by, and the picture itself tells it nothing
any more. Two linear layers are one matrix W = W2 W1, so the gradients have a closed form and no network is needed:

    d CE / d delta = W' (softmax(W delta) - onehot(y)),   d KL / d delta = -W' (softmax(W (x - delta)) - 1/K)
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from ..noise.pictures import Pictures
from ..params import param
from ..pixels import equal_channels
from ..training.transforms import transformed
from .base import register
from .fitted import PASS, FittedPoison, slices

BATCH = 512
# Of the usual size: what the first layer starts with stays in W, is white noise, and does not protect. The second layer
# starts at the identity, since random numbers would favour some classes.
INITIAL = 0.01


@register("pil")
class PILPoison(FittedPoison):
    """Noise that a linear model knows each class by; minutes on a CPU."""

    paper = "PIL: Perturbation-Induced Linearization (Liu, Chen and Zhang, ICLR 2026, arXiv 2601.19967)"

    epochs: int = param(
        "of the surrogate's training (SGD, learning rate 0.003 on a cosine, batches of 512); the paper has 30, of "
        "50,000 images",
        default=100, low=1,
    )  # fmt: skip
    steps: int = param("sign steps of the noise", default=30, low=1)
    step_size: float | None = param(
        "of a sign step; None: a tenth of eps, the paper's", default=None, above=0, unit="in units of 1 = white"
    )
    weight: float = param("lambda", default=0.9, low=0, high=1)
    augment: Literal["crop-flip", "crop", "none"] = param(
        "of the images that the surrogate trains on; crop where images must not be mirrored, digits for one. Not the "
        "paper's: what a linear model learns pixel by pixel does not survive a victim's crops and flips, and with it "
        "the noise does",
        default="crop-flip",
    )

    def _learn(self, pictures: Pictures, noise: np.memmap, work: Path) -> dict[str, Any]:
        surrogate = self._train(pictures)
        self._continue(pictures, noise, {"weight": surrogate.numpy()})
        correct = 0
        for rows in slices(len(pictures), BATCH):
            delta = torch.from_numpy(noise[rows]).flatten(1) / 255
            correct += int(((-delta @ surrogate.T).argmax(1) == pictures.labels[rows]).sum())
        share = correct / len(pictures)
        passes = len(pictures) * (self.epochs + 2 * self.steps) / PASS
        return {"tensors": {"weight": surrogate.numpy()}, "accuracy": share, "target": share, "passes": passes}

    def _train(self, pictures: Pictures) -> Tensor:
        """W = W2 W1, (K, 3 * height * width), trained on clean pixels in [0, 1]."""
        classes, inputs = len(pictures.classes), 3 * pictures.size[0] * pictures.size[1]
        generator = self._generator("surrogate")
        first = INITIAL * (2 * torch.rand(classes, inputs, generator=generator) - 1) / inputs**0.5
        layers = [first.requires_grad_(), torch.eye(classes).requires_grad_()]
        optimizer = torch.optim.SGD(layers, lr=0.003, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)
        for epoch in tqdm(range(self.epochs), "PIL, surrogate", disable=None):
            order = self._stream("order", epoch).permutation(len(pictures))
            generator = self._generator("augment", epoch)
            for rows in slices(len(order), BATCH):
                pixels = _flat(transformed(pictures.batch(order[rows]), self.augment, generator))
                loss = F.cross_entropy(pixels @ layers[0].T @ layers[1].T, pictures.labels[order[rows]])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
        return (layers[1] @ layers[0]).detach()

    def _continue(self, pictures: Pictures, noise: np.memmap, tensors: Mapping[str, np.ndarray]) -> None:
        surrogate = torch.from_numpy(tensors["weight"])
        for rows in tqdm(slices(len(pictures), BATCH), "PIL, noise", disable=None):
            start = self._generator("noise", pictures.ids[rows][:1].tobytes())
            delta = self._descend(
                surrogate, _flat(pictures.batch(rows)), pictures.labels[rows], pictures.grey[rows], start
            )
            noise[rows] = (
                (-255 * delta).round().clamp(-self.levels, self.levels).to(torch.int8).view(-1, *noise.shape[1:])
            )

    def _descend(self, surrogate: Tensor, x: Tensor, y: Tensor, grey: Tensor, start: torch.Generator) -> Tensor:
        """delta of a batch, (B, 3 * height * width), as in the text above."""
        targets = F.one_hot(y, len(surrogate)).float()
        step_size = self.eps / 10 if self.step_size is None else self.step_size
        shape = (len(x), 3, -1)  # grey pictures keep equal channels
        delta = equal_channels(((2 * torch.rand(x.shape, generator=start) - 1) * self.eps).view(shape), grey).flatten(1)
        for _ in range(self.steps):
            induced = ((delta @ surrogate.T).softmax(1) - targets) @ surrogate
            emptied = ((x - delta) @ surrogate.T).softmax(1) - 1 / len(surrogate)
            gradient = self.weight * induced - (1 - self.weight) * emptied @ surrogate
            direction = equal_channels(gradient.view(shape), grey).flatten(1).sign()
            delta = (delta - step_size * direction).clamp(-self.eps, self.eps)
        return delta


def _flat(images: Tensor) -> Tensor:
    return images.flatten(1).float() / 255
