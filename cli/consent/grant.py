"""``w2w-reg consent grant``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from w2w_registry.records import counted

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, note
from . import shared


@click.command()
@click.argument("subject", type=options.Word(), metavar="SUBJECT")
@shared.scope
@shared.grants
@shared.notice
@click.option("--request", "record_id", metavar="ID", help="The request this answers.")
@click.option(
    "--evidence",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Evidence, such as a signed form; its digest is kept.",
)
@click.option(
    "--signed",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A consent that the subject signed (a JWS of a verifiable credential); its terms apply.",
)
@options.needing("evidence", click.option("--keep-evidence", is_flag=True, help="Keep the evidence's content too."))
@click.option("--guardian", metavar="ID", help="Who consents on the subject's behalf: a guardian or estate.")
@click.option("--compensation", metavar="TEXT", help="What the subject receives.")
@click.option("--training-set", "training_set_digest", metavar="SHA256", help="Digest of the photos it covers.")
@takes_frame
def grant(
    frame: Frame,
    subject: str,
    record_id: str | None,
    evidence: Path | None,
    signed: Path | None,
    keep_evidence: bool,
    guardian: str | None,
    compensation: str | None,
    training_set_digest: str | None,
    **given: Any,
) -> None:
    """Record a consent.

    `--purpose any` grants every purpose, derivatives included; publication must always be granted explicitly.
    Models that a withdrawal blocked are served again, unless somebody else upstream blocks them.

    To record that somebody who refused agrees again takes two people, new evidence (--evidence), or a consent that
    they have signed since (--signed).
    """
    from w2w_registry.services.consent import grants as service
    from w2w_registry.services.consent import scopes

    typed = bool(given["purposes"]) or (record_id is None and signed is None)
    scope = shared.scope_of(given) if typed else None
    value = service.grant(
        frame.registry(),
        subject,
        scope,
        record_id=record_id,
        notice=scopes.build_notice(**shared.notice_of(given)),
        guardian=guardian,
        compensation=compensation,
        evidence=evidence,
        signed=signed,
        keep_evidence=keep_evidence,
        training_set_digest=training_set_digest,
    )

    def human() -> None:
        shared.say_record(value, "granted")
        if value["restored"]:
            note(f"served again: {counted(len(value['restored']), 'version')}")

    emit(frame, value, human)
