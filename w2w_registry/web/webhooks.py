"""Webhooks: each event of the audit log told to who asked for its kind, signed, until it is taken.

Signed as Standard Webhooks (standardwebhooks.com) has it: ``webhook-id``, ``webhook-timestamp`` (seconds), and
``webhook-signature: v1,`` with the base64 of HMAC-SHA256 over ``id.timestamp.body``. Events are told in order, at
least once: a ``webhook-id`` is the same each time. How far each listener has come is kept in the home folder, so that
nothing is lost while the server stands still. What is told is ids and digests, as the log has them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import ipaddress
import json
import logging
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from w2w_registry.errors import BadFile, RegistryError, SettingError
from w2w_registry.files import read_bytes
from w2w_registry.services.audit import log, told
from w2w_registry.services.registry import Registry

_LIMIT = 1 << 16

BATCH: Final = 100
EVERY: Final = 1.0
LONGEST: Final = 3600.0
TIMEOUT: Final = 10.0
MIN_SECRET: Final = 16
_LOG = logging.getLogger("w2w_registry.web")
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


class Send(Protocol):
    """Sends a body to an address; the HTTP status, 0 when nobody answers."""

    def __call__(self, url: str, headers: Mapping[str, str], body: bytes, *, private: bool) -> int: ...


@dataclass(frozen=True)
class Webhook:
    """Who is told of events whose action begins with one of ``events`` (all, when there are none). ``private``: may be
    on an address of a private network."""

    url: str
    secret: bytes
    events: tuple[str, ...] = ()
    private: bool = False

    @property
    def key(self) -> str:
        """Its name in the file of how far each has come."""
        return hashlib.sha256(self.url.encode()).hexdigest()[:24]

    def wants(self, action: str) -> bool:
        return not self.events or action.startswith(self.events)


def webhooks_of(options: Mapping[str, Any], home: Path) -> tuple[Webhook, ...]:
    """The ``[[web.webhooks]]`` of registry.toml: ``url``, ``secret_file`` (from the home folder), ``events``,
    ``private``.

    Raises:
        SettingError.
    """
    return tuple(_webhook(one, home) for one in options.get("webhooks", ()))


def _webhook(given: Any, home: Path) -> Webhook:
    def wrong(reason: str) -> SettingError:
        return SettingError(setting="[[web.webhooks]]", value=str(given)[:80], reason=reason)

    if not isinstance(given, dict) or not isinstance(given.get("url"), str):
        raise wrong("each needs url and secret_file")
    parts = urlsplit(given["url"])
    if parts.scheme != "https" and (parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "localhost", "::1")):
        raise wrong("url begins with https:// (http:// only on this machine)")
    events = given.get("events", [])
    if not isinstance(events, list) or not all(isinstance(e, str) and e for e in events):
        raise wrong('events are the beginnings of actions, as in ["consent.", "version.add"]')
    try:
        secret = read_bytes(home / str(given.get("secret_file", "")), limit=_LIMIT).strip()
    except BadFile:
        raise wrong("secret_file cannot be read") from None
    if len(secret) < MIN_SECRET:
        raise wrong(f"secret_file holds fewer than {MIN_SECRET} characters")
    private = given.get("private", False)
    if not isinstance(private, bool):
        raise wrong("private is true or false")
    return Webhook(given["url"], secret, tuple(events), private)


def signed(hook: Webhook, event: Mapping[str, Any], at: float) -> tuple[dict[str, str], bytes]:
    """Headers and body that tell ``hook`` of an event at a time (seconds)."""
    body = json.dumps(
        {"type": event["action"], "timestamp": event["at"], "data": dict(event)},
        ensure_ascii=False,
        separators=(",", ":"),
    ).encode()
    name, moment = f"evt_{event['seq']}", str(int(at))
    headers = {
        "content-type": "application/json",
        "webhook-id": name,
        "webhook-timestamp": moment,
        "webhook-signature": "v1," + signature(hook.secret, name, moment, body),
    }
    return headers, body


def signature(secret: bytes, name: str, moment: str, body: bytes) -> str:
    """Base64 of HMAC-SHA256 over ``name.moment.body``: what the listener computes as well, and compares."""
    return base64.b64encode(hmac.digest(secret, f"{name}.{moment}.".encode() + body, "sha256")).decode()


class Teller:
    """Tells webhooks what happens, from a thread of its own."""

    def __init__(
        self,
        registry: Registry,
        hooks: tuple[Webhook, ...],
        *,
        send: Send | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._registry, self._hooks, self._send, self._clock = registry, hooks, send or post, clock
        self._waits: dict[str, tuple[int, float]] = {}
        self._stop = threading.Event()
        self._come = told.read(registry, [hook.key for hook in hooks])
        if hooks:
            told.keep(registry, self._come)

    def start(self) -> None:
        if self._hooks:
            threading.Thread(target=self._run, name="w2w-webhooks", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def tell(self) -> int:
        """Tell everybody what they have not taken yet; returns how many events were taken."""
        return sum(self._tell(hook) for hook in self._hooks if self._waits.get(hook.key, (0, 0.0))[1] <= self._clock())

    def _tell(self, hook: Webhook) -> int:
        taken, after = 0, self._come[hook.key]
        events = log.events_list(self._registry, after=after, limit=BATCH)
        for event in events:
            if hook.wants(event["action"]):
                if not self._taken(hook, event):
                    break
                taken += 1
            self._come[hook.key] = event["seq"]
        if self._come[hook.key] != after:
            told.keep(self._registry, self._come)
        return taken

    def _taken(self, hook: Webhook, event: Mapping[str, Any]) -> bool:
        headers, body = signed(hook, event, self._clock())
        status = self._send(hook.url, headers, body, private=hook.private)
        if 200 <= status < 300:
            self._waits.pop(hook.key, None)
            return True
        tries = self._waits.get(hook.key, (0, 0.0))[0] + 1
        self._waits[hook.key] = (tries, self._clock() + min(LONGEST, 2.0**tries))
        _LOG.warning("a webhook did not take event %s (HTTP %s, try %s)", event["seq"], status or "none", tries)
        return False

    def _run(self) -> None:
        while not self._stop.wait(EVERY):
            try:
                while self.tell() and not self._stop.is_set():
                    pass
            except (RegistryError, OSError):
                _LOG.exception("webhooks wait")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _public(address: str) -> bool:
    """Whether an address is one of the open network, also when it is an IPv4 address written as an IPv6 one."""
    found = ipaddress.ip_address(address.partition("%")[0])
    inner = getattr(found, "ipv4_mapped", None) or getattr(found, "sixtofour", None)
    nat64 = ipaddress.ip_address(int(found) & 0xFFFFFFFF) if found in _NAT64 else None
    return all(one.is_global and not one.is_multicast for one in (found, inner, nat64) if one is not None)


class _Checked(urllib.request.HTTPSHandler):
    """HTTPS to addresses that are looked at when they are connected to: what a name meant a moment before says nothing
    (DNS rebinding). Behind a proxy the proxy looks names up."""

    def https_open(self, request: urllib.request.Request) -> Any:
        if getattr(request, "_tunnel_host", None):
            return super().https_open(request)
        return self.do_open(_CheckedConnection, request)


class _CheckedConnection(http.client.HTTPSConnection):
    def connect(self) -> None:
        reached = None
        for family, kind, number, _, place in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM):
            if _public(str(place[0])):
                reached = socket.socket(family, kind, number)
                reached.settimeout(TIMEOUT)
                try:
                    reached.connect(place)
                    break
                except OSError:
                    reached.close()
                    reached = None
        if reached is None:
            raise OSError(f"no public address of {self.host} can be reached")
        self.sock = ssl.create_default_context().wrap_socket(reached, server_hostname=self.host)


def post(url: str, headers: Mapping[str, str], body: bytes, *, private: bool = False) -> int:
    """POST, without following redirects; the status, 0 when nobody answers, or only on addresses of a private network
    and ``private`` does not allow that."""
    request = urllib.request.Request(url, body, dict(headers), method="POST")
    kinds = (_NoRedirect,) if private else (_NoRedirect, _Checked)
    try:
        with urllib.request.build_opener(*kinds).open(request, timeout=TIMEOUT) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return int(error.code)
    except OSError:
        return 0
