"""The pages of the site: their Python runs, in order, without a network, and prints what they say.

In a page of ``docs/`` each block ``python`` is run after those before it. Marks, all of them seen by the reader:

- ``title="name.py"``: the block is a file; it is written, and blocks after it can import it.
- ``title="Not run: REASON"``: left out, for that reason.
- a block ``text`` right behind one of Python: what that one printed, word by word.

Commands ``unlearnable ...`` in blocks ``bash`` are parsed. There are no blocks of other languages.
"""

import contextlib
import importlib
import importlib.util
import io
import json
import re
import shlex
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from conftest import ROOT, image_set, pixels
from PIL import Image

import unlearnable_transforms as ut
from unlearnable_transforms.cli.main import build_parser
from unlearnable_transforms.defenses import base as defenses
from unlearnable_transforms.poisons import base as poisons

DOCS = ROOT / "docs"
_SPEC = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
HOOKS = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(HOOKS)
SLOW = ("claims", "evaluate")  # they train
PAGES = sorted(page.stem for page in DOCS.glob("*.md"))
NOT_RUN = "Not run: "
NEEDS = {"recipes": ("lightning", "accelerate", "timm", "webdataset")}  # where the extra is not installed
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


@pytest.mark.parametrize("page", [pytest.param(page, marks=pytest.mark.slow if page in SLOW else ()) for page in PAGES])
def test_what_a_page_says_runs(page, workplace):
    for library in NEEDS.get(page, ()):
        pytest.importorskip(library)
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


def test_every_name_is_in_the_api_page():
    page = HOOKS.on_page_markdown((DOCS / "api.md").read_text(encoding="utf-8"))
    described = re.findall(r"^::: unlearnable_transforms\.(?:\w+\.)*(\w+)$", page, re.MULTILINE)
    assert len(described) == len(set(described))
    assert set(ut.__all__) - {"__version__"} <= set(described)


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
    named = re.findall(r": ([\w-]+)\.md$", navigation, re.MULTILINE)
    assert len(named) == len(set(named))
    assert set(PAGES) - set(named) <= set(ut.list_poisons())  # the site adds the pages of methods


def test_the_page_of_a_method_comes_into_the_navigation_by_itself():
    config = {"nav": [{"Start": "index.md"}, {"Methods": [{"CUDA": "cuda.md"}]}], "docs_dir": str(DOCS)}
    methods = HOOKS.on_config(config)["nav"][1]["Methods"]
    assert methods[0] == {"CUDA": "cuda.md"}
    assert {"AR": "ar.md"} in methods
    assert len(methods) == len(ut.list_poisons())


def test_what_photographers_read_holds_no_python_and_no_words_of_the_field():
    """Further down, under "Measured", researchers read on."""
    words = r"\b(array|tensor|uint8|dataset|victim|epoch|eps|PSNR|SSIM|stdout|ResNet|import|mode 0\d+|shortcut)\b"
    for page in ("start-photographs", "app", "photographs"):
        text, _, _ = (DOCS / f"{page}.md").read_text(encoding="utf-8").partition("\n## Measured\n")
        assert "```python" not in text
        assert not re.findall(words, text), f"{page}.md"


def test_words_that_people_search_for_are_in_headings():
    for word, pages in {
        "JPEG": {"photographs", "limits"},
        "Instagram": {"photographs"},
        "Undo": {"start-photographs"},
        "Install": {"index", "app"},
    }.items():
        found = {
            page
            for page in PAGES
            if re.search(rf"^#+ .*\b{word}\b", (DOCS / f"{page}.md").read_text(encoding="utf-8"), re.MULTILINE)
        }
        assert pages <= found, f"{word}: {found}"


def test_the_citation_is_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == ut.__version__


def test_every_benchmark_has_its_place():
    benchmarks = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+\.py)", benchmarks))
    assert named == {path.name for path in (ROOT / "tests" / "benchmarks").glob("*.py")}


def test_the_images_of_the_pages_are_whole():
    named = {
        name
        for page in PAGES
        for text in [HOOKS.on_page_markdown((DOCS / f"{page}.md").read_text(encoding="utf-8"))]
        for name in re.findall(r"\]\((images/[^)]+)\)", text)
    }
    assert {"images/gallery-cuda.jpg", "images/real-cuda.jpg"} <= named
    for name in named:
        if name.endswith(".svg"):
            assert ElementTree.parse(DOCS / name).getroot().tag.endswith("svg")
            continue
        with Image.open(DOCS / name) as image:
            image.load()


TEMPLATE = ["Idea", "Formula", "Picture", "Settings", "Cost", "Measured", "What breaks it"]


def test_the_page_of_a_method_follows_the_template():
    for name in ut.list_poisons():
        page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
        headings = re.findall(r"^## (.*)$", page, re.MULTILINE)
        assert headings == TEMPLATE, f"{name}.md"
        assert f"<!-- measured: {name} -->" in page, f"{name}.md"


def test_figures_of_a_method_come_from_the_results(tmp_path, monkeypatch):
    results = {
        "clean": {"erm": 0.747, "jpeg": 0.6833},
        "methods": [{"method": "sem", "worst": "jpeg", "accuracies": {"erm": 0.296, "jpeg": 0.6214}, "ssim": 0.957}],
    }
    (tmp_path / "measured.json").write_text(json.dumps(results))
    monkeypatch.setattr(HOOKS, "MEASURED", tmp_path / "measured.json")
    shown = HOOKS.on_page_markdown("a\n\n<!-- measured: sem -->\n\nb\n\n<!-- measured: new -->\n")
    assert "| 29.6 % | **62.1 %**, under `jpeg` | 68.3 % | 0.96 |\n\nb" in shown
    assert "Not measured." in shown.partition("\n\nb")[2]


def test_the_method_of_the_page_works_in_every_way_of_calling(workplace):
    block = next(block for block in blocks("add-method") if block.title.endswith(".py"))
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


def test_the_first_page_has_the_figures_of_the_tables():
    """README is no page of the site, so it has no includes."""
    parts = (ROOT / "docs" / "results" / "trainers" / "tables.md").read_text(encoding="utf-8").split("<!-- ")
    (first,) = [part.partition("-->")[2].strip() for part in parts if part.startswith("first -->")]
    assert first in (ROOT / "README.md").read_text(encoding="utf-8")
