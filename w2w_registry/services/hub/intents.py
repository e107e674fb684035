"""Notes of pushes that were begun: written before the Hub is asked for anything, gone when the release is recorded."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from w2w_registry.catalog.event_log import jobs_of_kind
from w2w_registry.catalog.models import Job
from w2w_registry.catalog.publications import record_release
from w2w_registry.errors import HubError
from w2w_registry.hub.api import Hub
from w2w_registry.hub.plan import Access, PushPlan, TakedownStep
from w2w_registry.services.consent.takedown_queue import queue
from w2w_registry.services.hub.carry_out import look
from w2w_registry.services.registry import Registry

if TYPE_CHECKING:
    from w2w_registry.services.hub.release_files import Options, VersionFacts

JOB = "push"
_FORBIDDEN = (401, 403)


def unfinished(session: Session, endpoint: str) -> list[Job]:
    """Notes of pushes that were begun and never recorded, oldest first."""
    return [job for job in all_unfinished(session) if job.state["endpoint"] == endpoint]


def all_unfinished(session: Session) -> list[Job]:
    """The same, wherever they go."""
    return jobs_of_kind(session, JOB)


def note(registry: Registry, hub: Hub, facts: VersionFacts, plan: PushPlan, access: Access, options: Options) -> str:
    """Write down what is about to be done; one note per repo, the newest intent wins."""
    with registry.catalog.write(registry.actor) as uow:
        for old in unfinished(uow.session, hub.endpoint):
            if old.state["repo"] == plan.repo_id:
                uow.delete(old)
        job = Job(
            id=str(uuid.uuid4()),
            kind=JOB,
            state={
                "repo": plan.repo_id,
                "endpoint": hub.endpoint,
                "version": facts.version_id,
                "ref": facts.ref,
                "access": str(access),
                "created": plan.create,
                "before": plan.parent,
                "options": options.to_json(),
            },
            updated=uow.now(),
        )
        uow.session.add(job)
        return job.id


def arrived(hub: Hub, intent: Mapping[str, Any]) -> bool:
    """Whether anything of a begun push is on the Hub."""
    state = look(hub, intent["repo"])
    return state is not None and (bool(intent["created"]) or state.commit != intent["before"])


def drop_forbidden(registry: Registry, hub: Hub, job_id: str, error: HubError) -> bool:
    """Forget a push that the Hub forbids and of which nothing arrived: no later try could finish it."""
    if error.fields.get("status") not in _FORBIDDEN:
        return False
    with registry.catalog.read() as session:
        job = session.get(Job, job_id)
        intent = None if job is None else dict(job.state)
    try:
        if intent is None or arrived(hub, intent):
            return False
    except HubError:
        return False  # it will not even say; the note stays
    drop(registry, job_id, intent)
    return True


def drop(registry: Registry, job_id: str, intent: Mapping[str, Any]) -> None:
    with registry.catalog.write(registry.actor) as uow:
        job = uow.session.get(Job, job_id)
        if job is not None:
            uow.delete(job)
            uow.event("release.drop", {"version": intent["version"]})


def undo(registry: Registry, hub: Hub, job_id: str, intent: Mapping[str, Any]) -> None:
    """Take back what a forbidden push may have left on the Hub, then forget the note.

    A repo it made is deleted. One that was there before is closed, and if a commit landed, recorded as a release and
    queued for takedown, so that the usual machinery erases it.
    """
    state = look(hub, intent["repo"])
    landed = state is not None and state.commit != intent["before"]
    if state is not None and intent["created"]:
        hub.delete(state.repo_id)
    elif state is not None and landed:
        hub.set_access(state.repo_id, private=True)
    with registry.catalog.write(registry.actor) as uow:
        job = uow.session.get(Job, job_id)
        if job is not None:
            uow.delete(job)
        if state is not None and landed and not intent["created"]:
            row = record_release(
                uow,
                endpoint=hub.endpoint,
                repo_id=state.repo_id,
                commit_id=state.commit,
                version_id=intent["version"],
                revision="main",
                **Access.PRIVATE.words,
                format="unfinished",
            )
            queue(uow, [row.id], [TakedownStep.HIDE, TakedownStep.ERASE])
        uow.event("release.undo", {"version": intent["version"]})
