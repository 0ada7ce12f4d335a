"""The pages of the site: their Python runs, in order, without a network; what they print is what they say.

In a page of ``docs/`` each block ``python`` is run after those before it. Marks, all of them seen by the reader:

- ``title="name.py"``: the block is a file; it is written, and blocks after it can import it.
- ``title="Not run: REASON"``: left out, for that reason.
- a block ``text`` right behind one of Python: what that one printed, word by word.

Commands ``unlearnable ...`` in blocks ``bash`` are parsed. There are no blocks of other languages.
"""

import contextlib
import importlib
import io
import json
import re
import shlex
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import pytest
import torch
from conftest import ROOT, image_set, pixels
from PIL import Image

import unlearnable_transforms as ut
from unlearnable_transforms.cli.main import build_parser
from unlearnable_transforms.defenses import base as defenses
from unlearnable_transforms.evaluation.recommended import MEASURED
from unlearnable_transforms.poisons import base as poisons

DOCS = ROOT / "docs"
PAGES = sorted(page.stem for page in DOCS.glob("*.md"))
NOT_RUN = "Not run: "
COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )*unlearnable (.*)")
BLOCK = re.compile(r'^```(python|bash|text)(?: title="([^"\n]*)")?[^\n]*\n(.*?)^```$', re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    language: str
    title: str
    code: str
    line: int  # of its first line in the page


def blocks(page: str) -> list[Block]:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return [
        Block(match[1], match[2] or "", match[3], text.count("\n", 0, match.start(3)) + 1)
        for match in BLOCK.finditer(text)
    ]


def run(page: str) -> None:
    """Run a page's blocks of Python in the working folder; an error names the line of the page."""
    names: dict = {"__name__": f"docs.{page}"}
    printed: str | None = None
    for block in blocks(page):
        if block.language == "python" and block.title.endswith(".py"):
            Path(block.title).write_text(block.code, encoding="utf-8")
            importlib.invalidate_caches()
            printed = None
        elif block.language == "python" and not block.title.startswith(NOT_RUN):
            code = compile("\n" * (block.line - 1) + block.code, f"{page}.md", "exec")
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(code, names)
            printed = output.getvalue()
        else:
            if block.language == "text" and printed is not None:
                assert printed.rstrip() == block.code.rstrip(), f"{page}.md, line {block.line}: prints other text"
            printed = None


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Iterator[Path]:
    """An empty working folder from which modules are imported, no network, and registries as they were afterwards."""

    def refuse(*_):
        raise AssertionError("a page went to the network")

    folder = tmp_path / "workplace"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for found in (ut.list_poisons(), ut.list_defenses()):  # they are found once: before they are remembered here
        assert found
    registries = [(registry, dict(registry)) for registry in (poisons.REGISTRY, defenses.REGISTRY)]
    modules, state = set(sys.modules), torch.get_rng_state()
    with matplotlib.rc_context():
        yield folder
    for registry, before in registries:
        registry.clear()
        registry.update(before)
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
            del sys.modules[name]
    torch.set_rng_state(state)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_says_runs(page, workplace):
    run(page)


def test_blocks_are_of_known_languages_and_what_is_not_run_says_why():
    for page in PAGES:
        fences = re.findall(r"^[ \t]*(?:```|~~~)", (DOCS / f"{page}.md").read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) == 2 * len(blocks(page)), f"{page}.md: a block is indented, or no python, bash or text"
        for block in blocks(page):
            if block.language == "python" and block.title and not block.title.endswith(".py"):
                assert block.title.startswith(NOT_RUN), f"{page}.md, line {block.line}"
                assert len(block.title) > len(NOT_RUN) + 5, f"{page}.md, line {block.line}: say why"


def test_an_error_is_seen_and_so_is_other_output(workplace, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "DOCS", workplace)
    cases = {
        "error": ("x\n```python\na = 1\n1 / 0\n```\n", ZeroDivisionError),
        "output": ("```python\nprint(2)\n```\n\n```text\n3\n```\n", AssertionError),
        "network": ('```python\nimport urllib.request as r\nr.urlopen("http://127.0.0.1:9")\n```\n', AssertionError),
        "skipped": ('```python title="Not run: a test"\n1 / 0\n```\n```text\n5\n```\n', None),
        "file": ('```python title="of_a_page.py"\nx = 5\n```\n```python\nimport of_a_page\nprint(of_a_page.x)\n```\n'
                 "```text\n5\n```\n", None),
    }  # fmt: skip
    for name, (text, error) in cases.items():
        (workplace / f"{name}.md").write_text(text)
        if error is None:
            run(name)
        else:
            with pytest.raises(error):
                run(name)


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_page_are_commands(page):
    for block in blocks(page):
        if block.language == "bash":
            for line in block.code.splitlines():
                if command := COMMAND.match(line):
                    arguments = shlex.split(command[1], comments=True)
                    try:
                        build_parser().parse_args(arguments)
                    except SystemExit:
                        pytest.fail(f"{page}.md: unlearnable {shlex.join(arguments)}")


def test_every_name_stands_in_the_api_page():
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^::: unlearnable_transforms\.(\w+)$", page, re.MULTILINE))
    assert described == set(ut.__all__) - {"__version__"}


def test_pages_that_the_package_names_are_there():
    """Errors and help say where more stands."""
    named = {
        page
        for path in (ROOT / "unlearnable_transforms").rglob("*.py")
        for page in re.findall(r"docs/([\w-]+)\.md", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 9
    assert named <= {page.stem for page in DOCS.glob("*.md")}


def test_every_page_is_in_the_navigation_once():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    assert sorted(re.findall(r": ([\w-]+)\.md$", navigation, re.MULTILINE)) == sorted(
        page.stem for page in DOCS.glob("*.md")
    )


def test_every_benchmark_and_every_picture_of_the_gallery_has_its_place():
    benchmarks = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+\.py)", benchmarks))
    assert named == {path.name for path in (ROOT / "tests" / "benchmarks").glob("*.py")}
    gallery = (DOCS / "gallery.md").read_text(encoding="utf-8")
    shown = re.findall(r"\(images/gallery-(\w+)\.jpg\)", gallery)
    assert sorted(shown) == ut.list_poisons()
    for name in shown:
        with Image.open(DOCS / "images" / f"gallery-{name}.jpg") as picture:
            picture.load()


def test_the_page_of_a_method_is_whole_and_its_figures_are_the_measured_ones():
    table = json.loads(MEASURED.read_text(encoding="utf-8"))
    rows = {row["method"]: row for row in table["methods"]}
    for name in ut.list_poisons():
        page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
        headings = re.findall(r"^## (.*)$", page, re.MULTILINE)
        assert {"Cost", "Measured", "What breaks it"} <= set(headings), f"{name}.md: {headings}"
        assert {"Idea", "Formula"} <= set(headings) or "Idea and formula" in headings, f"{name}.md: {headings}"
        assert f"(images/gallery-{name}.jpg)" in page
        row = rows[name]
        worst, accuracies = row["worst"], row["accuracies"]
        assert (
            f"plain {100 * accuracies['erm']:.1f} %, worst case **{100 * accuracies[worst]:.1f} %** under `{worst}`, "
            f"where clean pictures give {100 * table['clean'][worst]:.1f} %; SSIM {row['ssim']:.2f}."
        ) in " ".join(page.split()), f"{name}.md"


def test_the_method_of_the_page_goes_down_the_usual_roads(workplace):
    (block,) = [block for block in blocks("add-method") if block.title.endswith(".py")]
    Path(block.title).write_text(block.code, encoding="utf-8")
    importlib.import_module(block.title.removesuffix(".py"))
    poison = ut.get_poison(block.title.removesuffix(".py"))(key=ut.Key.public("docs"))
    images, labels = pixels(6, 12, 10, 3), [2, 0, 1, 0, 1, 2]
    truth = poison.apply(images, labels)
    tensors = torch.from_numpy(images).permute(0, 3, 1, 2)
    rows = image_set([Image.fromarray(image) for image in images], labels).map(poison, batched=True)
    assert (truth != images).any((1, 2, 3)).all()
    assert (np.abs(truth.astype(int) - images) <= 8).all()
    assert (poison.apply(tensors, labels).permute(0, 2, 3, 1).numpy() == truth).all()
    assert all((np.asarray(row["image"]) == one).all() for row, one in zip(rows, truth, strict=True))
    assert (poison.apply(images[::-1].copy(), labels[::-1])[::-1] == truth).all()
    assert (poison.apply(images, [0] * 6) != poison.apply(images, [1] * 6)).any()
    assert (type(poison)(key=ut.Key.public("other")).apply(images, labels) != truth).any()
