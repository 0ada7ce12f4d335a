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
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError
from ..noise.pictures import Pictures
from ..params import param
from ..sample import class_value
from ..training.attacks import attacking
from ..training.transforms import transformed
from .base import register
from .optimised import Batch, OptimisedPoison, Settings
from .surrogate import Model, Surrogate

BETAS, TINY = (0.9, 0.999), 1e-8  # of Adam


@register("bait")
class BAITPoison(OptimisedPoison):
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
        if not self._uses_weights:
            raise UsageError('BAIT needs surrogates with weights: leave weights= out, or give weights="imagenet"')
        if len(self.stages) != 2 or self.stages[0] > self.stages[1]:
            raise UsageError(f"stages are two shares in rising order, such as 0.33 and 0.67, got {self.stages}")

    def _first_state(self, pictures: Pictures) -> dict[str, Tensor]:
        """The noise of each class, (classes, 3, height, width), and Adam's two means of its gradients."""
        shape = (len(pictures.classes), 3, *pictures.size)
        return {name: torch.zeros(shape) for name in ("delta", "mean", "square")}

    def _noise(self, surrogate: Surrogate, batch: Batch) -> Tensor:
        half = len(batch.x) // 2
        models = self._models(surrogate, _part(batch, slice(half)))
        others = _part(batch, slice(half, None))
        state, step_size = batch.state, batch.settings.noise_step_size or 2 * self.eps / batch.settings.noise_steps
        for model in models:
            model.net.eval()
        with torch.no_grad():
            likely = torch.stack([model(others.x).softmax(1) for model in models]).mean(0)
        for number in range(batch.settings.noise_steps):
            count = surrogate.step * batch.settings.noise_steps + number + 1
            target = self._pulled_to(likely, others, surrogate.step / batch.settings.steps, count)
            gradient = self._gradient(models, others, target)
            state["mean"].lerp_(gradient, 1 - BETAS[0])
            state["square"].lerp_(gradient.square(), 1 - BETAS[1])
            mean, square = state["mean"] / (1 - BETAS[0] ** count), state["square"] / (1 - BETAS[1] ** count)
            state["delta"].sub_(step_size * mean / (square.sqrt() + TINY)).clamp_(-self.eps, self.eps)
        for model, later in zip(surrogate.models, models, strict=True):  # the passes of a copy count as the network's
            model.forward_images += later.forward_images
            model.backward_images += later.backward_images
        return self._noise_kept(surrogate, batch)

    def _noise_kept(self, surrogate: Surrogate, batch: Batch) -> Tensor:
        return self._project(batch.state["delta"][batch.y], batch)

    def _models(self, surrogate: Surrogate, batch: Batch) -> list[Model]:
        """The surrogates as one SGD step on the protected batch would leave them; they themselves stay as they are."""
        z = transformed(batch.x + self._noise_kept(surrogate, batch), batch.settings.augment, batch.generator)
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

    def _finished(self, surrogate: Surrogate, pictures: Pictures) -> None:
        """Refuse to go on where the images of a class would get no noise."""
        pulled = surrogate.state["mean"].abs().amax((1, 2, 3)).cpu() > 0
        if missing := [pictures.classes[label] for label in pictures.labels.unique() if not pulled[label]]:
            raise UsageError(
                f"no image was pulled to {len(missing)} of {len(pictures.classes)} classes, which have no noise "
                f"therefore; the first is {class_value(missing[0])!r}: give more steps or a larger batch_size"
            )

    def _pulled_to(self, likely: Tensor, batch: Batch, progress: float, count: int) -> Tensor:
        """A class other than its own for each image, (B,).

        Args:
            likely: probabilities (B, classes).
            progress: in [0, 1) of the steps.
            count: of Adam's steps, from 1 on. Drawn classes go round in a random order, so that none is left out.
        """
        if self.stages[0] <= progress < self.stages[1]:
            order = torch.from_numpy(self._stream("classes").permutation(batch.classes)).to(batch.y.device)
            places = torch.arange(len(batch.y), device=batch.y.device) + count * len(batch.y)
            drawn = order[places % batch.classes]
            return torch.where(drawn == batch.y, (drawn + 1) % batch.classes, drawn)
        own = F.one_hot(batch.y, batch.classes).bool()
        if progress < self.stages[0]:
            return likely.masked_fill(own, -1).argmax(1)
        return likely.masked_fill(own, 2).argmin(1)

    def _gradient(self, models: Sequence[Model], batch: Batch, target: Tensor) -> Tensor:
        """The gradient of the mean loss of images with the noise of ``target``, by the noise of each class."""
        leaf = batch.state["delta"].clone().requires_grad_()
        with torch.enable_grad():
            z = transformed(batch.x + self._project(leaf[target], batch), batch.settings.augment, batch.generator)
            total = torch.zeros((), device=z.device)
            for model in models:
                with attacking(model.net):
                    total = total + F.cross_entropy(model(z), target) / len(models)
            return torch.autograd.grad(total, leaf)[0]


def _part(batch: Batch, rows: slice) -> Batch:
    return replace(batch, x=batch.x[rows], y=batch.y[rows], grey=batch.grey[rows])
