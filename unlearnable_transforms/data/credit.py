"""What a file says about the rights in its image: one XMP packet, and nothing else.

:func:`build` makes the packet: the same texts give the same bytes. :func:`parse` is its exact inverse, so that a check
can let this packet pass and refuse any other.

Names and values: IPTC Photo Metadata Standard 2023.1, with the vocabulary "Data Mining" of the PLUS Coalition.
"""

import re
import unicodedata
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from html import escape

from ..errors import UsageError

OPT_OUTS = {  # what a rights owner prohibits, by the names on the command line
    "ai-training": "DMI-PROHIBITED-AIMLTRAINING",
    "generative-ai": "DMI-PROHIBITED-GENAIMLTRAINING",
    "all-but-search": "DMI-PROHIBITED-EXCEPTSEARCHENGINEINDEXING",
    "all": "DMI-PROHIBITED",
}
KEPT = ("creator", "copyright", "credit", "usage-terms", "web-statement")  # what can be kept of an original
LONGEST_TEXT = 2000  # characters of a field: five fields, escaped, fit into the 65,502 bytes that JPEG has for them

_VOCABULARY = "http://ns.useplus.org/ldf/vocab/"
_RDF, _XML = "http://www.w3.org/1999/02/22-rdf-syntax-ns#", "http://www.w3.org/XML/1998/namespace"
_SPACES = {
    "plus": "http://ns.useplus.org/ldf/xmp/1.0/",
    "dc": "http://purl.org/dc/elements/1.1/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "xmpRights": "http://ns.adobe.com/xap/1.0/rights/",
}
_MINING = "plus:DataMining"
_PROPERTIES = {
    "creator": "dc:creator",
    "copyright": "dc:rights",
    "credit": "photoshop:Credit",
    "usage_terms": "xmpRights:UsageTerms",
    "web_statement": "xmpRights:WebStatement",
}
_HEAD = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
_LARGEST = 10_000_000  # bytes of a packet that is read; editors keep their history in it
_DECLARATION = re.compile(r"<!(?!--)")  # of a document type, of entities: no packet needs them


@dataclass(frozen=True)
class Credit:
    """The fields of a packet; empty ones are left out.

    Attributes:
        opt_out: one of ``OPT_OUTS``.
        creator: names, in order.
        copyright: the notice. With one the image is marked as protected by copyright.
        credit: the line that is printed beside the image.
        usage_terms: what may be done with it.
        web_statement: address of a page about that.
    """

    opt_out: str = ""
    creator: tuple[str, ...] = ()
    copyright: str = ""
    credit: str = ""
    usage_terms: str = ""
    web_statement: str = ""

    def texts(self) -> Iterator[tuple[str, str]]:
        """Field and text of everything that somebody wrote."""
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            for text in value if isinstance(value, tuple) else (value,):
                if text:
                    yield field.name, text

    def filled_from(self, other: "Credit") -> "Credit":
        """With the fields of another one where this one has none."""
        return replace(self, **{f.name: getattr(self, f.name) or getattr(other, f.name) for f in fields(self)})


def credit_from(opt_out: str = "", creator: Collection[str] = (), copyright: str | None = None) -> Credit:
    """A credit from what a person typed, in the form NFC of Unicode.

    Raises:
        UsageError: an unknown opt-out, or an empty text.
    """
    if opt_out and opt_out not in OPT_OUTS:
        raise UsageError(f"opt_out= takes one of {', '.join(OPT_OUTS)}, not {opt_out!r}")
    texts = {"creator": creator, "copyright": [] if copyright is None else [copyright]}
    for name, values in texts.items():
        if not all(text.strip() for text in values):
            raise UsageError(f"{name}= is empty: give a text, or leave the option out")
    names, notices = ([unicodedata.normalize("NFC", text.strip()) for text in some] for some in texts.values())
    credit = Credit(opt_out, tuple(names), "".join(notices))
    build(credit)
    return credit


def check_kept(names: Collection[str]) -> None:
    """Refuse fields to keep that are not on the list.

    Raises:
        UsageError: names them.
    """
    if unknown := [name for name in names if name not in KEPT]:
        raise UsageError(f"the fields that can be kept are {', '.join(KEPT)}, not {', '.join(map(repr, unknown))}")


# ---- the packet ------------------------------------------------------------------------------------------------------


def build(credit: Credit) -> bytes:
    """The packet, UTF-8.

    Raises:
        UsageError: a text that is too long, or with characters that XML or a line of text cannot hold.
    """
    for name in _PROPERTIES:
        _check(name, [text for field, text in credit.texts() if field == name])
    if "" in credit.creator:
        raise UsageError("creator= is empty: give a text, or leave the option out")
    properties = []
    if credit.opt_out:
        properties.append(f"<{_MINING}>{_VOCABULARY}{OPT_OUTS[credit.opt_out]}</{_MINING}>")
    if credit.creator:
        names = "".join(f"<rdf:li>{escape(name, quote=False)}</rdf:li>" for name in credit.creator)
        properties.append(f"<dc:creator><rdf:Seq>{names}</rdf:Seq></dc:creator>")
    if credit.copyright:
        properties.append(f"<dc:rights>{_one_language(credit.copyright)}</dc:rights>")
    if credit.credit:
        properties.append(f"<photoshop:Credit>{escape(credit.credit, quote=False)}</photoshop:Credit>")
    if credit.copyright:
        properties.append("<xmpRights:Marked>True</xmpRights:Marked>")
    if credit.usage_terms:
        properties.append(f"<xmpRights:UsageTerms>{_one_language(credit.usage_terms)}</xmpRights:UsageTerms>")
    if credit.web_statement:
        properties.append(
            f"<xmpRights:WebStatement>{escape(credit.web_statement, quote=False)}</xmpRights:WebStatement>"
        )
    spaces = "".join(f' xmlns:{name}="{address}"' for name, address in _SPACES.items())
    lines = [
        f'{_HEAD}<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}">',
        f'<rdf:Description rdf:about=""{spaces}>',
        *properties,
        "</rdf:Description></rdf:RDF></x:xmpmeta>",
        '<?xpacket end="r"?>',
    ]
    return "\n".join(lines).encode()


def _one_language(text: str) -> str:
    return f'<rdf:Alt><rdf:li xml:lang="x-default">{escape(text, quote=False)}</rdf:li></rdf:Alt>'


def _check(name: str, texts: list[str]) -> None:
    if sum(map(len, texts)) > LONGEST_TEXT:
        raise UsageError(f"{name}= has more than {LONGEST_TEXT:,} characters: shorten it, or leave it out")
    for mark in "".join(texts):
        if not is_text(mark):
            raise UsageError(
                f"{name}= holds U+{ord(mark):04X}, a control character or no character at all: leave it out"
            )


def is_text(mark: str) -> bool:
    """Whether a line of text, and XML, can hold a character: no control character, no line end, no half of a pair."""
    noncharacter = ord(mark) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(mark) <= 0xFDEF
    return not noncharacter and unicodedata.category(mark) not in ("Cc", "Cs", "Zl", "Zp")


def parse(packet: bytes) -> Credit | None:
    """The fields of a packet that :func:`build` made; None for any other, however little it differs."""
    found = texts_in(packet)
    mining = "".join(found.pop("opt_out", []))
    opt_outs = {_VOCABULARY + value: name for name, value in OPT_OUTS.items()}
    try:
        credit = credit_of(found, opt_outs.get(mining, ""))
        return credit if build(credit) == packet else None
    except UsageError:
        return None


def credit_of(texts: Mapping[str, Sequence[str]], opt_out: str = "") -> Credit:
    """A credit of the texts of each field; all fields but the creator have one."""
    values = {name: tuple(some) if name == "creator" else "".join(some[:1]) for name, some in texts.items()}
    return Credit(opt_out, **values)  # type: ignore[arg-type]


def texts_in(packet: bytes) -> dict[str, list[str]]:
    """The texts of the fields in any XMP packet, and ``opt_out``; nothing where it cannot be read."""
    if len(packet) > _LARGEST:
        return {}
    try:
        text = packet.rstrip(b"\0").decode()
        if _DECLARATION.search(text):
            return {}
        root = ElementTree.fromstring(text)
    except (ValueError, ElementTree.ParseError):
        return {}
    known = {_tag(_MINING): "opt_out"} | {_tag(name): field for field, name in _PROPERTIES.items()}
    found: dict[str, list[str]] = {}
    tops = (child for rdf in root.iter(f"{{{_RDF}}}RDF") for child in rdf)  # not what parts of the image say
    for description in tops:
        entries = [(name, [value]) for name, value in description.items()]
        entries += [(element.tag, _values(element)) for element in description]
        for tag, texts in entries:
            if tag in known:
                found.setdefault(known[tag], texts)
    return found


def _tag(name: str) -> str:
    """The tag of a property as ElementTree has it."""
    space, _, name = name.partition(":")
    return f"{{{_SPACES[space]}}}{name}"


def _values(element: ElementTree.Element) -> list[str]:
    """The texts of a property: of a list in its order, of languages the default alone."""
    entries = list(element.iter(f"{{{_RDF}}}li"))
    if not entries:
        return [element.text or ""]
    default = [entry for entry in entries if entry.get(f"{{{_XML}}}lang") == "x-default"]
    return [entry.text or "" for entry in default or entries]
