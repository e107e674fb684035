"""Withdrawing consent: planned from the catalog, performed step by step, resumed where it stopped.

BLOCK is one transaction: records withdrawn, every version that depicts the subject (also through edits and mixes)
out of service, releases queued for takedown, the do-not-recreate reference made, and the withdrawal's row written
with its plan. Every later step can be done again without harm; the row's ``phase`` says which came last.
"""

from __future__ import annotations

import json
import secrets
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from w2w_registry.artifacts import sweep, write_atomic
from w2w_registry.catalog import erasure
from w2w_registry.catalog.artifact_refs import evidence_of, held
from w2w_registry.catalog.assets import SERVED
from w2w_registry.catalog.consents import furthest_withdrawal, reference_count, unfinished_withdrawals
from w2w_registry.catalog.events import events_touching
from w2w_registry.catalog.membership import spaces_fitted_with
from w2w_registry.catalog.models import (
    ConsentRecord,
    Subject,
    SubjectState,
    Version,
    Withdrawal,
)
from w2w_registry.catalog.pictures import pictures_of
from w2w_registry.catalog.resolve import subject_by_id
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.commands import command
from w2w_registry.consent import lifecycle, withdrawal
from w2w_registry.consent.policy import subject_state
from w2w_registry.consent.receipt import Left, withdrawal_markdown, withdrawal_receipt
from w2w_registry.consent.records import Status
from w2w_registry.consent.withdrawal import AffectedRelease, Step, Tombstone
from w2w_registry.errors import NotFound, storage_error
from w2w_registry.index.factory import kept_engines
from w2w_registry.records import ConsentState, Result, VersionState, digest_of, now
from w2w_registry.services.consent.affected import affected_releases, affected_versions
from w2w_registry.services.consent.receipts import check_language, words_of
from w2w_registry.services.consent.rows import load_records, move_record
from w2w_registry.services.consent.second_person import DECIDED, said_by_two
from w2w_registry.services.consent.subjects import unprotect, wake
from w2w_registry.services.consent.takedown_queue import UP_TO, queue
from w2w_registry.services.registry import Registry, present

_ABANDONED = 3600.0
"""Seconds after which a temporary folder that nothing touched is taken for one that a crash left."""
_OPEN = frozenset({Status.REQUESTED, Status.GIVEN, Status.EXPIRED, Status.DISPUTED})


def plan_withdrawal(
    registry: Registry, subject: str, *, erase: bool = False, protect: bool = True, language: str | None = None
) -> withdrawal.Withdrawal:
    """What ``withdraw`` would do now; nothing is changed.

    Raises:
        UsageError: no words for the language. NotFound: no such subject.
    """
    check_language(language)
    with registry.catalog.read() as session:
        return _plan(session, subject, erase=erase, protect=protect, language=language)


@dataclass(frozen=True, eq=False)
class Withdrawn(Result):
    """A withdrawal that was carried out: its ``receipt`` (JSON-LD), the same for people to read, and what stands for it
    from now on. ``already``: whether a withdrawal before had left nothing to do."""

    withdrawal: str
    receipt: dict[str, Any]
    markdown: str
    tombstone: dict[str, Any]
    already: bool = False


def withdraw(
    registry: Registry, subject: str, *, erase: bool = False, protect: bool = True, language: str | None = None
) -> Withdrawn:
    """Withdraw everything a subject ever granted, and act on it.

    A withdrawal of the subject that stopped half-way is finished first.

    Args:
        erase: coordinates, files, previews, caches and what is personal in the catalog go for good.
        protect: keep references of the likeness, by which the door refuses it from now on; False for a subject who asks
            that nothing be kept, which two people say: whoever is forgotten can be brought in again.
        language: the receipt's; None: that of the notice the subject was last given, where there are words for it.

    Raises:
        UsageError: no words for the language. NotFound: no such subject. SecondPersonNeeded, with nothing done.
        StorageError: a file could not be erased; run again to go on from there.
    """
    check_language(language)
    with registry.catalog.read() as session:
        subject = subject_by_id(session, subject).id
    for withdrawal_id in unfinished(registry, subject):
        resume(registry, withdrawal_id)
    with registry.catalog.write(registry.actor) as uow:
        plan = _plan(uow.session, subject, erase=erase, protect=protect, language=language)
        told: dict[str, Any] = {}
        if not protect:
            told = {"forget": True}
            told[DECIDED] = said_by_two(
                registry,
                uow.session,
                digest_of(["forget", subject, list(plan.records)]),
                f"forget what {subject} looks like",
                command("consent withdraw", subject, forget=True),
                hint="without [[forget]] the withdrawal takes effect at once",
            )
        done = _nothing_left(uow.session, plan)
        withdrawal_id = _block(registry, uow, plan, told) if done is None else done
    return replace(resume(registry, withdrawal_id), already=done is not None)


@dataclass(frozen=True, eq=False)
class Invalidated(Result):
    """Ids of records that never held; how many versions that blocked, and how many releases are to be taken down."""

    subject: str
    invalidated: list[str]
    blocked: int
    releases_queued: int


def invalidate(registry: Registry, subject: str, *, record_id: str | None = None) -> Invalidated:
    """The subject's consent (or one record of it) never held. When nothing live is left, what depicts the subject is
    blocked and its releases are queued for takedown.

    Raises:
        NotFound: no such subject or record.
    """
    with registry.catalog.write(registry.actor) as uow:
        subject = subject_by_id(uow.session, subject).id
        records = load_records(uow.session, [subject]).get(subject, ())
        chosen = [r for r in records if record_id in (None, r.record_id)]
        if not chosen:
            raise NotFound(what="consent record", name=record_id or subject)
        changed = [r for r in chosen if r.status is not Status.INVALIDATED]
        for record in changed:
            move_record(uow, lifecycle.invalidate(record, uow.now(), registry.actor))
        uow.session.flush()
        after = load_records(uow.session, [subject], history=False).get(subject, ())
        blocked: list[int] = []
        releases: list[AffectedRelease] = []
        if subject_state(after, present(uow.session)) is not ConsentState.GRANTED:
            versions = affected_versions(uow.session, subject)
            blocked = [v.version_id for v in versions if v.state in SERVED]
            uow.bulk_update(Version, blocked, {"state": VersionState.BLOCKED})
            releases = affected_releases(uow.session, [v.version_id for v in versions], erase=False)
        if changed or blocked:
            uow.event(
                "consent.invalidate",
                {"subject": subject, "record": [r.record_id for r in changed]},
                blocked=len(blocked),
            )
        queue(uow, [r.release_id for r in releases], UP_TO["hide"])
    return Invalidated(subject, [r.record_id for r in changed], len(blocked), len(releases))


def unfinished(registry: Registry, subject: str | None = None) -> list[str]:
    """Ids of withdrawals that were begun and not finished, oldest first."""
    with registry.catalog.read() as session:
        return unfinished_withdrawals(session, subject)


def resume(registry: Registry, withdrawal_id: str) -> Withdrawn:
    """Do what is left of a withdrawal. A finished one is left as it is."""
    steps: dict[Step, Callable[[Registry, str, withdrawal.Withdrawal], None]] = {
        Step.ERASE: _erase,
        Step.PURGE: _purge,
        Step.RECEIPT: _issue,
    }
    with registry.catalog.read() as session:
        row = session.get_one(Withdrawal, withdrawal_id)
        plan, phase = withdrawal.from_json(row.plan), row.phase
    for step in withdrawal.left(plan.steps, phase):
        steps[step](registry, withdrawal_id, plan)
    with registry.catalog.read() as session:
        kept = session.get_one(Withdrawal, withdrawal_id).receipt
    assert kept is not None
    return Withdrawn(**kept)


def write_receipt(done: Withdrawn, out: Path) -> None:
    """Write what ``withdraw`` returned: the text for a name in ``.md``, else the JSON.

    Raises:
        StorageError: it cannot be written.
    """
    text = done.markdown if out.suffix == ".md" else json.dumps(done.to_json(), indent=2, ensure_ascii=False) + "\n"
    write_atomic(out, text.encode())


# -- planning ----------------------------------------------------------------------------------------
def _plan(
    session: Session, subject: str, *, erase: bool, protect: bool, language: str | None = None
) -> withdrawal.Withdrawal:
    subject = subject_by_id(session, subject).id
    records = load_records(session, [subject], history=False).get(subject, ())
    versions = affected_versions(session, subject)
    ids = {v.version_id for v in versions}
    recipients = {r for record in records for r in record.notice.recipients or ()}
    told_in = [record.notice.language for record in records if record.notice.language]
    files = {digest for v in versions for digest in v.artifacts}
    return withdrawal.plan(
        subject,
        now(),
        records=[r.record_id for r in records if r.status in _OPEN],
        versions=versions,
        releases=affected_releases(session, sorted(ids), erase=erase),
        shared_artifacts=held(session, files, besides=ids, besides_subject=subject) if erase else (),
        spaces=[space.ref for space in spaces_fitted_with(session, subject)],
        recipients=recipients,
        language=language or (told_in or ["en"])[-1],
        erase=erase,
        protect=protect,
    )


def _nothing_left(session: Session, plan: withdrawal.Withdrawal) -> str | None:
    """Id of an earlier withdrawal (it may still be running elsewhere) that does all that this one would."""
    last = furthest_withdrawal(session, plan.subject)
    if last is None or plan.records or plan.releases:
        return None
    gone = {VersionState.ERASED} if plan.erase else {VersionState.BLOCKED, VersionState.REMOVED, VersionState.ERASED}
    if any(v.state not in gone for v in plan.versions) or (plan.erase and not last.erase):
        return None
    kept = reference_count(session, plan.subject)
    if kept and not plan.protect:
        return None
    could_protect = any(not v.derived and v.state != VersionState.ERASED for v in plan.versions)
    return last.id if not plan.protect or kept or not could_protect else None


# -- performing --------------------------------------------------------------------------------------
def _block(registry: Registry, uow: UnitOfWork, plan: withdrawal.Withdrawal, told: Mapping[str, Any]) -> str:
    """The first step. ``told``: what its event says besides. Returns the withdrawal's id."""
    session = uow.session
    records = load_records(session, [plan.subject]).get(plan.subject, ())
    for record in records:
        if record.record_id in plan.records:
            move_record(uow, lifecycle.withdraw(record, uow.now(), uow.actor))
    own = [v.version_id for v in plan.versions if not v.derived]
    if plan.protect:
        wake(uow, plan.subject)
    if plan.protect and own:
        from w2w_registry.services.consent.keeping import (
            keep_versions,  # it computes; a person without models needs none
        )

        keep_versions(registry, uow, plan.subject, own, {v.version_id for v in plan.versions})
    elif not plan.protect:
        unprotect(uow, plan.subject)
    active = [v.version_id for v in plan.versions if v.state in SERVED]
    uow.bulk_update(Version, active, {"state": VersionState.BLOCKED})
    row = session.get_one(Subject, plan.subject)
    if row.state is not SubjectState.ERASED:
        row.state = SubjectState.WITHDRAWN
    withdrawal_id = str(uuid.uuid4())
    uow.add(
        Withdrawal(
            id=withdrawal_id,
            subject_id=plan.subject,
            plan=_without_names(plan.to_json()),
            erase=plan.erase,
            phase=Step.BLOCK.value,
            started=uow.now(),
        )
    )
    uow.event(
        "consent.withdraw",
        {"subject": plan.subject, "withdrawal": withdrawal_id, "record": list(plan.records)},
        blocked=len(active),
        releases=len(plan.releases),
        erase=plan.erase,
        **told,
    )
    steps = UP_TO["delete" if plan.erase else "hide"]
    queue(uow, [r.release_id for r in plan.releases], steps, withdrawal_id=withdrawal_id)
    return withdrawal_id


def _erase(registry: Registry, withdrawal_id: str, plan: withdrawal.Withdrawal) -> None:
    """Take out of the catalog what says who the subject was; ids, digests and the graph's shape stay."""
    with registry.catalog.write(registry.actor) as uow:
        ids = [v.version_id for v in plan.versions]
        erasure.erase(uow, erasure.person(uow.session, plan.subject, ids))
        uow.session.get_one(Withdrawal, withdrawal_id).phase = Step.ERASE.value
        uow.event("consent.erase", {"subject": plan.subject, "withdrawal": withdrawal_id}, versions=len(ids))
    registry.catalog.scrub()


def _without_names(plan: dict[str, Any]) -> dict[str, Any]:
    """The plan as it is kept: identities' names can say who it was, and the row outlives an erasure."""
    versions = [{**v, "ref": f"version {v['id']}"} for v in plan["versions"]]
    return {**plan, "versions": versions}


def _purge(registry: Registry, withdrawal_id: str, plan: withdrawal.Withdrawal) -> None:
    """Delete files nobody else holds, kept evidence, and the index caches."""
    from w2w_registry.services.recording import gallery
    from w2w_registry.services.recording.nearest import forget_open

    ids = {v.version_id for v in plan.versions}
    with registry.catalog.read() as session:
        wanted = {*plan.purged_artifacts, *evidence_of(session, plan.subject)}
        kept = held(session, wanted, besides=ids, besides_subject=plan.subject)
    for digest in sorted(wanted - kept):
        registry.artifacts.remove(digest)
    # Which caches hold a version's vector cannot be told once its coordinates are gone; all are rebuilt when needed.
    for engine in kept_engines(registry.settings.index, registry.settings.index_dir):
        engine.drop()
    forget_open()
    sweep(registry.settings.temporary_dir, older_than=_ABANDONED)
    # Nor can it be told whom these learned from, show or name; they are made again when they are asked for.
    home = registry.settings
    for folder in (home.initializers_dir, home.training_dir, home.pictures_dir, home.answers_dir):
        _remove(folder)
    gallery.forget(registry)  # learned anew now: whoever asks next would have to wait for it
    with registry.catalog.write(registry.actor) as uow:
        stored = uow.keys(
            ConsentRecord, ConsentRecord.subject_id == plan.subject, ConsentRecord.evidence_stored.is_(True)
        )
        uow.bulk_update(ConsentRecord, stored, {"evidence_stored": False})
        uow.session.get_one(Withdrawal, withdrawal_id).phase = Step.PURGE.value
        uow.event(
            "consent.purge", {"subject": plan.subject, "withdrawal": withdrawal_id}, files=len(plan.purged_artifacts)
        )


def _issue(registry: Registry, withdrawal_id: str, plan: withdrawal.Withdrawal) -> None:
    with registry.catalog.write(registry.actor) as uow:
        row = uow.session.get_one(Withdrawal, withdrawal_id)
        if row.finished is not None:
            return  # another process resumed it too, and was first
        stone: Tombstone = withdrawal.tombstone(plan, secrets.token_hex(32))
        completed = uow.now()
        left = _given_out(uow.session, [v.version_id for v in plan.versions])
        row.receipt = {
            "withdrawal": withdrawal_id,
            "receipt": withdrawal_receipt(plan, stone, completed=completed, left=left),
            "markdown": withdrawal_markdown(plan, stone, completed=completed, left=left, words=words_of(plan.language)),
            "tombstone": dict(stone.__dict__),
        }  # a Withdrawn's fields
        row.phase, row.finished = Step.RECEIPT.value, completed
        subject = uow.session.get_one(Subject, plan.subject)
        if plan.erase:
            subject.state, subject.erased = SubjectState.ERASED, completed
        uow.event(
            "consent.withdrawn",
            {"subject": plan.subject, "withdrawal": withdrawal_id},
            tombstone=stone.digest(),
        )


def _given_out(session: Session, versions: Sequence[int]) -> list[Left]:
    """The pictures and files of these versions that left before, oldest first."""
    found = [
        Left("picture", p.picture.digest, p.picture.event_seq, p.picture.made) for p in pictures_of(session, versions)
    ]
    ids: set[int | str] = set(versions)
    for event in events_touching(session, {"version": ids}, {}) if ids else ():
        if event.action == "version.export":
            found += [Left("file", str(d), event.seq, event.at) for d in event.payload.get("files", ())]
    return sorted(found, key=lambda one: (one.event, one.digest))


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise storage_error(folder, error) from error
