"""Forms that change something: tags, aliases, and what is done with a selection."""

from __future__ import annotations

from typing import Annotated

from fastapi import Form
from fastapi.responses import RedirectResponse

from w2w_registry.services.identities import describing, manage
from w2w_registry.web.site import Make, page_router, url

router = page_router()
Text = Annotated[str, Form(max_length=2000)]


@router.post("/tags")
def tags(desk: Make, identity: Text, tags: Text) -> RedirectResponse:
    """Set tags, several with commas between."""
    manage.set_tags(desk.registry, identity, split(tags))
    return RedirectResponse(url("/identities", identity, did="tags"), 303)


@router.post("/aliases")
def aliases(desk: Make, target: Text, alias: Text) -> RedirectResponse:
    """Let an alias mean a version."""
    done = manage.set_alias(desk.registry, alias.strip(), target)
    return RedirectResponse(url("/identities", str(done["identity"]), did="alias"), 303)


@router.post("/notes")
def notes(desk: Make, identity: Text, text: Text = "") -> RedirectResponse:
    """Keep a note on an identity; an empty one takes it away."""
    describing.note(desk.registry, identity, text.strip() or None)
    return RedirectResponse(url("/identities", identity, did="note"), 303)


def split(text: str) -> list[str]:
    """``a=1, b=2`` as its parts."""
    return [part.strip() for part in text.split(",") if part.strip()]
