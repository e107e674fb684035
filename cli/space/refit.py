"""``w2w-reg space refit``."""

from __future__ import annotations

import click

from ..frame import Frame, takes_frame
from ..output import emit, facts, progress, warn


@click.command()
@click.argument("name", metavar="NAME[@V]")
@click.option("--without", "without", multiple=True, required=True, metavar="SUBJECT", help="Leave this subject out.")
@takes_frame
def refit(frame: Frame, name: str, without: tuple[str, ...]) -> None:
    """Fit the next version of a space from the catalog's files, leaving some subjects out, and place every
    remaining identity in it."""
    from w2w_registry.services.spaces.refit import refit_space

    with progress("fitting") as tick:
        value = refit_space(frame.registry(), name, without=without, progress=tick)
    for text in value.warnings:
        warn(text)
    emit(frame, value, lambda: facts(value))
