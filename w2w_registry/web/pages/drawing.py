"""Pictures on demand: asked for by a page, drawn one after another, fetched when they are there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

from fastapi import Form
from fastapi.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

from w2w_registry.services.identities import paging
from w2w_registry.services.synthesis import generate, previewing
from w2w_registry.web.jobs import ENDED, Job, State
from w2w_registry.web.problems import Problem
from w2w_registry.web.site import Desk, Make, page_router, registered, url

router = page_router()
STEPS: Final = 12
SHEET: Final = (1, 2, 3, 4, 5, 6, 7, 8)
PATIENCE: Final = 120.0
NAP: Final = 0.03


@router.get("/make/pictures/{job}")
async def picture(desk: Make, job: str) -> Response:
    """The picture, as soon as it is drawn."""
    found = desk.site.jobs.find(owner(desk), job)
    for _ in range(int(PATIENCE / NAP)):  # asleep here rather than in one of the few threads
        if found.state in ENDED:
            break
        await asyncio.sleep(NAP)
    if found.picture is None:
        raise Problem(409 if found.state in ENDED else 503, "picture", found.why or "the picture is still being drawn")
    return Response(found.picture, media_type="image/png", headers={"cache-control": "private, max-age=3600"})


@router.get("/make/pictures/{job}/events")
async def progress(desk: Make, job: str) -> StreamingResponse:
    """Server-sent events until the picture is there."""
    found = desk.site.jobs.find(owner(desk), job)

    async def told() -> AsyncIterator[str]:
        state: State | None = None
        for _ in range(int(PATIENCE)):
            if found.state is not state:
                state = found.state
                said = {"state": state, "ahead": desk.site.jobs.ahead(found), "why": found.why}
                yield f"event: state\ndata: {json.dumps(said)}\n\n"
            if state in ENDED:
                return
            await asyncio.sleep(0.05 if found.state is not State.WAITING else 0.2)

    return StreamingResponse(told(), media_type="text/event-stream")


@router.post("/make/pictures/{job}/cancel")
def cancel(desk: Make, job: str) -> JSONResponse:
    """Give a picture up."""
    found = desk.site.jobs.find(owner(desk), job)
    desk.site.jobs.cancel(found)
    return JSONResponse({"job": found.id, "state": found.state})


@router.post("/sheets")
def sheet(desk: Make, identity: Annotated[str, Form(max_length=300)]) -> RedirectResponse:
    """A contact sheet of what a version draws, from eight seeds; shown on its page when it is there."""
    ref = registered(desk, identity)
    job = drawing(desk, ref, {}, SHEET, "sheet")
    return RedirectResponse(url("/identities", ref, sheet=job.id) + "#sheet", 303)


@router.post("/previews")
def previews(desk: Make, identity: Annotated[str, Form(max_length=300)]) -> RedirectResponse:
    """A picture for a version that came without one; its page shows it as soon as it is drawn."""
    ref = registered(desk, identity)
    job = preview_of(desk, ref)
    return RedirectResponse(url("/identities", ref, sheet=job.id), 303)


def preview_of(desk: Desk, ref: str) -> Job:
    """The job that draws a version's picture and keeps it."""
    registry, engine = desk.registry, desk.site.engine

    def draw() -> bytes:
        with engine.lock:
            previewing.draw_preview(registry, previewing.PreviewRequest(ref, steps=STEPS, engine=engine))
        return paging.picture(registry, ref)[0]

    return desk.site.jobs.submit(owner(desk), ("preview", ref), draw, lane=f"preview {ref}")


def drawing(desk: Desk, ref: str, amounts: Mapping[str, float | bool], seeds: Sequence[int], lane: str) -> Job:
    """The job that draws this, one seed or a sheet of several. Permission is asked when it is drawn."""
    registry, engine = desk.registry, desk.site.engine

    def draw() -> bytes:
        with registry.temporary_folder() as folder:
            request = generate.GenerateRequest(
                ref,
                str(folder),
                seeds=seeds,
                steps=STEPS,
                edit=dict(amounts),
                from_coordinates=bool(amounts),  # what an edit records is its point: that is what has to be shown
                engine=engine,
            )
            with engine.lock:
                made = generate.generate(registry, request)
            return Path(made["files"][0] if len(seeds) == 1 else made["sheet"]).read_bytes()

    key = (ref, tuple(sorted(amounts.items())), tuple(seeds))
    return desk.site.jobs.submit(owner(desk), key, draw, lane=lane)


def owner(desk: Desk) -> str:
    """Whose pictures they are: this session's."""
    return f"{desk.who.actor} {desk.who.csrf}"
