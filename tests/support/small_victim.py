"""A small untrained victim and twenty pictures for it, which tests of single defenses share."""

import pytest
import torch
from conftest import seeded
from torch import Tensor

from unlearnable_transforms.defenses.base import Setting
from unlearnable_transforms.training.loop import DIGITS
from unlearnable_transforms.training.model import PixelModel, store_statistics
from unlearnable_transforms.victims import build_victim

LABELS = torch.arange(20) % 4
SETTING = Setting(4, 8, "smallcnn", DIGITS, 0)


def pictures() -> Tensor:
    """float (20, 3, 8, 8) in [0.2, 0.8]."""
    return torch.rand(20, 3, 8, 8, generator=seeded(3)) * 0.6 + 0.2


@pytest.fixture(name="model")
def small_model() -> PixelModel:
    net = build_victim("smallcnn", 4, 8)
    store_statistics(net, (pictures() * 255).to(torch.uint8))
    return PixelModel(net, bf16=False)
