"""``w2w-reg direction fit``."""

from __future__ import annotations

from typing import Any

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit
from .printing import show_direction


@click.command()
@click.argument("name")
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
    frame: Frame, name: str, attribute: str | None, method: Any, seed: int, space: str | None, replace: bool
) -> None:
    """Fit direction NAME on the labels of the registered identities.

    One unit is one standard deviation of the attribute in the space. Quality (AUROC or R²) is
    cross-validated; leakage says how far one unit moves the other labelled attributes, in their units.
    """
    from w2w_registry.services.synthesis import directions as service

    value = service.fit(
        frame.registry(), name, attribute or name, space, method=method, seed=seed, replace_existing=replace
    )
    emit(frame, value, lambda: show_direction(value))
