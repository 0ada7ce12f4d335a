"""A hook for purifiers that are too heavy to be part of this package, such as diffusion models."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError, UsageTypeError
from ..params import param
from .base import register_defense
from .filters import ImageFilter


@register_defense("purify")
class Purify(ImageFilter):
    """Every training image goes once through a purifier, before training.

    For AVATAR (Dolatabadi et al., SaTML 2024, arXiv 2303.08500: noise and denoise by a diffusion model of clean
    pictures), ECLIPSE (Wang et al., ESORICS 2024, arXiv 2406.15093) and others; D-VAE is a defense, ``d-vae``. Mind the
    range: AVATAR's model expects [-1, 1]. A purifier trained on clean pictures of the same kind is clean data by
    another name: say what it was trained on.
    """

    purifier: Any = param(
        'uint8 (B, 3, H, W) -> uint8 of that shape, or its name "package.module:function", which a command line can '
        "pass. It sees the images in their order, and brings its own seed",
        default=None,
    )
    batch_size: int = param("images a call", default=500, low=1)

    def _prepare(self) -> None:
        if not (callable(self.purifier) or isinstance(self.purifier, str)):
            raise UsageTypeError(f"purifier must be a function or its name, got {type(self.purifier).__name__}")

    def arguments(self) -> dict[str, Any]:
        named = self.purifier
        if not isinstance(named, str):
            kind = named if hasattr(named, "__qualname__") else type(named)
            named = f"{kind.__module__}:{kind.__qualname__}"
        return super().arguments() | {"purifier": named}

    def filter(self, images: Tensor) -> Tensor:
        purifier = _import(self.purifier) if isinstance(self.purifier, str) else self.purifier
        parts = []
        for part in images.split(self.batch_size):
            purified = purifier(part)
            if purified.dtype != torch.uint8 or purified.shape != part.shape:
                raise UsageError(
                    f"the purifier was given uint8 {tuple(part.shape)} and must return the same, but returned "
                    f"{purified.dtype} {tuple(purified.shape)}"
                )
            parts.append(purified.to(images.device))
        return torch.cat(parts)


def _import(name: str) -> Callable[[Tensor], Tensor]:
    module, _, function = name.partition(":")
    if not function:
        raise UsageError(f'a purifier is named "package.module:function", got {name!r}')
    return getattr(importlib.import_module(module), function)
