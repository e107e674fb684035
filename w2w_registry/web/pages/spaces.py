"""Weight spaces: what they were fitted on, what their scores mean, and who lies where."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, Literal

from fastapi.responses import HTMLResponse

from w2w_registry.errors import MissingExtra
from w2w_registry.services.identities import paging
from w2w_registry.services.search import atlas
from w2w_registry.services.spaces import membership, showing
from w2w_registry.services.synthesis import direction_list as directions
from w2w_registry.web import charts
from w2w_registry.web.problems import problem_of
from w2w_registry.web.site import Desk, Look, page_router, url

router = page_router()
SIDE: Final = 600
MEMBERS: Final = 60
REACH: Final = 3.2
"""Standard deviations from the middle of the map to its edge, at most; what lies further out is drawn at the edge."""


@router.get("/spaces")
def spaces(desk: Look) -> HTMLResponse:
    """Every space."""
    return desk.page("spaces.html", spaces=showing.list_spaces(desk.registry))


@router.get("/spaces/{name:path}")
def space(desk: Look, name: str, after: int = -1, map: Literal["pca", "umap"] = "pca") -> HTMLResponse:
    """One space with its map, and of what it was fitted on the members behind position ``after``."""
    with desk.one_moment():
        return _space(desk, name, after, map)


def _space(desk: Desk, name: str, after: int, by: atlas.Way) -> HTMLResponse:
    shown = showing.show_space(desk.registry, name)
    ref = shown["space"]
    seq = paging.change_number(desk.registry)
    drawn = desk.site.remembered.get(("atlas", ref), seq, lambda: atlas.atlas(desk.registry, ref))
    points, unable = list(drawn.points), None
    if by == "umap":
        try:
            atlas.needs_umap()
            found = desk.site.remembered.soon(("umap", ref), seq, lambda: atlas.unfolded(desk.registry, ref))
        except MissingExtra as error:
            found, unable = None, problem_of(error).detail
        # Whoever is no longer drawn is not drawn here either, however old this is.
        by = "pca" if found is None else by
        points = (
            points
            if found is None
            else [replace(one, x=found[one.ref][0], y=found[one.ref][1]) for one in points if one.ref in found]
        )
        unable = unable or (None if found else "the map is being worked out; load the page again in a moment")
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
        points=_places(points),
        by=by,
        unable=unable,
        side=SIDE,
        spectrum=charts.spectrum(drawn.spectrum),
        matches=charts.false_matches(drawn.scores, drawn.false_matches, drawn.threshold, drawn.false_match_rate),
        det=charts.det(drawn.scores, drawn.false_matches, drawn.misses, drawn.threshold),
        others=others,
        directions=directions.list_directions(desk.registry, ref),
    )


def _places(points: list[atlas.Point]) -> list[dict[str, Any]]:
    """Pixels of the map: it ends where the outermost lie, or at ``REACH``."""
    reach = min(REACH, max((abs(v) for point in points for v in (point.x, point.y)), default=REACH))
    half = SIDE / 2 - 12
    found = []
    for point in points:
        x, y = (max(-reach, min(reach, v)) / max(reach, 1e-9) for v in (point.x, point.y))
        ends = {"x": round(SIDE / 2 + half * x), "y": round(SIDE / 2 - half * y)}
        found.append({"ref": point.ref, "kind": point.kind, **ends})
    return found
