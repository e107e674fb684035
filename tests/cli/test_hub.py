"""The Hub commands from end to end, against the local Hub, each as a person would type it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub.conftest import _plain_uploads, hub, owner  # noqa: F401
from tests.hub.local_hub import LocalHub
from tests.hub.local_hub.store import User
from tests.hub.local_oci import LocalOci
from tests.services.hub_world import World, open_world
from w2w_registry.cli import main

REPO = "acme/alice-lora"


@pytest.fixture
def world(
    tmp_path: Path,
    sqlite_template: Path,
    hub: LocalHub,  # noqa: F811
    owner: User,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", owner.token)
    made = open_world(tmp_path, sqlite_template, hub, owner)
    made.consent("p0001")
    made.add("acme/alice", subjects=["p0001"])
    yield made
    made.registry.catalog.close()


def run(capsys: pytest.CaptureFixture[str], world: World, *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main([*words, "--home", str(world.registry.settings.home)])
    shown = capsys.readouterr()
    assert world.owner.token not in shown.out + shown.err
    return int(left.value.code or 0), shown.out, shown.err


def as_json(capsys: pytest.CaptureFixture[str], world: World, *words: str) -> tuple[int, Any]:
    code, out, _ = run(capsys, world, *words, "--json")
    return code, json.loads(out)


def test_a_release_from_push_to_takedown(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, world, "push", "acme/alice", REPO, "--dry-run")
    assert (code, out.splitlines()[0]) == (0, f"create private repo {REPO}")
    code, value = as_json(capsys, world, "push", "acme/alice", REPO, "--gated", "--instance-prompt", "sks person")
    assert (code, value["changed"], value["access"], value["tag"]) == (0, True, "gated", "v1")
    code, value = as_json(capsys, world, "push", "acme/alice", REPO, "--gated", "--instance-prompt", "sks person")
    assert (code, value["changed"]) == (0, False)
    code, rows = as_json(capsys, world, "releases")
    assert [(r["version"], r["state"], r["consent"]) for r in rows] == [("acme/alice@1", "published", "granted")]
    assert run(capsys, world, "releases", "--where", "kind = product")[1].strip() == "nothing published"
    code, value = as_json(capsys, world, "pull", REPO)
    assert (code, value["status"], value["version"]) == (0, "existing", "acme/alice@1")
    assert run(capsys, world, "sync")[0] == 0
    world.hub.store.repos[REPO].gated = False
    code, value = as_json(capsys, world, "sync", "--dry-run")
    assert (code, value["items"][0]["difference"]) == (1, "more-open")
    assert run(capsys, world, "sync")[0] == 0
    code, value = as_json(capsys, world, "takedown", "acme/alice", "--up-to", "delete", "--dry-run")
    assert (code, value["steps"]) == (0, ["hide", "erase", "delete"])
    code, out, err = run(capsys, world, "takedown", "acme/alice", "--up-to", "delete")
    assert (code, out.split()) == (0, [REPO, "hide,", "erase,", "delete"])
    assert "out of reach" in err
    assert world.hub.repo(REPO) is None


def test_a_release_in_an_oci_registry(
    world: World, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalOci() as oci:
        oci.log_in(tmp_path / "docker")
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
        address = oci.address("acme/alice-lora")
        code, out, _ = run(capsys, world, "push", "acme/alice", "--to", address, "--dry-run")
        assert (code, out.splitlines()[0]) == (0, f"create private repo {address}")
        code, value = as_json(capsys, world, "push", "acme/alice", "--to", address)
        assert (code, value["changed"], value["access"], value["tag"]) == (0, True, "private", "v1")
        code, value = as_json(capsys, world, "push", "acme/alice", address)
        assert (code, value["changed"]) == (0, False)
        code, value = as_json(capsys, world, "pull", f"{address}:v1")
        assert (code, value["status"], value["version"]) == (0, "existing", "acme/alice@1")
        code, value = as_json(capsys, world, "search", address)
        assert (code, value["results"][0]["identity"]) == (0, "acme/alice")
        code, value = as_json(capsys, world, "push-space", "faces", oci.address("acme/faces"))
        assert (code, value["access"]) == (0, "private")
        code, value = as_json(capsys, world, "space", "import", "again", oci.address("acme/faces"))
        assert code == 0
        code, value = as_json(capsys, world, "sync")
        assert (code, value["unasked"]) == (0, [])
        code, out, _ = run(capsys, world, "takedown", "acme/alice", "--up-to", "delete")
        assert (code, out.split()) == (0, [address, "hide,", "erase,", "delete"])
        assert "acme/alice-lora" not in oci.repositories or not oci.repositories["acme/alice-lora"].blobs
        for words, exit_code, said in (
            (("push", "acme/alice", "--to", address, "--gated"), 2, "no gate"),
            (("push", "acme/alice", REPO, "--to", address), 2, "cannot be combined"),
            (("push", "acme/alice", "--to", "oci://Here/A"), 2, "lower case"),
            (("pull", oci.address("acme/nobody")), 3, "acme/nobody"),
        ):
            code, _, err = run(capsys, world, *words)
            assert (code, said in err) == (exit_code, True), err


def test_a_space_there_and_looked_up(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    code, value = as_json(capsys, world, "push-space", "faces", "acme/faces", "--public")
    assert (code, value["access"]) == (0, "public")
    assert run(capsys, world, "push", "acme/alice", REPO)[0] == 0
    code, value = as_json(capsys, world, "search", f"hf://{REPO}")
    assert (code, value["results"][0]["identity"]) == (0, "acme/alice")
    code, value = as_json(capsys, world, "space", "import", "again", "hf://acme/faces")
    assert (code, value["space"]) == (0, "faces@1")


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("push", "acme/alise", REPO), 3, "did you mean acme/alice"),
        (("push", "acme/alice", "alice"), 2, "use owner/repo"),
        (("push", "acme/secret", REPO), 4, "not allowed to publish"),
        (("push", "acme/alice", "other/repo"), 9, "may not do this"),
        (("push", "acme/alice", REPO, "--coordinates-only", "--format", "peft"), 2, "has no effect"),
        (("pull", "acme/none"), 3, "no Hub repo named"),
        (("takedown", "acme/alice"), 3, "no release on the Hub"),
        (("takedown",), 2, "either NAME or --subject"),
        (("sync", "--push", "--pull"), 2, "cannot be combined"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    world: World, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, line: str
) -> None:
    world.add("acme/secret", seed=4, subjects=["p0008"])
    found, _, err = run(capsys, world, *words)
    assert found == code
    assert line in err


def test_offline_mode_says_so(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for words in (("push", "acme/alice", REPO), ("pull", REPO), ("sync",)):
        code, _, err = run(capsys, world, *words)
        assert code == 9
        assert "offline mode is on" in err
