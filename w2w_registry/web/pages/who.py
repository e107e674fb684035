"""Who is this? A LoRA file, or somebody registered, and who is nearest; nothing is registered by asking."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from fastapi import File, Form, UploadFile
from fastapi.responses import HTMLResponse

from w2w_registry.errors import RegistryError
from w2w_registry.services.search import query as searching
from w2w_registry.services.spaces import manage as spaces
from w2w_registry.web import uploads
from w2w_registry.web.pages.identity import with_pictures
from w2w_registry.web.problems import problem_of
from w2w_registry.web.registered import registered
from w2w_registry.web.site import Desk, Look, page_router

router = page_router()
LIMIT = 24


@router.get("/who")
def ask(desk: Look, name: str = "", space: str | None = None) -> HTMLResponse:
    """The question, and for somebody registered its answer."""
    name = name.strip()
    if not name:
        return _page(desk, "", space)
    try:
        ref = registered(desk, name)
        found = searching.search(desk.registry, ref, limit=LIMIT + 1, space=space or None)
        own = ref.rpartition("@")[0]
        found = replace(found, results=tuple(hit for hit in found.results if hit.identity != own)[:LIMIT])
    except RegistryError as error:
        return _page(desk, name, space, problem=problem_of(error))
    return _page(desk, name, space, found=found)


@router.post("/who")
def answer(
    desk: Look, files: Annotated[list[UploadFile], File()], space: Annotated[str, Form(max_length=300)] = ""
) -> HTMLResponse:
    """Who the LoRA that was sent draws."""
    try:
        with uploads.adapter(files) as query:
            found = searching.search(desk.registry, query, limit=LIMIT, space=space or None)
    except RegistryError as error:
        return _page(desk, "", space, problem=problem_of(error))
    return _page(desk, "", space, found=found)


def _page(
    desk: Desk, name: str, space: str | None, *, found: searching.Found | None = None, problem: Any = None
) -> HTMLResponse:
    known = spaces.list_spaces(desk.registry)
    hits: list[dict[str, Any]] = []
    odds: float | None = None
    size = 0
    if found is not None:
        hits = with_pictures(desk, [dict(vars(hit)) for hit in found.results])
        size = next((row["identities"] for row in known if row["space"] == found.space), 0)
        odds = searching.false_alarm(found.false_match_rate, size)
    return desk.page(
        "who.html",
        status=200 if problem is None else problem.status,
        name=name,
        space=space or "",
        spaces=[row["space"] for row in known],
        found=found,
        hits=hits,
        size=size,
        odds=odds,
        problem=problem,
        limit_mb=desk.request.app.state.limits.upload_bytes >> 20,
    )
