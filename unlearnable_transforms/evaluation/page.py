"""The report as one HTML page: no other file, no script, light and dark. All text is escaped."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .cells import Cell
from .charts import COLOURS, confusion, curves
from .metrics import mean
from .style import CSS
from .tables import Entry, Headline, Table
from .text import entry_text, headline_text, percent

PROTECTED = ("poison", "partial")


def page(tables: Sequence[Table], cells: Sequence[Cell], sets: Mapping[str, Any]) -> str:
    """The whole page."""
    dates = sorted({cell["date"] for cell in cells})
    span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    body = [
        "<header><h1>How much protection is left</h1>",
        f"<p>{len(cells)} trainings, {escape(span)}. Every figure is an accuracy on clean test pictures, in percent. "
        "A good protection keeps it low under <em>every</em> defense.</p></header>",
        *(_table_section(table) for table in tables),
        _looks_section(sets),
        _settings_section(cells),
        _cells_section(cells),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>Evaluation report</title><style>{CSS}</style></head>\n<body><main>"
        + "\n".join(body)
        + "</main></body></html>\n"
    )


def _table_section(table: Table) -> str:
    about = table.about
    title = f"{about['victim']}, recipe {about['recipe']}"
    text = (
        f"{about['rows']:,} training pictures of {about['image_size']} px, {about['test_rows']:,} test pictures, "
        f"{len(about['classes'])} classes, training seeds {', '.join(map(str, about['seeds']))}."
    )
    return "".join(
        [
            f"<section><h2>{escape(title)}</h2><p>{escape(text)}</p>",
            *(_headline(headline) for headline in table.headlines),
            _matrix(table),
            _curves(table),
            _confusions(table),
            "</section>",
        ]
    )


def _headline(headline: Headline) -> str:
    entry = headline.entry
    spread = entry.interval or entry.wilson
    kind = "95 % over seeds" if entry.interval else "95 %, test set size alone"
    between = f"{percent(max(0.0, spread[0]))} to {percent(min(1.0, spread[1]))} ({kind})" if spread else ""
    return (
        f'<div class="headline"><div class="figure">{percent(entry.last)}<small> %</small></div>'
        f"<div><p>{escape(headline_text(headline))}</p><p class=quiet>{escape(between)}</p></div></div>"
    )


def _matrix(table: Table) -> str:
    head = "".join(f"<th scope=col>{escape(row[0])}</th>" for row in table.rows)
    lines = []
    for column in table.columns:
        fields = "".join(_field(table.entries.get((row, column))) for row in table.rows)
        lines.append(f"<tr><th scope=row>{escape(column)}</th>{fields}</tr>")
    return (
        f'<div class="scroll"><table class="matrix"><thead><tr><th scope=col>defense</th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
        '<p class="quiet">Large: after the last epoch, mean over seeds ± standard deviation. Below: mean of the last '
        "five epochs, and the best epoch, which is an oracle since it is chosen on the test set; then clean data under "
        "the same defense, protection (clean minus this, in points) and recovery (the share of the damage to a plain "
        "victim that the defense repairs); accuracy under attack, where asked for. The "
        "redder a protected field, the less protection is left.</p>"
    )


def _field(entry: Entry | None) -> str:
    if entry is None:
        return '<td class="none">not run</td>'
    if entry.last is None:
        return '<td class="diverged">diverged</td>'
    small = [f"last 5 {percent(entry.last5)}, best {percent(entry.best)}"]
    style = ""
    if entry.protection is not None and entry.clean is not None:
        small += [f"clean {percent(entry.clean)}", f"protection {percent(entry.protection)}"]
        if entry.cells[0]["set"]["role"] in PROTECTED:
            left = max(0.0, min(1.0, entry.protection / max(entry.clean, 0.01)))
            style = f' style="--heat:{round(55 * (1 - left))}%"'
    if entry.recovery is not None:
        small.append(f"recovery {percent(entry.recovery, 0)} %")
    before = entry.cells[0]["result"].get("before_training")
    if before is not None:
        small.append(f"before training {percent(before)}")
    small += [f"{attack} {percent(share)}" for attack, share in entry.robust.items()]
    if entry.diverged:
        small.append(f"{entry.diverged} of {len(entry.cells)} diverged")
    lines = "".join(f"<small>{escape(text)}</small>" for text in small)
    return f"<td{style}><b>{escape(entry_text(entry))}</b>{lines}</td>"


def _curves(table: Table) -> str:
    names = [row[0] for row in table.rows]
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}
    legend = "".join(
        f'<span><i style="background:{colours[name]}"></i>{escape(name)}</span>' for name in dict.fromkeys(names)
    )
    charts = []
    for column in table.columns:
        lines = {row[0]: _mean_curve(table.entries[row, column].cells) for row in table.rows
                 if (row, column) in table.entries}  # fmt: skip
        charts.append(f"<figure><figcaption>{escape(column)}</figcaption>{curves(lines, colours)}</figure>")
    return (
        "<details open><summary>Test accuracy over epochs</summary>"
        f'<p class="legend">{legend}</p><div class="charts">{"".join(charts)}</div></details>'
    )


def _mean_curve(cells: Sequence[Cell]) -> list[float]:
    done = [cell for cell in cells if cell["status"] == "done"]
    runs = [cell["result"]["test_accuracy"] for cell in done or cells]
    return [mean(values) for values in zip(*runs, strict=False)]


def _confusions(table: Table) -> str:
    figures = []
    for column in table.columns:
        for row in table.rows:
            entry = table.entries.get((row, column))
            done = [cell for cell in entry.cells if cell["status"] == "done"] if entry else []
            if done:
                image = confusion(done[0]["result"]["confusion"])
                name = f"{row[0]}, {column}"
                recall = percent(mean([cell["result"]["macro_recall"] for cell in done]))
                figures.append(
                    f'<figure><img class="pixels" alt="confusion matrix: {escape(name)}" '
                    f'src="data:image/png;base64,{image}"><figcaption>{escape(name)}<br>macro recall {recall}'
                    "</figcaption></figure>"
                )
    classes = ", ".join(map(str, table.about["classes"][:100]))
    return (
        "<details><summary>Confusion matrices</summary><p class=quiet>Rows: true classes from the top; columns: "
        f"predicted. Darker: more. First seed. Classes: {escape(classes)}.</p>"
        f'<div class="confusions">{"".join(figures)}</div></details>'
    )


def _looks_section(sets: Mapping[str, Any]) -> str:
    parts = ["<section><h2>How the training sets look</h2>"]
    for digest, looks in sets.items():
        quality = looks["quality"]
        if quality is None:
            continue
        figures = {
            "PSNR": (quality["psnr"], " dB"),
            "gain-fitted PSNR": (quality["gain_fitted_psnr"], " dB"),
            "SSIM": (quality["ssim"], ""),
        }
        text = ", ".join(
            f"{name} {value:.{1 if unit else 3}f}{unit}" for name, (value, unit) in figures.items() if value is not None
        )
        text += f", largest difference {quality['linf']} of 255; mean over {quality['pictures']:,} pictures"
        if quality["unchanged"]:
            text += f", of which {quality['unchanged']} did not change"
        parts.append(f"<h3>{escape(looks['label'])}</h3><p>{escape(text)}.</p>")
        parts.append(f"<p class=quiet><code>{escape(_plain(looks['config']))}</code>, pixels {escape(digest)}</p>")
        parts.append(_samples(looks["samples"]))
    return "".join([*parts, "</section>"]) if len(parts) > 1 else ""


def _samples(samples: Sequence[Mapping[str, Any]]) -> str:
    if not samples:
        return ""
    lines = []
    for kind, name in (("clean", "clean"), ("changed", "trained on"), ("difference", "difference x 4")):
        images = "".join(
            f'<td><img class="pixels" alt="{escape(str(sample["label"]))}" '
            f'src="data:image/png;base64,{escape(sample[kind])}"></td>'
            for sample in samples
        )
        lines.append(f"<tr><th scope=row>{name}</th>{images}</tr>")
    return f'<div class="scroll"><table class="samples">{"".join(lines)}</table></div>'


def _settings_section(cells: Sequence[Cell]) -> str:
    first: dict[tuple[str, str, str], Cell] = {}
    for cell in cells:
        first.setdefault((cell["victim"], cell["defense"]["label"], _plain(cell["recipe"])), cell)
    lines = [
        [victim, f"{label} (version {cell['defense']['version']})", _plain(cell["defense"]["arguments"]), recipe]
        for (victim, label, recipe), cell in sorted(first.items())
    ]
    machines = sorted({_plain(cell["machine"]) for cell in cells})
    versions = sorted({_plain(cell["versions"]) for cell in cells})
    return (
        "<section><h2>Settings</h2>"
        + _plain_table(["victim", "defense", "its arguments", "recipe (what is not a default)"], lines)
        + "".join(f"<p class=quiet>{escape(text)}</p>" for text in machines + versions)
        + "</section>"
    )


def _cells_section(cells: Sequence[Cell]) -> str:
    head = ["trained on", "defense", "victim", "seed", "last", "last 5", "best (epoch)", "macro recall", "train",
            "seconds", "images forward", "backward", "date", "cell"]  # fmt: skip
    lines = []
    for cell in sorted(cells, key=lambda c: (c["set"]["label"], c["defense"]["label"], c["victim"], c["seed"])):
        result = cell["result"]
        accuracies = ["diverged", "", "", ""]
        if cell["status"] == "done":
            best = f"{percent(result['best'])} ({result['best_epoch']})"
            accuracies = [percent(result["last"]), percent(result["last5"]), best, percent(result["macro_recall"])]
        lines.append(
            [
                cell["set"]["label"],
                cell["defense"]["label"],
                cell["victim"],
                str(cell["seed"]),
                *accuracies,
                percent(result["train_accuracy"][-1] if result["train_accuracy"] else None),
                f"{result['seconds']:.1f}",
                f"{result['forward_images']:,}",
                f"{result['backward_images']:,}",
                cell["date"],
                cell["id"],
            ]
        )
    return f"<section><details><summary>All {len(cells)} cells</summary>{_plain_table(head, lines)}</details></section>"


def _plain_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th scope=col>{escape(text)}</th>" for text in head)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in line)}</tr>" for line in lines)
    return f'<div class="scroll"><table class="plain"><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table></div>'


def _plain(value: Any) -> str:
    """Nested settings as one line."""
    if isinstance(value, Mapping):
        inner = {name: _plain(each) for name, each in value.items() if each is not None}
        return ", ".join(f"{name} {text}" for name, text in inner.items() if text)
    if isinstance(value, list):
        return f"[{', '.join(map(_plain, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
