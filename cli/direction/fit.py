"""``w2w-reg direction fit``."""

from __future__ import annotations

from typing import Any

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, progress
from .printing import show_direction, show_directions


@click.command()
@click.argument("name", required=False)
@click.option("--all", "every", is_flag=True, help="Fit a direction for every numeric label, named after it.")
@click.option("--attribute", metavar="LABEL", help="The label to fit (default: NAME).")
@click.option(
    "--method",
    default="least-squares",
    show_default=True,
    type=click.Choice(["least-squares", "logistic"]),
    help="logistic is for yes/no labels.",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=options.Integer(0),
    help="Random seed of the cross-validation folds.",
)
@options.space
@options.replace
@takes_frame
def fit(
    frame: Frame,
    name: str | None,
    every: bool,
    attribute: str | None,
    method: Any,
    seed: int,
    space: str | None,
    replace: bool,
) -> None:
    """Fit direction NAME on the labels of the registered identities, or, with --all, one for every label.

    One unit is one standard deviation of the attribute in the space. Quality (AUROC or R²) is
    cross-validated; leakage says how far one unit moves the other labelled attributes, in their units.
    """
    from w2w_registry.services.synthesis import directions as service

    if every == (name is not None) or (every and attribute):
        raise click.UsageError("give a NAME, or --all for every label")
    registry, common = frame.registry(), {"method": method, "seed": seed, "replace_existing": replace}
    if name is not None:
        value = service.fit(registry, name, attribute or name, space, **common)
        emit(frame, value, lambda: show_direction(value))
        return
    with progress("directions") as tick:
        made = service.fit_many(registry, None, space, **common, progress=tick)
    emit(frame, made, lambda: show_directions(made))
