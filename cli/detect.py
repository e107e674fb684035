"""``w2w-reg detect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .frame import Frame, takes_frame
from .output import emit, say, warn

if TYPE_CHECKING:
    from w2w_registry.services.provenance.whose import Detected

STATES = {
    "trusted": "content credentials of {issuer}",
    "valid": "intact content credentials in the name of {issuer}, which anybody could have written",
    "invalid": "broken content credentials",
}


def _since(told: Detected) -> str:
    """How a picture was turned since it was marked."""
    turned = [f"turned by {told.turned}°"] if told.turned else []
    since = ["mirrored"] * told.mirrored + turned
    return f", {' and '.join(since)} since" if since else ""


@click.command()
@click.argument("pictures", nargs=-1, required=True, metavar="PICTURE...", type=click.Path(path_type=Path))
@takes_frame
def detect(frame: Frame, pictures: tuple[Path, ...]) -> int:
    """Check whether PICTURE carries the mark of generated pictures, in its pixels or in signed metadata.

    Needs no registry. Exit 1 if any picture carries none.
    """
    from w2w_registry.services.provenance.whose import detect as look

    found = [look(path) for path in pictures]

    def human() -> None:
        for told in found:
            how = [f"mark in the pixels{_since(told)} (false alarm at most {told.false_alarm:.1e})"]
            how = how if told.marked else []
            if told.credentials is not None:
                how.append(STATES[told.credentials.state].format(issuer=told.credentials.issuer))
            what = "made by a model" if told.ai_generated else "no mark found"
            say(f"{told.picture}: {what}" + (f": {', '.join(how)}" if how else ""))
            if not told.credentials_read:
                say("  content credentials were not read: pip install 'w2w-registry[marking]'")

    for told in found:
        for warning in told.warnings:
            warn(f"{told.picture}: {warning}")
    emit(frame, found[0] if len(found) == 1 else found, human)
    return 0 if all(told.ai_generated for told in found) else 1
