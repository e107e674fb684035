"""Taking releases off the Hub: queued in one transaction, performed step by step, proven by asking the Hub again.

A takedown is a row with the steps ``wanted`` and those ``done``. Each step is safe to repeat, and is recorded only
after the Hub itself shows that it holds; so a crash anywhere, or a Hub that is down, leaves a row that the next
``drain`` (``takedown``, ``sync``) finishes. Withdrawal of consent queues rows of the same kind.

Copies that others have downloaded are out of reach of all this.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import Any

from sqlalchemy.orm import Session

from w2w_registry.catalog.depictions import depicting_ids
from w2w_registry.catalog.erasure import forget_releases
from w2w_registry.catalog.lookup import version_ids_of
from w2w_registry.catalog.models import (
    Release,
    ReleaseState,
    Takedown,
    TakedownState,
)
from w2w_registry.catalog.publications import open_takedowns, releases_in, releases_of
from w2w_registry.catalog.resolve import identity_named, subject_like, version_for
from w2w_registry.errors import HubError, NotFound, RegistryError
from w2w_registry.hub.api import Hub, RepoState
from w2w_registry.hub.bundle import CARD, DOCUMENT, SPACE_DOCUMENT
from w2w_registry.hub.card import removed_card
from w2w_registry.hub.plan import TakedownStep, plan_takedown, still_up
from w2w_registry.records import IdentityRef, iso
from w2w_registry.services.consent.takedown_queue import UP_TO, queue
from w2w_registry.services.hub.connecting import hub_at
from w2w_registry.services.hub.listing import release_ref
from w2w_registry.services.registry import Progress, Registry, no_progress

_KEPT = frozenset({CARD, ".gitattributes"})
_END = {
    TakedownStep.GATE: ReleaseState.GATED,
    TakedownStep.HIDE: ReleaseState.HIDDEN,
    TakedownStep.ERASE: ReleaseState.DELETED,
    TakedownStep.DELETE: ReleaseState.DELETED,
}
_LONGEST_PAUSE = timedelta(days=1)


@dataclass(frozen=True)
class Target:
    """One release to take down."""

    release_id: int
    repo_id: str
    ref: str


@dataclass(frozen=True)
class Outcome:
    """How one takedown stands: the steps proven done, and the error that stopped it, if one did."""

    takedown_id: str
    repo_id: str
    done: tuple[str, ...]
    finished: bool
    error: RegistryError | None = None


@dataclass(frozen=True)
class TakedownReport:
    """What was found, what was queued, and how far each takedown got. ``outcomes`` is empty for a dry run."""

    targets: tuple[Target, ...]
    steps: tuple[TakedownStep, ...]
    outcomes: tuple[Outcome, ...] = ()

    @property
    def finished(self) -> bool:
        return all(o.finished for o in self.outcomes)


def takedown(
    registry: Registry,
    hub: Hub,
    *,
    name: str | None = None,
    subject: str | None = None,
    up_to: str = "hide",
    dry_run: bool = False,
    progress: Progress = no_progress,
) -> TakedownReport:
    """Take down every release of an identity (or one version of it), or of everything that depicts a subject.

    A repo is taken down as a whole: its history holds what was released there before.

    Raises:
        NotFound: no such identity, version or alias, or nothing of it is published. Failures at the Hub are in the
            report, and stay queued.
    """
    steps = UP_TO[up_to]
    with registry.catalog.read() as session:
        releases = _releases(session, name, subject)
        targets = tuple(Target(r.id, r.repo_id, release_ref(r)) for r in releases)
    if not targets:
        raise NotFound(what="release on the Hub", name=name or f"subject {subject}")
    if dry_run:
        return TakedownReport(targets, steps)
    with registry.catalog.write(registry.actor) as uow:
        queue(uow, [t.release_id for t in targets], steps)
    wanted = {t.release_id for t in targets}
    return TakedownReport(targets, steps, drain(registry, hub, releases=wanted, progress=progress))


def drain(
    registry: Registry,
    hub: Hub,
    *,
    releases: Collection[int] | None = None,
    progress: Progress = no_progress,
) -> tuple[Outcome, ...]:
    """Perform what is queued; one failure does not stop the others.

    Args:
        releases: only takedowns of these releases; None = all.
    """
    with registry.catalog.read() as session:
        waiting = [row.id for row in open_takedowns(session, releases=releases)]
    outcomes = []
    for number, takedown_id in enumerate(waiting, start=1):
        outcomes.append(_perform(registry, hub, takedown_id))
        progress(number, len(waiting))
    return tuple(outcomes)


# -- which releases ----------------------------------------------------------------------------
def _releases(session: Session, name: str | None, subject: str | None) -> list[Release]:
    if subject is not None:
        versions = depicting_ids(session, subject_like(session, subject) or subject)
    else:
        assert name is not None
        ref = IdentityRef.parse(name)
        if ref.number is None and ref.alias is None:
            versions = set(version_ids_of(session, identity_named(session, ref.name).id))
        else:
            versions = {version_for(session, ref, any_state=True).id}
    rows = [row for row in releases_of(session, versions) if row.state is not ReleaseState.DELETED]
    return sorted(rows, key=lambda row: row.id)


# -- performing --------------------------------------------------------------------------------
def _perform(registry: Registry, hub: Hub, takedown_id: str) -> Outcome:
    with registry.catalog.read() as session:
        row = session.get_one(Takedown, takedown_id)
        repo_id, commit, endpoint = row.release.repo_id, row.release.commit_id, row.release.endpoint
        done = [str(step["step"]) for step in row.done]
        steps = plan_takedown(row.wanted, done)
    try:
        there = hub_at(hub, endpoint)
        if there is None:
            raise HubError(
                repo=repo_id,
                reason=f"was published at {endpoint}, this command speaks to {hub.endpoint}",
                status=None,
                hint=f"set HF_ENDPOINT={endpoint}",
            )
        state = _look(there, repo_id)
        if state is not None and not done:
            _check_ours(there, state, commit)
        for step in steps:
            state = _take(there, step, repo_id, state)
            _record(registry, takedown_id, step)
            done.append(str(step))
        _finish(registry, takedown_id, state)
    except RegistryError as error:
        _fail(registry, takedown_id, error)
        return Outcome(takedown_id, repo_id, tuple(done), False, error)
    return Outcome(takedown_id, repo_id, tuple(done), True)


def _look(hub: Hub, repo_id: str) -> RepoState | None:
    try:
        return hub.state(repo_id)
    except NotFound:
        return None


def _check_ours(hub: Hub, state: RepoState, commit: str) -> None:
    """Refuse to touch a repo that took the name of one of ours after it was deleted."""
    if state.file(DOCUMENT) or state.file(SPACE_DOCUMENT) or {f.path for f in state.files} <= _KEPT:
        return
    try:
        hub.state(state.repo_id, commit)
    except NotFound:
        raise HubError(
            repo=state.repo_id,
            reason="holds something this registry did not publish, so it is left alone",
            status=None,
            hint="delete it by hand if it is yours",
        ) from None


def _take(hub: Hub, step: TakedownStep, repo_id: str, state: RepoState | None) -> RepoState | None:
    """Do one step, and ask the Hub whether it holds."""
    if state is not None:
        # The present name: a repo that was renamed is found under its old one, but not changed.
        name = state.repo_id
        try:
            if step is TakedownStep.GATE and not (state.private or state.gated):
                hub.set_access(name, gated=True)
            elif step is TakedownStep.HIDE and not state.private:
                hub.set_access(name, private=True)
            elif step is TakedownStep.ERASE:
                hub.erase_files(name, {CARD: removed_card().encode()}, "Remove the content")
            elif step is TakedownStep.DELETE:
                hub.delete(name)
        except HubError as error:
            if error.fields.get("status") != HTTPStatus.NOT_FOUND:
                raise  # else somebody was first, or the Hub says so: it is asked again
        repo_id = name
    found = _look(hub, repo_id)
    problem = still_up(step, found, _KEPT)
    if problem is not None:
        raise HubError(repo=repo_id, reason=f"after {step}, {problem}", status=None)
    return found


def _record(registry: Registry, takedown_id: str, step: TakedownStep) -> None:
    with registry.catalog.write(registry.actor) as uow:
        row = uow.session.get_one(Takedown, takedown_id)
        row.done = [*row.done, {"step": str(step), "at": iso(uow.now())}]
        row.state = TakedownState.RUNNING
        uow.event("takedown.step", {"takedown": takedown_id, "release": row.release_id}, step=str(step))


def _finish(registry: Registry, takedown_id: str, state: RepoState | None) -> None:
    """Close the takedown, and mark every release that shared the repo: what was in its history went as well."""
    with registry.catalog.write(registry.actor) as uow:
        row = uow.session.get_one(Takedown, takedown_id)
        last = TakedownStep(plan_takedown(row.wanted, [])[-1])
        row.state, row.finished, row.next_at, row.last_error = TakedownState.DONE, uow.now(), None, None
        end = ReleaseState.DELETED if state is None else _END[last]
        touched: list[int] = []
        for release in releases_in(uow.session, row.release.endpoint, row.release.repo_id):
            if release.id == row.release_id or release.state is not ReleaseState.TAKEDOWN_QUEUED:
                release.state, release.checked_at = end, uow.now()
                if state is not None:
                    release.visibility, release.gated = _access_words(state)
                touched.append(release.id)
        uow.session.flush()
        forget_releases(uow)
        uow.event("takedown.done", {"takedown": takedown_id, "release": touched}, end=str(end))


def _access_words(state: RepoState) -> tuple[str, str]:
    return "private" if state.private else "public", "manual" if state.gated else ""


def _fail(registry: Registry, takedown_id: str, error: RegistryError) -> None:
    with registry.catalog.write(registry.actor) as uow:
        row = uow.session.get_one(Takedown, takedown_id)
        row.attempts += 1
        row.state = TakedownState.FAILED
        row.last_error = str(error.fields.get("reason") or error.code)[:500]
        row.next_at = uow.now() + min(timedelta(minutes=2 ** min(row.attempts, 20)), _LONGEST_PAUSE)
        status: Any = error.fields.get("status")
        uow.event(
            "takedown.failed",
            {"takedown": takedown_id, "release": row.release_id},
            code=error.code,
            status=status,
            attempts=row.attempts,
        )
