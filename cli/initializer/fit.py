"""``w2w-reg initializer fit``."""

from __future__ import annotations

from typing import Any

import click

from w2w_registry.records import counted

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, note, progress, say


@click.command()
@options.space
@click.option("--photos", type=options.Folder(), help="Photos, one folder per identity.")
@click.option(
    "--drawn", default=0, show_default=True, type=click.IntRange(0), help="Pictures to generate of each identity."
)
@click.option("--components", type=click.IntRange(1), metavar="K", help="Predict the first K components only.")
@options.prompt
@options.seed
@options.engine
@takes_frame
def fit(frame: Frame, **given: Any) -> None:
    """Fit the initializer on photos of registered identities, on pictures generated of them, or on both.

    Only statistics of the pictures are kept, not the pictures themselves.
    """
    from w2w_registry.services.synthesis import engine as service

    given = options.gathered(given)
    space, engine = given.pop("space"), given.pop("engine")
    with progress("looking") as tick:
        value = service.fit_initializer(frame.registry(), space, engine, progress=tick, **given)

    def human() -> None:
        say(
            f"initializer of {value['space']} from {counted(value['pictures'], 'picture')} of "
            f"{value['identities']} identities: explains {value['explained']:.0%} of the variance among strangers"
        )
        if value["skipped"]:
            note(f"identities left out because consent does not cover it: {value['skipped']}")

    emit(frame, value, human)
