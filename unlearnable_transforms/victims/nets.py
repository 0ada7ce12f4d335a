"""Small victim networks for measurements that must be quick on a CPU; networks as functions of pixels."""

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

    Args:
        num_classes: number of logits.
        widths: channels after the stem and after each of the three stages.
        pool: global pooling before the linear layer, "avg" or "max"; "avg" was higher on validation rows, at no cost.

    Takes float (B, 3, H, W) with H, W >= 8 (any such size: the last pooling is global); gives (B, num_classes).
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


class PixelModel:
    """A network as a function of pixels: float (B, 3, H, W) in [0, 1] -> float32 logits (B, classes).

    Normalises with the network's own `pixel_mean` and `pixel_std`, runs in bfloat16 where asked, and counts the
    images that go forward and backward.
    """

    def __init__(self, net: nn.Module, *, bf16: bool) -> None:
        self.net, self.bf16 = net, bf16
        self.forward_images = self.backward_images = 0

    def __call__(self, pixels: Tensor) -> Tensor:
        mean, std = (b.view(1, 3, 1, 1) for b in (self.net.get_buffer("pixel_mean"), self.net.get_buffer("pixel_std")))
        x = ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.net(x)
        self.forward_images += len(pixels)
        if logits.requires_grad:
            logits.register_hook(self._count_backward)
        return logits.float()

    def _count_backward(self, gradient: Tensor) -> None:
        self.backward_images += len(gradient)


def store_statistics(net: nn.Module, images: Tensor) -> None:
    """Put the mean and standard deviation of each channel, on the scale 0-1, into the network's buffers."""
    if images.is_floating_point():
        net.register_buffer("pixel_mean", images.mean((0, 2, 3)).float())
        net.register_buffer("pixel_std", images.std((0, 2, 3)).float().clamp_min(1 / 255))
        return
    counts = torch.stack([torch.bincount(images[:, c].flatten(), minlength=256) for c in range(3)])
    weights = counts.double() / counts.sum(1, keepdim=True)  # exact, without a float copy of all images
    values = torch.arange(256, device=images.device, dtype=torch.float64) / 255
    mean = weights @ values
    variance = (weights * (values - mean[:, None]) ** 2).sum(1)
    net.register_buffer("pixel_mean", mean.float())
    net.register_buffer("pixel_std", variance.sqrt().clamp_min(1 / 255).float())  # a constant channel: no division by 0


def native_bf16(device: torch.device | str) -> bool:
    """Whether `device` multiplies bfloat16 in hardware: CUDA from Ampere on, and CPUs with AMX or AVX-512 BF16.

    With AVX-512 BF16 alone (an AMD EPYC, one thread) the screen's victim trains 1.5 times as fast as in float32, to
    the same accuracy. Other CPUs get float32.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if hasattr(torch.cpu, "get_capabilities"):
        has = torch.cpu.get_capabilities()
        return bool(has.get("amx_bf16", False) or has.get("avx512_bf16", False))
    return bool(torch.cpu._is_amx_tile_supported())  # before PyTorch had the public question


def predict(
    net: nn.Module,
    images: Tensor,
    *,
    batch_size: int = 500,
    device: torch.device | str | None = None,
    bf16: bool | None = None,
) -> Tensor:
    """Logits, float32 (N, classes) on `device`, of uint8 images (N, 1 or 3, H, W), in evaluation mode.

    `device` None: where the network is. `bf16` None: where the hardware multiplies bfloat16 natively. Raises
    ValueError for a wrong dtype or shape, and for a network that does not carry the statistics of training pixels.
    """
    if not hasattr(net, "pixel_mean"):
        raise ValueError("the network does not carry pixel_mean and pixel_std: train it with train() first")
    device = net.get_buffer("pixel_mean").device if device is None else torch.device(device)
    net.to(device)
    images = _checked_images(images)
    model = PixelModel(net, bf16=native_bf16(device) if bf16 is None else bf16)
    was_training = net.training
    net.eval()
    try:
        with torch.inference_mode():
            return torch.cat([model(to_pixels(part.to(device))) for part in images.split(batch_size)])
    finally:
        net.train(was_training)


def accuracy(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    batch_size: int = 500,
    device: torch.device | str | None = None,
    bf16: bool | None = None,
) -> float:
    """Part of the images, in [0, 1], whose largest logit is at their label. Arguments and errors as `predict`."""
    images, labels = checked(images, labels)
    logits = predict(net, images, batch_size=batch_size, device=device, bf16=bf16)
    return float((logits.argmax(1) == labels.to(logits.device)).double().mean())


def to_pixels(images: Tensor) -> Tensor:
    """Float images in [0, 1], from uint8 in 0-255 or from float, which is passed on."""
    return images if images.is_floating_point() else images.float().div_(255)


def _checked_images(images: Tensor) -> Tensor:
    if not isinstance(images, Tensor) or images.dtype not in (torch.uint8, torch.float32):
        kind = getattr(images, "dtype", type(images).__name__)
        raise ValueError(f"images must be a uint8 tensor (or float32 where 1 is white), got {kind}")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or min(images.shape[2:]) < 8:
        raise ValueError(f"images must be (N, 1 or 3, H >= 8, W >= 8), got {tuple(images.shape)}")
    if len(images) == 0:
        raise ValueError("there are no images")
    if images.is_floating_point() and images.abs().max() > 16:
        raise ValueError(f"images are uint8, or float32 where 1 is white; these go up to {float(images.max()):g}")
    return images.expand(-1, 3, -1, -1)  # one channel: repeated, as a view


def checked(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Images with three channels and their labels, or a ValueError that says what is wrong with them."""
    images = _checked_images(images)
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        got = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"labels must be an int64 tensor of shape ({len(images)},), got {got}")
    if labels.min() < 0:
        raise ValueError(f"labels must not be negative, got {int(labels.min())}")
    return images, labels
