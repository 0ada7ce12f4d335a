"""The rows of a table: what a victim is trained on. Clean pictures, protected ones, and the controls.

Controls say what a low accuracy is worth. For CUDA: every picture filtered as if it were of one class, which spoils the
pictures alike but leaves nothing to tell classes by. For additive methods: random noise as strong as the protection, in
each picture. For a share of protected pictures: training on the clean rest alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from ..errors import UsageError
from ..pixels import psnr
from ..poisons.base import Poison
from ..poisons.chain import Chain
from ..poisons.fraction import is_chosen
from ..sample import class_value, sample_id
from ..training.loop import seeded_generator
from .data import Change, Pictures

Role = Literal["clean", "poison", "control", "partial", "clean part"]
PEAK = 255.0


@dataclass(frozen=True)
class TrainingSet:
    """One row of a table.

    Attributes:
        label: how the row is called.
        role: what it is for; "poison" and "partial" are what a protector answers for.
        config: public: what made it, with the key's fingerprint and never the key.
        pictures: clean, or somebody else's protected ones.
        change: protects them; None leaves them as they are.
        of: label of the poison that a control or a clean part belongs to.
    """

    label: str
    role: Role
    config: Mapping[str, Any]
    pictures: Pictures
    change: Change | None = None
    of: str | None = None

    def about(self) -> dict[str, Any]:
        """What cells and reports say of it, as JSON values."""
        return {"label": self.label, "role": self.role, "of": self.of, "config": self.config}


def training_sets(
    clean: Pictures | None,
    protected: Pictures | None,
    poisons: Mapping[str, Poison],
    *,
    controls: bool,
    fractions: Sequence[float],
) -> Iterator[TrainingSet]:
    """All rows, clean first: its digest is part of the others' cells."""
    if clean is not None:
        yield TrainingSet("clean", "clean", {"method": None}, clean)
        for label, poison in poisons.items():
            config = describe(poison)
            yield TrainingSet(label, "poison", config, clean, change_of(poison, clean))
            if controls:
                yield _control(label, poison, config, clean)
            for fraction in fractions:
                yield from _partial(label, poison, config, clean, fraction)
    if protected is not None:
        yield TrainingSet("protected", "poison", {"method": "unknown"}, protected)


def describe(poison: Poison) -> dict[str, Any]:
    """What may be known of a poison; a public key, which protects nothing, is named."""
    config = poison.public_config(fitted=True)
    if poison.key is not None and poison.key.is_public:
        config["public_key"] = poison.key.name
    return config


def label_of(poison: Poison) -> str:
    """``cuda (public:screen-0)``, or with the first digits of the key's fingerprint."""
    key = poison.key
    return poison.title if key is None else f"{poison.title} ({key.name or key.fingerprint[:8]})"


def change_of(poison: Poison, pictures: Pictures) -> Change:
    """Protection of the rows of a set."""
    tokens = pictures.tokens(poison)
    return lambda images, rows: poison.protect_arrays(images, [tokens[row] for row in rows])


def fitted(poison: Poison, pictures: Pictures) -> Poison:
    """The poison, ready: one that learns from data and has not yet learns from these pictures, also of mixed sizes."""
    if poison.fitted:
        return poison
    return poison.fit((pictures.images, [class_value(token) for token in pictures.tokens(poison)]))


def _control(label: str, poison: Poison, config: dict[str, Any], clean: Pictures) -> TrainingSet:
    """As much change that says nothing of the class: one filter for all of them, or noise. Of a chain, link by link."""
    links = poison.links
    tokens = clean.tokens(poison)
    one = min(tokens, key=lambda token: (len(token), token))  # class 0, or the first name among the shortest

    def change(images: list[np.ndarray], rows: Sequence[int]) -> list[np.ndarray]:
        before, result = images, images
        for place, link in enumerate(links, 1):
            after = Chain(links[:place]).protect_arrays(images, [tokens[row] for row in rows])
            if link.name == "cuda":
                result = link.protect_arrays(result, [one] * len(result))
            else:
                strengths = [psnr(*pair) for pair in zip(before, after, strict=True)]
                result = [noise_of_psnr(*args) for args in zip(result, strengths, rows, strict=True)]
            before = after
        return result

    names = {link.name for link in links}
    kinds = ["one filter"] * ("cuda" in names) + ["random noise"] * bool(names - {"cuda"})
    descriptions = {"one filter": "one filter for all classes", "random noise": "random noise of equal PSNR"}
    made = {"control": ", ".join(descriptions[kind] for kind in kinds), "of": config}
    return TrainingSet(f"{label}, {' and '.join(kinds)}", "control", made, clean, change, of=label)


def noise_of_psnr(clean: np.ndarray, decibels: float, row: int) -> np.ndarray:
    """Gaussian noise on ``clean`` with a PSNR of ``decibels`` dB after rounding and clipping. uint8 (H, W, C)."""
    if np.isinf(decibels):
        return clean.copy()
    draws = torch.randn(clean.shape, generator=seeded_generator(row, "equal noise")).numpy()
    sigma = PEAK * 10 ** (-decibels / 20)
    noisy = clean
    for _ in range(4):  # clipping takes some of it away: scale until it is as strong as asked for
        noisy = np.clip(np.rint(clean + sigma * draws), 0, 255).astype(np.uint8)
        got = psnr(clean, noisy)
        sigma *= 2.0 if np.isinf(got) else 10 ** ((got - decibels) / 20)
    return noisy


def _partial(
    label: str, poison: Poison, config: dict[str, Any], clean: Pictures, fraction: float
) -> Iterator[TrainingSet]:
    """A share protected, and the clean rest alone: whether the protected part spoils what the clean part teaches."""
    if not 0 < fraction < 1:
        raise UsageError(f"a fraction lies between 0 and 1, got {fraction}")
    if poison.key is None:
        raise UsageError(f"fractions choose pictures by the key, and {label} has none")
    tokens = clean.tokens(poison)
    ids = (sample_id(image, token) for image, token in zip(clean.images, tokens, strict=True))
    chosen = [is_chosen(poison.key, id_, fraction) for id_ in ids]
    protect = change_of(poison, clean)

    def change(images: list[np.ndarray], rows: Sequence[int]) -> list[np.ndarray]:
        changed = iter(protect([i for i, row in zip(images, rows, strict=True) if chosen[row]],
                               [row for row in rows if chosen[row]]))  # fmt: skip
        return [next(changed) if chosen[row] else image for image, row in zip(images, rows, strict=True)]

    part = {"fraction": fraction, "of": config}
    yield TrainingSet(f"{label}, {fraction:.0%} protected", "partial", part, clean, change, of=label)
    rest = clean.select([row for row in range(len(clean)) if not chosen[row]])
    alone = {"clean part of": fraction, "of": config}
    yield TrainingSet(f"{label}, the clean {1 - fraction:.0%} alone", "clean part", alone, rest, of=label)
