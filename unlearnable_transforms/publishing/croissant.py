"""``croissant.json``: a published set in the words of data-set search and loaders: Croissant 1.1 with RAI 1.0.

All of it but a few texts follows from ``protection.json``, so that :func:`check_croissant` can make it once more and
compare: a thumbnail, a path or a wrong checksum in it is seen from the published folder alone.

Specifications: MLCommons Croissant Format 1.1 (2026) and Croissant RAI 1.0 (2024); W3C ODRL 2.2 for the prohibition.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from ..checks.leaks import strings, text_leak
from ..files import read_json
from .stage import CARD, UNVERIFIED

CROISSANT = "croissant.json"
CORE, RAI = "http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"
HOST = "https://huggingface.co/datasets"
ODRL = "http://www.w3.org/ns/odrl/2/"
NO_LICENCE = "No licence was stated."
EXPECTED = (
    "A model that starts from nothing and trains on these images alone is expected to fail on unaltered images; one "
    "that starts from trained weights fails less."
)
REPOSITORY = "repository"  # the id that all files are contained in
_PROTOCOL = "rai:dataManipulationProtocol"
# The only places where a publisher's own words stand; the rest follows from the manifest.
_WORDS = ("description", "license", "datePublished", "rai:dataLimitations", "rai:dataReleaseMaintenancePlan")
_PURPOSES = {  # of the CAWG assertion, which has names and no addresses for them
    "cawg.data_mining": "text and data mining",
    "cawg.ai_training": "training of models",
    "cawg.ai_generative_training": "training of generative models",
}
_TYPES = {
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp", ".gif": "image/gif",
    ".parquet": "application/x-parquet", ".csv": "text/csv", ".jsonl": "application/jsonlines",
    ".md": "text/markdown",
}  # fmt: skip
_CONTEXT = {
    "@language": "en", "@vocab": "https://schema.org/", "arrayShape": "cr:arrayShape", "citeAs": "cr:citeAs",
    "column": "cr:column", "conformsTo": "dct:conformsTo", "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/", "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"}, "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"}, "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"}, "extract": "cr:extract", "field": "cr:field",
    "fileObject": "cr:fileObject", "fileProperty": "cr:fileProperty", "fileSet": "cr:fileSet", "format": "cr:format",
    "includes": "cr:includes", "isArray": "cr:isArray", "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath", "key": "cr:key", "md5": "cr:md5", "name": {"@container": "@language"}, "odrl": ODRL,
    "parentField": "cr:parentField", "path": "cr:path", "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet", "references": "cr:references", "regex": "cr:regex", "repeated": "cr:repeated",
    "replace": "cr:replace", "samplingRate": "cr:samplingRate", "sc": "https://schema.org/",
    "separator": "cr:separator", "source": "cr:source", "subField": "cr:subField", "transform": "cr:transform",
}  # fmt: skip


def make_croissant(manifest: Mapping[str, Any], words: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest says, as JSON-LD.

    Args:
        manifest: with the checksums of its files; those of the card and of this file itself are left out.
        words: ``description``, ``licence``, ``contact`` (or None), ``date`` (ISO 8601), and ``limits``, a list of texts
            that are put behind those that follow from the manifest.
    """
    owner, _, name = manifest["release"].partition("/")
    manipulation = manipulation_text(manifest)
    made = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": name,
        "description": words["description"] or manipulation,
        "conformsTo": [CORE, RAI],
        "url": f"{HOST}/{manifest['release']}",
        "license": words["licence"] or NO_LICENCE,
        "creator": {"@type": "sc:Organization", "name": owner, "url": f"https://huggingface.co/{owner}"},
        "datePublished": words["date"],
        "version": f"1.0.0+{manifest['protected_ids']['sha256'][:12]}",
        "citeAs": cite(manifest["release"]),
        "isLiveDataset": False,
        "keywords": ["unlearnable-examples", "protected", *(["noai"] if "opt_out" in manifest else [])],
        **({"usageInfo": _prohibition()} if "opt_out" in manifest else {}),
        _PROTOCOL: manipulation,
        "rai:dataDataManipulationProtocol": manipulation,  # the name under which mlcroissant up to 1.1.1 looks for it
        "rai:dataPreprocessingProtocol": [
            "Images were decoded, protected, and encoded anew. Only pixels, colour space and, where the owner asked "
            "for it, an opt-out with the credit were written."
        ],
        "rai:dataUseCases": [
            "For people to look at.",
            "For research on unlearnable examples and on defenses against them.",
            "Not for training or fine-tuning models that are meant for unaltered images.",
        ],
        "rai:dataLimitations": [*_limits(manifest), *words["limits"]],
        "distribution": [*_resources(manifest)],
        "recordSet": [*_record_sets(manifest)],
    }
    if words["contact"]:
        made["rai:dataReleaseMaintenancePlan"] = f"For the originals, or permission to train: {words['contact']}"
    return made


def write_croissant(made: Mapping[str, Any], folder: Path) -> None:
    """Put it into a folder."""
    (folder / CROISSANT).write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def check_croissant(folder: Path, manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(check, what) for everything in it that does not follow from the manifest, and for texts that leak.

    Raises:
        DamagedError: it is no JSON object.
    """
    found = read_json(folder / CROISSANT, dict)
    words: dict[str, Any] = {"description": "", "licence": None, "contact": None, "date": "", "limits": []}
    made = make_croissant(manifest, words)
    for place in _differences(_without_words(made), _without_words(found)):
        yield "description", f"{place} is not what {manifest['release']} was published with"
    limits = found.get("rai:dataLimitations")
    if not isinstance(limits, list) or not set(made["rai:dataLimitations"]) <= {text for text in limits if text}:
        yield "description", "rai:dataLimitations leaves out what follows from the set"
    for text in strings({name: found.get(name) for name in _WORDS}):
        leak = text_leak(text)
        if leak and leak[0] != "link":  # a description, a contact may name a page
            yield leak


def manipulation_text(manifest: Mapping[str, Any]) -> str:
    """What was done to the pixels, in one paragraph."""
    protected = [name for name, split in manifest["splits"].items() if split["protected"]]
    method = method_text(manifest["method"], manifest["version"], manifest["arguments"])
    key = f"a private key with the fingerprint {manifest['key_fingerprint']}"
    who = "The publisher says that the pixels" if manifest["coverage"].startswith(UNVERIFIED) else "The pixels"
    return (
        f"{who} of the split {' and '.join(protected)} were altered by {method}, with "
        f"{key if manifest['key_fingerprint'] else 'private values'}. {EXPECTED} Coverage: {manifest['coverage']}."
    )


def method_text(name: str, version: Any, arguments: Mapping[str, Any]) -> str:
    """A method with the strength and the options that were given: ``sem (version 1, eps 8/255, preset cpu)``."""
    if links := arguments.get("links"):
        return " > ".join(method_text(link["method"], link["version"], link["arguments"]) for link in links)
    hidden = ("image_key", "label_key", "classes", "kernels")
    given = {name: value for name, value in arguments.items() if value is not None and name not in hidden}
    shown = [f"{name} {_levels(value) if name == 'eps' else value}" for name, value in sorted(given.items())]
    return f"{name} ({', '.join([f'version {version}', *(shown or ['default strength'])])})"


def cite(repo: str) -> str:
    """BibTeX of a published set."""
    owner, _, name = repo.partition("/")
    key = re.sub(r"[^A-Za-z0-9]+", "-", repo)
    address = f"howpublished = {{\\url{{{HOST}/{repo}}}}}"
    return f"@misc{{{key},\n  author = {{{owner}}},\n  title = {{{name}}},\n  {address},\n}}"


def _levels(eps: Any) -> str:
    return f"{255 * eps:.4g}/255" if isinstance(eps, int | float) else str(eps)


def _limits(manifest: Mapping[str, Any]) -> Iterator[str]:
    clean = [name for name, split in manifest["splits"].items() if not split["protected"]]
    if clean:
        yield f"The split {' and '.join(clean)} is not protected: its images are unaltered."
    left = sum(manifest["statuses"].get(status, 0) for status in ("left", "unchanged"))
    if left:
        yield f"{left:,} images of the protected splits are not protected."
    yield "Defenses can win back a part of what a model loses, or all of it; the card lists what was measured."


def _prohibition() -> dict[str, Any]:
    """Use for any of these purposes is prohibited."""
    return {
        "@type": ["sc:CreativeWork", "odrl:Offer"],
        "name": "Opt-out of training and of text and data mining",
        "odrl:prohibition": {
            "@type": "odrl:Prohibition",
            "name": f"Not for {', '.join(_PURPOSES.values())}",
            "odrl:action": {"@id": "odrl:use"},
            "odrl:constraint": {
                "@type": "odrl:Constraint",
                "odrl:leftOperand": {"@id": "odrl:purpose"},
                "odrl:operator": {"@id": "odrl:isAnyOf"},
                "odrl:rightOperand": [*_PURPOSES],
            },
        },
    }


def prohibits_training(described: Any) -> bool:
    """Whether somebody's Croissant prohibits training: by an ODRL prohibition that names it, or names no purpose."""
    return any(_is_for_training(rule) for rule in _find(described, "odrl:prohibition", f"{ODRL}prohibition"))


def _is_for_training(rule: Any) -> bool:
    text = json.dumps(rule).lower()
    return re.search("(?<!cons)train", text) is not None or "purpose" not in text


def _find(value: Any, *names: str) -> Iterator[Any]:
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _find(part, *names)
    yield from (value[name] for name in names if isinstance(value, dict) and name in value)


# ---- files and records -----------------------------------------------------------------------------------------------


def _resources(manifest: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The repository, the files of each split as a set, and each file with its checksum."""
    yield {
        "@type": "cr:FileObject", "@id": REPOSITORY, "name": REPOSITORY, "encodingFormat": "git+https",
        "contentUrl": f"{HOST}/{manifest['release']}",
        "sha256": "main",  # a repository has none; validators want the property, and the specification fills it so
    }  # fmt: skip
    for name, split in manifest["splits"].items():
        yield {
            "@type": "cr:FileSet", "@id": f"{name}-files", "name": f"{name}-files",
            "containedIn": {"@id": REPOSITORY},
            "encodingFormat": sorted({_type(path) for path in split["files"]}),
            "includes": sorted(_patterns(name, split["files"])),
        }  # fmt: skip
    for path, known in sorted(manifest["files"].items()):
        if path not in (CARD, CROISSANT):
            yield {
                "@type": "cr:FileObject", "@id": quote(path), "name": path, "contentUrl": path,
                "containedIn": {"@id": REPOSITORY}, "encodingFormat": _type(path),
                "contentSize": f"{known['bytes']} B", "sha256": known["sha256"],
            }  # fmt: skip


def _type(path: str) -> str:
    return _TYPES.get(PurePosixPath(path).suffix.lower(), "text/plain")


def _patterns(split: str, files: list[str]) -> set[str]:
    """The patterns of a split's files, in which ``*`` stands for slashes, too."""
    tables = all(path.endswith(".parquet") for path in files)
    top = f"data/{split}-" if tables else f"{split}/" if all(path.startswith(f"{split}/") for path in files) else ""
    return {f"{top}*{PurePosixPath(path).suffix}" for path in files}


def _record_sets(manifest: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One for each split: images and, where they are published, labels; and one with the names of the classes."""
    columns, classes = manifest["columns"], manifest["classes"]
    for name in manifest["splits"]:
        source = {"fileSet": {"@id": f"{name}-files"}}
        if columns is None:
            image: dict[str, Any] = {"extract": {"fileProperty": "content"}}
            folder = {"extract": {"fileProperty": "fullpath"}, "transform": {"regex": r"(?:.*/)?([^/]+)/[^/]+$"}}
            label, kind = (folder if classes else None), "sc:Text"
        else:
            image = {"extract": {"column": columns["image"]}, "transform": {"jsonPath": "bytes"}}
            label = {"extract": {"column": columns["label"]}} if columns["label"] else None
            kind = "sc:Integer" if classes or columns.get("labels") == "numbers" else "sc:Text"
        fields = [_field(f"{name}/image", "image", "sc:ImageObject", {**source, **image})]
        if label is not None:
            fields.append(_field(f"{name}/label", "label", [kind, "cr:Label"], {**source, **label}))
        yield {"@type": "cr:RecordSet", "@id": name, "name": name, "field": fields}
    if classes and columns is not None:  # labels are numbers there
        yield {
            "@type": "cr:RecordSet", "@id": "classes", "name": "classes", "dataType": "sc:Enumeration",
            "key": {"@id": "classes/label"},
            "field": [_field("classes/label", "label", "sc:Integer"), _field("classes/name", "name", "sc:Text")],
            "data": [{"classes/label": place, "classes/name": known} for place, known in enumerate(classes)],
        }  # fmt: skip


def _field(place: str, name: str, kind: Any, source: dict[str, Any] | None = None) -> dict[str, Any]:
    described = {"@type": "cr:Field", "@id": place, "name": name, "dataType": kind}
    return described if source is None else {**described, "source": source}


# ---- comparing -------------------------------------------------------------------------------------------------------


def _without_words(described: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in described.items() if name not in _WORDS}


def _differences(made: Any, found: Any, place: str = "") -> Iterator[str]:
    """The places where two JSON values differ, those of one above the other not twice."""
    if isinstance(made, dict) and isinstance(found, dict):
        for name in sorted({*made, *found}):
            inner = f"{place}.{name}" if place else name
            if name not in made or name not in found:
                yield inner
            else:
                yield from _differences(made[name], found[name], inner)
    elif isinstance(made, list) and isinstance(found, list) and len(made) == len(found):
        for number, (mine, other) in enumerate(zip(made, found, strict=True)):
            yield from _differences(mine, other, f"{place}[{number}]")
    elif type(made) is not type(found) or made != found:
        yield place
