"""``README.md``: the card of a published set, made from what was checked and measured. No claim without its figure."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from datasets import DatasetInfo, SplitDict, SplitInfo
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData
from jinja2 import Environment, StrictUndefined

from ..defenses import list_defenses
from ..errors import UsageError, printable
from ..evaluation.report import Report
from ..evaluation.tables import Headline, Row, Table
from ..evaluation.text import defense_name, entry_text, headline_text, percent, search_text
from ..files import Markdown, markdown_text
from ..poisons.base import Poison, decisive
from .croissant import cite
from .own import OwnPart, join_card, merged
from .scan import Checked
from .stage import ALONE, CARD, UNVERIFIED, Upload

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
LINK = "https://pypi.org/project/unlearnable-transforms/"
AGREEMENT = "I will not train models on these images, and will not mine them"
WON_BACK = 0.5  # a defense that wins back more than this share of what clean pictures give undoes the protection


@dataclass
class About:
    """What a card is made of, beside the report.

    The settings are those of :func:`~.hub.publish`; ``config`` is the method's ``public_config``, ``coverage``
    how it is known that every picture is protected.
    """

    repo: str
    upload: Upload
    poison: Poison
    config: Mapping[str, Any]
    checked: Checked
    coverage: str
    originals_public: bool | None
    licence: str | None
    description: str | None
    contact: str | None
    opt_out: bool
    gated: Literal["auto", "manual", False] | None = None
    viewer: bool = True
    picture: str | None = None  # its file
    with_originals: bool = False
    own: OwnPart = field(default_factory=OwnPart)


def make_card(about: About, report: Report | None) -> str:
    """The text of README.md: what the owner wrote into an earlier one, and README.md.j2, where every value is shown as
    text and as nothing else.

    Raises:
        ValueError: the report is about other methods.
    """
    environment = Environment(
        autoescape=False,
        finalize=markdown_text,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code"] = _code
    template = environment.from_string(Path(__file__).with_name(f"{CARD}.j2").read_text("utf-8"))
    checked, upload = about.checked, about.upload
    owner, _, name = about.repo.rpartition("/")
    arguments = {name: value for name, value in about.config["arguments"].items() if value is not None}
    text = template.render(
        about=about,
        upload=upload,
        checked=checked,
        link=Markdown(LINK),
        verified=not about.coverage.startswith(UNVERIFIED),
        arguments=json.dumps(arguments, sort_keys=True, ensure_ascii=False) if arguments else "",
        clean=sum(count for split, count in checked.rows.items() if split not in upload.training),
        partly=sum(checked.counts.get(status, 0) for status in ("left", "unchanged")),
        total=sum(checked.counts.values()),
        repo=Markdown(about.repo),  # letters, digits, "_", "." and "-"
        owner=Markdown(owner),
        picture=Markdown(about.picture or ""),
        citation=Markdown(cite(about.repo)),
        papers=[link.paper for link in about.poison.links if link.paper],
        **_measured(about, report),
    )
    own = about.own
    if about.description is not None or not own.above:
        title = f"# {name}"
        own = replace(own, above=f"{title}\n\n{markdown_text(about.description)}" if about.description else title)
    data = merged(own.metadata, metadata(about).to_dict())
    return join_card(data, own, re.sub(r"\n{3,}", "\n\n", text))


def _code(text: str) -> Markdown:
    """Text between backticks, where nothing but a backtick means anything."""
    return Markdown(f"`{printable(text).replace('`', chr(39))}`")


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
    if not about.viewer:
        data["viewer"] = False
    if about.opt_out and about.gated is not False:  # the Hub shows it once access is gated, by whatever way
        data["extra_gated_heading"] = "Protected images: not for training"
        data["extra_gated_prompt"] = (
            "You agree not to train models on these images, and not to mine them. Models that train on them are "
            "expected to do badly on unaltered images."
        )
        data["extra_gated_fields"] = {AGREEMENT: "checkbox"}
        data["extra_gated_button_content"] = "Agree and get access" if about.gated == "auto" else "Agree and ask"
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


def words_of(about: About, report: Report | None) -> dict[str, Any]:
    """What ``croissant.json`` says beside what follows from the manifest: the publisher's words, and what was measured.

    They are shown as text: what cannot be seen is written as its code.
    """
    worst = _measured(about, report)["worst"]
    limits = [f"Measured: {printable(worst['text'])}" if worst else "How far models fail was not measured."]
    if about.originals_public:
        limits.append("The originals are public: this set is for study and protects nothing.")
    if about.checked.missing:
        limits.append(f"{about.checked.missing:,} images that were protected with these are not published here.")
    own = {"description": about.description, "licence": about.licence, "contact": about.contact}
    texts = {name: " ".join(printable(text).split()) if text else None for name, text in own.items()}
    return {**texts, "date": f"{datetime.now(UTC):%Y-%m-%d}", "limits": limits}


# ---- what was measured -----------------------------------------------------------------------------------------------


def _measured(about: About, report: Report | None) -> dict[str, Any]:
    """What the template says of a report."""
    if report is None:
        return {"tables": [], "undoing": [], "tried": [], "untried": 0, "worst": None, "starts": [], "searches": []}
    tables = rows_of_method(report, about.config)
    tried, undoing = _undoing(tables)
    headlines = [(table, line) for table, rows in tables for line in table.headlines if line.row in rows]
    others = {fingerprint for table, rows in tables for fingerprint in _fingerprints(table, rows)}
    labels = {row[0] for _, rows in tables for row in rows}
    searches = {label: trials for label, trials in report.searches.items() if label in labels}
    return {
        "starts": _starts(headlines),
        "searches": [search_text(label, trials) for label, trials in searches.items()],
        "worst": _worst(*max(headlines, key=lambda pair: pair[1].entry.last or 0)) if headlines else None,
        "tables": [_table(table, rows) for table, rows in tables],
        "other_keys": bool(others) and about.config["key_fingerprint"] not in others,
        "date": max(str(cell.get("date", "")) for cell in report.cells),
        "undoing": undoing,
        "tried": tried,
        "untried": len(set(list_defenses()) - tried),
    }


def _worst(table: Table, line: Headline) -> dict[str, Any]:
    """The headline, and beside it what the control loses under the same defense."""
    beside = ("control", line.row[0])
    rows = [row for row in table.rows if (table.sets[row]["role"], table.sets[row]["of"]) == beside]
    entries = {row[0]: table.entries.get((row, line.defense)) for row in rows}
    lost = {name: entry.protection for name, entry in entries.items() if entry and entry.protection is not None}
    name = max(lost, key=lambda name: lost[name], default=None)
    control = None if name is None else {"name": name, "lost": percent(lost[name])}
    entry = line.entry
    return {
        "text": headline_text(line),
        "control": control,
        "last": percent(entry.last),
        "clean": None if entry.clean is None else percent(entry.clean),
        "how": f"That is the best of {line.defenses} ways of training tried ({defense_name(line.defense)})",
    }


def _starts(headlines: list[tuple[Table, Headline]]) -> list[dict[str, str]]:
    """The worst case of victims that start from nothing, and of those that start from trained weights."""
    kinds: dict[str, list[tuple[Table, Headline]]] = {"From nothing": [], "From trained weights": []}
    for table, line in headlines:
        kinds["From trained weights" if "weights=" in table.about["victim"] else "From nothing"].append((table, line))
    found = []
    for name, group in kinds.items():
        text = "not measured"
        if group:
            table, line = max(group, key=lambda pair: pair[1].entry.last or 0)
            clean = "" if line.entry.clean is None else f"; clean data under it {percent(line.entry.clean)} %"
            how = f"{table.about['victim']}, {defense_name(line.defense)}"
            text = f"at most {percent(line.entry.last)} % ({how}){clean}"
        elif "trained" in name:
            text += ". A model that starts from weights such as those of ImageNet usually gets further"
        found.append({"name": name, "text": text})
    return found


def _table(table: Table, rows: list[Row]) -> dict[str, Any]:
    """A table as the template shows it: the worst defense first."""
    listed = [row for row in table.rows if row in rows or table.sets[row]["role"] in ("clean", "control")]
    worst = {column: max((_last(table, row, column) for row in rows), default=-1.0) for column in table.columns}
    return {
        "about": table.about,
        "rows": [row[0] for row in listed],
        "columns": [
            (
                "none (erm)" if column == "erm" else column,
                [entry_text(table.entries.get((row, column))) for row in listed],
            )
            for column in sorted(table.columns, key=lambda column: (-worst[column], column))
        ],
    }


def _undoing(tables: list[tuple[Table, list[Row]]]) -> tuple[set[str], list[dict[str, str]]]:
    """The names of the defenses that were tried; and those that win back more than half of the loss, worst first."""
    tried: set[str] = set()
    undoing: dict[str, tuple[float, dict[str, str]]] = {}
    for table, rows in tables:
        for (row, column), entry in table.entries.items():
            if row not in rows or entry.last is None:
                continue
            tried.add(entry.cells[0]["defense"]["name"])
            won = entry.recovery or 0
            if won > max(WON_BACK, undoing.get(column, (0.0,))[0]):
                figures = {"last": percent(entry.last), "clean": percent(entry.clean), "won": percent(won, 0)}
                undoing[column] = won, {"defense": column, **figures}
    return tried, [figures for _, figures in sorted(undoing.values(), key=lambda pair: -pair[0])]


# ---- the report ------------------------------------------------------------------------------------------------------


def rows_of_method(report: Report, config: Mapping[str, Any]) -> list[tuple[Table, list[Row]]]:
    """The tables of a report that are about a method, each with the rows that were protected by it.

    Raises:
        ValueError: the report is about other methods.
    """
    tables = [(table, rows) for table in report.tables if (rows := _rows_of(table, config))]
    if not tables:
        labels = sorted({cell["set"]["label"] for cell in report.cells})
        raise UsageError(
            f"the report is about {labels}, and not about {config['method']} with the arguments {config['arguments']}: "
            "pass the one of this method"
        )
    return tables


def _rows_of(table: Table, config: Mapping[str, Any]) -> list[Row]:
    """The rows of a table that were protected by this method, whatever the key; or by the set itself."""
    matching = []
    for row in table.rows:
        made = table.sets[row]
        known = made["config"]
        if made["role"] == "poison" and (known.get("method") == "unknown" or decisive(known) == decisive(config)):
            matching.append(row)
    return matching


def _fingerprints(table: Table, rows: list[Row]) -> set[str]:
    configs = (table.sets[row]["config"] for row in rows)
    return {config["key_fingerprint"] for config in configs if config.get("key_fingerprint")}


def _last(table: Table, row: Row, column: str) -> float:
    entry = table.entries.get((row, column))
    return -1.0 if entry is None or entry.last is None else entry.last
