"""Static files and pictures: looked up by name or digest, never by path."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response

from w2w_registry.services.identities import paging
from w2w_registry.web.problems import Problem
from w2w_registry.web.site import FOR_EVER, Look, page_router, picture_response

router = page_router()


@router.get("/static/{name}")
def static(desk: Look, name: str) -> Response:
    """A file that ships with the gallery."""
    found = desk.site.statics.get(name)
    if found is None:
        raise Problem(404, "not-found", "there is no such file")
    return Response(found.data, media_type=found.kind, headers={"cache-control": FOR_EVER})


@router.get("/pictures/{name:path}")
def picture(desk: Look, request: Request, name: str) -> Response:
    """The picture that came with a version."""
    data, digest = paging.picture(desk.registry, name)
    return picture_response(data, digest, request)
