"""Methods that learn noise for a data set: ``fit`` makes it and keeps it, ``_protect`` looks it up.

A subclass writes how the noise is made, :meth:`FittedPoison._learn`, and how more of it is made with the surrogate that
was kept, :meth:`FittedPoison._continue`. The rest is here: one table for all pictures, the cache, bounds, reports.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from ..errors import UnlearnableWarning, UsageError, UsageTypeError
from ..noise.cache import Entry, NoiseCache
from ..noise.pictures import Pictures, Source
from ..noise.table import NoiseError
from ..params import learnt, param
from ..sample import SampleError, class_tokens
from ..warn import warn
from .base import Behind, Poison
from .checks import quick_victim, separability
from .deltas import cut_shards, open_buffer
from .undo import subtract_stored, table_rows

MISS = (
    "the fit has not seen these pictures, so there is no noise for them. Usual causes: a resize or another transform "
    "before the poison (fit(data, transform=...) does the same), EXIF orientation applied by one reader and not by "
    "the other, another JPEG decoder, another label. For new pictures: poison.extend(more)"
)


TAKEN = 0.15  # of what can be: the least that noise must move a small network by, see checks.quick_victim
PASS = 128  # pictures: the unit in which the literature counts passes


class FitWarning(UnlearnableWarning):
    """Signs that a fit has made noise that will not protect."""


class FittedPoison(Poison):
    """Base of the methods that add noise which ``fit`` has made."""

    needs_ids = True
    needs_key = True

    eps: float = param(
        "bound of the noise in L-inf: at most 255 * eps levels a pixel, exactly",
        default=8 / 255, low=1 / 255, high=127 / 255, unit="in units of 1 = white",
    )  # fmt: skip
    work_size: int | None = param(
        "side of the square at which the noise is made; it is enlarged to each image's size then. None: the size of "
        "the images, or 64 where they differ in size",
        default=None, low=8, unit="in pixels",
    )  # fmt: skip
    data: Any = param("fit on this at once", default=None, decides="work", then="fit")
    noise: str | None = learnt("name of the noise in the cache; none before the fit", default=None)

    def _prepare(self) -> None:
        super()._prepare()
        self._opened: Entry | None = None
        self._kept: NoiseCache | None = None  # where the noise lies; None: under the method's own address

    # ---- what a method writes -------------------------------------------------------------------------------------

    def _learn(self, pictures: Pictures, noise: np.memmap, work: Path) -> dict[str, Any]:
        """Fill in the noise of the images: int8 (N, 3, height, width), levels at the work size, within ``levels``.

        ``work`` is a folder for a checkpoint, removed after the fit. A fit that was killed and starts again finds it
        and ends with the same bytes.

        Returns:
            ``tensors`` for ``extend``; ``accuracy`` of the surrogate on the images with noise; ``target``: what share
            of them the surrogate takes for what the method asks; ``passes``, forward and backward, of ``PASS`` images.
        """
        raise UsageTypeError(f"{type(self).__name__} does not say how it learns: it has no _learn")

    def _continue(self, pictures: Pictures, noise: np.memmap, tensors: Mapping[str, np.ndarray]) -> None:
        """Fill in noise for further pictures of the same classes and size, with what the fit left."""
        raise UsageTypeError(f"{type(self).__name__} makes no noise for further pictures: it has no _continue")

    def _work_side(self) -> int | None:
        """The side of the square at which the noise is made, in pixels; None: see ``work_size``."""
        return self.work_size

    def _worries(self, report: Mapping[str, Any]) -> str | None:
        """What in the report says that the noise will not protect."""
        protected, clean, chance = report["quick_protected"], report["quick_clean"], 1 / report["classes"]
        if protected is None:  # too few pictures for a network
            if report["separability"] < 0.5 + 0.5 * chance:
                return (
                    f"a linear classifier tells the classes of only {report['separability']:.0%} of held-out noise: "
                    "there is no shortcut in it"
                )
        elif protected - clean < TAKEN * (1 - chance):
            return (
                f"a small network that trained on protected pictures is right on {protected:.0%} of others with noise "
                f"and on {clean:.0%} without: it does not go by the noise"
            )
        return None

    # ---- fitting --------------------------------------------------------------------------------------------------

    @property
    def bound(self) -> float:
        """The bound of the noise in L-inf, in units of 1 = white."""
        return self.eps

    @property
    def levels(self) -> int:
        """The bound of the noise in levels of 1/255."""
        return int(self.bound * 255 + 1e-6)

    @property
    def fitted(self) -> bool:
        return self.noise is not None

    @property
    def report(self) -> dict[str, Any]:
        """What the fit found: ``surrogate_accuracy``, ``separability``, ``quick_protected`` and ``quick_clean`` (see
        ``checks.quick_victim``), ``psnr``, ``passes`` and so on."""
        return self._entry().report

    def fit(self, data: Any, transform: Callable | None = None) -> Self:
        """Make noise for every picture of a data set, or find it in the cache, whatever the order of the rows is now.

        Interrupted, also by kill -9, and called again, it goes on and ends with the same bytes.

        Args:
            data: a ``datasets.Dataset``, a data set of ``(image, label)`` pairs such as torchvision's, or a tuple
                ``(images, labels)``.
            transform: applied to each image first, e.g. a resize that comes before the poison.

        Raises:
            TypeError: a streaming data set, or something else that cannot be read twice.
            SampleError: a picture or label that cannot be protected; its row is named.
            NoiseError: noise in the cache is damaged.
        """
        data, chain = Behind.split(data)
        source, cache = source_of(self, data, transform, chain), self._cache(chain)
        known = source.remembered()
        entry = None if known is None else cache.find(known)
        if entry is None:
            side = self._work_side()
            pictures = Pictures(source, None if side is None else (side, side))
            source.remember(pictures.ids)
            with cache.locked():
                entry = cache.find(pictures.ids) or self._make(pictures, cache, chain)
        self._attach(entry, cache)
        return self

    def extend(self, more: Any, transform: Callable | None = None) -> Self:
        """Make noise for further images with the surrogate of the fit; what there is stays as it is.

        Arguments and errors are those of :meth:`fit`; images that have noise already are passed over.

        Raises:
            NotFittedError: ``fit`` comes first.
            SampleError: a class that the fit has not seen.
        """
        self._ready()
        more, chain = Behind.split(more)
        before, cache = self._entry(), self._cache(chain)
        report = before.report
        classes, size = report["class_tokens"], (report["size"][0], report["size"][1])
        pictures = Pictures(source_of(self, more, transform, chain), size, classes, known=before.table())
        if len(pictures):
            with cache.locked():
                work = cache.work(pictures.ids)
                noise = open_buffer(work / "noise", (len(pictures), 3, *size))
                self._continue(pictures, noise, before.surrogate())
                shards, measured = cut_shards(pictures, noise, self.levels, work)
                extended = report.get("extended", 0) + len(pictures)
                report = {**report, "extended": extended, "extended_psnr": measured["psnr"]}
                self._attach(cache.save(shards, before.surrogate(), report, extends=before), cache)
                shutil.rmtree(work)
            _warn_unchanged(measured)
        return self

    def _make(self, pictures: Pictures, cache: NoiseCache, chain: Poison | None) -> Entry:
        work = cache.work(pictures.ids)
        noise = open_buffer(work / "noise", (len(pictures), 3, *pictures.size))
        learnt = self._learn(pictures, noise, work)
        shards, measured = cut_shards(pictures, noise, self.levels, work)
        protected, clean = quick_victim(pictures, noise, self._stream("quick victim"))
        report = {
            "quick_protected": protected,
            "quick_clean": clean,
            "surrogate_accuracy": learnt["accuracy"],
            "target_share": learnt["target"],
            "separability": separability(noise, pictures.labels, self._stream("separability")),
            "passes": learnt["passes"],
            **measured,
            "size": list(pictures.size),
            "classes": len(pictures.classes),
            "class_tokens": pictures.classes,
        }
        entry = cache.save(shards, learnt["tensors"], report)
        shutil.rmtree(work)
        _warn_unchanged(measured)
        if worries := self._worries(report):
            # Behind other links a network may go by what those did, and that protects as well.
            who = None if chain is None else f"behind {chain.title} this noise may add nothing"
            warn(
                f"{who or 'this noise will hardly protect'}: {worries}. More pictures, more steps or another surrogate "
                "may help; measure it (docs/claims.md) before you rely on it",
                FitWarning,
            )
        return entry

    def _cache(self, chain: Poison | None = None) -> NoiseCache:
        """Where the noise of this method lies, behind the links of a chain."""
        declared = self.declared()
        ours = {name: value for name, value in self.arguments().items() if declared[name].decides == "bytes"}
        if self.classes is not None:
            ours["classes"] = sorted(class_tokens(self.classes))
        about = {"method": self.name, "version": self.version, "key_fingerprint": self._private_key().fingerprint}
        if chain is not None:
            about["after"] = chain.private_config()["arguments"]["links"]
        return NoiseCache({**about, "arguments": ours})

    def _place(self, chain: Poison | None) -> None:
        if self.noise is not None:
            cache = self._cache(chain)
            if self._kept is not None and self._kept.name != cache.name:
                raise UsageError(
                    f"{self!r} was fitted at another place of a chain: pass it unfitted, the chain fits it on what the "
                    "links before make of the images"
                )
            self._kept = cache

    def _attach(self, entry: Entry, cache: NoiseCache) -> None:
        self.noise, self._opened, self._kept = entry.folder.name, entry, cache

    def _entry(self) -> Entry:
        self._ready()
        if self._opened is None:
            assert self.noise is not None
            self._opened = Entry((self._kept or self._cache()).folder / self.noise)
        return self._opened

    def _generator(self, *purpose: str | bytes | int) -> torch.Generator:
        """A generator of its own for each purpose: nothing about it needs to be in a checkpoint."""
        return torch.Generator().manual_seed(int(self._stream(*purpose).words(1)[0] >> np.uint64(1)))

    # ---- protecting -----------------------------------------------------------------------------------------------

    def _protect(self, images: torch.Tensor, tokens: Sequence[str], ids: Sequence[bytes] | None) -> torch.Tensor:
        assert ids is not None
        table = self._entry().table()
        rows = table.find(ids)
        missing = np.flatnonzero(rows < 0).tolist()
        if missing:
            if (table.find_protected([ids[row] for row in missing]) >= 0).all():
                raise SampleError("the picture is protected already: protect the clean one, once", missing)
            raise SampleError(MISS, missing)
        changed = images.numpy().astype(np.int16)
        for place, row in enumerate(rows.tolist()):
            changed[place] += table[row]
        if changed.size and (changed.min() < 0 or changed.max() > 255):
            raise NoiseError("the noise leads out of 0..255: it is not of these pictures")
        return torch.from_numpy(changed.astype(np.uint8))

    def _unlock(self, images: torch.Tensor, tokens: Sequence[str], ids: Any, notes: Any) -> torch.Tensor:
        return subtract_stored(self._entry().table(), images, tokens, ids)

    def remembered_ids(self, images: torch.Tensor, tokens: Sequence[str]) -> list[bytes | None]:
        table = self._entry().table()
        rows = table_rows(table, images, tokens, [None] * len(images))
        return [None if row < 0 else table.ids[row : row + 1].tobytes() for row in rows.tolist()]

    def recall(self, ids: Any, values: Sequence = ()) -> Self:
        ids, chain = Behind.split(ids)
        cache = self._cache(chain)
        for entry in () if self.fitted else cache.entries():
            table = entry.table()
            if (table.find(ids) >= 0).all() or (table.find_protected(ids) >= 0).all():
                self._attach(entry, cache)
                break
        if not self.fitted:
            raise NoiseError(
                f"the cache has no noise of {self!r} for these pictures: the key or an argument is another one, or the "
                "cache is another machine's (`unlearnable cache export` and `import`)"
            )
        return self


def _warn_unchanged(measured: Mapping[str, Any]) -> None:
    if measured["unchanged"]:
        warn(
            f"{measured['unchanged']} of {measured['rows']} pictures got no noise (all white or all black, perhaps): "
            "they are unprotected",
            FitWarning,
        )


def source_of(poison: Poison, data: Any, transform: Callable | None, chain: Poison | None) -> Source:
    """The data that a poison learns from, behind the links of a chain."""
    through, names = chain and chain.protect_arrays, ("image_key", "label_key", "classes")
    return Source(data, transform, through, **{name: getattr(poison, name) for name in names})


def slices(count: int, size: int) -> list[slice]:
    """All of ``count`` rows, ``size`` at a time."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
