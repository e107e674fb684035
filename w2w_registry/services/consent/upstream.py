"""Who stands behind versions, themselves or through what those were made of, and what each of them agreed to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy.orm import Session

from w2w_registry.catalog import depictions as depicted
from w2w_registry.catalog import lineage as walks
from w2w_registry.catalog.consents import refusing
from w2w_registry.catalog.former import Then
from w2w_registry.catalog.membership import fitted_subjects
from w2w_registry.consent.policy import Upstream, combined_state, subject_state
from w2w_registry.consent.rules import Rules
from w2w_registry.records import ConsentState
from w2w_registry.services.consent.rows import load_records


def consent_states(
    session: Session, version_ids: Iterable[int], at: datetime, rules: Rules | None = None, then: Then | None = None
) -> dict[int, ConsentState]:
    """One word on the consent of everyone upstream, for many versions at a few queries per 500.

    Ids that do not exist are left out. ``then``: whom they depicted at ``at``, and what those had agreed to by then;
    without it what is known today decides about that instant.
    """
    wanted = sorted(set(version_ids))
    reach = walks.ancestors(session, wanted)
    known = sorted(reach.depth)
    kinds = (rules or Rules()).likeness_kinds
    parents = reach.parents()
    if then is None:
        likenesses = depicted.own_likenesses(session, known, kinds, list(parents))
    else:
        likenesses = depicted.own_likenesses_at(session, known, kinds, then)
    # A version's inputs were there before it, so their ids are smaller: one pass in order hands everything down.
    nobody: frozenset[str | None] = frozenset()
    upstream: dict[int, frozenset[str | None]] = {}
    for version_id in known:
        own = frozenset(likenesses.get(version_id, ()))
        upstream[version_id] = own.union(*(upstream.get(p, nobody) for p in parents.get(version_id, ())))
    named = {subject for i in wanted for subject in upstream.get(i, nobody) if subject is not None}
    records = load_records(session, named, history=False, at=None if then is None else at)
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


def directly(session: Session, subjects: Sequence[str]) -> list[Upstream]:
    """Subjects of something that is no version yet."""
    records = load_records(session, subjects) if subjects else {}
    refuse = refusing(session, subjects)
    return [Upstream(s, records.get(s, ()), refuses=s in refuse) for s in sorted(set(subjects))]


def withdrawn_members(session: Session, spaces: Sequence[int]) -> list[Upstream]:
    """Whom spaces were fitted with and who has withdrawn since."""
    if not spaces:
        return []
    members = fitted_subjects(session, spaces)
    ended = load_records(session, members, history=False, states=(ConsentState.WITHDRAWN, ConsentState.INVALIDATED))
    return [Upstream(subject, records) for subject, records in sorted(ended.items())]
