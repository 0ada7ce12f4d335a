"""UC: noise of each cluster that leads trained networks to the next one; after Zhang, Ma, Yi, Sang,
Jiang, Wang and Xu, *Unlearnable Clusters: Towards Label-agnostic Unlearnable Examples*, CVPR 2023, arXiv 2301.01217.

The noise of a cluster c is made with images of *all* clusters: whatever an image shows, with that noise a network is to
see what the next cluster looks like. It needs no labels, only clusters of similar images, which the library finds with
``labels="auto"``; where there are classes, these take the place of clusters.

    f = a frozen network with ImageNet weights, whose last layer is fitted to the clusters of the clean images
    D[c] = 0 for each of p clusters
    for each step:
        x = a batch of images;  c = a cluster for each of them, all p in turn
        D = Adam step down the mean of loss(f, t(x + D[c]), c + 1 mod p), within eps
    the noise of an image of cluster c is D[c]

Clusters are counted in sorted order. With the features g before the last layer and their means m_c, the losses are:

    "logits"      CE(f(z), c)                               ours
    "divergence"  KL(softmax(m_c) || softmax(g(z)))         the paper's, features taken for logits
    "features"    mean over d of ((g(z) - m_c)_d)^2         of standardised features

From the paper come the next cluster as target and noise that is made with all images. Ours are: the default loss; no
generator networks, D itself is what Adam changes; all clusters at once, where the paper makes one after the other;
surrogates that are several and of another kind; and the transform t. The paper's figures therefore do not hold for this
class.
"""

from dataclasses import replace
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from ..params import param
from .base import register
from .classwise import ClasswisePoison
from .heads import feature_distance
from .optimised import Batch, Settings
from .surrogate import Model, Surrogate


@register("uc")
class UCPoison(ClasswisePoison):
    """Noise of each cluster, or class, that leads networks with trained weights to the next one."""

    paper = (
        "UC: unlearnable clusters, in a form of this library without generator networks (after Zhang, Ma, Yi, Sang, "
        "Jiang, Wang and Xu, CVPR 2023, arXiv 2301.01217)"
    )
    frozen = True
    presets: ClassVar = {
        "photographs": Settings(
            surrogates=("efficientnet_lite0", "efficientnet_lite1"), weights="imagenet", steps=120, batch_size=32,
            noise_steps=1, noise_step_size=1 / 255, augment="published",
        ),
    }  # fmt: skip

    preset: str = param(
        "how much work the fit is, see the method's page; single settings replace its values", default="photographs",
        choices=lambda cls: list(cls.presets),
    )  # fmt: skip
    loss: Literal["logits", "divergence", "features"] = param(
        "what the noise lowers: the cross entropy of the next cluster; or, as the paper, the divergence of the "
        "features, taken for logits, from those of the next cluster; or the distance to these",
        default="logits",
    )  # fmt: skip

    def _target(self, y: Tensor, classes: int, state: dict[str, Tensor]) -> Tensor:
        return (y + 1) % classes

    def _loss(self, model: Model, pixels: Tensor, batch: Batch) -> Tensor:
        if self.loss == "logits":
            return super()._loss(model, pixels, batch)
        target = self._target(batch.y, batch.classes, batch.state)
        if self.loss == "features":
            return feature_distance(model, pixels, target)
        mean, std, centres = map(model.net.get_buffer, ("feature_mean", "feature_std", "class_features"))
        centre = centres[target] * std + mean  # not standardised
        return F.kl_div(model.features(pixels).log_softmax(1), centre.softmax(1), reduction="none").sum(1)

    def _noise(self, surrogate: Surrogate, batch: Batch) -> Tensor:
        for number in range(batch.settings.noise_steps):
            count = surrogate.step * batch.settings.noise_steps + number + 1
            self._lower(surrogate.models, replace(batch, y=self._in_turn(batch, count)), count)
        return self._noise_kept(surrogate, batch)
