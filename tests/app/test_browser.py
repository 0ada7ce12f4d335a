"""The local page in a browser: headless Chromium, driven by Playwright. Skipped where either is not installed."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from base64 import b64encode
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra app is not installed")
pytest.importorskip("uvicorn", reason="the extra app is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = playwright.expect

import messy
import numpy as np
from local_app import Client, files_of, served
from PIL import Image
from test_server import CANARY, command_line, jpeg, originals_left, places, written  # noqa: F401

from unlearnable_transforms.app import studio

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]
WAIT = 60_000  # milliseconds


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def client(key_file):
    with served(key_file) as client:
        yield client


@pytest.fixture
def requests() -> list[str]:
    """Every address that the browser asks for."""
    return []


@pytest.fixture
def context(browser, client, requests):
    """A browser without history; what a script of the page complains of is an error of the test."""
    context = browser.new_context(accept_downloads=True, viewport={"width": 1100, "height": 900})
    context.set_default_timeout(WAIT)
    problems: list[str] = []
    context.on("request", lambda request: requests.append(request.url))
    context.on("weberror", lambda error: problems.append(str(error.error)))
    context.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    yield context
    context.close()
    assert [text for text in problems if "400 (Bad Request)" not in text] == []
    assert all(url.startswith((client.address, "data:", "blob:")) for url in requests), requests


@pytest.fixture
def tab(context, client):
    tab = context.new_page()
    tab.goto(client.address)
    return tab


def mixed() -> dict[str, bytes]:
    """Twenty pictures as people have them: upright by a note, transparent, of the printer, damaged."""
    files = {f"hats/{seed:02d}.jpg": jpeg(seed) for seed in range(8)}
    files |= {f"shoes/{seed:02d}.jpg": jpeg(seed) for seed in range(8, 14)}
    turned = messy.encoded(messy.photograph(20), "JPEG", exif=messy.camera_exif(6), comment=CANARY)
    alpha = np.dstack([messy.photograph(21), messy.photograph(22, (40, 56))])
    print_shop = messy.encoded(Image.fromarray(messy.photograph(23)).convert("CMYK"), "JPEG")
    return files | {
        "hats/turned.jpg": turned,
        "hats/clear.png": messy.encoded(alpha, "PNG"),
        "shoes/print.jpg": print_shop,
        "shoes/sixteen.png": messy.png16(messy.photograph(24).astype(np.uint16) << 8),
        "shoes/plain.webp": messy.encoded(messy.photograph(25), "WEBP"),
        "shoes/broken.jpg": jpeg(26)[:400],
    }


def wait_until(true) -> None:
    """Until something holds. The page's rules forbid Playwright's own way, which evaluates text."""
    end = time.monotonic() + WAIT / 1000
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


DROP = """async ([names, data]) => {
  const transfer = new DataTransfer(), bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
  names.forEach((name, at) => transfer.items.add(new File([bytes(data[at])], name)));
  for (const kind of ["dragenter", "dragover", "drop"])
    document.body.dispatchEvent(new DragEvent(kind, {dataTransfer: transfer, bubbles: true, cancelable: true}));
}"""


def drop(tab, files: dict[str, bytes]) -> None:
    tab.evaluate(DROP, [list(files), [b64encode(data).decode() for data in files.values()]])


def downloaded(tab) -> dict[str, bytes]:
    with tab.expect_download() as download:
        tab.get_by_role("link", name="Download the zip file").click()
    with zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def choose_folder(tab, folder: Path) -> None:
    with tab.expect_file_chooser() as chooser:
        tab.get_by_role("button", name="Choose a folder…").click()
    chooser.value.set_files(folder)
    tab.get_by_role("heading", name="Your pictures").wait_for()


def test_from_twenty_mixed_pictures_to_the_zip_of_the_command_line(tmp_path, tab, client, key_file):
    source = written(tmp_path / "Shop", mixed())
    assert len(files_of(source)) == 20
    choose_folder(tab, source)
    assert tab.get_by_label("Name of the album").input_value() == "Shop"
    tab.locator("#compare:not([hidden])").wait_for()
    tab.locator("#cut").focus()
    tab.keyboard.press("End")
    assert tab.evaluate("getComputedStyle(document.getElementById('compare')).getPropertyValue('--cut')") == "100%"
    tab.keyboard.press("Home")
    seen = {}
    for strength in ("Subtle", "Strong", "Normal"):
        tab.get_by_text(strength, exact=True).click()
        expect(tab.locator("#tag")).to_have_text(strength.lower())
        wait_until(lambda name=strength: client.state()["album"]["strength"] == name.lower())
        seen[strength] = tab.locator("#after").get_attribute("src")
    assert len(set(seen.values())) == 3
    tab.locator("#thumb-2").click()
    assert "broken" not in tab.locator("#look-name").text_content()
    tab.get_by_text("A part at real size").click()
    tab.get_by_role("button", name="Protect 20 pictures").click()
    tab.get_by_role("heading", name="19 pictures protected").wait_for()
    text = tab.locator("#tab-protect").inner_text()
    assert "broken.jpg" in text
    assert "CMYK to sRGB" in tab.locator("#tab-protect").text_content()
    expected = command_line(tmp_path, key_file, source, "--derive", "Shop", "--format", "auto")
    assert downloaded(tab) == expected
    assert len(expected) == 19
    for root in (tmp_path / "unlearnable-cache", tmp_path / "config", tmp_path / "temporary"):
        assert originals_left(root) == []


def test_stop_reload_second_tab_and_continue(tmp_path, context, tab, client, key_file, monkeypatch):
    monkeypatch.setattr("unlearnable_transforms.jobs.run.UNITS", 2)
    files = {f"{seed:03d}.jpg": messy.encoded(messy.photograph(seed, (400, 600, 3)), "JPEG") for seed in range(24)}
    drop(tab, files)
    tab.get_by_role("button", name="Protect 24 pictures").click()
    wait_until(lambda: client.state()["done"] > 0)
    tab.reload()
    tab.get_by_role("heading", name="Protecting").wait_for()
    tab.get_by_role("button", name="Stop").click()
    second = context.new_page()
    second.goto(client.address)
    second.get_by_role("heading", name="Stopped").wait_for()
    assert 0 < client.state()["done"] < 24
    second.get_by_role("button", name="Continue").click()
    for page in (tab, second):
        page.get_by_role("heading", name="24 pictures protected").wait_for()
    expected = command_line(tmp_path, key_file, written(tmp_path / "by hand", files), "--derive", "My pictures",
                            "--format", "auto")  # fmt: skip
    assert downloaded(second) == expected


def test_a_reload_while_pictures_arrive_keeps_those_that_arrived(tab, client, monkeypatch):
    monkeypatch.setattr(studio, "SILENCE", 0.3)
    client.act("begin", area="protect", bytes=1)
    client.put("a.jpg", jpeg(0))
    tab.reload()
    tab.get_by_role("button", name="Go on with these").click()
    tab.get_by_role("button", name="Protect 1 picture", exact=True).wait_for()


def test_malicious_names_do_nothing(tab):
    names = ["<img src=x onerror=document.title='x'>.jpg", "a\\..\\out.jpg", "{{7*7}}.jpg", "a'\"&<b>.jpg"]
    drop(tab, {name: jpeg(seed) for seed, name in enumerate(names)})
    tab.get_by_label("Name of the album").fill("<script>document.title='x'</script>")
    tab.get_by_role("button", name="Protect 4 pictures").click()
    tab.get_by_role("heading", name="4 pictures protected").wait_for()
    assert tab.title() == "Protect photographs"
    assert len(downloaded(tab)) == 4


def test_a_folder_is_found_by_browsing(tmp_path, tab, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    written(tmp_path / "home" / "Pictures" / "Summer", {"a.jpg": jpeg(0)})
    tab.get_by_text("Or name a folder on this computer, best").click()
    tab.get_by_role("button", name="Browse for a folder of pictures").click()
    tab.get_by_role("button", name="Pictures", exact=True).click()
    tab.get_by_role("button", name="Summer", exact=True).click()
    tab.get_by_text("1 pictures").or_(tab.get_by_text("1 picture")).first.wait_for()
    tab.locator("#browse-take").click()
    tab.get_by_role("button", name="Use this folder").click()
    tab.get_by_role("button", name="Protect 1 picture", exact=True).click()
    tab.get_by_role("heading", name="1 picture protected").wait_for()
    assert set(files_of(tmp_path / "home" / "Pictures" / "Summer protected")) == {"a.jpg"}


def test_the_keyboard_alone_is_enough(tab):
    drop(tab, {"a.jpg": jpeg(0)})
    tab.get_by_role("button", name="Protect 1 picture", exact=True).wait_for()
    tab.locator("#compare:not([hidden])").wait_for()
    reached = set()
    tab.locator(".skip").focus()
    for _ in range(40):
        tab.keyboard.press("Tab")
        reached.add(
            tab.evaluate(
                "(e => e.getAttribute('aria-label') || e.name || e.id || e.textContent.trim())(document.activeElement)"
            )
        )
    assert {"name", "strength", "show", "site", "where", "Protect 1 picture"} <= {
        name.split("\n")[0] for name in reached
    }
    unnamed = tab.evaluate(
        "[...document.querySelectorAll('input, select, button')].filter(e => e.checkVisibility() && "
        "!e.labels?.length && !e.getAttribute('aria-label') && !e.textContent.trim()).map(e => e.outerHTML)"
    )
    assert unnamed == []


def test_a_kill_in_the_middle_leaves_a_folder_that_goes_on(tmp_path, browser, key_file):
    large = {f"{seed:03d}.jpg": messy.photograph(seed, (300, 400, 3)) for seed in range(40)}
    source = written(
        tmp_path / "Big", {name: messy.encoded(image, "JPEG", comment=CANARY) for name, image in large.items()}
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "unlearnable_transforms.cli.main", "app", "--key", str(key_file), "--no-browser",
               "--workers", "1"]  # fmt: skip

    def begin() -> tuple[subprocess.Popen, str]:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        address = next(line.strip() for line in process.stdout if line.strip().startswith("http"))
        return process, address

    process, address = begin()
    tab = browser.new_page()
    tab.set_default_timeout(WAIT)
    tab.goto(address)
    tab.get_by_text("Or name a folder on this computer, best").click()
    tab.locator("#folder-path").fill(str(source))
    tab.get_by_role("button", name="Use this folder").click()
    tab.get_by_role("button", name="Protect 40 pictures").click()
    client = Client(address)
    wait_until(lambda: client.state()["done"] > 4)
    process.send_signal(signal.SIGKILL)
    process.wait()
    out = tmp_path / "Big protected"
    assert 4 < len(files_of(out)) < 40
    process, address = begin()
    tab.goto(address)
    tab.get_by_role("button", name="Go on with it").click()
    tab.get_by_role("button", name="Protect 40 pictures").click()
    tab.get_by_role("heading", name="40 pictures protected").wait_for()
    tab.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert files_of(out) == command_line(tmp_path, key_file, source, "--derive", "Big", "--format", "auto")
    assert originals_left(tmp_path / "unlearnable-cache") == []
    assert json.loads((tmp_path / "config/unlearnable-transforms/albums.json").read_text())["albums"][0]["last"]
    assert tempfile.gettempdir() == str(tmp_path / "temporary")
