"""``sync``: what differs between catalog and Hub, then made to agree; and ``releases``, the list of what is published.

Begun pushes and takedowns are finished, what became too open is closed, what lost its consent is taken down, and what
is gone or was renamed there is written down here: always. Content moves only as asked: ``push`` makes the Hub like the
catalog, ``pull`` the catalog like the Hub. Every item is performed by itself, so a failure leaves the rest done and a
second run goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy.orm import Session

from w2w_registry.catalog import publications
from w2w_registry.catalog.events import events
from w2w_registry.catalog.lineage import taken_repos
from w2w_registry.catalog.models import Release, ReleaseState
from w2w_registry.consent.records import Use
from w2w_registry.errors import HubError, RegistryError
from w2w_registry.hub.addresses import is_oci
from w2w_registry.hub.api import Account, Hub, Listed, RepoState
from w2w_registry.hub.bundle import HUB_TAG
from w2w_registry.hub.plan import Access, Action, Difference, Published, SyncItem, SyncPlan, plan_sync
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.takedown_queue import UP_TO, queue
from w2w_registry.services.hub import pull, release, takedown
from w2w_registry.services.hub.carry_out import look
from w2w_registry.services.hub.connecting import connect, hub_at
from w2w_registry.services.hub.intents import all_unfinished, unfinished
from w2w_registry.services.hub.listing import access_of, release_ref
from w2w_registry.services.hub.release_files import Options
from w2w_registry.services.registry import Progress, Registry, no_progress

_ALL_FAIL = 3


@dataclass(frozen=True)
class Settled:
    """One difference and what became of it. ``done`` False: reported only, or it failed with ``error``."""

    item: SyncItem
    done: bool
    error: RegistryError | None = None


@dataclass(frozen=True)
class SyncReport:
    """The plan, and what became of each item; ``settled`` is empty for a dry run. ``unasked``: repos and OCI registries
    that could not be asked, and why."""

    plan: SyncPlan
    settled: tuple[Settled, ...] = ()
    dry_run: bool = False
    unasked: tuple[tuple[str, RegistryError], ...] = ()

    @property
    def entries(self) -> tuple[Settled, ...]:
        """Every difference with what became of it; nothing yet, in a dry run."""
        return tuple(Settled(item, False) for item in self.plan.items) if self.dry_run else self.settled

    @property
    def left(self) -> int:
        """How many differences are left."""
        return sum(not s.done for s in self.entries) + len(self.unasked)

    @property
    def differs(self) -> bool:
        """Whether anything still differs."""
        return self.left > 0


def sync(
    registry: Registry,
    hub: Hub,
    *,
    owner: str | None = None,
    push: bool = False,
    pull: bool = False,
    dry_run: bool = False,
    progress: Progress = no_progress,
) -> SyncReport:
    """Compare and settle: the Hub, and every OCI registry that anything is published at.

    Args:
        owner: whose repos to look through for ones missing here; None = the token's own and its organisations'.

    Raises:
        HubError: the Hub cannot be asked at all. Failures of single items are in the report.
    """
    found, jobs, unasked = _compare(registry, hub, _account(hub), owner, push, pull)
    items = list(found.items)
    for endpoint in _others(registry):
        there = hub_at(hub, endpoint)
        assert there is not None
        try:
            found, begun, untold = _compare(registry, there, None, None, push, pull)
        except RegistryError as error:
            unasked.append((endpoint, error))
            continue
        items, unasked = [*items, *found.items], [*unasked, *untold]
        jobs = {**jobs, **begun}
    plan = SyncPlan.of(items)
    if dry_run:
        return SyncReport(plan, dry_run=True, unasked=tuple(unasked))
    settled = []
    for number, item in enumerate(plan.items, start=1):
        there = connect(registry, item.repo_id) if is_oci(item.repo_id) else hub
        try:
            settled.append(Settled(item, _settle(registry, there, item, jobs)))
        except RegistryError as error:
            settled.append(Settled(item, False, error))
        progress(number, len(plan.items))
    return SyncReport(plan, tuple(settled), unasked=tuple(unasked))


def _others(registry: Registry) -> list[str]:
    """OCI registries with a release that is up or a push that was begun."""
    with registry.catalog.read() as session:
        begun = {str(job.state["endpoint"]) for job in all_unfinished(session)}
        return sorted(e for e in begun | publications.endpoints(session) if is_oci(e))


# -- comparing ---------------------------------------------------------------------------------
def _account(hub: Hub) -> Account | None:
    try:
        return hub.whoami()
    except HubError as error:
        if error.fields.get("status") in (401, 403) or error.fields.get("reason") == "no token":
            return None
        raise


def _compare(
    registry: Registry, hub: Hub, account: Account | None, owner: str | None, push: bool, pull: bool
) -> tuple[SyncPlan, Mapping[str, str], list[tuple[str, RegistryError]]]:
    """What differs, the jobs that were begun, and the repos that could not be asked: one does not stop the others.

    Raises:
        RegistryError: none could be asked.
    """
    with registry.catalog.read() as session:
        begun = unfinished(session, hub.endpoint)
        jobs = {job.state["repo"]: job.id for job in begun}
        rows = _newest(session, hub.endpoint)
        options = _options(session)
        published = _published(registry, session, rows, options)
        known = publications.known_repos(session, hub.endpoint) | taken_repos(session)
        left = [(job.state["repo"], job.state["ref"]) for job in begun]
    states, unasked = _states(hub, [p.repo_id for p in published])
    published = [p for p in published if p.repo_id in states]
    known |= {state.repo_id for state in states.values() if state is not None}
    plan = plan_sync(
        published,
        states,
        _listed(hub, account, owner),
        unfinished=left,
        known=frozenset(known),
        push=push,
        pull=pull,
    )
    return plan, jobs, unasked


def _states(hub: Hub, repos: Sequence[str]) -> tuple[dict[str, RepoState | None], list[tuple[str, RegistryError]]]:
    """How each repo is there, and which could not be asked. Where the first few all fail, nobody is there to ask."""
    states: dict[str, RepoState | None] = {}
    unasked: list[tuple[str, RegistryError]] = []
    for repo in repos:
        try:
            states[repo] = look(hub, repo)
        except RegistryError as error:
            unasked.append((repo, error))
            if not states and len(unasked) >= min(_ALL_FAIL, len(repos)):
                raise
    return states, unasked


def _newest(session: Session, endpoint: str) -> list[Release]:
    """The newest release per repo that should be up, and every one being taken down."""
    newest: dict[str, Release] = {}
    for row in publications.releases_in(session, endpoint):
        before = newest.get(row.repo_id)
        if before is None or before.state is not ReleaseState.TAKEDOWN_QUEUED:
            newest[row.repo_id] = row
    return list(newest.values())


def _published(
    registry: Registry, session: Session, rows: Sequence[Release], options: Mapping[int, Options]
) -> list[Published]:
    """The releases as they should be, with whether consent (still) allows each."""
    up = [r for r in rows if r.version_id is not None and r.state is ReleaseState.PUBLISHED]
    allowed: dict[int, bool] = {}
    for purpose in {options.get(row.id, Options()).purpose for row in up}:
        asked = {r.version_id: r.id for r in up if options.get(r.id, Options()).purpose == purpose and r.version_id}
        decisions = gate.ask_each(registry, Use.PUBLISH, dict.fromkeys(asked, purpose), session=session)
        allowed |= {
            r.id: decisions[r.version_id].allowed
            for r in up
            if r.version_id in decisions and options.get(r.id, Options()).purpose == purpose
        }
    return [
        Published(
            release_id=row.id,
            repo_id=row.repo_id,
            ref=release_ref(row),
            commit=row.commit_id,
            access=access_of(row),
            consent=allowed.get(row.id, True),
            takedown=row.state is ReleaseState.TAKEDOWN_QUEUED,
        )
        for row in rows
    ]


def _listed(hub: Hub, account: Account | None, owner: str | None) -> list[Listed]:
    owners = [owner] if owner else [] if account is None else [account.name, *account.orgs]
    return [repo for one in owners for repo in hub.listing(owner=one, tags=[HUB_TAG])]


# -- settling ----------------------------------------------------------------------------------
def _settle(registry: Registry, hub: Hub, item: SyncItem, jobs: Mapping[str, str]) -> bool:
    """Perform one item; whether it now agrees."""
    if item.action is Action.REPORT:
        return False
    if item.difference is Difference.UNFINISHED_PUSH:
        if release.finish(registry, hub, jobs[item.repo_id]) == "undone":
            _drain(registry, hub, item.repo_id)
        return True
    if item.difference is Difference.UNFINISHED_TAKEDOWN:
        return _drain(registry, hub, item.repo_id)
    if item.action is Action.TAKE_DOWN:
        assert item.release_id is not None
        with registry.catalog.write(registry.actor) as uow:
            queue(uow, [item.release_id], UP_TO["hide"])
        return _drain(registry, hub, item.repo_id)
    if item.action is Action.RESTRICT:
        access = _row_access(registry, item)
        hub.set_access(item.repo_id, private=access.private, gated=access.gated)
        state = hub.state(item.repo_id)
        return Access.of(private=state.private, gated=state.gated) is access
    if item.action is Action.RECORD:
        _write_down(registry, hub, item)
        return True
    if item.action is Action.PUSH:
        return _push_again(registry, hub, item)
    pull.pull(registry, hub, pull.PullRequest(item.repo_id))
    return True


def _drain(registry: Registry, hub: Hub, repo_id: str) -> bool:
    """Perform the takedowns of a repo: several versions of one identity may have been released there."""
    with registry.catalog.read() as session:
        releases = [row.id for row in publications.releases_in(session, hub.endpoint, repo_id)]
    outcomes = takedown.drain(registry, hub, releases=releases)
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
    return all(o.finished for o in outcomes)


def _row_access(registry: Registry, item: SyncItem) -> Access:
    with registry.catalog.read() as session:
        return access_of(session.get_one(Release, item.release_id))


def _write_down(registry: Registry, hub: Hub, item: SyncItem) -> None:
    """Take over what the Hub shows: gone, renamed, or less open than it was published."""
    state = look(hub, item.repo_id)
    with registry.catalog.write(registry.actor) as uow:
        touched = []
        for row in publications.releases_in(uow.session, hub.endpoint, item.repo_id):
            if state is None:
                row.state = ReleaseState.DELETED
            else:
                row.repo_id = state.repo_id
                for name, word in Access.of(private=state.private, gated=state.gated).words.items():
                    setattr(row, name, word)
            row.checked_at = uow.now()
            touched.append(row.id)
        uow.event("release.record", {"release": touched}, difference=str(item.difference))


def _push_again(registry: Registry, hub: Hub, item: SyncItem) -> bool:
    assert item.ref is not None
    with registry.catalog.read() as session:
        row = session.get_one(Release, item.release_id)
        options, access = _options(session).get(row.id, Options()), access_of(row)
        is_space = row.space_id is not None
    if is_space:
        from w2w_registry.services.hub.spaces import push_space

        push_space(registry, hub, item.ref, item.repo_id, access=access)
        return True
    state = look(hub, item.repo_id)
    prompt = None if state is None else state.card.get("instance_prompt")
    if isinstance(prompt, str):
        options = replace(options, instance_prompt=prompt)
    release.push(registry, hub, release.PushRequest(item.ref, item.repo_id, access, options))
    return True


def _options(session: Session) -> dict[int, Options]:
    """How releases were made, by id, as the events of their pushes say; the prompt is in the card alone."""
    found: dict[int, Options] = {}
    for event in events(session, action="release.push"):
        if "options" in event.payload:
            found[event.objects["release"]] = Options.from_json(event.payload["options"])
    return found
