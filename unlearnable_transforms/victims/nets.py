"""Small victim networks, for measurements that must be quick on a CPU. They start as PyTorch's layers do."""

from typing import Literal

import torch
from torch import Tensor, nn

from .registry import register_victim


def conv_block(inputs: int, outputs: int, *, pool: bool = False) -> nn.Sequential:
    """3x3 convolution, optional 2x2 max pooling, BatchNorm, ReLU.

    The pooling comes before BatchNorm and ReLU, which then touch a quarter of the memory: these two, not the
    convolutions, are what takes the time on a CPU.
    """
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)]
    if pool:
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Residual(nn.Module):
    """x + two convolution blocks of the same width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_block(width, width), conv_block(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ResNet9(nn.Module):
    """ResNet-9 with the stem for small images and three 2x2 poolings.

    It takes float (B, 3, H, W) with H, W >= 8 (any such size: the last pooling is global) and returns (B, num_classes).

    Args:
        num_classes: number of logits.
        widths: channels after the stem and after each of the three stages.
        pool: global pooling before the linear layer, "avg" or "max"; "avg" was higher on validation rows, at no cost.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        widths: tuple[int, int, int, int] = (16, 32, 64, 128),
        pool: Literal["max", "avg"] = "avg",
    ) -> None:
        super().__init__()
        if pool not in ("max", "avg"):
            raise ValueError(f'pool must be "max" or "avg", got {pool!r}')
        stem, first, second, third = widths
        self.pool = pool
        self.features = nn.Sequential(
            conv_block(3, stem),
            conv_block(stem, first, pool=True),
            Residual(first),
            conv_block(first, second, pool=True),
            conv_block(second, third, pool=True),
            Residual(third),
        )
        self.classifier = nn.Linear(third, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = x.amax((2, 3)) if self.pool == "max" else x.mean((2, 3))
        return self.classifier(x)


class SmallCNN(nn.Module):
    """Three convolution blocks for tiny images such as 8x8 digits. Float (B, 3, H, W) -> (B, num_classes)."""

    def __init__(self, num_classes: int, *, width: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_block(3, width),
            conv_block(width, 2 * width, pool=True),
            conv_block(2 * width, 2 * width),
        )
        self.classifier = nn.Linear(2 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.amax(self.features(x), (2, 3)))


@register_victim("resnet9-screen")
def _resnet9_screen(num_classes: int, image_size: int) -> nn.Module:
    return ResNet9(num_classes)


@register_victim("smallcnn")
def _smallcnn(num_classes: int, image_size: int) -> nn.Module:
    return SmallCNN(num_classes)
