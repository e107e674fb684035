"""Consents that come with a pulled release: believed only from a source this registry trusts.

Anybody can write a ``consent.json``. What it says becomes a consent here only when the release is signed by a trusted
key, or the repo belongs to the account (or an organisation of it) that pulls, or to an owner named in registry.toml
(``[hub] trusted = ["acme"]``). Records this registry already holds always stand as they are: a release cannot bring
back what was withdrawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from w2w_registry.catalog.consents import any_record
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.commands import command
from w2w_registry.consent.policy import combined_state, subject_state
from w2w_registry.consent.records import ConsentEvent, ConsentRecord, Notice, Status, from_json
from w2w_registry.errors import BadFile, HubError
from w2w_registry.hub.addresses import address_of, owner_of
from w2w_registry.hub.api import Hub
from w2w_registry.hub.bundle import decode_consent
from w2w_registry.records import ConsentState, digest_of
from w2w_registry.services.consent.rows import insert_record
from w2w_registry.services.recording.policies import hub_trust
from w2w_registry.services.recording.subjects import ensure_subject
from w2w_registry.services.registry import Registry, present

_STATUS = {
    "dpv:ConsentRequested": (Status.REQUESTED, "request"),
    "dpv:ConsentGiven": (Status.GIVEN, "grant"),
    "dpv:ConsentExpired": (Status.EXPIRED, "expire"),
    "dpv:ConsentUnknown": (Status.DISPUTED, "dispute"),
    "dpv:ConsentWithdrawn": (Status.WITHDRAWN, "withdraw"),
    "dpv:ConsentInvalidated": (Status.INVALIDATED, "invalidate"),
}


@dataclass(frozen=True)
class Restored:
    """Records that came along, one tuple per subject depicted, none of them written yet; read ``at`` (None: none)."""

    subjects: tuple[tuple[ConsentRecord, ...], ...] = ()
    warnings: tuple[str, ...] = ()
    at: datetime | None = None

    @property
    def state(self) -> str:
        """What they amount to, for a dry run."""
        if self.at is None:
            return str(ConsentState.UNKNOWN)
        return str(combined_state(subject_state(records, self.at) for records in self.subjects))

    def depicts(self, session: Session) -> list[str]:
        """The subjects depicted, as ``write`` will know them."""
        return [self._subject(session, records) for records in self.subjects]

    @staticmethod
    def _subject(session: Session, records: Sequence[ConsentRecord]) -> str:
        held = any_record(session, [r.record_id for r in records])
        return records[0].subject if held is None else held.subject_id

    def write(self, uow: UnitOfWork) -> list[str]:
        """Add what this registry does not hold, inside the caller's transaction; returns the subjects depicted."""
        found = []
        for records in self.subjects:
            ids = [r.record_id for r in records]
            held = any_record(uow.session, ids)
            if held is not None:
                found.append(held.subject_id)
                continue
            ensure_subject(uow, records[0].subject)
            for record in records:
                insert_record(uow, record)
                uow.event(
                    "consent.restore", {"subject": record.subject, "record": record.record_id}, digest=record.digest()
                )
            found.append(records[0].subject)
        return found


def restore(registry: Registry, data: bytes | None, repo_id: str, *, believed: bool) -> Restored:
    """Read ``consent.json`` of a repo; empty, with a warning, when it is not to be trusted.

    Args:
        believed: a key this registry trusts signed the release, or the repo is the puller's own.

    Raises:
        BadFile: it is broken.
    """
    if data is None:
        return Restored()
    where = f"{address_of(repo_id)}/consent.json"
    state, receipts = decode_consent(data, where)
    owner = owner_of(repo_id)
    if not believed and owner not in _trusted(registry):
        return Restored(
            warnings=(
                f"its consent.json says {state}, which is not taken over: {owner} is not trusted; record the consent"
                f' with `{command("consent grant")}`, or write [hub] trusted = ["{owner}"] in registry.toml and run'
                f" `{command('policy set')}`",
            )
        )
    with registry.catalog.read() as session:
        at = present(session)
    subjects = []
    for receipt in receipts:
        if not receipt["records"]:
            continue
        # Whose records they are is not in the file; records of one subject stay together under one new id.
        subject = f"hub-{digest_of(sorted(str(_table(r, where)['identifier']) for r in receipt['records']))[:12]}"
        subjects.append(tuple(_record(_table(r, where), subject, at, where) for r in receipt["records"]))
    return Restored(tuple(subjects), at=at if subjects else None)


def _trusted(registry: Registry) -> list[str]:
    named = hub_trust(registry).get("trusted", [])
    return [str(n) for n in named] if isinstance(named, list) else []


def owns(hub: Hub, repo_id: str) -> bool:
    """Whether the repo belongs to the token's account or one of its organisations; False without a token."""
    try:
        account = hub.whoami()
    except HubError as error:
        if error.fields.get("status") in (None, 401, 403) and not _unreachable(error):
            return False
        raise
    return repo_id.split("/")[0] in (account.name, *account.orgs)


def _unreachable(error: HubError) -> bool:
    return error.fields.get("status") is None and error.fields.get("reason") != "no token"


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not isinstance(value.get("identifier"), str) or len(value["identifier"]) > 36:
        raise BadFile(path=where, reason="a record without an identifier")
    return value


def _record(data: Mapping[str, Any], subject: str, at: datetime, where: str) -> ConsentRecord:
    try:
        status, kind = _STATUS[data["status"]]
        plain = from_json(
            {
                "record_id": data["identifier"],
                "subject": subject,
                "status": str(status),
                "scope": data["scope"],
                "notice": asdict(Notice()),
                "events": [],
            }
        )
        digest = str(data["digest"])
        if len(digest) != 64:
            raise ValueError("digest")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadFile(path=where, reason=f"a record that is broken ({type(error).__name__})") from None
    event = ConsentEvent(kind, status, at, "hub", method="restored from a release", note_digest=digest)
    return ConsentRecord(plain.record_id, subject, status, plain.scope, plain.notice, events=(event,))
