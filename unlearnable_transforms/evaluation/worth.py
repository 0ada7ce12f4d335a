"""What a protection was measured to be worth, and against whom, in plain words for those who protect.

``photographs.json`` is written by ``python tests/benchmarks/photographs.py write``, ``started.json`` by ``python
tests/benchmarks/trainers.py draw``, ``measured.json`` by ``python tests/benchmarks/methods.py --draw --write``: no
figure is typed by hand.
"""

import json
from pathlib import Path
from typing import Any

from ..jobs.ledger import method_of
from ..poisons.base import Poison
from ..poisons.cuda import HALO_SIDE, CUDAPoison
from .recommended import MEASURED, make_poison

PHOTOGRAPHS = Path(__file__).with_name("photographs.json")
STARTED = Path(__file__).with_name("started.json")
NOT_MEASURED = (
    "not measured: a trainer who starts from a network that has seen millions of other images, as many do. Such a "
    "trainer largely gets past this protection on photographs (docs/limits.md)"
)


def of_strengths() -> dict[str, Any]:
    """The figures of CUDA's strengths on photographs, accuracies in percent; under ``started`` those of networks that
    start from ImageNet weights."""
    return {**json.loads(PHOTOGRAPHS.read_text()), "started": json.loads(STARTED.read_text())}


def worth(poison: Poison, side: int) -> list[str]:
    """What a method was measured to be worth on images of this size, one line each, the first as title.

    Args:
        poison: the method, or the chain.
        side: the shorter side of the images, in pixels.
    """
    if side >= HALO_SIDE and isinstance(poison, CUDAPoison) and poison._grows:
        lines = [*_of_strength(poison.strength or "normal"), *_of_start(poison.strength or "normal")]
    else:
        lines = [*_of_small_images(poison, side), NOT_MEASURED]
    return ["what it was measured to be worth:", *(f"  {line}" for line in lines)]


def _of_strength(name: str) -> list[str]:
    known = of_strengths()
    return [
        f"{known['images']}, shrunk to {known['side']} pixels, strength {name}; {known['network']}:",
        f"trained on clean ones it recognised {known['clean']:.0f} of 100 new photographs, trained on protected ones "
        f"{known['strengths'][name]['accuracy']:.0f}; guessing gives {100 / known['classes']:.0f}",
        f"where all classes got one filter, which is damage and no protection, it recognised "
        f"{known['one filter for all classes']:.0f}",
    ]


def _of_start(name: str) -> list[str]:
    known = of_strengths()["started"]
    if name not in known["strengths"]:
        return [NOT_MEASURED]
    clean, own, larger = known["clean"], known["strengths"][name], known["larger"][name]
    lines = [
        "little against a network that has seen millions of other images, from which most people start: "
        f"{known['network']}, on photographs of {known['side']} pixels as a web site serves them:",
        f"all layers trained: clean {clean['fine-tuned']:.0f} of 100, protected {own['fine-tuned']:.0f}; "
        f"only its last layer trained: clean {clean['probe']:.0f}, protected {own['probe']:.0f}; the highest of "
        f"{own['combinations']} ways tried {own['highest']:.0f}",
    ]
    ways = {"fine-tuned": "all layers trained", "probe": "only its last layer trained"}
    measured = [
        f"{way}: clean {larger[kind][0]:.0f} of 100, protected {larger[kind][1]:.0f}"
        for kind, way in ways.items()
        if kind in larger
    ]
    if measured:
        lines.append(f"even less on photographs of {larger['side']} pixels; {'; '.join(measured)}")
    return lines


def _of_small_images(poison: Poison, side: int) -> list[str]:
    measured = json.loads(MEASURED.read_text())
    if poison.key is None:
        return ["nothing is known: explicit filters were not measured"]
    for row in measured["methods"]:
        known = make_poison([(name, dict(options)) for name, options in row["links"]], poison.key)
        if method_of(known) == method_of(poison):
            worst, plain = (100 * row["accuracies"][name] for name in (row["worst"], "erm"))
            clean = 100 * measured["clean"]["erm"]
            return [
                "10,000 images of 32 x 32 pixels (CIFAR-10); a small network that learns from nothing but them:",
                f"trained on clean ones it recognised {clean:.0f} of 100 new images, trained on protected ones "
                f"{plain:.0f}, and {worst:.0f} where the trainer tries to undo it, by the best way tried "
                f"({row['worst']}); guessing gives 10",
                *([f"at the size of your images, about {side} pixels, it was not measured"] if side > 32 else []),
            ]
    return ["nothing is known: this method was not measured with these options"]
