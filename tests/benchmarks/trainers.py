"""What real trainers get from protected photographs: `python tests/benchmarks/trainers.py [PART ...] [--jobs 1]`.

Data: `clothing` (CC0, ten classes, 1,593 training and 510 test photographs), protected at full size. A trainer gets
them as a site serves them: shrunk to the side at which it trains (shorter side, middle square), then JPEG 75.

Trainers: EfficientNet-Lite0 with ImageNet weights as a linear probe (`last-layer`) and with all layers fine-tuned
(plain training, 8 epochs); a ResNet-9 from nothing (40 epochs), and the same without labels (`simclr`), then a probe.
Sets: clean; CUDA's strengths; the control, one halo for all classes; TAP with the preset for photographs, alone and
behind CUDA `subtle`, at 16/255 where the image hides it (`similarity` 0.9, chosen on 64 training rows for an SSIM of at
least 0.95 and a PSNR of at least 30 dB); noise of PIL and SEM, made at 96 px.

Parts, in the order in which they were used (default: all but `choose`):

    choose   validation, 400 rows held out of the training set: all cheap defenses under the probe, for CUDA `normal`;
             prints the five that recover the most, which stand in DEFENSES below
    probe    test set, 96 px: all sets, the probe, no defense and the five
    tune     test set, 96 px: all sets, fine-tuned, no defense; CUDA `normal` and clean also with the first three
    scratch  test set, 96 px: CUDA `normal`, its control and clean, from nothing
    simclr   the same without labels, without the control
    large    test set, 160 px: CUDA's sets and TAP, probe; clean and CUDA `normal`, fine-tuned
    judge    test set, 96 px: clean, CUDA `normal` and TAP, probes of EfficientNet-Lite2, which no noise is made for
    keys     test set, 96 px: CUDA `normal` with two more keys, probe and fine-tuned
    clean    test set, 224 px: clean photographs, probe and fine-tuned

    draw     trains nothing: prints what is there, writes the tables and the picture of docs/trainers.md, and brings the
             figures into the package, for what `protect` and `preview` say

Every training is a cell in docs/results/trainers; a run that was stopped goes on.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from datasets import Dataset, disable_progress_bars, load_dataset

import unlearnable_transforms as ut
from unlearnable_transforms.evaluation.tables import Entry
from unlearnable_transforms.evaluation.trainers import HOW, Trainer, split
from unlearnable_transforms.evaluation.worth import STARTED

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "clothing"
RESULTS = ROOT / "docs" / "results" / "trainers"
TABLES, PICTURE = RESULTS / "tables.md", ROOT / "docs" / "images" / "trainers.svg"
KEYS = ("clothing-0", "clothing-1", "clothing-2")
LITE, NOTHING = "efficientnet_lite0:weights=imagenet", "resnet9-screen"
JUDGE = "efficientnet_lite2:weights=imagenet"
SITE = "jpeg:quality=75"  # what a site does after shrinking
PROBE = "last-layer"
HELD_OUT = 400
CHEAP = (
    "channel-norm", "equalize", "whiten-lab", "whiten-yuv", "grayscale", "low-pass", "gaussian", "median", "bilateral",
    "bdr", "rsk-ff", "coin", "random-filters", "colour-jitter", "colour-noise", "class-spectrum", "class-residual",
    "jpeg:quality=10",
)  # fmt: skip
DEFENSES = ("bdr", "colour-jitter", "median", "colour-noise", "random-filters")


def site(*defenses: str) -> str:
    """What the trainer does, behind what the site did."""
    return " + ".join([SITE, *filter(None, defenses)])


def cuda(strength: str, key: str = KEYS[0]) -> ut.Poison:
    return ut.CUDAPoison(key=ut.Key.public(key), strength=strength)


def make(name: str) -> ut.Poison:
    """A method by its name in the table."""
    key = ut.Key.public(KEYS[0])
    match name.split():
        case ["cuda", strength]:
            return cuda(strength)
        case ["cuda", strength, ">", other]:
            return ut.Chain([cuda(strength), make(other)])
        case [other]:
            return ut.get_poison(other)(key=key, **SETTINGS[other])
    raise ValueError(name)


STRENGTHS = ("cuda normal", "cuda subtle", "cuda strong")
NOISE = ("tap", "cuda subtle > tap", "pil", "sem")
SETTINGS: dict[str, dict[str, Any]] = {
    "tap": {"preset": "photographs", "eps": 16 / 255, "noise_step_size": None, "similarity": 0.9},
    "pil": {"work_size": 96}, "sem": {"work_size": 96},
}  # fmt: skip


def read(folder: Path, split: str) -> Dataset:
    return load_dataset("parquet", data_files=str(folder / f"{split}-*.parquet"), split="train")


def measure(data: dict[str, Any], part: str, victim: str, defenses: list[str], size: int, **more: Any) -> ut.Report:
    """The cells of one part of the matrix, as a report that is printed."""
    settings = {"recipe": "photographs", "out": RESULTS, "samples": 0, **data, **more}
    report = ut.evaluate(victims=[victim], defenses=defenses, image_size=size, **settings)
    print(f"\n==== {part}: {victim}, {size} px\n{report}", flush=True)
    return report


Figures = dict[tuple[int, str, Trainer, str], Entry]
SCRATCH, NO_LABELS = Trainer(NOTHING, "from nothing"), Trainer(NOTHING, HOW["simclr"])
PROBED, TUNED = Trainer(LITE, HOW[PROBE]), Trainer(LITE, "all layers fine-tuned")
JUDGED = Trainer(JUDGE, HOW[PROBE])
STARTED_TRAINERS = {"probe": PROBED, "fine-tuned": TUNED}
NAMES = {
    SCRATCH: "small network from nothing", NO_LABELS: "the same without labels, then a probe",
    PROBED: "EfficientNet-Lite0 from ImageNet weights, linear probe",
    TUNED: "EfficientNet-Lite0 from ImageNet weights, all layers fine-tuned",
    JUDGED: "EfficientNet-Lite2 from ImageNet weights, linear probe",
}  # fmt: skip


def figures(report: ut.Report) -> Figures:
    """Every measured place by size, training set, trainer and defense; the site's JPEG is no defense."""
    found = {}
    for table in report.tables:
        for (row, column), entry in table.entries.items():
            trainer, defense = split(table.about["victim"], column)
            if entry.last is not None:
                rest = defense.removeprefix("jpeg quality=75").removeprefix(" + ").removeprefix("erm")
                found[table.about["image_size"], row[0], trainer, rest or "none"] = entry
    return found


def markdown(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def percent(entry: Entry | None) -> str:
    return "" if entry is None or entry.last is None else f"{100 * entry.last:.1f}"


def main_table(found: Figures, report: ut.Report) -> str:
    """Training sets down, trainers across, at 96 px without a defense; then the highest over trainers and defenses."""
    looks = {about["label"]: about["quality"] for about in report.sets.values() if about["quality"]}
    trainers = [trainer for trainer in NAMES if any(place[2] == trainer for place in found)]
    lines = []
    for name in dict.fromkeys(place[1] for place in found if place[0] == 96):
        own = {place[2:]: entry for place, entry in found.items() if place[:2] == (96, name)}
        (trainer, defense), worst = max(own.items(), key=lambda item: item[1].last or 0.0)
        look = looks.get(name)
        lines.append([
            name, *(percent(own.get((each, "none"))) for each in trainers), f"**{percent(worst)}**",
            f"{trainer.how}, {defense}" if defense != "none" else trainer.how, str(len(own)),
            f"{look['ssim']:.3f}" if look and name != "clean" else "",
            f"{look['psnr']:.1f} dB" if look and name != "clean" else "",
        ])  # fmt: skip
    head = ["trained on", *(NAMES[each] for each in trainers), "highest", "by", "combinations", "SSIM", "PSNR"]
    return markdown(head, lines)


def first_table(found: Figures) -> str:
    """What stands on the first pages: of 100 new photographs, how many are recognised."""
    trainers = {
        "a small network that starts from nothing": SCRATCH,
        "EfficientNet-Lite0 from ImageNet weights, all layers fine-tuned": TUNED,
        "the same network, linear probe: a new last layer alone": PROBED,
    }
    sets, lines = ("clean", "cuda normal"), []
    for name, trainer in trainers.items():
        clean, kept = (found[96, each, trainer, "none"].last or 0.0 for each in sets)
        lines.append([name, f"{100 * clean:.0f}", f"**{100 * kept:.0f}**"])
    clean, kept = (max(entry.last or 0.0 for place, entry in found.items() if place[:2] == (96, each)) for each in sets)
    lines.append(
        ["the highest of all trainers and defenses that were tried", f"{100 * clean:.0f}", f"**{100 * kept:.0f}**"]
    )
    for name, trainer in {"all layers fine-tuned": TUNED, "linear probe": PROBED}.items():
        if all((160, each, trainer, "none") in found for each in sets):
            clean, kept = (found[160, each, trainer, "none"].last or 0.0 for each in sets)
            lines.append([f"photographs of 160 px, {name}", f"{100 * clean:.0f}", f"**{100 * kept:.0f}**"])
    return markdown(["the trainer", "from clean photographs", "from protected ones"], lines)


def defense_table(found: Figures) -> str:
    """Defenses down; clean and CUDA `normal` across, for the two trainers with a start."""
    defenses = sorted({place[3] for place in found if place[:2] == (96, "cuda normal")}, key=lambda d: (d != "none", d))
    sets, trainers = ("clean", "cuda normal"), (PROBED, TUNED)
    lines = [
        [each, *(percent(found.get((96, name, trainer, each))) for trainer in trainers for name in sets)]
        for each in defenses
    ]
    return markdown(["defense", *(f"{trainer.how}: {name}" for trainer in trainers for name in sets)], lines)


def size_table(found: Figures) -> str:
    places = sorted({(size, name) for size, name, trainer, _ in found if trainer in (PROBED, TUNED) and size > 96})
    lines = [
        [f"{size} px", name, *(percent(found.get((size, name, trainer, "none"))) for trainer in (PROBED, TUNED))]
        for size, name in places
    ]
    if not lines:
        return "Not measured yet: `python tests/benchmarks/trainers.py large clean`."
    return markdown(["size", "trained on", "linear probe", "fine-tuned"], lines)


def cost_table(found: Figures) -> str:
    """Median seconds of a training without a defense, by trainer and size."""
    seconds = defaultdict(list)
    for (size, _, trainer, defense), entry in found.items():
        if defense == "none":
            seconds[NAMES[trainer], size] += [cell["result"]["seconds"] for cell in entry.cells]
    lines = [
        [name, f"{size} px", f"{median(values):.0f} s", str(len(values))]
        for (name, size), values in sorted(seconds.items())
    ]
    return markdown(["trainer", "size", "median time of a training", "trainings"], lines)


def bars(found: Figures) -> str:
    """What photographers look at: of 100 new photographs, how many does each trainer recognise."""
    trainers = [trainer for trainer in NAMES if (96, "cuda normal", trainer, "none") in found]
    step, left, right = 74, 8, 480
    parts = []
    for place, trainer in enumerate(trainers):
        top = 46 + place * step
        parts.append(f'<text x="{left}" y="{top}">{NAMES[trainer]}</text>')
        for line, (name, kind) in enumerate((("clean", "clean"), ("cuda normal", "kept"))):
            share = found[96, name, trainer, "none"].last or 0.0
            y, width = top + 8 + 20 * line, share * (right - left)
            text = f"{100 * share:.0f} of 100, " + ("clean photographs" if line == 0 else "protected (normal)")
            parts.append(
                f'<rect class="{kind}" x="{left}" y="{y}" width="{width:.0f}" height="16" rx="2"/>'
                f'<text class="value" x="{left + width + 6:.0f}" y="{y + 12}">{text}</text>'
            )
    height = 46 + len(trainers) * step
    style = (
        "text{font:13px system-ui,sans-serif;fill:#222}.value{font-size:12px;fill:#555}.clean{fill:#9aa5b5}"
        ".kept{fill:#d1495b}@media(prefers-color-scheme:dark){text{fill:#e6e9ef}.value{fill:#aab}}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {height}" role="img">'
        f"<title>Of 100 new photographs, how many each trainer recognises</title><style>{style}</style>"
        f'<text x="{left}" y="14">Of 100 new photographs, how many are recognised; guessing gives 10</text>'
        f"{''.join(parts)}</svg>\n"
    )


def worth(found: Figures) -> dict[str, Any]:
    """What the package says of trainers with a start, accuracies in percent: CUDA's strengths by name, and noise by
    what it is made of."""
    names = {name.split()[1]: name for name in STRENGTHS}
    result: dict[str, Any] = {
        "side": 96,
        "network": "EfficientNet-Lite0 with ImageNet weights",
        "clean": {kind: _percent(found, 96, "clean", trainer) for kind, trainer in STARTED_TRAINERS.items()},
        "strengths": {strength: _measured(found, name) for strength, name in names.items()},
        "noise": [
            {"links": [(name, SETTINGS[name])], **known} for name in SETTINGS if (known := _measured(found, name))
        ],
    }
    result["strengths"] = {name: known for name, known in result["strengths"].items() if known}
    return result


def _measured(found: Figures, name: str) -> dict[str, Any] | None:
    own = {place[2:]: entry for place, entry in found.items() if place[:2] == (96, name)}
    if not all((trainer, "none") in own for trainer in STARTED_TRAINERS.values()):
        return None
    larger = {
        kind: [_percent(found, 160, each, trainer) for each in ("clean", name)]
        for kind, trainer in STARTED_TRAINERS.items()
        if (160, name, trainer, "none") in found
    }
    return {
        **{kind: _percent(found, 96, name, trainer) for kind, trainer in STARTED_TRAINERS.items()},
        "highest": round(100 * max(entry.last or 0.0 for entry in own.values()), 1),
        "combinations": len(own),
        "larger": {"side": 160, **larger},
    }


def _percent(found: Figures, size: int, name: str, trainer: Trainer) -> float:
    return round(100 * (found[size, name, trainer, "none"].last or 0.0), 1)


def draw() -> None:
    report = ut.Report.load(RESULTS)
    print(report)
    found = figures(report)
    machine = next(iter(found.values())).cells[0]["machine"]
    parts = [
        first_table(found),
        main_table(found, report),
        defense_table(found),
        size_table(found),
        f"One thread of {machine['processor']}:\n\n{cost_table(found)}",
    ]
    names = ("first", "main", "defenses", "sizes", "costs")
    marked = zip(names, parts, strict=True)
    TABLES.write_text("\n\n".join(f"<!-- {name} -->\n\n{part}" for name, part in marked) + "\n")
    PICTURE.write_text(bars(found))
    STARTED.write_text(json.dumps(worth(found), indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("choose", "probe", "tune", "scratch", "simclr", "large", "judge", "keys", "clean", "draw")
    parser.add_argument("parts", nargs="*", default=list(parts[1:]), metavar="PART", help=", ".join(parts))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--sets", nargs="*", default=[*STRENGTHS, *NOISE], help="of probe and tune (default: all)")
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(parts):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; parts are {', '.join(parts)}")
    disable_progress_bars()
    train, test = read(options.data, "train"), read(options.data, "test")
    data: dict[str, Any] = {"clean": train, "test": test, "workers": options.jobs}
    alone, trained = [site(PROBE), *(site(each, PROBE) for each in DEFENSES)], [site(), *map(site, DEFENSES[:3])]
    for part in options.parts:
        match part:
            case "choose":
                order = np.random.default_rng(0).permutation(len(train))
                rows, held = np.sort(order[HELD_OUT:]), np.sort(order[:HELD_OUT])
                chosen = {**data, "clean": train.select(rows), "test": train.select(held)}
                defenses = [site(PROBE), *(site(each, PROBE) for each in CHEAP)]
                chosen |= {"poisons": {"cuda normal": cuda("normal")}, "out": RESULTS / "choose"}
                measure(chosen, part, LITE, defenses, 96, controls=False)
            case "probe":
                for name in options.sets:
                    measure(data, part, LITE, alone, 96, poisons={name: make(name)}, controls=name == STRENGTHS[0])
            case "tune":
                for name in options.sets:
                    poisons, first = {name: make(name)}, name == STRENGTHS[0]
                    measure(data, part, LITE, trained[:1], 96, poisons=poisons, controls=first)
                    if first:
                        measure(data, part, LITE, trained, 96, poisons=poisons, controls=False)
            case "scratch":
                poisons = {"cuda normal": cuda("normal")}
                measure(data, part, NOTHING, [site()], 96, poisons=poisons)
            case "simclr":
                measure(data, part, NOTHING, [site(part)], 96, poisons={"cuda normal": cuda("normal")}, controls=False)
            case "large":
                poisons = {name: make(name) for name in (*STRENGTHS, "tap")}
                measure(data, part, LITE, alone[:1], 160, poisons=poisons, controls=False)
                measure(data, part, LITE, trained[:1], 160, poisons={"cuda normal": cuda("normal")}, controls=False)
            case "judge":
                for name in (STRENGTHS[0], NOISE[0]):
                    measure(data, part, JUDGE, alone[:1], 96, poisons={name: make(name)}, controls=name == STRENGTHS[0])
            case "keys":
                poisons = {f"cuda normal, {key}": cuda("normal", key) for key in KEYS[1:]}
                measure(data, part, LITE, [alone[0], trained[0]], 96, poisons=poisons, controls=False)
            case "clean":
                measure(data, part, LITE, [PROBE, "erm"], 224)
            case "draw":
                draw()


if __name__ == "__main__":
    main()
