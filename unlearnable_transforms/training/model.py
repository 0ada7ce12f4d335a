"""A network as a function of pixels; its predictions and its accuracy."""

import torch
from torch import Tensor, nn

from ..errors import UsageError


class PixelModel:
    """A network as a function of pixels: float (B, 3, H, W) in [0, 1] -> float32 logits (B, classes).

    It normalises with the network's own buffers ``pixel_mean`` and ``pixel_std`` and counts images.

    Args:
        net: takes normalised float (B, 3, H, W).
        bf16: whether to multiply in bfloat16.

    Attributes:
        forward_images, backward_images: how many images went through the network.
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
    """Put the mean and standard deviation of each channel, on the scale 0-1, into a network's buffers.

    These are ``pixel_mean`` and ``pixel_std``, float32 (3,); images are (N, 3, H, W), uint8 or float where 1 is white.
    A network that starts from weights (``keeps_statistics``) normalises as it did before.
    """
    if getattr(net, "keeps_statistics", False):
        return
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
    """Whether a device multiplies bfloat16 in hardware: CUDA from Ampere on, and CPUs with AMX or AVX-512 BF16.

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
    """Logits of a trained network, in evaluation mode.

    Args:
        net: with the buffers ``pixel_mean`` and ``pixel_std``, as training leaves it.
        images: uint8 (N, 1 or 3, H, W), or float32 where 1 is white; H and W at least 8.
        device: None is where the network is.
        bf16: None is bfloat16 where the hardware multiplies it natively.

    Returns:
        float32 (N, classes), on the device.

    Raises:
        ValueError: a wrong dtype or shape, or a network without those buffers.
    """
    if not hasattr(net, "pixel_mean"):
        raise UsageError("the network does not carry pixel_mean and pixel_std: train it with train() first")
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
    """Share of the images, in [0, 1], whose largest logit is at their label.

    Arguments and errors are those of :func:`predict`; labels are int64 (N,).
    """
    images, labels = checked(images, labels)
    logits = predict(net, images, batch_size=batch_size, device=device, bf16=bf16)
    return float((logits.argmax(1) == labels.to(logits.device)).double().mean())


def to_pixels(images: Tensor) -> Tensor:
    """Float images in [0, 1], from uint8 in 0-255 or from float, which is passed on."""
    return images if images.is_floating_point() else images.float().div_(255)


def _checked_images(images: Tensor) -> Tensor:
    if not isinstance(images, Tensor) or images.dtype not in (torch.uint8, torch.float32):
        kind = getattr(images, "dtype", type(images).__name__)
        raise UsageError(f"images must be a uint8 tensor (or float32 where 1 is white), got {kind}")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or min(images.shape[2:]) < 8:
        raise UsageError(f"images must be (N, 1 or 3, H >= 8, W >= 8), got {tuple(images.shape)}")
    if len(images) == 0:
        raise UsageError("there are no images")
    if images.is_floating_point() and images.abs().max() > 16:
        raise UsageError(f"images are uint8, or float32 where 1 is white; these go up to {float(images.max()):g}")
    return images.expand(-1, 3, -1, -1)  # one channel: repeated, as a view


def checked(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Images with three channels, and their labels.

    Raises:
        ValueError: images that are not uint8 (N, 1 or 3, H, W) or float32 where 1 is white, with H and W from 8 on;
            labels that are not int64 (N,) from 0 on.
    """
    images = _checked_images(images)
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        got = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise UsageError(f"labels must be an int64 tensor of shape ({len(images)},), got {got}")
    if labels.min() < 0:
        raise UsageError(f"labels must not be negative, got {int(labels.min())}")
    return images, labels
