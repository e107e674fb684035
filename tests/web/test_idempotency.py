"""A change that is sent twice with one key is made once."""

from __future__ import annotations

import asyncio
import hashlib
import json

import pytest
from fastapi.testclient import TestClient
from starlette.responses import JSONResponse, Response

from tests.web.conftest import ORIGIN, TOKEN, Build, csrf_of
from w2w_registry.consent.records import Scope
from w2w_registry.services.audit import log
from w2w_registry.services.consent import grants, withdraw
from w2w_registry.services.recording.answered import AnswerFolder
from w2w_registry.services.registry import Registry
from w2w_registry.web.access import Proxy, Role
from w2w_registry.web.idempotency import KEPT_FOR, Answers
from w2w_registry.web.problems import Problem

TAG = {"identity": "p0001", "set": ["team=ads"]}


def events(registry: Registry) -> int:
    return len(log.events_list(registry, action="tag."))


def test_a_change_is_made_once_for_each_key(program: TestClient, registry: Registry) -> None:
    key = {"idempotency-key": "a-1"}
    first = program.post("/api/v1/tags", json=TAG, headers=key)
    again = program.post("/api/v1/tags", json=TAG, headers=key)
    assert (again.status_code, again.content) == (first.status_code, first.content) == (200, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    assert events(registry) == 1
    program.post("/api/v1/tags", json={**TAG, "set": ["team=art"]}, headers={"idempotency-key": "a-2"})
    assert events(registry) == 2


def test_a_key_belongs_to_one_request(program: TestClient, registry: Registry) -> None:
    key = {"idempotency-key": "b"}
    program.post("/api/v1/tags", json=TAG, headers=key)
    other = program.post("/api/v1/tags", json={**TAG, "identity": "p0002"}, headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency")
    assert events(registry) == 1


def test_a_refusal_is_an_answer_too(program: TestClient) -> None:
    body, key = {"identities": ["p0001", "p0002"], "name": "both"}, {"idempotency-key": "c"}
    first, again = (program.post("/api/v1/mixes", json=body, headers=key) for _ in range(2))
    assert first.status_code == again.status_code == 403
    assert first.json() == again.json()
    assert again.headers["content-type"].startswith("application/problem+json")


@pytest.mark.parametrize("key", ["", "x" * 201])
def test_a_key_is_short_and_printable(program: TestClient, key: str) -> None:
    assert program.post("/api/v1/tags", json=TAG, headers={"idempotency-key": key}).status_code == 400


def test_answers_outlive_the_server(program: TestClient, build: Build, registry: Registry) -> None:
    key = {"idempotency-key": "a"}
    first = program.post("/api/v1/tags", json=TAG, headers=key)
    bearer = {"authorization": f"Bearer {TOKEN}"}
    anew = TestClient(build(), base_url=ORIGIN, headers=bearer)
    again = anew.post("/api/v1/tags", json=TAG, headers=key)
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    assert events(registry) == 1


def test_what_was_cut_short_is_not_made_again(program: TestClient, build: Build, registry: Registry) -> None:
    folder = AnswerFolder(registry, KEPT_FOR)
    text = b"/api/v1/tags?\n" + json.dumps(TAG, separators=(",", ":")).encode()
    assert folder.claim("curator", "k", hashlib.sha256(text).hexdigest()) is None  # and the server stopped
    answer = program.post("/api/v1/tags", json=TAG, headers={"idempotency-key": "k"})
    assert answer.status_code == 409
    assert "stopped" in answer.json()["detail"]
    assert events(registry) == 0


def test_an_erasure_takes_the_answers_along(program: TestClient, registry: Registry) -> None:
    grants.grant(registry, "s-1", Scope(purposes=("any",)))
    program.post("/api/v1/tags", json=TAG, headers={"idempotency-key": "a"})
    assert list(registry.settings.answers_dir.iterdir())
    withdraw.withdraw(registry, "s-1", erase=True)
    assert not registry.settings.answers_dir.exists()


def test_under_way_failed_and_forgotten(registry: Registry) -> None:
    at = [0.0]
    answers = Answers(AnswerFolder(registry, KEPT_FOR, lambda: at[0]))
    made: list[int] = []

    async def make() -> Response:
        made.append(1)
        return JSONResponse({"n": len(made)}, 500 if len(made) == 1 else 200)

    async def slow() -> Response:
        with pytest.raises(Problem, match="under way"):
            await answers.once("eve", "s", "x", make)
        return JSONResponse({})

    async def run() -> None:
        for _ in range(3):
            await answers.once("eve", "k", "x", make)
        assert len(made) == 2  # the server's failure was tried again, its success was kept
        await answers.once("bob", "k", "y", make)
        assert len(made) == 3  # another caller's key is another key
        await answers.once("eve", "s", "x", slow)
        at[0] = KEPT_FOR + 1
        await answers.once("eve", "k", "x", make)
        assert len(made) == 4

    asyncio.run(run())


def test_a_key_of_somebody_else_is_no_key(build: Build) -> None:
    """Two people send the same change under the same key: each makes their own, and neither hears of the other's."""
    proxy = Proxy("X-User", frozenset({"testclient"}), default=Role.MAKER)
    app = build(proxy=proxy)
    for who in ("alice", "bob", "Alice"):
        client = TestClient(app, base_url=ORIGIN, headers={"x-user": who, "origin": ORIGIN})
        csrf = csrf_of(client)
        more = {"idempotency-key": "k", "x-csrf-token": csrf}
        first, again = (client.post("/api/v1/tags", json=TAG, headers=more) for _ in range(2))
        assert first.status_code == 200
        assert "idempotency-replayed" not in first.headers
        assert again.headers["idempotency-replayed"] == "true"


def test_a_kept_answer_is_for_whoever_may_still_ask(build: Build, registry: Registry) -> None:
    """Somebody whose role was lowered since hears of it again no more; raised again, they do, and nothing is made."""
    for role, status in ((Role.MAKER, 200), (Role.VIEWER, 403), (Role.STEWARD, 200)):
        app = build(proxy=Proxy("X-User", frozenset({"testclient"}), default=role))
        client = TestClient(app, base_url=ORIGIN, headers={"x-user": "alice", "origin": ORIGIN})
        more = {"idempotency-key": "k", "x-csrf-token": csrf_of(client)}
        answer = client.post("/api/v1/tags", json=TAG, headers=more)
        assert answer.status_code == status
        assert (answer.headers.get("idempotency-replayed") == "true") == (role is Role.STEWARD)
        assert answer.headers["content-type"].startswith("application/problem+json") == (status == 403)
    assert events(registry) == 1
