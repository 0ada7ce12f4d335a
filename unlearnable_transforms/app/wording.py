"""The library's messages in the words of the page: no options, no folders of the docs, no terms of programmers."""

import re

from ..errors import printable

_RULES: list[tuple[str, str]] = [
    (r" \(docs/[^)]*\)", ""),
    (r" \(--[\w-]+\)", ""),
    (r", or let protect do it with convert=True", ""),
    (r"choose --format png or webp", "save it without transparency, or for no site in particular"),
    (r"choose --format png", "choose a longest side"),
    (r"--format auto writes JPEG of JPEG files, which keeps what this method changes", "JPEG files stay smaller"),
    (r"--max-side makes them smaller", "a longest side makes them smaller"),
    (r"a field that --keep takes from it", "what it says about its author"),
    (
        r"is not empty, and there is no journal to go on with: start with an empty output folder",
        "is not empty, and other things lie in it: choose an empty folder for the protected pictures",
    ),
    (
        r"use the same again, or start with an empty output folder",
        "choose the same as before, or an empty folder for the protected pictures",
    ),
    (r"start (again )?with an empty output folder", "choose an empty folder for the protected pictures"),
    (r"was begun with another key, of fingerprint \w+, now it is \w+, or with a key derived by another name",
     "was begun with another private key, or as another album"),
    (r"[Rr]un the same command again(?: to continue)?", "press “Continue”"),
    (r"run the same command again", "press “Continue”"),
    (r"replace or remove it", "leave it out, or take another copy"),
    (r"with fewer --workers", "with fewer programs open"),
    (r"protect the clean data, or undo the first protection with unlock\. Several methods are combined in a chain",
     "choose the originals, or take the protection off first, under “Undo”"),
    (r", says the ledger \S+", ""),
    (r"the ledger \S+ says that they were protected with", "they were protected with"),
    (r"the ledger \S+ was written for another key than .*? has: use the key of that time",
     "they were protected with another private key, or as another album"),
    (
        r"with another key than \w+\(.*?\)+ has\b.*",
        "with another private key, or as another album",
    ),
    (r"\b\w+Poison\(.*?\)+", "this key"),
    (r"If `unlearnable protect` wrote it elsewhere, name its ledger with --ledger\. ", ""),
    (r"verify the folder that protect wrote", "check the folder or the zip file that you got from here"),
    (r"; the same `unlearnable protect` again makes them anew", "; protect them again to make them anew"),
    (r"`unlearnable [a-z]+`", "the page “Protect”"),
    (r"no record of this machine knows", "nothing on this computer remembers"),
    (r"No record can say", "Nobody can say"),
    (r"no record knows them", "nobody knows them here"),
    (r"are in kept splits and not protected", "are not protected"),
    (r"the journal of the run that protected (.*)", r"what was noted when they were protected"),
    (r"the ledger \S+", "what was noted when they were protected"),
    (r"no ledger knows their clean ids", "nothing on this computer remembers their originals"),
    (r"arguments? strength", "the strength"),
    (r"the source is not", "the folder of your pictures is not"),
    (r"the source\b", "your folder"),
    (r"the output folder", "the folder for the protected pictures"),
    (r"the output\b", "the folder of protected pictures"),
    (r"output folder", "folder for the protected pictures"),
    (r"\bthis method\b", "the protection"),
    (r"\bthe method\b", "the protection"),
    (r"\bmethod\b", "protection"),
    (r"(?<=, )?--[a-z][\w-]*( [A-Z]+)?", ""),
]  # fmt: skip
RULES = [(re.compile(pattern), text) for pattern, text in _RULES]


def plain(text: object) -> str:
    """A message in the words of the page, as one line."""
    result = " ".join(printable(text).split())
    for pattern, replacement in RULES:
        result = pattern.sub(replacement, result)
    return " ".join(result.split())


def sentence(text: object) -> str:
    """A message as a sentence of its own."""
    result = plain(text)
    return result[:1].upper() + result[1:] + ("" if result.endswith((".", "?", "!", "”")) else ".")
