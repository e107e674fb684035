"""``w2w-reg consent receipt``."""

from __future__ import annotations

from pathlib import Path

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, say, say_text, warn_all
from . import shared


@click.command()
@click.argument("subject", type=options.Word(), metavar="SUBJECT")
@shared.record
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Write RECORD.json and RECORD.md there.")
@click.option("--lang", help="Language: en or ja (default: the notice's).")
@options.force
@takes_frame
def receipt(frame: Frame, subject: str, record_id: str | None, out: Path | None, lang: str | None, force: bool) -> None:
    """Issue the receipts of a subject's consents: Markdown, or with --json JSON-LD (W3C DPV, ISO/IEC TS 27560)."""
    from w2w_registry.services.consent import receipts as service

    found = service.receipt(frame.registry(), subject, record_id=record_id, language=lang)
    written = service.write_receipts(frame.registry(), found, out, force=force) if out is not None else []

    warn_all(list(dict.fromkeys(text for one in found for text in one["warnings"])))

    def human() -> None:
        for path in written:
            say(path)
        if not written:
            say_text("\n".join(r["markdown"] for r in found))

    emit(frame, [r["json"] for r in found], human)
