"""Sync: every kind of difference, settled or reported; resumable; and the list of releases."""

from __future__ import annotations

import json
import multiprocessing
import os
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tests.hub.conftest import _plain_uploads, hub, owner  # noqa: F401
from tests.hub.local_hub import Fault, LocalHub
from tests.hub.local_hub.store import User, Visibility
from tests.services.hub_world import World, add_space, make_space, open_world
from w2w_registry.catalog.models import Job, ReleaseState
from w2w_registry.errors import ConsentDenied, HubError, WhereError
from w2w_registry.hub.client import HubClient
from w2w_registry.hub.plan import Access, Difference
from w2w_registry.records import Kind
from w2w_registry.services.consent.takedown_queue import UP_TO, queue
from w2w_registry.services.hub.listing import list_releases
from w2w_registry.services.hub.pull import PullRequest, pull
from w2w_registry.services.hub.release import PushRequest, push
from w2w_registry.services.hub.release_files import Options
from w2w_registry.services.hub.sync import SyncReport, sync
from w2w_registry.services.registry import Registry

REPO = "acme/alice-lora"


@pytest.fixture
def world(tmp_path: Path, sqlite_template: Path, hub: LocalHub, owner: User) -> Iterator[World]:  # noqa: F811
    made = open_world(tmp_path, sqlite_template, hub, owner)
    made.consent("p0001")
    made.add("acme/alice", subjects=["p0001"])
    yield made
    made.registry.catalog.close()


@pytest.fixture
def published(world: World) -> World:
    push(world.registry, world.client, PushRequest("acme/alice", REPO, Access.GATED))
    return world


def run(world: World, **flags: Any) -> SyncReport:
    return sync(world.registry, world.client, **flags)


def differences(report: SyncReport) -> list[Difference]:
    return [item.difference for item in report.plan.items]


def in_agreement(world: World) -> None:
    assert differences(run(world, dry_run=True)) == []


def test_nothing_differs(published: World) -> None:
    report = run(published)
    assert (differences(report), report.differs) == ([], False)


def test_too_open_is_closed_and_less_open_is_noted(published: World) -> None:
    repo = published.hub.store.repos[REPO]
    repo.gated = False
    assert differences(run(published, dry_run=True)) == [Difference.MORE_OPEN]
    assert repo.gated is False
    report = run(published)
    assert (differences(report), report.differs) == ([Difference.MORE_OPEN], False)
    assert repo.gated == "manual"
    repo.visibility = Visibility.PRIVATE
    assert differences(run(published)) == [Difference.LESS_OPEN]
    assert published.releases()[0].visibility == "private"
    in_agreement(published)


def test_a_deleted_repo_is_noted_or_pushed_again(published: World) -> None:
    published.hub.store.delete(REPO, published.owner)
    before = published.releases()[0].digests
    report = run(published, push=True)
    assert (differences(report), report.differs) == ([Difference.GONE], False)
    assert published.releases()[-1].digests == before
    assert published.hub.store.repos[REPO].gated == "manual"
    in_agreement(published)
    published.hub.store.delete(REPO, published.owner)
    assert differences(run(published)) == [Difference.GONE]
    assert {r.state for r in published.releases()} == {ReleaseState.DELETED}
    in_agreement(published)


def test_a_renamed_repo_is_followed(published: World) -> None:
    published.hub.store.move(REPO, "acme/renamed", published.owner)
    assert differences(run(published)) == [Difference.MOVED]
    assert published.releases()[0].repo_id == "acme/renamed"
    in_agreement(published)


def test_a_changed_repo_is_reported_and_moves_only_as_asked(published: World) -> None:
    published.hub.store.plant(REPO, {"README.md": b"---\nlicense: mit\n---\n# mine now\n"})
    report = run(published)
    assert (differences(report), report.differs) == ([Difference.CHANGED_THERE], True)
    assert not run(published, pull=True).differs
    in_agreement(published)
    published.hub.store.plant(REPO, {"README.md": b"---\nlicense: mit\n---\n# again\n"})
    assert not run(published, push=True).differs
    assert b"again" not in (published.hub.files(REPO)["README.md"] or b"")
    in_agreement(published)


def test_what_is_only_there_is_reported_or_pulled(published: World, tmp_path: Path, sqlite_template: Path) -> None:
    fresh = open_world(tmp_path, sqlite_template, published.hub, published.owner, "fresh")
    report = run(fresh)
    assert (differences(report), report.differs) == ([Difference.MISSING_HERE], True)
    assert not run(fresh, pull=True).differs
    assert fresh.version("acme/alice").model_digest == published.version("acme/alice").model_digest
    in_agreement(fresh)
    fresh.registry.catalog.close()


def test_another_owners_repos_when_asked(published: World, tmp_path: Path, sqlite_template: Path) -> None:
    published.hub.store.repos[REPO].gated = False
    fresh = open_world(tmp_path, sqlite_template, published.hub, published.hub.user("p0009"), "fresh")
    assert differences(run(fresh)) == []
    assert differences(run(fresh, owner="acme", dry_run=True)) == [Difference.MISSING_HERE]
    run(fresh, owner="acme", pull=True)
    # Somebody else's repo: whom they show it to, and our consents, are no matter of ours.
    published.hub.store.repos[REPO].gated = "manual"
    assert differences(run(fresh)) == []
    fresh.registry.catalog.close()


def test_a_release_without_consent_is_taken_down(published: World) -> None:
    published.withdraw("p0001")
    report = run(published)
    assert (differences(report), report.differs) == ([Difference.CONSENT_ENDED], False)
    assert published.hub.store.repos[REPO].visibility is Visibility.PRIVATE
    assert published.releases()[0].state is ReleaseState.HIDDEN
    in_agreement(published)
    published.hub.store.repos[REPO].visibility = Visibility.PUBLIC
    assert differences(run(published)) == [Difference.MORE_OPEN]
    assert published.hub.store.repos[REPO].visibility is Visibility.PRIVATE


def test_queued_takedowns_are_performed_whatever_queued_them(published: World) -> None:
    published.add("acme/alice", seed=3, subjects=["p0001"])
    push(published.registry, published.client, PushRequest("acme/alice@2", REPO, Access.GATED))
    with published.registry.catalog.write("t") as uow:
        queue(uow, [r.id for r in published.releases()], UP_TO["delete"])
    report = run(published)
    assert (differences(report), report.differs) == ([Difference.UNFINISHED_TAKEDOWN], False)
    assert published.hub.repo(REPO) is None
    assert {r.state for r in published.releases()} == {ReleaseState.DELETED}
    in_agreement(published)


def test_one_failure_does_not_stop_the_rest(published: World) -> None:
    published.add("acme/mug", seed=5, kind=Kind.PRODUCT)
    push(published.registry, published.client, PushRequest("acme/mug", "acme/mug", Access.PRIVATE))
    for repo in (REPO, "acme/mug"):
        published.hub.store.repos[repo].visibility = Visibility.PUBLIC
        published.hub.store.repos[repo].gated = False
    published.hub.faults.add(Fault("status", match=f"PUT .*{REPO}/settings", status=403, times=None))
    report = run(published)
    assert [(s.item.repo_id, s.done) for s in report.settled] == [(REPO, False), ("acme/mug", True)]
    assert isinstance(report.settled[0].error, HubError)
    assert report.differs
    published.hub.faults.reset()
    assert not run(published).differs


def test_one_repo_that_cannot_be_asked_does_not_stop_the_rest(published: World) -> None:
    """A takedown that the law demands does not wait until somebody has mended another repo."""
    published.add("acme/mug", seed=5, kind=Kind.PRODUCT)
    push(published.registry, published.client, PushRequest("acme/mug", "acme/mug", Access.PRIVATE))
    published.withdraw("p0001")
    published.hub.faults.add(Fault("status", match="GET /api/models/acme/mug", status=403, times=None))
    report = run(published)
    assert [(s.item.repo_id, s.done) for s in report.settled] == [(REPO, True)]
    assert [(repo, error.fields["status"]) for repo, error in report.unasked] == [("acme/mug", 403)]
    assert report.differs
    assert published.hub.store.repos[REPO].visibility is Visibility.PRIVATE
    published.hub.faults.add(Fault("status", match=f"GET /api/models/{REPO}", status=403, times=None))
    with pytest.raises(HubError):  # nobody is there to ask
        run(published)
    published.hub.faults.reset()
    assert not run(published).differs


def test_without_a_token_only_what_is_known_is_compared(published: World) -> None:
    anonymous = HubClient(published.hub.endpoint, sleep=lambda s: None)
    assert differences(sync(published.registry, anonymous, dry_run=True)) == []


def test_releases_and_their_filter(published: World) -> None:
    published.add("acme/mug", seed=5, kind=Kind.PRODUCT)
    push(
        published.registry,
        published.client,
        PushRequest("acme/mug", "acme/mug", options=Options(coordinates_only=True)),
    )
    rows = list_releases(published.registry)
    assert [(r["version"], r["access"], r["format"], r["consent"]) for r in rows] == [
        ("acme/mug@1", "public", "coordinates", "not-needed"),
        ("acme/alice@1", "gated", "peft+diffusers", "granted"),
    ]
    assert json.dumps([row.to_json() for row in rows], default=str)
    assert [r["version"] for r in list_releases(published.registry, "kind = product")] == ["acme/mug@1"]
    with pytest.raises(WhereError):
        list_releases(published.registry, "kind ==== product")


def test_the_whole_round_on_both_databases(
    registry: Registry,
    hub: LocalHub,  # noqa: F811
    owner: User,  # noqa: F811
    tmp_path: Path,
) -> None:
    world = World(registry, hub, owner, add_space(registry, make_space()), tmp_path)
    world.consent("p0001")
    world.add("acme/alice", subjects=["p0001"])
    push(registry, world.client, PushRequest("acme/alice", REPO, Access.GATED))
    assert not push(registry, world.client, PushRequest("acme/alice", REPO, Access.GATED)).changed
    assert pull(registry, world.client, PullRequest(REPO)).status == "existing"
    assert [r["consent"] for r in list_releases(registry, "kind = person")] == ["granted"]
    in_agreement(world)
    world.withdraw("p0001")
    assert differences(run(world)) == [Difference.CONSENT_ENDED]
    in_agreement(world)


# -- a push that is killed ---------------------------------------------------------------------
def _push_in_child(home: str, endpoint: str, token: str, ready: Any) -> None:
    """A push in a process of its own, to be killed, which waits until the fault for it is in place."""
    ready.wait(60)
    import huggingface_hub.constants as constants

    constants.HF_HUB_DISABLE_XET = True
    from w2w_registry.services.registry import open_registry
    from w2w_registry.settings import load_settings

    with open_registry(load_settings(home, actor="tester", env={})) as registry:
        client = HubClient(endpoint, token=token, sleep=lambda s: None)
        push(registry, client, PushRequest("acme/alice", REPO, Access.GATED))
    os._exit(0)


@pytest.fixture(scope="module")
def spawner() -> Any:
    """Children are forked from a clean process that has everything imported: fast, and no lock is ever held."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["tests.services.hub.test_sync", "w2w_registry.services.hub.release", "huggingface_hub"]
    )
    return context


@pytest.mark.parametrize(
    "pattern",
    [("before", "after"), pytest.param(("after", "before"), marks=pytest.mark.soak)],
    ids=["odd before, even after", "odd after, even before"],
)
def test_kill_9_at_every_request(world: World, spawner: Any, pattern: tuple[Any, Any]) -> None:
    home = str(world.registry.settings.home)
    push(world.registry, world.client, PushRequest("acme/alice", "acme/rehearsal", Access.GATED))
    total = len(world.hub.faults.seen)
    for at in range(1, total + 1):
        world.hub.faults.reset()
        ready = spawner.Event()
        child = spawner.Process(target=_push_in_child, args=(home, world.hub.endpoint, world.owner.token, ready))
        fault = Fault("kill", at=at, when=pattern[(at - 1) % 2])
        child.start()
        fault.pid = child.pid
        world.hub.faults.add(fault)
        ready.set()
        child.join(120)
        assert child.exitcode == -9, at
        world.hub.faults.reset()
        report = run(world)
        assert not report.differs
        with world.registry.catalog.read() as session:
            assert session.scalars(select(Job)).all() == []
        mine = [r for r in world.releases() if r.repo_id == REPO and r.state is ReleaseState.PUBLISHED]
        repo = world.hub.repo(REPO)
        if repo is None:
            assert mine == []
            continue
        assert [r.commit_id for r in mine] == [repo.branches["main"]]
        assert (repo.visibility, repo.gated) == (Visibility.PUBLIC, "manual")
        assert len(world.hub.history(REPO)) == 2
        world.hub.store.delete(REPO, world.owner)
        run(world)


def test_consent_that_ended_while_a_push_lay_broken_undoes_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.utils import _http

    monkeypatch.setattr(_http, "time", types.SimpleNamespace(sleep=lambda seconds: None))
    world.hub.faults.add(Fault("cut", match="/commit/", when="after", times=1))
    world.hub.faults.add(Fault("cut", match="/tag/|/refs", times=None))
    with pytest.raises(HubError):
        push(world.registry, world.client, PushRequest("acme/alice", REPO))
    world.hub.faults.reset()
    world.withdraw("p0001")
    report = run(world)
    assert differences(report) == [Difference.UNFINISHED_PUSH]
    assert world.hub.repo(REPO) is None
    in_agreement(world)
    with pytest.raises(ConsentDenied):
        push(world.registry, world.client, PushRequest("acme/alice", REPO))


def test_signed_releases(world: World, tmp_path: Path, sqlite_template: Path) -> None:
    pytest.importorskip("model_signing")
    from w2w_registry.errors import IntegrityError
    from w2w_registry.services.signing import new_key_pair

    keys, others = new_key_pair(tmp_path / "k"), new_key_pair(tmp_path / "o")
    settings = replace(world.registry.settings, hub={"signing_key": keys["private_key"]})
    signer = replace(world.registry, settings=settings)
    first = push(signer, world.client, PushRequest("acme/alice", REPO, Access.PRIVATE))
    assert "model.sig" in world.hub.files(REPO)
    assert push(signer, world.client, PushRequest("acme/alice", REPO, Access.PRIVATE)).commit == first.commit
    fresh = open_world(tmp_path, sqlite_template, world.hub, world.owner, "fresh")

    def with_hub(**table: Any) -> Any:
        return replace(fresh.registry, settings=replace(fresh.registry.settings, policy={"hub": table}))

    # Anybody may have pulled it; the signature alone says whose consents these are.
    world.hub.store.repos[REPO].visibility = Visibility.PUBLIC
    stranger = HubClient(world.hub.endpoint, token=world.hub.user("p0009").token, sleep=lambda s: None)
    with pytest.raises(IntegrityError, match="signature"):
        pull(with_hub(keys=[others["public_key"]]), stranger, PullRequest(REPO))
    trusting = with_hub(keys=[others["public_key"], keys["public_key"]], require_signature=True)
    assert pull(trusting, stranger, PullRequest(REPO)).consent == "granted"
    world.hub.store.plant(REPO, {"model.sig": b"{}"})
    with pytest.raises(IntegrityError):
        pull(trusting, stranger, PullRequest(REPO, name="acme/other"))
    push(world.registry, world.client, PushRequest("acme/alice", REPO, Access.PRIVATE))
    assert "model.sig" not in world.hub.files(REPO)
    world.hub.store.repos[REPO].visibility = Visibility.PUBLIC
    with pytest.raises(IntegrityError, match="none"):
        pull(trusting, stranger, PullRequest(REPO, name="acme/other"))
    fresh.registry.catalog.close()
