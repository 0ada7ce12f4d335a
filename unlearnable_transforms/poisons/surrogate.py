"""The surrogate of a fit: a network, its optimiser, and the one file that both can be brought back from.

Nothing random needs to be kept: every step takes its draws from a generator that is named by the key and the step.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..files import replacing
from ..training.model import PixelModel, native_bf16, store_statistics

CHECKPOINT_SECONDS = 30.0
_CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Schedule:
    """Learning rate and momentum of SGD.

    Attributes:
        rate: up to it, in a straight line, during the share ``warmup`` of the steps; a tenth of it from each share in
            ``cuts`` on.
    """

    rate: float
    warmup: float
    cuts: tuple[float, ...]
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def at(self, progress: float) -> float:
        """The learning rate at ``progress`` in [0, 1]."""
        rising = min(1.0, progress / self.warmup) if self.warmup else 1.0
        return self.rate * rising * 0.1 ** sum(progress >= cut for cut in self.cuts)


class Surrogate:
    """A network in training.

    Args:
        net: drawn from the key.
        classes: number of its logits.
        images: uint8 (N, 3, H, W), for the network's normalisation.
        schedule: of the learning rate.
        state: further tensors that belong to the fit, e.g. noise of classes; changed in place.
        device: where the network goes.

    Attributes:
        model: the network as a function of pixels; it counts passes.
        step: how many steps are done.
        done: how many rows have their final noise.
    """

    def __init__(
        self,
        net: nn.Module,
        classes: int,
        images: Tensor,
        schedule: Schedule,
        state: Mapping[str, Tensor],
        device: torch.device,
    ) -> None:
        store_statistics(net, images)
        self.net = net.to(device).to(memory_format=torch.channels_last)
        self.model = PixelModel(self.net, bf16=native_bf16(device))
        self.classes, self.schedule, self.device = classes, schedule, device
        self.state = {name: tensor.to(device) for name, tensor in state.items()}
        self._optimizer = torch.optim.SGD(
            net.parameters(), lr=schedule.rate, momentum=schedule.momentum, weight_decay=schedule.weight_decay,
            fused=True,
        )  # fmt: skip
        self.step = self.done = 0
        self._saved = time.monotonic()

    def learn(self, pixels: Tensor, labels: Tensor, progress: float) -> Tensor:
        """One step of SGD on pixels, float (B, 3, H, W) in [0, 1]; returns the loss."""
        self.net.train()
        for group in self._optimizer.param_groups:
            group["lr"] = self.schedule.at(progress)
        self._optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(self.model(pixels), labels)
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    def tensors(self) -> dict[str, np.ndarray]:
        """The network and the further tensors, float32 or int64."""
        return {name: tensor.cpu().numpy() for name, tensor in self._kept().items()}

    def load(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Take over what :meth:`tensors` gave."""
        self._take({name: torch.from_numpy(np.array(array)) for name, array in tensors.items()})

    def save(self, folder: Path, *, always: bool = False, first: Callable[[], object] | None = None) -> None:
        """Write the checkpoint, whole or not at all; if ``CHECKPOINT_SECONDS`` have passed since the last one.

        Args:
            folder: where.
            always: also if they have not.
            first: brings what the checkpoint counts on to the disk.
        """
        if not always and time.monotonic() - self._saved < CHECKPOINT_SECONDS:
            return
        if first is not None:
            first()
        tensors = self._kept()
        for name, parameter in self.net.named_parameters():
            momentum = self._optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum
        counts = {
            "step": self.step, "done": self.done, "forward": self.model.forward_images,
            "backward": self.model.backward_images,
        }  # fmt: skip
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with replacing(folder / _CHECKPOINT) as temporary:
            save_file(tensors, temporary, {name: str(count) for name, count in counts.items()})
            temporary.chmod(0o600)
        self._saved = time.monotonic()

    def resume(self, folder: Path) -> bool:
        """Go on from the checkpoint, if there is one."""
        path = folder / _CHECKPOINT
        if not path.exists():
            return False
        with safe_open(path, "pt") as file:
            counts = {name: int(text) for name, text in file.metadata().items()}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self._take({name: tensor for name, tensor in tensors.items() if not name.startswith("momentum.")})
        for name, parameter in self.net.named_parameters():
            if f"momentum.{name}" in tensors:  # laid out in memory as the parameter is
                momentum = torch.empty_like(parameter).copy_(tensors[f"momentum.{name}"])
                self._optimizer.state[parameter]["momentum_buffer"] = momentum.detach()
        self.step, self.done = counts["step"], counts["done"]
        self.model.forward_images, self.model.backward_images = counts["forward"], counts["backward"]
        return True

    def share(self, batches: Callable, wanted: Callable[[Tensor], Tensor]) -> tuple[float, float]:
        """Share of pictures that the network takes for their class, and for ``wanted`` of it, in evaluation mode.

        Args:
            batches: gives float pixels and labels, batch by batch.
            wanted: labels -> labels.
        """
        self.net.eval()
        right = hit = count = 0
        with torch.inference_mode():
            for pixels, labels in batches():
                guess = self.model(pixels.to(self.device)).argmax(1).cpu()
                right += int((guess == labels).sum())
                hit += int((guess == wanted(labels)).sum())
                count += len(labels)
        return right / count, hit / count

    def _kept(self) -> dict[str, Tensor]:
        kept = {f"net.{name}": tensor.detach().contiguous() for name, tensor in self.net.state_dict().items()}
        return {**kept, **{f"state.{name}": tensor for name, tensor in self.state.items()}}

    def _take(self, tensors: Mapping[str, Tensor]) -> None:
        parts: dict[str, dict[str, Tensor]] = {"net": {}, "state": {}}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            parts[kind][rest] = tensor
        self.net.load_state_dict(parts["net"])
        for name, tensor in parts["state"].items():
            self.state[name].copy_(tensor)
