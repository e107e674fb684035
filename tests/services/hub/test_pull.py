"""Pull: ours bit for bit after every check, a stranger's placed like any file, harm refused unopened."""

from __future__ import annotations

import base64
import hashlib
import json
import multiprocessing
import pickle
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select
from sqlalchemy.exc import NoResultFound

from tests.hub.conftest import _plain_uploads, hub, owner  # noqa: F401
from tests.hub.local_hub import Fault, LocalHub
from tests.hub.local_hub.store import Entry, User, Visibility
from tests.services.hub_world import BASE, World, add_space, make_space, open_world
from w2w_registry.catalog.lookup import labels_of
from w2w_registry.catalog.models import Coordinates, InputKind, OperationInput, ReleaseState, Space, Subject
from w2w_registry.catalog.resolve import version_for
from w2w_registry.errors import (
    BadFile,
    BadLora,
    ConsentDenied,
    HubError,
    IntegrityError,
    LikenessRefused,
    NotFound,
    RegistryError,
    SpaceMismatch,
    StorageError,
    UnsafeRepo,
    UsageError,
)
from w2w_registry.hub import bundle
from w2w_registry.hub.client import HubClient
from w2w_registry.hub.plan import Access
from w2w_registry.lora import lora_files, model_digest, read_adapter, read_lora
from w2w_registry.lora.tensorfile import encode
from w2w_registry.messages import message
from w2w_registry.records import Kind, canonical_json, digest_of
from w2w_registry.services.consent import gate
from w2w_registry.services.consent.door import Door
from w2w_registry.services.hub import pull_adapters
from w2w_registry.services.hub.pull import PullReport, PullRequest, pull
from w2w_registry.services.hub.release import PushRequest, push
from w2w_registry.services.hub.release_files import Options
from w2w_registry.services.hub.resolving import look_up
from w2w_registry.services.identities import intake
from w2w_registry.services.identities.items import AddRequest
from w2w_registry.services.registry import open_registry
from w2w_registry.services.synthesis.export import export
from w2w_registry.settings import load_settings

REPO = "acme/alice-lora"


@pytest.fixture
def world(tmp_path: Path, sqlite_template: Path, hub: LocalHub, owner: User) -> Iterator[World]:  # noqa: F811
    made = open_world(tmp_path, sqlite_template, hub, owner)
    made.consent("p0001")
    made.add("acme/alice", subjects=["p0001"])
    yield made
    made.registry.catalog.close()


@pytest.fixture
def wiped(world: World, tmp_path: Path, sqlite_template: Path) -> Iterator[World]:
    """Another, empty registry with the same weight space: what is left after the catalog was wiped."""
    made = open_world(tmp_path, sqlite_template, world.hub, world.owner, "wiped")
    yield made
    made.registry.catalog.close()


def absent(world: World, name: str) -> None:
    with pytest.raises(NoResultFound):
        world.version(name)


def coordinates(world: World, name: str) -> bytes:
    version = world.version(name)
    with world.registry.catalog.read() as session:
        return session.get_one(Coordinates, (version.space_id, version.id)).data


def manifest(world: World, name: str) -> Any:
    digest = world.version(name).manifest_digest
    assert digest is not None
    return json.loads(world.registry.artifacts.get(digest))


@pytest.mark.parametrize("options", [Options(), Options(coordinates_only=True), Options(formats=("kohya",))])
@pytest.mark.parametrize("stored", [True, False])
def test_push_wipe_pull(world: World, wiped: World, options: Options, stored: bool) -> None:
    world.add("acme/bob", seed=8, subjects=["p0001"], stored=stored)
    push(world.registry, world.client, PushRequest("acme/bob", REPO, options=options))
    there = world.hub.files(REPO)
    published = bundle.decode(there["w2w.json"] or b"", "x", lambda path: there[path] or b"")
    report = pull(wiped.registry, wiped.client, PullRequest(REPO))
    assert (report.ours, report.status, report.version, report.consent) == (True, "added", "acme/bob@1", "granted")
    assert coordinates(wiped, "acme/bob") == coordinates(world, "acme/bob")
    assert manifest(wiped, "acme/bob") == published.manifest
    before, after = world.version("acme/bob"), wiped.version("acme/bob")
    assert (after.model_digest, after.residual, after.base_model) == (
        before.model_digest,
        before.residual,
        before.base_model,
    )
    with wiped.registry.catalog.read() as session:
        inputs = session.scalars(select(OperationInput).where(OperationInput.operation_id == after.operation_id)).all()
        assert [i.ref for i in inputs if i.kind is InputKind.HUB] == [f"{REPO}@{report.commit}"]
        assert gate.ask(wiped.registry, "edit", versions=[after.id]).allowed
        assert gate.ask(wiped.registry, "publish", versions=[after.id]).allowed
        assert not gate.ask(wiped.registry, "edit", versions=[after.id], purpose="advertising").allowed
    assert after.operation.kind == "pull"
    if options.coordinates_only:
        assert after.artifact_digest is None
    elif stored:
        path = wiped.registry.artifacts.path(str(after.artifact_digest))
        assert path is not None
        space = wiped.space
        assert model_digest(space.layout.flatten(read_lora(path).tensors), space.layout) == after.model_digest
    # What was pulled can be published again, to the same content but for the files' own digests.
    assert push(wiped.registry, wiped.client, PushRequest("acme/bob", "acme/again", options=options)).changed


def test_again_is_already_there(world: World, wiped: World) -> None:
    push(world.registry, world.client, PushRequest("acme/alice", REPO))
    for target, expected in ((wiped, "added"), (wiped, "existing"), (world, "existing")):
        assert pull(target.registry, target.client, PullRequest(REPO)).status == expected
    assert len(wiped.releases()) == 1
    assert len(world.releases()) == 1


def test_an_old_revision_by_tag(world: World, wiped: World) -> None:
    push(world.registry, world.client, PushRequest("acme/alice", REPO))
    world.add("acme/alice", seed=3, subjects=["p0001"])
    push(world.registry, world.client, PushRequest("acme/alice@2", REPO))
    report = pull(wiped.registry, wiped.client, PullRequest(f"hf://{REPO}@v1"))
    assert coordinates(wiped, "acme/alice") == coordinates(world, "acme/alice")
    assert report.commit == world.releases()[0].commit_id
    with pytest.raises(NotFound, match="v9"):
        pull(wiped.registry, wiped.client, PullRequest(f"{REPO}@v9"))


def test_a_renamed_repo_is_pulled_under_its_present_name(world: World, wiped: World) -> None:
    push(world.registry, world.client, PushRequest("acme/alice", REPO))
    world.hub.store.move(REPO, "acme/renamed", world.owner)
    assert pull(wiped.registry, wiped.client, PullRequest(REPO)).repo == "acme/renamed"


def test_a_dry_run_adds_nothing(world: World, wiped: World) -> None:
    push(world.registry, world.client, PushRequest("acme/alice", REPO))
    report = pull(wiped.registry, wiped.client, PullRequest(REPO, dry_run=True))
    assert (report.version, report.consent) == (None, "granted")
    absent(wiped, "acme/alice")


def test_the_space_has_to_be_there(world: World, tmp_path: Path, sqlite_template: Path) -> None:
    push(world.registry, world.client, PushRequest("acme/alice", REPO))
    (tmp_path / "bare").mkdir()
    bare = open_world(tmp_path / "bare", sqlite_template, world.hub, world.owner)
    other = make_space(seed=5)
    add_space(bare.registry, other, "other")
    with bare.registry.catalog.write("t") as uow:
        row = uow.session.get_one(Space, bare.space_id)
        row.digest = "00" * 32
        uow.event("test")
    with pytest.raises(NotFound, match="faces@1"):
        pull(bare.registry, bare.client, PullRequest(REPO))
    bare.registry.catalog.close()


# -- consent that comes along ------------------------------------------------------------------
def test_consent_from_a_stranger_is_a_claim_not_a_consent(world: World, wiped: World) -> None:
    push(world.registry, world.client, PushRequest("acme/alice", REPO, access=None))
    world.hub.store.repos[REPO].visibility = Visibility.PUBLIC
    stranger = HubClient(world.hub.endpoint, token=world.hub.user("p0009").token, sleep=lambda s: None)
    report = pull(wiped.registry, stranger, PullRequest(REPO))
    assert report.consent == "unknown"
    assert "not taken over" in report.warnings[0]
    assert not gate.ask(wiped.registry, "edit", versions=[wiped.version("acme/alice").id]).allowed


def test_an_owner_whom_the_policy_trusts_is_believed(world: World, wiped: World) -> None:
    push(world.registry, world.client, PushRequest("acme/alice", REPO))
    world.hub.store.repos[REPO].visibility = Visibility.PUBLIC
    stranger = HubClient(world.hub.endpoint, token=world.hub.user("p0009").token, sleep=lambda s: None)
    settings = replace(wiped.registry.settings, policy={"hub": {"trusted": ["acme"]}})
    assert pull(replace(wiped.registry, settings=settings), stranger, PullRequest(REPO)).consent == "granted"


def test_a_release_cannot_bring_back_what_was_withdrawn(world: World) -> None:
    push(world.registry, world.client, PushRequest("acme/alice", REPO))
    world.withdraw("p0001")
    with pytest.raises(ConsentDenied):
        pull(world.registry, world.client, PullRequest(REPO, name="acme/back"))


# -- strangers ---------------------------------------------------------------------------------
def stranger_repo(world: World, files: dict[str, bytes | Entry], repo: str = "p0009/lora") -> str:
    user = next((u for u in world.hub.store.users.values() if u.name == "p0009"), None) or world.hub.user("p0009")
    if world.hub.repo(repo) is None:
        world.hub.store.create(user, None, repo.split("/")[1], Visibility.PUBLIC)
    return world.hub.store.plant(repo, files)


CARD = f"---\nbase_model: {BASE}\n---\n".encode()


@pytest.mark.parametrize("fmt", ["peft", "diffusers", "kohya"])
def test_a_strangers_lora_in_any_format(world: World, fmt: Any) -> None:
    lora = world.lora(21, noise=0.4)
    files = {p.name: b for p, b in lora_files("out", lora, fmt=fmt).items()}
    commit = stranger_repo(world, {**files, "README.md": CARD, "pytorch_lora_weights.bin": b"\x80\x04."})
    report = pull(world.registry, world.client, PullRequest("p0009/lora", name="them/x"))
    assert (report.ours, report.status, report.version) == (False, "added", "them/x@1")
    assert report.residual is not None
    assert report.residual > 0.2
    version = world.version("them/x")
    assert version.operation.kind == "pull"
    with world.registry.catalog.read() as session:
        refs = session.scalars(
            select(OperationInput.ref).where(OperationInput.operation_id == version.operation_id)
        ).all()
    assert f"p0009/lora@{commit}" in refs
    again = pull(world.registry, world.client, PullRequest("p0009/lora", name="them/x"))
    assert again.status == "existing"
    assert not gate.ask(world.registry, "edit", versions=[version.id]).allowed


def test_another_base_model_is_refused_by_the_space_that_was_named(world: World) -> None:
    silent = replace(world.lora(21), base_model=None)
    files = {p.name: b for p, b in lora_files("out", silent, fmt="kohya").items()}
    stranger_repo(world, {**files, "README.md": b"---\nbase_model: other/sdxl\n---\n"})
    with pytest.raises(SpaceMismatch, match="other/sdxl"):
        pull(world.registry, world.client, PullRequest("p0009/lora", space="faces"))
    report = pull(world.registry, world.client, PullRequest("p0009/lora"))
    assert (report.status, report.space, report.version) == ("added", None, "p0009@1")
    with world.registry.catalog.read() as session:
        assert version_for(session, "p0009").base_model == "other/sdxl"


def test_a_silent_card_is_said(world: World) -> None:
    silent = replace(world.lora(21), base_model=None)
    files = {p.name: b for p, b in lora_files("out", silent, fmt="kohya").items()}
    stranger_repo(world, {**files, "README.md": b"# nothing said\n"})
    report = pull(world.registry, world.client, PullRequest("p0009/lora"))
    assert report.space is not None
    assert "names no base model" in report.warnings[0]


def test_a_name_that_comes_from_the_repo_makes_it_no_version_of_a_stranger(world: World) -> None:
    for index, repo in ((21, "p0009/lora"), (22, "p0010/lora"), (23, "p0010/lora")):
        if not any(u.name == repo.split("/")[0] for u in world.hub.store.users.values()):
            world.hub.user(repo.split("/")[0])
        files = {p.name: b for p, b in lora_files("out", world.lora(index), fmt="kohya").items()}
        user = next(u for u in world.hub.store.users.values() if u.name == repo.split("/")[0])
        if world.hub.repo(repo) is None:
            world.hub.store.create(user, None, "lora", Visibility.PUBLIC)
        world.hub.store.plant(repo, {**files, "README.md": CARD})
        report = pull(world.registry, world.client, PullRequest(repo))
        names = {21: "p0009@1", 22: "p0010@1", 23: "p0010.lora@1"}
        assert report.version == names[index]
        assert index < 23 or "is not known to be p0010" in report.warnings[0]


def test_an_adapter_no_space_holds_is_pulled_all_the_same(world: World) -> None:
    stem = "lora_unet_double_blocks_0_img_attn_proj"
    tensors = {f"{stem}.hada_w{i}_{x}": np.ones((4, 2) if x == "a" else (2, 4), np.float32) for i in "12" for x in "ab"}
    dtypes: dict[str, Any] = dict.fromkeys(tensors, "fp32")
    stranger_repo(world, {"x.safetensors": encode(tensors, {}, dtypes), "README.md": CARD})
    dry = pull(world.registry, world.client, PullRequest("p0009/lora", dry_run=True))
    report = pull(world.registry, world.client, PullRequest("p0009/lora"))
    assert (dry.status, dry.space) == (report.status, report.space) == ("added", None)
    assert world.version("p0009").operation.kind == "pull"
    assert world.version("p0009").adapter == "LoHa"
    assert pull(world.registry, world.client, PullRequest("p0009/lora")).status == "existing"


def test_a_repo_with_several_loras_wants_a_choice(world: World) -> None:
    one = next(iter(lora_files("a.safetensors", world.lora(1), fmt="kohya").values()))
    two = next(iter(lora_files("b.safetensors", world.lora(2), fmt="kohya").values()))
    stranger_repo(world, {"a.safetensors": one, "b.safetensors": two, "README.md": CARD})
    with pytest.raises(UsageError, match="2 safetensors"):
        pull(world.registry, world.client, PullRequest("p0009/lora"))
    assert pull(world.registry, world.client, PullRequest("p0009/lora", file="b.safetensors")).status == "added"


def test_looking_up_adds_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", world.hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", world.owner.token)
    push(world.registry, world.client, PushRequest("acme/alice", REPO))
    push(world.registry, world.client, PushRequest("acme/alice", "acme/small", options=Options(coordinates_only=True)))
    full, small = (
        read_lora(look_up(world.registry, f"hf://{REPO}")),
        read_lora(look_up(world.registry, "hf://acme/small")),
    )
    assert full.theta() == pytest.approx(world.lora(1, noise=0.3).theta())
    space = world.space
    assert space.project(small.theta()) == pytest.approx(space.project(full.theta()), abs=1e-4)
    assert len(world.releases()) == 2


# -- harm --------------------------------------------------------------------------------------
def kohya(world: World) -> bytes:
    return next(iter(lora_files("x.safetensors", world.lora(3), fmt="kohya").values()))


class Bomb:
    def __reduce__(self) -> Any:
        return (Path("/tmp/w2w-pickle-ran").touch, ())


STRANGE: dict[str, tuple[Callable[[World], dict[str, bytes | Entry]], type[RegistryError], str]] = {
    "pickle only": (lambda w: {"pytorch_lora_weights.bin": pickle.dumps(Bomb())}, UnsafeRepo, "pickles"),
    "pickle named safetensors": (
        lambda w: {"lora.safetensors": pickle.dumps(Bomb()) * 20},
        UnsafeRepo,
        "header claims|not a safetensors",
    ),
    "path traversal": (lambda w: {"../../evil.safetensors": kohya(w)}, UnsafeRepo, "leads out"),
    "absolute": (lambda w: {"/tmp/evil.safetensors": kohya(w)}, UnsafeRepo, "leads out"),
    "header of 100 GB": (
        lambda w: {"lora.safetensors": struct.pack("<Q", 100 << 30) + b"{" + b" " * 500},
        UnsafeRepo,
        "header claims",
    ),
    "file of 100 GB": (
        lambda w: {"lora.safetensors": Entry(b"x", True, "0" * 64, 100 << 30)},
        UnsafeRepo,
        "claims 107",
    ),
    "tensor of 100 GB": (
        lambda w: {
            "lora.safetensors": (lambda h: struct.pack("<Q", len(h)) + h + b"\0" * 64)(
                json.dumps({"a": {"dtype": "F32", "shape": [25 << 30], "data_offsets": [0, 100 << 30]}}).encode()
            )
        },
        BadLora,
        "",
    ),
    "wrong digest": (
        lambda w: {"lora.safetensors": Entry(kohya(w), True, "0" * 64)},
        UnsafeRepo,
        "digest",
    ),
    "a link": (lambda w: {"lora.safetensors": b"../../../../etc/passwd"}, UnsafeRepo, ""),
    "a web page": (lambda w: {"lora.safetensors": b"<html><script>alert(1)</script></html>" * 9}, UnsafeRepo, ""),
    "nothing": (lambda w: {"notes.txt": b"hi"}, BadLora, "no LoRA"),
    "NaN": (
        lambda w: {"lora.safetensors": kohya(w)[:-4] + struct.pack("<f", float("nan"))},
        BadLora,
        "",
    ),
    "config that is a bomb": (
        lambda w: {
            "adapter_model.safetensors": next(
                b for p, b in lora_files("o", w.lora(3), fmt="peft").items() if p.name.endswith("safetensors")
            ),
            "adapter_config.json": b"[" * 100_000,
        },
        BadLora,
        "",
    ),
}


@pytest.mark.parametrize("case", STRANGE)
def test_a_harmful_stranger_is_refused_with_one_line(world: World, tmp_path: Path, case: str) -> None:
    make, kind, words = STRANGE[case]
    stranger_repo(world, {**make(world), "README.md": CARD + b"<script>alert(1)</script>"})
    before = {p for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(kind, match=words or None) as refused:
        pull(world.registry, world.client, PullRequest("p0009/lora", name="acme/evil"))
    line = message(refused.value)
    assert "\n" not in line
    assert "w2w-pull-" not in line
    absent(world, "acme/evil")
    assert {p for p in tmp_path.rglob("*") if p.is_file() and ".db" not in p.name} <= before
    assert not Path("/tmp/w2w-pickle-ran").exists()


def tampered(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    """A release whose document was changed and every digest in it made to fit again."""

    def apply(files: dict[str, bytes]) -> dict[str, bytes]:
        from w2w_registry.records import canonical_json, digest_of

        body = json.loads(files["w2w.json"])
        change(body)
        body.pop("digest")
        return {"w2w.json": canonical_json({**body, "digest": digest_of(body)}).encode()}

    return apply


def move_point(body: dict[str, Any]) -> None:
    raw = np.frombuffer(base64.b64decode(body["coordinates"]["data"]), "<f4") + np.float32(0.5)
    body["coordinates"]["data"] = base64.b64encode(raw.tobytes()).decode()
    body["coordinates"]["sha256"] = hashlib.sha256(raw.tobytes()).hexdigest()
    body["manifest"]["coordinates_digest"] = body["coordinates"]["sha256"]


def count_wrong(body: dict[str, Any]) -> None:
    raw = b"\0\0\x80?" * 3
    digest = hashlib.sha256(raw).hexdigest()
    body["coordinates"] = {
        "dtype": "float32",
        "components": 3,
        "sha256": digest,
        "data": base64.b64encode(raw).decode(),
    }
    body["manifest"]["coordinates_digest"] = body["coordinates"]["sha256"]


def not_finite(body: dict[str, Any]) -> None:
    raw = b"\0\0\xc0\x7f" * 6
    body["coordinates"] |= {"sha256": hashlib.sha256(raw).hexdigest(), "data": base64.b64encode(raw).decode()}
    body["manifest"]["coordinates_digest"] = body["coordinates"]["sha256"]


def other_weights(files: dict[str, bytes]) -> dict[str, bytes]:
    return {"adapter_model.safetensors": files["adapter_model.safetensors"][:-4] + struct.pack("<f", 9.0)}


OURS: dict[str, tuple[Callable[[dict[str, bytes]], dict[str, bytes]], type[RegistryError]]] = {
    "coordinates moved, all digests made to fit": (tampered(move_point), IntegrityError),
    "fewer coordinates": (tampered(count_wrong), BadFile),
    "coordinates not finite": (tampered(not_finite), BadFile),
    "another layout": (tampered(lambda b: b["layout"].update(digest="0" * 64)), IntegrityError),
    "another model digest": (tampered(lambda b: b.update(model_digest="0" * 64)), IntegrityError),
    "weights changed": (other_weights, IntegrityError),
    "weights changed, digests made to fit": (
        lambda f: {
            **(w := other_weights(f)),
            **tampered(
                lambda b: b["files"].update(
                    {"adapter_model.safetensors": hashlib.sha256(w["adapter_model.safetensors"]).hexdigest()}
                )
            )(f),
        },
        IntegrityError,
    ),
    "a file listed that is not there": (tampered(lambda b: b["files"].update({"more.txt": "0" * 64})), IntegrityError),
    "a name that leads out": (tampered(lambda b: b["identity"].update(name="../../x")), RegistryError),
    "a file list that leads out": (tampered(lambda b: b["files"].update({"../x": "0" * 64})), RegistryError),
    "a kind there is not": (tampered(lambda b: b["identity"].update(kind="ghost")), RegistryError),
    "document cut": (lambda f: {"w2w.json": f["w2w.json"][:-20]}, BadFile),
    "document of another tool": (lambda f: {"w2w.json": b'{"format": "other"}'}, BadFile),
    "consent broken": (
        lambda f: {
            "consent.json": b"{}",
            **tampered(lambda b: b["files"].update({"consent.json": hashlib.sha256(b"{}").hexdigest()}))(f),
        },
        IntegrityError,
    ),
}


@pytest.mark.parametrize("case", OURS)
def test_a_tampered_release_is_refused_with_one_line(world: World, wiped: World, case: str) -> None:
    push(world.registry, world.client, PushRequest("acme/alice", REPO))
    change, kind = OURS[case]
    whole = {p: b or b"" for p, b in world.hub.files(REPO).items()}
    world.hub.store.plant(REPO, dict(change(whole)))
    with pytest.raises(kind) as refused:
        pull(wiped.registry, wiped.client, PullRequest(REPO))
    assert "\n" not in message(refused.value)
    absent(wiped, "acme/alice")


# -- whatever breaks ---------------------------------------------------------------------------
def attempt(world: World, name: str) -> PullReport | RegistryError:
    try:
        return pull(world.registry, world.client, PullRequest(REPO, name=name))
    except RegistryError as error:
        return error


@pytest.mark.parametrize("action", ["cut", "truncate"])
@pytest.mark.parametrize("onward", [False, True], ids=["once", "from there on"])
def test_the_connection_breaks_at_every_request(world: World, wiped: World, action: Any, onward: bool) -> None:
    push(world.registry, world.client, PushRequest("acme/alice", REPO))
    world.hub.faults.reset()
    pull(world.registry, world.client, PullRequest(REPO))
    total = len(world.hub.faults.seen)
    failures = 0
    for at in range(1, total + 1):
        world.hub.faults.reset()
        fault = world.hub.faults.add(Fault(action, at=at, onward=onward, times=None if onward else 1))
        report = attempt(wiped, f"acme/at{at}")
        assert fault.struck
        if not isinstance(report, PullReport):
            failures += 1
            assert isinstance(report, HubError)
            world.hub.faults.reset()
            absent(wiped, f"acme/at{at}")
            report = pull(wiped.registry, wiped.client, PullRequest(REPO, name=f"acme/at{at}"))
        assert report.status == "added"
        assert coordinates(wiped, f"acme/at{at}") == coordinates(world, "acme/alice")
    assert failures == 0 or onward


def _pull_in_child(home: str, endpoint: str, token: str, ready: Any) -> None:
    """A pull in a process of its own, to be killed, which waits until the fault for it is in place."""
    ready.wait(60)
    with open_registry(load_settings(home, actor="tester", env={})) as registry:
        pull(registry, HubClient(endpoint, token=token, sleep=lambda s: None), PullRequest(REPO))


def test_kill_9_at_every_request_of_a_pull(world: World, wiped: World) -> None:
    push(world.registry, world.client, PushRequest("acme/alice", REPO))
    world.hub.faults.reset()
    pull(world.registry, world.client, PullRequest(REPO))
    total = len(world.hub.faults.seen)
    # Children are forked from a clean process that has everything imported: fast, and no lock is ever held.
    spawner = multiprocessing.get_context("forkserver")
    spawner.set_forkserver_preload(["tests.services.hub.test_pull"])
    before = set(wiped.registry.artifacts.digests())
    for at in range(1, total + 1):
        world.hub.faults.reset()
        home = str(wiped.registry.settings.home)
        ready = spawner.Event()
        child = spawner.Process(target=_pull_in_child, args=(home, world.hub.endpoint, world.owner.token, ready))
        child.start()
        world.hub.faults.add(Fault("kill", at=at, pid=child.pid))
        ready.set()
        child.join(120)
        assert child.exitcode == -9, at
        world.hub.faults.reset()
        absent(wiped, "acme/alice")
        assert wiped.releases() == []
        assert set(wiped.registry.artifacts.digests()) == before
    assert pull(wiped.registry, wiped.client, PullRequest(REPO)).status == "added"


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
def test_refusals_while_pulling(world: World, wiped: World, status: int) -> None:
    push(world.registry, world.client, PushRequest("acme/alice", REPO))
    for match in ("GET /api/models", "GET /.*resolve", "GET /storage"):
        world.hub.faults.reset()
        world.hub.faults.add(Fault("status", match=match, status=status, times=None, headers={"Retry-After": "0"}))
        with pytest.raises(RegistryError) as refused:
            pull(wiped.registry, wiped.client, PullRequest(REPO))
        assert "\n" not in message(refused.value)
        absent(wiped, "acme/alice")


def test_a_gated_repo_says_where_to_ask(world: World, wiped: World) -> None:
    push(world.registry, world.client, PushRequest("acme/alice", REPO))
    client = world.client
    client.set_access(REPO, private=False, gated=True)
    stranger = HubClient(world.hub.endpoint, token=world.hub.user("p0009").token, sleep=lambda s: None)
    with pytest.raises(HubError, match="gated"):
        pull(wiped.registry, stranger, PullRequest(REPO))


def test_a_full_disk_leaves_nothing(world: World, wiped: World, monkeypatch: pytest.MonkeyPatch) -> None:
    push(world.registry, world.client, PushRequest("acme/alice", REPO))

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("w2w_registry.hub.client.os.fsync", full)
    with pytest.raises(StorageError, match="the disk is full"):
        pull(wiped.registry, wiped.client, PullRequest(REPO))
    monkeypatch.undo()
    absent(wiped, "acme/alice")


def test_a_released_product_needs_no_consent(world: World, wiped: World) -> None:
    world.add("acme/mug", seed=30, kind=Kind.PRODUCT)
    push(world.registry, world.client, PushRequest("acme/mug", "acme/mug"))
    assert pull(wiped.registry, wiped.client, PullRequest("acme/mug")).consent == "not-needed"
    assert wiped.releases()[0].state is ReleaseState.PUBLISHED


def test_what_no_space_holds_is_published_as_it_is_and_pulled_again(world: World, wiped: World, tmp_path: Path) -> None:
    """A plain LoRA in the forms asked for, with its text encoder; another kind as the file it came as."""
    q, te = "lora_unet_double_blocks_0_img_attn_proj", "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    pair = {
        f"{stem}.lora_{x}.weight": np.ones((4, 2) if x == "up" else (2, 4), np.float32)
        for stem in (q, te)
        for x in ("down", "up")
    }
    files = {
        "flux": pair,
        "haha": {f"{q}.hada_w{i}_{x}": np.ones((4, 2) if x == "a" else (2, 4), np.float32) for i in "12" for x in "ab"},
    }
    for name, tensors in files.items():
        dtypes: dict[str, Any] = dict.fromkeys(tensors, "fp32")
        (tmp_path / f"{name}.safetensors").write_bytes(encode(tensors, {}, dtypes))
        (tmp_path / f"{name}.json").write_text('{"activation text": "ohwx", "preferred weight": 0.7, "notes": "ours"}')
        asked = AddRequest([str(tmp_path / f"{name}.safetensors")], kind="style", base_model="acme/base")
        done = intake.perform(world.registry, asked, intake.plan(world.registry, intake.survey(asked), fit=False))
        assert done.exit_code == 0
        push(world.registry, world.client, PushRequest(name, f"acme/{name}", access=Access.PUBLIC))
        there = world.hub.files(f"acme/{name}")
        assert ("adapter_model.safetensors" in there, "lora.safetensors" in there) == (name == "flux", name == "haha")
        assert b"w2w-reg pull" in (there["README.md"] or b"")
        said = json.loads(there["w2w.json"] or b"")
        assert (said["version"], said["labels"]) == (2, {"trigger": "ohwx", "strength": 0.7})  # no notes of a team's
        report = pull(wiped.registry, wiped.client, PullRequest(f"acme/{name}"))
        assert (report.status, report.version, report.space, report.ours) == ("added", f"{name}@1", None, True)
        assert manifest(wiped, name) == said["manifest"]
        before, after = world.version(name), wiped.version(name)
        assert after.model_digest == before.model_digest
        with wiped.registry.catalog.read() as session:
            assert version_for(session, name).identity.kind is Kind.STYLE
            assert labels_of(session, [after.id])[after.id] == said["labels"]
        assert pull(wiped.registry, wiped.client, PullRequest(f"acme/{name}")).status == "existing"
        again = push(world.registry, world.client, PushRequest(name, f"acme/{name}", access=Access.PUBLIC))
        assert not again.changed
    assert len(wiped.releases()) == 2  # their own account's: kept in step from here too
    export(wiped.registry, "flux", str(tmp_path / "back.safetensors"), fmt="kohya")
    assert read_adapter(tmp_path / "back.safetensors").parts == {"text_encoder": 1, "transformer": 1}


def opaque(world: World, path: Path, subjects: Sequence[str]) -> None:
    """A LoHa of somebody, in no weight space, published."""
    q = "lora_unet_double_blocks_0_img_attn_proj"
    tensors = {f"{q}.hada_w{i}_{x}": np.ones((4, 2) if x == "a" else (2, 4), np.float32) for i in "12" for x in "ab"}
    path.write_bytes(encode(tensors, {}, dict.fromkeys(tensors, "fp32")))
    asked = AddRequest([str(path)], name="acme/haha", subjects=subjects)
    done = intake.perform(world.registry, asked, intake.plan(world.registry, intake.survey(asked), fit=False))
    assert done.exit_code == 0
    push(world.registry, world.client, PushRequest("acme/haha", REPO))


def test_consents_come_with_what_no_space_holds(world: World, wiped: World, tmp_path: Path) -> None:
    opaque(world, tmp_path / "x.safetensors", ["p0001"])
    report = pull(wiped.registry, wiped.client, PullRequest(REPO))
    assert (report.ours, report.version, report.consent) == (True, "acme/haha@1", "granted")
    after = wiped.version("acme/haha")
    assert gate.ask(wiped.registry, "publish", versions=[after.id]).allowed
    assert not gate.ask(wiped.registry, "edit", versions=[after.id], purpose="advertising").allowed
    assert push(wiped.registry, wiped.client, PushRequest("acme/haha", "acme/again")).changed


def test_what_no_space_holds_is_pulled_whole_or_not_at_all(
    world: World, wiped: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last thing written of a pull fails: neither the version nor its consents are there without it."""
    opaque(world, tmp_path / "x.safetensors", ["p0001"])

    def broken(*_: object) -> None:
        raise OSError("no more room")

    with monkeypatch.context() as patch:
        patch.setattr(pull_adapters, "know_release", broken)
        patch.setattr(pull_adapters, "owns", lambda *_: True)
        with pytest.raises(OSError, match="no more room"):
            pull(wiped.registry, wiped.client, PullRequest(REPO))
    absent(wiped, "acme/haha")
    assert [pull(wiped.registry, wiped.client, PullRequest(REPO)).status for _ in range(2)] == ["added", "existing"]


def test_of_a_release_that_the_door_refuses_no_consent_stays(
    world: World, wiped: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opaque(world, tmp_path / "x.safetensors", ["p0001"])

    def refuse(*_: object, path: str, **__: object) -> None:
        raise LikenessRefused(path=path, subject="s1", score=0.99, threshold=0.9)

    def known() -> list[str]:
        with wiped.registry.catalog.read() as session:
            return [*session.scalars(select(Subject.id))]

    before = known()
    with monkeypatch.context() as refusing:
        refusing.setattr(Door, "hold", refuse)
        with pytest.raises(LikenessRefused) as caught:
            pull(wiped.registry, wiped.client, PullRequest(REPO))
    assert REPO in str(caught.value.fields["path"])
    assert known() == before
    absent(wiped, "acme/haha")
    assert pull(wiped.registry, wiped.client, PullRequest(REPO)).consent == "granted"
    assert len(known()) == len(before) + 1


@pytest.mark.parametrize("what", ["labels", "model_digest", "kind", "file", "half"])
def test_a_document_without_a_space_is_held_against_the_release(
    world: World, wiped: World, tmp_path: Path, what: str
) -> None:
    opaque(world, tmp_path / "x.safetensors", ["p0001"])
    there = {p: b or b"" for p, b in world.hub.files(REPO).items()}
    said = json.loads(there["w2w.json"])
    digest = said.pop("digest")
    if what == "labels":
        said["labels"] = {"trigger": "other"}  # under the old digest
    elif what == "model_digest":
        said["model_digest"] = "0" * 64
    elif what == "kind":
        said["identity"]["kind"] = "deity"
    elif what == "file":
        said["files"]["lora.safetensors"] = "0" * 64
    elif what == "half":
        del said["manifest"]
    sealed = {**said, "digest": digest if what == "labels" else digest_of(said)}
    world.hub.store.plant(REPO, {"w2w.json": canonical_json(sealed).encode()})
    with pytest.raises((IntegrityError, BadFile)) as refused:
        pull(wiped.registry, wiped.client, PullRequest(REPO))
    assert "\n" not in message(refused.value)
    absent(wiped, "acme/haha")


def test_one_whose_base_model_nobody_named_is_published_as_the_file_it_is(world: World, wiped: World) -> None:
    """A space fitted on LoRAs that name no base model knows none either."""
    world.add("acme/bob", seed=8, subjects=["p0001"])
    with world.registry.catalog.write("tester") as uow:
        version = version_for(uow.session, "acme/bob")
        version.base_model = None
        uow.event("label.set", {"version": version.id})
    push(world.registry, world.client, PushRequest("acme/bob", REPO))
    there = world.hub.files(REPO)
    assert json.loads(there["w2w.json"] or b"")["version"] == 2
    report = pull(wiped.registry, wiped.client, PullRequest(REPO))
    assert (report.ours, report.status, report.version) == (True, "added", "acme/bob@1")
