"""``audit``: is this set protected, and how well? A verdict, and what it rests on."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks.leaks import Leak
from ..errors import UsageError
from ..evaluation.data import common_classes, fit, numbers, read_pictures
from ..key import Key
from ..sample import spread
from .measure import Measured, measure
from .signals import Signals, read_signals
from .signs import Sign, brightness, grid, look, per_class
from .traces import Stored, Traces, read, read_traces

ROWS = 4000
FEWEST = 200
SIDE, SMALLEST = 64, 8  # pixels: larger pictures are shrunk, and looked at once more at their own resolution
STRONG_GRID = 1.3  # ratio: JPEG of quality 10 gives 1.8 to 2, photographs and CIFAR-10 as stored 1 to 1.15
NONE, SIGNS = "no signs of protection", "signs of protection"
NOT, WEAKLY, PROTECTED = "not protected (measured)", "weakly protected (measured)", "protected (measured)"
ON_THE_LINE = "on the line between weakly protected and protected (measured)"
HARDLY = "signs of protection, hardly felt by quick victims (measured)"
DECLARED = "declared as protected, but "
RESERVED = "; its owner reserves training"
HALF = 0.5  # of the loss has to be left, for "protected"
FOUND, LEAKS = 1, 3  # exit codes
_ORDER = Key.public("audit")  # which rows are looked at is no secret: the same set gives the same answer


@dataclass(frozen=True)
class Audit:
    """What an audit found. ``print`` tells it; :meth:`to_dict` is JSON.

    Attributes:
        verdict: without a test set ``no signs of protection`` or ``signs of protection``; with one ``not protected``,
            ``signs of protection, hardly felt by quick victims``, ``weakly protected``, ``on the line between weakly
            protected and protected`` or ``protected``, each followed by ``(measured)``. Where nothing was found and
            the set says that it is protected, ``declared as protected, but`` stands before it; where the set opts out,
            ``; its owner reserves training`` stands behind it.
        rows, looked_at: pictures of the set, and those that the signs rest on.
        classes: names or numbers.
        side: in pixels, of what was looked at.
        signs: every comparison, found or not.
        share: roughly the share of pictures whose class only a sign tells, in [0, 1]. As a rule more carry it.
        content: accuracy of a simple classifier of the coarse picture, in [0, 1].
        per_class: brightness, contrast and finest detail of each class, in levels.
        grid: how much larger steps are across the borders of JPEG's blocks, a ratio; None for tiny pictures.
        traces: encodings, and what the files give away.
        measured: with a test set, how far quick victims get.
        signals: what the set says of itself.
    """

    verdict: str
    rows: int
    looked_at: int
    classes: list[int | str]
    side: int
    signs: list[Sign]
    share: float
    content: float
    per_class: list[dict[str, float]]
    grid: float | None
    traces: Traces = field(default_factory=Traces)
    measured: Measured | None = None
    signals: Signals = field(default_factory=Signals)

    @property
    def found(self) -> bool:
        """Whether there is a protection by the verdict, or there are signs of one, or the set declares one."""
        verdict = self.verdict.removesuffix(RESERVED)
        return verdict in (SIGNS, HARDLY, WEAKLY, ON_THE_LINE, PROTECTED) or bool(self.signals.declared)

    @property
    def leaks(self) -> list[Leak]:
        """What the files give away."""
        return self.traces.leaks

    @property
    def exit_code(self) -> int:
        """0: nothing found; 1: signs, a protection or an opt-out; 3: a protection whose files give something away."""
        if self.found:
            return LEAKS if self.leaks else FOUND
        return FOUND if self.signals.reserved else 0

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        values = asdict(self)
        traces = values.pop("traces")
        leaks = [{**asdict(leak), "places": list(leak.places)} for leak in self.leaks]
        return json.loads(json.dumps({**values, **traces, "leaks": leaks, "exit_code": self.exit_code}))

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield self.verdict
        yield (
            f"  {self.looked_at:,} of {self.rows:,} pictures looked at, {len(self.classes)} classes, at {self.side} px"
        )
        if self.signals.reserved:
            yield f"  training is reserved in {', '.join(self.signals.reserved)}"
        if self.signals.declared:
            yield f"  declared as protected in {', '.join(self.signals.declared)}"
        if self.signals.gated:
            yield f"  access on the Hub is gated: {self.signals.gated}"
        for sign in self.signs:
            yield f"  {'SIGN' if sign.found else 'no'}: {sign.name}: {sign.what} (labels shuffled {sign.shuffled:.1%})"
        if self.share:
            yield f"  roughly {self.share:.0%} of the pictures' classes are told by it alone; as a rule more carry it"
        if self.measured is not None:
            yield from _measurement(self.measured)
        if self.grid is not None:
            strong = ": strong JPEG, which takes away what additive methods add, or squares that one added"
            after = strong if self.grid > STRONG_GRID else ""
            yield f"  steps across the borders of JPEG's blocks: {self.grid:.2f} times those elsewhere{after}"
        if self.traces.formats:
            formats = ", ".join(f"{count:,} {name}" for name, count in Counter(self.traces.formats).most_common())
            yield f"  files: {formats}; kinds of encoding: {self.traces.encodings}"
        yield from (f"  leak: {leak}" for leak in self.leaks)
        if self.measured is None:
            yield "  Signs are not proof, and no signs are no proof of the contrary: pass a clean test set to measure."


def _measurement(measured: Measured) -> Iterator[str]:
    others = ", ".join(f"{name} {value:.1%}" for name, value in measured.accuracies.items() if name != "erm")
    yield (
        f"  quick victims that start from nothing, of {measured.rows:,} pictures, tested on {measured.tested:,} clean "
        f"ones: {measured.accuracies['erm']:.1%}; under {others}; of as many clean test pictures "
        f"{measured.reference:.1%}"
    )
    if measured.taken > measured.margin:
        low, high = measured.kept_interval
        lost = f"of the {100 * measured.taken:.0f} points lost, {measured.kept:.0%} are still lost"
        yield f"  {lost} under {measured.worst[0]}, the best of these ({low:.0%} to {high:.0%} by so few test pictures)"


def audit(
    data: Any,
    test: Any = None,
    *,
    split: str = "train",
    image_key: str | None = None,
    label_key: str | None = None,
    rows: int = ROWS,
    seed: int = 0,
    device: str | None = None,
) -> Audit:
    """Is this set protected, and how well?

    Without a test set the answer is signs: what tells the class of a picture and is no part of what it shows. With
    clean test pictures quick victims are trained: plainly and under the best three cheap defenses. docs/audit.md says
    how often it errs.

    Args:
        data: the set. What it may be is said in :func:`~..evaluation.data.read_pictures`.
        test: clean pictures of the same classes, at least 600.
        split: taken where ``data`` has several; of ``test`` it is "test".
        image_key, label_key: columns; default: the common names.
        rows: pictures that signs rest on, evenly spread; more see fainter signs.
        seed: of the victims' trainings.
        device: of the victims, "cpu" or "cuda"; default: a GPU where there is one.

    Raises:
        TypeError: a kind of set that is refused.
        ValueError: fewer than 200 pictures, one class, sets that do not fit together.
    """
    path = Path(data) if isinstance(data, str | Path) else None
    keys = {"image_key": image_key, "label_key": label_key}
    pictures = read_pictures(data, what="audited", split=split, **keys)
    tests = None if test is None else read_pictures(test, what="test", split="test", **keys)
    if len(pictures) < FEWEST or rows < FEWEST:
        raise UsageError(f"signs need {FEWEST} pictures to be seen: there are {min(len(pictures), rows)}")
    classes = common_classes(audited=pictures, **({} if tests is None else {"test": tests}))

    chosen = np.asarray(spread(len(pictures), rows))
    chosen = chosen[_ORDER.stream("rows").permutation(len(chosen))]
    labels = numbers(pictures.select(chosen.tolist()), classes)
    order = torch.from_numpy(_ORDER.stream("shuffled").permutation(len(chosen)))
    shrunk, cut, files = views(read(pictures, chosen.tolist()))
    side, light = shrunk.shape[-1], brightness(shrunk)
    signs, content = look(shrunk, light, labels, order)
    if cut is not None:
        closer, _ = look(cut, brightness(cut), labels, order, content)
        signs += closer
    measured = None if tests is None else measure(pictures, tests, side, seed, device)
    signals = read_signals(data, [file.opt_outs for file in files])
    return Audit(
        verdict=judge(signs, measured, signals),
        rows=len(pictures),
        looked_at=len(chosen),
        classes=classes,
        side=side,
        signs=signs,
        share=max(sign.share for sign in signs),
        content=content,
        per_class=per_class(shrunk, light, labels),
        grid=grid(shrunk if cut is None else cut),
        traces=read_traces(files, pictures, path, rows),
        measured=measured,
        signals=signals,
    )


def judge(signs: list[Sign], measured: Measured | None, signals: Signals | None = None) -> str:
    """The verdict. What was measured comes first; signs that cost a quick victim nothing are still told, since one that
    trains longer on more may feel them. What the set says of itself is added."""
    verdict, signals = _judge_pixels(signs, measured), signals or Signals()
    if signals.declared and verdict in (NONE, NOT):
        verdict = DECLARED + verdict
    return verdict + (RESERVED if signals.reserved else "")


def _judge_pixels(signs: list[Sign], measured: Measured | None) -> str:
    signs_found = any(sign.found for sign in signs)
    if measured is None:
        return SIGNS if signs_found else NONE
    if measured.taken <= measured.margin:
        return HARDLY if signs_found else NOT
    low, high = measured.kept_interval
    return PROTECTED if low > HALF else WEAKLY if high < HALF else ON_THE_LINE


def views(pairs: Iterable[tuple[np.ndarray, Stored | None]]) -> tuple[Tensor, Tensor | None, list[Stored]]:
    """Pictures of one size, uint8 (N, 3, s, s), twice, and what their files told; one picture is open at a time.

    The first shows whole pictures, shrunk to at most ``SIDE`` pixels. The second is there where all are larger than
    that: ``SIDE`` pixels from the middle at their own resolution, on the grid of JPEG's blocks.
    """
    whole, middles, files = [], [], []
    for image, stored in pairs:
        shorter = min(image.shape[:2])
        whole.append(fit(image, min(shorter, SIDE)))
        if shorter > SIDE:
            middles.append(_middle(image))
        if stored is not None:
            files.append(stored)
    side = max(min(len(image[0]) for image in whole), SMALLEST)
    shrunk = torch.stack([fit(image.permute(1, 2, 0).numpy(), side).expand(3, -1, -1) for image in whole])
    return shrunk, torch.stack(middles) if len(middles) == len(whole) else None, files


def _middle(image: np.ndarray) -> Tensor:
    """uint8 (H, W, C) -> uint8 (3, SIDE, SIDE), from a place that is a multiple of 8."""
    top, left = ((length - SIDE) // 16 * 8 for length in image.shape[:2])
    pixels = torch.from_numpy(np.ascontiguousarray(image[top : top + SIDE, left : left + SIDE])).permute(2, 0, 1)
    return pixels.expand(3, -1, -1)
