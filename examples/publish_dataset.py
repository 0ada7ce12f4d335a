"""Protect a set and publish it: into a folder to look at, or on the Hub where a name and a token are given.

python examples/publish_dataset.py                                   # digits, into a folder, offline
python examples/publish_dataset.py cifar10                           # a set of the Hub, into a folder
HF_TOKEN=... python examples/publish_dataset.py cifar10 user/name    # and to the Hub, as a private repository
"""

import os
import sys
import tempfile
from pathlib import Path

from samples import HUB, load

import unlearnable_transforms as ut


def main(name: str = "digits", repo: str | None = None) -> None:
    train, _ = load(name, rows=200)
    if name == "digits":
        master = ut.Key.generate()
    else:
        if not os.path.exists("my.key"):
            ut.Key.generate().save("my.key")  # the only copy: back it up
        master = ut.Key.load("my.key")
    key = master.derive(repo or "user/name")  # one key a release

    poison = ut.CUDAPoison(key=key)
    protected = ut.protect(train, poison)
    public = name in HUB  # everybody has the originals of those: such a release is for study, and the card says so
    if repo and os.environ.get("HF_TOKEN"):
        published = ut.publish(protected, repo, poison=poison, originals_public=public, private=True)
        print("Look at", published.url)
        return
    if repo:
        print("HF_TOKEN is not set: into a folder instead")
    folder = Path(tempfile.mkdtemp(), "ready")
    published = ut.publish(protected, repo or "user/name", poison=poison, originals_public=public, folder=folder)
    print("coverage:", published.coverage)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            print(f"{path.stat().st_size:9,} bytes  {path.relative_to(folder)}")
    print("Look at", folder)


if __name__ == "__main__":
    main(*sys.argv[1:3])
