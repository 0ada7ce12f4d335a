"""``unlearnable cache``: the noise that fits have left."""

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

from ..errors import UsageError
from . import say

DAMAGED = 1
SHOWN = 12  # digits of a fit's name: enough to tell them apart


def add_to(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "cache",
        help="list, check, remove and move the noise of fits",
        description="The noise of fits lies in the folder UNLEARNABLE_TRANSFORMS_CACHE, or in the platform's cache "
        "folder. It is as secret as the key.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    name = {"metavar": "NAME", "help": "the first digits of the name that `cache ls` shows"}
    actions.add_parser("ls", help="list the fits").set_defaults(run=list_fits)
    actions.add_parser("verify", help="compare everything with its checksums").set_defaults(run=verify)
    remove = actions.add_parser("rm", help="remove a fit")
    remove.add_argument("name", **name)
    remove.set_defaults(run=remove_fit)
    copy = actions.add_parser("export", help="copy a fit to a new folder")
    copy.add_argument("name", **name)
    copy.add_argument("folder", type=Path, metavar="FOLDER")
    copy.set_defaults(run=export)
    take = actions.add_parser("import", help="take a fit that was exported")
    take.add_argument("folder", type=Path, metavar="FOLDER")
    take.set_defaults(run=import_fit)


def list_fits(args: argparse.Namespace) -> None:
    """One line a fit."""
    from ..noise.cache import Entry, list_folders, read_address
    from ..noise.table import NoiseError

    for folder in list_folders():
        try:
            entry, address = Entry(folder), read_address(folder.parent)
        except NoiseError as error:
            say(f"{folder.name[:SHOWN]}  damaged: {error}")
            continue
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.manifest["created"]))
        say(
            f"{folder.name[:SHOWN]}  {address['method']:5}  key {address['key_fingerprint']}  {entry.rows:8} pictures  "
            f"{entry.bytes / 1e6:8.1f} MB  {day}"
        )


def verify(args: argparse.Namespace) -> int:
    """Read every fit.

    Returns:
        The exit code: 1 if one is damaged.
    """
    from ..noise.cache import Entry, list_folders
    from ..noise.table import NoiseError

    code = 0
    for folder in list_folders():
        try:
            Entry(folder).verify()
            say(f"{folder.name[:SHOWN]}  good")
        except NoiseError as error:
            say(f"{folder.name[:SHOWN]}  damaged: {error}")
            code = DAMAGED
    return code


def remove_fit(args: argparse.Namespace) -> None:
    """Remove a fit; the pictures that were protected with it stay as they are."""
    from ..noise.cache import find_folder

    folder = find_folder(args.name)
    shutil.rmtree(folder)
    say(f"Removed {folder.name}.")


def export(args: argparse.Namespace) -> None:
    """Copy a fit."""
    from ..jobs.journal import lies_in_output
    from ..noise.cache import export_noise

    if lies_in_output(args.folder):
        raise UsageError(f"{args.folder} lies in a folder of protected images, which gets published: name another one")
    say(f"Wrote {export_noise(args.name, args.folder)}. It is as secret as the key.")


def import_fit(args: argparse.Namespace) -> None:
    """Take a fit."""
    from ..noise.cache import import_noise

    say(f"Took {import_noise(args.folder).folder.name}.")
