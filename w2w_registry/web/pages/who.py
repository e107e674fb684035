"""Who is this? A photo, a LoRA file or somebody registered, and who is nearest; nothing is registered unless asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Final

from fastapi import File, Form, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse

from w2w_registry.errors import RegistryError
from w2w_registry.services.search.query import false_alarm, registered_ref
from w2w_registry.services.spaces import showing as spaces
from w2w_registry.web import asking
from w2w_registry.web.access import Right
from w2w_registry.web.pages.identity import with_pictures
from w2w_registry.web.problems import Problem, problem_of
from w2w_registry.web.site import Desk, Look, page_router

router = page_router()
LIMIT: Final = 24
Field = Annotated[str, Form(max_length=300)]


@router.get("/who")
def ask(desk: Look, name: str = "", space: str | None = None) -> HTMLResponse:
    """The question, and for somebody registered its answer."""
    with desk.one_moment():
        return _registered(desk, name.strip(), space)


def _registered(desk: Desk, name: str, space: str | None) -> HTMLResponse:
    if not name:
        return _page(desk, "", space)
    try:
        ref = registered_ref(desk.registry, name)
        found = asking.registered_version(desk, ref, asking.Asking(LIMIT + 1, space or None))
        own = ref.rpartition("@")[0]
        others = tuple(hit for hit in found.results if hit.identity != own)[:LIMIT]
        lead = round(others[0].score - others[1].score, 6) if len(others) > 1 else None  # not its own, over the others
        found = replace(found, results=others, gap=lead)
    except RegistryError as error:
        return _page(desk, name, space, problem=problem_of(error))
    return _page(desk, name, space, answer=asking.Answer(found, outside=found.residual))


@router.post("/who")
async def answer(
    desk: Look,
    files: Annotated[list[UploadFile], File()],
    space: Field = "",
    name: Field = "",
    subject: Field = "",
) -> HTMLResponse:
    """Who the LoRA or the photo that was sent draws; with ``name`` it is registered too."""
    register = asking.Registering(name.strip(), tuple(subject.split())) if name.strip() else None
    try:
        if register is not None and Right.MAKE not in desk.who.rights:
            raise Problem(403, "role", f"a {desk.who.role} may not register anybody")
        found = await asking.sent(desk, files, asking.Asking(LIMIT, space or None), register)
    except RegistryError as error:
        return await run_in_threadpool(_page, desk, "", space, problem=problem_of(error))
    return await run_in_threadpool(_page, desk, "", space, answer=found)


def _page(
    desk: Desk, name: str, space: str | None, *, answer: asking.Answer | None = None, problem: Any = None
) -> HTMLResponse:
    known = spaces.space_refs(desk.registry)
    hits: list[dict[str, Any]] = []
    odds: float | None = None
    size = 0
    if answer is not None:
        found = answer.found
        hits = with_pictures(desk, [dict(vars(hit)) for hit in found.results])
        size = found.people or _identities(desk, found.space)
        odds = false_alarm(found.false_match_rate, size)
    status = {} if problem is None else {"status": problem.status}
    page = desk.kept_page if problem is None and (answer is None or not answer.registered) else desk.page
    return page(
        "who.html",
        **status,
        name=name,
        space=space or "",
        spaces=known,
        answer=answer,
        found=None if answer is None else answer.found,
        hits=hits,
        size=size,
        odds=odds,
        problem=problem,
        photos=asking.opener_of(desk) is not None,
        limit_mb=desk.request.app.state.limits.upload_bytes >> 20,
    )


def _identities(desk: Desk, space: str | None) -> int:
    """How many identities a space has, where the search did not count them."""
    return next((row["identities"] for row in spaces.list_spaces(desk.registry) if row["space"] == space), 0)
