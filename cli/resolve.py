"""``w2w-reg resolve``."""

from __future__ import annotations

import click

from .frame import Frame, takes_frame
from .output import emit, note, say


@click.command()
@click.argument("name", metavar="NAME[@V]")
@click.option(
    "--same-as", metavar="NAME[@V]", help="It depicts the same person as this version: their consent decides."
)
@click.option("--distinct", is_flag=True, help="It depicts whom it claims to, whomever it resembles.")
@click.option("--reason", metavar="TEXT", required=True, help="Why; kept with the decision.")
@takes_frame
def resolve(frame: Frame, name: str, same_as: str | None, distinct: bool, reason: str) -> None:
    """Decide whom a held version depicts. `audit query held` lists the versions that are waiting.

    Somebody other than the person who added it must decide (in a registry that one person runs: `policy set
    second_person=false`). Only another decision can change a decision; each is recorded in the audit log.
    """
    from w2w_registry.services.consent import resolve as service

    value = service.resolve(frame.registry(), name, same_as=same_as, distinct=distinct, reason=reason)

    def human() -> None:
        if value["outcome"] == "same":
            who = ", ".join(value["subjects"]) or "somebody who is not named"
            say(f"{value['version']} is the same as {value['same_as']}: it depicts {who}")
        else:
            say(f"{value['version']} is who it says it is")
        if value["state"] != "active":
            note(f"it is {value['state']}: whoever it depicts has withdrawn")

    emit(frame, value, human)
