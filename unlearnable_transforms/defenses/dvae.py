"""D-VAE: a purifier that is trained on the protected images themselves (Yu, Wang, Xia, Yang, Lu, Tan and Kot, *Purify
Unlearnable Examples via Rate-Constrained Variational Autoencoders*, ICML 2024, arXiv 2405.01460).

A variational autoencoder whose code may hold few bits keeps what images have in common and drops what it cannot afford,
noise first. What noise the images of a class share gets a place of its own: an embedding of the class, which a second
decoder turns into a perturbation p.

    r, p = D_r(z), D_p(embedding of y)        with z ~ q(z | x), the code of an image x of class y
    loss = MSE(r, x) + MSE(clip(r + p), x) + w * max(KL(q(z | x), N(0, I)), rate) + max(MSE(p, 0), 0.002)

    1. train with a low rate;  x <- clip(x - p)                       roughly
    2. train anew on those with a higher rate;  x <- clip(x - p);  x <- r(x)
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]

from ..errors import DivergedError
from ..params import param
from ..training.model import to_pixels
from ..training.transforms import seeded_globally
from .base import Defense, Setting, register_defense

CHUNK = 128  # images at once where nothing is trained
RATE_OF_LEARNING, LARGEST_GRADIENT = 0.005, 5.0  # of Adam, falling along a cosine; norm of all gradients
WEIGHTS = 0.01, 0.5  # w of the KL divergence, in the two stages
ENERGY = 0.002  # of p, mean square of a value: less is not asked for
SETTLING = 1 / 6  # of the epochs, over which the energy of p is free


@register_defense("d-vae")
class DVAE(Defense):
    """Two variational autoencoders are trained on the protected images, one after the other; what they take for noise
    of a class is taken off, and each image is replaced by its reconstruction (Yu et al., ICML 2024, arXiv 2405.01460,
    section 4). It needs labels and no clean images. Test images stay as they are.

    Smaller than in the paper, for two cores at 32 px: ``width`` 32 in place of 128, ``epochs`` 10 in place of 60, and
    one block of ResNet-18 at each of two resolutions in place of its first stages.

    Our reading: the rate counts nats a pixel of the image; the reconstruction is that of the mean code. Ours: the
    decoder of images has BatchNorm, where the paper normalises each image; narrow ones came nearer to the images so.
    """

    costly = True

    epochs: int = param("of each of the two trainings; the paper takes 60", default=10, low=1)
    width: int = param(
        "channels at half the image's resolution, twice as many of the code; the paper takes 128", default=32, low=4
    )
    batch_size: int = param("of both trainings", default=128, low=1)
    rough_rate: float = param("KL divergence below which the first stage is not pushed", default=1.0, above=0)
    rate: float = param("the same of the second stage, whose reconstructions are kept", default=3.0, above=0)

    def prepare(self, images: Tensor, labels: Tensor, setting: Setting) -> Tensor:
        """uint8 (N, 3, H, W) -> uint8 of that shape."""
        super().prepare(images, labels, setting)
        pixels = to_pixels(images)
        for stage, rate in enumerate((self.rough_rate, self.rate)):
            vae = self._trained(pixels, labels, rate, WEIGHTS[stage], f"d-vae, stage {stage + 1}")
            with torch.no_grad():
                noise = vae.noise(torch.arange(setting.num_classes, device=setting.device)).to(pixels.device)
            pixels = torch.cat([
                (part - noise[marks]).clamp_(0, 1)
                for part, marks in zip(pixels.split(CHUNK), labels.split(CHUNK), strict=True)
            ])  # fmt: skip
        with torch.no_grad():
            parts = [vae.image(vae.code(part.to(setting.device))[0]) for part in pixels.split(CHUNK)]
        return torch.cat([(255 * part).round_().byte().to(images.device) for part in parts])

    def _trained(self, pixels: Tensor, labels: Tensor, rate: float, weight: float, title: str) -> "DisentangledVAE":
        """One autoencoder, trained on float pixels, in evaluation mode."""
        setting, generator = self.setting, self.setting.generator(title)
        with seeded_globally(generator):
            vae = DisentangledVAE(setting.num_classes, (pixels.shape[2], pixels.shape[3]), self.width)
        vae.to(setting.device).train()
        optimizer = torch.optim.Adam(vae.parameters(), lr=RATE_OF_LEARNING)
        steps, step = self.epochs * math.ceil(len(pixels) / self.batch_size), 0
        for _ in tqdm(range(self.epochs), title, unit="epochs", disable=None, leave=False):
            for rows in torch.randperm(len(pixels), generator=generator).split(self.batch_size):
                for group in optimizer.param_groups:
                    group["lr"] = RATE_OF_LEARNING * (1 + math.cos(math.pi * step / steps)) / 2
                x, y = pixels[rows].to(setting.device), labels[rows].to(setting.device)
                mean, log_variance = vae.code(x)
                deviation = torch.randn(mean.shape, generator=generator).to(x)
                r, p = vae.image(mean + (log_variance / 2).exp() * deviation), vae.noise(y)
                kl = (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2 / x[:, 0].numel()
                loss = F.mse_loss(r, x) + F.mse_loss((r + p).clamp(0, 1), x) + weight * kl.clamp_min(rate)
                if step >= SETTLING * steps:
                    loss = loss + p.square().mean().clamp_min(ENERGY)
                if not loss.isfinite():
                    raise DivergedError(f"the loss of {title} became {float(loss.detach())} in step {step}")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(vae.parameters(), LARGEST_GRADIENT)
                optimizer.step()
                step += 1
        return vae.eval()


class DisentangledVAE(nn.Module):
    """Encoder, decoder of images and decoder of noise, convolutional; the code has half the image's resolution.

    Args:
        classes: how many embeddings there are.
        size: height and width of the images in pixels, at least 4.
        width: channels of the encoder's last block.
    """

    def __init__(self, classes: int, size: tuple[int, int], width: int) -> None:
        super().__init__()
        self.size = size
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width // 2, 3, padding=1, bias=False), nn.BatchNorm2d(width // 2), nn.ReLU(),
            _Block(width // 2, width // 2, 1), _Block(width // 2, width, 2), nn.Conv2d(width, 4 * width, 1),
        )  # fmt: skip
        self.image_decoder = _decoder(2 * width, width, nn.BatchNorm2d)
        self.noise_decoder = _decoder(width, width, partial(nn.InstanceNorm2d, affine=True))
        half = ((size[0] + 1) // 2, (size[1] + 1) // 2)
        self.embeddings = nn.Parameter(torch.randn(classes, width, *half))

    def code(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, H, W) in [0, 1] -> mean and logarithm of the variance of the code, (B, 2 * width, h, w)."""
        mean, log_variance = self.encoder(2 * x - 1).chunk(2, 1)
        return mean, log_variance.clamp(-10, 10)

    def image(self, z: Tensor) -> Tensor:
        """Codes -> pixels (B, 3, H, W) in [0, 1]."""
        return self._cut(self.image_decoder(z)).sigmoid()

    def noise(self, y: Tensor) -> Tensor:
        """Classes (B,) -> the perturbation of each, (B, 3, H, W)."""
        classes, place = y.unique(return_inverse=True)
        return self._cut(self.noise_decoder(self.embeddings[classes]))[place]

    def _cut(self, decoded: Tensor) -> Tensor:
        """Of odd sides the decoders make one pixel too many."""
        return decoded[..., : self.size[0], : self.size[1]]


class _Block(nn.Module):
    """A basic block of ResNet-18."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
            nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        self.skip = nn.Identity() if stride == 1 else nn.Sequential(
            nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


def _decoder(channels: int, width: int, norm: Callable[[int], nn.Module]) -> nn.Sequential:
    """(B, channels, h, w) -> (B, 3, 2 * h, 2 * w)."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1), norm(width), nn.ReLU(),
        nn.ConvTranspose2d(width, width // 2, 4, 2, 1), norm(width // 2), nn.ReLU(),
        nn.Conv2d(width // 2, 3, 3, padding=1),
    )  # fmt: skip
