"""What the site's builder is told beside mkdocs.yml."""

import re
from typing import Any

import unlearnable_transforms as ut
from unlearnable_transforms.params import table

PARAMETERS = re.compile(r"^<!-- parameters: (\w+) -->$", re.MULTILINE)
GENERIC = re.compile(  # the signature of a constructor whose arguments the table lists
    r'<div class="doc-signature highlight">(?:(?!</div>).)*">args<(?:(?!</div>).)*">kwargs<(?:(?!</div>).)*</div>',
    re.DOTALL,
)
ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):<code>~?\.*([^<]+)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """Sphinx roles, ``:class:`~package.Name` ``, become the name alone; arguments that are declared have tables."""
    return ROLE.sub(lambda role: f"<code>{role[1].rpartition('.')[2]}</code>", GENERIC.sub("", html))


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A line ``<!-- parameters: SEMPoison -->`` becomes the table of what the class declares."""
    return PARAMETERS.sub(lambda line: table(getattr(ut, line[1])), markdown)
