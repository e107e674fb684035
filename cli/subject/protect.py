"""``w2w-reg subject protect``."""

from __future__ import annotations

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, say


@click.command()
@click.argument("subject_id", type=options.Word(), metavar="ID")
@click.argument("source", metavar="NAME[@V]|PATH")
@click.option("--space", metavar="NAME[@V]", help="Weight space, for a LoRA file (default: the newest).")
@takes_frame
def protect(frame: Frame, subject_id: str, source: str, space: str | None) -> None:
    """Keep a do-not-recreate reference of a subject, from a registered version or a LoRA that is not registered itself.

    Only a salted sketch is kept, no coordinates. From then on, new models that come too near to it are refused.
    """
    from w2w_registry.services.consent import protect as protecting

    value = protecting.protect_subject(frame.registry(), subject_id, source, space=space)
    emit(
        frame,
        value,
        lambda: say(f"{value['subject']} is protected in {value['space']}, from score {value['threshold']:.3f} up"),
    )
