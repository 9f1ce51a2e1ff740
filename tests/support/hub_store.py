"""Repositories of the loopback Hub: content-addressed blobs, commits with history, branches and tags."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from typing import Any


class HubError(Exception):
    """A request that the Hub refuses: HTTP status and the code of the `X-Error-Code` header."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Entry:
    """One file of a commit."""

    sha256: str
    size: int
    oid: str
    lfs: bool


@dataclass(frozen=True)
class Commit:
    """One revision of a repository."""

    oid: str
    parent: str
    title: str
    files: dict[str, Entry]


@dataclass
class Repo:
    """One repository; `commits` is in the order of creation."""

    kind: str
    name: str
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def resolve(self, revision: str) -> Commit:
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        if oid not in self.commits:
            raise HubError(404, "RevisionNotFound", f"no revision {revision!r} in {self.name}")
        return self.commits[oid]

    def history(self, revision: str) -> list[Commit]:
        commits = [self.resolve(revision)]
        while commits[-1].parent:
            commits.append(self.commits[commits[-1].parent])
        return commits


class HubStore:
    """All repositories in memory, limited to `max_bytes` of blobs; safe to use from several threads."""

    def __init__(self, max_bytes: int = 256 * 2**20) -> None:
        self.max_bytes = max_bytes
        self.lock = threading.RLock()
        self.blobs: dict[str, bytes] = {}
        self.repos: dict[tuple[str, str], Repo] = {}

    def repo(self, kind: str, name: str) -> Repo:
        try:
            return self.repos[kind, name]
        except KeyError:
            raise HubError(404, "RepoNotFound", f"no {kind} repository {name}") from None

    def create(self, kind: str, name: str) -> Repo:
        with self.lock:
            if (kind, name) in self.repos:
                raise HubError(409, "", f"{name} exists")
            repo = self.repos[kind, name] = Repo(kind, name)
            self._append(repo, "main", "initial commit", {})
            return repo

    def put_blob(self, content: bytes) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        with self.lock:
            if sum(map(len, self.blobs.values())) + len(content) > self.max_bytes:
                raise HubError(413, "", f"the store holds at most {self.max_bytes} bytes")
            self.blobs[sha256] = content
        return sha256

    def commit(self, repo: Repo, branch: str, lines: list[dict]) -> Commit:
        """Apply the parsed NDJSON lines of the commit endpoint on top of a branch."""
        with self.lock:
            head = repo.resolve(branch)
            files = dict(head.files)
            title = ""
            for line in lines:
                value = line["value"]
                match line["key"]:
                    case "header":
                        title = value["summary"]
                        if value.get("parentCommit", head.oid) != head.oid:
                            raise HubError(412, "", f"{branch} is at {head.oid}, not at {value['parentCommit']}")
                    case "file":
                        files[value["path"]] = self._entry(self.put_blob(value["content"]), lfs=False)
                    case "lfsFile":
                        if value["oid"] not in self.blobs:
                            raise HubError(400, "", f"the object of {value['path']} was not uploaded")
                        files[value["path"]] = self._entry(value["oid"], lfs=True)
                    case "deletedFile":
                        files.pop(value["path"])
                    case "deletedFolder":
                        files = {path: entry for path, entry in files.items() if not path.startswith(value["path"])}
                    case key:
                        raise HubError(400, "", f"unknown commit operation {key!r}")
            return self._append(repo, branch, title, files)

    def _append(self, repo: Repo, branch: str, title: str, files: dict[str, Entry]) -> Commit:
        parent = repo.branches.get(branch, "")
        oid = hashlib.sha1(repr((repo.kind, repo.name, parent, title, sorted(files.items()))).encode()).hexdigest()  # noqa: S324 - git object ids are SHA-1
        commit = repo.commits[oid] = Commit(oid, parent, title, files)
        repo.branches[branch] = oid
        return commit

    def _entry(self, sha256: str, *, lfs: bool) -> Entry:
        content = self.blobs[sha256]
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324 - git object ids are SHA-1
        return Entry(sha256, len(content), oid, lfs)

    def files(self, kind: str, name: str, revision: str = "main") -> dict[str, str]:
        """Return path to sha256 of every file of a revision."""
        return {path: entry.sha256 for path, entry in self.repo(kind, name).resolve(revision).files.items()}


def listing(commit: Commit, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    """List the files and directories below `folder` in the form of the tree endpoint."""
    prefix = f"{folder}/" if folder else ""
    items: dict[str, dict[str, Any]] = {}
    for path, entry in sorted(commit.files.items()):
        if not path.startswith(prefix):
            continue
        names = path.removeprefix(prefix).split("/")
        for depth in range(1, len(names) if recursive else min(len(names), 2)):
            directory = prefix + "/".join(names[:depth])
            oid = hashlib.sha1(directory.encode()).hexdigest()  # noqa: S324 - git object ids are SHA-1
            items[directory] = {"type": "directory", "path": directory, "oid": oid, "size": 0}
        if recursive or len(names) == 1:
            items[path] = {"type": "file", "path": path, "size": entry.size, "oid": entry.oid}
            if entry.lfs:
                items[path]["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": 135}
    return list(items.values())
