"""What all defenses share: the hooks, by which they differ from plain training, and the registry.

A defense is what the party that trains on the data without permission does against a protection. One victim is trained

    prepare(all images) -> network -> [ augment -> perturb -> loss ] for every batch -> finish -> test(test images)

and a defense overrides the hooks it needs; everything else stays, so that the columns of a table differ only there.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..params import Param, Parameters
from ..registry import Registry
from ..training.loop import Augment, History, Loss, Perturb, Recipe, seeded_generator, train

REGISTRY: Registry[type["Defense"]] = Registry("defense", "unlearnable_transforms.defenses", "docs/defenses.md")
register_defense = REGISTRY.register
WHITE = "in units of 1 = white"


@dataclass(frozen=True)
class Setting:
    """What a defense may know: the attacker's own situation, never the protection's name or key.

    Attributes:
        image_size: side in pixels of the square training images.
        victim: registered name of the network, for defenses that train another one of its kind.
        recipe: the plain recipe of this training.
        seed: the only source of randomness.
        clean: unprotected pictures that this attacker has, uint8 (M, 3, H, W) and int64 (M,), disjoint from the
            training and test sets, or None. Most defenses need none; those that do say so in ``needs_clean``.
    """

    num_classes: int
    image_size: int
    victim: str
    recipe: Recipe
    seed: int
    device: torch.device | str = "cpu"
    clean: tuple[Tensor, Tensor] | None = None

    def generator(self, use: str) -> torch.Generator:
        """A CPU generator of its own for each use."""
        return seeded_generator(self.seed, use)


class BatchHooks:
    """Hooks of every batch, of the types in ``training/loop.py``; None is plain training's. ``augment`` gets what the
    recipe's crop and flip gave, unless ``replaces_augment``."""

    augment: Augment | None = None
    perturb: Perturb | None = None
    loss: Loss | None = None


class Defense(BatchHooks, Parameters):
    """Base of all defenses. Subclasses declare their parameters with ``param``, or keep every argument of their own
    constructor in an attribute of its name, and override hooks. An instance serves one training at a time.

    Attributes:
        name: the registered one; of a class that is not registered, the class's own name.
        version: raised when the same arguments come to mean something else.
        needs_clean: whether it needs clean images that the attacker has.
        replaces_augment: whether ``augment`` takes the place of the recipe's crop and flip.
        starts_trained: whether :meth:`network` gives one that knows such images already.
        costly: whether it costs as much as ten plain trainings or more; a search for the worst case leaves it out.
        train_calls: hooks of other defenses that a training of its own calls, too.
        setting: of the training that :meth:`prepare` was called for last.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    needs_clean: bool = False
    replaces_augment: bool = False
    starts_trained: bool = False
    costly: ClassVar[bool] = False
    train_calls: ClassVar[frozenset[str]] = frozenset({"augment", "perturb", "loss", "on_epoch"})

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" not in vars(cls):  # never its parent's: their results must not be taken for one another's
            cls.name = cls.__name__

    @classmethod
    def _adapted(cls, each: Param) -> Param:
        return replace(each, kw_only=False)

    def _set(self, values: Mapping[str, Any]) -> None:
        """As :class:`Parameters` does, but each value stays as it was passed: a cell tells 1 from 1.0."""
        for name, each in self._declarations.items():
            value = values.get(name, each.default)
            each.check(value, type(self))
            setattr(self, name, value)
        self._prepare()

    def arguments(self) -> dict[str, Any]:
        """The constructor arguments as plain JSON values: with name and version they identify a cell of a table."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def clean_for(self, victim: str) -> bool:
        """Whether it needs clean images for this victim."""
        return self.needs_clean

    def recipe(self, recipe: Recipe) -> Recipe:
        """The recipe that this defense trains with."""
        return recipe

    def rows(self, images: Tensor, labels: Tensor, setting: Setting) -> tuple[Tensor, Tensor]:
        """The training set, before all else: a defense may add rows to it."""
        return images, labels

    def prepare(self, images: Tensor, labels: Tensor, setting: Setting) -> Tensor:
        """Whole-data-set preparation, the first hook: uint8 (N, 3, H, W) -> uint8 of that shape, or float32 where 1 is
        white. Whoever overrides it calls ``super().prepare`` if another hook needs ``self.setting``."""
        self.setting: Setting = setting
        return images

    def network(self, net: nn.Module, setting: Setting) -> nn.Module:
        """The network to train, from the freshly initialised victim. Frozen parameters are not trained."""
        return net

    def on_epoch(self, epoch: int) -> None:
        """Called with the epoch, from 1, before its first batch."""

    def train(
        self, net: nn.Module, images: Tensor, labels: Tensor, *, setting: Setting, recipe: Recipe, history: History,
        test: tuple[Tensor, Tensor], **options: Any,
    ) -> None:  # fmt: skip
        """Train ``net``; further options are those of :func:`~unlearnable_transforms.training.loop.train`.

        ``history`` is filled epoch by epoch, so that it survives if a later one diverges.
        """

        def keep(epoch: int, so_far: History) -> None:
            vars(history).update(vars(so_far))

        train(
            net, images, labels, recipe=recipe, seed=setting.seed, test=test, device=setting.device, progress=keep,
            **options,
        )  # fmt: skip

    def finish(self, net: nn.Module, setting: Setting) -> None:
        """After the last epoch; may change ``net`` in place."""

    def test(self, images: Tensor, setting: Setting) -> Tensor:
        """Test-time transform, uint8 (N, 3, H, W) -> uint8 or float32. Identity except where the paper has one."""
        return images

    def predict(self, net: nn.Module, images: Tensor, setting: Setting) -> Tensor | None:
        """Logits or votes (N, num_classes) for prepared test images; None: those of the network in evaluation mode."""
        return None

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The recipe's own loss, with its label smoothing: logits (B, num_classes), int64 (B,) -> scalar."""
        return F.cross_entropy(logits, labels, label_smoothing=self.setting.recipe.label_smoothing)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.arguments().items())})"
