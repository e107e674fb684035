"""Releases in an OCI registry: pushed, pulled, kept in step and taken down by the same rules as on the Hub."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.hub.conftest import _plain_uploads, hub, owner  # noqa: F401
from tests.hub.local_hub import LocalHub
from tests.hub.local_hub.store import User
from tests.hub.local_oci import LocalOci
from tests.services.hub.test_pull import absent, coordinates
from tests.services.hub_world import World, open_world
from w2w_registry.catalog.models import ReleaseState
from w2w_registry.errors import ConsentDenied, HubError, IntegrityError, RegistryError, UsageError
from w2w_registry.hub import bundle
from w2w_registry.hub.oci import OciHub
from w2w_registry.hub.plan import Access
from w2w_registry.messages import message
from w2w_registry.records import Kind
from w2w_registry.services.hub.intents import all_unfinished
from w2w_registry.services.hub.pull import PullRequest, pull
from w2w_registry.services.hub.release import PushRequest, cancel, push
from w2w_registry.services.hub.sync import sync
from w2w_registry.services.hub.takedown import drain, takedown
from w2w_registry.services.signing import new_key_pair

NAME = "acme/alice-lora"


@pytest.fixture
def oci(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalOci]:
    with LocalOci() as running:
        running.log_in(tmp_path / "docker")
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
        monkeypatch.setattr("w2w_registry.hub.oci_wire.time.sleep", lambda seconds: None)
        yield running


@pytest.fixture
def world(tmp_path: Path, sqlite_template: Path, hub: LocalHub, owner: User) -> Iterator[World]:  # noqa: F811
    made = open_world(tmp_path, sqlite_template, hub, owner)
    made.consent("p0001")
    made.add("acme/alice", subjects=["p0001"])
    yield made
    made.registry.catalog.close()


def hub_of(oci: LocalOci) -> OciHub:
    return OciHub(oci.host, sleep=lambda seconds: None)


def publish(world: World, oci: LocalOci, **asked: Any) -> Any:
    return push(world.registry, hub_of(oci), PushRequest("acme/alice", oci.address(NAME), **asked))


def state_of(world: World) -> list[ReleaseState]:
    return [release.state for release in world.releases()]


def test_there_and_back(world: World, oci: LocalOci, tmp_path: Path, sqlite_template: Path) -> None:
    report = publish(world, oci)
    assert (report.changed, report.tag, report.access) == (True, "v1", Access.PRIVATE)
    files = oci.files(NAME)
    assert {"adapter_model.safetensors", "w2w.json", "consent.json", "mlbom.cdx.json", "README.md"} <= set(files)
    assert f"oras pull {oci.host}/{NAME}:latest".encode() in files["README.md"]
    again = publish(world, oci)
    assert not again.changed
    assert again.commit == report.commit
    (release,) = world.releases()
    assert (release.endpoint, release.repo_id) == (f"oci://{oci.host}", oci.address(NAME))

    other = open_world(tmp_path, sqlite_template, world.hub, world.owner, "other")
    got = pull(other.registry, hub_of(oci), PullRequest(f"{oci.address(NAME)}:v1", name="acme/again"))
    assert got.ours
    assert any("is not trusted" in text for text in got.warnings)
    assert world.version("acme/alice").model_digest == other.version("acme/again").model_digest
    assert coordinates(world, "acme/alice") == coordinates(other, "acme/again")
    twice = pull(world.registry, hub_of(oci), PullRequest(oci.address(NAME), name="acme/twice"))
    assert twice.warnings[-1].startswith("held: it resembles acme/alice@1")
    assert world.version("acme/twice").state == "held"
    other.registry.catalog.close()


def test_whoever_trusts_the_registrys_own_key_needs_nothing_else(
    world: World, oci: LocalOci, tmp_path: Path, sqlite_template: Path
) -> None:
    """Nobody set a signing key: the statement's vouches for the whole release, consents included."""
    publish(world, oci)
    key = str(world.registry.settings.home / "keys/release/signing.pub")
    other = open_world(tmp_path, sqlite_template, world.hub, world.owner, "other")
    for trusted in ([], [new_key_pair(tmp_path / "k")["public_key"]], [key]):
        policy = {"hub": {"keys": trusted, "require_signature": True}}
        reader = replace(other.registry, settings=replace(other.registry.settings, policy=policy))
        if trusted != [key]:
            with pytest.raises(IntegrityError, match="expected a signature"):
                pull(reader, hub_of(oci), PullRequest(oci.address(NAME), name="acme/again"))
            absent(other, "acme/again")
    got = pull(reader, hub_of(oci), PullRequest(oci.address(NAME), name="acme/again"))
    assert (got.consent, got.warnings) == ("granted", ())
    other.registry.catalog.close()


def flipped(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


def other_signature(data: bytes) -> bytes:
    """Of the right form, over the same files, and made by nobody."""
    body = json.loads(data)
    sig = base64.b64decode(body["dsseEnvelope"]["signatures"][0]["sig"])
    body["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(flipped(sig)).decode()
    return json.dumps(body).encode()


def test_each_part_of_a_release_tampered_with(
    world: World, oci: LocalOci, tmp_path: Path, sqlite_template: Path
) -> None:
    """Consents, bill of materials, statement, signature, document and weights: each changed or taken out alone is one
    line and nothing registered, whoever writes to the host and makes its digests fit."""
    pytest.importorskip("model_signing")
    keys = new_key_pair(tmp_path / "k")
    settings = replace(world.registry.settings, hub={"signing_key": keys["private_key"]})
    push(replace(world.registry, settings=settings), hub_of(oci), PushRequest("acme/alice", oci.address(NAME)))
    other = open_world(tmp_path, sqlite_template, world.hub, world.owner, "other")
    policy = {"hub": {"keys": [keys["public_key"]], "require_signature": True}}
    trusting = replace(other.registry, settings=replace(other.registry.settings, policy=policy))
    whole, kept = oci.files(NAME), deepcopy(oci.repositories[NAME])
    parts = set(whole) - {bundle.CARD}
    assert {bundle.CONSENT, bundle.BOM, bundle.STATEMENT, bundle.SIGNATURE, bundle.DOCUMENT} < parts
    cases: list[dict[str, bytes | None]] = [{part: flipped(whole[part])} for part in sorted(parts)]
    cases += [{part: None} for part in sorted(parts - {bundle.SIGNATURE})]
    cases += [{bundle.SIGNATURE: other_signature(whole[bundle.SIGNATURE])}]
    cases += [{bundle.DOCUMENT: None, bundle.STATEMENT: None}, {bundle.BOM: None, bundle.STATEMENT: None}]
    for changes in cases:
        # Without a key to hold it against, a signature proves nothing; nor does a release without any document.
        readers = [trusting] if bundle.SIGNATURE in changes or len(changes) > 1 else [trusting, other.registry]
        for reader in readers:
            oci.repositories[NAME] = deepcopy(kept)
            oci.replant(NAME, changes)
            with pytest.raises(RegistryError) as refused:
                pull(reader, hub_of(oci), PullRequest(oci.address(NAME), name="acme/again"))
            assert "\n" not in message(refused.value), changes
    absent(other, "acme/again")
    oci.repositories[NAME] = kept
    oci.replant(NAME, {bundle.SIGNATURE: None})  # the statement, by the same key, says as much
    assert pull(trusting, hub_of(oci), PullRequest(oci.address(NAME), dry_run=True)).consent == "granted"
    oci.repositories[NAME] = deepcopy(kept)
    assert pull(trusting, hub_of(oci), PullRequest(oci.address(NAME), name="acme/again")).consent == "granted"
    other.registry.catalog.close()


def test_a_withdrawal_reaches_it(world: World, oci: LocalOci) -> None:
    """The takedown finds the host by itself, whatever Hub the command speaks to; nothing of the likeness is left."""
    publish(world, oci)
    weights = oci.files(NAME)["adapter_model.safetensors"][200:400]
    report = takedown(world.registry, world.client, name="acme/alice", up_to="delete")
    assert report.finished, report.outcomes
    assert state_of(world) == [ReleaseState.DELETED]
    assert not oci.holds(weights)
    assert not oci.repositories[NAME].manifests


def test_a_host_that_stops_deleting_keeps_the_takedown_open(world: World, oci: LocalOci) -> None:
    publish(world, oci)
    oci.deletes_blobs = False
    report = takedown(world.registry, world.client, name="acme/alice", up_to="delete")
    assert not report.finished
    assert state_of(world) == [ReleaseState.TAKEDOWN_QUEUED]
    oci.deletes_blobs = True
    assert sync(world.registry, world.client).differs is False
    assert state_of(world) == [ReleaseState.DELETED]
    assert not oci.repositories[NAME].blobs


@pytest.mark.parametrize("asked", [Access.PUBLIC, Access.GATED])
def test_a_likeness_stays_private(world: World, oci: LocalOci, asked: Access) -> None:
    with pytest.raises(UsageError, match="has no gate"):
        publish(world, oci, access=asked)
    assert oci.seen == []


def test_nothing_leaves_without_consent(world: World, oci: LocalOci) -> None:
    world.withdraw("p0001")
    with pytest.raises(ConsentDenied):
        publish(world, oci)
    assert not any(method in ("POST", "PUT") for method, _ in oci.seen)


def test_a_style_may_be_public(world: World, oci: LocalOci) -> None:
    world.add("acme/style", seed=5, kind=Kind.STYLE)
    oci.anonymous = True
    address = oci.address("acme/style")
    with pytest.raises(HubError, match="anybody may fetch"):
        push(world.registry, hub_of(oci), PushRequest("acme/style", address))
    report = push(world.registry, hub_of(oci), PushRequest("acme/style", address, Access.PUBLIC))
    assert report.access is Access.PUBLIC
    with world.registry.catalog.read() as session:
        assert all_unfinished(session) == []


def test_opened_by_its_host_is_seen(world: World, oci: LocalOci) -> None:
    publish(world, oci)
    assert not sync(world.registry, world.client).differs
    oci.anonymous = True
    report = sync(world.registry, world.client)
    (entry,) = report.entries
    assert (str(entry.item.difference), entry.done) == ("more-open", False)
    assert "cannot make it private" in str(entry.error)


def test_a_host_that_is_down_does_not_hide_the_rest(world: World, oci: LocalOci) -> None:
    publish(world, oci)

    def down(handler: Any) -> bool:
        handler.error(503, "UNAVAILABLE")
        return True

    oci.misbehave = down
    report = sync(world.registry, world.client)
    assert report.differs
    assert [endpoint for endpoint, _ in report.unasked] == [f"oci://{oci.host}"]
    oci.misbehave = lambda handler: False
    assert not sync(world.registry, world.client).differs


@pytest.mark.parametrize("given_up", [False, True])
def test_broken_off_anywhere(world: World, oci: LocalOci, given_up: bool) -> None:
    """A push that dies at any of its requests is finished by the next sync, or leaves nothing when it is given up."""
    publish(world, oci)
    requests = len(oci.seen)
    assert requests > 40
    takedown_all(world)
    for after in range(8, requests, 7):
        oci.repositories.clear()
        count = iter(range(10_000))

        def dies(handler: Any, count: Iterator[int] = count, after: int = after) -> bool:
            if next(count) < after:
                return False
            handler.close_connection = True  # not a word
            return True

        oci.misbehave = dies
        with pytest.raises(RegistryError):
            publish(world, oci)
        oci.misbehave = lambda handler: False
        with world.registry.catalog.read() as session:
            left = len(all_unfinished(session))
        if given_up:
            if left:
                assert cancel(world.registry, hub_of(oci), oci.address(NAME)) in ("undone", "dropped")
            drain(world.registry, world.client)
            assert NAME not in oci.repositories or not oci.repositories[NAME].manifests
        else:
            sync(world.registry, world.client)
            if left:
                assert bundle.DOCUMENT in oci.files(NAME)
            takedown_all(world)


def takedown_all(world: World) -> None:
    takedown(world.registry, world.client, name="acme/alice", up_to="delete")
