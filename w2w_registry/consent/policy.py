"""May this be done, for this purpose, with likenesses of these subjects, now? Pure: time and rules are arguments.

The rules, in the order they are applied to each subject upstream:

1. A record that is live (given, begun, not over) and whose scope covers use, purpose, territory, and derivatives
   or publication where these are touched, allows. Each record stands alone: two halves do not make a whole.
2. Otherwise, what ``Rules.unknown`` lists may still be done (by default: taken in and searched, nothing that makes
   or shows pictures), unless a record was withdrawn, invalidated or disputed, or says no to that very use.
3. Otherwise it is denied, with a reason per record.

The whole is allowed only when every subject upstream allows it. So withdrawing, invalidating, narrowing or letting
a record run out, and adding one more subject, never allow more than before (tests/consent hold this as a property).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from w2w_registry.commands import command
from w2w_registry.consent.credential import open_credential
from w2w_registry.consent.reasons import Reason, ReasonCode
from w2w_registry.consent.records import DERIVING, ConsentRecord, Status, Use, countries
from w2w_registry.consent.rules import Rules, near_purpose
from w2w_registry.records import ConsentState

WORLD = "world"
"""The territory of what is put on the Hub."""


@dataclass(frozen=True)
class Upstream:
    """One subject upstream of what is operated on, with all its records.

    ``subject`` is None when somebody is depicted and nobody is named. ``derived``: whether the likeness comes
    through an edit or a mix (so that leave for derivatives is needed to use it at all). ``through``: the version
    that brought it in. ``refuses``: they withdrew, or asked not to be recreated, whether there is a record or not.
    """

    subject: str | None
    records: tuple[ConsentRecord, ...] = ()
    derived: bool = False
    through: str | None = None
    refuses: bool = False


@dataclass(frozen=True)
class Decision:
    """Allowed or not, why, and the records relied on (id → digest of the record as it was)."""

    allowed: bool
    use: Use
    purpose: str
    at: datetime
    reasons: tuple[Reason, ...] = ()
    relied_on: tuple[tuple[str, str], ...] = ()
    warnings: tuple[Reason, ...] = ()

    @property
    def subjects(self) -> tuple[str, ...]:
        """Subjects who stand in the way."""
        return tuple(sorted({r.subject for r in self.reasons if r.subject is not None}))


def unknown_purpose(purpose: str | None, rules: Rules, upstream: Iterable[Upstream]) -> Reason | None:
    """The warning about a purpose that this registry does not know and no consent upstream names; None for others.

    Raises:
        UnknownPurpose: it looks like a misspelling, under which nothing would be found or what was meant not asked.
    """
    known = rules.known_purposes
    if purpose is None or purpose in known:
        return None
    if any(purpose in (*record.scope.purposes, *record.scope.forbidden) for one in upstream for record in one.records):
        return None
    near_purpose(purpose, known)
    return Reason(ReasonCode.UNKNOWN_PURPOSE, None, detail=purpose)


_GRANTABLE = frozenset(
    {
        *(ReasonCode.NO_SUBJECT, ReasonCode.NO_RECORD, ReasonCode.REQUESTED, ReasonCode.EXPIRED, ReasonCode.PURPOSE),
        *(ReasonCode.USE, ReasonCode.DERIVATIVES, ReasonCode.PUBLICATION),
    }
)
"""Reasons that a consent would take away; nothing that somebody types takes away the others."""


def ways_out(decision: Decision) -> tuple[str, ...]:
    """The commands that record what a refused use lacks, all of it at once, in an order in which they can be typed: a
    grant registers its subject. None where somebody refused."""
    if any(reason.code not in _GRANTABLE for reason in decision.reasons):
        return ()
    nameless = {(reason.through or "NAME").partition("@")[0] for reason in decision.reasons if reason.subject is None}
    terms = {
        "purpose": decision.purpose,
        "derivatives": decision.use in DERIVING,
        "publication": decision.use is Use.PUBLISH,
    }
    assign = [command("subject assign", "SUBJECT", *sorted(nameless), evidence="FORM")] if nameless else []
    subjects = [*decision.subjects, *(["SUBJECT"] if nameless else [])]
    return (*(command("consent grant", subject, **terms) for subject in subjects), *assign)


def decide(
    use: Use,
    upstream: Sequence[Upstream],
    rules: Rules,
    now: datetime,
    *,
    purpose: str | None = None,
    territory: str | None = None,
    fitted_on: Sequence[Upstream] = (),
) -> Decision:
    """Decide on one use.

    Args:
        use: what is to be done; ``EDIT`` and ``MIX`` need leave for derivatives, ``PUBLISH`` for publication.
        upstream: every subject of the versions touched and of all their ancestors; empty = nobody is depicted.
        rules: what this registry does about the unknown.
        now: the instant the decision holds for.
        purpose: None = ``rules.purpose``.
        territory: where the use takes place; None = ``rules.territory``, and the whole world for ``PUBLISH``.
        fitted_on: subjects of the weight space worked in. Those whose consent has ended are warned about: a space is a
            statistic over many, and cannot forget one without a refit. Where the space itself is to leave
            (``LEAVING``), they deny it.
    """
    what = purpose or rules.purpose
    where = territory or (WORLD if use is Use.PUBLISH else rules.territory)
    reasons: list[Reason] = []
    warnings: list[Reason] = []
    relied: dict[str, str] = {}
    for source in upstream:
        covering, refusals = _asked(source, use, what, where, now, signed=rules.signed_consents)
        if covering is not None:
            relied[covering.record_id] = covering.digest()
            continue
        against = source.refuses or any(_speaks_against(record, use) for record in source.records)
        if use in rules.unknown and not against:
            warnings += refusals
        else:
            reasons += refusals
    for source in fitted_on:
        told = reasons if use in LEAVING else warnings
        ended: dict[ReasonCode, list[str]] = {}
        for record in source.records:
            if record.status in _ENDED:
                ended.setdefault(_ENDED[record.status], []).append(record.record_id)
        for code, ids in ended.items():
            many = "" if len(ids) == 1 else f", by {len(ids)} records"
            told.append(Reason(code, source.subject, ids[0], f"in the fit set of the weight space{many}"))
    return Decision(
        allowed=not reasons,
        use=use,
        purpose=what,
        at=now,
        reasons=tuple(dict.fromkeys(reasons)),
        relied_on=tuple(sorted(relied.items())) if not reasons else (),
        warnings=tuple(dict.fromkeys(warnings)),
    )


LEAVING = frozenset({Use.EXPORT, Use.PUBLISH})
"""Uses of a weight space by which it leaves, with what it says about everybody it was fitted on."""
_ENDED: Mapping[Status, ReasonCode] = {
    Status.WITHDRAWN: ReasonCode.WITHDRAWN,
    Status.INVALIDATED: ReasonCode.INVALIDATED,
}
_NOT_LIVE: Mapping[Status, ReasonCode] = {
    Status.REQUESTED: ReasonCode.REQUESTED,
    Status.EXPIRED: ReasonCode.EXPIRED,
    Status.DISPUTED: ReasonCode.DISPUTED,
    **_ENDED,
}


def _asked(
    source: Upstream, use: Use, purpose: str, territory: str | None, now: datetime, *, signed: bool
) -> tuple[ConsentRecord | None, list[Reason]]:
    """The first of a subject's records that allows the use, or why none does."""
    refusals: list[Reason] = []
    for record in source.records:
        refusal = _refusal(record, use, purpose, territory, source.derived, now, source.through)
        if refusal is None and signed and not is_signed(record):
            refusal = Reason(ReasonCode.UNSIGNED, record.subject, record.record_id, None, source.through)
        if refusal is None:
            return record, []
        refusals.append(refusal)
    if not refusals:
        code = ReasonCode.REFUSES if source.refuses else ReasonCode.NO_RECORD
        if source.subject is None:
            code = ReasonCode.NO_SUBJECT
        refusals = [Reason(code, source.subject, through=source.through)]
    return None, refusals


def _refusal(
    record: ConsentRecord, use: Use, purpose: str, where: str | None, derived: bool, now: datetime, through: str | None
) -> Reason | None:
    """The first reason why this record alone does not allow the use; None when it does."""
    scope = record.scope

    def no(code: ReasonCode, detail: str | None = None) -> Reason:
        return Reason(code, record.subject, record.record_id, detail, through)

    status = record.status_at(now)
    if status in _NOT_LIVE:
        return no(_NOT_LIVE[status])
    if scope.valid_from is not None and now < scope.valid_from:
        return no(ReasonCode.NOT_YET, f"from {scope.valid_from:%Y-%m-%d}")
    if use in scope.forbidden:
        return no(ReasonCode.FORBIDDEN_USE, use)
    if purpose in scope.forbidden:
        return no(ReasonCode.FORBIDDEN_PURPOSE, purpose)
    if scope.uses is not None and use not in scope.uses:
        return no(ReasonCode.USE, use)
    if not scope.any_purpose and purpose not in scope.purposes:
        return no(ReasonCode.PURPOSE, purpose)
    if (derived or use in DERIVING) and not scope.allows_derivatives:
        return no(ReasonCode.DERIVATIVES)
    if use is Use.PUBLISH and not scope.publication:
        return no(ReasonCode.PUBLICATION)
    if scope.territory is not None and (where is None or where == WORLD or not _inside(where, scope.territory)):
        return no(ReasonCode.TERRITORY, where or "the registry's territory is not set")
    return None


def is_signed(record: ConsentRecord) -> bool:
    """Whether the subject signed everything that a record grants."""
    if record.signature is None:
        return False
    try:
        return open_credential(record.signature).covers(record)
    except ValueError:
        return False


def _inside(where: str, territory: tuple[str, ...]) -> bool:
    return countries((where,)) <= countries(territory)


def _speaks_against(record: ConsentRecord, use: Use) -> bool:
    """Whether a record, live or not, takes ``use`` out of what the unknown may have done to them."""
    scope = record.scope
    return (
        record.status in {Status.WITHDRAWN, Status.INVALIDATED, Status.DISPUTED}
        or use in scope.forbidden
        or (scope.uses is not None and use not in scope.uses)
    )


_WORST_FIRST = (
    ConsentState.WITHDRAWN,
    ConsentState.INVALIDATED,
    ConsentState.EXPIRED,
    ConsentState.REQUESTED,
    ConsentState.UNKNOWN,
    ConsentState.GRANTED,
)


def subject_state(records: Iterable[ConsentRecord], now: datetime) -> ConsentState:
    """One word for one subject: granted when any record is live, else the gravest of what the records say."""
    found = {ConsentState.UNKNOWN}
    for record in records:
        status = record.status_at(now)
        if status is Status.GIVEN:
            begun = record.scope.valid_from is None or record.scope.valid_from <= now
            if begun:
                return ConsentState.GRANTED
            found.add(ConsentState.REQUESTED)
        elif status is Status.DISPUTED:
            found.add(ConsentState.UNKNOWN)
        else:
            found.add(ConsentState(status.value))
    return next(state for state in _WORST_FIRST if state in found)


def has_ended(records: Iterable[ConsentRecord], now: datetime) -> bool:
    """Whether a subject's consent is over or contested: no record is live, and one was withdrawn, invalidated or
    disputed, or has run out."""
    known = tuple(records)
    if any(record.status is Status.DISPUTED for record in known):
        return subject_state(known, now) is not ConsentState.GRANTED
    return subject_state(known, now) in (ConsentState.WITHDRAWN, ConsentState.INVALIDATED, ConsentState.EXPIRED)


def combined_state(states: Iterable[ConsentState]) -> ConsentState:
    """One word for everyone upstream: the gravest of theirs; ``not-needed`` when nobody is depicted."""
    found = set(states) - {ConsentState.NOT_NEEDED}
    return next((state for state in _WORST_FIRST if state in found), ConsentState.NOT_NEEDED)
