"""A tiny victim that can start from weights, as EfficientNet-Lite does, without a package that carries them."""

from torch import nn

from unlearnable_transforms.victims import register_victim
from unlearnable_transforms.victims.pretrained import started


@register_victim("tiny-weights")
def tiny_weights(num_classes: int, image_size: int, weights: str | None = None) -> nn.Module:
    """Its weights are what its constructor draws under the seed of ``build_victim``: the same in every process."""
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, num_classes),
    )  # fmt: skip
    return started(net, weights, (0.5,) * 3, (0.5,) * 3)
