"""Muon for convolutions, and SGD for the rest, as airbench94 has them.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) makes the update of a weight matrix orthogonal.
``torch.optim.Muon`` takes matrices alone. Here filters (outputs, inputs, 3, 3) count as the matrix (outputs, 9 inputs),
and before each step a weight is brought back to its norm, the root of its number of outputs.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

ROUNDS = 3  # of Newton and Schulz
A, B, C = 3.4445, -4.7750, 2.0315


# airbench94's learning rates of SGD, for a loss that is summed over the batch, and its momentum.
BIASES, HEAD, MOMENTUM = 0.053, 0.67, 0.85


def muon_and_sgd(
    trained: list[nn.Parameter], lr: float, momentum: float, weight_decay: float, batch_size: int
) -> list[torch.optim.Optimizer]:
    """Muon for the convolutions, SGD with Nesterov momentum for biases and linear layers.

    Args:
        trained: all parameters.
        lr, momentum: of Muon.
        weight_decay: of the rest, an image; airbench's is 2e-6.
        batch_size: the loss is a mean over a batch, and airbench's rates are for a sum.

    Returns:
        Two optimizers, or one where the network has only one kind. Groups of SGD have a ``share``: their rate by
        Muon's.
    """
    filters = [weight for weight in trained if weight.ndim == 4]
    groups = [
        {"params": params, "lr": rate, "share": rate / lr, "weight_decay": weight_decay * batch_size / rate}
        for params, rate in (
            ([weight for weight in trained if weight.ndim == 1], BIASES * batch_size),
            ([weight for weight in trained if weight.ndim not in (1, 4)], HEAD * batch_size),
        )
        if params
    ]
    optimizers: list[torch.optim.Optimizer] = [Muon(filters, lr, momentum)] if filters else []
    return optimizers + ([torch.optim.SGD(groups, momentum=MOMENTUM, nesterov=True)] if groups else [])


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal."""

    def __init__(self, weights: Iterable[nn.Parameter], lr: float, momentum: float) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]  # returns no loss
        """One step."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                moving = state.setdefault("momentum", torch.zeros_like(weight.grad))
                moving.mul_(group["momentum"]).add_(weight.grad)
                update = weight.grad.add(moving, alpha=group["momentum"])
                weight.mul_(len(weight) ** 0.5 / weight.norm())
                weight.add_(orthogonal(update.flatten(1)).view_as(weight), alpha=-group["lr"])


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix (m, n) with singular values near 1, by three rounds of Newton and Schulz in bfloat16."""
    x = matrix.bfloat16()
    x = x / (x.norm() + 1e-7)
    turned = len(x) > x.shape[1]
    x = x.T if turned else x
    for _ in range(ROUNDS):
        square = x @ x.T
        x = A * x + (B * square + C * square @ square) @ x
    return (x.T if turned else x).to(matrix.dtype)
