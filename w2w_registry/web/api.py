"""``/api/v1``: the same services as JSON. Keys are those of the command line's ``--json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from tempfile import SpooledTemporaryFile
from typing import Annotated, Any, BinaryIO, cast

from fastapi import APIRouter, Query, Request, UploadFile
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from w2w_registry.records import iso
from w2w_registry.services.audit import log as audit_log
from w2w_registry.services.consent import resolve as resolving
from w2w_registry.services.consent import subjects as people
from w2w_registry.services.identities import manage, paging
from w2w_registry.services.identities.answers import Tagged
from w2w_registry.services.provenance import lineage as tracing
from w2w_registry.services.search.draws import By
from w2w_registry.services.search.query import registered_ref
from w2w_registry.services.spaces import manage as weight_spaces
from w2w_registry.services.synthesis import edit as editing
from w2w_registry.web import asking
from w2w_registry.web.idempotency import OnceRoute
from w2w_registry.web.kept import keepable
from w2w_registry.web.problems import TITLES
from w2w_registry.web.registered import registered
from w2w_registry.web.site import Audit, Look, Make, Steward

_BYTES = {"type": "string", "format": "binary"}


class Refusal(BaseModel):
    """Why not, as RFC 9457 has it; `code` is the machine's name of the error, as in the command line's `--json`."""

    type: str
    title: str
    status: int
    code: str
    detail: str


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Refusal, "description": TITLES[status]} for status in (400, 401, 403, 404, 409, 422, 429)
}
ONCE: dict[str, Any] = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": "Sent again with this key, the change is not made again: the first answer is given.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 200},
        }
    ]
}
router = APIRouter(prefix="/api/v1", route_class=OnceRoute, responses=REFUSALS)


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


class Edit(BaseModel):
    """A version, how far to move it along which directions (units, or true and false for yes and no), and a name."""

    identity: str
    amounts: dict[str, float | bool]
    name: str
    keep: list[str] = []
    purpose: str | None = None


class Mix(BaseModel):
    """Versions to mix, their weights (equal when left out), and a name."""

    identities: list[str]
    name: str
    weights: list[float] = []
    purpose: str | None = None


class Search(BaseModel):
    """A registered version to look around, by weights, by behaviour or by both; left out: the best that can be had."""

    query: str
    by: By | None = None
    limit: int = Field(10, ge=1, le=200)
    space: str | None = None
    where: str | None = None


def answer(value: Any, status: int = 200) -> JSONResponse:
    """``value`` as JSON, moments as ``--json`` writes them."""
    return JSONResponse(plain(value), status)


def plain(value: Any) -> Any:
    """Only what JSON has: moments as RFC 3339, tuples as lists, numpy's numbers as numbers."""
    from datetime import datetime

    if isinstance(value, Mapping):
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
    return keepable(answer(paging.page(desk.registry, where=where, sort=sort, limit=limit, cursor=cursor).to_json()))


@router.get("/identities/{name:path}")
def identity(desk: Look, name: str) -> JSONResponse:
    """One version with everything known of it, as `show --json`."""
    return keepable(answer(manage.show(desk.registry, name)))


@router.get("/history/{name:path}")
def history(desk: Look, name: str, at: str | None = None) -> JSONResponse:
    """What each alias of an identity meant, and when, as `history --json`."""
    return keepable(answer(manage.history(desk.registry, name, at=at)))


@router.get("/lineage/{name:path}")
def lineage(
    desk: Look, name: str, down: bool = False, depth: Annotated[int | None, Query(ge=1, le=1000)] = None
) -> JSONResponse:
    """What a version was made from, or what was made of it, as `lineage --json`."""
    return keepable(answer(tracing.trace(desk.registry, name, down=down, depth=depth, form="json")))


@router.post("/search")
def search(desk: Look, asked: Search) -> JSONResponse:
    """The identities nearest to a registered version, as `search --json`. Files are sent to `/search/file`."""
    wanted = asking.Asking(asked.limit, asked.space, asked.where, asked.by)
    found = asking.registered_version(desk, registered_ref(desk.registry, asked.query), wanted)
    return answer(replace(found, query=asked.query).to_json())


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
    by: By | None = None,
) -> JSONResponse:
    """The identities nearest to a LoRA or a photo: its file is the body, and `name` says by its ending which it is.
    Nothing is registered."""
    with SpooledTemporaryFile(max_size=1 << 20) as stream:
        async for chunk in request.stream():
            stream.write(chunk)
        size = stream.tell()
        stream.seek(0)
        sent = UploadFile(cast(BinaryIO, stream), filename=name, size=size)
        found = await asking.sent(desk, [sent], asking.Asking(limit, space, where, by))
        return answer(found.found.to_json())


@router.post("/tags", openapi_extra=ONCE)
def tags(desk: Make, change: Tags) -> JSONResponse:
    """Set and unset tags of an identity, as `tag set --json`."""
    value = Tagged(change.identity, {})
    if change.set or not change.unset:
        value = manage.set_tags(desk.registry, change.identity, change.set)
    if change.unset:
        value = manage.unset_tags(desk.registry, change.identity, change.unset)
    return answer(value)


@router.post("/aliases", openapi_extra=ONCE)
def aliases(desk: Make, change: AliasChange) -> JSONResponse:
    """Let an alias mean a version, or nothing any more, as `alias set --json`."""
    if change.target is not None:
        return answer(manage.set_alias(desk.registry, change.alias, change.target))
    return answer(manage.unset_alias(desk.registry, change.alias, change.identity or ""))


@router.post("/edits", openapi_extra=ONCE)
def edits(desk: Make, asked: Edit) -> JSONResponse:
    """Record a version moved along directions, as `edit --json`."""
    made = editing.edit(
        desk.registry, asked.identity, asked.amounts, name=asked.name, keep=asked.keep, purpose=asked.purpose
    )
    return answer(made, 201)


@router.post("/mixes", openapi_extra=ONCE)
def mixes(desk: Make, asked: Mix) -> JSONResponse:
    """Record a mix, as `mix --json`."""
    weights = editing.mixing_weights(len(asked.identities), asked.weights)
    made = editing.mix(desk.registry, asked.identities, weights, name=asked.name, purpose=asked.purpose)
    return answer(made, 201)


@router.get("/spaces")
def spaces(desk: Look) -> JSONResponse:
    """Every weight space, as `space list --json`."""
    return keepable(answer(weight_spaces.list_spaces(desk.registry)))


@router.get("/spaces/{name:path}")
def space(desk: Look, name: str) -> JSONResponse:
    """One weight space, as `space show --json`."""
    return keepable(answer(weight_spaces.show_space(desk.registry, name)))


@router.get("/subjects")
def subjects(desk: Audit) -> JSONResponse:
    """Every subject with its consent in one word, as `subject list --json`."""
    return answer(people.list_subjects(desk.registry))


@router.get("/subjects/{subject:path}")
def subject(desk: Audit, subject: str) -> JSONResponse:
    """One subject, as `subject show --json`."""
    return answer(people.show_subject(desk.registry, subject))


class Decision(BaseModel):
    """Whom a held version depicts: the `same_as` another version, or whom it says (`distinct`); and why."""

    version: str
    reason: str
    same_as: str | None = None
    distinct: bool = False


@router.get("/held")
def held(desk: Audit) -> JSONResponse:
    """Versions that wait for a second person, the gravest first, as `audit query held --json`."""
    return answer(resolving.held_versions(desk.registry))


@router.post("/held", openapi_extra=ONCE)
def decide(desk: Steward, asked: Decision) -> JSONResponse:
    """Decide about a held version, as `resolve --json`; whoever added it cannot."""
    ref = registered(desk, asked.version)
    return answer(
        resolving.resolve(desk.registry, ref, same_as=asked.same_as, distinct=asked.distinct, reason=asked.reason)
    )


@router.get("/events")
def events(
    desk: Audit,
    after: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    actor: str | None = None,
    action: str | None = None,
) -> JSONResponse:
    """Audit events after a number, oldest first; the last one's `seq` is the next `after`."""
    found = audit_log.events_list(desk.registry, after=after, limit=limit, actor=actor, action=action)
    return answer({"events": found, "next": found[-1]["seq"] if len(found) == limit else None})


@router.post("/verify")
def verify(desk: Audit) -> JSONResponse:
    """Check the log and every audited row, as `audit verify --json`."""
    return answer(audit_log.verify(desk.registry).to_json())
