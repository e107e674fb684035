"""A planned push, carried out on the Hub: repo, access, commit, tag, and proof that the Hub shows what was meant."""

from __future__ import annotations

from collections.abc import Mapping

from w2w_registry.errors import HubError, NotFound
from w2w_registry.hub.addresses import is_oci
from w2w_registry.hub.api import Content, Digests, Hub, RepoState
from w2w_registry.hub.plan import Access, PushPlan
from w2w_registry.services.registry import Progress, no_progress


def carry_out(
    hub: Hub, plan: PushPlan, files: Mapping[str, Content], number: int, progress: Progress = no_progress
) -> tuple[str, str]:
    """Make the Hub as planned; returns commit and tag. Safe to repeat after planning anew.

    A repo is never more open than it will be: it is closed before content changes and opened after. Who may see a
    repository of an OCI registry is its host's to say, so there it is only asked for.
    """
    repo_id = plan.repo_id
    opening = plan.access_before is not None and _opens(plan)
    if plan.create:
        hub.create(repo_id, private=not is_oci(repo_id) or plan.access is Access.PRIVATE)
    elif plan.access_before is not plan.access and not opening:
        _set_access(hub, repo_id, plan.access)
    parent = plan.parent if plan.parent is not None else hub.state(repo_id).commit
    commit = parent
    if plan.commits:
        add = {path: files[path] for path in plan.add}
        message = f"Publish version {number}"
        commit = hub.commit(repo_id, parent=parent, add=add, delete=plan.delete, message=message, progress=progress)
    tag = _tag(hub, repo_id, number, commit)
    if (plan.create and plan.access is not Access.PRIVATE) or opening:
        _set_access(hub, repo_id, plan.access)
    _prove(hub, repo_id, commit, files, plan.access)
    return commit, tag


def _opens(plan: PushPlan) -> bool:
    order = [Access.PRIVATE, Access.GATED, Access.PUBLIC]
    return plan.access_before is not None and order.index(plan.access) > order.index(plan.access_before)


def _set_access(hub: Hub, repo_id: str, access: Access) -> None:
    hub.set_access(repo_id, private=access.private, gated=access.gated)


def _tag(hub: Hub, repo_id: str, number: int, commit: str) -> str:
    """``v3``, or ``v3.1``, ``v3.2``… when the same version was published before with other content."""
    there = hub.tags(repo_id)
    serial = 0
    while True:
        tag = f"v{number}.{serial}" if serial else f"v{number}"
        if tag not in there:
            hub.tag(repo_id, tag, commit)
            return tag
        if there[tag] == commit:
            return tag
        serial += 1


def _prove(hub: Hub, repo_id: str, commit: str, files: Mapping[str, Content], access: Access) -> None:
    """Ask the Hub whether it now shows what was meant."""
    state = hub.state(repo_id)
    if state.commit != commit:
        raise HubError(repo=repo_id, reason="somebody else committed to it meanwhile; try again", status=None)
    missing = [p for p, c in files.items() if (f := state.file(p)) is None or not f.holds(Digests.of(c))]
    if missing:
        raise HubError(repo=repo_id, reason=f"the Hub does not hold {missing[0]} as it was sent", status=None)
    found = Access.of(private=state.private, gated=state.gated)
    if found is not access:
        raise HubError(repo=repo_id, reason=f"the Hub shows it {found}, it was to be {access}", status=None)


def look(hub: Hub, repo_id: str) -> RepoState | None:
    """The repo, None when there is none for this token."""
    try:
        return hub.state(repo_id)
    except NotFound:
        return None
