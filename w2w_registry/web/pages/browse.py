"""The first page: who is there, narrowed down, sorted, in pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import Query
from fastapi.responses import HTMLResponse

from w2w_registry.errors import UsageError
from w2w_registry.services.identities import bulk, describing, paging
from w2w_registry.web.filters import quoted
from w2w_registry.web.problems import problem_of
from w2w_registry.web.site import Desk, Look, page_router, url

router = page_router()
PAGE: Final = 60
MOST_PICKED: Final = 1000
"""As many fields as a form may have."""
SORTS: Final = (
    ("name", "Name"),
    ("-created", "Newest first"),
    ("created", "Oldest first"),
    ("residual", "Best described by the space"),
    ("-residual", "Least described by the space"),
    ("-version", "Most versions"),
    ("kind", "Kind"),
)
FIELDS: Final = (
    "name", "kind", "version", "state", "residual", "created", "base_model", "space", "subject", "operation", "alias",
)  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """A facet's value: following it adds its condition to the filter, or takes it away when it is ``chosen``."""

    label: str
    count: int
    href: str
    chosen: bool


@router.get("/")
def browse(
    desk: Look,
    where: str = "",
    sort: str = "name",
    cursor: str | None = None,
    page: int | None = None,
    done: Annotated[int, Query(ge=0, le=MOST_PICKED)] = 0,
    did: str = "",
) -> HTMLResponse:
    """Cards of the identities that match; ``done``: to how many of them ``did`` was done just now."""
    with desk.one_moment():
        return _browse(desk, where.strip(), sort, cursor, page, done, did)


def _browse(
    desk: Desk, where: str, sort: str, cursor: str | None, page: int | None, done: int, did: str
) -> HTMLResponse:
    everybody = overview(desk, "")
    context: dict[str, Any] = {
        "where": where,
        "sort": sort,
        "sorts": _sorts(sort),
        "words": _words(everybody),
        "done": done,
        "did": did,
    }
    empty = {
        "rows": [],
        "problem": None,
        "counted_now": True,
        "facets": _facets(everybody, "", sort),
        "pages": 0,
        "total": 0,
    }
    try:
        counted = overview(desk, where)
        pages = max(1, -(-counted.total // PAGE))
        number = min(max(1, page or 1), pages)
        if cursor is None and number > 1:
            cursor = _start(desk, where, sort, number, counted.total)
        found = paging.page(desk.registry, where=where or None, sort=sort, limit=PAGE, cursor=cursor)
    except UsageError as error:
        return desk.page("browse.html", status=400, **context, **(empty | {"problem": problem_of(error)}))
    here = {"where": where or None, "sort": sort}
    current = all(_counted_now(desk, one) for one in ("", where))
    return desk.kept_page(
        "browse.html",
        current=current,
        counted_now=current,
        **context,
        problem=None,
        rows=list(zip(found.rows, found.cards, strict=True)),
        total=counted.total,
        pages=pages,
        page=number,
        facets=_facets(counted, where, sort),
        previous=None if found.previous is None else url("/", cursor=found.previous, page=number - 1, **here),
        next=None if found.next is None else url("/", cursor=found.next, page=number + 1, **here),
        here=url("/", cursor=cursor, page=number, **here),
    )


def overview(desk: Desk, where: str) -> paging.Overview:
    """Counts, worked out once for each change of the catalog."""
    seq = paging.change_number(desk.registry)
    return desk.site.remembered.get(("overview", where), seq, lambda: paging.overview(desk.registry, where or None))


def _counted_now(desk: Desk, where: str) -> bool:
    return desk.site.remembered.current(("overview", where), paging.change_number(desk.registry))


def _start(desk: Desk, where: str, sort: str, number: int, total: int) -> str | None:
    """The way to a page, found once for each change of the catalog."""
    seq = paging.change_number(desk.registry)
    return desk.site.remembered.get(
        ("start", where, sort, number),
        seq,
        lambda: paging.page_start(desk.registry, where=where or None, sort=sort, size=PAGE, number=number, total=total),
    )


def _sorts(chosen: str) -> list[tuple[str, str]]:
    known = list(SORTS)
    if chosen not in dict(known):
        name = chosen.removeprefix("-").removeprefix("label.").replace("_", " ")
        known.append((chosen, f"{name[:1].upper()}{name[1:]}, {'most' if chosen.startswith('-') else 'least'} first"))
    return known


def _facets(counted: paging.Overview, where: str, sort: str) -> list[tuple[str, list[Choice]]]:
    groups = [
        ("Kind", [(value, f"kind = {value}", number) for value, number in counted.facets["kind"].items()]),
        ("Space", [(value, f"space = {quoted(value)}", number) for value, number in counted.facets["space"].items()]),
        (
            "State",
            [(value, f"state = {value}", number) for value, number in counted.facets["state"].items()],
        ),
        *_tags(counted),
    ]
    terms = [term.strip() for term in where.split(" and ")] if where else []
    return [
        (name, [_choice(label, term, number, terms, where, sort) for label, term, number in choices])
        for name, choices in groups
        if choices
    ]


def _tags(counted: paging.Overview) -> list[tuple[str, list[tuple[str, str, int]]]]:
    """Collections and tags; notes are for whoever reads about one identity."""
    found: dict[str, list[tuple[str, str, int]]] = {"Collections": [], "Tags": []}
    for key, value, number in counted.tags:
        term = f"tag.{quoted(key)} = {quoted(value)}"
        if key.startswith(bulk.COLLECTION):
            found["Collections"].append((key.removeprefix(bulk.COLLECTION), term, number))
        elif key != describing.NOTE:
            found["Tags"].append((f"{key} = {value}", term, number))
    return list(found.items())


def _choice(label: str, term: str, number: int, terms: list[str], where: str, sort: str) -> Choice:
    chosen = term in terms
    if chosen:
        left = " and ".join(t for t in terms if t != term)
    else:
        left = f"({where}) and {term}" if " or " in where else f"{where} and {term}" if where else term
    return Choice(label, number, url("/", where=left or None, sort=sort), chosen)


def _words(counted: paging.Overview) -> dict[str, list[str]]:
    """What the filter's box completes: fields, and the values of those with few."""
    tags = sorted({key for key, _, _ in counted.tags} - {describing.NOTE})
    labels = [name for name in counted.labels if name.isidentifier() and name not in FIELDS]
    return {
        "fields": [*FIELDS, *labels, *(f"tag.{key}" for key in tags)],
        "kind": ["person", "product", "style", "animal", "character", "other"],
        "state": ["active", "held", "blocked", "removed", "erased"],
        "space": sorted(counted.facets["space"]),
        "operation": ["import", "train", "invert", "edit", "mix", "sample", "pull"],
    }
