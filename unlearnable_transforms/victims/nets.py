"""Small victim networks, for measurements that must be quick on a CPU. They start as PyTorch's layers do."""

from collections.abc import Callable

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


class Pooled(nn.Module):
    """Convolutions, a global pooling and a linear layer: float (B, 3, H, W), H and W from 8 on -> (B, num_classes)."""

    def __init__(self, features: nn.Sequential, pool: Callable[..., Tensor], width: int, num_classes: int) -> None:
        super().__init__()
        self.features, self.pool = features, pool
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(x), (2, 3)))


@register_victim("resnet9-screen")
def resnet9_screen(num_classes: int, image_size: int) -> nn.Module:
    """ResNet-9 with the stem for small images and three 2x2 poolings. The global pooling is the mean: it was higher on
    validation rows than the maximum, at no cost."""
    features = nn.Sequential(
        conv_block(3, 16),
        conv_block(16, 32, pool=True),
        Residual(32),
        conv_block(32, 64, pool=True),
        conv_block(64, 128, pool=True),
        Residual(128),
    )
    return Pooled(features, torch.mean, 128, num_classes)


@register_victim("smallcnn")
def smallcnn(num_classes: int, image_size: int) -> nn.Module:
    """Three convolution blocks for tiny images such as 8x8 digits."""
    features = nn.Sequential(conv_block(3, 32), conv_block(32, 64, pool=True), conv_block(64, 64))
    return Pooled(features, torch.amax, 64, num_classes)
