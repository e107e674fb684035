"""The second look once fingerprints were taken: whom registered versions draw may be at odds with what they say.

``pairs_of_one`` finds who is one person; of two that say different things the later one is held, as it would have been
when it came in, unless somebody has decided about it. So is one of which the door doubts whether it draws somebody who
refused, and one that is unlike the versions before it, as any of these would have been had it been seen in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from sqlalchemy.orm import Session

from w2w_registry.catalog.fingerprints import Asked, questions
from w2w_registry.catalog.holds import decided
from w2w_registry.catalog.lookup import refs_of, versions_by_id
from w2w_registry.catalog.models import Hold, Version
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.consent.second_look import By, Claim, Contradiction, Depicted, Likely, Why, second_look
from w2w_registry.errors import UsageError
from w2w_registry.records import VersionState
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.door import Door
from w2w_registry.services.consent.holding import as_held, in_doubt, known_again
from w2w_registry.services.consent.made_in import look
from w2w_registry.services.consent.namesakes import unlike_once_seen
from w2w_registry.services.consent.second_look import NOT_ERASED, Near, SecondLook
from w2w_registry.services.recording.gallery import open_answered, open_gallery
from w2w_registry.services.recording.versions import Held, hold_values, told_of
from w2w_registry.services.registry import Registry
from w2w_registry.space.people import pairs_of_one
from w2w_registry.space.verdict import LEAST_GALLERY

MOST: Final = 20_000
"""So many fingerprints are compared with one another; among more, newcomers alone are looked at."""


def look_again(registry: Registry, base: str, question: str, seen: Sequence[int] = ()) -> list[str]:
    """Hold versions that draw somebody they do not say they are, those just ``seen`` that may draw somebody who
    refused, and those that are not like the versions before them, where one of a name was just seen; returns why, one
    sentence each."""
    look(registry, seen)
    with registry.catalog.read() as session:
        asked = next((one for one in questions(session) if (one.base, one.question) == (base, question)), None)
        few = asked is None or asked.versions < LEAST_GALLERY
        near = {} if few or asked is None or asked.versions > MOST else _near(session, asked)
        unlike = {} if few or asked is None else _unlike(registry, session, asked, seen)
    with registry.catalog.write(registry.actor) as uow:
        told = [held for version, likes in sorted(near.items()) for held in _look(registry, uow, version, likes)]
        told += _doubts(registry, uow, seen)
        done = decided(uow.session, unlike)
        return told + [_hold(uow, version, held) for version, held in sorted(unlike.items()) if version not in done]


def _near(session: Session, asked: Asked) -> dict[int, list[Near]]:
    """Whom undecided versions draw that were there before them: version id -> earlier ones."""
    there = open_answered(session, asked)
    gallery = there.gallery
    if gallery.size < LEAST_GALLERY:
        return {}
    pairs = pairs_of_one(there.matrix, np.asarray(gallery.people), gallery.model)
    versions = gallery.versions.tolist()
    done = decided(session, versions)
    near: dict[int, list[Near]] = {}
    for pair in pairs:
        earlier, later = sorted((versions[pair.i], versions[pair.j]))
        if later not in done:
            near.setdefault(later, []).append(Near(earlier, By.BEHAVIOUR, pair.score, pair.alarm))
    return near


def _unlike(registry: Registry, session: Session, asked: Asked, seen: Sequence[int]) -> dict[int, Held]:
    """Which of those in service are not who the versions before them are, whatever became of those."""
    try:
        found = unlike_once_seen(session, lambda: open_gallery(registry, session, asked, NOT_ERASED), seen)
    except UsageError:  # too few people
        return {}
    states = versions_by_id(session, found)
    return {version: held for version, held in found.items() if states[version].state is VersionState.ACTIVE}


def _doubts(registry: Registry, uow: UnitOfWork, seen: Sequence[int]) -> list[str]:
    door = Door(registry, uow.session)
    if not seen or not (door.anybody or door.agreeing.anybody):
        return []
    rows = versions_by_id(uow.session, set(seen) - decided(uow.session, seen))
    active = [version_id for version_id, row in rows.items() if row.state is VersionState.ACTIVE]
    held = {version_id: in_doubt(one) for version_id, one in door.doubts(active).items()}
    again = {i: one for i, one in door.known(active).items() if i not in held}
    likely = SecondLook(registry, uow.session).likely(
        [Near(i, By.BEHAVIOUR, 0.0, 0.0) for i in again], gate.rules_of(registry, uow.session)
    )
    held |= {i: known_again(again[i]) for i in again if again[i].subject not in _depicted(likely, i)}
    return [_hold(uow, version_id, one) for version_id, one in sorted(held.items())]


def _depicted(likely: Sequence[Likely], version_id: int) -> Depicted:
    return next((one.depicts for one in likely if one.version_id == version_id), frozenset())


def _look(registry: Registry, uow: UnitOfWork, version_id: int, likes: list[Near]) -> list[str]:
    second = SecondLook(registry, uow.session)
    rules = gate.rules_of(registry, uow.session)
    (own,) = second.likely([Near(version_id, By.BEHAVIOUR, 0.0, 0.0)], rules)
    if own.state is not VersionState.ACTIVE:
        return []
    found: Contradiction | None = second_look(Claim(own.name, own.kind, own.depicts), second.likely(likes, rules))
    held = as_held(found)
    if held is None:
        return []
    return [_hold(uow, version_id, held)]


def _hold(uow: UnitOfWork, version_id: int, held: Held) -> str:
    uow.add(Hold(version_id=version_id, **hold_values(held, uow.now())))
    uow.session.get_one(Version, version_id).state = VersionState.HELD
    uow.session.flush()
    uow.event("version.hold", {"version": version_id}, **told_of(held))
    ref = refs_of(uow.session, [version_id])[version_id]
    if held.why == Why.NAME:
        return f"{ref} is held: it does not look like {held.like}"
    return f"{ref} is held: it draws {held.like} ({held.why})"
