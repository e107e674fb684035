"""The regulator's report: who is responsible, whether the log holds, and what was decided about people's consent."""

from __future__ import annotations

import platform
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy.orm import Session

from w2w_registry.artifacts import write_atomic
from w2w_registry.catalog import events as log
from w2w_registry.catalog import usage
from w2w_registry.catalog.event_log import Event
from w2w_registry.catalog.lookup import refs_of
from w2w_registry.catalog.policies import policies
from w2w_registry.catalog.publications import list_releases
from w2w_registry.errors import UsageError
from w2w_registry.records import Result, canonical_json, keyed
from w2w_registry.services.audit import log as audit_log
from w2w_registry.services.audit import queries
from w2w_registry.services.consent import subjects
from w2w_registry.services.consent.second_person import DECIDED, EVIDENCE, ONE
from w2w_registry.services.registry import Registry, current_schema, present
from w2w_registry.services.reports.regulator_rows import (
    ConsentMoved,
    Decided,
    DecidedAlone,
    Incident,
    Marked,
    PolicySince,
    Refused,
    SignedAt,
    StepDone,
    TakenDown,
)
from w2w_registry.services.reports.roi import LogHead
from w2w_registry.services.reports.words import LANGUAGES, render
from w2w_registry.version import __version__

FOLD: Final = 20
"""Rows above which a table is folded."""
ON_PAPER: Final = 50
"""Rows of a table that are printed; the page has them all."""
NAMED: Final = 3
"""Objects of an event that are named one by one."""
_STEPS: Final = {
    "consent.withdraw": "block", "consent.erase": "erase", "consent.purge": "purge", "consent.withdrawn": "receipt",
}  # fmt: skip
_INCIDENTS: Final = frozenset(
    {"clock.back", "clock.lost", "clock.off", "policy.ignored", "consent.dispute", "consent.invalidate"}
)
_SECTIONS: Final = ("unconsented", "expiring", "withdrawals", "mismatched", "unexplained", "spaces")


@dataclass(frozen=True)
class Period:
    """From ``since`` on, before ``until``; None is open."""

    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, eq=False)
class Software(Result):
    """What the report was written with."""

    registry: str = field(metadata=keyed("w2w-registry"))
    schema: str | None
    python: str


@dataclass(frozen=True, eq=False)
class Cover(Result):
    """Who reports on what, with which software, and the state of the log."""

    organisation: str | None
    controller: str | None
    contact: str | None
    since: datetime | None = field(metadata=keyed("from"))
    to: datetime | None
    author: str
    made: datetime
    versions: Software
    log: LogHead
    checkpoint: SignedAt | None
    policy: str | None


@dataclass(frozen=True, eq=False)
class Report(Result):
    """Everything the report says: rows of its tables, by what they are about."""

    cover: Cover
    verdict: audit_log.Verdict
    counts: list[usage.InState]
    events: dict[str, int]
    subjects: dict[str, int]
    subject_ids: dict[str, list[str]]
    policies: list[PolicySince]
    decisions: list[Decided]
    consents: list[ConsentMoved]
    refusals: list[Refused]
    lone: list[DecidedAlone]
    withdrawals_done: list[StepDone]
    takedowns: list[TakenDown]
    marking: list[Marked]
    incidents: list[Incident]
    sections: dict[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, eq=False)
class Written(Report):
    """The report, where it was written, and whether the log verifies."""

    path: str
    ok: bool


def report(registry: Registry, period: Period, *, days: int = 30) -> Report:
    """Everything the report says.

    Args:
        days: how far ahead expiring consents are listed.
    """
    verdict = audit_log.verify(registry)
    with registry.catalog.read() as session:
        at = present(session)
        size, head = usage.head(session)
        notes = log.stored_checkpoints(session)
        counts = usage.rows_by_state(session)
        kept = policies(session)
        told = _Told(session)
        for event in log.events(session, since=period.since, before=period.until):
            told.add(event)
        named = told.names()
        decisions, consents = told.decisions(), told.consents()
        refusals, lone = told.refusals(named), told.lone(named)
        withdrawn = _withdrawals(session, period)
        takedowns = _takedowns(session, period)
    people = subjects.list_subjects(registry)
    filters = queries.Filters(days=days)
    return Report(
        cover=Cover(
            organisation=registry.settings.organisation.get("name"),
            controller=registry.settings.organisation.get("controller"),
            contact=registry.settings.organisation.get("contact"),
            since=period.since,
            to=period.until,
            author=registry.actor,
            made=at,
            versions=Software(__version__, current_schema(registry.settings).schema, platform.python_version()),
            log=LogHead(size, head),
            checkpoint=_checkpoint(registry, notes),
            policy=kept[-1].digest if kept else None,
        ),
        verdict=verdict,
        counts=counts,
        events=dict(sorted(told.actions.items())),
        subjects={state: len(ids) for state, ids in _by_state(people).items()},
        subject_ids=_by_state(people),
        policies=[PolicySince(p.since, p.digest, dict(p.rules)) for p in kept],
        decisions=decisions,
        consents=consents,
        refusals=refusals,
        lone=lone,
        withdrawals_done=withdrawn,
        takedowns=takedowns,
        marking=told.marking(),
        incidents=told.incidents(),
        sections={name: queries.ask(registry, name, filters.only(name)) for name in _SECTIONS},
    )


def write(registry: Registry, out: Path, period: Period, *, days: int = 30, language: str = "en") -> Written:
    """Write the report as ``.html`` or ``.md``.

    Raises:
        UsageError: another kind of file or language, or a period that ends before it begins. StorageError.
    """
    if out.suffix not in (".html", ".md"):
        raise UsageError(reason=f"a report is .html or .md, not {out.suffix or out.name!r}")
    if language not in LANGUAGES:
        raise UsageError(reason=f"unknown language {language!r}", hint=f"one of: {', '.join(LANGUAGES)}")
    if period.since is not None and period.until is not None and period.until <= period.since:
        raise UsageError(reason="the period ends before it begins")
    told = report(registry, period, days=days)
    text = render(f"regulator{out.suffix}", language, told=told, tables=tables(told), fold=FOLD, on_paper=ON_PAPER)
    write_atomic(out, text.encode())
    return Written(**told, path=str(out), ok=told.verdict.ok)


def tables(told: Report) -> list[dict[str, Any]]:
    """The report's tables, in order: key of the heading, columns, rows."""
    found: list[tuple[str, Sequence[str], Iterable[Mapping[str, Any]]]] = [
        ("counts", ("what", "state", "count"), told.counts),
        ("subjects", ("state", "count", "ids"), _state_rows(told)),
        ("policies", ("since", "digest", "rules"), told.policies),
        ("decisions", ("use", "decision", "policy", "count"), told.decisions),
        ("refusals", ("seq", "at", "actor", "use", "about", "reasons"), told.refusals),
        ("consents", ("action", "policy", "count"), told.consents),
        ("lone", ("seq", "at", "actor", "action", "about", "on", "evidence"), told.lone),
        ("unconsented", queries.QUESTIONS["unconsented"].columns, told.sections["unconsented"]),
        ("withdrawals_done", ("subject", "started", "erase", "step", "at", "seconds"), told.withdrawals_done),
        ("withdrawals", queries.QUESTIONS["withdrawals"].columns, told.sections["withdrawals"]),
        ("takedowns", ("release", "queued", "done", "seconds"), told.takedowns),
        ("marking", ("action", "pictures", "seen", "numbered", "off"), told.marking),
        ("incidents", ("seq", "at", "last", "count", "actor", "action", "details"), told.incidents),
        ("expiring", queries.QUESTIONS["expiring"].columns, told.sections["expiring"]),
        ("mismatched", queries.QUESTIONS["mismatched"].columns, told.sections["mismatched"]),
        ("unexplained", queries.QUESTIONS["unexplained"].columns, told.sections["unexplained"]),
        ("spaces", queries.QUESTIONS["spaces"].columns, told.sections["spaces"]),
        ("events", ("action", "count"), [{"action": a, "count": n} for a, n in told.events.items()]),
    ]
    return [{"key": key, "columns": columns, "rows": list(rows)} for key, columns, rows in found]


class _Told:
    """What the events of the period say, gathered in one pass."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.actions: Counter[str] = Counter()
        self._decided: Counter[tuple[str, str, str | None]] = Counter()
        self._consents: Counter[tuple[str, str | None]] = Counter()
        self._marked: dict[str, Counter[str]] = defaultdict(Counter)
        self._refused: list[Event] = []
        self._lone: list[Event] = []
        self._incidents: dict[str, Incident] = {}

    def add(self, event: Event) -> None:
        self.actions[event.action] += 1
        relied = event.payload.get("consent")
        if isinstance(relied, Mapping):
            self._decided[str(relied.get("use")), "allowed", event.policy] += 1
        if event.action == "consent.refuse":
            self._decided[str(event.payload.get("use")), "refused", event.policy] += 1
            self._refused.append(event)
        elif event.action.startswith("consent."):
            self._consents[event.action, event.policy] += 1
        if event.payload.get(DECIDED) in (ONE, EVIDENCE):
            self._lone.append(event)
        marking = event.payload.get("marking")
        if isinstance(marking, Mapping):
            sums = self._marked[event.action]
            for key in ("pictures", "seen", "numbered"):
                sums[key] += int(marking.get(key, 0))
            sums["off"] += 0 if marking.get("on") else int(marking.get("pictures", 0))
        if event.action in _INCIDENTS:
            said = {k: v for k, v in event.payload.items() if k != "note"}
            details = said | dict(event.objects)
            key = canonical_json([event.actor, event.action, details])  # the same again is one row
            new = Incident(event.seq, event.at, event.at, 0, event.actor, event.action, details)
            known = self._incidents.get(key, new)
            self._incidents[key] = replace(known, last=event.at, count=known.count + 1)

    def incidents(self) -> list[Incident]:
        """What went wrong, each with how often, first and last."""
        return list(self._incidents.values())

    def names(self) -> Callable[[Event], str]:
        """What each event that is listed one by one is about."""
        return _names(self._session, [*self._refused, *self._lone])

    def decisions(self) -> list[Decided]:
        """What was decided, with the policy it was decided under."""
        return [Decided(*key, count) for key, count in sorted(self._decided.items(), key=_order)]

    def consents(self) -> list[ConsentMoved]:
        """What happened to consents, with the policy it was decided under."""
        return [ConsentMoved(*key, count) for key, count in sorted(self._consents.items(), key=_order)]

    def refusals(self, named: Callable[[Event], str]) -> list[Refused]:
        """What was refused, one by one."""
        return [
            Refused(
                seq=event.seq,
                at=event.at,
                actor=event.actor,
                use=event.payload.get("use"),
                about=named(event),
                reasons=[str(r.get("code")) for r in event.payload.get("reasons", ())],
            )
            for event in self._refused
        ]

    def lone(self, named: Callable[[Event], str]) -> list[DecidedAlone]:
        """What one person decided alone, one by one."""
        return [
            DecidedAlone(
                seq=event.seq,
                at=event.at,
                actor=event.actor,
                action=event.action,
                about=named(event),
                on=f"on_{event.payload[DECIDED]}",
                evidence=event.payload.get("evidence"),
            )
            for event in self._lone
        ]

    def marking(self) -> list[Marked]:
        """Pictures that left, by the kind of event that let them, and how many carried which mark."""
        return [Marked(action, **dict(sums)) for action, sums in sorted(self._marked.items())]


def _order(item: tuple[tuple[str | None, ...], int]) -> tuple[str, ...]:
    return tuple(str(part) for part in item[0])


def _names(session: Session, events: Sequence[Event]) -> Callable[[Event], str]:
    """What an event is about: the names that ids stand for, a few of many models, whom it concerns."""
    ids = {int(i) for event in events for i in _listed(event.objects.get("version"))}
    refs = {key: str(ref) for key, ref in refs_of(session, ids).items()}

    def about(event: Event) -> str:
        versions = [refs.get(int(i), f"#{i}") for i in _listed(event.objects.get("version"))]
        named = versions[:NAMED] + ([f"+{len(versions) - NAMED}"] if len(versions) > NAMED else [])
        return ", ".join([*named, *map(str, _listed(event.objects.get("subject")))])

    return about


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [] if value is None else [value]


def _by_state(people: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in people:
        state = row["consent"] if row["state"] == "active" else row["state"]
        found.setdefault(str(state), []).append(str(row["subject"]))
    return {state: sorted(found[state]) for state in sorted(found)}


def _state_rows(told: Report) -> list[dict[str, Any]]:
    return [{"state": s, "count": len(ids), "ids": ids} for s, ids in told.subject_ids.items()]


def _within(period: Period, at: datetime) -> bool:
    return (period.since is None or at >= period.since) and (period.until is None or at < period.until)


def _withdrawals(session: Session, period: Period) -> list[StepDone]:
    """A row for each step of each withdrawal that began in the period."""
    started: dict[str, Event] = {}
    rows = []
    for event in log.events(session, action="consent."):
        key, step = event.objects.get("withdrawal"), _STEPS.get(event.action)
        if key is None or step is None:
            continue
        first = started.setdefault(str(key), event)
        if _within(period, first.at):
            rows.append(
                StepDone(
                    withdrawal=key,
                    subject=event.objects.get("subject"),
                    started=first.at,
                    erase=bool(first.payload.get("erase")),
                    step=step,
                    at=event.at,
                    seconds=(event.at - first.at).total_seconds(),
                )
            )
    return sorted(rows, key=lambda row: (row.started, row.withdrawal, row.at))


def _takedowns(session: Session, period: Period) -> list[TakenDown]:
    """Every takedown begun in the period."""
    rows: dict[str, TakenDown] = {}
    repos = {release.id: release.repo_id for release in list_releases(session)}
    for event in log.events(session, action="takedown."):
        for key in map(str, _listed(event.objects.get("takedown"))):
            if event.action == "takedown.queue" and _within(period, event.at):
                ids = _listed(event.objects.get("release"))
                named = ", ".join(f"{repos[i]} (release {i})" if i in repos else f"release {i}" for i in ids)
                rows[key] = TakenDown(key, named, event.at)
            elif event.action == "takedown.done" and key in rows:
                took = (event.at - rows[key].queued).total_seconds()
                rows[key] = replace(rows[key], done=event.at, seconds=took)
    return list(rows.values())


def _checkpoint(registry: Registry, notes: Sequence[log.StoredCheckpoint]) -> SignedAt | None:
    if not notes:
        return None
    key = audit_log.own_key(registry)
    last = notes[-1]
    return SignedAt(last.size, last.at, last.note, None if key is None else key.hex())
