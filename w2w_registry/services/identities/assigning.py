"""Whom a model depicts, said after it was registered: with evidence, and by another person than the one who added it.

Naming a subject gives a model that subject's consent, so it is no label: whoever could say it alone could put a
stranger's model under the consent of a friend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from w2w_registry.catalog.holds import agents_of
from w2w_registry.catalog.lookup import refs_of, subjects_of
from w2w_registry.catalog.models import VersionSubject
from w2w_registry.catalog.resolve import subject_by_id
from w2w_registry.commands import command
from w2w_registry.consent.records import Use
from w2w_registry.records import Result, VersionState
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.grants import evidence_digest
from w2w_registry.services.consent.resolve import serve
from w2w_registry.services.consent.second_person import DECIDED, require_other
from w2w_registry.services.identities.bulk import chosen
from w2w_registry.services.registry import Registry


@dataclass(frozen=True, eq=False)
class Assigned(Result):
    """Versions that depict the subject from now on, those that did already, those that are blocked now because the
    subject withdrew, and the digest of what shows it."""

    subject: str
    assigned: list[str]
    unchanged: list[str]
    blocked: list[str]
    evidence: str


def assign(
    registry: Registry,
    subject: str,
    names: Sequence[str],
    *,
    where: str | None = None,
    evidence: Path,
    perform: bool = True,
) -> Assigned:
    """Record that versions depict a registered subject, besides whom they were said to depict before.

    Args:
        evidence: what shows it (a signed form, a contract); its SHA-256 goes into the log.

    Raises:
        NotFound: no such subject or identity. SecondPersonNeeded: whoever added a version does not say this alone.
        ConsentDenied: the subject does not allow being registered. BadFile: the evidence cannot be read.
    """
    digest = evidence_digest(evidence)
    with registry.catalog.write(registry.actor) as uow:
        session = uow.session
        row = subject_by_id(session, subject)
        versions = chosen(session, names, where)
        ids = [version.id for version in versions]
        refs, named = refs_of(session, ids), subjects_of(session, ids)
        new = [version for version in versions if row.id not in named.get(version.id, ())]
        gate.require(registry, Use.REGISTER, subjects=[row.id], session=session)
        decided: dict[int, str] = {}
        for version in new:
            ref, adder = refs[version.id], agents_of(session, [version.id])[version.id]
            typed = command("subject assign", row.id, ref, evidence="FILE")
            what = f"say whom {ref} depicts, which {adder} added"
            decided[version.id] = require_other(registry, session, [adder], what, typed)
        blocked: list[str] = []
        if perform:
            for version in new:
                uow.add(VersionSubject(version_id=version.id, subject_id=row.id))
                session.flush()
                serve(registry, uow, version)
                told = {"evidence": digest, DECIDED: decided[version.id]}
                uow.event("version.depict", {"version": version.id, "subject": row.id}, **told)
            blocked = [str(refs[version.id]) for version in new if version.state is VersionState.BLOCKED]
        return Assigned(
            subject=row.id,
            assigned=[str(refs[version.id]) for version in new],
            unchanged=[str(refs[version.id]) for version in versions if version not in new],
            blocked=blocked,
            evidence=digest,
        )
