"""The local server: routes of the page, and its start and end."""

import asyncio
import contextlib
import errno
import json
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import ProxyHandler, build_opener

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from ..data.folder import IMAGES, is_image_name
from ..data.sites import sites
from ..errors import UnlearnableError, UsageError, printable
from ..evaluation.worth import of_strengths
from ..files import locked, private_directory, read_regular, replacing
from .guard import HOST, Guard
from .home import MOST_COPY, Home
from .studio import AREAS, LOOKS, Studio, message_of
from .tray import BLOCK, check_room, zipped

HERE = Path(__file__).parent
MOST_NAMED = 20_000  # bytes of a request that is no file
MOST_KEY = 4096
FOLDERS = 500  # that the list of folders shows
NOT_IN_DEMO = "this is not part of the demonstration: run `unlearnable app` on your own computer for it"


class Page:
    """The routes, and what they need."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.quit: Callable[[], None] = lambda: None

    def app(self) -> Starlette:
        """The ASGI application, to be put behind a :class:`~.guard.Guard`."""
        get, post = ["GET"], ["POST"]
        return Starlette(
            routes=[
                Route("/", self.page, methods=get),
                Route("/part", self.part, methods=get),
                *fixed_routes(),
                Route("/state", self.state, methods=get),
                Route("/folders", self.folders, methods=get),
                Route("/look/{number:int}", self.look, methods=get),
                Route("/download", self.download, methods=get),
                Route("/undone", self.undone, methods=get),
                Route("/key", self.key, methods=get),
                Route("/key", self.new_key, methods=["PUT"]),
                Route("/file/{area}", self.file, methods=["PUT"]),
                Route("/{action}", self.act, methods=post),
            ],
            exception_handlers={UnlearnableError: _refused, OSError: _refused},
        )

    # ---- what is shown -----------------------------------------------------------------------------------------------

    async def page(self, request: Request) -> Response:
        """The whole page."""
        return HTMLResponse(self._render("page.html.j2"))

    async def part(self, request: Request) -> Response:
        """What changes of it."""
        return HTMLResponse(self._render("part.html.j2"))

    def _render(self, template: str) -> str:
        studio, known = self.studio, of_strengths()
        shares = {"originals": known["clean"], **{name: row["accuracy"] for name, row in known["strengths"].items()}}
        return (
            _templates()
            .get_template(template)
            .render(
                studio=studio,
                limits=studio.limits,
                home=studio.home,
                album=studio.album,
                sites=sites(),
                measured=known,
                bars=[(name, round(share)) for name, share in {**shares, "guessing": 100 / known["classes"]}.items()],
                accept=",".join([*sorted(IMAGES), ".zip"]),
                looks=min(LOOKS, len(studio.chosen.paths)) if studio.chosen else 0,
                suffixes=" ".join(sorted(IMAGES)),
                number=_number,
            )
        )

    async def state(self, request: Request) -> Response:
        """Where things are, for all tabs."""
        studio = self.studio
        left = studio.seconds_left()
        return JSONResponse(
            {
                "version": studio.version + studio.interrupted * 0.5,
                "phase": studio.phase,
                "done": studio.done,
                "total": studio.total,
                "left": None if left is None else _duration(left),
                "arrived": studio.trays["protect"].count,
                "errands": {area: errand.phase for area, errand in studio.errands.items()},
                "album": vars(studio.album),
            }
        )

    async def folders(self, request: Request) -> Response:
        """The folders in a folder of this computer, to choose one."""
        self._only_at_home()
        typed = request.query_params.get("path", "")
        return JSONResponse(await run_in_threadpool(list_folders, typed))

    async def look(self, request: Request) -> Response:
        """A picture before and after, in each strength."""
        number = request.path_params["number"]
        if number >= LOOKS:
            raise UsageError("there is no such picture")
        return JSONResponse(await asyncio.wrap_future(self.studio.submit(self.studio.look, number)))

    async def download(self, request: Request) -> Response:
        """The protected pictures as a zip file."""
        studio = self.studio
        if studio.phase != "done" or not studio.output().is_dir():
            raise UsageError("there is nothing to download: protect pictures first")
        return _zip_file(studio.output(), f"{studio.album.name} protected.zip")

    async def undone(self, request: Request) -> Response:
        """Pictures without their protection as a zip file."""
        errand = self.studio.errands["undo"]
        if errand.phase != "done" or not errand.made.is_dir():
            raise UsageError("there is nothing to download: take the protection off first")
        return _zip_file(errand.made, "without protection.zip")

    def _only_at_home(self) -> None:
        """Refuse what visitors of a demonstration have no use for, or must not do."""
        if self.studio.limits:
            raise UsageError(NOT_IN_DEMO)

    # ---- the key -----------------------------------------------------------------------------------------------------

    async def key(self, request: Request) -> Response:
        """The private key as a file, to be kept elsewhere."""
        self._only_at_home()
        data = await run_in_threadpool(self.studio.home.export)
        self.studio.changed()
        disposition = _attachment("my private key, keep it safe.zip")
        return Response(data, media_type="application/zip", headers={"Content-Disposition": disposition})

    async def new_key(self, request: Request) -> Response:
        """Another private key from now on."""
        self._only_at_home()
        if self.studio.phase in ("running", "stopped", "failed"):
            raise UsageError("the key cannot be changed while an album is being protected")
        other = self.studio.home.replace_key(await _body(request, MOST_COPY))
        self.studio.changed()
        return JSONResponse({"said": "This key is used from now on." if other else "This is the key in use already."})

    # ---- what is sent ------------------------------------------------------------------------------------------------

    async def file(self, request: Request) -> Response:
        """One file that was dropped; it goes to the private folder block by block."""
        area, name = request.path_params["area"], request.query_params.get("name", "")
        if area not in AREAS:
            raise UsageError("there is no such place")
        tray = self.studio.trays[area]
        if not (is_image_name(name) or name.lower().endswith(".zip")):
            async for _ in request.stream():  # else the answer may be lost
                pass
            raise UsageError("not a picture")
        if self.studio.limits and not self.studio.awaits(area):
            raise UsageError("no pictures are expected now: wait until this is done, and choose them again")
        temporary, size = tray.temporary(), 0
        self.studio.active += 1
        try:
            held = bytearray()  # small files take one turn of the thread
            async for block in request.stream():
                held += block
                size += len(block)
                self.studio.heard()
                if len(held) >= BLOCK:
                    await run_in_threadpool(tray.check_arriving, name, size)
                    await run_in_threadpool(_append, temporary, bytes(held))
                    held.clear()
            await run_in_threadpool(_append, temporary, bytes(held))
            await run_in_threadpool(tray.check_arriving, name, size)
            await run_in_threadpool(tray.keep, temporary, name)
        except ClientDisconnect:
            return Response(status_code=400)
        finally:
            self.studio.active -= 1
            if temporary not in [path for path, _ in tray.zips]:
                temporary.unlink(missing_ok=True)
        return Response(status_code=204)

    async def act(self, request: Request) -> Response:
        """Whatever a button does."""
        action, given = request.path_params["action"], _parsed(await _body(request, MOST_NAMED) or b"{}")
        known = {
            "begin": self._begin, "skip": self._skip, "end": self._end, "choose": self._choose, "set": self._set,
            "start": self._start, "stop": self._stop, "again": self._again, "back": self._back,
            "undo": self._undo, "quit": self._quit,
        }  # fmt: skip
        if action not in known:
            return PlainTextResponse("there is no such button", 404)
        known[action](given)
        return JSONResponse({"version": self.studio.version})

    def _begin(self, given: dict[str, Any]) -> None:
        area = str(given.get("area"))
        if area not in AREAS:
            raise UsageError("there is no such place")
        size, count, largest = (_whole(given, name) for name in ("bytes", "pictures", "largest"))
        check_room(self.studio.work, size)
        if self.studio.limits:
            adds = area == "protect" and self.studio.phase == "chosen"
            here = self.studio.trays[area].count if adds else 0
            self.studio.limits.check(here + count, largest, size)
        self.studio.begin_arrival(area)

    def _skip(self, given: dict[str, Any]) -> None:
        tray = self.studio.trays["protect"]
        names = given.get("names", [])
        for name in names[:500] if isinstance(names, list) else ():
            tray.refuse(str(name)[:500], "not a picture")
        tray.more += _whole(given, "more")

    def _end(self, given: dict[str, Any]) -> None:
        if given.get("area") in self.studio.errands:
            self.studio.settle_errand(given["area"])
        else:
            self.studio.end_arrival()

    def _choose(self, given: dict[str, Any]) -> None:
        self._only_at_home()
        if given.get("area") in self.studio.errands:
            self.studio.settle_errand(given["area"], str(given.get("path", "")) or "?")
            return
        self.studio.choose_folder(str(given.get("path", "")))

    def _set(self, given: dict[str, Any]) -> None:
        if given.get("name") == "out" and given.get("value"):
            self._only_at_home()
        self.studio.set_option(str(given.get("name")), given.get("value", ""))

    def _start(self, given: dict[str, Any]) -> None:
        self.studio.start()

    def _stop(self, given: dict[str, Any]) -> None:
        self.studio.stop()

    def _undo(self, given: dict[str, Any]) -> None:
        album = str(given.get("album", ""))
        if album and album not in self.studio.home.albums:
            album = self.studio.home.album_name(album)
        self.studio.errands["undo"].album = album
        self.studio.run_errand("undo")

    def _again(self, given: dict[str, Any]) -> None:
        if given.get("area") in self.studio.errands:
            errand = self.studio.errands[given["area"]]
            if errand.phase == "working":
                raise UsageError("wait until this is done")
            errand.forget()
            self.studio.changed()
            return
        if self.studio.phase in ("running", "reading"):
            raise UsageError("stop it first")
        self.studio.begin_again()

    def _back(self, given: dict[str, Any]) -> None:
        self.studio.back()

    def _quit(self, given: dict[str, Any]) -> None:
        self._only_at_home()
        self.studio.stop()
        self.quit()


def fixed_routes() -> list[Route]:
    """What is the same for everybody: style sheet (that of the library's private pages, and more), script and icon."""

    def route(media_type: str, *files: Path) -> Route:
        async def answer(request: Request) -> Response:
            return Response("".join(file.read_text("utf-8") for file in files), media_type=media_type)

        return Route(f"/{files[-1].name}", answer, methods=["GET"])

    return [
        route("text/css", HERE.parent / "protection" / "pages.css", HERE / "page.css"),
        route("text/javascript", HERE / "page.js"),
        route("image/svg+xml", HERE / "icon.svg"),
    ]


def list_folders(typed: str) -> dict[str, Any]:
    """The folders in a folder, and how many pictures lie in it.

    Args:
        typed: its path; one that is not there stands for the person's own folder.
    """
    path = Path(typed).expanduser() if typed and "\0" not in typed else Path.home()
    if not path.is_absolute() or not path.is_dir():
        path = Path.home()
    path = path.resolve()
    names, count = [], 0
    with contextlib.suppress(PermissionError), os.scandir(path) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.is_dir():
                    names.append(entry.name)
                elif is_image_name(entry.name):
                    count += 1
    shown = sorted((name for name in names if not name.startswith(".")), key=str.casefold)
    parent = None if path.parent == path else str(path.parent)
    rows = [{"name": printable(name), "path": str(path / name)} for name in shown[:FOLDERS] if _is_text(name)]
    return {"path": str(path), "parent": parent, "folders": rows, "pictures": count}


def _is_text(name: str) -> bool:
    return name.isprintable()


async def _refused(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": message_of(error)}, 400)


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


async def _body(request: Request, most: int) -> bytes:
    data = bytearray()
    async for block in request.stream():
        data += block
        if len(data) > most:
            raise UsageError("this is too long")
    return bytes(data)


def _zip_file(folder: Path, name: str) -> Response:
    return StreamingResponse(
        zipped(folder), media_type="application/zip", headers={"Content-Disposition": _attachment(name)}
    )


def _attachment(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9 ._-]", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _duration(seconds: float) -> str:
    if seconds < 50:
        return "less than a minute"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"about {minutes} minute{'s' * (minutes > 1)}"
    return f"about {minutes // 60} h {minutes % 60} min"


def _number(value: float) -> str:
    return f"{value:,.0f}"


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


SERVER: dict[str, Any] = {
    "log_level": "warning",
    "access_log": False,
    "server_header": False,
    "lifespan": "off",
    "ws": "none",
    "http": "h11",
    "timeout_graceful_shutdown": 2,
}  # what Uvicorn is told

# ---- start and end ---------------------------------------------------------------------------------------------------


def serve(
    key_path: Path | None = None,
    port: int = 0,
    workers: int | None = None,
    ready: Callable[[str, bool], None] | None = None,
) -> None:
    """Serve the page to this computer until it is closed.

    Args:
        key_path: of the private key; default: in the user's configuration folder.
        port: default: a free one.
        workers: processes for the protection; default: one a core.
        ready: called with the address of the page, and whether another program serves it already.

    Raises:
        OSError: the port is taken.
    """
    import uvicorn

    folder = private_directory("app")
    tell = ready or (lambda address, running: None)
    try:
        with locked(folder / "lock", wait=False):
            address = folder / "address"
            if running := _answers(address):  # where there are no locks
                tell(running, True)
                return
            with listening_at(HOST, port) as listening:
                studio = Studio(Home(key_path), private_directory("app", "work"), workers)
                page = Page(studio)
                guard = Guard(page.app(), listening.getsockname()[1])
                server = uvicorn.Server(uvicorn.Config(guard, **SERVER))
                page.quit = lambda: setattr(server, "should_exit", True)
                with replacing(address) as temporary:
                    temporary.write_text(guard.address)
                try:
                    end_with(page.quit)
                    tell(guard.address, False)
                    server.run(sockets=[listening])
                finally:
                    address.unlink(missing_ok=True)
                    studio.close()
    except BlockingIOError:
        tell(_answers(folder / "address"), True)


@contextlib.contextmanager
def listening_at(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens already: the browser may be quicker than the server.

    Raises:
        UsageError: the port is taken, or this computer has no such address.
    """
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                raise UsageError(f"this computer has no address {host}: 0.0.0.0 stands for all that it has") from None
            if error.errno != errno.EADDRINUSE:
                raise
            raise UsageError(f"port {port} is taken by another program: name another one with --port") from None
        listening.listen()
        yield listening


def end_with(quit: Callable[[], None]) -> None:
    """End in good order when the window of the program is closed, or when it is told to end."""
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), lambda *_: quit())


def _answers(path: Path) -> str:
    """The address of the program that serves the page already; empty where there is none."""
    try:
        address = read_regular(path, MOST_KEY).decode()
        with build_opener(ProxyHandler({})).open(f"{address}state", timeout=2) as answer:
            return address if answer.status == 200 else ""
    except (OSError, ValueError):
        return ""


def _parsed(body: bytes) -> dict[str, Any]:
    """What a button sends.

    Raises:
        UsageError: something else, as no page of ours sends it.
    """
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise UsageError("this is not understood")
    return given


def _whole(given: dict[str, Any], name: str) -> int:
    value = given.get(name, 0)
    if not isinstance(value, int) or value < 0:
        raise UsageError("this is not understood")
    return value
