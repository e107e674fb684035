"""What stands before every route: host, origin, who asks, how much may be sent and how slowly; and the headers after.

Plain ASGI around the whole application, so that no route, file or error page can be reached, or answer, without it.
The host is compared with a list because a name that resolves to this machine (DNS rebinding) makes a stranger's page
"same origin"; ``Origin`` and ``Sec-Fetch-Site`` (W3C Fetch Metadata) tell requests of other sites from one's own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from w2w_registry.errors import RegistryError
from w2w_registry.web.access import SESSION_SECONDS, Access, Principal
from w2w_registry.web.limits import Buckets, Limits, OwnBuckets
from w2w_registry.web.oidc import Oidc
from w2w_registry.web.problems import Problem, problem_of, respond

PRINTED: Final = "open the address that `w2w-reg serve` printed"
API: Final = "/api/"
SAFE: Final = frozenset({"GET", "HEAD"})
METHODS: Final = SAFE | {"POST", "PUT", "DELETE"}
FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data")
BODIES: Final = ("application/json", "application/octet-stream")
HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
MAX_PATH: Final = 4096
MOST_HEADERS: Final = 100
MAX_HEADERS: Final = 32 * 1024
ONCE: Final = frozenset(
    {
        *("host", "authorization", "cookie", "origin", "x-csrf-token", "idempotency-key"),
        *("content-type", "content-length", "transfer-encoding"),
        *("sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest"),
    }
)
"""What a request says once or not at all: of two that differ, a proxy may have believed the other one."""
COUNTED: Final = "w2w.counted"
"""In the scope of a request that another process of this gallery counted for its caller's rate."""
_LOG = logging.getLogger("w2w_registry.web")


class Guard:
    """ASGI middleware; ``hosts`` are the values ``Host`` may have, port included, in lower case."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        access: Access,
        hosts: frozenset[str],
        limits: Limits,
        buckets: Buckets | None = None,
    ) -> None:
        self._app, self._access, self._hosts, self._limits = app, access, hosts, limits
        self._buckets = buckets or OwnBuckets(limits)
        self._oidc = access.people if isinstance(access.people, Oidc) else None
        self._under_way: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        answer = _Answer(send, api=scope["path"].startswith(API))
        try:
            self._look_at(scope, headers)
            found = await self._signed_in(scope, headers) or self._admit(scope, headers)
            if isinstance(found, dict):
                await answer.start_empty(303, found)
                return
            if found is not None:
                scope.setdefault("state", {})["principal"] = found
            body = _Body(receive, answer, self._limits, headers)
            body.check_announced()
            with self._one_of_few(scope, found):
                await self._app(scope, body.receive, answer.send)
        except Problem as problem:
            await answer.refuse(problem)
        except RegistryError as error:  # of what stands before the routes, as when the database went away
            _LOG.warning("%s", error)
            await answer.refuse(problem_of(error))
        except ClientDisconnect:
            _LOG.debug("a client went away before its request was whole")  # nobody is left to be answered
        except Exception:
            _LOG.exception("a request failed")
            await answer.refuse(Problem(500, "internal", "something went wrong here; the server's log says what"))

    def _look_at(self, scope: Scope, headers: Headers) -> None:
        """Host, address, method and site, before anything is done.

        Raises:
            Problem: the request is not to be answered.
        """
        method, path = scope["method"], scope["path"]
        if len(headers.getlist("host")) != 1 or headers["host"].lower() not in self._hosts:
            raise Problem(421, "host", "this server does not answer to that host name")
        _check_headers(headers)
        _check_path(path, scope.get("query_string", b""))
        if method not in METHODS:
            raise Problem(405, "method", "that method is never used here", {"allow": ", ".join(sorted(METHODS))})
        _check_site(method, headers)

    @contextmanager
    def _one_of_few(self, scope: Scope, who: Principal | None) -> Iterator[None]:
        """Of all that one caller asked for and was not answered yet.

        Raises:
            Problem.
        """
        caller = f"{(scope.get('client') or ('',))[0]} {'' if who is None else who.actor}"
        if self._under_way[caller] >= self._limits.together:
            raise Problem(429, "rate", "too many requests at once; wait for an answer", {"retry-after": "1"})
        self._under_way[caller] += 1
        try:
            yield
        finally:
            self._under_way[caller] -= 1
            if not self._under_way[caller]:
                del self._under_way[caller]

    async def _signed_in(self, scope: Scope, headers: Headers) -> dict[str, str] | None:
        """Where people sign in by OIDC: the headers that send a browser there, and those that let it in again."""
        oidc = self._oidc
        if oidc is None or scope["method"] != "GET" or scope["path"].startswith(API):
            return None
        if scope["path"] == oidc.path:
            self._wait(scope, "sign-in")
            said = _cookie(headers, self._access.cookie + "_sign_in")
            remembered = self._access.unseal(said) if said else None
            query = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))
            person, back = await asyncio.to_thread(oidc.finish, query, remembered or "")
            return {"location": back, "set-cookie": self._kept(self._access.new_named_session(*vars(person).values()))}
        link = headers.get("sec-fetch-mode", "navigate") == "navigate" and "text/html" in headers.get("accept", "")
        if not link or self._who(scope, headers) is not None:
            return None
        self._wait(scope, "sign-in")
        address, kept = await asyncio.to_thread(
            oidc.begin, _address(scope, scope.get("query_string", b"").decode("latin-1"))
        )
        cookie = self._kept(self._access.seal(kept), "_sign_in", 600)
        return {"location": address, "set-cookie": cookie}

    def _kept(self, value: str, suffix: str = "", seconds: int = SESSION_SECONDS) -> str:
        secure = "; Secure" if self._oidc is not None and self._oidc.secure else ""
        return f"{self._access.cookie}{suffix}={value}; HttpOnly; SameSite=Lax; Path=/; Max-Age={seconds}{secure}"

    def _wait(self, scope: Scope, caller: str) -> None:
        if COUNTED in scope:
            return
        client = (scope.get("client") or ("",))[0]
        wait = self._buckets.take(f"{client} {caller}")
        if wait:
            raise Problem(429, "rate", "too many requests; wait a moment", {"retry-after": str(wait)})

    def _admit(self, scope: Scope, headers: Headers) -> Principal | dict[str, str]:
        """Who asks, or the headers of a redirect that turns a token in the address into a cookie.

        Raises:
            Problem: the request is not to be answered.
        """
        method, path = scope["method"], scope["path"]
        entered = self._enter(scope)
        if entered is not None:
            return entered
        who = self._who(scope, headers)
        if who is None:
            how = "sign in first: whoever serves this gallery says where" if self._access.named else PRINTED
            raise Problem(401, "token", how, {"www-authenticate": "Bearer"})
        self._wait(scope, who.actor)
        if method not in SAFE:
            _check_mutation(path, headers, who)
        return who

    def _who(self, scope: Scope, headers: Headers) -> Principal | None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and given:
            return self._access.by_token(given.strip())
        if self._access.proxy is not None:
            client = (scope.get("client") or ("",))[0]
            names = headers.getlist(self._access.proxy.header)
            return self._access.by_proxy(client, names[0] if len(names) == 1 else None)
        value = _cookie(headers, self._access.cookie)
        return None if value is None else self._access.by_cookie(value)

    def _enter(self, scope: Scope) -> dict[str, str] | None:
        """``GET …?token=T``: a cookie and the same address without the token, which then stays in no history."""
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in query if name == "token"]
        if scope["method"] != "GET" or scope["path"].startswith(API) or len(given) != 1:
            return None
        if self._access.by_token(given[0]) is None:
            return None
        left = urlencode([(name, value) for name, value in query if name != "token"])
        return {"location": _address(scope, left), "set-cookie": self._kept(self._access.new_session())}


def _address(scope: Scope, query: str) -> str:
    """The address asked for, in this gallery: one slash exactly, because two would name another host."""
    path = "/" + scope.get("raw_path", b"/").decode("latin-1").partition("?")[0].lstrip("/")
    return f"{path}?{query}" if query else path


def _cookie(headers: Headers, name: str) -> str | None:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return None
    return None if found is None else found.value


def _check_headers(headers: Headers) -> None:
    if len(headers.raw) > MOST_HEADERS or sum(len(name) + len(value) for name, value in headers.raw) > MAX_HEADERS:
        raise Problem(431, "headers", "the request has too many headers, or too long ones")
    names = [name for name in headers.keys() if name in ONCE]  # noqa: SIM118 - repeated ones are repeated here
    if len(names) != len(set(names)) or {"content-length", "transfer-encoding"} <= set(names):
        raise Problem(400, "headers", "the request says something twice that can be said once")


def _check_path(path: str, query: bytes) -> None:
    if len(path) + len(query) > MAX_PATH:
        raise Problem(414, "path", "that address is too long")
    if any(ord(c) < 32 or ord(c) == 127 for c in path) or "\\" in path or "\ufffd" in path:
        raise Problem(400, "path", "that address holds characters no name has")
    if any(part in (".", "..") for part in path.split("/")):
        raise Problem(400, "path", "that address leads nowhere")


def _check_site(method: str, headers: Headers) -> None:
    """Refuse what another site asks for, except that a link from there may open a page.

    Raises:
        Problem.
    """
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    own = (f"http://{headers['host'].lower()}", f"https://{headers['host'].lower()}")
    if origin is not None and origin.lower() not in own:
        raise Problem(403, "origin", "another site asked for this")
    if site in ("cross-site", "same-site"):
        link = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
        if method != "GET" or not link:
            raise Problem(403, "origin", "another site asked for this")


def _check_mutation(path: str, headers: Headers, who: Principal) -> None:
    """What changes something, or sends a file: JSON with a CSRF token for the API, forms of one's own for pages.

    Raises:
        Problem.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    api = path.startswith(API)
    if kind not in (BODIES if api else FORMS):
        raise Problem(415, "content-type", f"send {' or '.join(BODIES if api else FORMS)}")
    if not who.ambient:
        return
    if headers.get("origin") is None and headers.get("sec-fetch-site") != "same-origin":
        raise Problem(403, "origin", "the request does not say that it comes from this site")
    if api and not matches(headers.get("x-csrf-token"), who):
        raise Problem(403, "csrf", "the request lacks this session's CSRF token")


def matches(given: object, who: Principal) -> bool:
    """Whether a CSRF token is this session's."""
    import hmac

    return isinstance(given, str) and hmac.compare_digest(given.encode("utf-8", "replace"), who.csrf.encode())


class _Answer:
    """The way out: security headers on everything, one response and no more."""

    def __init__(self, send: Send, *, api: bool) -> None:
        self._send, self._api = send, api
        self.started = False
        self.refused: Problem | None = None

    async def send(self, message: Message) -> None:
        if self.refused is not None:  # the body broke a limit: whatever the application made of that is not the answer
            return
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(raw=list(message["headers"]))
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault("cache-control", "no-store")
            if "server" in headers:
                del headers["server"]
            message = {**message, "headers": headers.raw}
        await self._send(message)

    async def start_empty(self, status: int, headers: Mapping[str, str]) -> None:
        raw = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in {**headers, "content-length": "0"}.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": raw})
        await self.send({"type": "http.response.body", "body": b""})

    async def refuse(self, problem: Problem) -> None:
        if self.started:
            return  # too late to say anything: the connection ends short, which the client can see
        self.refused = None
        status, headers, body = respond(problem, api=self._api)
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})
        self.refused = problem


class _Body:
    """The way in: no more bytes than allowed, no slower than allowed."""

    def __init__(self, receive: Receive, answer: _Answer, limits: Limits, headers: Headers) -> None:
        self._receive, self._answer, self._limits = receive, answer, limits
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        files = kind in ("multipart/form-data", "application/octet-stream")
        self._most = limits.upload_bytes if files else limits.form_bytes
        self._announced = headers.get("content-length", "")
        self._got, self._done = 0, False
        self._start = time.monotonic()

    def check_announced(self) -> None:
        if self._announced.isdigit() and int(self._announced) > self._most:
            raise self._too_much()

    async def receive(self) -> Message:
        if self._done:  # only a disconnect can still come, whenever it comes
            return await self._receive()
        end = self._start + self._limits.patience + self._got / self._limits.slowest
        try:
            message: dict[str, Any] = dict(await asyncio.wait_for(self._receive(), max(0.01, end - time.monotonic())))
        except TimeoutError:
            await self._give_up(Problem(408, "slow", "the request came too slowly"))
        if message["type"] == "http.request":
            self._got += len(message.get("body", b""))
            self._done = not message.get("more_body", False)
            if self._got > self._most:
                await self._give_up(self._too_much())
        else:
            self._done = True
        return message

    async def _give_up(self, problem: Problem) -> None:
        await self._answer.refuse(problem)
        raise problem

    def _too_much(self) -> Problem:
        return Problem(413, "size", f"at most {self._most:,} bytes can be sent here")
