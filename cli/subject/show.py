"""``w2w-reg subject show``."""

from __future__ import annotations

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, pairs, say, table


@click.command()
@click.argument("subject_id", type=options.Word(), metavar="ID")
@takes_frame
def show(frame: Frame, subject_id: str) -> None:
    """Show a subject's consent records, versions and withdrawals (everything: `audit query subject --subject ID`)."""
    from w2w_registry.services.consent import subjects

    value = subjects.show_subject(frame.registry(), subject_id)

    def human() -> None:
        pairs(
            (key.replace("_", " "), value[key]) for key in ("subject", "kind", "state", "consent", "created", "erased")
        )
        say()
        records = [{"record": r["record_id"], "state": r["status"], **r["scope"]} for r in value["records"]]
        columns = ["record", "state", "purposes", "derivatives", "publication", "territory", "expires_at"]
        table(records, columns, empty="no consent has been requested or given")
        say()
        table(value["versions"], ["version", "state"], empty="no version names this subject")

    emit(frame, value, human)
