"""Do our figures agree with published tables? `python tests/benchmarks/literature.py [METHOD ...] [--rows N]`.

Trains airbench94 (recipe `speedrun`, 94 % on clean CIFAR-10) on clean and on protected images, all 50,000 rows, under
plain training, JPEG 10, grayscale, COIN, RSK+FF and adversarial training (FGSM-RS at 8/255); tests on clean test
images. One key, one seed. Fitted methods are fitted on the same rows, with `--preset`. METHOD are rows of the table
(default: all); `clean` is one of them.

    draw    trains nothing: writes docs/results/literature/tables.md and agreement.svg from what is there

Each figure is printed beside the published one of ResNet-18 (docs/results/literature/published.toml, with sources).
For every column and source with three methods or more: Kendall's tau between the two orders, and its p-value.
Clean images are no method and not in the order. Every training is a cell in docs/results/literature; a run that was
stopped goes on. `draw` shows the largest number of rows that there is, or `--rows`.
"""

import argparse
from pathlib import Path
from statistics import fmean

from datasets import disable_progress_bars
from methods import KEY, METHODS, PUBLISHED, agreement
from screen import cifar

import unlearnable_transforms as ut
from unlearnable_transforms.evaluation.recommended import make_poison
from unlearnable_transforms.poisons.optimised import OptimisedPoison

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "literature"
ALL = 50_000
CLEAN = "clean"
ROWS = (
    CLEAN, "cuda", "sem", "em", "tap", "pil", "lsp", "ar", "ops", "hypo", "aue", "cuda, invertible > sem",
)  # fmt: skip
COLUMNS = {
    "erm": "plain training", "jpeg": "JPEG 10", "grayscale": "grayscale", "coin": "COIN", "rsk-ff": "RSK+FF",
    "at-fgsm": "adversarial, 8/255",
}  # fmt: skip

Figures = dict[str, dict[str, float]]  # by method and defense, in percent


def make(title: str, preset: str) -> ut.Poison:
    """A method or chain of the table; those that have presets get this one."""
    links = [
        (name, {**options, "preset": preset} if issubclass(ut.get_poison(name), OptimisedPoison) else options)
        for name, options in METHODS[title]
    ]
    return make_poison(links, ut.Key.public(KEY))


def measure(options: argparse.Namespace) -> None:
    """Train what is not there yet, one method after the other."""
    data = cifar(options.data)
    train = data["train"].select(range(min(options.rows or ALL, len(data["train"]))))
    for title in options.methods or ROWS:
        poisons = {} if title == CLEAN else {title: make(title, options.preset).fit(train)}
        report = ut.evaluate(
            clean=train, test=data["test"], poisons=poisons, defenses=options.defenses, controls=False,
            recipe="speedrun", out=options.out, workers=options.jobs, samples=0,
        )  # fmt: skip
        print(f"\n==== {title}\n{report}", flush=True)


def figures(report: ut.Report, rows: int | None) -> tuple[int, Figures]:
    """Our accuracies, of so many training rows, or of the most there are."""
    cells = [
        (entry.cells[0]["data"]["rows"], label, entry.cells[0]["defense"]["name"], 100 * entry.last)
        for table in report.tables
        for ((label, _), _), entry in table.entries.items()
        if entry.last is not None
    ]
    rows = rows or max((cell[0] for cell in cells), default=0)
    found: Figures = {}
    for count, label, defense, accuracy in cells:
        if count == rows:
            found.setdefault(label, {})[defense] = accuracy
    return rows, {title: found[title] for title in ROWS if title in found}


def published(title: str, column: str) -> list[float]:
    """What the sources say, in their order."""
    known = [source["accuracy"].get(column, {}) for source in PUBLISHED.values()]
    return [accuracies[title] for accuracies in known if title in accuracies]


def markdown(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def main_table(ours: Figures) -> str:
    """Ours, and in brackets the published figures, see :func:`published`."""

    def place(title: str, column: str) -> str:
        own = ours.get(title, {}).get(column)
        known = published(title, column)
        text = "" if own is None else f"{own:.1f}"
        return f"{text} ({', '.join(f'{each:.1f}' for each in known)})".strip() if known else text

    lines = [[title, *(place(title, column) for column in COLUMNS)] for title in ROWS]
    return markdown(["trained on", *COLUMNS.values()], lines)


def agreement_table(ours: Figures) -> str:
    """Kendall's tau of every column and source."""
    lines = [
        [COLUMNS.get(defense, defense), source, f"{tau:+.2f}", f"{p:.2f}", ", ".join(both)]
        for defense, source, tau, p, both in agreement(ours)
    ]
    if not lines:
        return "Fewer than three methods of any source are measured: `python tests/benchmarks/literature.py`."
    return markdown(["column", "source", "Kendall's tau", "p", "methods"], lines)


def scatter(ours: Figures) -> str:
    """A square for each column, published figures across, ours up, both from 0 to 100 %: a dot a method, at the mean of
    its published figures, and a line from the least of them to the greatest."""
    side, gap, across = 200, 60, 3
    parts = []
    for number, (column, title) in enumerate(COLUMNS.items()):
        left, top = gap + number % across * (side + gap), gap + number // across * (side + gap)
        parts.append(
            f'<rect class="frame" x="{left}" y="{top}" width="{side}" height="{side}"/>'
            f'<line class="equal" x1="{left}" y1="{top + side}" x2="{left + side}" y2="{top}"/>'
            f'<text x="{left}" y="{top - 8}">{title}</text>'
            f'<text class="small" x="{left}" y="{top + side + 14}">published, 0 to 100 %</text>'
        )
        for row, own in ours.items():
            known = published(row, column)
            if not known or column not in own:
                continue
            low, high, middle = (left + side * each / 100 for each in (min(known), max(known), fmean(known)))
            y = top + side * (1 - own[column] / 100)
            parts.append(
                f'<line class="range" x1="{low:.1f}" y1="{y:.1f}" x2="{high:.1f}" y2="{y:.1f}"/>'
                f'<circle cx="{middle:.1f}" cy="{y:.1f}" r="3"/>'
                f'<text class="small" x="{middle + 5:.1f}" y="{y - 3:.1f}">{row}</text>'
            )
    width, height = gap + across * (side + gap), gap + -(-len(COLUMNS) // across) * (side + gap)
    style = (
        "text{font:13px system-ui,sans-serif;fill:#222}.small{font-size:10px;fill:#555}.frame{fill:none;stroke:#9aa5b5}"
        ".equal{stroke:#9aa5b5;stroke-dasharray:3}.range{stroke:#d1495b}circle{fill:#d1495b}"
        "@media(prefers-color-scheme:dark){text{fill:#e6e9ef}.small{fill:#aab}}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
        f"<title>Accuracies measured here against published ones</title><style>{style}</style>{''.join(parts)}</svg>\n"
    )


def draw(options: argparse.Namespace) -> None:
    rows, ours = figures(ut.Report.load(options.out), options.rows)
    sources = "\n".join(f"- `{name}`: {source['source']}. {source['settings']}." for name, source in PUBLISHED.items())
    text = (
        f"airbench94, recipe `speedrun`, {rows:,} rows, in %; in brackets published figures of ResNet-18, in the order "
        f"of the sources that have one.\n\n<!-- main -->\n\n{main_table(ours)}\n\n<!-- agreement -->\n\n"
        f"{agreement_table(ours)}\n\n<!-- sources -->\n\n{sources}\n"
    )
    print(text)
    (options.out / "tables.md").write_text(text, encoding="utf-8")
    (options.out / "agreement.svg").write_text(scatter(ours), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"draw, or of: {'; '.join(ROWS)} (default: all)")
    parser.add_argument("--defenses", nargs="+", default=list(COLUMNS), choices=COLUMNS, help="default: all")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--rows", type=int, help=f"training rows, the first so many (default: {ALL:,})")
    parser.add_argument(
        "--preset", default="cpu", help="of methods with a surrogate: paper, fast or cpu (default: cpu)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread")
    options = parser.parse_args()
    disable_progress_bars()
    if options.methods == ["draw"]:
        draw(options)
        return
    if unknown := set(options.methods) - set(ROWS):
        parser.error(f"there is no method {', '.join(sorted(unknown))}; draw stands alone")
    measure(options)


if __name__ == "__main__":
    main()
