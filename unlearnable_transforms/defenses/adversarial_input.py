"""Adversarial examples of another network as a transform of all pictures, in training and in the test."""

from typing import Literal

import torch
from torch import Tensor

from ..errors import UsageError
from ..params import param
from ..training.attacks import pgd, random_start, summed_cross_entropy
from ..training.loop import train
from ..training.model import PixelModel, native_bf16, to_pixels
from ..victims import build_victim
from .base import WHITE, Defense, Setting, register_defense

TEST_BATCH = 500


@register_defense("adversarial-input")
class AdversarialInput(Defense):
    """Experimental. Each picture is replaced by an adversarial example of an external, ordinary network, far on the way
    to the class that this one finds least likely; the victim learns from such pictures and is tested on such (Xiao and
    Zheng, "One Man's Trash Is Another Man's Treasure", CVPR 2020). Costs about steps + 1 plain trainings, one more for
    the external network, and steps at each test. Nobody published results on unlearnable data.

    The external network is of the victim's kind and trained by its recipe: a reading of ours, as is the step size. One
    that learnt from protected pictures follows the shortcut, too; one that learnt from clean ones assumes that there
    are such. Report both. Transforms of the input seldom withstand an attack that knows them (Athalye, Carlini and
    Wagner, ICML 2018, arXiv 1802.00420).
    """

    external: Literal["protected", "clean"] = param(
        "what the external network learns from: the protected training set, or the attacker's own clean pictures",
        default="protected",
    )
    eps: float = param("L-inf radius", default=0.2, low=0, unit=WHITE)
    steps: int = param("of the attack", default=13, low=1)
    step_size: float | None = param("none is 2.5 * eps / steps", default=None)
    start: bool = param("whether each attack begins at a random place of the ball", default=True)

    def _prepare(self) -> None:
        self.needs_clean = self.external == "clean"

    def prepare(self, images: Tensor, labels: Tensor, setting: Setting) -> Tensor:
        """Trains the external network; the pictures stay as they are until each batch."""
        learnt = images, labels
        if self.external == "clean":
            if setting.clean is None:
                raise UsageError(f'{self.name} with external="clean" trains on clean pictures: give some')
            learnt = setting.clean
        start = setting.generator("external network").initial_seed()
        net = build_victim(setting.victim, setting.num_classes, setting.image_size, start)
        train(net, *learnt, recipe=setting.recipe, seed=setting.seed, device=setting.device)
        bf16 = native_bf16(setting.device) if setting.recipe.bf16 is None else setting.recipe.bf16
        self._model = PixelModel(net, bf16=bf16)
        return images

    def perturb(self, model: PixelModel, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """float (B, 3, H, W) in [0, 1] -> the same, at most eps away. The victim has no say in it."""
        with torch.no_grad():
            target = self._model(pixels).argmin(1)
        distance = summed_cross_entropy(target)
        return pgd(
            self._model, pixels, lambda logits: -distance(logits), norm="linf", eps=self.eps, steps=self.steps,
            step_size=self.step_size,
            start=random_start(pixels, generator, norm="linf", eps=self.eps) if self.start else None,
        )  # fmt: skip

    def test(self, images: Tensor, setting: Setting) -> Tensor:
        """uint8 (N, 3, H, W) -> float32, transformed by the same network from starts of the training's seed."""
        generator = setting.generator("external starts")
        device = setting.device
        parts = [to_pixels(part.to(device)) for part in images.split(TEST_BATCH)]
        return torch.cat([self.perturb(self._model, part, part, generator).float() for part in parts]).to(images.device)
