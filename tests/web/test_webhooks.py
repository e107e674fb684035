"""Webhooks: told in order, signed, at least once, of the kinds asked for."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from w2w_registry.errors import SettingError
from w2w_registry.services.identities import manage
from w2w_registry.services.registry import Registry
from w2w_registry.web.webhooks import Teller, Webhook, post, webhooks_of

SECRET = b"a secret of some length"


class Listener:
    """Takes what it is told, or answers with a status of its own."""

    def __init__(self) -> None:
        self.status = 204
        self.told: list[tuple[str, Mapping[str, str], Any]] = []

    def __call__(self, url: str, headers: Mapping[str, str], body: bytes, *, private: bool) -> int:
        name, moment = headers["webhook-id"], headers["webhook-timestamp"]
        expected = hmac.new(SECRET, f"{name}.{moment}.".encode() + body, hashlib.sha256).digest()
        assert headers["webhook-signature"] == "v1," + base64.b64encode(expected).decode()
        if self.status == 204:
            self.told.append((url, headers, json.loads(body)))
        return self.status


def test_each_kind_to_whom_asked_for_it(registry: Registry) -> None:
    listener = Listener()
    hooks = (Webhook("https://a.example/", SECRET, ("alias.",)), Webhook("https://b.example/", SECRET))
    teller = Teller(registry, hooks, send=listener, clock=lambda: 1_800_000_000.0)
    assert teller.tell() == 0  # what happened before a webhook was set up is not told
    manage.set_tags(registry, "p0001", ["team=ads"])
    manage.set_alias(registry, "production", "p0001@1")
    assert teller.tell() == 3
    assert [(url, body["type"]) for url, _, body in listener.told] == [
        ("https://a.example/", "alias.set"),
        ("https://b.example/", "tag.set"),
        ("https://b.example/", "alias.set"),
    ]
    assert listener.told[0][1]["webhook-timestamp"] == "1800000000"
    assert teller.tell() == 0


def test_what_is_not_taken_is_told_again_later_and_in_order(registry: Registry) -> None:
    listener, at = Listener(), [1000.0]
    hooks = (Webhook("https://a.example/", SECRET),)
    teller = Teller(registry, hooks, send=listener, clock=lambda: at[0])
    for i in range(3):
        manage.set_tags(registry, "p0001", [f"n={i}"])
    listener.status = 500
    assert teller.tell() == 0
    listener.status = 204
    assert teller.tell() == 0  # not at once
    at[0] += 3
    # Another process goes on where this one stopped.
    assert Teller(registry, hooks, send=listener, clock=lambda: at[0]).tell() == 3
    names = [headers["webhook-id"] for _, headers, _ in listener.told]
    assert names == sorted(names, key=lambda name: int(name[4:]))
    assert Teller(registry, hooks, send=listener).tell() == 0


def test_over_http_without_following_redirects(registry: Registry) -> None:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            asked.append(self.path)
            self.send_response(302 if self.path == "/away" else 200)
            self.send_header("location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    assert post(base + "/here", {"content-type": "application/json"}, b"{}") == 200
    assert post(base + "/away", {"content-type": "application/json"}, b"{}") == 302
    assert asked == ["/here", "/away"]
    server.shutdown()
    server.server_close()
    assert post(base + "/here", {}, b"{}") == 0


def test_settings_are_checked(tmp_path: Path) -> None:
    (tmp_path / "hook.key").write_bytes(SECRET + b"\n")
    (tmp_path / "short.key").write_bytes(b"x")
    good = {"url": "https://a.example/hook", "secret_file": "hook.key", "events": ["consent."]}
    assert webhooks_of({"webhooks": [good]}, tmp_path) == (Webhook(good["url"], SECRET, ("consent.",)),)  # type: ignore[arg-type]
    assert webhooks_of({}, tmp_path) == ()
    for bad in (
        {"url": "http://a.example/"}, {"url": 1}, {"secret_file": "no.key"}, {"secret_file": "short.key"},
        {"events": "consent."}, {"events": [""]}, {"url": "file:///etc/passwd"},
        {"url": "http://localhost@evil.example/"}, {"url": "http://127.0.0.1.evil.example/"}, {"private": 1},
    ):  # fmt: skip
        with pytest.raises(SettingError):
            webhooks_of({"webhooks": [{**good, **bad}]}, tmp_path)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1%eth0", "fd00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
        "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    ],
)  # fmt: skip
def test_no_webhook_reaches_into_the_network_it_is_sent_from(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a name means at the moment of connecting, by whichever spelling of an address."""
    reached: list[object] = []
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    told = [(family, socket.SOCK_STREAM, 6, "", (address, 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: told)
    monkeypatch.setattr(socket.socket, "connect", lambda _, place: reached.append(place))
    assert post("https://hooks.example/", {}, b"{}", private=False) == 0
    assert reached == []


def test_a_public_address_is_connected_to_as_it_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    reached: list[object] = []

    def looked_up(host: str, *_: object, **__: object) -> list[object]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 443)) for a in ("10.0.0.1", "93.184.215.14")]

    def connect(_: object, place: object) -> None:
        reached.append(place)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    monkeypatch.setattr(socket.socket, "connect", connect)
    assert post("https://hooks.example/", {}, b"{}") == 0
    assert (asked, reached) == (["hooks.example"], [("93.184.215.14", 443)])
