"""``w2w-reg detect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .frame import Frame, takes_frame
from .output import say
from .whose import answer

if TYPE_CHECKING:
    from w2w_registry.services.provenance.whose import Detected

STATES = {
    "trusted": "content credentials of {issuer}",
    "valid": "intact content credentials in the name of {issuer}, which anybody could have written",
    "invalid": "broken content credentials",
}


@click.command()
@click.argument("pictures", nargs=-1, required=True, metavar="PICTURE...", type=click.Path(path_type=Path))
@takes_frame
def detect(frame: Frame, pictures: tuple[Path, ...]) -> int:
    """Check whether PICTURE carries the mark of generated pictures, in its pixels or in signed metadata.

    Needs no registry. A folder stands for the pictures in it. Exit 1 if any picture carries none, 5 if any could not be
    read.
    """
    from w2w_registry.services.provenance.whose import detect as look

    return answer(frame, pictures, look, _show, lambda told: 0 if told.ai_generated else 1)


def _show(told: Detected) -> None:
    how = [f"mark in the pixels{_since(told)} (false alarm at most {told.false_alarm:.1e})"] if told.marked else []
    if told.credentials is not None:
        how.append(STATES[told.credentials.state].format(issuer=told.credentials.issuer))
    what = "made by a model" if told.ai_generated else "no mark found"
    say(f"{told.picture}: {what}" + (f": {', '.join(how)}" if how else ""))
    if not told.credentials_read:
        say("  content credentials were not read: pip install 'w2w-registry[marking]'")


def _since(told: Detected) -> str:
    """How a picture was turned since it was marked."""
    turned = [f"turned by {told.turned}°"] if told.turned else []
    since = ["mirrored"] * told.mirrored + turned + ["enlarged to twice its size"] * told.enlarged
    return f", {' and '.join(since)} since" if since else ""
