"""Answers kept in memory: made once, given to each as theirs, never older than they may be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse

from tests.services.world import make_world
from tests.web.conftest import HOST, ORIGIN, TOKEN, NoModel, csrf_of, enter
from w2w_registry.consent.records import Scope
from w2w_registry.errors import DatabaseError
from w2w_registry.services.audit import log
from w2w_registry.services.consent import grants
from w2w_registry.services.identities import manage, paging
from w2w_registry.services.identities.ingest import AddRequest, add
from w2w_registry.services.registry import Registry
from w2w_registry.web import kept
from w2w_registry.web.access import Access, Principal, Proxy, Role
from w2w_registry.web.app import create_app

Lagging = Callable[[float], TestClient]


@pytest.fixture
def lagging(registry: Registry) -> Lagging:
    """A browser of a gallery whose pages may be so many seconds old."""

    def make(lag: float) -> TestClient:
        return enter(create_app(registry, Access(TOKEN, "curator"), frozenset({HOST}), engine=NoModel(), lag=lag))

    return make


@pytest.mark.parametrize("path", ["/", "/api/v1/identities"])
def test_a_database_that_went_away_is_said(
    lagging: Lagging, registry: Registry, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Asked before any route is: no trace, no address, and another try may do."""
    browser = lagging(0.0)

    def gone() -> int:
        raise DatabaseError(url="postgresql://u@db/r", reason="terminating connection")

    monkeypatch.setattr(registry.catalog, "last_change", gone)
    answer = browser.get(path)
    assert answer.status_code == 503
    assert "database cannot be reached" in answer.text
    assert "postgresql" not in answer.text


@pytest.fixture
def pages_made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with every page of identities that is worked out."""
    made: list[str] = []
    page = paging.page

    def counted(*args: Any, **options: Any) -> Any:
        made.append("page")
        return page(*args, **options)

    monkeypatch.setattr(paging, "page", counted)
    return made


def test_a_page_is_made_once_while_nothing_changes(browser: TestClient, pages_made: list[str]) -> None:
    first = browser.get("/")
    assert browser.get("/").text == first.text
    assert len(pages_made) == 1
    assert kept.HEADER not in first.headers
    assert int(first.headers["content-length"]) == len(first.content)


def test_each_gets_it_with_their_own_name_and_token(registry: Registry) -> None:
    proxy = Proxy("x-user", frozenset({"testclient"}), default=Role.MAKER)
    app = create_app(registry, Access(TOKEN, "x", proxy=proxy), frozenset({HOST}), engine=NoModel())
    people = {
        name: TestClient(app, base_url=ORIGIN, headers={"x-user": name}) for name in ("alice", "bob", "<b>carol</b>")
    }
    tokens = {name: csrf_of(client) for name, client in people.items()}
    assert len(set(tokens.values())) == 3
    for name, client in people.items():
        text = client.get("/").text
        assert tokens[name] in text
        assert not any(other in text for other in set(tokens.values()) - {tokens[name]})
        assert kept._ACTOR not in text
        assert kept._CSRF not in text
    assert "<b>carol</b>" not in people["<b>carol</b>"].get("/").text
    answer = people["bob"].post(
        "/selection",
        data={"action": "tag", "identity": "p0001", "tags": "a=b", "csrf": tokens["bob"]},
        headers={"origin": ORIGIN},
        follow_redirects=False,
    )
    assert answer.status_code == 303


def test_roles_do_not_share_pages(registry: Registry) -> None:
    proxy = Proxy("x-user", frozenset({"testclient"}), roles={"eve": Role.VIEWER}, default=Role.STEWARD)
    app = create_app(registry, Access(TOKEN, "x", proxy=proxy), frozenset({HOST}), engine=NoModel())
    steward, viewer = (TestClient(app, base_url=ORIGIN, headers={"x-user": name}) for name in ("sam", "eve"))
    assert "Compliance" in steward.get("/").text
    assert "Compliance" not in viewer.get("/").text
    assert viewer.get("/compliance").status_code == 403


def test_what_changed_is_shown(browser: TestClient, registry: Registry) -> None:
    assert "p0003" in browser.get("/?where=beard = 1").text
    manage.set_tags(registry, "p0003", ["team=ads"])
    assert "team = ads" in browser.get("/").text
    manage.remove(registry, "p0003", perform=True)
    assert ">p0003<" not in browser.get("/?where=beard = 1").text


def test_beside_others_a_page_may_lag_but_the_api_not(lagging: Lagging, registry: Registry) -> None:
    browser = lagging(60.0)
    browser.get("/identities/p0001")
    browser.get("/api/v1/identities/p0001")
    manage.set_tags(registry, "p0001", ["crew=lighting"])
    assert "lighting" not in browser.get("/identities/p0001").text
    assert browser.get("/api/v1/identities/p0001").json()["tags"] == {"crew": "lighting"}


def test_whoever_changes_something_here_sees_it_at_once(lagging: Lagging) -> None:
    browser = lagging(60.0)
    browser.get("/identities/p0001")
    token = csrf_of(browser)
    browser.post("/notes", data={"identity": "p0001", "text": "look", "csrf": token}, headers={"origin": ORIGIN})
    assert "look" in browser.get("/identities/p0001").text


def test_nothing_is_kept_for_long(browser: TestClient, pages_made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    browser.get("/")
    monkeypatch.setattr(kept, "LONGEST", 0.0)
    browser.get("/")
    assert len(pages_made) == 2


def answers(app: Any, **options: Any) -> kept.KeptAnswers:
    async def never_changes() -> int:
        return 1

    return kept.KeptAnswers(app, last_change=never_changes, changes=kept.Changes(), lag=0.0, **options)


async def got(app: kept.KeptAnswers, path: str) -> bytes:
    who = Principal("alice", Role.VIEWER, frozenset(), False, "c")
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}
    await app({**scope, "state": {"principal": who}}, receive, send)
    return b"".join(message.get("body", b"") for message in sent)


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_BYTES", 10_000)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await kept.keepable(PlainTextResponse("x" * 900))(scope, receive, send)

    keeper = answers(app)

    async def many() -> None:
        for number in range(100):
            assert len(await got(keeper, f"/pictures/{number}")) == 900

    asyncio.run(many())
    assert keeper._bytes == sum(len(one.body) for one in keeper._kept.values()) <= 10_000
    assert len(keeper._kept) == 11


def test_a_crowd_that_asks_the_same_waits_for_one_answer() -> None:
    made = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal made
        made += 1
        await asyncio.sleep(0.01)
        await kept.keepable(PlainTextResponse("hello"))(scope, receive, send)

    keeper = answers(app)

    async def crowd() -> None:
        await got(keeper, "/identities/a")  # now it is known that such answers are kept
        assert set(await asyncio.gather(*(got(keeper, "/identities/b") for _ in range(50)))) == {b"hello"}

    asyncio.run(crowd())
    assert made == 2


def test_whoever_waits_for_an_answer_that_fails_makes_their_own() -> None:
    fail = False

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.01)
        if fail:
            raise RuntimeError
        await kept.keepable(PlainTextResponse("hello"))(scope, receive, send)

    keeper = answers(app)

    async def crowd() -> list[Any]:
        nonlocal fail
        await got(keeper, "/identities/a")
        fail = True
        return await asyncio.gather(*(got(keeper, "/identities/b") for _ in range(5)), return_exceptions=True)

    assert all(isinstance(one, RuntimeError) for one in asyncio.run(crowd()))
    assert not keeper._making


def test_a_refused_search_is_on_record_each_time(browser: TestClient, registry: Registry, tmp_path: Path) -> None:
    loras = make_world(60).write(tmp_path / "new", range(55, 56))
    grants.grant(registry, "s-1", Scope(purposes=("any",), forbidden=("search",)))
    add(registry, AddRequest(paths=(str(loras),), subjects=("s-1",)))
    before = len(log.events_list(registry, action="consent.refuse"))
    for _ in range(3):
        assert browser.get("/who?name=p0055").status_code == 403
    assert len(log.events_list(registry, action="consent.refuse")) == before + 3
    for _ in range(2):
        assert browser.get("/identities/p0055").status_code == 200
    assert len(log.events_list(registry, action="consent.refuse")) == before + 5
