"""The local page, asked as a browser asks it: who may ask, what is protected, what is left behind."""

import io
import json
import re
import socket
import stat
import tempfile
import threading
import time
import zipfile
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra app is not installed")
pytest.importorskip("uvicorn", reason="the extra app is not installed")

import messy
from conftest import decode
from local_app import Client, files_of, served

from unlearnable_transforms.app import studio, tray
from unlearnable_transforms.app.server import serve
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.key import Key

CANARY = b"CANARY-of-the-original"


def jpeg(seed: int) -> bytes:
    return messy.encoded(messy.photograph(seed), "JPEG", comment=CANARY + b"-%d" % seed)


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch) -> Iterator[Path]:
    """The user's configuration and the folder for temporary files lie in that of the test."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    yield tmp_path
    for root in (tmp_path / "unlearnable-cache", tmp_path / "config", temporary):  # the program has ended
        assert originals_left(root) == []


@pytest.fixture
def page(key_file):
    with served(key_file) as client:
        yield client


def originals_left(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and CANARY in path.read_bytes()]


def command_line(tmp_path: Path, key_file: Path, source: Path, *options: str) -> dict[str, bytes]:
    """What the command line makes of a folder."""
    out = tmp_path / "by command"
    code = main(["protect", str(source), str(out), "--key", str(key_file), "--labels", "folder", "--convert",
                 "--workers", "1", *options])  # fmt: skip
    assert code in (0, 1)
    return files_of(out)


def written(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


# ---- who may ask


@pytest.mark.parametrize(
    ("why", "headers"),
    [
        ("a name that leads here", {"Host": "evil.example:80"}),
        ("another port", {"Host": "127.0.0.1:1"}),
        ("another page", {"Origin": "http://evil.example"}),
        ("another program on this computer", {"Origin": "http://127.0.0.1:1"}),
        ("a file", {"Origin": "null"}),
        ("a picture of another page", {"Sec_Fetch_Site": "cross-site"}),
        ("another port of this computer", {"Sec_Fetch_Site": "same-site"}),
    ],
)
def test_other_pages_are_refused(page, why, headers):
    for method, path in (
        ("GET", ""),
        ("GET", "state"),
        ("POST", "start"),
        ("PUT", "file/protect?name=a.png"),
        ("GET", "key"),
    ):
        answer = page.ask(method, path, b"{}" if method != "GET" else None, **headers)
        assert answer.status == 403, (why, method, path)
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert b"key" not in answer.read()


def test_without_the_secret_part_or_an_origin_nothing_is_answered(page):
    token = page.path.strip("/")
    for path in ("/", "/state", f"/{token[:-1]}/state", f"/{token}x/state", "/wrong/", f"//{token}/state"):
        assert page.ask("GET", path).status == 403, path
    assert page.ask("POST", "again", b"{}", Origin="").status == 403
    assert page.ask("GET", "").status == 200
    assert page.ask("GET", f"/{token}").status == 307
    assert len(token) >= 32


def test_only_this_computer_is_listened_to_and_nothing_may_be_loaded_from_elsewhere(page):
    with pytest.raises(OSError), socket.create_connection(("127.0.0.2", page.port), timeout=2):
        pass
    for path in ("", "page.js", "page.css", "state", "icon.svg"):
        headers = page.ask("GET", path).headers
        assert headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    for path in ("", "page.js", "page.css"):
        assert not re.search(r"https?://(?!www\.w3\.org)|//[a-z]+\.[a-z]", page.get(path)), path


# ---- protect


def test_the_zip_holds_the_bytes_of_the_command_line_and_nothing_of_the_originals_stays(tmp_path, page, key_file):
    files = {f"Summer/{kind}/{seed}.jpg": jpeg(seed) for kind in ("hats", "shoes") for seed in range(3)}
    state = page.drop(files)
    assert (state["phase"], state["arrived"], state["album"]["name"]) == ("chosen", 6, "Summer")
    page.act("set", name="strength", value="subtle")
    page.act("start")
    page.wait("done")
    source = written(tmp_path / "by hand", {name.removeprefix("Summer/"): data for name, data in files.items()})
    expected = command_line(
        tmp_path, key_file, source, "--derive", "Summer", "--strength", "subtle", "--format", "auto"
    )
    assert page.download() == expected
    assert len(expected) == 6
    cache = tmp_path / "unlearnable-cache"
    for root in (cache, tmp_path / "config", tmp_path / "temporary"):
        assert originals_left(root) == []
    assert stat.S_IMODE((cache / "app" / "work").stat().st_mode) == 0o700


def test_switches_do_what_the_options_do(tmp_path, page, key_file):
    files = {f"{seed}.jpg": messy.encoded(messy.photograph(seed, (90, 120, 3)), "JPEG") for seed in range(2)}
    page.drop(files)
    chosen = {"name": "Insta", "site": "instagram", "max_side": "100", "opt_out": "ai-training", "creator": "Ann Lee",
              "copyright": "© Ann"}  # fmt: skip
    for name, value in chosen.items():
        page.act("set", name=name, value=value)
    page.act("start")
    page.wait("done")
    expected = command_line(
        tmp_path, key_file, written(tmp_path / "by hand", files), "--derive", "Insta", "--site", "instagram",
        "--max-side", "100", "--opt-out", "--creator", "Ann Lee", "--copyright", "© Ann",
    )  # fmt: skip
    assert page.download() == expected
    assert all(b"DMI-PROHIBITED-AIMLTRAINING" in data for data in expected.values())


def test_a_folder_of_this_computer_goes_on_where_it_was_and_grows(tmp_path, page, monkeypatch):
    source = written(tmp_path / "Summer", {f"{seed:02d}.jpg": jpeg(seed) for seed in range(40)})
    monkeypatch.setattr("unlearnable_transforms.jobs.run.UNITS", 4)
    before = studio.Studio._show_progress
    halfway = threading.Event()

    def stop_halfway(self, done, total):
        if done >= 12 and not halfway.is_set():
            halfway.set()
            self.stop()
        before(self, done, total)

    monkeypatch.setattr(studio.Studio, "_show_progress", stop_halfway)
    page.act("choose", path=str(source))
    state = page.wait("chosen")
    out = tmp_path / "Summer protected"
    assert state["album"] | {"last": ""} == state["album"] | {"name": "Summer", "out": str(out), "last": ""}
    page.act("start")
    state = page.wait("stopped")
    assert (state["done"], state["total"], len(files_of(out))) == (12, 40, 12)
    page.act("start")
    page.wait("done")
    first = files_of(out)
    assert len(first) == 40
    written(source, {"new.jpg": jpeg(99)})
    page.act("choose", path=str(source))
    page.wait("chosen")
    page.act("start")
    page.wait("done")
    assert first.items() < files_of(out).items()
    assert "1 new" in page.get("part")
    assert len(files_of(source)) == 41


def test_stopped_pictures_that_are_thrown_away_leave_nothing(tmp_path, page, monkeypatch):
    monkeypatch.setattr(studio.Studio, "_show_progress", lambda self, done, total: _stop())
    page.drop({f"{seed}.jpg": jpeg(seed) for seed in range(3)})
    page.act("start")
    page.wait("stopped")
    assert originals_left(tmp_path / "unlearnable-cache")
    page.act("again")
    assert originals_left(tmp_path / "unlearnable-cache") == []
    assert page.state()["phase"] == "empty"


def _stop():
    raise studio.Stopped("stopped")


def test_an_album_of_the_same_name_gets_the_same_protection_next_week(tmp_path, page):
    first = {f"{kind}/{seed}.jpg": jpeg(seed) for kind in ("hats", "shoes") for seed in range(2)}
    page.drop(first)
    page.act("set", name="name", value="Shop")
    page.act("start")
    page.wait("done")
    made = page.download()
    page.act("again")
    page.drop({"boots/7.jpg": jpeg(7), "shoes/0.jpg": jpeg(0)})
    page.act("set", name="name", value="shop")
    assert page.state()["album"]["name"] == "Shop"
    page.act("start")
    page.wait("done")
    again = page.download()
    assert again["shoes/0.jpg"] == made["shoes/0.jpg"]
    assert again["boots/7.jpg"] != made["hats/0.jpg"]


def test_what_is_looked_at_is_what_will_be_written(page):
    page.drop({f"{kind}/{seed}.png": messy.encoded(messy.photograph(seed, (80, 90, 3)), "PNG")
               for kind in ("a", "b") for seed in range(2)})  # fmt: skip
    page.act("set", name="strength", value="strong")
    looks = [json.loads(page.get(f"look/{number}")) for number in range(3)]
    assert [look["name"] for look in looks] == ["a/0.png", "a/1.png", "b/0.png"]
    assert [view["name"] for view in looks[0]["views"]] == ["original", "subtle", "normal", "strong"]
    page.act("start")
    page.wait("done")
    for look in looks:
        written_file = np.asarray(decode(page.download()[look["name"]])).astype(int)
        shown = np.asarray(decode(b64decode(look["views"][3]["detail"].partition(",")[2]))).astype(int)
        assert written_file.shape == shown.shape == (80, 90, 3)
        original = np.asarray(decode(b64decode(look["views"][0]["detail"].partition(",")[2]))).astype(int)
        far, near = (np.abs(written_file - other).mean() for other in (original, shown))
        assert near < 4  # JPEG 95 of noise
        assert far > 1.5 * near


def test_photographs_as_people_have_them_are_reported_in_plain_words(tmp_path, page, key_file):
    known = messy.build(tmp_path / "photos")
    files = {f"photos/{path}": data for path, data in files_of(tmp_path / "photos").items()}
    page.drop(files)
    page.act("start")
    page.wait("done")
    made = page.download()
    expected = {path for path, kind in known.items() if kind in (messy.PROTECTED, messy.CONVERTED)}
    assert {Path(name).with_suffix("") for name in made} == {Path(name).with_suffix("") for name in expected}
    html = page.get("part")
    report = re.sub(r"<[^>]*>", " ", html[html.index("h-done") :])
    for word in ("--", "=", "docs/", "ledger", "journal", "fingerprint", "SSIM", "PSNR", "row ", "method", "command",
                 "convert", "Traceback", "None", "sha", "class "):  # fmt: skip
        assert word not in report.partition("What it was measured")[0], word
    for path, kind in known.items():
        if kind in (messy.TRUNCATED, messy.UNREADABLE, messy.RAW_ALONE, messy.BESIDE):
            assert path in report


# ---- what comes from outside


@pytest.mark.parametrize(
    "name",
    [
        "../out.jpg",
        "a/../../out.jpg",
        "/tmp/out.jpg",
        "a//b.jpg",
        "./a.jpg",
        "a\0.jpg",
        "x" * 300 + ".jpg",
        "",
        "a.exe",
    ],
)
def test_no_name_leads_out_of_the_private_folder(tmp_path, page, name):
    before = {path for path in tmp_path.rglob("*") if "app" not in path.parts}
    page.act("begin", area="protect", bytes=1)
    page.put(name, jpeg(0))
    page.put("good.jpg", jpeg(1))
    page.act("end", area="protect")
    page.wait("chosen")
    assert {path for path in tmp_path.rglob("*") if "app" not in path.parts} == before
    assert len(originals_left(tmp_path)) == 1
    assert originals_left(tmp_path)[0].name == "good.jpg"


def test_names_are_shown_as_text(page):
    name = "<img src=x onerror=alert(1)>/{{ 7 * 7 }}\"'&.jpg"
    page.drop({name: jpeg(0), "other/b.jpg": b"no picture"})
    page.act("set", name="name", value="<script>alert(1)</script>")
    page.act("start")
    page.wait("done")
    html = page.get("part") + page.get("")
    assert "<script>alert" not in html
    assert "<img src=x" not in html
    assert name in page.download()
    assert "other/b.jpg" in html


def test_a_zip_is_unpacked_without_leading_out(tmp_path, page):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("Album/a.jpg", "Album/b/c.jpg", "../out.jpg", "/abs.jpg", "Album\\d.jpg", "__MACOSX/Album/._a.jpg",
                     "Album/notes.txt"):  # fmt: skip
            archive.writestr(name, jpeg(len(name)))
        link = zipfile.ZipInfo("Album/link.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    state = page.drop({"Album.zip": buffer.getvalue()})
    assert state["phase"] == "chosen"
    page.act("start")
    page.wait("done")
    assert set(page.download()) == {"a.jpg", "b/c.jpg", "d.jpg"}
    assert not (tmp_path / "unlearnable-cache" / "app" / "out.jpg").exists()
    html = page.get("part")
    for name in ("../out.jpg", "/abs.jpg", "Album/link.jpg", "Album/notes.txt"):
        assert name in html


def test_a_zip_larger_than_the_disk_is_refused(page, monkeypatch):
    monkeypatch.setattr(tray, "SPARE", 1 << 60)
    with pytest.raises(AssertionError, match="not enough room"):
        page.act("begin", area="protect", bytes=10)
    assert page.state()["phase"] == "empty"


def test_two_files_of_one_name_are_both_kept_and_the_same_file_once(page):
    page.act("begin", area="protect", bytes=3)
    for data in (jpeg(0), jpeg(1), jpeg(0)):
        assert page.put("IMG_1.jpg", data) == 204
    page.act("end", area="protect")
    page.wait("chosen")
    page.act("start")
    page.wait("done")
    assert set(page.download()) == {"IMG_1.jpg", "IMG_1 (2).jpg"}


@pytest.mark.parametrize("path", ["/", "~", "photos", "", "/nowhere/at/all", "a\0b"])
def test_folders_that_cannot_be_meant_are_refused(page, path):
    with pytest.raises(AssertionError, match=r"name|folder"):
        page.act("choose", path=path)
    assert page.state()["phase"] == "empty"


def test_a_folder_called_test_beside_train_is_not_left_out_silently(tmp_path, page):
    page.drop({"train/a.jpg": jpeg(0), "test/b.jpg": jpeg(1)})
    assert "rename them" in page.get("part")
    assert page.state()["phase"] in ("empty", "chosen")


# ---- the key


def test_the_key_is_made_once_kept_private_copied_and_replaced(tmp_path):
    with served() as page:
        path = tmp_path / "config" / "unlearnable-transforms" / "private.key"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        answer = page.ask("GET", "key")
        with zipfile.ZipFile(io.BytesIO(answer.read())) as archive:
            assert archive.read("private.key") == path.read_bytes()
        assert "attachment" in answer.headers["Content-Disposition"]
        secret = path.read_text().split()[1]
        assert secret not in page.get("") + page.get("state")
        other = Key.generate().save(tmp_path / "other.key")
        first = Key.load(path)
        for data in (b"", b"no key", Key.public("x").save(tmp_path / "public.key").read_bytes()):
            assert page.ask("PUT", "key", data).status == 400
        assert page.ask("PUT", "key", other.read_bytes()).status == 200
        assert Key.load(path) == Key.load(other)
        kept = path.with_name(f"private-before-{first.fingerprint}.key")
        assert Key.load(kept) == first
    with served() as page:
        assert Key.load(path) == Key.load(other)


def test_a_copy_of_the_key_brings_the_albums_to_another_computer(tmp_path, monkeypatch):
    first = {f"{kind}/{seed}.jpg": jpeg(seed) for kind in ("hats", "shoes") for seed in range(2)}
    with served() as page:
        page.drop(first)
        page.act("set", name="name", value="Shop")
        page.act("start")
        page.wait("done")
        made = page.download()
        copy = page.ask("GET", "key").read()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "other config"))
    monkeypatch.setenv("UNLEARNABLE_TRANSFORMS_CACHE", str(tmp_path / "other cache"))
    with served() as page:
        assert page.ask("PUT", "key", copy).status == 200
        assert page.ask("PUT", "key", copy).status == 200
        assert "All is well: 4 pictures" in errand(page, "check", made, "done")
        page.drop({"boots/0.jpg": jpeg(0), "shoes/0.jpg": jpeg(0)})
        page.act("set", name="name", value="Shop")
        page.act("start")
        page.wait("done")
        assert page.download()["shoes/0.jpg"] == made["shoes/0.jpg"]
        evil = io.BytesIO(copy)
        with zipfile.ZipFile(evil, "a") as archive:
            archive.writestr("ledgers/../../evil.parquet", b"x")
            archive.writestr(f"ledgers/{'0' * 16}-{'0' * 32}.parquet", b"no ledger")
        assert page.ask("PUT", "key", evil.getvalue()).status == 200
        assert not list(tmp_path.rglob("evil*"))
        assert not list(tmp_path.rglob("0000*"))
        assert page.ask("PUT", "key", evil.getvalue()[:-10]).status == 400


# ---- one program, and its end


def test_a_second_program_opens_the_page_of_the_first(page, key_file):
    told = []
    serve(key_file, ready=lambda *what: told.append(what))
    assert told == [(page.address, True)]
    assert page.state()["phase"] == "empty"


def test_what_a_killed_program_left_is_removed_at_the_next_start(tmp_path, key_file):
    left = tmp_path / "unlearnable-cache" / "app" / "work" / "albums" / "x" / "in" / "a.jpg"
    left.parent.mkdir(parents=True)
    left.write_bytes(jpeg(0))
    with served(key_file):
        assert originals_left(tmp_path) == []


def test_the_end_of_the_program_leaves_no_pictures(tmp_path, key_file):
    with served(key_file) as page:
        page.drop({"a.jpg": jpeg(0)})
        assert originals_left(tmp_path)
    assert originals_left(tmp_path) == []
    assert not (tmp_path / "unlearnable-cache" / "app" / "work").exists()


def test_files_that_stop_arriving_can_be_gone_on_with(page, monkeypatch):
    monkeypatch.setattr(studio, "SILENCE", 0.1)
    page.act("begin", area="protect", bytes=3)
    page.put("a.jpg", jpeg(0))
    time.sleep(0.2)
    assert "1 picture arrived, then it stopped" in page.get("part")
    page.act("end", area="protect")
    page.wait("chosen")


def test_an_error_of_the_run_is_shown_and_can_be_gone_on_from(tmp_path, page, monkeypatch):
    page.drop({f"{seed}.jpg": jpeg(seed) for seed in range(2)})
    out = written(tmp_path / "taken", {"something else.txt": b"mine"})
    page.act("set", name="out", value=str(out))
    page.act("start")
    page.wait("failed")
    html = page.get("part")
    assert "is not empty" in html
    assert "journal" not in html
    assert files_of(out) == {"something else.txt": b"mine"}
    page.act("back")
    page.act("set", name="out", value="")
    page.act("set", name="name", value="Another")
    page.act("start")
    page.wait("done")
    assert set(page.download()) == {"0.jpg", "1.jpg"}
    assert originals_left(tmp_path / "unlearnable-cache") == []


# ---- undo and check


def errand(page: Client, area: str, files: dict[str, bytes], *phases: str) -> str:
    """Drop pictures on another tab; what it shows then."""
    page.act("begin", area=area, bytes=1)
    for name, data in files.items():
        assert page.put(name, data, area) == 204
    page.act("end", area=area)
    return settled(page, area, *phases)


def settled(page: Client, area: str, *phases: str) -> str:
    end = time.monotonic() + 60
    while page.state()["errands"][area] not in phases:
        assert time.monotonic() < end
        time.sleep(0.05)
    html = page.get("part")
    return html[html.index(f'id="tab-{area}"') :].split("</section>\n\n")[0]


@pytest.fixture
def protected(page) -> dict[str, bytes]:
    """Protected pictures of the album "Shop", strength subtle."""
    page.drop({f"Shop/{kind}/{seed}.jpg": jpeg(seed) for kind in ("hats", "shoes") for seed in range(3)})
    page.act("set", name="strength", value="subtle")
    page.act("start")
    page.wait("done")
    return page.download()


def test_a_check_says_whether_all_is_as_protected_and_names_what_is_not(tmp_path, page, protected):
    assert "All is well: 6 pictures" in errand(
        page, "check", {f"x/{name}": data for name, data in protected.items()}, "done"
    )
    spoilt = dict(protected)
    del spoilt["hats/1.jpg"]
    spoilt["shoes/0.jpg"] = jpeg(0)
    spoilt["shoes/9.jpg"] = jpeg(9)
    html = errand(page, "check", spoilt, "done")
    assert "Not all is well: 4 pictures" in html
    for name, title in (
        ("hats/1.jpg", "missing"),
        ("shoes/0.jpg", "unprotected originals"),
        ("shoes/9.jpg", "unknown"),
    ):
        assert title in html
        assert name in html
    folder = written(tmp_path / "on disk", protected)
    page.act("choose", area="check", path=str(folder))
    assert "All is well" in settled(page, "check", "done")
    assert originals_left(tmp_path / "unlearnable-cache") == []


def test_a_check_of_unknown_pictures_says_what_would_be_needed(page):
    html = errand(page, "check", {f"{seed}.jpg": jpeg(seed) for seed in range(3)}, "done")
    assert "Nothing on this computer remembers" in html
    assert "200 pictures" in html


@pytest.mark.parametrize("album", ["Shop", ""])
def test_the_protection_comes_off_with_the_key_of_the_album(tmp_path, page, protected, album):
    errand(page, "undo", {f"Shop protected/{name}": data for name, data in protected.items()}, "ready")
    page.act("undo", album=album)
    html = settled(page, "undo", "done", "ready")
    assert "The protection is off: 6 pictures" in html, html
    answer = page.ask("GET", "undone")
    with zipfile.ZipFile(io.BytesIO(answer.read())) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    assert set(files) == {name.replace(".jpg", ".png") for name in protected}
    before = np.asarray(decode(jpeg(0))).astype(int)
    far, near = (np.abs(np.asarray(decode(data)).astype(int) - before).mean()
                 for data in (protected["hats/0.jpg"], files["hats/0.png"]))  # fmt: skip
    assert near < far / 2
    page.act("again", area="undo")
    assert not list((tmp_path / "unlearnable-cache" / "app" / "work" / "undo").rglob("*.png"))


def test_the_wrong_album_or_key_takes_nothing_off(page, protected):
    page.ask("PUT", "key", Path(Key.generate().save(Path(tempfile.gettempdir()) / "x.key")).read_bytes()).read()
    errand(page, "undo", protected, "ready")
    for album in ("", "Shop"):
        page.act("undo", album=album)
        html = settled(page, "undo", "ready", "done")
        assert "This did not work" in html
        for word in ("ledger", "fingerprint", "--", "CUDA"):
            assert word not in html.replace("<!--", ""), html
    assert page.ask("GET", "undone").status == 400


def test_undo_and_check_refuse_what_is_no_folder_of_pictures(tmp_path, page):
    (tmp_path / "empty").mkdir()
    for area in ("undo", "check"):
        page.act("choose", area=area, path=str(tmp_path / "empty"))
        assert "there are no pictures" in settled(page, area, "empty").lower()
        with pytest.raises(AssertionError, match="folder"):
            page.act("choose", area=area, path="")
