"""The literature's victim networks, with a stem that fits the image size.

Up to 64 pixels a network gets the stem that CIFAR papers use: a 3x3 convolution of stride 1 and no pooling, so that 32
pixels reach the last stage as 4. The stem for ImageNet halves the picture twice before the first block; on 32 pixels it
throws the picture away, and a victim that learns little for that reason makes any protection look strong.

Weights start as torchvision and timm draw them, and layers of a small stem by the rule of the network they belong to.
"""

from typing import Any, Literal

from torch import Tensor, nn

from ..errors import UsageError
from .registry import register_victim

SMALL_UP_TO = 64  # pixels


def _is_small(image_size: int) -> bool:
    return image_size <= SMALL_UP_TO


def _models() -> Any:
    """torchvision's networks, imported when one is built: that takes seconds, which protecting must not take."""
    from torchvision import models

    return models


def _small_convolution(layer: nn.Conv2d, fan: Literal["fan_in", "fan_out"]) -> nn.Conv2d:
    """A 3x3 convolution with the channels of ``layer``; its weights start as He et al. 2015 draw them."""
    small = nn.Conv2d(layer.in_channels, layer.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(small.weight, mode=fan, nonlinearity="relu")
    return small


def _resnet(net: Any, image_size: int) -> nn.Module:
    if _is_small(image_size):
        net.conv1 = _small_convolution(net.conv1, "fan_out")
        net.maxpool = nn.Identity()
    return net


@register_victim("resnet18")
def resnet18(num_classes: int, image_size: int) -> nn.Module:
    """ResNet-18 (He et al. 2016). Small: 11.2 M parameters for 10 classes."""
    return _resnet(_models().resnet18(num_classes=num_classes), image_size)


@register_victim("resnet50")
def resnet50(num_classes: int, image_size: int) -> nn.Module:
    """ResNet-50 (He et al. 2016). Small: 23.5 M parameters for 10 classes."""
    return _resnet(_models().resnet50(num_classes=num_classes), image_size)


@register_victim("vgg16-bn")
def vgg16_bn(num_classes: int, image_size: int) -> nn.Module:
    """VGG-16 with BatchNorm (Simonyan and Zisserman 2015). Small: one linear layer behind the convolutions, 14.7 M."""
    _at_least(image_size, 32, "vgg16-bn")  # five poolings
    net = _models().vgg16_bn(num_classes=num_classes)
    if _is_small(image_size):
        net.avgpool = nn.AdaptiveAvgPool2d(1)
        net.classifier = nn.Linear(512, num_classes)
        nn.init.normal_(net.classifier.weight, 0, 0.01)
        nn.init.zeros_(net.classifier.bias)
    return net


@register_victim("densenet121")
def densenet121(num_classes: int, image_size: int) -> nn.Module:
    """DenseNet-121 (Huang et al. 2017). 7.0 M parameters."""
    net = _models().densenet121(num_classes=num_classes)
    if _is_small(image_size):
        net.features.conv0 = _small_convolution(net.features.conv0, "fan_in")
        net.features.pool0 = nn.Identity()
    return net


@register_victim("mobilenetv2")
def mobilenetv2(num_classes: int, image_size: int) -> nn.Module:
    """MobileNetV2 (Sandler et al. 2018). 2.2 M parameters for 10 classes; small: two of five halvings left out."""
    return _halved_less(_models().mobilenet_v2(num_classes=num_classes), image_size)


@register_victim("efficientnetv2-s")
def efficientnetv2_s(num_classes: int, image_size: int) -> nn.Module:
    """EfficientNetV2-S (Tan and Le 2021). 20.2 M parameters for 10 classes; small: two of five halvings left out."""
    return _halved_less(_models().efficientnet_v2_s(num_classes=num_classes), image_size)


def _halved_less(net: nn.Module, image_size: int) -> nn.Module:
    """With the first two convolutions of stride 2 at stride 1, where the images are small."""
    halving = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2)]
    for layer in halving[: 2 * _is_small(image_size)]:
        layer.stride = (1, 1)
    return net


class PreactivationBlock(nn.Module):
    """BatchNorm, ReLU, 3x3 convolution, twice, plus the input (He et al. 2016b), as wide residual networks use it."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        activated = self.norm1(x).relu()
        skip = x if self.shortcut is None else self.shortcut(activated)
        return skip + self.conv2(self.norm2(self.conv1(activated)).relu())


@register_victim("wrn34-10")
def wrn34_10(num_classes: int, image_size: int) -> nn.Module:
    """WRN-34-10 (Zagoruyko and Komodakis 2016). 46.2 M parameters for 10 classes.

    Convolutions start as He et al. 2015 draw them, by their outputs, and biases at zero, as in the authors' code.
    """
    first: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False)]
    if not _is_small(image_size):
        first = [nn.Conv2d(3, 16, 7, 2, padding=3, bias=False), nn.MaxPool2d(3, 2, padding=1)]
    blocks, inputs = [], 16
    for outputs, stride in ((160, 1), (320, 2), (640, 2)):
        for place in range(5):  # (34 - 4) / 6 blocks a group
            blocks.append(PreactivationBlock(inputs, outputs, stride if place == 0 else 1))
            inputs = outputs
    last = [nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    net = nn.Sequential(*first, *blocks, *last, nn.Linear(inputs, num_classes))
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)
    return net


@register_victim("deit-tiny")
def deit_tiny(num_classes: int, image_size: int) -> nn.Module:
    """DeiT-tiny (Touvron et al. 2021), without distillation. 5.4 M parameters; patches of 4 px (small) or 16.

    Raises:
        ImportError: timm is not installed.
    """
    try:
        import timm
    except ImportError:
        raise ImportError(
            "the victim deit-tiny needs timm: pip install timm, or the extra unlearnable-transforms[victims]"
        ) from None
    patch = 4 if _is_small(image_size) else 16
    _at_least(image_size, patch, "deit-tiny")
    if image_size % patch:
        raise UsageError(f"deit-tiny cuts pictures into patches of {patch} px: {image_size} px is no multiple of that")
    return timm.create_model(
        "deit_tiny_patch16_224", pretrained=False, num_classes=num_classes, img_size=image_size, patch_size=patch
    )


def _at_least(image_size: int, least: int, name: str) -> None:
    if image_size < least:
        raise UsageError(f"{name} needs pictures of at least {least} px a side, got {image_size}; resize them")
