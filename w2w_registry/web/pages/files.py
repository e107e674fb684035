"""Static files and pictures: looked up by name or digest, never by path."""

from __future__ import annotations

from typing import Final

from anyio import to_thread
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from w2w_registry.errors import Unmarked
from w2w_registry.records import VersionState
from w2w_registry.services.identities import paging
from w2w_registry.web.problems import Problem
from w2w_registry.web.site import FOR_EVER, Desk, Look, page_router, picture_response
from w2w_registry.web.workers import for_the_maker

router = page_router()
_UNMARKED: Final = b"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 200 200">
<rect width="200" height="200" fill="#777"/>
<g fill="#fff" font-family="sans-serif" font-size="15" text-anchor="middle">
<text x="100" y="82">Not shown: nothing</text><text x="100" y="106">can be written here, so</text>
<text x="100" y="130">no mark is on record.</text></g></svg>"""
"""In the place of a picture that would leave without a mark."""


@router.get("/static/{name}")
def static(desk: Look, name: str) -> Response:
    """A file that ships with the gallery."""
    found = desk.site.statics.get(name)
    if found is None:
        raise Problem(404, "not-found", "there is no such file")
    return Response(found.data, media_type=found.kind, headers={"cache-control": FOR_EVER})


@router.get("/pictures/{name:path}")
async def picture(desk: Look, request: Request, name: str) -> Response:
    """The picture that came with a version. To mark one takes as long as a page and waits for whoever writes into the
    catalog: the maker does it, and never with a thread that pages are made by."""
    return await picture_of(desk, request, name)


async def picture_of(desk: Desk, request: Request, name: str, state: VersionState = VersionState.ACTIVE) -> Response:
    """The picture of a version in that state."""
    left, digest = await run_in_threadpool(paging.picture_left, desk.registry, name, state)
    if left is not None:
        return picture_response(left, digest, request)
    if request.app.state.shows_only:
        return for_the_maker()
    try:
        marked, digest = await to_thread.run_sync(paging.picture, desk.registry, name, state, limiter=desk.site.marking)
    except Unmarked:
        if request.headers.get("sec-fetch-dest") != "image":
            raise
        return Response(_UNMARKED, status_code=503, media_type="image/svg+xml")  # a browser shows it all the same
    return picture_response(marked, digest, request)
