"""An OCI registry over HTTP: one bounded request at a time, with the credentials that other OCI tools use.

Credentials and the token exchange are the oras library's (``docker login``, ``oras login``, credential helpers); only
this module imports it. What an answer may cost is decided here: so many bytes, so many seconds. Protocol: the OCI
distribution specification 1.1.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from w2w_registry.errors import HubError, MissingExtra, RegistryError
from w2w_registry.hub.api import Content, size_of
from w2w_registry.hub.client_errors import LATER
from w2w_registry.hub.deadlines import DEADLINE, SLOWEST, Deadline
from w2w_registry.hub.safety import shorten

ATTEMPTS = 5
MOST_ANSWER = 4 << 20
"""Bytes of a manifest, or of any other answer but a file: as many as the specification asks a registry to take."""
_TIMEOUT = 60.0
_CHUNK = 1 << 16
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_REASONS: Mapping[int, str] = {
    401: "the credentials are not accepted",
    403: "these credentials may not do this",
    405: "it does not do this",
    413: "it calls what was sent too large",
    429: "its rate limit is reached",
    507: "its storage quota is used up",
}


@dataclass(frozen=True)
class Answer:
    """What came back: status, headers (any case), and the body where it is no file."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False, default=b"")


class Wire:
    """One OCI registry. ``anonymous``: asked as anybody would, without credentials."""

    def __init__(self, host: str, *, anonymous: bool = False, sleep: Callable[[float], None] = time.sleep) -> None:
        self.host = host
        self.anonymous = anonymous
        self._sleep = sleep
        self._made: _Session | None = None

    # -- requests ------------------------------------------------------------------------------
    def ask(
        self,
        method: str,
        path: str,
        *,
        fine: tuple[int, ...] = (200,),
        headers: Mapping[str, str] | None = None,
        data: Content | None = None,
        attempts: int = ATTEMPTS,
    ) -> Answer:
        """One request; ``path`` begins with ``/v2/``, or is an address the registry gave. Tried again when it is down.

        Raises:
            HubError: it cannot be reached, takes too long, says too much, or answers with a status not in ``fine``.
        """
        address = urljoin(self._root, path)
        for attempt in range(1, attempts + 1):
            wait = min(0.5 * 2.0 ** (attempt - 1), 8.0)
            try:
                answer = self._once(method, address, dict(headers or {}), data)
            except _Unreachable as error:
                if attempt == attempts:
                    reason = f"{self.host} cannot be reached ({error})"
                    raise HubError(repo=self.host, reason=reason, status=None, hint=LATER) from None
            else:
                if answer.status in fine:
                    return answer
                if answer.status not in _TRANSIENT or attempt == attempts:
                    raise self._refusal(answer)
            self._sleep(wait)
        raise AssertionError("unreachable")

    def send(self, name: str, content: Content, attempts: int = 3) -> str:
        """Put a blob into a repository unless it is there; returns its digest.

        Raises:
            HubError.
        """
        digest = f"sha256:{_sha256(content)}"
        for attempt in range(1, attempts + 1):
            if self.ask("HEAD", f"/v2/{name}/blobs/{digest}", fine=(200, 404)).status == 200:
                break
            try:
                self._upload(name, digest, content)
                break
            except HubError as error:
                status = error.fields.get("status")
                if attempt == attempts or not (status is None or status in _TRANSIENT or status == 404):
                    raise
        return digest

    def _upload(self, name: str, digest: str, content: Content) -> None:
        """One upload from its beginning; an upload that broke off cannot be gone on with."""
        begun = self.ask("POST", f"/v2/{name}/blobs/uploads/", fine=(202,), data=b"")
        where = urljoin(self._root, begun.headers.get("Location", ""))
        if urlsplit(where)[:2] != urlsplit(self._root)[:2]:
            raise HubError(repo=self.host, reason="it asks to upload to another host, which is refused", status=400)
        target = f"{where}{'&' if '?' in where else '?'}digest={digest}"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size_of(content))}
        self.ask("PUT", target, fine=(201,), headers=headers, data=content, attempts=1)

    def fetch(self, name: str, digest: str, size: int, take: Callable[[bytes], None], attempts: int = ATTEMPTS) -> None:
        """Stream a blob of announced ``size`` to ``take``; checking what arrives is the taker's.

        Raises:
            HubError: it cannot be had, or not within the time its size allows.
        """
        address = f"{self._root}/v2/{name}/blobs/{digest}"
        for attempt in range(1, attempts + 1):
            until = Deadline(DEADLINE + size / SLOWEST, self.host)
            started = False
            try:
                with self._session.send("GET", address, {"Accept-Encoding": "identity"}, None, stream=True) as response:
                    if response.status_code != 200:
                        answer = Answer(response.status_code, response.headers)
                        if answer.status not in _TRANSIENT:
                            raise self._refusal(answer)
                        raise _Unreachable(f"it answered {answer.status}")
                    for chunk in response.iter_content(_CHUNK):
                        started = True
                        take(chunk)
                        until.check()
                return
            except RegistryError:
                raise
            except Exception as error:
                trouble = _network(error)
                # Bytes that were handed on cannot be taken back, so a fetch that broke off is not begun again here.
                if trouble is None or started or attempt == attempts:
                    if trouble is None:
                        raise
                    reason = f"{self.host} cannot be reached ({trouble})"
                    raise HubError(repo=self.host, reason=reason, status=None, hint=LATER) from None
            self._sleep(min(0.5 * 2.0 ** (attempt - 1), 8.0))

    # -- one request ---------------------------------------------------------------------------
    @property
    def _root(self) -> str:
        name = self.host.partition(":")[0]
        here = name == "localhost" or name.startswith("127.")  # as Docker has it: this machine without TLS, others with
        return f"{'http' if here else 'https'}://{self.host}"

    @property
    def _session(self) -> _Session:
        if self._made is None:
            self._made = _Session(self.host, self.anonymous)
        return self._made

    def _once(self, method: str, address: str, headers: dict[str, str], data: Content | None) -> Answer:
        """Send and read the answer in time, headers included: the library has no such limit, so a thread waits."""
        seconds = DEADLINE + (0 if data is None else size_of(data) / SLOWEST)
        done: list[Answer | BaseException] = []

        def work() -> None:
            try:
                with self._session.send(method, address, headers, data) as response:
                    done.append(Answer(response.status_code, response.headers, response.content))
            except BaseException as error:
                done.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(seconds)
        if not done:
            reason = f"the answer did not end within {seconds:.0f} seconds"
            raise HubError(repo=self.host, reason=reason, status=None, hint=LATER)
        found = done[0]
        if isinstance(found, Answer):
            return found
        trouble = _network(found)
        if trouble is not None:
            raise _Unreachable(trouble) from None
        raise found

    def _refusal(self, answer: Answer) -> HubError:
        reason = _REASONS.get(answer.status, f"it answered {answer.status}")
        hint = ""
        if answer.status == 401:
            hint = f"log in with `docker login {self.host}` or `oras login {self.host}`"
            reason = reason if self._session.known else "it asks who is there, and no credentials are known for it"
        elif answer.status >= 500 or answer.status == 429:
            hint = LATER
        return HubError(repo=self.host, reason=reason, status=answer.status, **({"hint": hint} if hint else {}))


class _Unreachable(Exception):
    """The network, not the registry, is in the way."""


def _network(error: BaseException) -> str | None:
    """The first words of a failure of the network; None for anything else."""
    from requests import RequestException

    if isinstance(error, _Unreachable):
        return str(error)
    if isinstance(error, (RequestException, ConnectionError, TimeoutError)):
        return shorten(type(error).__name__, 60)
    return None


def _sha256(content: Content) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with open(content, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# -- the library -------------------------------------------------------------------------------
class _Session:
    """The HTTP session and oras' credentials for one host."""

    def __init__(self, host: str, anonymous: bool) -> None:
        try:
            import oras.auth
            import oras.container
            import oras.logger
        except ModuleNotFoundError:
            raise MissingExtra(package="oras", extra="oci", feature="publishing to an OCI registry") from None
        import requests

        oras.logger.setup_logger(quiet=True)  # its warnings would drown the one line a command prints
        self._session = requests.Session()
        self._session.cookies.set_policy(_no_cookies())
        self._session.auth = _nothing_of_its_own
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _bounded_adapter())
        local = host.partition(":")[0]
        insecure = local == "localhost" or local.startswith("127.")
        self._token = oras.auth.get_auth_backend("token", self._session, insecure)
        self._basic: str | None = None
        if not anonymous:
            self._token.load_configs(oras.container.Container(f"{host}/any"), _logins())
        self.known = hasattr(self._token, "_basic_auth")

    def send(
        self, method: str, url: str, headers: dict[str, str], data: Content | None, *, stream: bool = False
    ) -> Any:
        """The answer; asked again once, with what the registry wants to be shown, when it asks who is there."""
        response = self._send(method, url, headers, data, stream)
        if response.status_code in (401, 403) and self._authenticate(response):
            response.close()
            response = self._send(method, url, headers, data, stream)
        return response

    def _send(self, method: str, url: str, headers: dict[str, str], data: Content | None, stream: bool) -> Any:
        shown = {"Authorization": f"Basic {self._basic}"} if self._basic else self._token.get_auth_header()
        with open(data, "rb") if isinstance(data, Path) else nullcontext(data) as body:
            return self._session.request(method, url, headers={**headers, **shown}, data=body, stream=stream)

    def _authenticate(self, response: Any) -> bool:
        """Whether there is something else to show than was shown."""
        challenge = response.headers.get("Www-Authenticate", "")
        kind = challenge.partition(" ")[0].lower()
        if kind == "basic":
            if not self.known or self._basic is not None:
                return False
            self._basic = self._token._basic_auth
            return True
        if kind != "bearer":
            return False
        try:
            _, changed = self._token.authenticate_request(response, {}, refresh=True)
        except (ValueError, AttributeError, KeyError):  # a challenge or a token that makes no sense
            return False
        return bool(changed)


def _logins() -> list[str]:
    """Where logins of OCI tools are kept besides ``~/.docker/config.json``, which the library knows."""
    folder, runtime = os.environ.get("DOCKER_CONFIG"), os.environ.get("XDG_RUNTIME_DIR")
    named = [Path(folder) / "config.json"] if folder else []
    named += [Path(runtime) / "containers" / "auth.json"] if runtime else []
    return [str(path) for path in named if path.is_file()]


def _nothing_of_its_own(request: Any) -> Any:
    """In place of ``~/.netrc``, which the HTTP library puts over the credentials that are shown, or that are not."""
    return request


def _no_cookies() -> Any:
    from http.cookiejar import DefaultCookiePolicy

    return DefaultCookiePolicy(allowed_domains=[])


def _bounded_adapter() -> Any:
    """An adapter of the HTTP library whose answers end in time and size; a file that is streamed is its taker's."""
    from requests.adapters import HTTPAdapter

    class Bounded(HTTPAdapter):  # type: ignore[misc]
        def send(self, request: Any, stream: bool = False, timeout: Any = None, **options: Any) -> Any:
            response = super().send(request, stream=True, timeout=timeout or _TIMEOUT, **options)
            is_file = stream and request.method == "GET" and response.status_code == 200
            if not is_file:
                until, body = Deadline(DEADLINE, urlsplit(request.url).netloc), b""
                for chunk in response.iter_content(_CHUNK):
                    body += chunk
                    until.check()
                    if len(body) > MOST_ANSWER:
                        response.close()
                        reason = f"the answer is longer than {MOST_ANSWER >> 20} MB"
                        raise HubError(repo=urlsplit(request.url).netloc, reason=reason, status=None)
                response._content = body
            return response

    return Bounded()
