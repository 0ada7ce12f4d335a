"""Dilution: the trainer owns a few clean images of the same classes and mixes them in."""

import torch
from torch import Tensor

from ..errors import UsageError
from ..params import param
from .base import Defense, Setting, register_defense


@register_defense("dilution")
class Dilution(Defense):
    """Clean images of the attacker are added to the protected ones, and all are trained on alike (BridgePure, Wang et
    al. 2024, arXiv 2412.21061, table 6: 500 or 4,000 of 40,000 for CIFAR-10).
    """

    needs_clean = True

    count: int = param("clean images added, the first of those that the attacker has", default=500, low=1)

    def rows(self, images: Tensor, labels: Tensor, setting: Setting) -> tuple[Tensor, Tensor]:
        """uint8 (N, 3, H, W) and int64 (N,) -> N + count of both."""
        if setting.clean is None or len(setting.clean[0]) < self.count:
            having = 0 if setting.clean is None else len(setting.clean[0])
            raise UsageError(f"dilution adds {self.count} clean images, the attacker has {having}")
        clean, marks = setting.clean
        return torch.cat([images, clean[: self.count]]), torch.cat([labels, marks[: self.count]])
