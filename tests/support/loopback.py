"""A Hub on this machine that takes uploads: as much of the protocol as publishing and loading need, all in memory.

It checks our calls, not the Hub's rules.
"""

import base64
import fnmatch
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub
import pytest

LARGE = ("*.parquet", "*.png", "*.jpg", "*.webp")  # goes by LFS
IGNORED = ""  # what a .gitignore would leave out


@dataclass
class Repo:
    """A data set: commits are (parent, {path: content}), refs name them."""

    visibility: str | None = None
    gated: object = False
    commits: dict[str, tuple[str | None, dict[str, bytes]]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)  # those of refs that are no branches

    def commit(self, ref: str, files: dict[str, bytes], parent: str | None) -> str:
        name = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[name] = parent, files
        self.refs[ref] = name
        return name

    def find(self, revision: str) -> str | None:
        return self.refs.get(revision) or (revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Path -> content."""
        return self.commits[self.find(revision)][1]


class Loopback(ThreadingHTTPServer):
    """The server. ``received`` has every body that was sent to it, ``fail`` makes it answer 500 to requests like this.

    Attributes:
        repos: name -> data set.
        received: (method, path, body) of each request.
        fail: a regular expression for "METHOD path", or None.
    """

    daemon_threads = True

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        self.received: list[tuple[str, str, bytes]] = []
        self.fail: str | None = None
        super().__init__(("127.0.0.1", 0), _Answers)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def sent(self) -> bytes:
        """Every byte that was sent, with the names of the requests; what is base64 in JSON is there decoded, too."""
        parts = [f"{method} {path}\n".encode() + body for method, path, body in self.received]
        for _, _, body in self.received:
            parts += [base64.b64decode(text) for text in re.findall(rb'"content": ?"([A-Za-z0-9+/=]+)"', body)]
        return b"\n".join(parts)

    def paths(self, method: str) -> list[str]:
        """The paths of the requests of one method."""
        return [path for known, path, _ in self.received if known == method]

    def environment(self, home: Path) -> dict[str, str]:
        """For a process that is to use this Hub, as a stranger without a token."""
        return {
            "HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home), "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }  # fmt: skip


class _Answers(BaseHTTPRequestHandler):
    server: Loopback
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        self.body = self._read()
        parts = urlsplit(self.path)
        path, self.query = unquote(parts.path), parse_qs(parts.query)
        self.server.received.append((self.command, path, self.body))
        if self.server.fail and re.search(self.server.fail, f"{self.command} {path}"):
            return self._answer(400, {"error": "this Hub was told to fail"})
        for pattern, answer in _ROUTES:
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                names = match.groupdict()
                repo = self.server.repos.get(names.get("repo", ""))
                if "repo" in names and repo is None:
                    return self._answer(404, {"error": "Repository not found"}, error="RepoNotFound")
                return answer(self, repo, **names)
        return self._answer(404, {"error": "Not found"}, error="EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(
        self, code: int, value: object = None, *, data: bytes | None = None, error: str = "", **headers
    ) -> None:
        data = json.dumps(value).encode() if data is None else data
        self.send_response(code)
        if value is not None:
            self.send_header("Content-Type", "application/json")
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        if error:
            self.send_header("X-Error-Code", error)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        """Nothing: the test's output is its own."""

    # ---- answers: one method a route

    def create(self, _: None) -> None:
        wanted = json.loads(self.body)
        name = f"{wanted.get('organization') or 'user'}/{wanted['name']}"
        if name in self.server.repos:
            return self._answer(409, {"error": "You already created it", "url": f"{self.server.url}/datasets/{name}"})
        repo = self.server.repos[name] = Repo(_visibility(wanted))
        repo.commit("main", {".gitattributes": b"*.parquet filter=lfs\n"}, None)
        return self._answer(200, {"url": f"{self.server.url}/datasets/{name}", "name": name})

    def settings(self, found: Repo, repo: str) -> None:
        wanted = json.loads(self.body)
        found.gated = wanted.get("gated", found.gated)
        found.visibility = _visibility(wanted) or found.visibility
        self._answer(200, {})

    def refs(self, found: Repo, repo: str) -> None:
        kinds: dict[str, list] = {"branches": [], "tags": [], "converts": [], "pullRequests": []}
        for name, commit in found.refs.items():
            kind = "pullRequests" if name.startswith("refs/pr/") else "tags" if name in found.tags else "branches"
            ref = name if kind == "pullRequests" else f"refs/{'tags' if kind == 'tags' else 'heads'}/{name}"
            kinds[kind].append({"name": name, "ref": ref, "targetCommit": commit})
        self._answer(200, kinds)

    def commits(self, found: Repo, repo: str, revision: str) -> None:
        rows, commit = [], found.find(revision)
        while commit is not None:
            rows.append({"id": commit, "authors": [], "date": "2026-11-24T00:00:00.000Z", "title": "t", "message": ""})
            commit = found.commits[commit][0]
        self._answer(200, rows)

    def tree(self, found: Repo, repo: str, revision: str, path: str | None = None) -> None:
        commit = found.find(revision)
        if commit is None:
            return self._answer(404, {"error": "Invalid rev id"}, error="RevisionNotFound")
        top = f"{path}/" if path else ""
        names = [name for name in sorted(found.files(commit)) if name.startswith(top)]
        if path and not names:
            return self._answer(404, {"error": "no such folder"}, error="EntryNotFound")
        folders = {str(folder) for name in names for folder in PurePosixPath(name).parents} - {".", path}
        rows = [{"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in sorted(folders)]
        rows += [_row(name, found.files(commit)[name]) for name in names]
        if self.query.get("recursive", ["false"])[0].lower() not in ("1", "true"):
            rows = [row for row in rows if "/" not in row["path"].removeprefix(top)]
        return self._answer(200, rows)

    def about(self, found: Repo, repo: str, revision: str | None) -> None:
        commit = found.find(revision or "main")
        if commit is None:
            return self._answer(404, {"error": "Invalid rev id"}, error="RevisionNotFound")
        private = found.visibility == "private"
        return self._answer(
            200,
            {
                "id": repo, "sha": commit, "private": private, "gated": found.gated, "disabled": False, "tags": [],
                "downloads": 0, "likes": 0, "siblings": [{"rfilename": name} for name in found.files(commit)],
            },
        )  # fmt: skip

    def branch(self, found: Repo, repo: str, revision: str) -> None:
        if revision in found.refs:
            return self._answer(409, {"error": "exists"})
        found.refs[revision] = found.refs["main"]
        return self._answer(200, {})

    def preupload(self, found: Repo, repo: str, revision: str) -> None:
        answers = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if any(fnmatch.fnmatch(file["path"], kind) for kind in LARGE) else "regular",
                "shouldIgnore": fnmatch.fnmatch(file["path"], IGNORED),
            }
            for file in json.loads(self.body)["files"]
        ]
        self._answer(200, {"files": answers})

    def batch(self, found: Repo, repo: str) -> None:
        rows = []
        for wanted in json.loads(self.body)["objects"]:
            row = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.server.large:
                row["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{wanted['oid']}"}}
            rows.append(row)
        self._answer(200, {"transfer": "basic", "objects": rows})

    def put(self, _: None, oid: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.server.large[oid] = self.body
        self._answer(200, {})

    def validate(self, _: None) -> None:
        self._answer(200, {"errors": [], "warnings": []})

    def commit(self, found: Repo, repo: str, revision: str) -> None:
        parent = found.refs[revision]
        files = dict(found.files(parent))
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        pull = "create_pr" in self.query
        commit = found.commit(f"refs/pr/{len(found.refs)}" if pull else revision, files, parent)
        url = f"{self.server.url}/datasets/{repo}"
        self._answer(
            200,
            {"commitUrl": f"{url}/commit/{commit}", "commitOid": commit, "pullRequestUrl": f"{url}/discussions/1"},
        )

    def squash(self, found: Repo, repo: str, revision: str) -> None:
        files = found.files(revision)
        found.commits.clear()
        found.commit(revision, files, None)
        self._answer(200, {})

    def resolve(self, found: Repo, repo: str, revision: str, path: str) -> None:
        commit = found.find(revision)
        if commit is None:
            return self._answer(404, {}, error="RevisionNotFound")
        data = found.files(commit).get(path)
        if data is None:
            return self._answer(404, {}, error="EntryNotFound", X_Repo_Commit=commit)
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        return self._answer(200, data=data, ETag=etag, X_Repo_Commit=commit)


_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
_API = rf"/api/datasets/{_REPO}"
_REVISION = r"(?P<revision>refs/pr/\d+|[^/]+)"
_ROUTES = [
    (r"POST /api/repos/create", _Answers.create),
    (rf"PUT {_API}/settings", _Answers.settings),
    (rf"GET {_API}/refs", _Answers.refs),
    (rf"GET {_API}/commits/{_REVISION}", _Answers.commits),
    (rf"GET {_API}/tree/{_REVISION}(?:/(?P<path>.+))?", _Answers.tree),
    (rf"GET {_API}(?:/revision/{_REVISION})?", _Answers.about),
    (rf"POST {_API}/branch/{_REVISION}", _Answers.branch),
    (rf"POST {_API}/preupload/{_REVISION}", _Answers.preupload),
    (rf"POST {_API}/commit/{_REVISION}", _Answers.commit),
    (rf"POST {_API}/super-squash/{_REVISION}", _Answers.squash),
    (rf"POST /datasets/{_REPO}\.git/info/lfs/objects/batch", _Answers.batch),
    (r"PUT /lfs/(?P<oid>[0-9a-f]{64})", _Answers.put),
    (r"POST /api/validate-yaml", _Answers.validate),
    (rf"(?:GET|HEAD) /datasets/{_REPO}/resolve/{_REVISION}/(?P<path>.+)", _Answers.resolve),
]  # fmt: skip


def _visibility(wanted: dict) -> str | None:
    """As newer and older clients say it."""
    named = {True: "private", False: "public"}.get(wanted.get("private"))
    return wanted.get("visibility", named)


def _row(name: str, data: bytes) -> dict:
    """A file in a tree, as the Hub lists it."""
    row = {"type": "file", "path": name, "size": len(data)}
    if any(fnmatch.fnmatch(name, kind) for kind in LARGE):
        return {
            **row,
            "oid": "0" * 40,
            "lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130},
        }
    return {**row, "oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}


@contextmanager
def loopback(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    """A Hub that runs while the block does, and that huggingface_hub in this process talks to."""
    constants = huggingface_hub.constants
    with Loopback() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        for module in (constants, huggingface_hub.file_download):  # older clients have a copy in the second
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)  # not in the oldest
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "a-token-for-nobody")
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        yield server
        server.shutdown()
