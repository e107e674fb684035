"""What the registry keeps that can say who somebody was, and what becomes of it when they are erased.

``COLUMNS`` declares every text and blob column of the schema (a test walks them): erasure runs from it, so that what is
not declared cannot be forgotten. What lies outside the catalog (artifacts, search indices, initializers, training
state, temporary folders) ``services.consent.withdraw`` clears.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Boolean, Enum, Integer, LargeBinary, String

from w2w_registry.catalog.base import Base
from w2w_registry.catalog.rows import table_of
from w2w_registry.catalog.types import Json, Words


class Fate(StrEnum):
    """What erasure does with a column of the rows that are about the erased person."""

    DELETE = "delete"  # the whole row goes
    NULL = "null"
    REPLACE = "replace"  # by a value that says nothing
    KEEP = "keep"  # it never says who somebody was; why, is written beside it


@dataclass(frozen=True)
class Rule:
    """One column's fate. ``value``: what replaces it, given the row. ``why``: the reason to keep it."""

    fate: Fate
    why: str = ""
    value: Callable[[Any], Any] = lambda row: None


def keep(why: str) -> Rule:
    return Rule(Fate.KEEP, why)


def replace(value: Callable[[Any], Any]) -> Rule:
    return Rule(Fate.REPLACE, value=value)


ERASED = "erased"
DELETE, NULL = Rule(Fate.DELETE), Rule(Fate.NULL)
_DIGEST = keep("a digest or random id: says nothing by itself")
_WORD = keep("a word of the registry's own, or of a library's")
_ACTOR = keep("who works with the registry, under the name they chose")
_PSEUDONYM = keep("the pseudonymous id, which the log keeps by design")
_SALT = keep("random; it changes with every update, so that old digests say nothing")
_MODEL = keep("names a base model, not a person")
_SPACE = keep("says what many models have in common; `space refit --without` makes one that never saw the person")
_LOG = keep("holds ids and digests only, and must stay as it is")
_TERMS = keep("the terms of a consent, as the controller wrote them: the proof that it was given")
_WISH = keep("keeps the person from being recreated, unless they ask to be forgotten; noise without the door's key")


def _without_repos(plan: Mapping[str, Any]) -> dict[str, Any]:
    releases = [{**r, "repo": ERASED} for r in plan["releases"]]
    return {**plan, "releases": releases}


def _job_without_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """A begun push keeps the repo, so that `sync` can undo it, which deletes the note."""
    options = {**state.get("options", {}), "instance_prompt": None}
    return {**state, "ref": f"version {state.get('version')}", "options": options}


def _receipt_without_repos(value: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if value is None:
        return None
    queued = [{**r, "repo": ERASED} for r in value["receipt"]["releases_queued"]]
    return {**value, "receipt": {**value["receipt"], "releases_queued": queued}}


COLUMNS: Mapping[str, Rule] = {
    # -- identities and versions
    "identity.name": replace(lambda row: f"erased-{row.id}"),
    "identity.salt": _SALT,
    "version.model_digest": keep("a digest of what the model does: the door refuses the very model with it"),
    "version.operation_id": _DIGEST,
    "version.base_model": _MODEL,
    "version.base_revision": _MODEL,
    "version.adapter": _WORD,
    "version.manifest_digest": NULL,
    "version.artifact_digest": NULL,
    "version.preview_digest": NULL,
    "version_subject.subject_id": _PSEUDONYM,
    "coordinates.digest": DELETE,
    "coordinates.data": DELETE,
    "weights_sketch.kind": DELETE,
    "weights_sketch.data": DELETE,
    "fingerprint.base": DELETE,
    "fingerprint.question": DELETE,
    "fingerprint.data": DELETE,
    "hold.by": _WORD,
    "hold.why": _WORD,
    "hold.resolver": _ACTOR,
    "hold.outcome": _WORD,
    "hold.reason": NULL,
    "hold.before": NULL,
    "hold.salt": _SALT,
    "verdict_calibration.base": _DIGEST,
    "verdict_calibration.question": keep("the prompt that all are asked with"),
    "verdict_calibration.data": _SPACE,
    "source_file.sha256": DELETE,
    "source_file.model_digest": DELETE,
    "source_file.format": DELETE,
    "source_file.dtype": DELETE,
    "source_file.name": DELETE,
    "source_file.salt": DELETE,
    "label.name": DELETE,
    "label.text": DELETE,
    "label.salt": DELETE,
    "tag.key": DELETE,
    "tag.value": DELETE,
    "tag.salt": DELETE,
    "alias.name": DELETE,
    "alias_change.alias": DELETE,
    "former.subject_id": DELETE,
    "former.what": DELETE,
    "former.name": DELETE,
    "former.text": DELETE,
    "former.salt": DELETE,
    # -- provenance
    "operation.id": _DIGEST,
    "operation.kind": _WORD,
    "operation.agent": _ACTOR,
    "operation.params": replace(lambda row: {}),
    "operation.code_version": _WORD,
    "operation.models": _MODEL,
    "operation.salt": _SALT,
    "operation_input.operation_id": _DIGEST,
    "operation_input.role": _WORD,
    "operation_input.digest": _DIGEST,
    "operation_input.ref": NULL,
    "operation_input.salt": _SALT,
    # -- spaces
    "space.name": _SPACE,
    "space.digest": _DIGEST,
    "space.base_model": _MODEL,
    "space.base_revision": _MODEL,
    "space.layout_digest": _DIGEST,
    "space.layout": _MODEL,
    "space.artifact_digest": _SPACE,
    "space.fit_set_digest": _DIGEST,
    "space.metric": _SPACE,
    "space.calibration": _SPACE,
    "space.explained_variance": _SPACE,
    "space.software": _WORD,
    "space.operation_id": _DIGEST,
    "space_fingerprint.base": _DIGEST,
    "space_fingerprint.question": keep("the prompt that all are asked with"),
    "space_fingerprint.data": _SPACE,
    "space_member.model_digest": _DIGEST,
    "space_member.name": replace(lambda row: ERASED),
    "space_member.salt": _SALT,
    "direction.name": keep("names an attribute"),
    "direction.attribute": keep("names an attribute"),
    "direction.vector": _SPACE,
    "direction.method": _WORD,
    "direction.calibration": _SPACE,
    "direction.quality": _SPACE,
    "direction.leakage": _SPACE,
    "direction.operation_id": _DIGEST,
    "direction.digest": _DIGEST,
    # -- subjects and consent
    "subject.id": _PSEUDONYM,
    "subject.kind": _WORD,
    "consent_record.id": _DIGEST,
    "consent_record.subject_id": _PSEUDONYM,
    "consent_record.supersedes": _DIGEST,
    "consent_record.schema_version": _WORD,
    "consent_record.notice": _TERMS,
    "consent_record.language": _TERMS,
    "consent_record.purposes": _TERMS,
    "consent_record.data_types": _TERMS,
    "consent_record.controllers": _TERMS,
    "consent_record.recipients": _TERMS,
    "consent_record.storage_location": _TERMS,
    "consent_record.retention": _TERMS,
    "consent_record.jurisdiction": _TERMS,
    "consent_record.withdrawal_method": _TERMS,
    "consent_record.territories": _TERMS,
    "consent_record.allowed_uses": _TERMS,
    "consent_record.forbidden_uses": _TERMS,
    "consent_record.guardian": NULL,
    "consent_record.compensation": NULL,
    "consent_record.training_set_digest": _DIGEST,
    "consent_record.evidence_digest": _DIGEST,
    "consent_record.signature": NULL,
    "consent_record.salt": _SALT,
    "consent_event.record_id": _DIGEST,
    "consent_event.subject_id": _PSEUDONYM,
    "consent_event.duration": _TERMS,
    "consent_event.entity": _ACTOR,
    "consent_event.method": _WORD,
    "consent_event.details": _DIGEST,
    "consent_event.salt": _SALT,
    "withdrawal.id": _DIGEST,
    "withdrawal.subject_id": _PSEUDONYM,
    "withdrawal.plan": replace(lambda row: _without_repos(row.plan)),
    "withdrawal.phase": _WORD,
    "withdrawal.receipt": replace(lambda row: _receipt_without_repos(row.receipt)),
    "guard_reference.subject_id": _PSEUDONYM,
    "guard_reference.kind": _WORD,
    "guard_reference.salt": _WISH,
    "guard_reference.reference": _WISH,
    # -- the Hub: what the takedown still needs is blanked when it is done
    "release.endpoint": keep("the Hub's address"),
    "release.repo_id": replace(lambda row: ERASED),
    "release.commit_id": _DIGEST,
    "release.revision": replace(lambda row: ERASED),
    "release.visibility": _WORD,
    "release.gated": _WORD,
    "release.format": _WORD,
    "release.digests": replace(lambda row: {}),
    "takedown.id": _DIGEST,
    "takedown.withdrawal_id": _DIGEST,
    "takedown.wanted": _WORD,
    "takedown.done": _WORD,
    "takedown.last_error": NULL,
    # -- the log, and unfinished work
    "event.actor": _ACTOR,
    "event.action": _WORD,
    "event.objects": _LOG,
    "event.changes": _LOG,
    "event.payload": _LOG,
    "event.policy": _DIGEST,
    # -- the policy, and pictures that left: known by random numbers and digests
    "policy.digest": _DIGEST,
    "policy.rules": _WORD,
    "picture.digest": _DIGEST,
    "picture.operation": _WORD,
    "event.prev_hash": _DIGEST,
    "event.hash": _DIGEST,
    "chain_head.hash": _DIGEST,
    "checkpoint.root": _DIGEST,
    "checkpoint.note": _LOG,
    "checkpoint.public_key_id": _DIGEST,
    "job.id": _DIGEST,
    "job.kind": _WORD,
    "job.state": replace(lambda row: _job_without_names(row.state)),
}


def declared_columns(model: type[Base]) -> list[Any]:
    """The columns of a table that can hold words or bytes of anybody's choosing: all but numbers, moments, truth
    values and closed sets of words."""
    found = []
    for column in table_of(model).columns:
        kind = column.type
        if isinstance(kind, (Boolean, Enum, Integer)):
            continue
        if isinstance(kind, (String, LargeBinary, Json, Words)):
            found.append(column)
    return found
