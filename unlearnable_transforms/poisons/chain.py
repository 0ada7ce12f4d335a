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

from .base import NotFittedError, Poison


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

    name = "chain"
    needs_ids = True

    def __init__(self, links: Iterable[Poison], *, data: Any = None) -> None:
        self.links: tuple[Poison, ...] = ()
        for link in links:
            if not isinstance(link, Poison) or isinstance(link, Chain):
                raise TypeError(f"a link is a poison that is not a chain, got {type(link).__name__}")
            stands_here = [*map(id, link.after)] == [*map(id, self.links)]
            self.links += (link if stands_here else self._placed(link),)
        if not self.links:
            raise ValueError("a chain has at least one link")
        first = self.links[0]
        for name in ("image_key", "label_key", "classes"):
            if any(getattr(link, name) != getattr(first, name) for link in self.links):
                raise ValueError(f"the links disagree in {name}=: {[getattr(link, name) for link in self.links]}")
        # What takes one key, such as the choice of a share of the pictures, takes that of the first link that has one.
        key = next((link.key for link in self.links if link.key is not None), None)
        classes: Any = first.classes
        super().__init__(key, image_key=first.image_key, label_key=first.label_key, classes=classes)
        if data is not None:
            self.fit(data)

    def _placed(self, link: Poison) -> Poison:
        """A copy that knows it stands behind the links so far."""
        if getattr(link, "noise", None) is not None:
            raise ValueError(
                f"{link!r} was fitted at another place than behind {Chain(self.links)!r}: pass it unfitted, the chain "
                "fits it on what the links before make of the pictures"
            )
        link = copy.copy(link)
        link.after = self.links
        return link

    @property
    def title(self) -> str:
        return " > ".join(link.title for link in self.links)

    @property
    def fitted(self) -> bool:
        return all(link.fitted for link in self.links)

    def fit(self, data: Any, transform: Callable | None = None) -> Self:
        """Fit each link that needs it on what the links before make of the data; see ``FittedPoison.fit``."""
        for link in self.links:
            if not link.fitted:
                link.fit(data, transform)
        return self

    def extend(self, more: Any, transform: Callable | None = None) -> Self:
        """Make noise for further pictures in every link that keeps noise; see ``FittedPoison.extend``.

        Raises:
            NotFittedError: ``fit`` comes first.
            TypeError: no link keeps noise: the chain protects new pictures as it is.
        """
        self._ready()
        learnt = [link for link in self.links if hasattr(link, "extend")]
        if not learnt:
            raise TypeError("no link of this chain keeps noise: it protects new pictures as it is")
        for link in learnt:
            link.extend(more, transform)
        return self

    def arguments(self) -> dict[str, Any]:
        return {"links": [link.private_config() for link in self.links]}

    def public_arguments(self) -> dict[str, Any]:
        return {"links": [link.public_config() for link in self.links]}

    def unlock_note(self, clean: np.ndarray, protected: np.ndarray, token: str) -> float | None:
        """That of the first link which has one."""
        image = clean
        for place, link in enumerate(self.links):
            if all(type(later).unlock_note is Poison.unlock_note for later in self.links[place:]):
                return None
            (changed,) = Chain(self.links[: place + 1]).protect_arrays([clean], [token])
            note = link.unlock_note(image, changed, token)
            if note is not None:
                return note
            image = changed
        return None

    def _protect(self, images: torch.Tensor, tokens: Sequence[str], ids: Sequence[bytes] | None) -> torch.Tensor:
        for link in self.links:
            images = link._protect(images, tokens, ids).to(torch.uint8)
        return images

    def _unlock(
        self,
        images: torch.Tensor,
        tokens: Sequence[str],
        ids: Sequence[bytes | None],
        notes: Sequence[float | None],
    ) -> torch.Tensor:
        """Link by link, backwards."""
        noted = next((link for link in self.links if type(link).unlock_note is not Poison.unlock_note), None)
        for link in reversed(self.links):
            own = notes if link is noted else [None] * len(notes)
            images = link._unlock(images, tokens, ids, own).to(torch.uint8)
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
        if state["version"] != self.version:
            raise ValueError(f"a Chain of version {state['version']} was pickled, this library has {self.version}")
        for place, link in enumerate(state["links"]):
            link.after = state["links"][:place]
        self.__init__(state["links"])  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"Chain([{', '.join(map(repr, self.links))}])"
