"""The demonstration for visitors from elsewhere: each sees their own pictures, within limits, and all of it goes."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest

pytest.importorskip("starlette", reason="the extra app is not installed")
pytest.importorskip("uvicorn", reason="the extra app is not installed")
httpx2 = pytest.importorskip("httpx2", reason="the test client of Starlette needs httpx2")

import messy
from local_app import files_of
from starlette.testclient import TestClient
from test_server import jpeg, originals_left, places  # noqa: F401

from unlearnable_transforms.app import studio
from unlearnable_transforms.app.tray import Limits
from unlearnable_transforms.app.visitors import MOST_AT_ONCE, PATIENCE, Visitors
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.files import private_directory

LIMITS = Limits(pictures=4, each=1, all=2, megapixels=1, visitors=2, minutes=15)
OWN = {"Origin": "http://testserver"}


class Visitor(TestClient):
    """A browser with cookies of its own."""

    def act(self, action: str, **given):
        return self.post(f"/{action}", content=json.dumps(given), headers=OWN)

    def put_file(self, name: str, data: bytes):
        return self.put("/file/protect", params={"name": name}, content=data, headers=OWN)

    def wait(self, *phases: str) -> dict:
        end = time.monotonic() + 60
        while (state := self.get("/state").json())["phase"] not in phases:
            assert time.monotonic() < end, state
            time.sleep(0.05)
        return state

    def drop(self, files: dict[str, bytes]) -> dict:
        assert self.act("begin", area="protect").status_code == 200
        for name, data in files.items():
            self.put_file(name, data)
        assert self.act("end", area="protect").status_code == 200
        return self.wait("chosen", "empty")

    def protect(self) -> dict[str, bytes]:
        assert self.act("start").status_code == 200
        self.wait("done")
        return unzipped(self.get("/download").content)


def unzipped(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture
def demo(tmp_path) -> Iterator[SimpleNamespace]:
    """A demonstration with a clock that the test sets; ``enter`` is a browser that opens it."""
    place = private_directory("app", "demo") / "visitors"
    now = SimpleNamespace(seconds=0.0)
    visitors = Visitors(place, LIMITS, clock=lambda: now.seconds)

    def enter(base: str = "http://testserver", **headers: str) -> Visitor:
        visitor = Visitor(visitors, base_url=base, headers=headers)
        visitor.first = visitor.get("/")
        return visitor

    yield SimpleNamespace(enter=enter, visitors=visitors, now=now, place=place)
    visitors.close()
    assert not place.exists()


# ---- each their own


def test_visitors_do_not_reach_each_others_pictures(tmp_path, demo):
    ann, bob = demo.enter(), demo.enter()
    ann.drop({"ann/secret-ann.jpg": jpeg(1)})
    bob.drop({"bob/secret-bob.jpg": jpeg(2)})
    assert ann.get("/look/0").json()["name"] == "secret-ann.jpg"
    assert bob.get("/look/0").json()["name"] == "secret-bob.jpg"
    made = ann.protect()
    assert list(made) == ["secret-ann.jpg"]
    assert bob.get("/download").status_code == 400
    for path in ("/part", "/", "/state"):
        assert "ann" not in bob.get(path).text.replace("cannot", ""), path
        assert "secret-bob" not in ann.get(path).text, path
    stranger = Visitor(demo.visitors)
    for path in ("/state", "/part", "/look/0", "/download", "/undone"):
        answer = stranger.get(path)
        assert answer.status_code == 403
        assert "cookies" in answer.json()["error"]
    assert stranger.act("start").status_code == 403


def test_what_was_noted_of_one_visitors_pictures_is_not_known_to_another(demo):
    ann, bob = demo.enter(), demo.enter()
    ann.drop({f"secret-{seed}.jpg": jpeg(seed) for seed in range(3)})
    made = ann.protect()
    for visitor, known in ((ann, True), (bob, False)):
        visitor.act("begin", area="check")
        visitor.put("/file/check", params={"name": "secret-0.jpg"}, content=made["secret-0.jpg"], headers=OWN)
        visitor.act("end", area="check")
        end = time.monotonic() + 60
        while visitor.get("/state").json()["errands"]["check"] != "done":
            assert time.monotonic() < end
            time.sleep(0.05)
        text = visitor.get("/part").text
        assert ("secret-1.jpg" in text) is known
        assert ("remembers these pictures" in text) is not known


def test_each_visitor_has_a_key_and_none_of_them_is_the_users(tmp_path, demo):
    same = {"hat.png": messy.encoded(messy.photograph(5), "PNG")}
    one, two = demo.enter(), demo.enter()
    one.drop(same)
    two.drop(same)
    assert one.protect() != two.protect()
    keys = {path.read_bytes() for path in demo.place.rglob("private.key")}
    assert len(keys) == 2
    assert not (tmp_path / "config").exists()
    assert set(files_of(tmp_path / "unlearnable-cache")) <= {
        f"app/demo/visitors/{name}" for name in files_of(demo.place)
    }


def test_a_cookie_is_made_by_the_server_alone_and_scripts_cannot_read_it(demo):
    plain = demo.enter().first.headers["set-cookie"]
    assert "HttpOnly" in plain
    assert "SameSite=Strict" in plain
    fixed = Visitor(demo.visitors, cookies={"visitor": "known-to-another"}).get("/")
    assert "known-to-another" not in fixed.headers["set-cookie"]
    assert len(fixed.headers["set-cookie"].partition(";")[0]) > 32


def test_in_a_frame_of_a_space_the_cookie_is_sent_and_other_pages_are_refused(demo):
    visitor = demo.enter("https://testserver", **{"X-Forwarded-Proto": "https", "Sec-Fetch-Site": "cross-site"})
    assert visitor.first.status_code == 200
    assert "SameSite=None; Secure; Partitioned" in visitor.first.headers["set-cookie"]
    assert "frame-ancestors 'self' https://huggingface.co" in visitor.first.headers["content-security-policy"]
    assert "x-frame-options" not in visitor.first.headers
    assert visitor.get("/state").status_code == 403  # a picture or a script of another page
    visitor.headers.pop("Sec-Fetch-Site")
    assert visitor.get("/state").status_code == 200
    for origin in ("https://evil.example", "null", "http://testserver:81"):
        assert visitor.post("/again", content="{}", headers={"Origin": origin}).status_code == 403
    assert visitor.post("/again", content="{}").status_code == 403
    assert visitor.post("/again", content="{}", headers={"Origin": "https://testserver"}).status_code == 200


# ---- what there is not


@pytest.mark.parametrize(
    ("action", "content"),
    [
        ("begin", "{"),
        ("begin", "[]"),
        ("begin", "[" * 5_000),
        ("begin", '{"area": "protect", "bytes": "many"}'),
        ("begin", '{"area": "protect", "pictures": -1}'),
        ("skip", '{"more": null}'),
        ("skip", '{"names": 7, "more": "x"}'),
    ],
)
def test_what_no_page_of_ours_sends_is_not_understood(demo, action, content):
    answer = demo.enter().post(f"/{action}", content=content, headers=OWN)
    assert answer.status_code == 400
    assert "not understood" in answer.text


def test_folders_and_keys_of_the_server_are_refused(tmp_path, demo):
    visitor = demo.enter()
    visitor.drop({"a.jpg": jpeg(0)})
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(messy.encoded(messy.photograph(3), "JPEG"))
    folder = str(tmp_path / "pictures")
    answers = [
        visitor.get("/folders", params={"path": str(tmp_path)}),
        visitor.get("/key"),
        visitor.put("/key", content=b"key", headers=OWN),
        visitor.act("choose", path=folder),
        visitor.act("choose", path=folder, area="check"),
        visitor.act("choose", path=folder, area="undo"),
        visitor.act("set", name="out", value=str(tmp_path / "out")),
        visitor.act("quit"),
    ]
    for answer in answers:
        assert answer.status_code == 400
        assert "on your own computer" in answer.json()["error"]
    assert visitor.protect()
    assert not (tmp_path / "out").exists()


def test_the_page_says_what_it_is_and_offers_nothing_else(demo):
    text = demo.enter().first.text
    for said in ("the key is thrown away", "can take the protection off", "4 pictures at a time", "at most 1 MB",
                 "1 megapixels", "at most 2 MB", "2 visitors at a time", "15 minutes"):  # fmt: skip
        assert said in text, said
    for absent in ("data-browse", 'data-act="quit"', "Save a copy", "Use another key", "private.key", "this computer",
                   'data-form="choose"', "pick-key"):  # fmt: skip
        assert absent not in text, absent


# ---- limits


def test_too_much_is_refused_in_words_before_it_is_sent(demo):
    visitor = demo.enter()
    for given, said in (
        ({"pictures": 5}, "at most 4 pictures"),
        ({"pictures": 1, "largest": 1_000_001}, "at most 1 MB"),
        ({"pictures": 3, "bytes": 2_000_001}, "at most 2 MB"),
    ):
        answer = visitor.act("begin", area="protect", **given)
        assert answer.status_code == 400
        assert said in answer.json()["error"]
        assert visitor.get("/state").json()["phase"] == "empty"


def test_too_much_is_refused_whatever_a_page_said(demo):
    visitor = demo.enter()
    assert visitor.put_file("a.jpg", jpeg(0)).status_code == 400  # nothing was announced
    visitor.act("begin", area="protect")
    noise = os.urandom(900_000)
    assert "at most 1 MB" in visitor.put_file("large.jpg", os.urandom(1_100_000)).json()["error"]
    assert "at most 2 MB" in visitor.put_file("large.zip", os.urandom(3_200_000)).json()["error"]
    assert visitor.put_file("1.jpg", noise).status_code == 204
    assert visitor.put_file("2.jpg", noise[::-1]).status_code == 204
    assert "at most 2 MB" in visitor.put_file("3.jpg", noise[1:]).json()["error"]
    assert sum(path.stat().st_size for path in (demo.place).rglob("*.jpg")) == 1_800_000
    visitor.act("again")
    visitor.act("begin", area="protect")
    answers = [visitor.put_file(f"{seed}.jpg", jpeg(seed)) for seed in range(6)]
    assert [answer.status_code for answer in answers] == [204] * 4 + [400] * 2
    assert "at most 4 pictures" in answers[-1].json()["error"]
    visitor.act("end", area="protect")
    assert visitor.wait("chosen")["arrived"] == 4
    assert visitor.act("begin", area="protect", pictures=1).status_code == 400


def test_of_a_zip_what_is_too_much_is_left_out_and_named(demo):
    visitor = demo.enter()
    large = messy.encoded(messy.photograph(9)[:1, :1].repeat(1100, 0).repeat(1000, 1), "PNG")
    files = {f"{seed}.jpg": jpeg(seed) for seed in range(5)}
    bomb = {"bomb.png": b"\0" * 50_000_000}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**bomb, "pixels.png": large, **files}.items():
            archive.writestr(name, data)
    visitor.drop({"all.zip": packed.getvalue()})
    assert set(visitor.protect()) == {f"{seed}.jpg" for seed in range(4)}
    text = visitor.get("/part").text
    for said in ("at most 1 megapixels", "at most 4 pictures", "at most 1 MB"):
        assert said in text, said


def test_pictures_that_could_not_be_taken_do_not_count_for_the_next_ones(demo):
    visitor = demo.enter()
    special = ("train/a/0.jpg", "train/a/1.jpg", "test/a/2.jpg", "test/a/3.jpg")
    assert visitor.drop({name: jpeg(seed) for seed, name in enumerate(special)})["phase"] == "empty"
    assert "special meaning" in visitor.get("/part").text
    good = {f"{seed}.jpg": jpeg(seed) for seed in range(4)}
    assert visitor.drop(good)["phase"] == "chosen"
    assert visitor.protect().keys() == good.keys()


def test_a_zip_of_very_many_files_is_refused(demo):
    visitor = demo.enter()
    assert visitor.drop({"all.zip": zipped({f"{number}.jpg": b"" for number in range(1001)})})["phase"] == "empty"
    assert "more than 1,000 files" in visitor.get("/part").text


def test_so_many_visitors_at_a_time_and_so_many_requests(demo):
    ann, bob = demo.enter(), demo.enter()
    ann.drop({"a.jpg": jpeg(0)})
    assert demo.enter().first.status_code == 503
    assert "try again" in demo.enter().first.text
    demo.now.seconds = PATIENCE
    carl = demo.enter()  # Bob sent nothing, and is silent
    assert carl.first.status_code == 200
    assert bob.get("/state").status_code == 403
    assert ann.get("/state").json()["phase"] == "chosen"
    next(iter(demo.visitors._visits.values())).open = MOST_AT_ONCE
    assert ann.get("/state").status_code == 429


# ---- what goes, and when


def test_after_silence_everything_of_a_visitor_goes_and_an_open_tab_is_silence(demo):
    ann, bob = demo.enter(), demo.enter()
    ann.drop({"a.jpg": jpeg(0)})
    bob.drop({"b.jpg": jpeg(1)})
    demo.now.seconds = LIMITS.minutes * 60 - 1
    bob.act("set", name="strength", value="subtle")
    ann.get("/state")
    ann.get("/part")
    demo.visitors.sweep()
    assert len(originals_left(demo.place)) == 2
    demo.now.seconds += 1
    demo.visitors.sweep()
    assert [path.name for path in originals_left(demo.place)] == ["b.jpg"]
    assert len(list(demo.place.iterdir())) == 1
    assert "15 minutes" in ann.get("/state").json()["error"]
    assert bob.get("/state").json()["phase"] == "chosen"
    assert ann.get("/").status_code == 200
    assert ann.get("/state").json()["phase"] == "empty"


def test_who_waits_for_work_is_not_silent(demo, monkeypatch):
    ann = demo.enter()
    ann.drop({"a.jpg": jpeg(0)})
    seen = []

    def sweeping(self, done, total):
        demo.now.seconds += 3600
        demo.visitors.sweep()
        seen.append(len(list(demo.place.iterdir())))

    monkeypatch.setattr(studio.Studio, "_show_progress", sweeping)
    assert list(ann.protect()) == ["a.jpg"]
    assert set(seen) == {1}


def test_at_the_end_everything_goes(demo):
    demo.enter().drop({"a.jpg": jpeg(0)})
    assert originals_left(demo.place)
    demo.visitors.close()
    assert not demo.place.exists()


def test_the_next_start_removes_what_a_killed_program_left(demo):
    demo.enter().drop({"a.jpg": jpeg(0)})
    assert originals_left(demo.place)
    again = Visitors(demo.place, replace(LIMITS, visitors=1))
    assert list(demo.place.iterdir()) == []
    again.close()


@pytest.mark.slow
def test_a_killed_program_leaves_nothing_after_the_next_one(tmp_path):
    place = tmp_path / "unlearnable-cache" / "app" / "demo" / "visitors"
    for kill in (signal.SIGKILL, signal.SIGTERM):
        program = subprocess.Popen(
            [sys.executable, "-c", "from unlearnable_transforms.cli.main import main; main()", "app", "--demo",
             "--no-browser", "--port", "18760"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert program.stdout is not None
        while "127.0.0.1:18760" not in program.stdout.readline():
            assert program.poll() is None
        assert not place.exists() or list(place.iterdir()) == []
        with httpx2.Client(base_url="http://127.0.0.1:18760", headers={"Origin": "http://127.0.0.1:18760"}) as client:
            assert client.get("/", timeout=60).status_code == 200
            client.post("/begin", content='{"area": "protect"}')
            assert client.put("/file/protect?name=a.jpg", content=jpeg(0)).status_code == 204
        assert len(originals_left(place)) == 1
        program.send_signal(kill)
        program.wait(60)
    assert not place.exists()


# ---- the command


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "would show your private key"),
        (["--host", "0.0.0.0", "--key", "KEY"], "would show your private key"),
        (["--demo", "--key", "KEY"], "leave out --key"),
        (["--demo", "--host", "192.0.2.77"], "no address 192.0.2.77"),
    ],
)
def test_your_own_key_is_not_shown_to_others(tmp_path, capsys, key_file, options, said):
    assert main(["app", *(str(key_file) if text == "KEY" else text for text in options)]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "config").exists()
