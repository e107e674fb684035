"""``w2w-reg whose``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from .frame import Frame, takes_frame
from .output import emit, pairs, say, warn

if TYPE_CHECKING:
    from w2w_registry.services.provenance.whose import Detected, Unknown

    Answer = TypeVar("Answer", bound=Detected)


@click.command()
@click.argument("pictures", nargs=-1, required=True, metavar="PICTURE...", type=click.Path(path_type=Path))
@takes_frame
def whose(frame: Frame, pictures: tuple[Path, ...]) -> int:
    """Find out whose PICTURE this is: identity, version, operation, lineage, and the consent of everybody upstream
    today.

    A picture is recognised by its file, by its signed metadata, or by the number in its pixels, which survives when
    all metadata is lost. A folder stands for the pictures in it. Exit 3 if any picture is not known here, 5 if any
    could not be read.
    """
    from w2w_registry.services.provenance.whose import whose as ask

    return answer(frame, pictures, partial(ask, frame.registry()), _show, lambda told: 0 if told.found else 3)


def _show(told: Unknown) -> None:
    if not told.found:
        marked = "made by a model, but not known here" if told.ai_generated else "carries no mark"
        say(f"{told.picture}: {marked}")
        return
    say(told.picture)
    shown = ", ".join(one["ref"] for one in told["shows"])
    rows = [("shows", shown), *((k, told[k]) for k in ("operation", "seed", "made", "event", "consent", "by"))]
    pairs([*rows, ("made from", told["lineage"])])
    if told.by == "watermark":
        seed = "" if told["seed"] is None else " with this seed"
        say("  recognised by the number in its pixels, which can be copied onto another picture:")
        say(f"  compare with what this version draws{seed}")


def answer(
    frame: Frame,
    pictures: Sequence[Path],
    ask: Callable[[Path], Answer],
    show: Callable[[Answer], None],
    judged: Callable[[Answer], int],
) -> int:
    """Print what is told of every picture (``show``: for people), then which could not be read; the gravest exit code
    (``judged``: of one that could)."""
    from w2w_registry.messages import message
    from w2w_registry.services.provenance.whose import of_each

    found, unread = of_each(pictures, ask)
    if not found:
        raise unread[0]

    def human() -> None:
        for told in found:
            show(told)

    for told in found:
        for warning in told.warnings:
            warn(f"{told.picture}: {warning}")
    one = len(pictures) == 1 and not pictures[0].is_dir()
    emit(frame, found[0] if one else found, human)
    for error in unread:
        warn(message(error))
    return max(*map(judged, found), *(error.exit_code for error in unread), 0)
