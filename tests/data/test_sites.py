"""The table of sites: each row says where it is from."""

import datetime

from unlearnable_transforms.data.sites import sites


def test_every_row_has_a_source_and_a_date():
    table = sites()
    assert {"bluesky", "flickr", "instagram", "wordpress", "web"} <= set(table)
    for site in table.values():
        assert site.source.startswith("https://") or (site.source == "a choice of this library" and not site.sure)
        assert datetime.date(2026, 1, 1) <= site.date
        assert site.format in ("auto", "jpeg")
        assert 500 <= site.max_side <= 8000
        assert 75 <= site.quality <= 100
        assert site.note
