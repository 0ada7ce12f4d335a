"""What may reach the local server: the page that this program opened, and no other page of the browser.

A web page can send requests to any address of this computer, and by a name that it controls even read the answers. So
every request must name this server as its host, carry the secret part of the address, and come from our own page.
"""

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
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
            await _read_some(receive)
            await _answer(send, 403, CLOSED)
        elif not slash:
            await _answer(send, 307, "", {"Location": self.address})
        else:
            inner = {**scope, "path": f"/{rest}", "raw_path": f"/{rest}".encode(), "root_path": ""}
            await self.app(inner, receive, _with_headers(send))

    def _passes(self, scope: Scope, token: str) -> bool:
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        hosts = [value for name, value in headers if name == "host"]
        origins = [value for name, value in headers if name == "origin"]
        sites = [value for name, value in headers if name == "sec-fetch-site"]
        if len(hosts) != 1 or hosts[0] not in self.hosts:
            return False
        if any(site not in ("same-origin", "none") for site in sites):
            return False
        if any(origin != f"http://{hosts[0]}" for origin in origins):
            return False
        if scope["method"] not in READS and not origins:  # browsers always send it with these
            return False
        return secrets.compare_digest(unquote(token).encode(), self.token.encode())


def _with_headers(send: Send) -> Send:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            ours = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
            names = {name for name, _ in ours}
            theirs = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in names]
            message = {**message, "headers": [*theirs, *ours]}
        await send(message)

    return sending


async def _read_some(receive: Receive) -> None:
    """Read what a refused request sends, up to a bound: else its answer may be lost when the connection is closed."""
    size, more = 0, True
    while more and size < REFUSED_BYTES:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)


async def _answer(send: Send, status: int, text: str, headers: dict[str, str] | None = None) -> None:
    all_headers = {"Content-Type": "text/plain; charset=utf-8", "Connection": "close", **(headers or {})}
    sending = _with_headers(send)
    encoded = [(name.lower().encode(), value.encode()) for name, value in all_headers.items()]
    await sending({"type": "http.response.start", "status": status, "headers": encoded})
    await sending({"type": "http.response.body", "body": text.encode()})
