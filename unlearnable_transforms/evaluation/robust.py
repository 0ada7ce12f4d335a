"""Accuracy of a trained network under attack."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..training.attacks import Norm, check_attack, pgd, random_start, summed_cross_entropy
from ..training.loop import seeded_generator
from ..training.model import PixelModel, checked, to_pixels

EPS: dict[str, float] = {"linf": 8 / 255, "l2": 0.5}


@dataclass(frozen=True)
class Attack:
    """PGD on a victim's test pictures, as a part of an evaluation. Arguments as in :func:`robust_accuracy`.

    Attributes:
        rows: test pictures that are attacked, spread evenly over the set.
    """

    norm: Norm = "linf"
    eps: float | None = None
    steps: int = 20
    step_size: float | None = None
    restarts: int = 1
    rows: int = 1000

    def __post_init__(self) -> None:
        if self.eps is None:
            object.__setattr__(self, "eps", EPS.get(self.norm, 0.0))
        assert self.eps is not None
        check_attack(self.norm, self.eps, self.steps)
        if self.restarts < 1 or self.rows < 1:
            raise UsageError(f"an attack needs restarts and rows >= 1, got {self.restarts} and {self.rows}")

    @property
    def label(self) -> str:
        """``PGD-20 linf 8/255``, with what is not a default behind it."""
        assert self.eps is not None
        parts = [f"PGD-{self.steps} {self.norm} {radius(self.norm, self.eps)}"]
        parts += [f"{self.restarts} starts"] * (self.restarts > 1)
        parts += [f"steps of {self.step_size}"] * (self.step_size is not None)
        parts += [f"{self.rows:,} pictures"] * (self.rows != Attack.rows)
        return ", ".join(parts)


def radius(norm: str, eps: float) -> str:
    """``8/255`` or ``0.5``, as each norm's radii are given."""
    return f"{eps * 255:g}/255" if norm == "linf" else f"{eps:g}"


class Defended(PixelModel):
    """A network behind a transform of its pictures, which an attack sees through as if it were none.

    The gradient passes the transform unchanged (BPDA, Athalye, Carlini and Wagner, ICML 2018, arXiv 1802.00420,
    section 4.1), where the true one is useless or does not exist.

    Args:
        net: as in :class:`PixelModel`.
        transform: uint8 (B, 3, H, W) -> uint8, or float32 where 1 is white.
    """

    def __init__(self, net: nn.Module, transform: Callable[[Tensor], Tensor]) -> None:
        super().__init__(net, bf16=False)
        self.transform = transform

    def __call__(self, pixels: Tensor) -> Tensor:
        stored = (pixels.detach() * 255).round().clamp(0, 255).to(torch.uint8)
        return super().__call__(pixels + (to_pixels(self.transform(stored)) - pixels).detach())


@dataclass(frozen=True)
class Robustness:
    """Shares of test images, 0..1, that a network is right on: ``clean``, as they are; ``robust``, as they are and at
    every adversarial image that the attack of the other attributes tried."""

    clean: float
    robust: float
    norm: str
    eps: float
    steps: int
    restarts: int

    def __str__(self) -> str:
        return (
            f"clean {self.clean:.1%}, robust {self.robust:.1%} (PGD-{self.steps}, {self.norm} "
            f"{radius(self.norm, self.eps)}, {self.restarts} random start{'s' * (self.restarts > 1)})"
        )


def robust_accuracy(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm = "linf",
    eps: float | None = None,
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 1,
    transform: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 500,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Robustness:
    """Clean and robust accuracy of a victim: PGD-20 with random starts (Madry et al., ICLR 2018, arXiv 1706.06083).

    An upper bound: a stronger attack may leave less, above all of a network that hides its gradients.

    Args:
        net: trained by this library, or any that takes normalised images and has buffers ``pixel_mean`` and
            ``pixel_std``, each (3,).
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
        norm, eps: "linf" or "l2", and the radius in units of 1 = white; None is 8/255 in L-inf and 0.5 in L2.
        step_size: None is 2.5 * eps / steps.
        restarts: random starts; an image counts as robust if it withstands all.
        transform: what is done to pictures before the network sees them, uint8 (B, C, H, W) -> uint8, or float32 where
            1 is white. The attack knows it, and takes its gradient for 1 (see :class:`Defended`).
        progress: called with (images done, images in all) after each batch.

    Raises:
        ValueError: an unknown norm, negative radius, no steps or restarts, no images, wrong shapes or dtypes.
    """
    eps = EPS.get(norm, 0.0) if eps is None else eps
    check_attack(norm, eps, steps)
    if restarts < 1:
        raise UsageError(f"restarts must be at least 1, got {restarts}")
    images, labels = checked(images, labels)
    net.to(device).eval()
    # No bfloat16: rounding to 8 bits of mantissa hides gradients and flatters a network.
    model = PixelModel(net, bf16=False) if transform is None else Defended(net, transform)
    generator = seeded_generator(seed, "attack")
    clean = robust = 0
    for start in range(0, len(images), batch_size):
        pixels = to_pixels(images[start : start + batch_size].to(device))
        truth = labels[start : start + batch_size].to(device)
        with torch.no_grad():
            right = model(pixels).argmax(1) == truth
        clean += int(right.sum())
        for _ in range(restarts):
            beginning = random_start(pixels, generator, norm=norm, eps=eps)
            adversarial = pgd(
                model, pixels, summed_cross_entropy(truth), norm=norm, eps=eps, steps=steps, step_size=step_size,
                start=beginning,
            )  # fmt: skip
            with torch.no_grad():
                right &= model(adversarial).argmax(1) == truth
        robust += int(right.sum())
        if progress is not None:
            progress(min(start + batch_size, len(images)), len(images))
    return Robustness(clean / len(images), robust / len(images), norm, eps, steps, restarts)
