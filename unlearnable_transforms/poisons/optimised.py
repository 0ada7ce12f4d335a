"""The loop that EM, SEM, REM and TAP fill in.

    for each step:                               the surrogate f and the noise, in turn
        x, y   = a batch of clean pictures
        delta  = noise(f, x, y)                  K sign steps down a loss of f, within eps and within [0, 1]
        f      = SGD step on view_of_surrogate(t(x + delta)), y
    for each batch:                              with the finished f, for every picture
        delta  = noise(f, x, y), rounded to whole levels, kept

    noise(f, x, y):
        delta ~ U(-eps, eps)
        K times: g = sum over S samples of d CE(f(view_of_noise(t(x + delta))), label(y)) / d delta
                 delta = project(delta - step_size * sign(g))

t is a random crop and flip, drawn for each picture and sample. What a method says: what the noise is tested against
(`_noise_view`), what the surrogate trains on (`_surrogate_view`), and which class the noise is to be taken for.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Unpack, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from ..key import Key
from ..noise.pictures import Pictures
from ..training.attacks import attacking, pgd, random_start, summed_cross_entropy
from ..training.model import PixelModel
from ..training.transforms import crop_flip, resized_crop_flip
from ..victims import build_surrogate, list_victims
from .fitted import PASS, FitArguments, FittedPoison, Learnt, equal_channels
from .surrogate import Schedule, Surrogate

Augment = Literal["crop-flip", "crop", "resized-crop", "none"]
LARGE_SIDE = 96  # pixels, from which on a preset for large pictures is taken where there is one
LEARNT = 0.25  # of the way from guessing to certainty: a surrogate that has not come so far has no shortcut to give
STATISTICS = 10_000  # pictures, for the surrogate's normalisation


@dataclass(frozen=True)
class Settings:
    """How noise is optimised. Radii and step sizes are in units of 1 = white.

    Attributes:
        surrogate: name in the victims' registry.
        steps: steps of the surrogate.
        batch_size: of both.
        rate, warmup, cuts: learning rate; see ``surrogate.Schedule``.
        noise_steps: K, sign steps of the noise.
        noise_step_size: None is 2 * eps / K.
        samples: S, transforms (and perturbations) drawn for each sign step.
        radius: r_a, of the perturbation that the noise is to withstand.
        ramp: share of the steps over which the perturbation grows from 0 to ``radius``.
        attack_steps: A, of the attack that finds it; each of 2 * radius / A.
        final_noise_steps, final_samples: K and S of the noise that is kept; None: the same.
        augment: the transform t: "crop-flip" and "crop" after zero padding of an eighth; "resized-crop", a random part
            enlarged, and flipped; or "none".
    """

    surrogate: str = "resnet18"
    steps: int = 5000
    batch_size: int = 128
    rate: float = 0.1
    warmup: float = 0.0
    cuts: tuple[float, ...] = (0.4, 0.8)
    noise_steps: int = 10
    noise_step_size: float | None = None
    samples: int = 1
    radius: float = 0.0
    ramp: float = 0.0
    attack_steps: int = 10
    final_noise_steps: int | None = None
    final_samples: int | None = None
    augment: Augment = "crop-flip"

    def __post_init__(self) -> None:
        if self.surrogate not in list_victims():
            raise ValueError(f"the surrogate {self.surrogate!r} is unknown; known: {', '.join(list_victims())}")
        if self.steps < 1 or self.batch_size < 2 or self.noise_steps < 1 or self.samples < 1 or self.attack_steps < 1:
            raise ValueError("steps, noise_steps, samples and attack_steps are at least 1, batch_size is at least 2")
        if self.radius < 0 or not 0 <= self.ramp <= 1 or self.rate <= 0 or not 0 <= self.warmup <= 1:
            raise ValueError("radius is at least 0, rate above 0, ramp and warmup lie in [0, 1]")
        if self.augment not in get_args(Augment):
            raise ValueError(f"augment is one of {', '.join(get_args(Augment))}, got {self.augment!r}")

    def at(self, progress: float) -> "Settings":
        """The same at ``progress`` in [0, 1] of the steps, when the radius has not grown to its full size yet."""
        return self if progress >= self.ramp else replace(self, radius=self.radius * progress / self.ramp)

    @property
    def final(self) -> "Settings":
        """The same for the noise that is kept."""
        return replace(
            self,
            noise_steps=self.final_noise_steps or self.noise_steps,
            samples=self.final_samples or self.samples,
        )


class OptimisedArguments(FitArguments, total=False):
    """Arguments of the optimised methods: of ``FittedPoison``, and single settings that replace the preset's."""

    surrogate: str
    steps: int
    batch_size: int
    rate: float
    warmup: float
    cuts: tuple[float, ...]
    noise_steps: int
    noise_step_size: float | None
    samples: int
    radius: float
    ramp: float
    attack_steps: int
    final_noise_steps: int | None
    final_samples: int | None
    augment: Augment


SETTINGS = tuple(field.name for field in fields(Settings))


class OptimisedPoison(FittedPoison):
    """Base of the methods whose noise is optimised against a surrogate network.

    Args:
        key: the private key.
        preset: ``paper``, ``fast`` or ``cpu``: see the method's page.
        device: of the fit, e.g. ``cuda``; None: a GPU where there is one. It leaves the name of the noise as it is.
        **arguments: see :class:`~unlearnable_transforms.poisons.fitted.FittedPoison`; and every attribute of
            :class:`Settings`, to replace the preset's.

    Raises:
        ValueError: an unknown preset or surrogate, or a value out of range.
    """

    presets: ClassVar[dict[str, Settings]]  # "paper-large" is taken for "paper" from LARGE_SIDE pixels on
    trains_on_noise: ClassVar[bool] = True

    def __init__(
        self,
        key: Key | None = None,
        *,
        preset: str = "cpu",
        device: str | None = None,
        **arguments: Unpack[OptimisedArguments],
    ) -> None:
        if preset not in self.presets or preset.endswith("-large"):
            known = [name for name in self.presets if not name.endswith("-large")]
            raise ValueError(f"preset is one of {', '.join(known)}, got {preset!r}")
        self.preset, self.device = preset, device
        given: dict[str, Any] = dict(arguments)
        self._own = {name: given.pop(name) for name in SETTINGS if name in given}
        if "cuts" in self._own:
            self._own["cuts"] = tuple(self._own["cuts"])
        self.settings_for(32)  # wrong values are told now
        super().__init__(key, **given)

    def settings(self) -> dict[str, Any]:
        return {"preset": self.preset, **self._own}

    def settings_for(self, side: int) -> Settings:
        """All settings for pictures of this shorter side in pixels."""
        large = f"{self.preset}-large"
        name = large if side >= LARGE_SIDE and large in self.presets else self.preset
        return replace(self.presets[name], **self._own)

    def _worries(self, report: Mapping[str, Any]) -> str | None:
        share, guess = report["target_share"], 1 / report["classes"]
        if share < guess + LEARNT * (1 - guess):
            return f"the surrogate takes only {share:.0%} of the protected pictures for what their noise is to say"
        return super()._worries(report)

    # ---- what a method says ---------------------------------------------------------------------------------------

    def _noise_view(self, model: PixelModel, z: Tensor, y: Tensor, now: Settings, generator: torch.Generator) -> Tensor:
        """What the noise is tested against, made of transformed pictures z in [0, 1]: z, or something near it."""
        return z

    def _surrogate_view(
        self, model: PixelModel, z: Tensor, y: Tensor, now: Settings, generator: torch.Generator
    ) -> Tensor:
        """What the surrogate trains on, made of transformed pictures z."""
        return z

    def _label(self, y: Tensor, classes: int) -> Tensor:
        """The classes that the noise is to be taken for."""
        return y

    def _first_state(self, pictures: Pictures) -> dict[str, Tensor]:
        """Tensors of the method's own that belong to the fit."""
        return {}

    def _noise(
        self, surrogate: Surrogate, x: Tensor, y: Tensor, grey: Tensor, now: Settings,
        generator: torch.Generator,
    ) -> Tensor:  # fmt: skip
        """delta of a batch, float (B, 3, H, W), with x + delta in [0, 1]."""
        start = (2 * torch.rand(x.shape, generator=generator) - 1).to(x.device) * self.eps
        return self._descend(surrogate, x, y, grey, start, now, generator)

    # ---- the loop -------------------------------------------------------------------------------------------------

    def _learn(self, pictures: Pictures, noise: np.memmap, work: Path) -> Learnt:
        settings = self.settings_for(min(pictures.size))
        surrogate = self._surrogate(pictures, settings)
        surrogate.resume(work)
        if surrogate.step < settings.steps:
            self._train(surrogate, pictures, settings, work)
        self._fill(surrogate, pictures, noise, work)
        passes = surrogate.model.backward_images / PASS

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for rows in _slices(len(pictures), settings.batch_size):
                levels = pictures.batch(rows).to(torch.int16) + torch.from_numpy(noise[rows])
                yield levels.clamp(0, 255).float() / 255, pictures.labels[rows]

        right, hit = surrogate.share(batches, lambda y: self._label(y, len(pictures.classes)))
        return {"tensors": surrogate.tensors(), "accuracy": right, "target": hit, "passes": passes}

    def _train(self, surrogate: Surrogate, pictures: Pictures, settings: Settings, work: Path) -> None:
        """The surrogate, in turn with noise that is not kept."""
        per_epoch = len(_batches(np.arange(len(pictures)), settings.batch_size))
        epoch, batches = -1, []
        with tqdm(
            total=settings.steps, initial=surrogate.step, desc=f"{self.name}, surrogate", unit="steps", disable=None
        ) as bar:
            for step in range(surrogate.step, settings.steps):
                if step // per_epoch != epoch:
                    epoch = step // per_epoch
                    batches = _batches(self._stream("order", epoch).permutation(len(pictures)), settings.batch_size)
                progress = step / settings.steps
                now = settings.at(progress)
                generator = self._generator("step", step)
                x, y, grey = _load(pictures, batches[step % per_epoch], surrogate.device)
                if self.trains_on_noise:
                    delta = self._noise(surrogate, x, y, grey, now, generator)
                    x = x + self._whole_levels(delta) / 255
                z = transformed(x, settings.augment, generator)
                z = self._surrogate_view(surrogate.model, z, y, now, generator)
                loss = surrogate.learn(z, y, progress)
                surrogate.step = step + 1
                if not torch.isfinite(loss):
                    raise FloatingPointError(f"the surrogate's loss became {float(loss)} in step {step}: lower rate=")
                surrogate.save(work)
                bar.set_postfix(loss=f"{float(loss):.2f}", refresh=False)
                bar.update()
        surrogate.save(work, always=True)

    def _fill(self, surrogate: Surrogate, pictures: Pictures, noise: np.memmap, work: Path | None) -> None:
        """The noise that is kept, for every picture, with the finished surrogate."""
        final = self.settings_for(min(pictures.size)).final
        slices = _slices(len(pictures), final.batch_size)
        with tqdm(total=len(pictures), desc=f"{self.name}, noise", unit="pictures", disable=None) as bar:
            for rows in slices:
                if rows.start >= surrogate.done:
                    generator = self._generator("noise", pictures.ids[rows][:1].tobytes())
                    x, y, grey = _load(pictures, rows, surrogate.device)
                    delta = self._noise_kept(surrogate, x, y, grey, final, generator)
                    noise[rows] = self._whole_levels(delta).to(torch.int8).cpu().numpy()
                    surrogate.done = rows.stop
                    if work is not None:
                        surrogate.save(work, first=noise.flush)
                bar.update(rows.stop - rows.start)

    def _noise_kept(
        self, surrogate: Surrogate, x: Tensor, y: Tensor, grey: Tensor, now: Settings, generator: torch.Generator
    ) -> Tensor:
        """As :meth:`_noise`, when the surrogate is finished."""
        return self._noise(surrogate, x, y, grey, now, generator)

    def _continue(self, pictures: Pictures, noise: np.memmap, tensors: Mapping[str, np.ndarray]) -> None:
        surrogate = self._surrogate(pictures, self.settings_for(min(pictures.size)))
        surrogate.load(tensors)
        self._fill(surrogate, pictures, noise, None)

    def _surrogate(self, pictures: Pictures, settings: Settings) -> Surrogate:
        net = build_surrogate(
            settings.surrogate, len(pictures.classes), min(pictures.size), self._generator("surrogate")
        )  # fmt: skip
        schedule = Schedule(settings.rate, settings.warmup, settings.cuts)
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        images = pictures.batch(slice(0, STATISTICS))
        return Surrogate(
            net, len(pictures.classes), images, schedule, self._first_state(pictures), torch.device(device)
        )

    def _descend(
        self, surrogate: Surrogate, x: Tensor, y: Tensor, grey: Tensor, delta: Tensor, now: Settings,
        generator: torch.Generator,
    ) -> Tensor:  # fmt: skip
        """K sign steps down from a start; see the text above."""
        label = self._label(y, surrogate.classes)
        step_size = now.noise_step_size
        if step_size is None:
            step_size = 2 * self.eps / now.noise_steps
        model = surrogate.model
        delta = self._fitting(delta, x, grey)
        with attacking(model.net), torch.enable_grad():
            for _ in range(now.noise_steps):
                gradient = torch.zeros_like(delta)
                for _ in range(now.samples):
                    leaf = delta.detach().requires_grad_()
                    z = transformed(x + leaf, now.augment, generator)
                    # The perturbation counts as a constant: the gradient goes through the transform alone.
                    away = self._noise_view(model, z.detach(), y, now, generator) - z.detach()
                    loss = F.cross_entropy(model(z + away), label, reduction="sum")
                    gradient += torch.autograd.grad(loss, leaf)[0]
                delta = self._fitting(delta - step_size * equal_channels(gradient, grey).sign(), x, grey)
        return delta

    def _whole_levels(self, delta: Tensor) -> Tensor:
        """In units of 1 = white -> whole levels of 1/255, float, as they are kept."""
        return (255 * delta).round().clamp(-self.levels, self.levels)

    def _fitting(self, delta: Tensor, x: Tensor, grey: Tensor) -> Tensor:
        """Into the ball of eps, and so that x + delta lies in [0, 1] and is grey where x is."""
        return (x + equal_channels(delta, grey).clamp(-self.eps, self.eps)).clamp(0, 1) - x


def adversarial(model: PixelModel, z: Tensor, y: Tensor, now: Settings, generator: torch.Generator) -> Tensor:
    """PGD on the true classes within the radius of the moment, from a random start; z itself while that is 0."""
    if now.radius == 0:
        return z
    return pgd(
        model, z, summed_cross_entropy(y), norm="linf", eps=now.radius, steps=now.attack_steps,
        step_size=2 * now.radius / now.attack_steps, start=random_start(z, generator, norm="linf", eps=now.radius),
    )  # fmt: skip


def transformed(pixels: Tensor, augment: Augment, generator: torch.Generator) -> Tensor:
    """The random transform t, differentiable: float (B, 3, H, W)."""
    if augment == "none":
        return pixels
    if augment == "resized-crop":
        return resized_crop_flip(pixels, generator)
    padding = max(1, min(pixels.shape[2:]) // 8)
    return crop_flip(pixels, generator, padding=padding, flip=augment == "crop-flip")


def _load(pictures: Pictures, rows: np.ndarray | slice, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Clean pixels in [0, 1], labels, and which pictures are grey."""
    x = pictures.batch(rows).to(device).float() / 255
    return x, pictures.labels[rows].to(device), pictures.grey[rows].to(device)


def _batches(order: np.ndarray, size: int) -> list[np.ndarray]:
    """All rows in batches; a last one of one row joins the one before, since BatchNorm cannot train on one picture."""
    parts = np.split(order, range(size, len(order), size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [np.concatenate(parts[-2:])]
    return parts


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
