"""One identity: what it draws, who is near, what it came from, what may be done with it."""

from __future__ import annotations

import shlex
from typing import Any, Final

from fastapi.responses import HTMLResponse

from w2w_registry.errors import RegistryError
from w2w_registry.services.consent import grants
from w2w_registry.services.identities import manage, paging
from w2w_registry.services.provenance import lineage
from w2w_registry.services.search import query as searching
from w2w_registry.web.problems import problem_of
from w2w_registry.web.site import Desk, Look, page_router

router = page_router()
NEAR: Final = 12
DEPTH: Final = 4


@router.get("/identities/{name:path}")
def identity(desk: Look, name: str) -> HTMLResponse:
    """Everything that is known of one version."""
    shown = manage.show(desk.registry, name)
    ref = f"{shown['identity']}@{shown['version']}"
    card = paging.cards_of(desk.registry, [ref]).get(ref, {})
    near, refused, threshold = nearest(desk, ref, shown["identity"])
    return desk.page(
        "identity.html",
        shown=shown,
        picture=card.get("picture"),
        releases=paging.releases_of(desk.registry, ref),
        near=near,
        near_refused=refused,
        threshold=threshold,
        decisions=grants.check(desk.registry, ref)["decisions"] if shown["state"] in ("active", "blocked") else [],
        drawing=lineage.drawing(desk.registry, ref, depth=DEPTH),
        history=manage.history(desk.registry, shown["identity"]),
        commands=_commands(ref, shown),
    )


def nearest(desk: Desk, ref: str, but: str) -> tuple[list[dict[str, Any]], str | None, float | None]:
    """The nearest others with their pictures, or why they are not shown; and the score that means the same."""
    try:
        found = searching.search(desk.registry, ref, limit=NEAR + 1)
    except RegistryError as error:
        return [], problem_of(error).detail, None
    hits = [dict(vars(hit)) for hit in found.results if hit.identity != but][:NEAR]
    return with_pictures(desk, hits), None, found.threshold


def with_pictures(desk: Desk, hits: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Search results with what a card needs: the picture, and labels to say what is on it."""
    cards = paging.cards_of(desk.registry, [f"{hit['identity']}@{hit['version']}" for hit in hits])
    nothing: dict[str, Any] = {"picture": None, "labels": {}, "state": "active"}
    return [{**hit, **cards.get(f"{hit['identity']}@{hit['version']}", nothing)} for hit in hits]


def _commands(ref: str, shown: dict[str, Any]) -> list[str]:
    quoted = shlex.quote(ref)
    commands = [f"w2w-reg show {quoted}", f"w2w-reg search {quoted}", f"w2w-reg lineage {quoted} --down"]
    if shown["state"] == "active":
        commands += [f"w2w-reg generate {quoted} --out pictures/", f"w2w-reg export {quoted} out/"]
    commands += [f"w2w-reg consent withdraw {shlex.quote(s)} --dry-run" for s in shown["subjects"]]
    return commands
