"""The table of routes, walked: every path with something in it, every method."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")
FILLED = {"name": "p0001", "name:path": "p0001", "subject:path": "s-1", "job": "1"}


def paths(app: FastAPI) -> list[str]:
    """A path for every route: its parameters filled in."""
    found = []
    for route in app.routes:
        path: str = route.path  # type: ignore[attr-defined]
        for parameter, value in FILLED.items():
            path = path.replace("{" + parameter + "}", value)
        assert "{" not in path, f"say in FILLED what stands in {path}"
        found.append(path)
    return found


def own_routes(app: FastAPI) -> list[APIRoute]:
    """Every route but the OpenAPI document's; one of another kind (a mount, a websocket) fails here."""
    left = [route for route in app.routes if getattr(route, "path", None) != app.openapi_url]
    assert all(isinstance(route, APIRoute) for route in left), "a route the tests cannot walk"
    return [route for route in left if isinstance(route, APIRoute)]


def dependencies(dependant: Dependant) -> Iterator[Any]:
    """Every function a route depends on."""
    for one in dependant.dependencies:
        yield one.call
        yield from dependencies(one)


def mutating(app: FastAPI) -> list[tuple[str, str]]:
    """(method, path) of every route that is not just read."""
    return [
        (method, path)
        for route, path in zip(own_routes(app), [p for p in paths(app) if p != app.openapi_url], strict=True)
        for method in sorted(route.methods - {"GET", "HEAD"})
    ]


async def raw(
    app: FastAPI, method: str, path: str, kind: str = "", receive: Any = None, query: bytes = b""
) -> tuple[int, bytes]:
    """A request with the token as a server would hand it on, whatever stands in ``path``: (status, body)."""
    from tests.web.conftest import HOST, TOKEN

    sent: list[dict[str, Any]] = []

    async def nothing() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = {"host": HOST, "authorization": f"Bearer {TOKEN}", "content-type": kind}
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": query, "root_path": "", "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8765), "state": {},
        "headers": [(name.encode(), value.encode()) for name, value in headers.items() if value],
    }  # fmt: skip
    await app(scope, receive or nothing, send)  # type: ignore[arg-type]
    (status,) = [m["status"] for m in sent if m["type"] == "http.response.start"]
    return status, b"".join(m.get("body", b"") for m in sent if m["type"] == "http.response.body")
