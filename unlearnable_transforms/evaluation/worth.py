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
    known = of_strengths()
    started = known["started"]
    if side >= HALO_SIDE and isinstance(poison, CUDAPoison) and poison._grows:
        name = poison.strength or "normal"
        lines = [*_of_strength(known, name), *_of_start(started, started["strengths"].get(name))]
    elif noise := next((row for row in started["noise"] if _is_made_by(poison, row["links"])), None):
        lines = _of_start(started, noise)
    else:
        lines = [*_of_small_images(poison, side), NOT_MEASURED]
    return ["what it was measured to be worth:", *(f"  {line}" for line in lines)]


def _is_made_by(poison: Poison, links: list[tuple[str, dict[str, Any]]]) -> bool:
    """Whether a poison is the method or chain that was measured, with the same arguments."""
    if poison.key is None:
        return False
    return method_of(make_poison([(name, dict(options)) for name, options in links], poison.key)) == method_of(poison)


def _of_strength(known: dict[str, Any], name: str) -> list[str]:
    return [
        f"{known['images']}, shrunk to {known['side']} pixels, strength {name}; {known['network']}:",
        f"trained on clean ones it recognised {known['clean']:.0f} of 100 new photographs, trained on protected ones "
        f"{known['strengths'][name]['accuracy']:.0f}; guessing gives {100 / known['classes']:.0f}",
        f"where all classes got one filter, which is damage and no protection, it recognised "
        f"{known['one filter for all classes']:.0f}",
    ]


def _of_start(known: dict[str, Any], measured: dict[str, Any] | None) -> list[str]:
    """What a trainer gets who starts from trained weights."""
    if measured is None:
        return [NOT_MEASURED]
    clean, ways = known["clean"], {"fine-tuned": "all layers trained", "probe": "only its last layer trained"}
    lines = [
        "little against a network that has seen millions of other images, from which most people start: "
        f"{known['network']}, on photographs of {known['side']} pixels as a web site serves them:",
        *(f"{way}: clean {clean[kind]:.0f} of 100, protected {measured[kind]:.0f}" for kind, way in ways.items()),
        f"the highest of {measured['combinations']} ways tried {measured['highest']:.0f}",
    ]
    for kind, way in ways.items():
        if kind in measured["larger"]:
            before, after = measured["larger"][kind]
            size = measured["larger"]["side"]
            lines.append(f"{way}, on photographs of {size} pixels: clean {before:.0f} of 100, protected {after:.0f}")
    return lines


def _of_small_images(poison: Poison, side: int) -> list[str]:
    measured = json.loads(MEASURED.read_text())
    if poison.key is None:
        return ["nothing is known: explicit filters were not measured"]
    for row in measured["methods"]:
        if _is_made_by(poison, row["links"]):
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
