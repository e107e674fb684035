"""Push: policy first, one commit, provable, and no half release whatever breaks."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import select

from tests.hub.conftest import _plain_uploads, hub, owner  # noqa: F401
from tests.hub.local_hub import Fault, LocalHub
from tests.hub.local_hub.store import User, Visibility
from tests.services.hub_world import World, open_world, sha256
from w2w_registry.catalog.models import Event, Job, Release, ReleaseState
from w2w_registry.errors import Conflict, ConsentDenied, HubError, NotFound, RegistryError
from w2w_registry.hub import bundle
from w2w_registry.hub.plan import Access
from w2w_registry.lora import read_lora
from w2w_registry.messages import message
from w2w_registry.records import Kind
from w2w_registry.services.hub.intents import unfinished
from w2w_registry.services.hub.release import PushRequest, cancel, finish, push
from w2w_registry.services.hub.release_files import Options
from w2w_registry.services.hub.sync import sync
from w2w_registry.services.reports.figures import Rates
from w2w_registry.services.reports.roi import roi
from w2w_registry.services.reports.subject import write as write_page

REPO = "acme/alice-lora"
REQUEST = PushRequest("acme/alice", REPO)


@pytest.fixture
def world(tmp_path: Path, sqlite_template: Path, hub: LocalHub, owner: User) -> Iterator[World]:  # noqa: F811
    made = open_world(tmp_path, sqlite_template, hub, owner)
    made.consent("p0001")
    made.add("acme/alice", subjects=["p0001"])
    yield made
    made.registry.catalog.close()


@pytest.fixture
def no_library_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.utils import _http

    monkeypatch.setattr(_http, "time", types.SimpleNamespace(sleep=lambda seconds: None))


def jobs(world: World) -> int:
    with world.registry.catalog.read() as session:
        return len(session.scalars(select(Job)).all())


def test_what_a_release_holds(world: World, tmp_path: Path) -> None:
    report = push(world.registry, world.client, REQUEST)
    files = world.hub.files(REPO)
    assert set(files) == {
        ".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors", "consent.json",
        "mlbom.cdx.json", "provenance.intoto.jsonl", "pytorch_lora_weights.safetensors", "w2w.json",
    }  # fmt: skip
    assert [c.title for c in world.hub.history(REPO)] == ["Publish version 1", "initial commit"]
    repo = world.hub.repo(REPO)
    assert repo is not None
    assert repo.visibility is Visibility.PRIVATE
    assert repo.tags == {"v1": report.commit}
    document = bundle.decode(files["w2w.json"] or b"", "w2w.json")
    version = world.version("acme/alice")
    assert document.model_digest == version.model_digest
    assert document.layout is not None
    assert document.files["adapter_model.safetensors"] == sha256(files["adapter_model.safetensors"] or b"")
    out = tmp_path / "got"
    out.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (out / name).write_bytes(files[name] or b"")
    assert (read_lora(out).theta() == world.lora(1, noise=0.3).theta()).all()
    release = world.releases()[0]
    assert (release.commit_id, release.repo_id, release.revision) == (report.commit, REPO, "v1")
    assert release.digests["w2w.json"] == sha256(files["w2w.json"] or b"")
    assert jobs(world) == 0
    meta = yaml.safe_load((files["README.md"] or b"").decode().split("---\n")[1])
    assert meta["base_model"] == "acme/tiny-base"
    assert "extra_gated_prompt" in meta


def test_nothing_personal_and_no_token_leaves_or_is_kept(world: World) -> None:
    push(world.registry, world.client, REQUEST)
    published = b"".join(c or b"" for c in world.hub.files(REPO).values())
    assert b"p0001" not in published.replace(b"c-p0001", b"")
    assert world.owner.token.encode() not in published
    for path in world.registry.settings.home.rglob("*"):
        if path.is_file():
            assert world.owner.token.encode() not in path.read_bytes()
    with world.registry.catalog.read() as session:
        for event in session.scalars(select(Event).where(Event.action == "release.push")):
            assert "alice" not in json.dumps(event.body())
            assert event.payload["consent"]["relied_on"]


def test_again_is_no_commit_and_no_request_that_writes(world: World) -> None:
    first = push(world.registry, world.client, REQUEST)
    world.hub.faults.reset()
    again = push(world.registry, world.client, REQUEST)
    assert (again.changed, again.commit, again.tag) == (False, first.commit, "v1")
    assert [s.method for s in world.hub.faults.seen] == ["GET"]
    assert len(world.releases()) == 1


def test_a_change_is_one_commit_and_one_tag(world: World, tmp_path: Path) -> None:
    push(world.registry, world.client, REQUEST)
    prompt = replace(REQUEST, options=Options(instance_prompt="a photo of sks person"))
    second = push(world.registry, world.client, prompt)
    repo = world.hub.repo(REPO)
    assert repo is not None
    assert len(world.hub.history(REPO)) == 3
    assert repo.tags["v1.1"] == second.commit
    world.add("acme/alice", seed=2, subjects=["p0001"])
    third = push(world.registry, world.client, replace(REQUEST, name="acme/alice@2"))
    assert repo.tags["v2"] == third.commit
    assert [r.revision for r in world.releases()] == ["v1", "v1.1", "v2"]
    # Three releases in one place, which a takedown takes as a whole.
    assert roi(world.registry, Rates()).takedown_exposure.published == 1
    write_page(world.registry, "p0001", tmp_path / "p.html", "en")
    assert "Places where models of you are or were published: 1" in (tmp_path / "p.html").read_text("utf-8")


def test_coordinates_only(world: World) -> None:
    push(world.registry, world.client, REQUEST)
    small = replace(REQUEST, options=Options(coordinates_only=True))
    push(world.registry, world.client, small)
    files = world.hub.files(REPO)
    assert set(files) == {
        ".gitattributes", "README.md", "consent.json", "coordinates.safetensors", "mlbom.cdx.json",
        "provenance.intoto.jsonl", "w2w.json",
    }  # fmt: skip
    document = bundle.decode(files["w2w.json"] or b"", "x", lambda path: files[path] or b"")
    assert document.layout is None


def test_coordinates_alone_are_published_as_the_lora_they_mean(world: World) -> None:
    world.add("acme/sampled", seed=5, stored=False)
    push(world.registry, world.client, replace(REQUEST, name="acme/sampled", options=Options(formats=("kohya",))))
    assert "lora.safetensors" in world.hub.files(REPO)


def test_policy_decides_before_anything_leaves(world: World) -> None:
    world.add("acme/nobody", seed=3, subjects=["p0009"])
    world.consent("p0002", publication=False)
    world.add("acme/shy", seed=4, subjects=["p0002"])
    for name in ("acme/nobody", "acme/shy"):
        with pytest.raises(ConsentDenied):
            push(world.registry, world.client, replace(REQUEST, name=name))
    world.withdraw("p0001")
    with pytest.raises(ConsentDenied):
        push(world.registry, world.client, REQUEST)
    assert world.hub.faults.seen == ()
    assert jobs(world) == 0


@pytest.mark.parametrize(
    ("asked", "kind", "private", "gated"),
    [
        (None, Kind.PERSON, True, False),
        (Access.PUBLIC, Kind.PERSON, False, "manual"),
        (Access.GATED, Kind.PERSON, False, "manual"),
        (Access.PRIVATE, Kind.PERSON, True, False),
        (None, Kind.PRODUCT, False, False),
        (Access.PRIVATE, Kind.PRODUCT, True, False),
    ],
)
def test_who_may_see_it(world: World, asked: Access | None, kind: Kind, private: bool, gated: Any) -> None:
    world.add("acme/it", seed=7, kind=kind, subjects=["p0001"] if kind is Kind.PERSON else [])
    push(world.registry, world.client, replace(REQUEST, name="acme/it", access=asked))
    repo = world.hub.repo(REPO)
    assert repo is not None
    assert (repo.visibility is Visibility.PRIVATE, repo.gated) == (private, gated)
    assert ("consent.json" in world.hub.files(REPO)) == (kind is Kind.PERSON)
    push(world.registry, world.client, replace(REQUEST, name="acme/it", access=Access.PRIVATE))
    assert repo.visibility is Visibility.PRIVATE
    assert world.releases()[-1].visibility == "private"


def test_a_repo_is_never_open_while_its_content_is_not_complete(world: World) -> None:
    push(world.registry, world.client, replace(REQUEST, access=Access.GATED))
    lines = [s.line for s in world.hub.faults.seen]
    settings = next(i for i, line in enumerate(lines) if "settings" in line)
    assert settings > next(i for i, line in enumerate(lines) if "/commit/" in line)


def test_a_dry_run_writes_nothing(world: World) -> None:
    report = push(world.registry, world.client, replace(REQUEST, dry_run=True))
    assert report.commit is None
    assert report.plan.lines()[0] == f"create private repo {REPO}"
    assert [s.method for s in world.hub.faults.seen] == ["GET"]
    assert world.releases() == []
    assert jobs(world) == 0


def test_one_repo_one_identity(world: World) -> None:
    push(world.registry, world.client, REQUEST)
    world.add("acme/bob", seed=9, subjects=["p0001"])
    with pytest.raises(Conflict, match="holds acme/alice"):
        push(world.registry, world.client, replace(REQUEST, name="acme/bob"))


def test_unknown_names(world: World) -> None:
    with pytest.raises(NotFound):
        push(world.registry, world.client, replace(REQUEST, name="acme/alise"))
    with pytest.raises(RegistryError, match="owner/repo"):
        push(world.registry, world.client, replace(REQUEST, repo_id="alice"))


# -- whatever breaks ---------------------------------------------------------------------------
def requests_of_a_push(world: World) -> int:
    push(world.registry, world.client, replace(REQUEST, repo_id="acme/rehearsal", access=Access.GATED))
    count = len(world.hub.faults.seen)
    world.hub.faults.reset()
    return count


def attempt(world: World, request: PushRequest) -> RegistryError | None:
    try:
        push(world.registry, world.client, request)
    except RegistryError as error:
        return error
    return None


def agree(world: World) -> None:
    """Catalog and Hub tell the same story, and no note is left."""
    assert jobs(world) == 0
    releases = [r for r in world.releases() if r.repo_id == REPO and r.state is ReleaseState.PUBLISHED]
    repo = world.hub.repo(REPO)
    assert repo is not None
    assert [r.commit_id for r in releases] == [repo.branches["main"]]
    assert repo.tags == {"v1": repo.branches["main"]}
    assert (repo.visibility, repo.gated) == (Visibility.PUBLIC, "manual")
    assert len(world.hub.history(REPO)) == 2
    assert releases[0].digests == {
        p: sha256(c or b"") for p, c in world.hub.files(REPO).items() if p != ".gitattributes"
    }


def settle(world: World) -> None:
    """What sync does about begun pushes."""
    with world.registry.catalog.read() as session:
        waiting = [job.id for job in unfinished(session, world.hub.endpoint)]
    for job in waiting:
        finish(world.registry, world.client, job)


@pytest.mark.usefixtures("no_library_waits")
@pytest.mark.parametrize("onward", [False, True], ids=["one cut", "gone from there on"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_the_connection_cut_at_every_request(world: World, when: Any, onward: bool) -> None:
    total = requests_of_a_push(world)
    request = replace(REQUEST, access=Access.GATED)
    failures = 0
    for at in range(1, total + 1):
        fault = Fault("cut", at=at, onward=onward, times=None if onward else 1, when=when)
        world.hub.faults.add(fault)
        error = attempt(world, request)
        failures += isinstance(error, HubError)
        assert error is None or "\n" not in message(error)
        world.hub.faults.reset()
        assert fault.struck
        settle(world)
        if not any(r.repo_id == REPO for r in world.releases()):
            # Nothing was begun, so nothing is there.
            assert world.hub.repo(REPO) is None
            push(world.registry, world.client, request)
        agree(world)
        world.hub.store.delete(REPO, world.owner)
        gone = [r.id for r in world.releases() if r.repo_id == REPO]
        with world.registry.catalog.write("t") as uow:
            uow.bulk_delete(Release, gone)
            uow.event("test.clear")
        world.hub.faults.reset()
    assert (failures == total) is onward


@pytest.mark.usefixtures("no_library_waits")
@pytest.mark.parametrize(("status", "every"), [(401, 3), (403, 1), (404, 3), (429, 3), (500, 1)])
def test_every_refusal_leaves_agreement(world: World, status: int, every: int) -> None:
    total = requests_of_a_push(world)
    for at in range(1, total + 1, every):
        repo = f"acme/r{at}"
        world.hub.faults.add(Fault("status", at=at, status=status, headers={"Retry-After": "0"}))
        error = attempt(world, replace(REQUEST, repo_id=repo, access=Access.GATED))
        assert error is None or "\n" not in message(error)
        assert error is None or status not in (429, 500), "these are retried"
        world.hub.faults.reset()
        settle(world)
        assert jobs(world) == 0
        mine = [r for r in world.releases() if r.repo_id == repo]
        found = world.hub.repo(repo)
        assert [r.commit_id for r in mine] == ([] if found is None else [found.branches["main"]])
        world.hub.faults.reset()


def test_what_was_uploaded_is_not_sent_again(world: World) -> None:
    world.hub.faults.add(Fault("cut", match="POST .*/commit/", times=None))
    with pytest.raises(HubError):
        push(world.registry, world.client, REQUEST)
    sent = [s for s in world.hub.faults.seen if s.method == "PUT"]
    assert len(sent) == 2
    world.hub.faults.reset()
    settle(world)
    assert [s for s in world.hub.faults.seen if s.method == "PUT"] == []
    assert len(world.releases()) == 1


def test_a_push_into_a_repo_somebody_changes_at_the_same_time(world: World) -> None:
    push(world.registry, world.client, REQUEST)
    changed = replace(REQUEST, options=Options(license="mit"))
    planted: list[str] = []

    class Meddled(type(world.client)):  # type: ignore[misc]
        def create(self, repo_id: str, *, private: bool) -> bool:
            raise AssertionError

        def commit(self, repo_id: str, **options: Any) -> str:
            if not planted:
                planted.append(world.hub.store.plant(REPO, {"LICENSE": b"theirs"}))
            return super().commit(repo_id, **options)  # type: ignore[no-any-return]

    meddled = Meddled(world.hub.endpoint, token=world.owner.token, sleep=lambda s: None)
    with pytest.raises(Conflict, match="meanwhile"):
        push(world.registry, meddled, changed)
    settle(world)
    assert world.hub.files(REPO)["LICENSE"] == b"theirs"
    assert world.releases()[-1].commit_id == world.hub.history(REPO)[0].oid
    assert jobs(world) == 0


def test_consent_that_ends_during_a_push_takes_it_down_again(world: World) -> None:
    class Slow(type(world.client)):  # type: ignore[misc]
        def tag(self, repo_id: str, tag: str, commit: str) -> None:
            super().tag(repo_id, tag, commit)
            world.withdraw("p0001")

    slow = Slow(world.hub.endpoint, token=world.owner.token, sleep=lambda s: None)
    with pytest.raises(ConsentDenied):
        push(world.registry, slow, REQUEST)
    assert world.hub.repo(REPO) is None
    assert world.releases()[0].state is ReleaseState.DELETED


@pytest.mark.usefixtures("no_library_waits")
@pytest.mark.parametrize("existing", [False, True])
def test_a_broken_push_that_may_no_longer_go_out_is_undone(world: World, existing: bool) -> None:
    if existing:
        push(world.registry, world.client, REQUEST)
    world.hub.faults.reset()
    world.hub.faults.add(Fault("cut", match="POST .*/tag/", when="before", times=None))
    with pytest.raises(HubError):
        push(world.registry, world.client, replace(REQUEST, options=Options(license="mit")))
    world.hub.faults.reset()
    world.withdraw("p0001")
    settle(world)
    assert jobs(world) == 0
    repo = world.hub.repo(REPO)
    if existing:
        assert repo is not None
        assert repo.visibility is Visibility.PRIVATE
        assert world.releases()[-1].state is ReleaseState.TAKEDOWN_QUEUED
    else:
        assert repo is None


def test_a_push_the_hub_forbids_is_not_left_unfinished(world: World) -> None:
    world.hub.faults.add(Fault("status", match="POST /api/repos/create", status=403, times=None))
    with pytest.raises(HubError) as caught:
        push(world.registry, world.client, REQUEST)
    assert caught.value.fields["status"] == 403
    assert jobs(world) == 0


def test_sync_drops_a_push_that_the_hub_forbids_by_now(world: World) -> None:
    fault = world.hub.faults.add(Fault("status", match="POST /api/repos/create", status=503, times=None))
    with pytest.raises(HubError):
        push(world.registry, world.client, REQUEST)
    assert jobs(world) == 1
    fault.status = 403
    report = sync(world.registry, world.client)
    assert [(s.done, s.error) for s in report.settled] == [(True, None)]
    assert jobs(world) == 0


@pytest.mark.parametrize("arrived", [False, True])
def test_an_unfinished_push_can_be_given_up(world: World, arrived: bool) -> None:
    match = "/commit/" if arrived else "POST /api/repos/create"
    world.hub.faults.add(Fault("status", match=match, status=503, times=None))
    with pytest.raises(HubError):
        push(world.registry, world.client, REQUEST)
    world.hub.faults.reset()
    assert jobs(world) == 1
    assert cancel(world.registry, world.client, REPO) == ("undone" if arrived else "dropped")
    assert (jobs(world), world.hub.repo(REPO)) == (0, None)
    with pytest.raises(NotFound):
        cancel(world.registry, world.client, REPO)
