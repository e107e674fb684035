"""Attestations of a release, held against it by a pull: what contradicts is refused, what is older is not."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.hub.conftest import _plain_uploads, hub, owner  # noqa: F401
from tests.hub.local_hub.store import Visibility
from tests.services.hub.test_pull import REPO, absent, wiped, world  # noqa: F401
from tests.services.hub_world import World
from w2w_registry.errors import BadFile, IntegrityError, RegistryError
from w2w_registry.hub import bundle, dsse
from w2w_registry.lora import lora_files
from w2w_registry.messages import message
from w2w_registry.records import canonical_json
from w2w_registry.services.hub.pull import PullRequest, pull
from w2w_registry.services.hub.release import PushRequest, push
from w2w_registry.services.signing import new_key_pair


def other_bom(files: dict[str, bytes], change: Callable[[dict[str, Any]], None]) -> dict[str, bytes]:
    """A bill of materials that says something else, and a statement made to fit it."""
    bom = json.loads(files[bundle.BOM])
    change(bom)
    bom_bytes = canonical_json(bom).encode()
    return {bundle.BOM: bom_bytes} | other_statement(
        files, lambda said: _subject(said, bundle.BOM).update(sha256=hashlib.sha256(bom_bytes).hexdigest())
    )


def other_statement(files: dict[str, bytes], change: Callable[[dict[str, Any]], None]) -> dict[str, bytes]:
    said = json.loads(dsse.decode(files[bundle.STATEMENT], "")[0])
    change(said)
    return {bundle.STATEMENT: dsse.encode(canonical_json(said).encode(), None)}


def _subject(said: dict[str, Any], path: str) -> dict[str, str]:
    return next(subject["digest"] for subject in said["subject"] if subject["name"] == path)


CASES: dict[str, tuple[Callable[[dict[str, bytes]], dict[str, bytes]], type[RegistryError]]] = {
    "materials: another base model": (
        lambda f: other_bom(f, lambda b: b["components"][0].update(name="acme/other")),
        IntegrityError,
    ),
    "materials: a parent left out": (
        lambda f: other_bom(f, lambda b: b["metadata"]["component"].pop("pedigree")),
        IntegrityError,
    ),
    "materials: cut": (lambda f: {bundle.BOM: f[bundle.BOM][:-20]}, BadFile),
    "materials: a text": (lambda f: {bundle.BOM: b'{"metadata": "none"}'}, BadFile),
    "materials: another licence": (
        lambda f: {bundle.BOM: f[bundle.BOM].replace(b'"name":"other"', b'"name":"mit"')},
        IntegrityError,
    ),
    "statement: over other bytes of the materials": (lambda f: {bundle.BOM: f[bundle.BOM] + b" "}, IntegrityError),
    "statement: another digest of the weights": (
        lambda f: other_statement(f, lambda s: _subject(s, "adapter_model.safetensors").update(sha256="0" * 64)),
        IntegrityError,
    ),
    "statement: a file too few": (lambda f: other_statement(f, lambda s: s["subject"].pop()), IntegrityError),
    "statement: made another way": (
        lambda f: other_statement(
            f, lambda s: s["predicate"]["buildDefinition"]["externalParameters"].update(operation="invert")
        ),
        IntegrityError,
    ),
    "statement: no envelope": (lambda f: {bundle.STATEMENT: b"{}"}, BadFile),
    "statement: nothing in it": (lambda f: {bundle.STATEMENT: dsse.encode(b"[]", None)}, BadFile),
}


@pytest.mark.parametrize("case", CASES)
def test_what_contradicts_the_release_is_refused_with_one_line(
    world: World,  # noqa: F811
    wiped: World,  # noqa: F811
    case: str,
) -> None:
    push(world.registry, world.client, PushRequest("acme/alice", REPO))
    change, kind = CASES[case]
    whole = {p: b or b"" for p, b in world.hub.files(REPO).items()}
    changed = change(whole)
    assert all(whole[path] != data for path, data in changed.items())
    world.hub.store.plant(REPO, dict(changed))
    with pytest.raises(kind) as refused:
        pull(wiped.registry, wiped.client, PullRequest(REPO))
    said = message(refused.value)
    assert "\n" not in said
    assert (bundle.BOM if case.startswith("materials") else bundle.STATEMENT) in said
    absent(wiped, "acme/alice")


def check_as_the_manual_says(world: World, folder: Path, key: str) -> None:  # noqa: F811
    """The program that docs/hub.md gives to anybody accepts the release, and refuses it with a file changed."""
    manual = (Path(__file__).parents[3] / "docs" / "hub.md").read_text("utf-8")
    (program,) = [block for block in re.findall(r"```python\n(.*?)```", manual, re.DOTALL) if "DSSEv1" in block]
    for path, data in world.hub.files(REPO).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data or b"")
    (folder / "acme.pub").write_bytes(Path(key).read_bytes())
    subprocess.run([sys.executable, "-c", program], cwd=folder, check=True)
    (folder / "w2w.json").write_bytes(b"{}")
    assert b"w2w.json" in subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True).stderr


def test_a_statement_that_a_trusted_key_did_not_make(
    world: World,  # noqa: F811
    wiped: World,  # noqa: F811
    tmp_path: Path,
) -> None:
    pytest.importorskip("model_signing")
    keys = new_key_pair(tmp_path / "k")
    signer = replace(
        world.registry, settings=replace(world.registry.settings, hub={"signing_key": keys["private_key"]})
    )
    push(signer, world.client, PushRequest("acme/alice", REPO))
    envelope = world.hub.files(REPO)[bundle.STATEMENT] or b""
    assert dsse.check(envelope, Path(keys["public_key"]), REPO)
    check_as_the_manual_says(world, tmp_path / "got", keys["public_key"])
    report = push(world.registry, world.client, PushRequest("acme/alice", REPO))  # none set: by the registry's own key
    own = world.registry.settings.home / "keys" / "release" / "signing.pub"
    assert dsse.check(world.hub.files(REPO)[bundle.STATEMENT] or b"", own, REPO)
    (signature,) = json.loads(world.hub.files(REPO)[bundle.STATEMENT] or b"")["signatures"]
    assert report.attested_by == signature["keyid"]
    assert not push(world.registry, world.client, PushRequest("acme/alice", REPO)).changed
    told = pull(wiped.registry, wiped.client, PullRequest(REPO, dry_run=True)).warnings
    assert any(signature["keyid"][:16] in one for one in told)
    knowing = {"hub": {"keys": [str(own)]}}
    knowing_registry = replace(wiped.registry, settings=replace(wiped.registry.settings, policy=knowing))
    told = pull(knowing_registry, wiped.client, PullRequest(REPO, dry_run=True)).warnings
    assert not any("attestation" in one for one in told)
    policy = {"hub": {"keys": [keys["public_key"]]}}
    trusting = replace(wiped.registry, settings=replace(wiped.registry.settings, policy=policy))
    forged = json.loads(envelope)
    forged["signatures"][0]["sig"] = base64.b64encode(b"0" * 70).decode()
    world.hub.store.plant(REPO, {bundle.STATEMENT: json.dumps(forged).encode()})
    with pytest.raises(IntegrityError, match="made over what it holds"):
        pull(trusting, wiped.client, PullRequest(REPO))
    absent(wiped, "acme/alice")
    world.hub.store.plant(REPO, {bundle.STATEMENT: envelope})
    assert pull(trusting, wiped.client, PullRequest(REPO)).status == "added"


def test_a_release_from_before_there_were_attestations(
    world: World,  # noqa: F811
    wiped: World,  # noqa: F811
) -> None:
    push(world.registry, world.client, PushRequest("acme/alice", REPO))
    tree = world.hub.store.repos[REPO].resolve("main").tree
    for path in (bundle.BOM, bundle.STATEMENT):
        del tree[path]
    assert pull(wiped.registry, wiped.client, PullRequest(REPO)).status == "added"


def test_one_file_of_a_release_is_held_against_its_statement(
    world: World,  # noqa: F811
    wiped: World,  # noqa: F811
) -> None:
    push(world.registry, world.client, PushRequest("acme/alice", REPO))
    weights = world.hub.files(REPO)[bundle.DIFFUSERS_FILE] or b""
    world.hub.store.plant(REPO, {bundle.DIFFUSERS_FILE: weights[:-4] + b"\0\0\x10\x41", "other.safetensors": weights})
    with pytest.raises(IntegrityError, match="pytorch_lora_weights"):
        pull(wiped.registry, wiped.client, PullRequest(REPO, file=bundle.DIFFUSERS_FILE))
    absent(wiped, "acme/alice")
    assert pull(wiped.registry, wiped.client, PullRequest(REPO, file="other.safetensors")).status == "added"


@pytest.mark.parametrize(
    "theirs", [b"", b"[]", b"{}", dsse.encode(b"[]", None), dsse.encode(b'{"predicate": {}, "subject": 1}', None)]
)
def test_a_statement_of_somebody_elses_making_is_left_alone(world: World, theirs: bytes) -> None:  # noqa: F811
    (weights,) = lora_files("a.safetensors", world.lora(1), fmt="kohya").values()
    world.hub.store.create(world.hub.user("p0009"), None, "lora", Visibility.PUBLIC)
    world.hub.store.plant("p0009/lora", {"a.safetensors": weights, bundle.STATEMENT: theirs})
    assert pull(world.registry, world.client, PullRequest("p0009/lora", name="x", space="faces")).status == "added"
