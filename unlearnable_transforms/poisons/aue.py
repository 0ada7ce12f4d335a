"""AUE: augmented unlearnable examples (Wang, Zhu and Gao, NeurIPS 2024, arXiv 2402.04010).

    min over theta, min over |delta| <= eps of E over t ~ A_s  CE(f(t(x + delta)), y)

EM, with the augmentations A_s of contrastive learning between the noise and the surrogate, in the steps of both: a
random part enlarged, a flip, brightness, contrast, saturation, hue, grayscale. Noise that withstands them is meant for
trainers that learn with labels and for such that learn without (SimCLR and its kin).

The paper keeps the noise of each image and goes on with it, 5 steps of eps / 10 in each of 60 epochs; here, as in EM,
noise of single images starts anew at each step of the surrogate, with steps that reach across the ball, and more of
them at the end. The paper's weight decay is 1e-4 and its rate follows a cosine; here they are those of all methods.
"""

from typing import ClassVar

from torch import Tensor

from ..params import param
from ..training.transforms import ContrastiveRanges, contrastive
from .base import register
from .em import EMPoison
from .optimised import Batch, Settings


@register("aue")
class AUEPoison(EMPoison):
    """Noise that leaves nothing to learn, also under the augmentations of contrastive learning."""

    paper = "AUE: augmented unlearnable examples (Wang, Zhu and Gao, NeurIPS 2024, arXiv 2402.04010)"
    presets: ClassVar = {
        "paper": Settings(steps=23_460, noise_steps=5, final_noise_steps=100, augment="contrastive"),
        "fast": Settings(
            steps=1000, noise_steps=5, final_noise_steps=30, warmup=0.05, cuts=(0.8,), augment="contrastive"
        ),
        "cpu": Settings(
            surrogate="resnet9-screen", steps=300, noise_steps=5, final_noise_steps=15, warmup=0.05, cuts=(0.8,),
            augment="contrastive",
        ),
    }  # fmt: skip

    strength: float = param(
        "s of the augmentations; the paper takes 0.6 for CIFAR-10 and 1 for CIFAR-100",
        default=ContrastiveRanges.strength, above=0, high=1,
    )  # fmt: skip

    def _transform(self, pixels: Tensor, batch: Batch) -> Tensor:
        if batch.settings.augment == "contrastive":
            return contrastive(pixels, batch.generator, strength=self.strength)
        return super()._transform(pixels, batch)
