"""``w2w-reg guess``."""

from __future__ import annotations

from typing import Any

import click

from . import options
from .frame import Frame, takes_frame
from .output import emit, note, progress, say


@click.group()
def guess() -> None:
    """Where inversions start: a regression from what the base model sees to coordinates."""


@guess.command(name="fit")
@options.space
@click.option("--photos", type=click.Path(exists=True, file_okay=False), help="A folder of photos per identity.")
@click.option("--drawn", default=0, show_default=True, type=click.IntRange(0), help="Pictures to draw of each.")
@click.option("--components", type=click.IntRange(1), metavar="K", help="Guess the first K components only.")
@options.prompt
@options.seed
@options.engine
@takes_frame
def guess_fit(frame: Frame, **given: Any) -> None:
    """Fit the guess on photos of registered identities, on pictures drawn of them, or on both.

    Kept is what the pictures have in common, and none of them.
    """
    from w2w_registry.services.synthesis import engine as service

    given = options.gathered(given)
    space, engine = given.pop("space"), given.pop("engine")
    with progress("looking") as tick:
        value = service.fit_guess(frame.registry(), space, engine, progress=tick, **given)

    def human() -> None:
        say(
            f"guess for {value['space']} from {value['pictures']} pictures of {value['identities']} identities: "
            f"explains {value['explained']:.0%} of where strangers lie"
        )
        if value["skipped"]:
            note(f"{value['skipped']} identities were left out: their consent does not cover it")

    emit(frame, value, human)
