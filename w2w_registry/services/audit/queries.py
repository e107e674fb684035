"""Ready questions to the catalog and its log, each answered with plain rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy.orm import Session

from w2w_registry.catalog import lineage as walks
from w2w_registry.catalog.consents import subjects_in_order, unfinished_withdrawals
from w2w_registry.catalog.depictions import depicting_each
from w2w_registry.catalog.lookup import refs_of, versions_by_id
from w2w_registry.catalog.membership import fitted_models
from w2w_registry.catalog.models import (
    ReleaseState,
    Version,
    Withdrawal,
)
from w2w_registry.catalog.origins import made_versions, spaces_from_file, untold, versions_from_file
from w2w_registry.catalog.publications import list_releases, open_takedowns, releases_of
from w2w_registry.catalog.space_rows import all_spaces
from w2w_registry.catalog.where import parse_where
from w2w_registry.consent.policy import subject_state
from w2w_registry.consent.records import Use
from w2w_registry.errors import BadFile, UsageError
from w2w_registry.files import sha256_file
from w2w_registry.records import folded
from w2w_registry.services.audit import log as audit_log
from w2w_registry.services.audit import subject as subject_answer
from w2w_registry.services.consent import gate, resolve
from w2w_registry.services.consent.rows import load_records
from w2w_registry.services.consent.upstream import consent_states
from w2w_registry.services.registry import Registry, present

Rows = list[dict[str, Any]]
DAYS = 30
"""How far ahead ``expiring`` looks unless told otherwise."""
_FLAGS = {"actor": "by"}
_HEX = frozenset("0123456789abcdef")
_UP = (ReleaseState.PUBLISHED, ReleaseState.GATED, ReleaseState.TAKEDOWN_QUEUED)


@dataclass(frozen=True)
class Filters:
    """What narrows a question down: ``Question.takes`` says which it uses. ``days``: None is ``DAYS``."""

    subject: str | None = None
    photo: str | None = None
    days: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    actor: str | None = None
    action: str | None = None
    where: str | None = None
    limit: int | None = None

    def given(self) -> frozenset[str]:
        """The names of those that are set."""
        return frozenset(one.name for one in fields(self) if getattr(self, one.name) is not None)

    def only(self, question: str) -> Filters:
        """These without what the question does not use, for whoever asks several at once."""
        takes = QUESTIONS[question].takes | {"limit"}
        return replace(self, **dict.fromkeys(self.given() - takes))


def ask(registry: Registry, question: str, filters: Filters) -> Rows:
    """Answer one of ``QUESTIONS``, with at most ``filters.limit`` rows.

    Raises:
        UsageError: no such question, it needs a filter that is missing, or does not use one given.
        NotFound: no such subject. WhereError: ``filters.where`` does not parse.
    """
    if question not in QUESTIONS:
        raise UsageError(reason=f"unknown question {question!r}", hint=f"one of: {', '.join(sorted(QUESTIONS))}")
    unused = filters.given() - QUESTIONS[question].takes - {"limit"}
    if unused:
        names = " and ".join(f"[[{_FLAGS.get(name, name)}]]" for name in sorted(unused))
        raise UsageError(reason=f"the question {question!r} does not use {names}")
    return QUESTIONS[question].answer(registry, filters)[: filters.limit]


# -- the questions -----------------------------------------------------------------------------------
def about_subject(registry: Registry, filters: Filters) -> Rows:
    """Everything about a subject: see ``services.audit.subject``."""
    return subject_answer.about_subject(registry, _need(filters.subject, "subject", "[[subject]] ID"))


def from_photo(registry: Registry, filters: Filters) -> Rows:
    """Everything made from a photo (or any file) with this SHA-256, and what was made of that."""
    photo = _need(filters.photo, "photo", "[[photo]] SHA256|FILE")
    digest = photo.lower() if len(photo) == 64 and set(photo.lower()) <= _HEX else _sha256(photo)
    with registry.catalog.read() as session:
        starts = set(walks.made_with(session, digest))
        starts |= versions_from_file(session, digest)
        members = spaces_from_file(session, digest)
        spaces: Rows = [{"version": s.ref, "state": s.state.value, "steps": 0, "made_by": "fit"} for s in members]
        if not starts:
            return spaces
        reach = walks.descendants(session, sorted(starts))
        refs = refs_of(session, reach.depth)
        made = {key: operation.kind for key, (operation, _) in walks.operations_of(session, reach.depth).items()}
        return spaces + [
            {
                "version": str(refs[v.id]),
                "state": v.state.value,
                "steps": reach.depth[v.id],
                "made_by": made[v.operation_id],
            }
            for v in _versions(session, reach.depth)
        ]


def unconsented(registry: Registry, filters: Filters) -> Rows:
    """Releases that are up though somebody upstream has not agreed to publication, or does no more."""
    out: Rows = []
    with registry.catalog.read() as session:
        rows = [r for r in list_releases(session) if r.state in _UP]
        published = {r.version_id for r in rows if r.version_id is not None}
        refs = refs_of(session, published)
        decisions = gate.ask_each(registry, Use.PUBLISH, dict.fromkeys(sorted(published)), session=session)
        for row in reversed(rows):
            if row.version_id is None:
                continue
            decision = decisions[row.version_id]
            if not decision.allowed:
                out.append(
                    {
                        "repo": row.repo_id,
                        "version": str(refs[row.version_id]),
                        "state": row.state.value,
                        "codes": [str(r.code) for r in decision.reasons],
                        "reasons": [str(r) for r in decision.reasons],
                    }
                )
    return out


def expiring(registry: Registry, filters: Filters) -> Rows:
    """Consents that run out within ``days``, soonest first, with how many versions and releases hang on them."""
    out: Rows = []
    with registry.catalog.read() as session:
        at = present(session)
        until = at + timedelta(days=DAYS if filters.days is None else filters.days)
        subjects = [row.id for row in subjects_in_order(session)]
        soon = [
            (record, ends)
            for records in load_records(session, subjects, history=False).values()
            for record in records
            if (ends := record.scope.expires_at) is not None and at < ends <= until and record.status_at(at) == "given"
        ]
        depicting = depicting_each(session, {record.subject for record, _ in soon})
        releases = Counter(r.version_id for r in releases_of(session, {i for ids in depicting.values() for i in ids}))
        for record, ends in soon:
            ids = depicting[record.subject]
            out.append(
                {
                    "subject": record.subject,
                    "record": record.record_id,
                    "expires": ends,
                    "days": (ends - at).days,
                    "versions": len(ids),
                    "releases": sum(releases[i] for i in ids),
                }
            )
    return sorted(out, key=lambda row: (row["expires"], row["record"]))


def actions(registry: Registry, filters: Filters) -> Rows:
    """Who did what, between dates, by whom, of which kind (``consent.`` is every consent action): events as people read
    them (``EventRow``)."""
    rows = audit_log.events_list(
        registry,
        since=filters.since,
        before=filters.until,
        actor=filters.actor,
        action=filters.action,
        limit=filters.limit,
    )
    return [row.to_json() for row in rows]


def spaces(registry: Registry, filters: Filters) -> Rows:
    """Which weight spaces were fitted with whom: a row per space and subject."""
    with registry.catalog.read() as session:
        found: list[tuple[str, str | None, int]] = []
        for fitted in sorted(all_spaces(session), key=lambda space: space.id):
            members = fitted_models(session, fitted.id)
            sizes: Counter[str | None] = Counter(s for m in members for s in m.subjects or (None,))
            found += [
                (fitted.ref, subject, sizes[subject])
                for subject in sorted(sizes, key=lambda s: (s is None, s or ""))
                if filters.subject is None or folded(filters.subject) == folded(subject or "")
            ]
        records = load_records(session, {s for _, s, _ in found if s is not None}, history=False)
        at = present(session)
    return [
        {
            "space": space,
            "subject": subject,
            "members": size,
            "consent": None if subject is None else subject_state(records.get(subject, ()), at).value,
        }
        for space, subject, size in found
    ]


def mismatched(registry: Registry, filters: Filters) -> Rows:
    """Versions whose files or coordinates no longer match what was recorded."""
    from w2w_registry.services.provenance import verify  # it reads coordinates; the other questions read rows

    return verify.mismatched(registry)


UNEXPLAINED: Final = ("no input is recorded", "an input has no digest", "depicts a person, names no subject")
"""Why a version's origin is not known."""


def unexplained(registry: Registry, filters: Filters) -> Rows:
    """Versions of unknown origin: nothing went in, an input is unnamed, or a person without a subject."""
    out: Rows = []
    with registry.catalog.read() as session:
        rules = gate.rules_of(registry, session)
        for version, name, kind, empty, unnamed, unknown in untold(session, rules.likeness_kinds):
            why = [text for flag, text in zip((empty, unnamed, unknown), UNEXPLAINED, strict=True) if flag]
            out.append({"version": f"{name}@{version.number}", "made_by": kind, "why": why})
    return out


def withdrawals(registry: Registry, filters: Filters) -> Rows:
    """Withdrawals that are not finished, and takedowns still waiting, with what stopped them."""
    with registry.catalog.read() as session:
        open_rows = [session.get_one(Withdrawal, i) for i in unfinished_withdrawals(session)]
        out: Rows = [
            {
                "what": "withdrawal",
                "id": w.id,
                "state": f"after {w.phase}",
                "since": w.started,
                "about": w.subject_id,
                "why": None,
            }
            for w in open_rows
        ]
        waiting = open_takedowns(session)
        out += [
            {
                "what": "takedown",
                "id": t.id,
                "state": t.state.value,
                "since": t.created,
                "about": t.release.repo_id,
                "why": t.last_error,
            }
            for t in waiting
        ]
    return out


def held(registry: Registry, filters: Filters) -> Rows:
    """Versions that wait for somebody to decide whom they depict, the most serious first."""
    return [one.to_json() for one in resolve.held_versions(registry)]


def versions(registry: Registry, filters: Filters) -> Rows:
    """A free question in the ``--where`` language: versions that match, with provenance and consent."""
    expression = parse_where(_need(filters.where, "versions", "[[where]] EXPR"))
    with registry.catalog.read() as session:
        rows = made_versions(session, expression, filters.limit)
        states = consent_states(session, [v.id for v, _, _ in rows], present(session), gate.rules_of(registry, session))
        return [
            {
                "version": f"{name}@{version.number}",
                "state": version.state.value,
                "made_by": operation.kind,
                "agent": operation.agent,
                "at": version.created,
                "consent": states[version.id].value,
            }
            for version, name, operation in rows
        ]


@dataclass(frozen=True)
class Question:
    """A ready question: its answer, a heading for reports, the columns of its table, and the filters it uses besides
    ``limit``."""

    answer: Callable[[Registry, Filters], Rows]
    heading: str
    columns: tuple[str, ...]
    takes: frozenset[str] = frozenset()


QUESTIONS: Mapping[str, Question] = {
    "subject": Question(
        about_subject,
        "Everything about a subject",
        ("what", "kind", "id", "state", "at", "details"),
        frozenset({"subject"}),
    ),
    "photo": Question(
        from_photo, "Everything derived from a photo", ("version", "state", "steps", "made_by"), frozenset({"photo"})
    ),
    "unconsented": Question(unconsented, "Published without valid consent", ("repo", "version", "state", "reasons")),
    "expiring": Question(
        expiring,
        "Consent expiring",
        ("subject", "record", "expires", "days", "versions", "releases"),
        frozenset({"days"}),
    ),
    "actions": Question(
        actions,
        "Who did what",
        ("seq", "at", "actor", "action", "objects"),
        frozenset({"since", "until", "actor", "action"}),
    ),
    "spaces": Question(
        spaces,
        "Weight spaces and the people they were fitted with",
        ("space", "subject", "members", "consent"),
        frozenset({"subject"}),
    ),
    "mismatched": Question(mismatched, "Files that no longer match", ("version", "problems")),
    "unexplained": Question(unexplained, "Versions of unknown origin", ("version", "made_by", "why")),
    "withdrawals": Question(
        withdrawals, "Withdrawals and takedowns in progress", ("what", "id", "state", "since", "about", "why")
    ),
    "held": Question(
        held, "Held until somebody decides", ("version", "like", "by", "why", "false_alarm", "added_by", "since")
    ),
    "versions": Question(
        versions, "Versions that match", ("version", "state", "made_by", "agent", "at", "consent"), frozenset({"where"})
    ),
}


# -- parts -------------------------------------------------------------------------------------------
def _need(value: str | None, question: str, option: str) -> str:
    if value is None:
        raise UsageError(reason=f"the question {question!r} needs {option}")
    return value


_LARGEST = 16 << 30  # a whole checkpoint


def _sha256(photo: str) -> str:
    try:
        return sha256_file(photo, limit=_LARGEST)
    except BadFile as error:
        error.fields["hint"] = "give a file, or its SHA-256 in hex"
        raise


def _versions(session: Session, ids: Iterable[int]) -> list[Version]:
    found = versions_by_id(session, ids)
    return [found[i] for i in sorted(found)]
