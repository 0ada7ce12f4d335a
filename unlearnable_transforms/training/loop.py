"""The training loop: uint8 images in, a trained network and its history out.

One batch goes   rows -> augment -> pixels in [0, 1] -> perturb -> loss(model) -> SGD step.
A defense replaces ``augment``, ``perturb`` or ``loss``; everything else stays, so that the columns of a table differ
only there.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import DivergedError, UsageError
from .model import PixelModel, accuracy, checked, native_bf16, predict, store_statistics, to_pixels
from .muon import muon_and_sgd
from .transforms import transformed

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""augment(images, generator): uint8 (B, C, H, W) -> uint8 in 0-255 or float in [0, 1]."""
Perturb = Callable[[PixelModel, Tensor, Tensor, torch.Generator], Tensor]
"""perturb(model, pixels, labels, generator): float pixels in [0, 1] -> perturbed pixels; may call the model."""
LossAndLogits = tuple[Tensor, Tensor]
"""A scalar to minimise, and the logits (B, classes) for the training accuracy."""
Loss = Callable[[PixelModel, Tensor, Tensor, torch.Generator], LossAndLogits]
"""loss(model, pixels, labels, generator) -> what is minimised, and logits."""


@dataclass(frozen=True)
class Recipe:
    """How to train: SGD, or AdamW for vision transformers, under a learning rate that goes up and down to zero.

    Attributes:
        epochs, batch_size: at least 1 and 2.
        max_lr: the highest learning rate.
        momentum, nesterov: of SGD.
        weight_decay: of all parameters.
        warmup: part of all steps in which the learning rate goes up in a straight line.
        label_smoothing: of the cross-entropy.
        augment: crops have zero padding of an eighth of the side, at least one pixel; "translate-flip" moves by at most
            a sixteenth, with a mirrored border.
        bf16: mixed precision; None uses it where the hardware multiplies bfloat16 natively.
        schedule: after the warmup, down in a straight line ("one-cycle") or along half a cosine.
        optimizer: "sgd", "adamw", or "muon" (convolutions by Muon with ``max_lr`` and ``momentum``, the rest by SGD;
            see :mod:`~.muon`).

    Raises:
        ValueError: values out of range.
    """

    epochs: int
    batch_size: int
    max_lr: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.25
    label_smoothing: float = 0.0
    augment: Literal["crop-flip", "crop", "translate-flip", "none"] = "crop-flip"
    bf16: bool | None = None
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    nesterov: bool = True
    optimizer: Literal["sgd", "adamw", "muon"] = "sgd"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2:
            raise UsageError("a recipe needs epochs >= 1 and batch_size >= 2 (BatchNorm cannot train on one image)")
        if not (self.max_lr > 0 and 0 <= self.warmup < 1 and 0 <= self.label_smoothing < 1):
            raise UsageError("a recipe needs max_lr > 0, 0 <= warmup < 1 and 0 <= label_smoothing < 1")
        if not (0 <= self.momentum < 1 and self.weight_decay >= 0):
            raise UsageError("a recipe needs 0 <= momentum < 1 and weight_decay >= 0")
        if self.augment not in ("crop-flip", "crop", "translate-flip", "none"):
            raise UsageError(f'augment must be "crop-flip", "crop", "translate-flip" or "none", got {self.augment!r}')
        if self.schedule not in ("one-cycle", "cosine") or self.optimizer not in ("sgd", "adamw", "muon"):
            raise UsageError(
                f'schedule is "one-cycle" or "cosine" and optimizer "sgd", "adamw" or "muon", got {self.schedule!r} '
                f"and {self.optimizer!r}"
            )

    def learning_rate(self, progress: float) -> float:
        """Learning rate at ``progress`` in [0, 1] of the run."""
        if progress < self.warmup:
            return self.max_lr * progress / self.warmup
        left = (1 - progress) / (1 - self.warmup)
        return self.max_lr * (left if self.schedule == "one-cycle" else (1 - math.cos(math.pi * left)) / 2)


SCREEN = Recipe(epochs=10, batch_size=128, max_lr=0.1)
"""For "resnet9-screen" on 10,000 rows of CIFAR-10."""
DIGITS = Recipe(epochs=15, batch_size=64, max_lr=0.1, augment="crop", bf16=False)
"""For "smallcnn" on scikit-learn's 8x8 digits, which must not be mirrored."""


@dataclass
class History:
    """What happened in a training.

    Attributes:
        test_accuracy, train_accuracy, train_loss: one entry an epoch. Accuracies are in [0, 1]; those of training are
            on augmented batches.
        batches: steps of the optimizer.
        forward_images, backward_images: through the network in training, attacks included, tests not.
    """

    test_accuracy: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    batches: int = 0
    forward_images: int = 0
    backward_images: int = 0

    @property
    def last(self) -> float:
        """Test accuracy after the last epoch (NaN without a test set)."""
        return self.test_accuracy[-1] if self.test_accuracy else math.nan

    @property
    def last5(self) -> float:
        """Mean test accuracy of the last five epochs, or of all where fewer (NaN without a test set)."""
        tail = self.test_accuracy[-5:]
        return sum(tail) / len(tail) if tail else math.nan

    @property
    def best(self) -> float:
        """Highest test accuracy of any epoch: an oracle, since it chooses by looking at the test set."""
        return max(self.test_accuracy, default=math.nan)


def train(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    recipe: Recipe,
    seed: int,
    test: tuple[Tensor, Tensor] | None = None,
    device: torch.device | str = "cpu",
    augment: Augment | None = None,
    perturb: Perturb | None = None,
    loss: Loss | None = None,
    on_epoch: Callable[[int], None] | None = None,
    progress: Callable[[int, History], None] | None = None,
) -> History:
    """Train a network in place, from the weights it has, and test it after every epoch.

    Args:
        net: takes normalised float (B, 3, H, W), returns logits. It is moved to ``device`` and stays there; the mean
            and standard deviation of the training pixels are stored in it as buffers of shape (3,).
        images: uint8 (N, C, H, W), C = 1 or 3, N >= 2, H and W >= 8, or float32 where 1 is white. One channel is
            repeated three times.
        labels: int64 (N,), from 0 to the number of logits - 1.
        recipe: for instance SCREEN.
        seed: of the order of the rows, the augmentation and the perturbation; the global random state is not touched.
        test: images and labels, in the same form.
        device: where to train.
        augment, perturb, loss: replace the recipe's augmentation, no perturbation, cross-entropy; see the types.
        on_epoch: called with the epoch, from 1, before its first batch.
        progress: called after each epoch with (epoch, history).

    Raises:
        ValueError: a wrong dtype, shape, length or label.
        FloatingPointError: the loss is no longer finite; the epoch is named.
    """
    net.to(device).to(memory_format=torch.channels_last)
    images, labels = (tensor.to(device) for tensor in checked(images, labels))
    if len(images) < 2:
        raise UsageError("training needs at least 2 images: BatchNorm cannot train on one")
    store_statistics(net, images)
    bf16 = native_bf16(device) if recipe.bf16 is None else recipe.bf16
    model = PixelModel(net, bf16=bf16)
    classes = predict(net, images[:1], bf16=bf16).shape[1]
    for name, some in (("training", labels), ("test", checked(*test)[1] if test else labels)):
        if some.max() >= classes:
            raise UsageError(f"{name} labels go up to {int(some.max())}, but the network has {classes} logits")

    order, augmenting, perturbing = (seeded_generator(seed, use) for use in ("order", "augment", "perturb"))
    losing = seeded_generator(seed, "loss")
    augment = augment or recipe_augment(recipe)
    loss = loss or _cross_entropy(recipe.label_smoothing)
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizers = _optimizers(trained, recipe)
    history = History()
    for epoch in range(1, recipe.epochs + 1):
        if on_epoch is not None:
            on_epoch(epoch)
        _train_mode(net)
        total, correct = torch.zeros((), device=device), torch.zeros((), device=device)
        batches = _batches(torch.randperm(len(images), generator=order).to(device), recipe.batch_size)
        for rows in batches:
            rate = recipe.learning_rate((history.batches + 0.5) / (recipe.epochs * len(batches)))
            for group in (group for optimizer in optimizers for group in optimizer.param_groups):
                group["lr"] = rate * group.get("share", 1.0)
            target = labels[rows]
            pixels = to_pixels(augment(images.index_select(0, rows), augmenting))
            if perturb is not None:
                pixels = perturb(model, pixels, target, perturbing).detach()
            net.zero_grad(set_to_none=True)  # after the perturbation, whose attack may leave gradients
            value, logits = loss(model, pixels, target, losing)
            value.backward()
            for optimizer in optimizers:
                optimizer.step()
            total += value.detach() * len(rows)  # stays on the device: no waiting inside the epoch
            correct += (logits.detach().argmax(1) == target).sum()
            history.batches += 1
        if not math.isfinite(total):
            raise DivergedError(f"the training loss became {float(total)} in epoch {epoch}; lower max_lr")
        history.forward_images, history.backward_images = model.forward_images, model.backward_images
        history.train_loss.append(float(total) / len(images))
        history.train_accuracy.append(float(correct) / len(images))
        if test is not None:
            history.test_accuracy.append(accuracy(net, *test, device=device, bf16=bf16))
        if progress is not None:
            progress(epoch, history)
    net.eval()
    return history


def seeded_generator(seed: int, use: str) -> torch.Generator:
    """A CPU generator of its own for each use, so that more draws in one leave the others as they are."""
    digest = hashlib.blake2b(f"{use}:{seed}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big", signed=True))


def _batches(rows: Tensor, size: int) -> list[Tensor]:
    """Split ``rows``; a last batch of one row joins the one before, since BatchNorm cannot train on one image."""
    parts = list(rows.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def _train_mode(net: nn.Module) -> None:
    """Training mode, except for BatchNorm layers with frozen weights: these keep their statistics, too."""
    net.train()
    for layer in net.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.affine and not layer.weight.requires_grad:
            layer.eval()


def _optimizers(trained: list[nn.Parameter], recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Usually one. Where a group has a ``share``, its learning rate is that part of the recipe's."""
    if recipe.optimizer == "muon":
        return muon_and_sgd(trained, recipe.max_lr, recipe.momentum, recipe.weight_decay, recipe.batch_size)
    if recipe.optimizer == "adamw":
        return [torch.optim.AdamW(trained, lr=recipe.max_lr, weight_decay=recipe.weight_decay, fused=True)]
    return [
        torch.optim.SGD(
            trained, lr=recipe.max_lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov and recipe.momentum > 0, fused=True,
        )
    ]  # fmt: skip


def recipe_augment(recipe: Recipe) -> Augment:
    """The random crop and flip that the recipe names, for uint8 and float images alike."""
    return lambda images, generator: transformed(images, recipe.augment, generator)


def _cross_entropy(smoothing: float) -> Loss:
    def loss(model: PixelModel, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> LossAndLogits:
        logits = model(pixels)
        return F.cross_entropy(logits, labels, label_smoothing=smoothing), logits

    return loss
