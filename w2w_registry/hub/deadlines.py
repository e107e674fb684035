"""A request to the Hub ends in time from its first byte on, its answer's headers included.

The HTTP client's timeouts are for one read each: a byte now and then keeps every one of them. What it reads its
headers with is its transport's network backend, so that is where the time that is left of a request is asked for. The
backend is no public part of the client; a test holds every release to it.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from w2w_registry.errors import HubError
from w2w_registry.hub.client_errors import LATER

DEADLINE = 300.0
"""Seconds one request may take; what is sent and a file that is fetched get another one for every ``SLOWEST`` bytes."""
SLOWEST = 10_000
ANNOUNCED = "w2w_announced_bytes"
"""Extension of a request for a file: how many bytes were announced."""
_UNTIL = "w2w_deadline"
_TICK = 0.001  # a read may come back a little before its time is up
_now = threading.local()


class Deadline:
    """When a request has to be over (``time.monotonic``), and what it is called."""

    def __init__(self, seconds: float, where: str) -> None:
        self.seconds, self.where = seconds, where
        self.until = time.monotonic() + seconds

    def check(self) -> float:
        """Seconds that are left. Raises HubError when none are."""
        left = self.until - time.monotonic()
        if left <= _TICK:
            reason = f"the answer did not end within {self.seconds:.0f} seconds"
            raise HubError(repo=self.where, reason=reason, status=None, hint=LATER)
        return left


def begin(request: Any) -> None:
    """A request hook: from now on the time of requests to the API, and for files that are fetched here, is counted.

    Other traffic in the process (a pipeline that fetches its weights) is left alone.
    """
    _now.deadline = None
    announced = request.extensions.get(ANNOUNCED)
    if announced is None and not request.url.path.startswith("/api/"):
        return
    sent = request.headers.get("Content-Length", "0")
    size = (int(sent) if sent.isascii() and sent.isdigit() else 0) + int(announced or 0)
    deadline = Deadline(DEADLINE + size / SLOWEST, f"{request.url.host}{request.url.path}")
    request.extensions[_UNTIL] = _now.deadline = deadline


def of(request: Any) -> Deadline | None:
    """The deadline of a request that is counted. Its body is read with it in hand (``bounds``), and no longer here."""
    _now.deadline = None
    found = request.extensions.get(_UNTIL)
    return found if isinstance(found, Deadline) else None


def watch(client: Any) -> None:
    """Let every connection of an HTTP client ask how much time is left while it waits for headers."""
    transports = [client._transport, *(one for one in client._mounts.values() if one is not None)]
    for transport in transports:
        pool = getattr(transport, "_pool", None)
        if pool is not None and not isinstance(pool._network_backend, _Backend):
            pool._network_backend = _Backend(pool._network_backend)


def _left(timeout: float | None) -> float | None:
    deadline: Deadline | None = getattr(_now, "deadline", None)
    if deadline is None:
        return timeout
    left = deadline.check()
    return left if timeout is None else min(left, timeout)


class _Backend:
    """A network backend whose connections end in time."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def connect_tcp(self, *args: Any, **options: Any) -> _Stream:
        return _Stream(self._inner.connect_tcp(*args, **options))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Stream:
    """A connection: each read waits no longer than what is left of the request."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return bytes(self._inner.read(max_bytes, _left(timeout)))
        except Exception:
            _left(None)  # the request is over, not the read alone
            raise

    def start_tls(self, *args: Any, **options: Any) -> _Stream:
        return _Stream(self._inner.start_tls(*args, **options))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
