"""The one XMP packet: its bytes, its exact inverse, and what of an original gets into it."""

import struct

import pytest
from conftest import encode
from folders import photograph
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from unlearnable_transforms.data.credit import KEPT, LONGEST_TEXT, OPT_OUTS, Credit, build, credit_from, parse
from unlearnable_transforms.data.original import read_credit
from unlearnable_transforms.errors import UsageError

ALL = Credit(
    "all",
    ("Ann Lee", "鈴木 & <Söhne>"),
    '© 2026 "Ann" Lee',
    "Ann / Agency",
    "none",
    "https://example.org/terms?a=1&b=2",
)
PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"\
 xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" xmlns:xmpRights="http://ns.adobe.com/xap/1.0/rights/">
<plus:DataMining>http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED-AIMLTRAINING</plus:DataMining>
<dc:creator><rdf:Seq><rdf:li>Ann &amp; Bo</rdf:li></rdf:Seq></dc:creator>
<dc:rights><rdf:Alt><rdf:li xml:lang="x-default">© Ann &lt;Lee&gt;</rdf:li></rdf:Alt></dc:rights>
<xmpRights:Marked>True</xmpRights:Marked>
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>""".encode()


def test_the_bytes_of_a_packet():
    assert build(credit_from("ai-training", ["Ann & Bo"], "© Ann <Lee>")) == PACKET


@pytest.mark.parametrize("credit", [Credit(), ALL, *(Credit(opt_out) for opt_out in OPT_OUTS)], ids=str)
def test_parse_is_the_inverse_of_build(credit):
    assert parse(build(credit)) == credit


def test_any_other_packet_is_refused():
    packet = build(ALL)
    assert parse(packet) == ALL
    for place in range(len(packet)):  # whatever is put in, taken out or changed, by one byte
        for other in (packet[:place] + b" " + packet[place:], packet[:place] + packet[place + 1 :]):
            found = parse(other)
            assert found is None or (build(found) == other and found != ALL)
    more = {
        "an element": packet.replace(b"</rdf:Description>", b"<dc:source>x</dc:source></rdf:Description>"),
        "an attribute": packet.replace(b'rdf:about=""', b'rdf:about="" dc:source="x"'),
        "a second description": packet.replace(b"</rdf:RDF>", b'<rdf:Description rdf:about=""/></rdf:RDF>'),
        "a comment": packet.replace(b"</rdf:RDF>", b"<!-- x --></rdf:RDF>"),
        "another opt-out": packet.replace(b"DMI-PROHIBITED", b"DMI-ALLOWED"),
        "padding": packet + b"\n" * 8,
        "zeros": packet + b"\0",
        "entities": b'<!DOCTYPE x [<!ENTITY a "b">]>' + packet,
        "escaped otherwise": packet.replace(b"&amp;", b"&#38;"),
        "an empty name": packet.replace(b"<rdf:li>Ann Lee</rdf:li>", b"<rdf:li></rdf:li>"),
        "nothing": b"",
        "no XML": b"\xff\xfe",
    }
    assert {name: parse(other) for name, other in more.items()} == dict.fromkeys(more)


def test_texts_are_taken_as_they_are_typed_in_one_form():
    composed, typed = "J\u00fcrgen", "  Ju\u0308rgen "
    assert credit_from(creator=[typed], copyright="👩\u200d🎨 شكرا") == Credit("", (composed,), "👩\u200d🎨 شكرا")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"creator": ["Ann\nLee"]}, "creator= holds U\\+000A"),
        ({"copyright": "a\0b"}, "copyright= holds U\\+0000"),
        ({"copyright": "a\x9fb"}, "U\\+009F"),
        ({"creator": ["\ud800"]}, "U\\+D800"),  # a byte of the command line that is no UTF-8
        ({"creator": ["\uffff"]}, "U\\+FFFF"),
        ({"creator": ["a\u2028b"]}, "U\\+2028"),
        ({"creator": ["Ann", " "]}, "creator= is empty"),
        ({"copyright": ""}, "copyright= is empty"),
        ({"creator": ["x" * LONGEST_TEXT, "y"]}, "more than 2,000 characters"),
        ({"opt_out": "everything"}, "opt_out= takes one of ai-training, generative-ai, all-but-search, all"),
    ],
)
def test_texts_that_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        credit_from(**options)


def test_the_longest_packet_fits_into_jpeg():
    longest = Credit("all", ("&" * LONGEST_TEXT,), *["&" * LONGEST_TEXT] * 4)
    assert len(build(longest)) < 65502
    assert parse(build(longest)) == longest


# ---- originals -------------------------------------------------------------------------------------------------------

XMP = """<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>
<rdf:Description rdf:about='' xmlns:photoshop='http://ns.adobe.com/photoshop/1.0/' photoshop:Credit=' of\tXMP '
 photoshop:City='CANARY'/><rdf:Description xmlns:dc='http://purl.org/dc/elements/1.1/'><dc:rights><rdf:Alt>
<rdf:li xml:lang='de'>deutsch</rdf:li><rdf:li xml:lang='x-default'>by &amp; of XMP</rdf:li></rdf:Alt></dc:rights>
<dc:description>CANARY</dc:description></rdf:Description></rdf:RDF></x:xmpmeta>"""


def with_everything(xmp: str = XMP) -> bytes:
    """A JPEG with XMP, IPTC and EXIF, which say different things."""
    exif = Image.Exif()
    exif[0x013B] = "of EXIF; second"
    exif[0x8298] = "rights of EXIF"
    exif.get_ifd(0x8825)[0x001D] = "CANARY"
    data = encode(photograph(1), "JPEG", exif=exif, xmp=xmp.encode())
    records = {80: "of IPTC, J\u00fcrgen".encode("latin-1"), 110: b"credit of IPTC", 90: b"CANARY"}
    iptc = b"".join(b"\x1c\x02" + struct.pack(">BH", n, len(text)) + text for n, text in records.items())
    block = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(iptc)) + iptc + b"\0" * (len(iptc) % 2)
    return data[:2] + b"\xff\xed" + struct.pack(">H", 2 + len(block)) + block + data[2:]


def test_fields_of_an_original_by_name():
    assert read_credit(with_everything(), KEPT) == Credit(
        creator=("of IPTC, J\u00fcrgen",), copyright="by & of XMP", credit="of XMP"
    )
    assert read_credit(with_everything(), ["creator"]) == Credit(creator=("of IPTC, J\u00fcrgen",))
    part = "<x:p xmlns:x='x'><rdf:Description xmlns:dc='http://purl.org/dc/elements/1.1/' dc:creator='X'/></x:p>"
    assert read_credit(with_everything(XMP.replace("</rdf:D", f"{part}</rdf:D", 1)), ["creator"]).creator != ("X",)
    for broken in ("", "<", "<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>", XMP.replace("</rdf:Alt>", "")):
        found = read_credit(with_everything(broken), KEPT)
        assert found == Credit(creator=("of IPTC, J\u00fcrgen",), copyright="rights of EXIF", credit="credit of IPTC")


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_every_format_says_it(format):
    exif = Image.Exif()
    exif[0x013B] = "Ann; Bo ;"
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP)
    options = {"PNG": {"pnginfo": info}, "TIFF": {"tiffinfo": {700: XMP.encode(), 0x013B: "Ann; Bo ;"}}}
    data = encode(photograph(1), format, **options.get(format, {"xmp": XMP.encode()}), exif=exif)
    assert read_credit(data, ["creator", "copyright"]) == Credit(creator=("Ann", "Bo"), copyright="by & of XMP")


def test_xmp_behind_the_pixels_of_a_png():
    """Where exiftool puts it."""
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP)
    data = encode(photograph(1), "PNG", pnginfo=info)
    start = data.index(b"iTXt") - 4
    (size,) = struct.unpack_from(">I", data, start)
    chunk = data[start : start + 12 + size]
    assert read_credit(data[:start] + data[start + len(chunk) : -12] + chunk + data[-12:], ["copyright"]).copyright


def test_what_is_filled_from_an_original():
    mine, original = credit_from("all", ["Ann"]), Credit(creator=("Bo",), copyright="of Bo")
    assert mine.filled_from(original) == Credit("all", ("Ann",), "of Bo")
