"""The loop that EM, AUE, SEM, REM, TAP and HYPO fill in.

    for each step:                               the surrogate f and the noise, in turn
        x, y   = a batch of clean images
        delta  = noise(f, x, y)                  K steps down a loss of f, within eps and within [0, 1]
        f      = SGD step on view_of_surrogate(t(x + delta)), y
    for each batch:                              with the finished f, for every image
        delta  = noise(f, x, y), rounded to whole levels, kept

    noise(f, x, y):
        delta = start(x)                         U(-eps, eps)
        K times: g = sum over S samples of d loss(f, view_of_noise(t(x + delta))) / d delta
             with mu > 0, g = mu * the last g + g / mean |g|
                 delta = project(step(delta, g)) delta - step_size * sign(g), into the ball of eps

t is a random crop and flip, drawn for each image and sample. Every line of ``noise`` is a method that a subclass may
write: what the noise descends (`_loss`; `_target` where it is the cross entropy of other classes), from where
(`_start`), how (`_step`) and within what (`_project`), what it is tested against (`_noise_view`) and by which networks
(`_models`); so is what the surrogate trains on (`_surrogate_view`), and what is learnt once it is finished
(`_finished`). With several surrogates each trains by itself, and the noise goes down the mean of their losses.

With ``weights="imagenet"`` the surrogates start from trained weights, and their last layers are fitted to the clean
images before the first step; with ``steps=0`` they are frozen then. Where a method is ``frozen`` they always are, and
the steps are those of noise that the method keeps in its state.
"""

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]

from ..errors import DivergedError, UsageError, UsageTypeError
from ..noise.pictures import Pictures
from ..params import UNSET, Param, Parameters, param
from ..pixels import equal_channels
from ..sample import SampleError
from ..training.attacks import attacking, pgd, random_start, summed_cross_entropy
from ..training.model import PixelModel
from ..training.transforms import Transform, transformed
from ..victims import build_surrogate, list_victims, takes_weights
from .fitted import PASS, FittedPoison, slices
from .heads import add_feature_buffers, fit_heads
from .surrogate import Model, Surrogate

LARGE_SIDE = 96  # pixels, from which on a preset for large pictures is taken where there is one
LEARNT = 0.25  # of the way from guessing to certainty: a surrogate that has not come so far has no shortcut to give
STATISTICS = 10_000  # pictures, for the surrogate's normalisation
WINDOW = 7  # pixels, over which the variance of an image is taken
WHITE = "in units of 1 = white"


class Optimisation(Parameters):
    """How noise is optimised."""

    surrogate: str = param("a victim network", default="resnet18", choices=lambda _: list_victims())
    surrogates: tuple[str, ...] | None = param(
        "several networks instead of one", default=None, choices=lambda _: list_victims()
    )
    weights: Literal["imagenet"] | None = param(
        "what the surrogates start from, for networks whose weights come in a package (extra `pretrained`); none: "
        "weights drawn from the key",
        default=None,
    )
    steps: int = param("steps of the surrogate; 0, with weights: only its last layer is fitted", default=5000, low=0)
    batch_size: int = param("of the surrogate and of the noise", default=128, low=2)
    rate: float = param("learning rate of the surrogate, at its highest", default=0.1, above=0)
    warmup: float = param("share of the steps over which the rate rises from 0", default=0.0, low=0, high=1)
    cuts: tuple[float, ...] = param("shares of the steps after which the rate is a tenth", default=(0.4, 0.8))
    noise_steps: int = param("K, steps of the noise", default=10, low=1)
    noise_step_size: float | None = param("of each; none: 2 * eps / K", default=None, above=0, unit=WHITE)
    noise_momentum: float = param(
        "mu: a step follows mu times the direction of the last one plus the gradient divided by its mean size (Dong et "
        "al., CVPR 2018, arXiv 1710.06081), which evens out what single draws of t ask for; 0: the gradient alone",
        default=0.0, low=0,
    )  # fmt: skip
    samples: int = param("S, transforms (and perturbations) drawn for each step of the noise", default=1, low=1)
    similarity: float | None = param(
        "the local SSIM that noise at its limit would leave: where an image is plain, where noise is seen first, the "
        "limit is below eps, but never below a whole level after rounding; none: eps everywhere",
        default=None, above=0, high=0.99,
    )  # fmt: skip
    radius: float = param("r_a, of the perturbation that the noise is to withstand", default=0.0, low=0, unit=WHITE)
    ramp: float = param(
        "share of the steps over which the perturbation grows from 0 to the radius", default=0.0, low=0, high=1
    )
    attack_steps: int = param("A, of the attack that finds it; each of 2 * radius / A", default=10, low=1)
    final_noise_steps: int | None = param("K of the noise that is kept; none: the same", default=None, low=1)
    final_samples: int | None = param("S of the noise that is kept; none: the same", default=None, low=1)
    augment: Transform = param(
        "the transform t: a crop after zero padding of an eighth, flipped; a random part enlarged, flipped; that and "
        "random colours, as in contrastive learning; what happens to a published photograph (shrunk, JPEG, cropped); "
        "or none",
        default="crop-flip",
    )


class Settings(Optimisation):
    """The values of a fit, or of one step of it."""

    def replace(self, **changes: Any) -> Self:
        """The same with other values."""
        return type(self)(**{**self.arguments(), **changes})

    def at(self, progress: float) -> Self:
        """The same at ``progress`` in [0, 1] of the steps, when the radius has not grown to its full size yet."""
        return self if progress >= self.ramp else self.replace(radius=self.radius * progress / self.ramp)

    def rate_at(self, progress: float) -> float:
        """The learning rate at ``progress`` in [0, 1] of the steps."""
        rising = min(1.0, progress / self.warmup) if self.warmup else 1.0
        return self.rate * rising * 0.1 ** sum(progress >= cut for cut in self.cuts)

    @property
    def final(self) -> Self:
        """The same for the noise that is kept."""
        return self.replace(
            noise_steps=self.final_noise_steps or self.noise_steps, samples=self.final_samples or self.samples
        )


@dataclass(frozen=True)
class Batch:
    """What noise is made for: clean pixels x in [0, 1], float (B, 3, H, W), and their classes y, int64 (B,), as numbers
    in 0..classes - 1.

    Attributes:
        grey: bool (B,): the noise of these has equal channels.
        state: the method's tensors, see ``_first_state``.
        settings: of this step.
        generator: the only source of randomness.
    """

    x: Tensor
    y: Tensor
    grey: Tensor
    classes: int
    state: dict[str, Tensor]
    settings: Settings
    generator: torch.Generator


class OptimisedPoison(Optimisation, FittedPoison):
    """Base of the methods whose noise is optimised against surrogate networks."""

    presets: ClassVar[dict[str, Settings]] = {}  # "paper-large" is taken for "paper" from LARGE_SIDE pixels on
    work_sides: ClassVar[dict[str, int]] = {"photographs": 112}  # pixels, for presets that have a work size
    trains_on_noise: ClassVar[bool] = True
    frozen: ClassVar[bool] = False  # the surrogates stay as they start, and each step is one of the noise alone

    preset: str = param(
        "how much work the fit is, see the method's page; single settings replace its values", default="cpu",
        choices=lambda cls: [name for name in cls.presets if not name.endswith("-large")],
    )  # fmt: skip
    device: str | None = param(
        "of the fit, e.g. cuda; none: a GPU where there is one. It leaves the name of the noise as it is",
        default=None, decides="work",
    )  # fmt: skip

    @classmethod
    def _adapted(cls, each: Param) -> Param:
        return replace(each, default=UNSET, omit=True) if each.name in Settings.declared() else each

    def _prepare(self) -> None:
        super()._prepare()
        values = {name: getattr(self, name) for name in Settings.declared()}
        self._given = {name: value for name, value in values.items() if value is not UNSET}
        if self.surrogate is not UNSET and self.surrogates is not UNSET:
            raise UsageTypeError("surrogate= is one network, surrogates= are several: give one of both")
        if self.surrogate is not UNSET:
            self._given["surrogates"] = None  # not those of the preset
        settings = self.presets[self.preset].replace(**self._given)
        names = settings.surrogates or (settings.surrogate,)
        self._uses_weights = settings.weights is not None
        if self._uses_weights and (without := [name for name in names if not takes_weights(name)]):
            raise UsageError(
                f"{', '.join(without)} cannot start from ImageNet weights, and either all surrogates of a fit do or "
                f"none: choose from {', '.join(filter(takes_weights, list_victims()))}, or another preset than "
                f"{self.preset}"
            )
        if settings.steps == 0 and not self._uses_weights:
            raise UsageError('steps=0 leaves the surrogates as they start, which needs weights="imagenet"')

    def _work_side(self) -> int | None:
        return self.work_size or self.work_sides.get(self.preset)

    def settings_for(self, side: int) -> Settings:
        """All settings for pictures of this shorter side in pixels."""
        large = f"{self.preset}-large"
        name = large if side >= LARGE_SIDE and large in self.presets else self.preset
        return self.presets[name].replace(**self._given)

    def _worries(self, report: Mapping[str, Any]) -> str | None:
        share, guess = report["target_share"], 1 / report["classes"]
        if share < guess + LEARNT * (1 - guess):
            return f"the surrogate takes only {share:.0%} of the protected pictures for what their noise is to say"
        if self._uses_weights:  # the noise is aimed at trainers that start from weights: a small network says nothing
            return None
        return super()._worries(report)

    # ---- what a method says ---------------------------------------------------------------------------------------

    def _loss(self, model: Model, pixels: Tensor, batch: Batch) -> Tensor:
        """What the noise goes down, (B,), at pixels that ``_noise_view`` gave. ``model(pixels)`` are logits,
        ``model.features(pixels)`` what the last layer makes them of."""
        target = self._target(batch.y, batch.classes, batch.state)
        return F.cross_entropy(model(pixels), target, reduction="none")

    def _target(self, y: Tensor, classes: int, state: dict[str, Tensor]) -> Tensor:
        """The classes that the noise is to be taken for; ``state`` holds the method's tensors."""
        return y

    def _transform(self, pixels: Tensor, batch: Batch) -> Tensor:
        """The random transform t of pixels in [0, 1]."""
        return transformed(pixels, batch.settings.augment, batch.generator)

    def _noise_view(self, model: Model, z: Tensor, batch: Batch) -> Tensor:
        """What the noise is tested against, made of transformed pixels z in [0, 1]: z, or something near it."""
        return z

    def _surrogate_view(self, model: Model, z: Tensor, batch: Batch) -> Tensor:
        """What the surrogate trains on, made of transformed pixels z."""
        return z

    def _start(self, batch: Batch) -> Tensor:
        """Where the noise starts."""
        x = batch.x
        return (2 * torch.rand(x.shape, generator=batch.generator) - 1).to(x.device) * self.eps

    def _step(self, delta: Tensor, gradient: Tensor, batch: Batch) -> Tensor:
        """One step down; gradients of grey pictures have equal channels."""
        step_size = batch.settings.noise_step_size
        if step_size is None:
            step_size = 2 * self.eps / batch.settings.noise_steps
        return delta - step_size * gradient.sign()

    def _project(self, delta: Tensor, batch: Batch) -> Tensor:
        """Within the bound, and within what ``similarity`` leaves of it, and so that x + delta lies in [0, 1] and is
        grey where x is."""
        delta = equal_channels(delta, batch.grey).clamp(-self.bound, self.bound)
        if batch.settings.similarity is not None:
            limit = hidden(batch.x, batch.settings.similarity)
            delta = delta.clamp(-limit, limit)
        return (batch.x + delta).clamp(0, 1) - batch.x

    def _models(self, surrogate: Surrogate, batch: Batch) -> list[Model]:
        """The networks that the noise of a batch is made with: the surrogates, or what they would be a step later."""
        return surrogate.models

    def _network(self, name: str, classes: int, side: int, generator: torch.Generator) -> nn.Module:
        """A surrogate as it starts, as the victims' registry builds it; ``efficientnet_lite0:weights=imagenet`` has
        weights."""
        return build_surrogate(name, classes, side, generator)

    def _first_state(self, pictures: Pictures) -> dict[str, Tensor]:
        """Tensors of the method's own that belong to the fit; changed in place."""
        return {}

    def _finished(self, surrogate: Surrogate, pictures: Pictures) -> None:
        """Called when the surrogate has trained, before the noise that is kept is made; may fill its ``state``."""

    def _noise(self, surrogate: Surrogate, batch: Batch) -> Tensor:
        """delta of a batch, float (B, 3, H, W), with x + delta in [0, 1]."""
        return self._descend(surrogate, self._start(batch), batch)

    def _noise_kept(self, surrogate: Surrogate, batch: Batch) -> Tensor:
        """As :meth:`_noise`, when the surrogate is finished."""
        return self._noise(surrogate, batch)

    # ---- the loop -------------------------------------------------------------------------------------------------

    def _learn(self, pictures: Pictures, noise: np.memmap, work: Path) -> dict[str, Any]:
        settings = self.settings_for(min(pictures.size))
        surrogate = self._surrogate(pictures, settings)
        if not surrogate.resume(work) and settings.weights is not None:
            fit_heads(surrogate.models, pictures, settings.augment, self._generator("heads"))
            surrogate.save(work, always=True)
        if surrogate.step < settings.steps:
            self._train(surrogate, pictures, settings, work)
        self._fill(surrogate, pictures, noise, work)
        passes = sum(model.backward_images for model in surrogate.models) / PASS
        guesses = []
        for rows in slices(len(pictures), settings.batch_size):
            levels = pictures.batch(rows).to(torch.int16) + torch.from_numpy(noise[rows])
            guesses.append(surrogate.guess(levels.clamp(0, 255).float() / 255))
        labels = pictures.labels.to(surrogate.device)
        target = self._target(labels, len(pictures.classes), surrogate.state).cpu()
        right, hit = (float((torch.cat(guesses, 1) == y).double().mean()) for y in (pictures.labels, target))
        return {"tensors": surrogate.tensors(), "accuracy": right, "target": hit, "passes": passes}

    def _train(self, surrogate: Surrogate, pictures: Pictures, settings: Settings, work: Path) -> None:
        """The surrogate, in turn with noise that is not kept."""
        per_epoch = len(_batches(np.arange(len(pictures)), settings.batch_size))
        epoch, batches = -1, []
        steps, title = range(surrogate.step, settings.steps), f"{self.name}, surrogate"
        with tqdm(steps, title, settings.steps, initial=surrogate.step, unit="steps", disable=None) as bar:
            for step in bar:
                if step // per_epoch != epoch:
                    epoch = step // per_epoch
                    batches = _batches(self._stream("order", epoch).permutation(len(pictures)), settings.batch_size)
                progress = step / settings.steps
                rows, generator = batches[step % per_epoch], self._generator("step", step)
                batch = load_batch(surrogate, pictures, rows, settings.at(progress), generator)
                delta = self._whole_levels(self._noise(surrogate, batch)) / 255 if self.trains_on_noise else 0
                if not self.frozen:
                    loss = self._teach(surrogate, batch, delta, settings.rate_at(progress))
                    bar.set_postfix(loss=f"{loss:.2f}", refresh=False)
                surrogate.step = step + 1
                surrogate.save(work)
        surrogate.save(work, always=True)

    def _teach(self, surrogate: Surrogate, batch: Batch, delta: Tensor | float, rate: float) -> float:
        """One step of each surrogate on a batch with noise; the last one's loss."""
        z = self._transform(batch.x + delta, batch)
        for number, model in enumerate(surrogate.models):
            pixels = self._surrogate_view(model, z, batch)
            loss = float(surrogate.learn(pixels, batch.y, rate, number))
            if not math.isfinite(loss):
                raise DivergedError(f"the surrogate's loss became {loss} in step {surrogate.step}: lower rate=")
        return loss

    def _fill(self, surrogate: Surrogate, pictures: Pictures, noise: np.memmap, work: Path | None) -> None:
        """The noise that is kept, for every picture, with the finished surrogate."""
        final = self.settings_for(min(pictures.size)).final
        if work is not None:
            self._finished(surrogate, pictures)
        with tqdm(total=len(pictures), desc=f"{self.name}, noise", unit="pictures", disable=None) as bar:
            for rows in slices(len(pictures), final.batch_size):
                if rows.start >= surrogate.done:
                    generator = self._generator("noise", pictures.ids[rows][:1].tobytes())
                    batch = load_batch(surrogate, pictures, rows, final, generator)
                    delta = self._noise_kept(surrogate, batch)
                    noise[rows] = self._whole_levels(delta).to(torch.int8).cpu().numpy()
                    surrogate.done = rows.stop
                    if work is not None:
                        surrogate.save(work, first=noise.flush)
                bar.update(rows.stop - rows.start)

    def _continue(self, pictures: Pictures, noise: np.memmap, tensors: Mapping[str, np.ndarray]) -> None:
        surrogate = self._surrogate(pictures, self.settings_for(min(pictures.size)))
        surrogate.load(tensors)
        self._fill(surrogate, pictures, noise, None)

    def _surrogate(self, pictures: Pictures, settings: Settings) -> Surrogate:
        classes, side = len(pictures.classes), min(pictures.size)
        weights = "" if settings.weights is None else f":weights={settings.weights}"
        nets = [
            self._network(name + weights, classes, side, self._generator("surrogate", *[number] * (number > 0)))
            for number, name in enumerate(settings.surrogates or [settings.surrogate])
        ]
        if settings.weights is not None:
            _check_sizes(pictures)
            for net in nets:
                add_feature_buffers(net, classes)
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        return Surrogate(nets, pictures.batch(slice(0, STATISTICS)), self._first_state(pictures), torch.device(device))

    def _descend(self, surrogate: Surrogate, delta: Tensor, batch: Batch) -> Tensor:
        """K steps down from a start; see the text above."""
        models = self._models(surrogate, batch)
        delta = self._project(delta, batch)
        momentum, direction = batch.settings.noise_momentum, torch.zeros_like(delta)
        with ExitStack() as stack, torch.enable_grad():
            for model in models:
                stack.enter_context(attacking(model.net))
            for _ in range(batch.settings.noise_steps):
                gradient = torch.zeros_like(delta)
                for _ in range(batch.settings.samples):
                    leaf = delta.detach().requires_grad_()
                    z = self._transform(batch.x + leaf, batch)
                    seen = z.detach().requires_grad_()  # one network after the other: half the memory of two at once
                    parts = [
                        torch.autograd.grad(self._loss_near(model, seen, batch).sum(), seen)[0] for model in models
                    ]
                    gradient += torch.autograd.grad(z, leaf, torch.stack(parts).mean(0))[0]
                gradient = equal_channels(gradient, batch.grey)
                if momentum:
                    size = gradient.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-12)
                    direction = gradient = momentum * direction + gradient / size
                delta = self._project(self._step(delta, gradient, batch), batch)
        return delta

    def _loss_near(self, model: Model, z: Tensor, batch: Batch) -> Tensor:
        """The loss at what the noise is tested against. The way there counts as a constant: the gradient goes through
        the transform alone."""
        away = self._noise_view(model, z.detach(), batch) - z.detach()
        return self._loss(model, z + away, batch)

    def _whole_levels(self, delta: Tensor) -> Tensor:
        """In units of 1 = white -> whole levels of 1/255, float, as they are kept."""
        return (255 * delta).round().clamp(-self.levels, self.levels)


def hidden(x: Tensor, similarity: float) -> Tensor:
    """The size of noise that leaves this SSIM in every place of x, float (B, 3, H, W) in [0, 1], alike.

    SSIM (Wang et al. 2004) compares variances: with noise of variance n^2 that has nothing to do with the image, of
    variance v^2 around a place, it is (2 v^2 + c) / (2 v^2 + n^2 + c), with c = 0.03^2.
    """
    mean, square = (F.avg_pool2d(some, WINDOW, 1, WINDOW // 2, count_include_pad=False) for some in (x, x * x))
    variance = (square - mean * mean).clamp_min(0)
    return ((1 / similarity - 1) * (2 * variance + 0.03**2)).sqrt()


def adversarial(model: PixelModel, z: Tensor, batch: Batch) -> Tensor:
    """PGD on the true classes within the radius of the moment, from a random start; z itself while that is 0."""
    radius, steps = batch.settings.radius, batch.settings.attack_steps
    if radius == 0:
        return z
    return pgd(
        model, z, summed_cross_entropy(batch.y), norm="linf", eps=radius, steps=steps, step_size=2 * radius / steps,
        start=random_start(z, batch.generator, norm="linf", eps=radius),
    )  # fmt: skip


def load_batch(
    surrogate: Surrogate, pictures: Pictures, rows: np.ndarray | slice, settings: Settings, generator: torch.Generator
) -> Batch:
    """Some rows, where the surrogate is."""
    return Batch(
        pictures.batch(rows).to(surrogate.device).float() / 255,
        pictures.labels[rows].to(surrogate.device),
        pictures.grey[rows].to(surrogate.device),
        len(pictures.classes),
        surrogate.state,
        settings,
        generator,
    )


def _check_sizes(pictures: Pictures) -> None:
    """Refuse images smaller than the work size: noise that is shrunk is no longer what was optimised."""
    sides, side = pictures.shapes[:, 1:].min(1), min(pictures.size)
    if small := int((sides < side).sum()):
        raise SampleError(
            f"{small} of {len(pictures)} images have a side shorter than the {side} pixels at which the noise is made; "
            f"the shortest is {sides.min()} pixels: give work_size={sides.min()}, or leave them out"
        )


def _batches(order: np.ndarray, size: int) -> list[np.ndarray]:
    """All rows in batches; a last one of one row joins the one before, since BatchNorm cannot train on one picture."""
    parts = np.split(order, range(size, len(order), size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [np.concatenate(parts[-2:])]
    return parts
