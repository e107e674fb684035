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
from w2w_registry.catalog.holds import concerning
from w2w_registry.catalog.lookup import refs_of, versions_by_id
from w2w_registry.catalog.membership import spaces_fitted_with
from w2w_registry.catalog.pictures import pictures_of
from w2w_registry.catalog.publications import releases_of
from w2w_registry.catalog.releases import Release
from w2w_registry.catalog.resolve import subject_by_id
from w2w_registry.catalog.spaces import Space
from w2w_registry.catalog.subjects import Withdrawal
from w2w_registry.consent.records import ConsentRecord, Status
from w2w_registry.records import iso
from w2w_registry.services.audit.phrases import Said, said
from w2w_registry.services.consent.rows import load_records
from w2w_registry.services.consent.showing import describe
from w2w_registry.services.registry import Registry, present

Row = dict[str, Any]
PARTS: Final = (
    "subject", "consent", "evidence", "recipient", "version", "photo", "file", "measure", "reference", "hold",
    "operation", "picture", "release", "space", "refusal", "withdrawal", "event",
)  # fmt: skip
_MADE: Final = (
    "version.",
    "release.push",
    "search.sheet",
    "groups.sheet",
    "list.sheet",
    "coordinates.",
    "file.",
    "fingerprint.",
)


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
        out += _agreed(session, known, present(session))
        out += _made(session, known)
        out += _kept(session, known)
        out += _held(session, known)
        out += [_row("space", "fit", s.ref, s.state.value, s.created, said("fitted")) for s in known.spaces]
        touching = _touching(session, known)
        out += _shown_by(touching, known)
        out += [_event(event, known) for event in touching]
    return out


@dataclass(frozen=True)
class _Known:
    """What belongs to a subject: records (superseded ones too), versions (id -> whether only derived) with their
    names, identities, releases, withdrawals, spaces fitted with their models."""

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
            tuple(load_records(session, [subject], superseded=True).get(subject, ())),
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


def _agreed(session: Session, known: _Known, at: datetime) -> Iterator[Row]:
    replaced = {record.supersedes for record in known.records}
    stored, named = holdings.evidence_kept(session, known.subject), set[str]()
    current = {r for one in known.records if one.record_id not in replaced for r in one.notice.recipients or ()}
    for record in known.records:
        shown = describe(record, at)
        given = next((e.at for e in record.events if e.status is Status.GIVEN), None)
        purposes, until = ", ".join(shown["scope"]["purposes"]), record.scope.expires_at
        told = (
            said("terms_open", purposes=purposes)
            if until is None
            else said("terms", purposes=purposes, until=f"{until:%Y-%m-%d}")
        )
        if record.scope.forbidden:
            told = told.and_("except_for", purposes=", ".join(record.scope.forbidden))
        told = _terms(told, record)
        if given is not None:
            told = told.and_("given", at=iso(given)[:19].replace("T", " "))
        last = record.events[-1].at if record.events else None
        old = record.record_id in replaced
        state = said("replaced") if old else shown["status"]
        yield _row("consent", "consent", record.record_id, state, given or last, told)
        evidence = record.evidence_digest
        if evidence is not None and evidence not in named:
            named.add(evidence)
            kept = "kept" if evidence in stored else "digest"
            yield _row("evidence", "evidence", evidence, kept, given or last, record.record_id)
        for recipient in record.notice.recipients or ():
            if not old or recipient not in current:
                told = said("named_in", record=record.record_id)
                yield _row("recipient", "recipient", recipient, state, given or last, told)
    for one in known.withdrawals:
        done = said("finished") if one.finished else said("held_phase", phase=one.phase)
        yield _row("withdrawal", "withdraw", one.id, done, one.started, said("with_erasure") if one.erase else "")


def _terms(told: Said, record: ConsentRecord) -> Said:
    """What else was agreed to: uses, edits, publication, where, on what notice, for what."""
    scope = record.scope
    if scope.uses is not None:
        told = told.and_("only_uses", uses=", ".join(scope.uses) or "–")
    told = told.and_("edits_yes" if scope.allows_derivatives else "edits_no")
    told = told.and_("publication_yes" if scope.publication else "publication_no")
    if scope.territory is not None:
        told = told.and_("only_in", territory=", ".join(scope.territory))
    if record.notice.notice:
        told = told.and_("on_notice", notice=record.notice.notice)
    return told if record.compensation is None else told.and_("in_return", compensation=record.compensation)


def _made(session: Session, known: _Known) -> Iterator[Row]:
    kept = versions_by_id(session, known.derived)
    for key, version in sorted(kept.items()):
        made = said("derived") if known.derived[key] else said("depicts")
        yield _row("version", "version", known.refs[key], version.state.value, version.created, made)
    for shown in pictures_of(session, sorted(known.derived)):
        picture = shown.picture
        mark = said("no_number") if picture.mark is None else said("mark", mark=f"{picture.mark:08x}")
        told = said("event", seq=picture.event_seq)
        yield _row("picture", picture.operation, picture.digest, mark, picture.made, told)
    for key, version in sorted(kept.items()):
        if version.preview_digest is not None:
            state, told = said("kept_as_preview"), said("models", versions=known.refs[key])
            yield _row("picture", "kept_preview", version.preview_digest, state, version.created, told)
    for release in known.releases:
        told = said("at_commit", version=known.refs[release.version_id or 0], commit=release.commit_id[:12])
        yield _row("release", "publish", release.repo_id, release.state.value, release.created, told)


def _kept(session: Session, known: _Known) -> Iterator[Row]:
    """What is kept beside the models: photos by digest, files they came in, measures, references."""
    for photo in holdings.photos(session, known.own):
        yield _row("photo", photo.role, photo.digest or "erased", "used", photo.at, known.refs[photo.version_id])
    for file in holdings.files(session, sorted(known.derived)):
        told = said("file_of", version=known.refs[file.version_id], bytes=file.size)
        yield _row("file", file.format, file.sha256, "taken in", file.created, told)
    for version, what in holdings.measured(session, sorted(known.derived)):
        yield _row("measure", what, known.refs[version], "kept", None, said("known_again"))
    for reference in holdings.references(session, known.subject):
        told = said("refuses", threshold=f"{reference.threshold:.3f}")
        yield _row("reference", "do not recreate", str(reference.id), "kept", reference.created, told)


def _held(session: Session, known: _Known) -> Iterator[Row]:
    """Models of the subject that were held, and models of others that were because they resemble the subject's: those
    are not named."""
    for hold in concerning(session, known.derived):
        own, like = hold.version_id in known.refs, known.refs.get(hold.like_id or 0)
        near = {"by": hold.by, "score": "–" if hold.score is None else f"{hold.score:.3f}"}
        if hold.like_id is None:
            told = said("looked_at")
        elif like is not None:
            told = said("own_like_own" if own else "another_like_own", like=like, **near)
        else:
            told = said("own_like_another" if own else "another_held", **near)
        if hold.outcome is None:
            told = told.and_("held_open")
        elif hold.outcome == "same":
            mine = hold.same_as in known.refs
            told = told.and_("decided_same" if mine else "decided_same_other", resolver=hold.resolver)
        else:
            told = told.and_("decided_own" if own else "decided_distinct", resolver=hold.resolver)
        which = known.refs[hold.version_id] if own else str(hold.id)
        kind = "hold_own" if own else "hold_other"
        yield _row("hold", kind, which, hold.outcome or "open", hold.created, told)


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


def _shown_by(events: list[Event], known: _Known) -> Iterator[Row]:
    """The documents by which somebody said that models depict the subject."""
    for event in events:
        evidence = event.payload.get("evidence")
        if isinstance(evidence, str) and event.objects.get("subject") == known.subject:
            yield _row("evidence", "evidence", evidence, "digest", event.at, said("event", seq=event.seq))


def _event(event: Event, known: _Known) -> Row:
    """One event as far as it concerns the subject: their versions are named, nobody else's."""
    named = _numbers(event.objects.get("version", event.objects.get("versions", ())))
    changed = [int(key) for table, key, *_ in event.changes if table == "version" and str(key).isdecimal()]
    about = [known.refs[i] for i in dict.fromkeys([*named, *changed]) if i in known.refs]
    details = _who(about, str(event.actor))
    subjects = event.objects.get("subject")
    others = subjects is not None and known.subject not in (subjects if isinstance(subjects, list) else [subjects])
    if others and not set(named) & set(known.refs):
        # What somebody else did with their own consent is theirs; that it changed this subject's model is not.
        return _row("event", "change", str(event.seq), "version.change", event.at, _who(about))
    if event.action == "consent.refuse":
        return _row("refusal", str(event.payload.get("use")), str(event.seq), event.action, event.at, details)
    relied = event.payload.get("consent")
    if isinstance(relied, Mapping):
        mine = [r.record_id for r in known.records if r.record_id in relied.get("relied_on", {})]
        purpose = relied.get("purpose")
        details = (
            details.and_("allowed_by", records=", ".join(mine), purpose=purpose)
            if mine
            else details.and_("allowed", purpose=purpose)
        )
    if not event.action.startswith(_MADE):
        kind = event.action.partition(".")[2] or event.action
        return _row("event", kind, str(event.seq), event.action, event.at, details)
    if isinstance(event.payload.get("pictures"), int):
        details = details.and_("pictures", count=event.payload["pictures"])
    if isinstance(event.payload.get("files"), list):
        details = details.and_("files", files=", ".join(event.payload["files"]))
    return _row("operation", _kind(event), str(event.seq), event.action, event.at, details)


def _who(versions: list[str], actor: str | None = None) -> Said:
    """The models an event concerns, and who did it."""
    by = {} if actor is None else {"actor": actor}
    if not versions:
        return Said(*([("by_actor", by)] if by else []))
    ending = "_by" if by else ""
    if len(versions) > 3:
        return said(f"models_many{ending}", count=len(versions), **by)
    return said(f"model{ending}" if by else "models", versions=", ".join(versions), **by)


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
