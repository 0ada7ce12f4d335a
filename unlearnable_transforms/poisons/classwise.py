"""One pattern of noise for each class, which Adam changes: what BAIT and UC share.

    D[c] = 0 and o[c] = 0 for every class c
    for a batch of images x, and a class c for each of them:
        D, o = Adam step down the mean of loss(f(t(x + D[c] + o[c])), c),  |D| <= eps, |o| <= colour
    the noise of an image is D[y] + o[y]

o is one number for each channel, a shift of colour, which JPEG, blur and resizing leave alone. It is an option, and has
a bound of its own: |delta| <= eps + colour. After the colour branch of DUNE (arXiv 2605.01718), which searches for the
shift alone, by a swarm of particles.
"""

import torch
from torch import Tensor

from ..errors import UsageError
from ..noise.pictures import Pictures
from ..params import param
from ..sample import class_value
from ..training.attacks import attacking
from .optimised import Batch, OptimisedPoison
from .surrogate import Model, Surrogate

BETAS, TINY = (0.9, 0.999), 1e-8  # of Adam
PATTERN, COLOUR = "", "colour_"  # what the names of their tensors begin with


class ClasswisePoison(OptimisedPoison):
    """Base of the methods with one pattern of noise for each class, changed by Adam."""

    colour: int = param(
        "most by which the noise of a class shifts a channel as a whole, beside what eps allows: a pixel changes by "
        "at most 255 * eps + colour levels. 0: no shift",
        default=0, low=0, high=126, unit="in levels of 255", omit=True,
    )  # fmt: skip

    def _prepare(self) -> None:
        super()._prepare()
        if not self._uses_weights:
            raise UsageError(
                f'{self.name.upper()} needs surrogates with weights: leave weights= out, or give weights="imagenet"'
            )
        if self.levels > 127:
            raise UsageError(f"noise has at most 127 levels, eps and colour together; got {self.levels}")

    @property
    def bound(self) -> float:
        return self.eps + self.colour / 255

    def _parts(self) -> dict[str, float]:
        """What the noise of a class is the sum of, with the bound of each."""
        return {PATTERN: self.eps, COLOUR: self.colour / 255} if self.colour else {PATTERN: self.eps}

    def _first_state(self, pictures: Pictures) -> dict[str, Tensor]:
        """The noise of each class, (classes, 3, height, width), its shift of colour, (classes, 3, 1, 1), and Adam's two
        means of the gradients of both."""
        sizes = {PATTERN: pictures.size, COLOUR: (1, 1)}
        return {
            part + name: torch.zeros(len(pictures.classes), 3, *sizes[part])
            for part in self._parts()
            for name in ("delta", "mean", "square")
        }

    def _noise_kept(self, surrogate: Surrogate, batch: Batch) -> Tensor:
        return self._sum([batch.state[part + "delta"] for part in self._parts()], batch)

    def _sum(self, parts: list[Tensor], batch: Batch) -> Tensor:
        """The noise of a batch, made of the parts of all classes."""
        pattern, *colour = [part[batch.y] for part in parts]
        return self._project(sum(colour, start=pattern), batch)

    def _lower(self, models: list[Model], batch: Batch, count: int) -> None:
        """One step of Adam, its ``count``-th, down the mean loss of images with the noise of classes ``batch.y``."""
        state, parts = batch.state, self._parts()
        leaves = [state[part + "delta"].clone().requires_grad_() for part in parts]
        with torch.enable_grad():
            z = self._transform(batch.x + self._sum(leaves, batch), batch)
            total = torch.zeros((), device=z.device)
            for model in models:
                with attacking(model.net):
                    total = total + self._loss(model, z, batch).mean() / len(models)
            gradients = torch.autograd.grad(total, leaves)
        step_size = batch.settings.noise_step_size or 2 * self.eps / batch.settings.noise_steps
        for (part, bound), gradient in zip(parts.items(), gradients, strict=True):
            delta, mean, square = (state[part + name] for name in ("delta", "mean", "square"))
            mean.lerp_(gradient, 1 - BETAS[0])
            square.lerp_(gradient.square(), 1 - BETAS[1])
            mean, square = mean / (1 - BETAS[0] ** count), square / (1 - BETAS[1] ** count)
            delta.sub_(step_size * (bound / self.eps) * mean / (square.sqrt() + TINY)).clamp_(-bound, bound)

    def _in_turn(self, batch: Batch, count: int) -> Tensor:
        """A class for each image, (B,): all classes go round in an order that the key draws, so that none is left out.

        Args:
            count: of Adam's steps, from 1 on.
        """
        order = torch.from_numpy(self._stream("classes").permutation(batch.classes)).to(batch.y.device)
        places = torch.arange(len(batch.y), device=batch.y.device) + count * len(batch.y)
        return order[places % batch.classes]

    def _finished(self, surrogate: Surrogate, pictures: Pictures) -> None:
        """Refuse to go on where the images of a class would get no noise."""
        moved = surrogate.state["mean"].abs().amax((1, 2, 3)).cpu() > 0
        if missing := [pictures.classes[label] for label in pictures.labels.unique() if not moved[label]]:
            raise UsageError(
                f"no image was pulled to {len(missing)} of {len(pictures.classes)} classes, which have no noise "
                f"therefore; the first is {class_value(missing[0])!r}: give more steps or a larger batch_size"
            )
