"""Every route, by every method, against what the gallery must never let through."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.web.conftest import HOST, ORIGIN, TOKEN, Build, csrf_of, enter
from tests.web.routes import METHODS, dependencies, mutating, own_routes, paths, raw
from w2w_registry.web.access import READING, Right
from w2w_registry.web.guard import HEADERS
from w2w_registry.web.limits import Limits
from w2w_registry.web.site import RIGHT_OF, own_form

FORM = "application/x-www-form-urlencoded"
FOREIGN_HOSTS = (
    "evil.example",
    "evil.example:8765",
    "127.0.0.1.evil.example:8765",
    "127.0.0.1:80",
    "localhost",
    "",
    "[::1]",
)
FOREIGN_ORIGINS = (
    "https://evil.example",
    "null",
    "http://127.0.0.1:9999",
    "http://127.0.0.1",
    f"http://{HOST}.evil.example",
)


def test_every_route_asks_for_exactly_one_right(app: FastAPI) -> None:
    for route in own_routes(app):
        rights = {RIGHT_OF[call] for call in dependencies(route.dependant) if call in RIGHT_OF}
        assert len(rights) == 1, f"{route.path} asks for {rights}"


def test_every_form_of_a_page_is_checked(app: FastAPI) -> None:
    for route in own_routes(app):
        if not route.path.startswith("/api/"):
            assert own_form in set(dependencies(route.dependant)), f"{route.path} takes forms unchecked"


def test_only_searches_change_nothing_by_post(app: FastAPI) -> None:
    """Whoever may only look reaches no route that changes something: those are named here, one by one."""
    looking = {
        route.path
        for route in own_routes(app)
        if route.methods & {"POST", "PUT", "DELETE"}
        and {RIGHT_OF[call] for call in dependencies(route.dependant) if call in RIGHT_OF} <= READING
    }
    assert looking <= {"/who", "/api/v1/search", "/api/v1/search/file", "/compliance/verify", "/api/v1/verify"}


@pytest.mark.parametrize("method", METHODS)
def test_a_foreign_host_gets_nothing(app: FastAPI, method: str) -> None:
    client = enter(app)
    for path in [*paths(app), "/no/such/path", "/static/nothing", "/api/nothing"]:
        for host in FOREIGN_HOSTS:
            answer = client.request(method, path, headers={"host": host, "authorization": f"Bearer {TOKEN}"})
            assert answer.status_code == 421, f"{method} {path} for {host!r}"


@pytest.mark.parametrize("method", METHODS)
def test_nobody_gets_in_without_token_or_cookie(app: FastAPI, method: str) -> None:
    client = TestClient(app, base_url=ORIGIN, follow_redirects=False)
    bad = (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {TOKEN}"},
        {"cookie": "w2w_gallery=9999999999.00"},
    )
    for path in [*paths(app), "/no/such/path", "/static/nothing", "/api/nothing"]:
        for headers in bad:
            answer = client.request(method, path, headers=headers)
            assert answer.status_code == (405 if method in METHODS[5:] else 401)
            assert "set-cookie" not in answer.headers
            assert TOKEN not in answer.text


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_other_sites_are_refused_whatever_they_carry(app: FastAPI, origin: str) -> None:
    client = enter(app)
    csrf = csrf_of(client)
    for path in paths(app):
        for method in ("GET", "POST", "PUT", "DELETE"):
            headers = {"origin": origin, "x-csrf-token": csrf}
            assert client.request(method, path, headers=headers).status_code == 403, f"{method} {path}"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_fetch_metadata_lets_other_sites_only_link(app: FastAPI, site: str) -> None:
    client = enter(app)
    link = {"sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert client.get("/", headers=link).status_code == 200
    for dest in ("image", "script", "iframe", "empty", "style"):
        for path in paths(app):
            headers = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors", "sec-fetch-dest": dest}
            assert client.get(path, headers=headers).status_code == 403, f"{path} as {dest}"
    for method, path in mutating(app):
        assert client.request(method, path, headers=link).status_code == 403


def test_a_browsers_changes_need_this_sessions_csrf_token(app: FastAPI) -> None:
    client = enter(app)
    own = {"origin": ORIGIN}
    for method, path in mutating(app):
        for token in (None, "", "0" * 64):
            if path.startswith("/api/"):
                headers = own if token is None else {**own, "x-csrf-token": token}
                answer = client.request(method, path, headers=headers, json={})
            else:
                answer = client.request(method, path, headers=own, data={} if token is None else {"csrf": token})
                if token is None:
                    assert answer.status_code in (403, 415)
                    continue
            assert answer.status_code == 403, f"{method} {path} with {token!r}"


def test_changes_without_a_word_of_where_they_come_from_are_refused(app: FastAPI) -> None:
    client = enter(app)
    csrf = csrf_of(client)
    for method, path in mutating(app):
        sent = {"json": {}} if path.startswith("/api/") else {"data": {"csrf": csrf}}
        answer = client.request(method, path, headers={"x-csrf-token": csrf}, **sent)  # type: ignore[arg-type]
        assert answer.status_code == 403, f"{method} {path}"


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_the_api_takes_no_forms(app: FastAPI, program: TestClient, kind: str) -> None:
    for method, path in mutating(app):
        if path.startswith("/api/"):
            answer = program.request(method, path, headers={"content-type": kind}, content=b'{"identity": "p0001"}')
            assert answer.status_code == 415, f"{method} {path} as {kind!r}"


def test_read_only_takes_every_change_away(build: Build) -> None:
    app = build(read_only=True)
    client = TestClient(app, base_url=ORIGIN, headers={"authorization": f"Bearer {TOKEN}"})
    for route in own_routes(app):
        (right,) = {RIGHT_OF[call] for call in dependencies(route.dependant) if call in RIGHT_OF}
        for method in route.methods & {"POST", "PUT", "DELETE"}:
            if right in (Right.MAKE, Right.STEWARD):
                path = route.path.replace("{name:path}", "p0001").replace("{subject:path}", "s").replace("{job}", "1")
                sent = {"json": {}} if path.startswith("/api/") else {"data": {"x": "y"}}
                answer = client.request(method, path, **sent)  # type: ignore[arg-type]
                assert answer.status_code == 403, f"{method} {path}"
                assert "read-only" in answer.text


def test_every_answer_has_the_headers(app: FastAPI, browser: TestClient, stranger: TestClient) -> None:
    answers = [
        client.get(path) for client in (browser, stranger) for path in [*paths(app), "/nope", "/identities/nobody"]
    ]
    answers += [browser.get("/?where=kind"), browser.get("/", headers={"host": "evil.example"}), browser.post("/tags")]
    for answer in answers:
        for name, value in HEADERS.items():
            assert answer.headers[name] == value, f"{answer.request.url}: {name}"
        assert "server" not in answer.headers
        assert answer.headers["cache-control"].startswith(("no-store", "private"))
    policy = HEADERS["content-security-policy"]
    assert "unsafe" not in policy
    assert {"default-src 'none'", "frame-ancestors 'none'"} <= {part.strip() for part in policy.split(";")}


def test_the_token_becomes_a_cookie_and_leaves_the_address(stranger: TestClient) -> None:
    answer = stranger.get(f"/identities/p0001?token={TOKEN}&x=1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/identities/p0001?x=1")
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Lax"} <= {part.strip() for part in cookie.split(";")}
    assert TOKEN not in cookie
    assert stranger.get("/identities/p0001").status_code == 200
    assert stranger.get(f"{ORIGIN}//evil.example/?token={TOKEN}").headers["location"].startswith("/evil.example")
    assert stranger.get(f"/api/v1/identities?token={TOKEN}", headers={"cookie": ""}).status_code in (200, 401)


def test_a_cookie_ends_and_belongs_to_one_token(build: Build) -> None:
    at = [1_000_000.0]
    app = build(clock=lambda: at[0])
    client = enter(app)
    assert client.get("/").status_code == 200
    at[0] += 31 * 24 * 3600
    assert client.get("/").status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py", "/static/style.css\0.png", "/static//etc/passwd", "/static/C:\\x",
        "/pictures/../../etc/passwd", "/pictures//etc/passwd", "/identities/..\\..\\windows",
        "/identities/\r\nset-cookie:x", "/identities/./p0001", "/api/v1/identities/../../../etc/passwd",
        "/..", "/identities/" + "a" * 5000, "/identities/\ufffd", "//etc/passwd",
    ],
)  # fmt: skip
def test_no_path_leads_out(app: FastAPI, path: str) -> None:
    """As the server hands them on, decoded; clients tidy such addresses before they send them."""
    status, body = asyncio.run(raw(app, "GET", path))
    assert status in (400, 404, 414)
    assert b"root:" not in body
    assert b"Traceback" not in body


@pytest.mark.parametrize(
    "query", ["/etc/passwd", "./x.safetensors", "~/x", "hf://a/b", "etc/passwd", "file:///etc/passwd", "../x"]
)
def test_a_query_is_a_name_and_never_a_path(program: TestClient, query: str) -> None:
    answer = program.post("/api/v1/search", json={"query": query})
    assert answer.status_code in (400, 404)
    assert answer.headers["content-type"] == "application/problem+json"


def test_bodies_have_an_end(build: Build) -> None:
    app = build(Limits(form_bytes=1000))
    client = TestClient(app, base_url=ORIGIN, headers={"authorization": f"Bearer {TOKEN}"})
    for method, path in mutating(app):
        if path.startswith("/api/"):
            sent = {"content": b'"' + b"x" * 2000 + b'"', "headers": {"content-type": "application/json"}}
        else:
            sent = {"content": b"a=" + b"x" * 2000, "headers": {"content-type": FORM}}
        assert client.request(method, path, **sent).status_code == 413, f"{method} {path}"  # type: ignore[arg-type]


def test_an_unannounced_body_has_an_end_too(build: Build) -> None:
    client = TestClient(build(Limits(form_bytes=1000)), base_url=ORIGIN, headers={"authorization": f"Bearer {TOKEN}"})
    pieces = (b"x" * 100 for _ in range(100))
    answer = client.post("/api/v1/tags", content=pieces, headers={"content-type": "application/json"})
    assert answer.status_code == 413


def test_a_body_that_dawdles_is_given_up(build: Build) -> None:
    app = build(Limits(patience=0.05))

    async def receive() -> dict[str, object]:
        await asyncio.sleep(30)
        return {"type": "http.request", "body": b"", "more_body": True}

    for method, path in mutating(app):
        kind = "application/json" if path.startswith("/api/") else FORM
        status, _ = asyncio.run(raw(app, method, path, kind, receive))
        assert status == 408, f"{method} {path}"


def test_a_caller_who_hammers_has_to_wait(build: Build) -> None:
    client = TestClient(
        build(Limits(rate=0.001, burst=5)), base_url=ORIGIN, headers={"authorization": f"Bearer {TOKEN}"}
    )
    codes = [client.get("/api/v1/identities?limit=1").status_code for _ in range(8)]
    assert codes == [200] * 5 + [429] * 3
    assert int(client.get("/").headers["retry-after"]) > 0


def test_the_cookie_is_this_sites_alone(stranger: TestClient) -> None:
    said = stranger.get(f"/?token={TOKEN}").headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= {part.strip() for part in said.split(";")}
    assert "Domain" not in said


def test_no_page_is_kept_by_anybody_between(app: FastAPI) -> None:
    client = enter(app)
    for path in paths(app):
        kept = client.get(path).headers["cache-control"]
        assert kept == "no-store" or kept.startswith("private, max-age="), path
        if not path.startswith("/static/"):
            assert "immutable" not in kept, path
