"""A linear probe: only the last layer is fitted, to the features that a frozen network gives.

The features are computed once, and the fit is convex, so that it has no learning rate and ends at its one optimum.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .loop import Augment, History, seeded_generator
from .model import PixelModel, accuracy, checked, native_bf16, to_pixels

MOST_STEPS = 200  # of L-BFGS; the fit ends before where its gradient vanishes


def fit_last_layer(
    net: nn.Module,
    last: nn.Linear,
    images: Tensor,
    labels: Tensor,
    *,
    test: tuple[Tensor, Tensor],
    decay: float = 0.1,
    augment: Augment | None = None,
    passes: int = 1,
    seed: int = 0,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
) -> History:
    """Multinomial logistic regression on standardised features, by L-BFGS.

    Args:
        net: takes float (B, 3, H, W), with the buffers ``pixel_mean`` and ``pixel_std``; left in evaluation mode, with
            all but ``last`` as it was.
        last: the layer of ``net`` that makes the logits; its weights are replaced.
        images: uint8 (N, 1 or 3, H, W), or float32 where 1 is white.
        labels: int64 (N,).
        test: images and labels, in the same form.
        decay: weight of the squared norm of the weights beside the mean cross-entropy.
        augment: changes the images before each pass; None takes them as they are, once.
        passes: over the images, where there is an augmentation.
        seed: of the augmentation.
        batch_size: images at once.

    Returns:
        A history of one epoch.
    """
    net.to(device).to(memory_format=torch.channels_last).eval()
    images, labels = (tensor.to(device) for tensor in checked(images, labels))
    bf16 = native_bf16(device)
    model = PixelModel(net, bf16=bf16)
    kept: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0].detach().float()))
    generator = seeded_generator(seed, "augment")
    try:
        with torch.no_grad():
            for _ in range(passes if augment is not None else 1):
                for part in images.split(batch_size):
                    model(to_pixels(part if augment is None else augment(part, generator)))
    finally:
        hook.remove()
    features = torch.cat(kept)
    targets = labels.repeat(len(features) // len(labels))
    fit_head(last, features, targets, decay)
    with torch.no_grad():
        logits = F.linear(features, last.weight, last.bias)
    history = History(batches=1, forward_images=model.forward_images)
    history.train_loss.append(float(F.cross_entropy(logits, targets)))
    history.train_accuracy.append(float((logits.argmax(1) == targets).double().mean()))
    history.test_accuracy.append(accuracy(net, *test, device=device, bf16=bf16))
    return history


def fit_head(last: nn.Linear, features: Tensor, targets: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """Put the weights of a multinomial logistic regression on standardised features into a layer.

    Args:
        last: takes the features as they are: the standardisation becomes part of its weights.
        features: float32 (N, D).
        targets: int64 (N,).
        decay: weight of the squared norm of the weights beside the mean cross-entropy.

    Returns:
        Mean and standard deviation of the features, (D,) each.
    """
    mean, std = features.mean(0), features.std(0).clamp_min(1e-6)
    weight, bias = _logistic((features - mean) / std, targets, last.out_features, decay)
    with torch.no_grad():
        last.weight.copy_(weight / std)
        last.bias.copy_(bias - (weight / std) @ mean)
    return mean, std


def _logistic(features: Tensor, targets: Tensor, classes: int, decay: float) -> tuple[Tensor, Tensor]:
    """Weights (classes, D) and biases (classes,) at the minimum."""
    weight = torch.zeros(classes, features.shape[1], device=features.device, requires_grad=True)
    bias = torch.zeros(classes, device=features.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=MOST_STEPS, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(features, weight, bias), targets) + decay / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    return weight.detach(), bias.detach()
