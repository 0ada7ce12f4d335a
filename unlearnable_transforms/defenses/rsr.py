"""RSR, robust sparse regularization: noise in the weights, a lasso on them, adversarial training, pruning."""

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize

from ..errors import UsageError
from ..params import param
from ..training.attacks import pgd, random_start, summed_cross_entropy
from ..training.loop import LossAndLogits, Recipe
from ..training.model import PixelModel
from .base import WHITE, Defense, Setting, register_defense


@register_defense("rsr")
class RSR(Defense):
    """Experimental. Half of the loss on images, half on adversarial ones, of a network whose weights carry noise of
    trained amplitudes and are pulled to zero by a lasso; at the end the smallest ones are set to zero (Rakin et al.,
    2019, arXiv 1905.13074; noise and training as in the same group's CVPR 2019 paper, arXiv 1811.09310). Costs about
    steps + 2 plain trainings. Nobody published results on unlearnable data: its clean half lets a shortcut in.

    Our reading, where the text leaves it open: the size of the lasso, no noise on weights that are zero, and none on
    BatchNorm. Noise at test time makes an attack's gradients random: judge robust accuracy without it, too.
    """

    eps: float = param("L-inf radius", default=8 / 255, low=0, unit=WHITE)
    steps: int = param(
        "of the attack, from a random start and away from the network's own answer, so that no label leaks",
        default=7, low=1,
    )  # fmt: skip
    step_size: float | None = param(
        "none is 2.5 * eps / steps; the authors' 0.01 at 0.031 is 2.3 times eps / steps", default=None
    )
    clean_weight: float = param("share of the loss on images as they are", default=0.5, low=0, high=1)
    noise: float = param(
        "amplitude at the start, one for every output channel, in standard deviations of the layer's weights",
        default=0.25, low=0,
    )  # fmt: skip
    lasso: float = param(
        "weight of the sum of all weights' absolute values. What prunes is its product with all learning rates: a "
        "training of few steps needs more",
        default=1e-4, low=0,
    )  # fmt: skip
    sparsity: float = param(
        "share of the weights of all convolutions and linear layers together that are zero in the end, below 1",
        default=0.85, low=0, high=1,
    )  # fmt: skip
    noise_at_test: bool = param("whether the noise stays, as in the paper", default=True)
    plain_share: float = param(
        "first part of the epochs, rounded down, without an attack, below 1", default=5 / 160, low=0, high=1
    )

    def _prepare(self) -> None:
        if 1 in (self.sparsity, self.plain_share):
            raise UsageError(f"sparsity and plain_share are below 1, got {self.sparsity} and {self.plain_share}")

    def recipe(self, recipe: Recipe) -> Recipe:
        self._plain_epochs = int(self.plain_share * recipe.epochs)
        return recipe

    def prepare(self, images: Tensor, labels: Tensor, setting: Setting) -> Tensor:
        self._attacking = False
        return super().prepare(images, labels, setting)

    def network(self, net: nn.Module, setting: Setting) -> nn.Module:
        generator = setting.generator("weight noise")
        for layer in pruned_layers(net):
            parametrize.register_parametrization(layer, "weight", ChannelNoise(layer.weight, self.noise, generator))
        return net

    def on_epoch(self, epoch: int) -> None:
        self._attacking = epoch > self._plain_epochs

    def loss(self, model: PixelModel, pixels: Tensor, labels: Tensor, generator: Generator) -> LossAndLogits:
        """(scalar loss, logits of the clean images)."""
        penalty = self.lasso * sum(weight.abs().sum() for weight in weights(model.net))
        clean = model(pixels)
        value = self.cross_entropy(clean, labels)
        if self._attacking:
            start = random_start(pixels, generator, norm="linf", eps=self.eps)
            adversarial = pgd(
                model, pixels, summed_cross_entropy(clean.argmax(1)), norm="linf", eps=self.eps, steps=self.steps,
                step_size=self.step_size, start=start,
            )  # fmt: skip
            attacked = self.cross_entropy(model(adversarial), labels)
            value = self.clean_weight * value + (1 - self.clean_weight) * attacked
        return value + penalty, clean

    def finish(self, net: nn.Module, setting: Setting) -> None:
        prune(net, self.sparsity)
        set_noise(net, self.noise_at_test)


class ChannelNoise(nn.Module):
    """weight -> weight + amplitude of its output channel * standard deviation of the layer's weights * N(0, 1), drawn
    anew each time the weight is used; zero weights stay zero.

    The amplitude is that of all channels at the start.
    """

    def __init__(self, weight: Tensor, amplitude: float, generator: Generator) -> None:
        super().__init__()
        shape = (len(weight), *[1] * (weight.ndim - 1))
        self.amplitude = nn.Parameter(torch.full(shape, amplitude, device=weight.device))
        self.generator, self.active = generator, True

    def forward(self, weight: Tensor) -> Tensor:
        if not self.active:
            return weight
        noise = torch.randn(weight.shape, generator=self.generator).to(weight)
        return weight + self.amplitude * weight.detach().std() * noise * (weight != 0)


def set_noise(net: nn.Module, active: bool) -> None:
    """Turn the noise in all weights on or off."""
    for layer in net.modules():
        if isinstance(layer, ChannelNoise):
            layer.active = active


def pruned_layers(net: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    """The layers whose weights take part: convolutions and linear ones."""
    return [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def weights(net: nn.Module) -> list[Tensor]:
    """Their trained weights, without noise."""
    return [
        layer.get_parameter("parametrizations.weight.original" if parametrize.is_parametrized(layer) else "weight")
        for layer in pruned_layers(net)
    ]


def prune(net: nn.Module, sparsity: float) -> None:
    """Set the share ``sparsity`` of all these weights to zero, in place: those of the smallest absolute values."""
    values = torch.cat([weight.detach().abs().flatten() for weight in weights(net)])
    count = round(sparsity * len(values))
    if count == 0:
        return
    largest = values.kthvalue(count).values
    with torch.no_grad():
        for weight in weights(net):
            weight.masked_fill_(weight.abs() <= largest, 0)


def sparsity_of(net: nn.Module, below: float = 0.0) -> float:
    """The share of these weights whose absolute value is at most ``below``."""
    values = torch.cat([weight.detach().abs().flatten() for weight in weights(net)])
    return float((values <= below).double().mean())
