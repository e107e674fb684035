"""What comes over the wire of a gallery that is running: dawdlers, smugglers, hoarders of streams."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import pytest
import uvicorn

from tests.web.conftest import TOKEN
from tests.web.routes import paths
from w2w_registry.services.registry import Registry
from w2w_registry.services.synthesis.engine import WarmEngine
from w2w_registry.web import pages
from w2w_registry.web.access import Access
from w2w_registry.web.app import create_app
from w2w_registry.web.connection import Connection
from w2w_registry.web.guard import ONCE
from w2w_registry.web.limits import Limits

PATIENCE = 0.4
LIMITS = Limits(patience=PATIENCE, slowest=1e6, rate=1e6, burst=10**6, together=400)
FEW = 6
BEARER = f"Authorization: Bearer {TOKEN}\r\n"


CHANGING = ("POST", "PUT", "DELETE")


class Impatient(Connection):
    patience = PATIENCE


@pytest.fixture
def port(registry: Registry, request: pytest.FixtureRequest) -> Iterator[int]:
    """The gallery as it is served, but less patient."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        found = listener.getsockname()[1]
        limits = replace(LIMITS, together=getattr(request, "param", LIMITS.together))
        app = create_app(
            registry, Access(TOKEN, "curator"), frozenset({f"127.0.0.1:{found}"}), limits=limits, engine=WarmEngine("x")
        )
        port.app = app  # type: ignore[attr-defined]
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="critical", http=Impatient, ws="none", h11_max_incomplete_event_size=32768)
        )
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield found
        server.should_exit = True
        thread.join(20)


def reach(port: int) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", port), timeout=20)
    found.settimeout(20)
    return found


def head(port: int, method: str, path: str, *more: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", BEARER.strip(), *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def everything(client: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    parts = []
    try:
        while part := client.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def answer(port: int, sent: bytes) -> bytes:
    with reach(port) as client:
        with suppress(OSError):  # the server may have hung up already
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
        return everything(client)


def drip(client: socket.socket, data: bytes) -> None:
    """A byte at a time for as long as the server listens."""
    try:
        for i in range(len(data)):
            client.sendall(data[i : i + 1])
            time.sleep(PATIENCE / 8)
    except OSError:
        pass


def lasts(what: Callable[[socket.socket], None], port: int) -> bool:
    """Whether a connection is still open after ten times the server's patience."""
    with reach(port) as client:
        client.settimeout(10 * PATIENCE)
        threading.Thread(target=what, args=(client,), daemon=True).start()
        try:
            everything(client)
        except TimeoutError:
            return True
        return False


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_whoever_sends_a_byte_now_and_then_is_let_go(port: int, method: str) -> None:
    sent = head(port, method, "/api/v1/tags", "Content-Type: application/json", "Content-Length: 1000")
    assert not lasts(lambda client: drip(client, sent * 9), port)  # the head

    def body(client: socket.socket) -> None:
        client.sendall(sent)
        drip(client, b" " * 1000)

    assert not lasts(body, port)  # the body, read or refused long ago
    assert not lasts(lambda client: None, port)  # nothing at all


def test_slow_bodies_are_given_up_on_every_route(port: int) -> None:
    kinds = ("application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")
    asked = {(method, path, kind): reach(port) for path in paths(port_app()) for method in CHANGING for kind in kinds}
    for (method, path, kind), client in asked.items():
        client.sendall(head(port, method, path, f"Content-Type: {kind}", "Content-Length: 500") + b"--x")
    for one, client in asked.items():
        status = everything(client).split(b" ")[1:2]  # the server closed it, with an answer or without
        client.close()
        assert status in ([], [b"403"], [b"404"], [b"405"], [b"408"], [b"415"]), (one, status)


def test_whoever_does_not_read_is_let_go(port: int) -> None:
    def ask(client: socket.socket) -> None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            while True:
                client.sendall(head(port, "GET", "/"))
        except OSError:
            pass

    with reach(port) as client:
        sender = threading.Thread(target=ask, args=(client,), daemon=True)
        sender.start()
        sender.join(30)
        assert not sender.is_alive()  # the server hung up
    assert b"200 OK" in answer(port, head(port, "GET", "/"))


def port_app() -> object:
    return port.app  # type: ignore[attr-defined]


CONFLICTING = (
    ("Host: evil.example",),
    ("Content-Length: 2", "Content-Length: 30"),
    ("Content-Length: 2, 30",),
    ("Content-Length: 2", "Transfer-Encoding: chunked"),
    ("Transfer-Encoding: chunked", "Content-Length: 2"),
    ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
    ("Transfer-Encoding: xchunked",),
    ("Transfer-Encoding : chunked",),
    ("Content-Length: +2",),
    ("Content-Length: 0x2",),
    ("Content-Length: 2", " folded: x"),
    ("X: a\rHost: evil.example",),
    ("X\0: a",),
    tuple(f"X-{i}: {i}" for i in range(10_000)),
    ("X: " + "x" * 100_000,),
)


def test_what_can_be_read_in_two_ways_is_read_in_none(port: int) -> None:
    """Behind a proxy that reads the other way, the hidden request would be somebody else's."""
    hidden = b"{}" + head(port, "GET", "/api/v1/identities?limit=1")
    every = [(path, method) for path in paths(port_app()) for method in ("GET", "POST")]
    for headers in CONFLICTING:
        for path, method in every:
            said = answer(port, head(port, method, path, "Content-Type: application/json", *headers) + hidden)
            assert said.split(b" ")[1:2] in ([], [b"400"], [b"421"], [b"431"], [b"501"]), (
                headers,
                method,
                path,
                said[:200],
            )
            assert b"HTTP/1.1 2" not in said, (headers, method, path)  # nothing was taken for a second request
            assert b'"identities"' not in said


@pytest.mark.parametrize("name", sorted(ONCE - {"host", "content-length", "transfer-encoding"}))
def test_what_is_said_once_is_not_said_twice(port: int, name: str) -> None:
    for path in paths(port_app()):
        for method in ("GET", "POST", "PUT", "DELETE"):
            said = answer(port, head(port, method, path, f"{name}: x", f"{name.title()}: x"))
            assert said.startswith(b"HTTP/1.1 400 "), (method, path, said[:200])


@pytest.mark.parametrize("port", [FEW], indirect=True)
def test_streams_of_one_caller_are_few(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Event streams that nobody reads: the caller's own are counted, and they end by themselves."""
    monkeypatch.setattr(pages.drawing, "PATIENCE", 8)
    site, go = port_app().state.site, threading.Event()  # type: ignore[attr-defined]
    from w2w_registry.web.access import Access as Who

    who = Who(TOKEN, "curator").by_token(TOKEN)
    assert who is not None
    job = site.jobs.submit(f"{who.actor} {who.csrf}", "k", lambda: go.wait(20) and b"png")
    path = f"/make/pictures/{job.id}/events"
    clients = [reach(port) for _ in range(12)]
    for client in clients:
        client.sendall(head(port, "GET", path))
        time.sleep(0.02)
    first = [client.recv(64) for client in clients]
    assert [b"200 OK" in one for one in first] == [True] * FEW + [False] * 6
    assert all(b" 429 " in one for one in first[FEW:])
    assert b" 429 " in answer(port, head(port, "GET", "/"))
    for client in clients:
        client.close()  # and nobody waits for those
    end = time.monotonic() + 20
    while b"200 OK" not in answer(port, head(port, "GET", "/")):
        assert time.monotonic() < end
        time.sleep(0.05)
    go.set()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/who", "multipart/form-data; boundary=B"),
        ("/api/v1/search/file", "application/octet-stream"),
        ("/api/v1/tags", "application/json"),
    ],
)
def test_who_hangs_up_leaves_no_traceback(port: int, path: str, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """In the midst of what it sends, whatever reads that; the next one is answered."""
    more = [f"Content-Type: {kind}", "Content-Length: 90000", "Idempotency-Key: k", f"Origin: http://127.0.0.1:{port}"]
    with reach(port) as gone:
        gone.sendall(head(port, "POST", path, *more) + b"{")
        time.sleep(0.1)
    with reach(port) as other:
        other.sendall(head(port, "GET", "/api/v1/spaces", "Connection: close"))
        assert other.recv(100).startswith(b"HTTP/1.1 200")
    assert [record for record in caplog.records if record.exc_info] == []
