"""The network of airbench94 (Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv 2404.00498), with a fixed
bank of filters in front.

airbench computes its first layer from the training images: it whitens their 2x2 patches, which enlarges directions of
low variance up to 45 times. From protected images that would be another network for each protection, and a table would
compare more than the data. Here the first layer is the same for all: the four 2x2 Haar patterns in three colour
directions, each divided by its standard deviation on clean CIFAR-10, and the negative of each.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .registry import register_victim

WIDTHS = (64, 256, 256)
HAAR = ((1, 1, 1, 1), (1, 1, -1, -1), (1, -1, 1, -1), (1, -1, -1, 1))  # of a 2x2 patch, row by row
COLOURS = ((1, 1, 1), (1, 0, -1), (-1, 2, -1))  # of red, green, blue
# Standard deviations of these twelve on the 2x2 patches of 5,000 clean images of CIFAR-10, normalised by mean and
# standard deviation of each channel.
SPREAD = ((3.1942, 0.8760, 0.4066), (0.6351, 0.0766, 0.0466), (0.5853, 0.0622, 0.0402), (0.2337, 0.0150, 0.0119))
LEAST = 5e-4  # added to each variance, as in airbench


class Shifted(nn.Module):
    """BatchNorm with a bias and without a scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width, eps=1e-12, momentum=0.4, affine=False)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x) + self.bias.view(1, -1, 1, 1)


class Airbench(nn.Module):
    """Float (B, 3, H, W), H and W from 17 on -> (B, classes)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        bank = filter_bank()
        self.filters = nn.Conv2d(3, len(bank), 2)
        self.filters.weight = nn.Parameter(bank, requires_grad=False)
        self.filters.bias = nn.Parameter(torch.zeros(len(bank)))
        blocks: list[nn.Module] = []
        for inputs, outputs in zip((len(bank), *WIDTHS[:-1]), WIDTHS, strict=True):
            blocks += [conv(inputs, outputs), nn.MaxPool2d(2), Shifted(outputs), nn.GELU()]
            blocks += [conv(outputs, outputs), Shifted(outputs), nn.GELU()]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(WIDTHS[-1], num_classes, bias=False)
        with torch.no_grad():
            self.head.weight /= self.head.weight.std()

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.gelu(self.filters(x)))
        return self.head(x.amax((2, 3))) / WIDTHS[-1]


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    """3x3, whose first filters pass their input on."""
    layer = nn.Conv2d(inputs, outputs, 3, padding="same", bias=False)
    with torch.no_grad():
        nn.init.dirac_(layer.weight[:inputs])
    return layer


def filter_bank() -> Tensor:
    """The first layer, float32 (24, 3, 2, 2): twelve filters and their negatives."""
    patterns = torch.tensor(HAAR, dtype=torch.float32).view(4, 1, 1, 2, 2) / 2
    colours = F.normalize(torch.tensor(COLOURS, dtype=torch.float32)).view(1, 3, 3, 1, 1)
    spread = (torch.tensor(SPREAD).square() + LEAST).sqrt().view(4, 3, 1, 1, 1)
    bank = (patterns * colours / spread).flatten(0, 1)
    return torch.cat([bank, -bank])


@register_victim("airbench94")
def airbench94(num_classes: int, image_size: int) -> nn.Module:
    """The network of airbench94 behind a fixed bank of filters: 1.97 M parameters, 118 million multiply-adds for
    32 pixels. The recipe ``speedrun`` is made for it."""
    return Airbench(num_classes)
