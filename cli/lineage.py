"""``w2w-reg lineage``."""

from __future__ import annotations

import click

from . import options
from .frame import Frame, takes_frame
from .output import emit, print_json, reader_may_leave, say_text


@click.command()
@click.argument("name", metavar="NAME[@V]")
@click.option("--up/--down", "up", default=True, help="What it was made from (default), or what was made from it.")
@click.option("--depth", type=click.IntRange(1), metavar="N", help="Follow at most N steps.")
@options.excluding(
    "json",
    click.option("--dot", "form", flag_value="dot", help="Print Graphviz source, for `dot -Tsvg`."),
    click.option("--svg", "form", flag_value="svg", help="Print an SVG drawing."),
    click.option("--prov", "form", flag_value="prov", help="Print W3C PROV-JSON."),
)
@takes_frame
def lineage(frame: Frame, name: str, up: bool, depth: int | None, form: str | None) -> None:
    """Show ancestors or descendants of a version, with the operations between them."""
    from w2w_registry.services.provenance import lineage as service

    chosen = form or ("json" if frame.json else "tree")
    value = service.trace(frame.registry(), name, down=not up, depth=depth, form=chosen)
    if chosen in ("dot", "svg"):
        with reader_may_leave():
            say_text(value)
    elif chosen == "prov":
        with reader_may_leave():
            print_json(value)
    else:
        emit(frame, value, lambda: say_text("\n".join(value)))
