"""``resolve``: somebody decides whether a version that is held is whom it resembles. Another one may decide anew."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from w2w_registry.catalog import depictions
from w2w_registry.catalog.holds import Hold, agents_of, hold_of, open_holds
from w2w_registry.catalog.lookup import refs_of, subjects_of
from w2w_registry.catalog.models import Identity, Version, VersionSubject
from w2w_registry.catalog.resolve import version_for
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.commands import command
from w2w_registry.errors import Conflict, UsageError
from w2w_registry.records import ConsentState, IdentityRef, Kind, Result, VersionState
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.second_person import DECIDED, require_other
from w2w_registry.services.consent.upstream import consent_states
from w2w_registry.services.registry import Registry, present

SAME, DISTINCT = "same", "distinct"
LOOKED_AT = "looked at"
"""What a version was compared by that nobody held: a person's eyes."""
_ENDED = (ConsentState.WITHDRAWN, ConsentState.INVALIDATED)


@dataclass(frozen=True, eq=False)
class Resolved(Result):
    """What was decided of a version, whom it depicts now, and whether it is in service."""

    version: str
    outcome: str
    same_as: str | None
    state: str
    subjects: list[str]
    added_by: str


def resolve(
    registry: Registry, name: str, *, same_as: str | None = None, distinct: bool = False, reason: str
) -> Resolved:
    """Decide whom a held version depicts, or decide anew.

    As the ``same`` as another it depicts whom that one does, whoever it was said to depict: their consent decides from
    then on. When that one names nobody, neither does this one any more, unless it was found distinct before: what
    somebody vouched for no other takes away alone. As ``distinct`` it is who it says it is. A version that is not held
    can be found distinct too: somebody looked at it.

    Raises:
        UsageError: both or neither are asked for, no reason is given, several versions are held and none is named.
        SecondPersonNeeded: whoever added it decides. NotFound. Conflict: the other one is held itself, or is this one.
    """
    if (same_as is None) != distinct:
        raise UsageError(reason="say either [[same-as]] NAME or [[distinct]]")
    if not reason.strip():
        raise UsageError(reason="say why, with [[reason]]: it is kept with the decision")
    with registry.catalog.write(registry.actor) as uow:
        version = _meant(uow.session, name)
        ref = str(refs_of(uow.session, [version.id])[version.id])
        added_by = agents_of(uow.session, [version.id])[version.id]
        decided = require_other(
            registry,
            uow.session,
            [added_by],
            f"decide whom {ref} depicts, which {added_by} added",
            command("resolve", ref, same_as=same_as, distinct=distinct, reason="TEXT"),
        )
        hold = _hold(uow, version, ref, distinct)
        vouched = hold.outcome == DISTINCT
        _take_back(uow, version, hold)
        same: str | None = None
        if same_as is not None:
            other = _other(uow.session, version, same_as)
            hold.same_as = other.id
            hold.before = _become(registry, uow, version, other, vouched=vouched)
            same = str(refs_of(uow.session, [other.id])[other.id])
        hold.outcome = DISTINCT if distinct else SAME
        hold.resolver, hold.reason, hold.resolved = uow.actor, reason, uow.now()
        uow.session.flush()
        serve(registry, uow, version)
        uow.event(
            "version.resolve",
            {"version": version.id, "hold": hold.id},
            outcome=hold.outcome,
            same_as=hold.same_as,
            added_by=added_by,
            **{DECIDED: decided},
        )
        subjects = subjects_of(uow.session, [version.id]).get(version.id, ())
        return Resolved(ref, hold.outcome, same, str(version.state), list(subjects), added_by)


def _hold(uow: UnitOfWork, version: Version, ref: str, distinct: bool) -> Hold:
    """What holds a version; when nothing does, that somebody looked at it and found it distinct."""
    hold = hold_of(uow.session, version.id)
    if hold is not None and (distinct or hold.by != LOOKED_AT):
        return hold
    if not distinct:
        whom = command("add", "PATH", subject="ID")
        raise Conflict(what="version", name=ref, reason=f"is not held; `{whom}` names whom it shows")
    return uow.add(Hold(version_id=version.id, by=LOOKED_AT, why=LOOKED_AT, created=uow.now()))


def _meant(session: Session, name: str) -> Version:
    """The version of that name that is held, when none is named by number or alias; else what the name means."""
    ref = IdentityRef.parse(name)
    if ref.number is None and ref.alias is None:
        held = [one for one in open_holds(session) if one.name == ref.name]
        if len(held) > 1:
            names = ", ".join(f"{one.name}@{one.number}" for one in held)
            raise UsageError(reason=f"{len(held)} versions of {ref.name} are held", hint=f"name one: {names}")
        if held:
            return session.get_one(Version, held[0].hold.version_id)
    return version_for(session, ref)


def _other(session: Session, version: Version, same_as: str) -> Version:
    other = version_for(session, same_as)
    if other.id == version.id:
        raise Conflict(what="version", name=same_as, reason="is the one to be decided about")
    if open_holds(session, [other.id]):
        raise Conflict(what="version", name=same_as, reason=f"is held itself; `{command('resolve', same_as)}` first")
    return other


def _become(registry: Registry, uow: UnitOfWork, version: Version, other: Version, *, vouched: bool) -> dict[str, Any]:
    """Let a version depict whom another one does; returns what it was before. ``vouched``: it was found to depict whom
    it names."""
    session = uow.session
    kinds = gate.rules_of(registry, session).likeness_kinds
    theirs = {one.subject for one in depictions.likenesses(session, [other.id], kinds)}
    named = sorted(subject for subject in theirs if subject is not None)
    own = subjects_of(session, [version.id]).get(version.id, ())
    added = [subject for subject in named if subject not in own]
    # Whoever says who somebody unnamed is says it of the model they know, not of a newcomer.
    dropped = [] if named or vouched else list(own)
    for subject in added:
        uow.add(VersionSubject(version_id=version.id, subject_id=subject))
    for subject in dropped:
        uow.delete(session.get_one(VersionSubject, (version.id, subject)))
    identity = session.get_one(Identity, version.identity_id)
    kind = session.get_one(Identity, other.identity_id).kind
    before = None
    if kind in kinds and identity.kind not in kinds:
        before, identity.kind = str(identity.kind), kind
    session.flush()
    return {"added": added, "dropped": dropped, "kind": before}


def _take_back(uow: UnitOfWork, version: Version, hold: Hold) -> None:
    """Undo what an earlier decision changed."""
    before = hold.before
    hold.before = hold.same_as = None
    if before is None:
        return
    for subject in before["added"]:
        row = uow.session.get(VersionSubject, (version.id, subject))
        if row is not None:
            uow.delete(row)
    uow.session.flush()
    for subject in before["dropped"]:
        if uow.session.get(VersionSubject, (version.id, subject)) is None:
            uow.add(VersionSubject(version_id=version.id, subject_id=subject))
    if before["kind"] is not None:
        uow.session.get_one(Identity, version.identity_id).kind = Kind(before["kind"])


def serve(registry: Registry, uow: UnitOfWork, version: Version) -> None:
    """Into service, unless somebody whom it depicts withdrew."""
    if version.state not in (VersionState.HELD, VersionState.ACTIVE):
        return
    rules = gate.rules_of(registry, uow.session)
    state = consent_states(uow.session, [version.id], present(uow.session), rules)[version.id]
    version.state = VersionState.BLOCKED if state in _ENDED else VersionState.ACTIVE
    uow.session.flush()


@dataclass(frozen=True, eq=False)
class HeldRow(Result):
    """A version nobody has decided about yet: whom it resembles, and why it is held."""

    version: str
    like: str | None
    by: str
    why: str
    score: float | None
    false_alarm: float | None
    added_by: str
    since: datetime


def held_versions(registry: Registry) -> list[HeldRow]:
    """Versions nobody has decided about yet, with whom each resembles and why, the gravest first."""
    from w2w_registry.consent.second_look import gravest_first

    with registry.catalog.read() as session:
        rows = open_holds(session)
        likes = refs_of(session, {one.hold.like_id for one in rows if one.hold.like_id is not None})
    rows.sort(key=lambda one: (*gravest_first([one.hold.by], one.hold.why), -(one.hold.score or 0.0), one.hold.id))
    return [
        HeldRow(
            version=f"{one.name}@{one.number}",
            like=None if one.hold.like_id is None else str(likes[one.hold.like_id]),
            by=one.hold.by,
            why=one.hold.why,
            score=one.hold.score,
            false_alarm=one.hold.false_alarm,
            added_by=one.agent,
            since=one.hold.created,
        )
        for one in rows
    ]
