"""Early stopping by clean validation pictures (Sandoval-Segura et al., CVPR-W 2022, arXiv 2204.08615)."""

import math

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..training.model import accuracy
from .base import Defense, Setting, register_defense


@register_defense("early-stop")
class EarlyStop(Defense):
    """Keeps the weights of the epoch with the highest accuracy on the attacker's own clean pictures; of equal ones, the
    first. Some protections are learned after the pictures are.

    The best epoch by the test set is an oracle; this one is not, and it costs the attacker labelled clean pictures.
    After the training, ``accuracies`` lists what was measured and ``best_epoch`` is the one kept, from 1.
    """

    needs_clean = True

    def prepare(self, images: Tensor, labels: Tensor, setting: Setting) -> Tensor:
        if setting.clean is None:
            raise UsageError("early-stop chooses the epoch by clean pictures: give some")
        self.accuracies: list[float] = []
        self.best_epoch = 0
        return super().prepare(images, labels, setting)

    def network(self, net: nn.Module, setting: Setting) -> nn.Module:
        self._net = net
        self._best: dict[str, Tensor] = {}
        return net

    def on_epoch(self, epoch: int) -> None:
        if epoch > 1:
            self._measure()  # the epoch before, which is complete now

    def finish(self, net: nn.Module, setting: Setting) -> None:
        self._measure()
        net.load_state_dict(self._best)
        del self._net, self._best  # an instance that is kept, keeps no network

    @torch.no_grad()
    def _measure(self) -> None:
        assert self.setting.clean is not None
        measured = accuracy(self._net, *self.setting.clean, bf16=self.setting.recipe.bf16)
        if measured > max(self.accuracies, default=-math.inf):
            self.best_epoch = len(self.accuracies) + 1
            self._best = {name: value.clone() for name, value in self._net.state_dict().items()}
        self.accuracies.append(measured)
