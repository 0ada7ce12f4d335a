"""What may reach the local server: the page that this program opened, and no other page of the browser.

A web page can send requests to any address of this computer, and by a name that it controls even read the answers. So
every request must name this server as its host, carry the secret part of the address, and come from our own page.
"""

import secrets
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import unquote

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HOST = "127.0.0.1"
READS = ("GET", "HEAD")
REFUSED_BYTES = 1 << 20
CLOSED = (
    "This address is not complete. Open the one that the program printed when it started, or start `unlearnable app` "
    "again."
)
HEADERS = {
    "Cache-Control": "no-store",  # the browser keeps no photograph on the disk
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """ASGI middleware: refuses what does not come from our own page, and forbids the browser all other addresses.

    Args:
        app: gets the requests that pass, without the secret part of their path.
        port: of the server.
        token: the secret part of the address, which begins the path; default: a new one.
    """

    def __init__(self, app: App, port: int, token: str | None = None) -> None:
        self.app, self.port = app, port
        self.token = token or secrets.token_urlsafe(24)
        self.hosts = {f"{name}:{port}" for name in (HOST, "localhost")}

    @property
    def address(self) -> str:
        """Of the page, with the secret part."""
        return f"http://{HOST}:{self.port}/{self.token}/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        first, slash, rest = scope["path"].removeprefix("/").partition("/")
        if not self._passes(scope, first):
            await read_some(receive)
            await answer(with_headers(send), 403, CLOSED)
        elif not slash:
            await answer(with_headers(send), 307, "", {"Location": self.address})
        else:
            inner = {**scope, "path": f"/{rest}", "raw_path": f"/{rest}".encode(), "root_path": ""}
            await self.app(inner, receive, with_headers(send))

    def _passes(self, scope: Scope, token: str) -> bool:
        hosts = values_of(scope, "host")
        if len(hosts) != 1 or hosts[0] not in self.hosts or not is_own(scope, [f"http://{hosts[0]}"]):
            return False
        return secrets.compare_digest(unquote(token).encode(), self.token.encode())


def values_of(scope: Scope, header: str) -> list[str]:
    """What a request says in a header, which may be there more than once."""
    return [value.decode("latin-1") for name, value in scope["headers"] if name.decode("latin-1").lower() == header]


def is_own(scope: Scope, own: Collection[str]) -> bool:
    """Whether a request comes from a page of ours, and not from another one that the browser shows.

    Args:
        scope: of the request.
        own: origins of our pages, such as ``http://127.0.0.1:8000``.
    """
    origins = values_of(scope, "origin")
    if any(site not in ("same-origin", "none") for site in values_of(scope, "sec-fetch-site")):
        return False
    if any(origin not in own for origin in origins):
        return False
    return scope["method"] in READS or bool(origins)  # browsers always send it with the others


def with_headers(send: Send, headers: dict[str, str] = HEADERS) -> Send:
    """``send`` with headers that stand in every answer; of each name, ours alone."""

    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            ours = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
            names = {name for name, _ in ours}
            theirs = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in names]
            message = {**message, "headers": [*theirs, *ours]}
        await send(message)

    return sending


async def read_some(receive: Receive) -> None:
    """Read what a refused request sends, up to a bound: else its answer may be lost when the connection is closed."""
    size, more = 0, True
    while more and size < REFUSED_BYTES:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)


async def answer(send: Send, status: int, text: str, headers: dict[str, str] | None = None) -> None:
    """Answer a request with text, and end its connection."""
    all_headers = {"Content-Type": "text/plain; charset=utf-8", "Connection": "close", **(headers or {})}
    encoded = [(name.lower().encode(), value.encode()) for name, value in all_headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": text.encode()})
