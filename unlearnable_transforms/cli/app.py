"""``unlearnable app``: the page in the browser, for those who would rather not type commands."""

import argparse
from pathlib import Path
from typing import Any

from ..app.guard import HOST
from ..errors import UsageError
from . import say
from .method import count

MISSING = (
    "the page needs two packages that are not installed: pip install 'unlearnable-transforms[app]', "
    "or pip install 'starlette>=0.46' 'uvicorn>=0.34'"
)


def add_to(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "app",
        help="protect photographs on a page in the browser",
        description="Open a page in the browser to choose, look at and protect photographs. It is served to this "
        "computer alone, and nothing is sent anywhere. Ctrl-C ends it.",
    )
    add = parser.add_argument
    add(
        "--demo",
        action="store_true",
        help="a demonstration for visitors from elsewhere, each with a key that is thrown away, and with limits",
    )
    add("--host", default=HOST, metavar="ADDRESS", help="with --demo: 0.0.0.0 lets other computers in")
    add("--key", type=Path, metavar="FILE", help="private key (default: one in your configuration folder, made once)")
    add("--port", type=count, default=0, metavar="N", help="of the server (default: a free one; with --demo 7860)")
    add("--workers", type=count, metavar="N", help="processes (default: one a core; with --demo 1)")
    add("--no-browser", action="store_true", help="print the address, and open no browser")
    parser.set_defaults(run=run, resume="; what was not finished goes on when you choose the same folder again")


def run(args: argparse.Namespace) -> None:
    """Serve the page until it is closed."""
    if args.demo and args.key:
        raise UsageError("a demonstration makes keys of its own, which are thrown away: leave out --key")
    if not args.demo and args.host != HOST:
        raise UsageError(
            f"--host {args.host} would show your private key and your pictures to others: the page is served to this "
            "computer alone. For a demonstration with keys that are thrown away, add --demo"
        )
    try:
        from ..app.server import serve
        from ..app.visitors import serve_demo
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn", "anyio"):
            raise
        raise UsageError(MISSING) from None

    def ready_demo(address: str) -> None:
        say("The demonstration is open:", f"  {address}")
        say("Each visitor gets a key of their own, which is thrown away. Ctrl-C ends it, and removes everything.")
        if args.host == HOST and not args.no_browser:
            _open(address)

    if args.demo:
        serve_demo(args.host, args.port or 7860, args.workers or 1, ready=ready_demo)
        return

    def ready(address: str, running: bool) -> None:
        if not address:
            say("the page is being opened by another program: try again in a moment", error=True)
            return
        say("The page is open already:" if running else "The page is open, on this computer alone:", f"  {address}")
        if not running:
            say("Keep this window open while you use it. Ctrl-C, or “Close” on the page, ends it.")
        if not args.no_browser:
            _open(address)

    serve(args.key, args.port, args.workers, ready)


def _open(address: str) -> None:
    import webbrowser

    if not webbrowser.open(address):
        say("no browser could be started: copy the address into one", error=True)
