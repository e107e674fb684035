"""A local OCI registry over real HTTP, for tests and for trying things by hand: the distribution specification 1.1.

It can be open to all, ask for a password or for a token, let anybody read, refuse to delete, and misbehave. State
lives in memory. ``python -m tests.hub.local_oci`` serves one and prints the commands to try.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, urlsplit

USER, PASSWORD = "acme", "secret"
_NAME = r"(?P<name>[a-z0-9/._-]+)"


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Repository:
    """Blobs and manifests by digest, and what the tags point to."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class LocalOci:
    """``with LocalOci() as oci:`` serves until the block ends. ``auth``: none, basic or token; ``anonymous``: anybody
    may read. ``misbehave``: asked before every request; True when it answered itself."""

    def __init__(self, auth: str = "basic", *, anonymous: bool = False) -> None:
        self.auth, self.anonymous = auth, anonymous
        self.deletes_manifests = self.deletes_blobs = True
        self.open_files = False
        self.repositories: dict[str, Repository] = {}
        self.uploads: set[str] = set()
        self.seen: list[tuple[str, str]] = []
        self.misbehave: Callable[[Any], bool] = lambda handler: False
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"oci": self}))
        self._server.daemon_threads = True

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def address(self, name: str) -> str:
        return f"oci://{self.host}/{name}"

    def __enter__(self) -> LocalOci:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def log_in(self, folder: Path) -> None:
        """Write what ``docker login`` writes; the variable DOCKER_CONFIG has to name the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        (folder / "config.json").write_text(json.dumps({"auths": {self.host: {"auth": auth}}}))

    def files(self, name: str, tag: str = "latest") -> dict[str, bytes]:
        """The files of a tagged artifact."""
        there = self.repositories[name]
        layers = json.loads(there.manifests[there.tags[tag]])["layers"]
        return {layer["annotations"]["org.cncf.model.filepath"]: there.blobs[layer["digest"]] for layer in layers}

    def replant(self, name: str, changes: Mapping[str, bytes | None]) -> None:
        """Give files of every tag other content, or none, with all digests of the host made to fit: what whoever may
        write to it can do."""
        there = self.repositories[name]
        for tag, digest in list(there.tags.items()):
            manifest = json.loads(there.manifests[digest])
            layers = []
            for layer in manifest["layers"]:
                path = layer["annotations"]["org.cncf.model.filepath"]
                data = changes.get(path, there.blobs[layer["digest"]])
                if data is not None:
                    layers.append(layer | {"digest": _digest(data), "size": len(data)})
                    there.blobs[_digest(data)] = data
            changed = json.dumps(manifest | {"layers": layers}).encode()
            there.manifests[_digest(changed)] = changed
            there.tags[tag] = _digest(changed)

    def holds(self, data: bytes) -> bool:
        """Whether some blob or manifest anywhere has these bytes in it."""
        kept = [d for r in self.repositories.values() for d in (*r.blobs.values(), *r.manifests.values())]
        return any(data in one for one in kept)


class _Handler(BaseHTTPRequestHandler):
    oci: LocalOci
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def error(self, status: int, code: str) -> None:
        self.reply(status, json.dumps({"errors": [{"code": code, "message": code.lower()}]}).encode())

    def handle_any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        url = urlsplit(self.path)
        self.oci.seen.append((self.command, url.path))
        with self.oci.lock:
            if self.oci.misbehave(self):
                return
            if url.path == "/token":
                self.give_token()
            elif self.allowed():
                self.route(url.path, parse_qs(url.query), body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815

    # -- who asks ------------------------------------------------------------------------------
    def _known(self) -> bool:
        shown = self.headers.get("Authorization", "")
        password = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        return shown == (password if self.oci.auth == "basic" or self.path.startswith("/token") else "Bearer owner")

    def allowed(self) -> bool:
        reading = self.command in ("GET", "HEAD")
        shown = self.headers.get("Authorization", "")
        if self.oci.auth == "none" or self._known():
            return True
        if self.oci.open_files and reading and "/blobs/" in self.path:
            return True
        if self.oci.anonymous and reading and (self.oci.auth == "basic" or shown == "Bearer anybody"):
            return True
        realm = f"http://{self.oci.host}/token"
        if self.oci.auth == "basic":
            challenge = 'Basic realm="local"'
        else:
            challenge = f'Bearer realm="{realm}",service="local",scope="repository:any:pull,push"'
        self.reply(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}', Www_Authenticate=challenge)
        return False

    def give_token(self) -> None:
        if self.headers.get("Authorization") and not self._known():
            return self.error(401, "UNAUTHORIZED")
        token = "owner" if self.headers.get("Authorization") else "anybody"
        self.reply(200, json.dumps({"token": token}).encode(), Content_Type="application/json")

    # -- the protocol --------------------------------------------------------------------------
    def route(self, path: str, query: dict[str, list[str]], body: bytes) -> None:
        for method, pattern, answer in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found and method == ("GET" if self.command == "HEAD" else self.command):
                there = self.oci.repositories.get(found["name"])
                if there is None and method in ("POST", "PUT"):
                    there = self.oci.repositories.setdefault(found["name"], Repository())
                if there is None:
                    return self.error(404, "NAME_UNKNOWN")
                return answer(self, there, found.groupdict(), query, body)
        self.error(404, "UNSUPPORTED")

    def get_manifest(self, there: Repository, at: dict[str, str], query: Any, body: bytes) -> None:
        digest = there.tags.get(at["ref"], at["ref"])
        data = there.manifests.get(digest)
        if data is None:
            return self.error(404, "MANIFEST_UNKNOWN")
        kind = json.loads(data).get("mediaType", "application/json")
        self.reply(200, data, Content_Type=kind, Docker_Content_Digest=digest)

    def put_manifest(self, there: Repository, at: dict[str, str], query: Any, body: bytes) -> None:
        value = json.loads(body)
        if any(d["digest"] not in there.blobs for d in (value["config"], *value["layers"])):
            return self.error(404, "MANIFEST_BLOB_UNKNOWN")
        digest = _digest(body)
        there.manifests[digest] = body
        if not at["ref"].startswith("sha256:"):
            there.tags[at["ref"]] = digest
        self.reply(201, Docker_Content_Digest=digest)

    def delete_manifest(self, there: Repository, at: dict[str, str], query: Any, body: bytes) -> None:
        if not self.oci.deletes_manifests:
            return self.error(405, "UNSUPPORTED")
        if at["ref"] in there.tags:
            del there.tags[at["ref"]]
        elif there.manifests.pop(at["ref"], None) is None:
            return self.error(404, "MANIFEST_UNKNOWN")
        else:
            there.tags = {tag: digest for tag, digest in there.tags.items() if digest != at["ref"]}
        self.reply(202)

    def get_blob(self, there: Repository, at: dict[str, str], query: Any, body: bytes) -> None:
        data = there.blobs.get(at["ref"])
        self.error(404, "BLOB_UNKNOWN") if data is None else self.reply(200, data)

    def delete_blob(self, there: Repository, at: dict[str, str], query: Any, body: bytes) -> None:
        if not self.oci.deletes_blobs:
            return self.error(405, "UNSUPPORTED")
        if there.blobs.pop(at["ref"], None) is None:
            return self.error(404, "BLOB_UNKNOWN")
        self.reply(202)

    def begin_upload(self, there: Repository, at: dict[str, str], query: Any, body: bytes) -> None:
        upload = uuid.uuid4().hex
        self.oci.uploads.add(upload)
        self.reply(202, Location=f"/v2/{at['name']}/blobs/uploads/{upload}?state=1")

    def end_upload(self, there: Repository, at: dict[str, str], query: Any, body: bytes) -> None:
        digest = query["digest"][0]
        if at["ref"] not in self.oci.uploads:
            return self.error(404, "BLOB_UPLOAD_UNKNOWN")
        if digest != _digest(body):
            return self.error(400, "DIGEST_INVALID")
        self.oci.uploads.discard(at["ref"])
        there.blobs[digest] = body
        self.reply(201, Docker_Content_Digest=digest)

    def list_tags(self, there: Repository, at: dict[str, str], query: Any, body: bytes) -> None:
        after, most = query.get("last", [""])[0], min(int(query.get("n", ["1000"])[0]), 2)
        tags = sorted(tag for tag in there.tags if tag > after)
        more = (
            {"Link": f'</v2/{at["name"]}/tags/list?n={most}&last={tags[most - 1]}>; rel="next"'} if tags[most:] else {}
        )
        self.reply(200, json.dumps({"name": at["name"], "tags": tags[:most]}).encode(), **more)


_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", rf"/v2/{_NAME}/manifests/(?P<ref>[^/]+)", _Handler.get_manifest),
    ("PUT", rf"/v2/{_NAME}/manifests/(?P<ref>[^/]+)", _Handler.put_manifest),
    ("DELETE", rf"/v2/{_NAME}/manifests/(?P<ref>[^/]+)", _Handler.delete_manifest),
    ("POST", rf"/v2/{_NAME}/blobs/uploads/", _Handler.begin_upload),
    ("PUT", rf"/v2/{_NAME}/blobs/uploads/(?P<ref>[^/]+)", _Handler.end_upload),
    ("GET", rf"/v2/{_NAME}/blobs/(?P<ref>sha256:[^/]+)", _Handler.get_blob),
    ("DELETE", rf"/v2/{_NAME}/blobs/(?P<ref>sha256:[^/]+)", _Handler.delete_blob),
    ("GET", rf"/v2/{_NAME}/tags/list", _Handler.list_tags),
]


if __name__ == "__main__":
    with LocalOci() as served, TemporaryDirectory() as logins:
        served.log_in(Path(logins))
        print(f"export DOCKER_CONFIG={logins}\nw2w-reg push NAME --to {served.address('acme/alice')}", flush=True)
        threading.Event().wait()
