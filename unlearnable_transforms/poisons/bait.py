"""BAIT: noise of each class that pulls images of other classes to it, in trained networks; after Li, Xu, Cai, Fang, Wu,
Lao, Ling and Wang, *When Priors Backfire*, ICLR 2026, arXiv 2603.04731.

A network with trained weights sees the content of a photograph at once and needs no shortcut. So the noise of a class
is made to overrule content: with the noise of class c, images of *other* classes are to be taken for c, by a network
that has just adapted to the protected images.

    D[c] = 0 for every class c;  f = a network with ImageNet weights and a fitted last layer
    for each step:
        f' = f - rate * gradient of CE(f(t(x0 + D[y0])), y0)      the look-ahead: one SGD step on half of the batch
        K times, for the images x of the other half:
            c = a class other than that of x                      see ``stages``
            D = Adam step down CE(f'(t(x + D[c])), c), within eps
        f  = SGD step on CE(f(t(x + D[y])), y)                    on the whole batch
    the noise of an image is D[y]

From the paper and its public code (github.com/zhli-cs/BAIT, Apache-2.0) come the loss, the look-ahead and the three
stages. Ours are: no generator network, D itself is what Adam changes; surrogates that are several and of another kind;
a last layer that is fitted before; the transform t; the look-ahead counts as a constant when D changes; and the two
halves of a batch in place of passes over the whole data set. The paper's figures therefore do not hold for this class.
"""

import copy
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError
from ..params import param
from .base import register
from .classwise import ClasswisePoison
from .optimised import Batch, Settings
from .surrogate import Model, Surrogate


@register("bait")
class BAITPoison(ClasswisePoison):
    """Noise of each class that pulls images of other classes to it, in networks that start from trained weights."""

    paper = (
        "BAIT, in a form of this library without a generator network (after Li, Xu, Cai, Fang, Wu, Lao, Ling and Wang, "
        "ICLR 2026, arXiv 2603.04731)"
    )
    presets: ClassVar = {
        "photographs": Settings(
            surrogates=("efficientnet_lite0", "efficientnet_lite1"), weights="imagenet", steps=40, batch_size=32,
            rate=0.01, cuts=(), noise_steps=3, noise_step_size=1 / 255, augment="published",
        ),
    }  # fmt: skip

    preset: str = param(
        "how much work the fit is, see the method's page; single settings replace its values", default="photographs",
        choices=lambda cls: list(cls.presets),
    )  # fmt: skip
    stages: tuple[float, ...] = param(
        "shares of the steps after which c, the class that an image is pulled to, is a random one, and after which "
        "it is the least likely one; before, it is the likeliest wrong one",
        default=(1 / 3, 2 / 3), low=0, high=1,
    )  # fmt: skip

    def _prepare(self) -> None:
        super()._prepare()
        if len(self.stages) != 2 or self.stages[0] > self.stages[1]:
            raise UsageError(f"stages are two shares in rising order, such as 0.33 and 0.67, got {self.stages}")

    def _noise(self, surrogate: Surrogate, batch: Batch) -> Tensor:
        half = len(batch.x) // 2
        models = self._models(surrogate, _part(batch, slice(half)))
        others = _part(batch, slice(half, None))
        for model in models:
            model.net.eval()
        with torch.no_grad():
            likely = torch.stack([model(others.x).softmax(1) for model in models]).mean(0)
        for number in range(batch.settings.noise_steps):
            count = surrogate.step * batch.settings.noise_steps + number + 1
            target = self._pulled_to(likely, others, surrogate.step / batch.settings.steps, count)
            self._lower(models, replace(others, y=target), count)
        for model, later in zip(surrogate.models, models, strict=True):  # the passes of a copy count as the network's
            model.forward_images += later.forward_images
            model.backward_images += later.backward_images
        return self._noise_kept(surrogate, batch)

    def _models(self, surrogate: Surrogate, batch: Batch) -> list[Model]:
        """The surrogates as one SGD step on the protected batch would leave them; they themselves stay as they are."""
        z = self._transform(batch.x + self._noise_kept(surrogate, batch), batch)
        ahead = []
        for model in surrogate.models:
            later = Model(copy.deepcopy(model.net).train(), bf16=model.bf16)
            parameters: list[Tensor] = list(later.net.parameters())
            with torch.enable_grad():
                gradients = torch.autograd.grad(F.cross_entropy(later(z), batch.y), parameters)
            with torch.no_grad():
                torch._foreach_sub_(parameters, gradients, alpha=batch.settings.rate)
            ahead.append(later)
        return ahead

    def _pulled_to(self, likely: Tensor, batch: Batch, progress: float, count: int) -> Tensor:
        """A class other than its own for each image, (B,).

        Args:
            likely: probabilities (B, classes).
            progress: in [0, 1) of the steps.
            count: of Adam's steps, from 1 on.
        """
        if self.stages[0] <= progress < self.stages[1]:
            drawn = self._in_turn(batch, count)
            return torch.where(drawn == batch.y, (drawn + 1) % batch.classes, drawn)
        own = F.one_hot(batch.y, batch.classes).bool()
        if progress < self.stages[0]:
            return likely.masked_fill(own, -1).argmax(1)
        return likely.masked_fill(own, 2).argmin(1)


def _part(batch: Batch, rows: slice) -> Batch:
    return replace(batch, x=batch.x[rows], y=batch.y[rows], grey=batch.grey[rows])
