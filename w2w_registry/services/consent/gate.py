"""The gate every service passes before it does anything with a likeness.

    decision = gate.require(registry, Use.EDIT, versions=[source.id], purpose=purpose)
    with registry.catalog.write(registry.actor) as uow:
        gate.require(registry, Use.EDIT, versions=[source.id], purpose=purpose, session=uow.session)
        …
        uow.event("version.edit", objects=…, **gate.evidence(decision))

Ask once before long work, to fail early, and once more inside the write transaction (``session=uow.session``): a
withdrawal that came in between has then been seen, because writers take turns.

- Work on versions (edit, mix, generate, export, push; search by a version): pass ``versions``. Their subjects and
  those of all their ancestors are found here.
- Making something new (add, train, invert, pull): pass ``subjects`` (may be empty) and ``kind``.
- Work in a space (sample): pass ``spaces``; subjects of the fit set who have withdrawn become warnings.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any, NoReturn

from sqlalchemy.orm import Session

from w2w_registry.catalog import depictions as depicted
from w2w_registry.catalog import lineage as walks
from w2w_registry.catalog.consents import refusing
from w2w_registry.catalog.holds import anything_open, open_holds, unlooked
from w2w_registry.catalog.lookup import refs_of, states_of, versions_by_id
from w2w_registry.catalog.membership import fitted_subjects
from w2w_registry.consent.policy import Decision, Rules, Upstream, combined_state, decide, subject_state, ways_out
from w2w_registry.consent.reasons import Reason, ReasonCode
from w2w_registry.consent.records import Use
from w2w_registry.errors import ConsentDenied, HeldBack, NotCompared
from w2w_registry.records import ConsentState, Kind, VersionState
from w2w_registry.services.consent.rows import load_records
from w2w_registry.services.consent.second_person import wanted
from w2w_registry.services.recording import policies
from w2w_registry.services.registry import Registry, present

_STATE_FREE = frozenset({Use.SEARCH, Use.REGISTER})
_LEAVING = frozenset({Use.EXPORT, Use.PUBLISH})


def rules_of(registry: Registry, session: Session) -> Rules:
    """The rules in force. Raises SettingError when the policy cannot be used."""
    return Rules.from_settings(policies.in_force(registry, session))


def require(
    registry: Registry,
    use: Use | str,
    *,
    versions: Sequence[int] = (),
    subjects: Sequence[str] = (),
    kind: Kind | None = None,
    spaces: Sequence[int] = (),
    purpose: str | None = None,
    territory: str | None = None,
    session: Session | None = None,
    at: datetime | None = None,
) -> Decision:
    """Let the use pass, or raise.

    Args:
        use: register, search, train, invert, edit, mix, sample, generate, export or publish (= push).
        versions: ids of versions operated on; every subject of theirs and of their ancestors has to allow it.
        subjects: subjects of something that is no version yet.
        kind: what that something depicts; a person without a named subject is somebody unknown, not nobody.
        spaces: ids of weight spaces worked in.
        purpose, territory: what for, and where; None = what registry.toml says.
        session: the session to look in (``uow.session`` inside a write); None = a read of its own.
        at: the instant asked about; None = now.

    Returns:
        The decision; its ``warnings`` are worth showing, its ``relied_on`` worth recording (``evidence``).

    Raises:
        ConsentDenied: with every reason and the subjects in the way; HeldBack when somebody has to decide first whom a
        version depicts. SettingError: an unusable ``[policy]``.
    """
    decision = ask(
        registry,
        use,
        versions=versions,
        subjects=subjects,
        kind=kind,
        spaces=spaces,
        purpose=purpose,
        territory=territory,
        session=session,
        at=at,
    )
    if not decision.allowed:
        _remember(registry, decision, versions, subjects)
        _refuse(registry, decision, versions, session)
    return decision


def _refuse(registry: Registry, decision: Decision, versions: Sequence[int], session: Session | None) -> NoReturn:
    told: dict[str, Any] = {
        "operation": str(decision.use),
        "purpose": decision.purpose,
        "reasons": tuple(str(r) for r in decision.reasons),
        "subjects": decision.subjects,
        "ways_out": ways_out(decision),
    }
    if any(reason.code is ReasonCode.HELD for reason in decision.reasons):
        with _session(registry, session) as where:
            held = open_holds(where, walks.ancestors(where, versions).depth)
            if held:
                hold = held[0].hold
                likes = refs_of(where, [] if hold.like_id is None else [hold.like_id])
                like = str(likes[hold.like_id]) if hold.like_id in likes else "somebody"
                raise HeldBack(**told, name=f"{held[0].name}@{held[0].number}", like=like, by=hold.by, why=hold.why)
    for reason in decision.reasons:
        if reason.code is ReasonCode.UNCOMPARED:
            raise NotCompared(**told, name=reason.through)
    raise ConsentDenied(**told)


def require_released(registry: Registry, session: Session, operation: str, version: int) -> None:
    """Raise HeldBack when a version is held: for what is no use of a likeness, and still asks that somebody decided."""
    blocked = [reason for reason in _blocked(session, [version]) if reason.code is ReasonCode.HELD]
    if blocked:
        decision = Decision(False, Use.REGISTER, "", present(session), tuple(blocked))
        _remember(registry, decision, [version], ())
        try:
            _refuse(registry, decision, [version], session)
        except HeldBack as held:
            held.fields["operation"] = operation
            raise


def ask(
    registry: Registry,
    use: Use | str,
    *,
    versions: Sequence[int] = (),
    subjects: Sequence[str] = (),
    kind: Kind | None = None,
    spaces: Sequence[int] = (),
    purpose: str | None = None,
    territory: str | None = None,
    session: Session | None = None,
    at: datetime | None = None,
) -> Decision:
    """As ``require``, returning a refusal instead of raising it."""
    (decision,) = ask_uses(
        registry,
        [use],
        versions=versions,
        subjects=subjects,
        kind=kind,
        spaces=spaces,
        purpose=purpose,
        territory=territory,
        session=session,
        at=at,
    )
    return decision


def ask_uses(
    registry: Registry,
    uses: Sequence[Use | str],
    *,
    versions: Sequence[int] = (),
    subjects: Sequence[str] = (),
    kind: Kind | None = None,
    spaces: Sequence[int] = (),
    purpose: str | None = None,
    territory: str | None = None,
    session: Session | None = None,
    at: datetime | None = None,
) -> list[Decision]:
    """As ``ask`` for several uses: who is upstream is found once for them all."""
    with _session(registry, session) as where:
        rules, moment = rules_of(registry, where), at or present(where)
        upstream = list(upstream_of(where, versions, rules)) if versions else []
        upstream += _direct(where, subjects)
        if kind is not None and not subjects and kind in rules.likeness_kinds:
            upstream.append(Upstream(None))
        fitted_on = _withdrawn_members(where, spaces)
        out = _blocked(where, versions) if versions else []
        met: list[Reason] | None = None
        found = []
        for use in uses:
            what = Use(use)
            decision = decide(what, upstream, rules, moment, purpose=purpose, territory=territory, fitted_on=fitted_on)
            held = [] if what in _STATE_FREE else out
            if decision.allowed and not held and versions and what not in _STATE_FREE:
                met = list(_met(registry, where, versions).values()) if met is None else met
                held = met
            if decision.allowed and not held and versions and what in _LEAVING:
                decision = _compared(registry, where, decision, versions)
            found.append(_refused(decision, held))
    return found


def _refused(decision: Decision, blocked: Sequence[Reason]) -> Decision:
    """The decision, refused when a version asked about is out of service."""
    return (
        replace(decision, allowed=False, reasons=(*blocked, *decision.reasons), relied_on=()) if blocked else decision
    )


def ask_each(
    registry: Registry, use: Use | str, versions: Mapping[int, str | None], *, session: Session
) -> dict[int, Decision]:
    """As ``ask`` for each of many versions by itself (version id -> its purpose), at a few queries per 500."""
    what, rules, moment = Use(use), rules_of(registry, session), present(session)
    everybody = upstream_of_each(session, list(versions), rules)
    states = {i: version.state for i, version in versions_by_id(session, versions).items()}
    found: dict[int, Decision] = {}
    met = {} if what in _STATE_FREE else _met(registry, session, versions)
    waiting = anything_open(session)
    for version, purpose in versions.items():
        decision = decide(what, everybody[version], rules, moment, purpose=purpose)
        out = (states.get(version) is not VersionState.ACTIVE or waiting) and what not in _STATE_FREE
        blocked = _blocked(session, [version]) if out else []
        if not blocked and version in met and decision.allowed:
            blocked = [met[version]]
        found[version] = _refused(decision, blocked)
    return found


def _remember(registry: Registry, decision: Decision, versions: Sequence[int], subjects: Sequence[str]) -> None:
    """What was refused is told to the subject who asks, so it is an event: only ids and codes."""
    registry.catalog.note(
        registry.actor,
        "consent.refuse",
        {"version": sorted(set(versions)), "subject": sorted({*subjects, *decision.subjects})},
        use=str(decision.use),
        purpose=decision.purpose,
        reasons=[{"code": str(r.code), "subject": r.subject, "record": r.record_id} for r in decision.reasons],
    )


def _met(registry: Registry, session: Session, versions: Collection[int]) -> dict[int, Reason]:
    """Versions that are somebody who refused, whatever they are said to be: version id -> reason."""
    from w2w_registry.services.consent.door import Door  # it compares arrays; most small commands compare nothing

    met = Door(registry, session).encounters(versions)
    refs = refs_of(session, met)
    return {
        i: Reason(ReasonCode.LIKENESS, e.subject, None, f"{e.by} {e.similarity:.3f} ≥ {e.threshold:.3f}", str(refs[i]))
        for i, e in sorted(met.items())
    }


def evidence(decision: Decision) -> dict[str, Any]:
    """What a decision adds to the event of the operation it allowed: ids and digests only."""
    return {"consent": {"use": str(decision.use), "purpose": decision.purpose, "relied_on": dict(decision.relied_on)}}


def consent_states(
    session: Session, version_ids: Iterable[int], at: datetime, rules: Rules | None = None
) -> dict[int, ConsentState]:
    """One word on the consent of everyone upstream, for many versions at a few queries per 500.

    Ids that do not exist are left out.
    """
    wanted = sorted(set(version_ids))
    reach = walks.ancestors(session, wanted)
    known = sorted(reach.depth)
    likenesses = depicted.own_likenesses(session, known, (rules or Rules()).likeness_kinds)
    # A version's inputs were there before it, so their ids are smaller: one pass in order hands everything down.
    parents: dict[int, list[int]] = {}
    for child, parent in reach.edges:
        parents.setdefault(child, []).append(parent)
    nobody: frozenset[str | None] = frozenset()
    upstream: dict[int, frozenset[str | None]] = {}
    for version_id in known:
        own = frozenset(likenesses.get(version_id, ()))
        upstream[version_id] = own.union(*(upstream.get(p, nobody) for p in parents.get(version_id, ())))
    named = {subject for i in wanted for subject in upstream.get(i, nobody) if subject is not None}
    records = load_records(session, named, history=False)
    state_of: dict[str | None, ConsentState] = {s: subject_state(records.get(s, ()), at) for s in named}
    state_of[None] = ConsentState.UNKNOWN
    return {i: combined_state(state_of[s] for s in upstream[i]) for i in wanted if i in likenesses}


def upstream_of(session: Session, version_ids: Sequence[int], rules: Rules) -> tuple[Upstream, ...]:
    """Every subject upstream of these versions, with records; ``derived`` when reached through another version."""
    merged: dict[str | None, Upstream] = {}
    for upstream in upstream_of_each(session, version_ids, rules).values():
        for one in upstream:
            before = merged.get(one.subject)
            if before is None or (one.derived and not before.derived):
                merged[one.subject] = one
    return tuple(merged[s] for s in sorted(merged, key=_unnamed_last))


def upstream_of_each(session: Session, version_ids: Sequence[int], rules: Rules) -> dict[int, tuple[Upstream, ...]]:
    """``upstream_of`` each of many versions by itself, at a few queries per 500."""
    found: dict[int, dict[str | None, depicted.Likeness]] = {version: {} for version in sorted(set(version_ids))}
    for one in depicted.likenesses(session, list(found), rules.likeness_kinds):
        before = found[one.root].get(one.subject)
        if before is None or (one.derived and not before.derived):
            found[one.root][one.subject] = one
    named = {s for likenesses in found.values() for s in likenesses if s is not None}
    records, refuse = load_records(session, named), refusing(session, named)
    return {
        version: tuple(
            Upstream(
                s,
                records.get(s, ()) if s is not None else (),
                likenesses[s].derived,
                likenesses[s].through,
                s in refuse,
            )
            for s in sorted(likenesses, key=_unnamed_last)
        )
        for version, likenesses in found.items()
    }


def _unnamed_last(subject: str | None) -> tuple[bool, str]:
    return subject is None, subject or ""


def _direct(session: Session, subjects: Sequence[str]) -> list[Upstream]:
    records = load_records(session, subjects) if subjects else {}
    refuse = refusing(session, subjects)
    return [Upstream(s, records.get(s, ()), refuses=s in refuse) for s in sorted(set(subjects))]


def _withdrawn_members(session: Session, spaces: Sequence[int]) -> list[Upstream]:
    if not spaces:
        return []
    members = fitted_subjects(session, spaces)
    ended = load_records(session, members, history=False, states=(ConsentState.WITHDRAWN, ConsentState.INVALIDATED))
    return [Upstream(subject, records) for subject, records in sorted(ended.items())]


def _compared(registry: Registry, session: Session, decision: Decision, versions: Sequence[int]) -> Decision:
    """The decision, refused when a model of outside origin, or one made of such, leaves uncompared.

    What it draws has to be compared with those who refused, or a second person has to have looked at it: weights alone
    miss most second trainings. Nothing is asked while nobody has refused; a registry of one person is only told.
    """
    from w2w_registry.services.consent.door import Door

    door = Door(registry, session)
    if not door.anybody or not door.uncompared(versions):
        return decision
    left = door.uncompared(unlooked(session, set(walks.ancestors(session, versions).depth)))
    if not left:
        return decision
    refs = refs_of(session, left)
    told = tuple(
        Reason(ReasonCode.UNCOMPARED, None, detail="outside origin", through=str(refs[i])) for i in sorted(left)
    )
    if wanted(registry, session):
        return replace(decision, allowed=False, reasons=told, relied_on=())
    return replace(decision, warnings=(*decision.warnings, *told))


def _blocked(session: Session, versions: Sequence[int]) -> list[Reason]:
    found = [
        Reason(
            ReasonCode.HELD if state is VersionState.HELD else ReasonCode.VERSION_BLOCKED,
            None,
            detail=state.value,
            through=str(ref),
        )
        for ref, state in states_of(session, versions)
        if state is not VersionState.ACTIVE
    ]
    if not anything_open(session):
        return found
    # What was made of it before it was held waits as well.
    above = set(walks.ancestors(session, versions).depth) - set(versions)
    found += [
        Reason(ReasonCode.HELD, None, detail="made of it", through=f"{one.name}@{one.number}")
        for one in open_holds(session, above)
    ]
    return found


@contextmanager
def _session(registry: Registry, session: Session | None) -> Iterator[Session]:
    if session is not None:
        yield session
        return
    with registry.catalog.read() as own:
        yield own
