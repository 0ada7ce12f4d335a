"""What the site's builder is told beside mkdocs.yml."""

import re
from typing import Any

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):<code>~?\.*([^<]+)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """Sphinx roles of docstrings, ``:class:`~package.Name` ``, become the name alone."""
    return ROLE.sub(lambda role: f"<code>{role[1].rpartition('.')[2]}</code>", html)
