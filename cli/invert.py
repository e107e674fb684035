"""``w2w-reg invert``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from . import options
from .frame import Frame, takes_frame
from .output import emit, progress, table, warn_all


@click.command()
@click.argument("photos", nargs=-1, required=True, metavar="PHOTO…", type=click.Path(exists=True))
@click.option(
    "--name", help="Find one identity of this name in all PHOTOs (default: one in each, named after the file)."
)
@options.prefix
@click.option("--mask", type=click.Path(exists=True, dir_okay=False), help="Mask image, white where the identity is.")
@options.space
@click.option("--components", type=click.IntRange(1), metavar="K", help="Use the space's first K components only.")
@options.prompt
@click.option("--steps", type=click.IntRange(0), help="Maximum number of optimiser steps.")
@click.option("--samples", type=click.IntRange(1), help="Noised copies per step; fewer need less memory.")
@click.option("--lr", type=float, help="Learning rate; a higher one fits the photo more closely.")
@click.option("--prior", type=float, help="Weight of the pull towards the initial coordinates.")
@click.option("--emphasis", type=float, help="Scale the result's distance from the average identity.")
@click.option("--no-initializer", is_flag=True, help="Start at the average identity.")
@click.option("--no-guess", is_flag=True, hidden=True)
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Photos inverted at once; fewer need less memory.",
)
@options.seed
@options.described
@options.engine
@takes_frame
def invert(frame: Frame, photos: tuple[str, ...], labels: tuple[str, ...], **given: Any) -> None:
    """Find the coordinates of the identity in each PHOTO, or with --name of the one identity in all of them, and
    register them. A folder stands for the photos in it.

    This is fastest and most accurate after `initializer fit`, which learns where to start.
    """
    from w2w_registry.services.recording.labels import parse_labels
    from w2w_registry.services.synthesis import invert as service

    given["initializer"] = not (given.pop("no_initializer") | given.pop("no_guess"))
    request = service.InvertRequest(photos=photos, labels=parse_labels(labels), **options.gathered(given))
    with progress("inverting") as tick:
        rows = service.invert(frame.registry(), request, tick)

    def human() -> None:
        for row in rows:
            warn_all(row["warnings"])
        columns = ["ref", "loss", "explained", "typicality", "converged", "steps", "seconds", "nearest"]
        shown = [{**row, "nearest": _near(row["nearest"])} for row in rows]
        table(shown, columns, empty="nobody")

    emit(frame, rows, human)


def _near(value: Mapping[str, Any] | None) -> str | None:
    if value is None:
        return None
    return f"{value['ref']} ({value['score']:.3f}{', the same' if value['same_identity'] else ''})"
