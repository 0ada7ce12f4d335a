"""Whether the C2PA signatures in the images of a protected or published set hold."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..data.base import LabelledSet
from ..data.c2pa import EXPIRED, TRUSTED, VOID, ForeignManifestError, manifest_of, parse, state_of
from ..data.open import open_data
from ..data.walk import named
from ..errors import printable
from ..sample import spread

SAMPLE = 20  # images by which it is seen whether a set is signed at all


@dataclass
class Review:
    """What :func:`review_folder` says of a set of which some images carry a manifest.

    Attributes:
        holders: of the certificates of images whose signature holds, and who issued each.
        whole: how many these images are. ``trusted``: how many of them lead to a certificate that is trusted.
        expired, unsigned: names of images.
        void: name -> reason.
        anchors: whether it was said who is trusted.
        unchecked: whether the packages are missing; nothing else is known then.
    """

    holders: dict[str, str] = field(default_factory=dict)
    whole: int = 0
    trusted: int = 0
    expired: list[str] = field(default_factory=list)
    unsigned: list[str] = field(default_factory=list)
    void: dict[str, str] = field(default_factory=dict)
    anchors: bool = False
    unchecked: bool = False

    def add(self, name: str, data: bytes, anchors: str | None) -> None:
        """Look at one image file."""
        state, reason = state_of(data, anchors)
        manifest = manifest_of(data) if state else None
        if not state:
            self.unsigned.append(name)
            return
        try:
            signed = None if manifest is None else parse(manifest)
        except ForeignManifestError as error:
            signed, reason = None, reason or str(error)
        if state == VOID or signed is None:
            self.void[name] = reason or "damaged"
        elif state == EXPIRED:
            self.expired.append(name)
        else:
            self.whole += 1
            self.trusted += state == TRUSTED
            self.holders[signed.holder] = signed.issuer

    def lines(self) -> list[str]:
        """As text."""
        if self.unchecked:
            return [
                "C2PA: there are signed images. To check them: pip install 'unlearnable-transforms[c2pa]', then again"
            ]
        total = self.whole + len(self.expired) + len(self.unsigned) + len(self.void)
        lines = [f"C2PA: {self.whole:,} of {total:,} images are signed, and unchanged since"]
        for holder, issuer in sorted(self.holders.items()):
            made = "self-made: other programs will call it untrusted" if holder == issuer else f"issued by {issuer}"
            lines.append(f"  signed by {printable(holder)}, certificate {printable(made)}")
        if self.whole and not self.anchors:
            lines.append("  whether the certificate is trusted was not asked: --c2pa-trust FILE")
        elif self.whole:
            lines.append(f"  {self.trusted:,} of them lead to a certificate that you trust")
        if self.void:
            places = [f"{printable(name)} ({printable(reason)})" for name, reason in self.void.items()]
            lines.append(f"C2PA is VOID in {len(places):,} of {total:,} images: {named(places)}")
        if self.expired:
            lines.append(
                f"C2PA has EXPIRED in {len(self.expired):,} of {total:,} images, which are unchanged: their "
                f"certificate is not valid any more: {named(list(map(printable, self.expired)))}"
            )
        if self.unsigned:
            names = named(list(map(printable, self.unsigned)))
            lines.append(f"C2PA is MISSING in {len(self.unsigned):,} of {total:,} images: {names}")
        return lines


def review_folder(folder: Path, anchors: str | None = None, image_key: str | None = None) -> Review | None:
    """Whether the signatures in the images of a folder hold; None where a sample of them carries none, or where they
    cannot be read at all.

    Args:
        folder: of images, tables or tars.
        anchors: certificates in PEM that are trusted.
        image_key: column of the images in tables.
    """
    try:
        data = open_data(folder, unlabelled=True, image_key=image_key)
    except (OSError, LookupError, TypeError, ValueError):
        return None
    places = [(name, row) for name, rows in data.splits.items() for row in range(len(rows))]
    if not any(_carries_one(one) for _, one in _files(data, [places[place] for place in spread(len(places), SAMPLE)])):
        return None
    result = Review(anchors=anchors is not None)
    try:
        for name, one in _files(data, places):
            result.add(name, one, anchors)
    except ImportError:
        return Review(unchecked=True)
    return result


def _files(data: LabelledSet, places: Sequence[tuple[str, int]]) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of some images; those that cannot be read are left out."""
    for split, row in places:
        rows = data.splits[split]
        try:
            encoded = rows.encoded(row)[1]
        except (OSError, ValueError):
            continue
        if encoded is not None:
            yield rows.place(row), encoded


def _carries_one(data: bytes) -> bool:
    """Whether a file seems to carry a manifest; fast."""
    return b"jumdc2pa" in data
