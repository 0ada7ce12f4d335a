"""Defenses at test time alone."""

import torch
from torch import Tensor, nn

from ..params import param
from ..training.model import predict
from .base import Defense, Setting, register_defense


@register_defense("bn-test")
class BatchNormOfTest(Defense):
    """BatchNorm takes its statistics from the test images in place of the training images.

    Training images that are all filtered have other means and deviations than clean test images; this is the simplest
    adaptation to such a shift (Schneider et al., NeurIPS 2020, arXiv 2006.16971). It needs many test images at once.
    """

    batch_size: int = param("test images whose statistics are taken together", default=500, low=2)

    def predict(self, net: nn.Module, images: Tensor, setting: Setting) -> Tensor:
        """float (N, num_classes) logits; the network keeps its own statistics."""
        layers = [layer for layer in net.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        kept = [(layer.running_mean, layer.running_var) for layer in layers]
        batches = list(images.split(self.batch_size))
        if len(batches) > 1 and len(batches[-1]) < self.batch_size // 2:
            batches[-2:] = [torch.cat(batches[-2:])]
        try:
            for layer in layers:
                layer.running_mean = layer.running_var = None  # evaluation mode then uses the batch
            return torch.cat([predict(net, batch, batch_size=len(batch)) for batch in batches])
        finally:
            for layer, (mean, variance) in zip(layers, kept, strict=True):
                layer.running_mean, layer.running_var = mean, variance
