"""Everything about a subject: the answer to whoever asks what is held about them and what was done with it.

Every event that touches the subject, a version that depicts them (derivatives included), or a release, record or
withdrawal of theirs is in it; what an event says of others is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy.orm import Session

from w2w_registry.catalog import events as log
from w2w_registry.catalog.consents import withdrawals_of
from w2w_registry.catalog.depictions import depictions
from w2w_registry.catalog.event_log import Event
from w2w_registry.catalog.lookup import refs_of, versions_by_id
from w2w_registry.catalog.membership import spaces_fitted_with as _spaces
from w2w_registry.catalog.pictures import pictures_of
from w2w_registry.catalog.publications import releases_of
from w2w_registry.catalog.releases import Release
from w2w_registry.catalog.resolve import subject_by_id
from w2w_registry.catalog.subjects import Withdrawal
from w2w_registry.consent.records import ConsentRecord
from w2w_registry.records import counted
from w2w_registry.services.consent.grants import describe
from w2w_registry.services.consent.rows import load_records
from w2w_registry.services.registry import Registry, present

Row = dict[str, Any]
PARTS: Final = (
    "subject", "consent", "version", "operation", "picture", "release", "space", "refusal", "withdrawal", "event",
)  # fmt: skip
_MADE: Final = ("version.", "release.push", "search.sheet", "coordinates.", "file.")


def about_subject(registry: Registry, subject: str) -> list[Row]:
    """Rows of ``what`` (see ``PARTS``), ``kind``, ``id``, ``state``, ``at`` and ``details``.

    Raises:
        NotFound: no such subject.
    """
    with registry.catalog.read() as session:
        row = subject_by_id(session, subject)
        known = _Known.of(session, subject)
        out = [_row("subject", row.kind, row.id, row.state.value, row.created, row.kind)]
        out += _agreed(known, present(session))
        out += _made(session, known)
        out += [_row("space", "fit", s.ref, s.state.value, s.created, "fitted with") for s in _spaces(session, subject)]
        out += [_event(event, known) for event in _touching(session, known)]
    return out


@dataclass(frozen=True)
class _Known:
    """What belongs to a subject: records, versions (id -> whether only derived) with their names, releases,
    withdrawals."""

    subject: str
    records: tuple[ConsentRecord, ...]
    derived: Mapping[int, bool]
    refs: Mapping[int, str]
    releases: list[Release]
    withdrawals: list[Withdrawal]

    @classmethod
    def of(cls, session: Session, subject: str) -> _Known:
        derived = {one.version_id: one.derived for one in depictions(session, subject)}
        return cls(
            subject,
            tuple(load_records(session, [subject]).get(subject, ())),
            derived,
            {key: str(ref) for key, ref in refs_of(session, derived).items()},
            releases_of(session, derived),
            withdrawals_of(session, subject),
        )


def _agreed(known: _Known, at: datetime) -> Iterator[Row]:
    for record in known.records:
        shown = describe(record, at)
        terms = f"for {', '.join(shown['scope']['purposes'])}; until {shown['scope']['expires_at'] or 'withdrawn'}"
        given = record.events[-1].at if record.events else None
        yield _row("consent", "consent", record.record_id, shown["status"], given, terms)
    for one in known.withdrawals:
        done = "finished" if one.finished else f"at {one.phase}"
        yield _row("withdrawal", "withdraw", one.id, done, one.started, "with erasure" if one.erase else "")


def _made(session: Session, known: _Known) -> Iterator[Row]:
    for key, version in sorted(versions_by_id(session, known.derived).items()):
        made = "made from a model of the subject" if known.derived[key] else "depicts the subject"
        yield _row("version", "version", known.refs[key], version.state.value, version.created, made)
    for shown in pictures_of(session, sorted(known.derived)):
        picture = shown.picture
        said = f"mark {picture.mark:08x}" if picture.mark is not None else "too small to carry a number"
        told = f"event {picture.event_seq}"
        yield _row("picture", picture.operation, picture.digest, said, picture.made, told)
    for release in known.releases:
        told = f"{known.refs[release.version_id or 0]} at {release.commit_id[:12]}"
        yield _row("release", "publish", release.repo_id, release.state.value, release.created, told)


def _touching(session: Session, known: _Known) -> list[Event]:
    """Every event that names the subject or something of theirs, in order."""
    versions: set[int | str] = set(known.derived)
    named: dict[str, set[int | str]] = {
        "subject": {known.subject},
        "version": versions,
        "versions": versions,
        "release": {release.id for release in known.releases},
        "record": {record.record_id for record in known.records},
        "withdrawal": {one.id for one in known.withdrawals},
    }
    found: dict[int, Event] = {}
    for kind, ids in named.items():
        if ids:
            found.update((event.seq, event) for event in log.events_about(session, kind, ids))
    return [found[seq] for seq in sorted(found)]


def _event(event: Event, known: _Known) -> Row:
    """One event as far as it concerns the subject: their versions are named, nobody else's."""
    named = event.objects.get("version", event.objects.get("versions", ()))
    ids = named if isinstance(named, list) else [named]
    about = [known.refs[i] for i in ids if i in known.refs]
    told = ", ".join(about) if len(about) <= 3 else counted(len(about), "model")
    details = f"{told} by {event.actor}" if told else str(event.actor)
    if event.action == "consent.refuse":
        return _row("refusal", str(event.payload.get("use")), str(event.seq), event.action, event.at, details)
    if not event.action.startswith(_MADE):
        kind = event.action.partition(".")[2] or event.action
        return _row("event", kind, str(event.seq), event.action, event.at, details)
    if isinstance(event.payload.get("pictures"), int):
        details += f"; {counted(event.payload['pictures'], 'picture')}"
    if isinstance(event.payload.get("files"), list):
        details += f"; files {', '.join(event.payload['files'])}"
    return _row("operation", _kind(event), str(event.seq), event.action, event.at, details)


def _kind(event: Event) -> str:
    if event.action == "version.add":
        return str(event.payload.get("kind", "import"))
    if event.action == "release.push":
        return "publish"
    first, _, last = event.action.partition(".")
    return last if first == "version" else first


def _row(what: str, kind: str, key: str, state: str, at: Any, details: str) -> Row:
    return {"what": what, "kind": kind, "id": key, "state": state, "at": at, "details": details}
