"""Weight spaces: what they were fitted on, what their scores mean, and who lies where."""

from __future__ import annotations

from collections.abc import Sequence
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
SHADES: Final = 5
REACH: Final = 3.2
"""Standard deviations from the middle of the map to its edge, at most; what lies further out is drawn at the edge."""


@router.get("/spaces")
def spaces(desk: Look) -> HTMLResponse:
    """Every space."""
    return desk.page("spaces.html", spaces=showing.list_spaces(desk.registry))


@router.get("/spaces/{name:path}")
def space(
    desk: Look, name: str, after: int = -1, map: Literal["pca", "umap"] = "pca", colour: str = ""
) -> HTMLResponse:
    """One space with its map, in the colours of a label, and of what it was fitted on the members behind position
    ``after``."""
    with desk.one_moment():
        return _space(desk, name, after, map, colour)


def _space(desk: Desk, name: str, after: int, by: atlas.Way, colour: str) -> HTMLResponse:
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
            by, unable = "pca", problem_of(error).detail
        else:
            # Whoever is no longer drawn is not drawn here either, however old this is.
            places = found or {}
            points = [replace(one, x=places[one.ref][0], y=places[one.ref][1]) for one in points if one.ref in places]
    fitted = membership.members(desk.registry, ref, after=after, limit=MEMBERS + 1)
    asked = {"map": by if by == "umap" else None, "colour": colour or None}
    more = url("/spaces", ref, after=fitted[MEMBERS - 1].position, **asked) if len(fitted) > MEMBERS else None
    scale = _scale(drawn.points, colour)
    return desk.page(
        "space.html",
        members=fitted[:MEMBERS],
        more=more,
        after=after,
        shown=shown,
        drawn=drawn,
        points=_places(points, scale),
        waits=by == "umap" and bool(drawn.points) and not points,
        by=by,
        asked=asked,
        unable=unable,
        scale=scale,
        colours=_measured(drawn.points),
        shades=SHADES,
        side=SIDE,
        spectrum=charts.spectrum(drawn.spectrum),
        matches=charts.false_matches(drawn.scores, drawn.false_matches, drawn.threshold, drawn.false_match_rate),
        det=charts.det(drawn.scores, drawn.false_matches, drawn.misses, drawn.threshold),
        others=showing.space_versions(desk.registry, ref.partition("@")[0]),
        directions=directions.list_directions(desk.registry, ref),
    )


def _measured(points: Sequence[atlas.Point]) -> list[str]:
    """Labels by which a map can be coloured: numbers that are not all the same."""
    found: dict[str, set[float]] = {}
    for point in points:
        for name, value in point.labels.items():
            if isinstance(value, float):
                found.setdefault(name, set()).add(value)
    return sorted(name for name, values in found.items() if len(values) > 1)


def _scale(points: Sequence[atlas.Point], colour: str) -> tuple[str, float, float] | None:
    """A label, and the least and the most that people have of it."""
    values = [value for point in points if isinstance(value := point.labels.get(colour), float)]
    return (colour, min(values), max(values)) if len(set(values)) > 1 else None


def _places(points: list[atlas.Point], scale: tuple[str, float, float] | None) -> list[dict[str, Any]]:
    """Pixels of the map: it ends where the outermost lie, or at ``REACH``. Of a label's scale each has a shade, -1 for
    whoever lacks it."""
    reach = min(REACH, max((abs(v) for point in points for v in (point.x, point.y)), default=REACH))
    half = SIDE / 2 - 12
    found = []
    for point in points:
        x, y = (max(-reach, min(reach, v)) / max(reach, 1e-9) for v in (point.x, point.y))
        ends = {"x": round(SIDE / 2 + half * x), "y": round(SIDE / 2 - half * y)}
        shade = None
        if scale is not None:
            value = point.labels.get(scale[0])
            share = (value - scale[1]) / (scale[2] - scale[1]) if isinstance(value, float) else None
            shade = -1 if share is None else min(SHADES - 1, int(SHADES * share))
        found.append({"ref": point.ref, "kind": point.kind, "shade": shade, **ends})
    return found
