"""``w2w-reg consent sign``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .. import options
from ..frame import Frame, takes_frame
from ..output import emit, note, pairs, say
from . import shared


@click.command()
@click.argument("subject", type=options.Word(), metavar="SUBJECT")
@shared.scope
@shared.grants
@click.option(
    "--key",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Your private key (Ed25519, PEM); created there if there is none yet.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where to write the signed consent.",
)
@takes_frame
def sign(frame: Frame, subject: str, key: Path, out: Path, **given: Any) -> None:
    """Sign a consent as the person it is about. Whoever runs the registry records it with `consent grant --signed`.

    Needs no registry. SUBJECT is your pseudonym in the registry. Anything you do not grant here is not granted, and
    nobody can add to it afterwards. The file states when you signed it: after you withdraw, only a consent that you
    sign later counts. Keep the key: the first consent that is recorded fixes it as yours. examples/ has a script that
    does the same with only the package cryptography installed, and a page that signs with a passkey.
    """
    from w2w_registry.services.consent import signatures as service

    value = service.sign(subject, shared.scope_of(given), key, out)

    def human() -> None:
        if value["key_made"]:
            note(f"created a key for you: {key} (readable by you alone; keep it)")
        say(f"signed: {out}")
        pairs((name.replace("_", " "), value["scope"][name]) for name in shared.TERMS)

    emit(frame, value, human)
