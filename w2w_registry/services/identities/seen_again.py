"""A LoRA that is there already comes in again: what this file and this command add to what is known of its version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy.orm import Session

from w2w_registry.catalog.lookup import came_in, refs_of, subjects_of
from w2w_registry.catalog.models import Coordinates, Space, Version, VersionSubject
from w2w_registry.catalog.session import UnitOfWork
from w2w_registry.catalog.vectors import pack
from w2w_registry.commands import command
from w2w_registry.records import digest_of, folded
from w2w_registry.services.consent.second_person import DECIDED, EVIDENCE, said_by_two
from w2w_registry.services.identities.incoming import Incoming, file_of
from w2w_registry.services.identities.items import AddRequest
from w2w_registry.services.recording.labels import set_labels
from w2w_registry.services.recording.subjects import ensure_subject
from w2w_registry.services.recording.versions import source_file
from w2w_registry.services.registry import Registry


def seen_again(
    registry: Registry,
    uow: UnitOfWork,
    request: AddRequest,
    space: Space,
    one: Incoming,
    known: tuple[Version, str | None],
    labels: Mapping[str, float | str],
) -> list[str]:
    """Note a file not seen before, subjects not named before, and coordinates in a space the version was not placed in
    yet; set the labels given. Returns what changed: the subjects, and the names of labels.

    Args:
        known: the version, and how it is known when the bytes differ.

    Raises:
        SecondPersonNeeded: one person alone says whom the version depicts.
    """
    version, how = known
    named = depict(registry, uow, request, one.path, version)
    if how is not None and not came_in(uow.session, version.id, one.lora.sha256):
        uow.add(source_file(version, one.digests.exact, file_of(one), uow.now()))
        uow.event("file.add", {"version": version.id}, file=one.lora.sha256)
    changed = set_labels(uow, version, labels)
    if version.space_id is None:  # registered before there was a space for it
        version.space_id, version.residual = space.id, one.residual
        uow.event("version.place", {"version": version.id, "space": space.id})
    if uow.session.get(Coordinates, (space.id, version.id)) is None:
        data, digest = pack(one.coordinates)
        uow.add(Coordinates(space_id=space.id, version_id=version.id, k=len(one.coordinates), digest=digest, data=data))
        uow.event("coordinates.add", {"version": version.id, "space": space.id}, coordinates=digest)
    return [*named, *changed]


def depict(registry: Registry, uow: UnitOfWork, request: AddRequest, path: str, version: Version) -> list[str]:
    """Name the request's subjects of a version that is there already. Returns who was not named before.

    Raises:
        SecondPersonNeeded: one person alone says whom the version depicts.
    """
    if not request.subjects:
        return []
    named = subjects_of(uow.session, [version.id]).get(version.id, ())
    missing = [subject for subject in request.subjects if subject not in named]
    if not missing:
        return []
    decided = EVIDENCE
    if request.evidence is None:
        decided = _named_by_two(registry, uow.session, path, version, missing)
    for subject in missing:
        ensure_subject(uow, subject)
        uow.add(VersionSubject(version_id=version.id, subject_id=subject))
    told = {"evidence": request.evidence, DECIDED: decided}
    uow.event("version.depict", {"version": version.id, "subject": missing}, **told)
    return [f"subject {subject}" for subject in missing]


def _named_by_two(registry: Registry, session: Session, path: str, version: Version, subjects: Sequence[str]) -> str:
    """Whom a version depicts that is there already is not for one person alone to say; returns by how many it is."""
    ref, who = refs_of(session, [version.id])[version.id], ", ".join(subjects)
    return said_by_two(
        registry,
        session,
        digest_of(["depict", version.id, sorted(map(folded, subjects))]),
        f"say that {ref} depicts {who}",
        command("add", path, subject=subjects),
        hint="or name what proves it with [[evidence]]",
    )
