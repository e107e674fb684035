"""Weight spaces: what they were fitted on, what their scores mean, and who lies where."""

from __future__ import annotations

from typing import Any, Final

from fastapi.responses import HTMLResponse

from w2w_registry.services.identities import paging
from w2w_registry.services.search import atlas
from w2w_registry.services.spaces import membership, showing
from w2w_registry.services.synthesis import direction_list as directions
from w2w_registry.web import charts
from w2w_registry.web.site import Desk, Look, page_router, url

router = page_router()
SIDE: Final = 600
MEMBERS: Final = 60
REACH: Final = 3.2
"""Standard deviations from the middle of the map to its edge; what lies further out is drawn at the edge."""


@router.get("/spaces")
def spaces(desk: Look) -> HTMLResponse:
    """Every space."""
    return desk.page("spaces.html", spaces=showing.list_spaces(desk.registry))


@router.get("/spaces/{name:path}")
def space(desk: Look, name: str, after: int = -1) -> HTMLResponse:
    """One space, and of what it was fitted on the members behind position ``after``."""
    with desk.one_moment():
        return _space(desk, name, after)


def _space(desk: Desk, name: str, after: int) -> HTMLResponse:
    shown = showing.show_space(desk.registry, name)
    ref = shown["space"]
    seq = paging.change_number(desk.registry)
    drawn = desk.site.remembered.get(("atlas", ref), seq, lambda: atlas.atlas(desk.registry, ref))
    others = [
        row for row in showing.list_spaces(desk.registry) if row["space"].partition("@")[0] == ref.partition("@")[0]
    ]
    fitted = membership.members(desk.registry, ref, after=after, limit=MEMBERS + 1)
    more = url("/spaces", ref, after=fitted[MEMBERS - 1].position) if len(fitted) > MEMBERS else None
    return desk.page(
        "space.html",
        members=fitted[:MEMBERS],
        more=more,
        after=after,
        shown=shown,
        drawn=drawn,
        points=[_place(point) for point in drawn.points],
        side=SIDE,
        spectrum=charts.spectrum(drawn.spectrum),
        matches=charts.false_matches(drawn.scores, drawn.false_matches, drawn.threshold, drawn.false_match_rate),
        det=charts.det(drawn.scores, drawn.false_matches, drawn.misses, drawn.threshold),
        others=others,
        directions=directions.list_directions(desk.registry, ref),
    )


def _place(point: atlas.Point) -> dict[str, Any]:
    x, y = (max(-REACH, min(REACH, v)) / REACH for v in (point.x, point.y))
    half = SIDE / 2 - 10
    return {"ref": point.ref, "kind": point.kind, "x": round(SIDE / 2 + half * x), "y": round(SIDE / 2 - half * y)}
