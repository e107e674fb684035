"""What the local Hub knows: users, repositories with commits, refs and blobs. No HTTP here."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import yaml

GITATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.bin filter=lfs diff=lfs merge=lfs -text\n"
LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".ckpt", ".npz", ".png", ".jpg", ".zip", ".pkl", ".pickle")
REGULAR_LIMIT = 10 * 1024 * 1024


class Visibility(StrEnum):
    PUBLIC = "public"
    PRIVATE = "private"


class HubFault(Exception):
    """A refusal: HTTP status, the Hub's X-Error-Code and its message."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass(frozen=True)
class Entry:
    """One file of a tree. ``claimed_size`` lets a test declare a size that the content does not have."""

    content: bytes | None
    lfs: bool
    sha256: str
    claimed_size: int | None = None

    @property
    def size(self) -> int:
        if self.claimed_size is not None:
            return self.claimed_size
        return len(self.content) if self.content is not None else 0

    @property
    def pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @property
    def blob_id(self) -> str:
        """Git's own id: of the pointer file when the content is in LFS."""
        body = self.pointer if self.lfs else (self.content or b"")
        return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    message: str
    author: str
    date: datetime
    tree: Mapping[str, Entry]


@dataclass
class Repo:
    repo_id: str
    visibility: Visibility
    created: datetime
    object_id: str = field(default_factory=lambda: secrets.token_hex(12))
    gated: str | bool = False
    granted: set[str] = field(default_factory=set)
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)
    lfs_pushed: dict[str, datetime] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        return self.repo_id.split("/")[0]

    def resolve(self, revision: str) -> Commit:
        for names in (self.branches, self.tags):
            if revision in names:
                return self.commits[names[revision]]
        if revision.startswith("refs/"):
            kind, _, name = revision.removeprefix("refs/").partition("/")
            names = self.branches if kind == "heads" else self.tags
            if name in names:
                return self.commits[names[name]]
        if revision in self.commits:
            return self.commits[revision]
        raise HubFault(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def history(self, commit: Commit) -> Iterable[Commit]:
        current: Commit | None = commit
        while current is not None:
            yield current
            current = self.commits.get(current.parent) if current.parent else None

    def card(self, commit: Commit | None = None) -> dict[str, Any]:
        readme = (commit or self.resolve("main")).tree.get("README.md")
        return front_matter(readme.content.decode("utf-8", "replace")) if readme and readme.content else {}

    def all_tags(self, card: Mapping[str, Any]) -> list[str]:
        """The card's tags and the ones the Hub derives from it."""
        tags = [str(t) for t in card.get("tags") or []]
        if card.get("library_name"):
            tags.append(str(card["library_name"]))
        if card.get("license"):
            tags.append(f"license:{card['license']}")
        bases = card.get("base_model") or []
        for base in [bases] if isinstance(bases, str) else bases:
            tags.append(f"base_model:{base}")
            if card.get("base_model_relation"):
                tags.append(f"base_model:{card['base_model_relation']}:{base}")
        return list(dict.fromkeys([*tags, "region:us"]))


def front_matter(text: str) -> dict[str, Any]:
    """The YAML block at the head of a card; {} when there is none or it does not parse."""
    if not text.startswith("---\n"):
        return {}
    block, _, _ = text[4:].partition("\n---")
    try:
        data = yaml.safe_load(block)
    except yaml.YAMLError:
        return {}
    return data if isinstance(data, dict) else {}


@dataclass(frozen=True)
class User:
    name: str
    token: str
    orgs: tuple[str, ...] = ()
    can_write: bool = True


class HubStore:
    """All state, behind one lock. Methods raise HubFault for what the real Hub refuses."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.users: dict[str, User] = {}
        self.repos: dict[str, Repo] = {}
        self.moved: dict[str, str] = {}

    # -- people --------------------------------------------------------------------------------
    def add_user(self, name: str, *, orgs: tuple[str, ...] = (), can_write: bool = True) -> User:
        user = User(name, f"hf_{secrets.token_hex(17)}", orgs, can_write)
        with self.lock:
            self.users[user.token] = user
        return user

    def authenticate(self, token: str | None) -> User | None:
        if token is None:
            return None
        user = self.users.get(token)
        if user is None:
            raise HubFault(401, "Invalid credentials in Authorization header")
        return user

    def _owns(self, user: User | None, namespace: str) -> bool:
        return user is not None and (namespace == user.name or namespace in user.orgs)

    # -- finding a repo ------------------------------------------------------------------------
    def visible(self, repo_id: str, user: User | None) -> Repo:
        repo = self.repos.get(repo_id)
        if repo is None or (repo.visibility is Visibility.PRIVATE and not self._owns(user, repo.owner)):
            if user is None:
                raise HubFault(401, "Invalid username or password.", "RepoNotFound")
            raise HubFault(404, "Repository not found", "RepoNotFound")
        return repo

    def readable(self, repo_id: str, user: User | None) -> Repo:
        """A repo whose files this user may fetch."""
        repo = self.visible(repo_id, user)
        if repo.gated and not self._owns(user, repo.owner) and (user is None or user.name not in repo.granted):
            reason = "Please log in." if user is None else "Your request to access it must be accepted first."
            raise HubFault(
                401 if user is None else 403, f"Access to model {repo_id} is restricted. {reason}", "GatedRepo"
            )
        return repo

    def writable(self, repo_id: str, user: User | None) -> Repo:
        repo = self.visible(repo_id, user)
        if user is None:
            raise HubFault(401, "Invalid username or password.")
        if not self._owns(user, repo.owner) or not user.can_write:
            raise HubFault(403, "Forbidden: you don't have the required permissions to perform this action")
        return repo

    # -- life of a repo ------------------------------------------------------------------------
    def create(self, user: User | None, namespace: str | None, name: str, visibility: Visibility) -> Repo:
        if user is None:
            raise HubFault(401, "Invalid username or password.")
        repo_id = f"{namespace or user.name}/{name}"
        if not self._owns(user, repo_id.split("/")[0]) or not user.can_write:
            raise HubFault(
                403, f'You don\'t have the rights to create a model under the namespace "{namespace or user.name}"'
            )
        if repo_id in self.repos:
            raise HubFault(409, "You already created this model repo")
        self.moved.pop(repo_id, None)
        repo = Repo(repo_id, visibility, datetime.now(UTC))
        self.repos[repo_id] = repo
        tree = {".gitattributes": Entry(GITATTRIBUTES, False, hashlib.sha256(GITATTRIBUTES).hexdigest())}
        self._commit(repo, "main", None, "initial commit", "", "system", tree)
        return repo

    def delete(self, repo_id: str, user: User | None) -> None:
        self.writable(repo_id, user)
        del self.repos[repo_id]

    def move(self, old: str, new: str, user: User | None) -> None:
        repo = self.writable(old, user)
        if not self._owns(user, new.split("/")[0]):
            raise HubFault(403, "Forbidden: you can't move a repo to this namespace")
        if new in self.repos:
            raise HubFault(409, "A repository with this name already exists")
        del self.repos[old]
        repo.repo_id = new
        self.repos[new] = repo
        self.moved.pop(new, None)
        self.moved[old] = new

    def current_name(self, repo_id: str) -> str | None:
        """Where a moved repo went, or None."""
        target = self.moved.get(repo_id)
        while target is not None and target in self.moved:
            target = self.moved[target]
        return target if repo_id not in self.repos else None

    # -- commits -------------------------------------------------------------------------------
    def _commit(
        self,
        repo: Repo,
        branch: str,
        parent: str | None,
        title: str,
        message: str,
        author: str,
        tree: Mapping[str, Entry],
    ) -> Commit:
        date = datetime.now(UTC)
        body = {p: e.blob_id for p, e in sorted(tree.items())}
        oid = hashlib.sha1(json.dumps([parent, title, message, author, date.isoformat(), body]).encode()).hexdigest()
        commit = Commit(oid, parent, title, message, author, date, dict(tree))
        repo.commits[oid] = commit
        repo.branches[branch] = oid
        return commit

    def preupload(self, repo: Repo, branch: str, files: list[dict[str, Any]]) -> list[dict[str, Any]]:
        tree = repo.resolve(branch).tree
        out = []
        for item in files:
            path, size = item["path"], int(item["size"])
            lfs = path.lower().endswith(LFS_SUFFIXES) or size > REGULAR_LIMIT
            entry = tree.get(path)
            oid = None if entry is None else (entry.sha256 if entry.lfs else entry.blob_id)
            out.append({"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": oid})
        return out

    def put_lfs(self, repo: Repo, oid: str, data: bytes) -> None:
        if hashlib.sha256(data).hexdigest() != oid:
            raise HubFault(400, "The object's content does not match its oid")
        repo.lfs[oid] = data
        repo.lfs_pushed.setdefault(oid, datetime.now(UTC))

    def commit(
        self, repo: Repo, branch: str, header: Mapping[str, Any], lines: list[dict[str, Any]], user: User
    ) -> Commit:
        if branch not in repo.branches:
            raise HubFault(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        head = repo.commits[repo.branches[branch]]
        parent = header.get("parentCommit")
        if parent is not None and parent != head.oid:
            raise HubFault(412, "A commit has happened since. Please refresh and try again.")
        tree = dict(head.tree)
        for line in lines:
            self._apply(repo, tree, line["key"], line["value"])
        return self._commit(
            repo, branch, head.oid, str(header["summary"]), str(header.get("description", "")), user.name, tree
        )

    def _apply(self, repo: Repo, tree: dict[str, Entry], key: str, value: Mapping[str, Any]) -> None:
        path = str(value["path"])
        if key == "file":
            data = base64.b64decode(value["content"])
            tree[path] = Entry(data, False, hashlib.sha256(data).hexdigest())
        elif key == "lfsFile":
            oid = str(value["oid"])
            if oid not in repo.lfs:
                raise HubFault(400, f"LFS pointer pointed to a file that does not exist: {path}")
            tree[path] = Entry(repo.lfs[oid], True, oid)
        elif key == "deletedFile":
            if path not in tree:
                raise HubFault(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            del tree[path]
        elif key == "deletedFolder":
            inside = [p for p in tree if p.startswith(path.rstrip("/") + "/")]
            if not inside:
                raise HubFault(404, f"A folder with this name doesn't exist: {path}", "EntryNotFound")
            for name in inside:
                del tree[name]
        else:
            raise HubFault(400, f"Unknown operation: {key}")

    def plant(self, repo_id: str, files: Mapping[str, bytes | Entry], *, title: str = "upload") -> str:
        """Put files into a repo directly, past every check a client or the Hub would make; returns the commit."""
        with self.lock:
            repo = self.repos[repo_id]
            head = repo.resolve("main")
            tree = dict(head.tree)
            for path, data in files.items():
                if isinstance(data, Entry):
                    tree[path] = data
                    continue
                lfs = path.lower().endswith(LFS_SUFFIXES)
                tree[path] = Entry(data, lfs, hashlib.sha256(data).hexdigest())
                if lfs:
                    repo.lfs[tree[path].sha256] = data
                    repo.lfs_pushed.setdefault(tree[path].sha256, datetime.now(UTC))
            return self._commit(repo, "main", head.oid, title, "", repo.owner, tree).oid

    def squash(self, repo: Repo, branch: str, message: str, user: User) -> None:
        if branch not in repo.branches:
            raise HubFault(400, "Invalid reference for a branch. You cannot squash history on tags.")
        head = repo.commits[repo.branches[branch]]
        self._commit(repo, branch, None, message, "", user.name, head.tree)
        self._collect(repo)

    def delete_lfs(self, repo: Repo, file_oids: list[str], rewrite: bool) -> None:
        gone = set(file_oids)
        for oid in gone:
            repo.lfs.pop(oid, None)
            repo.lfs_pushed.pop(oid, None)
        if rewrite:
            self._rewrite(repo, gone)
        else:
            for oid, commit in list(repo.commits.items()):
                tree = {
                    p: replace(e, content=None, claimed_size=e.size) if e.lfs and e.sha256 in gone else e
                    for p, e in commit.tree.items()
                }
                repo.commits[oid] = replace(commit, tree=tree)

    def _rewrite(self, repo: Repo, gone: set[str]) -> None:
        """Rebuild every commit without the files in ``gone``; refs follow."""
        renamed: dict[str, str] = {}

        def rebuild(oid: str) -> str:
            if oid in renamed:
                return renamed[oid]
            old = repo.commits[oid]
            parent = rebuild(old.parent) if old.parent else None
            tree = {p: e for p, e in old.tree.items() if not (e.lfs and e.sha256 in gone)}
            if parent == old.parent and len(tree) == len(old.tree):
                renamed[oid] = oid
                return oid
            body = json.dumps(
                [parent, old.title, old.date.isoformat(), sorted((p, e.blob_id) for p, e in tree.items())]
            )
            new = hashlib.sha1(body.encode()).hexdigest()
            repo.commits[new] = replace(old, oid=new, parent=parent, tree=tree)
            renamed[oid] = new
            return new

        for refs in (repo.branches, repo.tags):
            for name, oid in list(refs.items()):
                refs[name] = rebuild(oid)
        self._collect(repo)

    @staticmethod
    def _collect(repo: Repo) -> None:
        """Drop commits no ref reaches."""
        alive: set[str] = set()
        for oid in (*repo.branches.values(), *repo.tags.values()):
            alive.update(c.oid for c in repo.history(repo.commits[oid]))
        repo.commits = {oid: c for oid, c in repo.commits.items() if oid in alive}
