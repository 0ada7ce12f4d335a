"""The surrogate of a fit: networks, their optimisers, and the one file that all can be brought back from.

Nothing random needs to be kept: every step takes its draws from a generator that is named by the key and the step.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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


class Model(PixelModel):
    """A surrogate network as a function of pixels."""

    def features(self, pixels: Tensor) -> Tensor:
        """What the network's last linear layer makes logits of, float32 (B, D)."""
        taken: list[Tensor] = []
        head = [layer for layer in self.net.modules() if isinstance(layer, nn.Linear)][-1]
        with head.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0])):
            self(pixels)
        features = taken[0].flatten(1).float()
        if features.requires_grad:
            features.register_hook(self._count_backward)
        return features


class Surrogate:
    """One network or several in training, by SGD with momentum 0.9 and weight decay 5e-4.

    Args:
        nets: drawn from the key.
        images: uint8 (N, 3, H, W), for the networks' normalisation.
        state: further tensors that belong to the fit, e.g. noise of classes; changed in place.
        device: where the networks go.

    Attributes:
        models: the networks as functions of pixels; they count passes.
        step: how many steps are done.
        done: how many rows have their final noise.
    """

    def __init__(
        self, nets: Sequence[nn.Module], images: Tensor, state: Mapping[str, Tensor], device: torch.device
    ) -> None:
        for net in nets:
            store_statistics(net, images)
        bf16 = native_bf16(device)
        self.models = [Model(net.to(device).to(memory_format=torch.channels_last), bf16=bf16) for net in nets]
        self.device, self.state = device, {name: tensor.to(device) for name, tensor in state.items()}
        self._optimizers = [
            torch.optim.SGD(net.parameters(), momentum=0.9, weight_decay=5e-4, fused=True) for net in nets
        ]
        self.step = self.done = 0
        self._saved = time.monotonic()

    def learn(self, pixels: Tensor, labels: Tensor, rate: float, number: int = 0) -> Tensor:
        """One step of one network on pixels, float (B, 3, H, W) in [0, 1], at a learning rate; returns the loss."""
        model, optimizer = self.models[number], self._optimizers[number]
        model.net.train()
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(pixels), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def tensors(self) -> dict[str, np.ndarray]:
        """The networks and the further tensors, float32 or int64."""
        return {name: tensor.cpu().numpy() for name, tensor in self._kept().items()}

    def load(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Take over what :meth:`tensors` gave."""
        self._take({name: torch.from_numpy(np.array(array)) for name, array in tensors.items()})

    def save(self, folder: Path, *, always: bool = False, first: Callable[[], object] | None = None) -> None:
        """Write the checkpoint, whole or not at all; if ``CHECKPOINT_SECONDS`` have passed since the last one, or
        ``always``. ``first`` brings what the checkpoint counts on to the disk."""
        if not always and time.monotonic() - self._saved < CHECKPOINT_SECONDS:
            return
        if first is not None:
            first()
        tensors = self._kept()
        for name, _, state in self._momenta():
            if state.get("momentum_buffer") is not None:
                tensors[name] = state["momentum_buffer"]
        counts = {"step": self.step, "done": self.done}
        for number, model in enumerate(self.models):
            counts |= {f"forward{_of(number)}": model.forward_images, f"backward{_of(number)}": model.backward_images}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with replacing(folder / _CHECKPOINT) as temporary:
            save_file(tensors, temporary, {name: str(count) for name, count in counts.items()})
            temporary.chmod(0o600)
        self._saved = time.monotonic()

    def resume(self, folder: Path) -> bool:
        """Go on from the checkpoint, if there is one; whether there was."""
        path = folder / _CHECKPOINT
        if not path.exists():
            return False
        with safe_open(path, "pt") as file:
            counts = {name: int(text) for name, text in file.metadata().items()}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self._take(tensors)
        for name, parameter, state in self._momenta():
            if name in tensors:  # laid out in memory as the parameter is
                state["momentum_buffer"] = torch.empty_like(parameter).copy_(tensors[name]).detach()
        self.step, self.done = counts["step"], counts["done"]
        for number, model in enumerate(self.models):
            model.forward_images = counts[f"forward{_of(number)}"]
            model.backward_images = counts[f"backward{_of(number)}"]
        return True

    def guess(self, pixels: Tensor) -> Tensor:
        """The class that each network takes float pixels for, in evaluation mode: int64 (networks, B), on the CPU."""
        for model in self.models:
            model.net.eval()
        with torch.inference_mode():
            return torch.stack([model(pixels.to(self.device)).argmax(1).cpu() for model in self.models])

    def _momenta(self) -> Iterator[tuple[str, Tensor, dict]]:
        """Every parameter with the name of its momentum in the checkpoint and the optimiser's state of it."""
        for number, (model, optimizer) in enumerate(zip(self.models, self._optimizers, strict=True)):
            for name, parameter in model.net.named_parameters():
                yield f"momentum{_of(number)}.{name}", parameter, optimizer.state[parameter]

    def _kept(self) -> dict[str, Tensor]:
        kept = {f"state.{name}": tensor for name, tensor in self.state.items()}
        for number, model in enumerate(self.models):
            weights = model.net.state_dict()
            kept |= {f"net{_of(number)}.{name}": tensor.detach().contiguous() for name, tensor in weights.items()}
        return kept

    def _take(self, tensors: Mapping[str, Tensor]) -> None:
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            parts.setdefault(kind, {})[rest] = tensor
        for number, model in enumerate(self.models):
            model.net.load_state_dict(parts[f"net{_of(number)}"])
        for name, tensor in parts.get("state", {}).items():
            self.state[name].copy_(tensor)


def _of(number: int) -> str:
    """How the names of a network's tensors go on: the first network of a fit has no number."""
    return str(number) if number else ""
