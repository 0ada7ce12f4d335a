"""Which pictures are protected where only a share of them is."""

from ..key import Key


def is_chosen(key: Key | None, id_: bytes, fraction: float) -> bool:
    """Whether a sample is among the share to protect; without a key all are."""
    return fraction == 1 or key is None or bool(key.stream("fraction", id_).uniform(1)[0] < fraction)
