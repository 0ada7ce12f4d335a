"""The page of `unlearnable app`, served by a thread of the test, and a client that asks it as the browser does."""

import http.client
import io
import json
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from unlearnable_transforms.app.server import serve

PATIENCE = 60


class Client:
    """Asks the page. ``address``: with the secret part."""

    def __init__(self, address: str) -> None:
        self.address = address
        parts = urlsplit(address)
        self.host, self.port, self.path = parts.netloc, parts.port, parts.path

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> http.client.HTTPResponse:
        """One request; headers by name, ``_`` for ``-``. ``Host`` and ``Origin`` are the browser's unless given."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        named = {name.replace("_", "-"): value for name, value in headers.items() if value}
        named.setdefault("Host", self.host)
        if method not in ("GET", "HEAD") and "Origin" not in headers:
            named["Origin"] = f"http://{self.host}"
        connection.request(method, path if path.startswith("/") else self.path + path, body, named)
        return connection.getresponse()

    def get(self, path: str) -> str:
        answer = self.ask("GET", path)
        assert answer.status == 200, answer.read()
        return answer.read().decode()

    def act(self, action: str, **given: Any) -> dict[str, Any]:
        """What a button does; raises its complaint as an AssertionError."""
        answer = self.ask("POST", action, json.dumps(given).encode())
        value = json.loads(answer.read())
        assert answer.status == 200, value["error"]
        return value

    def put(self, name: str, data: bytes, area: str = "protect") -> int:
        return self.ask("PUT", f"file/{area}?name={quote(name)}", data).status

    def state(self) -> dict[str, Any]:
        return json.loads(self.get("state"))

    def wait(self, *phases: str) -> dict[str, Any]:
        """Until the page is in one of some phases."""
        end = time.monotonic() + PATIENCE
        while (state := self.state())["phase"] not in phases:
            assert time.monotonic() < end, (state, self.get("part"))
            time.sleep(0.05)
        return state

    def drop(self, files: dict[str, bytes]) -> dict[str, Any]:
        """Drop files on the page, and wait until it has looked through them."""
        self.act("begin", area="protect", bytes=sum(map(len, files.values())))
        for name, data in files.items():
            assert self.put(name, data) in (204, 400)
        self.act("end", area="protect")
        return self.wait("chosen", "empty")

    def download(self) -> dict[str, bytes]:
        """The files of the zip."""
        answer = self.ask("GET", "download")
        assert answer.status == 200
        with zipfile.ZipFile(io.BytesIO(answer.read())) as archive:
            assert archive.testzip() is None
            return {name: archive.read(name) for name in archive.namelist()}


@contextmanager
def served(key: Path | None = None, **options: Any) -> Iterator[Client]:
    """The page, until the block ends."""
    told: list[tuple[str, bool]] = []
    ready = threading.Event()

    def tell(address: str, running: bool) -> None:
        told.append((address, running))
        ready.set()

    thread = threading.Thread(target=serve, args=(key,), kwargs={"workers": 1, "ready": tell, **options}, daemon=True)
    thread.start()
    assert ready.wait(PATIENCE)
    assert not told[0][1]
    client = Client(told[0][0])
    end = time.monotonic() + PATIENCE
    while True:
        try:
            client.state()
            break
        except ConnectionError:
            assert time.monotonic() < end
    try:
        yield client
    finally:
        client.act("quit")
        thread.join(PATIENCE)
        assert not thread.is_alive()


def files_of(folder: Path) -> dict[str, bytes]:
    """Path with ``/`` and bytes of all files below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
