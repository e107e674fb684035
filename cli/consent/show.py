"""``w2w-reg consent show``."""

from __future__ import annotations

from typing import Any

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, pairs, say, table


@click.command()
@click.argument("subject", type=options.Word(), metavar="SUBJECT")
@click.option("--at", metavar="DATE", help="Show the records as they stood at the end of that day, or at that time.")
@takes_frame
def show(frame: Frame, subject: str, at: str | None) -> None:
    """Show a subject's consent records."""
    from w2w_registry.services.consent import showing as service
    from w2w_registry.services.identities.manage import parse_moment

    value = service.show(frame.registry(), subject, moment=None if at is None else parse_moment(at))

    def human() -> None:
        pairs((("subject", value["subject"]), ("state", value["state"]), ("consent", value["consent"])))
        rows = [
            {"record": r["record_id"], "state": r["status"], "signed": _how(r), **r["scope"]} for r in value["records"]
        ]
        columns = ["record", "state", "purposes", "uses", "forbidden", "derivatives", "publication", "territory"]
        say()
        table(rows, [*columns, "expires_at", "signed"], empty="no consent has been requested or given")

    emit(frame, value, human)


def _how(record: dict[str, Any]) -> str:
    signed = record["signed_with"]
    if signed is None:
        return "no"
    how = "a key" if signed["passkey_at"] is None else f"a passkey at {signed['passkey_at']}"
    return f"by the subject, {how}"
