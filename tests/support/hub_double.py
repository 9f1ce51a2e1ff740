"""A Hugging Face Hub on loopback, for tests: the endpoints that push and pull use, over `hub_store`.

Nothing is mocked on the client's side: a process that has `HubDouble.environment(...)` in its environment before it
imports huggingface_hub talks real HTTP to this server.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub_store import HubError, HubStore, Repo, listing


USER = "tester"
# The Hub stores these through LFS whatever their size; a parquet shard answered as "regular" would be lost, because
# `Dataset.push_to_hub` deletes its temporary file after the upload.
LFS_SUFFIXES = (".safetensors", ".parquet", ".arrow", ".bin", ".png", ".gz", ".zip")

_KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
_REPO = r"(?P<name>[\w.-]+/[\w.-]+)"
_API = rf"/api/(?P<kinds>models|datasets|spaces)/{_REPO}"
_FILES = rf"/(?:(?P<kinds>datasets|spaces)/)?{_REPO}"
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class HubDouble:
    """The server; `store` holds what was pushed and `requests` what was asked."""

    def __init__(self) -> None:
        self.store = HubStore()
        self.requests: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.hub = self  # type: ignore[attr-defined]
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def push(self, kind: str, name: str, folder: Path) -> None:
        """Put the files of a folder in a new repository, without a client."""
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": "upload"}}]
        lines += [{"key": "file", "value": {"path": path, "content": content}} for path, content in files.items()]
        self.store.commit(self.store.create(kind, name), "main", lines)

    def environment(self, hf_home: Path) -> dict[str, str]:
        """Return the environment of a client process with its own cache and no way around the double."""
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.upper().endswith("_PROXY") and not key.startswith("HF_")
        }
        return environment | {
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": "hf_loopback",
            "HF_HOME": str(hf_home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": "1",
        }


@contextmanager
def running_hub() -> Iterator[HubDouble]:
    """Serve a Hub double on a free loopback port."""
    hub = HubDouble()
    thread = threading.Thread(target=hub._server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub._server.shutdown()
        hub._server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> HubDouble:
        return self.server.hub  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: Any) -> None:
        self.hub.requests.append(format % args)

    def do_GET(self) -> None:
        self._dispatch()

    def do_HEAD(self) -> None:
        self._dispatch()

    def do_POST(self) -> None:
        self._dispatch()

    def do_PUT(self) -> None:
        self._dispatch()

    def do_DELETE(self) -> None:
        self._dispatch()

    def _dispatch(self) -> None:
        body = self._read_body()
        url = urlsplit(self.path)
        method = "GET" if self.command == "HEAD" else self.command
        try:
            for route_method, pattern, function in _ROUTES:
                match = re.fullmatch(pattern, url.path)
                if match and method == route_method:
                    parts = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                    function(self, parts, body, parse_qs(url.query))
                    return
            raise HubError(404, "", f"the double has no route for {self.command} {url.path}")
        except HubError as error:
            headers = {"X-Error-Code": error.code} if error.code else {}
            self._send(error.status, json.dumps({"error": str(error)}).encode(), headers)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def repo(self, parts: dict[str, str]) -> Repo:
        return self.hub.store.repo(_KINDS[parts.get("kinds", "models")], parts["name"])


def _whoami(handler: _Handler, parts: dict[str, str], body: bytes, query: dict[str, list[str]]) -> None:
    token = {"accessToken": {"role": "write", "displayName": "loopback"}, "type": "access_token"}
    handler.json({"type": "user", "name": USER, "orgs": [], "auth": token})


def _validate_yaml(handler: _Handler, parts: dict[str, str], body: bytes, query: dict[str, list[str]]) -> None:
    handler.json({"errors": [], "warnings": []})


def _create(handler: _Handler, parts: dict[str, str], body: bytes, query: dict[str, list[str]]) -> None:
    payload = json.loads(body)
    kind = payload.get("type") or "model"
    name = f"{payload.get('organization') or USER}/{payload['name']}"
    prefix = "" if kind == "model" else f"{kind}s/"
    url = f"{handler.hub.endpoint}/{prefix}{name}"
    try:
        handler.hub.store.create(kind, name)
    except HubError as error:
        handler.json({"url": url, "name": name, "error": str(error)}, error.status)
        return
    handler.json({"url": url, "name": name, "id": name})


def _preupload(handler: _Handler, parts: dict[str, str], body: bytes, query: dict[str, list[str]]) -> None:
    files = handler.repo(parts).resolve(parts["revision"]).files
    answers = []
    for file in json.loads(body)["files"]:
        mode = "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular"
        old = files.get(file["path"])
        answers.append(
            {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": old.oid if old else None}
        )
    handler.json({"files": answers})


def _lfs_batch(handler: _Handler, parts: dict[str, str], body: bytes, query: dict[str, list[str]]) -> None:
    handler.repo(parts)
    objects = []
    for item in json.loads(body)["objects"]:
        answer = {"oid": item["oid"], "size": item["size"]}
        if item["oid"] not in handler.hub.store.blobs:
            answer["actions"] = {"upload": {"href": f"{handler.hub.endpoint}/lfs/{item['oid']}"}}
        objects.append(answer)
    handler.json({"transfer": "basic", "objects": objects})


def _lfs_put(handler: _Handler, parts: dict[str, str], body: bytes, query: dict[str, list[str]]) -> None:
    if hashlib.sha256(body).hexdigest() != parts["oid"]:
        raise HubError(400, "", "the content does not match its object id")
    handler.hub.store.put_blob(body)
    handler._send(200, b"", {})


def _commit(handler: _Handler, parts: dict[str, str], body: bytes, query: dict[str, list[str]]) -> None:
    repo = handler.repo(parts)
    lines = [json.loads(line) for line in body.splitlines() if line.strip()]
    for line in lines:
        if line["key"] == "file":
            line["value"]["content"] = base64.b64decode(line["value"]["content"], validate=True)
    commit = handler.hub.store.commit(repo, parts["revision"], lines)
    url = f"{handler.hub.endpoint}/{repo.name}/commit/{commit.oid}"
    handler.json({"success": True, "commitOid": commit.oid, "commitUrl": url, "hookOutput": ""})


def _commits(handler: _Handler, parts: dict[str, str], body: bytes, query: dict[str, list[str]]) -> None:
    history = handler.repo(parts).history(parts["revision"])
    date = "2025-01-01T00:00:00.000Z"
    handler.json(
        [
            {"id": commit.oid, "title": commit.title, "message": "", "authors": [{"user": USER}], "date": date}
            for commit in history
        ]
    )


def _info(handler: _Handler, parts: dict[str, str], body: bytes, query: dict[str, list[str]]) -> None:
    repo = handler.repo(parts)
    commit = repo.resolve(parts.get("revision", "main"))
    siblings = [{"rfilename": path} for path in sorted(commit.files)]
    handler.json(
        {"id": repo.name, "modelId": repo.name, "sha": commit.oid, "private": False, "tags": [], "siblings": siblings}
    )


def _refs(handler: _Handler, parts: dict[str, str], body: bytes, query: dict[str, list[str]]) -> None:
    repo = handler.repo(parts)
    branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": oid} for n, oid in repo.branches.items()]
    tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": oid} for n, oid in repo.tags.items()]
    handler.json({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})


def _branch(handler: _Handler, parts: dict[str, str], body: bytes, query: dict[str, list[str]]) -> None:
    repo = handler.repo(parts)
    if parts["ref"] in repo.branches:
        raise HubError(409, "", f"branch {parts['ref']} exists")
    repo.branches[parts["ref"]] = repo.resolve(json.loads(body or b"{}").get("startingPoint", "main")).oid
    handler.json({})


def _tag(handler: _Handler, parts: dict[str, str], body: bytes, query: dict[str, list[str]]) -> None:
    repo = handler.repo(parts)
    tag = json.loads(body)["tag"]
    if tag in repo.tags:
        raise HubError(409, "", f"tag {tag} exists")
    repo.tags[tag] = repo.resolve(parts["ref"]).oid
    handler.json({})


def _tree(handler: _Handler, parts: dict[str, str], body: bytes, query: dict[str, list[str]]) -> None:
    commit = handler.repo(parts).resolve(parts["revision"])
    folder = parts.get("path", "").strip("/")
    items = listing(commit, folder, recursive=query.get("recursive", ["false"])[0].lower() in ("true", "1"))
    if folder and not items:
        raise HubError(404, "EntryNotFound", f"no folder {folder!r}")
    handler.json(items)


def _paths_info(handler: _Handler, parts: dict[str, str], body: bytes, query: dict[str, list[str]]) -> None:
    commit = handler.repo(parts).resolve(parts["revision"])
    if handler.headers.get("Content-Type", "").startswith("application/json"):
        paths = json.loads(body)["paths"]
    else:
        paths = parse_qs(body.decode()).get("paths", [])
    everything = {item["path"]: item for item in listing(commit, "", recursive=True)}
    handler.json([everything[path.strip("/")] for path in paths if path.strip("/") in everything])


def _resolve(handler: _Handler, parts: dict[str, str], body: bytes, query: dict[str, list[str]]) -> None:
    commit = handler.repo(parts).resolve(parts["revision"])
    headers = {"X-Repo-Commit": commit.oid}
    entry = commit.files.get(parts["path"])
    if entry is None:
        content = json.dumps({"error": f"no file {parts['path']!r}"}).encode()
        handler._send(404, content, headers | {"X-Error-Code": "EntryNotFound"})
        return
    content = handler.hub.store.blobs[entry.sha256]
    headers |= {"ETag": f'"{entry.sha256 if entry.lfs else entry.oid}"', "Accept-Ranges": "bytes"}
    wanted = _RANGE.fullmatch(handler.headers.get("Range", ""))
    if wanted is None:
        handler._send(200, content, headers)
        return
    start, stop = _span(wanted, len(content))
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
    handler._send(206, content[start:stop], headers)


def _span(wanted: re.Match[str], size: int) -> tuple[int, int]:
    first, last = wanted.groups()
    start = int(first) if first else max(size - int(last), 0)
    if start >= size:
        raise HubError(416, "", f"the range starts at {start}, the file has {size} bytes")
    return start, (min(int(last) + 1, size) if first and last else size)


_ROUTES = [
    ("GET", r"/api/whoami-v2", _whoami),
    ("POST", r"/api/validate-yaml", _validate_yaml),
    ("POST", r"/api/repos/create", _create),
    ("POST", rf"{_API}/preupload/(?P<revision>[^/]+)", _preupload),
    ("POST", rf"{_API}/commit/(?P<revision>[^/]+)", _commit),
    ("GET", rf"{_API}/commits/(?P<revision>[^/]+)", _commits),
    ("GET", rf"{_API}/refs", _refs),
    ("POST", rf"{_API}/branch/(?P<ref>[^/]+)", _branch),
    ("POST", rf"{_API}/tag/(?P<ref>[^/]+)", _tag),
    ("GET", rf"{_API}/tree/(?P<revision>[^/]+)(?P<path>/.*)?", _tree),
    ("POST", rf"{_API}/paths-info/(?P<revision>[^/]+)", _paths_info),
    ("GET", rf"{_API}/revision/(?P<revision>[^/]+)", _info),
    ("GET", _API, _info),
    ("POST", rf"{_FILES}\.git/info/lfs/objects/batch", _lfs_batch),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", _lfs_put),
    ("GET", rf"{_FILES}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _resolve),
]
