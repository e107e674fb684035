"""Several processes for one gallery: those that show, and one that makes.

The listening socket is inherited by ``workers`` processes that show pages. What changes anything, and what needs the
base model, goes on from them to one more process, the maker, over a socket in a folder that only this user may open:
so there is one queue of pictures, one memory of what was asked twice, one teller of webhooks. All of them share how
many requests each caller made, and how many changes were made through the gallery (:mod:`kept`).

A process that ends by itself is started again; none outlives the one that started them.
"""

from __future__ import annotations

import ctypes
import hmac
import logging
import multiprocessing
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import httpx
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from w2w_registry.web.guard import COUNTED
from w2w_registry.web.kept import Changes
from w2w_registry.web.limits import Limits
from w2w_registry.web.problems import Problem

FORWARDED: Final = b"x-w2w-forwarded"
_TO_MAKER: Final = b"x-w2w-to-maker"
SLOTS: Final = 4096
PROBES: Final = 8
AGAIN: Final = 1.0
_HOP: Final = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te", b"trailer", b"date"})
_LOG = logging.getLogger("w2w_registry.web")


def possible() -> bool:
    """Whether this system can share a socket with processes made by fork."""
    return hasattr(os, "fork") and hasattr(socket, "AF_UNIX")


def usual() -> int:
    """How many processes show pages unless somebody says: one a core, four at most."""
    return min(4, os.cpu_count() or 1) if possible() else 1


class SharedChanges(Changes):
    """Counts what is changed, by all processes that were forked from this one."""

    def __init__(self) -> None:
        self._shared: Any = multiprocessing.Value(ctypes.c_uint64, 0)

    def count(self) -> int:
        return int(self._shared.value)

    def one_more(self) -> None:
        with self._shared.get_lock():
            self._shared.value += 1


class SharedBuckets:
    """Token buckets by caller, as :class:`limits.OwnBuckets`, for all processes that were forked from this one."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._slots: Any = multiprocessing.Array(ctypes.c_double, 3 * SLOTS)

    def take(self, caller: str) -> int:
        """0, or how many seconds to wait."""
        key, at, limits = float(1 + (hash(caller) & 0xFFFFFFFFFFFF)), time.monotonic(), self._limits
        with self._slots.get_lock():
            slots = self._slots.get_obj()
            near = [3 * ((int(key) + i) % SLOTS) for i in range(PROBES)]
            place = next((p for p in near if slots[p] == key), None)
            if place is None:
                place = min(near, key=lambda p: slots[p + 2])  # an empty one, else whoever was seen least recently
                slots[place : place + 3] = [key, float(limits.burst), at]
            level = min(float(limits.burst), slots[place + 1] + (at - slots[place + 2]) * limits.rate)
            enough = level >= 1.0
            slots[place + 1], slots[place + 2] = level - 1.0 if enough else level, at
        return 0 if enough else 1 + int((1.0 - level) / limits.rate)


class Elsewhere:
    """The application of a process that shows: hands on to the maker what is the maker's.

    ``model``: whether the gallery was told of a base model, which answers "Who is this?" too.
    """

    def __init__(self, app: ASGIApp, *, path: Path, secret: str, model: bool) -> None:
        self._app, self._secret, self._model = app, secret, model
        self._maker = httpx.AsyncHTTPTransport(uds=str(path), limits=httpx.Limits(max_connections=None))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif makes(scope, model=self._model):
            await self._hand_on(scope, receive, send)
        else:
            await self._show(scope, receive, send)

    async def _show(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer here, unless the route finds that it is for the maker after all."""
        handed_on = False

        async def out(message: Message) -> None:
            nonlocal handed_on
            if message["type"] == "http.response.start":
                handed_on = (_TO_MAKER, b"1") in message["headers"]
            if not handed_on:
                await send(message)

        await self._app(scope, receive, out)
        if handed_on:
            await self._hand_on(scope, receive, send)

    async def _hand_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = (scope.get("client") or ("",))[0]
        headers = [(name, value) for name, value in scope["headers"] if name not in _HOP and name != FORWARDED]
        headers.append((FORWARDED, f"{self._secret} {client}".rstrip().encode()))
        query = scope["query_string"]
        target = scope["raw_path"] + (b"?" + query if query else b"")
        sized = any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])
        request = httpx.Request(
            scope["method"],
            "http://maker/",
            headers=headers,
            content=_body(receive) if sized else None,
            extensions={"target": target, "timeout": {"connect": 5.0, "pool": 5.0}},
        )
        try:
            answer = await self._maker.handle_async_request(request)
        except httpx.TransportError:
            _LOG.exception("the maker does not answer")
            raise Problem(503, "busy", "that cannot be done at the moment; try again", {"retry-after": "2"}) from None
        try:
            raw = [(name.lower(), value) for name, value in answer.headers.raw if name.lower() not in _HOP]
            await send({"type": "http.response.start", "status": answer.status_code, "headers": raw})
            async for part in answer.aiter_raw():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await answer.aclose()


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message: Message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnect
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


def makes(scope: Scope, *, model: bool) -> bool:
    """Whether a request is for the maker: it may change something, draws, asks the base model, or unfolds a map."""
    path = scope["path"]
    if path == "/api/v1/search" or path == "/who":
        return model or (path == "/who" and scope["method"] != "GET")
    if scope["method"] not in ("GET", "HEAD"):
        return True
    query = scope["query_string"]
    unfolds = path.startswith("/spaces/") and b"map=umap" in query  # seconds of work, done once for all who look
    return path.startswith("/make") or unfolds or (path.startswith("/identities/") and b"sheet=" in query)


def for_the_maker() -> Response:
    """What a route that takes GET answers in a process that only shows, when the maker has to do it."""
    return Response(status_code=503, headers={_TO_MAKER.decode(): "1"})


class FromWorkers:
    """Stands before the maker's guard: a request handed on keeps the address it came from, and was counted there."""

    def __init__(self, app: ASGIApp, *, secret: str) -> None:
        self._app, self._secret = app, secret.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = [value for name, value in scope["headers"] if name == FORWARDED]
            secret, _, client = (given[0] if len(given) == 1 else b"").partition(b" ")
            if not hmac.compare_digest(secret, self._secret):
                await send({"type": "http.response.start", "status": 403, "headers": []})
                await send({"type": "http.response.body", "body": b""})
                return
            headers = [(name, value) for name, value in scope["headers"] if name != FORWARDED]
            scope = {**scope, "headers": headers, "client": (client.decode(), 0), COUNTED: True}
        await self._app(scope, receive, send)


class Family:
    """The processes of one gallery. ``work(n)`` is what the n-th does, until it is told to stop."""

    def __init__(self, count: int, work: Callable[[int], None]) -> None:
        self._count, self._work = count, work
        self._children: dict[int, int] = {}
        self._stopping = False

    def run(self) -> None:
        """Start everybody, start again whoever ends, until a signal says to stop; then wait for all."""
        before = {one: signal.signal(one, self._stop) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            for number in range(self._count):
                self._start(number)
            while self._children:
                self._wait()
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def _wait(self) -> None:
        pid, status = os.wait()
        number = self._children.pop(pid, None)
        if number is None or self._stopping:
            return
        _LOG.error("process %s of the gallery ended (%s); it is started again", number, status)
        time.sleep(AGAIN)
        if not self._stopping:
            self._start(number)

    def _start(self, number: int) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            self._children[pid] = number
            return
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, _leave)  # what is begun in a ``finally`` is done
            threading.Thread(target=_not_alone, args=(parent,), daemon=True).start()
            self._work(number)
            code = 0
        except (KeyboardInterrupt, SystemExit):
            code = 0
        except BaseException:
            _LOG.exception("a process of the gallery failed")
        finally:
            os._exit(code)

    def _stop(self, *_: Any) -> None:
        self._stopping = True
        for pid in self._children:
            os.kill(pid, signal.SIGTERM)


def _leave(*_: Any) -> None:
    raise SystemExit(0)


def _not_alone(parent: int) -> None:
    """Ends this process when the one that started it is gone."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)


def new_secret() -> str:
    """What tells the maker that a request comes from a process of its own gallery."""
    return secrets.token_hex(32)
