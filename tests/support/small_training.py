"""What the tests of defenses during training share: noise in ten colours, and a network that records what it sees."""

from dataclasses import replace

import pytest
import torch
from conftest import seeded
from torch import nn

from unlearnable_transforms.defenses import get_defense
from unlearnable_transforms.defenses.base import Setting
from unlearnable_transforms.training.loop import DIGITS
from unlearnable_transforms.training.model import PixelModel
from unlearnable_transforms.victims import build_victim

RECIPE = replace(DIGITS, epochs=4, batch_size=16)
LABELS = torch.arange(12) % 10


def random_pixels(seed: int = 1) -> torch.Tensor:
    return torch.rand(12, 3, 8, 8, generator=seeded(seed))


def coloured(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise in ten colours, which are the classes."""
    labels = torch.arange(count) % 10
    colours = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1], [1, 0, 0], [1, 0, 1], [1, 1, 0], [1, 1, 1],
                            [0, 0, 2], [2, 0, 0]])  # fmt: skip
    noise = torch.randint(60, (count, 3, 8, 8), generator=seeded(seed))
    return (noise + 90 * colours[labels].view(-1, 3, 1, 1)).byte(), labels


def make_setting(**changes) -> Setting:
    setting = Setting(10, 8, "smallcnn", RECIPE, seed=0, clean=coloured(200, seed=5))
    return replace(setting, **changes)


def make_ready(name: str, setting: Setting | None = None, **arguments):
    defense = get_defense(name)(**arguments)
    defense.prepare(*coloured(12, seed=0), setting or make_setting())
    return defense


class Recorder(PixelModel):
    """A pixel model that keeps what it was given, and in which mode."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, bf16=False)
        self.seen: list[torch.Tensor] = []

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        self.seen.append(pixels.detach().clone())
        return super().__call__(pixels)


@pytest.fixture(name="model")
def recording_model() -> Recorder:
    net = build_victim("smallcnn", 10, 8, 3)
    net(random_pixels(seed=2))  # BatchNorm statistics that are not the initial ones
    return Recorder(net)
