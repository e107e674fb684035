"""The HTTP face of the local Hub: a small threaded HTTP/1.1 server over ``HubStore``.

Two origins are served by one listener, as on the real Hub: the API on 127.0.0.1 and the blob storage on
localhost, so that a client that carries its token over to storage is caught (``leaked_tokens``).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

import yaml

from tests.hub.local_hub.faults import Fault, FaultPlan
from tests.hub.local_hub.store import Commit, Entry, HubFault, HubStore, Repo, User, Visibility

PAGE = 1000
MULTIPART_FROM = 1 << 40


@dataclass
class Answer:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    # A header may promise more than the body holds (repos that lie about sizes).
    claimed_length: int | None = None


def reply(data: Any, status: int = 200, **headers: str) -> Answer:
    return Answer(status, {"Content-Type": "application/json", **headers}, json.dumps(data).encode())


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: Mapping[str, str]
    body: bytes
    user: User | None

    def json(self) -> Any:
        try:
            return json.loads(self.body or b"{}")
        except json.JSONDecodeError as error:
            raise HubFault(400, f"Invalid JSON body: {error}") from None

    def one(self, name: str, default: str | None = None) -> str | None:
        values = self.query.get(name)
        return values[0] if values else default


Route = Callable[..., Answer]
_ROUTES: list[tuple[str, re.Pattern[str], Route]] = []
_REPO = r"(?P<repo_id>[^/]+/[^/]+)"


def route(method: str, pattern: str) -> Callable[[Route], Route]:
    def register(function: Route) -> Route:
        _ROUTES.append((method, re.compile(pattern + r"\Z"), function))
        return function

    return register


def stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


class LocalHub:
    """``with LocalHub() as hub:`` serves until the block ends. ``hub.endpoint`` is what HF_ENDPOINT takes."""

    def __init__(self, port: int = 0, *, page: int = PAGE, multipart_from: int = MULTIPART_FROM) -> None:
        self.store = HubStore()
        self.faults = FaultPlan()
        self.page = page
        self.multipart_from = multipart_from
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.leaked_tokens: list[str] = []
        self._server = _Server(("127.0.0.1", port), _handler_for(self))
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def storage(self) -> str:
        return f"http://localhost:{self.port}"

    def __enter__(self) -> LocalHub:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve_forever(self) -> None:
        self._server.serve_forever()

    # -- conveniences for tests ----------------------------------------------------------------
    def user(self, name: str, *, orgs: tuple[str, ...] = (), can_write: bool = True) -> User:
        return self.store.add_user(name, orgs=orgs, can_write=can_write)

    def repo(self, repo_id: str) -> Repo | None:
        return self.store.repos.get(repo_id)

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes | None]:
        return {p: e.content for p, e in self.store.repos[repo_id].resolve(revision).tree.items()}

    def history(self, repo_id: str) -> list[Commit]:
        repo = self.store.repos[repo_id]
        return list(repo.history(repo.resolve("main")))

    # -- dispatch ------------------------------------------------------------------------------
    def answer(self, request: Request) -> Answer:
        with self.store.lock:
            redirect = self._redirect(request)
            if redirect is not None:
                return redirect
            for method, pattern, function in _ROUTES:
                match = pattern.match(request.path)
                if match and (method == request.method or (method == "GET" and request.method == "HEAD")):
                    return function(
                        self, request, **{k: unquote(v) for k, v in match.groupdict().items() if v is not None}
                    )
        raise HubFault(404, f"Sorry, we can't find the page you are looking for: {request.path}")

    def _redirect(self, request: Request) -> Answer | None:
        """307 to the new name, for every address under a repo's old one."""
        match = re.match(r"(?P<head>/api/models/|/)(?P<repo>[^/]+/[^/]+?)(?P<tail>\.git/.*|/.*)?\Z", request.path)
        if match is None:
            return None
        repo_id = unquote(match["repo"])
        target = self.store.current_name(repo_id)
        if target is None:
            return None
        query = f"?{urlencode(request.query, doseq=True)}" if request.query else ""
        location = f"{self.endpoint}{match['head']}{target}{match['tail'] or ''}{query}"
        return Answer(307, {"Location": location})


# -- accounts ----------------------------------------------------------------------------------
@route("GET", "/api/whoami-v2")
def whoami(hub: LocalHub, request: Request) -> Answer:
    if request.user is None:
        raise HubFault(401, "Invalid username or password.")
    return reply(
        {
            "type": "user",
            "id": request.user.name,
            "name": request.user.name,
            "fullname": request.user.name,
            "isPro": False,
            "orgs": [{"type": "org", "name": o, "roleInOrg": "write"} for o in request.user.orgs],
            "auth": {
                "type": "access_token",
                "accessToken": {"displayName": "test", "role": "write" if request.user.can_write else "read"},
            },
        }
    )


# -- repositories ------------------------------------------------------------------------------
@route("POST", "/api/repos/create")
def create_repo(hub: LocalHub, request: Request) -> Answer:
    data = request.json()
    if data.get("type", "model") != "model":
        raise HubFault(400, "this hub holds models only")
    private = data.get("visibility") == "private" or data.get("private") is True
    name = str(data["name"])
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", name):
        raise HubFault(400, "Invalid repo name")
    owner = data.get("organization") or (request.user.name if request.user else None)
    url = f"{hub.endpoint}/{owner}/{name}"
    try:
        repo = hub.store.create(
            request.user, data.get("organization"), name, Visibility.PRIVATE if private else Visibility.PUBLIC
        )
    except HubFault as fault:
        if fault.status == 409:
            return reply({"error": fault.message, "url": url}, 409)
        raise
    return reply({"url": url, "name": repo.repo_id, "id": repo.object_id})


@route("DELETE", "/api/repos/delete")
def delete_repo(hub: LocalHub, request: Request) -> Answer:
    data = request.json()
    owner = data.get("organization") or (request.user.name if request.user else "")
    hub.store.delete(f"{owner}/{data['name']}", request.user)
    return Answer(200, {"Content-Type": "text/plain"}, b"OK")


@route("POST", "/api/repos/move")
def move_repo(hub: LocalHub, request: Request) -> Answer:
    data = request.json()
    hub.store.move(data["fromRepo"], data["toRepo"], request.user)
    return reply({})


@route("PUT", f"/api/models/{_REPO}/settings")
def settings(hub: LocalHub, request: Request, repo_id: str) -> Answer:
    repo = hub.store.writable(repo_id, request.user)
    data = request.json()
    if "gated" in data:
        if data["gated"] not in ("auto", "manual", False):
            raise HubFault(400, '"gated" must be one of [auto, manual, false]')
        repo.gated = data["gated"]
    if "visibility" in data or "private" in data:
        private = data.get("visibility") == "private" or data.get("private") is True
        repo.visibility = Visibility.PRIVATE if private else Visibility.PUBLIC
    return reply({"private": repo.visibility is Visibility.PRIVATE, "gated": repo.gated})


@route("GET", "/api/models")
def list_models(hub: LocalHub, request: Request) -> Answer:
    author, search = request.one("author"), request.one("search")
    wanted = request.query.get("filter", [])
    found = []
    for repo in sorted(hub.store.repos.values(), key=lambda r: r.created):
        if repo.visibility is Visibility.PRIVATE and not hub.store._owns(request.user, repo.owner):
            continue
        if author and repo.owner != author:
            continue
        if search and search.lower() not in repo.repo_id.lower():
            continue
        card = repo.card()
        if not set(wanted) <= set(repo.all_tags(card)):
            continue
        found.append(describe(repo, repo.resolve("main"), siblings=request.one("full") is not None, listing=True))
    limit = min(int(request.one("limit") or hub.page), hub.page)
    return _paged(hub, request, found, limit)


def _paged(hub: LocalHub, request: Request, items: list[Any], limit: int) -> Answer:
    start = int(request.one("cursor") or 0)
    answer = reply(items[start : start + limit])
    if start + limit < len(items):
        query = {**request.query, "cursor": [str(start + limit)]}
        answer.headers["Link"] = f'<{hub.endpoint}{request.path}?{urlencode(query, doseq=True)}>; rel="next"'
    return answer


def describe(
    repo: Repo, commit: Commit, *, siblings: bool = True, blobs: bool = False, listing: bool = False
) -> dict[str, Any]:
    card = repo.card(commit)
    data: dict[str, Any] = {
        "_id": repo.object_id,
        "id": repo.repo_id,
        "modelId": repo.repo_id,
        "author": repo.owner,
        "sha": commit.oid,
        "createdAt": stamp(repo.created),
        "lastModified": stamp(commit.date),
        "private": repo.visibility is Visibility.PRIVATE,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": repo.all_tags(card),
    }
    if card.get("library_name"):
        data["library_name"] = card["library_name"]
    if not listing:
        data["cardData"] = json.loads(json.dumps(card, default=str))
        data["usedStorage"] = sum(len(b) for b in repo.lfs.values())
    if siblings:
        data["siblings"] = [_sibling(path, entry, blobs) for path, entry in sorted(commit.tree.items())]
    return data


def _sibling(path: str, entry: Entry, blobs: bool) -> dict[str, Any]:
    out: dict[str, Any] = {"rfilename": path}
    if blobs:
        out |= {"size": entry.size, "blobId": entry.blob_id}
        if entry.lfs:
            out["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": len(entry.pointer)}
    return out


@route("GET", f"/api/models/{_REPO}")
def model_info(hub: LocalHub, request: Request, repo_id: str) -> Answer:
    return model_revision(hub, request, repo_id, "main")


@route("GET", f"/api/models/{_REPO}/revision/(?P<revision>[^/]+)")
def model_revision(hub: LocalHub, request: Request, repo_id: str, revision: str) -> Answer:
    repo = hub.store.visible(repo_id, request.user)
    return reply(describe(repo, repo.resolve(revision), blobs=(request.one("blobs") or "").lower() in ("true", "1")))


@route("GET", f"/api/models/{_REPO}/auth-check(?P<write>/write)?")
def auth_check(hub: LocalHub, request: Request, repo_id: str, write: str = "") -> Answer:
    (hub.store.writable if write else hub.store.readable)(repo_id, request.user)
    return reply({})


# -- reading -----------------------------------------------------------------------------------
def _node(path: str, entry: Entry) -> dict[str, Any]:
    out: dict[str, Any] = {"type": "file", "oid": entry.blob_id, "size": entry.size, "path": path}
    if entry.lfs:
        out["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": len(entry.pointer)}
    return out


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}


@route("GET", f"/api/models/{_REPO}/tree/(?P<revision>[^/]+)(?:/(?P<under>.+))?")
def tree(hub: LocalHub, request: Request, repo_id: str, revision: str, under: str | None = None) -> Answer:
    repo = hub.store.visible(repo_id, request.user)
    files = repo.resolve(revision).tree
    prefix = f"{under.rstrip('/')}/" if under else ""
    recursive = (request.one("recursive") or "").lower() in ("true", "1")
    nodes: dict[str, dict[str, Any]] = {}
    for path, entry in sorted(files.items()):
        if not path.startswith(prefix):
            continue
        parts = path[len(prefix) :].split("/")
        for depth in range(1, len(parts)):
            folder = prefix + "/".join(parts[:depth])
            if recursive or depth == 1:
                nodes.setdefault(folder, _folder(folder))
        if recursive or len(parts) == 1:
            nodes[path] = _node(path, entry)
    if under and not nodes:
        raise HubFault(404, f"{under} does not exist on {revision}", "EntryNotFound")
    return _paged(hub, request, list(nodes.values()), min(int(request.one("limit") or hub.page), hub.page))


@route("POST", f"/api/models/{_REPO}/paths-info/(?P<revision>[^/]+)")
def paths_info(hub: LocalHub, request: Request, repo_id: str, revision: str) -> Answer:
    files = hub.store.visible(repo_id, request.user).resolve(revision).tree
    if "json" in request.headers.get("Content-Type", ""):
        paths = request.json().get("paths", [])
    else:
        paths = parse_qs(request.body.decode()).get("paths", [])
    out = []
    for path in [paths] if isinstance(paths, str) else paths:
        if path in files:
            out.append(_node(path, files[path]))
        elif any(p.startswith(f"{path}/") for p in files):
            out.append(_folder(path))
    return reply(out)


@route("GET", f"/api/models/{_REPO}/commits/(?P<revision>[^/]+)")
def commits(hub: LocalHub, request: Request, repo_id: str, revision: str) -> Answer:
    repo = hub.store.visible(repo_id, request.user)
    items = [
        {
            "id": c.oid,
            "title": c.title,
            "message": c.message,
            "authors": [{"user": c.author, "avatar": ""}],
            "date": stamp(c.date),
        }
        for c in repo.history(repo.resolve(revision))
    ]
    return _paged(hub, request, items, hub.page)


@route("GET", f"/api/models/{_REPO}/refs")
def refs(hub: LocalHub, request: Request, repo_id: str) -> Answer:
    repo = hub.store.visible(repo_id, request.user)

    def listed(kind: str, names: Mapping[str, str]) -> list[dict[str, str]]:
        return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": o} for n, o in sorted(names.items())]

    return reply(
        {
            "branches": listed("heads", repo.branches),
            "tags": listed("tags", repo.tags),
            "converts": [],
            "pullRequests": [],
        }
    )


@route("GET", r"/(?P<repo_id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(hub: LocalHub, request: Request, repo_id: str, revision: str, path: str) -> Answer:
    repo = hub.store.readable(repo_id, request.user)
    commit = repo.resolve(revision)
    entry = commit.tree.get(path)
    if entry is None:
        fault = HubFault(404, "Entry not found", "EntryNotFound")
        answer = refusal(fault)
        answer.headers["X-Repo-Commit"] = commit.oid
        return answer
    headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
    if entry.lfs:
        if entry.content is None:
            raise HubFault(404, "The LFS object was deleted", "EntryNotFound")
        headers |= {
            "X-Linked-Size": str(entry.size),
            "X-Linked-ETag": f'"{entry.sha256}"',
            "ETag": f'"{entry.blob_id}"',
            "Location": f"{hub.storage}/storage/{quote(repo.object_id)}/{entry.sha256}",
        }
        return Answer(302, headers)
    headers |= {"ETag": f'"{entry.blob_id}"', "Content-Type": "text/plain; charset=utf-8"}
    return _ranged(request, entry, headers)


@route("GET", r"/storage/(?P<object_id>[^/]+)/(?P<oid>[0-9a-f]+)")
def storage(hub: LocalHub, request: Request, object_id: str, oid: str) -> Answer:
    if request.headers.get("Authorization"):
        hub.leaked_tokens.append(request.path)
    for repo in hub.store.repos.values():
        if repo.object_id != object_id:
            continue
        for commit in repo.commits.values():
            for entry in commit.tree.values():
                if entry.lfs and entry.sha256 == oid and entry.content is not None:
                    headers = {"ETag": f'"{oid}"', "Accept-Ranges": "bytes", "Content-Type": "binary/octet-stream"}
                    return _ranged(request, entry, headers)
    raise HubFault(404, "no such object")


def _ranged(request: Request, entry: Entry, headers: dict[str, str]) -> Answer:
    data = entry.content or b""
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    if wanted is None:
        return Answer(200, headers, data, entry.claimed_size)
    start, end = int(wanted[1]), int(wanted[2]) if wanted[2] else len(data) - 1
    if start >= len(data):
        return Answer(416, {"Content-Range": f"bytes */{len(data)}"})
    part = data[start : end + 1]
    return Answer(206, {**headers, "Content-Range": f"bytes {start}-{start + len(part) - 1}/{len(data)}"}, part)


# -- writing -----------------------------------------------------------------------------------
@route("POST", "/api/validate-yaml")
def validate_yaml(hub: LocalHub, request: Request) -> Answer:
    text = str(request.json().get("content", ""))
    warnings: list[dict[str, str]] = []
    errors: list[dict[str, str]] = []
    if not text.startswith("---\n"):
        warnings.append({"message": "empty or missing yaml metadata in repo card"})
    else:
        try:
            data = yaml.safe_load(text[4:].partition("\n---")[0])
            errors = _card_errors(data)
        except yaml.YAMLError as error:
            errors.append({"message": f"YAML: {error}"})
    return reply({"errors": errors, "warnings": warnings}, 400 if errors else 200)


def _card_errors(data: Any) -> list[dict[str, str]]:
    """The checks of the Hub's card schema that concern the fields written here."""
    if not isinstance(data, dict):
        return [{"message": "metadata must be a mapping"}]
    out = []
    if data.get("base_model_relation") not in (None, "adapter", "finetune", "merge", "quantized"):
        out.append({"message": '"base_model_relation" must be one of [adapter, merge, quantized, finetune]'})
    if not isinstance(data.get("tags", []), list) or not all(isinstance(t, str) for t in data.get("tags") or []):
        out.append({"message": '"tags" must be an array of strings'})
    for key in ("license", "library_name", "instance_prompt", "extra_gated_prompt", "extra_gated_heading"):
        if data.get(key) is not None and not isinstance(data[key], str):
            out.append({"message": f'"{key}" must be a string'})
    bases = data.get("base_model", [])
    for base in [bases] if isinstance(bases, str) else bases or []:
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(base), re.ASCII):
            out.append({"message": f'"base_model" with value "{base}" is not valid. Use a model id from hf.co/models.'})
    fields = data.get("extra_gated_fields", {})
    if not isinstance(fields, dict):
        out.append({"message": '"extra_gated_fields" must be an object'})
    elif any(
        not isinstance(v, dict) and v not in ("text", "checkbox", "date_picker", "country") for v in fields.values()
    ):
        out.append({"message": '"extra_gated_fields" holds a field of unknown type'})
    return out


@route("POST", f"/api/models/{_REPO}/preupload/(?P<revision>[^/]+)")
def preupload(hub: LocalHub, request: Request, repo_id: str, revision: str) -> Answer:
    repo = hub.store.writable(repo_id, request.user)
    return reply(
        {"files": hub.store.preupload(repo, revision, request.json()["files"]), "commitOid": repo.branches[revision]}
    )


@route("POST", r"/(?P<repo_id>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
def lfs_batch(hub: LocalHub, request: Request, repo_id: str) -> Answer:
    repo = hub.store.writable(repo_id, request.user)
    data = request.json()
    objects = []
    chosen = "basic"
    for item in data["objects"]:
        oid, size = str(item["oid"]), int(item["size"])
        out: dict[str, Any] = {"oid": oid, "size": size}
        if oid not in repo.lfs:
            base = f"{hub.storage}/lfs-upload/{repo.object_id}/{oid}"
            verify = {"href": f"{hub.endpoint}/{repo_id}.git/info/lfs/objects/verify", "header": {}}
            if size >= hub.multipart_from and "multipart" in data.get("transfers", []):
                chosen = "multipart"
                chunk = max(hub.multipart_from // 2, 1)
                parts = {str(n + 1): f"{base}/part/{n + 1}" for n in range(-(-size // chunk))}
                header = {"chunk_size": str(chunk), **parts}
                out["actions"] = {
                    "upload": {"href": f"{hub.endpoint}/lfs-complete/{repo.object_id}/{oid}", "header": header},
                    "verify": verify,
                }
            else:
                out["actions"] = {"upload": {"href": base, "header": {}}, "verify": verify}
        objects.append(out)
    return reply({"transfer": chosen, "objects": objects})


def _by_object(hub: LocalHub, object_id: str) -> Repo:
    for repo in hub.store.repos.values():
        if repo.object_id == object_id:
            return repo
    raise HubFault(404, "no such storage")


@route("PUT", r"/lfs-upload/(?P<object_id>[0-9a-f]+)/(?P<oid>[0-9a-f]{64})")
def lfs_put(hub: LocalHub, request: Request, object_id: str, oid: str) -> Answer:
    if request.headers.get("Authorization"):
        hub.leaked_tokens.append(request.path)
    hub.store.put_lfs(_by_object(hub, object_id), oid, request.body)
    return Answer(200, {"ETag": f'"{secrets.token_hex(8)}"'})


@route("PUT", r"/lfs-upload/(?P<object_id>[0-9a-f]+)/(?P<oid>[0-9a-f]{64})/part/(?P<part>\d+)")
def lfs_part(hub: LocalHub, request: Request, object_id: str, oid: str, part: str) -> Answer:
    _by_object(hub, object_id)
    hub.uploads.setdefault(oid, {})[int(part)] = request.body
    return Answer(200, {"ETag": f'"{part}-{secrets.token_hex(8)}"'})


@route("POST", r"/lfs-complete/(?P<object_id>[0-9a-f]+)/(?P<oid>[0-9a-f]{64})")
def lfs_complete(hub: LocalHub, request: Request, object_id: str, oid: str) -> Answer:
    parts = hub.uploads.pop(oid, {})
    named = [int(p["partNumber"]) for p in request.json()["parts"]]
    if named != sorted(parts):
        raise HubFault(400, "parts are missing")
    hub.store.put_lfs(_by_object(hub, object_id), oid, b"".join(parts[n] for n in named))
    return reply({"success": True})


@route("POST", r"/(?P<repo_id>[^/]+/[^/]+)\.git/info/lfs/objects/verify")
def lfs_verify(hub: LocalHub, request: Request, repo_id: str) -> Answer:
    repo = hub.store.writable(repo_id, request.user)
    data = request.json()
    blob = repo.lfs.get(str(data["oid"]))
    if blob is None or len(blob) != int(data["size"]):
        raise HubFault(404, "the object is not there")
    return reply({})


@route("POST", f"/api/models/{_REPO}/commit/(?P<revision>[^/]+)")
def commit(hub: LocalHub, request: Request, repo_id: str, revision: str) -> Answer:
    repo = hub.store.writable(repo_id, request.user)
    if "ndjson" not in request.headers.get("Content-Type", ""):
        raise HubFault(400, "commits are sent as application/x-ndjson")
    lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
    if not lines or lines[0].get("key") != "header":
        raise HubFault(400, "the first line must be the header")
    assert request.user is not None
    made = hub.store.commit(repo, revision, lines[0]["value"], lines[1:], request.user)
    return reply(
        {
            "success": True,
            "commitOid": made.oid,
            "commitUrl": f"{hub.endpoint}/{repo.repo_id}/commit/{made.oid}",
            "hookOutput": "",
        }
    )


@route("POST", f"/api/models/{_REPO}/tag/(?P<revision>[^/]+)")
def create_tag(hub: LocalHub, request: Request, repo_id: str, revision: str) -> Answer:
    repo = hub.store.writable(repo_id, request.user)
    name = str(request.json()["tag"])
    target = repo.resolve(revision)
    if name in repo.tags:
        raise HubFault(409, f"Tag reference exists already: {name}")
    repo.tags[name] = target.oid
    return reply({})


@route("DELETE", f"/api/models/{_REPO}/tag/(?P<name>[^/]+)")
def delete_tag(hub: LocalHub, request: Request, repo_id: str, name: str) -> Answer:
    repo = hub.store.writable(repo_id, request.user)
    if repo.tags.pop(name, None) is None:
        raise HubFault(404, f"Invalid rev id: {name}", "RevisionNotFound")
    return reply({})


@route("POST", f"/api/models/{_REPO}/branch/(?P<name>[^/]+)")
def create_branch(hub: LocalHub, request: Request, repo_id: str, name: str) -> Answer:
    repo = hub.store.writable(repo_id, request.user)
    start = repo.resolve(request.json().get("startingPoint") or "main")
    if name in repo.branches:
        raise HubFault(409, f"Reference already exists: {name}")
    repo.branches[name] = start.oid
    return reply({})


@route("DELETE", f"/api/models/{_REPO}/branch/(?P<name>[^/]+)")
def delete_branch(hub: LocalHub, request: Request, repo_id: str, name: str) -> Answer:
    repo = hub.store.writable(repo_id, request.user)
    if name == "main":
        raise HubFault(403, "The main branch is protected")
    if repo.branches.pop(name, None) is None:
        raise HubFault(404, f"Invalid rev id: {name}", "RevisionNotFound")
    return reply({})


@route("POST", f"/api/models/{_REPO}/super-squash/(?P<branch>[^/]+)")
def super_squash(hub: LocalHub, request: Request, repo_id: str, branch: str) -> Answer:
    repo = hub.store.writable(repo_id, request.user)
    assert request.user is not None
    hub.store.squash(repo, branch, str(request.json().get("message", "")), request.user)
    return reply({})


@route("GET", f"/api/models/{_REPO}/lfs-files")
def lfs_files(hub: LocalHub, request: Request, repo_id: str) -> Answer:
    repo = hub.store.writable(repo_id, request.user)
    names = {e.sha256: p for c in repo.commits.values() for p, e in c.tree.items() if e.lfs}
    items = [
        {
            "fileOid": oid,
            "oid": oid,
            "filename": names.get(oid, ""),
            "size": len(data),
            "pushedAt": stamp(repo.lfs_pushed[oid]),
            "ref": "main" if oid in names else None,
        }
        for oid, data in sorted(repo.lfs.items())
    ]
    return _paged(hub, request, items, hub.page)


@route("POST", f"/api/models/{_REPO}/lfs-files/batch")
def lfs_files_batch(hub: LocalHub, request: Request, repo_id: str) -> Answer:
    repo = hub.store.writable(repo_id, request.user)
    deletions = request.json()["deletions"]
    hub.store.delete_lfs(repo, [str(s) for s in deletions["sha"]], bool(deletions.get("rewriteHistory")))
    return reply({})


# -- the wire ----------------------------------------------------------------------------------
def refusal(fault: HubFault) -> Answer:
    headers = {"Content-Type": "application/json", "X-Error-Message": fault.message}
    if fault.code:
        headers["X-Error-Code"] = fault.code
    return Answer(fault.status, headers, json.dumps({"error": fault.message}).encode())


class _Cut(Exception):
    """The connection is to close without another byte."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that went away in the middle is part of what is being tested, not news.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body leave together and at once, or every answer waits for a delayed ACK.
    wbufsize = -1
    disable_nagle_algorithm = True
    server_version = "LocalHub"
    hub: LocalHub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        url = urlsplit(self.path)
        bearer = re.fullmatch(r"Bearer (.+)", self.headers.get("Authorization", ""))
        try:
            body = self._read_body()
            user = self.hub.store.users.get(bearer[1]) if bearer else None
            fault = self.hub.faults.arrive(self.command, url.path, user.name if user else None)
            answer = self._spoil(fault, lambda: self._answer(url.path, url.query, body, bearer[1] if bearer else None))
            self._send(answer, fault)
        except (_Cut, ConnectionError):
            self._drop()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

    def _answer(self, path: str, query: str, body: bytes, token: str | None) -> Answer:
        try:
            user = self.hub.store.authenticate(token)
            request = Request(self.command, path, parse_qs(query), self.headers, body, user)
            return self.hub.answer(request)
        except HubFault as fault:
            return refusal(fault)
        except (KeyError, TypeError, ValueError) as error:
            return refusal(HubFault(400, f"Bad request: {error!r}"))

    def _spoil(self, fault: Fault | None, serve: Callable[[], Answer]) -> Answer:
        if fault is None:
            return serve()
        answer = (
            serve()
            if fault.when == "after" or fault.action in ("truncate", "slow", "trickle", "trickle-head")
            else Answer()
        )
        if fault.action == "kill" and fault.pid is not None:
            os.kill(fault.pid, signal.SIGKILL)
        if fault.action in ("cut", "kill"):
            raise _Cut
        if fault.action == "slow":
            time.sleep(fault.seconds)
        if fault.action == "answer":
            return Answer(200, {"Content-Type": "application/json", **fault.headers}, fault.body)
        if fault.action == "status":
            return Answer(
                fault.status,
                {"Content-Type": "application/json", **fault.headers},
                json.dumps({"error": f"fault {fault.status} on demand"}).encode(),
            )
        return answer

    def _send(self, answer: Answer, fault: Fault | None) -> None:
        if fault is not None and fault.action == "trickle-head":
            self._trickle(f"HTTP/1.1 {answer.status} OK\r\nX-Slow: {'x' * 4000}\r\n".encode(), fault.seconds)
            raise _Cut
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            # Header values are latin-1 on the wire; names of files may not be.
            raw = fault is not None and name in fault.headers
            self.send_header(name, value if raw else value.encode("ascii", "backslashreplace").decode())
        length = answer.claimed_length if answer.claimed_length is not None else len(answer.body)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is not None and fault.action == "truncate":
            self.wfile.write(answer.body[: len(answer.body) // 2])
            raise _Cut
        if fault is not None and fault.action == "trickle":
            self._trickle(answer.body, fault.seconds)
        else:
            self.wfile.write(answer.body)
        self.wfile.flush()
        if length != len(answer.body):
            raise _Cut

    def _trickle(self, data: bytes, seconds: float) -> None:
        for byte in data:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(seconds)

    def _read_body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            return b"".join(self._chunks())
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return data

    def _chunks(self) -> Iterator[bytes]:
        while True:
            size = int(self.rfile.readline().split(b";")[0] or b"0", 16)
            chunk = self.rfile.read(size)
            self.rfile.readline()
            if size == 0:
                return
            yield chunk

    def _drop(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(2)


def _handler_for(hub: LocalHub) -> type[_Handler]:
    return types.new_class("Handler", (_Handler,), {}, lambda ns: ns.update(hub=hub))
