"""Receipts for people and machines: JSON-LD in the words of W3C DPV and ISO/IEC TS 27560, and Markdown.

A receipt holds ids and digests only, so it can be published beside a model (``consent.json``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

from w2w_registry.consent import dpv
from w2w_registry.consent.records import ConsentRecord, Use, to_json
from w2w_registry.consent.withdrawal import Tombstone, Withdrawal, remains
from w2w_registry.records import counted, iso

CONTEXT: dict[str, Any] = {
    "dpv": "https://w3id.org/dpv#",
    "eu-gdpr": "https://w3id.org/dpv/legal/eu/gdpr#",
    "dct": "http://purl.org/dc/terms/",
    "w2w": "urn:w2w-registry:terms#",
    "identifier": "dct:identifier",
    "subject": "dpv:hasDataSubject",
    "status": {"@id": "dpv:hasConsentStatus", "@type": "@id"},
    "has_purpose": {"@id": "dpv:hasPurpose", "@type": "@id"},
    "has_processing": {"@id": "dpv:hasProcessing", "@type": "@id"},
    "has_personal_data": {"@id": "dpv:hasPersonalData", "@type": "@id"},
    "has_legal_basis": {"@id": "dpv:hasLegalBasis", "@type": "@id"},
    "has_right": {"@id": "dpv:hasRight", "@type": "@id"},
    "indicated_by": {"@id": "dpv:isIndicatedBy", "@type": "@id"},
    "controllers": "dpv:hasDataController",
    "recipients": "dpv:hasRecipient",
    "notice": "dpv:hasNotice",
    "jurisdiction": "dpv:hasJurisdiction",
    "storage_location": "dpv:hasLocation",
    "retention": "dpv:hasStorageCondition",
    "language": "dct:language",
    "issued": "dct:issued",
    "conforms_to": {"@id": "dct:conformsTo", "@type": "@id"},
    "withdrawal_method": "dpv:hasConsentControl",
}
"""JSON-LD context; terms it does not list are this project's own and are left to ``w2w:``."""

PROFILE = "https://w3id.org/dpv/schema/dpv-27560#receipt-record"
"""DPV's named profile of ISO/IEC TS 27560: a receipt that is a copy of the consent record."""


def receipt(record: ConsentRecord, now: datetime, withdraw: str | None = None) -> dict[str, Any]:
    """The receipt of one record as JSON-LD; ``record`` inside is the record bit for bit (``digest`` is its digest).

    ``withdraw``: how the subject can withdraw today, said where the record itself does not. ``has_…`` says in DPV's
    terms what ``purposes``, the uses and ``data_types`` say in ours, as far as it has terms (``consent.dpv``).
    """
    full = to_json(record)
    way = {} if withdraw is None else {"withdrawal_method": withdraw}
    return {
        "@context": {**CONTEXT, "@vocab": "urn:w2w-registry:terms#"},
        "@type": "dpv:ConsentReceipt",
        "conforms_to": [PROFILE],
        "identifier": record.record_id,
        "schema_version": record.schema_version,
        "issued": iso(now),
        "subject": record.subject,
        "status": f"dpv:{dpv.STATUS[record.status_at(now)]}",
        "purposes": list(record.scope.purposes),
        "has_purpose": dpv.terms(record.scope.purposes, dpv.PURPOSE),
        "has_processing": dpv.terms(Use if record.scope.uses is None else record.scope.uses, dpv.PROCESSING),
        "has_personal_data": dpv.terms(record.notice.data_types or (), dpv.DATA),
        "has_legal_basis": f"dpv:{dpv.LEGAL_BASIS}",
        "has_right": list(dpv.RIGHTS),
        "indicated_by": f"dpv:{dpv.SUBJECT if record.guardian is None else dpv.GUARDIAN}",
        "digest": record.digest(),
        **way,
        **{k: v for k, v in full["notice"].items() if (k in CONTEXT or k == "data_types") and v is not None},
        "record": full,
    }


def public_consent(records: Sequence[ConsentRecord], now: datetime) -> dict[str, Any]:
    """What goes with a published model: per record its id, digest, status and scope; no subject, no evidence."""
    return {
        "@context": {**CONTEXT, "@vocab": "urn:w2w-registry:terms#"},
        "issued": iso(now),
        "records": [
            {
                "@type": "dpv:ConsentRecord",
                "identifier": record.record_id,
                "digest": record.digest(),
                "status": f"dpv:{dpv.STATUS[record.status_at(now)]}",
                "scope": to_json(record)["scope"],
            }
            for record in sorted(records, key=lambda r: r.record_id)
        ],
    }


WAY_TO_WITHDRAW = "write to {contact}; no reasons are needed"
"""The way that ``[organisation]`` gives where nobody wrote down another."""

_KEEP = (
    "Issued {at}. It says what was agreed to, how to take it back, and who answers for it. "
    "The digest proves what was recorded."
)
_FOR_OPERATORS = "The commands are for whoever runs this registry; ask them to run one for you."


def _moment(at: datetime) -> str:
    return f"{iso(at)[:19].replace('T', ' ')} UTC"


def receipt_markdown(
    record: ConsentRecord, now: datetime, withdraw: str | None = None, words: Mapping[str, str] = MappingProxyType({})
) -> str:
    """The receipt for reading; ``withdraw`` as in ``receipt``. ``words``: another language's for these."""

    def say(text: str) -> str:
        return words.get(text, text)

    scope, notice, none = record.scope, record.notice, say("none recorded")
    yes, no = say("allowed"), say("not allowed")

    def listed(values: tuple[str, ...] | None) -> str:
        return none if values is None else ", ".join(map(say, values)) or say("none")

    rows = [
        ("Record", record.record_id),
        ("Subject", record.subject),
        ("Given by", record.guardian or say("the subject")),
        ("State", say(record.status_at(now))),
        ("Purposes", listed(scope.purposes)),
        ("Uses", say("all the purposes need") if scope.uses is None else listed(scope.uses)),
        ("Not allowed", listed(scope.forbidden) if scope.forbidden else "–"),
        ("Edits and mixes", yes if scope.allows_derivatives else no),
        ("Publication", yes if scope.publication else no),
        ("Territory", say("worldwide") if scope.territory is None else ", ".join(scope.territory)),
        ("From", _day(scope.valid_from) or say("at once")),
        ("Until", _day(scope.expires_at) or say("until withdrawn")),
        ("Compensation", record.compensation or none),
        ("Notice", notice.notice or none),
        ("Controllers", listed(notice.controllers)),
        ("Recipients", listed(notice.recipients)),
        ("Data", listed(notice.data_types)),
        ("Kept where", notice.storage_location or none),
        ("Retention", notice.retention or none),
        ("Jurisdiction", notice.jurisdiction or none),
        ("Evidence (SHA-256)", record.evidence_digest or none),
        ("To withdraw", _way(notice.withdrawal_method or withdraw, say) or none),
        ("Digest", record.digest()),
    ]
    lines = [
        f"# {say('Consent receipt')} {record.record_id}",
        "",
        say(_KEEP).format(at=_moment(now)),
        "",
        "| | |",
        "| --- | --- |",
    ]
    lines += [f"| {say(name)} | {_cell(str(value))} |" for name, value in rows]
    heads = " | ".join(map(say, ("when", "what", "state", "by")))
    lines += ["", f"## {say('History')}", "", f"| {heads} |", "| --- | --- | --- | --- |"]
    lines += [f"| {_moment(e.at)} | {say(e.kind)} | {say(e.status)} | {_cell(e.entity)} |" for e in record.events]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Left:
    """Something of a subject that left the registry before: a picture, or files. ``digest``: SHA-256."""

    what: str
    digest: str
    event: int
    at: datetime


def withdrawal_receipt(
    withdrawal: Withdrawal, stone: Tombstone, *, completed: datetime, left: Sequence[Left] = ()
) -> dict[str, Any]:
    """What was done, what could not be undone, and what to do about that. ``left``: what had been given out."""
    return {
        "@context": {**CONTEXT, "@vocab": "urn:w2w-registry:terms#"},
        "@type": "dpv:WithdrawConsent",
        "issued": iso(completed),
        "subject": withdrawal.subject,
        "asked": iso(withdrawal.at),
        "erased": withdrawal.erase,
        "protected": withdrawal.protect,
        "records": list(withdrawal.records),
        "versions": [v.ref for v in withdrawal.versions],
        "releases_queued": [{"repo": r.repo, "commit": r.commit} for r in withdrawal.releases],
        "files_purged": len(withdrawal.purged_artifacts),
        "recipients": list(withdrawal.recipients),
        "given_out": [{"what": o.what, "sha256": o.digest, "event": o.event, "at": iso(o.at)} for o in left],
        "remains": [{"what": what, "do": do} for what, do in remains(withdrawal)],
        "tombstone": stone.digest(),
    }


def withdrawal_markdown(
    withdrawal: Withdrawal,
    stone: Tombstone,
    *,
    completed: datetime,
    left: Sequence[Left] = (),
    words: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The withdrawal receipt for reading. ``words``: another language's for these."""

    def say(text: str, **values: Any) -> str:
        return words.get(text, text).format(**values)

    lines = [f"# {say('Withdrawal of {subject}', subject=withdrawal.subject)}", ""]
    lines += [say("Asked {asked}, done {done}.", asked=_moment(withdrawal.at), done=_moment(completed)), ""]
    lines += [f"## {say('Done')}", "", *(f"- {line}" for line in _done(withdrawal, say))]
    stays = remains(withdrawal, say)
    if stays:
        lines += ["", f"## {say('What cannot be taken back')}", "", say(_FOR_OPERATORS), ""]
        lines += [f"- {what}\n  {do}" for what, do in stays]
    if left:
        lines += ["", f"## {say('Pictures and files given out before')}", ""]
        lines += [
            say(
                "- {day} {what}, SHA-256 {digest} (event {event})",
                day=iso(o.at)[:10],
                what=say(o.what),
                digest=o.digest,
                event=o.event,
            )
            for o in left
        ]
    if withdrawal.recipients:
        lines += ["", f"## {say('To be told')}", "", *(f"- {r}" for r in withdrawal.recipients)]
    lines += ["", say("Tombstone: {digest}", digest=stone.digest())]
    return "\n".join(lines) + "\n"


def _done(withdrawal: Withdrawal, say: Callable[..., str]) -> list[str]:
    """What was done, a line each. Numbers are given bare and, as ``…s``, with their English nouns."""
    own = sum(not v.derived for v in withdrawal.versions)
    records, files, models = len(withdrawal.records), len(withdrawal.purged_artifacts), len(withdrawal.versions)
    releases = len(withdrawal.releases)
    done = [
        say("{records} withdrawn", count=records, records=counted(records, "consent record")),
        say(
            "{models} and {derived} made from them taken out of service and out of search",
            count=own,
            models=counted(own, "model"),
            derived=models - own,
        ),
    ]
    if releases:
        done.append(say("{releases} queued for takedown", count=releases, releases=counted(releases, "release")))
    if withdrawal.erase:
        done.append(say("coordinates of {models} erased", count=models, models=counted(models, "model")))
        done.append(say("{files} erased", count=files, files=counted(files, "file")))
    if withdrawal.protect and own:
        done.append(say("a do-not-recreate reference kept: new models too near are refused at the door"))
    elif withdrawal.protect:
        done.append(say("no do-not-recreate reference kept: no model is registered as theirs"))
    return done


def _way(method: str | None, say: Callable[[str], str]) -> str | None:
    """A way to withdraw in another language, where it is the one that the settings gave."""
    before, after = map(re.escape, WAY_TO_WITHDRAW.split("{contact}"))
    given = re.fullmatch(f"{before}(.+){after}", method or "")
    return method if given is None else say(WAY_TO_WITHDRAW).format(contact=given[1])


def _day(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%d}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
