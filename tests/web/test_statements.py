"""How much a page asks of the catalog: a number of statements that does not grow with who is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import Engine, event

from tests.web.routes import own_routes
from w2w_registry.catalog.models import Version
from w2w_registry.catalog.resolve import version_for
from w2w_registry.records import VersionState
from w2w_registry.services.consent import grants
from w2w_registry.services.registry import Registry

MOST = {
    "/": 19,
    "/identities/{name:path}": 58,
    "/who": 33,
    "/make": 50,
    "/spaces": 5,
    "/spaces/{name:path}": 20,
    "/compliance": 20,
    "/compliance/held/{name:path}": 37,
    "/compliance/events": 6,
    "/compliance/subjects/{subject:path}": 21,
    "/compliance/withdrawals/{subject:path}": 9,
    "/api": 0,
    "/static/{name}": 0,
    "/pictures/{name:path}": 37,
    "/api/v1/identities": 15,
    "/api/v1/identities/{name:path}": 21,
    "/api/v1/spaces": 5,
    "/api/v1/lineage/{name:path}": 11,
    "/api/v1/history/{name:path}": 5,
    "/api/v1/held": 4,
    "/api/v1/spaces/{name:path}": 5,
    "/api/v1/subjects": 6,
    "/api/v1/subjects/{subject:path}": 10,
    "/api/v1/events": 4,
}
"""Of every page and answer: at most so many statements, the first time it is asked for; a picture is then marked and
put on record, after another look whether it may still be shown when its turn has come."""
ASKED = {
    "/identities/{name:path}": "/identities/p0001",
    "/who": "/who?name=p0001",
    "/make": "/make?from=p0001",
    "/spaces/{name:path}": "/spaces/faces@1",
    "/compliance/subjects/{subject:path}": "/compliance/subjects/s-1",
    "/compliance/held/{name:path}": "/compliance/held/p0003",
    "/compliance/withdrawals/{subject:path}": "/compliance/withdrawals/s-1",
    "/static/{name}": "/static/style.css",
    "/pictures/{name:path}": "/pictures/p0001",
    "/api/v1/identities/{name:path}": "/api/v1/identities/p0001",
    "/api/v1/lineage/{name:path}": "/api/v1/lineage/p0001",
    "/api/v1/history/{name:path}": "/api/v1/history/p0001",
    "/api/v1/spaces/{name:path}": "/api/v1/spaces/faces",
    "/api/v1/subjects/{subject:path}": "/api/v1/subjects/s-1",
}
OF_A_JOB = ("{job}",)


@contextmanager
def counted() -> Iterator[list[str]]:
    """The statements executed in the block."""
    said: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        said.append(re.sub(r"\s+", " ", statement))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield said
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def test_every_page_has_a_limit(app: FastAPI) -> None:
    shown = {
        route.path
        for route in own_routes(app)
        if "GET" in route.methods and not any(part in route.path for part in OF_A_JOB)
    }
    assert shown == set(MOST)


@pytest.mark.parametrize("place", MOST)
def test_a_page_asks_the_catalog_so_often_and_no_more(program: TestClient, registry: Registry, place: str) -> None:
    grants.grant(registry, "s-1", grants.Scope(purposes=("any",)))
    if "/held/" in place:
        with registry.catalog.write("curator") as uow:
            uow.bulk_update(Version, [version_for(uow.session, "p0003").id], {"state": VersionState.HELD})
            uow.event("version.tested")
    program.get("/spaces")  # whatever is asked once by each process
    with counted() as said:
        answer = program.get(ASKED.get(place, place))
    assert answer.status_code == (403 if place == "/make" else 200), answer.text  # nobody agreed to be edited
    assert len(said) <= MOST[place], "\n".join(said)


def test_in_one_moment_nothing_is_looked_up_twice(program: TestClient) -> None:
    with counted() as said:
        program.get("/identities/p0001")
    for what in ("FROM identity WHERE identity.name", "FROM policy ORDER BY", "FROM event ORDER BY", "FROM hold WHERE"):
        assert sum(what in one for one in said) <= 1, what
