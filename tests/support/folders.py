"""What the tests of `unlearnable protect` share: small pictures, processes to stop, and a Hub of their own."""

import base64
import hashlib
import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, SECRET, encode, pixels
from PIL import ImageCms

import unlearnable_transforms as ut
from unlearnable_transforms.protection.protect import Protect

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def photograph(seed: int, height: int = 24, width: int = 30) -> np.ndarray:
    """A smooth picture, uint8 (H, W, 3), that JPEG can hold."""
    rows, columns = np.mgrid[:height, :width]
    levels = [np.sin(rows / (3 + seed % 5)), np.cos(columns / (2 + seed % 7)), np.sin((rows + columns + seed) / 6)]
    return np.stack([127 + 100 * level for level in levels], axis=2).astype(np.uint8)


def make_folder(root: Path, files: int = 12, classes: tuple[str, ...] = ("cat", "ant", "dog")) -> Path:
    """``files`` pictures in class folders; every third a JPEG."""
    for number in range(files):
        folder = root / classes[number % len(classes)]
        folder.mkdir(parents=True, exist_ok=True)
        jpeg = number // len(classes) % 3 == 0
        image = photograph(number) if jpeg else pixels(14 + number % 3, 17, 3, seed=number)
        (folder / f"{number:04d}.{'jpg' if jpeg else 'png'}").write_bytes(encode(image, "JPEG" if jpeg else "PNG"))
    return root


def tree(root: Path) -> dict[str, bytes]:
    """Every file's bytes."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def save_key(path: Path) -> Path:
    """A key file."""
    return ut.Key(SECRET).save(path)


@contextmanager
def interrupted(monkeypatch: pytest.MonkeyPatch, after: int) -> Iterator[None]:
    """Ctrl-C in the middle of the unit behind ``after`` others, of a source that is protected in this process."""
    write, seen = Protect._write, []

    def stop(self, unit):
        seen.append(unit)
        if len(seen) > after:
            raise KeyboardInterrupt
        return write(self, unit)

    with monkeypatch.context() as patch:
        patch.setattr(Protect, "_write", stop)
        patch.setattr("unlearnable_transforms.jobs.run.UNITS", 1)
        with pytest.raises(KeyboardInterrupt):
            yield


def forms(secret: bytes) -> list[bytes]:
    """A key as it could stand in a file: raw, hexadecimal, base64 at each alignment."""
    encoded = [base64.b64encode(b"?" * shift + secret)[4:-4] for shift in range(3)]
    encoded += [base64.urlsafe_b64encode(b"?" * shift + secret)[4:-4] for shift in range(3)]
    return [secret, secret.hex().encode(), secret.hex().upper().encode(), *encoded]


def chunks(data: bytes) -> set[str]:
    """The names of all parts of a PNG, WebP or JPEG file, and ``after`` if something follows its end."""
    names = set()
    if data.startswith(b"\xff\xd8"):
        place = 2
        while data[place + 1] != 0xDA:
            marker, start = data[place + 1], data[place + 4 : place + 8]
            names.add(f"{marker:02X} {start.decode('latin-1')}" if 0xE0 <= marker <= 0xEF else f"{marker:02X}")
            place += 2 + struct.unpack(">H", data[place + 2 : place + 4])[0]
        end = data.index(b"\xff\xd9", place) + 2
    elif data.startswith(b"RIFF"):
        place, end = 12, 8 + struct.unpack("<I", data[4:8])[0]
        while place < end:
            names.add(data[place : place + 4].decode())
            size = struct.unpack("<I", data[place + 4 : place + 8])[0]
            place += 8 + size + size % 2
    else:
        place = 8
        while "IEND" not in names:
            names.add(data[place + 4 : place + 8].decode())
            place += 12 + struct.unpack(">I", data[place : place + 4])[0]
        end = place
    return names | ({"after"} if data[end:] else set())


def command(*arguments: object, verb: str = "protect", shard_bytes: int | None = None, **options) -> subprocess.Popen:
    """`unlearnable protect`, or another verb, in a process of its own, in a process group of its own."""
    # A background job of a shell ignores Ctrl-C, and so would this process: not what is to be tested.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from unlearnable_transforms.data import table; "
    if shard_bytes is not None:  # the journal gets a line or two at a time
        code += f"from unlearnable_transforms.jobs import run; table.SHARD_BYTES, run.UNITS = {shard_bytes}, 2; "
    code += "from unlearnable_transforms.cli.main import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, verb, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def wait_for_lines(process: subprocess.Popen, lines: int, seconds: float = 300) -> int:
    """Wait until the journals have so many lines, or the process ends; how many they have."""
    journals = Path(os.environ["UNLEARNABLE_TRANSFORMS_CACHE"], "journals")
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end and process.poll() is None:
        count = sum(path.read_bytes().count(b"\n") for path in journals.glob("*/done.jsonl"))
        if count >= lines:
            break
        time.sleep(0.002)
    return count


def wait_for_end(group: int, seconds: float = 100) -> list[str]:
    """Wait until no process of a group runs; those that still do."""
    end = time.monotonic() + seconds
    while (left := _alive(group)) and time.monotonic() < end:  # multiprocessing's own helper takes a moment
        time.sleep(0.05)
    return left


def _alive(group: int) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of_group = path.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(of_group) == group and state != "Z":
            found.append(path.parent.name)
    return found


class Hub(ThreadingHTTPServer):
    """A Hub on this machine that knows one data set, ``user/photos``: the files of a folder, which may change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(("127.0.0.1", 0), _HubAnswers)

    def environment(self, home: Path) -> dict[str, str]:
        """For a process that is to use this Hub."""
        url = f"http://127.0.0.1:{self.server_port}"
        return {"HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}


class _HubAnswers(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        path, files = self.path.split("?")[0], tree(self.server.folder)
        self.commit = hashlib.sha1(b"".join(files.values())).hexdigest()
        name = path.rsplit("/", 1)[-1]
        if "user/photos" not in path or ("/resolve/" in path and name not in files) or path.endswith("/data"):
            return self._answer(404, b"{}", "RepoNotFound" if "user/photos" not in path else "EntryNotFound")
        if "/resolve/" in path:
            return self._answer(200, files[name])
        if "/tree/" in path:
            rows = [{"type": "file", "path": name, "size": len(files[name]), "oid": "0" * 40} for name in files]
            return self._answer(200, json.dumps(rows).encode())
        about = {"id": "user/photos", "sha": self.commit, "private": False, "gated": False, "disabled": False}
        about |= {"tags": [], "downloads": 0, "likes": 0, "siblings": [{"rfilename": name} for name in files]}
        return self._answer(200, json.dumps(about).encode())

    do_HEAD = do_GET

    def _answer(self, code: int, data: bytes, error: str = "") -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.commit)
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        """Nothing: the test's output is its own."""


@contextmanager
def hub(folder: Path) -> Iterator[Hub]:
    """A Hub that runs while the block does."""
    with Hub(folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
