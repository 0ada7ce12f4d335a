"""Accuracy of a trained network under attack."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..training.attacks import Norm, check_attack, pgd, random_start, summed_cross_entropy
from ..training.loop import PixelModel, checked, seeded_generator, to_pixels

EPS: dict[str, float] = {"linf": 8 / 255, "l2": 0.5}


@dataclass(frozen=True)
class Robustness:
    """Shares of test images, 0..1, that a network is right on.

    Attributes:
        clean: as they are.
        robust: as they are and at every adversarial image that the attack tried.
        norm, eps, steps, restarts: of the attack.
    """

    clean: float
    robust: float
    norm: str
    eps: float
    steps: int
    restarts: int

    def __str__(self) -> str:
        radius = f"{self.eps * 255:g}/255" if self.norm == "linf" else f"{self.eps:g}"
        return (
            f"clean {self.clean:.1%}, robust {self.robust:.1%} (PGD-{self.steps}, {self.norm} {radius}, "
            f"{self.restarts} random start{'s' * (self.restarts > 1)})"
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
        norm: "linf" or "l2".
        eps: radius in units of 1 = white; None is 8/255 in L-inf and 0.5 in L2.
        steps: of the attack; PGD-20 is what the literature reports.
        step_size: None is 2.5 * eps / steps.
        restarts: random starts; an image counts as robust if it withstands all.
        batch_size: images at once.
        seed: of the starts.
        device: where to attack.
        progress: called with (images done, images in all) after each batch.

    Raises:
        ValueError: an unknown norm, negative radius, no steps or restarts, no images, wrong shapes or dtypes.
    """
    eps = EPS.get(norm, 0.0) if eps is None else eps
    check_attack(norm, eps, steps)
    if restarts < 1:
        raise ValueError(f"restarts must be at least 1, got {restarts}")
    images, labels = checked(images, labels)
    net.to(device).eval()
    model = PixelModel(net, bf16=False)  # rounding to 8 bits of mantissa hides gradients and flatters a network
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
