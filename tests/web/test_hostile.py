"""Names, labels, tags, actions and files made to break out of a page: everything is shown as text."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.web.conftest import ORIGIN, enter
from tests.web.routes import own_routes
from w2w_registry.services.identities import manage
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.registry import Registry

HOSTILE = (
    "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "' onmouseover='alert(1)",
    "</title><svg onload=alert(1)>", "{{ 7 * 7 }}", "{% raw %}", "javascript:alert(1)", "\u202etxt.exe", "a\u0000b",
    "&lt;b&gt;", "]]><x>", "<!--", "\r\nX-Evil: 1", "${7*7}", "`id`", "; rm -rf /", "' OR 1=1 --", "%00%0d%0a",
    "x" * 300,
)  # fmt: skip
FIELDS = (
    "identity tags target alias action collection back people name weights space count seed from d.beard confirm days "
    "text subject sheet"
)


class Page(HTMLParser):
    """Every tag of a page and its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def check(text: str) -> None:
    """No handler, no script or style of a page's own, no address that runs something, no template evaluated."""
    for tag, attributes in Page(text).tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), f"<{tag} {name}>"
            assert name != "style", f"<{tag} style>"
            if name in ("href", "src", "action", "formaction"):
                assert (value or "").startswith(("/", "#", "?")), f"<{tag} {name}={value!r}>"
                assert not (value or "").startswith("//")
        if tag == "script":
            assert attributes.get("src", "").startswith("/static/")  # type: ignore[union-attr]
    assert "\u202e" not in text
    assert "\x00" not in text
    for title in re.findall(r"<title>(.*?)</title>", text, re.S):
        assert "<" not in title


@pytest.fixture
def hostile(registry: Registry, filled_home: object) -> Registry:
    """Tags with every hostile value, and a label or two."""
    for i, value in enumerate(HOSTILE):
        manage.set_tags(registry, f"p{i:04d}", [f"k={value}".replace("\x00", "")])
    folder = str(filled_home) + "/loras/p0030"
    add(registry, AddRequest(paths=(folder,), name="p0030", labels={"<b>bold</b>": 1.0, "word": HOSTILE[1]}))
    return registry


def test_what_is_stored_is_shown_as_text(hostile: Registry, app: FastAPI) -> None:
    client = enter(app)
    paths = ["/", "/compliance", "/compliance/events", *(f"/identities/p{i:04d}" for i in (*range(len(HOSTILE)), 30))]
    for path in paths:
        answer = client.get(path)
        assert answer.status_code == 200
        check(answer.text)
    assert html.escape("<script>alert(1)</script>") in client.get("/identities/p0000").text


@pytest.mark.parametrize("value", HOSTILE)
def test_what_is_asked_is_said_back_as_text(app: FastAPI, value: str) -> None:
    client = enter(app)
    for place in ("/", "/who", "/make", "/compliance/events"):
        for name in (
            "where",
            "sort",
            "cursor",
            "name",
            "from",
            "space",
            "actor",
            "action",
            "since",
            "page",
            "below",
            "sheet",
        ):
            answer = client.get(place, params={name: value})
            assert answer.status_code < 500, f"{place}?{name}"
            check(answer.text)


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_forms_are_refused_or_harmless(app: FastAPI, value: str) -> None:
    from tests.web.conftest import csrf_of

    client = enter(app)
    csrf = csrf_of(client)
    fields = FIELDS.split()
    for route in own_routes(app):
        if "POST" in route.methods and not route.path.startswith("/api/"):
            path = re.sub(r"\{[^}]*\}", "p0001", route.path)
            form = dict.fromkeys(fields, value) | {"csrf": csrf}
            answer = client.post(path, data=form, headers={"origin": ORIGIN})
            assert answer.status_code < 500, f"{path}: {answer.text[:200]}"
            if "text/html" in answer.headers.get("content-type", ""):
                check(answer.text)
            assert "x-evil" not in answer.headers
            assert not answer.headers.get("location", "/").startswith(("//", "/\\", "http"))


@pytest.mark.parametrize("value", [*HOSTILE, None, 1e400, -1, [], {}, [[["x"] * 50] * 50]])
def test_hostile_json_is_refused_or_harmless(program: TestClient, app: FastAPI, value: object) -> None:
    import json

    for route in own_routes(app):
        if "POST" in route.methods and route.path.startswith("/api/"):
            for body in (
                value,
                dict.fromkeys(("identity", "set", "unset", "alias", "target", "query", "space"), value),
            ):
                text = json.dumps(body).encode()
                answer = program.post(route.path, content=text, headers={"content-type": "application/json"})
                assert answer.status_code < 500, f"{route.path}: {answer.text[:200]}"
                assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    "body",
    [
        b'{"identity": "p0001", "identity": "p0002", "set": ["a=b"], "query": "p0001"}',
        b'{"identity": "p0001", "set": ["a=b"], "query": "p0001", "more": {"x": 1, "x": 2}}',
        b'{"identity": "p0001", "sets": ["a=b"], "query": "p0001"}',
        b'{"identity": "p0001", "amounts": {"beard": NaN}, "name": "x"}',
        b'{"query": "p0001", "limit": Infinity}',
        '{"identity": "p0001", "set": ["a=b"]}'.encode("utf-16"),
        b'\xef\xbb\xbf{"identity": "p0001", "set": ["a=b"]}',
        b'{"identity": "\xff"}',
        b"[" * 100_000,
        b'{"identity":' * 50_000 + b"1" + b"}" * 50_000,
        b'{"limit": 1' + b"0" * 5000 + b"}",
    ],
    ids=lambda body: repr(body[:40]),
)
def test_json_that_can_be_read_in_two_ways_is_refused(program: TestClient, app: FastAPI, body: bytes) -> None:
    """Two keys of one name, numbers that are none, other encodings, bottomless nesting, keys that nobody reads."""
    for route in own_routes(app):
        if "POST" in route.methods and route.path.startswith("/api/") and not route.path.endswith("/file"):
            answer = program.post(route.path, content=body, headers={"content-type": "application/json"})
            assert answer.status_code == 400, f"{route.path}: {answer.text[:200]}"
            assert len(answer.text) < 500
    assert program.get("/api/v1/identities/p0002").json()["tags"] == {}


@pytest.mark.parametrize(
    "name",
    [
        "a\u0301lice",
        "\uff0e\uff0e/\uff0e\uff0e/etc",
        "p0001\u200b",
        "\uff50\uff10\uff10\uff10\uff11",
        "\u2024\u2024/x",
        "\u212a",
        "p0001 ",
    ],
)
def test_a_name_in_another_form_is_another_name(program: TestClient, name: str) -> None:
    for place in ("/identities/", "/api/v1/identities/", "/pictures/", "/spaces/", "/make/pictures/"):
        assert program.get(place + name).status_code in (400, 404), f"{place}{name!r}"


@pytest.mark.parametrize(
    "back", ["//evil.example", "/\\evil", "/\t/evil", "\\\\evil", "https:evil", "/\r\nX: y", "/ /evil"]
)
def test_no_form_leads_to_another_site(app: FastAPI, back: str) -> None:
    from urllib.parse import urljoin

    from tests.web.conftest import csrf_of

    client = enter(app)
    form = {"csrf": csrf_of(client), "action": "tag", "identity": "p0001", "tags": "x=y", "back": back}
    answer = client.post("/selection", data=form, headers={"origin": ORIGIN})
    assert answer.status_code == 303
    assert urljoin(ORIGIN + "/", answer.headers["location"]).startswith(ORIGIN + "/")
