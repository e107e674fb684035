"""Plans: what a push, a sync or a takedown is going to do. Values that print themselves; performed elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from w2w_registry.errors import UsageError
from w2w_registry.hub.api import Content, Digests, Listed, RepoState, size_of
from w2w_registry.hub.bundle import HUB_TAG, managed
from w2w_registry.hub.safety import size_text


class Access(StrEnum):
    """Who may see and fetch a release. ``GATED`` is public to see, and fetched after asking."""

    PUBLIC = "public"
    GATED = "gated"
    PRIVATE = "private"

    @property
    def private(self) -> bool:
        return self is Access.PRIVATE

    @property
    def gated(self) -> bool:
        return self is Access.GATED

    @property
    def words(self) -> dict[str, Any]:
        """As a release's row has it."""
        return {"visibility": "private" if self.private else "public", "gated": "manual" if self.gated else ""}

    @classmethod
    def of(cls, *, private: bool, gated: bool) -> Access:
        return cls.PRIVATE if private else cls.GATED if gated else cls.PUBLIC


_OPENNESS = {Access.PRIVATE: 0, Access.GATED: 1, Access.PUBLIC: 2}


def choose_access(*, likeness: bool, asked: Access | None, oci: bool = False) -> Access:
    """Who may see a release: as asked, but a likeness is private unless asked otherwise, and never plainly public.

    Args:
        oci: it goes to an OCI registry, where nobody can be asked first: private unless asked otherwise.

    Raises:
        UsageError: an OCI registry cannot give the access asked for.
    """
    if oci:
        if asked is Access.GATED or (likeness and asked is Access.PUBLIC):
            what = (
                "nobody can be asked before they fetch it"
                if asked is Access.GATED
                else "a likeness stays private there"
            )
            raise UsageError(reason=f"an OCI registry has no gate: {what}")
        return asked or Access.PRIVATE
    if not likeness:
        return asked or Access.PUBLIC
    if asked is None:
        return Access.PRIVATE
    return Access.GATED if asked is Access.PUBLIC else asked


# -- push --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class PushPlan:
    """What a push is going to change. ``add``: path → bytes."""

    repo_id: str
    access: Access
    create: bool
    access_before: Access | None
    parent: str | None
    add: Mapping[str, int]
    delete: tuple[str, ...]
    unchanged: tuple[str, ...]

    @property
    def commits(self) -> bool:
        return bool(self.add or self.delete)

    @property
    def empty(self) -> bool:
        return not self.commits and not self.create and self.access is self.access_before

    def lines(self) -> list[str]:
        """The plan for reading, a step a line."""
        if self.empty:
            return [f"nothing: {self.repo_id} holds this already"]
        out = []
        if self.create:
            out.append(f"create {self.access} repo {self.repo_id}")
        elif self.access_before is not self.access:
            out.append(f"make {self.repo_id} {self.access} (now {self.access_before})")
        out += [f"upload {path} ({size_text(size)})" for path, size in self.add.items()]
        out += [f"delete {path}" for path in self.delete]
        if self.unchanged:
            out.append(f"leave {len(self.unchanged)} files as they are")
        if self.commits:
            out.append("make one commit and tag it")
        return out


def plan_push(
    repo_id: str,
    state: RepoState | None,
    files: Mapping[str, Content],
    access: Access,
    *,
    keep: Collection[str] = (),
    weights: Collection[str] = (),
) -> PushPlan:
    """What turns ``state`` (None: no such repo yet) into a repo that holds ``files``; ``keep`` stays if it is there.
    ``weights``: what releases call their adapters' files, beside what every release holds."""
    there = {} if state is None else {f.path: f for f in state.files}
    same = [p for p, content in files.items() if p in there and there[p].holds(Digests.of(content))]
    return PushPlan(
        repo_id=state.repo_id if state is not None else repo_id,
        access=access,
        create=state is None,
        access_before=None if state is None else Access.of(private=state.private, gated=state.gated),
        parent=None if state is None else state.commit,
        add={p: size_of(files[p]) for p in sorted(files) if p not in same},
        delete=tuple(sorted(p for p in there if p not in files and p not in keep and (p in weights or managed(p)))),
        unchanged=tuple(sorted(same)),
    )


# -- sync --------------------------------------------------------------------------------------
class Difference(StrEnum):
    """One way in which catalog and Hub disagree."""

    UNFINISHED_PUSH = "unfinished-push"
    UNFINISHED_TAKEDOWN = "unfinished-takedown"
    CONSENT_ENDED = "consent-ended"
    MORE_OPEN = "more-open"
    LESS_OPEN = "less-open"
    MOVED = "moved"
    GONE = "gone"
    CHANGED_THERE = "changed-there"
    MISSING_HERE = "missing-here"


class Action(StrEnum):
    """What sync does about a difference."""

    FINISH = "finish"
    TAKE_DOWN = "take-down"
    RESTRICT = "restrict"
    RECORD = "record"
    PUSH = "push"
    PULL = "pull"
    REPORT = "report"


@dataclass(frozen=True)
class Published:
    """A release as the catalog knows it. ``consent`` False: it may no longer be published."""

    release_id: int
    repo_id: str
    ref: str
    commit: str
    access: Access
    consent: bool
    takedown: bool = False


@dataclass(frozen=True)
class SyncItem:
    """One difference and what is done about it."""

    difference: Difference
    action: Action
    repo_id: str
    ref: str | None = None
    release_id: int | None = None
    detail: str = ""

    @property
    def line(self) -> str:
        what = f"{self.repo_id} ({self.ref})" if self.ref else self.repo_id
        return f"{self.difference}: {what}{f': {self.detail}' if self.detail else ''} → {self.action}"


_ORDER = list(Difference)


@dataclass(frozen=True)
class SyncPlan:
    """Every difference, those that protect people first."""

    items: tuple[SyncItem, ...]

    @classmethod
    def of(cls, items: Iterable[SyncItem]) -> SyncPlan:
        """The plan of ``items``, put in order."""
        return cls(tuple(sorted(items, key=lambda i: (_ORDER.index(i.difference), i.repo_id))))

    @property
    def differs(self) -> bool:
        return bool(self.items)


def plan_sync(
    published: Iterable[Published],
    states: Mapping[str, RepoState | None],
    listed: Iterable[Listed],
    *,
    unfinished: Sequence[tuple[str, str]] = (),
    known: frozenset[str] = frozenset(),
    push: bool = False,
    pull: bool = False,
) -> SyncPlan:
    """What differs, and what is done about it.

    What protects people (finishing takedowns, closing what is too open, taking down what lost consent) and what only
    updates the catalog's view is always done; content moves only in the direction asked for.

    Args:
        published: the newest release per repo that should be up.
        states: per repo of ``published``, what the Hub says; None = not there.
        listed: this registry's kind of repos on the Hub.
        unfinished: (repo, ref) of pushes that were begun and not recorded as done.
        known: repos the catalog has any release or pull of.
    """
    items = [SyncItem(Difference.UNFINISHED_PUSH, Action.FINISH, repo, ref) for repo, ref in unfinished]
    begun = {repo for repo, _ in unfinished}
    for release in published:
        items += _compare(release, states.get(release.repo_id), release.repo_id in begun, push, pull)
    for repo in listed:
        if repo.repo_id not in known and repo.repo_id not in begun and HUB_TAG in repo.tags:
            items.append(SyncItem(Difference.MISSING_HERE, Action.PULL if pull else Action.REPORT, repo.repo_id))
    return SyncPlan.of(items)


def _compare(release: Published, state: RepoState | None, begun: bool, push: bool, pull: bool) -> list[SyncItem]:
    def item(difference: Difference, action: Action, detail: str = "") -> SyncItem:
        return SyncItem(difference, action, release.repo_id, release.ref, release.release_id, detail)

    if release.takedown:
        return [item(Difference.UNFINISHED_TAKEDOWN, Action.FINISH)]
    if state is None:
        wanted = push and release.consent
        return [item(Difference.GONE, Action.PUSH if wanted else Action.RECORD, "no longer on the Hub")]
    out = []
    if not release.consent:
        out.append(item(Difference.CONSENT_ENDED, Action.TAKE_DOWN))
    if state.repo_id != release.repo_id:
        out.append(item(Difference.MOVED, Action.RECORD, f"now {state.repo_id}"))
    now = Access.of(private=state.private, gated=state.gated)
    if _OPENNESS[now] > _OPENNESS[release.access]:
        out.append(item(Difference.MORE_OPEN, Action.RESTRICT, f"is {now}, was published {release.access}"))
    elif now is not release.access:
        out.append(item(Difference.LESS_OPEN, Action.RECORD, f"is {now}, was published {release.access}"))
    if state.commit != release.commit and not begun and release.consent:
        action = Action.PUSH if push else Action.PULL if pull else Action.REPORT
        out.append(item(Difference.CHANGED_THERE, action, f"at {state.commit[:8]}, published {release.commit[:8]}"))
    return out


# -- takedown ----------------------------------------------------------------------------------
class TakedownStep(StrEnum):
    """Steps, gentlest first. Copies already downloaded stay out of reach of all of them."""

    GATE = "gate"
    HIDE = "hide"
    ERASE = "erase"
    DELETE = "delete"


def plan_takedown(wanted: Iterable[str], done: Iterable[str]) -> tuple[TakedownStep, ...]:
    """The steps left, in order. Deleting the repo comes after erasing its files, so that a restored repo is empty."""
    finished = set(done)
    asked = {TakedownStep(step) for step in wanted}
    return tuple(step for step in TakedownStep if step in asked and step not in finished)


def still_up(step: TakedownStep, state: RepoState | None, kept: frozenset[str]) -> str | None:
    """What the Hub still shows against ``step``; None when it holds. ``kept``: paths that may remain after erasing."""
    if state is None:
        return None
    if step is TakedownStep.DELETE:
        return "the repo is still there"
    if step is TakedownStep.ERASE:
        left = sorted(f.path for f in state.files if f.path not in kept)
        return f"{len(left)} files are still there ({left[0]})" if left else None
    if step is TakedownStep.HIDE:
        return None if state.private else "the repo is still public"
    return None if state.private or state.gated else "the repo is not gated"
