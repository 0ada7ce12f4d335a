"""The owner's part of a card: what stands above and below the part that is written anew, and other metadata.

The generated part lies between two comments, which the Hub does not show. A card that is published again keeps
everything else; :func:`generated_digest` tells an edit by hand from one of what the library said.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from ..errors import UsageError

BEGIN = "<!-- Begin: unlearnable-transforms writes this part anew. Your own text stays above it or below its end. -->"
END = "<!-- End: unlearnable-transforms -->"
_MARKED = re.compile(
    r"[ \t]*<!-- Begin: unlearnable-transforms\b[^\n]*-->\n(?P<made>.*?)<!-- End: unlearnable-transforms -->",
    re.DOTALL,
)
_BLOCK = re.compile(r"\A---\r?\n(?P<metadata>.*?)\r?\n---[ \t]*(?:\r?\n|\Z)(?P<text>.*)\Z", re.DOTALL)
# What decides what is loaded, shown and agreed to. The rest, such as tags and languages, is the owner's to edit.
OURS = ("configs", "dataset_info", "viewer", "extra_gated_prompt", "extra_gated_fields", "extra_gated_heading")
WRITTEN = (*OURS, "extra_gated_description", "extra_gated_button_content", "size_categories", "task_categories")


@dataclass
class OwnPart:
    """What an owner said: ``above`` and ``below`` the generated part of a card, the metadata, and whom to ask."""

    above: str = ""
    below: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    contact: str | None = None


def split_card(card: str) -> tuple[dict[str, Any], str]:
    """Metadata and text of a card.

    Raises:
        UsageError: the metadata is no YAML mapping.
    """
    match = _BLOCK.match(card)
    if match is None:
        return {}, card
    try:
        metadata = yaml.safe_load(match["metadata"]) or {}
    except (yaml.YAMLError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict):
        raise UsageError("the metadata of README.md is no YAML mapping: correct it between the two lines ---")
    return metadata, match["text"]


def own_part(card: str, *, published: bool) -> OwnPart:
    """What to keep of an earlier card.

    Args:
        card: its text.
        published: whether the library wrote it. One without marks is then of an earlier version, and all its text is
            the library's; of any other card all text is the owner's.
    """
    metadata, text = split_card(card)
    kept = {name: value for name, value in metadata.items() if name not in WRITTEN}
    match = _MARKED.search(text)
    if match is not None:
        return OwnPart(text[: match.start()].strip(), text[match.end() :].strip(), kept)
    return OwnPart("" if published else text.strip(), "", kept)


def join_card(metadata: Mapping[str, Any], own: OwnPart, generated: str) -> str:
    """A card of the metadata as YAML, what the owner wrote, and the generated part."""
    block = yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True, width=120)
    parts = [own.above, f"{BEGIN}\n\n{generated.strip()}\n\n{END}", own.below]
    return f"---\n{block}---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def merged(kept: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata that was made, with what an owner added; of tags those of both."""
    tags = made.get("tags", [])
    ours = {name: value for name, value in made.items() if value is not None}
    both = {**ours, **{name: value for name, value in kept.items() if name not in ours or name == "pretty_name"}}
    return {**both, "tags": [*tags, *(tag for tag in _listed(kept.get("tags")) if tag not in tags)]}


def kept_text(value: Any) -> str | None:
    """A value of somebody's metadata, if it is text."""
    return value if isinstance(value, str) else None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def generated_digest(card: str) -> str | None:
    """SHA-256 over the generated part and the metadata that decides what is loaded, shown and agreed to; None where
    the marks are gone or the metadata cannot be read."""
    try:
        metadata, text = split_card(card.replace("\r\n", "\n"))
    except UsageError:
        return None
    match = _MARKED.search(text)
    if match is None:
        return None
    ours = {name: metadata.get(name) for name in OURS}
    told = json.dumps([ours, match["made"].strip()], sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(told.encode()).hexdigest()
