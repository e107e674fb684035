"""``/api/v1``: the same services as JSON. Keys are those of the command line's ``--json``."""

from __future__ import annotations

from tempfile import SpooledTemporaryFile
from typing import Annotated, Any, BinaryIO, cast

from fastapi import APIRouter, Query, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from w2w_registry.records import iso
from w2w_registry.services.identities import manage, paging
from w2w_registry.services.provenance import lineage as tracing
from w2w_registry.services.search import query as searching
from w2w_registry.web import uploads
from w2w_registry.web.registered import registered
from w2w_registry.web.site import Look, Make

router = APIRouter(prefix="/api/v1")
_BYTES = {"type": "string", "format": "binary"}


class Tags(BaseModel):
    """Tags to set (``KEY=VALUE``) and keys to unset."""

    identity: str
    set: list[str] = []
    unset: list[str] = []


class AliasChange(BaseModel):
    """An alias and the version it is to mean; without ``target`` it is unset on ``identity``."""

    alias: str
    target: str | None = None
    identity: str | None = None


class Search(BaseModel):
    """A registered version to look around."""

    query: str
    limit: int = Field(10, ge=1, le=200)
    space: str | None = None
    where: str | None = None


def answer(value: Any, status: int = 200) -> JSONResponse:
    """``value`` as JSON, moments as ``--json`` writes them."""
    return JSONResponse(plain(value), status)


def plain(value: Any) -> Any:
    """Only what JSON has: moments as RFC 3339, tuples as lists, numpy's numbers as numbers."""
    from datetime import datetime

    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if isinstance(value, datetime):
        return iso(value)
    if hasattr(value, "item"):
        return value.item()
    return value


@router.get("/identities")
def identities(
    desk: Look,
    where: str | None = None,
    sort: str = "name",
    limit: Annotated[int, Query(ge=1, le=paging.MAX_PAGE)] = 60,
    cursor: str | None = None,
) -> JSONResponse:
    """One page of identities, rows as `list --json` has them; follow `next` until it is null."""
    return answer(paging.page(desk.registry, where=where, sort=sort, limit=limit, cursor=cursor).to_json())


@router.get("/identities/{name:path}")
def identity(desk: Look, name: str) -> JSONResponse:
    """One version with everything known of it, as `show --json`."""
    return answer(manage.show(desk.registry, name))


@router.get("/history/{name:path}")
def history(desk: Look, name: str, at: str | None = None) -> JSONResponse:
    """What each alias of an identity meant, and when, as `history --json`."""
    return answer(manage.history(desk.registry, name, at=at))


@router.get("/lineage/{name:path}")
def lineage(
    desk: Look, name: str, down: bool = False, depth: Annotated[int | None, Query(ge=1, le=1000)] = None
) -> JSONResponse:
    """What a version was made from, or what was made of it, as `lineage --json`."""
    return answer(tracing.trace(desk.registry, name, down=down, depth=depth, form="json"))


@router.post("/search")
def search(desk: Look, asked: Search) -> JSONResponse:
    """The identities nearest to a registered version, as `search --json`. Files are sent to `/search/file`."""
    return answer(
        searching.search(
            desk.registry,
            registered(desk, asked.query),
            limit=asked.limit,
            space=asked.space,
            where=asked.where,
        ).to_json()
    )


@router.post(
    "/search/file",
    openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": _BYTES}}}},
)
async def search_file(
    desk: Look,
    request: Request,
    name: str = "query.safetensors",
    limit: Annotated[int, Query(ge=1, le=200)] = 10,
    space: str | None = None,
    where: str | None = None,
) -> JSONResponse:
    """The identities nearest to a LoRA: its `.safetensors` file is the body. Nothing is registered."""
    with SpooledTemporaryFile(max_size=1 << 20) as stream:
        async for chunk in request.stream():
            stream.write(chunk)
        stream.seek(0)
        sent = UploadFile(cast(BinaryIO, stream), filename=name)

        def run() -> dict[str, Any]:
            with uploads.adapter([sent]) as query:
                return searching.search(desk.registry, query, limit=limit, space=space, where=where).to_json()

        return answer(await run_in_threadpool(run))


@router.post("/tags")
def tags(desk: Make, change: Tags) -> JSONResponse:
    """Set and unset tags of an identity, as `tag set --json`."""
    value: dict[str, Any] = {"identity": change.identity, "tags": {}}
    if change.set or not change.unset:
        value = manage.set_tags(desk.registry, change.identity, change.set)
    if change.unset:
        value = manage.unset_tags(desk.registry, change.identity, change.unset)
    return answer(value)


@router.post("/aliases")
def aliases(desk: Make, change: AliasChange) -> JSONResponse:
    """Let an alias mean a version, or nothing any more, as `alias set --json`."""
    if change.target is not None:
        return answer(manage.set_alias(desk.registry, change.alias, change.target))
    return answer(manage.unset_alias(desk.registry, change.alias, change.identity or ""))
