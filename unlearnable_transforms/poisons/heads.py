"""The last layer of a surrogate that starts from trained weights, and what a class looks like in its features."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..noise.pictures import Pictures
from ..training.probe import fit_head
from ..training.transforms import Transform, transformed
from ..victims.pretrained import last_linear
from .surrogate import Model

DECAY = 0.1  # of the logistic regression: the defense `last-layer` has the same
BATCH = 64  # images whose features are computed at once
RARE = 0.01  # of the mean: a feature that spreads less over the clean images is not blown up to count as much as others


def add_feature_buffers(net: nn.Module, classes: int) -> None:
    """Make room for what :func:`fit_heads` measures: buffers of the network, so that they are kept with its weights."""
    width = last_linear(net).in_features
    net.register_buffer("feature_mean", torch.zeros(width))
    net.register_buffer("feature_std", torch.ones(width))
    net.register_buffer("class_features", torch.zeros(classes, width))


def fit_heads(models: Sequence[Model], pictures: Pictures, augment: Transform, generator: torch.Generator) -> None:
    """Fit the last layer of each network to clean images: a linear probe on standardised features.

    The networks see each image twice, as it is and through the transform ``augment``, with the same draws. Each gets
    three buffers: ``feature_mean`` and ``feature_std``, (D,), and ``class_features``, (classes, D), the means of the
    classes' standardised features. All else in a network stays as it is.
    """
    device = models[0].net.get_buffer("pixel_mean").device
    labels = pictures.labels.to(device)
    kept: list[list[Tensor]] = [[] for _ in models]
    for model in models:
        model.net.eval()
    with torch.no_grad():
        views: list[Transform] = ["none"] if augment == "none" else ["none", augment]
        for each in views:
            for start in range(0, len(pictures), BATCH):
                pixels = pictures.batch(slice(start, start + BATCH)).to(device).float() / 255
                pixels = transformed(pixels, each, generator)
                for parts, model in zip(kept, models, strict=True):
                    parts.append(model.features(pixels))
    for parts, model in zip(kept, models, strict=True):
        features = torch.cat(parts)
        targets = labels.repeat(len(features) // len(labels))
        mean, std = fit_head(last_linear(model.net), features, targets, DECAY)
        standard = (features - mean) / std
        model.net.get_buffer("feature_mean").copy_(mean)
        model.net.get_buffer("feature_std").copy_(std)
        centres = model.net.get_buffer("class_features")
        for label in range(len(centres)):
            if (targets == label).any():  # a class of the class list may have no image
                centres[label] = standard[targets == label].mean(0)


def feature_distance(model: Model, pixels: Tensor, classes: Tensor) -> Tensor:
    """The mean square of what standardised features differ by from the mean of a class, (B,)."""
    mean, std, centres = map(model.net.get_buffer, ("feature_mean", "feature_std", "class_features"))
    standard = (model.features(pixels) - mean) / std.clamp_min(RARE * std.mean())
    return (standard - centres[classes]).square().mean(1)


def farthest_classes(models: Sequence[Model]) -> Tensor:
    """For each class the one whose mean is farthest in standardised features, by the mean over the networks: int64
    (classes,). Classes without images are nobody's farthest."""
    distances = []
    for model in models:
        centres = model.net.get_buffer("class_features")
        distance = torch.stack([(centres - centre).square().mean(1) for centre in centres])
        distances.append(distance.masked_fill(~centres.any(1), -1))  # without images the mean is 0 in all places
    return torch.stack(distances).mean(0).argmax(1)
