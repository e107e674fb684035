"""A lineage as a picture that needs no Graphviz: versions in columns, made later further right, joined by curves."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from w2w_registry.provenance.graph import Lineage

WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 200, 46, 70, 14, 20
_LETTERS = 27
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#222}.small{font-size:11px;fill:#666}"
    "rect{fill:#f4f7fb;stroke:#5b7083;rx:5}.start{stroke-width:2.5;fill:#e3eefc}"
    ".gone{fill:#fbf0f0;stroke:#b05050;stroke-dasharray:4 3}path{fill:none;stroke:#8fa1b3}"
)


@dataclass(frozen=True)
class Box:
    """One version of a drawing: top-left corner, two lines of text, a longer title, and the classes of its frame."""

    x: int
    y: int
    ref: str
    name: str
    below: str
    title: str
    classes: str


@dataclass(frozen=True)
class Drawing:
    """A lineage laid out in pixels: ``curves`` are SVG path data from parents to children."""

    width: int
    height: int
    boxes: tuple[Box, ...]
    curves: tuple[str, ...]


def layout(lineage: Lineage) -> Drawing:
    """Where everything goes. Blocked, removed and erased versions are of class ``gone``, the one asked about of
    ``start``; a version whose further relatives were left out ends in ``…``."""
    columns = _columns(lineage)
    place = _places(lineage, columns)
    curves = []
    for parent, child in lineage.edges():
        (x1, y1), (x2, y2), half = place[parent], place[child], HEIGHT // 2
        start, end, bend = (x1 + WIDTH, y1 + half), (x2, y2 + half), GAP_X // 2
        around = HEIGHT + 4 if end[0] - start[0] > GAP_X else 0  # past the boxes of the columns between
        curve = f"C{start[0] + bend} {start[1] + around} {end[0] - bend} {end[1] + around} {end[0]} {end[1]}"
        curves.append(f"M{start[0]} {start[1]}{curve}")
    width = MARGIN + max(x for x, _ in place.values()) + WIDTH
    height = MARGIN + max(y for _, y in place.values()) + HEIGHT
    return Drawing(width, height, tuple(_box(lineage, i, x, y) for i, (x, y) in place.items()), tuple(curves))


def _box(lineage: Lineage, version_id: int, x: int, y: int) -> Box:
    version = lineage.versions[version_id]
    operation = lineage.operations.get(version.operation_id)
    made = operation.kind if operation else "?"
    outside = [i for i in operation.inputs if i.version_id not in lineage.versions] if operation else []
    below = ", ".join([made, *version.subjects]) + (" …" if version_id in lineage.cut else "")
    title = "\n".join(
        [
            f"{version.ref}, {version.kind}, {version.state}",
            f"made by {made}" + (f" of {operation.agent}" if operation else ""),
            *(f"{i.role}: {i.kind} {i.name} {i.digest or ''}".rstrip() for i in outside),
        ]
    )
    marks = (("start", version_id == lineage.start), ("gone", version.state != "active"))
    classes = " ".join(name for name, wanted in marks if wanted)
    return Box(x, y, version.ref, _short(version.ref), _short(below), title, classes)


def svg(lineage: Lineage) -> str:
    """The picture as SVG text: a box per version (reference; operation and subjects below), details as tooltips."""
    drawn = layout(lineage)
    parts = [f'<path d="{curve}"/>' for curve in drawn.curves]
    for box in drawn.boxes:
        frame = f'<rect x="{box.x}" y="{box.y}" width="{WIDTH}" height="{HEIGHT}" class="{box.classes}"/>'
        parts.append(
            f"<g><title>{escape(box.title)}</title>{frame}"
            f'<text x="{box.x + 9}" y="{box.y + 19}">{escape(box.name)}</text>'
            f'<text x="{box.x + 9}" y="{box.y + 36}" class="small">{escape(box.below)}</text></g>'
        )
    size = f'width="{drawn.width}" height="{drawn.height}" viewBox="0 0 {drawn.width} {drawn.height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    return "\n".join([head, f"<style>{_STYLE}</style>", *parts, "</svg>"]) + "\n"


def _columns(lineage: Lineage) -> dict[int, int]:
    """Column of each version: one more than the rightmost of its parents that are shown (Kahn's order)."""
    waiting = {i: len(set(lineage.parents(i))) for i in lineage.versions}
    children: dict[int, list[int]] = {}
    for parent, child in lineage.edges():
        children.setdefault(parent, []).append(child)
    column = {i: 0 for i, count in sorted(waiting.items()) if count == 0}
    ready = list(column)
    while ready:
        parent = ready.pop()
        for child in children.get(parent, ()):
            column[child] = max(column.get(child, 0), column[parent] + 1)
            waiting[child] -= 1
            if waiting[child] == 0:
                ready.append(child)
    return column


def _places(lineage: Lineage, columns: dict[int, int]) -> dict[int, tuple[int, int]]:
    """Top-left corner of each box: within a column, near the middle of the parents' rows."""
    row: dict[int, int] = {}
    for column in range(max(columns.values(), default=0) + 1):
        members = sorted(i for i, c in columns.items() if c == column)

        def middle(version_id: int) -> float:
            above = [row[p] for p in lineage.parents(version_id)]
            return sum(above) / len(above) if above else 0.0

        for place, version_id in enumerate(sorted(members, key=lambda i: (middle(i), i))):
            row[version_id] = place
    return {i: (MARGIN + columns[i] * (WIDTH + GAP_X), MARGIN + row[i] * (HEIGHT + GAP_Y)) for i in sorted(columns)}


def _short(text: str) -> str:
    return text if len(text) <= _LETTERS else text[: _LETTERS - 1] + "…"
