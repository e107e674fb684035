"""``/api/v1``: the same services as JSON. Keys are those of the command line's ``--json``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from tempfile import SpooledTemporaryFile
from typing import Annotated, Any, BinaryIO, cast, get_type_hints

from fastapi import APIRouter, Query, Request, UploadFile
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from w2w_registry.records import iso
from w2w_registry.services.audit import log as audit_log
from w2w_registry.services.consent import resolve as resolving
from w2w_registry.services.consent import subjects as people
from w2w_registry.services.identities import manage, paging
from w2w_registry.services.identities.answers import IdentityRow, Tagged
from w2w_registry.services.provenance import lineage as tracing
from w2w_registry.services.search.draws import By
from w2w_registry.services.search.query import registered_ref
from w2w_registry.services.spaces import showing as weight_spaces
from w2w_registry.services.synthesis import edit as editing
from w2w_registry.web import asking
from w2w_registry.web.idempotency import OnceRoute
from w2w_registry.web.kept import keepable
from w2w_registry.web.problems import TITLES
from w2w_registry.web.site import Audit, Look, Make, Steward, registered

_BYTES = {"type": "string", "format": "binary"}


class Refusal(BaseModel):
    """Why not, as RFC 9457 has it; `code` is the machine's name of the error, as in the command line's `--json`."""

    type: str
    title: str
    status: int
    code: str
    detail: str


class Asked(BaseModel):
    """What is sent: a key that nobody reads was meant for something, so it is refused."""

    model_config = ConfigDict(extra="forbid")


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
router = APIRouter(
    prefix="/api/v1", route_class=OnceRoute, responses=REFUSALS, generate_unique_id_function=lambda route: route.name
)
"""Generated clients name their functions as the routes are named."""


def says(service: Callable[..., Any], status: int = 200) -> dict[int | str, dict[str, Any]]:
    """For the document: what is answered is what the service says that it returns."""
    return {
        status: {"model": get_type_hints(service)["return"], "description": TITLES.get(status, "What was asked for")}
    }


class Identities(BaseModel):
    """One page; `next` and `previous` are cursors, null at an end."""

    identities: list[IdentityRow]
    next: str | None
    previous: str | None


class Subjects(BaseModel):
    """One page; `next` is the next page's `after`, null at the end."""

    subjects: list[people.SubjectRow]
    next: str | None


class Events(BaseModel):
    """Events, oldest first; `next` is the next page's `after`, null at the end."""

    events: list[audit_log.EventRow]
    next: int | None


def answers_with(model: type[BaseModel], status: int = 200) -> dict[int | str, dict[str, Any]]:
    """For the document: an answer that only the API gives, or that no service has a type for."""
    return {status: {"model": model, "description": TITLES.get(status, "What was asked for")}}


class Tags(Asked):
    """Tags to set (``KEY=VALUE``) and keys to unset."""

    identity: str
    set: list[str] = []
    unset: list[str] = []


class AliasChange(Asked):
    """An alias and the version it is to mean; without ``target`` it is unset on ``identity``."""

    alias: str
    target: str | None = None
    identity: str | None = None


class Edit(Asked):
    """A version, how far to move it along which directions (units, or true and false for yes and no), and a name."""

    identity: str
    amounts: dict[str, float | bool]
    name: str
    keep: list[str] = []
    purpose: str | None = None


class Mix(Asked):
    """Versions to mix, their weights (equal when left out), and a name."""

    identities: list[str]
    name: str
    weights: list[float] = []
    purpose: str | None = None


class Search(Asked):
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

    if hasattr(value, "to_json"):
        value = value.to_json()
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if isinstance(value, datetime):
        return iso(value)
    if hasattr(value, "item"):
        return value.item()
    return value


@router.get("/identities", responses=answers_with(Identities))
def identities(
    desk: Look,
    where: str | None = None,
    sort: Annotated[str, Query(description="As `list --sort`: a field, with `-` before it for descending.")] = "name",
    limit: Annotated[int, Query(ge=1, le=paging.MAX_PAGE)] = 60,
    cursor: str | None = None,
) -> JSONResponse:
    """One page of identities, rows as `list --json` has them; follow `next` until it is null."""
    return keepable(answer(paging.page(desk.registry, where=where, sort=sort, limit=limit, cursor=cursor).to_json()))


@router.get("/identities/{name:path}", responses=says(manage.show))
def identity(desk: Look, name: str) -> JSONResponse:
    """One version with everything known of it, as `show --json`."""
    return keepable(answer(manage.show(desk.registry, name)))


@router.get("/history/{name:path}", responses=says(manage.history))
def history(desk: Look, name: str, at: str | None = None) -> JSONResponse:
    """What each alias of an identity meant, and when, as `history --json`."""
    return keepable(answer(manage.history(desk.registry, name, at=at)))


@router.get("/lineage/{name:path}", responses=says(tracing.traced))
def lineage(
    desk: Look, name: str, down: bool = False, depth: Annotated[int | None, Query(ge=1, le=1000)] = None
) -> JSONResponse:
    """What a version was made from, or what was made of it, as `lineage --json`."""
    return keepable(answer(tracing.traced(desk.registry, name, down=down, depth=depth)))


@router.post("/search", responses=says(asking.registered_version))
def search(desk: Look, asked: Search) -> JSONResponse:
    """The identities nearest to a registered version, as `search --json`. Files are sent to `/search/file`."""
    wanted = asking.Asking(asked.limit, asked.space, asked.where, asked.by)
    found = asking.registered_version(desk, registered_ref(desk.registry, asked.query), wanted)
    return answer(replace(found, query=asked.query).to_json())


@router.post(
    "/search/file",
    responses=says(asking.registered_version),
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


@router.post("/tags", openapi_extra=ONCE, responses=says(manage.set_tags))
def tags(desk: Make, change: Tags) -> JSONResponse:
    """Set and unset tags of an identity, as `tag set --json`."""
    value = Tagged(change.identity, {})
    if change.set or not change.unset:
        value = manage.set_tags(desk.registry, change.identity, change.set)
    if change.unset:
        value = manage.unset_tags(desk.registry, change.identity, change.unset)
    return answer(value)


@router.post("/aliases", openapi_extra=ONCE, responses=says(manage.set_alias))
def aliases(desk: Make, change: AliasChange) -> JSONResponse:
    """Let an alias mean a version, or nothing any more, as `alias set --json`."""
    if change.target is not None:
        return answer(manage.set_alias(desk.registry, change.alias, change.target))
    return answer(manage.unset_alias(desk.registry, change.alias, change.identity or ""))


@router.post("/edits", openapi_extra=ONCE, status_code=201, responses=says(editing.edit, 201))
def edits(desk: Make, asked: Edit) -> JSONResponse:
    """Record a version moved along directions, as `edit --json`."""
    made = editing.edit(
        desk.registry, asked.identity, asked.amounts, name=asked.name, keep=asked.keep, purpose=asked.purpose
    )
    return answer(made, 201)


@router.post("/mixes", openapi_extra=ONCE, status_code=201, responses=says(editing.mix, 201))
def mixes(desk: Make, asked: Mix) -> JSONResponse:
    """Record a mix, as `mix --json`."""
    weights = editing.mixing_weights(len(asked.identities), asked.weights)
    made = editing.mix(desk.registry, asked.identities, weights, name=asked.name, purpose=asked.purpose)
    return answer(made, 201)


@router.get("/spaces", responses=says(weight_spaces.list_spaces))
def spaces(desk: Look) -> JSONResponse:
    """Every weight space, as `space list --json`."""
    return keepable(answer(weight_spaces.list_spaces(desk.registry)))


@router.get("/spaces/{name:path}", responses=says(weight_spaces.show_space))
def space(desk: Look, name: str) -> JSONResponse:
    """One weight space, as `space show --json`."""
    return keepable(answer(weight_spaces.show_space(desk.registry, name)))


@router.get("/subjects", responses=answers_with(Subjects))
def subjects(
    desk: Audit, after: Annotated[str, Query(max_length=300)] = "", limit: Annotated[int, Query(ge=1, le=500)] = 100
) -> JSONResponse:
    """One page of subjects by id, rows as `subject list --json` has them; `next` is the next `after`."""
    found = people.list_subjects(desk.registry, after=after or None, limit=limit + 1)
    more = found[limit - 1].subject if len(found) > limit else None
    return answer({"subjects": found[:limit], "next": more})


@router.get("/subjects/{subject:path}", responses=says(people.show_subject))
def subject(desk: Audit, subject: str) -> JSONResponse:
    """One subject, as `subject show --json`."""
    return answer(people.show_subject(desk.registry, subject))


class Decision(Asked):
    """Whom a held version depicts: the `same_as` another version, or whom it says (`distinct`); and why."""

    version: str
    reason: str
    same_as: str | None = None
    distinct: bool = False


@router.get("/held", responses=says(resolving.held_versions))
def held(desk: Audit) -> JSONResponse:
    """Versions that wait for a second person, the gravest first, as `audit query held --json`."""
    return answer(resolving.held_versions(desk.registry))


@router.post("/held", openapi_extra=ONCE, responses=says(resolving.resolve))
def decide(desk: Steward, asked: Decision) -> JSONResponse:
    """Decide about a held version, as `resolve --json`; whoever added it cannot."""
    ref = registered(desk, asked.version)
    return answer(
        resolving.resolve(desk.registry, ref, same_as=asked.same_as, distinct=asked.distinct, reason=asked.reason)
    )


@router.get("/events", responses=answers_with(Events))
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


class Finding(BaseModel):
    """Something in the log or a row that does not hold; `seq` is the event it is about."""

    code: str
    seq: int | None
    what: str
    expected: str | None
    found: str | None


class Verified(BaseModel):
    """What verification found; `first_bad` is the first event that does not hold."""

    ok: bool
    events: int
    checkpoints: int
    kept_checkpoints: int
    rows: int
    first_bad: int | None
    findings: list[Finding]


class Verify(Asked):
    """Nothing needs to be said: `{}`."""


@router.post("/verify", responses=answers_with(Verified))
def verify(desk: Audit, _asked: Verify) -> JSONResponse:
    """Check the log and every audited row, as `audit verify --json`."""
    return answer(audit_log.verify(desk.registry).to_json())
