"""The second look once fingerprints were taken: whom registered versions draw may be at odds with what they say.

``pairs_of_one`` finds who is one person; of two that say different things the later one is held, as it would have been
when it came in, unless somebody has decided about it. So is one of which the door doubts whether it draws somebody who
refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from w2w_registry.catalog.fingerprints import questions
from w2w_registry.catalog.holds import decided
from w2w_registry.catalog.lookup import refs_of, versions_by_id
from w2w_registry.catalog.models import Hold, Version
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.consent.second_look import By, Claim, Contradiction, Depicted, Likely, second_look
from w2w_registry.records import VersionState
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.door import Door
from w2w_registry.services.consent.made_in import look
from w2w_registry.services.consent.second_look import Near, SecondLook, as_held, in_doubt, known_again
from w2w_registry.services.recording.gallery import open_answered
from w2w_registry.services.recording.versions import Held, hold_values, told_of
from w2w_registry.services.registry import Registry
from w2w_registry.space.people import pairs_of_one
from w2w_registry.space.verdict import LEAST_GALLERY

MOST: Final = 20_000
"""So many fingerprints are compared with one another; among more, newcomers alone are looked at."""


def look_again(registry: Registry, base: str, question: str, seen: Sequence[int] = ()) -> list[str]:
    """Hold versions that draw somebody they do not say they are, and those just ``seen`` that may draw somebody who
    refused; returns why, one sentence each."""
    look(registry, seen)
    near = _near(registry, base, question)
    with registry.catalog.write(registry.actor) as uow:
        told = [held for version, likes in sorted(near.items()) for held in _look(registry, uow, version, likes)]
        return told + _doubts(registry, uow, seen)


def _near(registry: Registry, base: str, question: str) -> dict[int, list[Near]]:
    """Whom undecided versions draw that were there before them: version id -> earlier ones."""
    with registry.catalog.read() as session:
        asked = next((one for one in questions(session) if (one.base, one.question) == (base, question)), None)
        if asked is None or not LEAST_GALLERY <= asked.versions <= MOST:
            return {}
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
    return f"{ref} is held: it draws {held.like} ({held.why})"
