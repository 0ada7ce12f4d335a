"""The worst case for CUDA and for what `ut.recommended(32)` answers, searched: `search.py [cuda] [recommended] [draw]`.

The screen of methods.py: a ResNet-9 on the first 10,000 rows of CIFAR-10's training set, tested on the clean test set,
key screen-0, training seed 0. Each search may spend 40 full trainings (`--budget`); the attacker has no clean images.
Prints the sequence of defenses that recovers the most, what it does to clean images and to the control, and the best of
the fixed list of methods.py beside it. Every training is a cell in docs/results/search; a stopped run goes on.

`draw` trains nothing: it writes the tables and the picture of docs/measurements.md from what is there.
"""

import argparse
from pathlib import Path

from datasets import disable_progress_bars
from methods import DEFENSES, KEY, TRAINING, label
from screen import cifar

import unlearnable_transforms as ut
from unlearnable_transforms.evaluation.report import SEARCHES
from unlearnable_transforms.evaluation.search import growth, spent, worst

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "search"
TABLES, PICTURE = RESULTS / "tables.md", ROOT / "docs" / "images" / "search.svg"
SCREENED = 10  # single defenses in a table, of those that were only screened
WIDTH, HEIGHT, LEFT, TOP = 640, 300, 40, 20  # of the picture's plot, in its pixels
COLOURS = {"cuda": "#d1495b", "recommended": "#2e86ab"}


def table(report: ut.Report) -> str:
    """What a search trained: in full, then the best of what was screened, the highest first."""
    (trials,) = report.searches.values()
    full = sorted((trial for trial in trials if trial.full), key=lambda trial: -(trial.accuracy or 0.0))
    known = {trial.defense for trial in full}
    rest = sorted(
        (trial for trial in trials if trial.defense not in known and trial.accuracy is not None),
        key=lambda trial: -(trial.accuracy or 0.0),
    )
    best = full[0].defense
    lines = ["| sequence of defenses | epochs | accuracy, % |", "|---|---|---|"]
    lines += [f"| {trial.defense} | all | {100 * (trial.accuracy or 0.0):.1f} |" for trial in full]
    lines += [f"| {trial.defense} | a third | {100 * (trial.accuracy or 0.0):.1f} |" for trial in rest[:SCREENED]]
    seconds = sum(cell["result"]["seconds"] for cell in report.cells if cell["status"] == "done")
    controls = "; ".join(
        f"{label} {100 * report.accuracy(label, 'erm'):.1f} %, under {best} {100 * report.accuracy(label, best):.1f} %"
        for label in dict.fromkeys(about["label"] for about in report.sets.values())
    )
    return "\n".join([*lines, "", f"{len(trials)} trainings, {spent(trials):.0f} full ones' worth, "
                      f"{seconds / 3600:.1f} hours of one core. Plain training: {controls}."])  # fmt: skip


def curves(reports: dict[str, ut.Report]) -> str:
    """The highest accuracy so far over what was spent."""
    most = max(len(growth(trials)) for report in reports.values() for trials in report.searches.values())
    parts = []
    for share in range(0, 81, 20):
        y = TOP + HEIGHT * (1 - share / 80)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y:.0f}" y2="{y:.0f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.0f}" text-anchor="end">{share}</text>')
    for name, report in reports.items():
        ((label, trials),) = report.searches.items()
        heights = growth(trials)
        points = [
            (LEFT + WIDTH * (number + 1) / most, TOP + HEIGHT * (1 - value / 0.8))
            for number, value in enumerate(heights)
            if value
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[name]}" stroke-width="2.5"/>')
        x, y = points[-1]
        parts.append(
            f'<text x="{x - 4:.0f}" y="{y - 8:.0f}" text-anchor="end">{label}: {100 * heights[-1]:.1f} %</text>'
        )
    parts.append(
        f'<text x="{LEFT}" y="{TOP + HEIGHT + 28}">full trainings spent, up to {most}; the highest '
        "accuracy so far in %, first of single defenses, then of longer sequences</text>"
    )
    style = (
        "text{font:13px system-ui,sans-serif;fill:#222}.grid{stroke:#8886}"
        "@media(prefers-color-scheme:dark){text{fill:#e6e9ef}}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 20} {TOP + HEIGHT + 40}" role="img">'
        f"<title>What a search for the worst case found</title><style>{style}</style>{''.join(parts)}</svg>\n"
    )


def draw() -> None:
    reports = {name: ut.Report.load(RESULTS / name) for name in COLOURS if (RESULTS / name / SEARCHES).exists()}
    parts = [f"<!-- {name} -->\n\n{table(report)}" for name, report in reports.items()]
    TABLES.write_text("\n\n".join(parts) + "\n")
    PICTURE.write_text(curves(reports))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", help="cuda, recommended (default: both); or draw")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--budget", type=int, default=40, help="full trainings of each search")
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread")
    options = parser.parse_args()
    if options.methods == ["draw"]:
        draw()
        return
    disable_progress_bars()
    data = cifar(options.data)
    train = data["train"].select(TRAINING)
    key = ut.Key.public(KEY)
    recommended = ut.recommended(32)
    methods = {"cuda": ("cuda", ut.CUDAPoison(key=key)), "recommended": (recommended.title, recommended.poison(key))}
    listed = {row["method"]: row for row in recommended.table}
    for name in options.methods or methods:
        title, poison = methods[name]
        report = ut.evaluate(
            clean=train,
            test=data["test"],
            poisons={label(title, KEY): poison.fit(train)},
            defenses="search",
            budget=options.budget,
            recipe="screen",
            out=options.out / name,
            workers=options.jobs,
            samples=0,
        )
        print(report)
        (trials,) = report.searches.values()
        best, row = worst(trials), listed[title]
        print(
            f"{title}: the search found {best.defense}, {100 * (best.accuracy or 0):.1f} %; the fixed list of "
            f"{len(DEFENSES)} found {row['worst']}, {100 * row['accuracies'][row['worst']]:.1f} %.",
            flush=True,
        )


if __name__ == "__main__":
    main()
