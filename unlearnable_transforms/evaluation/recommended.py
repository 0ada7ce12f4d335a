"""What to protect with, out of what was measured.

``measured.json`` is written by ``python tests/benchmarks/methods.py --draw --write``: nothing in it is typed by hand.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..key import Key
from ..poisons import get_poison
from ..poisons.base import Poison
from ..poisons.chain import Chain
from ..poisons.cuda import HALO_SIDE

MEASURED = Path(__file__).with_name("measured.json")
# No worse than CUDA's, the reference for how a protected picture may look: higher is better in both.
QUALITY = ("ssim", "psnr_gain")


def make_poison(links: list[tuple[str, dict[str, Any]]], key: Key, **arguments: Any) -> Poison:
    """The method, or the chain, of (name, options) pairs."""
    poisons = [get_poison(name)(key=key, **options, **arguments) for name, options in links]
    return poisons[0] if len(poisons) == 1 else Chain(poisons)


@dataclass(frozen=True)
class Recommendation:
    """What `recommended` answers. ``print`` shows the table it rests on.

    Attributes:
        title: of the method or chain.
        links: its methods in order, each with the options it was measured with.
        worst: the defense under which a victim is most accurate.
        accuracy: that accuracy on clean test pictures, 0..1, lower is better.
        note: what the figures do not say.
        table: every method measured: ``method``, ``worst``, ``accuracies`` (by defense), ``psnr``, ``psnr_gain``
            (after the best gain, dB), ``ssim``; the best first.
        clean: accuracy of victims of clean pictures, by defense.
    """

    title: str
    links: list[tuple[str, dict[str, Any]]]
    worst: str
    accuracy: float
    note: str
    table: list[dict[str, Any]]
    clean: dict[str, float]

    def poison(self, key: Key, **arguments: Any) -> Poison:
        """The method, not fitted yet where it needs a fit.

        Args:
            key: the private key.
            arguments: for every link, such as ``image_key=`` and ``classes=``.
        """
        return make_poison(self.links, key, **arguments)

    def __str__(self) -> str:
        columns = list(self.clean)
        widths = [max(len(name), 6) for name in columns]
        titles = [f"{name:>{width}}" for name, width in zip(columns, widths, strict=True)]
        lines = [f"{'':24} {'worst':>6}  {'  '.join(titles)}  {'SSIM':>6}  {'PSNR':>6}"]
        rows: list[tuple[str, float, dict[str, float], dict[str, Any] | None]] = [
            ("clean", max(self.clean.values()), self.clean, None),
            *((row["method"], row["accuracies"][row["worst"]], row["accuracies"], row) for row in self.table),
        ]
        for name, worst, accuracies, row in rows:
            values = "  ".join(
                f"{100 * accuracies[column]:{width}.1f}" for column, width in zip(columns, widths, strict=True)
            )
            quality = f"{row['ssim']:6.3f}  {row['psnr_gain']:6.1f}" if row else f"{'-':>6}  {'-':>6}"
            mark = "*" if name == self.title else " "
            lines.append(f"{mark}{name:23} {100 * worst:6.1f}  {values}  {quality}")
        return "\n".join(
            [
                f"{self.title}: at most {100 * self.accuracy:.1f} %, under {self.worst}.",
                "Accuracy on clean test pictures in %, by the victim's training; PSNR in dB after the best gain.",
                *lines,
                self.note,
            ]
        )


def recommended(image_size: int | tuple[int, int]) -> Recommendation:
    """The method or chain whose highest accuracy over the measured defenses is lowest.

    Only what costs no more quality than CUDA is in the choice: mean SSIM and PSNR after the best gain no lower. The
    measurements are of 32 x 32 pictures (CIFAR-10, 10,000 rows, a ResNet-9, one key). From 72 pixels on CUDA uses other
    filters, of which only plain training and JPEG were measured: there the answer is CUDA alone.

    Args:
        image_size: the shorter side in pixels, or (height, width).

    Raises:
        ValueError: a size below 1.
    """
    side = min(image_size) if isinstance(image_size, tuple) else image_size
    if side < 1:
        raise UsageError(f"image_size is at least 1 pixel, got {image_size!r}")
    measured = json.loads(MEASURED.read_text())
    table = sorted(measured["methods"], key=lambda row: row["accuracies"][row["worst"]])
    (cuda,) = [row for row in table if row["method"] == "cuda"]
    if side >= HALO_SIDE:
        best = cuda
        note = (
            "The figures are of 32 x 32 pictures. Pictures of this size get spread filters, whose strength is measured "
            "under plain training and JPEG only (docs/photographs.md); chains were not measured there."
        )
    else:
        best = next(row for row in table if all(row[name] >= cuda[name] for name in QUALITY))
        note = (
            f"Measured at 32 x 32, one key, {len(measured['clean'])} kinds of training; * is the lowest of those that "
            "look no worse than CUDA. Other keys and other defenses may do better: docs/measurements.md."
        )
    links = [(name, dict(options)) for name, options in best["links"]]
    accuracy = best["accuracies"][best["worst"]]
    return Recommendation(best["method"], links, best["worst"], accuracy, note, table, measured["clean"])
