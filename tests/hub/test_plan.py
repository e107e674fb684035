"""Plans of push, sync and takedown, and the rules for repo ids and access."""

from __future__ import annotations

import pytest

from w2w_registry.errors import BadName
from w2w_registry.hub.addresses import check_repo_id, parse_repo
from w2w_registry.hub.api import Digests, HubFile, Listed, RepoState
from w2w_registry.hub.plan import (
    Access,
    Action,
    Difference,
    Published,
    TakedownStep,
    choose_access,
    plan_push,
    plan_sync,
    plan_takedown,
    still_up,
)


def state(
    files: dict[str, bytes], *, commit: str = "c1", private: bool = True, gated: bool = False, repo: str = "acme/r"
) -> RepoState:
    listed = tuple(HubFile(p, len(b), Digests.of(b).git) for p, b in files.items())
    return RepoState(repo, commit, private, gated, listed)


def test_repo_ids() -> None:
    assert parse_repo("hf://acme/r@v1") == ("acme/r", "v1")
    assert parse_repo("acme/r") == ("acme/r", None)
    for bad in ("acme", "a/b/c", "../x", "acme/..", "acme/r@", "acme/r@a b", "-a/b", "acme/r.git", "acme/r@../x", ""):
        with pytest.raises(BadName):
            parse_repo(bad)
    with pytest.raises(BadName):
        check_repo_id("acme/" + "x" * 97)


def test_who_may_see_a_likeness() -> None:
    assert choose_access(likeness=True, asked=None) is Access.PRIVATE
    assert choose_access(likeness=True, asked=Access.PUBLIC) is Access.GATED
    assert choose_access(likeness=True, asked=Access.GATED) is Access.GATED
    assert choose_access(likeness=False, asked=None) is Access.PUBLIC
    assert choose_access(likeness=False, asked=Access.PRIVATE) is Access.PRIVATE


def test_push_plans() -> None:
    files = {"w2w.json": b"1", "README.md": b"2"}
    new = plan_push("acme/r", None, files, Access.PRIVATE)
    assert (new.create, new.commits, list(new.add)) == (True, True, ["README.md", "w2w.json"])
    assert new.lines()[0] == "create private repo acme/r"
    same = plan_push("acme/r", state(files), files, Access.PRIVATE)
    assert same.empty
    assert same.lines() == ["nothing: acme/r holds this already"]
    before = state({"w2w.json": b"1", "README.md": b"old", "adapter_model.safetensors": b"x", "LICENSE": b"mine"})
    changed = plan_push("acme/r", before, files, Access.GATED)
    assert changed.add == {"README.md": 1}
    assert changed.delete == ("adapter_model.safetensors",)
    assert changed.unchanged == ("w2w.json",)
    assert changed.lines()[0] == "make acme/r gated (now private)"
    assert not changed.empty


def release(**more: object) -> Published:
    facts: dict[str, object] = {
        "release_id": 1,
        "repo_id": "acme/r",
        "ref": "alice@1",
        "commit": "c1",
        "access": Access.PRIVATE,
        "consent": True,
    } | more
    return Published(**facts)  # type: ignore[arg-type]


def differences(published: Published, there: RepoState | None, **flags: bool) -> list[tuple[Difference, Action]]:
    plan = plan_sync([published], {"acme/r": there}, [], known=frozenset({"acme/r"}), **flags)
    return [(i.difference, i.action) for i in plan.items]


def test_in_agreement() -> None:
    assert differences(release(), state({})) == []


def test_what_differs_and_what_is_done() -> None:
    gone, changed = Difference.GONE, Difference.CHANGED_THERE
    assert differences(release(), None) == [(gone, Action.RECORD)]
    assert differences(release(), None, push=True) == [(gone, Action.PUSH)]
    assert differences(release(consent=False), None, push=True) == [(gone, Action.RECORD)]
    assert differences(release(), state({}, commit="c2")) == [(changed, Action.REPORT)]
    assert differences(release(), state({}, commit="c2"), pull=True) == [(changed, Action.PULL)]
    assert differences(release(), state({}, commit="c2"), push=True) == [(changed, Action.PUSH)]
    assert differences(release(), state({}, private=False)) == [(Difference.MORE_OPEN, Action.RESTRICT)]
    opened = release(access=Access.GATED)
    assert differences(opened, state({}, private=True)) == [(Difference.LESS_OPEN, Action.RECORD)]
    assert differences(opened, state({}, private=False)) == [(Difference.MORE_OPEN, Action.RESTRICT)]
    assert differences(release(consent=False), state({}, commit="c2")) == [(Difference.CONSENT_ENDED, Action.TAKE_DOWN)]
    assert differences(release(takedown=True), state({})) == [(Difference.UNFINISHED_TAKEDOWN, Action.FINISH)]
    assert differences(release(), state({}, repo="acme/new")) == [(Difference.MOVED, Action.RECORD)]


def test_what_is_on_the_hub_only() -> None:
    listed = [
        Listed("acme/new", "c", False, False, ("w2w-registry",)),
        Listed("acme/r", "c", False, False, ("w2w-registry",)),
        Listed("acme/other", "c", False, False, ("gpt",)),
    ]
    plan = plan_sync([], {}, listed, known=frozenset({"acme/r"}))
    assert [(i.repo_id, i.action) for i in plan.items] == [("acme/new", Action.REPORT)]
    plan = plan_sync([], {}, listed, known=frozenset({"acme/r"}), pull=True, unfinished=[("acme/new", "alice@1")])
    assert [(i.repo_id, i.difference) for i in plan.items] == [("acme/new", Difference.UNFINISHED_PUSH)]
    assert plan.differs
    assert plan.items[0].line == "unfinished-push: acme/new (alice@1) → finish"


def test_takedown_steps_come_in_order_and_once() -> None:
    assert plan_takedown(["delete", "hide", "erase"], []) == (
        TakedownStep.HIDE,
        TakedownStep.ERASE,
        TakedownStep.DELETE,
    )
    assert plan_takedown(["delete", "hide"], ["hide"]) == (TakedownStep.DELETE,)
    with pytest.raises(ValueError, match="burn"):
        plan_takedown(["burn"], [])


def test_what_the_hub_still_shows() -> None:
    kept = frozenset({"README.md"})
    full, empty = state({"a": b"1", "README.md": b""}, private=False), state({"README.md": b""})
    assert still_up(TakedownStep.DELETE, full, kept) == "the repo is still there"
    assert still_up(TakedownStep.ERASE, full, kept) == "1 files are still there (a)"
    assert still_up(TakedownStep.ERASE, empty, kept) is None
    assert still_up(TakedownStep.HIDE, full, kept) == "the repo is still public"
    assert still_up(TakedownStep.GATE, full, kept) == "the repo is not gated"
    assert still_up(TakedownStep.GATE, state({}, private=False, gated=True), kept) is None
    assert all(still_up(step, None, kept) is None for step in TakedownStep)
