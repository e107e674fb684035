"""Answers kept in memory: what was made once for a state of the catalog is not made again for the same question.

Stands behind the guard, so that whoever is answered has been let in. A route says that its answer may be kept
(:func:`keepable`); it is then the same for everybody who may do the same, but for the actor's name and the session's
CSRF token, in whose place :data:`STANDIN` put marks.

An answer is given again while the catalog's last change is the one it was made after. Beside somebody who adds
thousands by command that would be never: a page may therefore be ``lag`` seconds old, unless something was changed
through the gallery since. What the API says is never old. Consents run out by themselves, so nothing is kept longer
than ``LONGEST`` seconds.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from html import escape
from typing import Any, Final, TypeVar

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from w2w_registry.web.access import Principal, Role
from w2w_registry.web.filters import plain

LONGEST: Final = 10.0
LAG: Final = 1.0
MOST_BYTES: Final = 64 << 20
MOST_EACH: Final = 1 << 20
PATIENCE: Final = 5.0
Key = tuple[Hashable, ...]
HEADER: Final = "x-w2w-keep"
_ACTOR: Final = f"actor{secrets.token_hex(16)}"
_CSRF: Final = f"csrf{secrets.token_hex(16)}"
Kind = TypeVar("Kind", bound=Response)
READS: Final = frozenset({"/api/v1/search", "/api/v1/search/file", "/api/v1/verify"})
"""What is sent by POST and changes nothing."""


def standin(who: Principal) -> Principal:
    """Somebody who may do what ``who`` may, with marks for what is theirs alone."""
    return Principal(_ACTOR, Role(who.role), who.rights, who.ambient, _CSRF)


def keepable(response: Kind, *, lagging: bool = False, current: bool = True) -> Kind:
    """``response``, marked as one that may be given again.

    Args:
        lagging: it may be a little old.
        current: it is of the state it was asked of; else it may be given again only as an old one.
    """
    response.headers[HEADER] = f"{'lag' if lagging else ''} {'' if current else 'old'}"
    return response


@dataclass(frozen=True)
class _Answer:
    """``after``: the catalog's last change when it was asked for, None when it was old even then; ``changes``: how many
    had been made through the gallery."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    after: int | None
    changes: int
    lagging: bool
    at: float


class KeptAnswers:
    """ASGI middleware. ``last_change`` asks the catalog; ``changes`` counts what all processes of this gallery
    changed."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        last_change: Callable[[], Awaitable[int]],
        changes: Changes,
        lag: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app, self._last_change, self._changes = app, last_change, changes
        self._lag, self._clock = lag, clock
        self._kept: OrderedDict[Key, _Answer] = OrderedDict()
        self._bytes = 0
        self._making: dict[Key, asyncio.Future[None]] = {}
        self._places: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["method"] != "GET":
            await self._app(scope, receive, send if scope["path"] in READS else self._counted(send))
        else:
            await self._get(scope, receive, send)

    def _counted(self, send: Send) -> Send:
        """Counts the change before whoever made it hears that it was made."""

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._changes.one_more()
            await send(message)

        return counted

    async def _get(self, scope: Scope, receive: Receive, send: Send) -> None:
        who: Principal = scope["state"]["principal"]
        key = (scope["path"], scope["query_string"], who.rights, who.role, who.ambient, _asked(scope))
        place = scope["path"].split("/")[1]
        for _ in range(2):  # whoever waited for somebody else's answer looks once more, then makes an own one
            changes, after = self._changes.count(), await self._last_change()
            found = self._kept.get(key)
            if found is not None and self._holds(found, after, changes):
                self._kept.move_to_end(key)
                await _give(found, who, send)
                return
            under_way = self._making.get(key)
            if under_way is None or place not in self._places:
                break
            await asyncio.wait([under_way], timeout=PATIENCE)
        done = self._making[key] = asyncio.get_running_loop().create_future()
        try:
            await self._app(scope, receive, _Taker(self, key, who, after, changes, send).send)
        finally:
            if self._making.get(key) is done:
                del self._making[key]
            done.set_result(None)

    def _holds(self, answer: _Answer, after: int, changes: int) -> bool:
        age = self._clock() - answer.at
        if age < LONGEST and answer.after == after:
            return True
        return answer.lagging and age < self._lag and answer.changes == changes

    def keep(self, key: Key, answer: _Answer) -> None:
        """Keep an answer, and no more than ``MOST_BYTES`` of them."""
        self._places.add(str(key[0]).split("/")[1])
        if len(answer.body) > MOST_EACH:
            return
        self._drop(key)
        self._kept[key] = answer
        self._bytes += len(answer.body)
        while self._bytes > MOST_BYTES or self._over(next(iter(self._kept.values()))):
            self._drop(next(iter(self._kept)))

    def _over(self, answer: _Answer) -> bool:
        """Whether it can no longer be given to anybody: those that nobody asked for longest come first."""
        return self._clock() - answer.at >= LONGEST

    def now(self) -> float:
        return self._clock()

    def _drop(self, key: Key) -> None:
        before = self._kept.pop(key, None)
        if before is not None:
            self._bytes -= len(before.body)


class Changes:
    """Counts what is changed through one process; :mod:`workers` has one for several."""

    def __init__(self) -> None:
        self._count = 0

    def count(self) -> int:
        return self._count

    def one_more(self) -> None:
        self._count += 1


class _Taker:
    """Takes an answer on its way out: one that may be kept is collected, every other passes as it comes."""

    def __init__(self, kept: KeptAnswers, key: Key, who: Principal, after: int, changes: int, send: Send) -> None:
        self._kept, self._key, self._who, self._after, self._changes = kept, key, who, after, changes
        self._out = send
        self._start: dict[str, Any] | None = None
        self._rule = ""
        self._parts: list[bytes] = []

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message["headers"]))
            rule = headers.get(HEADER)
            if rule is None:
                await self._out(message)
                return
            del headers[HEADER]
            del headers["content-length"]
            self._rule, self._start = rule, {**message, "headers": headers.raw}
        elif self._start is None:
            await self._out(message)
        else:
            self._parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                await self._end(self._start)

    async def _end(self, start: dict[str, Any]) -> None:
        answer = _Answer(
            start["status"],
            start["headers"],
            b"".join(self._parts),
            None if "old" in self._rule else self._after,
            self._changes,
            "lag" in self._rule,
            self._kept.now(),
        )
        if answer.status == 200:
            self._kept.keep(self._key, answer)
        await _give(answer, self._who, self._out)


def _asked(scope: Scope) -> bytes:
    """What besides the address an answer hangs on: which copy the browser has already."""
    return next((value for name, value in scope["headers"] if name == b"if-none-match"), b"")


async def _give(answer: _Answer, who: Principal, send: Send) -> None:
    body = answer.body
    if _CSRF.encode() in body or _ACTOR.encode() in body:
        body = body.replace(_CSRF.encode(), escape(who.csrf).encode())
        body = body.replace(_ACTOR.encode(), escape(plain(who.actor)).encode())
    headers = list(answer.headers)
    if answer.status != 304:
        headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
