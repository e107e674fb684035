"""One identity: what it draws, who is near, what it came from, what may be done with it."""

from __future__ import annotations

from typing import Any, Final

from fastapi.responses import HTMLResponse

from w2w_registry.commands import command
from w2w_registry.errors import RegistryError
from w2w_registry.services.consent import showing
from w2w_registry.services.identities import describing, manage, paging
from w2w_registry.services.identities.answers import IdentityShown
from w2w_registry.services.provenance import lineage
from w2w_registry.services.search import query as searching
from w2w_registry.web import asking
from w2w_registry.web.jobs import Job
from w2w_registry.web.pages.drawing import owner
from w2w_registry.web.problems import Problem, problem_of
from w2w_registry.web.site import Desk, Look, page_router

router = page_router()
NEAR: Final = 12
DEPTH: Final = 4
TOLD: Final = ("title", "trigger", "strength", "base_hint", "license", "notes")
"""Labels that say how a model is used rather than what is on its pictures."""


@router.get("/identities/{name:path}")
def identity(desk: Look, name: str, sheet: str = "", did: str = "") -> HTMLResponse:
    """Everything that is known of one version. ``sheet``: a contact sheet this session asked for; ``did``: what
    was done to it just now."""
    with desk.one_moment():
        return _identity(desk, name, sheet, did)


def _identity(desk: Desk, name: str, sheet: str, did: str) -> HTMLResponse:
    shown = manage.show(desk.registry, name)
    ref = f"{shown['identity']}@{shown['version']}"
    cards = paging.cards_of(desk.registry, [f"{shown.identity}@{one.version}" for one in shown.versions])
    near, refused, threshold = nearest(desk, ref, shown.identity)
    # What a session asked for is its own, and a refusal is on record each time.
    page = desk.page if sheet or refused is not None else desk.kept_page
    return page(
        "identity.html",
        shown=shown,
        did=did,
        ref=ref,
        told={name: shown["labels"][name] for name in TOLD if name in shown["labels"]},
        note=shown["tags"].get(describing.NOTE),
        cards=cards,
        picture=cards.get(ref, {}).get("picture"),
        releases=paging.releases_of(desk.registry, ref),
        near=near,
        near_refused=refused,
        threshold=threshold,
        decisions=showing.check(desk.registry, ref)["decisions"]
        if shown["state"] in ("active", "blocked", "held")
        else [],
        drawing=lineage.drawing(desk.registry, ref, depth=DEPTH),
        history=manage.history(desk.registry, shown.identity),
        commands=_commands(ref, shown),
        sheet=_sheet(desk, sheet),
        can_draw=asking.opener_of(desk) is not None,
    )


def _sheet(desk: Desk, job: str) -> Job | None:
    if not job:
        return None
    try:
        return desk.site.jobs.find(owner(desk), job)
    except Problem:
        return None


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


def _commands(ref: str, shown: IdentityShown) -> list[tuple[str, list[str]]]:
    """What can be done with a version, as it is typed: by what it is for."""
    name = shown.identity
    found = [
        ("Look", [command("show", ref), command("search", ref), command("lineage", ref, down=True),
                  command("history", name)]),
        ("Describe", [command("tag set", name, "KEY=VALUE"), command("alias set", "production", ref),
                      command("label set", ref, "LABEL=VALUE"), command("note", name, "TEXT"),
                      command("rename", name, "NEW-NAME")]),
    ]  # fmt: skip
    before = max((one.version for one in shown.versions if one.version < shown.version), default=None)
    if before is not None:
        found[0][1].append(command("diff", f"{name}@{before}", ref))
    if shown["state"] == "active":
        found += [
            ("Make", [command("generate", ref, out="pictures/"), command("edit", ref, edit="NAME=1", name="NEW"),
                      command("mix", ref, "OTHER", name="NEW")]),
            ("Take along", [command("export", ref, "out/"), command("push", ref, "OWNER/REPO")]),
        ]  # fmt: skip
    ends = [command("consent withdraw", subject, dry_run=True) for subject in shown["subjects"]]
    return [*found, ("Take out of service", [*ends, command("remove", ref)])]
