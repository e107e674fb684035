"""The local Hub against the real, unpatched huggingface_hub client."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub.local_hub import Fault, LocalHub
from tests.hub.local_hub.store import User

CARD = b"---\nlicense: cc-by-4.0\ntags:\n- lora\nbase_model: acme/base\nbase_model_relation: adapter\n---\n# hello\n"


@pytest.fixture
def api(hub: LocalHub, owner: User) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=owner.token)


def test_commit_history_and_download(hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
    api.create_repo("acme/r", private=False)
    weights = os.urandom(5000)
    first = api.create_commit(
        "acme/r",
        [CommitOperationAdd("a.safetensors", weights), CommitOperationAdd("README.md", CARD)],
        commit_message="one",
        commit_description="why",
    )
    again = api.create_commit("acme/r", [CommitOperationAdd("a.safetensors", weights)], commit_message="same")
    assert again.oid == first.oid
    second = api.create_commit(
        "acme/r",
        [CommitOperationAdd("dir/b.txt", b"x"), CommitOperationDelete("a.safetensors")],
        commit_message="two",
        parent_commit=first.oid,
    )
    assert [c.title for c in api.list_repo_commits("acme/r")] == ["two", "one", "initial commit"]
    assert sorted(api.list_repo_files("acme/r")) == [".gitattributes", "README.md", "dir/b.txt"]
    assert sorted(api.list_repo_files("acme/r", revision=first.oid)) == [".gitattributes", "README.md", "a.safetensors"]
    path = api.hf_hub_download("acme/r", "a.safetensors", revision=first.oid, cache_dir=tmp_path)
    assert Path(path).read_bytes() == weights
    folder = api.snapshot_download("acme/r", cache_dir=tmp_path)
    assert (Path(folder) / "dir/b.txt").read_bytes() == b"x"
    with pytest.raises(HfHubHTTPError) as stale:
        api.create_commit("acme/r", [CommitOperationAdd("c", b"1")], commit_message="late", parent_commit=first.oid)
    assert stale.value.response.status_code == 412
    assert api.model_info("acme/r").sha == second.oid
    assert hub.leaked_tokens == []


def test_listing_details(hub: LocalHub, api: HfApi) -> None:
    api.create_repo("acme/r")
    weights = b"w" * 100
    api.create_commit(
        "acme/r",
        [CommitOperationAdd("a.safetensors", weights), CommitOperationAdd("README.md", CARD)],
        commit_message="one",
    )
    info = api.model_info("acme/r", files_metadata=True)
    files = {s.rfilename: s for s in info.siblings or []}
    assert files["a.safetensors"].lfs is not None
    assert files["a.safetensors"].lfs.sha256 == hashlib.sha256(weights).hexdigest()
    assert files["README.md"].size == len(CARD)
    tree = {n.path: n for n in api.list_repo_tree("acme/r", recursive=True)}
    assert tree["a.safetensors"].size == 100  # type: ignore[union-attr]
    assert [p.path for p in api.get_paths_info("acme/r", ["README.md", "nope"])] == ["README.md"]
    assert info.card_data is not None
    assert info.card_data["license"] == "cc-by-4.0"
    assert [m.id for m in api.list_models(author="acme", filter="base_model:adapter:acme/base")] == ["acme/r"]
    assert [m.id for m in api.list_models(author="acme", search="zzz")] == []
    assert api.whoami()["name"] == "acme"


def test_pages(hub: LocalHub, api: HfApi) -> None:
    hub.page = 2
    for n in range(5):
        api.create_repo(f"acme/r{n}")
    assert [m.id for m in api.list_models(author="acme")] == [f"acme/r{n}" for n in range(5)]
    hub.store.plant("acme/r0", {f"f{n}": b"x" for n in range(5)})
    assert len(list(api.list_repo_tree("acme/r0"))) == 6


def test_tags_branches_squash(hub: LocalHub, api: HfApi) -> None:
    api.create_repo("acme/r")
    one = api.create_commit("acme/r", [CommitOperationAdd("a", b"1")], commit_message="one").oid
    api.create_tag("acme/r", tag="v1", revision=one, tag_message="first")
    with pytest.raises(HfHubHTTPError):
        api.create_tag("acme/r", tag="v1")
    api.create_branch("acme/r", branch="side")
    refs = api.list_repo_refs("acme/r")
    assert {t.name: t.target_commit for t in refs.tags} == {"v1": one}
    assert {b.name for b in refs.branches} == {"main", "side"}
    api.delete_branch("acme/r", branch="side")
    api.delete_tag("acme/r", tag="v1")
    api.super_squash_history("acme/r", commit_message="all")
    assert [c.title for c in api.list_repo_commits("acme/r")] == ["all"]
    with pytest.raises(RevisionNotFoundError):
        api.model_info("acme/r", revision=one)


def test_private_and_gated(hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
    stranger = hub.user("p0007")
    theirs = HfApi(endpoint=hub.endpoint, token=stranger.token)
    nobody = HfApi(endpoint=hub.endpoint, token=False)
    api.create_repo("acme/r", private=True)
    api.create_commit("acme/r", [CommitOperationAdd("a.txt", b"1")], commit_message="one")
    for other in (theirs, nobody):
        with pytest.raises(RepositoryNotFoundError):
            other.model_info("acme/r")
    assert list(nobody.list_models(author="acme")) == []
    api.update_repo_settings("acme/r", private=False, gated="manual")
    assert theirs.model_info("acme/r").gated == "manual"
    for other in (theirs, nobody):
        with pytest.raises(GatedRepoError):
            other.hf_hub_download("acme/r", "a.txt", cache_dir=tmp_path / "x")
    repo = hub.repo("acme/r")
    assert repo is not None
    repo.granted.add("p0007")
    assert Path(theirs.hf_hub_download("acme/r", "a.txt", cache_dir=tmp_path / "y")).read_bytes() == b"1"
    with pytest.raises(HfHubHTTPError) as denied:
        theirs.create_commit("acme/r", [CommitOperationAdd("b", b"1")], commit_message="x")
    assert denied.value.response.status_code == 403
    with pytest.raises(HfHubHTTPError) as wrong:
        HfApi(endpoint=hub.endpoint, token="hf_wrong").whoami()
    assert wrong.value.response.status_code == 401


def test_move_and_delete(hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
    api.create_repo("acme/old")
    api.create_commit("acme/old", [CommitOperationAdd("a.safetensors", b"1")], commit_message="one")
    api.move_repo("acme/old", "acme/new")
    assert api.model_info("acme/old").id == "acme/new"
    assert Path(api.hf_hub_download("acme/old", "a.safetensors", cache_dir=tmp_path)).read_bytes() == b"1"
    api.create_commit("acme/old", [CommitOperationAdd("b.safetensors", b"2")], commit_message="two")
    assert "b.safetensors" in hub.files("acme/new")
    api.delete_repo("acme/new")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("acme/new")


def test_permanent_deletion(hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
    api.create_repo("acme/r")
    one = api.create_commit(
        "acme/r", [CommitOperationAdd("a.safetensors", b"1"), CommitOperationAdd("t", b"t")], commit_message="one"
    ).oid
    api.permanently_delete_lfs_files("acme/r", list(api.list_lfs_files("acme/r")))
    assert list(api.list_lfs_files("acme/r")) == []
    assert sorted(hub.files("acme/r")) == [".gitattributes", "t"]
    with pytest.raises((RevisionNotFoundError, RemoteEntryNotFoundError)):
        api.hf_hub_download("acme/r", "a.safetensors", revision=one, cache_dir=tmp_path)


def test_multipart(api: HfApi, hub: LocalHub) -> None:
    hub.multipart_from = 1000
    data = os.urandom(3333)
    api.create_repo("acme/r")
    api.create_commit("acme/r", [CommitOperationAdd("a.safetensors", data)], commit_message="one")
    assert hub.files("acme/r")["a.safetensors"] == data
    assert sum("/part/" in s.path for s in hub.faults.seen) == 7


def test_bad_card_is_refused(api: HfApi) -> None:
    api.create_repo("acme/r")
    card = b"---\nbase_model_relation: cousin\n---\n"
    with pytest.raises(ValueError, match="base_model_relation"):
        api.create_commit("acme/r", [CommitOperationAdd("README.md", card)], commit_message="one")


def test_faults(hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
    api.create_repo("acme/r")
    api.create_commit("acme/r", [CommitOperationAdd("a.safetensors", b"12345678")], commit_message="one")
    hub.faults.reset()
    hub.faults.add(Fault("status", at=1, status=503))
    with pytest.raises(HfHubHTTPError) as down:
        api.model_info("acme/r")
    assert down.value.response.status_code == 503
    assert api.model_info("acme/r").id == "acme/r"
    assert len(hub.faults.seen) == 2
    # An answer cut in half is resumed by a Range request.
    hub.faults.add(Fault("truncate", match="GET /storage"))
    assert Path(api.hf_hub_download("acme/r", "a.safetensors", cache_dir=tmp_path)).read_bytes() == b"12345678"
    # The effect of a request whose answer was cut is there all the same.
    hub.faults.add(Fault("cut", match="POST .*/commit/", when="after"))
    with pytest.raises(Exception, match="disconnected"):
        api.create_commit("acme/r", [CommitOperationAdd("b", b"2")], commit_message="two")
    assert hub.files("acme/r")["b"] == b"2"
    # A 429 with Retry-After is obeyed by the client's own retries.
    hub.faults.add(Fault("status", match="preupload", status=429, headers={"Retry-After": "0"}))
    api.create_commit("acme/r", [CommitOperationAdd("c", b"3")], commit_message="three")
    assert hub.files("acme/r")["c"] == b"3"


def test_kill(hub: LocalHub) -> None:
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import urllib.request as u; u.urlopen({hub.endpoint + '/api/models'!r}); print('alive')",
        ],
        stdout=subprocess.PIPE,
    )
    hub.faults.add(Fault("kill", at=1, pid=child.pid))
    out, _ = child.communicate(timeout=60)
    assert out == b""
    assert child.returncode == -9


def test_by_hand() -> None:
    child = subprocess.Popen(
        [sys.executable, "-u", "-m", "tests.hub.local_hub", "--port", "0", "--user", "p0001"], stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        lines = [child.stdout.readline().decode() for _ in range(2)]
        assert lines[0].startswith("export HF_ENDPOINT=http://127.0.0.1:")
        endpoint = lines[0].split()[1].partition("=")[2]
        token = lines[1].split()[1].partition("=")[2]
        for attempt in range(50):
            try:
                assert HfApi(endpoint=endpoint, token=token).whoami()["name"] == "p0001"
                break
            except OSError:
                if attempt == 49:
                    raise
                time.sleep(0.1)
    finally:
        child.terminate()
        child.wait()
