"""AugMix, plain and with boundary mining around it."""

import torch
from torch import Generator, Tensor
from torchvision.transforms import v2

from ..params import param
from ..training.attacks import attacking
from ..training.loop import LossAndLogits
from ..training.model import PixelModel
from ..training.transforms import each_image
from .base import Defense, Setting, register_defense
from .bullet import Mining


@register_defense("augmix")
class AugMix(Defense):
    """Views of each image, mixed of chains of random operations, on which the prediction must agree with that on the
    image (Hendrycks et al., ICLR 2020, arXiv 1912.02781, section 3; operations are torchvision's, without those of
    corruption benchmarks). Costs views + 1 plain trainings, and the making of the views.

    With ``bullet`` the views go where they change something (after Hua et al., NeurIPS 2021, arXiv 2109.14707, which
    mines AugMix, too; how, is our reading): an image of the boundary has all, a robust one ``robust_views``, an outlier
    ``outlier_views``; see :class:`~.bullet.Mining`. Experimental: nobody published results on unlearnable data.
    """

    views: int = param("mixed views of each image", default=2, low=1)
    beta: float = param("weight of the Jensen-Shannon divergence between the predictions", default=12.0, low=0)
    bullet: bool = param("mine the boundary", default=False)
    robust_views: int = param("of robust images, with bullet", default=1, low=0)
    outlier_views: int = param("of outliers, with bullet", default=0, low=0)

    def prepare(self, images: Tensor, labels: Tensor, setting: Setting) -> Tensor:
        self.mining = Mining()
        return super().prepare(images, labels, setting)

    def loss(self, model: PixelModel, pixels: Tensor, labels: Tensor, generator: Generator) -> LossAndLogits:
        """(scalar loss, logits of the images themselves)."""
        counts = self._counts(model, pixels, labels)
        rows = torch.arange(len(pixels), device=pixels.device).repeat_interleave(counts)
        mixed = each_image(v2.AugMix(all_ops=False), pixels[rows], generator) if len(rows) else pixels[:0]
        logits = model(torch.cat([pixels, mixed]))
        clean, others = logits[: len(pixels)], logits[len(pixels) :]
        right = clean.argmax(1) == labels
        wrong = torch.zeros_like(counts).index_add_(0, rows, (others.argmax(1) != labels[rows]).to(counts.dtype))
        self.mining.observe(right, wrong == 0)
        divergence = jensen_shannon(clean, others, rows).mean()
        return self.cross_entropy(clean, labels) + self.beta * divergence, clean

    def _counts(self, model: PixelModel, pixels: Tensor, labels: Tensor) -> Tensor:
        """How many views each image gets, int64 (B,)."""
        counts = torch.full((len(pixels),), self.views, device=pixels.device)
        if self.bullet:
            with attacking(model.net), torch.no_grad():
                outliers, _, robust = self.mining.groups(model(pixels).softmax(1), labels)
            counts[outliers], counts[robust] = self.outlier_views, self.robust_views
        return counts


def jensen_shannon(logits: Tensor, others: Tensor, rows: Tensor) -> Tensor:
    """Jensen-Shannon divergence (B,) between the predictions on each image and on its views; 0 where it has none.

    Shape: logits (B, classes), of the views (R, classes); ``rows``, int64 (R,), says which image each view is of.
    """
    counts = 1 + torch.bincount(rows, minlength=len(logits))
    middle = logits.softmax(1).index_add(0, rows, others.softmax(1)) / counts[:, None]
    own = _entropy(logits).index_add(0, rows, _entropy(others)) / counts
    return -(middle * middle.clamp_min(1e-7).log()).sum(1) - own


def _entropy(logits: Tensor) -> Tensor:
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1)
