"""SimCLR: a network that learns without labels that two random views of an image belong together.

Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020, arXiv 2002.05709.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import DivergedError
from .loop import History, Recipe, seeded_generator
from .model import PixelModel, native_bf16, store_statistics, to_pixels
from .transforms import seeded_globally

Views = Callable[[Tensor, torch.Generator], Tensor]
"""views(images, generator): a random view of each image, uint8 or float (B, 3, H, W) -> the same."""


def pretrain(
    net: nn.Module,
    last: nn.Linear,
    images: Tensor,
    *,
    views: Views,
    epochs: int,
    history: History,
    batch_size: int = 256,
    lr: float = 0.06,
    temperature: float = 0.5,
    weight_decay: float = 1e-4,
    seed: int = 0,
    device: torch.device | str = "cpu",
    on_epoch: Callable[[int], None] | None = None,
) -> None:
    """Train all of ``net`` but its last layer, in place of which a projection of two layers stands meanwhile.

    Args:
        net: takes float (B, 3, H, W), with the buffers ``pixel_mean`` and ``pixel_std``.
        last: the layer of ``net`` that makes the logits; it is left as it is.
        images: uint8 (N, 3, H, W), or float32 where 1 is white; no labels.
        views: the random transform.
        epochs: passes over the images.
        history: counts images and batches.
        batch_size: images a step; each gives two views.
        lr: largest learning rate of SGD, after ten epochs or a tenth of all, then along half a cosine to 0.
        temperature: of the softmax over similarities (section 2.1).
        on_epoch: called with the epoch, from 1, before its first batch.

    Raises:
        FloatingPointError: the loss is no longer finite.
    """
    store_statistics(net, images)
    net.to(device).to(memory_format=torch.channels_last).train()
    width = last.in_features
    order, viewing, drawing = (seeded_generator(seed, use) for use in ("simclr order", "simclr views", "simclr head"))
    with seeded_globally(drawing):
        head = nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, 128)).to(device)
    model = PixelModel(net, bf16=native_bf16(device))
    features: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    trained = [p for p in net.parameters() if all(p is not q for q in last.parameters())]
    optimizer = torch.optim.SGD([*trained, *head.parameters()], lr=lr, momentum=0.9, weight_decay=weight_decay)
    steps, step = epochs * math.ceil(len(images) / batch_size), 0
    warmup = min(10, epochs / 10) / epochs
    recipe = Recipe(epochs, batch_size, lr, weight_decay=weight_decay, warmup=warmup, schedule="cosine")
    try:
        for epoch in range(1, epochs + 1):
            if on_epoch is not None:
                on_epoch(epoch)
            total = 0.0
            for rows in torch.randperm(len(images), generator=order).split(batch_size):
                if len(rows) < 2:
                    continue
                for group in optimizer.param_groups:
                    group["lr"] = recipe.learning_rate((step + 0.5) / steps)
                pair = torch.cat([to_pixels(views(images[rows], viewing)) for _ in range(2)]).to(device)
                features.clear()
                model(pair)
                loss = contrastive_loss(head(features[0].float()), temperature)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                total += float(loss.detach()) * len(rows)
                step += 1
                history.batches += 1
            if not math.isfinite(total):
                raise DivergedError(f"the contrastive loss became {total} in epoch {epoch}; lower lr")
            history.train_loss.append(total / len(images))
    finally:
        hook.remove()
    history.forward_images, history.backward_images = model.forward_images, model.forward_images
    net.eval()


def contrastive_loss(projected: Tensor, temperature: float) -> Tensor:
    """NT-Xent (section 2.1, equation 1) of (2B, D), where rows i and i + B are views of one image."""
    unit = F.normalize(projected)
    similar = unit @ unit.T / temperature
    similar.fill_diagonal_(-math.inf)
    half = len(unit) // 2
    targets = torch.cat([torch.arange(half, 2 * half), torch.arange(half)]).to(unit.device)
    return F.cross_entropy(similar, targets)
