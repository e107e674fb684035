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

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any, NoReturn, TypedDict, Unpack

from sqlalchemy.orm import Session

from w2w_registry.catalog import lineage as walks
from w2w_registry.catalog import refusals
from w2w_registry.catalog.holds import anything_open, found_distinct, open_holds, unlooked
from w2w_registry.catalog.lookup import refs_of, states_of, versions_by_id
from w2w_registry.catalog.models import Space
from w2w_registry.consent.policy import Decision, Upstream, decide, unknown_purpose, ways_out
from w2w_registry.consent.reasons import Reason, ReasonCode
from w2w_registry.consent.records import Use
from w2w_registry.consent.rules import Rules
from w2w_registry.errors import ConsentDenied, HeldBack, NotCompared
from w2w_registry.records import Kind, VersionState, nearness
from w2w_registry.services.consent.rows import stopped
from w2w_registry.services.consent.second_person import wanted
from w2w_registry.services.consent.upstream import directly, upstream_of, upstream_of_each, withdrawn_members
from w2w_registry.services.recording import policies
from w2w_registry.services.registry import Registry, note_run_out, present

_STATE_FREE = frozenset({Use.SEARCH, Use.REGISTER})
_LEAVING = frozenset({Use.EXPORT, Use.PUBLISH})


def rules_of(registry: Registry, session: Session, *, looking: bool = True) -> Rules:
    """The rules in force; ``looking``: nothing is decided by them. Raises SettingError: the policy cannot be used."""
    if not looking:
        note_run_out(registry, session)
    return Rules.from_settings(policies.in_force(registry, session, looking=looking))


class About(TypedDict, total=False):
    """What a decision is about.

    versions: ids of versions operated on; every subject of theirs and of their ancestors has to allow it.
    subjects: subjects of something that is no version yet.
    kind: what that something depicts; a person without a named subject is somebody unknown, not nobody.
    spaces: ids of weight spaces worked in.
    purpose, territory: what for, and where; None = what registry.toml says.
    session: the session to look in (``uow.session`` inside a write); None = a read of its own.
    at: the instant asked about; None = now.
    """

    versions: Sequence[int]
    subjects: Sequence[str]
    kind: Kind | None
    spaces: Sequence[int]
    purpose: str | None
    territory: str | None
    session: Session | None
    at: datetime | None


def require(registry: Registry, use: Use | str, **about: Unpack[About]) -> Decision:
    """Let the use pass, or raise.

    Args:
        use: register, search, train, invert, edit, mix, sample, generate, export or publish (= push).
        about: what is to be done with whom (:class:`About`).

    Returns:
        The decision; its ``warnings`` are worth showing, its ``relied_on`` worth recording (``evidence``).

    Raises:
        ConsentDenied: with every reason and the subjects in the way; HeldBack when somebody has to decide first whom a
        version depicts. SettingError: an unusable ``[policy]``. UnknownPurpose: a misspelt one.
    """
    decision = ask(registry, use, **about)
    if not decision.allowed:
        versions = about.get("versions", ())
        _remember(registry, decision, versions, about.get("subjects", ()))
        _refuse(registry, decision, versions, about.get("session"))
    return decision


def _refuse(registry: Registry, decision: Decision, versions: Sequence[int], session: Session | None) -> NoReturn:
    told: dict[str, Any] = {
        "operation": str(decision.use),
        "purpose": decision.purpose,
        "reasons": tuple(dict.fromkeys(str(r) for r in decision.reasons)),
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


def ask(registry: Registry, use: Use | str, **about: Unpack[About]) -> Decision:
    """As ``require``, returning a refusal instead of raising it."""
    (decision,) = ask_uses(registry, [use], **about)
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
        rules, moment = rules_of(registry, where, looking=False), at or present(where)
        upstream = list(upstream_of(where, versions, rules)) if versions else []
        upstream += directly(where, subjects)
        if kind is not None and not subjects and kind in rules.likeness_kinds:
            upstream.append(Upstream(None))
        fitted_on = withdrawn_members(where, spaces)
        out = _blocked(where, versions) if versions else []
        strange = unknown_purpose(purpose, rules, upstream)
        met: list[Reason] | None = None
        found = []
        for use in uses:
            what = Use(use)
            decision = decide(what, upstream, rules, moment, purpose=purpose, territory=territory, fitted_on=fitted_on)
            if strange is not None:
                decision = replace(decision, warnings=(*decision.warnings, strange))
            held = [] if what in _STATE_FREE else out
            if decision.allowed and not held and versions and what not in _STATE_FREE:
                met = list(_met(registry, where, versions).values()) if met is None else met
                held = met
            if decision.allowed and not held and spaces and what not in _STATE_FREE:
                held = _around(registry, where, spaces)
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
        **({} if (file := policies.ignored(registry)) is None else {"ignored": file}),
        use=str(decision.use),
        purpose=decision.purpose,
        reasons=[{"code": str(r.code), "subject": r.subject, "record": r.record_id} for r in decision.reasons],
    )


def _nobody_refused(session: Session) -> bool:
    """Whether it is certain, without the arrays that the door compares, that it has nobody to compare with."""
    return not refusals.references(session) and not refusals.depicting(session, stopped(session))


def _met(registry: Registry, session: Session, versions: Collection[int]) -> dict[int, Reason]:
    """Versions that are somebody who refused, whatever they are said to be: version id -> reason."""
    if _nobody_refused(session):
        return {}
    from w2w_registry.services.consent.door import Door  # it compares arrays; most small commands compare nothing
    from w2w_registry.services.consent.made_in import reasons_of, spaces_of

    door = Door(registry, session)
    if not door.anybody:
        return {}
    met = {i: (e, "") for i, e in door.encounters(versions).items()}
    around = reasons_of(registry, session, door, spaces_of(session, set(versions) - set(met)))
    met |= {i: (e, f"what {space} is made around: ") for i, (e, space) in around.items()}
    refs = refs_of(session, met)
    return {
        i: Reason(
            ReasonCode.LIKENESS,
            e.subject,
            None,
            f"{what}{nearness(e.by, e.similarity, e.threshold)}",
            str(refs[i]),
        )
        for i, (e, what) in sorted(met.items())
    }


def _around(registry: Registry, session: Session, spaces: Collection[int]) -> list[Reason]:
    """Why spaces that are made around somebody who refused are not worked in."""
    if _nobody_refused(session):
        return []
    from w2w_registry.services.consent.door import Door
    from w2w_registry.services.consent.made_in import refused

    met = refused(registry, session, Door(registry, session), spaces)
    return [
        Reason(
            ReasonCode.LIKENESS,
            e.subject,
            None,
            nearness(e.by, e.similarity, e.threshold),
            session.get_one(Space, i).ref,
        )
        for i, e in sorted(met.items())
    ]


def evidence(decision: Decision) -> dict[str, Any]:
    """What a decision adds to the event of the operation it allowed: ids and digests only."""
    return {"consent": {"use": str(decision.use), "purpose": decision.purpose, "relied_on": dict(decision.relied_on)}}


def _compared(registry: Registry, session: Session, decision: Decision, versions: Sequence[int]) -> Decision:
    """The decision, refused when a model of outside origin, one made of such, or one made in a space leaves uncompared,
    or when what that space is made around was not compared.

    What it draws has to be compared with those who refused, or a second person has to have looked at it: weights alone
    miss most second trainings. Nothing is asked while nobody has refused; a registry of one person is only told.
    """
    if _nobody_refused(session):
        return decision
    from w2w_registry.services.consent.door import Door
    from w2w_registry.services.consent.made_in import spaces_of, uncompared

    door = Door(registry, session)
    if not door.anybody:
        return decision
    spaces = spaces_of(session, versions)
    blank = uncompared(session, door, set().union(*spaces.values()))
    left = {i for i, own in spaces.items() if own & blank} - found_distinct(session, spaces)
    if door.uncompared(versions):
        left |= door.uncompared(unlooked(session, set(walks.ancestors(session, versions).depth)))
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
