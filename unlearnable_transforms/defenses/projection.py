"""Orthogonal projection away from what a linear model learns (Sandoval-Segura et al., NeurIPS 2023, 2305.19254)."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torchvision.transforms import v2

from ..params import param
from ..pixels import chunk_length
from ..training.loop import LossAndLogits, recipe_augment
from ..training.model import PixelModel, to_pixels
from ..training.transforms import each_image
from .base import Defense, Setting, register_defense
from .mixing import CutMix


@register_defense("orthogonal-projection")
class OrthogonalProjection(Defense):
    """The weights of a linear classifier of the protected pixels span a space, and every training image loses its part
    in it (section 5, algorithm 1); then training with strong augmentation. Test images stay as they are.

    1. Logistic regression W (classes, d) without bias on pixels in [0, 1]: SGD without momentum, learning rate 0.1 and
       a tenth of it after 1/2 and 3/4 of 20 epochs, batches of 1024.
    2. Q (d, classes) orthonormal, from the rows of W; x <- x - Q Q' x, as float, not clipped.
    3. Rotation up to 10 degrees; shear up to 10 degrees and scale 0.8-1.2; brightness, contrast and saturation within
       0.8-1.2, which clips to [0, 1]; the recipe's crop and flip; cutmix in half of the batches.

    The paper trains 50 epochs of SGD 0.1 with weight decay 1e-4 and steps at 1/2 and 3/4; here the recipe is the
    victim's own. Its strong augmentation alone is the control: ``project=False``.
    """

    replaces_augment = True

    project: bool = param("false leaves out steps 1 and 2", default=True)
    strong: bool = param("false leaves out step 3: the recipe's own augmentation and loss", default=True)

    def prepare(self, images: Tensor, labels: Tensor, setting: Setting) -> Tensor:
        """uint8 (N, 3, H, W) -> float32 of that shape, also beyond [0, 1]; without projection as they are."""
        super().prepare(images, labels, setting)
        self._cutmix = CutMix(probability=0.5 if self.strong else 0.0)
        self._cutmix.prepare(images, labels, setting)
        if not self.project:
            return images
        generator = setting.generator("orthogonal projection")
        weights = linear_weights(images, labels, setting.num_classes, generator, device=setting.device)
        return project_out(images, weights)

    def augment(self, images: Tensor, generator: Generator) -> Tensor:
        """(B, 3, H, W) of any dtype -> the same."""
        distort = v2.Compose(
            [
                v2.RandomRotation(10),
                v2.RandomAffine(0, shear=10, scale=(0.8, 1.2)),
                v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
            ]
        )
        images = each_image(distort, images, generator) if self.strong else images
        return recipe_augment(self.setting.recipe)(images, generator)

    def loss(self, model: PixelModel, pixels: Tensor, labels: Tensor, generator: Generator) -> LossAndLogits:
        """(scalar loss, logits of the images that were mixed)."""
        return self._cutmix.loss(model, pixels, labels, generator)


def linear_weights(
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    generator: Generator,
    *,
    epochs: int = 20,
    batch_size: int = 1024,
    lr: float = 0.1,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Weights (num_classes, d) of a logistic regression without bias on pixels in [0, 1], by SGD without momentum.

    Images are (N, C, H, W), d = C * H * W. The rate is divided by 10 after 1/2 and after 3/4 of the epochs.
    """
    bound = images[0].numel() ** -0.5
    weights = torch.empty(num_classes, images[0].numel()).uniform_(-bound, bound, generator=generator).to(device)
    weights.requires_grad_()
    for epoch in range(epochs):
        rate = lr * 0.1 ** ((epoch >= epochs // 2) + (epoch >= epochs * 3 // 4))
        for rows in torch.randperm(len(images), generator=generator).split(batch_size):
            x = to_pixels(images[rows].to(device)).flatten(1)
            (gradient,) = torch.autograd.grad(F.cross_entropy(x @ weights.T, labels[rows].to(device)), weights)
            with torch.no_grad():
                weights -= rate * gradient
    return weights.detach()


def project_out(images: Tensor, weights: Tensor) -> Tensor:
    """Images (N, C, H, W), as float32 in units of 1 = white, without their part in the span of weights (n, d)."""
    basis = torch.linalg.qr(F.normalize(weights).T.double()).Q.float()  # (d, n), orthonormal columns
    parts = []
    for part in images.split(chunk_length(images[0].numel())):
        x = to_pixels(part).to(basis.device).flatten(1)
        parts.append((x - x @ basis @ basis.T).view(part.shape).to(images.device))
    return torch.cat(parts)
