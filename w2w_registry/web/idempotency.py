"""``Idempotency-Key``: a change that is sent twice is made once (IETF draft-ietf-httpapi-idempotency-key-header).

The first answer under a key is kept for a day and given again, word for word, while this server runs; a refusal is an
answer too, a failure of the server is none, so that it can be tried again.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from w2w_registry.web.problems import Problem, api_refusal, problem_from

HEADER: Final = "idempotency-key"
KEPT_FOR: Final = 24 * 3600.0
KEPT: Final = 10_000
MAX_KEY: Final = 200
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


@dataclass
class _Kept:
    """``asked``: digest of the request; ``answer`` None while it is being made."""

    asked: str
    at: float
    answer: tuple[int, bytes, str] | None = None


class Answers:
    """Answers by caller and key, the oldest forgotten first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._lock = threading.Lock()

    async def once(self, caller: str, key: str, asked: str, make: Callable[[], Awaitable[Response]]) -> Response:
        """``make()``, or what it answered before under this key.

        Raises:
            Problem: the key was used for another request, or its first one is still under way.
        """
        before = self._begin(caller, key, asked)
        if before is not None:
            status, body, kind = before
            return Response(body, status, {"idempotency-replayed": "true"}, media_type=kind)
        try:
            answer = await make()
        except BaseException as error:
            self._end(caller, key, None)
            raise error
        body = bytes(answer.body)
        kept = None if answer.status_code >= 500 else (answer.status_code, body, answer.media_type or "")
        self._end(caller, key, kept)
        return answer

    def _begin(self, caller: str, key: str, asked: str) -> tuple[int, bytes, str] | None:
        with self._lock:
            at = self._clock()
            while self._kept and (len(self._kept) > KEPT or next(iter(self._kept.values())).at + KEPT_FOR < at):
                self._kept.popitem(last=False)
            found = self._kept.get((caller, key))
            if found is None:
                self._kept[caller, key] = _Kept(asked, at)
                return None
            if found.asked != asked:
                raise Problem(422, "idempotency", "that Idempotency-Key was used for another request")
            if found.answer is None:
                raise Problem(409, "idempotency", "the first request with that Idempotency-Key is still under way")
            return found.answer

    def _end(self, caller: str, key: str, answer: tuple[int, bytes, str] | None) -> None:
        with self._lock:
            if answer is None:
                self._kept.pop((caller, key), None)
            elif (caller, key) in self._kept:
                self._kept[caller, key].answer = answer


class OnceRoute(APIRoute):
    """A route whose POST is made once for each key."""

    def get_route_handler(self) -> Handler:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            key = request.headers.get(HEADER)
            json = request.headers.get("content-type", "").startswith("application/json")
            if key is None or request.method != "POST" or not json:
                return await handler(request)
            if not 0 < len(key) <= MAX_KEY or not key.isprintable():
                raise Problem(400, "idempotency", f"an Idempotency-Key has 1 to {MAX_KEY} printable characters")
            text = f"{request.url.path}?{request.url.query}\n".encode() + await request.body()
            answers: Answers = request.app.state.answers
            who = request.state.principal
            return await answers.once(
                who.actor, key, hashlib.sha256(text).hexdigest(), lambda: _answer(handler, request)
            )

        return handle


async def _answer(handler: Handler, request: Request) -> Response:
    """The handler's answer; a refusal is one as well."""
    try:
        return await handler(request)
    except Exception as error:
        return api_refusal(problem_from(error))
