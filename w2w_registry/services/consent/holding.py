"""What is recorded and told of a newcomer that is held: whom it resembles, how near, and what to do about it."""

from __future__ import annotations

from typing import Final

from w2w_registry.commands import command
from w2w_registry.consent.references import Encounter
from w2w_registry.consent.second_look import By, Contradiction, Why
from w2w_registry.records import once_in
from w2w_registry.services.consent.behaviour import MADE
from w2w_registry.services.recording.versions import Held

REFUSED: Final = "somebody who refused"


def in_doubt(met: Encounter) -> Held:
    """What is recorded of one that may draw somebody who refused."""
    made = met.by == MADE
    alarm = None if made else 1 - met.similarity
    return Held(None, REFUSED, str(By.BEHAVIOUR), str(Why.MADE if made else Why.REFUSED), met.similarity, alarm)


def known_again(met: Encounter) -> Held:
    """What is recorded of one that looks like a subject who agrees again, and does not name them."""
    drawn = met.by == By.BEHAVIOUR
    alarm = 1 - met.similarity if drawn else None
    return Held(None, met.subject, str(By.BEHAVIOUR if drawn else By.WEIGHTS), str(Why.AGREED), met.similarity, alarm)


def as_near(by: str, false_alarm: float | None) -> str:
    """How near two models are, after what they were compared by: how often a stranger comes as near. A score would say
    nothing to who reads it. Nothing where it is certain, or not known."""
    if false_alarm is None or by in (By.MODEL, By.PHOTO):
        return ""
    return f": a stranger comes as near {once_in(false_alarm)} searches"


def _as_unlike(held: Held) -> str:
    """As ``as_near``, of one that does not look like the versions before it."""
    if held.false_alarm is None:
        return ""
    if held.by == By.BEHAVIOUR:
        often = f"in {held.false_alarm:.0%} of searches" if held.false_alarm < 0.99 else "in nearly every search"
        return f": {often} a stranger comes nearer to somebody"
    return f": {held.false_alarm:.0%} of pairs of two people are nearer"


def why_held(name: str, held: Held) -> str:
    """That a newcomer is held, whom it resembles, and what to do."""
    distinct = command("resolve", name, distinct=True, reason="TEXT")
    if held.like_id is None:
        rare = "" if held.false_alarm is None else f" (a stranger comes so near {once_in(held.false_alarm)} times)"
        agreed = held.why == Why.AGREED
        who = f"{held.like}, who had refused and agrees again, and does not say so" if agreed else held.like
        made = "no training leaves such weights (noise or a mixture does), and " if held.why == Why.MADE else ""
        return (
            f"held: {made}it may draw {who}{rare}, so it is found and shown, and nothing else, until another person "
            f"decides: `{command('remove', name)}` when it does{', then add it as theirs' if agreed else ''}, "
            f"`{distinct}` when it does not"
        )
    like = held.like.partition("@")[0]
    unlike = held.why == Why.NAME
    seen = f"does not look like {held.like} (by" if unlike else f"resembles {held.like} ({held.why}; by"
    near = _as_unlike(held) if unlike else as_near(held.by, held.false_alarm)
    same = held.like if unlike else like
    return (
        f"held: it {seen} {held.by}{near}), so it is found and shown, and nothing else, until another "
        f"person decides: `{command('resolve', name, same_as=same, reason='TEXT')}` or `{distinct}`"
        f"{'; of somebody else, it belongs under another name' if unlike else ''}"
    )


def as_held(found: Contradiction | None) -> Held | None:
    """What is recorded of it."""
    if found is None:
        return None
    like = found.like
    return Held(like.version_id, like.ref, str(like.by), str(found.why), like.score, like.false_alarm)
