"""``README.md``: the card of a published set, made from what was checked and measured. No claim without its figure."""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from datasets import DatasetInfo, SplitDict, SplitInfo
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData

from ..defenses import list_defenses
from ..evaluation.report import Report
from ..evaluation.tables import Row, Table
from ..evaluation.text import entry_text, headline_text, percent
from ..poisons.base import Poison, decisive
from ..poisons.chain import Chain
from .scan import Checked
from .stage import ALONE, Upload

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
WON_BACK = 0.5  # a defense that wins back more than this share of what clean pictures give undoes the protection


@dataclass
class About:
    """What a card is made of, beside the report.

    Attributes:
        repo: ``user/name``.
        upload, poison, config, checked: the set, its method with its ``public_config``, and what the checks saw.
        coverage: how it is known that every picture is protected.
        originals_public: whether the originals can be had by everybody; None: not said.
        licence: identifier of the Hub, or None.
        opt_out: whether training and data mining are reserved.
        gated: whether access is asked for.
    """

    repo: str
    upload: Upload
    poison: Poison
    config: Mapping[str, Any]
    checked: Checked
    coverage: str
    originals_public: bool | None
    licence: str | None
    opt_out: bool
    gated: bool


def make_card(about: About, report: Report | None) -> str:
    """The text of README.md.

    Raises:
        ValueError: the report is about other methods.
    """
    name = about.repo.split("/")[-1]
    sections = [
        f"# {name}",
        _what(about),
        "## Measured",
        "\n\n".join(_measured(about, report)) if report else "Nothing was measured.",
        "## What it does not do",
        "\n".join(f"- {line}" for line in _limits(about, report)),
        "## Use, licence and opt-out",
        _use(about),
        "## Check it",
        f"```bash\nunlearnable verify {about.repo}                  # are the files those that were published?\n"
        f"unlearnable verify {about.repo} --key FILE       # and is this the key?\n```",
        "## Cite",
        _cite(about),
    ]
    card = DatasetCard(f"---\n{metadata(about).to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n")
    return str(card)


def metadata(about: About) -> DatasetCardData:
    """The YAML block: what the Hub and ``load_dataset`` read."""
    upload, rows = about.upload, sum(about.checked.rows.values())
    data = DatasetCardData(
        pretty_name=about.repo.split("/")[-1],
        license=about.licence,
        task_categories=["image-classification"] if upload.has_labels else None,
        size_categories=[next((label for limit, label in _SIZES if rows < limit), "n>1M")],
        tags=["unlearnable-examples", "protected", *(["noai"] if about.opt_out else [])],
        configs=[_configuration(upload)],
    )
    if upload.features is not None:
        sizes = {
            split: sum((upload.folder / path).stat().st_size for path in paths)
            for split, paths in upload.splits.items()
        }
        splits = SplitDict(
            {split: SplitInfo(split, sizes[split], about.checked.rows[split]) for split in upload.splits}
        )
        total = sum(sizes.values())
        info = DatasetInfo(features=upload.features, splits=splits, download_size=total, dataset_size=total)
        DatasetInfosDict({"default": info}).to_dataset_card_data(data)
    if about.gated and about.opt_out:
        data["extra_gated_prompt"] = "You agree not to train models on these pictures, and not to mine them."
    return data


def _configuration(upload: Upload) -> dict[str, Any]:
    """Which files are which split; said, because guessing by names takes the manifest for data."""
    if upload.features is not None:
        files = [{"split": split, "path": f"data/{split}-*"} for split in upload.splits]
        return {"config_name": "default", "data_files": files}
    endings = sorted({path.rsplit(".", 1)[-1] for paths in upload.splits.values() for path in paths})
    tables = sorted({path.rsplit("/", 1)[-1] for path in upload.extra if path.endswith((".csv", ".jsonl"))})
    chosen: list[dict[str, Any]] = []
    for split, paths in upload.splits.items():
        top = "" if split == ALONE and not paths[0].startswith(f"{ALONE}/") else f"{split}/"
        patterns = [f"{top}**/*.{ending}" for ending in endings] + [f"{top}**/{table}" for table in tables]
        chosen.append({"split": re.sub(r"\W", "_", split), "path": patterns})
    drop = {} if tables else {"drop_labels": upload.classes is None}  # one folder alone would lose its label
    return {"config_name": "default", "data_files": chosen, **drop}


# ---- sections --------------------------------------------------------------------------------------------------------


def _what(about: About) -> str:
    checked, config = about.checked, about.config
    rows = [f"| {split} | {count:,} | {_state(about, split)} |" for split, count in checked.rows.items()]
    given = {name: value for name, value in config["arguments"].items() if value is not None}
    arguments = f"`{_cell(json.dumps(given, sort_keys=True, ensure_ascii=False))}`" if given else "the defaults"
    lines = [
        "The pictures of the training data were changed before they were published, with the aim that models which "
        "train on them do badly on clean pictures. What that is worth is what was measured, below.",
        "",
        "| split | pictures | |",
        "|---|---|---|",
        *rows,
        "",
        f"- Method: {about.poison.title}, version {config['version']}, arguments: {arguments}",
        f"- Key: private, fingerprint `{config['key_fingerprint']}`"
        if config["key_fingerprint"]
        else "- Key: none; the method's values are private",
        f"- Coverage: **{about.coverage}**",
        f"- Encoding: {', '.join(checked.formats)}, without metadata",
    ]
    if about.upload.classes:
        shown = ", ".join(map(str, about.upload.classes[:100]))
        lines.append(f"- Classes ({len(about.upload.classes)}): {shown}")
    return "\n".join(lines)


def _state(about: About, split: str) -> str:
    if split not in about.upload.training:
        return "**not protected**: clean pictures, for tests"
    parts = [f"{count:,} {status}" for status, count in about.checked.counts.items()]
    return ", ".join(parts)


def _measured(about: About, report: Report) -> Iterator[str]:
    """The headline and a table for each victim and recipe, worst case first."""
    found = rows_of_method(report, about.config)
    headlines = [line for table, rows in found for line in table.headlines if line.row in rows]
    if headlines:
        worst = max(headlines, key=lambda line: line.entry.last or 0)
        yield f"**The worst case: {_cell(headline_text(worst))}**"
    for table, rows in found:
        yield _table(table, rows)
    others = {fingerprint for table, rows in found for fingerprint in _fingerprints(table, rows)}
    if others and about.config["key_fingerprint"] not in others:
        yield "Measured with other keys of the same method: how well a key does varies."
    date = max(str(cell.get("date", "")) for cell in report.cells)
    yield f"Accuracy on clean test pictures, last epoch. Computed by `unlearnable evaluate`, {date}."


def _table(table: Table, rows: list[Row]) -> str:
    about = table.about
    shown = [row for row in table.rows if row in rows or _role(table, row) in ("clean", "control")]
    worst = {column: max((_last(table, row, column) for row in rows), default=-1.0) for column in table.columns}
    columns = sorted(table.columns, key=lambda column: (-worst[column], column))
    lines = [
        f"Victim {about['victim']}, recipe {about['recipe']}, {about['rows']:,} training pictures at "
        f"{about['image_size']} px, {about['test_rows']:,} test pictures, {len(about['classes'])} classes, "
        f"seeds {', '.join(map(str, about['seeds']))}; in %:",
        "",
        "| defense | " + " | ".join(_cell(row[0]) for row in shown) + " |",
        "|---" * (1 + len(shown)) + "|",
    ]
    for column in columns:
        name = "none (erm)" if column == "erm" else column
        entries = [entry_text(table.entries.get((row, column))) for row in shown]
        lines.append(f"| {_cell(name)} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def _limits(about: About, report: Report | None) -> Iterator[str]:
    checked = about.checked
    if report is None:
        yield "How far it holds is not known: no victim and no defense was measured."
    else:
        yield from _measured_limits(about, report)
    clean = sum(count for split, count in checked.rows.items() if split not in about.upload.training)
    if clean:
        yield f"{clean:,} pictures of this set are clean (see above), and anybody can train on those."
    partly = {status: checked.counts.get(status, 0) for status in ("left", "unchanged")}
    if any(partly.values()):
        yield (
            f"{sum(partly.values()):,} of {sum(checked.counts.values()):,} training pictures are not protected: "
            "what they teach, they teach."
        )
    if checked.missing:
        yield f"{checked.missing:,} pictures that were protected with these are not published here."
    if about.originals_public:
        yield (
            "**The originals are public.** Everybody can train on them instead, and everybody has pairs of a clean and "
            "a protected picture, from which a protection can be undone (BridgePure, NeurIPS 2025). This set is for "
            "study; it protects nothing."
        )
    elif about.originals_public is None:
        yield "Whether the originals can be had elsewhere was not said. Where they can, this protects nothing."
    if checked.pairs:
        yield (
            f"{checked.pairs:,} clean pictures of the other splits show what a protected one shows: pairs, in this set "
            "itself."
        )
    yield "It does not keep people from copying the pictures, nor models that know their subject from recognising it."


def _measured_limits(about: About, report: Report) -> Iterator[str]:
    tried: set[str] = set()
    told: dict[str, tuple[float, str]] = {}
    for table, rows in rows_of_method(report, about.config):
        for row in rows:
            for column in table.columns:
                entry = table.entries.get((row, column))
                if entry is None or entry.last is None:
                    continue
                tried.add(entry.cells[0]["defense"]["name"])
                won = entry.recovery or 0
                if won > max(WON_BACK, told.get(column, (0, ""))[0]):
                    told[column] = won, f"{percent(entry.last)} % where clean pictures give {percent(entry.clean)} %"
    for column, (won, figures) in sorted(told.items(), key=lambda item: -item[1][0]):
        yield f"It does not hold against {column}: {figures}, {percent(won, 0)} % of the loss won back."
    if not told and len(tried) > 1:
        yield f"Of the {len(tried)} ways of training tried, none won back more than half of the loss; see the table."
    untried = [name for name in list_defenses() if name not in tried]
    if untried:
        yield f"Not measured: {', '.join(untried)}."


def _use(about: About) -> str:
    lines = [
        "Intended for data that the publisher owns, or may alter and publish; for people to look at, and for research "
        "on protection.",
        "",
        f"- Licence: {about.licence}" if about.licence else "- Licence: none was stated",
    ]
    if about.opt_out:
        lines.append(
            "- Opt-out: training of models, generative or not, and text and data mining are **not allowed** "
            "(a reservation in the sense of Article 4(3) of Directive (EU) 2019/790). For programs: `opt_out` in "
            "`protection.json`, in the words of the CAWG assertion on training and data mining"
        )
    else:
        lines.append("- Opt-out: none was declared")
    return "\n".join(lines)


def _cite(about: About) -> str:
    owner, _, name = about.repo.rpartition("/")
    entry = [
        "```bibtex",
        f"@misc{{{re.sub(r'[^A-Za-z0-9]+', '-', about.repo)},",
        *([f"  author = {{{owner}}},"] if owner else []),
        f"  title = {{{name}}},",
        f"  howpublished = {{\\url{{https://huggingface.co/datasets/{about.repo}}}}},",
        "}",
        "```",
    ]
    papers = [paper for link in _links(about.poison) if (paper := paper_of(link))]
    return "\n".join([*entry, "", "Methods, as this library implements them:", *(f"- {paper}" for paper in papers)])


def paper_of(poison: Poison) -> str | None:
    """Where a method comes from: the first sentence of its file, up to the paper in parentheses."""
    text = " ".join((sys.modules[type(poison).__module__].__doc__ or "").split("\n\n")[0].split())
    found = re.match(r"[^()]+\([^()]*\d{4}[^()]*\)", text)
    return found[0] if found else None


# ---- the report ------------------------------------------------------------------------------------------------------


def rows_of_method(report: Report, config: Mapping[str, Any]) -> list[tuple[Table, list[Row]]]:
    """The tables of a report that are about a method, each with the rows that were protected by it.

    Raises:
        ValueError: the report is about other methods.
    """
    found = [(table, rows) for table in report.tables if (rows := _rows_of(table, config))]
    if not found:
        labels = sorted({cell["set"]["label"] for cell in report.cells})
        raise ValueError(
            f"the report is about {labels}, and not about {config['method']} with the arguments {config['arguments']}: "
            "pass the one of this method"
        )
    return found


def _rows_of(table: Table, config: Mapping[str, Any]) -> list[Row]:
    """The rows of a table that were protected by this method, whatever the key; or by the set itself."""
    found = []
    for row in table.rows:
        made = _cell_of(table, row)["set"]
        known = made["config"]
        if made["role"] == "poison" and (known.get("method") == "unknown" or decisive(known) == decisive(config)):
            found.append(row)
    return found


def _fingerprints(table: Table, rows: list[Row]) -> set[str]:
    configs = (_cell_of(table, row)["set"]["config"] for row in rows)
    return {config["key_fingerprint"] for config in configs if config.get("key_fingerprint")}


def _cell_of(table: Table, row: Row) -> dict[str, Any]:
    return next(entry.cells[0] for place, entry in table.entries.items() if place[0] == row)


def _role(table: Table, row: Row) -> str:
    return _cell_of(table, row)["set"]["role"]


def _last(table: Table, row: Row, column: str) -> float:
    entry = table.entries.get((row, column))
    return -1.0 if entry is None or entry.last is None else entry.last


def _links(poison: Poison) -> tuple[Poison, ...]:
    return poison.links if isinstance(poison, Chain) else (poison,)


def _cell(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
