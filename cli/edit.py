"""``w2w-reg edit``."""

from __future__ import annotations

import click

from . import options
from .frame import Frame, takes_frame
from .output import emit, say, warn_all


@click.command()
@click.argument("name", metavar="NAME[@V]")
@options.edits(required=True)
@options.keep
@click.option("--name", "new", required=True, metavar="NEW", help="Name of the edited identity.")
@options.purpose
@takes_frame
def edit(frame: Frame, name: str, edits: tuple[str, ...], keep: str, new: str, purpose: str | None) -> None:
    """Move an identity along directions and register the result as NEW.

    Amounts are in standard deviations of the attribute; `on` and `off` go as far as needed.
    """
    from w2w_registry.services.synthesis import edit as service

    value = service.edit(
        frame.registry(),
        name,
        service.parse_amounts(",".join(edits)),
        name=new,
        keep=options.names(keep),
        purpose=purpose,
    )

    def human() -> None:
        warn_all(value["warnings"])
        moved = ", ".join(f"{k} {v:+.2f}" for k, v in value["amounts"].items())
        say(f"{value['ref']}  from {value['from']}: {moved}  (typicality {value['typicality']:.2f})")

    emit(frame, value, human)
