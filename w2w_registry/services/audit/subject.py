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
from w2w_registry.catalog import holdings
from w2w_registry.catalog.consents import withdrawals_of
from w2w_registry.catalog.depictions import depictions
from w2w_registry.catalog.event_log import Event
from w2w_registry.catalog.lookup import refs_of, versions_by_id
from w2w_registry.catalog.membership import spaces_fitted_with
from w2w_registry.catalog.pictures import pictures_of
from w2w_registry.catalog.publications import releases_of
from w2w_registry.catalog.releases import Release
from w2w_registry.catalog.resolve import subject_by_id
from w2w_registry.catalog.spaces import Space
from w2w_registry.catalog.subjects import Withdrawal
from w2w_registry.consent.records import ConsentRecord, Status
from w2w_registry.records import counted, iso
from w2w_registry.services.consent.rows import load_records
from w2w_registry.services.consent.showing import describe
from w2w_registry.services.registry import Registry, present

Row = dict[str, Any]
PARTS: Final = (
    "subject", "consent", "evidence", "recipient", "version", "photo", "file", "measure", "reference", "operation",
    "picture", "release", "space", "refusal", "withdrawal", "event",
)  # fmt: skip
_MADE: Final = ("version.", "release.push", "search.sheet", "groups.sheet", "coordinates.", "file.", "fingerprint.")


def about_subject(registry: Registry, subject: str) -> list[Row]:
    """Rows of ``what`` (see ``PARTS``), ``kind``, ``id``, ``state``, ``at`` and ``details``.

    Raises:
        NotFound: no such subject.
    """
    with registry.catalog.read() as session:
        row = subject_by_id(session, subject)
        subject = row.id
        known = _Known.of(session, subject)
        out = [_row("subject", row.kind, row.id, row.state.value, row.created, row.kind)]
        out += _agreed(known, present(session))
        out += _made(session, known)
        out += _held(session, known)
        out += [_row("space", "fit", s.ref, s.state.value, s.created, "fitted with") for s in known.spaces]
        out += [_event(event, known) for event in _touching(session, known)]
    return out


@dataclass(frozen=True)
class _Known:
    """What belongs to a subject: records, versions (id -> whether only derived) with their names, identities, releases,
    withdrawals, spaces fitted with their models."""

    subject: str
    records: tuple[ConsentRecord, ...]
    derived: Mapping[int, bool]
    refs: Mapping[int, str]
    identities: frozenset[int]
    releases: list[Release]
    withdrawals: list[Withdrawal]
    spaces: list[Space]

    @classmethod
    def of(cls, session: Session, subject: str) -> _Known:
        derived = {one.version_id: one.derived for one in depictions(session, subject)}
        return cls(
            subject,
            tuple(load_records(session, [subject]).get(subject, ())),
            derived,
            {key: str(ref) for key, ref in refs_of(session, derived).items()},
            frozenset(v.identity_id for v in versions_by_id(session, derived).values()),
            releases_of(session, derived),
            withdrawals_of(session, subject),
            spaces_fitted_with(session, subject),
        )

    @property
    def own(self) -> list[int]:
        """Versions that depict the subject by themselves, not by what they were made of."""
        return sorted(key for key, derived in self.derived.items() if not derived)


def _agreed(known: _Known, at: datetime) -> Iterator[Row]:
    for record in known.records:
        shown = describe(record, at)
        given = next((e.at for e in record.events if e.status is Status.GIVEN), None)
        terms = f"for {', '.join(shown['scope']['purposes'])}; until {shown['scope']['expires_at'] or 'withdrawn'}"
        told = terms if given is None else f"{terms}; given {iso(given)[:19].replace('T', ' ')} UTC"
        last = record.events[-1].at if record.events else None
        yield _row("consent", "consent", record.record_id, shown["status"], given or last, told)
        if record.evidence_digest is not None:
            yield _row("evidence", "evidence", record.evidence_digest, "digest", given or last, record.record_id)
        for recipient in record.notice.recipients or ():
            yield _row("recipient", "recipient", recipient, shown["status"], given or last, record.record_id)
    for one in known.withdrawals:
        done = "finished" if one.finished else f"at {one.phase}"
        yield _row("withdrawal", "withdraw", one.id, done, one.started, "with erasure" if one.erase else "")


def _made(session: Session, known: _Known) -> Iterator[Row]:
    kept = versions_by_id(session, known.derived)
    for key, version in sorted(kept.items()):
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


def _held(session: Session, known: _Known) -> Iterator[Row]:
    """What is kept beside the models: photos by digest, files they came in, measures, references."""
    for photo in holdings.photos(session, known.own):
        yield _row("photo", photo.role, photo.digest or "erased", "used", photo.at, known.refs[photo.version_id])
    for file in holdings.files(session, sorted(known.derived)):
        told = f"{known.refs[file.version_id]}, {counted(file.size, 'byte')}"
        yield _row("file", file.format, file.sha256, "taken in", file.created, told)
    for version, what in holdings.measured(session, sorted(known.derived)):
        yield _row("measure", what, known.refs[version], "kept", None, "by which the model is known again")
    for reference in holdings.references(session, known.subject):
        told = f"refuses new models from a similarity of {reference.threshold:.3f} on"
        yield _row("reference", "do not recreate", str(reference.id), "kept", reference.created, told)


def _touching(session: Session, known: _Known) -> list[Event]:
    """Every event that names the subject or something of theirs, or changed one of their models, in order."""
    versions: set[int | str] = set(known.derived)
    named: dict[str, set[int | str]] = {
        "subject": {known.subject},
        "version": versions,
        "versions": versions,
        "identity": set(known.identities),
        "release": {release.id for release in known.releases},
        "record": {record.record_id for record in known.records},
        "withdrawal": {one.id for one in known.withdrawals},
    }
    changed = {"version": {str(key) for key in known.derived}}
    found = {event.seq: event for event in log.events_touching(session, named, changed)}
    spaces: set[int | str] = {space.id for space in known.spaces}
    if spaces:
        fits = log.events_touching(session, {"space": spaces}, {})
        found |= {event.seq: event for event in fits if event.action.startswith("space.")}
    return [found[seq] for seq in sorted(found)]


def _event(event: Event, known: _Known) -> Row:
    """One event as far as it concerns the subject: their versions are named, nobody else's."""
    named = _numbers(event.objects.get("version", event.objects.get("versions", ())))
    changed = [int(key) for table, key, *_ in event.changes if table == "version" and str(key).isdecimal()]
    about = [known.refs[i] for i in dict.fromkeys([*named, *changed]) if i in known.refs]
    told = ", ".join(about) if len(about) <= 3 else counted(len(about), "model")
    details = f"{told} by {event.actor}" if told else str(event.actor)
    subjects = event.objects.get("subject")
    others = subjects is not None and known.subject not in (subjects if isinstance(subjects, list) else [subjects])
    if others and not set(named) & set(known.refs):
        # What somebody else did with their own consent is theirs; that it changed this subject's model is not.
        return _row("event", "change", str(event.seq), "version.change", event.at, told)
    if event.action == "consent.refuse":
        return _row("refusal", str(event.payload.get("use")), str(event.seq), event.action, event.at, details)
    relied = event.payload.get("consent")
    if isinstance(relied, Mapping):
        mine = [r.record_id for r in known.records if r.record_id in relied.get("relied_on", {})]
        allowed = f"allowed by {', '.join(mine)}" if mine else "allowed"
        details += f"; {allowed} for {relied.get('purpose')}"
    if not event.action.startswith(_MADE):
        kind = event.action.partition(".")[2] or event.action
        return _row("event", kind, str(event.seq), event.action, event.at, details)
    if isinstance(event.payload.get("pictures"), int):
        details += f"; {counted(event.payload['pictures'], 'picture')}"
    if isinstance(event.payload.get("files"), list):
        details += f"; files {', '.join(event.payload['files'])}"
    return _row("operation", _kind(event), str(event.seq), event.action, event.at, details)


def _numbers(value: Any) -> list[int]:
    return [int(i) for i in (value if isinstance(value, list) else [value]) if str(i).isdecimal()]


def _kind(event: Event) -> str:
    if event.action == "version.add":
        return str(event.payload.get("kind", "import"))
    if event.action == "release.push":
        return "publish"
    first, _, last = event.action.partition(".")
    return last if first == "version" else first


def _row(what: str, kind: str, key: str, state: str, at: Any, details: str) -> Row:
    return {"what": what, "kind": kind, "id": key, "state": state, "at": at, "details": details}
