"""Chains: one method on the output of another.

Methods fail under different defenses, so two of them can cover for each other, but they can also spoil each other:
chains are measured like any method. Each link that learns is fitted on the pictures as the links before leave them. The
sample id is taken once, from the clean picture, and goes to every link.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import numpy as np
import torch

from ..errors import UsageError, UsageTypeError
from ..sample import sample_id
from .base import Behind, NotFittedError, Poison, register


@register("chain", listed=False)
class Chain(Poison):
    """Several methods, one after the other, as one method.

    Args:
        links: the methods, in order, unfitted or fitted at this very place of a chain. They agree in ``image_key``,
            ``label_key`` and ``classes``. All but the first are copied: noise belongs to a place in a chain.
        data: fit on this at once.

    Attributes:
        links: the methods.

    Raises:
        TypeError: a link is not a poison, or is a chain itself.
        ValueError: no link; links that disagree; a link that was fitted elsewhere.
    """

    needs_ids = True
    links: tuple[Poison, ...] = ()

    def __init__(self, links: Iterable[Poison], *, data: Any = None) -> None:
        links = list(links)
        for link in links:
            if not isinstance(link, Poison) or isinstance(link, Chain):
                raise UsageTypeError(f"a link is a poison that is not a chain, got {type(link).__name__}")
        if not links:
            raise UsageError("a chain has at least one link")
        for name in ("image_key", "label_key", "classes"):
            if any(getattr(link, name) != getattr(links[0], name) for link in links):
                raise UsageError(f"the links disagree in {name}=: {[getattr(link, name) for link in links]}")
        self._hold([*links[:1], *map(copy.copy, links[1:])])
        self._place_links()
        if data is not None:
            self.fit(data)

    def _hold(self, links: Sequence[Poison]) -> None:
        self.links = tuple(links)
        # What takes one key, such as the choice of a share of the pictures, takes that of the first link that has one.
        self.key = next((link.key for link in links if link.key is not None), None)
        self.image_key, self.label_key, self.classes = links[0].image_key, links[0].label_key, links[0].classes
        self._between: dict[bytes, tuple[np.ndarray, np.ndarray]] | None = None  # see unlock_note

    def _before(self, place: int) -> "Chain | None":
        """The links before a place, as a chain; None before the first."""
        if place == 0:
            return None
        chain = object.__new__(Chain)
        chain._hold(self.links[:place])
        return chain

    def _handed(self, place: int, data: Any) -> Any:
        """What the link at a place gets to learn from."""
        before = self._before(place)
        return data if before is None else Behind(data, before)

    def _place_links(self) -> None:
        for place, link in enumerate(self.links):
            link._place(self._before(place))

    @property
    def title(self) -> str:
        return " > ".join(link.title for link in self.links)

    @property
    def fitted(self) -> bool:
        return all(link.fitted for link in self.links)

    def fit(self, data: Any, transform: Callable | None = None) -> Self:
        """Fit each link that needs it on what the links before make of the data; see ``FittedPoison.fit``."""
        for place, link in enumerate(self.links):
            if not link.fitted:
                link.fit(self._handed(place, data), transform)
        return self

    def extend(self, more: Any, transform: Callable | None = None) -> Self:
        """Make noise for further images in every link that keeps noise; see ``FittedPoison.extend``.

        Raises:
            TypeError: no link keeps noise: the chain protects new images as it is.
        """
        self._ready()
        growing = [(place, link) for place, link in enumerate(self.links) if hasattr(link, "extend")]
        if not growing:
            raise UsageTypeError("no link of this chain keeps noise: it protects new pictures as it is")
        for place, link in growing:
            link.extend(self._handed(place, more), transform)
        return self

    def recall(self, ids: Any, values: Sequence = ()) -> Self:
        for place, link in enumerate(self.links):
            link.recall(self._handed(place, ids), values)
        return self

    def arguments(self) -> dict[str, Any]:
        return {"links": [link.private_config() for link in self.links]}

    def public_arguments(self) -> dict[str, Any]:
        return {"links": [link.public_config() for link in self.links]}

    def public_state(self) -> dict[str, Any]:
        return {"links": [link.public_config(fitted=True) for link in self.links]}

    @property
    def _noted(self) -> int | None:
        """The place of the first link that leaves notes for unlocking."""
        places = (place for place, link in enumerate(self.links) if type(link).unlock_note is not Poison.unlock_note)
        return next(places, None)

    def unlock_note(self, clean: np.ndarray, protected: np.ndarray, token: str) -> float | None:
        """That of the first link which leaves one, about what it got and made of this picture.

        :meth:`protect_arrays` keeps both of the pictures that it protected last, so that nothing is protected again.
        """
        if self._noted is None:
            return None
        id_ = sample_id(clean, token)
        if id_ not in (self._between or {}):
            self.protect_arrays([clean], [token])
        assert self._between is not None
        return self.links[self._noted].unlock_note(*self._between.pop(id_), token)

    def protect_arrays(
        self, images: Sequence[np.ndarray], tokens: Sequence[str], ids: Sequence[bytes] | None = None
    ) -> list[np.ndarray]:
        self._between = {}
        return super().protect_arrays(images, tokens, ids)

    def _protect_batch(self, images: torch.Tensor, tokens: list[str], result: torch.Tensor) -> None:
        self._between = None
        super()._protect_batch(images, tokens, result)

    def _protect(self, images: torch.Tensor, tokens: Sequence[str], ids: Sequence[bytes] | None) -> torch.Tensor:
        noted = self._noted
        for place, link in enumerate(self.links):
            before, images = images, link._protect_checked(images, tokens, ids)
            if place == noted and self._between is not None and ids is not None:
                rows = (batch.permute(0, 2, 3, 1).numpy() for batch in (before, images))
                self._between |= dict(zip(ids, zip(*rows, strict=True), strict=True))
        return images

    def _unlock(self, images: torch.Tensor, tokens: Sequence[str], ids: Any, notes: Any) -> torch.Tensor:
        """Link by link, backwards."""
        for place, link in reversed(list(enumerate(self.links))):
            left = notes if place == self._noted else [None] * len(notes)
            images = link._unlock(images, tokens, ids, left).to(torch.uint8)
        return images

    def remembered_ids(self, images: torch.Tensor, tokens: Sequence[str]) -> list[bytes | None]:
        """If the last link keeps ids, it knows those that the links before it need."""
        return self.links[-1].remembered_ids(images, tokens)

    def _ready(self) -> None:
        for place, link in enumerate(self.links, 1):
            if not link.fitted:
                raise NotFittedError(
                    f"link {place} of the chain, {type(link).__name__}, is not fitted: call chain.fit(dataset) first, "
                    "which fits each link on what the links before make of the pictures (docs/chain.md)"
                )
            link._ready()

    def __getstate__(self) -> dict[str, Any]:
        return {"links": self.links, "version": self.version}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._check_version(state)
        self._hold(state["links"])
        self._place_links()

    def __copy__(self) -> Self:
        other = object.__new__(type(self))
        other._hold([copy.copy(link) for link in self.links])
        return other

    def __repr__(self) -> str:
        return f"Chain([{', '.join(map(repr, self.links))}])"
