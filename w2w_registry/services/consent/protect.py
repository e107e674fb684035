"""Protecting somebody who does not want to be recreated, registered or not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from w2w_registry.catalog.depictions import depicting_ids
from w2w_registry.catalog.fingerprints import of_versions
from w2w_registry.catalog.models import Subject, SubjectState
from w2w_registry.catalog.resolve import version_for
from w2w_registry.catalog.vectors import unpack
from w2w_registry.errors import UsageError
from w2w_registry.lora import read_lora
from w2w_registry.records import Result
from w2w_registry.services.consent.keeping import Keeper
from w2w_registry.services.consent.subjects import wake
from w2w_registry.services.recording.equivalents import stored_likeness
from w2w_registry.services.recording.likeness import Print, of_lora
from w2w_registry.services.recording.newcomers import Newcomer, ask
from w2w_registry.services.recording.placement import place
from w2w_registry.services.recording.sources import source
from w2w_registry.services.recording.spaces import open_space
from w2w_registry.services.recording.subjects import ensure_subject
from w2w_registry.services.registry import Registry


@dataclass(frozen=True, eq=False)
class Protected(Result):
    """A subject whose likeness is refused now, from which cosine on."""

    subject: str
    space: str
    threshold: float


def protect_subject(registry: Registry, subject: str, what: str, *, space: str | None = None) -> Protected:
    """Keep a do-not-recreate reference of ``subject``, made from a registered version or a LoRA file or folder.

    A LoRA is only looked at, not registered. Adds the subject when it is not there.

    Raises:
        BadName, NotFound, BadLora, SpaceMismatch. UsageError: the LoRA lies at the centre of the space.
    """
    row, basis = open_space(registry, space)
    with registry.catalog.read() as session:
        version = None if Path(what).exists() else version_for(session, what)
        if version is not None:
            point = source(session, version, row).coordinates
            prints = [Print(p.base, p.question, unpack(p.data)) for p in of_versions(session, [version.id])]
            likeness = replace(stored_likeness(registry, session, version), prints=tuple(prints))
        else:
            lora = read_lora(Path(what))
            point = np.asarray(basis.project(place(lora, basis, row.ref).theta), np.float32)
            (answer,) = ask(registry, [Newcomer(lora.base_model or basis.base_model, Path(what))])
            likeness = replace(of_lora(lora), prints=answer.prints)
    if not np.any(point):
        raise UsageError(reason="that model lies at the centre of the space: it resembles everybody")
    with registry.catalog.write(registry.actor) as uow:
        ensure_subject(uow, subject)
        depicting = depicting_ids(uow.session, subject)
        besides = depicting if version is None else depicting | {version.id}
        wake(uow, subject)
        limit = Keeper(registry, uow).keep(subject, likeness, {row.id: point}, besides)
        found = uow.session.get_one(Subject, subject)
        if found.state is SubjectState.ACTIVE and not depicting:
            found.state = SubjectState.PROTECTED
        uow.event("subject.protect", {"subject": subject, "space": row.id})
    return Protected(subject=subject, space=row.ref, threshold=limit)
