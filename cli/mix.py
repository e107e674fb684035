"""``w2w-reg mix``."""

from __future__ import annotations

import click

from . import options
from .frame import Frame, takes_frame
from .output import emit, say, warn_all


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="A B…")
@click.option(
    "--weight", "weights", type=float, multiple=True, help="Weight of A (when mixing two), or one weight per identity."
)
@click.option("--name", "new", required=True, metavar="NEW", help="Name of the mixture.")
@options.purpose
@takes_frame
def mix(frame: Frame, names: tuple[str, ...], weights: tuple[float, ...], new: str, purpose: str | None) -> None:
    """Mix identities: `mix alice bob --weight 0.3 --name both` is 0.3 of alice and 0.7 of bob."""
    from w2w_registry.services.synthesis import edit as service

    value = service.mix(frame.registry(), names, service.mixing_weights(len(names), weights), name=new, purpose=purpose)

    def human() -> None:
        warn_all(value["warnings"])
        parts = ", ".join(f"{w:.2f} of {n}" for n, w in zip(value["from"], value["weights"], strict=True))
        say(f"{value['ref']}  {parts}")

    emit(frame, value, human)
