"""Takedowns: in order, once, retried, proven at the Hub; never against a repo that is not ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tests.hub.conftest import _plain_uploads, hub, owner  # noqa: F401
from tests.hub.local_hub import Fault, LocalHub
from tests.hub.local_hub.store import User, Visibility
from tests.services.hub_world import World, open_world
from w2w_registry.catalog.models import Event, Release, ReleaseState, Takedown, TakedownState
from w2w_registry.errors import HubError, NotFound
from w2w_registry.hub.plan import TakedownStep
from w2w_registry.services.audit import queries
from w2w_registry.services.consent.takedown_queue import queue
from w2w_registry.services.hub.takedown import drain, takedown

REPO = "acme/alice"


@pytest.fixture
def world(tmp_path: Path, sqlite_template: Path, hub: LocalHub, owner: User) -> Iterator[World]:  # noqa: F811
    made = open_world(tmp_path, sqlite_template, hub, owner)
    yield made
    made.registry.catalog.close()


def publish(world: World, version_id: int, repo: str = REPO) -> int:
    """A release as a push leaves it, put there by hand."""
    name = repo.split("/")[1]
    if world.hub.repo(repo) is None:
        world.hub.store.create(world.owner, None, name, Visibility.PUBLIC)
    commit = world.hub.store.plant(repo, {"w2w.json": b"{}", "adapter_model.safetensors": b"x" * 100})
    world.hub.store.repos[repo].tags["v1"] = commit
    with world.registry.catalog.write("tester") as uow:
        row = uow.add(
            Release(
                version_id=version_id,
                endpoint=world.hub.endpoint,
                repo_id=repo,
                commit_id=commit,
                revision="main",
                visibility="public",
                format="peft",
                created=uow.now(),
            )
        )
        uow.event("release.push", {"release": row.id})
        return row.id


def state_of(world: World) -> tuple[ReleaseState, TakedownState, list[str], int]:
    with world.registry.catalog.read() as session:
        row = session.scalars(select(Takedown)).one()
        return row.release.state, row.state, [s["step"] for s in row.done], row.attempts


@pytest.mark.parametrize(
    ("up_to", "end"),
    [
        ("gate", ReleaseState.GATED),
        ("hide", ReleaseState.HIDDEN),
        ("erase", ReleaseState.DELETED),
        ("delete", ReleaseState.DELETED),
    ],
)
def test_as_far_as_asked(world: World, up_to: str, end: ReleaseState) -> None:
    publish(world, world.add("acme/alice", subjects=["p0001"]))
    report = takedown(world.registry, world.client, name="acme/alice", up_to=up_to)
    assert report.finished
    assert state_of(world)[:2] == (end, TakedownState.DONE)
    repo = world.hub.repo(REPO)
    if up_to == "delete":
        assert repo is None
        return
    assert repo is not None
    assert (repo.gated, repo.visibility) == (("manual", "public") if up_to == "gate" else (False, "private"))
    if up_to == "erase":
        assert set(world.hub.files(REPO)) == {".gitattributes", "README.md"}
        assert (len(repo.commits), repo.lfs, repo.tags) == (1, {}, {})
        assert b"alice" not in (world.hub.files(REPO)["README.md"] or b"")
    else:
        assert "adapter_model.safetensors" in world.hub.files(REPO)


def test_a_dry_run_changes_nothing(world: World) -> None:
    publish(world, world.add("acme/alice"))
    seen = len(world.hub.faults.seen)
    report = takedown(world.registry, world.client, name="acme/alice@1", up_to="delete", dry_run=True)
    assert [t.repo_id for t in report.targets] == [REPO]
    assert report.steps == (TakedownStep.HIDE, TakedownStep.ERASE, TakedownStep.DELETE)
    assert len(world.hub.faults.seen) == seen
    assert world.releases()[0].state is ReleaseState.PUBLISHED


def test_by_subject_takes_what_was_made_of_them_too(world: World) -> None:
    first = world.add("acme/alice", seed=1, subjects=["p0001"])
    publish(world, first)
    publish(world, world.add("acme/bob", seed=2, subjects=["p0002"]), "acme/bob")
    report = takedown(world.registry, world.client, subject="p0001", up_to="delete")
    assert [t.ref for t in report.targets] == ["acme/alice@1"]
    assert world.hub.repo("acme/bob") is not None
    with pytest.raises(NotFound):
        takedown(world.registry, world.client, subject="p0001")


def test_twice_is_once(world: World) -> None:
    release = publish(world, world.add("acme/alice"))
    with world.registry.catalog.write("t") as uow:
        assert queue(uow, [release], ["hide"]) == queue(uow, [release], ["hide", "delete"])
    assert [o.finished for o in drain(world.registry, world.client)] == [True]
    assert drain(world.registry, world.client) == ()
    assert state_of(world)[2] == ["hide", "delete"]


def count_requests(world: World) -> int:
    return len(world.hub.faults.seen)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_hub_that_dies_at_any_request_leaves_work_that_is_finished_later(
    world: World,
    when: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import types

    from huggingface_hub.utils import _http

    monkeypatch.setattr(_http, "time", types.SimpleNamespace(sleep=lambda seconds: None))
    version = world.add("acme/alice")
    at = 0
    while True:
        at += 1
        release = publish(world, version)
        world.hub.faults.reset()
        fault = world.hub.faults.add(Fault("cut", at=at, onward=True, times=None, when=when))
        with world.registry.catalog.write("t") as uow:
            queue(uow, [release], ["hide", "erase", "delete"])
        outcome = drain(world.registry, world.client)[0]
        world.hub.faults.reset()
        if not fault.struck:
            assert outcome.finished
            break
        assert not outcome.finished
        assert isinstance(outcome.error, HubError)
        again = drain(world.registry, world.client)
        assert [o.finished for o in again] == [True]
        assert world.hub.repo(REPO) is None
    assert at > 8


def test_failures_are_recorded_without_words_about_people(world: World) -> None:
    publish(world, world.add("acme/alice"))
    world.hub.faults.add(Fault("status", match="settings", status=403, times=None))
    report = takedown(world.registry, world.client, name="acme/alice")
    assert not report.finished
    assert state_of(world)[:2] == (ReleaseState.TAKEDOWN_QUEUED, TakedownState.FAILED)
    with world.registry.catalog.read() as session:
        events = [e for e in session.scalars(select(Event)) if e.action.startswith("takedown.")]
        assert [e.action for e in events] == ["takedown.queue", "takedown.failed"]
        assert "alice" not in str([e.payload for e in events] + [e.objects for e in events])
    (row,) = queries.ask(world.registry, "withdrawals", queries.Filters())
    assert (row["state"], row["about"]) == ("failed", REPO)
    assert row["why"].startswith("the token may not do this")


def test_a_renamed_repo_is_found_and_taken_down(world: World) -> None:
    publish(world, world.add("acme/alice"))
    world.hub.store.move(REPO, "acme/renamed", world.owner)
    assert takedown(world.registry, world.client, name="acme/alice", up_to="delete").finished
    assert world.hub.repo("acme/renamed") is None


def test_a_repo_that_is_gone_counts_as_taken_down(world: World) -> None:
    publish(world, world.add("acme/alice"))
    world.hub.store.delete(REPO, world.owner)
    assert takedown(world.registry, world.client, name="acme/alice").finished
    assert world.releases()[0].state is ReleaseState.DELETED


@pytest.mark.parametrize(
    ("fault", "gone"),
    [
        (Fault("status", match="DELETE /api/repos/delete", status=404, times=None), False),
        (Fault("answer", match="DELETE /api/repos/delete", body=b"{}", times=None), False),
        (Fault("status", match="DELETE /api/repos/delete", status=404, times=None, when="after"), True),
    ],
    ids=["said not to be there", "said to be deleted", "gone meanwhile"],
)
def test_a_step_counts_once_it_shows_whatever_the_hub_says(world: World, fault: Fault, gone: bool) -> None:
    publish(world, world.add("acme/alice"))
    world.hub.faults.add(fault)
    (outcome,) = takedown(world.registry, world.client, name="acme/alice", up_to="delete").outcomes
    assert (outcome.finished, world.hub.repo(REPO) is None) == (gone, gone)
    assert gone or str(outcome.error).startswith(f"{REPO}: after delete, ")
    world.hub.faults.reset()
    assert all(one.finished for one in drain(world.registry, world.client))
    assert world.hub.repo(REPO) is None


def test_someone_elses_repo_under_the_old_name_is_left_alone(world: World) -> None:
    publish(world, world.add("acme/alice"))
    world.hub.store.delete(REPO, world.owner)
    world.hub.store.create(world.owner, None, "alice", Visibility.PUBLIC)
    world.hub.store.plant(REPO, {"model.safetensors": b"x" * 50})
    report = takedown(world.registry, world.client, name="acme/alice", up_to="delete")
    assert not report.finished
    assert "left alone" in str(report.outcomes[0].error)
    assert world.hub.repo(REPO) is not None


def test_another_hub_is_not_asked_to_take_it_down(world: World) -> None:
    release = publish(world, world.add("acme/alice"))
    with world.registry.catalog.write("t") as uow:
        uow.session.get_one(Release, release).endpoint = "https://hub.example"
        uow.event("x")
    report = takedown(world.registry, world.client, name="acme/alice", up_to="delete")
    assert "was published at https://hub.example" in str(report.outcomes[0].error)
    assert world.hub.repo(REPO) is not None
