"""A demonstration for visitors from elsewhere: each has pictures, a folder and a throw-away key of their own.

A visitor is known by a cookie, which scripts cannot read. The address has no secret part: it may be given to anybody.
What a visitor sends lies in a private folder of this server, is worked on in one thread for all, and goes after some
minutes of silence.
"""

import json
import secrets
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from starlette.applications import Starlette
from starlette.requests import Request

from ..errors import UsageError
from ..files import locked, private_directory
from .guard import HEADERS, READS, App, Receive, Scope, Send, answer, is_own, read_some, values_of, with_headers
from .home import Home
from .server import SERVER, Page, end_with, fixed_routes, listening_at
from .studio import Studio
from .tray import Limits

COOKIE = "visitor"
EMBEDS = "https://huggingface.co"  # shows a Space in a frame of its own page
MOST_AT_ONCE = 12  # requests of one visitor
PATIENCE = 60  # seconds that a visitor who does nothing keeps a place for which another one waits
EVERY = 20  # seconds between looks for visitors who are gone
UNHEARD = ("/state", "/part")  # what an open tab asks by itself
HEADERS_OF_DEMO = {name: value for name, value in HEADERS.items() if name != "X-Frame-Options"} | {
    "Content-Security-Policy": HEADERS["Content-Security-Policy"].replace(
        "frame-ancestors 'none'", f"frame-ancestors 'self' {EMBEDS}"
    )
}
OTHER_PAGE = "This was asked by another page, and is not answered."
BUSY = "You ask for too much at a time: wait a moment, and try again."
FULL = "This demonstration has as many visitors as it can take: try again in a few minutes."


@dataclass
class Visit:
    """One visitor: what the page shows to them, where it lies, when they did something last, and open requests."""

    studio: Studio
    app: App
    folder: Path
    heard: float
    open: int = 0


class Visitors:
    """ASGI application: gives each visitor a page of their own.

    Args:
        folder: a private folder, which is emptied.
        limits: of the demonstration.
        workers: processes for the protection.
        clock: in seconds.
    """

    def __init__(
        self,
        folder: Path,
        limits: Limits | None = None,
        workers: int = 1,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.folder, self.limits, self.workers, self.clock = folder, limits or Limits(), workers, clock
        shutil.rmtree(folder, ignore_errors=True)  # what a program that was killed left
        folder.mkdir(mode=0o700)
        self._fixed = Starlette(routes=fixed_routes())
        self._names = {route.path for route in fixed_routes()}
        self._visits: dict[str, Visit] = {}
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "work")  # for all: the memory is that of one picture

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request, sending = Request(scope), with_headers(send, HEADERS_OF_DEMO)
        enters = scope["path"] == "/" and scope["method"] in READS  # links and frames of other pages lead there
        hosts = values_of(scope, "host") + values_of(scope, "x-forwarded-host")
        if not enters and not is_own(scope, [f"{scheme}://{host}" for scheme in ("http", "https") for host in hosts]):
            await read_some(receive)
            await answer(sending, 403, OTHER_PAGE)
            return
        if scope["path"] in self._names:
            await self._fixed(scope, receive, sending)
            return
        visit, headers = self._visits.get(request.cookies.get(COOKIE, "")), HEADERS_OF_DEMO
        if visit is None and enters:
            token = secrets.token_urlsafe(24)
            visit = self._welcome(token)
            if visit is None:
                await answer(sending, 503, FULL, {"Retry-After": "120"})
                return
            headers = headers | {"Set-Cookie": _cookie(token, scope)}
        if visit is None:
            await _complain(receive, sending, 403, self._over())
        elif visit.open >= MOST_AT_ONCE:
            await _complain(receive, sending, 429, BUSY)
        else:
            await self._show(visit, scope, receive, with_headers(send, headers))

    async def _show(self, visit: Visit, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] not in UNHEARD:
            visit.heard = self.clock()
        visit.open += 1
        try:
            await visit.app(scope, receive, send)
        finally:
            visit.open -= 1

    def _over(self) -> str:
        return (
            "Your visit is over, or your browser keeps no cookies. Everything of yours is removed after "
            f"{self.limits.minutes} minutes in which you do nothing. Load the page again; if it is shown inside "
            "another page, open it in a tab of its own."
        )

    def _welcome(self, token: str) -> Visit | None:
        """A place for a new visitor; None where there is none."""
        self.sweep()
        with self._lock:
            if len(self._visits) >= self.limits.visitors and not self._make_place():
                return None
            folder = self.folder / secrets.token_hex(8)
            folder.mkdir(mode=0o700)
            home, work, cache = Home(folder=folder / "home"), folder / "work", folder / "cache"
            studio = Studio(home, work, self.workers, self.limits, self._thread, cache)
            visit = self._visits[token] = Visit(studio, Page(studio).app(), folder, self.clock())
            return visit

    def _make_place(self) -> bool:
        """Let a visitor go who sent nothing, if there is one who is silent for some time."""
        idle = [(visit.heard, token) for token, visit in self._visits.items() if visit.studio.untouched]
        if not idle or self.clock() - min(idle)[0] < PATIENCE:
            return False
        self._remove(min(idle)[1])
        return True

    def _remove(self, token: str) -> None:
        shutil.rmtree(self._visits.pop(token).folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove everything of visitors who did nothing for some minutes. Who waits for work is not silent."""
        with self._lock:
            now = self.clock()
            for token, visit in list(self._visits.items()):
                if visit.studio.busy:
                    visit.heard = now
                elif now - visit.heard >= self.limits.minutes * 60:
                    self._remove(token)

    def close(self) -> None:
        """Stop what runs, and remove everything."""
        for visit in list(self._visits.values()):
            visit.studio.stop()
        self._thread.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            self._visits.clear()
            shutil.rmtree(self.folder, ignore_errors=True)


def _cookie(token: str, scope: Scope) -> str:
    """A cookie until the browser is closed. A page that comes by https may be shown in a frame of another page, where
    browsers send only cookies that allow it; ``Partitioned`` makes it another one in each such page."""
    secure = scope.get("scheme") == "https" or values_of(scope, "x-forwarded-proto")[:1] == ["https"]
    return f"{COOKIE}={token}; Path=/; HttpOnly; " + (
        "SameSite=None; Secure; Partitioned" if secure else "SameSite=Strict"
    )


async def _complain(receive: Receive, send: Send, status: int, text: str) -> None:
    await read_some(receive)
    await answer(send, status, json.dumps({"error": text}), {"Content-Type": "application/json"})


def serve_demo(
    host: str,
    port: int,
    workers: int = 1,
    limits: Limits | None = None,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve a demonstration until the program is told to end.

    Args:
        host: address of this computer; ``0.0.0.0``: all that it has.
        port: 0: a free one.
        workers: processes for the protection.
        limits: for visitors.
        ready: called with the address of the page.

    Raises:
        UsageError: another demonstration is running, the port is taken, or there is no such address.
    """
    import uvicorn

    folder = private_directory("app", "demo")
    try:
        with locked(folder / "lock", wait=False), listening_at(host, port) as listening:
            visitors = Visitors(folder / "visitors", limits, workers)
            server = uvicorn.Server(uvicorn.Config(visitors, **SERVER))
            ended = threading.Event()

            def watch() -> None:
                while not ended.wait(EVERY):
                    visitors.sweep()

            threading.Thread(target=watch, daemon=True).start()
            try:
                end_with(lambda: setattr(server, "should_exit", True))
                if ready:
                    ready(f"http://{host}:{listening.getsockname()[1]}/")
                server.run(sockets=[listening])
            finally:
                ended.set()
                visitors.close()
    except BlockingIOError:
        raise UsageError("a demonstration is running on this computer already: end it first") from None
