"""``Idempotency-Key``: a change that is sent twice is made once (IETF draft-ietf-httpapi-idempotency-key-header).

The first answer under a key is kept in the registry's home folder for a day and given again, word for word, also after
the server was started anew; a refusal is an answer too, a failure of the server is none, so that it can be tried again.
Of a change that a server was stopped in the midst of nobody can say whether it was made: it is not made again.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from anyio import to_thread
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from w2w_registry.services.recording.answered import Answered, AnswerFolder
from w2w_registry.web.problems import Problem, Unreadable, api_refusal, problem_from
from w2w_registry.web.site import RIGHT_OF, let_in

HEADER: Final = "idempotency-key"
KEPT_FOR: Final = 24 * 3600.0
MAX_KEY: Final = 200
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Answers:
    """Answers by caller and key."""

    def __init__(self, folder: AnswerFolder) -> None:
        self._folder = folder
        self._under_way: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    async def once(self, caller: str, key: str, asked: str, make: Callable[[], Awaitable[Response]]) -> Response:
        """``make()``, or what it answered before under this key.

        Raises:
            Problem: the key was used for another request, or its first one is still under way or was cut short.
            StorageError: answers cannot be kept.
        """
        before = await to_thread.run_sync(self._begin, caller, key, asked)
        if before is not None:
            body = (before.body or "").encode("latin-1")
            return Response(body, before.status, {"idempotency-replayed": "true"}, media_type=before.kind)
        kept: Answered | None = None
        try:
            answer = await make()
            if answer.status_code < 500:
                body, kind = bytes(answer.body), answer.media_type or ""
                kept = Answered(asked, self._folder.now(), answer.status_code, kind, body.decode("latin-1"))
            return answer
        finally:
            await to_thread.run_sync(self._end, caller, key, kept)

    def _begin(self, caller: str, key: str, asked: str) -> Answered | None:
        with self._lock:
            found = self._folder.claim(caller, key, asked)
            if found is None:
                self._under_way.add((caller, key))
                return None
            if found.asked != asked:
                raise Problem(422, "idempotency", "that Idempotency-Key was used for another request")
            if found.body is not None:
                return found
            if (caller, key) in self._under_way:
                raise Problem(409, "idempotency", "the first request with that Idempotency-Key is still under way")
            raise Problem(
                409,
                "idempotency",
                "the server stopped during the first request with that Idempotency-Key; see whether the change was "
                "made, and use another key if not",
            )

    def _end(self, caller: str, key: str, kept: Answered | None) -> None:
        with self._lock:
            self._under_way.discard((caller, key))
            if kept is None:
                self._folder.drop(caller, key)
            else:
                self._folder.keep(caller, key, kept)


class OnceRoute(APIRoute):
    """A route whose POST is made once for each key."""

    def get_route_handler(self) -> Handler:
        handler = super().get_route_handler()
        rights = [RIGHT_OF[one.call] for one in self.dependant.dependencies if one.call in RIGHT_OF]

        async def handle(asked: Request) -> Response:
            request = StrictRequest(asked.scope, asked.receive)
            key = request.headers.get(HEADER)
            is_json = request.headers.get("content-type", "").startswith("application/json")
            if key is None or request.method != "POST" or not is_json:
                return await handler(request)
            if not 0 < len(key) <= MAX_KEY or not key.isprintable():
                raise Problem(400, "idempotency", f"an Idempotency-Key has 1 to {MAX_KEY} printable characters")
            for right in rights:  # an answer kept is given to whoever may still ask for it
                let_in(request, right)
            text = f"{request.url.path}?{request.url.query}\n".encode() + await request.body()
            answers: Answers = request.app.state.answers
            who = request.state.principal
            return await answers.once(
                who.actor, key, hashlib.sha256(text).hexdigest(), lambda: _answer(handler, request)
            )

        return handle


class StrictRequest(Request):
    """A request whose JSON (RFC 8259, in UTF-8) can only be read in one way: of a key that is there twice another
    reader takes the other one, and NaN is no number to most."""

    async def json(self) -> Any:
        """Raises Unreadable."""
        body = await self.body()
        try:
            return json.loads(body.decode(), object_pairs_hook=_each_once, parse_constant=_no_number)
        except UnicodeDecodeError:
            raise Unreadable("JSON is sent in UTF-8") from None
        except RecursionError:
            raise Unreadable("the JSON is nested too deeply") from None
        except ValueError as error:
            raise Unreadable(f"that is not JSON ({error})") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number")


async def _answer(handler: Handler, request: Request) -> Response:
    """The handler's answer; a refusal is one as well."""
    try:
        return await handler(request)
    except Exception as error:
        return api_refusal(problem_from(error))
