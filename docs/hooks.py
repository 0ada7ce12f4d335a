"""What the site has beside its pages: tables of parameters, measured figures, and the pages of methods.

- ``<!-- parameters: SEMPoison -->`` becomes the table of what the class declares,
- ``<!-- methods -->`` the reference of every registered method,
- ``<!-- measured: sem -->`` the figures of a method, from ``unlearnable_transforms/evaluation/measured.json``,
- ``<!-- gallery: sem -->`` a photograph under a slider, and the difference, as ``examples/gallery.py`` draws them,
- ``<!-- trainers: main -->`` a table of ``results/trainers/tables.md``, which ``tests/benchmarks/trainers.py`` writes,
  to be sorted by a click; ``<!-- search: cuda -->`` likewise,
- ``<!-- sites -->`` the table ``unlearnable_transforms/data/sites.toml``,
- ``<!-- changelog -->`` the file CHANGELOG.md.
"""

import json
import re
from pathlib import Path
from typing import Any

import unlearnable_transforms as ut
from unlearnable_transforms.data.sites import Site, sites
from unlearnable_transforms.evaluation.recommended import MEASURED
from unlearnable_transforms.params import table

GENERIC = re.compile(  # the signature of a constructor whose arguments the table lists
    r'<div class="doc-signature highlight">(?:(?!</div>).)*">args<(?:(?!</div>).)*">kwargs<(?:(?!</div>).)*</div>',
    re.DOTALL,
)
ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):<code>~?\.*([^<]+)</code>")


def on_config(config: Any) -> Any:
    """A method's page that `mkdocs.yml` does not name comes after those that it names."""
    (methods,) = [section["Methods"] for section in config["nav"] if "Methods" in section]
    named = {page for entry in methods for page in entry.values()}
    pages = [f"{name}.md" for name in ut.list_poisons()]
    methods += [
        {Path(page).stem.upper(): page}
        for page in pages
        if page not in named and Path(config["docs_dir"], page).exists()
    ]
    return config


def on_page_content(html: str, **_: Any) -> str:
    """Sphinx roles, ``:class:`~package.Name` ``, become the name alone; arguments that are declared have tables."""
    return ROLE.sub(lambda role: f"<code>{role[1].rpartition('.')[2]}</code>", GENERIC.sub("", html))


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the marks."""
    for mark, include in INCLUDES.items():
        markdown = re.sub(rf"^<!-- {mark} -->$", include, markdown, flags=re.MULTILINE)
    return markdown


def parameters(mark: re.Match) -> str:
    """The arguments of a method."""
    return table(getattr(ut, mark[1]))


def methods(_: re.Match) -> str:
    """The reference of every registered method."""
    classes = [ut.get_poison(name) for name in ut.list_poisons()]
    return "\n\n".join(f"::: {method.__module__}.{method.__name__}\n\n{table(method)}" for method in classes)


def measured(mark: re.Match) -> str:
    """What a victim reaches that trains on a method's images."""
    results = json.loads(MEASURED.read_text(encoding="utf-8"))
    rows = [row for row in results["methods"] if row["method"] == mark[1]]
    if not rows:
        return "Not measured. `python tests/benchmarks/methods.py` measures a method."
    (row,) = rows
    plain, worst, clean = (
        f"{100 * share:.1f} %"
        for share in (row["accuracies"]["erm"], row["accuracies"][row["worst"]], results["clean"][row["worst"]])
    )
    return (
        f"Key `screen-0` under eight kinds of training, `python tests/benchmarks/methods.py` "
        f"([table](measurements.md#methods-and-chains)):\n\n"
        "| plain training | highest of the eight | clean images under the same | SSIM |\n|---|---|---|---|\n"
        f"| {plain} | **{worst}**, under `{row['worst']}` | {clean} | {row['ssim']:.2f} |"
    )


def gallery(mark: re.Match) -> str:
    """What a method does to a photograph, pixel by pixel: site.js makes a slider of the first two pictures."""
    name = mark[1]
    return (
        '<div class="gallery" markdown="1">\n<div class="compare" markdown="1">\n'
        f"![Clean](images/real-clean.jpg)\n![Protected by {name}](images/real-{name}.jpg)\n</div>\n\n"
        f"![Four times the difference](images/real-{name}-difference.jpg)\n</div>"
    )


def results(mark: re.Match) -> str:
    """A table that a benchmark wrote, to be sorted by a click."""
    parts = (Path(__file__).parent / "results" / mark[1] / "tables.md").read_text(encoding="utf-8").split("<!-- ")
    (found,) = [part for part in parts if part.startswith(f"{mark[2]} -->")]
    return f'<div class="sortable" markdown="1">\n\n{found.partition("-->")[2].strip()}\n\n</div>'


def changelog(_: re.Match) -> str:
    """The changelog of the repository."""
    return (Path(__file__).parents[1] / "CHANGELOG.md").read_text(encoding="utf-8")


def site_table(_: re.Match) -> str:
    """The sites that `--site` knows, with their sources."""
    head = ["| `--site` | longest side | format | what the site does | source |", "|---|---|---|---|---|"]
    return "\n".join([*head, *map(_site_row, sites().values())])


def _site_row(site: Site) -> str:
    source = f"{_source(site)}, {site.date}"
    return f"| `{site.name}` | {site.max_side} px | {site.format} {site.quality} | {site.note} | {source} |"


def _source(site: Site) -> str:
    link = f"[{site.source.split('/')[2]}]({site.source})" if "://" in site.source else site.source
    return link if site.sure else f"unsure: {link}"


INCLUDES = {
    r"parameters: (\w+)": parameters,
    "methods": methods,
    "sites": site_table,
    r"gallery: (\w+)": gallery,
    r"(trainers|search): (\w+)": results,
    r"measured: ([\w-]+)": measured,
    "changelog": changelog,
}
