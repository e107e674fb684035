"""``w2w-reg diff``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from .frame import Frame, takes_frame
from .output import emit, say, table


@click.command()
@click.argument("first", metavar="NAME[@V]")
@click.argument("second", metavar="NAME[@V]")
@takes_frame
def diff(frame: Frame, first: str, second: str) -> None:
    """Show how two versions differ in weights, coordinates, labels, tags and how they were made.

    \b
    w2w-reg diff alice@1 alice@2
    """
    from w2w_registry.services.provenance import differences

    value = differences.diff(frame.registry(), first, second)
    emit(frame, value, lambda: _show(value))


def _show(value: Mapping[str, Any]) -> None:
    one, two = value["versions"]
    words = {True: "the same model", False: "different models", None: "not known whether they are the same model"}
    related = f", {one} is the {value['related']}" if value["related"] in ("ancestor", "descendant") else ""
    say(f"{one} and {two}: {words[value['same_model']]}{related}")
    weights, points = value["weights"], value["coordinates"]
    if weights is not None and weights["cosine"] is not None:
        say(f"weights: cosine {weights['cosine']:.4f}, difference {weights['difference']:.2%} of {one}'s size")
    if points is not None and points["cosine"] is not None:
        say(f"coordinates in {points['space']}: cosine {points['cosine']:.4f}, distance {points['distance']:.3g}")
    rows = [
        {"what": f"{kind}{name}", one: pair[0], two: pair[1]}
        for kind, found in (("", value["fields"]), ("label ", value["labels"]), ("tag ", value["tags"]))
        for name, pair in found.items()
    ]
    if rows:
        say()
        table(rows, ["what", one, two])
